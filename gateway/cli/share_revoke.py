"""`securegw share revoke`: the end of a share, in the database and beside the INI.

Owns when the password's file goes. Not while the configuration names it: without that file the gateway would neither
start nor reload, and no command would work, though the password in it opens nothing any more.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.errors import Failure
from gateway.cli.options import as_json, confirm, yes
from gateway.cli.output import compact, note, printable, say, write
from gateway.cli.settings import Installation
from gateway.cli.share_admin import Target, Who, admin_options, maintenance
from gateway.errors import Problems

if TYPE_CHECKING:
    from gateway.share.administrator import Administrator
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
    only that file to delete; without that file, and where there are roles of that name but no record of a share, it
    fails: nothing was ended.
    """
    target = Target.of(installation, who)
    ended, way_back = _end(target, name, database, yes)
    path = target.password_file(name)
    naming = _naming(target, installation.environ, path)
    if ended is None and not path.exists():
        raise Failure(f"there is no share {printable(name)}, and no {printable(str(path))}: nothing was done")
    deleted = not naming and _delete(path, sure=yes or ended is not None)
    if as_json:
        lines = {} if ended is None else target.lines(ended.share, None)
        changed = {"changed": ended is not None or deleted, "deleted": str(path) if deleted else None}
        write([compact({"name": name, **changed, "named_by": naming, **lines})])
    elif ended is not None:
        _tell(target, ended, path, naming)
    else:
        note(_nothing_ended(name, path, naming, deleted))
    if way_back is not None:
        note("PUBLIC has no temporary tables there. If it was --close-public that took them, this gives them back:")
        note(f"  {way_back};")


def _end(target: Target, name: str, database: str, yes: bool) -> tuple[Record | None, str | None]:
    """In the database: what was ended, and what PUBLIC may want back. None: there is no such share."""
    from gateway.share import provision

    found = target.record(name, database)
    if found is None:
        _check_gone(target, name, database)
        return None, None
    confirm(f"Revoke the share {printable(name)} of {printable(found.share.subject)}?", yes)

    async def ended(admin: Administrator) -> tuple[Record | None, str | None]:
        way_back = await provision.way_back(admin, name)
        return await provision.revoke(admin, name), way_back

    shut = target.perform(database, lambda admin: provision.shut(admin, name))
    if shut is None:
        return None, None
    try:
        return target.perform(shut.database, ended)
    except Failure as error:
        raise Failure(f"{error}. Nobody logs in as {printable(name)} any more" if shut.closed else str(error)) from None


def _check_gone(target: Target, name: str, database: str) -> None:
    """Raises Failure where its roles may be there still, and somebody has written over the record."""
    from gateway.share import provision

    roles = target.perform(database, lambda admin: provision.left(admin, name))
    if roles:
        told = f"there is a role {printable(roles[0])}, but the comment on {printable(name)} is no share's record"
        raise Failure(f"{told}; nothing was ended")


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
        login = [f"# of {target.ini}; then this deletes the file: {_command(name)}", *lines["login"]]
    else:
        say(f"The share {name} is gone, and so is {path}.")
    told = map(printable, [*login, *_rules(target, name)])
    write(["", "To be taken out:", *told, "# of pg_hba.conf: the lines with this role, as far as they are there"])


def _rules(target: Target, role: str) -> Iterator[str]:
    """The lines that let anybody in there as that role."""
    from gateway.share.listeners import leading_to

    for listener in leading_to(target.upstream, target.config.postgres, target.config.upstreams):
        for rule in listener.rules:
            if rule.role == role:
                yield f"# of {target.ini}, {rule.source}"
                yield f"    {rule.text}"


def _command(name: str) -> str:
    return f"securegw share revoke {shlex.quote(name)}"


def _nothing_ended(name: str, path: Path, naming: list[str], deleted: bool) -> str:
    if deleted:
        return f"There is no share {name}; {path} is gone now, too."
    return f"There is no share {name}: nothing was done. {path} stays: {_said(naming)} names it."


def _said(naming: list[str]) -> str:
    return ", ".join(naming)
