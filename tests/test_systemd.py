"""What systemd passes and is told: the protocol itself, with real sockets, and conf/'s units as systemd reads them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway import systemd
from gateway.addresses import door_address
from gateway.systemd import Notifier, address_of, inherited, take
from gateway.upstream import Address
from tests.activation import activated, environment
from tests.servers import free_port


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# --- sockets ----------------------------------------------------------------------------------------------------------


def listening(
    stack: ExitStack, host: str = "127.0.0.1", family: int = socket.AF_INET, both: bool = False
) -> socket.socket:
    sock = stack.enter_context(socket.socket(family))
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
    sock.bind((host, 0))
    sock.listen()
    return sock


RECEIVER = """
import os
import twisted.internet.endpoints  # it takes them out of the environment
from gateway.systemd import address_of, inherited
environ = os.environ
try:
    found = inherited(environ)
    print([str(address_of(sock)) for sock in found], [sock.get_inheritable() for sock in found])
except ValueError as error:
    print("ValueError:", error)
    print("open:", [fd for fd in range(3, 3 + PASSED) if os.path.exists(f"/proc/self/fd/{fd}")])
print(sorted(name for name in environ if name.startswith("LISTEN_")))
"""


def received(passed: list[int], **environ: str) -> str:
    """What a process says that has these as its descriptors from 3 on."""
    child = subprocess.run(
        activated([sys.executable, "-c", RECEIVER.replace("PASSED", str(len(passed)))], passed),
        env={**environment(passed), **environ},
        cwd=Path(__file__).parent.parent,
        pass_fds=passed,
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout


def test_sockets_are_taken_over(stack: ExitStack, tmp_path: Path) -> None:
    tcp, unix = listening(stack), stack.enter_context(socket.socket(socket.AF_UNIX))
    unix.bind(str(tmp_path / "door"))
    unix.listen()
    said = received([tcp.fileno(), unix.fileno()], LISTEN_FDNAMES="postgres:https")
    port = tcp.getsockname()[1]
    assert said == f"['127.0.0.1:{port}', '{tmp_path}/door'] [False, False]\n[]\n"


def test_those_of_another_process_are_not(stack: ExitStack) -> None:
    before = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "PATH": "/bin"}
    assert inherited(before) == ()
    assert before == {"PATH": "/bin"}
    assert inherited({}) == ()


@pytest.mark.parametrize("count", ["", "one", "-1", "²", "1 ", "10001", "9" * 20, "9" * 5_000])
def test_a_count_that_is_none(count: str) -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS is not a number up to 10000: ") as told:
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})
    assert len(str(told.value)) < 100


def connected(stack: ExitStack) -> int:
    one, other = socket.socketpair()
    stack.enter_context(other)
    return stack.enter_context(one).fileno()


def bound_only(stack: ExitStack) -> int:
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    return sock.fileno()


def datagrams(stack: ExitStack) -> int:
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return sock.fileno()


def packets(stack: ExitStack) -> int:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    sock.bind(f"\0securegw-test-{free_port()}")
    sock.listen()
    return sock.fileno()


@pytest.mark.parametrize("made", [connected, bound_only, datagrams, packets])
def test_other_sockets_are_refused(stack: ExitStack, made: Callable[[ExitStack], int]) -> None:
    passed = [listening(stack).fileno(), made(stack), listening(stack).fileno(), made(stack)]
    said = received(passed, LISTEN_FDNAMES="good:bad")
    assert "ValueError: file descriptor 4 (bad) is no listening stream socket" in said
    assert "open: []" in said


def test_what_is_no_socket_at_all(stack: ExitStack, tmp_path: Path) -> None:
    file = stack.enter_context((tmp_path / "file").open("w"))
    said = received([file.fileno(), listening(stack).fileno()])
    assert "ValueError: file descriptor 3 is no socket" in said
    assert "open: []" in said
    assert "ValueError: file descriptor 3 is no socket: Bad file" in received([], LISTEN_FDS="7")


def test_where_a_socket_listens(stack: ExitStack, tmp_path: Path) -> None:
    one = listening(stack)
    six = listening(stack, "::1", socket.AF_INET6)
    everywhere = listening(stack, "::", socket.AF_INET6, both=True)
    only_six = listening(stack, "::", socket.AF_INET6)
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind(f"\0securegw-test-{free_port()}")
    assert address_of(one) == Address("127.0.0.1", one.getsockname()[1])
    assert address_of(six) == Address("::1", six.getsockname()[1])
    assert address_of(everywhere) == Address("*", everywhere.getsockname()[1])
    assert address_of(only_six) == Address("::", only_six.getsockname()[1])
    assert address_of(abstract).host.startswith("@securegw-test-")


def test_the_configuration_decides_which_one_is_meant(stack: ExitStack) -> None:
    one, other = listening(stack), listening(stack, "::", socket.AF_INET6, both=True)
    port = other.getsockname()[1]
    passed = [one, other]
    for address in (Address("::", port), Address("0.0.0.0", port), Address("127.0.0.1", port), Address("*", port + 1)):
        assert take(address, passed) == []
    assert take(Address("*", port), passed) == [other]
    assert passed == [one]
    assert take(Address("*", port), passed) == []
    assert take(address_of(one), passed) == [one]


# --- signs of life ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """As systemd: where it is to be told, and the socket there."""
    where = str(tmp_path / "notify") if request.param == "path" else f"@securegw-test-{free_port()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(where.replace("@", "\0", 1) if where.startswith("@") else where)
        sock.settimeout(5)
        yield where, sock


def test_what_systemd_is_told(manager: tuple[str, socket.socket]) -> None:
    where, heard = manager
    environ = {"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    notifier = Notifier(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog == 15
    notifier.ready("listening")
    assert heard.recv(1000) == b"READY=1\nSTATUS=listening"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    word, since = heard.recv(1000).split(b"\nMONOTONIC_USEC=")
    assert word == b"RELOADING=1"
    assert before <= int(since) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.alive()
    assert heard.recv(1000) == b"WATCHDOG=1"
    notifier.stopping(30)
    assert heard.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000\nSTATUS=ending sessions in order"
    notifier.close()
    notifier.alive()
    notifier.close()


@pytest.mark.parametrize(
    "where", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens", "/" + "x" * 300]
)
def test_nobody_to_be_told(where: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": where})
    assert notifier.watchdog is None
    notifier.ready("listening")
    notifier.close()


def test_a_manager_that_does_not_listen(manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_PATIENCE", 0.01)
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]})
    for _ in range(100):
        notifier.alive()  # the queue is full long before
    notifier.close()


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [
        ("10000000", "", 5.0),
        ("500000", str(os.getpid()), 0.25),
        ("10000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("9" * 21, "", None),
        ("9" * 5_000, "", None),
    ],
)
def test_how_often_a_sign_of_life_is_due(microseconds: str, process: str, seconds: float | None) -> None:
    assert Notifier({"WATCHDOG_USEC": microseconds, "WATCHDOG_PID": process}).watchdog == seconds


# --- the units --------------------------------------------------------------------------------------------------------

CONF = Path(__file__).parent.parent / "conf"
# systemd-analyze counts from 0 (safe) to 10; this is in tenths.
MOST_EXPOSED = 20


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("Debian's systemd is not installed")
    return found


def said_by(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def options(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^([A-Za-z0-9]+)=(.*)$", (CONF / unit).read_text()):
        found.setdefault(name, []).append(value)
    return found


def test_how_exposed_the_service_is(analyze: str) -> None:
    said_by(
        analyze,
        "security",
        "--offline=yes",
        "--no-pager",
        f"--threshold={MOST_EXPOSED}",
        str(CONF / "securegw.service"),
    )


def test_systemd_understands_the_units(analyze: str, tmp_path: Path) -> None:
    service = (CONF / "securegw.service").read_text()
    program = options("securegw.service")["ExecStart"][0].split()[0]
    (tmp_path / "securegw.service").write_text(service.replace(program, sys.executable))
    shutil.copy(CONF / "securegw.socket", tmp_path)
    units = [str(tmp_path / f"securegw.{kind}") for kind in ("service", "socket")]
    # It reads what these want as well, and other units may have mistakes of their own.
    assert "securegw" not in said_by(analyze, "verify", "--man=no", *units)


def test_what_the_service_needs_of_systemd() -> None:
    service = options("securegw.service")
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service["Restart"] == ["on-failure"]
    assert int(service["WatchdogSec"][0]) >= 10
    assert service["User"] != ["root"]
    # resource.getrlimit and setrlimit are this one call, and @resources has it.
    assert service["SystemCallFilter"][-1] == "prlimit64"
    # A namespace of users would make the capability worthless, if there was one.
    assert (service["CapabilityBoundingSet"], service["AmbientCapabilities"]) == ([""], [""])


def test_each_socket_of_systemd_has_the_listener_that_is_said_beside_it() -> None:
    said = re.findall(r"(?m)^# \[\w+:main\] listen = (.*)\nListenStream=(.*)$", (CONF / "securegw.socket").read_text())
    assert [port for _, port in said] == options("securegw.socket")["ListenStream"]
    assert options("securegw.socket")["BindIPv6Only"] == ["both"]
    assert [door_address(listen) for listen, _ in said] == [Address("*", int(port)) for _, port in said]
