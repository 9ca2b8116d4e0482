"""The main job as a newcomer meets it: an INI without an upstream, one start, and the commands that it prints."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

import pytest

from tests.servers import free_port

TWISTD = Path(sys.executable).parent / "twistd"
README = (Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")
INI = """\
[quickstart]
directory = var
[postgres:main]
listen = 127.0.0.1:{}
[https:main]
listen = 127.0.0.1:{}
[route:main]
websocket = yes
"""


@contextmanager
def made_folder() -> Iterator[Path]:
    """Where root's server user can go too, as in most checkouts."""
    path = Path(tempfile.mkdtemp(prefix="securegw-test-"))
    path.chmod(0o711)
    (path / "gw.ini").write_text(INI.format(free_port(), free_port()))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with made_folder() as path:
        yield path


@contextmanager
def started(folder: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The running gateway, and the commands that it told us to paste: for PostgreSQL, and for HTTPS."""
    command = [str(TWISTD), "-n", "--pidfile=", "securegw", "-c", str(folder / "gw.ini")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environ) as process:
        assert process.stdout is not None
        try:
            said = takewhile(lambda line: "listening on" not in line, process.stdout)
            yield process, [line.strip() for line in said if line.startswith("    (set -a; ")]
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0


def shell(command: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, env=environ).stdout


def test_the_printed_commands_work(folder: Path, psql: Path) -> None:
    path = f"{psql.parent}:{os.environ['PATH']}"
    with started(folder, PATH=path) as (_, (database, web)):
        assert "psql -c" in database
        assert "boiler" in shell(f"PATH={path}; {database}")
        assert "curl --cacert" in web
        check_hello(shell(web), folder)


def test_the_printed_commands_work_without_psql_and_curl(folder: Path) -> None:
    with started(folder, PATH=str(folder)) as (_, (database, web)):
        assert "psycopg" in database
        assert "boiler" in shell(database)
        assert "urllib" in web
        check_hello(shell(web), folder)


def check_hello(answer: str, folder: Path) -> None:
    """The application has seen what the gateway adds."""
    found = json.loads(answer)
    assert (found["method"], found["path"]) == ("GET", "/hello")
    key = shell(f". {folder}/var/quickstart.env; echo $THING_KEY").strip()
    assert found["headers"]["Authorization"] == key
    assert found["headers"]["X-Forwarded-For"] == "127.0.0.1"
    assert found["headers"]["X-Forwarded-Proto"] == "https"
    assert found["headers"]["Client-Cert"].startswith(":MII")


def test_what_the_readme_says_works(folder: Path, psql: Path) -> None:
    shown = re.findall(r"^    (set -a; .*)$", README, re.MULTILINE)
    (python,) = re.findall(r"^    import os, ssl\n(?:    .*\n)+", README, re.MULTILINE)
    path = f"cd {folder}; PATH={psql.parent}:$PATH"
    with started(folder) as (_, pasted):
        assert len(shown) == len(pasted) == 2
        assert "boiler" in shell(f"{path}; {shown[0]}")
        check_hello(shell(f"{path}; {shown[1]}"), folder)
        variables = f"{path}; set -a; . var/quickstart.env; {shlex.quote(sys.executable)}"
        assert shell(f"{variables} -c {shlex.quote(dedent(python))}") == "hello\n"


def test_without_its_certificate_or_with_another_key_it_is_403(folder: Path) -> None:
    given = f'set -a; . {folder}/var/quickstart.env; curl -sw "%{{http_code}}" --cacert "$CA_FILE" "$HTTPS_URL/hello"'
    with started(folder):
        for more in ("", '--cert "$CERT_FILE" --key "$KEY_FILE" -H "Authorization: another"'):
            answer = shell(f"{given} {more}")
            assert answer.endswith("403")
            assert json.loads(answer.removesuffix("403"))


def test_the_applications_socket_ends_with_the_gateway(folder: Path) -> None:
    with started(folder):
        assert (folder / "var/run/demo").is_socket()
    assert not (folder / "var/run/demo").exists()


def test_the_server_ends_with_the_gateway(folder: Path) -> None:
    with started(folder) as (_, (database, _)):
        shell(database)
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
    with started(folder) as (_, (database, web)):
        assert (folder / "var/postgres/data/postmaster.pid").read_text().split()[0] == pid
        assert "boiler" in shell(database)
        check_hello(shell(web), folder)
