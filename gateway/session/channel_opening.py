"""A request for a WebSocket in a channel, up to the answer: with the hub at once, with a broker once that has let us in
and has acknowledged the subscription.

Owns the one audit record of the request, and the beginning of the watch over the thing. Refuses with a status what
would only be a Close after the upgrade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.session.channel_broker import Approach
from gateway.session.channel_request import ChannelRequest
from gateway.session.channel_socket import PING_SECONDS, ChannelSocket
from gateway.session.channel_station import POLICY, TRY_LATER, BrokerStation, HubStation, Parting, Station
from gateway.session.http_answers import FORBIDDEN, SHUTDOWN, Refusal, answer, switching, unavailable
from gateway.session.http_exchange import State, Terms
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dismissed,
    Event,
    Hold,
    Lost,
    Passage,
    Proceed,
    Questions,
    RequestRecord,
    Send,
    SetDeadline,
    Side,
    TimedOut,
)
from gateway.things import Change, Rights, Thing, Unavailable, Watch
from gateway.wire.websocket import check_request

_CHANGES: Final = {
    Change.SHRUNK: (POLICY, "the thing may do less than before"),
    Change.REVOKED: (POLICY, "the thing was disabled, deleted or given another key"),
    Change.UNKNOWN: (TRY_LATER, "the registry cannot be asked"),
}


class Opening:
    """Each method answers commands; the attributes are those of an `Exchange`.

    socket: what goes on once it is open. approach: the way to a broker; None: the hub of this process.
    """

    socket: ChannelSocket
    _key: bytes
    _rights: Rights
    _watch: Watch
    held = keep = final = last = False
    ahead = b""

    def __init__(
        self,
        request: ChannelRequest,
        thing: Thing,
        passage: Passage,
        terms: Terms,
        questions: Questions,
        approach: Approach | None,
    ) -> None:
        self._request, self._thing, self._terms = request, thing, terms
        self._questions, self._approach = questions, approach
        self._broker: BrokerStation | None = None
        self._record = RequestRecord(request.asked, passage, decision="allowed")
        self._began = terms.clock()
        self.state = State.WAITING

    def begin(self, data: bytes) -> Sequence[Command]:
        """Raises Refusal, `http1.Refused`."""
        self._rights = self._request.rights(self._thing)
        self._key = check_request(self._request.head)
        try:
            self._watch = self._request.things.watch(self._thing.id, self._changed)
        except Unavailable:
            raise unavailable(_CHANGES[Change.UNKNOWN][1]) from None
        self.ahead = data
        if self._approach is not None:
            return self._approach.begin()
        assert self._request.access.hub is not None  # it is one of the two
        return self._open(HubStation(self._request.access.hub, self._questions, PING_SECONDS))

    def _changed(self, change: Change) -> None:
        """From now on until the end. Rights that it has more of are seen when they are used."""
        if change is not Change.GROWN:
            # Not while the registry is at it.
            self._questions.tell(Dismissed(*_CHANGES[change]))

    def handle(self, event: Event) -> Sequence[Command]:
        """With the hub it opens at once, so what comes here is about a broker."""
        try:
            if isinstance(event, Data) and event.side is Side.CLIENT:
                return self._early(event.data)
            if isinstance(event, Lost) and event.side is Side.CLIENT:
                return *self.abandon(f"the client's connection: {event.reason}"), Close(event.reason)
            if isinstance(event, Dismissed):
                raise Refusal(403, FORBIDDEN, event.reason) if event.code == POLICY else unavailable(event.reason)
            if isinstance(event, TimedOut) and self.final:
                raise Refusal(503, SHUTDOWN)
            commands = self._on_the_way(event)
        except Parting as parting:
            refusal = unavailable(str(parting))
            return self.refuse(Refusal(403, FORBIDDEN, str(parting)) if parting.code == POLICY else refusal)
        except Refusal as refusal:
            return self.refuse(refusal)
        if self._broker is not None and self._broker.subscribed:
            return *commands, *self._open(self._broker)
        # Once the gateway is shutting down, the deadline set for that stays.
        return [one for one in commands if not (self.final and isinstance(one, SetDeadline))]

    def _on_the_way(self, event: Event) -> Sequence[Command]:
        """The login, then the subscription. Raises Refusal, Parting."""
        approach, broker = self._approach, self._broker
        assert approach is not None  # `begin` has seen to that
        if broker is not None:
            if isinstance(event, TimedOut):
                raise unavailable("the broker did not acknowledge the subscription in time")
            return broker.handle(event)
        commands = approach.handle(event)
        if not approach.ready:
            return commands
        broker = BrokerStation(approach, self._request.access.max_packet, PING_SECONDS, self._terms.clock)
        self._broker = broker
        return *commands, *broker.subscribe(self._request.place.topic, listens=self._rights.subscribe)

    def _early(self, data: bytes) -> Sequence[Command]:
        self.ahead += data
        if self.held:
            return ()
        self.held = True
        return (Hold(),)

    def _open(self, station: Station) -> Sequence[Command]:
        self.state = State.UPGRADED
        self._record.status = 101
        self._close_record()
        self.socket = ChannelSocket(
            self._request, self._thing, self._rights, self._watch, station, self._questions, self._terms
        )
        proceed = (Proceed(),) if self.held else ()
        told = Send(Side.CLIENT, switching(self._key))
        return told, self._record, *proceed, *self.socket.begin()

    def _close_record(self) -> None:
        self._record.upstream = None if self._approach is None else self._approach.upstream
        self._record.seconds = self._terms.clock() - self._began

    def abandon(self, reason: str) -> list[Command]:
        """The connection ends, whatever the reason: the record is still due."""
        if self.state is not State.WAITING:
            return []
        self.state = State.OVER
        self._watch.stop()
        self._record.reason = reason
        self._close_record()
        return [self._record]

    def refuse(self, refusal: Refusal) -> Sequence[Command]:
        """Whatever it is at."""
        self._record.status = refusal.status
        reason = str(refusal)
        return *self.abandon(reason), Close(reason, answer(refusal))
