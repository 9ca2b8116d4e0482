"""`securegw explain` as people and programs call it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from gateway.cli.explain import explain
from gateway.cli.settings import Installation
from gateway.registry.ledger import open_ledger
from gateway.registry.settings import RegistrySettings
from tests.cli.console import framed
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.pki import issue
from tests.servers import free_port

FRAME = framed(explain)
ASKS = {"client_certificate": "optional", "client_ca": "ca.crt"}
WEB: Sections = {
    "https:main": {"listen": "127.0.0.1:8443", **ASKS},
    "https:other": {"listen": "127.0.0.1:9443", **ASKS},
    "route:main": {
        "listener": "main, other",
        "upstream": "http://127.0.0.1:9",
        "client": "optional",
        "cn": "id",
        "websocket": "yes",
        "ws_key": "optional",
        "rules": "\nallow boiler all method=GET",
    },
}


def run(site: Site, sections: Sections, *arguments: str, stdin: bytes = b"") -> Result:
    path = site.write({**DATABASE, **sections})
    where = Installation(str(path), {}, site.folder)
    return CliRunner().invoke(FRAME, ["explain", *arguments], obj=where, input=stdin, prog_name="securegw")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site.made(tmp_path)
    issue(site.ca, "boiler").write(tmp_path, "boiler")
    claims = {"sub": "alice", "exp": time.time() + 60}
    (tmp_path / "alice.jwt").write_text(jwt.encode(claims, site.key, algorithm="EdDSA") + "\n")
    return site


FROM = ("--from", "192.0.2.7")


def test_a_page_for_people(site: Site) -> None:
    result = run(site, {}, "postgres", "--token-file", str(site.folder / "alice.jwt"), "--database", "sales", *FROM)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "allowed",
        "listener    [postgres:main]",
        f"decided by  {site.folder / 'gw.ini'} [postgres:main] rules, line 1: allow sales alice 192.0.2.0/24",
        "subject     alice",
        "database    sales",
        "role        alice",
        "upstream    main 127.0.0.1:9",
    ]
    assert result.stderr.startswith("Note: ")


def test_json_for_programs(site: Site) -> None:
    token = (site.folder / "alice.jwt").read_bytes()
    result = run(site, {}, "postgres", "--token-file", "-", "--database", "hr", *FROM, "--json", stdin=token)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "allowed": False,
        "listener": "postgres:main",
        "reason": "denied: no rule matches",
        "file": str(site.folder / "gw.ini"),
        "rule": "[postgres:main] rules: none of 2 lines matches",
        "subject": "alice",
        "database": "hr",
        "notes": [],
    }
    assert result.stderr == ""


@pytest.mark.parametrize("token", [b"no token", b"a.b.c", b"a.e30.c"])
def test_whatever_is_no_token(site: Site, token: bytes) -> None:
    result = run(site, {}, "postgres", "--token-file", "-", *FROM, stdin=token)
    assert result.exit_code == 1
    assert "reason    authentication failed: " in result.stdout
    assert token.decode() not in result.output


def test_no_token_at_all(site: Site) -> None:
    assert run(site, {}, "postgres", *FROM).exit_code == 1


def test_a_certificate_and_a_url(site: Site) -> None:
    boiler = ("--certificate", str(site.folder / "boiler.crt"))
    result = run(site, WEB, "http", "GET", "https://localhost/things?x=1", *boiler, *FROM)
    assert result.exit_code == 0
    assert "[route:main] rules, line 1: allow boiler all method=GET" in result.stdout
    result = run(site, WEB, "http", "POST", "https://localhost/things", *boiler, *FROM)
    assert result.exit_code == 1
    assert f"decided by  {site.folder / 'gw.ini'} [route:main] rules: its one line does not match\n" in result.stdout
    assert "reason      denied: no rule matches\n" in result.stdout
    assert run(site, WEB, "http", "GET", "wss://localhost/things", *boiler, *FROM).exit_code == 0


@pytest.mark.parametrize(
    ("url", "more", "listener"),
    [
        ("https://localhost:8443/", (), "main"),
        ("https://localhost:9443/", (), "other"),
        ("https://localhost/", (), "main"),
        ("https://localhost:8443/", ("--listener", "other"), "other"),
    ],
)
def test_the_listener_that_the_url_leads_to(site: Site, url: str, more: tuple[str, ...], listener: str) -> None:
    result = run(site, WEB, "http", "GET", url, *FROM, *more, "--json")
    assert json.loads(result.stdout)["listener"] == f"https:{listener}"


def test_mqtt_with_a_key_in_a_file(site: Site) -> None:
    registry = site.folder / "registry.sqlite"
    with open_ledger(RegistrySettings(registry)) as ledger:
        thing, key = ledger.create_thing("boiler")
        channel = ledger.create_channel("heating").id
        ledger.connect(thing.id, channel)
    (site.folder / "key").write_text(key)
    sections = {"registry": {"database": str(registry)}, "mqtt:main": {"rules": "\nallow all all"}}
    who = ("mqtt", "--user-name", thing.id, "--key-file", str(site.folder / "key"), *FROM)
    result = run(site, sections, *who, "--publish", f"channels/{channel}/messages")
    assert result.exit_code == 0
    assert f"the thing {thing.id} in the channel {channel}" in result.stdout
    assert "let in by   [mqtt:main] rules, line 1: allow all all" in result.stdout
    result = run(site, sections, *who, "--subscribe", "#")
    assert (result.exit_code, key in result.output) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("postgres",), "Missing option '--from'"),
        (("postgres", "--from", "192.0.2.0/24"), "is neither an IP address nor local"),
        (("postgres", *FROM, "--listener", "other"), "say which [postgres:NAME] is meant; there are: main"),
        (("http", "GET", "http://localhost/", *FROM), "URL is one of https://"),
        (("http", "GET", "https://alice@localhost/", *FROM), "URL has no user"),
        (("http", "GET", "https://localhost/?authorization=secret", *FROM), "no key in it"),
        (("http", "GET", "https://localhost:x/", *FROM), "URL: "),
        (("http", "GET", "https://localhost/a b", *FROM), "URL is one of https://"),
        (("http", "G T", "https://localhost/", *FROM), "METHOD is a word"),
        (("http", "GET", "https://localhost/", *FROM, "--scheme", "a b"), "one word"),
        (("mqtt", "--publish", "a", "--subscribe", "a", *FROM), "not both"),
        (("mqtt", "--publish", "a/+", *FROM), "no topic of MQTT"),
        (("tunnel", "gone"), "Missing option '--from'"),
    ],
)
def test_called_wrongly(site: Site, arguments: tuple[str, ...], words: str) -> None:
    result = run(site, WEB, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tunnel", *FROM), "there is no [tunnel:NAME] in the configuration"),
        (("postgres", "--certificate", "gone.crt", *FROM), "gone.crt"),
        (("postgres", "--token-file", "gone.jwt", *FROM), "gone.jwt"),
        (("postgres", "--certificate", "{folder}/jwt.pub", *FROM), "is not a readable PEM certificate"),
    ],
)
def test_what_cannot_be_done(site: Site, arguments: tuple[str, ...], words: str) -> None:
    result = run(site, {}, *(one.format(folder=site.folder) for one in arguments))
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr


TUNNEL: Sections = {
    "tunnel:things": {"mode": "server", "listen": "127.0.0.1:8183", "upstream": "127.0.0.1:8181", "client_ca": "ca.crt"}
    | {"client_certificate": "required", "rules": "\ndeny mallory all\nallow all all"}
}


def section_of(kind: str, listen: str) -> tuple[Sections, tuple[str, ...]]:
    """A listener there that lets everybody in, and the question."""
    rules = {"listen": listen, "rules": "\nallow all all", **ASKS}
    if kind == "postgres":
        return {"postgres:main": {**rules, "rules": "\nallow all all all"}}, ("postgres", "--token-file", "alice.jwt")
    if kind == "https":
        return {**WEB, "https:main": {"listen": listen, **ASKS}}, ("http", "GET", "https://localhost/")
    if kind == "mqtt":
        return {"mqtt:main": {**rules, "cn": "id", "topics": "allow all all #"}, "hub": {"database": "memory"}}, (
            "mqtt",
        )
    return {"tunnel:main": {**rules, "mode": "server", "upstream": "127.0.0.1:2"}}, ("tunnel",)


@pytest.mark.parametrize("kind", ["postgres", "https", "mqtt", "tunnel"])
def test_from_where_nobody_can_come(site: Site, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(site.folder)
    tcp, way = "127.0.0.1:7000", "" if kind == "postgres" else "unix:"
    unix = f"{way}{site.folder}/s"
    for listen, local, address in ((tcp, 2, 0), (unix, 0, 2), (f"{tcp}, {unix}", 0, 0)):
        sections, question = section_of(kind, listen)
        for origin, status in (("local", local), ("192.0.2.7", address)):
            result = run(site, sections, *question, "--certificate", "boiler.crt", "--from", origin)
            assert result.exit_code == status, (listen, origin, result.output)
            if status:
                words = (
                    "is of Unix sockets alone, so everybody" if local == 0 else "none of it is a Unix socket, so nobody"
                )
                assert result.stdout == ""
                assert f"[{kind}:main] listen: {words} comes from local" in " ".join(result.stderr.split())


def test_from_where_a_proxy_is(site: Site) -> None:
    sections: Sections = {"postgres:main": {**DATABASE["postgres:main"], "proxy_protocol": "192.0.2.0/24"}}
    token = str(site.folder / "alice.jwt")
    words = "PROXY header: a connection from 192.0.2.7 must begin with one; ask for the address that the header carries"
    result = run(site, sections, "postgres", "--token-file", token, "--database", "sales", *FROM)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "not allowed",
        "listener    [postgres:main]",
        f"decided by  {site.folder / 'gw.ini'} [postgres:main] proxy_protocol = 192.0.2.0/24",
        f"reason      {words}",
    ]
    assert "Note: With a PROXY header that carries 192.0.2.7 itself, or no address: allowed (" in result.stderr


def test_a_tunnel(site: Site) -> None:
    issue(site.ca, "mallory").write(site.folder, "mallory")
    for who, status in (("boiler", 0), ("mallory", 1)):
        result = run(site, TUNNEL, "tunnel", "things", "--certificate", str(site.folder / f"{who}.crt"), *FROM)
        assert (result.exit_code, "[tunnel:things] rules, line " in result.stdout) == (status, True), result.stdout
    assert "denied" not in result.stdout.partition("decided by")[2]


def test_keys_at_a_url_that_cannot_be_had(site: Site) -> None:
    url = f"https://localhost:{free_port()}/keys"
    sections = {"jwt:main": {"jwks": url, "jwks_root_certificate": "ca.crt"}}
    result = run(site, sections, "postgres", "--token-file", str(site.folder / "alice.jwt"), *FROM)
    assert (result.exit_code, "no configured key" in result.stdout) == (1, True)
    assert result.stderr.startswith("Warning: the keys of [jwt:main] jwks are not known: Connection refused")
    # Nobody else needs them.
    assert run(site, {**sections, **WEB}, "http", "GET", "https://localhost/", *FROM).stderr == ""


def test_the_demonstration_explains_nothing(site: Site) -> None:
    (site.folder / "demo.ini").write_text("[postgres:main]\n")
    where = Installation("demo.ini", {}, site.folder)
    result = CliRunner().invoke(FRAME, ["explain", "postgres", *FROM], obj=where, prog_name="securegw")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "guards nothing; the gateway would start its demonstration with it" in result.stderr


def test_a_configuration_with_mistakes_explains_nothing(site: Site) -> None:
    result = run(site, {"postgres:main": {"ruels": "x"}}, "postgres", *FROM)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[postgres:main] ruels: no such key; did you mean rules?" in result.stderr


def test_a_certificate_without_its_key_explains_nothing(site: Site) -> None:
    (site.folder / "server.key").unlink()
    result = run(site, {}, "postgres", *FROM)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[tls] key" in result.stderr


def test_a_registry_that_is_not_there(site: Site) -> None:
    """A gateway would make it, and know nobody."""
    sections = {"registry": {"database": "gone.sqlite"}, "mqtt:main": {"rules": "\nallow all all"}}
    result = run(site, sections, "mqtt", *FROM)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "reason    denied: unknown thing" in result.stdout
    assert not (site.folder / "gone.sqlite").exists()


@pytest.mark.parametrize("command", ["postgres", "http", "mqtt", "tunnel"])
def test_help_teaches(site: Site, command: str) -> None:
    result = run(site, {}, command, "--help")
    assert result.exit_code == 0
    assert "random" not in result.stdout
    assert f"securegw explain {command}" in result.stdout
