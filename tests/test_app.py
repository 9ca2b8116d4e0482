"""The composition root: a reload that cannot be, paths that stay what they were, and a start that is cut short."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from gateway import app
from gateway import demo as demo_module
from gateway.app import makeService
from gateway.errors import ConfigError, Problem
from gateway.hub.message import Message
from gateway.net.listener import Listener
from gateway.net.owner import NOBODY
from gateway.net.transport import Transport
from gateway.quickstart import Quickstart
from gateway.registry.ledger import open_ledger
from gateway.registry.service import Registry
from gateway.registry.settings import RegistrySettings
from gateway.service import Gateway
from gateway.session.health import Health
from gateway.session.vocabulary import Dial, Event, Opened
from gateway.settings import Config, JWTSettings
from gateway.things import Unavailable
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from gateway.wire.mqtt_packets import Connect, Reason, Version
from tests.gateways import ini
from tests.pki import issue, make_ca, write_pem
from tests.reactor import ManualReactor
from tests.servers import free_port

ENDINGS = (signal.SIGTERM, signal.SIGINT)

CA = make_ca("app tests")
SERVER = issue(CA, "localhost", sans=["localhost"])
PUBLIC = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """What nobody catches fails the test, rather than ending all of them."""

    def uncaught(number: int, _: FrameType | None) -> NoReturn:
        raise AssertionError(f"nobody caught {signal.Signals(number).name}")

    before = {number: signal.signal(number, uncaught) for number in (*ENDINGS, signal.SIGHUP)}
    yield
    for number, catcher in before.items():
        signal.signal(number, catcher)


@pytest.fixture
def errors() -> Iterator[list[str]]:
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "error" in event:
            said.append(str(event["error"]))

    globalLogPublisher.addObserver(observe)
    yield said
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every warning in the log."""
    found: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.warn:
            found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


class Reactor(ManualReactor):
    """Notes what it has to call once it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.when_running: list[Callable[[], object]] = []

    def callWhenRunning(self, call: Callable[[], object]) -> None:  # noqa: N802
        self.when_running.append(call)


class Site:
    """A folder with all that a gateway needs; what is made of it is taken down after the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack, self.reactor = folder, stack, Reactor()
        SERVER.write(folder, "server")
        (folder / "jwt.pub").write_bytes(PUBLIC)
        self.sections: dict[str, dict[str, object]] = {
            "tls": {"certificate": "server.crt", "key": "server.key"},
            "audit": {"file": "audit.jsonl"},
            "jwt:main": {"public_keys": "jwt.pub"},
            "upstream:main": {"hosts": "db.example.org"},
            "postgres:main": {"listen": f"127.0.0.1:{free_port()}", "rules": "allow all all all"},
        }

    def write(self) -> Path:
        path = self.folder / "gw.ini"
        path.write_text(ini(self.sections))
        return path

    def guard_nothing(self) -> None:
        """As the quickstart's INI does."""
        for section in ("upstream:main", "jwt:main"):
            del self.sections[section]
        del self.sections["postgres:main"]["rules"]
        self.write()

    def start(self, config: str | None = "gw.ini", **environ: str) -> Gateway:
        """As twistd would in that folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            gateway = makeService({"config": config}, self.reactor, environ)
        self._stack.callback(gateway.stopService)
        for _, sock in gateway._bound:
            self._stack.callback(sock.close)
        return gateway


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(tmp_path, stack)
        site.write()
        yield site


# --- reload -----------------------------------------------------------------------------------------------------------


def test_reload_without_any_upstream(site: Site, errors: list[str]) -> None:
    gateway = site.start()
    site.guard_nothing()
    assert not gateway.reload()
    assert errors == ["[upstream:main] hosts: to change to the quickstart needs a restart"]
    assert gateway._state.config.upstreams


def test_reload_of_what_cannot_be_read_says_just_that(site: Site, errors: list[str]) -> None:
    gateway = site.start()
    path = site.folder / "gw.ini"
    path.unlink()
    assert not gateway.reload()
    path.write_text("listen = 127.0.0.1:1\n")
    assert not gateway.reload()
    assert errors == [
        f"[{path}] file: No such file or directory",
        f"[{path}] line 1: stands before the first [section]",
    ]


def test_reload_tells_a_removed_listener_together_with_the_rest(site: Site, errors: list[str]) -> None:
    site.sections["postgres:more"] = {"listen": f"127.0.0.1:{free_port()}"}
    site.write()
    gateway = site.start()
    del site.sections["postgres:more"]
    site.sections["limits"] = {"max_connections": "many"}
    site.write()
    assert not gateway.reload()
    (error,) = errors
    assert error.splitlines() == [
        "[limits] max_connections: is not a whole number from 1 up",
        "[postgres:more] listen: to remove a listener needs a restart",
    ]


def test_reload_from_another_folder(site: Site, monkeypatch: pytest.MonkeyPatch, errors: list[str]) -> None:
    """As under `twistd --rundir=/`, which changes the folder once the service is made."""
    gateway = site.start()
    monkeypatch.chdir("/")
    assert gateway.reload(), errors
    assert gateway._state.config.audit.file == site.folder / "audit.jsonl"


def test_reload_of_the_environment_from_another_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch, errors: list[str]
) -> None:
    gateway = site.start(
        None,
        PUBLIC_KEYS__0=PUBLIC.decode(),
        UPSTREAM__HOST="db.example.org",
        UPSTREAM__PORT="5432",
        UPSTREAM__PASSWORD="hunter2",
        DOWNSTREAM__IP="127.0.0.1",
        DOWNSTREAM__PORT=str(free_port()),
        DOWNSTREAM__CERTFILE="server.crt",
        DOWNSTREAM__KEYFILE="server.key",
        SECUREGW_AUDIT_FILE="audit.jsonl",
    )
    monkeypatch.chdir("/")
    assert gateway.reload(), errors
    assert gateway._state.config.audit.file == site.folder / "audit.jsonl"


def local() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def everything(site: Site) -> Site:
    """One listener of each kind."""
    write_pem(site.folder / "ca.crt", CA.certificate)
    site.sections["tls"] |= {"client_certificate": "optional", "client_ca": "ca.crt"}
    site.sections |= {
        "health": {"listen": local()},
        "https:main": {"listen": local()},
        "route:main": {"upstream": "http://127.0.0.1:9", "rules": "allow all all"},
        "tunnel:in": {"mode": "server", "listen": local(), "upstream": "127.0.0.1:9", "rules": "allow all all"},
    }
    site.write()
    return site


KINDS = ("postgres:main", "https:main", "tunnel:in", "health")


class Asked:
    """Stands for a driver."""

    def admit(self, subject: str) -> bool:
        return True

    def renew(self) -> bool:
        return True

    def trusted(self) -> bool:
        return True

    def idle(self, dial: Dial) -> bool:
        return False

    def tell(self, event: Event) -> None:
        raise AssertionError("nobody has anything to tell")

    def deliver(self, data: bytes) -> None:
        raise AssertionError("nobody has anything to deliver")

    def congested(self) -> bool:
        return False


def all_open(gateway: Gateway) -> None:
    """Whoever comes now is heard, whatever listener he comes through."""
    for section, door in gateway._state.doors.items():
        assert door.session(Asked()).handle(Opened(Address("192.0.2.1", 4711))), section


def test_an_ini_without_postgres(everything: Site, errors: list[str]) -> None:
    """HTTPS and a route are enough: no token, no database, no quickstart."""
    sections = everything.sections
    everything.sections = {name: sections[name] for name in ("tls", "audit", "https:main", "route:main")}
    everything.write()
    gateway = everything.start()
    assert [section for section, _ in gateway._bound] == ["https:main"]
    gateway.startService()
    assert gateway.reload(), errors
    assert set(gateway._state.doors) == {"https:main"}
    all_open(gateway)


def test_each_kind_of_listener_is_bound(everything: Site) -> None:
    gateway = everything.start()
    bound = {section: sock.getsockname()[1] for section, sock in gateway._bound}
    assert {section: f"127.0.0.1:{port}" for section, port in bound.items()} == {
        section: everything.sections[section]["listen"] for section in KINDS
    }


@pytest.mark.parametrize("section", KINDS)
def test_reload_with_another_address_is_refused(everything: Site, errors: list[str], section: str) -> None:
    gateway = everything.start()
    before = gateway._state
    everything.sections[section]["listen"] = local()
    everything.write()
    assert not gateway.reload()
    assert errors == [f"[{section}] listen: a new or changed address needs a restart"]
    assert gateway._state is before


@pytest.mark.parametrize("section", KINDS)
def test_reload_with_a_new_listener_is_refused(everything: Site, errors: list[str], section: str) -> None:
    whole = dict(everything.sections)
    del everything.sections[section]
    if section == "https:main":
        del everything.sections["route:main"]
    everything.write()
    gateway = everything.start()
    everything.sections = whole
    everything.write()
    assert not gateway.reload()
    assert errors == [f"[{section}] listen: a new or changed address needs a restart"]
    assert section not in gateway._state.doors


@pytest.mark.parametrize("section", KINDS)
def test_reload_without_a_listener_is_refused_and_it_goes_on(everything: Site, errors: list[str], section: str) -> None:
    """Sessions at its door look up what they may: that never goes away."""
    gateway = everything.start()
    before = gateway._state
    del everything.sections[section]
    if section == "https:main":
        del everything.sections["route:main"]
    everything.write()
    assert not gateway.reload()
    assert errors == [f"[{section}] listen: to remove a listener needs a restart"]
    assert gateway._state is before
    all_open(gateway)


def test_reload_takes_over_rules_and_limits(everything: Site, errors: list[str]) -> None:
    gateway = everything.start()
    gateway.startService()
    connections = gateway.connections
    assert connections is not None
    assert (connections.limit, connections.addresses.limit, connections.subjects.limit) == (1000, 200, 100)
    everything.sections["limits"] = {
        "max_connections": 30,
        "max_connections_per_address": 20,
        "max_connections_per_subject": 10,
        "cancel_rate": 3,
    }
    everything.sections["route:main"]["rules"] = ""
    everything.write()
    assert gateway.reload(), errors
    assert (connections.limit, connections.addresses.limit, connections.subjects.limit) == (30, 20, 10)
    assert gateway.cancels.rate.per_second == 3


def test_a_reload_that_failed_shows_in_the_health(everything: Site) -> None:
    gateway = everything.start()
    assert not gateway._health().last_reload_failed
    port = everything.sections["health"]["listen"]
    everything.sections["health"]["listen"] = local()
    everything.write()
    gateway.reload()
    assert gateway._health().last_reload_failed
    everything.sections["health"]["listen"] = port
    everything.write()
    gateway.reload()
    assert not gateway._health().last_reload_failed
    # Whatever the reason.
    audit = everything.folder / "audit.jsonl"
    audit.unlink()
    audit.mkdir()
    before = gateway._state
    gateway.reload()
    assert gateway._health().last_reload_failed
    assert gateway._state is before


def test_a_reload_that_fails_goes_on_in_the_audit_file_of_now(everything: Site) -> None:
    """Which was rotated, and the old one is about to be compressed."""
    gateway = everything.start()
    gateway.startService()
    audit = everything.folder / "audit.jsonl"
    audit.rename(everything.folder / "audit.jsonl.1")
    everything.sections["limits"] = {"max_connections": "none"}
    everything.write()
    assert not gateway.reload()
    assert gateway._audit is not None
    gateway._audit.write("{}")
    assert audit.read_text() == "{}\n"


def test_a_reload_that_meets_a_bug_has_failed_and_is_over(
    everything: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd would wait for its end, and kill the gateway."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        gateway = everything.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        gateway.startService()
        everything.reactor.when_running[-1]()
        assert b"READY=1" in systemd.recv(4096)
        monkeypatch.setattr(gateway, "_load", lambda _: 1 // 0)
        before = gateway._state
        assert not gateway.reload()
        assert gateway._state is before
        assert gateway._health().last_reload_failed
        assert b"RELOADING=1" in systemd.recv(4096)
        assert b"READY=1" in systemd.recv(4096)


def test_a_reload_that_breaks_off_is_told_and_over(
    everything: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as systemd waits for its end, whoever asked for it does, too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        gateway = everything.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        gateway.startService()
        everything.reactor.when_running[-1]()
        assert b"READY=1" in systemd.recv(4096)
        monkeypatch.setattr(gateway._expiry, "adopt", lambda _: 1 // 0)
        assert not gateway.reload()
        assert gateway._failed_reload is not None
        assert "restart the gateway" in gateway._failed_reload.error
        assert gateway._health().last_reload_failed
        assert b"RELOADING=1" in systemd.recv(4096)
        assert b"READY=1" in systemd.recv(4096)


@pytest.mark.parametrize("error", [ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")])
def test_a_limit_of_open_files_that_cannot_be_raised_is_a_warning(
    everything: Site, monkeypatch: pytest.MonkeyPatch, said: list[str], error: Exception
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise error

    gateway = everything.start()
    gateway.startService()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert gateway.reload()
    assert any("open files are needed, the system allows 100" in line for line in said)


def test_files_that_others_can_use_are_warned_of_at_the_start_and_at_each_reload(site: Site, said: list[str]) -> None:
    (site.folder / "password").write_text("secret")
    site.sections["upstream:main"]["password_file"] = "password"
    site.write().chmod(0o600)
    (site.folder / "password").chmod(0o600)
    gateway = site.start()
    assert gateway.reload()
    assert [line for line in said if "can" in line] == []
    (site.folder / "password").chmod(0o644)
    (site.folder / "jwt.pub").chmod(0o666)
    for again in (1, 2):
        gateway.reload()
        assert len([line for line in said if line.startswith("[upstream:main] password_file: ")]) == again
        assert len([line for line in said if line.startswith("[jwt:main] public_keys: ")]) == again


def test_records_that_are_lost_show_in_the_health(everything: Site) -> None:
    everything.sections["audit"]["file"] = "/dev/full"
    everything.write()
    gateway = everything.start()
    gateway.startService()
    assert not gateway._health().audit_failing
    assert gateway.connections is not None
    gateway.connections.write_audit("{}")
    assert gateway._health().audit_failing


def test_what_is_about_to_expire_is_said_at_the_start_and_after_a_reload(everything: Site, said: list[str]) -> None:
    issue(CA, "localhost", sans=["localhost"], valid=(-20, 2.5)).write(everything.folder, "server")
    gateway = everything.start()
    assert said == []
    gateway.startService()
    (line,) = (line for line in said if "ends in 2 days" in line)
    assert str(everything.folder / "server.crt") in line
    said.clear()
    issue(CA, "localhost", sans=["localhost"]).write(everything.folder, "server")
    assert gateway.reload()
    assert [line for line in said if "ends in" in line] == []


def test_the_health_of_a_gateway_from_its_start_to_its_end(everything: Site) -> None:
    gateway = everything.start()
    assert not gateway._health().ready
    gateway.startService()
    assert gateway._health() == Health(ready=True, last_reload_failed=False, connections=0)
    near, far = socket.socketpair()
    health, client = socket.socketpair()
    gateway._accepted("https:main")(near, Address("192.0.2.1", 4711))
    gateway._accepted("health")(health, Address("127.0.0.1", 4711))
    assert gateway._health().connections == 1
    far.close()
    client.close()
    everything.reactor.settle()
    assert gateway._health().connections == 0
    gateway.stopService()
    assert not gateway._health().ready


def idle_upstream(gateway: Gateway) -> Transport:
    assert gateway.connections is not None
    near, far = socket.socketpair()
    transport = Transport(gateway.connections.poller, gateway._reactor, near, NOBODY)
    gateway.connections.pool.put("anything", transport)
    assert not transport.closed
    far.close()
    return transport


def test_a_reload_drops_idle_upstreams_and_the_end_takes_no_more(everything: Site, errors: list[str]) -> None:
    """They were verified with what was trusted then."""
    gateway = everything.start()
    gateway.startService()
    assert gateway.connections is not None
    pool = gateway.connections.pool
    transport = idle_upstream(gateway)
    everything.sections["limits"] = {"max_connections": "many"}
    everything.write()
    assert not gateway.reload()
    assert not transport.closed
    del everything.sections["limits"]
    everything.write()
    assert gateway.reload(), errors
    assert transport.closed
    transport = idle_upstream(gateway)
    gateway.stopService()
    assert transport.closed
    assert len(pool) == 0
    near, far = socket.socketpair()
    late = Transport(gateway.connections.poller, gateway._reactor, near, NOBODY)
    pool.put("anything", late)
    assert late.closed
    far.close()


@pytest.mark.parametrize("step", ["control", "listeners", "pool", "hub", "drain", "registry"])
def test_whatever_fails_at_the_end_keeps_nothing_else_from_it(
    things: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    things.sections["control"] = {"socket": "control.sock"}
    things.write()
    gateway = things.start()
    gateway.startService()
    connections, registry, hub = gateway.connections, gateway._registry, gateway._doors.hub
    assert connections is not None
    assert registry is not None
    assert hub is not None
    owner, name = {
        "control": (gateway._control, "stop"),
        "listeners": (gateway, "_stop_listening"),
        "pool": (connections.pool, "close_all"),
        "hub": (hub, "close"),
        "drain": (connections, "drain"),
        "registry": (registry, "stop"),
    }[step]
    ends: list[str] = []
    monkeypatch.setattr(gateway, "_stop_quickstart", lambda: ends.append("quickstart"))
    stop = getattr(owner, name)

    def fail(*arguments: object) -> NoReturn:
        stop(*arguments)
        raise RuntimeError("a bug")

    monkeypatch.setattr(owner, name, fail)
    if step == "listeners":
        monkeypatch.setattr(gateway, "_stop_listening", lambda chosen: fail(chosen) if chosen("health") else None)
    gateway.stopService().addCallback(lambda _: ends.append("all"))
    assert ends == ["quickstart", "all"]
    assert gateway._audit is not None
    assert gateway._audit._fd == -1
    assert connections.poller._epoll.closed
    with pytest.raises(Unavailable):
        registry.things.named("x")
    assert not (things.folder / "control.sock").exists()


def test_garbage_is_looked_for_rarely_once_it_runs(site: Site) -> None:
    gateway = site.start()
    before = gc.get_threshold()
    gateway.startService()
    assert gc.get_threshold() == before
    try:
        for call in site.reactor.when_running:
            call()
        assert gc.get_threshold()[0] >= 10_000
        assert gc.get_freeze_count() > 0
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


# --- a start that is refused ------------------------------------------------------------------------------------------


def test_each_problem_is_told_once_and_where_it_is(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    folder = site.folder
    site.sections["tls"] |= {"certificate": "none.crt", "client_certificate": "required"}
    site.sections["postgres:more"] = {"listen": f"127.0.0.1:{free_port()}", "rules": "allow all all all"}
    site.sections["upstream:main"] |= {"client_certificate": "none.crt", "client_key": "server.key"}
    site.sections["login:alice"] = {"certificate": "server.crt", "key": "none.key"}
    site.sections["login:bob"] = {"certificate": "server.crt"}
    site.write()
    with pytest.raises(SystemExit) as ended:
        site.start()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "[login:bob] key: is required with certificate",
        "[tls] client_ca: is required with client_certificate = required",
        f"[tls] certificate: {folder}/none.crt: No such file or directory",
        f"[upstream:main] client_certificate: {folder}/none.crt: No such file or directory",
        f"[login:alice] key: {folder}/none.key: No such file or directory",
    ]


# --- a start that is cut short ----------------------------------------------------------------------------------------


class Demo:
    """Stands for the quickstart; counts how often its server was stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stopped = 0
        self.application: Path | None = None
        self.during: Callable[[], object] = lambda: None
        monkeypatch.setattr(app, "prepare", self.prepare)

    def prepare(self, config: Config, _: Callable[[str], None]) -> Quickstart:
        self.during()
        running = ExitStack()
        running.callback(self.stop)
        return Quickstart(self.complete(config), "a banner", self.application, self.complete, running)

    def complete(self, config: Config) -> Config:
        upstream = Upstream("main", (Address("/run/.s.PGSQL.5432", 0),), ClientTLS(TLSMode.DISABLE))
        return replace(config, upstreams={"main": upstream}, jwt={"main": JWTSettings("main", ())})

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def demo(site: Site, monkeypatch: pytest.MonkeyPatch) -> Demo:
    site.guard_nothing()
    return Demo(monkeypatch)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_ends_the_start_ends_the_quickstart(
    site: Site, demo: Demo, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Gateway, "bind", fail)
    with pytest.raises(type(error)):
        site.start()
    assert demo.stopped == 1


def test_a_banner_that_nobody_reads_ends_the_quickstart(
    site: Site, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(app, "_say", fail)
    with pytest.raises(BrokenPipeError):
        site.start()
    assert demo.stopped == 1


def test_a_refused_start_ends_the_quickstart(
    site: Site, demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError((Problem("audit", "file", "no"),))

    monkeypatch.setattr(Gateway, "bind", fail)
    with pytest.raises(SystemExit):
        site.start()
    assert demo.stopped == 1
    assert capsys.readouterr().err == "[audit] file: no\n"


@pytest.mark.parametrize("number", ENDINGS, ids=lambda number: number.name)
def test_signals_before_the_reactor_runs(site: Site, demo: Demo, number: signal.Signals) -> None:
    """They wait for it, because it ends everything in order."""
    gateway = site.start()
    signal.raise_signal(signal.SIGHUP)
    assert site.reactor.when_running == []
    signal.raise_signal(number)
    assert site.reactor.when_running == [gateway._end]
    assert demo.stopped == 0
    gateway.stopService()
    assert demo.stopped == 1


@pytest.mark.parametrize("number", ENDINGS, ids=lambda number: number.name)
def test_signals_while_the_quickstart_is_made(site: Site, demo: Demo, number: signal.Signals) -> None:
    def during() -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(number)

    demo.during = during
    with pytest.raises(SystemExit) as ended:
        site.start()
    assert ended.value.code == 0


def test_programs_that_are_started_meanwhile_take_a_hangup(site: Site) -> None:
    """They would inherit a signal that is ignored; one that is caught is back to its default in them."""
    site.start()
    done = subprocess.run(["/bin/sh", "-c", "kill -HUP $$; echo ignored"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGHUP, b"")


def test_once_it_runs_its_own_signals_count(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = site.start()
    told: list[str] = []
    monkeypatch.setattr(gateway, "reload", lambda: told.append("reload"))
    monkeypatch.setattr(gateway, "_end", lambda: told.append("end"))
    gateway._catch_signals()
    for number in (signal.SIGHUP, *ENDINGS):
        signal.raise_signal(number)
    gateway._reactor.advance(0)
    assert told == ["reload", "end", "end"]


# --- the demo application ---------------------------------------------------------------------------------------------


class Application:
    """Stands for the demo application."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[object] = []
        self.gone: Deferred[None] = Deferred()

    def start(self, reactor: object) -> None:
        self.said.append(("start", reactor))

    def stop(self) -> Deferred[None]:
        self.said.append("stop")
        return self.gone


def test_the_demo_application_runs_as_long_as_the_gateway(
    site: Site, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Application] = []

    def make(path: Path) -> Application:
        made.append(Application(path))
        return made[-1]

    monkeypatch.setattr(demo_module, "DemoApplication", make)
    demo.application = site.folder / "demo.sock"
    gateway = site.start()
    (application,) = made
    assert (application.path, application.said) == (demo.application, [])
    gateway.startService()
    assert application.said == [("start", site.reactor)]
    ended: list[object] = []
    gateway.stopService().addCallback(ended.append)
    assert application.said[1:] == ["stop"]
    assert ended == []
    application.gone.callback(None)
    assert ended == [None]


def test_without_a_route_to_it_there_is_no_demo_application(
    site: Site, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "DemoApplication", lambda _: pytest.fail("it was made"))
    gateway = site.start()
    gateway.startService()
    ended: list[object] = []
    gateway.stopService().addCallback(ended.append)
    assert ended == [None]


def test_an_end_before_it_began_ends_the_demo_application_too(
    site: Site, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one: it has nothing to stop yet."""
    demo.application = site.folder / "demo.sock"
    gateway = site.start()
    ended: list[object] = []
    gateway.stopService().addCallback(ended.append)
    assert ended == [None]
    assert demo.stopped == 1


def test_what_only_the_demo_application_needs_is_not_asked_for() -> None:
    """It comes with the quickstart extra."""
    code = "import sys, gateway.app; sys.exit('h11' in sys.modules or 'wsproto' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- things and their hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def things(site: Site) -> Site:
    """MQTT alone, for the things of a registry, with the hub on disk."""
    write_pem(site.folder / "ca.crt", CA.certificate)
    site.sections = {
        "tls": {**site.sections["tls"], "client_certificate": "optional", "client_ca": "ca.crt"},
        "audit": site.sections["audit"],
        "registry": {"database": "registry.sqlite"},
        "hub": {"database": "hub.sqlite"},
        "mqtt:main": {"listen": local(), "rules": "allow all all"},
    }
    site.write()
    return site


def test_nothing_is_listened_to_before_the_things_are_known(things: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    known: Deferred[None] = Deferred()
    monkeypatch.setattr(Registry, "start", lambda _: known)
    gateway = things.start()
    gateway.startService()
    assert gateway._listeners == {}
    assert not gateway._health().ready
    known.callback(None)
    assert set(gateway._listeners.values()) == {"mqtt:main"}
    assert gateway._health().ready
    all_open(gateway)


def test_a_gateway_that_was_stopped_meanwhile_does_not_listen(things: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    known: Deferred[None] = Deferred()
    monkeypatch.setattr(Registry, "start", lambda _: known)
    gateway = things.start()
    gateway.startService()
    gateway.stopService()
    known.callback(None)
    assert gateway._listeners == {}


def test_things_that_cannot_be_read_end_the_start_with_a_status(
    things: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = things.start()
    (things.folder / "registry.sqlite").write_text("no database, whatever it is")
    triggers: list[tuple[object, ...]] = []
    ended: list[bool] = []
    monkeypatch.setattr(things.reactor, "addSystemEventTrigger", lambda *what: triggers.append(what), raising=False)
    monkeypatch.setattr(gateway, "_end", lambda: ended.append(True))
    gateway.startService()
    assert capsys.readouterr().err.startswith("[registry] database: ")
    assert triggers == [("after", "shutdown", os._exit, 1)]
    # A daemon that ends before it runs would keep whoever has started it waiting.
    assert ended == []
    things.reactor.when_running[-1]()
    assert ended == [True]
    assert gateway._listeners == {}
    assert not gateway._health().ready


def test_a_gateway_that_cannot_begin_to_listen_ends_with_a_status(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would live on without a listener, and nobody would know."""
    gateway = site.start()
    triggers: list[tuple[object, ...]] = []
    ended: list[bool] = []
    monkeypatch.setattr(site.reactor, "addSystemEventTrigger", lambda *what: triggers.append(what), raising=False)
    monkeypatch.setattr(gateway, "_end", lambda: ended.append(True))

    def fail(_: object) -> NoReturn:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Listener, "start", fail)
    gateway.startService()
    assert capsys.readouterr().err == "the gateway cannot begin to listen: [Errno 24] Too many open files\n"
    assert triggers == [("after", "shutdown", os._exit, 1)]
    site.reactor.when_running[-1]()
    assert ended == [True]


def test_the_registry_is_followed_until_the_end(things: Site) -> None:
    gateway = things.start()
    gateway.startService()
    registry = gateway._registry
    assert registry is not None
    assert registry.healthy
    assert registry.things.with_key(b"x" * 32) is None
    with open_ledger(RegistrySettings(things.folder / "registry.sqlite")) as ledger:
        record, key = ledger.create_thing("one")
    things.reactor.advance(1)
    found = registry.things.with_key(key.encode())
    assert found is not None
    assert found.id == record.id
    gateway.stopService()
    with pytest.raises(Unavailable):
        registry.things.named(record.id)


def test_the_hub_is_kept_across_a_reload_and_closed_at_the_end(things: Site, errors: list[str]) -> None:
    gateway = things.start()
    gateway.startService()
    hub = gateway._doors.hub
    assert hub is not None
    assert gateway.reload(), errors
    assert gateway._doors.hub is hub
    assert gateway._state.access["mqtt:main"].hub is hub
    hub.publish(Message("kept", b"kept", retain=True))
    gateway.stopService()
    # What it has is on disk, and nobody has the file any more.
    again = things.start()
    assert again._doors.hub is not None
    assert [one.message.payload for one in again._doors.hub.retained.entries() if one.message.topic == "kept"] == [
        b"kept"
    ]


def test_a_hub_file_that_cannot_be_used_is_told_with_the_rest(things: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (things.folder / "hub.sqlite").write_text("no database, whatever it is" * 100)
    (things.folder / "ca.crt").write_text("no certificate")
    with pytest.raises(SystemExit):
        things.start()
    hub, tls = sorted(capsys.readouterr().err.splitlines())
    assert hub.startswith(f"[hub] database: {things.folder / 'hub.sqlite'}: ")
    assert tls.startswith("[tls] client_ca: ")


def test_a_hub_belongs_to_one_process(things: Site, capsys: pytest.CaptureFixture[str]) -> None:
    things.start()
    things.sections["mqtt:main"]["listen"] = local()
    things.write()
    with pytest.raises(SystemExit):
        things.start()
    assert capsys.readouterr().err.startswith(f"[hub] database: {things.folder / 'hub.sqlite'}: ")


@pytest.mark.parametrize("how", ["certificate", "port"])
def test_a_start_that_fails_leaves_the_hub_to_the_next_one(things: Site, how: str) -> None:
    certificate = (things.folder / "server.crt").read_text()
    if how == "certificate":
        (things.folder / "server.crt").write_text("no certificate")
    with ExitStack() as stack:
        if how == "port":
            taken = stack.enter_context(socket.socket())
            host, _, port = str(things.sections["mqtt:main"]["listen"]).partition(":")
            taken.bind((host, int(port)))
            taken.listen()
        with pytest.raises(SystemExit):
            things.start()
    (things.folder / "server.crt").write_text(certificate)
    things.start()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("registry", "database", "other.sqlite"),
        ("registry", "stale_after", 7),
        ("hub", "max_queued", 5),
        ("hub", "database", "other.sqlite"),
    ],
)
def test_reload_with_another_registry_or_hub_is_refused(
    things: Site, errors: list[str], section: str, key: str, value: object
) -> None:
    gateway = things.start()
    before = gateway._state
    things.sections[section][key] = value
    things.write()
    assert not gateway.reload()
    (error,) = errors
    assert error.startswith(f"[{section}] database: a change in this section")
    assert "needs a restart" in error
    assert gateway._state is before


def test_a_reload_may_change_how_large_a_packet_may_be(things: Site, errors: list[str]) -> None:
    gateway = things.start()
    hub = gateway._doors.hub
    for size in (4096, 1_000_000):
        things.sections["mqtt:main"]["max_packet_size"] = size
        things.write()
        assert gateway.reload(), errors
        access = gateway._state.access["mqtt:main"]
        assert (access.max_packet, access.hub) == (size, hub)
    assert errors == []


@pytest.mark.parametrize("first", ["with", "without"])
def test_a_first_or_last_hub_needs_a_restart(things: Site, errors: list[str], first: str) -> None:
    far = {"upstream": "unix:/run/mq.sock"}
    if first == "without":
        things.sections["mqtt:main"].update(far)
        things.write()
    gateway = things.start()
    assert (gateway._doors.hub is None) == (first == "without")
    if first == "with":
        things.sections["mqtt:main"].update(far)
    else:
        del things.sections["mqtt:main"]["upstream"]
    things.write()
    assert not gateway.reload()
    (error,) = errors
    assert error.startswith("[hub] database: ")
    assert "a first or last hub" in error


class Nobody:
    """A client of the hub's that takes everything, and a permission that has everything."""

    def deliver(self, data: bytes) -> None:
        pass

    def congested(self) -> bool:
        return False

    def end(self, code: Reason, reason: str) -> None:
        pass

    def publish(self, topic: str) -> bool:
        return True

    def subscribe(self, topic_filter: str) -> bool:
        return True


def test_what_the_hub_has_kept_for_a_thing_goes_with_the_thing(things: Site) -> None:
    gateway = things.start()
    gateway.startService()
    hub = gateway._doors.hub
    assert hub is not None
    with open_ledger(RegistrySettings(things.folder / "registry.sqlite")) as ledger:
        names = [ledger.create_thing(name)[0].id for name in ("gone", "disabled")]
        things.reactor.advance(1)
        for name in names:
            attached = hub.attach(name, Connect(Version.V311, "c", clean_start=False), Nobody(), Nobody())
            attached.start()
            attached.detach(will=False)
        ledger.set_enabled(names[1], False)
        ledger.delete_thing(names[0])
    things.reactor.advance(1)
    assert [session.owner for session in hub.sessions] == [names[1]]


def test_health_says_how_the_registry_is(things: Site) -> None:
    gateway = things.start()
    assert gateway._health().registry is False
    gateway.startService()
    assert gateway._health().registry is True
    (things.folder / "registry.sqlite").write_text("no database, whatever it is" * 100)
    things.reactor.advance(1)
    assert gateway._health().registry is False


def test_health_says_nothing_of_a_registry_that_is_not_there(site: Site) -> None:
    assert site.start()._health().registry is None


def test_without_mqtt_there_is_no_hub(site: Site) -> None:
    gateway = site.start()
    assert gateway._doors.hub is None
    assert gateway._doors.things is None
    assert not (site.folder / "hub.sqlite").exists()


def test_a_hub_in_memory_leaves_no_file(things: Site) -> None:
    things.sections["hub"]["database"] = "memory"
    things.write()
    gateway = things.start()
    assert gateway._doors.hub is not None
    assert not (things.folder / "hub.sqlite").exists()
