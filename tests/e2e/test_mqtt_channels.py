"""One channel over HTTPS, WSS and MQTT: whatever way a message comes in, it goes out on every other, untouched."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from tests.e2e.clients import random_bytes
from tests.e2e.https_clients import Ask, Caller, one, run_curl, use_httpx
from tests.e2e.mqtt_clients import OPENERS, MosquittoSub, mosquitto_arguments
from tests.e2e.mqtt_node import Node
from tests.e2e.mqtt_paho import open_with_paho
from tests.e2e.mqtt_sites import MQTTSite
from tests.e2e.mqtt_vocabulary import V5, V31, V311, Account, Extras, Message, Wish
from tests.e2e.mqtt_vocabulary import Refused as MQTTRefused
from tests.e2e.wss_clients import (
    NODE_SCRIPTS,
    Refused,
    WebSocket,
    open_with_websockets,
)
from tests.gateways import wait_until
from tests.things import Device, topic

SENML = b'[{"bn":"some-base-name:","bt":1.276020076001e+09,"n":"voltage","u":"V","v":120.1}]'
# What is text to one and bytes to another, and what is neither.
PAYLOADS = (SENML, b"", "Grüße, 気温 🌡".encode(), b"\0\xff\x80 not UTF-8", random_bytes(100_000))


@pytest.fixture
def site(channel_site: MQTTSite) -> MQTTSite:
    return channel_site


def caller(site: MQTTSite, device: Device, *, certificate: bool = True) -> Caller:
    return Caller.of(site.gateway, device.certificate if certificate else None)


def post(site: MQTTSite, device: Device, place: str, payload: bytes, content_type: str = "") -> int:
    fields = {"Authorization": f"Thing {device.key}"} | ({"Content-Type": content_type} if content_type else {})
    return one(use_httpx(caller(site, device), Ask(f"/http/{place}", "POST", fields, payload))).status


@contextmanager
def web_socket(site: MQTTSite, device: Device, place: str) -> Iterator[WebSocket]:
    with open_with_websockets(caller(site, device), f"/ws/{place}?authorization={device.key}") as socket:
        yield socket


def as_bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


@pytest.mark.parametrize("path", ["", "/sub", "/a/b%20c/%C3%A4"])
def test_all_ways_in_and_out(site: MQTTSite, path: str) -> None:
    place = topic(site.channel) + unquote(path)
    path = topic(site.channel) + path
    with (
        open_with_paho(site.account(site.alice), site.hello(V311)) as mqtt,
        web_socket(site, site.bob, path) as listener,
        web_socket(site, site.alice, path) as socket,
    ):
        mqtt.subscribe(Wish(place, 1))

        def post_it(payload: bytes) -> None:
            assert post(site, site.alice, path, payload) == 202

        def publish_it(payload: bytes) -> None:
            mqtt.publish(Message(place, payload, 1))

        for payload in PAYLOADS:
            for send in (post_it, publish_it, socket.send):
                send(payload)
                assert mqtt.receive().payload == payload
                assert as_bytes(listener.receive()) == payload
                # A channel has no echo to take out: who has sent it hears it, too.
                assert as_bytes(socket.receive()) == payload


def test_a_web_socket_hears_its_subtopics(site: MQTTSite) -> None:
    place = site.place()
    with web_socket(site, site.bob, place) as socket:
        assert post(site, site.alice, f"{place}x", b"a neighbour's") == 202
        assert post(site, site.alice, f"{place}/below/it", b"from below") == 202
        assert as_bytes(socket.receive()) == b"from below"


def test_a_content_type_is_a_property(site: MQTTSite) -> None:
    place = site.place()
    with (
        open_with_paho(site.account(site.bob), site.hello(V5)) as mqtt,
        web_socket(site, site.bob, place) as socket,
    ):
        mqtt.subscribe(Wish(place, 1))
        for content_type in ("application/senml+json", "application/octet-stream", ""):
            assert post(site, site.alice, place, SENML, content_type) == 202
            message = mqtt.receive()
            assert (message.payload, message.extras) == (SENML, Extras(content_type=content_type or None))
            assert socket.receive() == (SENML.decode() if "json" in content_type else SENML)


def test_text_and_bytes_between_web_sockets(site: MQTTSite) -> None:
    """Each kind of message stays what it was."""
    place = site.place()
    with web_socket(site, site.alice, place) as one_side, web_socket(site, site.bob, place) as other:
        for message in ("text, Grüße", b"text, but said to be bytes", b"\xff", ""):
            one_side.send(message)
            assert other.receive() == message
            assert one_side.receive() == message


def test_the_lines_of_the_manual(site: MQTTSite, mosquitto_clients: None, curl_program: None, node_ws: None) -> None:
    """curl and the WebSocket program of the manual, and mosquitto_sub, meet each other."""
    device, gateway = site.alice, site.gateway
    name = topic(site.channel)
    with MosquittoSub.running([*mosquitto_arguments(site.account(site.bob)), "-t", name]) as subscriber:
        arguments = ["-i", "--insecure", "-X", "POST", "-H", "Content-Type: application/senml+json"]
        done = run_curl(
            caller(site, device),
            *arguments,
            f"https://localhost:{gateway.https_port}/http/{name}",
            "-d",
            SENML.decode(),
        )
        assert done.stdout.startswith(b"HTTP/1.1 202 ")
        assert subscriber.message() == SENML
        certificate, key = map(str, device.certificate)
        seed = [str(NODE_SCRIPTS / "seed.js"), str(gateway.https_port), site.channel, device.key, certificate, key]
        with subprocess.Popen(["node", *seed], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
            try:
                assert subscriber.message() == b"something"
                assert program.stdout is not None
                # "something", in Node's way to print bytes.
                assert program.stdout.readline() == b"<Buffer 73 6f 6d 65 74 68 69 6e 67>\n"
            finally:
                program.kill()


# --- who may ----------------------------------------------------------------------------------------------------------


def test_refusals(site: MQTTSite) -> None:
    """The same for a POST and before the upgrade to a WebSocket."""
    nobody = "00000000-0000-4000-8000-000000000000"
    stranger = Device(nobody, "nobody-has-this-key", site.workshop.certificate("nobody-has-this-key", "stranger"))
    place = site.place()
    cases = [
        (stranger, place, 401),
        (stranger, topic(nobody), 401),
        (site.mallory, place, 403),
        (site.alice, topic(site.other), 403),
        (site.alice, topic(nobody), 404),
        (site.alice, f"channels/{site.channel}", 404),
        (site.alice, f"channels/{site.channel}/messagesx", 404),
        (site.alice, f"{place}/+", 400),
        (site.alice, f"{place}/%23", 400),
        (site.alice, f"{place}//a", 400),
    ]
    for device, path, status in cases:
        assert post(site, device, path, b"x") == status, path
        with pytest.raises(Refused) as refused, web_socket(site, device, path):
            pass
        assert refused.value.status == status, path
    contradiction = Ask(f"/http/{place}", "POST", {"Authorization": site.bob.key}, b"x")
    assert one(use_httpx(caller(site, site.alice), contradiction)).status == 403
    assert post(site, site.alice, place, b"x" * 300_000) == 413
    assert one(use_httpx(caller(site, site.alice), Ask(f"/http/{place}"))).status == 405


def test_too_large_for_a_web_socket(site: MQTTSite) -> None:
    with web_socket(site, site.alice, site.place()) as socket:
        socket.send(b"x" * 300_000)
        assert socket.end()[0] == 1009


# --- MQTT over WSS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V31, V311, V5], ids=["3.1", "3.1.1", "5"])
def test_mqtt_over_web_sockets(site: MQTTSite, mqtt_js: Node, version: int) -> None:
    payload = random_bytes(100_000)
    for opener in (
        (OPENERS["paho"], mqtt_js.open) if version == V31 else (OPENERS["paho"], OPENERS["aiomqtt"], mqtt_js.open)
    ):
        place = site.place()
        with opener(over_wss(site, site.bob), site.hello(version)) as receiver:
            assert receiver.subscribe(Wish(place, 2)) == [2]
            with opener(over_wss(site, site.alice), site.hello(version)) as sender:
                for qos in (0, 1, 2):
                    sender.publish(Message(place, payload, qos))
                    assert receiver.receive() == Message(place, payload, qos)


def over_wss(site: MQTTSite, device: Device) -> Account:
    return replace(site.account(device), port=site.gateway.https_port, path="/mqtt")


# --- the record -------------------------------------------------------------------------------------------------------


def ends(site: MQTTSite, client_id: str | None, reason: str) -> list[dict[str, Any]]:
    found = [record for record in site.gateway.audit("close") if record.get("client_id") == client_id]
    return [record for record in found if reason in record["reason"]]


def test_the_end_of_mqtt_in_a_web_socket_is_recorded(site: MQTTSite) -> None:
    """As that of a connection to the port of MQTT, with the true reason: of who was let in, and of who was not."""
    hello = site.hello(V311)
    with open_with_paho(over_wss(site, site.alice), hello):
        pass
    wait_until(lambda: ends(site, hello.client_id, "the client has disconnected"), "its end is recorded")
    wrong = replace(over_wss(site, site.alice), password="wrong")
    # What somebody says who is not let in is not recorded, so it cannot be told apart by that.
    mismatch = "is not the certificate's key"
    before = len(ends(site, None, mismatch))
    with pytest.raises(MQTTRefused), open_with_paho(wrong, site.hello(V311)):
        pass
    wait_until(lambda: len(ends(site, None, mismatch)) > before, "the refusal is recorded")


def test_the_end_of_a_web_socket_is_recorded(site: MQTTSite) -> None:
    place = site.place()
    device = site.new_thing()
    with web_socket(site, device, place) as socket:
        socket.send("hello")
        assert socket.receive() == "hello"
        site.workshop.ledger.set_enabled(device.id, False)
        assert socket.end()[0] == 1008

    def records() -> list[dict[str, Any]]:
        known = {"listener": "https:main", "subject": device.id}
        return [one for one in site.gateway.audit() if known.items() <= one.items()]

    wait_until(records, "its end is recorded")
    (record,) = records()
    assert "disabled" in record["reason"]
