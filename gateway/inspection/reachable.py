"""Whether what the gateway depends on is there: every address of every upstream, the registry, and key sets at URLs.

Owns the questions, and the threads to wait in. TLS is that of the gateway's own contexts, and what is said to
PostgreSQL comes from its own `Link` and `UpstreamLogin`. Refuses to go further than a login.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from gateway.certs import Certificates
from gateway.errors import UpstreamError
from gateway.inspection.contact import Contact
from gateway.inspection.expiry import services
from gateway.inspection.findings import Finding, fail, ok, warn
from gateway.inspection.key_sets import Unfetched, fetch
from gateway.inspection.known_things import Missing, read_things
from gateway.registry.records import LedgerError
from gateway.registry.settings import RegistrySettings
from gateway.session.postgres_upstream import Link, Refused, UpstreamLogin
from gateway.session.vocabulary import Command, Data, Dialed, Secured, Send, Side, StartTLS
from gateway.settings import Config, JWTSettings
from gateway.upstream import Address, Login, TLSMode, Upstream

# Waited for at the same time.
_THREADS: Final = 16
# Roles that are tried at each address.
_MAX_ROLES: Final = 20
# Every server has it, unless somebody has dropped it.
_DATABASE: Final = "postgres"
_TERMINATE: Final = b"X\0\0\0\4"
# There is no such database; that comes after the login.
_NO_DATABASE: Final = "3D000"


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One question. about: an address, or a key of that section. ask: waits for the answer, with a deadline."""

    section: str
    about: str
    ask: Callable[[], Finding]


def inquiries(config: Config, certificates: Certificates) -> list[Inquiry]:
    """In the order of the answers that are wanted."""
    found: list[Inquiry] = []
    for name, upstream in config.upstreams.items():
        for address in upstream.addresses:
            found += _of_database(f"upstream:{name}", upstream, address, config, certificates)
    for section, service in services(config).items():
        for address in service.addresses:
            found.append(Inquiry(section, str(address), partial(_reach, section, service, address, certificates)))
    if config.registry is not None:
        found.append(Inquiry("registry", "database", partial(_registry, config.registry)))
    for jwt in config.jwt.values():
        if jwt.jwks is not None:
            found.append(Inquiry(f"jwt:{jwt.name}", "jwks", partial(_key_set, jwt)))
    return found


def asked(several: Sequence[Inquiry], progress: Callable[[], None] = lambda: None) -> list[Finding]:
    """All of them at the same time. progress: told of each that has its answer."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = [pool.submit(one.ask) for one in several]
        for _ in as_completed(waiting):
            progress()
    return [one.result() for one in waiting]


def _told(section: str, about: str, ask: Callable[[], Finding]) -> Finding:
    try:
        return ask()
    except TimeoutError:
        return fail(section, about, "no answer in time (connect_timeout)")
    except OSError as error:
        return fail(section, about, error.strerror or str(error))
    except UpstreamError as error:
        return fail(section, about, str(error))


# --- HTTP, MQTT, tunnels --------------------------------------------------------------------------------------------


def _reach(section: str, upstream: Upstream, address: Address, certificates: Certificates) -> Finding:
    def ask() -> Finding:
        with closing(Contact(address, upstream.connect_timeout)) as contact:
            if upstream.tls.mode is TLSMode.DISABLE:
                return ok(section, str(address), "reached, without TLS")
            facts = contact.secure(certificates.client(upstream, Login()))
            if upstream.tls.alpn and facts.alpn not in (b"", *upstream.tls.alpn):
                raise UpstreamError(f"it negotiated the ALPN protocol {facts.alpn!r}")
            return ok(section, str(address), f"{facts.version}, {_verified(upstream)}")

    return _told(section, str(address), ask)


def _verified(upstream: Upstream) -> str:
    if upstream.tls.mode is TLSMode.REQUIRE and upstream.tls.root_certificate is None:
        return "but whoever answers is believed"
    return "certificate and name verified" if upstream.tls.mode is TLSMode.VERIFY_FULL else "certificate verified"


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def _of_database(
    section: str, upstream: Upstream, address: Address, config: Config, certificates: Certificates
) -> Iterator[Inquiry]:
    """A login as each role that is known by name; without any, up to where one would begin."""
    known: dict[str | None, str] = dict(islice(sorted(_roles(upstream, config).items()), _MAX_ROLES))
    for role, database in (known or {None: _DATABASE}).items():
        call = _DatabaseCall(upstream, address, role, database, certificates)
        about = f"{address} as {role}" if role else str(address)
        yield Inquiry(section, about, partial(_told, section, about, partial(call.ask, section, about)))


def _roles(upstream: Upstream, config: Config) -> dict[str, str]:
    """Whom the gateway would log in as, with a database for each: the roles that rules name, their subjects where the
    role is the token's sub, and those of logins."""
    listeners = [one for one in config.postgres if one.upstream == upstream.name]
    allowing = [(one, rule) for one in listeners for rule in one.rules if rule.allow]
    usual = min((name for _, rule in allowing for name in rule.databases.exact), default=_DATABASE)
    found = {login.role: usual for login in upstream.logins if login.role is not None}
    for listener, rule in reversed(allowing):
        subjects = rule.subjects.exact if listener.role_claim is None else ()
        for role in subjects if rule.role is None else (rule.role,):
            own = role if "sameuser" in rule.databases.keywords else usual
            found[role] = min(rule.databases.exact, default=own)
    return found


@dataclass(frozen=True, slots=True)
class _DatabaseCall:
    """role: whom to log in as; None: nobody is known."""

    upstream: Upstream
    address: Address
    role: str | None
    database: str
    certificates: Certificates

    def ask(self, section: str, about: str) -> Finding:
        """Raises UpstreamError, OSError."""
        login = self.upstream.login(self.role) if self.role is not None else Login()
        with closing(Contact(self.address, self.upstream.connect_timeout)) as contact:
            link = self._linked(contact, login)
            way = f"{link.tls.version}, {_verified(self.upstream)}" if link.tls else "reached, without TLS"
            if self.role is None:
                return ok(section, about, f"{way}; no role is known to log in as")
            return self._logged_in(contact, link, section, about, way)

    def _linked(self, contact: Contact, login: Login) -> Link:
        link = Link(self.upstream, self.address, login)
        commands: Sequence[Command] = link.handle(Dialed())
        while not link.ready:
            for command in commands:
                if isinstance(command, Send):
                    contact.send(command.data)
            if any(isinstance(command, StartTLS) for command in commands):
                facts = contact.secure(self.certificates.client(self.upstream, login))
                commands = link.handle(Secured(Side.UPSTREAM, facts))
            else:
                commands = link.handle(Data(Side.UPSTREAM, contact.receive()))
        return link

    def _logged_in(self, contact: Contact, link: Link, section: str, about: str, way: str) -> Finding:
        assert self.role is not None  # the caller has asked
        parameters = {b"database": self.database.encode()}
        login = UpstreamLogin(self.upstream, link.login, self.role, parameters, link.tls)
        contact.send(login.first())
        try:
            while not login.ready:
                contact.send(login.feed(contact.receive()))
        except Refused as refused:
            if refused.error.sqlstate == _NO_DATABASE:
                return ok(section, about, f"{way}; logged in (there is no database {self.database})")
            return fail(section, about, f"{way}; {refused} (database {self.database})")
        with suppress(OSError, UpstreamError):
            contact.send(_TERMINATE)
        if login.superuser:
            return warn(section, about, f"{way}; logged in, as a superuser: only rules with superuser=yes let that in")
        return ok(section, about, f"{way}; logged in to {self.database}")


# --- the rest -------------------------------------------------------------------------------------------------------


def _registry(settings: RegistrySettings) -> Finding:
    try:
        read_things(settings)
    except Missing as error:
        # In PostgreSQL a gateway, which may not write there, does not start without one.
        told = warn if isinstance(settings.database, Path) else fail
        return told("registry", "database", str(error))
    except LedgerError as error:
        return fail("registry", "database", str(error))
    return ok("registry", "database", f"{settings.database}: read")


def _key_set(jwt: JWTSettings) -> Finding:
    section = f"jwt:{jwt.name}"
    try:
        found = fetch(jwt)
    except Unfetched as error:
        return fail(section, "jwks", f"{jwt.jwks}: {error}")
    return ok(section, "jwks", f"{jwt.jwks}: {len(found)} {'key' if len(found) == 1 else 'keys'}")
