"""What the parts of the quickstart are made of: one thing to try, where its listener is, and who may try it.

Owns these shapes, and how a command of Python's is printed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gateway.admission import Admission, parse_admission_rule
from gateway.embedded import EmbeddedError
from gateway.settings import Config, HTTPSListener, MQTTListener, PostgresListener

HERE = "127.0.0.1/32,::1/128"
ADMISSION_RULE = f"allow all {HERE}"


@dataclass(frozen=True, slots=True)
class Demo:
    """One thing to try: how it completes a configuration, and what its clients are given and told."""

    complete: Callable[[Config], Config]
    variables: Mapping[str, str]
    told: str
    commands: tuple[str, ...]


def admission_from_here() -> Admission:
    """Everybody who shows a certificate, or what else is asked for, from this machine."""
    return Admission((parse_admission_rule(ADMISSION_RULE, "quickstart", lambda _: frozenset()),))


_L = TypeVar("_L", PostgresListener, HTTPSListener, MQTTListener)


def door(listeners: Iterable[_L]) -> tuple[_L, int]:
    """The first listener with a TCP port: libpq speaks no TLS on a Unix socket (manual, "SSL Support")."""
    for listener in listeners:
        for address in listener.listen:
            if address.port:
                return listener, address.port
    raise EmbeddedError("it needs a listener on a TCP port")


def python(code: str) -> str:
    """The command that runs that code, with the Python that we have."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
