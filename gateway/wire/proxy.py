"""The PROXY protocol header, versions 1 and 2, in which a trusted load balancer tells the client's own address.

Owns its one grammar (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2) and how many bytes may be read without taking
any of the protocol that follows. Refuses what that text does not define, Unix and datagram sources, oversize headers.
Whether the sender may be believed is decided by who calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from gateway.errors import ProtocolError

TEXT_START: Final = b"PROXY "
BINARY_START: Final = b"\r\n\r\n\0\r\nQUIT\n"

# "PROXY UNKNOWN\r\n", the shortest header of version 1; every header of version 2 is longer.
SHORTEST: Final = 15
# Section 2.1 counts the longest line of version 1.
LONGEST_TEXT: Final = 107

BINARY_FIXED: Final = 16
# Addresses take at most 36 bytes; the rest is for TLVs (names, and at most a client certificate), all of which we skip.
MAX_BINARY_BLOCK: Final = 4096

_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?\r\n")
_TCP4: Final = re.compile(rb"PROXY TCP4 ([0-9.]+) ([0-9.]+) %b %b\r\n" % (_PORT, _PORT))
_TCP6: Final = re.compile(rb"PROXY TCP6 ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b\r\n" % (_PORT, _PORT))

# Version and command, then family and transport, each pair one byte (section 2.2).
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
_TCP_OVER_IPV4: Final = 0x11
_TCP_OVER_IPV6: Final = 0x21
# Both addresses and both ports.
_ADDRESSES: Final = {_UNSPECIFIED: 0, _TCP_OVER_IPV4: 12, _TCP_OVER_IPV6: 36}


@dataclass(frozen=True, slots=True)
class ProxySource:
    """Where the client is: the canonical text of its IP address, and its port.

    Both are None where the sender does not say (LOCAL, UNKNOWN): then the connection's own peer counts. An IPv4 address
    mapped into IPv6 is given as IPv4, so that one client has one address for the rules.
    """

    address: str | None = None
    port: int | None = None


class ProxyHeader:
    """Reads one header. Read at most `needs` bytes, feed them, until a ProxySource comes back.

    needs: how many bytes surely belong to the header; 0 when it is complete or was refused.
    """

    __slots__ = ("_read", "needs")

    def __init__(self) -> None:
        self._read = b""
        self.needs = SHORTEST

    def feed(self, data: bytes) -> ProxySource | None:
        """The source once the header is complete, None before. ProtocolError if this is no valid header.

        ValueError: the caller gave more than `needs`, which may already belong to the next protocol.
        """
        if len(data) > self.needs:
            raise ValueError("more bytes than the PROXY header needs")
        self._read += data
        self.needs = 0
        if TEXT_START.startswith(self._read[: len(TEXT_START)]):
            self.needs = _missing_text(self._read)
            return None if self.needs else _parse_text(self._read)
        if BINARY_START.startswith(self._read[: len(BINARY_START)]):
            self.needs = _missing_binary(self._read)
            return None if self.needs else _parse_binary(self._read)
        raise ProtocolError("not a PROXY header")


def _missing_text(read: bytes) -> int:
    """How many bytes are surely missing: what does not end in CR is at least two bytes (CR LF) from its end."""
    if len(read) < SHORTEST:
        return SHORTEST - len(read)
    if read.endswith(b"\r\n"):
        return 0
    missing = 1 if read.endswith(b"\r") else 2
    if b"\n" in read or len(read) + missing > LONGEST_TEXT:
        raise ProtocolError("the PROXY line does not end where it must")
    return missing


def _parse_text(line: bytes) -> ProxySource:
    if _UNKNOWN.fullmatch(line):
        return ProxySource()
    four, six = _TCP4.fullmatch(line), _TCP6.fullmatch(line)
    match = four or six
    if match is None:
        raise ProtocolError("malformed PROXY line")
    source, destination, *ports = (group.decode("ascii") for group in match.groups())
    if any(int(port) > 65535 for port in ports):
        raise ProtocolError("a port of the PROXY line is out of range")
    family = IPv4Address if four else IPv6Address
    try:
        family(destination)
        return ProxySource(_canonical(family(source)), int(ports[0]))
    except ValueError:
        raise ProtocolError("an address of the PROXY line is malformed") from None


def _missing_binary(read: bytes) -> int:
    """Everything of the fixed part is checked before its block is waited for."""
    if len(read) < BINARY_FIXED:
        return BINARY_FIXED - len(read)
    command, family, length = read[12], read[13], int.from_bytes(read[14:16])
    if command not in (_LOCAL, _PROXY):
        raise ProtocolError(f"unknown version or command {command:#04x} in the PROXY header")
    if length > MAX_BINARY_BLOCK:
        raise ProtocolError(f"the PROXY header announces {length} bytes")
    # For LOCAL the family is to be ignored, with the whole block.
    if command == _PROXY and family not in _ADDRESSES:
        raise ProtocolError(f"family and transport {family:#04x} of the PROXY header are not TCP over IP")
    if command == _PROXY and length < _ADDRESSES[family]:
        raise ProtocolError("the PROXY header is too short for its addresses")
    return BINARY_FIXED + length - len(read)


def _parse_binary(read: bytes) -> ProxySource:
    command, family, block = read[12], read[13], read[BINARY_FIXED:]
    if command == _LOCAL:
        return ProxySource()
    _check_tlvs(block[_ADDRESSES[family] :])
    if family == _UNSPECIFIED:
        return ProxySource()
    if family == _TCP_OVER_IPV4:
        return ProxySource(str(IPv4Address(block[:4])), int.from_bytes(block[8:10]))
    return ProxySource(_canonical(IPv6Address(block[:16])), int.from_bytes(block[32:34]))


def _check_tlvs(block: bytes) -> None:
    """Section 2.2: a type, two bytes of length, so many bytes; the last one ends with the header."""
    position = 0
    while position < len(block):
        position += 3 + int.from_bytes(block[position + 1 : position + 3])
    if position != len(block):
        raise ProtocolError("a TLV of the PROXY header does not end with it")


def _canonical(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
