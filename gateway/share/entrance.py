"""Into the running gateway as the partner, from whatever network: libpq with a socket that the gateway takes over.

Owns the way: libpq makes its own TCP connection, so it is given a listener on the loopback, whose end of that goes to
the gateway through its control socket, as a connection from the address that is wanted. Refuses a server whose
certificate is not for the name, as the partner's libpq would; and whoever else connects to that listener, since any
user of this machine could, and would be where he may not be.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Final

import psycopg2
from cryptography import x509
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class

from gateway.registry.conninfo import KEEPALIVE, NOWHERE
from gateway.session import postgres_answers as answers
from gateway.share.share import Share, ShareError
from gateway.share.tried import Tried, Verdict
from gateway.wire.postgres import parse_error_response

# Seconds for everything up to the gateway's answer: it logs in upstream in that time.
PATIENCE: Final = 15
# Seconds for all that is tried in a session. On the loopback the kernel answers for a gateway that does not.
SESSION: Final = 1800.0
# The header of a message in front of its body: a type and a length.
_HEADER: Final = 5

# Takes a connected socket as a connection from that address; the socket stays ours to close. Raises for a refusal.
Enter = Callable[[str, socket.socket], None]


class TurnedAway(Exception):
    """The gateway's answer, or whatever kept us from one."""


@dataclass(frozen=True, slots=True)
class Gate:
    """server: a name that the listener's certificate is for. authorities: PEM file. token: makes one, good by now.
    certificate: the partner's, PEM, with its key's file, for a listener that asks for it."""

    share: Share
    enter: Enter
    server: str
    authorities: Path
    token: Callable[[], str]
    certificate: tuple[Path, Path] | None = None

    def session(self, address: str, database: str | None = None, *, plain: bool = False) -> Connection:
        """Raises TurnedAway; and whatever `enter` raises, if it comes to nothing because of that."""
        with closing(socket.create_server(("127.0.0.1", 0))) as listener, ThreadPoolExecutor(1) as thread:
            passed = thread.submit(self._pass_on, listener, address)
            try:
                return self._connect(listener.getsockname()[1], database or self.share.database, plain)
            except psycopg2.Error as error:
                _raise_first(passed)
                raise TurnedAway(" ".join(str(error).split())) from error

    def _pass_on(self, listener: socket.socket, address: str) -> None:
        with closing(listener), closing(_our_own(listener)) as accepted:
            self.enter(address, accepted)

    def _connect(self, port: int, database: str, plain: bool) -> Connection:
        session: Connection = psycopg2.connect(
            host=self.server,
            hostaddr="127.0.0.1",
            port=port,
            dbname=database,
            user=self.share.subject,
            password=self.token(),
            passfile=NOWHERE,
            sslmode="disable" if plain else "verify-full",
            sslrootcert=str(self.authorities),
            sslcrl=NOWHERE,
            gssencmode="disable",
            connect_timeout=PATIENCE,
            application_name="securegw share check",
            client_encoding="UTF8",
            options="",
            **self._more(),
        )
        session.autocommit = True
        return session

    def _more(self) -> dict[str, Any]:
        if self.certificate is None:
            return {"sslcertmode": "disable", **KEEPALIVE}
        certificate, key = map(str, self.certificate)
        return {"sslcertmode": "allow", "sslcert": certificate, "sslkey": key, **KEEPALIVE}

    # --- what has to be refused

    def refused(self, what: str, address: str, database: str | None = None, *, plain: bool = False) -> Tried:
        """Only the gateway's own words for it count as a refusal."""
        try:
            session = self.session(address, database, plain=plain)
        except TurnedAway as error:
            said = _said(answers.TLS_REQUIRED if plain else answers.NOT_ALLOWED)
            if said in str(error):
                return Tried(what, "refused", "refused", Verdict.OK)
            return Tried(what, "refused", f"another error: {error}", Verdict.UNPROVEN)
        session.close()
        return Tried(what, "refused", "let in", Verdict.LOOSENED)


@contextmanager
def ending(session: Connection, seconds: float = SESSION) -> Iterator[Connection]:
    """Whoever still waits for an answer by then is told that the connection has ended."""
    with socket.socket(fileno=os.dup(session.fileno())) as wire:

        def end() -> None:
            with suppress(OSError):  # it has ended by itself
                wire.shutdown(socket.SHUT_RDWR)

        timer = Timer(seconds, end)
        timer.start()
        try:
            yield session
        finally:
            timer.cancel()
            timer.join()
            session.close()


def _our_own(listener: socket.socket) -> socket.socket:
    """The connection to it whose other end is in this process. Raises TimeoutError."""
    latest = time.monotonic() + PATIENCE
    while True:
        listener.settimeout(max(latest - time.monotonic(), 0.001))
        accepted, peer = listener.accept()
        if _is_ours(peer, listener.getsockname()):
            return accepted
        accepted.close()


def _is_ours(here: object, there: object) -> bool:
    """Whether a socket of this process connects these two addresses."""
    return any(_connects(int(fd.name), here, there) for fd in Path("/proc/self/fd").iterdir())


def _connects(fd: int, here: object, there: object) -> bool:
    with suppress(OSError):  # it is closed meanwhile, no socket, or not connected
        # Another descriptor of the same: the object closes its own.
        copy = os.dup(fd)
        try:
            one = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            return False
        with one:
            return bool((one.getsockname(), one.getpeername()) == (here, there))
    return False


def _raise_first(passed: Future[None]) -> None:
    """libpq says only that the connection broke; the other end may know why."""
    error = passed.exception()
    if error is not None:
        raise error


def _said(answer: bytes) -> str:
    return parse_error_response(answer[_HEADER:]).text


def server_name(certificate: x509.Certificate) -> str:
    """One that the certificate is for (RFC 6125, 6.4). Raises ShareError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    dns = [name.replace("*", "securegw", 1) for name in names.get_values_for_type(x509.DNSName)]
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    for name in (*dns, *addresses):
        return name
    raise ShareError("the listener's certificate has no name in its subjectAltName, so no client can verify it")
