"""One MQTT client from its first byte to the verdict about its CONNECT; from there a link goes on.

Owns the order of these: TLS, CONNECT whole and first, who it is, whether it may come in, and only then the hub or a
broker. Refuses with a CONNACK where the client's version can be told, and with the end of the connection in any case.
What comes behind CONNECT waits for the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final

from gateway.session.mqtt_access import MQTTAccess
from gateway.session.mqtt_broker import BrokerLink
from gateway.session.mqtt_caller import Caller, Entry, Rejected
from gateway.session.mqtt_hub import HubLink
from gateway.session.mqtt_link import NOT_TRUSTED, Ending, refusal
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Ended,
    Event,
    Facts,
    Killed,
    Lost,
    Opened,
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
from gateway.upstream import Address
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import Connect, Malformed, Reason, Version

# Nobody has proven anything before it is whole.
MAX_CONNECT: Final = 262_144

ALPN: Final = (b"mqtt",)

_CONNECT: Final = 0x10
_SHUTDOWN: Final = "the gateway is shutting down"


class State(Enum):
    # Enum hashes names, in Python; this is looked up for each event.
    __hash__ = object.__hash__

    NEW = auto()
    HANDSHAKE = auto()
    CONNECT = auto()
    LINK = auto()
    CLOSED = auto()


class MQTTSession:
    """`handle(event) -> [command]`. current: the listener's access now. clock: seconds since the epoch."""

    # Made with the handshake.
    _caller: Caller

    __slots__ = (
        "_asked",
        "_buffer",
        "_caller",
        "_client",
        "_clock",
        "_current",
        "_from_client",
        "_link",
        "_over_limit",
        "_state",
        "_to_client",
        "facts",
    )

    def __init__(self, current: Callable[[], MQTTAccess], asked: Questions, clock: Callable[[], float]) -> None:
        self.facts = Facts()
        self._current, self._asked, self._clock = current, asked, clock
        self._state = State.NEW
        self._client = Address("", 0)
        self._buffer = bytearray()
        self._over_limit = False
        self._from_client = self._to_client = 0
        self._link: HubLink | BrokerLink | None = None

    def handle(self, event: Event) -> Sequence[Command]:
        state = self._state
        if state is State.LINK and type(event) is not Ended:
            return self._linked(event)
        step = _STEPS.get((state, type(event)))
        if step is not None:
            return step(self, event)
        if state is State.CLOSED or type(event) is Ended:
            return ()
        return self._close(f"{type(event).__name__} while {state.name.lower()}")

    def moved(self) -> tuple[int, int]:
        return self._from_client, self._to_client

    def _linked(self, event: Event) -> Sequence[Command]:
        if type(event) is Data and event.side is Side.CLIENT:
            self._from_client += len(event.data)
        link = self._link
        assert link is not None  # the state says so
        return self._answered(link, link.handle(event))

    def _answered(self, link: HubLink | BrokerLink, commands: Sequence[Command]) -> Sequence[Command]:
        for command in commands:
            if type(command) is Send and command.side is Side.CLIENT:
                self._to_client += len(command.data)
        if link.over:
            self._state = State.CLOSED
        return commands

    def _close(self, reason: str, farewell: bytes = b"") -> Sequence[Command]:
        self._state = State.CLOSED
        self._buffer.clear()
        return (Close(reason, farewell),)

    # --- TLS --------------------------------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> Sequence[Command]:
        self._client, self._over_limit = event.client, event.over_limit
        self._state = State.HANDSHAKE
        return SetDeadline(self._current().handshake_timeout), StartTLS(Side.CLIENT, small=True)

    def _secured(self, event: Secured) -> Sequence[Command]:
        self.facts.tls = event.tls.version
        self._caller = Caller(self._current, event.tls, self._client.host, self._clock)
        self._state = State.CONNECT
        return (SetDeadline(self._current().handshake_timeout),)

    # --- CONNECT ----------------------------------------------------------------------------------------------------

    def _heard(self, event: Data) -> Sequence[Command]:
        self._from_client += len(event.data)
        self._buffer += event.data
        try:
            found = self._connect()
        except Malformed as malformed:
            return self._malformed(malformed)
        if found is None:
            return ()
        connect, rest = found
        self._buffer.clear()
        return self._decide(connect, rest)

    def _connect(self) -> tuple[Connect, bytes] | None:
        """What has to be the first packet (MQTT-3.1.0-1), and what came behind it. None: not whole yet."""
        data = self._buffer
        if data and data[0] != _CONNECT:
            raise Malformed("the first packet is not a CONNECT")
        found = mqtt.frame(data, 0, min(self._current().max_packet, MAX_CONNECT))
        if found is None or found[1] > len(data):
            return None
        body, end = found
        return mqtt.parse_connect(data, 0, body, end), bytes(data[end:])

    def _malformed(self, malformed: Malformed) -> Sequence[Command]:
        """In the client's version, if that much could be read; then it was a client of MQTT at least."""
        reason = f"CONNECT: {malformed}"
        if malformed.code is Reason.UNSUPPORTED_PROTOCOL_VERSION:
            return self._refuse(Version.V311, malformed.code, reason)
        version = self._version()
        return self._refuse(version, malformed.code, reason) if version is Version.V5 else self._close(reason)

    def _version(self) -> Version | None:
        try:
            found = mqtt.frame(self._buffer, 0, mqtt.MAX_REMAINING)
            return mqtt.connect_version(self._buffer, found[0], min(found[1], len(self._buffer))) if found else None
        except Malformed:
            return None

    def _decide(self, connect: Connect, rest: bytes) -> Sequence[Command]:
        facts, version = self.facts, connect.version
        if self._over_limit:
            return self._refuse(version, Reason.QUOTA_EXCEEDED, "too many connections")
        if connect.properties.authentication_method is not None:
            return self._refuse(version, Reason.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not supported")
        try:
            entry = self._caller.admit(connect)
        except Rejected as rejected:
            return self._refuse(version, rejected.code, f"denied: {rejected}")
        finally:
            facts.subject, facts.serial = self._caller.subject, self._caller.serial
        self._record(entry)
        if self._caller.subject is not None and not self._asked.admit(entry.owner):
            return self._refuse(version, Reason.QUOTA_EXCEEDED, "too many connections of this subject")
        return self._enter(entry, rest)

    def _record(self, entry: Entry) -> None:
        """What a client only says of itself is not recorded: it may have mixed up its fields, and have put its key into
        the wrong one."""
        facts, connect = self.facts, entry.connect
        facts.rule = entry.rule
        if entry.key is None or connect.client_id.encode() != entry.key:
            facts.client_id = connect.client_id
        if connect.user_name == self._caller.subject:
            facts.user = connect.user_name

    def _enter(self, entry: Entry, rest: bytes) -> Sequence[Command]:
        access = self._current()
        link: HubLink | BrokerLink
        if access.hub is not None:
            link = HubLink(entry, self._current, self._asked, self._clock, access.hub)
        else:
            link = BrokerLink(entry, self._current, self._asked, self._clock, self.facts)
        try:
            commands = link.begin()
        except Ending as ending:
            link.close(will=False)
            return self._refuse(entry.connect.version, ending.code, str(ending))
        self._link, self._state = link, State.LINK
        if access.hub is not None:
            self.facts.decision = "allowed"
        return self._answered(link, (*commands, *link.handle(Data(Side.CLIENT, rest))) if rest else commands)

    def _refuse(self, version: Version, code: Reason, reason: str) -> Sequence[Command]:
        return self._close(reason, refusal(code, version))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _lost(self, event: Lost) -> Sequence[Command]:
        return self._close(event.reason)

    def _handshake_too_slow(self, _: TimedOut) -> Sequence[Command]:
        return self._close("TLS was not finished in time")

    def _connect_too_slow(self, _: TimedOut) -> Sequence[Command]:
        return self._close("CONNECT did not come in time")

    def _shut_down(self, _: ShuttingDown) -> Sequence[Command]:
        return self._close(_SHUTDOWN)

    def _killed(self, event: Killed) -> Sequence[Command]:
        return self._close(event.reason)

    def _early_reload(self, _: Reloaded) -> Sequence[Command]:
        """Everything is still to be asked."""
        return ()

    def _reloaded(self, _: Reloaded) -> Sequence[Command]:
        """All but the certificate, which was believed before there was a CONNECT, is still to be asked."""
        return () if self._asked.trusted() else self._close(NOT_TRUSTED)

    def _ended(self, _: Ended) -> Sequence[Command]:
        """Of a connection that was cut: whoever is not there to say goodbye leaves a Will."""
        if self._link is not None:
            self._link.close(will=True)
            self.facts.dropped = self._link.dropped or None
        self.facts.from_client, self.facts.to_client = self._from_client, self._to_client
        self._state = State.CLOSED
        return ()


_Step = Callable[[MQTTSession, Any], Sequence[Command]]
_STEPS: dict[tuple[State, type[Event]], _Step] = {
    (State.NEW, Opened): MQTTSession._opened,
    (State.HANDSHAKE, Secured): MQTTSession._secured,
    (State.HANDSHAKE, TimedOut): MQTTSession._handshake_too_slow,
    (State.CONNECT, Data): MQTTSession._heard,
    (State.CONNECT, TimedOut): MQTTSession._connect_too_slow,
    (State.LINK, Ended): MQTTSession._ended,
    (State.CLOSED, Ended): MQTTSession._ended,
    **{(state, Lost): MQTTSession._lost for state in (State.HANDSHAKE, State.CONNECT)},
    **{(state, ShuttingDown): MQTTSession._shut_down for state in (State.HANDSHAKE, State.CONNECT)},
    **{(state, Killed): MQTTSession._killed for state in (State.NEW, State.HANDSHAKE, State.CONNECT)},
    **{(state, Reloaded): MQTTSession._early_reload for state in (State.NEW, State.HANDSHAKE)},
    (State.CONNECT, Reloaded): MQTTSession._reloaded,
}
