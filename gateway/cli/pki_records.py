"""`securegw pki list`, `revoke`, `crl` and `renew`: what exists, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.authority.kinds import REASONS
from gateway.cli.errors import Failure
from gateway.cli.files import read
from gateway.cli.options import as_json
from gateway.cli.output import compact, listed, note, record, say, table, write
from gateway.cli.pki_in_force import InForce, put_in_force
from gateway.cli.pki_options import (
    BY_HAND,
    Shown,
    authority,
    days,
    directory,
    now,
    passphrase,
    passphrase_file,
    signing_for_gateway,
    until,
)
from gateway.cli.running import take_up
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.authority.authority import Authority
    from gateway.authority.index import Record

_CA: Final = "ca"

# A certificate with a hundred names has some 10 KB.
_MAX_CERTIFICATE: Final = 64 * 1024

# When `list` says how long a certificate still lasts: a month, as the gateway's own warnings begin.
_SOON: Final = timedelta(days=30)


# --- list -----------------------------------------------------------------------------------------------------------


@click.command("list")
@click.option("--expiring", metavar="DAYS", type=click.IntRange(0, 36500), help="Only those that end within DAYS.")
@directory
@as_json
@click.pass_obj
def list_(installation: Installation, expiring: int | None, directory: str, as_json: bool) -> None:
    """List certificates.

    Who has one, until when, and which are revoked.

    The CA itself comes first. One that was renewed stays good until its end; --expiring leaves it out, with those that
    are revoked.

    \b
    Examples:
      securegw pki list
      securegw pki list --expiring 30 --json
    """
    moment = now()
    with authority(installation, directory) as found:
        rows = [_own(found, moment), *(_row(one, moment) for one in found.index.records)]
        next_update = found.index.next_update
    if expiring is not None:
        end = moment + timedelta(days=expiring)
        rows = [row for row in rows if row["file"] and not row["revoked_at"] and row["end"] <= end]
    if as_json:
        write(listed({name: value for name, value in row.items() if name != "end"} for row in rows))
    else:
        write(_table(rows))
    if next_update <= moment + timedelta(days=7 if expiring is None else expiring):
        past = "is stale since" if next_update <= moment else "has to be made anew before"
        note(f"crl.pem {past} {until(next_update)}: securegw pki crl")


def _own(found: Authority, moment: datetime) -> dict[str, Any]:
    """The CA, as if it were one of what it has signed, and its CRL."""
    from gateway.authority.index import Record, fields
    from gateway.authority.names import common_name

    one = found.certificate
    begin, end = one.not_valid_before_utc, one.not_valid_after_utc
    name = common_name(one.subject)
    own = Record(one.serial_number, _CA, _CA, name, (), begin, end, (end - begin).days, "ca.crt")
    crl = {"crl_number": found.index.number, "crl_next_update": found.index.next_update.isoformat()}
    return fields(own) | crl | {"state": _state(own, moment), "end": end}


def _row(one: Record, moment: datetime) -> dict[str, Any]:
    from gateway.authority.index import fields

    return fields(one) | {"state": _state(one, moment), "end": one.end}


def _state(one: Record, moment: datetime) -> str:
    if one.revoked_at is not None:
        return f"revoked ({one.reason})"
    if one.end < moment:
        return "ended"
    if one.file is None:
        return "replaced, still good"
    left = one.end - moment
    return f"good for {left.days} days more" if left <= _SOON else "good"


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    headings = ("name", "kind", "for", "until (UTC)", "state", "serial")
    return table(headings, (
        (
            row["name"],
            row["kind"],
            ", ".join(dict.fromkeys((row["subject"], *row["names"]))),
            f"{row['end']:%Y-%m-%d %H:%M}",
            row["state"],
            row["serial"],
        )
        for row in rows
    ))  # fmt: skip


# --- revocation -----------------------------------------------------------------------------------------------------


class _Reason(click.Choice[str]):
    """In whatever case, and shown as RFC 5280 spells it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        spelt = {one.casefold(): one for one in self.choices}
        return super().convert(spelt.get(value.casefold(), value), param, ctx)


@click.command()
@click.argument("certificate")
@click.option(
    "--reason",
    metavar="REASON",
    type=_Reason(REASONS),
    default="unspecified",
    show_default=True,
    help=f"One of {', '.join(REASONS)}.",
)
@directory
@passphrase_file
@as_json
@click.pass_obj
def revoke(
    installation: Installation,
    certificate: str,
    reason: str,
    directory: str,
    passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Take certificates back.

    Writes a new crl.pem, and reloads the running gateway, which ends their sessions.

    CERTIFICATE is a name, and then all certificates of that name are meant, renewed ones too; or a serial number in
    hexadecimal, or a file, and then that one alone. It cannot be undone.

    The status is 1 if it is not in force then: the gateway was not reloaded, or believes this CA and does not have this
    crl.pem as its client_crl (crl, for an upstream's). crl.pem stays as it is now.

    \b
    Examples:
      securegw pki revoke boiler --reason keyCompromise
      securegw pki revoke 3f1c9a0e5d7b42886a10c4e2f6b8d09157ab23cd
      securegw pki revoke found/in/the/wild.crt
    """
    word = passphrase(passphrase_file)
    with signing_for_gateway(installation, directory, word) as (found, issuer):
        meant = _meant(found, installation.folder, certificate)
        fresh = found.revoke(issuer, meant, reason, now())
        gone = {one.serial for one in meant}
        revoked = [one for one in found.index.records if one.serial in gone]
    kinds = {"server" if one.kind == "server" else "client" for one in revoked}
    done = put_in_force(installation, directory, found.certificate, kinds)
    _tell(revoked, {one.serial for one in fresh}, as_json, done)
    done.insist()
    if done.everywhere and not as_json:
        many = len(revoked) > 1
        say(f"The {'certificates are' if many else 'certificate is'} refused from now on.")


def _meant(found: Authority, folder: Path, target: str) -> tuple[Record, ...]:
    """Raises Failure, AuthorityError, OSError."""
    records = found.named(target)
    if records:
        return records
    if not (folder / target).is_file():
        raise Failure(f"{target}: is neither the name nor the serial number of a certificate here, nor a file")
    return (found.known(read(str(folder / target), _MAX_CERTIFICATE), target),)


def _tell(revoked: list[Record], fresh: set[int], as_json: bool, done: InForce) -> None:
    from gateway.authority.index import fields
    from gateway.serials import serial_text

    if as_json:
        write(listed(fields(one) | {"new": one.serial in fresh, "reloaded": done.reloaded} for one in revoked))
        return
    for one in revoked:
        became = "is on the list of revoked certificates"
        if one.serial not in fresh:
            became = f"was revoked before ({one.reason})"
        say(f"{one.name} ({one.subject}), serial number {serial_text(one.serial)}, {became}.")


@click.command()
@days(None, "How long it is good, from now on also for those that `revoke` writes. At first: 30.")
@directory
@passphrase_file
@as_json
@click.pass_obj
def crl(
    installation: Installation, days: int | None, directory: str, passphrase_file: str | None, as_json: bool
) -> None:
    """Make crl.pem anew.

    And reload the running gateway; the status is 1 if that fails, or nobody answers. Do it, by cron for example, before
    the old one is stale. If the gateway has another file as its client_crl, you are told to copy it there.

    A gateway that has client_crl lets nobody in by a list that is stale, unless stale_crl = warn.

    \b
    Examples:
      securegw pki crl
      securegw pki crl --days 7 --passphrase-file ca.pass
    """
    word = passphrase(passphrase_file)
    with signing_for_gateway(installation, directory, word) as (found, issuer):
        found.publish(issuer, now(), days)
        number, next_update = found.index.number, found.index.next_update
    file = str(Path(directory) / "crl.pem")
    done = put_in_force(installation, directory, found.certificate, {"client", "server"})
    if as_json:
        made = {"crl": file, "number": number, "next_update": next_update.isoformat()}
        write([compact(made | {"reloaded": done.reloaded})])
    else:
        write(record({"crl": file, "number": str(number), "good until": until(next_update)}))
    done.warn()


# --- renewal --------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("name")
@click.option("--new-key", is_flag=True, help="With a new private key, which replaces NAME.key.")
@days(None, "How long it lasts. Default: as long as the one before.")
@directory
@passphrase_file
@as_json
@click.pass_obj
def renew(
    installation: Installation,
    name: str,
    new_key: bool,
    days: int | None,
    directory: str,
    passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Make the successor of a certificate.

    With the same names and, unless told otherwise, the same key.

    NAME.crt is replaced; the certificate that it was stays good until its end, unless you revoke it. The CA's own
    certificate is called ca; what it has signed stays good under its successor, which every client and every server
    that verifies needs before the old one ends.

    \b
    Examples:
      securegw pki renew server
      securegw pki renew boiler --new-key --days 365
      securegw pki renew ca --passphrase-file ca.pass
    """
    if name == _CA and new_key:
        raise click.UsageError("a CA with another key is another CA: securegw pki ca, in another folder")
    word = passphrase(passphrase_file)
    shown = Shown(directory, as_json)
    with signing_for_gateway(installation, directory, word) as (found, issuer):
        if name == _CA:
            end = found.renew_self(issuer, now(), days).not_valid_after_utc
        else:
            made = found.renew(issuer, name, now(), days, with_new_key=new_key)
    done = take_up(installation)
    if name == _CA:
        shown.renewed_ca(end, reloaded=done.reloaded)
        note("Give the new ca.crt to every client and every server that verifies, before the old one ends.")
    else:
        shown.made(made, reloaded=done.reloaded)
        note("The certificate before it is not revoked: it stays good until its end.")
    done.tell(BY_HAND)
