"""The control socket over real Unix sockets: one question each, whoever is slow or rude, and no descriptor is lost."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from gateway import control
from gateway.control import Enter, Kill, NotDone, Refused, Session, write_request
from gateway.net.control import MAX_CONVERSATIONS, PROGRESS_SECONDS, SECONDS, Control
from gateway.net.poller import Poller
from gateway.peers import peer_uid
from tests.reactor import ManualReactor
from tests.wires import no_new_descriptors

# What is freed without having been closed is said to nobody else.
pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")

UID = os.geteuid()


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """None may be left open, whatever was sent."""
    with no_new_descriptors():
        yield


def session(number: int) -> Session:
    return Session(number, "postgres:main", "192.0.2.1:5", 1.5, 0, "open", subject="alice")


class Told:
    """A gateway that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.live = 3
        self.reloading: Deferred[control.Done | Refused] = Deferred()
        self.refuses = ""
        self.broken = False

    def sessions(self) -> Iterator[Session]:
        return map(session, range(self.live))

    def kill(self, asked: Kill, uid: int) -> int:
        assert not self.broken
        self.asked.append((asked, uid))
        return 2

    def counters(self) -> Mapping[str, int]:
        return {"connections": self.live}

    def reload(self, uid: int) -> Deferred[control.Done | Refused]:
        self.asked.append(("reload", uid))
        return self.reloading

    def drain(self, uid: int) -> None:
        self.asked.append(("drain", uid))

    def left(self) -> int:
        return self.live

    def enter(self, asked: Enter, sock: socket.socket, uid: int) -> None:
        with sock:
            if self.refuses:
                raise NotDone(self.refuses)
            self.asked.append((asked, uid))
            sock.send(b"entered")


class Site:
    """A control socket and its clients."""

    def __init__(self, reactor: ManualReactor, poller: Poller, path: Path) -> None:
        self.reactor, self.poller, self.path = reactor, poller, path
        self.gateway, self.uid = Told(), UID
        self.control = Control(reactor, path, lambda sock: self.uid if peer_uid(sock) == UID else -1)
        self.clients: list[socket.socket] = []

    def start(self) -> None:
        self.control.bind()
        self.control.start(self.poller, self.gateway)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(self.path))
        self.clients.append(client)
        self.reactor.settle()
        return client

    def say(self, client: socket.socket, data: bytes, *fds: int) -> None:
        if fds:
            socket.send_fds(client, [data], list(fds))
        else:
            client.sendall(data)
        self.reactor.settle()

    def ask(self, request: control.Request, *fds: int) -> control.Answer:
        return self.answer_to(write_request(request), *fds)

    def answer_to(self, data: bytes, *fds: int) -> control.Answer:
        client = self.connect()
        self.say(client, data, *fds)
        (answer,) = read(client)
        return answer

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.reactor.settle()
        self.control.stop()


def read(client: socket.socket) -> list[control.Answer]:
    """All that was answered, to its end."""
    data = b""
    # What was sent and never read makes the end of a Unix socket one of these.
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            data += piece
    return [control.read_answer(line) for line in data.splitlines()]


def refused(answer: control.Answer, words: str) -> bool:
    return isinstance(answer, Refused) and words in answer.error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def site(reactor: ManualReactor, poller: Poller, path: Path) -> Iterator[Site]:
    site = Site(reactor, poller, path)
    site.start()
    yield site
    site.close()


# --- what can be asked ----------------------------------------------------------------------------------------------


def test_sessions_come_in_lines(site: Site):
    site.gateway.live = 2 * control.SESSIONS_IN_A_LINE + 1
    client = site.connect()
    site.say(client, write_request(control.ListSessions()))
    parts = read(client)
    assert [one.more for one in parts if isinstance(one, control.Sessions)] == [True, True, False]
    found = [one for part in parts if isinstance(part, control.Sessions) for one in part.sessions]
    assert found == [session(number) for number in range(site.gateway.live)]


@pytest.mark.parametrize("live", [0, 1, control.SESSIONS_IN_A_LINE])
def test_that_many_sessions_are_one_line(site: Site, live: int):
    site.gateway.live = live
    assert site.ask(control.ListSessions()) == control.Sessions(tuple(map(session, range(live))))


def test_a_kill(site: Site):
    assert site.ask(Kill(identity="alice")) == control.Killed(2)
    assert site.gateway.asked == [(Kill(identity="alice"), UID)]


def test_counters(site: Site):
    assert site.ask(control.AskCounters()) == control.Counters({"connections": 3})


def test_a_reload(site: Site):
    refused = Refused("the reload failed", ("[tls] key: is missing", "[audit] file: is a folder"))
    for answer in (control.Done(), control.Done(("[jwt:main] jwks: it is down",)), refused):
        site.gateway.reloading = Deferred()
        site.gateway.reloading.callback(answer)
        assert site.ask(control.Reload()) == answer


def test_a_reload_whose_outcome_takes_a_while(site: Site):
    client = site.connect()
    site.say(client, write_request(control.Reload()))
    site.reactor.advance(SECONDS - 1)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    site.gateway.reloading.callback(control.Done())
    site.reactor.settle()
    assert read(client) == [control.Done()]
    assert site.gateway.asked == [("reload", UID)]
    assert not site.reactor.getDelayedCalls()


@pytest.mark.parametrize("end", ["close", "more", "late", "stop"])
def test_nobody_is_there_any_more_when_it_is_known(site: Site, end: str):
    client = site.connect()
    site.say(client, write_request(control.Reload()))
    if end == "close":
        client.close()
    elif end == "more":
        client.sendall(b"x")
    elif end == "late":
        site.reactor.advance(SECONDS)
    else:
        site.control.stop()
    site.reactor.settle()
    site.gateway.reloading.callback(control.Done())
    site.reactor.settle()
    assert not site.reactor.getDelayedCalls()
    if end != "close":
        assert read(client) == []


def test_a_request_in_pieces_of_a_byte(site: Site):
    client = site.connect()
    for byte in write_request(control.AskCounters()):
        site.say(client, bytes([byte]))
    assert read(client) == [control.Counters({"connections": 3})]


def test_whoever_says_that_it_says_no_more_is_answered(site: Site):
    site.gateway.live = 5000
    client = site.connect()
    client.sendall(write_request(control.ListSessions()))
    client.shutdown(socket.SHUT_WR)
    site.reactor.settle()
    client.setblocking(False)
    data = b""
    while True:
        try:
            piece = client.recv(65536)
        except BlockingIOError:
            site.reactor.settle()
            continue
        if not piece:
            break
        data += piece
    assert sum(line.count(b'"id"') for line in data.splitlines()) == 5000


# --- what is refused ------------------------------------------------------------------------------------------------


def test_another_user_is_turned_away_unheard(site: Site):
    site.uid = UID + 1
    client = site.connect()
    assert refused(read(client)[0], "only root")
    with suppress(BrokenPipeError):
        site.say(client, write_request(Kill(ids=(1,))))
    assert not site.gateway.asked


def test_root_may_ask_whoever_the_gateway_is(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    site.uid = 0
    assert site.ask(control.AskCounters()) == control.Counters({"connections": 3})
    site.uid = 1
    assert refused(read(site.connect())[0], "only root")


@pytest.mark.parametrize("data", [b"\n", b"hello\n", b'{"do":"explode"}\n', b"\xff\n"])
def test_what_is_no_request(site: Site, data: bytes):
    assert refused(site.answer_to(data), "not understood")


@pytest.mark.parametrize("rest", [b"x", write_request(control.Reload())])
def test_two_requests(site: Site, rest: bytes):
    assert refused(site.answer_to(write_request(Kill(ids=(1,))) + rest), "for one request")
    assert not site.gateway.asked


def test_a_second_request_behind_the_first(site: Site):
    site.gateway.live = 100_000
    client = site.connect()
    site.say(client, write_request(control.ListSessions()))
    site.say(client, write_request(Kill(ids=(1,))))
    assert len(read(client)) > 1
    assert not site.gateway.asked


def test_a_line_that_is_too_long(site: Site):
    client = site.connect()
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(20):
            site.say(client, b"x" * 8192)
    assert refused(read(client)[0], "too much")


def test_a_line_that_is_a_byte_too_long_is_not_waited_for(site: Site):
    client = site.connect()
    site.say(client, b"x" * control.MAX_REQUEST)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.setblocking(True)
    site.say(client, b"x")
    assert refused(read(client)[0], "too much")


def test_a_line_of_the_greatest_length_is_heard(site: Site):
    line = write_request(Kill(identity="alice"))[:-1].ljust(control.MAX_REQUEST)
    assert site.answer_to(line + b"\n") == control.Killed(2)


def test_whoever_says_nothing(site: Site):
    client = site.connect()
    site.reactor.advance(SECONDS - 0.1)
    assert site.reactor.getDelayedCalls()
    site.say(client, b'{"do":')  # which gains no time
    site.reactor.advance(0.2)
    site.reactor.settle()
    assert refused(read(client)[0], "within 10 seconds")


def test_whoever_does_not_read(site: Site):
    site.gateway.live = 100_000
    client = site.connect()
    site.say(client, write_request(control.ListSessions()))
    site.reactor.advance(SECONDS - 0.1)
    taken = client.recv(1 << 20)
    site.reactor.settle()
    site.reactor.advance(1)  # it had taken something
    assert site.reactor.getDelayedCalls()
    site.reactor.advance(SECONDS)
    assert not site.reactor.getDelayedCalls()
    while piece := client.recv(1 << 20):
        taken += piece
    assert taken.count(b'"id"') < site.gateway.live


def test_whoever_goes_away(site: Site):
    for data in (b"", b'{"do"'):
        client = site.connect()
        site.say(client, data)
        client.close()
        site.reactor.settle()
    assert not site.reactor.getDelayedCalls()


def test_too_many_at_once(site: Site):
    others = [site.connect() for _ in range(MAX_CONVERSATIONS)]
    assert refused(read(site.connect())[0], "others are asking")
    others[0].close()
    site.reactor.settle()
    assert site.ask(control.AskCounters()) == control.Counters({"connections": 3})


def test_a_bug_costs_one_conversation(site: Site):
    site.gateway.broken = True
    client = site.connect()
    site.say(client, write_request(Kill(ids=(1,))))
    assert read(client) == []
    assert site.ask(control.AskCounters()) == control.Counters({"connections": 3})


# --- sockets that come with a request -------------------------------------------------------------------------------

ENTER = Enter("postgres:main", "203.0.113.9")


def test_a_socket_enters(site: Site):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            assert site.ask(ENTER, theirs.fileno()) == control.Done()
        assert ours.recv(10) == b"entered"
        assert ours.recv(10) == b""
    assert site.gateway.asked == [(ENTER, UID)]


def test_a_tcp_socket_enters(site: Site):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
        server.accept()[0] as theirs,
    ):
        assert site.ask(ENTER, theirs.fileno()) == control.Done()
        theirs.close()
        assert ours.recv(10) == b"entered"


def test_what_enters_does_not_block_and_is_not_inherited(site: Site, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[bool, bool]] = []

    def enter(_: Enter, sock: socket.socket, __: int) -> None:
        with sock:
            seen.append((sock.getblocking(), sock.get_inheritable()))

    monkeypatch.setattr(site.gateway, "enter", enter)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        site.ask(ENTER, theirs.fileno())
    assert seen == [(False, False)]


def test_one_that_the_gateway_does_not_take(site: Site):
    site.gateway.refuses = "there is no listener of that name"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            assert refused(site.ask(ENTER, theirs.fileno()), "no listener")
        assert ours.recv(10) == b""


def a_file() -> int:
    return os.open("/dev/null", os.O_RDWR)


def a_listening_socket() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def datagrams() -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.close()
    return theirs.detach()


def unconnected() -> int:
    return socket.socket().detach()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (a_file, "not a socket"),
        (a_listening_socket, "not connected"),
        (datagrams, "neither"),
        (unconnected, "not connected"),
    ],
)
def test_what_cannot_enter(site: Site, made: Callable[[], int], words: str):
    fd = made()
    try:
        assert refused(site.ask(ENTER, fd), words)
    finally:
        os.close(fd)
    assert not site.gateway.asked


def test_to_enter_without_a_socket(site: Site):
    assert refused(site.ask(ENTER), "a socket comes with")


def test_a_socket_with_another_request(site: Site):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            assert refused(site.ask(Kill(ids=(1,)), theirs.fileno()), "with no other")
        assert ours.recv(10) == b""
    assert not site.gateway.asked


@pytest.mark.parametrize("number", [2, 4, 5, 50])
def test_several_sockets(site: Site, number: int):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            assert refused(site.ask(ENTER, *[theirs.fileno()] * number), "too much")
        assert ours.recv(10) == b""


def test_sockets_one_after_the_other(site: Site):
    line = write_request(ENTER)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = site.connect()
        site.say(client, line[:5], theirs.fileno())
        site.say(client, line[5:], theirs.fileno())
        assert refused(read(client)[0], "too much")
    assert not site.gateway.asked


def test_a_socket_and_then_nothing(site: Site):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            client = site.connect()
            site.say(client, b"{", theirs.fileno())
        client.close()
        site.reactor.settle()
        assert ours.recv(10) == b""


def test_a_socket_behind_the_answer(site: Site):
    site.gateway.live = 100_000
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            client = site.connect()
            site.say(client, write_request(control.ListSessions()))
            site.say(client, b"x", theirs.fileno())
        assert ours.recv(10) == b""


# --- a drain --------------------------------------------------------------------------------------------------------


def lines(client: socket.socket) -> list[control.Answer]:
    return [control.read_answer(line) for line in client.recv(65536).splitlines()]


def test_a_drain_is_told_until_the_process_is_gone(site: Site):
    client = site.connect()
    site.say(client, write_request(control.Drain()))
    assert site.gateway.asked == [("drain", UID)]
    assert lines(client) == [control.Left(3)]
    site.gateway.live = 1
    site.reactor.advance(PROGRESS_SECONDS)
    assert lines(client) == [control.Left(1)]
    site.reactor.advance(10 * SECONDS)
    assert lines(client)[-1] == control.Left(1)
    (one,) = site.control._conversations
    site.control.stop()
    assert not site.reactor.getDelayedCalls()
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    one.end()


def test_whoever_drains_may_go_away(site: Site):
    client = site.connect()
    site.say(client, write_request(control.Drain()))
    client.close()
    site.reactor.settle()
    site.reactor.advance(PROGRESS_SECONDS)
    site.reactor.settle()
    assert not site.reactor.getDelayedCalls()


def test_whoever_drains_and_does_not_read_holds_nobody_up(site: Site):
    """Nor is what he does not take kept for him: when he reads again, he soon hears how many are left now."""
    client = site.connect()
    site.say(client, write_request(control.Drain()))
    for site.gateway.live in range(5_000, 0, -1):
        site.reactor.advance(PROGRESS_SECONDS)
    client.setblocking(False)
    told = 0
    with suppress(BlockingIOError):
        while found := lines(client):
            told += len(found)
            site.reactor.settle()
    assert told < 2_000
    site.gateway.live = 0
    site.reactor.advance(PROGRESS_SECONDS)
    assert lines(client) == [control.Left(0)]
    client.close()
    site.reactor.advance(PROGRESS_SECONDS)


# --- the socket itself ----------------------------------------------------------------------------------------------


def test_it_is_its_owners_alone_and_goes_at_the_end(site: Site, path: Path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site.close()
    assert not path.exists()
    site.control.stop()  # once more changes nothing


def test_the_umask_is_as_before(reactor: ManualReactor, path: Path):
    before = os.umask(0o022)
    try:
        one = Control(reactor, path)
        one.bind()
        one.stop()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_socket_that_was_left_is_replaced(reactor: ManualReactor, poller: Poller, path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    site = Site(reactor, poller, path)
    site.start()
    assert site.ask(control.AskCounters()) == control.Counters({"connections": 3})
    site.close()


def test_a_gateway_that_answers_there_is_left_alone(site: Site, reactor: ManualReactor, path: Path):
    other = Control(reactor, path)
    with pytest.raises(OSError, match="in use") as told:
        other.bind()
    assert told.value.filename == str(path)
    other.stop()
    assert site.ask(control.AskCounters()) == control.Counters({"connections": 3})


def test_a_socket_of_another_gateway_is_not_removed(reactor: ManualReactor, path: Path):
    one, other = Control(reactor, path), Control(reactor, path)
    one.bind()
    path.unlink()
    other.bind()
    one.stop()
    assert path.is_socket()
    other.stop()
    assert not path.exists()


@pytest.mark.parametrize(("of", "name"), [(os, "unlink"), (Path, "lstat")], ids=["write", "search"])
def test_one_that_cannot_be_removed_stops_nobody_from_ending(
    reactor: ManualReactor, path: Path, monkeypatch: pytest.MonkeyPatch, of: object, name: str
):
    """As root it was made, in a folder of root's alone, and as another user it ends."""
    one = Control(reactor, path)
    one.bind()
    with monkeypatch.context() as patch, said() as log:
        patch.setattr(of, name, _denied)
        one.stop()
    assert path.is_socket()
    assert log == [f"control: {path} is left: Permission denied"]


@contextmanager
def said() -> Iterator[list[str]]:
    found: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def _denied(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_file_that_is_no_socket_is_left_alone(reactor: ManualReactor, path: Path):
    path.write_text("precious")
    one = Control(reactor, path)
    with pytest.raises(OSError, match="in use"):
        one.bind()
    one.stop()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o1770, 0o702])
def test_a_folder_that_others_can_write(reactor: ManualReactor, path: Path, mode: int):
    """Whoever is there first is asked in our place, and answers; a sticky folder such as /tmp helps against nothing."""
    path.parent.chmod(mode)
    _refused(Control(reactor, path), path, f"{path.parent}: others can write in it.*chmod go-w {path.parent}")
    path.parent.chmod(0o755)
    _accepted(Control(reactor, path), path)


@pytest.mark.skipif(UID != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(reactor: ManualReactor, path: Path):
    os.chown(path.parent, 4711, -1)
    _refused(Control(reactor, path), path, f"{path.parent}: belongs to user 4711")


@pytest.mark.skipif(UID != 0, reason="only root can give a folder away")
def test_a_folder_of_roots_or_of_our_own(reactor: ManualReactor, path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    _accepted(Control(reactor, path), path)
    os.chown(path.parent, 4711, -1)
    _accepted(Control(reactor, path), path)


@pytest.mark.parametrize(("mode", "gid"), [(0o777, None), (0o775, 4711), (0o757, None)])
def test_a_folder_that_others_can_replace(reactor: ManualReactor, path: Path, mode: int, gid: int | None):
    """It is not theirs, but it stands in one in which they can rename it."""
    inner = path.parent / "run"
    inner.mkdir(mode=0o700)
    path.parent.chmod(mode)
    if gid is not None:
        if UID != 0:
            pytest.skip("only root can give a folder away")
        os.chown(path.parent, -1, gid)
    one = inner / "control.sock"
    _refused(Control(reactor, one), one, f"{path.parent}: others can rename what is in it.*chmod go-w {path.parent}")


@pytest.mark.parametrize("mode", [0o1777, 0o775])
def test_above_it_a_sticky_folder_is_fine_and_so_is_one_of_our_own_group(reactor: ManualReactor, path: Path, mode: int):
    """With the umask 002, which many systems have, everything of ours is its own group's."""
    inner = path.parent / "run"
    inner.mkdir(mode=0o700)
    os.chown(path.parent, -1, os.getegid())
    path.parent.chmod(mode)
    _accepted(Control(reactor, inner / "control.sock"), inner / "control.sock")


@pytest.mark.skipif(UID != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_within_another_users(reactor: ManualReactor, path: Path, linked: bool):
    inner = path.parent / "theirs" / "run"
    inner.mkdir(parents=True)
    os.chown(inner.parent, 4711, -1)
    if linked:
        (path.parent / "link").symlink_to(inner)
    one = (path.parent / "link" if linked else inner) / "control.sock"
    _refused(Control(reactor, one), one, f"{inner.parent}: belongs to user 4711")


@pytest.mark.skipif(UID != 0, reason="only root can give a link away")
def test_a_link_of_another_user_to_a_good_folder(reactor: ManualReactor, path: Path):
    """Where it leads to tomorrow is his to say."""
    (path.parent / "run").mkdir(mode=0o700)
    link = path.parent / "link"
    link.symlink_to("run")
    _accepted(Control(reactor, link / "control.sock"), link / "control.sock")
    os.chown(link, 4711, -1, follow_symlinks=False)
    _refused(Control(reactor, link / "control.sock"), link / "control.sock", f"{link}: belongs to user 4711")


def _refused(one: Control, path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        one.bind()
    assert not path.exists()
    one.stop()


def _accepted(one: Control, path: Path) -> None:
    one.bind()
    assert path.is_socket()
    one.stop()


def test_a_folder_that_is_not_there(reactor: ManualReactor, path: Path):
    with pytest.raises(FileNotFoundError):
        Control(reactor, path.parent / "none" / "control.sock").bind()
