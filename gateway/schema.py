"""Every section and key of the INI: how its text is read, and what it is when it is not given.

Owns the grammar of single values. Refuses what is not exactly one of the spellings documented in conf/gw.ini. A default
is written as the text that would stand in the INI, so that one parser reads both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from string import Formatter
from typing import Any

from gateway.policy import Network, parse_network, role_name
from gateway.upstream import MAX_SOCKET_PATH, Address, TLSMode

POSTGRES_PORT = 5432


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its parser (ValueError for bad text), and its default as text; None: there is none.

    Only a key whose default is the empty text may be given as empty: elsewhere an empty value is a forgotten one.
    """

    parse: Callable[[str], Any]
    default: str | None = None
    required: bool = False

    def read(self, text: str, folder: Path) -> Any:
        if not text.strip() and self.default != "":
            raise ValueError("is empty")
        return _beside(folder, self.parse(text))

    def absent(self, folder: Path) -> Any:
        return None if self.default is None else self.read(self.default, folder)


def _beside(folder: Path, value: Any) -> Any:
    """A relative path is meant from the folder of the INI, wherever the gateway was started."""
    if isinstance(value, Path):
        return Path(os.path.normpath(folder / value))
    return tuple(_beside(folder, item) for item in value) if isinstance(value, tuple) else value


# --- single values --------------------------------------------------------------------------------------------------


def line(text: str) -> str:
    # An indented line continues the value before it, so a forgotten key would otherwise become part of a password.
    if re.search(r"[\r\n\0]", text):
        raise ValueError("must be one line")
    return text


def path(text: str) -> Path:
    return Path(line(text))


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ValueError("is not a whole number from 1 up")
    return int(text)


def seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise ValueError("is not a number of seconds such as 30 or 0.5")
    return float(text)


def timeout(text: str) -> float:
    if not seconds(text):
        raise ValueError("must be more than 0 seconds")
    return seconds(text)


def seconds_or_none(text: str) -> float | None:
    return seconds(text) or None


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text

    return parse


def name(text: str) -> str:
    """A name for use in section headings, so also in the names of environment variables."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", text):
        raise ValueError("a name has up to 63 of A-Z a-z 0-9 _ . -")
    return text


def role(text: str) -> str:
    return role_name(line(text))


def log_file(text: str) -> Path | None:
    return None if text == "-" else path(text)


def tls_mode(text: str) -> TLSMode:
    # The last two are jwt-postgresql-proxy's and its relatives' spellings.
    modes = {mode.value: mode for mode in TLSMode} | {"disabled": TLSMode.DISABLE, "required": TLSMode.REQUIRE}
    if text not in modes:
        raise ValueError(f"is not one of {', '.join(mode.value for mode in TLSMode)}")
    return modes[text]


def role_claim(text: str) -> str | None:
    """`claim:NAME` → NAME; `sub` → None."""
    if text == "sub":
        return None
    if not re.fullmatch(r"claim:\S+", text):
        raise ValueError("is neither sub nor claim:NAME")
    return text.removeprefix("claim:")


def application_name(text: str) -> str | None:
    """A template for str.format with three plain fields; anything more could reach into objects."""
    fields = ("subject", "address", "application_name")
    for _, field, spec, conversion in Formatter().parse(text):
        if field is not None and (field not in fields or spec or conversion):
            raise ValueError("may hold only {subject}, {address} and {application_name} (and {{ for a brace)")
    return line(text) or None


# --- addresses ------------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+|\*))(?::(?P<port>[0-9]{1,5}))?")
_SOCKET = re.compile(r"(?P<path>/.*?)(?::(?P<port>[0-9]{1,5}))?")


def port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise ValueError(f"{text} is not a port from 1 to 65535")
    return int(text)


def host_address(text: str) -> Address:
    """`host[:port]`, `[v6][:port]`, or a Unix socket."""
    if text.startswith("/"):
        return _socket(text)
    found = _ADDRESS.fullmatch(text)
    if found is None or found["host"] == "*":
        raise ValueError(f"{text} is not host:port, [v6]:port or the absolute path of a Unix socket")
    return Address(_host(found["v6"], found["host"]), port(found["port"]) if found["port"] else POSTGRES_PORT)


def listen_address(text: str) -> Address:
    """`ip:port`, `[v6]:port`, `*:port`, or a Unix socket. No names: a resolver must not choose the interface."""
    if text.startswith("/"):
        return _socket(text)
    found = _ADDRESS.fullmatch(text)
    if found is None or found["port"] is None:
        raise ValueError(f"{text} is not ip:port, [v6]:port, *:port or the absolute path of a Unix socket")
    if found["host"] and not re.fullmatch(r"\*|[0-9.]+", found["host"]):
        raise ValueError(f"{found['host']} is a name; listen on an IP address or *")
    return Address(_host(found["v6"], found["host"]), port(found["port"]))


def _host(v6: str | None, host: str) -> str:
    if v6 is not None:
        return str(IPv6Address(v6))
    # What consists of digits and dots is a mistyped address, never a name to look up.
    return str(IPv4Address(host)) if re.fullmatch(r"[0-9.]+", host) else host


def _socket(text: str) -> Address:
    """PostgreSQL's naming: a port's socket is .s.PGSQL.PORT in its directory (manual, unix_socket_directories)."""
    found = _SOCKET.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is not the path of a Unix socket")
    socket = found["path"]
    if found["port"] or not socket.rpartition("/")[2].startswith(".s.PGSQL."):
        socket = f"{socket.rstrip('/')}/.s.PGSQL.{port(found['port'] or str(POSTGRES_PORT))}"
    if len(socket.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"{socket} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have")
    return Address(socket, 0)


# --- lists: commas or lines -----------------------------------------------------------------------------------------


def words(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in re.split(r"[,\n]", text) if item.strip())
    if text.strip() and not items:
        raise ValueError("is empty")
    return items


def addresses(text: str) -> tuple[Address, ...]:
    return tuple(host_address(word) for word in words(text))


def listen(text: str) -> tuple[Address, ...]:
    return tuple(listen_address(word) for word in words(text))


def networks(text: str) -> tuple[Network, ...]:
    return tuple(parse_network(word) for word in words(text))


def password_methods(text: str) -> frozenset[str]:
    known = one_of("scram-sha-256", "scram-sha-256-plus", "md5", "password", "none")
    return frozenset(known(word) for word in words(text))


def certificate_pairs(text: str) -> tuple[tuple[Path, Path], ...]:
    pairs = []
    for row in _rows(text):
        if len(row) != 2:
            raise ValueError("each line is the path of a certificate, then that of its key")
        pairs.append((Path(row[0]), Path(row[1])))
    return tuple(pairs)


def public_keys(text: str) -> tuple[tuple[Path, str | None], ...]:
    keys: list[tuple[Path, str | None]] = []
    for row in _rows(text):
        if len(row) > 2:
            raise ValueError("each line is the path of a public key, then, if its issuer names it, its kid")
        keys.append((Path(row[0]), row[1] if len(row) == 2 else None))
    return tuple(keys)


def rule_lines(text: str) -> tuple[str, ...]:
    rows = (row.strip() for row in text.split("\n"))
    return tuple(row for row in rows if row and not row.startswith("#"))


def _rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.split("\n") if row.strip()]


# --- the sections ---------------------------------------------------------------------------------------------------

Keys = Mapping[str, Key]

TLS: Keys = {
    "certificate": Key(path),
    "key": Key(path),
    "sni": Key(certificate_pairs, ""),
    "client_certificate": Key(one_of("none", "optional", "required"), "none"),
    "client_ca": Key(path),
    "client_crl": Key(path),
    "stale_crl": Key(one_of("deny", "warn"), "deny"),
    "minimum_version": Key(one_of("1.2", "1.3"), "1.2"),
}

SECRET: Keys = {"password": Key(line), "password_file": Key(path)}

# What `[tls]` says holds for every listener, so a listener's own TLS keys have no defaults.
LISTENER_TLS: Keys = {key: Key(entry.parse) for key, entry in TLS.items()}

SINGLE: Mapping[str, Keys] = {
    "gateway": {"shutdown_grace": Key(seconds, "30")},
    "tls": TLS,
    "limits": {
        "max_connections": Key(count, "1000"),
        "max_connections_per_subject": Key(count, "100"),
        "max_connections_per_address": Key(count, "200"),
        "handshake_timeout": Key(timeout, "30"),
        "idle_timeout": Key(seconds_or_none, "0"),
        "cancel_rate": Key(count, "10"),
    },
    "audit": {"file": Key(log_file, "-")},
    "quickstart": {"directory": Key(path, "../var")},
}

NAMED: Mapping[str, Keys] = {
    "jwt": {
        "public_keys": Key(public_keys, required=True),
        "issuer": Key(line),
        "audience": Key(words),
        "leeway": Key(seconds, "0"),
        "max_lifetime": Key(seconds_or_none, "0"),
    },
    "upstream": {
        "hosts": Key(addresses, required=True),
        "tls": Key(tls_mode, "verify-full"),
        "root_certificate": Key(path),
        "client_certificate": Key(path),
        "client_key": Key(path),
        "crl": Key(path),
        **SECRET,
        "target_session_attrs": Key(one_of("any", "read-write"), "any"),
        "password_methods": Key(password_methods, "scram-sha-256, scram-sha-256-plus"),
        "connect_timeout": Key(timeout, "10"),
    },
    "login": {
        "role": Key(role),
        "upstream": Key(name, "main"),
        **SECRET,
        "certificate": Key(path),
        "key": Key(path),
    },
    "postgres": {
        "listen": Key(listen, "127.0.0.1:6432"),
        "upstream": Key(name, "main"),
        "jwt": Key(name, "main"),
        "role": Key(role_claim, "sub"),
        "rules": Key(rule_lines, ""),
        "proxy_protocol": Key(networks, ""),
        "on_expiry": Key(one_of("terminate", "keep"), "terminate"),
        "application_name": Key(application_name, ""),
        **LISTENER_TLS,
    },
}


def keys_of(section: str) -> Keys:
    """Raises ValueError, with the nearest heading that there is, for a section that cannot be."""
    kind, colon, label = section.partition(":")
    if not colon and kind in SINGLE:
        return SINGLE[kind]
    if colon and kind in NAMED:
        name(label)
        return NAMED[kind]
    headings = {known: f"[{known}]" for known in SINGLE} | {known: f"[{known}:{label or 'NAME'}]" for known in NAMED}
    raise ValueError(f"no such section; {nearest(kind, headings)}")


def nearest(word: str, known: Mapping[str, str]) -> str:
    """A hint at what was meant: the closest of the known words, else all of them. The values are how to show them."""
    close = get_close_matches(word, known, n=1)
    return f"did you mean {known[close[0]]}?" if close else f"valid are {', '.join(known.values())}"
