"""Upstream: a value that says where a service is, how TLS protects the way there, and how we log in.

Pure data: the contexts made from it live in `certs`, the sockets in `net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from pathlib import Path

# sun_path holds 108 bytes with its final NUL on Linux (unix(7)).
MAX_SOCKET_PATH = 107


class TLSMode(Enum):
    """libpq's sslmode, without its two modes that fall back to plain text."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address (host name or IP, port), or, with port 0, the path of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_ip(host: str) -> bool:
    """Whether an address's host is an IP address, so neither a name nor a path."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """How we speak TLS to an upstream. Without `root_certificate`, verifying modes use the system's CAs.

    alpn: the protocols to offer, in order of preference.
    own_keys: the configuration's names for `certificate` and `key`; their problems are told there.
    """

    mode: TLSMode = TLSMode.VERIFY_FULL
    root_certificate: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    crl: Path | None = None
    alpn: tuple[bytes, ...] = ()
    own_keys: tuple[str, str] = field(default=("client_certificate", "client_key"), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """How a listener speaks TLS to its clients.

    certificate: PEM, the leaf first, then its chain.
    sni: further (certificate, key) pairs, chosen by the server name of the ClientHello against their SAN DNS names;
    a wildcard covers exactly the left-most label.
    client_certificate: `"none"`, `"optional"` or `"required"`; the last two need `client_ca`.
    stale_crl: what a CRL past its nextUpdate does: `"deny"` everybody it speaks of, or `"warn"` in the log.
    minimum_version: `"1.2"` or `"1.3"`.
    sections: the section that says a key, where that is not the listener's own; its problems are told there.
    """

    certificate: Path
    key: Path
    sni: tuple[tuple[Path, Path], ...] = ()
    client_certificate: str = "none"
    client_ca: Path | None = None
    client_crl: Path | None = None
    stale_crl: str = "deny"
    minimum_version: str = "1.2"
    sections: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Login:
    """How we log in as one role, or as any role where `role` is None. Without a password: trust or certificate.

    section: where it is configured, if not in the upstream's own; its problems are told there.
    """

    role: str | None = None
    password: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None
    section: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One service. Its addresses are tried in order until one lets us in and is of the wanted kind; HTTP takes turns.

    The next two are PostgreSQL's.
    target_session_attrs: `"any"` or `"read-write"` (libpq's meaning; needs PostgreSQL 14 or newer).
    password_methods: what an upstream may ask our password in: of `"scram-sha-256-plus"`, `"scram-sha-256"`,
    `"md5"`, `"password"` (the clear password, only ever inside TLS), `"none"` (let in unasked although there is a
    password). The rest is refused as a downgrade.
    connect_timeout: seconds for one address: dial, TLS and login together.
    """

    name: str
    addresses: tuple[Address, ...]
    tls: ClientTLS
    logins: tuple[Login, ...] = ()
    target_session_attrs: str = "any"
    password_methods: frozenset[str] = frozenset({"scram-sha-256", "scram-sha-256-plus"})
    connect_timeout: float = 10.0

    def login(self, role: str) -> Login:
        """The login of exactly this role; else the one for any role; else one with no secret (trust)."""
        for login in self.logins:
            if login.role == role:
                return login
        return next((login for login in self.logins if login.role is None), Login())
