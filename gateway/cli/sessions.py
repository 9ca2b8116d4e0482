"""`securegw sessions`: what is going on in the running gateway, and how to end it.

Owns these commands. What they ask goes over the gateway's control socket, so they are about the gateway that runs on
this machine with this configuration, and no other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gateway import control
from gateway.cli.errors import Failure
from gateway.cli.options import as_json, confirm
from gateway.cli.output import compact, listed, note, record, say, table, write
from gateway.cli.running import ask, ask_for, expected, follow
from gateway.cli.settings import Installation
from gateway.serials import serial_number, serial_text

unasked = click.option("--yes", is_flag=True, help="Do not ask; without a terminal nobody is asked anyway.")


@click.group()
def sessions() -> None:
    """The running gateway and its live sessions.

    These speak to the gateway over the Unix socket of [control] socket. Only root and the user that the gateway runs as
    may do that.

    \b
    Examples:
      securegw sessions list --listener mqtt
      securegw sessions kill --identity alice
      securegw sessions reload
    """


@sessions.command("list")
@click.option("--identity", metavar="SUBJECT", help="Only those of exactly this identity.")
@click.option("--listener", metavar="NAME", help="Only those of this listener (postgres:main), or protocol (postgres).")
@as_json
@click.pass_obj
def list_(installation: Installation, identity: str | None, listener: str | None, as_json: bool) -> None:
    """List live sessions of all protocols, the oldest first.

    IDENTITY is who was proven: the sub of a token, a name in a certificate, a thing's id. USE is the database, the MQTT
    client id, or else the upstream. BYTES are those of both directions, without a PostgreSQL login; those of HTTP
    requests are in the audit only.

    \b
    Examples:
      securegw sessions list
      securegw sessions list --identity alice --json
    """
    answer = ask_for(installation.control(), control.ListSessions(), control.Sessions)
    chosen = [one for one in answer.sessions if _is_chosen(one, identity, listener)]
    chosen.sort(key=lambda one: one.id)
    write(listed(map(_fields, chosen)) if as_json else _table(chosen))


@sessions.command()
@click.option("--identity", metavar="SUBJECT", help="All sessions of exactly this identity.")
@click.option("--jti", metavar="JTI", help="All that were opened with this token.")
@click.option("--serial", metavar="SERIAL", help="All that showed the certificate of this serial number (hexadecimal).")
@click.option("--id", "ids", metavar="N", type=click.IntRange(0), multiple=True, help="This one; may be given again.")
@unasked
@as_json
@click.pass_obj
def kill(
    installation: Installation,
    identity: str | None,
    jti: str | None,
    serial: str | None,
    ids: tuple[int, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """End live sessions at once.

    Each client is told in the words of its protocol. It may come back: to keep it away, revoke its token
    (securegw token revoke) or its certificate (securegw pki revoke), disable the thing, or change the rules. On a
    terminal you are asked first if there are several.

    \b
    Examples:
      securegw sessions kill --id 4711
      securegw sessions kill --identity alice
      securegw sessions kill --serial 0A:1B:2C --yes
    """
    try:
        request = control.Kill(ids, identity, jti, _serial(serial))
    except ValueError:
        raise click.UsageError("say exactly one of --identity, --jti, --serial and --id") from None
    path = installation.control()
    if not yes and sys.stdin.isatty():
        found = ask_for(path, control.ListSessions(), control.Sessions).sessions
        several = sum(_is_meant(one, request) for one in found)
        confirm(f"Kill {several} sessions?", yes=several <= 1)
    killed = ask_for(path, request, control.Killed).killed
    if not killed:
        raise Failure("there is no such session")
    if as_json:
        write([compact({"killed": killed})])
    else:
        say(f"{_counted(killed, 'session')} killed.")


@sessions.command()
@as_json
@click.pass_obj
def counters(installation: Installation, as_json: bool) -> None:
    """Show how much there is of everything.

    Connections that are there now, and, since the start, those that were accepted, closed unheard, and killed.
    """
    found = ask_for(installation.control(), control.AskCounters(), control.Counters).counters
    if as_json:
        write([compact(found)])
    else:
        write(record({name.replace("_", " "): str(number) for name, number in found.items()}))


@sessions.command()
@as_json
@click.pass_obj
def reload(installation: Installation, as_json: bool) -> None:
    """Have the gateway read its files again, as SIGHUP does.

    Certificates, CRLs, keys, the list of revoked tokens, rules and limits. Here you are told what came of it: if
    anything is wrong, everything stays as it was, and this ends with status 1. So it does where all is in force but
    the keys of a new [jwt:NAME] jwks, which could not be fetched. Sessions whose certificate or token is revoked now
    end.
    """
    path = installation.control()
    answer = ask(path, control.Reload())
    if isinstance(answer, control.Refused):
        told, lines, fields = answer.error, answer.reasons, {"reloaded": False, "error": answer.error}
    else:
        told, lines, fields = "Reloaded, but", expected(path, answer, control.Done).but, {"reloaded": True}
    if as_json:
        write([compact(fields | {"problems": lines})])
    elif lines:
        raise Failure("\n".join((f"{told}:", *lines)))
    else:
        say("Reloaded.")
    if lines:
        click.get_current_context().exit(1)


@sessions.command()
@unasked
@click.pass_obj
def drain(installation: Installation, yes: bool) -> None:
    """End the gateway in order, and wait until it is gone.

    As SIGTERM does: nobody is let in any more, and each session ends when it is at rest, or when the grace period of
    [gateway] shutdown_grace is over. To interrupt this does not stop it.
    """
    path = installation.control()
    if not yes and sys.stdin.isatty():
        ask_for(path, control.AskCounters(), control.Counters)  # nobody is asked about one that is not there
        confirm("End the gateway?", yes)
    _watch(path)
    say("The gateway has ended.")


def _watch(path: Path) -> None:
    """Begins it, and tells how many are left. Raises Failure, and Exit as click's Abort would."""
    left = -1
    try:
        for answer in follow(path, control.Drain()):
            now = expected(path, answer, control.Left).left
            if now != left:
                note(f"{_counted(now, 'connection')} left")
                if left < 0 < now:
                    note("Each ends when it is at rest, or when the grace period of [gateway] shutdown_grace is over.")
                left = now
    except KeyboardInterrupt:
        if left < 0:
            raise
        note("Only the waiting was stopped: the gateway goes on ending.")
        raise click.exceptions.Exit(1) from None
    if left < 0:
        raise Failure(f"{path}: the gateway went away before it had answered")


# --- which ones -----------------------------------------------------------------------------------------------------


def _is_chosen(one: control.Session, identity: str | None, listener: str | None) -> bool:
    wanted = listener in (None, one.listener, one.listener.partition(":")[0])
    return wanted and identity in (None, one.subject)


def _is_meant(one: control.Session, asked: control.Kill) -> bool:
    named = ((asked.identity, one.subject), (asked.jti, one.jti), (asked.serial, one.serial))
    return one.id in asked.ids or any(wanted is not None and wanted == found for wanted, found in named)


def _serial(text: str | None) -> str | None:
    """As the gateway writes it. Raises BadParameter."""
    if text is None:
        return None
    try:
        return serial_text(serial_number(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--serial") from None


# --- how they look --------------------------------------------------------------------------------------------------


def _fields(one: control.Session) -> dict[str, Any]:
    told = asdict(one)
    opened_at, moved = _moment(one).isoformat(timespec="milliseconds"), told.pop("moved")
    return told | {"opened_at": opened_at, "bytes": moved}


def _table(found: Iterable[control.Session]) -> Iterator[str]:
    headings = ("id", "listener", "identity", "client", "use", "since (UTC)", "bytes", "state")
    return table(headings, map(_row, found))


def _row(one: control.Session) -> tuple[str, ...]:
    use = one.database or one.client_id or one.upstream or ""
    since = f"{_moment(one):%Y-%m-%d %H:%M:%S}"
    return str(one.id), one.listener, one.subject or "", one.client, use, since, str(one.moved), one.state


def _moment(one: control.Session) -> datetime:
    return datetime.fromtimestamp(one.opened_at, UTC)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
