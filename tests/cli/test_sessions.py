"""`securegw sessions` and whatever may answer it: a gateway, another version of it, somebody slow, or nobody."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from gateway import control
from gateway.cli import running
from gateway.cli import sessions as commands
from gateway.cli.errors import Failure
from gateway.cli.main import securegw
from gateway.cli.running import TakenUp, ask, enter, follow, take_up
from gateway.cli.settings import Installation
from gateway.control import Counters, Done, Kill, Killed, Left, Refused, Session, Sessions, write_answer

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


def session(number: int, **more: str) -> Session:
    named = {"listener": "postgres:main", "client": "192.0.2.1:5", "state": "open", **more}
    return Session(id=number, opened_at=1e9, moved=7, **named)


ALICE = session(12, subject="alice", database="sales", jti="j-1")
BOB = session(3, subject="bob", listener="mqtt:main", client_id="b\x1b[2J", serial="a1b")


class Answering:
    """A gateway that gives these answers to whoever comes, one after the other, and remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.asked: list[control.Request] = []
        self.answers: list[bytes] = []

    def serve(self) -> None:
        for answer in self.answers:
            while not (line := self._asks(connection := self.socket.accept()[0])):
                connection.close()
            with connection:
                self.asked.append(control.read_request(line[:-1]))
                connection.sendall(answer)

    @staticmethod
    def _asks(connection: socket.socket) -> bytes:
        """Nothing of whoever has gone without a question."""
        line = b""
        while not line.endswith(b"\n"):
            data, fds, _, _ = socket.recv_fds(connection, 65536, 1)
            for fd in fds:
                os.close(fd)
            line += data
            if not data:
                break
        return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gw.ini").write_text("[control]\nsocket = c.sock\n")
    return tmp_path


@pytest.fixture
def installation(folder: Path) -> Installation:
    return Installation(None, {}, folder)


@pytest.fixture
def gateway(folder: Path) -> Iterator[Callable[..., list[control.Request]]]:
    """Call it with what is answered, a sequence to each request; what was asked is in what it returns."""
    one = Answering(folder / "c.sock")
    thread = threading.Thread(target=one.serve, daemon=True)

    def start(*answers: control.Answer | bytes | Sequence[control.Answer]) -> list[control.Request]:
        one.answers += [written(answer) for answer in answers]
        thread.start()
        return one.asked

    yield start
    if thread.is_alive():
        thread.join(10)
    one.socket.close()


def written(answer: control.Answer | bytes | Sequence[control.Answer]) -> bytes:
    if isinstance(answer, bytes):
        return answer
    return b"".join(map(write_answer, answer if isinstance(answer, list | tuple) else (answer,)))


@pytest.fixture
def run(folder: Path) -> Callable[..., Result]:
    def run(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(securegw, ["-c", str(folder / "gw.ini"), "sessions", *arguments], input=stdin)

    return run


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(commands, "sys", terminal)
    monkeypatch.setattr("gateway.cli.options.sys", terminal)


Gateway = Callable[..., list[control.Request]]
Run = Callable[..., Result]


def refused(result: Result, words: str, status: int = 1) -> bool:
    return (result.exit_code, result.stdout) == (status, "") and words in result.stderr


# --- list -----------------------------------------------------------------------------------------------------------


def test_a_list_of_several_lines_is_one_table(gateway: Gateway, run: Run):
    asked = gateway([Sessions((ALICE,), more=True), Sessions((BOB,))])
    result = run("list")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["ID", "LISTENER", "IDENTITY", "CLIENT", "USE", "SINCE", "(UTC)", "BYTES", "STATE"],
        ["3", "mqtt:main", "bob", "192.0.2.1:5", r"b\x1b[2J", "2001-09-09", "01:46:40", "7", "open"],
        ["12", "postgres:main", "alice", "192.0.2.1:5", "sales", "2001-09-09", "01:46:40", "7", "open"],
    ]
    assert asked == [control.ListSessions()]


def test_a_list_for_programs(gateway: Gateway, run: Run):
    gateway(Sessions((ALICE,)))
    (found,) = json.loads(run("list", "--json").stdout)
    assert found["opened_at"] == "2001-09-09T01:46:40.000+00:00"
    assert (found["id"], found["subject"], found["bytes"], found["serial"]) == (12, "alice", 7, None)


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (("--identity", "alice"), [12]),
        (("--identity", "ali"), []),
        (("--listener", "mqtt:main"), [3]),
        (("--listener", "postgres"), [12]),
        (("--listener", "main"), []),
        (("--listener", "postgres", "--identity", "bob"), []),
    ],
)
def test_a_part_of_the_list(gateway: Gateway, run: Run, arguments: tuple[str, ...], ids: list[int]):
    gateway(Sessions((ALICE, BOB)))
    assert [one["id"] for one in json.loads(run("list", "--json", *arguments).stdout)] == ids


def test_nobody_is_there(gateway: Gateway, run: Run):
    gateway(Sessions(()), Sessions(()))
    assert run("list").stdout == "ID  LISTENER  IDENTITY  CLIENT  USE  SINCE (UTC)  BYTES  STATE\n"
    assert json.loads(run("list", "--json").stdout) == []


# --- kill -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (("--identity", "alice"), Kill(identity="alice")),
        (("--jti", "j-1"), Kill(jti="j-1")),
        (("--serial", "0A:1B"), Kill(serial="0a1b")),
        (("--serial", "00000A1b"), Kill(serial="0a1b")),
        (("--serial", "0xa1b"), Kill(serial="0a1b")),
        (("--serial", "00"), Kill(serial="00")),
        (("--id", "12"), Kill(ids=(12,))),
        (("--id", "12", "--id", "3"), Kill(ids=(12, 3))),
    ],
)
def test_a_kill(gateway: Gateway, run: Run, arguments: tuple[str, ...], request_: Kill):
    asked = gateway(Killed(1), Killed(2))
    assert run("kill", *arguments).stdout == "1 session killed.\n"
    assert json.loads(run("kill", *arguments, "--json").stdout) == {"killed": 2}
    assert asked == [request_] * 2


def test_a_kill_that_finds_none(gateway: Gateway, run: Run):
    gateway(Killed(0))
    assert refused(run("kill", "--id", "1"), "no such session")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--identity", "a", "--jti", "b"),
        ("--id", "1", "--serial", "a"),
        ("--id", "-1"),
        ("--id", "x"),
        ("--serial", "0x"),
        ("--serial", "0xa:1b"),
        ("--serial", "1_2"),
        ("--serial", ":1"),
        ("--serial", ""),
        ("alice",),
    ],
)
def test_a_kill_that_says_too_much_or_too_little(run: Run, arguments: tuple[str, ...]):
    if arguments == ("alice",):
        words = "unexpected extra argument (alice)"
    elif "--serial" in arguments and "--id" not in arguments:
        words = "Invalid value for --serial: "
    elif arguments in (("--id", "-1"), ("--id", "x")):
        words = "Invalid value for '--id': "
    else:
        words = "say exactly one of --identity, --jti, --serial and --id"
    assert refused(run("kill", *arguments), words, status=2)


@pytest.mark.usefixtures("on_a_terminal")
def test_before_several_are_killed_the_person_is_asked(gateway: Gateway, run: Run):
    asked = gateway(Sessions((ALICE, ALICE, BOB)), Sessions((ALICE, ALICE, BOB)), Killed(2), Killed(2))
    result = run("kill", "--identity", "alice", stdin="n\n")
    assert result.exit_code == 1
    assert "Kill 2 sessions?" in result.stderr
    assert asked == [control.ListSessions()]
    assert run("kill", "--identity", "alice", stdin="y\n").stdout == "2 sessions killed.\n"
    assert run("kill", "--identity", "alice", "--yes").stdout == "2 sessions killed.\n"


@pytest.mark.usefixtures("on_a_terminal")
@pytest.mark.parametrize("way", [("--id", "12"), ("--jti", "j-1"), ("--serial", "a1b"), ("--identity", "bob")])
def test_for_one_session_nobody_is_asked(gateway: Gateway, run: Run, way: tuple[str, ...]):
    asked = gateway(Sessions((ALICE, BOB)), Killed(1))
    assert run("kill", *way).stdout == "1 session killed.\n"
    assert len(asked) == 2


# --- the others -----------------------------------------------------------------------------------------------------


def test_counters(gateway: Gateway, run: Run):
    gateway(*[Counters({"connections": 3, "over_limit": 0})] * 2)
    assert [line.split() for line in run("counters").stdout.splitlines()] == [
        ["connections", "3"],
        ["over", "limit", "0"],
    ]
    assert json.loads(run("counters", "--json").stdout) == {"connections": 3, "over_limit": 0}


def test_a_reload(gateway: Gateway, run: Run):
    gateway(Done(), Refused("the reload failed", ("[tls] key: is missing", "[x] y: \x1b[2J")))
    assert run("reload").stdout == "Reloaded.\n"
    result = run("reload")
    assert refused(result, "the reload failed:\n[tls] key: is missing\n")
    assert "\x1b" not in result.stderr


def test_a_reload_whose_new_keys_are_not_there(gateway: Gateway, run: Run):
    gateway(Done(("[jwt:main] jwks: it is down\x1b[2J",)))
    result = run("reload")
    assert refused(result, "Reloaded, but:\n[jwt:main] jwks: it is down")
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        (Done(), 0, {"reloaded": True, "problems": []}),
        (Done(("[jwt:main] jwks: away",)), 1, {"reloaded": True, "problems": ["[jwt:main] jwks: away"]}),
        (
            Refused("the reload failed", ("[tls] key: is missing",)),
            1,
            {"reloaded": False, "error": "the reload failed", "problems": ["[tls] key: is missing"]},
        ),
    ],
)
def test_a_reload_for_programs(gateway: Gateway, run: Run, answer: control.Answer, status: int, told: object):
    gateway(answer)
    result = run("reload", "--json")
    assert (result.exit_code, result.stderr) == (status, "")
    assert json.loads(result.stdout) == told


def test_to_interrupt_a_drain_stops_only_the_waiting(run: Run, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> Iterator[control.Answer]:
        yield Left(2)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "follow", interrupted)
    result = run("drain")
    assert refused(result, "Only the waiting was stopped: the gateway goes on ending.")
    assert "Aborted" not in result.stderr


def test_to_interrupt_a_drain_before_it_has_begun(run: Run, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> Iterator[control.Answer]:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "follow", interrupted)
    assert refused(run("drain"), "Aborted!")


def test_a_drain(gateway: Gateway, run: Run):
    asked = gateway([Left(2), Left(2), Left(1), Left(0)])
    result = run("drain")
    assert (result.exit_code, result.stdout) == (0, "The gateway has ended.\n")
    waits = "Each ends when it is at rest, or when the grace period of [gateway] shutdown_grace is over."
    assert result.stderr.splitlines() == ["2 connections left", waits, "1 connection left", "0 connections left"]
    assert asked == [control.Drain()]


def test_a_drain_of_an_idle_gateway_waits_for_nobody(gateway: Gateway, run: Run):
    gateway([Left(0)])
    assert run("drain").stderr == "0 connections left\n"


def test_a_drain_that_was_not_begun(gateway: Gateway, run: Run):
    gateway(b"", Done())
    assert refused(run("drain"), "went away before it had answered")
    assert refused(run("drain"), "another version")


@pytest.mark.usefixtures("on_a_terminal")
def test_before_a_drain_the_person_is_asked(gateway: Gateway, run: Run):
    asked = gateway(Counters({}), Counters({}), [Left(0)], [Left(0)])
    assert run("drain", stdin="n\n").exit_code == 1
    assert run("drain", stdin="y\n").exit_code == 0
    assert run("drain", "--yes").exit_code == 0
    assert asked == [control.AskCounters(), control.AskCounters(), control.Drain(), control.Drain()]


@pytest.mark.usefixtures("on_a_terminal")
def test_nobody_is_asked_about_a_gateway_that_is_not_there(run: Run):
    result = run("drain", stdin="y\n")
    assert (result.exit_code, "End the gateway?" in result.output) == (1, False)
    assert "nobody answers there" in result.stderr


# --- what can go wrong ----------------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize("command", [("list",), ("kill", "--id", "1"), ("counters",), ("reload",), ("drain",)])


@EVERY
def test_no_gateway_runs(run: Run, command: tuple[str, ...]):
    assert refused(run(*command), "c.sock: nobody answers there; is the gateway running")


@EVERY
def test_a_socket_that_was_left(run: Run, folder: Path, command: tuple[str, ...]):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "c.sock"))
    assert refused(run(*command), "nobody answers there")


@EVERY
@pytest.mark.parametrize("answer", [b"hello\n", b'{"ok":true,"left":[]}\n', b"x" * (control.MAX_ANSWER + 1)])
def test_another_version_answers(gateway: Gateway, run: Run, command: tuple[str, ...], answer: bytes):
    gateway(answer)
    assert refused(run(*command), "another version")


@EVERY
def test_the_gateway_goes_away(gateway: Gateway, run: Run, command: tuple[str, ...]):
    gateway(b'{"ok"')
    assert refused(run(*command), "went away before it had answered")


@EVERY
def test_the_gateway_refuses(gateway: Gateway, run: Run, command: tuple[str, ...]):
    gateway(Refused("8 others are asking already; try again soon"))
    assert refused(run(*command), "c.sock: 8 others are asking already")


@EVERY
def test_the_gateway_answers_something_else(gateway: Gateway, run: Run, command: tuple[str, ...]):
    gateway(Left(1) if command != ("drain",) else Killed(1))
    assert refused(run(*command), "another version")


def test_a_list_that_is_not_finished(gateway: Gateway, run: Run):
    gateway(Sessions((ALICE,), more=True))
    assert refused(run("list"), "went away before it had answered")


def test_a_gateway_that_is_stuck(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "_PATIENCE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "c.sock"))
        silent.listen()
        assert refused(run("list"), "has not answered for 0 seconds")


def test_permission_is_denied(run: Run, monkeypatch: pytest.MonkeyPatch):
    def connected(_: Path) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(running, "_connected", connected)
    assert refused(run("list"), "permission denied; only root and the user that the gateway runs as")


def test_whoever_is_turned_away_unheard_is_told_why(folder: Path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "c.sock"))
        server.listen()

        def turn_away() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(write_answer(Refused("only root may ask")))

        thread = threading.Thread(target=turn_away)
        thread.start()
        with pytest.raises(Failure, match="only root may ask"):
            # Longer than what the other side has room for.
            ask(folder / "c.sock", Kill(ids=tuple(range(10**8, 10**8 + 6000))))
        thread.join(10)


def test_a_request_that_is_too_long(run: Run):
    assert refused(run("kill", "--identity", "x" * 70_000), "longer than 65536 bytes")


def test_a_request_that_is_taken_in_pieces():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(10)
    heard = bytearray()

    def hear() -> None:
        while data := theirs.recv(1000):
            heard.extend(data)

    thread = threading.Thread(target=hear)
    thread.start()
    with theirs:
        with ours:
            running._send(ours, b"x" * 60_000, None)
        thread.join(10)
    assert len(heard) == 60_000


# --- what others ask ------------------------------------------------------------------------------------------------


def test_to_enter(gateway: Gateway, folder: Path):
    asked = gateway(Done())
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            enter(folder / "c.sock", "postgres:main", "203.0.113.9", theirs)
            assert theirs.fileno() >= 0
        assert ours.recv(1) == b""  # this gateway has closed its end
    assert asked == [control.Enter("postgres:main", "203.0.113.9")]


@pytest.mark.parametrize(("answer", "words"), [(Refused("no listener"), "no listener"), (Left(1), "another version")])
def test_what_cannot_enter_is_told(gateway: Gateway, folder: Path, answer: control.Answer, words: str):
    gateway(answer)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(Failure, match=words):
        enter(folder / "c.sock", "postgres:none", "203.0.113.9", theirs)


def test_a_follower_may_stop(gateway: Gateway, folder: Path):
    gateway([Left(2), Left(1)])
    lines = follow(folder / "c.sock", control.Drain())
    assert next(lines) == Left(2)
    lines.close()  # type: ignore[attr-defined]  # it is a generator


def test_the_running_gateway_is_reloaded(gateway: Gateway, installation: Installation):
    asked = gateway(Done(), Refused("the reload failed", ("[tls] key: is missing",)))
    assert take_up(installation) == TakenUp(True, "The running gateway was reloaded.")
    words = "The running gateway could not be reloaded: the reload failed:\n[tls] key: is missing"
    assert take_up(installation) == TakenUp(False, words)
    assert asked == [control.Reload()] * 2


def told(installation: Installation, reloaded: bool | None, words: str) -> None:
    found = take_up(installation)
    assert found.reloaded is reloaded
    assert found.words is not None
    assert found.words.startswith("Reload the gateway for it to take effect (SIGHUP, or securegw sessions reload)")
    assert words in found.words


def test_where_nobody_can_be_asked_the_person_is_told_what_to_do(installation: Installation, folder: Path):
    told(installation, None, "nobody answers there")
    (folder / "gw.ini").write_text("[registry]\ndatabase = things.sqlite\n")
    told(installation, None, "has no listener")
    (folder / "gw.ini").write_text(f"{WHOLE}[upstream:main]\nhosts = a\n[tls]\ncertificate = a\nkey = b\n")
    told(installation, False, "jwt")


def test_whoever_runs_and_is_not_reached_goes_on_as_before(installation: Installation, folder: Path):
    (folder / "gw.ini").write_text("[contrl]\n")
    told(installation, False, f"{folder / 'gw.ini'}: the configuration cannot be used:\n[contrl] ")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400\r\n\r\n", Left(1), Refused("8 others are asking already")])
def test_another_answer_is_no_reload(gateway: Gateway, installation: Installation, answer: control.Answer | bytes):
    gateway(answer)
    assert take_up(installation).reloaded is False


def test_a_gateway_that_is_stopped(installation: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """It is there, and says nothing: nobody takes its connections, of which the kernel keeps only so many."""
    monkeypatch.setattr(running, "_PATIENCE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(folder / "c.sock"))
        stopped.listen(0)
        told(installation, False, "has not answered for 0 seconds")
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(str(folder / "c.sock"))
        told(installation, False, "the gateway has not answered so many others")
        for one in waiting:
            one.close()


def test_without_a_configuration_there_is_nothing_to_reload(tmp_path: Path):
    assert take_up(Installation(None, {}, tmp_path)) == TakenUp(None)


def test_one_that_was_named_and_is_not_there_is_not_none(tmp_path: Path):
    told(Installation("typo.ini", {}, tmp_path), False, "typo.ini: there is no such file (-c)")
    told(Installation(None, {"SECUREGW_CONFIG": "typo.ini"}, tmp_path), False, "there is no such file ($SECUREGW_CON")


# --- who answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["root", "me", "the folder's owner"])
def test_who_is_believed(gateway: Gateway, installation: Installation, monkeypatch: pytest.MonkeyPatch, who: str):
    mine = os.geteuid()
    monkeypatch.setattr(running, "peer_uid", lambda _: {"root": 0, "me": 4711}.get(who, mine))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    gateway(Done())
    assert take_up(installation).reloaded is True


def test_a_stranger_is_told_nothing(
    gateway: Gateway, installation: Installation, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a folder such as /tmp, somebody else has made the socket first, and says yes to everything."""
    gateway(Killed(3))
    monkeypatch.setattr(running, "peer_uid", lambda _: 4711)
    words = f"c.sock: is answered by user 4711, who is neither root, nor you, nor the owner of {folder}"
    assert refused(run("kill", "--jti", "stolen", "--yes"), words)
    assert take_up(installation).reloaded is False
    monkeypatch.undo()
    assert run("kill", "--jti", "stolen", "--yes").stdout == "3 sessions killed.\n"


# --- which socket ---------------------------------------------------------------------------------------------------

WHOLE = "[postgres:main]\nlisten = 127.0.0.1:5432\nrules =\n"


def of(folder: Path, text: str) -> Installation:
    """The INI in that folder is this."""
    (folder / "gw.ini").write_text(text)
    return Installation(None, {}, folder)


def test_the_socket_is_beside_the_ini(tmp_path: Path):
    assert of(tmp_path, f"{WHOLE}[control]\nsocket = run/c.sock\n").control() == tmp_path / "run" / "c.sock"


def test_it_is_found_whatever_else_is_wrong(tmp_path: Path):
    wrong = "[tls]\nkey = missing\n[nonsense]\n"
    assert of(tmp_path, f"{wrong}[control]\nsocket = c.sock\n").control() == tmp_path / "c.sock"


def test_the_quickstarts_is_in_its_folder(tmp_path: Path):
    installation = of(tmp_path, f"{WHOLE}[quickstart]\ndirectory = here\n")
    assert installation.control() == tmp_path / "here" / "control.sock"


def test_the_quickstart_has_none_where_its_folder_is_too_deep(tmp_path: Path):
    installation = of(tmp_path, f"{WHOLE}[quickstart]\ndirectory = {'d' * 100}\n")
    with pytest.raises(Failure, match=r"longer than the 107 bytes .* so the quickstart has none"):
        installation.control()


def test_no_gateway_runs_with_a_registry_alone(tmp_path: Path):
    installation = of(tmp_path, "[registry]\ndatabase = things.sqlite\n")
    with pytest.raises(Failure, match="has no listener"):
        installation.control()
    assert "it was not asked to" in (take_up(installation).words or "")
    assert of(tmp_path, "[registry]\ndatabase = a\n[control]\nsocket = c.sock\n").control() == tmp_path / "c.sock"


def test_where_none_is_configured_it_says_what_to_add(run: Run, folder: Path):
    tunnel = "[tunnel:main]\nmode = client\nlisten = 127.0.0.1:1\nupstream = localhost:2\n"
    (folder / "gw.ini").write_text(tunnel)
    assert refused(run("list"), f"{folder / 'gw.ini'}: [control] socket is not given, so no gateway can be asked")
