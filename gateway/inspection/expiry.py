"""When the certificates and revocation lists of a configuration come to their end, and who is told of that in time.

Owns which files there are, and a watch that looks once a day and warns in the log when 30, 7 and 1 days are left.
Refuses nothing: a file that cannot be read is for others to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.logger import Logger

from gateway.pem import UNREADABLE, load_certificates, load_crls
from gateway.settings import Config
from gateway.upstream import ClientTLS, Login, ServerTLS, Upstream

# How many days ahead somebody is told.
AHEAD: Final = (30, 7, 1)
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Expiry:
    """One certificate or CRL. section, key: where the configuration names its file. what: for a person.

    since, until: notBefore and notAfter, or lastUpdate and nextUpdate.
    """

    section: str
    key: str
    path: Path
    what: str
    since: datetime
    until: datetime

    def due(self, now: datetime) -> int | None:
        """Of the days ahead at which it is told, the last that has come; 0: it is over; None: there is time.

        What lasts for a month is not told of for all of that month: a third of the whole is early enough. A day that
        has begun counts as a whole one: what lasts for 90 days usually ends a second earlier.
        """
        if self.until <= now:
            return 0
        near = [days for days in AHEAD if timedelta(days=3 * days - 1) < self.until - self.since]
        return min((days for days in near if self.until - now <= timedelta(days=days)), default=None)


def expiries(config: Config) -> tuple[Expiry, ...]:
    """Of all files that can be read, each of them once."""
    found: dict[tuple[Path, str], Expiry] = {}
    for one in _all(config):
        found.setdefault((one.path, one.what), one)
    return tuple(found.values())


def _all(config: Config) -> Iterator[Expiry]:
    for section, tls in listeners_tls(config).items():
        yield from _of_listener(section, tls)
    for section, client in clients_tls(config).items():
        yield from _of_client(section, client)
    for upstream in config.upstreams.values():
        for login in upstream.logins:
            yield from _of_login(login)
    for jwt in config.jwt.values():
        yield from _certificates(f"jwt:{jwt.name}", "jwks_root_certificate", jwt.jwks_root_certificate)
    database = config.registry.database if config.registry is not None else None
    if database is not None and not isinstance(database, Path):
        yield from _certificates("registry", "root_certificate", database.root_certificate)
        yield from _certificates("registry", "client_certificate", database.certificate)


def listeners_tls(config: Config) -> dict[str, ServerTLS]:
    """How each listener that speaks TLS does so, by its section."""
    found: dict[str, ServerTLS | None] = {f"postgres:{one.name}": one.tls for one in config.postgres}
    found |= {f"https:{one.name}": one.tls for one in config.https}
    found |= {f"mqtt:{one.name}": one.tls for one in config.mqtt}
    found |= {f"tunnel:{one.name}": one.tls for one in config.tunnels}
    return {section: tls for section, tls in found.items() if tls is not None}


def services(config: Config) -> dict[str, Upstream]:
    """Every upstream but PostgreSQL's, by its section."""
    found = {f"route:{one.name}": one.upstream for one in config.routes if one.upstream.addresses}
    found |= {f"mqtt:{one.name}": one.upstream for one in config.mqtt if one.upstream is not None}
    return found | {f"tunnel:{one.name}": one.upstream for one in config.tunnels}


def clients_tls(config: Config) -> dict[str, ClientTLS]:
    """How each upstream is spoken to, by its section."""
    found = {f"upstream:{name}": upstream.tls for name, upstream in config.upstreams.items()}
    return found | {section: upstream.tls for section, upstream in services(config).items()}


def _of_listener(section: str, tls: ServerTLS) -> Iterator[Expiry]:
    def place(key: str) -> str:
        return tls.sections.get(key, section)

    yield from _certificates(place("certificate"), "certificate", tls.certificate)
    for certificate, _ in tls.sni:
        yield from _certificates(place("sni"), "sni", certificate)
    yield from _certificates(place("client_ca"), "client_ca", tls.client_ca)
    yield from _crls(place("client_crl"), "client_crl", tls.client_crl)


def _of_client(section: str, tls: ClientTLS) -> Iterator[Expiry]:
    yield from _certificates(section, "root_certificate", tls.root_certificate)
    yield from _certificates(section, tls.own_keys[0], tls.certificate)
    yield from _crls(section, "crl", tls.crl)


def _of_login(login: Login) -> Iterator[Expiry]:
    if login.section is not None:
        yield from _certificates(login.section, "certificate", login.certificate)


def _certificates(section: str, key: str, path: Path | None) -> Iterator[Expiry]:
    if path is None:
        return
    with suppress(OSError, *UNREADABLE):
        for one in load_certificates(path):
            what = f"the certificate of {one.subject.rfc4514_string() or 'nobody'}"
            yield Expiry(section, key, path, what, one.not_valid_before_utc, one.not_valid_after_utc)


def _crls(section: str, key: str, path: Path | None) -> Iterator[Expiry]:
    if path is None:
        return
    with suppress(OSError, *UNREADABLE):
        for one in load_crls(path):
            assert one.next_update_utc is not None  # it is not loaded without one
            what = f"the CRL of {one.issuer.rfc4514_string()}"
            yield Expiry(section, key, path, what, one.last_update_utc, one.next_update_utc)


# --- the watch ------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """A reactor, as far as it is needed here."""

    def callLater(self, delay: float, call: Callable[[], Any], /) -> Any:  # noqa: N802 - Twisted's
        """With `cancel` and `active`."""


class ExpiryWatch:
    """Tells the log. Each file is told of once for each of the days ahead, and again after a reload that has not made
    it better.

    now: seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, clock: Clock, now: Callable[[], float]) -> None:
        self._clock, self._now = clock, now
        self._watched: Sequence[Expiry] = ()
        self._told: dict[Expiry, int] = {}
        self._next: Any = None

    def adopt(self, config: Config) -> None:
        """Once at the start, and after each reload. What a running gateway uses is what its files were at that time."""
        self._watched, self._told = expiries(config), {}
        if self._next is not None:
            self._look()

    def start(self) -> None:
        """Looks now, and then once a day."""
        self._again()

    def stop(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _again(self) -> None:
        self._next = self._clock.callLater(_DAY, self._again)
        self._look()

    def _look(self) -> None:
        now = datetime.fromtimestamp(self._now(), UTC)
        for one in self._watched:
            due = one.due(now)
            if due is not None and self._told.get(one) != due:
                self._told[one] = due
                self._tell(one, now)

    def _tell(self, one: Expiry, now: datetime) -> None:
        place, until = f"[{one.section}] {one.key} = {one.path}", f"{one.until:%Y-%m-%d %H:%M} UTC"
        self._log.warn("{place}: {words}", place=place, words=f"{one.what} {left(one, now)} ({until})")


def left(one: Expiry, now: datetime) -> str:
    """How long it still lasts, in words."""
    if one.until <= now:
        return "is over"
    days = (one.until - now).days
    return f"ends in {days} days" if days > 1 else "ends in 1 day" if days else "ends within a day"
