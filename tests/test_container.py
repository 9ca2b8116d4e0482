"""The Containerfile, as far as it can be judged without building it: what it copies makes the program, what it starts
starts, its health check tells the truth, and nothing in it is root's business."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest

from gateway.app import Options
from tests.gateways import PATIENCE, RunningGateway
from tests.http_servers import WebService

ROOT = Path(__file__).parent.parent
Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """By FROM: the instructions, without comments and with their lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Containerfile").read_text())
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append((word, rest))
    return found


BUILD, IMAGE = stages()


def of(stage: list[Instruction], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def environment() -> dict[str, str]:
    pairs = " ".join(of(IMAGE, "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


def copied() -> list[tuple[list[str], str]]:
    """Out of the repository: sources, and the target."""
    lines = [rest.split() for rest in of(BUILD, "COPY")]
    return [(sources, target) for *sources, target in lines]


def test_both_stages_are_of_one_pinned_image_that_has_our_python() -> None:
    (build,), (image,) = of(BUILD, "FROM"), of(IMAGE, "FROM")
    assert build == f"{image} AS build", "a virtual environment works with the Python that made it"
    found = re.fullmatch(r"docker\.io/library/python:(\d+)\.(\d+)-slim-bookworm", image)
    assert found, "a tag that says the version, and a full name: podman asks no other registry"
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    tested = re.findall(r"(?m)^Programming Language :: Python :: (3\.\d+)$", setup["metadata"]["classifiers"])
    assert f"{found[1]}.{found[2]}" in tested
    assert setup["options"]["python_requires"] == f">={tested[0]}"


def test_nothing_is_built_and_nothing_is_root_in_the_image() -> None:
    (user,) = of(IMAGE, "USER")
    assert re.fullmatch(r"([1-9]\d+):\1", user), "a number: runAsNonRoot understands no name"
    assert of(IMAGE, "COPY") == ["--from=build /opt/securegw /opt/securegw"]
    assert not any(re.search(r"\bpip\b|apt", run) for run in of(IMAGE, "RUN"))
    assert any("pip uninstall" in run for run in of(BUILD, "RUN"))
    assert of(IMAGE, "VOLUME") == ['["/var/lib/securegw"]']
    (owned,) = of(IMAGE, "RUN")
    assert f"-o {user.partition(':')[0]} -g {user.partition(':')[2]} /var/lib/securegw" in owned
    assert of(IMAGE, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("source", [source for sources, _ in copied() for source in sources])
def test_what_is_copied_is_there_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in (ROOT / ".containerignore").read_text().splitlines()


def test_what_is_ignored_is_everything_else() -> None:
    ignored = [line for line in (ROOT / ".containerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    wanted = {source for sources, _ in copied() for source in sources}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == wanted
    assert any(fnmatch("gateway/net/__pycache__", line) for line in ignored[1:])


def test_what_is_copied_makes_the_program(tmp_path: Path) -> None:
    for sources, target in copied():
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache")
                )
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    building = [sys.executable, "-c", "import setuptools; setuptools.setup()", "egg_info", "build", "--build-lib=built"]
    subprocess.run(building, cwd=tmp_path, check=True, capture_output=True)
    built = tmp_path / "built"
    packed = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    assert "securegw = gateway.cli.main:main" in (tmp_path / "securegw.egg-info/entry_points.txt").read_text()
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "gateway").rglob("*.py")}
    assert ours | {"twisted/plugins/securegw_plugin.py", "gateway/py.typed"} <= packed
    assert "twisted/plugins/__init__.py" not in packed


def test_what_is_installed_is_what_was_tested() -> None:
    assert any("--constraint constraints.txt ." in run for run in of(BUILD, "RUN"))
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = re.findall(r"(?m)^([A-Za-z0-9_-]+)", setup["options"]["install_requires"].replace(" ", ""))
    pinned = re.findall(r"(?m)^([\w-]+)==", (ROOT / "constraints.txt").read_text())
    known = {name.lower().replace("_", "-") for name in pinned}
    assert {name.lower().replace("_", "-") for name in needed} <= known


def test_what_it_starts() -> None:
    (entry,), (command,) = of(IMAGE, "ENTRYPOINT"), of(IMAGE, "CMD")
    program, *arguments = json.loads(entry)
    assert (Path(program).name, arguments) == ("twistd", ["--nodaemon", "--pidfile=", "securegw"])
    options = Options()
    options.parseOptions(json.loads(command))
    assert options["config"] == environment()["SECUREGW_CONFIG"]
    ports = set(of(IMAGE, "EXPOSE")[0].split())
    assert ports == set(re.findall(r"(?m)^listen = 127\.0\.0\.1:(\d+)$", (ROOT / "conf/gw.ini").read_text()))


def health_check() -> list[str]:
    """Its command, with the Python that runs this test."""
    (told,) = of(IMAGE, "HEALTHCHECK")
    program, *arguments = json.loads(told[told.index("CMD ") + len("CMD ") :])
    assert program == "/opt/securegw/bin/python"
    return [sys.executable, *arguments]


def healthy(address: str) -> int:
    return subprocess.run(
        health_check(), env={"SECUREGW_HEALTH_LISTEN": address}, capture_output=True, timeout=PATIENCE, check=False
    ).returncode


def test_the_health_check_tells_the_truth(tmp_path: Path) -> None:
    variable = "SECUREGW_HEALTH_LISTEN"
    assert environment()[variable].startswith("127.0.0.1:")
    with WebService.running() as web:
        made = RunningGateway.made_https(tmp_path, {"route:main": {"upstream": f"http://localhost:{web.port}"}})
        address = f"127.0.0.1:{made.health_port}"
        # Said by the environment alone, as in the container.
        del made.sections["health"]
        made.environ[variable] = address
        with made.for_a_while():
            assert healthy(address) == 0
        assert healthy(address) == 1
        web.scripts["/.well-known/securegw/health"] = lambda caller, _: caller.send(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        )
        assert healthy(f"127.0.0.1:{web.port}") == 1, "as the gateway says while it ends"
