"""What JOSE is written in: base64url and JSON, each read in one strict way.

Owns these two grammars for tokens and for key sets. Refuses, always as ValueError, what two readers could take for
different things: padding, stray bits, members that are given twice, NaN, half surrogates. No reason quotes the text.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NoReturn

from gateway.members import each_once


def base64url(text: bytes) -> bytes:
    """RFC 7515 section 2: no padding, nothing outside the alphabet, and one spelling only: no stray trailing bits."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    if not data or unpadded(data) != text:
        raise ValueError("is not strict base64url")
    return data


def unpadded(data: bytes) -> bytes:
    """As base64url is written (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def json_object(data: bytes) -> dict[str, Any]:
    """RFC 8259: one object, each member once (RFC 7515 section 4), only finite numbers, only text that is Unicode."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=each_once, parse_float=_finite, parse_constant=_no_constant
        )
        # A lone surrogate, written as \ud800, would raise later in whoever encodes the text.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        # Not chained: the decoder's error carries the whole text.
        raise ValueError("is not strict JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
