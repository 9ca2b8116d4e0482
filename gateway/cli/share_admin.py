"""What the commands about shares have in common: which server, as which of its administrators, and what people add."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gateway.cli import files
from gateway.cli.errors import Failure
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.settings import Config
    from gateway.share.administrator import Administrator
    from gateway.share.share import Record, Share
    from gateway.upstream import Login, Upstream

Result = TypeVar("Result")

# Where PostgreSQL's own tools look first; every server has it.
MAINTENANCE: Final = "postgres"

maintenance = click.option(
    "--database",
    metavar="NAME",
    default=MAINTENANCE,
    help=f"Any database of the server that ROLE may connect to. Default: {MAINTENANCE}.",
)


@dataclass(frozen=True, slots=True)
class Who:
    """What was said: the administrator's role, the file of its password, and the upstream's name."""

    upstream: str
    role: str
    password_file: str | None


def admin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command gets what they say as `who`."""

    @wraps(command)
    def gathered(*given: Any, upstream: str, admin: str, password_file: str | None, **more: Any) -> Any:
        return command(*given, who=Who(upstream, admin, password_file), **more)

    for option in (
        click.option(
            "--password-file",
            metavar="FILE",
            help="The password of ROLE is the one line of FILE (- is standard input). Default: what the INI says.",
        ),
        click.option(
            "--as", "admin", metavar="ROLE", default="postgres", help="The administrator's role. Default: postgres."
        ),
        click.option(
            "--upstream", metavar="NAME", default="main", help="The server is that of [upstream:NAME]. Default: main."
        ),
    ):
        gathered = option(gathered)
    return gathered


@dataclass(frozen=True, slots=True)
class Target:
    """The server of an upstream, for an administrator of its databases. ini: the configuration's file."""

    ini: Path
    config: Config
    upstream: Upstream
    role: str
    login: Login

    @classmethod
    def of(cls, installation: Installation, who: Who, *, only_print: bool = False) -> Target:
        """only_print: nobody logs in, so no password is read. Raises Failure, ConfigError, OSError."""
        from gateway.upstream import Login

        path, config = installation.configuration()
        found = config.upstreams.get(who.upstream)
        if found is None:
            known = ", ".join(sorted(config.upstreams)) or "none"
            raise Failure(f"{path}: there is no [upstream:{who.upstream}]; there is: {known}")
        if only_print or who.password_file is None:
            return cls(path, config, found, who.role, found.login(who.role))
        return cls(path, config, found, who.role, Login(who.role, files.read_key(who.password_file)))

    def perform(self, database: str, work: Callable[[Administrator], Awaitable[Result]]) -> Result:
        """Raises Failure, with whom and where it was about."""
        from gateway.share.administrator import perform
        from gateway.share.conninfo import arguments
        from gateway.share.share import ShareError

        try:
            return perform(arguments(self.upstream, self.login, self.role, database), work)
        except ShareError as error:
            hint = "; give --as ROLE and --password-file FILE" if self._asked_for_password(error) else ""
            where = f"{self.role} in the database {database} of [upstream:{self.upstream.name}]"
            raise Failure(f"{where}: {error}{hint}") from error

    def _asked_for_password(self, error: Exception) -> bool:
        """By a server that we had none for, as libpq tells it."""
        return self.login.password is None and "no password supplied" in str(error)

    def record(self, name: str, database: str) -> Record | None:
        """The share of that name, whichever database it is in. database: where to ask."""
        from gateway.share import provision

        return self.perform(database, lambda one: provision.record(one, name))

    def password_file(self, name: str) -> Path:
        """Of the share of that name."""
        return self.ini.parent / _password_file(name)

    def lines(self, share: Share, address: str | None) -> dict[str, Any]:
        """What to add to which file. address: of the gateway, as the database sees it; None: it is not known."""
        from gateway.share import lines

        return {
            "login": lines.login(share, self.upstream.name, _password_file(share.name)),
            "rule": lines.rule(share),
            "hba": lines.hba(share, self.upstream, address),
        }


def _password_file(name: str) -> Path:
    """Relative to the INI's folder, as the INI wants it."""
    from gateway.share.names import slug

    return Path("shares") / f"{slug(name)}.password"
