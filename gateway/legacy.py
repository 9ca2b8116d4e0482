"""The environment of jwt-postgresql-proxy, so that the gateway can be started in its place with nothing changed.

Owns the names of its variables and what they mean (its README, "Usage: installing, configuring, and running"): all are
required, PUBLIC_KEYS__i hold the PEM itself, and DOWNSTREAM__IP may be empty. Refuses to run with only some of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gateway.addresses import host_address, listen_address, port
from gateway.errors import Problems
from gateway.policy import parse_rule
from gateway.settings import JWTSettings, PostgresListener
from gateway.tokens import VerificationKey, load_public_key
from gateway.upstream import Address, ClientTLS, Login, ServerTLS, TLSMode, Upstream

_NAME = "legacy"
_PLACE = "environment"
_VARIABLES = (
    "UPSTREAM__HOST",
    "UPSTREAM__PORT",
    "UPSTREAM__PASSWORD",
    "DOWNSTREAM__IP",
    "DOWNSTREAM__PORT",
    "DOWNSTREAM__CERTFILE",
    "DOWNSTREAM__KEYFILE",
)
_PUBLIC_KEY = re.compile(r"PUBLIC_KEYS__(-?[0-9]+)")
_RULE = "allow all all all superuser=yes"

WARNINGS = (
    "as jwt-postgresql-proxy, it does not verify the upstream's certificate; an INI with tls = verify-full does",
    "as jwt-postgresql-proxy, it lets superusers in, to every database and from everywhere; an INI has rules",
)


def present(environ: Mapping[str, str]) -> bool:
    return any(name in _VARIABLES or _PUBLIC_KEY.fullmatch(name) for name in environ)


def read(
    environ: Mapping[str, str], folder: Path, problems: Problems
) -> tuple[Upstream, JWTSettings, PostgresListener]:
    """What that proxy did with them, started in that folder. To be used only if there is no problem."""
    for name in _VARIABLES:
        if name not in environ or (not environ[name] and name != "DOWNSTREAM__IP"):
            problems.add(_PLACE, name, "is required")
    return _upstream(environ, problems), _jwt(environ, problems), _listener(environ, folder, problems)


def _upstream(environ: Mapping[str, str], problems: Problems) -> Upstream:
    host, number = environ.get("UPSTREAM__HOST", ""), _port(environ, "UPSTREAM__PORT", problems)
    addresses: tuple[Address, ...] = ()
    if host and number:
        with problems.at(_PLACE, "UPSTREAM__HOST"):
            addresses = (host_address(_with_port(host, number)),)
    return Upstream(
        name=_NAME,
        addresses=addresses,
        tls=ClientTLS(TLSMode.REQUIRE),
        logins=(Login(password=environ.get("UPSTREAM__PASSWORD")),),
        password_methods=frozenset({"scram-sha-256-plus", "scram-sha-256", "md5", "none"}),
    )


def _jwt(environ: Mapping[str, str], problems: Problems) -> JWTSettings:
    found = sorted((int(match[1]), name) for name in environ if (match := _PUBLIC_KEY.fullmatch(name)))
    if not found:
        problems.add(_PLACE, "PUBLIC_KEYS__0", "is required")
    keys: list[VerificationKey] = []
    for _, name in found:
        with problems.at(_PLACE, name):
            # Files of variables have no line feeds, so they often hold \n in their place; PEM has no backslash.
            keys.append(load_public_key(environ[name].replace("\\n", "\n").encode()))
    return JWTSettings(_NAME, tuple(keys))


def _listener(environ: Mapping[str, str], folder: Path, problems: Problems) -> PostgresListener:
    # Empty was every IPv4 interface, and stays so: IPv6 would open a door that was shut.
    ip, number = environ.get("DOWNSTREAM__IP") or "0.0.0.0", _port(environ, "DOWNSTREAM__PORT", problems)  # noqa: S104 - see above
    listen: tuple[Address, ...] = ()
    if number:
        with problems.at(_PLACE, "DOWNSTREAM__IP"):
            listen = (listen_address(_with_port(ip, number)),)
    certificate, key = environ.get("DOWNSTREAM__CERTFILE"), environ.get("DOWNSTREAM__KEYFILE")
    return PostgresListener(
        name=_NAME,
        listen=listen,
        tls=ServerTLS(folder / certificate, folder / key) if certificate and key else None,
        upstream=_NAME,
        jwt=_NAME,
        rules=(parse_rule(_RULE, "[environment]"),),
    )


def _port(environ: Mapping[str, str], name: str, problems: Problems) -> int | None:
    with problems.at(_PLACE, name):
        return port(environ[name]) if environ.get(name) else None
    return None


def _with_port(host: str, number: int) -> str:
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
