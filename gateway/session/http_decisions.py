"""What every request of an HTTPS connection is held to before anything is dialed for it: the name asked for in TLS, a
route, the certificate, its key, the rules, the registry.

Owns what is in force for the connection, what was decided under that, and the moment at which it is asked anew. Refuses
with a status. Nothing here sends a byte.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import Denied
from gateway.identity import Identity
from gateway.routes import Route
from gateway.session.access import HTTPAccess
from gateway.session.backends import Backends
from gateway.session.http_answers import EXPIRED, FORBIDDEN, NOT_TRUSTED, Refusal, unavailable
from gateway.session.http_caller import Caller
from gateway.session.http_errands import Errand, LocalExchange, errand
from gateway.session.http_exchange import Outgoing, Terms
from gateway.session.http_outgoing import find_route, outgoing
from gateway.session.standing import Standing
from gateway.session.vocabulary import Asked, Facts, Passage, Questions, TLSFacts
from gateway.things import Unavailable
from gateway.upstream import Address
from gateway.wire.http1 import RequestHead


def asked(head: RequestHead) -> Asked:
    return Asked(head.method.decode("ascii"), head.hostname, head.path.decode("ascii"))


class Decisions:
    """Of one connection. current: the listener's access now. questions: a subject is asked for once. clock: seconds
    since the epoch. facts: told who was proven by the latest request.

    access: what is in force for the connection; see `renew`. terms: of its exchanges. passage: of the latest request,
    for the audit. counted: the subject that the connection is counted for. last: the next answer ends the connection.
    """

    # Made with the handshake.
    _caller: Caller
    terms: Terms

    __slots__ = (
        "_backends",
        "_caller",
        "_clock",
        "_current",
        "_facts",
        "_out",
        "_questions",
        "_standing",
        "access",
        "counted",
        "last",
        "over_limit",
        "passage",
        "terms",
    )

    def __init__(
        self,
        current: Callable[[], HTTPAccess],
        backends: Backends,
        questions: Questions,
        clock: Callable[[], float],
        facts: Facts,
    ) -> None:
        self._current, self._backends, self._questions, self._clock = current, backends, questions, clock
        self._facts = facts
        self.access = current()
        things = self.access.things
        self._standing = Standing(things, questions) if things is not None else None
        self._out: Outgoing | Errand | None = None
        self.passage = Passage()
        self.counted: str | None = None
        self.over_limit = self.last = False

    def secured(self, client: Address, tls: TLSFacts) -> None:
        self._caller = Caller(client, tls, self._clock)
        self.terms = self._new_terms()

    def _new_terms(self) -> Terms:
        expires = self._caller.tls.peer_expires
        return Terms(self._backends, self._clock, self._questions.idle, self.access.body_timeout, expires)

    def stop(self) -> None:
        if self._standing is not None:
            self._standing.stop()

    # --- a request --------------------------------------------------------------------------------------------------

    def decided(self, head: RequestHead) -> Outgoing | Errand:
        """Whether it may go on, and as what; as before, if it is that very head under these very rules. Raises
        Refusal, `http1.Refused`."""
        if self._current() is not self.access:
            self.renew()
        out = self._out
        if out is None or out.head is not head:
            self.passage = Passage()
            out = self._out = self._decide(head, asked(head))
        elif self._caller.expired:
            raise Refusal(403, EXPIRED)
        if self._standing is not None and isinstance(out, Outgoing):
            self._check_standing(self._standing, out.route)
        return out

    def _decide(self, head: RequestHead, asked: Asked) -> Outgoing | Errand:
        caller = self._caller
        if self.over_limit:
            raise Refusal(503, "too many connections")
        if caller.expired:
            raise Refusal(403, EXPIRED)
        if caller.server_name is not None and caller.server_name != head.hostname:
            raise Refusal(421, "Host is not the name that TLS was asked for")
        route = find_route(self.access.routes, head)
        self.passage = Passage(route.name)
        if route.serve != "upstream":
            return self._errand(route, head, asked)
        rule = None
        try:
            identity, rule = caller.admit(route, head.method)
        finally:
            self._name(route, caller.identity(route), rule)
        if identity is not None:
            self._count(identity.subject)
        return outgoing(caller, route, identity, head, asked, self.passage)

    def _name(self, route: Route, identity: Identity | None, rule: str | None) -> None:
        """For the audit, also of a refusal."""
        if identity is None:
            self.passage = Passage(route.name, rule=rule)
        else:
            self.passage = Passage(route.name, identity.subject, identity.serial, rule)
            self._facts.subject, self._facts.serial = identity.subject, identity.serial

    def _count(self, subject: str) -> None:
        if self.counted is None:
            if not self._questions.admit(subject):
                raise Refusal(503, "too many connections", "too many connections of this subject")
            self.counted = subject

    def _check_standing(self, standing: Standing, route: Route) -> None:
        _ask(lambda: standing.check(self._caller.identity(route)))

    def nameless(self) -> Passage:
        """Of a request that says nothing: what is known is who sent it, if there was another one before."""
        self.passage = Passage(subject=self._facts.subject, serial=self._facts.serial)
        return self.passage

    # --- a request that is served here ------------------------------------------------------------------------------

    def _errand(self, route: Route, head: RequestHead, asked: Asked) -> Errand:
        identity = self._caller.identify(route)
        self._name(route, identity, None)
        return errand(route, self._caller, identity, head, asked, self._current, self._questions, self._clock)

    def served(self, out: Errand) -> LocalExchange:
        """Who sends it is asked anew for each one. Raises Refusal."""
        subject = out.subject()
        if subject is not None and subject != self.passage.subject:
            self.passage = self.passage._replace(subject=subject)
            self._facts.subject = subject
        rule = out.rule()
        if rule != self.passage.rule:
            self.passage = self.passage._replace(rule=rule)
        if subject is not None:
            self._count(subject)
        return out.exchange(self.passage, self.terms, self.counted, last=self.last)

    # --- what has changed -------------------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """Whether there was a reload since it was last asked."""
        return self._current() is not self.access

    def renew(self) -> None:
        """A reload: what was decided is forgotten, and the connection ends with this request. Raises Refusal."""
        self.access, self.last, self._out = self._current(), True, None
        self.terms = self._new_terms()
        self._caller.forget()
        if not self._questions.renew():
            self.nameless()
            raise Refusal(403, NOT_TRUSTED)

    def again(self) -> None:
        """The request that has opened a WebSocket of ours, under what is in force now. Raises Refusal."""
        out = self._out
        assert out is not None  # it has opened the socket
        self.renew()
        again = self._out = self._decide(out.head, out.asked)
        if isinstance(again, Outgoing) or type(again) is not type(out):
            raise Refusal(403, FORBIDDEN, "its path leads somewhere else now")
        again.subject()
        again.rule()

    def unwelcome(self) -> Refusal | None:
        """Why whoever is connected would not be let in now, whatever it has asked for; None: it may stay. The rules are
        for its next request."""
        try:
            if not self._questions.trusted():
                raise Refusal(403, NOT_TRUSTED)
            if self._standing is not None:
                _ask(self._standing.again)
        except Refusal as refusal:
            return refusal
        return None


def _ask(question: Callable[[], None]) -> None:
    """Raises Refusal."""
    try:
        question()
    except Denied as denied:
        raise Refusal(403, FORBIDDEN, f"denied: {denied}") from None
    except Unavailable:
        raise unavailable("the registry cannot be asked") from None
