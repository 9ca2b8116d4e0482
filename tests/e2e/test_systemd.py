"""The gateway as systemd runs it: it says when it is ready and that it lives, is given sockets, and is in a sandbox."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests import sandbox
from tests.activation import ServiceManager, activated, environment
from tests.gateways import PATIENCE, TWISTD, RunningGateway, ini
from tests.http_servers import ANSWER, WebService

UNIT = Path(__file__).parent.parent.parent / "conf/securegw.service"


class Service:
    """A gateway for HTTPS in front of a web service, by its name; systemd is played by the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.manager = stack.enter_context(ServiceManager.listening(folder / "notify"))
        web = stack.enter_context(WebService.running())
        self.gateway = RunningGateway.made_https(
            folder / "gateway", {"route:main": {"upstream": f"http://localhost:{web.port}"}}
        )
        self.gateway.thing("key", "thing")

    def start(self, passed: Sequence[socket.socket] = (), confined: Sequence[str] = (), **environ: str) -> None:
        gateway = self.gateway
        command = [str(TWISTD), "-n", "--pidfile=", "securegw", "-c", str(gateway.write_ini())]
        fds = [sock.fileno() for sock in passed]
        told = {**environment(fds), **self.manager.environ(), **environ}
        with gateway.log.open("ab") as log:
            gateway.process = subprocess.Popen(
                activated([*confined, *command], fds),
                cwd=gateway.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=told,
                pass_fds=fds,
            )
        self._stack.callback(gateway.process.wait)
        self._stack.callback(gateway.process.kill)

    def ready(self) -> None:
        assert self.manager.hear("READY") == {"READY": "1", "STATUS": "listening"}, self.gateway.log.read_text()

    def signal(self, number: int) -> None:
        assert self.gateway.process is not None
        self.gateway.process.send_signal(number)

    def status(self) -> int:
        assert self.gateway.process is not None
        return self.gateway.process.wait(PATIENCE)

    def get(self) -> bytes:
        """Over TLS with a client certificate, a server name and ALPN: everything that OpenSSL asks us back about."""
        context = ssl.create_default_context(cafile=str(self.gateway.root_certificate))
        context.load_cert_chain(self.gateway.folder / "thing.crt", self.gateway.folder / "thing.key")
        context.set_alpn_protocols(["http/1.1"])
        client = HTTPSConnection("localhost", self.gateway.port, context=context, timeout=PATIENCE)
        client.request("GET", "/")
        answer = client.getresponse()
        assert answer.status == 200
        body = answer.read()
        client.close()
        return body


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(tmp_path, stack)


def listening(service: Service, port: int) -> socket.socket:
    """As a socket unit opens it."""
    sock = socket.create_server(("127.0.0.1", port))
    service._stack.callback(sock.close)
    return sock


# --- signs of life ----------------------------------------------------------------------------------------------------


def test_what_systemd_is_told(service: Service) -> None:
    service.start(WATCHDOG_USEC="400000")
    service.ready()
    assert service.get() == ANSWER, "ready is ready"
    service.manager.heard.clear()
    for _ in range(3):
        service.manager.hear("WATCHDOG", 2)

    service.signal(signal.SIGHUP)
    assert "MONOTONIC_USEC" in service.manager.hear("RELOADING")
    service.ready()

    service.gateway.sections["route:main"]["rules"] = "nonsense"
    service.gateway.write_ini()
    service.signal(signal.SIGHUP)
    service.manager.hear("RELOADING")
    assert service.manager.hear("READY")["STATUS"] == "listening; the last reload failed, see the log"

    service.signal(signal.SIGTERM)
    assert service.manager.hear("STOPPING")["EXTEND_TIMEOUT_USEC"] == "20000000"
    assert service.status() == 0


def test_a_reactor_that_is_stuck_gives_no_sign_of_life(service: Service) -> None:
    service.start(WATCHDOG_USEC="400000")
    service.ready()
    service.manager.hear("WATCHDOG")
    service.signal(signal.SIGSTOP)
    service.manager.sock.setblocking(False)
    try:
        while True:
            service.manager.sock.recv(4096)  # what was on its way
    except BlockingIOError:
        pass
    with pytest.raises(TimeoutError):
        service.manager.hear("WATCHDOG", 0.6)
    service.signal(signal.SIGCONT)
    service.manager.hear("WATCHDOG")


def test_nothing_is_ready_where_the_configuration_is_wrong(service: Service) -> None:
    service.gateway.sections["route:main"]["rules"] = "nonsense"
    service.start()
    assert service.status() == 1
    with pytest.raises(TimeoutError):
        service.manager.hear("READY", 0)


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_clients_of_a_restart_wait(service: Service) -> None:
    passed = listening(service, service.gateway.port)
    service.start([passed])
    service.ready()
    assert service.get() == ANSWER
    service.signal(signal.SIGKILL)
    service.status()
    with socket.create_connection(("127.0.0.1", service.gateway.port), timeout=PATIENCE) as early:
        service.start([passed])
        service.ready()
        context = ssl.create_default_context(cafile=str(service.gateway.root_certificate))
        with context.wrap_socket(early, server_hostname="localhost") as client:
            assert client.version() == "TLSv1.3"
    service.signal(signal.SIGTERM)
    assert service.status() == 0
    passed.getsockname()
    assert passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "it is systemd's: still there"


def test_what_is_not_passed_is_opened(service: Service) -> None:
    service.start([listening(service, service.gateway.port)])
    service.ready()
    with socket.create_connection(("127.0.0.1", service.gateway.health_port), timeout=PATIENCE) as health:
        health.sendall(b"GET /.well-known/securegw/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert health.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_socket_that_no_listener_is_configured_for(service: Service) -> None:
    stray = listening(service, 0)
    service.start([listening(service, service.gateway.port), stray], LISTEN_FDNAMES="https:stray")
    assert service.status() == 1
    where = f"127.0.0.1:{stray.getsockname()[1]}"
    assert service.gateway.log.read_text() == (
        f"[Socket] ListenStream: {where}: no listen of the configuration is exactly this address\n"
    )


def test_a_socket_that_nobody_could_listen_on(service: Service) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        service.start([datagrams], LISTEN_FDNAMES="dns")
        assert service.status() == 1
    told = "[Socket] ListenStream: file descriptor 3 (dns) is no listening stream socket"
    assert service.gateway.log.read_text().startswith(told)


# --- the sandbox ------------------------------------------------------------------------------------------------------


@pytest.fixture
def confined() -> list[str]:
    if sandbox.library() is None or shutil.which("systemd-analyze") is None:
        pytest.skip("Debian's libseccomp2 and systemd are not installed")
    return [sys.executable, sandbox.__file__]


def test_inside_the_sandbox(service: Service, confined: list[str]) -> None:
    service.gateway.sections |= {
        "registry": {"database": "registry.sqlite"},
        "hub": {"database": "hub.sqlite"},
        "control": {"socket": "control.sock"},
        "mqtt:main": {"listen": "unix:" + str(service.gateway.folder / "mqtt"), "rules": "\nallow all all"},
        "limits": {"max_connections": 2000},
    }
    service.start(confined=[*confined, str(UNIT)])
    service.ready()
    assert service.get() == ANSWER
    service.signal(signal.SIGHUP)
    service.ready()
    assert service.get() == ANSWER
    service.signal(signal.SIGTERM)
    assert service.status() == 0
    log = service.gateway.log.read_text()
    assert "Traceback" not in log, log


def test_which_is_one(service: Service, confined: list[str]) -> None:
    """The test above would pass without any."""
    trespassing = "import os, socket; os.chown('.', 0, 0)", "import socket; socket.socket(socket.AF_NETLINK)"
    for code in trespassing:
        tried = subprocess.run(
            [*confined, str(UNIT), sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert tried.returncode == 1
        assert "Operation not permitted" in tried.stderr or "Address family not supported" in tried.stderr


def test_why_memory_may_be_written_and_executed(tmp_path: Path, confined: list[str]) -> None:
    """Where this fails, pyOpenSSL has learnt to do without, and MemoryDenyWriteExecute=yes belongs into the unit."""
    assert "\nMemoryDenyWriteExecute=" not in UNIT.read_text()
    stricter = tmp_path / "stricter.service"
    stricter.write_text(UNIT.read_text() + ini({"Service": {"MemoryDenyWriteExecute": "yes"}}).replace(" = ", "="))
    code = "from OpenSSL import SSL; SSL.Context(SSL.TLS_METHOD).set_alpn_select_callback(lambda *_: b'')"
    tried = subprocess.run(
        [*confined, str(stricter), sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "Cannot allocate write+execute memory" in tried.stderr


def test_a_process_does_not_pass_on_what_it_was_given(service: Service) -> None:
    service.start([listening(service, service.gateway.port)], WATCHDOG_USEC="10000000")
    service.ready()
    assert service.gateway.process is not None
    inherited = Path(f"/proc/{service.gateway.process.pid}/fdinfo/3").read_text()
    (flags,) = [line for line in inherited.splitlines() if line.startswith("flags:")]
    assert int(flags.split()[1], 8) & os.O_CLOEXEC
