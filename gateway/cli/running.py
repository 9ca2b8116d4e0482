"""Asking the gateway that runs: one question over its control socket, and its answer.

Owns the client's end of the socket. Every wait has a deadline, and every line a bound; whatever does not work is told
with what to do about it. Refuses to believe whoever is at that path only because somebody is: where everybody may make
files, the first one there could be anybody.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway import control
from gateway.cli.errors import Failure
from gateway.cli.output import note
from gateway.cli.settings import Installation
from gateway.errors import ConfigError
from gateway.peers import peer_uid

# The gateway answers at once, unless it is busy: a reload reads every file, and may take as long.
_PATIENCE_SECONDS: Final = 30.0
_READ: Final = 64 * 1024

_OTHER = "it was answered by something that speaks in another way: is the running gateway of another version?"
# What whoever takes something back has to know before he believes that it is.
_SILENT = (
    "If it was started before [control] socket was written, restart it. If none runs, the next one that is started "
    "goes by what is written"
)


class Nobody(Failure):
    """There is no gateway that could be asked."""


def ask(path: Path, request: control.Request, fd: int | None = None) -> control.Answer:
    """The answer; of several lines of sessions, one with all of them. fd: goes with the request, and stays open here.

    Raises Failure, also for a Refused without reasons.
    """
    sessions: list[control.Session] = []
    for answer in follow(path, request, fd):
        if not isinstance(answer, control.Sessions):
            return answer
        sessions += answer.sessions
        if not answer.more:
            return control.Sessions(tuple(sessions))
    raise Failure(f"{path}: the gateway went away before it had answered")


_Kind = TypeVar("_Kind", bound=control.Answer)


def ask_for(path: Path, request: control.Request, kind: type[_Kind]) -> _Kind:
    """As `ask`, for an answer of that kind. Raises Failure, also for another."""
    return expected(path, ask(path, request), kind)


def expected(path: Path, answer: control.Answer, kind: type[_Kind]) -> _Kind:
    """Raises Failure for an answer of another kind."""
    if not isinstance(answer, kind):
        raise Failure(f"{path}: {_OTHER}")
    return answer


def follow(path: Path, request: control.Request, fd: int | None = None) -> Iterator[control.Answer]:
    """Each line of the answer, until the gateway ends the connection. Raises Failure."""
    try:
        line = control.write_request(request)
    except ValueError as error:
        raise Failure(str(error)) from None
    with _told(path), closing(_connected(path)) as connection:
        # Whoever is turned away is told so before anything was read.
        with suppress(BrokenPipeError):
            _send(connection, line, fd)
        for answered in _lines(connection):
            answer = control.read_answer(answered)
            if isinstance(answer, control.Refused) and not answer.reasons:
                raise Failure(f"{path}: {answer.error}")
            yield answer


def enter(path: Path, listener: str, address: str, sock: socket.socket) -> None:
    """Has the running gateway take a connected socket as if that listener (its section) had accepted it, from that IP
    address: TLS, and all else, begins on it as on any other. sock stays open here. Raises Failure."""
    expected(path, ask(path, control.Enter(listener, address), sock.fileno()), control.Done)


def reload(path: Path) -> str | None:
    """Reload the gateway: what was wrong, in lines; None: nothing. Raises Failure."""
    answer = ask(path, control.Reload())
    if isinstance(answer, control.Refused):
        return "\n".join((f"{answer.error}:", *answer.reasons))
    expected(path, answer, control.Done)
    return None


@dataclass(frozen=True, slots=True)
class TakenUp:
    """Whether the running gateway has taken up what was changed.

    reloaded: None: there is none that could be asked. words: for the person, in lines; None: there is no configuration
    here that a gateway could run with. silent: the configuration says where one can be asked, and nobody answers.
    """

    reloaded: bool | None
    words: str | None = None
    silent: bool = False

    def tell(self, otherwise: str) -> None:
        """At the end of a command, which has failed if what it has changed is not in force. otherwise: what is said in
        place of no words. Raises Failure."""
        if self.reloaded is False:
            raise Failure(f"what was changed is written, but not in force. {self.words}")
        for line in (self.words or otherwise).splitlines():
            note(line)

    def insist(self, otherwise: str) -> None:
        """The same, where something is taken back: a gateway that does not hear of it goes on letting it in. Raises
        Failure where nobody answers, too."""
        if self.silent:
            raise Failure(f"what was changed is written, but nobody has taken it up. {self.words} {_SILENT}")
        self.tell(otherwise)


def take_up(installation: Installation) -> TakenUp:
    """Have the running gateway take up what was changed. Never raises: what was changed stays changed."""
    by_hand = "Reload the gateway for it to take effect (SIGHUP, or securegw sessions reload); it was not asked to"
    ini: Path | None = None
    try:
        ini = installation.ini_if_any()
        if ini is None:
            return TakenUp(None)
        problems = reload(_control(installation))
    except _NoSocket as error:
        return TakenUp(None, f"{by_hand}: {error.message}")
    except Nobody as error:
        return TakenUp(None, f"{by_hand}: {error.message}", silent=True)
    except ConfigError as error:
        return TakenUp(False, f"{by_hand}: {ini}: the configuration cannot be used:\n{error}")
    except (Failure, OSError) as error:
        return TakenUp(False, f"{by_hand}: {error.message if isinstance(error, Failure) else error}")
    if problems:
        return TakenUp(False, f"The running gateway could not be reloaded: {problems}")
    return TakenUp(True, "The running gateway was reloaded.")


class _NoSocket(Nobody):
    """The configuration does not say where."""


def _control(installation: Installation) -> Path:
    """Raises _NoSocket, ConfigError, OSError."""
    try:
        return installation.control()
    except Failure as error:
        raise _NoSocket(error.message) from error


# --- the socket -----------------------------------------------------------------------------------------------------


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(os.fspath(path))
        _refuse_stranger(path, peer_uid(connection))
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_stranger(path: Path, uid: int) -> None:
    """The folder's owner could put anything there, and root. Raises Failure, OSError."""
    if uid not in (0, os.geteuid(), path.parent.stat().st_uid):
        raise Failure(
            f"{path}: is answered by user {uid}, who is neither root, nor you, nor the owner of {path.parent}, and so "
            "need not be the gateway. Put [control] socket into a folder of the user that the gateway runs as"
        )


def _send(connection: socket.socket, line: bytes, fd: int | None) -> None:
    # The descriptor goes with the first piece.
    sent = socket.send_fds(connection, [line], [fd] if fd is not None else [])
    connection.sendall(line[sent:])


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Without their line feeds. What comes last without one is no line."""
    held = b""
    while data := connection.recv(_READ):
        *lines, held = (held + data).split(b"\n")
        yield from lines
        if len(held) > control.MAX_ANSWER:
            raise ValueError("the line is too long")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Failure(f"{path}: the gateway has not answered for {_PATIENCE_SECONDS:.0f} seconds") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise Nobody(f"{path}: nobody answers there; is the gateway running, with this configuration?") from None
    except PermissionError:
        raise Failure(f"{path}: permission denied; only root and the user that the gateway runs as may ask") from None
    except ConnectionError:
        raise Failure(f"{path}: the gateway ended the connection") from None
    except BlockingIOError:
        raise Failure(f"{path}: the gateway has not answered so many others yet that it hears nobody") from None
    except ValueError:
        raise Failure(f"{path}: {_OTHER}") from None
