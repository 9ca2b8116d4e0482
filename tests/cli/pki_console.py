"""`securegw pki` as tests call it: in an empty folder, without any configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from gateway.cli.main import NAME
from gateway.cli.pki import pki
from gateway.cli.settings import Installation
from tests.cli.console import framed

_FRAME = framed(pki)


@dataclass(frozen=True, slots=True)
class PKI:
    """here: where it is called. Its authority is in `pki`."""

    here: Path

    @property
    def folder(self) -> Path:
        return self.here / "pki"

    def run(self, *arguments: str, stdin: str | bytes = "") -> Result:
        installation = Installation(None, {}, self.here)
        result = CliRunner().invoke(_FRAME, ["pki", *arguments], input=stdin, prog_name=NAME, obj=installation)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "PRIVATE KEY" not in result.output
        return result

    def ok(self, *arguments: str, stdin: str | bytes = "") -> str:
        """What stands on standard output."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str, stdin: str | bytes = "") -> Any:
        return json.loads(self.ok(*arguments, "--json", stdin=stdin))

    def refused(self, *arguments: str, status: int = 1, stdin: str | bytes = "") -> str:
        """What stands on standard error; nothing has happened."""
        before = self.files()
        result = self.run(*arguments, stdin=stdin)
        assert (result.exit_code, result.stdout) == (status, ""), result.output
        assert self.files() == before
        return result.stderr

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.here)): path.read_bytes()
            for path in self.here.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    def write(self, name: str, content: str | bytes) -> str:
        """A file beside the folder, and its name."""
        (self.here / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name
