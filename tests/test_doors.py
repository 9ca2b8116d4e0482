"""From settings to doors: each kind of listener, its sessions and its certificates, and all that may be wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

from gateway import config
from gateway.certs import Certificates
from gateway.doors import Doors, State, listening
from gateway.errors import ConfigError, Problems
from gateway.hub.hub import Hub
from gateway.hub.settings import HubSettings
from gateway.hub.store import MemoryStore
from gateway.routes import Routes
from gateway.session.access import Access, HTTPAccess
from gateway.session.cancel import CancelKeys
from gateway.session.health import Health, HealthSession
from gateway.session.http import HTTPSession
from gateway.session.mqtt import MQTTSession
from gateway.session.mqtt_access import BrokerLogin, MQTTAccess
from gateway.session.postgres import PostgresSession
from gateway.session.tunnel import TunnelAccess, TunnelSession
from gateway.session.vocabulary import Dial, Event, Opened
from gateway.settings import Config
from gateway.things import Things
from gateway.upstream import Address, Login
from tests.gateways import ini
from tests.hub.clients import Time
from tests.mqtt_sessions import Registry
from tests.pki import issue, make_ca, write_pem

CA = make_ca("doors tests")
PUBLIC = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
CLIENT = Address("198.51.100.9", 4711)
HEALTHY = Health(ready=True, last_reload_failed=False, connections=3)


class Asked:
    """Stands for a driver."""

    def admit(self, subject: str) -> bool:
        return subject == "alice"

    def renew(self) -> bool:
        return True

    def trusted(self) -> bool:
        return True

    def idle(self, dial: Dial) -> bool:
        return False

    def tell(self, event: Event) -> None:
        raise AssertionError("nobody has anything to tell")

    def deliver(self, data: bytes) -> None:
        raise AssertionError("nobody has anything to deliver")

    def congested(self) -> bool:
        return False


class Site:
    """A folder with one listener of each kind; each has its own certificate, whose name is the file's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("shared", "postgres", "https", "more", "tunnel", "mqtt"):
            issue(CA, name, sans=["localhost"]).write(folder, name)
        write_pem(folder / "ca.crt", CA.certificate)
        (folder / "jwt.pub").write_bytes(PUBLIC)
        self.sections: dict[str, dict[str, object]] = {
            "gateway": {"shutdown_grace": 7},
            "limits": {"handshake_timeout": 11, "idle_timeout": 13},
            "tls": {**pair("shared"), "client_certificate": "optional", "client_ca": "ca.crt"},
            "health": {"listen": "127.0.0.1:8001, unix:/run/securegw/health"},
            "jwt:main": {"public_keys": "jwt.pub"},
            "upstream:main": {"hosts": "db.example.org", "root_certificate": "ca.crt"},
            "postgres:main": {
                "listen": "127.0.0.1:6432",
                "rules": "allow all all all",
                "proxy_protocol": "10.1.0.0/16",
                **pair("postgres"),
            },
            "https:main": {
                "listen": "127.0.0.1:8443",
                "proxy_protocol": "10.2.0.0/16",
                "head_timeout": 21,
                "body_timeout": 22,
                "keepalive_timeout": 23,
                **pair("https"),
            },
            "https:more": {"listen": "127.0.0.1:8444", **pair("more")},
            "https:plain": {"listen": "127.0.0.1:8445"},
            "route:main": {"upstream": "http://127.0.0.1:8080", "rules": "allow all all"},
            "route:more": {
                "listener": "more, plain",
                "path": "/more",
                "upstream": "https://things.example.org",
                "root_certificate": "ca.crt",
                "rules": "allow all all",
            },
            "tunnel:in": {
                "mode": "server",
                "listen": "127.0.0.1:9001",
                "upstream": "127.0.0.1:9002",
                "proxy_protocol": "10.3.0.0/16",
                "half_close_timeout": 31,
                "client_certificate": "required",
                "rules": "allow all all",
                **pair("tunnel"),
            },
            "tunnel:out": {
                "mode": "client",
                "listen": "127.0.0.1:9003",
                "upstream": "things.example.org:443",
                "root_certificate": "ca.crt",
            },
            "registry": {"database": "things.sqlite"},
            "hub": {"database": "memory"},
            "mqtt:main": {
                "listen": "127.0.0.1:8883",
                "proxy_protocol": "10.4.0.0/16",
                "client_certificate": "required",
                "password": "required",
                "client_id": "identity",
                "denied_publish": "drop",
                "max_packet_size": 2048,
                "max_packets_per_second": 41,
                "keep_alive": 42,
                "rules": "allow all all",
                **pair("mqtt"),
            },
            "mqtt:far": {
                "listen": "127.0.0.1:8884",
                "cn": "id",
                "password": "ignored",
                "topics": "allow all all devices/#",
                "upstream": "mq.example.org:8883",
                "root_certificate": "ca.crt",
                "upstream_identity": "gateway",
                "upstream_user": "gw",
                "rules": "allow all all",
            },
        }
        self.cancels = CancelKeys(5.0)
        self.health = HEALTHY
        self.time = Time()
        self.hub = Hub(HubSettings(), MemoryStore(), self.time.clock, self.time.later)
        self.things = Registry()
        things: Things = self.things
        self.doors = Doors(lambda: self.state, lambda: self.health, self.cancels, hub=self.hub, things=things)
        self.state: State

    def load(self) -> Config:
        path = self.folder / "gw.ini"
        path.write_text(ini(self.sections))
        problems = Problems()
        settings = config.load(path, {}, self.folder, problems)
        problems.raise_if_any()
        return settings

    def build(self) -> State:
        """The state that is in force from now on."""
        self.state = self.doors.build(self.load(), Problems())
        return self.state

    def session(self, section: str) -> Any:
        return self.state.doors[section].session(Asked())


def pair(name: str) -> dict[str, object]:
    return {"certificate": f"{name}.crt", "key": f"{name}.key"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.build()
    return site


# --- each kind -----------------------------------------------------------------------------------------------------


def test_every_listener_and_where_it_listens(site: Site):
    assert listening(site.state.config) == {
        "postgres:main": (Address("127.0.0.1", 6432),),
        "https:main": (Address("127.0.0.1", 8443),),
        "https:more": (Address("127.0.0.1", 8444),),
        "https:plain": (Address("127.0.0.1", 8445),),
        "mqtt:main": (Address("127.0.0.1", 8883),),
        "mqtt:far": (Address("127.0.0.1", 8884),),
        "tunnel:in": (Address("127.0.0.1", 9001),),
        "tunnel:out": (Address("127.0.0.1", 9003),),
        "health": (Address("127.0.0.1", 8001), Address("/run/securegw/health", 0)),
    }


def test_without_a_listener_for_health_there_is_none(site: Site):
    del site.sections["health"]
    assert "health" not in listening(site.load())
    assert "health" not in site.build().doors


def test_each_listener_has_its_door(site: Site):
    doors = site.state.doors
    assert set(doors) == set(listening(site.state.config))
    for section, door in doors.items():
        assert door.name == section
        assert (door.handshake_timeout, door.idle_timeout, door.grace) == (11, 13, 7)
        assert door.certificates is doors["health"].certificates
    networks = {section: door.proxy_networks for section, door in doors.items() if door.proxy_networks}
    assert networks == {
        "postgres:main": (ip_network("10.1.0.0/16"),),
        "https:main": (ip_network("10.2.0.0/16"),),
        "tunnel:in": (ip_network("10.3.0.0/16"),),
        "mqtt:main": (ip_network("10.4.0.0/16"),),
    }


def test_only_who_asks_for_the_health_leaves_no_record(site: Site):
    assert [section for section, door in site.state.doors.items() if door.quiet] == ["health"]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("postgres:main", PostgresSession),
        ("https:main", HTTPSession),
        ("tunnel:in", TunnelSession),
        ("tunnel:out", TunnelSession),
        ("mqtt:main", MQTTSession),
        ("mqtt:far", MQTTSession),
        ("health", HealthSession),
    ],
)
def test_behind_each_door_is_its_session(site: Site, section: str, kind: Any):
    first: Any = site.session(section)
    second: Any = site.session(section)
    assert isinstance(first, kind)
    assert first is not second
    assert first.facts is not second.facts
    assert first.handle(Opened(CLIENT))


def test_what_a_postgres_session_may(site: Site):
    access = site.state.access["postgres:main"]
    assert isinstance(access, Access)
    assert access.upstream is site.state.config.upstreams["main"]
    assert access.handshake_timeout == 11


def test_what_an_https_session_may(site: Site):
    access = site.state.access["https:main"]
    assert isinstance(access, HTTPAccess)
    timeouts = access.handshake_timeout, access.head_timeout, access.body_timeout, access.keepalive_timeout
    assert timeouts == (11, 21, 22, 23)
    assert access.grace == 7


def test_an_https_listener_has_the_routes_that_name_it(site: Site):
    def named(section: str, path: str) -> str | None:
        routes: Routes = site.state.access[section].routes
        route = routes.find("localhost", path)
        return route.name if route else None

    assert named("https:main", "/more") == "main"
    for section in ("https:more", "https:plain"):
        assert named(section, "/more") == "more"
        assert named(section, "/") is None


def test_what_a_tunnel_may(site: Site):
    inwards, outwards = site.state.access["tunnel:in"], site.state.access["tunnel:out"]
    assert isinstance(inwards, TunnelAccess)
    assert (inwards.server, inwards.alpn, inwards.half_close_timeout) == (True, (b"h2",), 31)
    assert inwards.upstream.addresses == (Address("127.0.0.1", 9002),)
    assert (outwards.server, outwards.handshake_timeout) == (False, 11)
    assert outwards.upstream.name == "tunnel:out"


def test_what_an_mqtt_session_may(site: Site):
    main, far = site.state.access["mqtt:main"], site.state.access["mqtt:far"]
    assert isinstance(main, MQTTAccess)
    assert (main.name, main.hub, main.upstream, main.things) == ("main", site.hub, None, site.things)
    assert (main.client, main.cn, main.fill_password, main.check_password) == ("required", "key", False, True)
    assert (main.prefix_client_ids, main.drop_denied) == (False, True)
    assert (main.max_packet, main.packet_rate, main.keep_alive, main.handshake_timeout) == (2048, 41.0, 42, 11)
    # Who has a broker has nothing to do with the hub.
    assert (far.name, far.hub, far.things) == ("far", None, site.things)
    assert far.upstream.name == "mqtt:far"
    assert far.login == BrokerLogin(False, "gw")
    assert (far.client, far.cn, far.check_password, len(far.topics.rules)) == ("optional", "id", False, 1)


def test_what_failed_of_a_broker_is_remembered_beyond_a_reload(site: Site):
    before = site.state.access["mqtt:far"].backends
    assert before is not None
    assert site.build().access["mqtt:far"].backends is before is site.doors.backends


def test_https_routes_lead_to_the_same_mqtt_as_its_own_listener(site: Site):
    for section in ("https:main", "https:more"):
        found = site.state.access[section].mqtt
        assert found == {"main": site.state.access["mqtt:main"], "far": site.state.access["mqtt:far"]}


def test_the_hub_and_the_registry_outlive_a_reload(site: Site):
    before = site.state.access["mqtt:main"]
    after = site.build().access["mqtt:main"]
    assert after is not before
    assert (after.hub, after.things) == (before.hub, before.things) == (site.hub, site.things)


def test_https_sessions_share_what_is_known_of_the_upstreams(site: Site):
    """Also those of other listeners, and of after a reload."""
    sessions = [site.session("https:main"), site.session("https:more")]
    site.build()
    sessions.append(site.session("https:main"))
    assert {id(session._decisions._backends) for session in sessions} == {id(site.doors.backends)}


def test_postgres_sessions_share_the_cancel_keys(site: Site):
    session = site.session("postgres:main")
    site.build()
    assert session._cancels is site.session("postgres:main")._cancels is site.cancels


def test_a_session_asks_whom_it_was_given(site: Site):
    asked = Asked()
    for section in ("postgres:main", "tunnel:in"):
        session: Any = site.state.doors[section].session(asked)
        assert session._questions is asked
    https: Any = site.state.doors["https:main"].session(asked)
    assert https._decisions._questions is asked


def test_upstreams_and_tunnels_know_who_is_disabled(site: Site):
    """After a reload, too: the registry is of the whole process."""
    for state in (site.state, site.build()):
        assert state.access["https:main"].things is state.access["tunnel:in"].things is site.things


def test_the_health_is_that_of_the_moment_when_it_is_asked_for(site: Site):
    session = site.session("health")
    site.health = replace(HEALTHY, connections=99)
    assert session._current().connections == 99


def in_force(session: Any) -> Any:
    """What that session would go by now."""
    return getattr(session, "_decisions", session)._current()


# --- reload --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["postgres:main", "https:main", "mqtt:main", "tunnel:in", "tunnel:out"])
def test_sessions_see_the_newest_state(site: Site, section: str):
    """Those that are open, and those behind a door of before the reload."""
    opened, door, before = site.session(section), site.state.doors[section], site.state.access[section]
    assert in_force(opened) is before
    after = site.build().access[section]
    assert after is not before
    assert in_force(opened) is after
    late: Any = door.session(Asked())
    assert in_force(late) is after


def test_a_reload_makes_new_doors_with_new_certificates(site: Site):
    before = site.state
    after = site.build()
    assert all(after.doors[section] is not door for section, door in before.doors.items())
    assert after.doors["health"].certificates is not before.doors["health"].certificates


def test_a_build_that_fails_changes_nothing(site: Site):
    before = site.state
    access = dict(before.access)
    (site.folder / "more.crt").write_text("no certificate")
    with pytest.raises(ConfigError):
        site.build()
    assert site.state is before
    assert before.access == access
    assert in_force(site.session("https:more")) is access["https:more"]


# --- certificates --------------------------------------------------------------------------------------------------


def shake_hands(server: SSL.Connection, client: SSL.Connection) -> None:
    for _ in range(10):
        for one in (server, client):
            with suppress(SSL.WantReadError):
                one.do_handshake()


def met(certificates: Certificates, section: str, alpn: bytes) -> tuple[str, bytes]:
    """The CN of who answers there, and the protocol that was agreed upon."""
    near, far = socket.socketpair()
    with near, far:
        for sock in (near, far):
            sock.setblocking(False)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_alpn_protos([alpn])
        client = SSL.Connection(context, far)
        client.set_connect_state()
        shake_hands(certificates.server(section).connection(near), client)
        found = client.get_peer_certificate()
        assert found is not None
        name = found.to_cryptography().subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        return str(name), client.get_alpn_proto_negotiated()


@pytest.mark.parametrize(
    ("section", "name", "alpn"),
    [
        ("postgres:main", "postgres", b"postgresql"),
        ("https:main", "https", b"http/1.1"),
        ("https:more", "more", b"http/1.1"),
        ("https:plain", "shared", b"http/1.1"),
        ("mqtt:far", "shared", b"mqtt"),
    ],
)
def test_each_listener_shows_its_own_certificate(site: Site, section: str, name: str, alpn: bytes):
    """And speaks its own protocol, on the sections of other kinds too where they have the same name."""
    certificates = site.state.doors[section].certificates
    assert met(certificates, section, alpn) == (name, alpn)


def test_only_who_shows_one_gets_into_a_tunnel_that_requires_it(site: Site):
    certificates = site.state.doors["tunnel:in"].certificates
    near, far = socket.socketpair()
    with near, far:
        for sock in (near, far):
            sock.setblocking(False)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_alpn_protos([b"h2"])
        client = SSL.Connection(context, far)
        client.set_connect_state()
        server = certificates.server("tunnel:in").connection(near)
        with pytest.raises(SSL.Error):
            shake_hands(server, client)


@pytest.mark.parametrize("section", ["tunnel:out", "health"])
def test_a_listener_in_plain_has_no_certificate(site: Site, section: str):
    assert section in site.state.doors
    with pytest.raises(LookupError):
        site.state.doors[section].certificates.server(section)


def test_each_upstream_with_tls_has_its_context(site: Site):
    certificates, settings = site.state.doors["health"].certificates, site.state.config
    routes = {route.name: route.upstream for route in settings.routes}
    tunnels = {one.name: one.upstream for one in settings.tunnels}
    (far,) = (one.upstream for one in settings.mqtt if one.upstream)
    contexts = [
        certificates.client(upstream, Login())
        for upstream in (settings.upstreams["main"], routes["more"], tunnels["out"], far)
    ]
    assert len({id(context) for context in contexts}) == 4
    for plain in (routes["main"], tunnels["in"]):
        with pytest.raises(LookupError):
            certificates.client(plain, Login())


# --- what is wrong -------------------------------------------------------------------------------------------------


def _break(site: Site, *names: str) -> None:
    for name in names:
        (site.folder / name).write_text("nothing of use")


def test_everything_that_is_wrong_is_told_at_once(site: Site):
    """Of every kind of listener, and of what stands behind it; beside what was wrong before."""
    write_pem(site.folder / "route.crt", CA.certificate)
    write_pem(site.folder / "remote.crt", CA.certificate)
    site.sections["route:more"]["root_certificate"] = "route.crt"
    site.sections["tunnel:out"]["root_certificate"] = "remote.crt"
    settings = site.load()
    _break(site, "postgres.crt", "https.key", "more.crt", "tunnel.crt", "mqtt.crt", "route.crt", "remote.crt", "ca.crt")
    problems = Problems()
    problems.add("audit", "file", "was wrong before")
    with pytest.raises(ConfigError) as raised:
        site.doors.build(settings, problems)
    assert {(problem.section, problem.key) for problem in raised.value.problems} == {
        ("audit", "file"),
        ("postgres:main", "certificate"),
        ("https:main", "key"),
        ("https:more", "certificate"),
        ("tunnel:in", "certificate"),
        ("mqtt:main", "certificate"),
        ("mqtt:far", "root_certificate"),
        ("tls", "client_ca"),
        ("upstream:main", "root_certificate"),
        ("route:more", "root_certificate"),
        ("tunnel:out", "root_certificate"),
    }
    told = str(raised.value).splitlines()
    assert len(told) == len(set(told))


def test_what_was_wrong_before_is_enough(site: Site):
    problems = Problems()
    problems.add("audit", "file", "was wrong before")
    with pytest.raises(ConfigError) as raised:
        site.doors.build(site.load(), problems)
    assert str(raised.value) == "[audit] file: was wrong before"


Change = Callable[[Mapping[str, dict[str, object]]], object]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda of: of["https:main"].update(pair("foreign")), "[https:main] key"),
        (lambda of: of["tunnel:in"].update(client_ca="none.crt"), "[tunnel:in] client_ca"),
        (lambda of: of["https:more"].update(sni="none.crt none.key"), "[https:more] sni"),
        (lambda of: of["tunnel:out"].update(pair("foreign")), "[tunnel:out] key"),
    ],
)
def test_a_file_that_cannot_be_used_opens_no_door(site: Site, change: Change, told: str):
    """A key of another certificate's, a file that is not there."""
    issue(CA, "foreign").write(site.folder, "foreign")
    (site.folder / "foreign.key").write_bytes((site.folder / "shared.key").read_bytes())
    change(site.sections)
    before = site.state
    with pytest.raises(ConfigError) as raised:
        site.build()
    assert {f"[{problem.section}] {problem.key}" for problem in raised.value.problems} == {told}
    assert site.state is before
