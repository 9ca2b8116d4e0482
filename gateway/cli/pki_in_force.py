"""Whether the gateway of this configuration goes by the authority's list of revoked certificates.

Owns the search for each place that believes the authority, and what is told of those that read another list or none.
Refuses to call revoked what is still let in somewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.errors import Failure
from gateway.cli.output import note
from gateway.cli.pki_options import BY_HAND
from gateway.cli.running import TakenUp, take_up
from gateway.cli.settings import Installation
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from gateway.settings import Config


@dataclass(frozen=True, slots=True)
class InForce:
    """done: what the running gateway made of it; None: it was not asked, since it would not read the list.
    unread: in words, each place that believes the authority, and does not read it. read: one does."""

    done: TakenUp | None
    unread: tuple[str, ...] = ()
    read: bool = False

    @property
    def reloaded(self) -> bool | None:
        return self.done.reloaded if self.done is not None else None

    @property
    def everywhere(self) -> bool:
        return self.reloaded is True and self.read and not self.unread

    def insist(self) -> None:
        """At the end of a command that takes certificates back. Raises Failure if they are still let in."""
        if self.done is not None:
            self.done.insist(BY_HAND)
        if self.unread:
            raise Failure("\n".join(("what was changed is written, but not in force.", *self.unread)))

    def warn(self) -> None:
        """The same of a list that takes nothing more back than the one before: whoever has that has missed nothing yet.
        Raises Failure if the gateway has not taken it up."""
        for one in self.unread:
            note(f"Warning: {one}")
        if self.done is not None:
            self.done.insist(BY_HAND)


def put_in_force(installation: Installation, directory: str, ca: Certificate, kinds: Collection[str]) -> InForce:
    """Reloads the gateway, if it reads the list in that folder. kinds: of what was revoked, `client` and `server`."""
    file = installation.folder / directory / "crl.pem"
    try:
        ini, config = installation.configuration()
    except (Failure, ConfigError, OSError):
        return InForce(take_up(installation))  # which tells what is wrong with it
    places = tuple(_places(config))
    meant = tuple(one for one in places if one.kind in kinds)
    found = (one.words(file) for one in meant if one.believes(ca) and not one.reads(file))
    unread = tuple(f"{ini}: {words}" for words in dict.fromkeys(found))
    # A list that clients are asked for has all that is revoked, and the gateway must not go by an old one.
    if any(one.reads(file) for one in places if one in meant or one.kind == "client"):
        return InForce(take_up(installation), unread, any(one.reads(file) for one in meant))
    if unread:
        return InForce(None, unread)
    return InForce(TakenUp(None, f"Nothing in {ini} is verified by this CA: bring {file} to where its CRL is read."))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where certificates are verified. kind: whose. section, key: what says by which list; crl: that one."""

    kind: str
    section: str
    key: str
    authorities: Path | None
    crl: Path | None

    def believes(self, ca: Certificate) -> bool:
        """The CA's certificate may have been renewed since, with the same key."""
        from gateway.pem import load_certificates

        if self.authorities is None:
            return False
        try:
            found = load_certificates(self.authorities)
        except (OSError, ValueError):
            return False
        return any((one.subject, one.public_key()) == (ca.subject, ca.public_key()) for one in found)

    def reads(self, file: Path) -> bool:
        try:
            return self.crl is not None and self.crl.samefile(file)
        except OSError:
            return False

    def words(self, file: Path) -> str:
        if self.crl is None:
            return (
                f"[{self.section}] has no {self.key}: nothing is revoked there until it has {self.key} = {file}, and "
                "the gateway is reloaded."
            )
        return (
            f"[{self.section}] {self.key} is {self.crl}: nothing is revoked there until that has what is in {file}, "
            "and the gateway is reloaded."
        )


def _places(config: Config) -> Iterator[_Place]:
    from gateway.inspection.expiry import clients_tls, listeners_tls

    for section, tls in listeners_tls(config).items():
        said = tls.sections.get("client_crl" if tls.client_crl else "client_ca", section)
        yield _Place("client", said, "client_crl", tls.client_ca, tls.client_crl)
    for section, upstream in clients_tls(config).items():
        yield _Place("server", section, "crl", upstream.root_certificate, upstream.crl)
