"""An MQTT client of a broker behind the gateway: the way there, the login in its name, and then its packets both ways.

Owns the order of these. Refuses to pass on a byte before the broker has accepted the login, and then every packet that
`mqtt_mediation` does not let through, in either direction. A broker that goes away ends the session; nothing that it
has not acknowledged was acknowledged by us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any, ClassVar, Final

from gateway.session.mqtt_access import MQTTAccess
from gateway.session.mqtt_caller import Entry, broker_client_id
from gateway.session.mqtt_frames import ANY, Frames, Run, Single
from gateway.session.mqtt_link import (
    NOT_TRUSTED,
    TOPIC_ALIASES,
    Ending,
    Link,
    Steps,
    keep_alive,
    refusal,
    to_client,
)
from gateway.session.mqtt_mediation import Mediation
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Dismissed,
    Enter,
    Event,
    Facts,
    HangUp,
    Hold,
    Killed,
    Lost,
    Proceed,
    Questions,
    Reloaded,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    StartTLS,
    TimedOut,
)
from gateway.upstream import TLSMode
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    NOTHING,
    ConnAck,
    Connect,
    Disconnect,
    Malformed,
    Packet,
    Properties,
    Reason,
    Refusal,
    Version,
)

# What may have been read behind CONNECT before the client is held: two reads of the driver's.
_MAX_AHEAD: Final = 131_072
# How a broker that does not know 5.0 says so (3.1.1: 3.2.2.3), in a form that 5.0 does not have.
_TOO_NEW: Final = mqtt.serialize(ConnAck(False, Refusal.UNACCEPTABLE_PROTOCOL_VERSION), Version.V311)
# With these a broker speaks of the client's own credentials (MQTT-3.2.2.2; 3.1.1: 3.2.2.3).
_OF_CREDENTIALS: Final[dict[Version, set[int]]] = {
    Version.V311: {Refusal.BAD_USER_NAME_OR_PASSWORD, Refusal.NOT_AUTHORIZED},
    Version.V5: {Reason.BAD_USER_NAME_OR_PASSWORD, Reason.NOT_AUTHORIZED, Reason.BANNED},
}


class State(Enum):
    DIALING = auto()
    SECURING = auto()
    LOGIN = auto()
    OPEN = auto()


class BrokerLink(Link[bool]):
    """facts: told which upstream it is."""

    def __init__(
        self,
        entry: Entry,
        current: Callable[[], MQTTAccess],
        asked: Questions,
        clock: Callable[[], float],
        facts: Facts,
    ) -> None:
        super().__init__(entry, current, asked, clock, ANY)
        assert self.access.upstream is not None  # the session has asked
        self.upstream = self.access.upstream
        # A broker need not know 3.1, whose packets are the same (3.1.1: appendix B has no difference in them).
        self.spoken = Version.V5 if self.version is Version.V5 else Version.V311
        self._facts = facts
        dials = [Dial(self.upstream, one, name=(self.upstream.name, str(one))) for one in self.upstream.addresses]
        self._dials = list(self.access.backends.preferred(dials) if self.access.backends else dials)
        self._dial = dials[0]
        self._state = State.DIALING
        self._ahead = bytearray()
        self._gathered = bytearray()
        self._mediation = Mediation(self)
        self._aliases_there = 0
        self._down: Frames[bool] = Frames(self.spoken, self.access.max_packet, ANY)

    # --- the way there ----------------------------------------------------------------------------------------------

    def begin(self) -> Sequence[Command]:
        self.watch()
        self.held = True
        return Hold(), *self._next_address("the broker has no address")

    def _next_address(self, failure: str, code: Reason = Reason.SERVER_UNAVAILABLE) -> Sequence[Command]:
        """failure, code: what the client is refused with where there is none."""
        if not self._dials:
            return self._refuse(code, failure)
        self._dial = self._dials.pop(0)
        self._state = State.DIALING
        self._gathered.clear()
        self._facts.upstream = f"{self.upstream.name} {self._dial.address}"
        return SetDeadline(self.upstream.connect_timeout), self._dial

    def _failed(self, reason: str, code: Reason = Reason.SERVER_UNAVAILABLE) -> Sequence[Command]:
        """That address is of no use at present."""
        if self.access.backends is not None:
            self.access.backends.failed(self._dial)
        return self._next_address(f"upstream {self._facts.upstream}: {reason}", code)

    def _unreachable(self, event: Lost) -> Sequence[Command]:
        return self._failed(event.reason)

    def _too_slow(self, _: TimedOut) -> Sequence[Command]:
        return self._failed("it took longer than connect_timeout")

    def _dialed(self, _: Dialed) -> Sequence[Command]:
        if self.upstream.tls.mode is TLSMode.DISABLE:
            return self._log_in()
        self._state = State.SECURING
        return (StartTLS(Side.UPSTREAM, small=True),)

    def _secured(self, _: Secured) -> Sequence[Command]:
        return self._log_in()

    def _log_in(self) -> Sequence[Command]:
        self._state = State.LOGIN
        return (Send(Side.UPSTREAM, mqtt.serialize(self._connect(), self.spoken)),)

    def _connect(self) -> Connect:
        """The client's CONNECT as the broker gets it."""
        connect = self.entry.connect
        user_name, password = self._credentials()
        if password is not None and user_name is None and self.spoken is not Version.V5:
            user_name = ""  # 3.1.1: MQTT-3.1.2-22
        properties = connect.properties
        if self.spoken is Version.V5:
            most = min(properties.maximum_packet_size or self.access.max_packet, self.access.max_packet)
            aliases = min(properties.topic_alias_maximum or 0, TOPIC_ALIASES)
            properties = replace(properties, maximum_packet_size=most, topic_alias_maximum=aliases or None)
        will = connect.will
        if will is not None and will.properties.will_delay:
            # Nobody could take it back from the broker if the right to publish it ends in the meantime.
            will = replace(will, properties=replace(will.properties, will_delay=None))
        return replace(
            connect,
            will=will,
            version=self.spoken,
            client_id=broker_client_id(self.entry, prefixed=self.access.prefix_client_ids),
            keep_alive=keep_alive(connect, self.access),
            user_name=user_name,
            password=password,
            properties=properties,
        )

    def _credentials(self) -> tuple[str | None, bytes | None]:
        entry, login = self.entry, self.access.login
        name = entry.thing.id if entry.thing is not None else None
        if not login.as_thing:
            return login.user_name or name or entry.owner, login.password
        return name or entry.connect.user_name, entry.key if entry.key is not None else entry.connect.password

    def _answered(self, event: Data) -> Sequence[Command]:
        """The broker's CONNACK, and perhaps what it has kept for the client behind it."""
        self._gathered += event.data
        data = self._gathered
        if self.spoken is Version.V5 and data == _TOO_NEW:
            return self._refuse(Reason.UNSUPPORTED_PROTOCOL_VERSION, "the broker does not speak MQTT 5")
        try:
            found = mqtt.frame(data, 0, self.access.max_packet)
            if found is None or found[1] > len(data):
                return ()
            body, end = found
            packet = mqtt.parse(data, 0, body, end, self.spoken)
        except Malformed as malformed:
            return self._failed(f"its answer: {malformed}")
        if not isinstance(packet, ConnAck):
            return self._failed("its answer is no CONNACK")
        if packet.code:
            return self._refused(packet)
        try:
            self.renew()
        except Ending as ending:
            return self.part(ending.code, str(ending))
        rest, ahead = bytes(data[end:]), bytes(self._ahead)
        self._gathered.clear()
        self._ahead.clear()
        return self._open(packet, ahead, rest)

    def _refused(self, answer: ConnAck) -> Sequence[Command]:
        """What the broker thinks of our own credentials is not the client's business."""
        reason = f"the broker refused the login with code {answer.code}"
        if answer.code in _OF_CREDENTIALS[self.spoken]:
            ours = not self.access.login.as_thing
            return self._refuse(Reason.SERVER_UNAVAILABLE if ours else Reason.NOT_AUTHORIZED, reason)
        if answer.code in (Reason.UNSUPPORTED_PROTOCOL_VERSION, Refusal.UNACCEPTABLE_PROTOCOL_VERSION):
            return self._refuse(Reason.UNSUPPORTED_PROTOCOL_VERSION, reason)
        busy = answer.code in (Reason.SERVER_BUSY, Reason.QUOTA_EXCEEDED)
        return self._failed(reason, Reason(answer.code) if busy else Reason.SERVER_UNAVAILABLE)

    def _refuse(self, code: Reason, reason: str) -> Sequence[Command]:
        """The client has not heard a CONNACK yet."""
        self.close(will=False)
        return (Close(reason, refusal(code, self.version)),)

    def _open(self, answer: ConnAck, ahead: bytes, rest: bytes) -> Sequence[Command]:
        self._state, self.held = State.OPEN, False
        if self.access.backends is not None:
            self.access.backends.worked(self._dial)
        self._facts.decision = "allowed"
        self._aliases_there = min(answer.properties.topic_alias_maximum or 0, TOPIC_ALIASES)
        properties = self._terms(answer.properties) if self.version is Version.V5 else NOTHING
        self._heard_at = self.clock()
        commands: list[Command] = [
            to_client(ConnAck(answer.session_present, 0, properties), self.version),
            Enter(),
            self.deadline(),
        ]
        if rest:
            commands += self.handle(Data(Side.UPSTREAM, rest))
        if ahead and not self.over:
            commands += self.handle(Data(Side.CLIENT, ahead))
        if not self.over and not self.held:
            commands.append(Proceed())
        return commands

    def _terms(self, theirs: Properties) -> Properties:
        """What holds for the client: the narrower of the broker's terms and ours (MQTT-3.2.2.3)."""
        asked, ours = self.entry.connect.keep_alive, keep_alive(self.entry.connect, self.access)
        alive = min(theirs.server_keep_alive or ours, ours) if ours else theirs.server_keep_alive or 0
        self.keep_alive(alive)
        return replace(
            theirs,
            assigned_client_identifier=self.entry.assigned,
            server_keep_alive=alive if alive != asked else None,
            topic_alias_maximum=self._aliases_there or None,
            maximum_packet_size=min(theirs.maximum_packet_size or self.access.max_packet, self.access.max_packet),
            # What a broker says of itself is not for everybody.
            reason_string=None,
            user_properties=(),
            authentication_method=None,
            authentication_data=None,
            server_reference=None,
        )

    def alias_maximum(self) -> int:
        return self._aliases_there

    def filters(self) -> Sequence[str]:
        return self._mediation.filters()

    def early_reload(self, _: Reloaded) -> Sequence[Command]:
        """The rest is asked when the broker has answered."""
        return () if self.asked.trusted() else self.part(Reason.NOT_AUTHORIZED, NOT_TRUSTED)

    # --- while it is open -------------------------------------------------------------------------------------------

    def early(self, event: Data) -> Sequence[Command]:
        """What was read before the client was held."""
        self._ahead += event.data
        if len(self._ahead) > _MAX_AHEAD:
            return self._refuse(Reason.SERVER_BUSY, "too many bytes ahead of the broker's answer")
        return ()

    def run(self, run: Run[bool]) -> None:
        self._mediation.up(run.start, run.end)

    def packet(self, packet: Packet, single: Single) -> None:
        if isinstance(packet, Disconnect):
            self._mediation.up(single.start, single.end)
            self.close(will=packet.code != Reason.SUCCESS)
            return
        self._mediation.from_client(packet, single)

    def heard(self) -> Sequence[Command]:
        return self._mediation.flush(self.frames.data, self._down.data)

    def data(self, event: Data) -> Sequence[Command]:
        commands = super().data(event)
        if self.over:
            # DISCONNECT has to arrive: without it the broker would publish the Will.
            return *self.heard(), HangUp(orderly=True), *commands
        return commands

    def _from_broker(self, event: Data) -> Sequence[Command]:
        self.renew()
        mediation, down = self._mediation, self._down
        try:
            for item in down.read(event.data):
                if isinstance(item, Run):
                    mediation.down(item.start, item.end)
                else:
                    mediation.from_broker(item.packet, item, down)
                    if mediation.dismissed is not None:
                        break
        except Malformed as malformed:
            raise Ending(Reason.SERVER_UNAVAILABLE, f"the broker: {malformed}") from None
        commands = self.heard()
        if mediation.dismissed is not None:
            self.close(will=False)
            reason = f"the broker has ended it with code {mediation.dismissed}"
            return *commands, Close(reason)
        return commands

    def forget(self) -> None:
        super().forget()
        self._down.known.clear()

    def _broker_lost(self, event: Lost) -> Sequence[Command]:
        return self.part(Reason.SERVER_UNAVAILABLE, f"the broker: {event.reason}", will=True)

    # --- the end ----------------------------------------------------------------------------------------------------

    def part(self, code: Reason, reason: str, *, will: bool = True) -> Sequence[Command]:
        revoked = code in (Reason.NOT_AUTHORIZED, Reason.ADMINISTRATIVE_ACTION)
        if self._state is not State.OPEN:
            # The broker may have let it in already.
            quietly = self._quietly() if revoked and self._state is State.LOGIN else ()
            return *quietly, *self._refuse(code, reason)
        # What passed before what went wrong is on its way, as it is to the hub.
        passed = self.heard()
        ended = self._quietly() if revoked else (HangUp(orderly=True),)
        return *passed, *ended, *super().part(code, reason, will=will)

    def _quietly(self) -> Sequence[Command]:
        """Whoever has lost its rights has no last word either, so the broker has to think that it has said goodbye."""
        return Send(Side.UPSTREAM, mqtt.serialize(Disconnect(), self.spoken)), HangUp(orderly=True)

    def left(self, *, will: bool, session_expiry: int | None = None) -> None:
        """The broker sees it by itself."""

    def handle(self, event: Event) -> Sequence[Command]:
        if self._state is State.OPEN:
            return super().handle(event)
        if self.over:
            return ()
        step = _ON_THE_WAY.get((self._state, type(event), getattr(event, "side", None)))
        return step(self, event) if step is not None else ()

    STEPS: ClassVar[Steps] = {
        **Link.STEPS,
        (Data, Side.CLIENT): data,
        (Data, Side.UPSTREAM): _from_broker,
        (Lost, Side.UPSTREAM): _broker_lost,
    }


# Before the broker has accepted the login.
_Step = Callable[[BrokerLink, Any], Sequence[Command]]
_WAY: Final = (State.DIALING, State.SECURING, State.LOGIN)
_ON_THE_WAY: dict[tuple[State, type[Event], Side | None], _Step] = {
    (State.DIALING, Dialed, None): BrokerLink._dialed,
    (State.SECURING, Secured, Side.UPSTREAM): BrokerLink._secured,
    (State.LOGIN, Data, Side.UPSTREAM): BrokerLink._answered,
    **{(state, Lost, Side.UPSTREAM): BrokerLink._unreachable for state in _WAY},
    **{(state, TimedOut, None): BrokerLink._too_slow for state in _WAY},
    **{(state, Data, Side.CLIENT): BrokerLink.early for state in _WAY},
    **{(state, Lost, Side.CLIENT): BrokerLink.lost for state in _WAY},
    **{(state, ShuttingDown, None): BrokerLink.shutting_down for state in _WAY},
    **{(state, Dismissed, None): BrokerLink.dismissed for state in _WAY},
    **{(state, Killed, None): BrokerLink.killed for state in _WAY},
    **{(state, Reloaded, None): BrokerLink.early_reload for state in _WAY},
}
