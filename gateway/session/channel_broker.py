"""A broker as the HTTP side of channels uses it: the way there and the login (`Approach`), and a POST's message
(`BrokerDelivery`), over a connection that is kept for the next one.

Refuses to say more than a broker can bear: nothing larger than it takes, nothing before it has let us in. A connection
that was made with a thing's own credentials serves nobody else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final

from gateway.hub.message import Message
from gateway.session.backends import Backends
from gateway.session.channel_post import refuse
from gateway.session.http_answers import Refusal, unavailable
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.vocabulary import (
    Command,
    Data,
    Dial,
    Dialed,
    Event,
    HangUp,
    Lost,
    Release,
    Reuse,
    Secured,
    Send,
    Side,
    StartTLS,
    TimedOut,
    deadline,
)
from gateway.things import Thing
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
    PubAck,
    Publish,
    Reason,
    Version,
)
from gateway.wire.mqtt_packets import (
    Refusal as Code,
)

# Every one of ours is smaller, whatever a broker has to say about itself.
_MAX_CONNACK: Final = 65_536
# How a broker that does not know 5.0 says so (3.1.1: 3.2.2.3), in a form that 5.0 does not have.
_TOO_NEW: Final = mqtt.serialize(ConnAck(False, Code.UNACCEPTABLE_PROTOCOL_VERSION), Version.V311)
# With these it speaks of the credentials.
_OF_CREDENTIALS: Final[dict[Version, set[int]]] = {
    Version.V311: {Code.BAD_USER_NAME_OR_PASSWORD, Code.NOT_AUTHORIZED},
    Version.V5: {Reason.BAD_USER_NAME_OR_PASSWORD, Reason.NOT_AUTHORIZED, Reason.BANNED},
}
# Idle connections are kept for a minute (`gateway.net.pool`); who wants to hear of us more often gets a new one.
_SHORT_KEEP_ALIVE: Final = 60
_SLOW: Final = "the broker did not answer in time"


class State(Enum):
    DIALING = auto()
    SECURING = auto()
    LOGIN = auto()
    READY = auto()


class Caller:
    """As whom a broker is spoken to, on behalf of a thing. key: the thing's secret, where it is known."""

    def __init__(self, access: MQTTAccess, thing: Thing, key: bytes | None) -> None:
        login = access.login
        self.as_thing = login.as_thing and key is not None
        if self.as_thing:
            self.user_name, self.password = thing.id, key
            # Under another key it is another login.
            self.name = f"{thing.id} {thing.key.hex()[:16]}"
        else:
            self.user_name, self.password = login.user_name or thing.id, login.password
            self.name = "" if login.user_name else thing.id

    def connect(self, version: Version, keep_alive: int, max_packet: int) -> bytes:
        """CONNECT under a client id that nobody else has. It is of a form that every broker takes (3.1.1: 3.1.3-5)."""
        properties = Properties(maximum_packet_size=max_packet) if version is Version.V5 else NOTHING
        client_id = f"gw{secrets.token_hex(10)}"
        connect = Connect(version, client_id, True, keep_alive, self.user_name, self.password, None, properties)
        return mqtt.serialize(connect, version)


class Approach:
    """From nothing to a broker that has let us in, at one of its addresses.

    versions: as of HTTPAccess. keep_alive: seconds. version: what is spoken. welcome: its CONNACK's properties. rest:
    what came behind that. upstream: the address that is tried, or has let us in.
    """

    def __init__(
        self, access: MQTTAccess, caller: Caller, backends: Backends, versions: dict[str, Version], keep_alive: int
    ) -> None:
        assert access.upstream is not None  # who takes this way has asked
        self._access, self._caller, self._upstream = access, caller, access.upstream
        self._backends, self._versions, self._keep_alive = backends, versions, keep_alive
        self.version = versions.get(self._upstream.name, Version.V5)
        # As the backends know them: for all callers alike.
        self._places: Sequence[Dial] = ()
        self._buffer = b""
        self._state = State.DIALING
        self.welcome = NOTHING
        self.rest = b""

    @property
    def ready(self) -> bool:
        return self._state is State.READY

    @property
    def upstream(self) -> str | None:
        return str(self._places[0].address) if self._places else None

    def begin(self) -> Sequence[Command]:
        self._places = self._order()
        return self._dial()

    def begin_with(self, idle: Callable[[Dial], bool]) -> Sequence[Command]:
        """Over an idle connection, if there is one; then it is `ready` at once."""
        self._places = self._order()
        target = self._target()
        if not idle(target):
            return self._dial()
        self._state = State.READY
        return (Reuse(target),)

    def _order(self) -> Sequence[Dial]:
        upstream = self._upstream
        places = [Dial(upstream, one, name=(upstream.name, str(one))) for one in upstream.addresses]
        return self._backends.preferred(places)

    def _target(self) -> Dial:
        """The first of the places, for this caller alone."""
        upstream, address = self._upstream, self._places[0].address
        return Dial(upstream, address, name=(f"{upstream.name} {self.version.name} {self._caller.name}", str(address)))

    def _dial(self) -> Sequence[Command]:
        self._state, self._buffer = State.DIALING, b""
        return deadline(self._upstream.connect_timeout), self._target()

    def handle(self, event: Event) -> Sequence[Command]:
        """Raises Refusal when no address is left."""
        step = _STEPS.get((self._state, type(event), getattr(event, "side", None)))
        if step is None:
            raise unavailable(f"{type(event).__name__} while {self._state.name.lower()}")
        return step(self, event)

    def _dialed(self, _: Dialed) -> Sequence[Command]:
        if self._upstream.tls.mode is TLSMode.DISABLE:
            return self._log_in()
        self._state = State.SECURING
        return (StartTLS(Side.UPSTREAM),)

    def _secured(self, _: Secured) -> Sequence[Command]:
        return self._log_in()

    def _log_in(self) -> Sequence[Command]:
        self._state = State.LOGIN
        connect = self._caller.connect(self.version, self._keep_alive, self._access.max_packet)
        return (Send(Side.UPSTREAM, connect),)

    def _heard(self, event: Data) -> Sequence[Command]:
        data = self._buffer = self._buffer + event.data
        if self.version is Version.V5 and data == _TOO_NEW:
            return self._older()
        try:
            found = mqtt.frame(data, 0, _MAX_CONNACK)
            if found is None or found[1] > len(data):
                return ()
            body, end = found
            answer = mqtt.parse(data, 0, body, end, self.version)
        except Malformed as malformed:
            return self._failed(f"its answer: {malformed}")
        if not isinstance(answer, ConnAck):
            return self._failed("its answer is no CONNACK")
        self._buffer, self.rest = b"", data[end:]
        return self._answered(answer)

    def _answered(self, answer: ConnAck) -> Sequence[Command]:
        if not answer.code:
            self._backends.worked(self._places[0])
            self._state, self.welcome = State.READY, answer.properties
            return ()
        if self.version is Version.V5 and answer.code == Reason.UNSUPPORTED_PROTOCOL_VERSION:
            return self._older()
        reason = f"it refused the login with code {answer.code}"
        if answer.code in _OF_CREDENTIALS[self.version]:
            # Another address would say the same. What it thinks of our own ones is not the client's business.
            if self._caller.as_thing:
                raise Refusal(403, "the broker does not let the thing in", self._told(reason))
            raise unavailable(self._told(reason))
        return self._failed(reason)

    def _older(self) -> Sequence[Command]:
        """The same address again, in 3.1.1, and for all that come after us at once."""
        self.version = self._versions[self._upstream.name] = Version.V311
        return self._dial()

    def _told(self, reason: str) -> str:
        return f"upstream {self._upstream.name} {self.upstream}: {reason}"

    def _failed(self, reason: str) -> Sequence[Command]:
        self._backends.failed(self._places[0])
        if len(self._places) == 1:
            raise unavailable(self._told(reason))
        self._places = self._places[1:]
        return self._dial()

    def _lost(self, event: Lost) -> Sequence[Command]:
        return self._failed(event.reason)

    def _too_slow(self, _: TimedOut) -> Sequence[Command]:
        return self._failed("it took longer than connect_timeout")


_Step = Callable[[Approach, Any], Sequence[Command]]
_WAY: Final = (State.DIALING, State.SECURING, State.LOGIN)
_STEPS: dict[tuple[State, type[Event], Side | None], _Step] = {
    (State.DIALING, Dialed, None): Approach._dialed,
    (State.SECURING, Secured, Side.UPSTREAM): Approach._secured,
    (State.LOGIN, Data, Side.UPSTREAM): Approach._heard,
    **{(state, Lost, Side.UPSTREAM): Approach._lost for state in _WAY},
    **{(state, TimedOut, None): Approach._too_slow for state in _WAY},
}


def packet_for(message: Message, qos: int, packet_id: int, approach: Approach) -> bytes:
    """The PUBLISH. Raises Refusal, 413, for what the broker has said that it does not take (MQTT-3.2.2.3.6)."""
    publish = Publish(message.topic, message.payload, qos, False, False, packet_id, message.properties)
    data = mqtt.serialize(publish, approach.version)
    most = approach.welcome.maximum_packet_size
    if most is not None and len(data) > most:
        raise Refusal(413, "the message is larger than it may be", "the message is larger than the broker takes")
    return data


class BrokerDelivery:
    """Implements `gateway.session.channel_post.Delivery`: one PUBLISH of QoS 1 at a time, on a connection that nobody
    listens to. idle: `Questions.idle`. seconds: that the acknowledgement may take. permit: raises Refusal if the thing
    may not publish any more; the way to the broker can be long."""

    def __init__(
        self, approach: Approach, idle: Callable[[Dial], bool], seconds: float, permit: Callable[[], object]
    ) -> None:
        self._approach, self._idle, self._seconds, self._permit = approach, idle, seconds, permit
        self._message: Message | None = None
        self._replayable = False
        self._buffer = b""
        self.done = False

    @property
    def upstream(self) -> str | None:
        return self._approach.upstream

    def begin(self, message: Message) -> Sequence[Command]:
        self._message = message
        commands = self._approach.begin_with(self._idle)
        self._replayable = self._approach.ready
        return self._approached(commands)

    def _approached(self, commands: Sequence[Command]) -> Sequence[Command]:
        return (*commands, *self._publish()) if self._approach.ready else commands

    def handle(self, event: Event) -> Sequence[Command]:
        if self._message is None:
            raise unavailable(f"{type(event).__name__} before there was a message")
        if not self._approach.ready:
            return self._approached(self._approach.handle(event))
        if isinstance(event, TimedOut):
            raise Refusal(504, _SLOW)
        if isinstance(event, Data) and event.side is Side.UPSTREAM:
            return self._heard(event.data)
        if isinstance(event, Lost) and self._replayable:
            # One of the pool may have been at its end before it was asked. With QoS 1 a message may come twice.
            self._replayable, self._buffer = False, b""
            return self._approach.begin()
        raise unavailable(f"the broker, before it acknowledged: {getattr(event, 'reason', type(event).__name__)}")

    def _publish(self) -> Sequence[Command]:
        assert self._message is not None  # it comes first
        self._permit()
        if self._approach.welcome.maximum_qos == 0:
            raise unavailable("the broker takes no messages of QoS 1")
        self._buffer = self._approach.rest
        # The only message in flight on that connection, so its identifier can be the same each time.
        return Send(Side.UPSTREAM, packet_for(self._message, 1, 1, self._approach)), deadline(self._seconds)

    def _heard(self, data: bytes) -> Sequence[Command]:
        self._buffer += data
        try:
            found = mqtt.frame(self._buffer, 0, _MAX_CONNACK)
            if found is None or found[1] > len(self._buffer):
                return ()
            body, end = found
            packet = mqtt.parse(self._buffer, 0, body, end, self._approach.version)
        except Malformed as malformed:
            raise unavailable(f"the broker's answer: {malformed}") from None
        self._acknowledged(packet)
        self.done = True
        return (Release() if self._at_rest(end) else HangUp(),)

    def _acknowledged(self, packet: Packet) -> None:
        if isinstance(packet, PubAck) and packet.packet_id == 1:
            refuse(packet.code)
        elif isinstance(packet, Disconnect):
            refuse(packet.code)
            raise unavailable("the broker has ended the connection")
        else:
            raise unavailable(f"{type(packet).__name__} from the broker, where PUBACK was due")

    def _at_rest(self, end: int) -> bool:
        """Whether the connection can be another's: nothing came beyond the answer, and it may be silent for a while."""
        keep_alive = self._approach.welcome.server_keep_alive or _SHORT_KEEP_ALIVE
        return end == len(self._buffer) and keep_alive >= _SHORT_KEEP_ALIVE
