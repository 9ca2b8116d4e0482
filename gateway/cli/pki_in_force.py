"""Whether the gateway of this configuration goes by the authority's list of revoked certificates.

Owns the search for each place that believes the authority, and what is told of those that read another list or none.
Refuses to call revoked what is still let in somewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.errors import Failure
from gateway.cli.output import note
from gateway.cli.pki_options import BY_HAND
from gateway.cli.running import TakenUp, take_up
from gateway.cli.settings import NO_LISTENER, Installation
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from gateway.settings import Config


@dataclass(frozen=True, slots=True)
class InForce:
    """done: what the running gateway made of it; None: it was not asked, since it would not read the list.
    unread: in words, each place that believes the authority, and does not read it. listless: the same of those that
    read no list at all. read: one does."""

    done: TakenUp | None
    unread: tuple[str, ...] = ()
    listless: tuple[str, ...] = ()
    read: bool = False

    @property
    def reloaded(self) -> bool | None:
        return self.done.reloaded if self.done is not None else None

    @property
    def everywhere(self) -> bool:
        return self.reloaded is True and self.read and not (self.unread or self.listless)

    def insist(self) -> None:
        """At the end of a command that takes certificates back. Raises Failure if they are still let in."""
        if self.done is not None:
            self.done.insist(BY_HAND)
        if self.unread or self.listless:
            raise Failure("\n".join(("what was changed is written, but not in force.", *self.unread, *self.listless)))

    def warn(self) -> None:
        """The same of a list that takes nothing more back than the one before: whoever has that has missed nothing yet,
        and whoever reads none never will. Raises Failure if the gateway has not taken it up."""
        for one in self.unread:
            note(f"Warning: {one}")
        if self.done is not None:
            self.done.insist(BY_HAND)


def put_in_force(installation: Installation, directory: str, ca: Certificate, kinds: Collection[str]) -> InForce:
    """Reloads the gateway, if it reads the list in that folder. kinds: of what was revoked, `client` and `server`."""
    file = installation.folder / directory / "crl.pem"
    try:
        ini, config = installation.configuration()
    except Failure:
        return InForce(take_up(installation))  # which tells what is wrong
    except (ConfigError, OSError) as error:
        if isinstance(error, ConfigError) and {(one.section, one.key) for one in error.problems} == {NO_LISTENER}:
            return InForce(take_up(installation))  # nothing is wrong: it is that of whoever writes the registry
        # The gateway may well be able to: it has what the environment lacks here, or other rights.
        why = f"the configuration cannot be used here, so nobody knows whether the gateway reads {file}: {error}"
        return InForce(take_up(installation), (why,))
    places = tuple(_places(config))
    meant = tuple(one for one in places if one.kind in kinds)
    unread = _told(ini, (one.unread(ca, file) for one in meant if one.key))
    listless = _told(ini, (one.unread(ca, file) for one in meant if not one.key))
    # A list that clients are asked for has all that is revoked, and the gateway must not go by an old one.
    if any(one.reads(file) for one in places if one in meant or one.kind == "client"):
        return InForce(take_up(installation), unread, listless, any(one.reads(file) for one in meant))
    if unread:
        return InForce(None, unread, listless)
    what = "goes by a list of this CA" if listless else "is verified by this CA"
    return InForce(TakenUp(None, f"Nothing in {ini} {what}: bring {file} to where its CRL is read."), (), listless)


def _told(ini: Path, found: Iterable[str | None]) -> tuple[str, ...]:
    """Of what several sections share, each is told of once."""
    return tuple(f"{ini}: {words}" for words in dict.fromkeys(found) if words is not None)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where certificates are verified. kind: whose. section, key: what says by which list, empty where nothing can;
    crl: that one."""

    kind: str
    section: str
    key: str
    authorities: Path | None
    crl: Path | None

    def unread(self, ca: Certificate, file: Path) -> str | None:
        """In words, why what is revoked is let in there; None: it is not. What cannot be read may be that CA."""
        if self.authorities is None or self.reads(file):
            return None
        try:
            return self.words(file) if _is_among(ca, self.authorities) else None
        except OSError as error:
            why = f"{self.authorities}: {error.strerror}"
        except ValueError as error:
            why = str(error)
        return f"{why}, so it may be this CA: {self.words(file)}"

    def reads(self, file: Path) -> bool:
        try:
            return self.crl is not None and self.crl.samefile(file)
        except OSError:
            return False

    def words(self, file: Path) -> str:
        if not self.key:
            return (
                f"[{self.section}] has no list of revoked certificates: it goes on believing this one until its "
                "authority there is another"
            )
        if self.crl is None:
            return (
                f"[{self.section}] has no {self.key}: nothing is revoked there until it has {self.key} = {file}, and "
                "the gateway is reloaded."
            )
        return (
            f"[{self.section}] {self.key} is {self.crl}: nothing is revoked there until that has what is in {file}, "
            "and the gateway is reloaded."
        )


def _is_among(ca: Certificate, authorities: Path) -> bool:
    """Its certificate may have been renewed since, with the same key. Raises OSError, ValueError."""
    from gateway.pem import load_certificates

    found = load_certificates(authorities)
    return any((one.subject, one.public_key()) == (ca.subject, ca.public_key()) for one in found)


def _places(config: Config) -> Iterator[_Place]:
    from gateway.inspection.expiry import clients_tls, listeners_tls

    for section, tls in listeners_tls(config).items():
        if tls.client_certificate == "none":
            continue
        said = tls.sections.get("client_crl" if tls.client_crl else "client_ca", section)
        yield _Place("client", said, "client_crl", tls.client_ca, tls.client_crl)
    for section, upstream in clients_tls(config).items():
        yield _Place("server", section, "crl", upstream.root_certificate, upstream.crl)
    for jwt in config.jwt.values():
        yield _Place("server", f"jwt:{jwt.name}", "", jwt.jwks_root_certificate, None)
    database = config.registry.database if config.registry is not None else None
    if database is not None and not isinstance(database, Path):
        yield _Place("server", "registry", "", database.root_certificate, None)
