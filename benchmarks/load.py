"""The loads that are C programs: building one, the cores it runs on, and running it while somebody watches the server.

A load connects, does a little, prints `ready`, waits for a line, does its part, prints its figures as one line of JSON
and waits for the end of its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.measure import SLACK_SECONDS, Figures
from benchmarks.peers import ROOT, MissingError, clean_environment

Seen = TypeVar("Seen")

BUILD_SECONDS = 120.0


def build(name: str, folder: Path) -> Path:
    program = folder / name
    command = ["cc", "-O2", "-std=gnu11", "-o", str(program), str(ROOT / "benchmarks" / f"{name}.c")]
    try:
        subprocess.run(
            [*command, "-lssl", "-lcrypto"], check=True, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
    except FileNotFoundError:
        raise MissingError("a C compiler (apt-get install gcc libssl-dev)") from None
    except subprocess.CalledProcessError as failure:
        raise MissingError(f"{name} does not build (apt-get install libssl-dev)\n{failure.stderr[-2000:]}") from None
    return program


def shares() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first core for the proxy, the others for load and upstream; nothing is said where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return (), ()
    return ("taskset", "-c", str(cores[0])), ("taskset", "-c", ",".join(map(str, cores[1:])))


def drive(command: list[str], seconds: float, look: Callable[[], Seen]) -> tuple[Figures, Seen, Seen]:
    """Runs a load: what it told, and what `look` saw before and after. A RuntimeError holds its last words."""
    child = subprocess.Popen(
        command,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    alarm = threading.Timer(seconds + 2 * SLACK_SECONDS, child.kill)
    alarm.start()
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError(child.communicate()[1])
        before = look()
        child.stdin.write("go\n")
        child.stdin.flush()
        said = child.stdout.readline()
        after = look()
        if not said:
            raise RuntimeError(child.communicate()[1])
        child.communicate()
    finally:
        alarm.cancel()
        child.kill()
        child.wait()
    told: Figures = json.loads(said)
    return told, before, after
