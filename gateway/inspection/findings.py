"""What a check has found, one line for each thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """FAIL: it does not work, or protects nothing. WARN: it works, and somebody should look at it."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """section: of the configuration. about: a key in it, or what that names. text: for a person."""

    section: str
    about: str
    level: Level
    text: str


def ok(section: str, about: str, text: str) -> Finding:
    return Finding(section, about, Level.OK, text)


def warn(section: str, about: str, text: str) -> Finding:
    return Finding(section, about, Level.WARN, text)


def fail(section: str, about: str, text: str) -> Finding:
    return Finding(section, about, Level.FAIL, text)
