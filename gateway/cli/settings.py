"""Which configuration a command is about, and the registry that it names.

Owns the search for the INI. Refuses one that has any mistake, as the gateway itself does: it could be about another
registry than the one that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.errors import Failure
from gateway.errors import Problems

if TYPE_CHECKING:
    from gateway.registry.ledger import Ledger
    from gateway.registry.settings import RegistrySettings

VARIABLE: Final = "SECUREGW_CONFIG"
USUAL: Final = ("conf/gw.ini", "gw.ini")

# Where an INI that guards nothing is completed by the quickstart, this is its registry, in its folder.
_QUICKSTART: Final = "registry.sqlite"


@dataclass(frozen=True, slots=True)
class Installation:
    """Where a command was called. config: what was given for -c. folder: absolute; paths are meant from here."""

    config: str | None
    environ: Mapping[str, str]
    folder: Path

    def ini(self) -> Path:
        """Raises Failure if there is none, with all that were tried."""
        for told, by in ((self.config, "-c"), (self.environ.get(VARIABLE), f"${VARIABLE}")):
            if told:
                if not (self.folder / told).is_file():
                    raise Failure(f"{told}: there is no such file ({by})")
                return self.folder / told
        for usual in USUAL:
            if (self.folder / usual).is_file():
                return self.folder / usual
        tried = " nor ".join(str(self.folder / usual) for usual in USUAL)
        raise Failure(f"no configuration: -c and ${VARIABLE} are not given, and there is neither {tried}")

    def registry(self) -> RegistrySettings:
        """Raises Failure, ConfigError."""
        from gateway.config import load  # noqa: PLC0415 - a shell that completes a word does not wait for this
        from gateway.registry.settings import RegistrySettings  # noqa: PLC0415 - nor for this

        path, problems = self.ini(), Problems()
        config = load(path, self.environ, self.folder, problems)
        problems.raise_if_any()
        if config.registry is not None:
            return config.registry
        if config.configured or config.quickstart_directory is None:
            raise Failure(f"{path}: [registry] database is not given, so the gateway knows no things")
        demo = config.quickstart_directory / _QUICKSTART
        if not demo.is_file():
            raise Failure(f"{demo}: is not there; start the gateway once with {path}, which makes it")
        return RegistrySettings(demo)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The registry, opened for a command. Raises Failure for whatever it refuses."""
        from gateway.registry.ledger import LedgerError, open_ledger  # noqa: PLC0415 - the same

        try:
            with open_ledger(self.registry()) as ledger:
                yield ledger
        except LedgerError as error:
            raise Failure(str(error)) from error
