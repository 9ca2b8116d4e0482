"""Whom a real gateway refuses as MQTT clients: the protocol's own answer, the end, and one true record."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Disconnect,
    Properties,
    PubAck,
    Publish,
    Reason,
    Refusal,
    Subscribe,
    Subscription,
    Version,
    Will,
)
from tests.e2e.mqtt_sites import MQTTSite
from tests.gateways import PATIENCE, wait_until
from tests.pki import issue, make_ca, subject_of
from tests.raw_https import End
from tests.raw_mqtt import RawMQTT, connect_of
from tests.things import Files, topic

V31, V311, V5 = Version.V31, Version.V311, Version.V5
versions = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])


@pytest.fixture
def site(mqtt_site: MQTTSite) -> MQTTSite:
    return mqtt_site


def code_of(version: Version, old: Refusal, new: Reason) -> int:
    return new if version is V5 else old


# --- CONNECT ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stranger:
    """reason: what the record of it says, in part."""

    connect: Connect
    certificate: Files | None
    old: Refusal
    new: Reason
    reason: str


NO_PASSWORD = (Refusal.BAD_USER_NAME_OR_PASSWORD, Reason.BAD_USER_NAME_OR_PASSWORD)
NOT_HERE = (Refusal.NOT_AUTHORIZED, Reason.NOT_AUTHORIZED)


def strangers(site: MQTTSite, version: Version) -> dict[str, Stranger]:
    alice, bob, gateway = site.alice, site.bob, site.gateway
    unknown = site.workshop.certificate("nobody-has-this-key", "unknown")
    key = alice.key.encode()

    def says(**more: Any) -> Connect:
        return connect_of(alice, version, **more)

    def with_subject(name: str, subject: x509.Name) -> Files:
        return issue(gateway.ca, subject=subject).write(gateway.folder, name)

    comma = with_subject("comma", subject_of([(NameOID.ORGANIZATION_NAME, f"x,CN={alice.key}")]))
    two = with_subject("two", subject_of([(NameOID.COMMON_NAME, alice.key)], [(NameOID.COMMON_NAME, bob.key)]))
    mine = alice.certificate
    return {
        "no certificate, no words": Stranger(Connect(version, "raw"), None, *NO_PASSWORD, "unknown thing"),
        "no certificate, another's key": Stranger(
            says(password=bob.key.encode()), None, *NO_PASSWORD, "the password is not the key"
        ),
        "no certificate, unknown id": Stranger(
            says(user_name="00000000-0000-4000-8000-000000000000"), None, *NO_PASSWORD, "unknown thing"
        ),
        "another's certificate": Stranger(
            says(), bob.certificate, *NO_PASSWORD, "the password is not the certificate's key"
        ),
        "wrong password": Stranger(says(password=b"wrong"), mine, *NO_PASSWORD, "is not the certificate's key"),
        "empty password": Stranger(says(password=b""), mine, *NO_PASSWORD, "is not the certificate's key"),
        "shortened password": Stranger(says(password=key[:-1]), mine, *NO_PASSWORD, "is not the certificate's key"),
        "longer password": Stranger(says(password=key + b"\0"), mine, *NO_PASSWORD, "is not the certificate's key"),
        "another's user name": Stranger(says(user_name=bob.id), mine, *NO_PASSWORD, "user name is not the thing's id"),
        "empty user name": Stranger(says(user_name=""), mine, *NO_PASSWORD, "user name is not the thing's id"),
        "key of nobody": Stranger(says(password=b"nobody-has-this-key"), unknown, *NOT_HERE, "no thing has that key"),
        "a comma in the subject": Stranger(says(), comma, *NOT_HERE, "denied: "),
        "two names in the subject": Stranger(says(), two, *NOT_HERE, "denied: "),
        "a Will where it may not publish": Stranger(
            says(will=Will(topic(site.other), b"")), mine, *NOT_HERE, "the topic of its Will"
        ),
        "a Will under another channel's name": Stranger(
            says(will=Will(f"x/{topic(site.channel)}", b"x" * 128)), mine, *NOT_HERE, "the topic of its Will"
        ),
        "a client id without end": Stranger(
            says(client_id="x" * 300), mine, Refusal.IDENTIFIER_REJECTED, Reason.CLIENT_IDENTIFIER_NOT_VALID, "too long"
        ),
    }


@versions
def test_strangers(site: MQTTSite, version: Version) -> None:
    for name, stranger in strangers(site, version).items():
        with site.raw(stranger.certificate) as client:
            answer = client.log_in(stranger.connect)
            assert answer == ConnAck(False, code_of(version, stranger.old, stranger.new)), name
            assert client.ending() is End.ORDERLY, name
        record = site.gateway.end_of(client.name)
        assert stranger.reason in record["reason"], name
        assert record["decision"] == "refused", name
        assert record.get("upstream") is None, name


def test_certificates_that_tls_refuses(site: MQTTSite) -> None:
    """Expired, not for clients, and of another authority: not a byte of MQTT is looked at."""
    gateway, key = site.gateway, site.alice.key
    expired = issue(gateway.ca, key, valid=(-3, -1)).write(gateway.folder, "expired")
    server = issue(gateway.ca, key, eku=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,)).write(gateway.folder, "purpose")
    other = issue(make_ca("another"), key).write(gateway.folder, "another")
    for certificate in (expired, server, other):
        with RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, certificate) as client:
            client.send(client.written(connect_of(site.alice, V5)))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                while client.receive():
                    pass
                raise ConnectionError
        record = gateway.end_of(client.name)
        assert record["decision"] == "refused"
        assert "subject" not in record


def test_a_disabled_thing(site: MQTTSite) -> None:
    device = site.new_thing()
    site.workshop.ledger.set_enabled(device.id, False)
    wait_until(lambda: not site.lets_in(device), "the gateway has heard of it")
    for version in (V311, V5):
        for certificate in (device.certificate, None):
            with site.raw(certificate) as client:
                answer = client.log_in(connect_of(device, version))
                assert answer.code == code_of(version, *NOT_HERE)
            assert "the thing is disabled" in site.gateway.end_of(client.name)["reason"]


@versions
def test_nobody_takes_over_another_session(site: MQTTSite, version: Version) -> None:
    """Two things of one client id are two clients; the same thing with it is one."""
    hello = {"client_id": site.hello(version).client_id}
    with site.raw(site.alice.certificate) as alice, site.raw(site.bob.certificate) as bob:
        assert alice.log_in(connect_of(site.alice, version, **hello)).code == 0
        assert bob.log_in(connect_of(site.bob, version, **hello)).code == 0
        alice.check_alive()
        with site.raw(site.alice.certificate) as again:
            assert again.log_in(connect_of(site.alice, version, **hello)).code == 0
            ended = alice.hear_all()
            # Mosquitto 2.0 just closes, and the gateway says that it has lost its broker.
            told = Reason.SERVER_SHUTTING_DOWN if site.broker else Reason.SESSION_TAKEN_OVER
            assert ended == ([Disconnect(told)] if version is V5 else [])
            again.check_alive()
        bob.check_alive()


def test_a_kept_session_is_its_own_things_only(site: MQTTSite) -> None:
    place, client_id = site.place(), site.hello(V311).client_id
    with site.raw(site.alice.certificate) as alice:
        alice.log_in(connect_of(site.alice, V311, client_id, clean_start=False))
        alice.exchange(Subscribe(1, (Subscription(place, 1),)))
    with site.raw(site.bob.certificate) as bob:
        assert not bob.log_in(connect_of(site.bob, V311, client_id, clean_start=False)).session_present
        assert bob.exchange(Publish(place, b"for alice", 1, packet_id=1)) == PubAck(1)
        bob.check_alive()
    with site.raw(site.alice.certificate) as alice:
        assert alice.log_in(connect_of(site.alice, V311, client_id, clean_start=False)).session_present
        assert alice.hear() == Publish(place, b"for alice", 1, packet_id=1)
        alice.say(PubAck(1))


@versions
def test_enhanced_authentication(site: MQTTSite, version: Version) -> None:
    if version is V5:
        with site.raw(site.alice.certificate) as client:
            said = Properties(authentication_method="SCRAM-SHA-1", authentication_data=b"x")
            assert client.log_in(connect_of(site.alice, V5, properties=said)).code == Reason.BAD_AUTHENTICATION_METHOD
            assert client.ending() is End.ORDERLY
        with site.logged_in(site.alice, V5) as client:
            client.send(b"\xf0\x00")
            assert client.hear_all() == [Disconnect(Reason.PROTOCOL_ERROR)]
    else:
        with site.logged_in(site.alice, V311) as client:
            client.send(b"\xf0\x00")
            assert client.hear_all() == []


@versions
def test_a_second_connect(site: MQTTSite, version: Version) -> None:
    with site.logged_in(site.alice, version) as client:
        client.say(connect_of(site.alice, version))
        assert client.hear_all() == ([Disconnect(Reason.PROTOCOL_ERROR)] if version is V5 else [])
    assert site.gateway.end_of(client.name)["reason"] == "a second CONNECT"


@pytest.mark.parametrize(
    "first",
    [
        b"\xc0\x00",
        b"\x30\x03\x00\x01a",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0",
        b"\x16\x03\x01\0\0",
        b"\x11\x00",
    ],
)
def test_what_is_no_connect(site: MQTTSite, first: bytes) -> None:
    with site.raw(site.alice.certificate) as client:
        client.send(first)
        assert client.ending() is End.ORDERLY
    record = site.gateway.end_of(client.name)
    assert (record["decision"], record["reason"][:9]) == ("refused", "CONNECT: ")


# --- CONNECT in pieces ------------------------------------------------------------------------------------------------


@versions
def test_connect_in_two_pieces(site: MQTTSite, version: Version) -> None:
    """A wrong password stays wrong, wherever the packet is cut."""
    wrong = connect_of(site.alice, version, password=b"wrong")
    data = mqtt.serialize(wrong, version)
    for at in range(1, len(data), 5):
        with site.raw(site.alice.certificate) as client:
            client.version = version
            client.send(data[:at])
            client.send(data[at:])
            assert client.hear() == ConnAck(False, code_of(version, *NO_PASSWORD))
            assert client.ending() is End.ORDERLY


@versions
def test_connect_byte_by_byte(site: MQTTSite, version: Version) -> None:
    for password, code in ((site.alice.key.encode(), 0), (b"wrong", code_of(version, *NO_PASSWORD))):
        with site.raw(site.alice.certificate) as client:
            client.version = version
            client.send_slowly(client.written(connect_of(site.alice, version, "slow", password=password)))
            answer = client.hear()
            assert isinstance(answer, ConnAck)
            assert answer.code == code


@versions
@pytest.mark.parametrize("length", [126, 127, 128, 129, 16_383, 16_384])
def test_connect_of_a_special_length(site: MQTTSite, version: Version, length: int) -> None:
    """Of what follows the length, which has one byte up to 127 (MQTT-1.5.5)."""
    for password, code in ((site.alice.key.encode(), 0), (b"x" * len(site.alice.key), code_of(version, *NO_PASSWORD))):
        with site.raw(site.alice.certificate) as client:
            answer = client.log_in(of_length(length, connect_of(site.alice, version, "c", password=password), site))
            assert answer.code == code


def of_length(length: int, connect: Connect, site: MQTTSite) -> Connect:
    """Padded by its client id, or by a Will."""
    if length < 200:
        return replace(connect, client_id="c" * (1 + length - remaining(connect)))
    connect = replace(connect, will=Will(site.place(), b""))
    assert connect.will is not None
    padded = replace(connect, will=replace(connect.will, payload=b"x" * (length - remaining(connect))))
    assert remaining(padded) == length
    return padded


def remaining(connect: Connect) -> int:
    """What its length says."""
    data = mqtt.serialize(connect, connect.version)
    found = mqtt.frame(data, 0, len(data))
    assert found is not None
    return len(data) - found[0]


def test_what_is_behind_connect_waits_for_the_verdict(site: MQTTSite) -> None:
    """In one write with it: whoever is refused has said nothing, and what others said is not lost."""
    place = site.place()
    with site.logged_in(site.bob, V311) as watcher:
        watcher.exchange(Subscribe(1, (Subscription(place),)))
        for device, key in ((site.alice, b"wrong"), (site.alice, site.alice.key.encode())):
            with site.raw(device.certificate) as client:
                client.say(connect_of(device, V311, "quick", password=key), Publish(place, key))
                client.hear()
        assert watcher.hear() == Publish(place, site.alice.key.encode())
        watcher.check_alive()


def test_no_byte_reaches_the_broker_before_the_verdict(tmp_path: Path) -> None:
    """A broker that never answers hears of nobody who is refused, and of the others nothing but a CONNECT."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.settimeout(PATIENCE)
        upstream = {"upstream": f"127.0.0.1:{broker.getsockname()[1]}", "tls": "disable"}
        with MQTTSite.running(tmp_path / "gateway", "another", {"mqtt:main": upstream}) as site:
            with site.raw(site.alice.certificate) as refused:
                refused.say(connect_of(site.alice, V311, password=b"wrong"), Publish(site.place(), b"early"))
                assert refused.hear() == ConnAck(False, Refusal.BAD_USER_NAME_OR_PASSWORD)
            with site.raw(site.alice.certificate) as client:
                client.say(connect_of(site.alice, V311, "quick"), Publish(site.place(), b"early"))
                connection, _ = broker.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    heard = read_packet(connection)
                    assert heard == mqtt.serialize(connect_of(site.alice, V311, f"{site.alice.id}:quick"), V311)
                    connection.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        connection.recv(1)
                    connection.settimeout(PATIENCE)
                    connection.sendall(mqtt.serialize(ConnAck(), V311))
                    assert b"early" in read_packet(connection)
            with pytest.raises(TimeoutError):
                broker.settimeout(0.1)
                broker.accept()


def read_packet(connection: socket.socket) -> bytes:
    data = b""
    while (found := mqtt.frame(data, 0, 10_000) if data else None) is None or found[1] > len(data):
        more = connection.recv(65_536)
        assert more, data
        data += more
    return data


# --- bounds and clocks ------------------------------------------------------------------------------------------------


@versions
def test_a_packet_that_is_too_large(site: MQTTSite, version: Version) -> None:
    """Refused at its length, before it comes."""
    with site.logged_in(site.alice, version) as client:
        client.send(b"\x30\x80\x80\x80\x01")
        assert client.hear_all() == ([Disconnect(Reason.PACKET_TOO_LARGE)] if version is V5 else [])
    assert "larger" in site.gateway.end_of(client.name)["reason"]
    with site.raw(site.alice.certificate) as early:
        early.send(b"\x10\xff\xff\xff\x7f")
        assert early.ending() is End.ORDERLY


def test_clocks(tmp_path: Path) -> None:
    """Keep-alive at one and a half (MQTT-3.1.2-22), and deadlines for TLS and CONNECT, all at once."""
    with (
        MQTTSite.running(tmp_path / "gateway", "hub", {"limits": {"handshake_timeout": 1}}) as site,
        ExitStack() as stack,
    ):
        gateway, began = site.gateway, time.monotonic()

        def enter(certificate: Files | None = None) -> RawMQTT:
            return stack.enter_context(site.raw(certificate or site.alice.certificate))

        old, new, pinging, dripping, mute = enter(), enter(), enter(), enter(), enter()
        assert old.log_in(connect_of(site.alice, V311, "old", keep_alive=1)).code == 0
        assert new.log_in(connect_of(site.alice, V5, "new", keep_alive=1)).code == 0
        assert pinging.log_in(connect_of(site.alice, V311, "pinging", keep_alive=1)).code == 0
        dripping.send(b"\x10\x50")
        bare = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.mqtt_port)))
        bare.settimeout(PATIENCE)
        for _ in range(4):
            time.sleep(0.3)
            pinging.check_alive()
            dripping.try_send(b"\0")
        assert mute.ending() is End.ORDERLY
        assert dripping.ending() is End.ORDERLY
        assert bare.recv(1) == b""
        assert time.monotonic() - began < 10
        assert new.hear_all() == [Disconnect(Reason.KEEP_ALIVE_TIMEOUT)]
        assert old.hear_all() == []
        assert time.monotonic() - began > 1.4
        pinging.check_alive()
        for client in (mute, dripping):
            assert gateway.end_of(client.name)["reason"] == "CONNECT did not come in time"
        for client in (old, new):
            assert "keep-alive" in gateway.end_of(client.name)["reason"]
