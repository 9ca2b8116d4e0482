"""MQTT listeners, the hub, the registry and what routes serve: what is read, and every mistake with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.addresses import DatabaseURL, database_url
from gateway.config import load
from gateway.errors import Problems
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.session.mqtt_access import BrokerLogin
from gateway.settings import Config
from gateway.topic_rules import Speaker
from gateway.upstream import Address, ClientTLS, ServerTLS, TLSMode

# The least that guards things.
TLS = "[tls]\ncertificate = server.crt\nkey = server.key\nclient_certificate = required\nclient_ca = ca.crt\n"
REGISTRY = "[registry]\ndatabase = things.sqlite\n"
MQTT = "[mqtt:main]\nrules = allow all all\n"
COMPLETE = TLS + REGISTRY + MQTT
WITHOUT = TLS + MQTT + "topics = allow all all #\n"
THING = "0d7c9a52-1111-4222-8333-444455556666"
MORE = "[mqtt:more]\nlisten = 127.0.0.1:9\nrules = allow all all\nupstream = mq.example:1\n"
SERVER = "[registry]\ndatabase = postgresql://gw@db.example/things\nroot_certificate = ca.crt\n"

Reader = Callable[..., tuple[Config, list[str]]]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """The configuration of an INI's text, and the problems that it has."""

    def read(ini: str, environ: Mapping[str, str] | None = None) -> tuple[Config, list[str]]:
        path = tmp_path / "gw.ini"
        path.write_text(ini, "utf-8")
        problems = Problems()
        config = load(path, environ or {}, tmp_path, problems)
        return config, [str(problem).replace(str(tmp_path), "DIR") for problem in problems.found]

    return read


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_least_configuration_and_its_defaults(read: Reader, tmp_path: Path) -> None:
    config, problems = read(COMPLETE)
    assert problems == []
    assert config.warnings == ()
    assert config.configured
    (one,) = config.mqtt
    assert (one.name, one.listen) == ("main", (Address("127.0.0.1", 8883),))
    tls = ServerTLS(tmp_path / "server.crt", tmp_path / "server.key", (), "required", tmp_path / "ca.crt")
    assert (one.tls, one.upstream, one.login) == (tls, None, BrokerLogin())
    assert (one.cn, one.identity, one.fill_password, one.check_password) == ("key", "cn", True, True)
    assert (one.prefix_client_ids, one.drop_denied, one.topics.rules) == (True, False, ())
    assert (one.max_packet, one.packet_rate, one.keep_alive, one.proxy_protocol) == (262_144, None, 0, ())
    assert config.registry == RegistrySettings(tmp_path / "things.sqlite", 300)
    assert config.hub is not None
    assert config.hub.settings.max_packet_size == one.max_packet


def test_everything_said_otherwise(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    config, problems = read(
        TLS
        + """
[mqtt:one]
listen = *:8883, unix:/run/mqtt.sock
proxy_protocol = 203.0.113.0/24
client_certificate = optional
cn = id
identity = uri
rules = allow meter-7 all
password = ignored
client_id = identity
topics =
    # no secrets
    deny all all secret/#

    allow all publish devices/%c/#
denied_publish = drop
max_packet_size = 1024
max_packets_per_second = 50
keep_alive = 60
upstream = mq1.example:8883, mq2.example:8884
tls = verify-ca
root_certificate = up.crt
crl = up.crl
upstream_certificate = gw.crt
upstream_key = gw.key
upstream_identity = gateway
upstream_user = gw
upstream_password_file = secret
connect_timeout = 0.5
"""
    )
    assert problems == []
    (one,) = config.mqtt
    assert one.listen == (Address("*", 8883), Address("/run/mqtt.sock", 0))
    assert one.proxy_protocol == (ip_network("203.0.113.0/24"),)
    assert one.tls is not None
    assert one.tls.client_certificate == "optional"
    assert (one.cn, one.identity, one.fill_password, one.check_password) == ("id", "uri", False, False)
    assert (one.prefix_client_ids, one.drop_denied) == (False, True)
    assert (one.max_packet, one.packet_rate, one.keep_alive) == (1024, 50.0, 60)
    assert one.topics.may_publish(Speaker("meter-7", None, "c"), "devices/meter-7/x")
    assert not one.topics.may_publish(Speaker("meter-7", None, "c"), "secret/x")
    assert [rule.source for rule in one.topics.rules] == ["[mqtt:one] topics, line 1", "[mqtt:one] topics, line 2"]
    assert one.login == BrokerLogin(False, "gw", b"hush")
    assert one.upstream is not None
    assert one.upstream.name == "mqtt:one"
    assert one.upstream.addresses == (Address("mq1.example", 8883), Address("mq2.example", 8884))
    assert one.upstream.connect_timeout == 0.5
    assert one.upstream.tls == ClientTLS(
        TLSMode.VERIFY_CA,
        tmp_path / "up.crt",
        tmp_path / "gw.crt",
        tmp_path / "gw.key",
        tmp_path / "up.crl",
        alpn=(b"mqtt",),
    )
    assert config.hub is None
    assert config.registry is None


def test_the_hub_is_there_for_whoever_has_no_broker(read: Reader, tmp_path: Path) -> None:
    more = "[mqtt:more]\nlisten = 127.0.0.1:8884\nrules = allow all all\n"
    far = "upstream = unix:/run/mq\n"
    hub = """
[hub]
database = memory
receive_maximum = 5
max_queued = 6
max_retained = 7
max_sessions = 8
max_session_expiry = 9
"""
    config, problems = read(COMPLETE + "max_packet_size = 2048\n" + more + "max_packet_size = 4096\n" + hub)
    assert problems == []
    assert config.hub is not None
    settings = config.hub.settings
    assert (config.hub.database, settings.max_packet_size) == (None, 4096)
    bounds = settings.max_queued, settings.max_retained, settings.max_sessions, settings.max_session_expiry
    assert (settings.receive_maximum, *bounds) == (5, 6, 7, 8, 9)
    # Of a listener that has a broker the hub knows nothing.
    config, problems = read(COMPLETE + more + far + "max_packet_size = 4096\n[hub]\ndatabase = hub.sqlite\n")
    assert problems == []
    assert config.hub is not None
    assert (config.hub.database, config.hub.settings.max_packet_size) == (tmp_path / "hub.sqlite", 262_144)
    config, _ = read(COMPLETE + far + more + far)
    assert config.hub is None


def test_a_registry_in_postgresql(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    config, problems = read(
        TLS
        + MQTT
        + """
[registry]
database = postgresql://gw@db1.example,db2.example:6543/things
password_file = secret
tls = verify-ca
root_certificate = db.crt
client_certificate = gw.crt
client_key = gw.key
stale_after = 60
"""
    )
    assert problems == []
    expected = PostgresDatabase(
        hosts=("db1.example", "db2.example"),
        dbname="things",
        user="gw",
        port=6543,
        password="hush",
        tls=TLSMode.VERIFY_CA,
        root_certificate=tmp_path / "db.crt",
        certificate=tmp_path / "gw.crt",
        key=tmp_path / "gw.key",
    )
    assert config.registry == RegistrySettings(expected, 60)
    assert "hush" not in repr(config)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("ini", "warning"),
    [
        (SERVER + "tls = disable\n", "[registry] tls = disable: what is known of things crosses the network in clear"),
        (
            "[registry]\ndatabase = postgresql://gw@db.example/things\ntls = require\n",
            "[registry] tls = require encrypts, but whoever answers is taken for the database",
        ),
        (
            REGISTRY + MORE + "tls = require\n",
            "[mqtt:more] tls = require encrypts, but whoever answers is taken for the broker",
        ),
        (
            REGISTRY + MORE + "tls = disable\n",
            "[mqtt:more] upstream: messages, with their keys, cross the network in clear text",
        ),
        (
            REGISTRY + MORE + "tls = require\nupstream_identity = gateway\nupstream_user = gw\n",
            "[mqtt:more] upstream_identity = gateway, without a password: the broker trusts us",
        ),
    ],
)
def test_what_is_allowed_but_told(read: Reader, ini: str, warning: str) -> None:
    config, problems = read(TLS + MQTT + ini)
    assert problems == [] or ini.startswith(SERVER)  # whose root nobody needs then
    assert any(one.startswith(warning) for one in config.warnings), config.warnings


def test_the_gateways_own_login_needs_a_word_only_without_a_password(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    far = REGISTRY + MORE + "tls = require\nroot_certificate = up.crt\n"
    for more in ("", "upstream_identity = gateway\nupstream_password_file = secret\n"):
        config, problems = read(TLS + MQTT + far + more)
        assert problems == []
        assert config.warnings == ()


def test_a_unix_socket_needs_no_word_about_tls(read: Reader) -> None:
    config, problems = read(COMPLETE + "upstream = unix:/run/mq.sock\n")
    assert problems == []
    assert config.mqtt[0].upstream is not None
    assert config.mqtt[0].upstream.tls.mode is TLSMode.DISABLE
    config, problems = read(TLS + MQTT + "[registry]\ndatabase = postgresql://gw@%2Frun%2Fpg/things\n")
    assert problems == []
    assert config.registry is not None
    assert isinstance(config.registry.database, PostgresDatabase)
    assert (config.registry.database.hosts, config.registry.database.tls) == (("/run/pg",), TLSMode.DISABLE)


@pytest.mark.parametrize(
    ("cn", "word", "known", "fill", "check"),
    [
        ("key", None, True, True, True),
        ("key", None, False, True, True),
        ("key", "fill", True, True, True),
        ("key", "required", False, False, True),
        ("id", None, True, False, True),
        ("id", None, False, False, False),
        ("id", "required", True, False, True),
        ("id", "ignored", True, False, False),
        ("id", "ignored", False, False, False),
    ],
)
def test_the_word_about_passwords(
    read: Reader, cn: str, word: str | None, known: bool, fill: bool, check: bool
) -> None:
    said = f"password = {word}\n" if word else ""
    config, problems = read((COMPLETE if known else WITHOUT) + f"cn = {cn}\n{said}")
    assert problems == []
    assert (config.mqtt[0].fill_password, config.mqtt[0].check_password) == (fill, check)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ini", "problem"),
    [
        (COMPLETE + "max_packet_size = 1023\n", "[mqtt:main] max_packet_size: is not from 1024 to 268435460 bytes"),
        (COMPLETE + "max_packet_size = 268435461\n", "[mqtt:main] max_packet_size: is not from 1024"),
        (COMPLETE + "keep_alive = 65536\n", "[mqtt:main] keep_alive: is not a number of seconds from 0 to 65535"),
        (COMPLETE + "keep_alive = 1.5\n", "[mqtt:main] keep_alive: is not a number of seconds"),
        (COMPLETE + "max_packets_per_second = -1\n", "[mqtt:main] max_packets_per_second: is not a whole number"),
        (COMPLETE + "denied_publish = ignore\n", "[mqtt:main] denied_publish: ignore is not one of close, drop"),
        (COMPLETE + "client_id = any\n", "[mqtt:main] client_id: any is not one of prefix, identity"),
        (COMPLETE + "password = hunter2\n", "[mqtt:main] password: is not one of fill, required, ignored"),
        (COMPLETE + "cn = name\n", "[mqtt:main] cn: name is not one of key, id"),
        (COMPLETE + "identity = uri\n", "[mqtt:main] identity: is uri, but with cn = key the key is in the CN"),
        (COMPLETE + "topic = a\n", "[mqtt:main] topic: no such key; did you mean topics?"),
        (COMPLETE + "topics = allow all all a/#/b\n", "[mqtt:main] topics, line 1: FILTER is no MQTT filter"),
        (COMPLETE + "topics =\n  allow all all a\n  allow\n", "[mqtt:main] topics, line 2: a rule is: allow|deny"),
        (COMPLETE + "password = ignored\n", "[mqtt:main] password: is ignored, but with cn = key"),
        (COMPLETE + "cn = id\npassword = fill\n", "[mqtt:main] password: is fill, but with cn = id"),
        (WITHOUT + "cn = id\npassword = required\n", "[mqtt:main] password: is required, but without [registry]"),
        (COMPLETE + "root_certificate = ca.crt\n", "[mqtt:main] root_certificate: is about an upstream"),
        (COMPLETE + "upstream_key = k\n", "[mqtt:main] upstream_key: is about an upstream"),
        (COMPLETE + "upstream_password_file = k\n", "[mqtt:main] upstream_password_file: is about an upstream"),
        (COMPLETE + "upstream = mq.example\n", "[mqtt:main] upstream: "),
        (COMPLETE + "upstream = unix:/run/mq\ntls = verify-full\n", "[mqtt:main] tls: a Unix socket has no TLS"),
        (
            COMPLETE + "upstream = unix:/run/mq\nupstream_identity = gateway\nupstream_password_file = none\n",
            "[mqtt:main] upstream_password_file: DIR/none: No such file or directory",
        ),
        (TLS + MQTT + "[tunnel:x]\n", "[mqtt:main] topics: is required without [registry] database"),
        (
            TLS + REGISTRY + "[mqtt:main]\nrules = allow meter-7 all\n",
            "[mqtt:main] rules, line 1: an identity is the id of a thing here",
        ),
        (TLS + REGISTRY + "[mqtt:main]\nrules = allow all all method=GET\n", "[mqtt:main] rules, line 1: method is"),
        (COMPLETE + "[mqtt:more]\nrules = allow all all\n", "[mqtt:more] listen: "),
        (COMPLETE + "[hub]\nreceive_maximum = 65536\n", "[hub] receive_maximum: is not from 1 to 65535"),
        (COMPLETE + "[hub]\ndatabase = none\n", "[hub] database: is a path, or memory"),
        (COMPLETE + "[hub]\nmax_queued = 0\n", "[hub] max_queued: is not a whole number from 1 up"),
        (TLS + MQTT + SERVER + "password_file = none\n", "[registry] password_file: DIR/none: No such file"),
        (TLS + MQTT + SERVER + "client_key = k\n", "[registry] client_certificate: "),
        (COMPLETE.replace("things.sqlite", "x\nclient_key = k"), "[registry] client_key: is of use only with database"),
        (COMPLETE.replace("things.sqlite", "x\npassword = k"), "[registry] password: is of use only with database"),
        (COMPLETE.replace("things.sqlite", "postgresql://db/x"), "[registry] database: is neither a path nor"),
        (
            TLS + MQTT + "[registry]\ndatabase = postgresql://gw@%2Frun/things\ntls = verify-full\n",
            "[registry] tls: a Unix socket has no TLS",
        ),
    ],
)
def test_each_mistake_is_told_with_its_place(read: Reader, ini: str, problem: str) -> None:
    _, problems = read(ini)
    assert any(one.startswith(problem) for one in problems), problems


def test_without_a_rule_nobody_is_let_in_and_that_is_said(read: Reader) -> None:
    config, problems = read(TLS + REGISTRY + "[mqtt:main]\n")
    assert problems == []
    assert "[mqtt:main] rules is empty, so nobody is let in" in config.warnings


def test_rules_may_name_things(read: Reader) -> None:
    _, problems = read(TLS + REGISTRY + f"[mqtt:main]\nrules = allow {THING} all\n")
    assert problems == []
    # Without a registry nobody knows ids; a key is told by its hash.
    _, problems = read(WITHOUT.replace("allow all all\n", f"allow {THING} all\n", 1))
    assert problems


# --- routes that serve ------------------------------------------------------------------------------------------------

HTTPS = "[https:main]\n[route:main]\nrules = allow all all\n"


@pytest.mark.parametrize("serve", ["channels", "mqtt"])
def test_a_route_may_lead_to_mqtt(read: Reader, serve: str) -> None:
    config, problems = read(COMPLETE + HTTPS + f"serve = {serve}\n")
    assert problems == []
    (route,) = config.routes
    assert (route.serve, route.mqtt, route.upstream.addresses) == (serve, "main", ())
    assert config.configured


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("serve = channels\nupstream = http://127.0.0.1:1\n", "[route:main] upstream: is of no use: serve = channels"),
        ("serve = mqtt\nmqtt = other\n", "[route:main] mqtt: no section [mqtt:other]"),
        ("upstream = http://127.0.0.1:1\nmqtt = other\n", "[route:main] mqtt: is of use only with serve"),
        ("serve = files\n", "[route:main] serve: files is not one of upstream, channels, mqtt"),
    ],
)
def test_what_a_route_cannot_serve(read: Reader, keys: str, problem: str) -> None:
    _, problems = read(COMPLETE + HTTPS + keys)
    assert any(one.startswith(problem) for one in problems), problems


def test_only_a_registry_knows_channels(read: Reader) -> None:
    _, problems = read(WITHOUT + HTTPS + "serve = channels\n")
    assert any(one.startswith("[route:main] serve: is channels, and only a [registry]") for one in problems), problems
    _, problems = read(WITHOUT + HTTPS + "serve = mqtt\n")
    assert problems == []


@pytest.mark.parametrize("serve", ["channels", "mqtt"])
@pytest.mark.parametrize("other", ["client_ca = guests.crt\n", "client_crl = other.crl\n"])
def test_a_name_is_whose_the_authority_says(read: Reader, serve: str, other: str) -> None:
    """Else the guests of one listener could have the names of the other's things."""
    here = HTTPS.replace("[https:main]\n", f"[https:main]\n{other}") + f"serve = {serve}\n"
    _, problems = read(COMPLETE + here)
    assert problems == ["[route:main] mqtt: [https:main] and [mqtt:main] have another client_ca or client_crl"]
    # Where nobody looks at certificates it does not matter.
    _, problems = read(COMPLETE + here + "client = none\n")
    assert problems == []


@pytest.mark.parametrize("line", ["    [health]", "    client_id = identity"])
def test_a_line_that_is_indented_by_mistake_is_told(read: Reader, line: str) -> None:
    """Behind a block that was pasted with its indentation it would be part of the value before it."""
    _, problems = read(TLS + REGISTRY + f"[mqtt:main]\nrules = allow all all\n{line}\n")
    told = f"[mqtt:main] rules: goes on with an indented line that looks like {line.strip().removesuffix(' identity')}"
    assert any(one.startswith(told) for one in problems), problems


def test_whoever_writes_rules_does_not_mean_the_quickstart(read: Reader) -> None:
    """A forgotten registry is told, instead of taken for a demo."""
    _, problems = read(TLS + "[mqtt:main]\nrules = allow all all\n")
    assert any(one.startswith("[mqtt:main] topics: is required without [registry] database") for one in problems)


# --- database URLs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://gw@db/things", DatabaseURL("gw", ("db",), 5432, "things")),
        ("postgres://gw@db:1/things", DatabaseURL("gw", ("db",), 1, "things")),
        ("postgresql://gw@[2001:db8::1]:1/things", DatabaseURL("gw", ("2001:db8::1",), 1, "things")),
        ("postgresql://a%40b@%2Frun%2Fpg/x%2Fy", DatabaseURL("a@b", ("/run/pg",), 5432, "x/y")),
        ("postgresql://gw@a,b/x", DatabaseURL("gw", ("a", "b"), 5432, "x")),
    ],
)
def test_a_database_url(text: str, expected: DatabaseURL) -> None:
    assert database_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://db/things",
        "postgresql://gw@db",
        "postgresql://gw@db/",
        "postgresql://gw@/x",
        "postgresql://gw:hush@db/x",
        "postgresql://gw@db:0/x",
        "postgresql://gw@db:65536/x",
        "postgresql://gw@db/x?sslmode=disable",
        "postgresql://gw@db/x#y",
        "mysql://gw@db/x",
        "postgresql:gw@db/x",
        " postgresql://gw@db/x",
    ],
)
def test_what_is_none_and_no_password_is_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        database_url(text)
    assert "hush" not in str(raised.value)
