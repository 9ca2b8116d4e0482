"""What is the same for every MQTT client that was let in, wherever its messages go: its silence, its haste, its end.

Owns the clock of a session (keep-alive, packets a second, the end of what proved the identity), the topics that were
decided about, and what DISCONNECT says. Refuses what a client may not send, and ends a session when its rights do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from gateway.session.mqtt_access import MQTTAccess
from gateway.session.mqtt_caller import Entry, Rejected, why_not
from gateway.session.mqtt_frames import Frames, Run, Single
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Denial,
    Dismissed,
    Drained,
    Event,
    Hold,
    Killed,
    Lost,
    Proceed,
    Questions,
    Reloaded,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    TimedOut,
)
from gateway.things import Change, Unavailable, Watch
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Malformed,
    Packet,
    PingResp,
    Publish,
    Reason,
    Refusal,
    SubAck,
    UnsubAck,
    Version,
)
from gateway.wire.mqtt_topics import shared

T = TypeVar("T")

# Each takes the one kind of event that its row names: its class, and its side where it has one. The links' own methods.
Steps = Mapping[tuple[type[Event], Side | None], Callable[[Any, Any], Sequence[Command]]]

# MQTT-3.1.2-22.
_PATIENCE: Final = 1.5
# Topic aliases that a client may set (MQTT-3.1.2.11.5): each holds a topic's name here.
TOPIC_ALIASES: Final = 64
# Characters of a topic that may have one.
MAX_ALIASED: Final = 1_024
# Topics and filters that one client was refused and that are remembered, and told the audit; and how much of each.
MAX_DENIED: Final = 64
MAX_TOLD: Final = 256
# A client that sends, but does not take what it is sent, is waited for so long (seconds).
_STUCK: Final = 60.0
# What is left to a client that was slowed down: as if it had been at rest for so long.
_BURST_SECONDS: Final = 1.0

# For the audit.
NOT_TRUSTED: Final = "the client certificate is not trusted any more"

_OF_SERVERS: Final = (ConnAck, SubAck, UnsubAck, PingResp)
_CHANGES: Final = {
    Change.SHRUNK: (Reason.NOT_AUTHORIZED, "the thing may do less than before"),
    Change.REVOKED: (Reason.ADMINISTRATIVE_ACTION, "the thing was disabled, deleted or given another key"),
    Change.UNKNOWN: (Reason.SERVER_UNAVAILABLE, "the registry cannot be asked"),
}

# What a session ends with, and CONNACK has no place for (MQTT-3.2.2.2).
_INSTEAD: Final = {
    Reason.ADMINISTRATIVE_ACTION: Reason.NOT_AUTHORIZED,
    Reason.SERVER_SHUTTING_DOWN: Reason.SERVER_UNAVAILABLE,
}
# 3.1.1 has fewer codes (3.1.1: 3.2.2.3).
_REFUSALS: Final = {
    Reason.UNSUPPORTED_PROTOCOL_VERSION: Refusal.UNACCEPTABLE_PROTOCOL_VERSION,
    Reason.CLIENT_IDENTIFIER_NOT_VALID: Refusal.IDENTIFIER_REJECTED,
    Reason.BAD_USER_NAME_OR_PASSWORD: Refusal.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORIZED: Refusal.NOT_AUTHORIZED,
}


class Ending(Exception):
    """The session ends; the client hears `code` in 5.0. The text is for the audit."""

    def __init__(self, code: Reason, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Link(Generic[T]):
    """`handle(event) -> [command]`, from the verdict about CONNECT on. T: what stands for a topic.

    current: the listener's access now. clock: seconds since the epoch. quick: of `Frames`. over: nothing more is to be
    done. held: the client is not read at present.
    """

    def __init__(
        self,
        entry: Entry,
        current: Callable[[], MQTTAccess],
        asked: Questions,
        clock: Callable[[], float],
        quick: frozenset[int],
    ) -> None:
        self.entry, self._current, self.asked, self.clock = entry, current, asked, clock
        self.access = current()
        self.version = entry.connect.version
        self.frames: Frames[T] = Frames(self.version, self.access.max_packet, quick)
        self.over = False
        self.held = False
        self._aliases: dict[int, str] = {}
        self._denied: set[tuple[str, int]] = set()
        self._denials: list[Command] = []
        self.keep_alive(keep_alive(entry.connect, self.access))
        self._heard_at = clock()
        self._level, self._level_at = (self.access.packet_rate or 0.0) * _BURST_SECONDS, self._heard_at
        self._slowed_until = self._held_at = 0.0
        self._watch: Watch | None = None

    # --- what every link does in its own way ------------------------------------------------------------------------

    def begin(self) -> Sequence[Command]:
        """After CONNECT was let in."""
        raise NotImplementedError

    def run(self, run: Run[T]) -> None:
        """PUBLISH packets to a topic that is known."""
        raise NotImplementedError

    def packet(self, packet: Packet, single: Single) -> None:
        """Any other packet that a client may send. May raise Ending, Malformed."""
        raise NotImplementedError

    def heard(self) -> Sequence[Command]:
        """All of one read was told to the two above."""
        raise NotImplementedError

    def left(self, *, will: bool, session_expiry: int | None = None) -> None:
        """The client is gone; with its Will, or without."""
        raise NotImplementedError

    # --- events -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> Sequence[Command]:
        step = self.STEPS.get((type(event), getattr(event, "side", None)))
        if self.over or step is None:
            return ()
        try:
            return step(self, event)
        except Ending as ending:
            return self.part(ending.code, str(ending))
        except Malformed as malformed:
            return self.part(malformed.code, str(malformed))

    def data(self, event: Data) -> Sequence[Command]:
        """A read of the client's."""
        self._heard_at = self.clock()
        self.renew()
        for item in self.frames.read(event.data):
            if isinstance(item, Run):
                self.run(item)
            else:
                self._single(item)
            if self.over:
                return self._with_denials((Close("the client has disconnected"),))
        commands = self._with_denials(self.heard())
        rate = self.access.packet_rate
        if rate is not None:
            commands = (*commands, *self._slow_down(rate))
        return commands

    def _single(self, single: Single) -> None:
        packet = single.packet
        if isinstance(packet, _OF_SERVERS):
            raise Ending(Reason.PROTOCOL_ERROR, f"{type(packet).__name__} from a client")
        if isinstance(packet, Auth):
            raise Ending(Reason.PROTOCOL_ERROR, "AUTH, though nothing was begun with it")
        self.packet(packet, single)

    def lost(self, event: Lost) -> Sequence[Command]:
        self.close(will=True)
        return (Close(event.reason),)

    def timed_out(self, _: TimedOut) -> Sequence[Command]:
        now = self.clock()
        if self.entry.expires <= now:
            return self.part(Reason.NOT_AUTHORIZED, "the client certificate has expired")
        if self._keep_alive and not self.held and now - self._heard_at >= self._keep_alive:
            return self.part(Reason.KEEP_ALIVE_TIMEOUT, "the client was silent for longer than its keep-alive")
        if self._is_stuck(now):
            return self.part(Reason.QUOTA_EXCEEDED, "the client does not take what it is sent")
        more: Sequence[Command] = ()
        if self._slowed_until and self._slowed_until <= now:
            self._slowed_until, self._held_at = 0.0, now
            more = self.release()
        return self.deadline(), *more

    def shutting_down(self, _: ShuttingDown) -> Sequence[Command]:
        return self.part(Reason.SERVER_SHUTTING_DOWN, "the gateway is shutting down")

    def dismissed(self, event: Dismissed) -> Sequence[Command]:
        return self.part(Reason(event.code), event.reason, will=event.code != Reason.SESSION_TAKEN_OVER)

    def killed(self, event: Killed) -> Sequence[Command]:
        return self.part(Reason.ADMINISTRATIVE_ACTION, event.reason)

    def reloaded(self, _: Reloaded) -> Sequence[Command]:
        """Raises Ending."""
        self.renew()
        return ()

    def drained(self, _: Drained) -> Sequence[Command]:
        return self.release()

    # --- the clock --------------------------------------------------------------------------------------------------

    def keep_alive(self, seconds: int) -> None:
        """How often the client has to be heard, as it was told; 0: never."""
        self._keep_alive = seconds * _PATIENCE

    def deadline(self) -> SetDeadline:
        """The next moment at which something may be due."""
        now = self.clock()
        due = [self.entry.expires]
        if self._keep_alive and not self.held:
            due.append(self._heard_at + self._keep_alive)
        if self._slowed_until:
            due.append(self._slowed_until)
        elif self.held:
            due.append(self._held_at + _STUCK)
        first = min(due)
        return SetDeadline(None if first == math.inf else max(first - now, 0.001))

    def _slow_down(self, rate: float) -> Sequence[Command]:
        """Whoever sends more than it may is read later: the network holds it back."""
        now = self._heard_at
        level = min(rate * _BURST_SECONDS, self._level + (now - self._level_at) * rate) - self.frames.count
        self._level, self._level_at = level, now
        if level >= 0:
            return ()
        self._slowed_until = now - level / rate
        return self.hold() or (self.deadline(),)

    def hold(self) -> Sequence[Command]:
        """Read nothing more of the client for now."""
        if self.held:
            return ()
        self.held, self._held_at = True, self.clock()
        return Hold(), self.deadline()

    def _is_stuck(self, now: float) -> bool:
        return self.held and not self._slowed_until and now - self._held_at >= _STUCK

    def release(self) -> Sequence[Command]:
        """Read again, unless there is another reason not to. What was sent meanwhile was not read, so it was no
        silence."""
        if not self.held or self._slowed_until or self.asked.congested():
            return ()
        self.held, self._heard_at = False, self.clock()
        return Proceed(), self.deadline()

    # --- rights -----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Hear of what happens to the thing. Raises Ending if nobody can say, or it has happened already."""
        things, thing = self.access.things, self.entry.thing
        if things is None or thing is None:
            return
        try:
            latest = things.named(thing.id)
            self._watch = things.watch(thing.id, self._changed)
        except Unavailable:
            raise Ending(*_CHANGES[Change.UNKNOWN]) from None
        if latest != thing:
            raise Ending(*_CHANGES[Change.REVOKED])

    def _changed(self, change: Change) -> None:
        self.forget()
        if change is not Change.GROWN:
            # As an event, which waits its turn if the session is at something.
            code, reason = _CHANGES[change]
            self.asked.tell(Dismissed(code, reason))

    def forget(self) -> None:
        """What was decided about topics counts no more."""
        self.frames.known.clear()
        self._denied.clear()

    def renew(self) -> None:
        """Asked before anything more is said or heard. After a reload whoever would not be let in now has to go, and
        what was decided is decided anew. Raises Ending."""
        if self._current() is self.access:
            return
        self.access = self._current()
        self.forget()
        if not self.asked.renew():
            raise Ending(Reason.NOT_AUTHORIZED, NOT_TRUSTED)
        try:
            self.entry = self.entry.renewed()
        except Rejected as rejected:
            gone = rejected.code is Reason.SERVER_UNAVAILABLE
            raise Ending(rejected.code if gone else Reason.NOT_AUTHORIZED, f"denied: {rejected}") from None
        if not all(map(self.entry.permission.subscribe, self.filters())):
            raise Ending(Reason.NOT_AUTHORIZED, "it may not subscribe any more to what it has subscribed to")

    def filters(self) -> Sequence[str]:
        """What is subscribed to, as far as it is known here; without `$share`."""
        return ()

    def may_publish(self, topic: str) -> bool:
        """Remembers what may not be, too: whoever tries it again and again costs no more than others."""
        if ("publish", hash(topic)) in self._denied:
            return False
        allowed = self.entry.permission.publish(topic)
        if not allowed:
            self._tell_denial("publish", topic)
        return allowed

    def may_subscribe(self, topic_filter: str) -> bool:
        """topic_filter: perhaps of a shared subscription (MQTT-4.8.2)."""
        share = shared(topic_filter)
        allowed = self.entry.permission.subscribe(share[1] if share else topic_filter)
        if not allowed and ("subscribe", hash(topic_filter)) not in self._denied:
            self._tell_denial("subscribe", topic_filter)
        return allowed

    def _tell_denial(self, action: str, topic: str) -> None:
        """One record for each topic, and not without end."""
        if len(self._denied) < MAX_DENIED:
            self._denied.add((action, hash(topic)))
            reason = why_not(self.entry.permission, action, topic)
            self._denials.append(Denial(action, topic[:MAX_TOLD], reason))

    def _with_denials(self, commands: Sequence[Command]) -> Sequence[Command]:
        """First what the audit is to be told of this read."""
        denials, self._denials = self._denials, []
        return (*denials, *commands) if denials else commands

    def topic_of(self, packet: Publish) -> str:
        """Of that packet, whose topic may be an alias (MQTT-3.3.2.3.4). Raises Ending."""
        alias = packet.properties.topic_alias
        if packet.properties.subscription_identifiers:
            raise Ending(Reason.PROTOCOL_ERROR, "a subscription identifier from a client")  # MQTT-3.3.4-6
        if alias is None:
            return packet.topic
        if not 0 < alias <= self.alias_maximum():
            raise Ending(Reason.TOPIC_ALIAS_INVALID, "a topic alias that is larger than was allowed")
        if packet.topic:
            if len(packet.topic) > MAX_ALIASED:
                raise Ending(Reason.QUOTA_EXCEEDED, "a topic alias for a topic that is too long to be remembered")
            self._aliases[alias] = packet.topic
            return packet.topic
        if alias not in self._aliases:
            raise Ending(Reason.PROTOCOL_ERROR, "a topic alias that stands for nothing")
        return self._aliases[alias]

    def alias_maximum(self) -> int:
        """As the client was told in CONNACK."""
        return TOPIC_ALIASES

    # --- the end ----------------------------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """Messages that were for the client, and that it did not take in time; as far as they were ours to drop."""
        return 0

    def part(self, code: Reason, reason: str, *, will: bool = True) -> Sequence[Command]:
        """DISCONNECT, which only 5.0 has from a server (MQTT-3.14), and the end."""
        revoked = code in (Reason.NOT_AUTHORIZED, Reason.ADMINISTRATIVE_ACTION)
        self.close(will=will and not revoked)
        return self._with_denials((Close(reason, farewell(code, self.version)),))

    def close(self, *, will: bool, session_expiry: int | None = None) -> None:
        """Once: everything that was registered is given back."""
        if self.over:
            return
        self.over = True
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self.left(will=will, session_expiry=session_expiry)

    STEPS: ClassVar[Steps] = {
        (Data, Side.CLIENT): data,
        (Lost, Side.CLIENT): lost,
        (TimedOut, None): timed_out,
        (ShuttingDown, None): shutting_down,
        (Dismissed, None): dismissed,
        (Killed, None): killed,
        (Reloaded, None): reloaded,
        (Drained, None): drained,
    }


def keep_alive(connect: Connect, access: MQTTAccess) -> int:
    """How often the client has to be heard, in seconds; 0: never. Only 5.0 can be told of another one than it asked
    for (MQTT-3.1.2.10)."""
    if connect.version is Version.V5 and access.keep_alive:
        return min(connect.keep_alive or access.keep_alive, access.keep_alive)
    return connect.keep_alive


def refusal(code: Reason, version: Version) -> bytes:
    """What a client hears that is not let in. What only ends a session has no place in CONNACK (MQTT-3.2.2.2)."""
    code = _INSTEAD.get(code, code)
    told = code if version is Version.V5 else _REFUSALS.get(code, Refusal.SERVER_UNAVAILABLE)
    return mqtt.serialize(ConnAck(False, told), version)


def farewell(code: Reason, version: Version) -> bytes:
    """What a client hears before the end. A server that cannot go on has only one code for it (MQTT-3.14.2.1)."""
    if code is Reason.SERVER_UNAVAILABLE:
        code = Reason.SERVER_SHUTTING_DOWN
    return mqtt.serialize(Disconnect(code), version) if version is Version.V5 else b""


def to_client(packet: Packet, version: Version) -> Send:
    return Send(Side.CLIENT, mqtt.serialize(packet, version))
