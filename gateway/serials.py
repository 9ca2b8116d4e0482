"""Serial numbers of certificates as people and programs write them: in hexadecimal.

Owns one spelling, which is shown, and which others mean the same.
"""

from __future__ import annotations

import re
from typing import Final

# RFC 5280, 4.1.2.2: 20 octets; with room for zeros before them.
_SPELLED: Final = re.compile(r"(?:0[xX])?[0-9A-Fa-f]{1,64}|[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2}){1,31}")


def serial_text(serial: int) -> str:
    """Two digits for each byte, as OpenSSL counts them."""
    digits = format(serial, "x")
    return digits.zfill(len(digits) + len(digits) % 2)


def serial_number(text: str) -> int:
    """With or without zeros or `0x` before it, in upper or lower case, and with a colon between two bytes, as OpenSSL
    shows long ones. Raises ValueError."""
    if not _SPELLED.fullmatch(text):
        raise ValueError("is not a serial number in hexadecimal")
    return int(text.replace(":", ""), 16)
