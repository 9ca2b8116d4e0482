"""Single values, whatever their text, and conf/gw.ini, which must say of every key what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import addresses, schema, spellings
from gateway.config import load
from gateway.errors import Problems
from gateway.upstream import Address
from tests.pki import make_ca, write_pem

GW_INI = Path(__file__).parent.parent / "conf" / "gw.ini"


def public_pem() -> bytes:
    return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- conf/gw.ini ------------------------------------------------------------------------------------------------------

HEADING = re.compile(r"#?\[(?P<section>[a-z]+(?::[a-z]+)?)\]")
ENTRY = re.compile(r"(?P<off>#?)(?P<key>[a-z_]+) =(?: (?P<text>.*))?")


def documented() -> dict[str, dict[str, tuple[bool, str]]]:
    """Section → key → (is commented out, text), of every heading and key in conf/gw.ini, commented out or not."""
    sections: dict[str, dict[str, tuple[bool, str]]] = {}
    for line in GW_INI.read_text("utf-8").splitlines():
        if heading := HEADING.fullmatch(line):
            section = sections.setdefault(heading["section"], {})
        elif entry := ENTRY.fullmatch(line):
            assert entry["key"] not in section, line
            section[entry["key"]] = (bool(entry["off"]), entry["text"] or "")
    return sections


def all_on() -> str:
    """conf/gw.ini with everything that is commented out, but not prose, put in force."""
    return re.sub(r"(?m)^#(?! \S|$)", "", GW_INI.read_text("utf-8"))


def test_gw_ini_runs_as_it_is() -> None:
    problems = Problems()
    config = load(GW_INI, {}, Path.cwd(), problems)
    assert problems.found == []
    assert config.warnings == ()
    assert config.upstreams == {}
    assert [listener.listen for listener in config.postgres] == [(Address("127.0.0.1", 6432),)]
    assert [listener.listen for listener in config.https] == [(Address("127.0.0.1", 8443),)]
    assert [listener.listen for listener in config.mqtt] == [(Address("127.0.0.1", 8883),)]
    assert [(route.name, route.client, route.websocket, route.serve) for route in config.routes] == [
        ("main", "required", True, "upstream"),
        ("http", "required", False, "channels"),
        ("ws", "required", False, "channels"),
        ("mqtt", "required", False, "mqtt"),
    ]
    assert (config.tunnels, config.health, config.control, config.configured) == ((), (), None, False)
    assert config.quickstart_directory == GW_INI.parent.parent / "var"


# The quickstart shows WebSockets; everywhere else they have to be asked for.
NOT_THE_DEFAULT = {("route:main", "websocket"): "yes"}
# These three are what they are for.
NOT_THE_DEFAULT |= {(f"route:{name}", "path"): f"/{name}" for name in ("http", "ws", "mqtt")}
NOT_THE_DEFAULT |= {("route:http", "serve"): "channels", ("route:ws", "serve"): "channels"}
NOT_THE_DEFAULT |= {("route:mqtt", "serve"): "mqtt"}


def test_gw_ini_shows_every_key_with_its_true_default() -> None:
    sections = documented()
    shown: dict[str, set[str]] = {}
    for section, entries in sections.items():
        # The two modes of a tunnel have different keys, so they are two sections there.
        shown.setdefault(section.partition(":")[0], set()).update(entries)
        keys = schema.keys_of(section)
        for name, (off, text) in entries.items():
            default = keys[name].default
            assert off or default is not None, f"[{section}] {name} has no default, so it must be commented out"
            assert default is None or text == NOT_THE_DEFAULT.get((section, name), default), f"[{section}] {name}"
    assert shown == {kind: set(keys) for kind, keys in {**schema.SINGLE, **schema.NAMED}.items()}


def test_gw_inis_examples_are_read_without_a_problem(tmp_path: Path) -> None:
    for name in ("issuer.pub", "issuer-next.pub"):
        (tmp_path / name).write_bytes(public_pem())
    write_pem(tmp_path / "adapters-ca.crt", make_ca("adapters").certificate)
    (tmp_path / "revoked.txt").touch()
    ini = re.sub(r"(?m)^(upstream_)?password_file = .*\n", "", all_on())
    (tmp_path / "gw.ini").write_text(ini, "utf-8")
    problems = Problems()
    config = load(tmp_path / "gw.ini", {}, tmp_path, problems)
    assert problems.found == []
    assert len(config.postgres[0].rules) == 3
    assert len(config.jwt["main"].keys) == 2
    assert len(config.routes[0].admission.rules) == 3
    assert [(tunnel.name, tunnel.tls is not None) for tunnel in config.tunnels] == [
        ("things", True),
        ("adapter", False),
    ]


def test_what_the_hub_has_is_kept_somewhere() -> None:
    assert spellings.hub_file("memory") == "memory"
    assert spellings.hub_file("/var/hub.sqlite") == Path("/var/hub.sqlite")
    with pytest.raises(ValueError, match="is a path, or memory"):
        spellings.hub_file("none")


def test_a_file_has_no_scheme() -> None:
    assert spellings.database("things.sqlite") == Path("things.sqlite")
    assert spellings.database("sqlite:things") == Path("sqlite:things")


# --- properties -------------------------------------------------------------------------------------------------------


KEYS = [key for keys in (*schema.SINGLE.values(), *schema.NAMED.values()) for key in keys.values()]
near_misses = st.lists(
    st.sampled_from(
        [
            "db",
            ":",
            "5432",
            "[",
            "]",
            "::1",
            "*",
            "/",
            ",",
            "\n",
            " ",
            "{",
            "}",
            "\0",
            "0",
            "unix:",
            "http://",
            ".",
            "%",
            "@",
        ]
    )
)


@given(st.sampled_from(KEYS), st.one_of(st.text(max_size=40), near_misses.map("".join)))
def test_a_value_is_read_or_refused_with_a_value_error(key: schema.Key, text: str) -> None:
    try:
        key.read(text, Path("/etc"))
    except ValueError:
        return
    assert text.strip() or key.default == ""


@example("unix:5432")
@given(near_misses.map("".join))
def test_an_address_that_is_read_says_where_to_go(text: str) -> None:
    for parse in (addresses.host_address, addresses.listen_address, addresses.service_address, addresses.door_address):
        try:
            address = parse(text)
        except ValueError:
            continue
        assert address.host
        # A PostgreSQL server's socket is only a path; its host may be called unix.
        assert (address.port == 0) is text.startswith("/" if parse is addresses.host_address else ("/", "unix:"))
