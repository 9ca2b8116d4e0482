"""JSON as operators write it: one value, a list, or one value after the other; read once, strictly (RFC 8259).

Owns where each value stands, so that a mistake can be told by its line. Refuses members that are given twice, NaN and
the infinities, half surrogates, and what is nested too deeply to be meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any, Final

from gateway.members import each_once

_SPACE: Final = re.compile(r"[ \t\n\r]*")  # RFC 8259, 2

# Python itself refuses more than 4,300, in words about itself.
_MAX_DIGITS: Final = 1000


class Malformed(ValueError):
    """at: the position in the text. The reason quotes nothing of it: there may be keys."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at


def json_object(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    value, end = _value(text, _after_space(text, 0))
    if _after_space(text, end) != len(text):
        raise Malformed(end, "has something behind its JSON")
    if not isinstance(value, dict):
        raise Malformed(0, "is not a JSON object")
    return value


def values(text: str) -> Iterator[tuple[int, Any]]:
    """(position, value) of each item of the one list that the text is, else of each value in it. Raises Malformed."""
    start = _after_space(text, 0)
    return _items(text, start + 1) if text.startswith("[", start) else _sequence(text, start)


def _sequence(text: str, at: int) -> Iterator[tuple[int, Any]]:
    while at < len(text):
        value, end = _value(text, at)
        yield at, value
        at = _after_space(text, end)


def _items(text: str, at: int) -> Iterator[tuple[int, Any]]:
    at = _after_space(text, at)
    more = not text.startswith("]", at)
    while more:
        value, end = _value(text, at)
        yield at, value
        at = _after_space(text, end)
        more = text.startswith(",", at)
        if more:
            at = _after_space(text, at + 1)
    if not text.startswith("]", at):
        raise Malformed(at, "has to be followed by a comma, or by the ] of the list")
    if _after_space(text, at + 1) != len(text):
        raise Malformed(at + 1, "stands behind the list")


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, at)
        if "\\u" in text[at:end]:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise Malformed(error.pos, "is not JSON") from None
    except RecursionError:
        raise Malformed(at, "is nested too deeply") from None
    except UnicodeEncodeError:
        raise Malformed(at, "has half of a surrogate pair") from None
    except ValueError as error:
        raise Malformed(at, str(error)) from None
    return value, end


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found  # it matches nothing, too
    return found.end()


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("has a number that is none, or too large")
    return number


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("has a number that is too long")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=each_once, parse_constant=_finite, parse_float=_finite, parse_int=_whole
)
