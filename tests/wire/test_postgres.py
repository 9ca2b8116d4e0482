"""The grammar before ReadyForQuery: whole, byte by byte, with more after it, and everything that is not it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.wire import postgres as wire
from tests.fakes import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    cancel_request,
    error,
    fields,
    message,
    messages,
    packet,
    password,
    startup,
    strings,
)

NAME = st.binary(min_size=1, max_size=63).filter(lambda name: b"\0" not in name)
VALUE = st.binary(max_size=200).filter(lambda value: b"\0" not in value)
PARAMETERS = st.dictionaries(NAME, VALUE, max_size=6)


# --- first packets -----------------------------------------------------------------------------------------------

FIRST_PACKETS = [
    (SSL_REQUEST, wire.SSLRequest()),
    (GSSENC_REQUEST, wire.GSSENCRequest()),
    (cancel_request(-5, b"abcd"), wire.CancelRequest(-5, b"abcd")),
    (cancel_request(2**31 - 1, b"k" * 256), wire.CancelRequest(2**31 - 1, b"k" * 256)),
    (startup({b"user": b"alice"}), wire.StartupMessage((3, 0), {b"user": b"alice"})),
    (startup({b"user": b"alice"}, (3, 2)), wire.StartupMessage((3, 2), {b"user": b"alice"})),
    (startup({}, (3, 9999)), wire.StartupMessage((3, 9999), {})),
    (startup({b"user": b"", b"database": b"\xff"}), wire.StartupMessage((3, 0), {b"user": b"", b"database": b"\xff"})),
    (packet(2 << 16, b"fixed fields of protocol 2"), wire.StartupMessage((2, 0), {})),
    (packet(4 << 16), wire.StartupMessage((4, 0), {})),
]


@pytest.mark.parametrize(("data", "expected"), FIRST_PACKETS)
def test_first_packet(data: bytes, expected: wire.FirstPacket) -> None:
    assert wire.read_first_packet(data) == (expected, len(data))
    assert wire.read_first_packet(bytearray(data) + SSL_REQUEST) == (expected, len(data))
    assert all(wire.read_first_packet(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize("length", [0, 1, 4, 7, 10_001, 0x16030100, 2**31, 2**32 - 1])
def test_length_is_refused_after_four_bytes(length: int) -> None:
    """Nothing is buffered for a length that is out of bounds; the fourth of these is how a TLS record begins."""
    with pytest.raises(ProtocolError, match="length"):
        wire.read_first_packet(pack("!I", length))


def test_longest_startup_packet() -> None:
    room = 10_000 - len(startup({b"user": b"alice", b"options": b""}))
    longest = startup({b"user": b"alice", b"options": b"o" * room})
    assert len(longest) == 10_000
    assert wire.read_first_packet(longest) is not None
    with pytest.raises(ProtocolError, match="length"):
        wire.read_first_packet(startup({b"user": b"alice", b"options": b"o" * (room + 1)}))


@pytest.mark.parametrize("code", [80877103, 80877104])
def test_encryption_request_has_no_body(code: int) -> None:
    with pytest.raises(ProtocolError, match="instead of 8"):
        wire.read_first_packet(pack("!II", 9, code))


@pytest.mark.parametrize("size", [0, 3, 257, 9000])
def test_cancel_key_is_bounded(size: int) -> None:
    with pytest.raises(ProtocolError, match="CancelRequest"):
        wire.read_first_packet(cancel_request(1, bytes(size))[:8])


def test_cancel_request_without_a_pid() -> None:
    with pytest.raises(ProtocolError, match="CancelRequest"):
        wire.read_first_packet(packet(80877102))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"user",
        b"user\0alice\0",
        b"user\0alice",
        b"user\0\0",
        b"user\0alice\0database\0",
        b"user\0alice\0database\0\0",
        b"user\0alice\0\0x",
        b"user\0alice\0\0\0",
        b"user\0alice\0\0role\0postgres\0\0",
        b"\0\0",
        b"\0alice\0\0",
        b"user\0alice\0user\0bob\0\0",
        b"a\0x\0user\0alice\0a\0x\0\0",
    ],
)
def test_malformed_startup_message(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="StartupMessage"):
        wire.read_first_packet(packet(3 << 16, body))


@given(PARAMETERS, st.integers(0, 0xFFFF), st.binary(max_size=20))
def test_startup_message_round_trip(parameters: dict[bytes, bytes], minor: int, rest: bytes) -> None:
    data = startup(parameters, (3, minor))
    assert wire.read_first_packet(data + rest) == (wire.StartupMessage((3, minor), parameters), len(data))


@given(PARAMETERS)
def test_our_own_startup_message(parameters: dict[bytes, bytes]) -> None:
    assert wire.startup_message(parameters) == startup(parameters)


@given(st.binary(max_size=64) | st.binary().map(lambda body: packet(3 << 16, body)))
def test_first_packet_is_never_anything_but_protocol_error(data: bytes) -> None:
    with suppress(ProtocolError):
        found = wire.read_first_packet(data)
        assert found is None or 8 <= found[1] <= len(data)


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "a" * 63, "ä" * 31, "Röle with space", "x\ny"])
def test_name(value: str) -> None:
    assert wire.name(value.encode(), "user") == value


@pytest.mark.parametrize("value", [b"", b"a" * 64, "ä".encode() * 32, b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_no_name(value: bytes) -> None:
    """PostgreSQL would cut the long ones, into somebody else's name."""
    with pytest.raises(ProtocolError, match="database name"):
        wire.name(value, "database")


# --- passwords and typed messages --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"secret", b"p" * 65_536, b"\xff\xfe"])
def test_password(text: bytes) -> None:
    data = password(text)
    assert wire.read_password(data) == (text, len(data))
    assert wire.read_password(bytearray(data) + b"Q") == (text, len(data))
    assert wire.password_message(text) == data
    for size in {*range(min(len(data), 20)), len(data) - 1}:
        assert wire.read_password(data[:size]) is None


@pytest.mark.parametrize("body", [b"", b"secret", b"sec\0ret\0", b"secret\0\0", b"secret\0x", b"\0\0"])
def test_password_is_exactly_one_string(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="string"):
        wire.read_password(message(b"p", body))


@pytest.mark.parametrize("length", [0, 3, 65_536 + 6, 2**31, 2**32 - 1])
def test_password_length_is_refused_after_five_bytes(length: int) -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        wire.read_password(b"p" + pack("!I", length))


@pytest.mark.parametrize("kind", [b"Q", b"X", b"P", b"\0", b"\x16"])
def test_another_message_is_refused_after_one_byte(kind: bytes) -> None:
    with pytest.raises(ProtocolError, match="unexpected message type"):
        wire.read_password(kind)


def test_read_message_from_the_middle() -> None:
    data = b"xyz" + message(b"S", b"body") + b"rest"
    assert wire.read_message(data, b"SN", 100, start=3) == (wire.Message(b"S", b"body"), 9)
    assert wire.read_message(data[:11], b"SN", 100, start=3) is None


@given(st.binary(max_size=50), st.binary(max_size=10))
def test_message_round_trip(body: bytes, rest: bytes) -> None:
    data = bytes(wire.Message(b"d", body))
    assert data == message(b"d", body)
    assert wire.read_message(data + rest, b"d", 50) == (wire.Message(b"d", body), len(data))


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda body: message(b"p", body)))
def test_password_is_never_anything_but_protocol_error(data: bytes) -> None:
    with suppress(ProtocolError):
        found = wire.read_password(data)
        assert found is None or b"\0" not in found[0]


# --- what we send ------------------------------------------------------------------------------------------------


def test_fixed_messages() -> None:
    """Manual, "Message Formats"."""
    assert bytes.fromhex("52 00000008 00000000") == wire.AUTHENTICATION_OK
    assert bytes.fromhex("52 00000008 00000003") == wire.AUTHENTICATION_CLEARTEXT_PASSWORD
    assert bytes.fromhex("00000008 04d2162f") == wire.SSL_REQUEST
    assert (wire.ACCEPT_TLS, wire.REFUSE_ENCRYPTION) == (b"S", b"N")


def test_error_response() -> None:
    assert fields(wire.error_response("28P01", "No")) == {"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "No"}
    assert fields(wire.error_response("57P01", "No", "ERROR"))["S"] == "ERROR"


def test_negotiate_protocol_version() -> None:
    ((kind, body),) = messages(wire.negotiate_protocol_version((3, 2), [b"_pq_.a", b"_pq_.b"]))
    assert kind == b"v"
    assert body == pack("!II", 3 << 16 | 2, 2) + strings(b"_pq_.a", b"_pq_.b")
    assert wire.negotiate_protocol_version((3, 0), []) == message(b"v", pack("!II", 3 << 16, 0))


def test_messages_with_keys() -> None:
    assert wire.backend_key_data(-2, b"k" * 32) == message(b"K", pack("!i", -2) + b"k" * 32)
    assert wire.cancel_request(-2, b"k" * 256) == cancel_request(-2, b"k" * 256)


def test_query() -> None:
    assert wire.query("select 1") == message(b"Q", b"select 1\0")


def test_sasl_messages() -> None:
    assert wire.sasl_initial_response("SCRAM-SHA-256", b"n,,") == message(b"p", b"SCRAM-SHA-256\0\0\0\0\x03n,,")
    assert wire.sasl_response(b"c=biws") == message(b"p", b"c=biws")


# --- what an upstream answers ------------------------------------------------------------------------------------


def test_authentication() -> None:
    assert wire.authentication(pack("!I", 5) + b"salt") == (5, b"salt")
    assert wire.authentication(pack("!I", 2**32 - 1)) == (2**32 - 1, b"")


def test_sasl_mechanisms() -> None:
    assert wire.sasl_mechanisms(b"A\0B\0\0") == ["A", "B"]
    assert wire.sasl_mechanisms(b"\xff\0\0") == ["\ufffd"]


def test_parameter_status() -> None:
    assert wire.parameter_status(b"TimeZone\0UTC\0") == (b"TimeZone", b"UTC")
    assert wire.parameter_status(b"application_name\0\0") == (b"application_name", b"")


@pytest.mark.parametrize("value", [b"", b"t", b"f", b"x" * 300, b"\0"])
def test_single_value(value: bytes) -> None:
    assert wire.single_value(pack("!HI", 1, len(value)) + value) == value


@pytest.mark.parametrize("size", [4, 32, 256])
def test_backend_key_data(size: int) -> None:
    assert wire.parse_backend_key_data(pack("!i", -3) + b"k" * size) == (-3, b"k" * size)


def test_error_response_without_what_names_the_upstreams_inside() -> None:
    sent = {"S": "FATAL", "V": "FATAL", "C": "3D000", "M": "nö", "D": "detail", "H": "hint"}
    inside = {"W": "where", "F": "postinit.c", "L": "941", "R": "InitPostgres", "q": "secret query", "s": "schema"}
    found = wire.parse_error_response(error(**sent, **inside)[5:])
    assert (found.sqlstate, found.text) == ("3D000", "nö")
    assert fields(bytes(found)) == sent


@pytest.mark.parametrize("given", [{}, {"C": "57P03"}, {"M": "no"}, {"S": "PANIC"}, {"V": "ERROR", "D": "x"}])
def test_error_response_has_always_what_every_client_expects(given: dict[str, str]) -> None:
    """Manual, "Error and Notice Message Fields": severity, code and message are always present."""
    known = {"S": "FATAL", "V": "FATAL", "C": "XX000", "M": "the database refused the connection"}
    found = wire.parse_error_response(error(**given)[5:])
    assert fields(bytes(found)) == known | given


def test_error_response_of_few_words() -> None:
    assert wire.parse_error_response(b"\0").sqlstate == "XX000"
    assert wire.parse_error_response(b"\0").text == ""
    assert wire.parse_error_response(b"M\xff\xfe\0\0").text == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (wire.authentication, b""),
        (wire.authentication, b"\0\0\0"),
        (wire.sasl_mechanisms, b""),
        (wire.sasl_mechanisms, b"\0"),
        (wire.sasl_mechanisms, b"SCRAM-SHA-256\0"),
        (wire.sasl_mechanisms, b"SCRAM-SHA-256"),
        (wire.sasl_mechanisms, b"A\0\0SCRAM-SHA-256\0\0"),
        (wire.parse_error_response, b""),
        (wire.parse_error_response, b"SFATAL"),
        (wire.parameter_status, b""),
        (wire.parameter_status, b"name\0"),
        (wire.parameter_status, b"name\0value"),
        (wire.parameter_status, b"name\0value\0more"),
        (wire.parameter_status, b"name\0value\0more\0"),
        (wire.single_value, b""),
        (wire.single_value, pack("!HI", 1, 1)[:5]),
        (wire.single_value, pack("!H", 0)),
        (wire.single_value, pack("!H", 0) + pack("!I", 1) + b"f"),
        (wire.single_value, pack("!Hi", 1, -1)),
        (wire.single_value, pack("!Hi", 1, -1) + b"f"),
        (wire.single_value, pack("!HI", 1, 2) + b"f"),
        (wire.single_value, pack("!HI", 1, 0) + b"f"),
        (wire.single_value, pack("!HI", 1, 1) + b"ff"),
        (wire.single_value, pack("!HI", 2, 1) + b"f" + pack("!I", 1) + b"f"),
        (wire.single_value, pack("!HI", 257, 1) + b"f"),
        (wire.parse_backend_key_data, b"\0\0\0\1"),
        (wire.parse_backend_key_data, b"\0\0\0\1key"),
        (wire.parse_backend_key_data, bytes(4 + 257)),
    ],
)
def test_malformed_answers(read: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(body)


READERS = [
    wire.authentication,
    wire.sasl_mechanisms,
    wire.parse_error_response,
    wire.parameter_status,
    wire.single_value,
    wire.parse_backend_key_data,
]


@given(st.sampled_from(READERS), st.binary(max_size=64) | st.binary(max_size=64).map(lambda body: body + b"\0\0"))
def test_answers_are_never_anything_but_protocol_error(read: Callable[[bytes], Any], body: bytes) -> None:
    with suppress(ProtocolError):
        bytes(found) if isinstance(found := read(body), wire.ErrorResponse) else repr(found)


def test_keys_and_passwords_are_not_shown() -> None:
    shown = repr(wire.CancelRequest(1, b"secret")) + repr(wire.Message(b"p", b"secret"))
    assert "secret" not in shown
