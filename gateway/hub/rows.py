"""What is stored, row by row, and the changes that lead from one state to the next.

Owns the shape of each row, in the order of its columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from gateway.hub.message import Message, travelling
from gateway.wire.mqtt_packets import Properties


class Change(Enum):
    """The name of each says what becomes of a row; a PUT takes the place of the row of the same key."""

    # Enum hashes names, in Python; this is looked up for each change.
    __hash__ = object.__hash__

    CLEAR = auto()  # everything
    PUT_SESSION = auto()
    DROP_SESSION = auto()  # with its subscriptions, deliveries and identifiers
    PUT_SUBSCRIPTION = auto()
    DROP_SUBSCRIPTION = auto()
    PUT_MESSAGE = auto()
    DROP_MESSAGE = auto()
    PUT_DELIVERY = auto()
    DROP_DELIVERY = auto()
    PUT_INBOUND = auto()
    DROP_INBOUND = auto()
    PUT_RETAINED = auto()
    DROP_RETAINED = auto()


class SessionRow(NamedTuple):
    """expiry: seconds. ended: when its connection did (epoch); None: it has one. will: its message; will_due: when that
    is published (epoch); None: when the connection is lost, after will_delay. will_expiry: seconds from then on."""

    id: int
    owner: str
    client_id: str
    version: int
    expiry: int
    ended: float | None
    will: int | None
    will_delay: int
    will_expiry: int | None
    will_due: float | None


class SubscriptionRow(NamedTuple):
    """identifier: 0: none."""

    session: int
    filter: str
    qos: int
    no_local: bool
    retain_as_published: bool
    identifier: int


class MessageRow(NamedTuple):
    """user_properties: a list of pairs, as JSON."""

    id: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    expires: float | None
    payload_format: int | None
    content_type: str | None
    response_topic: str | None
    correlation_data: bytes | None
    user_properties: str


class DeliveryRow(NamedTuple):
    """sequence: the order of all deliveries. packet_id: 0: it has not been sent. released: PUBREC has come.
    identifiers: of subscriptions, as JSON. share: the filter of the shared subscription that it is of, whole."""

    sequence: int
    session: int
    message: int
    qos: int
    retain: bool
    identifiers: str
    packet_id: int
    released: bool
    share: str | None


class InboundRow(NamedTuple):
    session: int
    packet_id: int


class RetainedRow(NamedTuple):
    topic: str
    message: int


Row = tuple[Change, tuple[Any, ...]]


@dataclass(slots=True)
class Stored:
    """Everything, as it was at the last commit; deliveries in their order."""

    sessions: list[SessionRow] = field(default_factory=list)
    subscriptions: list[SubscriptionRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    deliveries: list[DeliveryRow] = field(default_factory=list)
    inbound: list[InboundRow] = field(default_factory=list)
    retained: list[RetainedRow] = field(default_factory=list)


class StoreError(Exception):
    """The store did not take a change, or cannot be read; the text is for the operator. full: there is no room."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


class Store(Protocol):
    """durable: what was committed is there after a restart; if not, nobody has to wait for it."""

    durable: bool

    def load(self) -> Stored:
        """Raises StoreError."""

    def commit(self, changes: list[Row]) -> None:
        """All of them, in order, or none: StoreError."""

    def close(self) -> None: ...


def message_row(number: int, message: Message) -> MessageRow:
    properties = message.properties
    return MessageRow(
        number,
        message.topic,
        message.payload,
        message.qos,
        message.retain,
        message.expires,
        properties.payload_format,
        properties.content_type,
        properties.response_topic,
        properties.correlation_data,
        json.dumps(properties.user_properties) if properties.user_properties else "[]",
    )


def message_of(row: MessageRow) -> Message:
    properties = Properties(
        payload_format=row.payload_format,
        content_type=row.content_type,
        response_topic=row.response_topic,
        correlation_data=row.correlation_data,
        user_properties=tuple((name, value) for name, value in json.loads(row.user_properties)),
    )
    return Message(row.topic, row.payload, row.qos, bool(row.retain), travelling(properties), row.expires)
