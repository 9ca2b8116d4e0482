"""MQTT's control packets as values, for 3.1, 3.1.1 and 5.0 alike, and the numbers that they speak in.

Owns the names only; `mqtt` reads and writes the bytes. Refuses nothing by itself. MQTT-n.n.n in comments and docstrings
of this package is a section of the OASIS standard MQTT 5.0; where 3.1.1 differs, it is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from gateway.errors import ProtocolError


class Version(IntEnum):
    """The protocol level in CONNECT (3.1.2.2)."""

    V31 = 3
    V311 = 4
    V5 = 5


class PacketType(IntEnum):
    """The upper half of a packet's first byte (2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Reason(IntEnum):
    """Reason codes of 5.0 (2.4). Below 0x80 something has worked."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


class Refusal(IntEnum):
    """Return codes of a CONNACK before 5.0 (3.1.1: 3.2.2.3), and that of a SUBACK (3.1.1: 3.9.3)."""

    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5
    SUBSCRIPTION_FAILED = 0x80


class Malformed(ProtocolError):
    """The bytes are no MQTT; `code` is what 5.0 has to say to that, in CONNACK or DISCONNECT (4.13)."""

    def __init__(self, reason: str, code: Reason = Reason.MALFORMED_PACKET) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Properties:
    """What 5.0 can say beside a packet (2.2.2.2); None, or an empty tuple: it is not said.

    Times are in seconds. Which packet may have which is the grammar's to check.
    """

    payload_format: int | None = None
    message_expiry: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = field(default=None, repr=False)
    request_problem_information: int | None = None
    will_delay: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


# Of most packets. The grammar uses this very object, so `is NOTHING` is a quick question.
NOTHING: Final = Properties()


@dataclass(frozen=True, slots=True)
class Will:
    """What is to be published when the connection is lost (3.1.2.5)."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class Connect:
    """keep_alive: seconds; 0: none. clean_start: before 5.0, clean session."""

    version: Version
    client_id: str
    clean_start: bool = True
    keep_alive: int = 0
    user_name: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class ConnAck:
    """code: of Refusal before 5.0, else of Reason; 0: welcome."""

    session_present: bool = False
    code: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class Publish:
    """topic: empty where a topic alias stands for it. packet_id: 0 with QoS 0."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class PubAck:
    packet_id: int
    code: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class PubRec:
    packet_id: int
    code: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class PubRel:
    packet_id: int
    code: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class PubComp:
    packet_id: int
    code: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class Subscription:
    """One entry of a SUBSCRIBE (3.8.3). retain_handling: 0 send retained, 1 only if it is new, 2 do not."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class SubAck:
    """codes: one for each subscription, in order."""

    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class UnsubAck:
    """codes: one for each filter; before 5.0 there are none on the wire."""

    packet_id: int
    codes: tuple[int, ...] = ()
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class PingReq:
    pass


@dataclass(frozen=True, slots=True)
class PingResp:
    pass


@dataclass(frozen=True, slots=True)
class Disconnect:
    """From a server only in 5.0."""

    code: int = 0
    properties: Properties = NOTHING


@dataclass(frozen=True, slots=True)
class Auth:
    code: int = 0
    properties: Properties = NOTHING


Packet = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
