"""`securegw share`: one view of a database for a partner, made and listed.

`share_check` proves that it is tight, `share_revoke` ends it.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli import files
from gateway.cli.errors import Failure
from gateway.cli.options import as_json
from gateway.cli.output import compact, listed, note, printable, table, write
from gateway.cli.running import take_up
from gateway.cli.settings import Installation
from gateway.cli.share_admin import Target, Who, admin_options, maintenance
from gateway.cli.share_check import check
from gateway.cli.share_revoke import revoke

if TYPE_CHECKING:
    from gateway.share.catalog import Excess
    from gateway.share.provision import Made
    from gateway.share.share import Query, Record, Share, Table

# Longer than any that a person would want to be answerable for.
_MAX_QUERY: Final = 64 * 1024


@click.group()
def share() -> None:
    """Let a partner read one view of a database, and nothing else.

    A share is a role, a schema and a view in the database, all of one name, and a rule in the gateway. The partner
    shows the gateway a token; the role's password is known to the gateway alone. The database itself keeps the record
    of it, as the comment on the role.
    """


@share.command()
@click.option("--name", required=True, help="Of its role, its schema and its view.")
@click.option("--for", "subject", metavar="SUBJECT", required=True, help="The partner: the `sub` of its tokens.")
@click.option(
    "--from", "networks", metavar="CIDR", multiple=True, required=True, help="From where; several are possible."
)
@click.option("--database", metavar="NAME", required=True, help="The database that has the data.")
@click.option("--table", "table_name", metavar="SCHEMA.TABLE", help="The view is of this table, or of this other view.")
@click.option("--columns", metavar="A,B", help="Only these columns of the table. Default: all that it has now.")
@click.option("--query", metavar="SQL", help="The view is this query. It names tables with their schema.")
@click.option("--query-file", metavar="FILE", help="The same, read from FILE (- is standard input).")
@admin_options
@click.option("--print", "only_print", is_flag=True, help="Show all the SQL and change nothing; needs no database.")
@click.option("--replace", is_flag=True, help="Make it anew, with another password, where there is one of that name.")
@click.option(
    "--close-public",
    is_flag=True,
    help="Take from everybody (PUBLIC) what the partner would have through it, such as temporary tables.",
)
@as_json
@click.pass_obj
def create(
    installation: Installation,
    /,
    who: Who,
    only_print: bool,
    replace: bool,
    close_public: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Make a share.

    In one transaction; it prints what has to be added to the INI and to pg_hba.conf.

    Names in --table and --columns are taken as they stand, in Upper Case too; "quote" those with other characters than
    letters, digits and _.

    ROLE is a superuser, or has CREATEROLE, owns the database and may pass on SELECT on what is read. A second call with
    the same words leaves the share as it is.

    What PostgreSQL gives to everybody (PUBLIC), the partner has too: it cannot be taken from one role. What there is of
    that is told, with the SQL that takes it away; --close-public runs that SQL, also for a share that is there already.

    \b
    Examples:
      securegw share create --name orders_acme --for acme --from 203.0.113.0/24 \\
          --database shop --table public.orders --columns id,ordered,total
      securegw share create --name sums --for acme --from 203.0.113.7/32 \\
          --database shop --query-file sums.sql --as dba --password-file dba.pass
    """
    files.once(who.password_file, asked["query_file"])
    wanted = _share(**asked)
    target = Target.of(installation, who, only_print=only_print)
    if only_print:
        _print(target, wanted, as_json)
        return
    made = _create(target, wanted, replace, close_public)
    _tell(target, made, as_json)
    if replace and made.password:
        _reload(installation)


def _share(
    name: str,
    subject: str,
    networks: Sequence[str],
    database: str,
    **source: str | None,
) -> Share:
    from gateway.share.share import Share

    try:
        return Share.of(name, database, subject, networks, _source(**source))
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from None


def _source(table_name: str | None, columns: str | None, query: str | None, query_file: str | None) -> Table | Query:
    """Raises ValueError."""
    from gateway.share.names import parse_list
    from gateway.share.share import Query, Table

    if sum(one is not None for one in (table_name, query, query_file)) != 1:
        raise click.UsageError("say exactly one of --table, --query and --query-file")
    if table_name is None:
        if columns is not None:
            raise click.UsageError("--columns goes with --table: a query says its columns itself")
        return Query.of(query if query is not None else _read_query(query_file or ""))
    parts = parse_list(table_name, ".")
    if len(parts) != 2:
        raise ValueError(f"--table is SCHEMA.TABLE, not {table_name}")
    return Table(*parts, parse_list(columns, ",") if columns is not None else ())


def _read_query(path: str) -> str:
    try:
        return files.read(path, _MAX_QUERY).decode("utf-8")
    except UnicodeDecodeError:
        raise Failure(f"{path}: is not UTF-8") from None


# --- making it --------------------------------------------------------------------------------------------------------


class _ThereAlready(Exception):
    """Ends the writing of a password that nobody will have."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made = made


def _create(target: Target, wanted: Share, replace: bool, close_public: bool) -> Made:
    from gateway.share.provision import Creation
    from gateway.share.share import ShareError

    path, password = target.password_file(wanted.name), secrets.token_urlsafe(32)
    files.folder_beside(target.ini, path.parent)
    taken = path.exists()
    try:
        with files.private(path, force=True) as draft:
            files.entrust(draft.file.fileno(), target.ini)

            def keep() -> None:
                """Before COMMIT: a password that nobody knows would open nothing, but could not be found out either."""
                if taken and not replace:
                    raise ShareError(f"{path} is there, of another share; --replace takes its place")
                draft.file.write(f"{password}\n".encode())
                draft.keep()

            made = target.perform(wanted.database, Creation(wanted, password, keep, replace, close_public).run)
            if made.password is None:
                raise _ThereAlready(made)
            return made
    except _ThereAlready as there:
        if not taken:
            note(f"Warning: {path} is gone; --replace makes another password, and the file.")
        return there.made


def _reload(installation: Installation) -> None:
    note("The role has another password now.")
    take_up(installation).tell("Reload the gateway for it to take effect.")


# --- telling it -------------------------------------------------------------------------------------------------------


def _print(target: Target, wanted: Share, as_json: bool) -> None:
    from gateway.share import statements
    from gateway.share.names import rendered
    from gateway.share.share import Record

    moment = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(wanted, "<SHA-256 of the view's definition>", moment, target.role)
    made = [*statements.create(wanted, statements.NO_VERIFIER), *statements.record(wanted, record.comment())]
    sql = ["BEGIN", *map(rendered, made), "COMMIT"]
    if as_json:
        write([compact({"sql": sql, **target.lines(wanted, None)})])
        return
    write(printable(line) for statement in sql for line in f"{statement};".split("\n"))
    write(["", *_shown(target, wanted, None)])
    note("Nothing was changed. What is in <angle brackets> is made when it is run without --print.")


def _tell(target: Target, made: Made, as_json: bool) -> None:
    from gateway.share.names import spelled

    share = made.record.share
    if as_json:
        changed = made.password is not None or bool(made.closed)
        found = {"name": share.name, "changed": changed, **target.lines(share, made.address)}
        excesses = {"open": made.open, "closed": made.closed}
        write([compact(found | {key: [*map(_excess_fields, every)] for key, every in excesses.items()})])
    else:
        write(_shown(target, share, made.address))
    note(f"The share {share.name} {_done(made)}.")
    user = f"as the user {share.subject}, with its token as the password"
    note(f"The partner reads {spelled(share.name, share.name)} in the database {share.database}, {user}.")
    note(f"Add these lines, and reload both; then prove it: securegw share check {shlex.quote(share.name)}")
    _tell_beyond(made)


def _done(made: Made) -> str:
    if made.password is not None:
        return "is made"
    return "is there already, just like that" + ("" if made.closed else ": nothing was changed")


def _tell_beyond(made: Made) -> None:
    """What the partner can do besides, and what it cannot any more."""
    for one in made.closed:
        note(f"{one.what} is taken from PUBLIC now, and stays so after share revoke; to give it back: {one.way_back};")
    if made.open:
        note("The partner can do more than read the view:")
    for one in made.open:
        note(f"  {one.what}: {one.got}" + (f"; to end it: {one.remedy.string};" if one.remedy else ""))
    if any(one.remedy for one in made.open):
        note("What PUBLIC has, other roles may need: grant it to them first. --close-public runs these lines.")


def _excess_fields(one: Excess) -> dict[str, Any]:
    return {"what": one.what, "got": one.got, "remedy": one.remedy.string if one.remedy else None}


def _shown(target: Target, share: Share, address: str | None) -> Iterator[str]:
    found = target.lines(share, address)
    yield f"# {target.ini}: a section"
    yield from map(printable, found["login"])
    yield ""
    yield f"# {target.ini}: a line of `rules` of the [postgres:NAME], before any that matches more"
    yield f"    {printable(found['rule'])}"
    yield ""
    yield "# pg_hba.conf of the database, before any that matches more; the address is the gateway's"
    yield from map(printable, found["hba"])


# --- what there is ----------------------------------------------------------------------------------------------------


@share.command("list")
@maintenance
@admin_options
@as_json
@click.pass_obj
def list_(installation: Installation, who: Who, database: str, as_json: bool) -> None:
    """List shares, as their server has them."""
    from gateway.share import provision

    found = Target.of(installation, who).perform(database, provision.records)
    if as_json:
        write(listed(map(_record_fields, found)))
        return
    rows = [(*map(str, _record_fields(one).values()),) for one in found]
    write(table(("name", "database", "for", "from", "of", "made", "by"), rows))


def _record_fields(record: Record) -> dict[str, str]:
    share = record.share
    fields = {"name": share.name, "database": share.database, "subject": share.subject}
    fields |= {"networks": ", ".join(share.networks), "source": str(share.source)}
    return fields | {"made": record.made, "by": record.by}


share.add_command(check)
share.add_command(revoke)
