"""The control socket: what `securegw sessions` asks is answered here, one question in a connection.

Owns that Unix socket, from its file to each conversation over it. It can be opened by its owner alone, and answers root
and the gateway's own user: who may do either could stop the process anyway. Refuses whatever is too long, too slow or
too much at once, and leaves no descriptor open that came with a question.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway import control
from gateway.net import listener
from gateway.net.deadline import Deadline
from gateway.net.dial import keep_alive
from gateway.net.poller import READ, WRITE, Poller
from gateway.peers import peer_uid
from gateway.upstream import Address

# Conversations at once: they come from people and their scripts, and each is short.
MAX_CONVERSATIONS: Final = 8
# For a question to be there, and for each piece of an answer to be taken.
SECONDS: Final = 10.0
# How often somebody who drains hears how many are left.
PROGRESS_SECONDS: Final = 0.25

_READ: Final = 16 * 1024
# No question has more than one; of more than this the kernel closes the rest by itself (unix(7), SCM_RIGHTS).
_MAX_DESCRIPTORS: Final = 4
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


class Gateway(Protocol):
    """What can be asked of the whole gateway. uid: whose question it is."""

    def sessions(self) -> Iterator[control.Session]:
        """Each as it is when it is its turn."""

    def kill(self, asked: control.Kill, uid: int) -> int:
        """How many were found, and end."""

    def counters(self) -> Mapping[str, int]: ...

    def reload(self, uid: int) -> Deferred[control.Done | control.Refused]:
        """At once; fires when it is known what came of it, within SECONDS. Never fails."""

    def drain(self, uid: int) -> None:
        """Begin to end; again, when that has begun, it changes nothing."""

    def left(self) -> int:
        """How many connections there are."""

    def enter(self, asked: control.Enter, sock: socket.socket, uid: int) -> None:
        """Take a connected socket, which is the gateway's from now on. Raises NotDone, if it is not."""


class Control:
    """`bind` comes before anything runs; `start` once, and `stop` at the very end.

    uid_of: who connected.
    """

    _log = Logger()

    def __init__(self, reactor: Any, path: Path, uid_of: Callable[[socket.socket], int] = peer_uid) -> None:
        self._reactor, self._path, self._uid_of = reactor, path, uid_of
        self._sock: socket.socket | None = None
        self._made: tuple[int, int] | None = None
        self._listener: listener.Listener | None = None
        self._conversations: set[_Conversation] = set()

    # --- life -------------------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Raises OSError, also where a gateway answers at that path already, and ValueError."""
        _check_folder(self._path.absolute().parent)
        before = os.umask(0o177)
        try:
            (self._sock,) = listener.bind(Address(str(self._path), 0))
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self._path)) from None
        finally:
            os.umask(before)
        self._made = self._inode()

    def start(self, poller: Poller, gateway: Gateway) -> None:
        """gateway: whom questions are for."""
        assert self._sock is not None  # bind comes first

        def accepted(sock: socket.socket, _: Address) -> None:
            uid = self._uid_of(sock)
            if self._is_welcome(sock, uid):
                one = _Conversation(self._reactor, poller, sock, gateway, uid)
                one.ended = lambda: self._conversations.discard(one)
                self._conversations.add(one)

        self._listener = listener.Listener(self._reactor, poller, self._sock, accepted)
        self._listener.start()

    def _is_welcome(self, sock: socket.socket, uid: int) -> bool:
        if uid not in (0, os.geteuid()):
            self._log.warn("control: user {uid} was turned away", uid=uid)
            _turn_away(sock, "only root and the user that the gateway runs as may ask")
        elif len(self._conversations) >= MAX_CONVERSATIONS:
            _turn_away(sock, f"{MAX_CONVERSATIONS} others are asking already; try again soon")
        else:
            return True
        return False

    def stop(self) -> None:
        """Also if it has never been started. Whoever waits for the end of the process is left to the kernel."""
        if self._listener is not None:
            self._listener.stop()
        elif self._sock is not None:
            self._sock.close()
        self._listener = self._sock = None
        for one in tuple(self._conversations):
            one.over()
        made, self._made = self._made, None
        if made is not None:
            self._remove(made)

    def _remove(self, made: tuple[int, int]) -> None:
        """Unless another gateway has put its own in place of ours."""
        try:
            if self._inode() == made:
                self._path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            # As root it was made, and as another user it ends: the next start replaces it.
            self._log.warn("control: {path} is left: {error}", path=self._path, error=error.strerror)

    def _inode(self) -> tuple[int, int]:
        """Which file it is. Raises OSError."""
        found = self._path.lstat()
        return found.st_dev, found.st_ino


def _check_folder(folder: Path) -> None:
    """Whoever could put a socket of his own in place of ours would hear and answer what operators ask.

    So only root and we may write in the folder, not even others in a sticky one, who could be there first; and only
    root and we may put another folder, or another link, in its place. Raises ValueError, which says what to do, and
    OSError.
    """
    real = folder.resolve(strict=True)
    if real.stat().st_mode & _OTHERS_WRITE:
        raise ValueError(
            f"{folder}: others can write in it, and could put a socket of theirs there; take a folder of the gateway's "
            f"own, or: chmod go-w {folder}"
        )
    for one in dict.fromkeys((folder, *folder.parents, real, *real.parents)):
        owner = one.lstat().st_uid
        if owner not in (0, os.geteuid()):
            raise ValueError(
                f"{one}: belongs to user {owner}, who could put a socket of his there; take a folder of root's or of "
                f"the user that the gateway runs as (here {os.geteuid()}), with no folder of others above it"
            )
        if _lets_others_rename(one.stat()):
            raise ValueError(
                f"{one}: others can rename what is in it, and so put a socket of theirs in place of ours; take "
                f"another folder, or: chmod go-w {one}"
            )


def _lets_others_rename(folder: os.stat_result) -> bool:
    """In a sticky one (unlink(2), EPERM) they cannot. With the umask 002 everything of ours is our group's, too."""
    if folder.st_mode & stat.S_ISVTX:
        return False
    ours = folder.st_gid in (0, os.getegid())
    return bool(folder.st_mode & (stat.S_IWOTH if ours else _OTHERS_WRITE))


def _turn_away(sock: socket.socket, error: str) -> None:
    with sock, suppress(OSError):
        sock.setblocking(False)
        sock.send(control.write_answer(control.Refused(error)))


class _Conversation:
    """One question, which may come in pieces, and its answer, line by line as the other side takes it.

    ended: called once, when its socket is closed.
    """

    ended: Callable[[], object]

    def __init__(self, reactor: Any, poller: Poller, sock: socket.socket, gateway: Gateway, uid: int) -> None:
        sock.setblocking(False)
        self._poller, self._sock, self._gateway, self._uid = poller, sock, gateway, uid
        self._heard = b""
        self._descriptors: list[int] = []
        self._hears = True  # False: the other side has said that it says no more
        self._lines: Iterator[bytes] | None = None  # None: nothing has been answered yet
        self._pending = b""
        self._drains = False
        self._reloads = False  # True: it has begun, and what came of it is not known yet
        self._deadline = Deadline(reactor, self._due)
        self._deadline.set(SECONDS)
        self._watch()

    def _watch(self) -> None:
        waiting = self._pending or (self._lines is not None and not (self._drains or self._reloads))
        self._poller.watch(self._sock.fileno(), self, (READ if self._hears else 0) | (WRITE if waiting else 0))

    # --- the question -----------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _READ, _MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            self.end()
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        if self._lines is None and data:
            self._heard += data
            self._look()
        elif self._lines is None or data:
            self.end()  # it went away before it had asked, or goes on after it has
        else:
            self._hears = False
            self._watch()

    def _look(self) -> None:
        line, found, rest = self._heard.partition(b"\n")
        if len(line) > control.MAX_REQUEST or len(self._descriptors) > 1:
            self._refuse("that is too much for one request")
        elif rest:
            self._refuse("a connection is for one request")
        elif found:
            self._handle(line)

    def _handle(self, line: bytes) -> None:
        try:
            request = control.read_request(line)
        except ValueError as error:
            self._refuse(f"the request is not understood: {error}")
            return
        if bool(self._descriptors) != isinstance(request, control.Enter):
            self._refuse("a socket comes with a request to enter, and with no other")
        elif isinstance(request, control.Drain):
            self._drain()
        elif isinstance(request, control.Reload):
            self._reload()
        else:
            self._answer(self._answers(request))

    def _answers(self, request: control.Request) -> Iterator[control.Answer]:
        if isinstance(request, control.ListSessions):
            return _parts(self._gateway.sessions())
        return iter((self._done(request),))

    def _reload(self) -> None:
        self._heard, self._lines, self._reloads = b"", iter(()), True
        known = self._gateway.reload(self._uid)
        self._deadline.set(SECONDS)
        self._watch()
        known.addCallback(self._reloaded)

    def _reloaded(self, answer: control.Answer) -> None:
        if self._reloads:
            self._reloads = False
            self._answer(iter((answer,)))

    def _done(self, request: control.Request) -> control.Answer:
        gateway, uid = self._gateway, self._uid
        match request:
            case control.Kill():
                return control.Killed(gateway.kill(request, uid))
            case control.Enter():
                try:
                    gateway.enter(request, _connection(self._descriptors.pop()), uid)
                except control.NotDone as error:
                    return control.Refused(str(error))
                return control.Done()
        return control.Counters(gateway.counters())

    # --- the answer -------------------------------------------------------------------------------------------------

    def _refuse(self, error: str) -> None:
        self._answer(iter((control.Refused(error),)))

    def _answer(self, answers: Iterator[control.Answer]) -> None:
        self._heard = b""
        self._lines = map(control.write_answer, answers)
        self._deadline.set(SECONDS)
        self.on_writable()

    def on_writable(self) -> None:
        """A line at a time, so that a long answer holds nobody up, and is never there as a whole."""
        if not self._pending and self._lines is not None:
            self._pending = next(self._lines, b"")
        if not self._pending and not self._drains:
            self.end()
            return
        try:
            sent = self._sock.send(self._pending)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()
            return
        self._pending = self._pending[sent:]
        if sent and not self._drains:
            self._deadline.set(SECONDS)
        self._watch()

    def _due(self) -> None:
        if self._drains:
            self._tell_left()
        elif self._lines is None:
            self._refuse(f"no request has come within {SECONDS:.0f} seconds")
        else:
            self.end()

    # --- a drain ----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._gateway.drain(self._uid)
        self._heard, self._lines, self._drains = b"", iter(()), True
        self._tell_left()

    def _tell_left(self) -> None:
        self._deadline.set(PROGRESS_SECONDS)
        if not self._pending:
            self._pending = control.write_answer(control.Left(self._gateway.left()))
            self.on_writable()

    # --- the end ----------------------------------------------------------------------------------------------------

    def over(self) -> None:
        """Nothing is answered any more. Who waits for the end of the process is told by just that, and not before."""
        if self._drains:
            self._deadline.close()
            self._poller.watch(self._sock.fileno(), self, 0)
        else:
            self.end()

    def end(self) -> None:
        self._reloads = False
        self._deadline.close()
        self._close_descriptors()
        self._poller.watch(self._sock.fileno(), self, 0)
        self._sock.close()
        self.ended()

    def on_bug(self) -> None:
        self.end()

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _parts(sessions: Iterator[control.Session]) -> Iterator[control.Answer]:
    """At least one; each says whether another follows."""
    part = _some(sessions)
    while following := _some(sessions):
        yield control.Sessions(part, more=True)
        part = following
    yield control.Sessions(part)


def _some(sessions: Iterator[control.Session]) -> tuple[control.Session, ...]:
    return tuple(islice(sessions, control.SESSIONS_IN_A_LINE))


def _connection(descriptor: int) -> socket.socket:
    """It is somebody's from now on, or closed. Raises NotDone."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise control.NotDone("what came with the request is not a socket") from None
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
            raise control.NotDone(
                "the socket that came with the request is neither TCP's nor a stream between processes"
            )
        sock.getpeername()
        keep_alive(sock)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise control.NotDone("the socket that came with the request is not connected") from None
    except control.NotDone:
        sock.close()
        raise
    return sock
