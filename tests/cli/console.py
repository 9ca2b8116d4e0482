"""The command as tests call it: in this process, and as one of its own where it has to be."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import click
from click.testing import CliRunner, Result

from gateway.cli.main import NAME, Frame, securegw
from gateway.registry.ledger import Ledger, open_ledger
from gateway.registry.settings import RegistrySettings

# The registry that is meant comes before the arguments.
_PROCESS = """
import sys
from pathlib import Path
from gateway.cli.main import main
from gateway.cli.settings import Installation
from gateway.registry.settings import RegistrySettings
settings = RegistrySettings(Path(sys.argv.pop(1)))
Installation.registry = lambda _: settings
main()
"""


def framed(command: click.Command) -> Frame:
    """That command alone, with an installation of the test's own. Whoever first asks a command for its help settles by
    which words that is done, so these have to be the real ones."""
    return Frame(NAME, commands=[command], context_settings=securegw.context_settings)


@dataclass(frozen=True, slots=True)
class Console:
    """settings: of the registry that it is about."""

    settings: RegistrySettings

    def run(self, *arguments: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(securegw, arguments, input=stdin, prog_name=NAME)

    def ok(self, *arguments: str, stdin: str | bytes = "") -> str:
        """What stands on standard output."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str, stdin: str | bytes = "") -> Any:
        return json.loads(self.ok(*arguments, "--json", stdin=stdin))

    def refused(self, *arguments: str, status: int = 1, stdin: str | bytes = "") -> str:
        """What stands on standard error; nothing stands on standard output."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.exit_code, result.stdout) == (status, "")
        return result.stderr

    def ledger(self) -> Ledger:
        return open_ledger(self.settings)

    def command(self, *arguments: str) -> list[str]:
        """For a process of its own."""
        return [sys.executable, "-c", _PROCESS, str(self.settings.database), *arguments]


def into_nowhere(command: list[str], closed: bool) -> subprocess.CompletedProcess[bytes]:
    """closed: a pipe that nobody reads; else a full disk."""
    if closed:
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open("/dev/full", os.O_WRONLY)
    try:
        return subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(theirs)


@dataclass(frozen=True, slots=True)
class OnTerminal:
    """shown: on the terminal, which is standard output."""

    status: int
    shown: str
    errors: str


def on_a_terminal(command: list[str]) -> OnTerminal:
    """A command whose output is short enough for the terminal to hold."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        os.set_blocking(ours, False)
        try:
            shown = os.read(ours, 65536).decode()
        except BlockingIOError:
            shown = ""
    finally:
        os.close(theirs)
        os.close(ours)
    return OnTerminal(done.returncode, shown, done.stderr)
