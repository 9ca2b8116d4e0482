"""The main job as a newcomer meets it: an INI without an upstream, one start, and the command that it prints."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import free_port

TWISTD = Path(sys.executable).parent / "twistd"


@contextmanager
def made_folder() -> Iterator[Path]:
    """Where root's server user can go too, as in most checkouts."""
    path = Path(tempfile.mkdtemp(prefix="securegw-test-"))
    path.chmod(0o711)
    (path / "gw.ini").write_text(f"[quickstart]\ndirectory = var\n[postgres:main]\nlisten = 127.0.0.1:{free_port()}\n")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with made_folder() as path:
        yield path


@contextmanager
def started(folder: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running gateway, and the command that it told us to paste."""
    command = [str(TWISTD), "-n", "--pidfile=", "securegw", "-c", str(folder / "gw.ini")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environ) as process:
        assert process.stdout is not None
        try:
            pasted = next(line.strip() for line in process.stdout if line.startswith("    (set -a; "))
            next(line for line in process.stdout if "listening on" in line)
            yield process, pasted
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0


def shell(command: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, env=environ).stdout


def test_the_printed_command_reads_the_demo_rows(folder: Path, psql: Path) -> None:
    path = f"{psql.parent}:{os.environ['PATH']}"
    with started(folder, PATH=path) as (_, pasted):
        assert "psql -c" in pasted
        assert "boiler" in shell(f"PATH={path}; {pasted}")


def test_the_printed_command_works_without_psql(folder: Path) -> None:
    with started(folder, PATH=str(folder)) as (_, pasted):
        assert "psycopg" in pasted
        assert "boiler" in shell(pasted)


def test_the_server_ends_with_the_gateway(folder: Path) -> None:
    with started(folder) as (_, pasted):
        shell(pasted)
        assert list(folder.glob("var/postgres/run/.s.PGSQL.*"))
    assert not list(folder.glob("var/postgres/run/.s.PGSQL.*"))


@pytest.mark.parametrize("line", ["quickstart: making a PostgreSQL", "    (set -a; "])
def test_a_start_that_is_ended_leaves_no_server(line: str) -> None:
    """While its server is made for the first time; and, with the banner, just before the gateway runs."""
    with made_folder() as folder:
        command = [str(TWISTD), "-n", "--pidfile=", "securegw", "-c", str(folder / "gw.ini")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            next(said for said in process.stdout if said.startswith(line))
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
        assert process.returncode == 0
        assert not list(folder.glob("var/postgres/run/.s.PGSQL.*"))


def test_a_killed_gateway_is_followed_by_one_that_takes_its_server_over(folder: Path) -> None:
    with pytest.raises(AssertionError), started(folder) as (process, _):
        process.kill()
        process.wait()
    pid = (folder / "var/postgres/data/postmaster.pid").read_text().split()[0]
    with started(folder) as (_, pasted):
        assert (folder / "var/postgres/data/postmaster.pid").read_text().split()[0] == pid
        assert "boiler" in shell(pasted)
