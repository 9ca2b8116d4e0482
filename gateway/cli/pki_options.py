"""What the commands of `securegw pki` ask in the same way, and how they say what came of it.

Owns the way to the authority in its folder, and from its refusals to a person. Needs no configuration.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gateway.authority.errors import AuthorityError
from gateway.cli.errors import Failure
from gateway.cli.files import once, read_key, warn_of_readers
from gateway.cli.options import as_json, force
from gateway.cli.output import compact, note, record, write
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.authority.authority import Authority, Made, Order
    from gateway.authority.certificates import Issuer
    from gateway.authority.index import Record

Command = TypeVar("Command", bound=Callable[..., Any])

_USUAL: Final = "pki"

# Where there is no gateway's configuration.
BY_HAND: Final = "Where the gateway is, put the new file in its place, and reload it."

# A century; dates end with the year 9999.
_MAX_DAYS: Final = 36500

directory = click.option(
    "--dir", "directory", metavar="FOLDER", default=_USUAL, show_default=True, help="The authority's folder."
)

passphrase_file = click.option(
    "--passphrase-file",
    metavar="FILE",
    help="The passphrase of the CA's key is the one line of FILE (- is standard input).",
)

with_rsa = click.option("--rsa", "with_rsa", is_flag=True, help="RSA with 3,072 bits, instead of ECDSA with P-256.")


def days(default: int | None, help: str) -> Callable[[Command], Command]:  # noqa: A002 - click's own word
    """From now on."""
    return click.option(
        "--days", type=click.IntRange(1, _MAX_DAYS), default=default, show_default=default is not None, help=help
    )


def alternatives(command: Command) -> Command:
    """The names of a client, which can be read in the place of its common name."""
    for option in (
        click.option("--uri", metavar="URI", multiple=True, help="A URI, such as spiffe://example.com/boiler."),
        click.option("--email", metavar="ADDRESS", multiple=True, help="An e-mail address."),
        click.option("--dns", metavar="NAME", multiple=True, help="A DNS name."),
    ):
        command = option(command)
    return command


def making(command: Command) -> Command:
    """Whatever makes a certificate with its private key."""
    for option in (as_json, force, passphrase_file, directory, with_rsa):
        command = option(command)
    return command


def now() -> datetime:
    return datetime.now(UTC)


# --- the authority --------------------------------------------------------------------------------------------------


@contextmanager
def refusals() -> Iterator[None]:
    """Raises Failure for what the authority refuses."""
    try:
        yield
    except AuthorityError as error:
        raise Failure(str(error)) from error


def passphrase(path: str | None, *others: str | None) -> bytes | None:
    """Never an argument, which every user of the machine could read. others: what else is read from a file.

    Raises UsageError, Failure, OSError.
    """
    once(path, *others)
    return None if path is None else read_key(path).encode()


@contextmanager
def authority(installation: Installation, directory: str) -> Iterator[Authority]:
    """Raises Failure, OSError."""
    from gateway.authority.authority import opened

    with refusals(), opened(installation.folder / directory) as found:
        yield found


@contextmanager
def signing(installation: Installation, directory: str, passphrase: bytes | None) -> Iterator[tuple[Authority, Issuer]]:
    """The same, with its key. Raises Failure, OSError."""
    with authority(installation, directory) as found:
        issuer = found.issuer(passphrase)
        if passphrase is None:
            key = str(Path(directory) / "ca.key")
            warn_of_readers(key, "who can certify anybody: chmod 600, or another CA", installation.folder)
        yield found, issuer


@contextmanager
def signing_for_gateway(
    installation: Installation, directory: str, passphrase: bytes | None
) -> Iterator[tuple[Authority, Issuer]]:
    """The same, for what the gateway has to take up then: one whose INI was named and is not there never would. Raises
    Failure, OSError."""
    installation.ini_if_any()
    with signing(installation, directory, passphrase) as found:
        yield found


def replaced(authority: Authority, wanted: Order, directory: str, force: bool) -> tuple[Record, ...]:
    """Those certificates of that name that are good now, and stay so beside the new one.

    Raises Failure without force if NAME.crt has another common name: a renewed one would have that, too.
    """
    moment = now()
    former = tuple(one for one in authority.index.records if one.name == wanted.name and one.live(moment))
    for one in former:
        if one.file and one.subject != wanted.shown and not force:
            raise Failure(
                f"{one.name}: has a certificate for {one.subject}, and a renewed one would be for that, too; --force "
                f"makes one for {wanted.shown} in its place, and then `{_revocation(one, directory)}` takes the former "
                "back"
            )
    return former


def tell_of(former: Iterable[Record], directory: str) -> None:
    for one in former:
        end, command = until(one.end), _revocation(one, directory)
        note(f"The former certificate stays good until {end}, unless it is revoked: {command}")


def _revocation(one: Record, directory: str) -> str:
    from gateway.serials import serial_text

    elsewhere = () if directory == _USUAL else ("--dir", directory)
    return shlex.join(("securegw", "pki", "revoke", serial_text(one.serial), *elsewhere))


# --- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """Where the files are, in the words of whoever called. directory: the authority's folder."""

    directory: str
    as_json: bool

    def made(self, made: Made, **more: object) -> None:
        """A new certificate. more: for programs."""
        from gateway.authority.index import fields
        from gateway.serials import serial_text

        one = made.record
        certificate, key = (str(Path(self.directory) / f"{one.name}.{end}") for end in ("crt", "key"))
        if self.as_json:
            files = {"certificate": certificate, "key": key if made.with_key else None}
            write([compact(fields(one) | files | more)])
        else:
            page = {"certificate": certificate} | ({"key": key} if made.with_key else {})
            page |= {"for": ", ".join((one.subject, *one.names)), "until": until(one.end)}
            write(record(page | {"serial": serial_text(one.serial)}))
        if made.capped:
            note(
                f"It ends with the CA, before the {one.days} days are over; `securegw pki renew ca` makes the CA last."
            )

    def renewed_ca(self, end: datetime, **more: object) -> None:
        """The CA's own certificate. more: as above."""
        page = {"certificate": str(Path(self.directory) / "ca.crt")}
        if self.as_json:
            write([compact(page | {"not_after": end.isoformat()} | more)])
        else:
            write(record(page | {"until": until(end)}))


def until(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
