"""The main job as a newcomer meets it: an INI without an upstream, one start, and the commands that it prints."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

import pytest

from tests.gateways import PATIENCE
from tests.mosquitto import Mosquitto
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
[mqtt:main]
listen = 127.0.0.1:{}
[route:http]
path = /http
serve = channels
[route:ws]
path = /ws
serve = channels
"""


@contextmanager
def made_folder() -> Iterator[Path]:
    """Where root's server user can go too, as in most checkouts."""
    path = Path(tempfile.mkdtemp(prefix="securegw-test-"))
    path.chmod(0o711)
    (path / "gw.ini").write_text(INI.format(free_port(), free_port(), free_port()))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with made_folder() as path:
        yield path


@contextmanager
def started(folder: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The running gateway, and the commands to paste: for PostgreSQL, for HTTPS, and four for a channel."""
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
    with started(folder, PATH=path) as (_, (database, web, *_)):
        assert "psql -c" in database
        assert "boiler" in shell(f"PATH={path}; {database}")
        assert "curl --cacert" in web
        check_hello(shell(web), folder)


def test_the_printed_commands_work_without_psql_and_curl(folder: Path) -> None:
    with started(folder, PATH=str(folder)) as (_, (database, web, *_)):
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
    (python,) = re.findall(r"^    import asyncio, os, ssl\n(?:.*\n)+?    asyncio.run\(.*\n", README, re.MULTILINE)
    path = f"cd {folder}; PATH={psql.parent}:$PATH"
    with started(folder) as (_, pasted):
        assert (len(shown), len(pasted)) == (5, 6)
        assert "boiler" in shell(f"{path}; {shown[0]}")
        check_hello(shell(f"{path}; {shown[1]}"), folder)
        variables = f"{path}; set -a; . var/quickstart.env; {shlex.quote(sys.executable)}"
        assert shell(f"{variables} -c {shlex.quote(dedent(python))}") == "hello\n"


# --- a channel --------------------------------------------------------------------------------------------------------


@contextmanager
def listening(command: str) -> Iterator[queue.Queue[str]]:
    """What a command prints, line by line, while it runs."""
    lines: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(["/bin/sh", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True) as process:

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line.strip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield lines
        finally:
            process.terminate()
            reader.join(PATIENCE)


def say_until_heard(say: Callable[[str], object], *heard: queue.Queue[str]) -> None:
    """A listener needs a moment until it is subscribed, and some do not say when: what is said before is not for it."""
    for number in itertools.count():
        say(f"try {number}")
        if number > 100:
            raise AssertionError("it was never heard")
        try:
            for lines in heard:
                while f"try {number}" not in lines.get(timeout=0.3):
                    pass
        except queue.Empty:
            continue
        return


@pytest.fixture(params=["hub", "mosquitto"])
def destination(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What the environment says of where messages go."""
    if request.param == "hub":
        yield {}
        return
    with Mosquitto.running(request.getfixturevalue("mosquitto")) as broker:
        yield {
            "SECUREGW_MQTT_MAIN_UPSTREAM": f"{broker.host}:{broker.port}",
            "SECUREGW_MQTT_MAIN_TLS": "disable",
        }


def unwrapped(command: str, folder: Path) -> str:
    """The pasted line without its parentheses, in one shell that becomes the client."""
    given, _, client = command.strip("()").partition("; ")[2].partition("; ")
    assert given == f". {folder}/var/quickstart.env"
    return f"sh -c {shlex.quote(f'set -a; {given}; exec {client}')}"


def test_the_four_lines_of_a_channel_meet_each_other(
    folder: Path, destination: dict[str, str], mosquitto_clients: None
) -> None:
    with started(folder, **destination) as (_, (_, _, subscribe, publish, post, socket)):
        assert [line.split()[4].split("/")[-1] for line in (subscribe, publish, post)] == [
            "mosquitto_sub",
            "mosquitto_pub",
            "curl",
        ]
        with listening(unwrapped(subscribe, folder)) as mqtt, listening(unwrapped(socket, folder)) as websocket:
            say_until_heard(lambda text: shell(publish.replace("-m hello", f"-m {shlex.quote(text)}")), mqtt, websocket)
            say_until_heard(lambda text: shell(post.replace("-d hello", f"-d {shlex.quote(text)}")), mqtt, websocket)
            # What the WebSocket itself has said was said once, when it opened.
            with listening(unwrapped(socket, folder)) as another:
                while "hello" not in mqtt.get(timeout=PATIENCE):
                    pass
                while "hello" not in websocket.get(timeout=PATIENCE):
                    pass
                while "hello" not in another.get(timeout=PATIENCE):
                    pass


def test_what_the_readme_says_of_a_channel_works(folder: Path, mosquitto_clients: None) -> None:
    subscribe, publish, post = re.findall(r"^    (set -a; .*CHANNEL_ID.*|set -a; .*POST_URL.*)$", README, re.MULTILINE)
    with (
        started(folder),
        listening(f"sh -c {shlex.quote(f'cd {folder}; {subscribe}'.replace('; mosq', '; exec mosq'))}") as mqtt,
    ):
        say_until_heard(
            lambda text: shell(f"cd {folder}; {publish.replace('-m hello', f'-m {shlex.quote(text)}')}"), mqtt
        )
        say_until_heard(lambda text: shell(f"cd {folder}; {post.replace('-d hello', f'-d {shlex.quote(text)}')}"), mqtt)


def test_things_outlive_a_restart_and_keep_their_ids(folder: Path) -> None:
    def things() -> list[str]:
        command = f"{shlex.quote(sys.executable)} -m gateway.cli -c {folder}/gw.ini thing list --json"
        return sorted(thing["id"] for thing in json.loads(shell(command)))

    with started(folder):
        before = things()
    with started(folder):
        assert things() == before
    assert len(before) == 2


# --- the rest ---------------------------------------------------------------------------------------------------------


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
    with started(folder) as (_, (database, *_)):
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
    with started(folder) as (_, (database, web, *_)):
        assert (folder / "var/postgres/data/postmaster.pid").read_text().split()[0] == pid
        assert "boiler" in shell(database)
        check_hello(shell(web), folder)
