"""PostgreSQL's frontend/backend protocol, 3.0 and 3.2: bytes ↔ messages for everything up to ReadyForQuery.

Owns the grammar of the start-up phase in both roles (we are a server to the client and a client to the upstream) and
nothing after it: an open session is relayed, not parsed. Refuses what the manual does not allow, before buffering
for it. Readers return `(message, bytes consumed)`, or None for 'more bytes please', or raise ProtocolError.

Source: PostgreSQL manual, "Frontend/Backend Protocol": Message Flow, SASL Authentication, Message Formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct

from gateway.errors import ProtocolError

# PostgreSQL's own MAX_STARTUP_PACKET_LENGTH: libpq never sends more, and nothing is proven at that point.
MAX_STARTUP_PACKET = 10_000
# Names are cut at NAMEDATALEN - 1 by the server: a longer one would silently become somebody else's.
MAX_NAME = 63
# A JWT with a certificate thumbprint and many claims still fits; PostgreSQL allows the same.
MAX_PASSWORD = 65_536
# Longest message an upstream may send before ReadyForQuery (an ErrorResponse with a long detail).
MAX_LOGIN_MESSAGE = 65_536
# BackendKeyData of protocol 3.2 is at most 256 bytes.
MAX_CANCEL_KEY = 256

PROTOCOL_3_0 = (3, 0)
PROTOCOL_3_2 = (3, 2)

_CANCEL_CODE, _SSL_CODE, _GSSENC_CODE = 80877102, 80877103, 80877104
_CODES_WITHOUT_BODY = (_SSL_CODE, _GSSENC_CODE)

_INT = Struct("!i")
_UINT = Struct("!I")
_TWO_INTS = Struct("!II")
_HEADER = Struct("!cI")


# --- what a client sends first -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SSLRequest:
    pass


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    pass


@dataclass(frozen=True, slots=True)
class CancelRequest:
    pid: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """version: (major, minor). parameters: as sent, in order, `user` and `database` among them."""

    version: tuple[int, int]
    parameters: Mapping[bytes, bytes]


FirstPacket = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


def read_first_packet(buffer: bytes | bytearray) -> tuple[FirstPacket, int] | None:
    """One untyped packet: Int32 length, Int32 code or version, body. Raises ProtocolError."""
    if len(buffer) < 4:
        return None
    (length,) = _UINT.unpack_from(buffer)
    if not 8 <= length <= MAX_STARTUP_PACKET:
        raise ProtocolError(f"invalid length of start-up packet: {length}")
    if len(buffer) < 8:
        return None
    code = _UINT.unpack_from(buffer, 4)[0]
    if code in _CODES_WITHOUT_BODY and length != 8:
        raise ProtocolError(f"encryption request of {length} bytes instead of 8")
    if code == _CANCEL_CODE and not 16 <= length <= 12 + MAX_CANCEL_KEY:
        raise ProtocolError(f"CancelRequest of {length} bytes")
    if len(buffer) < length:
        return None
    return _first_packet(code, bytes(buffer[8:length])), length


def _first_packet(code: int, body: bytes) -> FirstPacket:
    if code == _SSL_CODE:
        return SSLRequest()
    if code == _GSSENC_CODE:
        return GSSENCRequest()
    if code == _CANCEL_CODE:
        return CancelRequest(_INT.unpack_from(body)[0], body[4:])
    return StartupMessage((code >> 16, code & 0xFFFF), _parameters(body) if code >> 16 == 3 else {})


def _parameters(body: bytes) -> dict[bytes, bytes]:
    """StartupMessage: String name, String value, …, and one final zero byte as the very last byte."""
    if body[-1:] != b"\0":
        raise ProtocolError("StartupMessage without its final zero byte")
    strings = body[:-1].split(b"\0")
    if strings.pop() or len(strings) % 2:
        raise ProtocolError("StartupMessage with an unfinished parameter")
    names = strings[::2]
    if b"" in names:
        raise ProtocolError("StartupMessage with bytes after its final zero byte")
    if len(set(names)) != len(names):
        raise ProtocolError("StartupMessage with a repeated parameter")
    return dict(zip(names, strings[1::2], strict=True))


def name(value: bytes, what: str) -> str:
    """A user or database name: 1 to 63 bytes of UTF-8. Raises ProtocolError."""
    if not 1 <= len(value) <= MAX_NAME:
        raise ProtocolError(f"{what} name of {len(value)} bytes (1 to {MAX_NAME} are allowed)")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{what} name is not UTF-8") from None


def sets_session_authorization(parameters: Mapping[bytes, bytes]) -> bool:
    """Whether the start-up parameters, or the switches in `options`, may set `session_authorization`.

    `options` is read as the server does (split at spaces, a backslash takes the next byte as it is; `-` and `_` are
    alike in names) but more generously where switches can be run together: an undotted name that only ends in it
    counts.
    """
    switches = re.findall(rb"(?:\\.|[^\\\s])+", parameters.get(b"options", b""), re.DOTALL)
    names = [re.sub(rb"\\(.)", rb"\1", switch, flags=re.DOTALL).partition(b"=")[0] for switch in switches]
    return any(
        name.lower().replace(b"-", b"_").rstrip().endswith(b"session_authorization") and b"." not in name
        for name in (*names, *parameters)
    )


# --- typed messages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One typed message: Byte1 type, Int32 length (itself included), body."""

    type: bytes
    body: bytes = field(repr=False)

    def __bytes__(self) -> bytes:
        return _HEADER.pack(self.type, 4 + len(self.body)) + self.body


def read_message(buffer: bytes | bytearray, types: bytes, limit: int, start: int = 0) -> tuple[Message, int] | None:
    """The typed message at `start`, if its type is one of `types` and its body at most `limit` bytes long."""
    if len(buffer) <= start:
        return None
    if buffer[start] not in types:
        raise ProtocolError(f"unexpected message type 0x{buffer[start]:02x}")
    if len(buffer) < start + 5:
        return None
    kind, length = _HEADER.unpack_from(buffer, start)
    if not 4 <= length <= 4 + limit:
        raise ProtocolError(f"message {kind!r} of {length} bytes")
    end = start + 1 + length
    if len(buffer) < end:
        return None
    return Message(kind, bytes(buffer[start + 5 : end])), end - start


def read_password(buffer: bytes | bytearray) -> tuple[bytes, int] | None:
    """PasswordMessage: one String. Returns the password without its zero byte."""
    found = read_message(buffer, b"p", MAX_PASSWORD + 1)
    if found is None:
        return None
    message, size = found
    if message.body.count(b"\0") != 1 or message.body[-1:] != b"\0":
        raise ProtocolError("PasswordMessage is not one zero-terminated string")
    return message.body[:-1], size


# --- what we send as a server ------------------------------------------------------------------------------------

ACCEPT_TLS = b"S"
REFUSE_ENCRYPTION = b"N"
AUTHENTICATION_OK = bytes(Message(b"R", _UINT.pack(0)))
AUTHENTICATION_CLEARTEXT_PASSWORD = bytes(Message(b"R", _UINT.pack(3)))


def error_response(sqlstate: str, text: str, severity: str = "FATAL") -> bytes:
    """ErrorResponse with the fields that every client reads (manual, "Error and Notice Message Fields")."""
    return _fields({"S": severity, "V": severity, "C": sqlstate, "M": text})


def _fields(fields: Mapping[str, str]) -> bytes:
    body = b"".join(code.encode() + text.encode() + b"\0" for code, text in fields.items())
    return bytes(Message(b"E", body + b"\0"))


def negotiate_protocol_version(newest: tuple[int, int], refused: Sequence[bytes]) -> bytes:
    """NegotiateProtocolVersion: the newest minor that we speak, and every `_pq_.` option that we do not know."""
    names = b"".join(option + b"\0" for option in refused)
    return bytes(Message(b"v", _TWO_INTS.pack(newest[0] << 16 | newest[1], len(refused)) + names))


def backend_key_data(pid: int, key: bytes) -> bytes:
    return bytes(Message(b"K", _INT.pack(pid) + key))


# --- what we send as a client ------------------------------------------------------------------------------------

SSL_REQUEST = _TWO_INTS.pack(8, _SSL_CODE)


def startup_message(parameters: Mapping[bytes, bytes]) -> bytes:
    """StartupMessage of protocol 3.0: 3.2 adds only longer cancel keys, which the gateway makes itself."""
    body = b"".join(key + b"\0" + value + b"\0" for key, value in parameters.items()) + b"\0"
    return _TWO_INTS.pack(8 + len(body), PROTOCOL_3_0[0] << 16) + body


def cancel_request(pid: int, key: bytes) -> bytes:
    return _TWO_INTS.pack(12 + len(key), _CANCEL_CODE) + _INT.pack(pid) + key


def password_message(password: bytes) -> bytes:
    return bytes(Message(b"p", password + b"\0"))


def query(statement: str) -> bytes:
    return bytes(Message(b"Q", statement.encode() + b"\0"))


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return bytes(Message(b"p", mechanism.encode() + b"\0" + _UINT.pack(len(data)) + data))


def sasl_response(data: bytes) -> bytes:
    return bytes(Message(b"p", data))


# --- what an upstream answers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """fields: by their one-letter code; `C` is the SQLSTATE, `M` the message."""

    fields: Mapping[str, str]

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "XX000")

    @property
    def text(self) -> str:
        return self.fields.get("M", "")

    def __bytes__(self) -> bytes:
        """Written anew, without the upstream's source file and line, and with what every client expects."""
        known = {"S": "FATAL", "V": "FATAL", "C": self.sqlstate, "M": "the database refused the connection"}
        return _fields(known | {code: self.fields[code] for code in "SVCMDH" if code in self.fields})


def authentication(body: bytes) -> tuple[int, bytes]:
    """Authentication*: Int32 kind, then what the kind brings."""
    if len(body) < 4:
        raise ProtocolError("Authentication message without a kind")
    return _UINT.unpack_from(body)[0], body[4:]


def sasl_mechanisms(body: bytes) -> list[str]:
    """AuthenticationSASL: a list of Strings, ended by an empty one."""
    if not body.endswith(b"\0\0"):
        raise ProtocolError("AuthenticationSASL without its final zero byte")
    mechanisms = body[:-2].split(b"\0")
    if b"" in mechanisms:
        raise ProtocolError("AuthenticationSASL with an empty mechanism")
    return [mechanism.decode("ascii", "replace") for mechanism in mechanisms]


def parse_error_response(body: bytes) -> ErrorResponse:
    """ErrorResponse: Byte1 code, String value, …, one zero byte."""
    if body[-1:] != b"\0":
        raise ProtocolError("ErrorResponse without its final zero byte")
    strings = [entry.decode("utf-8", "replace") for entry in body[:-1].split(b"\0") if entry]
    return ErrorResponse({entry[0]: entry[1:] for entry in strings})


def parameter_status(body: bytes) -> tuple[bytes, bytes]:
    """ParameterStatus: String name, String value."""
    if body.count(b"\0") != 2 or body[-1:] != b"\0":
        raise ProtocolError("ParameterStatus is not two strings")
    key, value, _ = body.split(b"\0")
    return key, value


def single_value(body: bytes) -> bytes:
    """DataRow of one column that is not null: Int16 count, Int32 length, the value in text."""
    if len(body) < 6 or body[:2] != b"\0\1" or _INT.unpack_from(body, 2)[0] != len(body) - 6:
        raise ProtocolError("DataRow is not one value")
    return body[6:]


def parse_backend_key_data(body: bytes) -> tuple[int, bytes]:
    """BackendKeyData: Int32 pid, then the key: 4 bytes up to protocol 3.0, at most 256 since 3.2."""
    if not 8 <= len(body) <= 4 + MAX_CANCEL_KEY:
        raise ProtocolError(f"BackendKeyData of {len(body)} bytes")
    return _INT.unpack_from(body)[0], body[4:]
