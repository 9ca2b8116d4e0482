"""An open WebSocket in a channel: what goes through it in both directions, and how it ends.

Each message of the client is published at the topic of the URL; what others publish there, or at a subtopic of it, and
what the client itself does, comes back: it is a subscriber like any other. A thing that may only publish or only
subscribe does only that. Owns the life of the connection: pings, the watch over the thing, what waits for a client that
does not read. Refuses, with a Close, what is no frame of a client's and what the thing has no right to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.hub.message import Message
from gateway.session.channel_request import ChannelRequest
from gateway.session.channel_station import (
    GOING_AWAY,
    POLICY,
    TRY_LATER,
    Parting,
    Station,
)
from gateway.session.http_answers import (
    EXPIRED,
    FORBIDDEN,
    KILLED,
    SHUTDOWN,
    UNAVAILABLE,
    Refusal,
)
from gateway.session.http_exchange import Terms
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dismissed,
    Drained,
    Ended,
    Event,
    Killed,
    Lost,
    Mail,
    Questions,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    TimedOut,
)
from gateway.things import Rights, Thing, Watch
from gateway.wire.mqtt_packets import NOTHING, Properties
from gateway.wire.websocket import close_frame
from gateway.wire.websocket_frames import (
    ClientMessages,
    Closing,
    FrameError,
    Ping,
    Pong,
    ping_frame,
    pong_frame,
)
from gateway.wire.websocket_frames import Message as Said

# How often a client is asked whether it is still there; one that has said nothing by the next time is not.
PING_SECONDS: Final = 45.0
# What waits for a client that does not take what it has been sent. Beyond that messages are dropped and counted; and
# so many of them dropped in a row are the end.
MAX_WAITING: Final = 262_144
MAX_DROPPED: Final = 1_000

_TEXT: Final = Properties(payload_format=1)
_PUBLIC: Final = {GOING_AWAY: SHUTDOWN, POLICY: FORBIDDEN, TRY_LATER: UNAVAILABLE}


class ChannelSocket:
    """`handle(event) -> [command]` from the upgrade on. from_client, to_client: bytes of frames."""

    def __init__(
        self,
        request: ChannelRequest,
        thing: Thing,
        rights: Rights,
        watch: Watch,
        station: Station,
        questions: Questions,
        terms: Terms,
    ) -> None:
        self._request, self._thing, self._rights, self._watch = request, thing, rights, watch
        self.from_client = self.to_client = 0
        self._station, self._questions, self._clock, self._expires = station, questions, terms.clock, terms.expires
        self._messages = ClientMessages(request.place.room)
        self._topic = request.place.topic
        self._next_ping = 0.0
        self._heard = True
        self._waiting: list[bytes] = []
        self._waiting_size = self._dropped = 0
        self._goodbye: int | None = None
        self._over = False

    def moved(self) -> tuple[int, int]:
        return self.from_client, self.to_client

    def begin(self) -> Sequence[Command]:
        self._next_ping = self._clock() + self._station.interval
        return *self._station.begin(self._topic, listens=self._rights.subscribe), self._deadline()

    def handle(self, event: Event) -> Sequence[Command]:
        step = _STEPS.get((type(event), getattr(event, "side", None)))
        if self._over or step is None:
            return ()
        try:
            return step(self, event)
        except Parting as parting:
            return self._part(parting.code, str(parting))

    # --- from the client --------------------------------------------------------------------------------------------

    def _data(self, event: Data) -> Sequence[Command]:
        self._heard = True
        self.from_client += len(event.data)
        messages, commands = self._messages, list[Command]()
        messages.receive(event.data)
        try:
            while (one := messages.next()) is not None:
                commands += _MESSAGES[type(one)](self, one)
        except FrameError as error:
            commands += self._part(error.code, str(error), str(error))
        except Parting as parting:
            commands += self._part(parting.code, str(parting))
        self._station.flush()
        return commands if self._over else (*commands, *self._goodbyes())

    def _said(self, said: Said) -> Sequence[Command]:
        if not self._rights.publish:
            self._ask_again()
        return self._station.publish(Message(self._topic, said.data, 1, False, _TEXT if said.text else NOTHING))

    def _ask_again(self) -> None:
        """Since it opened the thing may have been given more rights. Raises Parting."""
        try:
            self._rights = self._request.rights(self._thing)
        except Refusal:
            self._rights = Rights()
        if not self._rights.publish:
            raise Parting(POLICY, "the thing may not publish in this channel")

    def _ping(self, ping: Ping) -> Sequence[Command]:
        return (Send(Side.CLIENT, pong_frame(ping.data)),)

    def _pong(self, _: Pong) -> Sequence[Command]:
        return ()

    def _closing(self, closing: Closing) -> Sequence[Command]:
        """RFC 6455, 5.5.1: it gets its own code back. Nothing comes after it."""
        self._goodbye = closing.code or 1000
        return ()

    def _goodbyes(self) -> Sequence[Command]:
        """The end, once what the client has said before is on its way."""
        if self._goodbye is None or self._station.held:
            return ()
        return self._close("the client has closed the WebSocket", close_frame(self._goodbye))

    # --- to the client ----------------------------------------------------------------------------------------------

    def _mailed(self, event: Mail) -> Sequence[Command]:
        if not self._waiting and not self._questions.congested():
            return self._sent(event.data)
        if self._waiting_size + len(event.data) <= MAX_WAITING:
            self._waiting.append(event.data)
            self._waiting_size += len(event.data)
            return ()
        self._dropped += 1
        if self._dropped > MAX_DROPPED:
            raise Parting(TRY_LATER, "the client does not take its messages")
        return ()

    def _drained(self, _: Drained) -> Sequence[Command]:
        if not self._waiting:
            return ()
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = self._dropped = 0
        return self._sent(data)

    def _sent(self, data: bytes) -> Sequence[Command]:
        self.to_client += len(data)
        return (Send(Side.CLIENT, data),)

    # --- from elsewhere ---------------------------------------------------------------------------------------------

    def _of_upstream(self, event: Event) -> Sequence[Command]:
        commands = self._station.handle(event)
        for command in commands:
            if isinstance(command, Send) and command.side is Side.CLIENT:
                self.to_client += len(command.data)
        return *commands, *self._goodbyes()

    def _dismissed(self, event: Dismissed) -> Sequence[Command]:
        return self._part(event.code, event.reason)

    def _killed(self, event: Killed) -> Sequence[Command]:
        return self._part(POLICY, event.reason, KILLED)

    def _shutting_down(self, _: ShuttingDown) -> Sequence[Command]:
        return self._part(GOING_AWAY, SHUTDOWN)

    def _timed_out(self, event: TimedOut) -> Sequence[Command]:
        now = self._clock()
        if self._expires is not None and self._expires <= now:
            return self._part(POLICY, EXPIRED, EXPIRED)
        if now < self._next_ping:
            return (self._deadline(),)
        if event.stalled is Side.UPSTREAM:
            raise Parting(TRY_LATER, "the broker does not take what it is sent")
        # Who is not read cannot be heard.
        if not self._heard and not self._station.held:
            return self._close("the client does not answer")
        self._heard = False
        self._next_ping = now + self._station.interval
        return Send(Side.CLIENT, ping_frame()), *self._station.tick(deaf=event.stalled is Side.CLIENT), self._deadline()

    def _deadline(self) -> SetDeadline:
        now = self._clock()
        due = self._next_ping if self._expires is None else min(self._next_ping, self._expires)
        return SetDeadline(max(due - now, 0.001))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _part(self, code: int, reason: str, public: str = "") -> Sequence[Command]:
        """public: what the client is told."""
        told = public or _PUBLIC.get(code, "")
        return self._close(reason, close_frame(code, told.encode("ascii")))

    def _lost(self, event: Lost) -> Sequence[Command]:
        return self._close(event.reason)

    def _ended(self, _: Ended) -> Sequence[Command]:
        """Of a connection that was cut."""
        self._stop()
        return ()

    def _close(self, reason: str, farewell: bytes = b"") -> Sequence[Command]:
        if self._dropped:
            reason += f" ({self._dropped} messages for it were dropped)"
        return *self._stop(), Close(reason, farewell)

    def _stop(self) -> Sequence[Command]:
        self._over = True
        self._watch.stop()
        self._waiting.clear()
        return self._station.stop()


_Step = Callable[[ChannelSocket, Any], Sequence[Command]]
_STEPS: Final[dict[tuple[type[Event], Side | None], _Step]] = {
    (Data, Side.CLIENT): ChannelSocket._data,
    (Mail, None): ChannelSocket._mailed,
    (Drained, None): ChannelSocket._drained,
    (TimedOut, None): ChannelSocket._timed_out,
    (Dismissed, None): ChannelSocket._dismissed,
    (Killed, None): ChannelSocket._killed,
    (ShuttingDown, None): ChannelSocket._shutting_down,
    (Lost, Side.CLIENT): ChannelSocket._lost,
    (Data, Side.UPSTREAM): ChannelSocket._of_upstream,
    (Lost, Side.UPSTREAM): ChannelSocket._of_upstream,
    (Ended, None): ChannelSocket._ended,
}
_MESSAGES: Final[dict[type, _Step]] = {
    Said: ChannelSocket._said,
    Ping: ChannelSocket._ping,
    Pong: ChannelSocket._pong,
    Closing: ChannelSocket._closing,
}
