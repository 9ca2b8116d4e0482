"""`securegw share revoke`: the end of a share, in the database and beside the INI.

Owns when the password's file goes. Not while the configuration names it: without that file the gateway would neither
start nor reload, and no command would work, though the password in it opens nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import as_json, confirm, yes
from gateway.cli.output import compact, note, printable, say, write
from gateway.cli.settings import Installation
from gateway.cli.share_admin import Target, Who, admin_options, maintenance
from gateway.errors import Problems

if TYPE_CHECKING:
    from gateway.share.share import Record


@click.command()
@click.argument("name")
@maintenance
@yes
@admin_options
@as_json
@click.pass_obj
def revoke(installation: Installation, /, *, name: str, who: Who, database: str, yes: bool, as_json: bool) -> None:
    """End a share.

    Its sessions end, and its view, schema and roles go. So does its password's file, unless the INI still names it:
    take out what is printed, and call this again.

    From the first moment nobody logs in with it any more. If the rest fails, because somebody put something else into
    its schema, say, that is told, and it can be called again. Where there is no such share there is
    only that file to delete.
    """
    target = Target.of(installation, who)
    ended = _end(target, name, database, yes)
    path = target.password_file(name)
    naming = _naming(target, installation.environ, path)
    deleted = not naming and _delete(path, sure=yes or ended is not None)
    if as_json:
        lines = {} if ended is None else target.lines(ended.share, None)
        changed = {"changed": ended is not None or deleted, "deleted": str(path) if deleted else None}
        write([compact({"name": name, **changed, "named_by": naming, **lines})])
    elif ended is not None:
        _tell(target, ended, path, naming)
    else:
        note(_nothing_ended(name, path, naming, deleted))


def _end(target: Target, name: str, database: str, yes: bool) -> Record | None:
    """In the database. None: there is no such share."""
    from gateway.share import provision

    found = target.record(name, database)
    if found is None:
        return None
    confirm(f"Revoke the share {printable(name)} of {printable(found.share.subject)}?", yes)
    return target.perform(found.share.database, lambda admin: provision.revoke(admin, name))


def _naming(target: Target, environ: Mapping[str, str], path: Path) -> list[str]:
    """Where the configuration, as it is by now, names that file. Raises ConfigError."""
    from gateway.ini import read_ini

    problems = Problems()
    texts = read_ini(target.ini, problems) or {}
    problems.raise_if_any()
    given = [(f"[{section}] {key}", text) for section, keys in texts.items() for key, text in keys.items()]
    given += [(f"${variable}", text) for variable, text in environ.items()]
    files = [(where, text) for where, text in given if where.lower().endswith("password_file")]
    wanted, folder = path.resolve(), target.ini.parent
    return [where for where, text in files if (folder / text.strip()).resolve() == wanted]


def _delete(path: Path, *, sure: bool) -> bool:
    """Whether it was there. A share of the same name, in another server, would have its password there, too."""
    if not path.exists():
        return False
    confirm(f"Delete {printable(str(path))}, which the configuration does not name?", sure)
    path.unlink()
    return True


# --- telling it -------------------------------------------------------------------------------------------------------


def _tell(target: Target, ended: Record, path: Path, naming: list[str]) -> None:
    name, lines = ended.share.name, target.lines(ended.share, None)
    login: list[str] = []
    if naming:
        say(f"The share {name} is gone. {path} stays: {_said(naming)} names it. The password in it opens nothing.")
        login = [f"# of {target.ini}; then `securegw share revoke {name}` deletes the file", *lines["login"]]
    else:
        say(f"The share {name} is gone, and so is {path}.")
    rule = [f"# of {target.ini}", f"    {lines['rule']}"]
    write(["", "To be taken out:", *map(printable, [*login, *rule]), "# of pg_hba.conf: the lines with this role"])


def _nothing_ended(name: str, path: Path, naming: list[str], deleted: bool) -> str:
    if deleted:
        return f"There is no share {name}; {path} is gone now, too."
    if naming and path.exists():
        return f"There is no share {name}: nothing was done. {path} stays: {_said(naming)} names it."
    return f"There is no share {name}: nothing was done."


def _said(naming: list[str]) -> str:
    return ", ".join(naming)
