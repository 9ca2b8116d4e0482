"""A client's request to cancel what a session does: from its key to the packet that the session's upstream gets.

Owns the way there: the address, the login and the TLS of the session that is meant. Refuses a key that is nobody's, and
more attempts from an address than it may make. There is no reply in any case, success or not (PostgreSQL manual,
"Canceling Requests in Progress").
"""

from __future__ import annotations

from gateway.errors import UpstreamError
from gateway.session.cancel import CancelKeys
from gateway.session.postgres_upstream import Link
from gateway.session.vocabulary import Command, Data, Dialed, Lost, Secured, Send, SetDeadline, Side
from gateway.wire import postgres as wire

# A cancel that the upstream does not answer by closing is given up after so many seconds.
CANCEL_SECONDS = 10.0


class NotCancelled(Exception):
    """The text is why, for the audit record only."""


class CancelErrand:
    """One request: `start`, then `linking` until it is `sent`, then `over`.

    address: the client's. now: seconds, as `cancels` counts them. Raises NotCancelled.
    """

    __slots__ = ("_link", "_packet", "sent", "subject")

    def __init__(self, cancels: CancelKeys, request: wire.CancelRequest, address: str, now: float) -> None:
        if not cancels.allow(address, now):
            raise NotCancelled("too many requests from this address")
        target = cancels.find(request.pid, request.key)
        if target is None:
            raise NotCancelled("no such session")
        self.subject = target.subject
        self._link = Link(target.upstream, target.address, target.login)
        self._packet = wire.cancel_request(target.pid, target.key)
        self.sent = False

    @property
    def upstream(self) -> str:
        """Where it goes, for the audit."""
        return f"{self._link.upstream.name} {self._link.address}"

    def start(self) -> list[Command]:
        return [SetDeadline(CANCEL_SECONDS), *self._link.start()]

    def linking(self, event: Data | Secured | Dialed) -> list[Command]:
        """Raises NotCancelled."""
        try:
            commands = self._link.handle(event)
        except UpstreamError as error:
            raise NotCancelled(str(error)) from None
        if not self._link.ready:
            return commands
        self.sent = True
        return [*commands, Send(Side.UPSTREAM, self._packet)]

    def over(self, event: Lost) -> str:
        """How it ended, for the audit: the upstream says that it has understood by closing."""
        return "passed on" if self.sent else event.reason
