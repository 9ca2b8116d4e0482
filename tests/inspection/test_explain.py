"""What `explain` says where the test beside a running gateway does not get: brokers, odd listeners, and its words."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from pathlib import Path
from random import Random

import jwt
import pytest

from gateway.inspection import explain, explain_mqtt
from gateway.inspection.explain import LoginAttempt, WebRequest
from gateway.inspection.explain_mqtt import Asking, deciding
from gateway.inspection.explanation import Client, Explanation
from gateway.inspection.known_things import read_things
from gateway.inspection.rehearsal import stage
from gateway.registry.ledger import open_ledger
from gateway.registry.records import LedgerError
from gateway.registry.settings import RegistrySettings
from gateway.things import topic_of
from gateway.topic_rules import Speaker
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.inspection.test_dead_rules import ASKED, says, topic_line, topics
from tests.pki import Issued, issue, make_crl, write_pem

ASKS = {"client_certificate": "optional", "client_ca": "ca.crt"}
EVERYBODY = "\nallow all all"
EVERYBODY_OF_ALL = "\nallow all all all"


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dialed."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def client(address: str = "192.0.2.7", shown: Issued | None = None) -> Client:
    return Client(address, (shown.certificate, *shown.chain) if shown else ())


def token(site: Site, **claims: object) -> bytes:
    whole = {"sub": "alice", "exp": time.time() + 60, "jti": "7", **claims}
    return jwt.encode(whole, site.key, algorithm="EdDSA").encode()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def ask_database(site: Site, sections: Sections, login: LoginAttempt, who: Client) -> Explanation:
    config = site.config(sections)
    return explain.postgres(stage(config, None, None), config.postgres[0], who, login)


def test_the_line_that_decides(site: Site) -> None:
    found = ask_database(site, DATABASE, LoginAttempt("alice", "sales", token(site)), client())
    assert (found.allowed, found.reason) == (True, None)
    assert found.rule == "[postgres:main] rules, line 1: allow sales alice 192.0.2.0/24"
    assert found.details == {
        "subject": "alice",
        "jti": "7",
        "database": "sales",
        "role": "alice",
        "upstream": "main 127.0.0.1:9",
    }
    assert "superuser" in found.notes[0]


def test_the_line_that_denies(site: Site) -> None:
    login = LoginAttempt("mallory", "sales", token(site, sub="mallory"))
    found = ask_database(site, DATABASE, login, client())
    assert found.rule == "[postgres:main] rules, line 2: deny all mallory all"
    assert found.reason == f"denied: {found.rule}"


@pytest.mark.parametrize(
    ("claims", "address", "reason"),
    [
        ({"exp": 1}, "192.0.2.7", "the token expired"),
        ({"sub": "bob"}, "192.0.2.7", "the token is for another user"),
        ({"securegw": {"cidr": ["203.0.113.0/24"]}}, "192.0.2.7", "the token is not for"),
    ],
)
def test_the_true_reason(site: Site, claims: dict[str, object], address: str, reason: str) -> None:
    found = ask_database(site, DATABASE, LoginAttempt("alice", "sales", token(site, **claims)), client(address))
    assert not found.allowed
    assert found.rule is None
    assert reason in (found.reason or "")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("deny all mallory all", "its one line does not match"),
        ("\ndeny all mallory all\nallow sales alice 192.0.2.0/24", "none of 2 lines matches"),
    ],
)
@pytest.mark.parametrize("address", ["198.51.100.1", ""])
def test_where_no_line_is(site: Site, rules: str, words: str, address: str) -> None:
    sections = {**DATABASE, "postgres:main": {"rules": rules}}
    found = ask_database(site, sections, LoginAttempt("alice", "sales", token(site)), client(address))
    assert (found.allowed, found.reason) == (False, "denied: no rule matches")
    assert found.rule == f"[postgres:main] rules: {words}"


def test_where_no_line_is_of_other_protocols(site: Site) -> None:
    rules = {"client_certificate": "optional", "client_ca": "ca.crt", "rules": "\nallow bob all\nallow carol all"}
    config = site.config({
        "https:main": {},
        "route:a": {"path": "/a", "upstream": "http://127.0.0.1:9", "client": "none"},
        "route:b": {"path": "/b", "upstream": "http://127.0.0.1:9", "client": "none", "rules": "allow all 192.0.2.1"},
        "mqtt:main": {"cn": "id", "topics": "allow all all #", **rules},
        "tunnel:main": {"mode": "server", "listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", **rules},
    })  # fmt: skip
    state = stage(config, None, None)
    who = client(shown=issue(site.ca, "alice"))
    found = [
        explain.http(state, config.https[0], who, WebRequest("GET", "localhost", "/a")),
        explain.http(state, config.https[0], who, WebRequest("GET", "localhost", "/b")),
        explain_mqtt.explain(state, config.mqtt[0], who, Asking()),
        explain.tunnel(state, config.tunnels[0], who),
    ]
    assert {one.reason for one in found} == {"denied: no rule matches"}
    assert [one.rule for one in found] == [
        "[route:a] rules: there is no line",
        "[route:b] rules: its one line does not match",
        "[mqtt:main] rules: none of 2 lines matches",
        "[tunnel:main] rules: none of 2 lines matches",
    ]


def test_revoked_tokens(site: Site) -> None:
    (site.folder / "revoked").write_text("7\n")
    sections = {**DATABASE, "jwt:main": {"public_keys": "jwt.pub", "revoked": "revoked"}}
    found = ask_database(site, sections, LoginAttempt("alice", "sales", token(site)), client())
    assert found.reason == "authentication failed: the token is revoked"


def test_keys_at_a_url_are_asked_for_by_name(site: Site) -> None:
    config = site.config({**DATABASE, "jwt:main": {"jwks": "https://issuer.example/keys"}})
    known = site.config(DATABASE).jwt["main"].keys
    login = LoginAttempt("alice", "sales", token(site))
    for name, allowed in (("main", True), ("other", False)):
        state = stage(config, None, defaultdict(tuple, {name: known}).__getitem__)
        assert explain.postgres(state, config.postgres[0], client(), login).allowed == allowed


def test_a_user_that_no_client_could_be(site: Site) -> None:
    found = ask_database(site, DATABASE, LoginAttempt("a" * 64, "sales", token(site)), client())
    assert (found.reason or "").startswith("protocol violation")


# --- a PROXY header ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.1", ""])
def test_an_address_from_which_a_header_is_due(site: Site, address: str) -> None:
    """Of a Unix socket nobody is a proxy."""
    listener = {**DATABASE["postgres:main"], "rules": EVERYBODY_OF_ALL, "proxy_protocol": "192.0.2.0/24,10.0.0.0/8"}
    login = LoginAttempt("alice", "sales", token(site))
    found = ask_database(site, {**DATABASE, "postgres:main": listener}, login, client(address))
    assert found.allowed == ("192.0.2.7" not in address)
    if found.allowed:
        return
    assert (found.rule, found.details) == ("[postgres:main] proxy_protocol = 192.0.2.0/24, 10.0.0.0/8", {})
    words = "a connection from 192.0.2.7 must begin with one; ask for the address that the header carries"
    assert found.reason == f"PROXY header: {words}"
    behind, superuser = found.notes
    assert behind == (
        "With a PROXY header that carries 192.0.2.7 itself, or no address: "
        "allowed ([postgres:main] rules, line 1: allow all all all)."
    )
    assert "superuser" in superuser


def test_a_header_is_due_from_whoever_is_refused_all_the_same(site: Site) -> None:
    listener = {**DATABASE["postgres:main"], "proxy_protocol": "192.0.2.0/24"}
    found = ask_database(site, {**DATABASE, "postgres:main": listener}, LoginAttempt("bob", "x", b"a.b.c"), client())
    assert found.rule == "[postgres:main] proxy_protocol = 192.0.2.0/24"
    assert found.notes[0].partition(": ")[2].startswith("not allowed (authentication failed: ")


def test_a_header_of_other_protocols(site: Site) -> None:
    behind = {"proxy_protocol": "192.0.2.0/24"}
    asks = {**ASKS, **behind, "rules": EVERYBODY}
    config = site.config({
        "https:main": behind,
        "route:main": {"upstream": "http://127.0.0.1:9", "client": "none", "rules": EVERYBODY},
        "mqtt:main": {"cn": "id", "topics": "allow all all #", **asks},
        "tunnel:main": {"mode": "server", "listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", **asks},
    })  # fmt: skip
    state = stage(config, None, None)

    def answers(who: Client) -> dict[str, Explanation]:
        found = [
            explain.http(state, config.https[0], who, WebRequest("GET", "localhost", "/")),
            explain_mqtt.explain(state, config.mqtt[0], who, Asking(action="publish", topic="a")),
            explain.tunnel(state, config.tunnels[0], who),
        ]
        return {one.listener: one for one in found}

    alice = issue(site.ca, "alice")
    assert all(one.allowed for one in answers(client("198.51.100.1", alice)).values())
    for section, found in answers(client("192.0.2.7", alice)).items():
        assert (found.allowed, found.rule) == (False, f"[{section}] proxy_protocol = 192.0.2.0/24")
        assert "itself, or no address: allowed" in found.notes[0]


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_asks_for(site: Site) -> None:
    stranger = issue(Site(site.folder).ca, "stranger")
    found = ask_database(site, DATABASE, LoginAttempt("alice", "sales", token(site)), client(shown=stranger))
    assert found.allowed
    assert "asks for no certificate" in found.notes[0]


@pytest.mark.parametrize("words", ["client_ca", "client_crl"])
def test_what_of_the_configuration_has_a_part_in_it(site: Site, words: str) -> None:
    alice, stranger = issue(site.ca, "alice"), issue(Site(site.folder).ca, "alice")
    write_pem(site.folder / "crl.pem", make_crl(site.ca, [alice]))
    sections = {**DATABASE, "tls": {"certificate": "server.crt", "key": "server.key", **ASKS, "client_crl": "crl.pem"}}
    shown = stranger if words == "client_ca" else alice
    found = ask_database(site, sections, LoginAttempt("alice", "sales", token(site)), client(shown=shown))
    name = "ca.crt" if words == "client_ca" else "crl.pem"
    assert (found.reason or "").endswith(f"([tls] {words} = {site.folder / name})")


def test_a_stale_list_that_still_counts(site: Site) -> None:
    write_pem(site.folder / "crl.pem", make_crl(site.ca, valid=(-9, -1)))
    listener = {**DATABASE["postgres:main"], **ASKS, "client_crl": "crl.pem"}
    login, who = LoginAttempt("alice", "sales", token(site)), client(shown=issue(site.ca, "alice"))
    found = ask_database(site, {**DATABASE, "postgres:main": {**listener, "stale_crl": "warn"}}, login, who)
    assert found.allowed
    assert "past its nextUpdate" in found.notes[0]
    found = ask_database(site, {**DATABASE, "postgres:main": listener}, login, who)
    assert not found.allowed
    assert "CRL has expired" in (found.reason or "")


@pytest.mark.parametrize("address", ["nowhere", "192.0.2.0/24", "local"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Client(address)


# --- HTTP and tunnels -------------------------------------------------------------------------------------------------


def test_a_tunnel_of_ours(site: Site) -> None:
    """Plain and local: whoever reaches it is let in."""
    tunnel = {"mode": "client", "listen": "127.0.0.1:7183", "upstream": "things.example:8183"}
    config = site.config({"tunnel:adapter": tunnel})
    found = explain.tunnel(stage(config, None, None), config.tunnels[0], client("127.0.0.1"))
    assert found.allowed
    assert found.details["upstream"] == "tunnel:adapter things.example:8183"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/../x", "400"), ("GET", "/elsewhere", "404"), ("BREW", "/things", None), ("GET", "/th ings", None)],
)
def test_a_request_that_is_none(site: Site, method: str, target: str, status: str | None) -> None:
    route = {"path": "/things", "upstream": "http://127.0.0.1:9", "client": "none", "rules": EVERYBODY}
    config = site.config({"https:main": {}, "route:main": route})
    request = WebRequest(method, "localhost", target)
    found = explain.http(stage(config, None, None), config.https[0], client(), request)
    assert not found.allowed
    assert found.reason
    assert status is None or found.details["status"] == status


@pytest.mark.parametrize("host", ["192.0.2.1:8443", "[2001:db8::1]", "localhost:8443"])
def test_hosts_of_all_kinds(site: Site, host: str) -> None:
    route = {"upstream": "http://127.0.0.1:9", "client": "none", "rules": EVERYBODY}
    config = site.config({"https:main": {}, "route:main": route})
    assert explain.http(stage(config, None, None), config.https[0], client(), WebRequest("GET", host, "/")).allowed


# --- a broker ---------------------------------------------------------------------------------------------------------


TOPICS = "\ndeny all all a/secret\nallow all publish a/%c\nallow all subscribe a/+\nallow all all b"


def with_broker(site: Site, tls: str) -> Sections:
    (site.folder / "root.crt").write_bytes((site.folder / "ca.crt").read_bytes())
    way = {} if tls == "disable" else {"root_certificate": "root.crt"}
    mqtt = {
        "upstream": "broker.example:8883",
        "tls": tls,
        "cn": "id",
        "topics": TOPICS,
        "rules": "\nallow all 192.0.2.0/24",
        **way,
    }
    return {"mqtt:main": {**mqtt, **ASKS}}


@pytest.mark.parametrize("tls", ["disable", "verify-full"])
@pytest.mark.parametrize(
    ("action", "topic", "line"),
    [
        ("publish", "a/alice", "line 2: allow all publish a/%c"),
        ("publish", "a/secret", "line 1: deny all all a/secret"),
        ("publish", "c", "none of 4 lines matches"),
        ("subscribe", "b", "line 4: allow all all b"),
        ("subscribe", "a/+", "line 1: deny all all a/secret"),
        ("subscribe", "$share/us/b", "line 4: allow all all b"),
    ],
)
def test_topics_before_a_broker(site: Site, tls: str, action: str, topic: str, line: str) -> None:
    config = site.config(with_broker(site, tls))
    asking = Asking(action=action, topic=topic)
    alice = issue(site.ca, "alice")
    found = explain_mqtt.explain(stage(config, None, None), config.mqtt[0], client(shown=alice), asking)
    assert found.allowed == ("allow" in line)
    assert (found.details["subject"], found.details["asked"]) == ("alice", f"{action} {topic}")
    assert int(found.details["serial"], 16) == alice.certificate.serial_number
    assert found.rule == f"[mqtt:main] topics{',' if 'line ' in line else ':'} {line}"
    assert found.details["let_in_by"] == "[mqtt:main] rules, line 1: allow all 192.0.2.0/24"
    assert found.details["upstream"] == "mqtt:main broker.example:8883"


def test_a_channel_over_https_before_a_broker(site: Site) -> None:
    path = site.folder / "registry.sqlite"
    with open_ledger(RegistrySettings(path)) as ledger:
        thing, key = ledger.create_thing("boiler")
        channel = ledger.create_channel("heating").id
        ledger.connect(thing.id, channel, subscribe=False)
    config = site.config(
        {
            "registry": {"database": str(path)},
            "mqtt:main": {"upstream": "broker.example:1883", "tls": "disable", "rules": EVERYBODY},
            "https:main": {},
            "route:http": {"path": "/http", "serve": "channels", "client": "none", "rules": EVERYBODY},
        }
    )
    assert config.registry is not None
    state = stage(config, read_things(config.registry), None)
    target = f"/http/channels/{channel}/messages"
    posted = WebRequest("POST", "localhost", target, key.encode())
    found = explain.http(state, config.https[0], client(), posted)
    assert (found.allowed, found.rule) == (True, f"[registry] the thing {thing.id} in the channel {channel}")
    assert found.details["let_in_by"] == "[route:http] rules, line 1: allow all all"
    found = explain.http(state, config.https[0], client(), WebRequest("POST", "localhost", target, b"wrong"))
    assert (found.reason, found.details["status"]) == ("no thing has that key", "401")
    for topic in (topic_of(channel), f"$share/us/{topic_of(channel)}"):
        asking = Asking("c", thing.id, key.encode(), "subscribe", topic)
        found = explain_mqtt.explain(state, config.mqtt[0], client(), asking)
        assert found.rule == f"[registry] the thing {thing.id} in the channel {channel}"
        assert (found.reason or "").endswith("may not subscribe there")
    assert key not in repr((found, posted))


def of_channels(site: Site, method: str, path: str, *, websocket: bool = False) -> tuple[Explanation, str, list[str]]:
    """What is said of a thing's request to the hub's channels; {0} to {2} of its path are the ids of one in which it
    may publish, of one in which it may nothing, and of none. With the thing's id, and those."""
    path_of_registry = site.folder / "registry.sqlite"
    with open_ledger(RegistrySettings(path_of_registry)) as ledger:
        thing, key = ledger.create_thing("boiler")
        channels = [ledger.create_channel(name).id for name in ("heating", "cooling")]
        ledger.connect(thing.id, channels[0], subscribe=False)
    channels.append(thing.id)
    config = site.config({
        "registry": {"database": str(path_of_registry)},
        "hub": {"database": "memory"},
        "mqtt:main": {"rules": EVERYBODY},
        "https:main": {},
        "route:http": {"path": "/http", "serve": "channels", "client": "none", "rules": EVERYBODY},
    })  # fmt: skip
    assert config.registry is not None
    state = stage(config, read_things(config.registry), None)
    request = WebRequest(method, "localhost", path.format(*channels), key.encode(), websocket)
    return explain.http(state, config.https[0], client(), request), thing.id, channels


@pytest.mark.parametrize("websocket", [False, True])
@pytest.mark.parametrize(("number", "status"), [(0, None), (1, "403"), (2, "404")])
def test_the_registry_decides_about_a_channel(site: Site, number: int, status: str | None, websocket: bool) -> None:
    """The rule has only let the thing in."""
    path, method = f"/http/channels/{{{number}}}/messages/a%20b", "GET" if websocket else "POST"
    found, thing, channels = of_channels(site, method, path, websocket=websocket)
    assert (found.allowed, found.details.get("status")) == (status is None, status)
    assert found.rule == f"[registry] the thing {thing} in the channel {channels[number]}"
    assert found.details["let_in_by"] == "[route:http] rules, line 1: allow all all"
    assert found.allowed or "channel" in (found.reason or "")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/http/channels/{0}/messages", "405"),
        ("POST", "/http/channels/{0}", "404"),
        ("POST", "/http/channels/{0}/messages/+", "400"),
    ],
)
def test_what_the_registry_is_not_asked(site: Site, method: str, path: str, status: str) -> None:
    found, _, _ = of_channels(site, method, path)
    assert (found.allowed, found.details["status"], found.rule) == (False, status, None)
    assert found.details["let_in_by"] == "[route:http] rules, line 1: allow all all"


@pytest.mark.parametrize(("topic", "allowed"), [("a", True), ("$SYS/x", False)])
def test_what_the_hub_keeps_to_itself(site: Site, topic: str, allowed: bool) -> None:
    """A line may allow it all the same."""
    topics = "\nallow all publish $SYS/#\nallow all all #"
    config = site.config({"mqtt:main": {"cn": "id", "topics": topics, "rules": EVERYBODY, **ASKS}})
    asking = Asking(action="publish", topic=topic)
    who = client(shown=issue(site.ca, "alice"))
    found = explain_mqtt.explain(stage(config, None, None), config.mqtt[0], who, asking)
    assert found.allowed == allowed
    assert allowed or found.reason == "the hub itself refuses it, with code 0x87"


@pytest.mark.parametrize(
    ("action", "topic"), [("publish", "a/#"), ("publish", ""), ("subscribe", "a/#/b"), ("subscribe", "$share/g")]
)
def test_topics_that_are_none(action: str, topic: str) -> None:
    with pytest.raises(ValueError, match="MQTT"):
        Asking(action=action, topic=topic)


@pytest.mark.parametrize("client_id", ["a" * 65_536, "a\ud800"])
def test_a_client_id_that_nobody_can_say(client_id: str) -> None:
    with pytest.raises(ValueError, match=r"long|surrogates"):
        Asking(client_id)


def test_the_deciding_line_is_the_first_that_says_anything() -> None:
    random = Random(3)
    for _ in range(300):
        rules = topics(*(topic_line(random) for _ in range(random.randint(0, 6))))
        names = ["p", "q", "r/s", "b", "$SYS", ""]
        speaker = Speaker(random.choice(names), random.choice([None, *names]), random.choice(names))
        action, topic = random.choice(["publish", "subscribe"]), random.choice(ASKED)
        if action == "subscribe" or not {"+", "#"} & set(topic):
            first = next((rule for rule in rules if says(rule, speaker, action, topic)), None)
            assert deciding(tuple(rules), speaker, action, topic) is first, (rules, speaker, action, topic)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_registry_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no registry yet"):
        read_things(RegistrySettings(tmp_path / "registry.sqlite"))
    assert list(tmp_path.iterdir()) == []
