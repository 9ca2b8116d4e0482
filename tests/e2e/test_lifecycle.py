"""The gateway's life as a process: start, refusal to start, orderly end, sudden end, and as a daemon."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from tests.gateways import PATIENCE, TWISTD, RunningGateway, behind, wait_until
from tests.raw_client import SSL_REQUEST, RawClient, error_fields, query
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"


@pytest.fixture
def server(embedded_postgres: PostgresServer) -> Iterator[PostgresServer]:
    embedded_postgres.make_role("alice", PASSWORD)
    yield embedded_postgres
    # A query that never writes does not notice that its client is gone.
    embedded_postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    wait_until(lambda: not embedded_postgres.connections(), "the upstream is rid of everybody")


def made(server: PostgresServer, folder: Path, **gateway: object) -> RunningGateway:
    return RunningGateway.made(
        folder, {"upstream:main": behind(server, password=PASSWORD), "gateway": {"shutdown_grace": 20, **gateway}}
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, gateway: RunningGateway) -> RunningGateway:
    gateway.start()
    assert gateway.process is not None
    stack.callback(gateway.process.wait)
    stack.callback(gateway.process.kill)
    return gateway


def session(stack: ExitStack, gateway: RunningGateway) -> RawClient:
    client = stack.enter_context(RawClient.connected(gateway.port, gateway.root_certificate))
    client.log_in("alice", gateway.token("alice"))
    return client


def end(gateway: RunningGateway, number: int) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(number)


def status(gateway: RunningGateway) -> int:
    assert gateway.process is not None
    return gateway.process.wait(PATIENCE)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def sleepers(server: PostgresServer, count: int) -> None:
    sleeping = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: server.sql(sleeping) == [(count,)], f"{count} queries run")


def last_words(client: RawClient) -> str:
    """The SQLSTATE of the FATAL with which the gateway takes leave: the last message."""
    messages = list(client.messages())
    assert messages, "closed without a word"
    kind, body = messages[-1]
    assert kind == b"E"
    fields = error_fields(body)
    assert fields["S"] == "FATAL"
    return fields["C"]


# --- an orderly end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_orderly_end(server: PostgresServer, tmp_path: Path, stack: ExitStack, number: int) -> None:
    gateway = started(stack, made(server, tmp_path))
    idle, busy, in_login, in_clear = (
        session(stack, gateway),
        session(stack, gateway),
        stack.enter_context(RawClient.connected(gateway.port, gateway.root_certificate)),
        stack.enter_context(closing(RawClient(gateway.port))),
    )
    busy.send(query("SELECT pg_sleep(1)"))
    sleepers(server, 1)
    began = time.monotonic()
    end(gateway, number)
    assert idle.refusal()["C"] == "57P01"
    assert time.monotonic() < began + 0.9, "the idle session waited for the busy one"
    assert in_login.refusal()["C"] == "57P01"
    assert in_clear.refusal()["C"] == "57P01"
    assert refuses(gateway.port)
    assert [kind for kind, _ in busy.until(b"Z")] == [b"T", b"D", b"C", b"Z"]
    assert busy.refusal()["C"] == "57P01"
    assert status(gateway) == 0
    assert time.monotonic() < began + 10
    reasons = [record["reason"] for record in gateway.audit() if "alice" in record.get("subject", "")]
    assert reasons == ["the gateway is shutting down"] * 2
    assert "Traceback" not in gateway.log.read_text()


def test_busier_than_the_grace(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    gateway = started(stack, made(server, tmp_path, shutdown_grace=1))
    busy = session(stack, gateway)
    in_result = session(stack, gateway)
    busy.send(query("SELECT pg_sleep(60)"))
    in_result.send(query("SELECT repeat('x', 100000) FROM generate_series(1, 100000)"))
    assert in_result.read() is not None
    sleepers(server, 1)
    began = time.monotonic()
    end(gateway, signal.SIGTERM)
    assert last_words(busy) == "57P01"
    assert 0.9 < time.monotonic() - began < 8
    in_result.close()
    assert status(gateway) == 0
    assert time.monotonic() < began + 15
    assert "Traceback" not in gateway.log.read_text()


def test_session_in_a_transaction(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    """It may be ended between two requests, once it has had its grace: the client waits for nothing."""
    gateway = started(stack, made(server, tmp_path, shutdown_grace=1))
    client = session(stack, gateway)
    client.ask("BEGIN")
    end(gateway, signal.SIGTERM)
    assert client.refusal()["C"] == "57P01"
    assert status(gateway) == 0


def test_second_signal_does_not_wait(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    gateway = started(stack, made(server, tmp_path))
    session(stack, gateway).send(query("SELECT pg_sleep(20)"))
    sleepers(server, 1)
    end(gateway, signal.SIGTERM)
    wait_until(lambda: refuses(gateway.port), "it is stopping")
    end(gateway, signal.SIGTERM)
    assert status(gateway) != 0


def test_kill_and_restart(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    gateway = started(stack, made(server, tmp_path))
    client = session(stack, gateway)
    end(gateway, signal.SIGKILL)
    assert status(gateway) == -signal.SIGKILL
    assert client.read() is None
    started(stack, gateway)
    assert session(stack, gateway).value("SELECT 1") == "1"
    assert gateway.stop() == 0


# --- a start that is refused ------------------------------------------------------------------------------------------


def refused_start(gateway: RunningGateway) -> list[str]:
    """The lines it says, when it must not start."""
    gateway.start(wait=False)
    assert status(gateway) == 1
    text = gateway.log.read_text()
    assert "Traceback" not in text
    assert "Unhandled" not in text
    return text.splitlines()


def test_failed_bind(server: PostgresServer, tmp_path: Path) -> None:
    gateway = made(server, tmp_path)
    second = free_port()
    gateway.sections["postgres:main"]["listen"] = f"127.0.0.1:{second}, 127.0.0.1:{gateway.port}"
    with socket.create_server(("127.0.0.1", gateway.port)):
        lines = refused_start(gateway)
    assert lines == [f"[postgres:main] listen: 127.0.0.1:{gateway.port}: Address already in use"]
    assert refuses(second)


def test_configuration_errors_all_at_once(server: PostgresServer, tmp_path: Path) -> None:
    gateway = made(server, tmp_path)
    (tmp_path / "bad.pub").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    gateway.sections["limits"] = {"max_connection": 5, "idle_timeout": "soon"}
    gateway.sections["tls"]["certificate"] = "missing.crt"
    gateway.sections["jwt:main"]["public_keys"] = "bad.pub"
    gateway.sections["postgres:main"]["rules"] = "\nallow all all 10.0.0.1/8"
    gateway.sections["upstrem:other"] = {"hosts": "db"}
    gateway.sections["upstream:main"]["password_file"] = "missing.secret"
    lines = refused_start(gateway)
    places = [line.partition(": ")[0] for line in lines]
    assert set(places) == {
        "[limits] max_connection",
        "[limits] idle_timeout",
        "[tls] certificate",
        "[jwt:main] public_keys",
        "[postgres:main] rules, line 1",
        "[upstrem:other] section",
        "[upstream:main] password_file",
    }
    assert all(line.partition(": ")[2] for line in lines)
    assert PASSWORD not in "".join(lines)
    assert refuses(gateway.port)


def test_key_of_another_certificate(server: PostgresServer, tmp_path: Path) -> None:
    gateway = made(server, tmp_path)
    other = RunningGateway.made(tmp_path / "other", {})
    gateway.sections["tls"]["key"] = other.folder / "server.key"
    (line,) = refused_start(gateway)
    assert line.startswith("[tls] key: ")
    assert refuses(gateway.port)


def test_missing_ini(tmp_path: Path) -> None:
    command = [str(TWISTD), "-n", f"--pidfile={tmp_path / 'pid'}", "securegw", "-c", str(tmp_path / "none.ini")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"[{tmp_path / 'none.ini'}] file: No such file or directory"]


def test_no_configuration_at_all(tmp_path: Path) -> None:
    command = [str(TWISTD), "-n", f"--pidfile={tmp_path / 'pid'}", "securegw"]
    environ = {name: value for name, value in os.environ.items() if "__" not in name}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environ
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "twistd securegw -c conf/gw.ini" in done.stderr


def test_audit_file_that_cannot_be_opened(server: PostgresServer, tmp_path: Path) -> None:
    gateway = made(server, tmp_path)
    gateway.sections["audit"]["file"] = "missing/audit.jsonl"
    (line,) = refused_start(gateway)
    assert line.startswith("[audit] file: ")
    assert refuses(gateway.port)


# --- as a command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["securegw", "--help"]], ids=" ".join)
def test_help(arguments: list[str], tmp_path: Path) -> None:
    command = [str(TWISTD), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "securegw" in done.stdout
    if len(arguments) > 1:
        assert "--config=" in done.stdout
        assert "HUP" in done.stdout


def test_daemon(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    """Without -n: it goes to the background, to another directory, and the audit goes to its log file."""
    gateway = made(server, tmp_path)
    gateway.sections["audit"]["file"] = "-"
    pid_file, log = tmp_path / "gateway.pid", tmp_path / "gateway.log"
    gateway.write_ini()
    command = [str(TWISTD), f"--pidfile={pid_file}", f"--logfile={log}", "securegw", "-c", "gw.ini"]
    subprocess.run(command, cwd=tmp_path, timeout=PATIENCE, check=True, stdin=subprocess.DEVNULL)
    wait_until(pid_file.exists, "it wrote its pid")
    process = psutil.Process(int(pid_file.read_text()))
    stack.callback(lambda: process.kill() if process.is_running() else None)
    wait_until(lambda: not refuses(gateway.port), "it listens")
    client = session(stack, gateway)
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in log.read_text(), "its relative paths still mean the same")
    process.send_signal(signal.SIGTERM)
    assert client.refusal()["C"] == "57P01"
    wait_until(lambda: not process.is_running(), "it has ended")
    assert not pid_file.exists()
    text = log.read_text()
    assert '"event":"open"' in text
    assert '"reason":"the gateway is shutting down"' in text
    assert "Traceback" not in text


def test_unix_socket(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    """TLS and a token all the same; after a kill the socket left over is replaced, but a live one is not."""
    gateway = made(server, tmp_path)
    path = tmp_path / ".s.PGSQL.6432"
    gateway.sections["postgres:main"]["listen"] = f"127.0.0.1:{gateway.port}, {tmp_path}:6432"
    gateway.sections["postgres:main"]["rules"] = "\nallow postgres alice local"
    started(stack, gateway)
    with closing(RawClient(path, gateway.root_certificate)) as plain:
        plain.send_raw(SSL_REQUEST[:4] + bytes(4))
        assert plain.read() is not None
    with RawClient.connected(path, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice"))
        assert client.value("SELECT current_user") == "alice"
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send_login("alice", gateway.token("alice"))
        assert client.refusal()["C"] == "28000"
    second = made(server, tmp_path / "second")
    second.sections["postgres:main"]["listen"] = f"{tmp_path}:6432"
    assert refused_start(second) == [f"[postgres:main] listen: {path}: Address already in use"]
    end(gateway, signal.SIGKILL)
    status(gateway)
    assert path.is_socket()
    started(stack, gateway)
    with RawClient.connected(path, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice"))
    assert gateway.stop() == 0
