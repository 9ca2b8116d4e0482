"""Which configuration a command is about, and the registry that it names.

Owns the search for the INI, and which of its mistakes stop a command: those of the sections that it uses, or all of
them where it uses the whole. Refuses to guess: where the section that is meant is not there, any mistake could be why.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.errors import Failure
from gateway.cli.output import note
from gateway.errors import ConfigError, Problems

if TYPE_CHECKING:
    from gateway.registry.ledger import Ledger
    from gateway.registry.settings import RegistrySettings
    from gateway.settings import Config

VARIABLE: Final = "SECUREGW_CONFIG"
USUAL: Final = ("conf/gw.ini", "gw.ini")

# Where an INI that guards nothing is completed by the quickstart, these are in its folder: its registry, and the socket
# on which it can be asked.
_REGISTRY: Final = "registry.sqlite"
_CONTROL: Final = "control.sock"

# Section and key of what `config` finds where nothing would listen.
NO_LISTENER: Final = ("postgres:main", "section")


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
                if unusable := _unusable(self.folder / told):
                    raise Failure(f"{told}: {unusable} ({by})")
                return self.folder / told
        for usual in USUAL:
            if not _unusable(self.folder / usual):
                return self.folder / usual
        tried = " nor ".join(str(self.folder / usual) for usual in USUAL)
        raise Failure(f"no configuration: -c and ${VARIABLE} are not given, and there is neither {tried}")

    def ini_if_any(self) -> Path | None:
        """None: none was named, and none is where it usually is. Raises Failure if one was named that is not there."""
        try:
            return self.ini()
        except Failure:
            if self.config or self.environ.get(VARIABLE):
                raise
            return None

    def configuration(self) -> tuple[Path, Config]:
        """The INI and what it says, without what the quickstart would complete. Raises Failure, ConfigError."""
        path, config, problems = self.read()
        problems.raise_if_any()
        return path, config

    def read(self) -> tuple[Path, Config, Problems]:
        """The same with whatever is wrong with it, for `insist`. Of a file that cannot be read as a whole nothing is
        in the configuration. Raises Failure."""
        from gateway.config import load

        path, problems = self.ini(), Problems()
        return path, load(path, self.environ, self.folder, problems), problems

    def control(self) -> Path:
        """The Unix socket of the gateway that runs with this configuration, whatever else is wrong with it by now: a
        session can be killed while the INI is being edited. Raises Failure, ConfigError."""
        from gateway.upstream import MAX_SOCKET_PATH

        path, config, problems = self.read()
        if config.control is not None:
            return config.control
        if _is_registry_alone(config):
            raise Failure(f"{path}: has no listener, only a [registry], so no gateway runs with it")
        problems.raise_if_any()
        if config.configured or config.quickstart_directory is None:
            raise Failure(f"{path}: [control] socket is not given, so no gateway can be asked; add it, and restart")
        demo = config.quickstart_directory / _CONTROL
        if len(os.fsencode(demo)) > MAX_SOCKET_PATH:
            reason = f"is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have"
            raise Failure(f"{demo}: {reason}, so the quickstart has none; set [control] socket in {path}")
        return demo

    def registry(self) -> RegistrySettings:
        """Whatever is wrong with other sections: a thing can be disabled while the INI is being edited. An INI without
        a listener will do, too: it is that of somebody who may write the registry, where the gateways may only read it.
        Raises Failure, ConfigError."""
        from gateway.registry.settings import RegistrySettings

        path, config, problems = self.read()
        if _is_registry_alone(config):
            problems.found = [one for one in problems.found if (one.section, one.key) != NO_LISTENER]
        if config.registry is not None:
            insist(problems, ("registry",))
            return config.registry
        problems.raise_if_any()
        if config.configured or config.quickstart_directory is None:
            raise Failure(f"{path}: [registry] database is not given, so the gateway knows no things")
        demo = config.quickstart_directory / _REGISTRY
        if not demo.is_file():
            raise Failure(f"{demo}: is not there; start the gateway once with {path}, which makes it")
        return RegistrySettings(demo)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The registry, opened for a command. Raises Failure for whatever it refuses."""
        from gateway.registry.ledger import LedgerError, open_ledger

        try:
            with open_ledger(self.registry()) as ledger:
                yield ledger
        except LedgerError as error:
            raise Failure(str(error)) from error


def insist(problems: Problems, sections: Collection[str]) -> None:
    """Raises ConfigError for what is wrong with these sections; all else is one warning."""
    ours = tuple(one for one in problems.found if one.section in sections)
    others = [one for one in problems.found if one.section not in sections]
    if others:
        many = f"{len(others)} other mistake{'s' if len(others) > 1 else ''}"
        note(f"Warning: the configuration has {many} (securegw check): {others[0]}")
    if ours:
        raise ConfigError(ours)


def _unusable(path: Path) -> str | None:
    """Why that is no INI. What may not be looked at could be one, and whoever reads it hears why he may not: to go on
    as if there were none would be to guess."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except OSError:
        return None
    if stat.S_ISDIR(mode):
        return "is a folder: name the file in it"
    return None if stat.S_ISREG(mode) else "is not a file"


def _is_registry_alone(config: Config) -> bool:
    """Nothing would listen, and there is no word of what would."""
    return config.registry is not None and not (config.postgres or config.https or config.mqtt or config.tunnels)
