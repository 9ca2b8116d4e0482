"""Every section and key of the INI: how its text is read, and what it is when it is not given.

Owns which keys there are; `spellings` owns how single values are written. A default is written as the text that would
stand in the INI, so that one parser reads both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gateway.addresses import (
    door_address,
    host_address,
    listen_address,
    local_address,
    prefix,
    service_address,
)
from gateway.spellings import (
    addresses,
    application_name,
    certificate_pairs,
    count,
    database,
    hub_file,
    interval,
    keep_alive,
    key_set,
    line,
    log_file,
    name,
    names,
    networks,
    one_of,
    packet_size,
    packets_or_none,
    password_methods,
    path,
    protocols,
    public_keys,
    receive_maximum,
    role,
    role_claim,
    rule_lines,
    scheme,
    schemes,
    seconds,
    seconds_or_none,
    service,
    timeout,
    tls_mode,
    web_hosts,
    words,
    yes_or_no,
)


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
    "control": {"socket": Key(path)},
    "health": {"listen": Key(addresses(local_address), "")},
    "quickstart": {"directory": Key(path, "../var")},
}

NAMED: Mapping[str, Keys] = {
    "jwt": {
        "public_keys": Key(public_keys),
        "jwks": Key(key_set),
        "jwks_root_certificate": Key(path),
        "jwks_refresh": Key(interval, "300"),
        "revoked": Key(path),
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
        "ws_key": Key(one_of("required", "optional", secret=True), "required"),
        "ws_query": Key(one_of("strip", "forward"), "strip"),
    },
    "mqtt": {
        "listen": Key(addresses(door_address), "127.0.0.1:8883"),
        "proxy_protocol": Key(networks, ""),
        **LISTENER_TLS,
        "cn": Key(one_of("key", "id"), "key"),
        **ADMISSION,
        "password": Key(one_of("fill", "required", "ignored", secret=True)),
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
