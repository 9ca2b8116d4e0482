"""Mosquitto's own programs, with the lines that a user has pasted from the manual of what the gateway replaces."""

from __future__ import annotations

import shlex

import pytest

from tests.e2e.clients import random_bytes
from tests.e2e.mqtt_clients import MosquittoSub, mosquitto_arguments, mosquitto_pub
from tests.e2e.mqtt_sites import MQTTSite
from tests.e2e.mqtt_vocabulary import V5, V31, V311
from tests.things import Device

pytestmark = pytest.mark.usefixtures("mosquitto_clients")

every_version = pytest.mark.parametrize("version", [V31, V311, V5], ids=["3.1", "3.1.1", "5"])

# What is between <> there is between {} here, and the port is another.
PUBLISH = (
    "-u {thing_id} -P {thing_key} -t channels/{channel_id}/messages -h localhost  --cafile {ca} --cert {cert} "
    """--key {key} -m '[{{"bn":"some-base-name:","bt":1.276020076001e+09, "bu":"A","bver":5, "n":"voltage","u":"V","""
    """"v":120.1}}, {{"n":"current","t":-5,"v":1.2}}, {{"n":"current","t":-4,"v":1.3}}]' -p {port}"""
)
SUBSCRIBE = (
    "-u {thing_id} -P {thing_key} --cafile {ca} --cert {cert} --key {key} -t channels/{channel_id}/messages "
    "-h localhost -p {port}"
)
SENML = (
    b'[{"bn":"some-base-name:","bt":1.276020076001e+09, "bu":"A","bver":5, "n":"voltage","u":"V","v":120.1}, '
    b'{"n":"current","t":-5,"v":1.2}, {"n":"current","t":-4,"v":1.3}]'
)


@pytest.fixture
def site(mqtt_site: MQTTSite) -> MQTTSite:
    return mqtt_site


def pasted(site: MQTTSite, line: str, device: Device) -> list[str]:
    certificate, key = device.certificate
    return shlex.split(
        line.format(
            thing_id=device.id,
            thing_key=device.key,
            channel_id=site.channel,
            ca=site.gateway.root_certificate,
            cert=certificate,
            key=key,
            port=site.gateway.mqtt_port,
        )
    )


def test_the_lines_of_the_manual_meet_each_other(site: MQTTSite) -> None:
    with MosquittoSub.running(pasted(site, SUBSCRIBE, site.bob)) as subscriber:
        sent = mosquitto_pub(pasted(site, PUBLISH, site.alice))
        assert (sent.returncode, sent.stdout, sent.stderr) == (0, "", "")
        assert subscriber.message() == SENML


@every_version
def test_versions_and_qualities_of_service(site: MQTTSite, version: int) -> None:
    place = site.place()
    of = {device.id: mosquitto_arguments(site.account(device), version) for device in (site.alice, site.bob)}
    with MosquittoSub.running([*of[site.bob.id], "-q", "2", "-t", f"{place}/#"]) as subscriber:
        for qos in "012":
            sent = mosquitto_pub([*of[site.alice.id], "-q", qos, "-t", f"{place}/{qos}", "-m", f"with {qos}"])
            assert (sent.returncode, sent.stderr) == (0, "")
            assert subscriber.message() == f"with {qos}".encode()


def test_what_5_says_with_a_message(site: MQTTSite) -> None:
    place = site.place()
    format_of_all = "%p|%C|%R|%D|%P|%E"
    alice, bob = (mosquitto_arguments(site.account(device), V5) for device in (site.alice, site.bob))
    said = ["content-type", "text/plain", "response-topic", "answers", "correlation-data", "4711"]
    said += ["user-property", "name", "value", "message-expiry-interval", "600"]
    properties = ["-D", "publish", *said[:2], "-D", "publish", *said[2:4], "-D", "publish", *said[4:6]]
    properties += ["-D", "publish", *said[6:9], "-D", "publish", *said[9:]]
    with MosquittoSub.running([*bob, "-t", place, "-F", format_of_all]) as subscriber:
        sent = mosquitto_pub([*alice, "-t", place, "-m", "hello", *properties])
        assert (sent.returncode, sent.stderr) == (0, "")
        assert subscriber.message() == b"hello|text/plain|answers|4711|name:value|600"


def test_200_kb_from_a_file(site: MQTTSite) -> None:
    place, path = site.place(), site.gateway.folder / "large"
    content = random_bytes(100_000).hex()
    path.write_text(content)
    alice, bob = (mosquitto_arguments(site.account(device)) for device in (site.alice, site.bob))
    with MosquittoSub.running([*bob, "-q", "1", "-t", place]) as subscriber:
        sent = mosquitto_pub([*alice, "-q", "1", "-t", place, "-f", str(path)])
        assert (sent.returncode, sent.stderr) == (0, "")
        assert subscriber.message() == content.encode()


@pytest.mark.parametrize(("version", "words"), [(V311, "not authorised"), (V5, "Not authorized")])
def test_a_stranger_is_told(site: MQTTSite, version: int, words: str) -> None:
    account = site.account(site.alice)
    certificate = site.workshop.certificate("a key of nobody's", "nobody")
    arguments = mosquitto_arguments(account, version)
    arguments[arguments.index("--cert") + 1], arguments[arguments.index("--key") + 1] = map(str, certificate)
    arguments[arguments.index("-P") + 1] = "a key of nobody's"
    sent = mosquitto_pub([*arguments, "-t", site.place(), "-m", "let me in"])
    assert sent.returncode != 0
    assert words.lower() in (sent.stdout + sent.stderr).lower()
