"""What `securegw sessions` says to the running gateway, and what it is told: one JSON object in a line.

Owns the questions, the answers and their grammar. A question is one line, and a connection is for one question; an
answer is one line, or several where each but the last says that more follows. Refuses, as ValueError, whatever is not
exactly that: what is given twice, unknown, of another type, or too long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any, Final, TypeVar

from gateway.members import each_once

# A kill of thousands of sessions by their ids fits into this, and nothing else is nearly as long.
MAX_REQUEST: Final = 64 * 1024
# A part of the sessions (below), each with names as long as tokens and certificates may have them.
MAX_ANSWER: Final = 1024 * 1024
# So many sessions in a line, so that the gateway never makes all of them in one go.
SESSIONS_IN_A_LINE: Final = 10
# A token's subject is within the 64 KiB of a password; whoever has a longer one is ended by the number of the session.
MAX_TEXT: Final = 8 * 1024
# Numbers of connections and of bytes: what SQLite and every other reader of JSON can hold.
_MAX_NUMBER: Final = 2**63 - 1
# What a reload has to say fits into MAX_ANSWER: of a character JSON makes at most 12 bytes (two escapes: RFC 8259, 7),
# and 101 texts of 800 of them, with quotes and commas, are 101 * (800 * 12 + 3) = 969,903.
_MAX_REASONS: Final = 100
_MAX_REASON: Final = 800


class NotDone(Exception):
    """What was asked for cannot be done; the text is for whoever asked."""


# --- questions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListSessions:
    """Which sessions there are."""


@dataclass(frozen=True, slots=True)
class Kill:
    """End sessions, which are named in exactly one way: by their numbers, or exactly by who was proven, the jti of the
    token, or the serial number of the certificate (in hexadecimal). Raises ValueError."""

    ids: tuple[int, ...] = ()
    identity: str | None = None
    jti: str | None = None
    serial: str | None = None

    def __post_init__(self) -> None:
        if sum((bool(self.ids), *(one is not None for one in (self.identity, self.jti, self.serial)))) != 1:
            raise ValueError("sessions are named in exactly one way")


@dataclass(frozen=True, slots=True)
class AskCounters:
    """How much there is of everything."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Read certificates, keys and rules again, as SIGHUP does."""


@dataclass(frozen=True, slots=True)
class Drain:
    """End in order, as SIGTERM does."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Take the socket that comes with this question as a connection of that listener (its section) from that IP
    address."""

    listener: str
    address: str


Request = ListSessions | Kill | AskCounters | Reload | Drain | Enter

_WORDS: Final[Mapping[str, type[Request]]] = {
    "sessions": ListSessions,
    "kill": Kill,
    "counters": AskCounters,
    "reload": Reload,
    "drain": Drain,
    "enter": Enter,
}
_WORD_OF: Final = {kind: word for word, kind in _WORDS.items()}


# --- answers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Session:
    """One live session. id: the number of its connection, as in the audit. listener: its section. client: its address.

    opened_at: seconds since the epoch. moved: bytes of both directions, as far as they are counted while it lives.
    state: what it is at, in a word or two. The rest is what the audit says of it
    (`gateway.session.vocabulary.Facts`).
    """

    id: int
    listener: str
    client: str
    opened_at: float
    moved: int
    state: str
    subject: str | None = None
    user: str | None = None
    jti: str | None = None
    serial: str | None = None
    role: str | None = None
    database: str | None = None
    application: str | None = None
    upstream: str | None = None
    rule: str | None = None
    tls: str | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """It was done. but: of a reload, what is not as it is meant to be all the same."""

    but: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """It was not done. error: why, in one sentence. reasons: the problems of a reload that failed."""

    error: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sessions:
    """Some of the live sessions. more: another line has some more."""

    sessions: tuple[Session, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Killed:
    """So many sessions were found, and end."""

    killed: int


@dataclass(frozen=True, slots=True)
class Counters:
    """By name."""

    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Left:
    """So many connections are left of those that have to end. Lines of this come until the process is gone."""

    left: int


Answer = Done | Refused | Sessions | Killed | Counters | Left


# --- writing --------------------------------------------------------------------------------------------------------


def write_request(request: Request) -> bytes:
    """Raises ValueError where the line would be too long."""
    line = _line({"do": _WORD_OF[type(request)], **_given(request)})
    if len(line) > MAX_REQUEST:
        raise ValueError(f"the request is longer than {MAX_REQUEST} bytes")
    return line


def write_answer(answer: Answer) -> bytes:
    """Cuts what a reload has to say, and refuses nothing."""
    if isinstance(answer, Refused):
        reasons = _cut(answer.reasons)
        return _line({"ok": False, "error": answer.error[:_MAX_REASON]} | ({"reasons": reasons} if reasons else {}))
    if isinstance(answer, Done):
        return _line({"ok": True} | ({"but": _cut(answer.but)} if answer.but else {}))
    if isinstance(answer, Sessions):
        rows = [_given(one) for one in answer.sessions]
        return _line({"ok": True, "sessions": rows} | ({"more": True} if answer.more else {}))
    if isinstance(answer, Counters):
        return _line({"ok": True, "counters": dict(answer.counters)})
    return _line({"ok": True, **_given(answer)})


def _cut(reasons: Sequence[str]) -> list[str]:
    told = [reason[:_MAX_REASON] for reason in reasons[:_MAX_REASONS]]
    if len(reasons) > _MAX_REASONS:
        told[-1] = f"and {len(reasons) - _MAX_REASONS + 1} more"
    return told


def _given(value: Request | Answer | Session) -> dict[str, Any]:
    """Without what is at its default."""
    given = asdict(value)
    return {one.name: given[one.name] for one in fields(value) if given[one.name] != one.default}


def _line(members: Mapping[str, Any]) -> bytes:
    # In ASCII: no name can end the line, and half a surrogate pair is no error.
    return json.dumps(members, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


# --- reading --------------------------------------------------------------------------------------------------------


def read_request(line: bytes) -> Request:
    """line: without its line feed. Raises ValueError, with a text that quotes nothing of it."""
    members = _object(_parse(line, MAX_REQUEST))
    kind = _WORDS.get(_text(members.pop("do", None)))
    if kind is None:
        raise ValueError("there is no such request")
    return _made(kind, members)


def read_answer(line: bytes) -> Answer:
    """line: without its line feed. Raises ValueError."""
    members = _object(_parse(line, MAX_ANSWER))
    if not _truth(members.pop("ok", None)):
        return _made(Refused, members)
    kinds = [kind for name, kind in _ANSWERS.items() if name in members]
    return _made(kinds[0] if kinds else Done, members)


_Made = TypeVar("_Made")


def _made(kind: type[_Made], members: Mapping[str, Any]) -> _Made:
    grammar = _GRAMMAR[kind]
    if not members.keys() <= grammar.keys():
        raise ValueError("a member is unknown")
    try:
        return kind(**{name: grammar[name](value) for name, value in members.items()})
    except TypeError:  # of a dataclass: one that has no default is not there
        raise ValueError("a member is missing") from None


def _parse(line: bytes, most: int) -> object:
    """Strictly (RFC 8259, 4): Python by itself would take the last of members of the same name."""
    if len(line) > most:
        raise ValueError("the line is too long")
    try:
        return json.loads(line.decode(), object_pairs_hook=each_once)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError("a text is missing, too long, or none")
    return value


def _number(value: object) -> int:
    # True is an int, too.
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
        raise ValueError("a number is missing, negative, too large, or none")
    return value


def _time(value: object) -> float:
    if not isinstance(value, float) or not isfinite(value):
        raise ValueError("a time is missing, or none")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is missing")
    return value


def _list(read: Callable[[object], _Made]) -> Callable[[object], tuple[_Made, ...]]:
    def found(value: object) -> tuple[_Made, ...]:
        if not isinstance(value, list):
            raise ValueError("a list is missing")
        return tuple(map(read, value))

    return found


def _session(value: object) -> Session:
    return _made(Session, _object(value))


def _counted(value: object) -> dict[str, int]:
    return {name: _number(number) for name, number in _object(value).items()}


_Grammar = Mapping[str, Callable[[object], Any]]

_NUMBERS: Final = ("id", "moved")
_SESSION: Final[_Grammar] = {
    **{one.name: _text for one in fields(Session)},
    **dict.fromkeys(_NUMBERS, _number),
    "opened_at": _time,
}
_GRAMMAR: Final[Mapping[type, _Grammar]] = {
    ListSessions: {},
    Kill: {"ids": _list(_number), "identity": _text, "jti": _text, "serial": _text},
    AskCounters: {},
    Reload: {},
    Drain: {},
    Enter: {"listener": _text, "address": _text},
    Done: {"but": _list(_text)},
    Refused: {"error": _text, "reasons": _list(_text)},
    Sessions: {"sessions": _list(_session), "more": _truth},
    Killed: {"killed": _number},
    Counters: {"counters": _counted},
    Left: {"left": _number},
    Session: _SESSION,
}
# The member by which an answer is known.
_ANSWERS: Final[Mapping[str, type[Answer]]] = {
    "sessions": Sessions,
    "killed": Killed,
    "counters": Counters,
    "left": Left,
}
