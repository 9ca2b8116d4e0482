"""The reader's terminals: one that commands are typed into, in their order, and others in which something goes on.

Owns their processes, each a group of its own, and their end.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final, Self

import psutil

# For one block; nothing takes so long unless something is broken.
PATIENCE: Final = 30.0


@dataclass(slots=True)
class Shell:
    """An interactive one in which an unset variable or a failure, unless it is expected, is the end."""

    process: subprocess.Popen[bytes]
    notes: Path

    @classmethod
    def opened(cls, folder: Path, notes: Path, environ: Mapping[str, str]) -> Self:
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return cls(process, notes)

    def type(self, commands: str, name: str, *, refused: bool) -> tuple[bool, str]:
        """Whether it went as expected, and what was printed."""
        script, output = self.notes / name, self.notes / f"{name}.out"
        script.write_text(commands, "utf-8")
        # A subshell, since what is refused must not end the reader's own.
        body = f"set +eu; (set -eu; . {script})" if refused else f"set -eu; . {script}"
        assert self.process.stdin is not None
        self.process.stdin.write(f"{{ {body}; }} >{output} 2>&1 </dev/null; echo $?\n".encode())
        self.process.stdin.flush()
        status = self._status()
        expected = status not in ("", "0") if refused else status == "0"
        return expected, output.read_text("utf-8", "replace")

    def _status(self) -> str:
        """Of the last command; empty if the shell has ended, or does not come to an end."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        return self.process.stdout.readline().decode().strip() if ready else ""

    def close(self) -> None:
        _end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass(slots=True)
class Running:
    """What goes on in another terminal; a real one, since programs may keep to themselves what nobody watches."""

    process: subprocess.Popen[bytes]
    watching: Thread
    screen: bytearray

    @classmethod
    def started(cls, command: str, folder: Path, environ: Mapping[str, str]) -> Self:
        ours, its = os.openpty()
        process = subprocess.Popen(
            ["bash", "-euc", command],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        screen = bytearray()
        watching = Thread(target=_watch, args=(ours, screen), daemon=True)
        watching.start()
        return cls(process, watching, screen)

    def said(self) -> str:
        return bytes(self.screen).decode("utf-8", "replace").replace("\r\n", "\n")

    def saw(self, expected: re.Pattern[str]) -> bool:
        """Whether it says that, in time."""
        return self._until(lambda: expected.search(self.said()) is not None)

    def listens(self) -> bool:
        """Whether anything in it listens, in time."""
        return self._until(self._listens)

    def stop(self) -> None:
        """Tells it to end, and does not wait for it."""
        _stop(self.process)

    def close(self) -> None:
        _end(self.process)
        self.watching.join(PATIENCE)

    def _until(self, true: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.watching.join(1)
                return true()
            time.sleep(0.02)
        return True

    def _listens(self) -> bool:
        try:
            own = psutil.Process(self.process.pid)
            family = [own, *own.children(recursive=True)]
            return any(one.status == psutil.CONN_LISTEN for each in family for one in each.net_connections("tcp"))
        except psutil.NoSuchProcess:
            return False


def _watch(ours: int, screen: bytearray) -> None:
    """Until nobody has the terminal any more, which Linux tells as an error (EIO)."""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
        while data := terminal.read(4096):
            screen.extend(data)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to it and to all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """What is still there after PATIENCE is killed."""
    _stop(process)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
