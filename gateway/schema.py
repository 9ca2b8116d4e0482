"""Every section and key of the INI: how its text is read, and what it is when it is not given.

Owns the grammar of single values, but for `addresses`. Refuses what is not exactly one of the spellings documented in
conf/gw.ini. A default is written as the text that would stand in the INI, so that one parser reads both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Any

from gateway.addresses import (
    DatabaseURL,
    WebService,
    database_url,
    door_address,
    host_address,
    listen_address,
    local_address,
    prefix,
    service_address,
    web_host,
    web_service,
)
from gateway.policy import role_name
from gateway.rules import Network, parse_network
from gateway.upstream import Address, TLSMode


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


def yes_or_no(text: str) -> bool:
    return one_of("yes", "no")(text) == "yes"


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


def packets_or_none(text: str) -> float | None:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is not a whole number from 0 up")
    return float(text) or None


def packet_size(text: str) -> int:
    """Less would not hold a CONNECT; MQTT has no longer packet (MQTT-2.1.4)."""
    size = count(text)
    if not 1_024 <= size <= 268_435_460:
        raise ValueError("is not from 1024 to 268435460 bytes")
    return size


def keep_alive(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError("is not a number of seconds from 0 to 65535")
    return int(text)


def receive_maximum(text: str) -> int:
    number = count(text)
    if number > 65_535:
        raise ValueError("is not from 1 to 65535")
    return number


def database(text: str) -> Path | DatabaseURL:
    """The path of a SQLite file, or `postgresql://USER@HOST[:PORT]/NAME`."""
    return database_url(text) if text.startswith(("postgresql:", "postgres:")) else path(text)


def hub_file(text: str) -> Path | str:
    if text == "none":
        raise ValueError("is a path, or memory")
    return text if text == "memory" else path(text)


def scheme(text: str) -> bytes:
    """A scheme of Authorization, a token (RFC 9110, 11.1 and 5.6.2); `none` is to have none."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,63}", text):
        raise ValueError(f"{text} is neither none nor a word such as Thing or Bearer")
    return b"" if text == "none" else text.encode("ascii")


def application_name(text: str) -> str | None:
    """A template for str.format with three plain fields; anything more could reach into objects."""
    fields = ("subject", "address", "application_name")
    for _, field, spec, conversion in Formatter().parse(text):
        if field is not None and (field not in fields or spec or conversion):
            raise ValueError("may hold only {subject}, {address} and {application_name} (and {{ for a brace)")
    return line(text) or None


# --- lists: commas or lines -----------------------------------------------------------------------------------------


def words(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in re.split(r"[,\n]", text) if item.strip())
    if text.strip() and not items:
        raise ValueError("is empty")
    return items


def addresses(parse: Callable[[str], Address]) -> Callable[[str], tuple[Address, ...]]:
    def parse_all(text: str) -> tuple[Address, ...]:
        return tuple(parse(word) for word in words(text))

    return parse_all


def service(text: str) -> WebService:
    return web_service(words(text))


def names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name(word) for word in words(text)))


def web_hosts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(web_host(word) for word in words(text)))


def schemes(text: str) -> frozenset[bytes]:
    """In lower case, as they are compared (RFC 9110, 11.1)."""
    return frozenset(scheme(word).lower() for word in words(text))


def protocols(text: str) -> tuple[bytes, ...]:
    """Names of ALPN (RFC 7301, 3.1); `none` is no protocol at all."""
    found = words(text)
    if found == ("none",):
        return ()
    for word in found:
        if not re.fullmatch(r"[!-~]{1,255}", word) or word == "none":
            raise ValueError(f"{word} is not the name of a protocol such as h2 (or, alone, none)")
    return tuple(word.encode("ascii") for word in found)


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

# How we speak TLS to an upstream, but for our own certificate.
UPSTREAM_TLS: Keys = {"tls": Key(tls_mode, "verify-full"), "root_certificate": Key(path), "crl": Key(path)}

UPSTREAM_TLS_AND_ROOT: Keys = {key: entry for key, entry in UPSTREAM_TLS.items() if key != "crl"}

# Whom a certificate names, and who is let in.
ADMISSION: Keys = {"identity": Key(one_of("cn", "uri", "dns", "email"), "cn"), "rules": Key(rule_lines, "")}

SECRET: Keys = {"password": Key(line), "password_file": Key(path)}

# What `[tls]` says holds for every listener, so a listener's own TLS keys have no defaults.
LISTENER_TLS: Keys = {key: Key(entry.parse) for key, entry in TLS.items()}

# What has a meaning in one of the modes of a tunnel only. certificate and key have one in both: they are our own.
TUNNEL_SERVER: Keys = {
    **LISTENER_TLS,
    "proxy_protocol": Key(networks, ""),
    "cn": Key(one_of("id", "key"), "id"),
    **ADMISSION,
}
TUNNEL_CLIENT: Keys = {**UPSTREAM_TLS, "insecure": Key(yes_or_no, "no")}

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
    "registry": {
        "database": Key(database),
        **SECRET,
        **UPSTREAM_TLS_AND_ROOT,
        "client_certificate": Key(path),
        "client_key": Key(path),
        "stale_after": Key(seconds, "300"),
    },
    "hub": {
        "database": Key(hub_file),
        "receive_maximum": Key(receive_maximum, "100"),
        "max_queued": Key(count, "1000"),
        "max_retained": Key(count, "10000"),
        "max_sessions": Key(count, "10000"),
        "max_session_expiry": Key(count, "604800"),
    },
    "health": {"listen": Key(addresses(local_address), "")},
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
        "hosts": Key(addresses(host_address), required=True),
        **UPSTREAM_TLS,
        "client_certificate": Key(path),
        "client_key": Key(path),
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
        "listen": Key(addresses(listen_address), "127.0.0.1:6432"),
        "upstream": Key(name, "main"),
        "jwt": Key(name, "main"),
        "role": Key(role_claim, "sub"),
        "rules": Key(rule_lines, ""),
        "proxy_protocol": Key(networks, ""),
        "on_expiry": Key(one_of("terminate", "keep"), "terminate"),
        "application_name": Key(application_name, ""),
        **LISTENER_TLS,
    },
    "https": {
        "listen": Key(addresses(door_address), "127.0.0.1:8443"),
        "proxy_protocol": Key(networks, ""),
        "head_timeout": Key(timeout, "30"),
        "body_timeout": Key(timeout, "30"),
        "keepalive_timeout": Key(timeout, "75"),
        **LISTENER_TLS,
    },
    "route": {
        "listener": Key(names, "main"),
        "host": Key(web_hosts, ""),
        "path": Key(prefix, "/"),
        "serve": Key(one_of("upstream", "channels", "mqtt"), "upstream"),
        "mqtt": Key(name, "main"),
        "upstream": Key(service),
        **UPSTREAM_TLS,
        "client_certificate": Key(path),
        "client_key": Key(path),
        "connect_timeout": Key(timeout, "10"),
        "response_timeout": Key(timeout, "60"),
        "host_header": Key(one_of("client", "upstream"), "client"),
        "client": Key(one_of("required", "optional", "none"), "required"),
        "cn": Key(one_of("key", "id"), "key"),
        **ADMISSION,
        "schemes": Key(schemes, "none, Thing, Client, Bearer"),
        "send_scheme": Key(scheme, "none"),
        "client_cert": Key(yes_or_no, "yes"),
        "websocket": Key(yes_or_no, "no"),
        "ws_key": Key(one_of("required", "optional"), "required"),
        "ws_query": Key(one_of("strip", "forward"), "strip"),
    },
    "mqtt": {
        "listen": Key(addresses(door_address), "127.0.0.1:8883"),
        "proxy_protocol": Key(networks, ""),
        **LISTENER_TLS,
        "cn": Key(one_of("key", "id"), "key"),
        **ADMISSION,
        "password": Key(one_of("fill", "required", "ignored")),
        "client_id": Key(one_of("prefix", "identity"), "prefix"),
        "topics": Key(rule_lines, ""),
        "denied_publish": Key(one_of("close", "drop"), "close"),
        "max_packet_size": Key(packet_size, "262144"),
        "max_packets_per_second": Key(packets_or_none, "0"),
        "keep_alive": Key(keep_alive, "0"),
        "upstream": Key(addresses(service_address)),
        **UPSTREAM_TLS,
        "upstream_certificate": Key(path),
        "upstream_key": Key(path),
        "upstream_identity": Key(one_of("thing", "gateway"), "thing"),
        "upstream_user": Key(line),
        "upstream_password_file": Key(path),
        "connect_timeout": Key(timeout, "10"),
    },
    "tunnel": {
        "mode": Key(one_of("server", "client"), required=True),
        "listen": Key(addresses(door_address), required=True),
        "upstream": Key(addresses(service_address), required=True),
        "alpn": Key(protocols, "h2"),
        "connect_timeout": Key(timeout, "10"),
        "half_close_timeout": Key(timeout, "600"),
        **TUNNEL_SERVER,
        **TUNNEL_CLIENT,
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
