"""The way to the upstream's database as one of its administrators, as libpq is told it (PostgreSQL, 34.1.2).

Owns how an `[upstream:NAME]` and a login become libpq's words: the same hosts in the same order, the same TLS, and no
method of asking for a password that the gateway would not answer to.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any, Final

from gateway.registry.conninfo import KEEPALIVE, NOWHERE, options, tls_words
from gateway.registry.settings import VERIFYING
from gateway.share.share import ShareError
from gateway.upstream import Address, Login, Upstream

_SOCKET: Final = re.compile(r"(?P<folder>/.*)/\.s\.PGSQL\.(?P<port>[0-9]{1,5})")

# The session's own settings. With an empty search_path nobody's namesake of a function or a table is ever meant.
_SESSION: Final = {
    "search_path": "",
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "off",
    "statement_timeout": "60000",
    "lock_timeout": "15000",
    "idle_in_transaction_session_timeout": "60000",
}


def arguments(upstream: Upstream, login: Login, role: str, database: str) -> dict[str, Any]:
    """Keyword arguments of psycopg2.connect. Raises ShareError for what libpq cannot be told."""
    places = [_place(address) for address in upstream.addresses]
    methods = sorted(upstream.password_methods - {"scram-sha-256-plus"} | ({"none"} if not login.password else set()))
    return {
        "host": ",".join(host for host, _ in places),
        "hostaddr": "",
        "port": ",".join(str(port) for _, port in places),
        "dbname": database,
        "user": role,
        "password": login.password or "",
        "passfile": NOWHERE,
        "require_auth": ",".join(methods),
        "target_session_attrs": "primary",
        "application_name": "securegw share",
        "client_encoding": "UTF8",
        "gssencmode": "disable",
        "options": options(_SESSION),
        **KEEPALIVE,
        **_tls(upstream, login),
    }


def _place(address: Address) -> tuple[str, int]:
    """libpq's host and port. Of a Unix socket it wants the folder, and makes the file's name from the port itself."""
    if address.port:
        if "," in address.host:
            raise ShareError(f"{address}: libpq would take the comma for the end of the host")
        return address.host, address.port
    found = _SOCKET.fullmatch(address.host)
    if found is None or "," in found["folder"]:
        raise ShareError(f"{address}: libpq knows Unix sockets only as /FOLDER/.s.PGSQL.PORT")
    return found["folder"], int(found["port"])


def _tls(upstream: Upstream, login: Login) -> dict[str, str]:
    tls = upstream.tls
    certificate, key = (login.certificate, login.key) if login.certificate else (tls.certificate, tls.key)
    root = tls.root_certificate
    if root is None and tls.mode in VERIFYING:
        root = _system_authorities()
    return tls_words(tls.mode, root, tls.crl, certificate, key)


def _system_authorities() -> Path:
    """libpq's own word for them means those of the machine that it was built on."""
    found = ssl.get_default_verify_paths().cafile
    if not found or not Path(found).is_file():
        raise ShareError("the system's authorities are in no file: give the upstream a root_certificate")
    return Path(found)
