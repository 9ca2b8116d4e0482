"""What systemd and the gateway tell each other: listening sockets (sd_listen_fds(3)), readiness and signs of life
(sd_notify(3), sd_watchdog_enabled(3)).

Owns the environment variables of all that, and takes them out of it, so that no child process takes them for its own.
Without them, nothing is passed and nobody is told. Refuses, as ValueError, file descriptors that are no listening
stream sockets; which of them belong to the configuration is decided by where they listen, since that is what it says.
What cannot be told is dropped: a gateway does not stop working because systemd does not listen.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from gateway.upstream import Address

# SD_LISTEN_FDS_START.
_FIRST: Final = 3
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
# Seconds that a message may take: systemd's queue is full only where something is wrong, and all else stands still.
_PATIENCE: Final = 0.1
# More sockets than anybody has units for, and more digits than a 64-bit number has (sd_listen_fds(3) and
# sd_watchdog_enabled(3) take 32 bits and 64).
_MAX_SOCKETS: Final = 10_000
_MAX_DIGITS: Final = 20
# After the farewells have had their time, what is still open is closed, and files are written.
_LAST_STEPS: Final = 15.0
_MICROSECONDS: Final = 1_000_000


# --- sockets --------------------------------------------------------------------------------------------------------


def inherited(environ: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """The listening sockets that this process was given. Raises ValueError, with none of them left open."""
    begun = _initial_environment()
    process, count, names = (
        environ.pop(name, "") or begun.get(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if process != str(os.getpid()):
        return ()
    most = _number(count)
    if most is None or most > _MAX_SOCKETS:
        raise ValueError(f"LISTEN_FDS is not a number up to {_MAX_SOCKETS}: {count[:_MAX_DIGITS]}")
    named = names.split(":")
    found: list[socket.socket] = []
    try:
        for number in range(most):
            found.append(_listening(_FIRST + number, named[number] if number < len(named) else ""))  # noqa: PERF401 - what is open if one fails has to be known
    except ValueError:
        for sock in found:
            sock.detach()
        os.closerange(_FIRST, _FIRST + most)
        raise
    return tuple(found)


def _number(text: str) -> int | None:
    """None: it is not one, or has too many digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _initial_environment() -> dict[str, str]:
    """What this process was started with (proc(5)). Out of `os.environ`, importing Twisted's endpoints has taken
    LISTEN_PID and LISTEN_FDS, for itself."""
    with suppress(OSError):
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
        return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    return {}


def _listening(fd: int, name: str) -> socket.socket:
    """Raises ValueError; the descriptor is then as it was."""
    what = f"file descriptor {fd}" + (f" ({name})" if name else "")
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ValueError(f"{what} is no socket: {error.strerror}") from None
    if (
        sock.family in _FAMILIES
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        return sock
    sock.detach()
    raise ValueError(f"{what} is no listening stream socket: a socket unit needs ListenStream, and Accept=no")


def address_of(sock: socket.socket) -> Address:
    """Where it listens, as the configuration would say it: `*` is a socket for IPv6 that takes IPv4 as well."""
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        # Bytes: a name in the abstract namespace, which no configuration can say.
        return Address(where if isinstance(where, str) else f"@{where[1:].decode('ascii', 'backslashreplace')}", 0)
    host, port = where[:2]
    if sock.family == socket.AF_INET6:
        both = not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        host = "*" if host == "::" and both else str(ip_address(host))
    return Address(host, port)


def take(address: Address, sockets: list[socket.socket]) -> list[socket.socket]:
    """Those of the sockets that listen there, and nowhere else; they are taken out of the list."""
    taken = [sock for sock in sockets if address_of(sock) == address]
    sockets[:] = [sock for sock in sockets if sock not in taken]
    return taken


# --- signs of life --------------------------------------------------------------------------------------------------


class Notifier:
    """Tells systemd how we are. watchdog: seconds between two calls of `alive`; None: nobody waits for them."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._where = _socket_address(environ.pop("NOTIFY_SOCKET", ""))
        self.watchdog = _watchdog(environ)
        # Open from now on: a process that has run out of file descriptors is alive.
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._where else None
        if self._sock is not None:
            self._sock.settimeout(_PATIENCE)

    def ready(self, status: str) -> None:
        """After the start, and after each reload, whatever came of it. status: a line for `systemctl status`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, grace: float) -> None:
        """grace: seconds that sessions may still take, also where the unit would give them less."""
        extended = int((grace + _LAST_STEPS) * _MICROSECONDS)
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={extended}", "STATUS=ending sessions in order")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _tell(self, *words: str) -> None:
        if self._sock is not None:
            with suppress(OSError):
                self._sock.sendto("\n".join(words).encode("utf-8"), self._where)


def _socket_address(told: str) -> bytes:
    """A path, or a name in the abstract namespace (unix(7)); empty for what is neither: there are virtual machines'."""
    if told.startswith("@"):
        return b"\0" + os.fsencode(told[1:])
    return os.fsencode(told) if told.startswith("/") else b""


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Half of what systemd waits, as sd_watchdog_enabled(3) advises."""
    microseconds = _number(environ.pop("WATCHDOG_USEC", ""))
    process = environ.pop("WATCHDOG_PID", "")
    if not microseconds or process not in ("", str(os.getpid())):
        return None
    return microseconds / _MICROSECONDS / 2
