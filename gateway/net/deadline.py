"""One deadline that is set anew again and again, as HTTP does for each request, and rarely passes.

Owns its timer. One that fires too early is left to, and set again when it fires: that costs less than to move it each
time, and no timer is too far away for Twisted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Twisted refuses timers further away than this; a token may be valid for years.
FAR = 86_400.0


def _nothing() -> None:
    pass


class Deadline:
    """`passed()` is called when it passes. reactor: Twisted's IReactorTime."""

    __slots__ = ("_at", "_earliest", "_passed", "_reactor", "_timer")

    def __init__(self, reactor: Any, passed: Callable[[], None]) -> None:
        self._reactor, self._passed = reactor, passed
        self._timer: Any = None
        self._at = self._earliest = 0.0

    def set(self, seconds: float) -> None:
        """In so many seconds from now, whatever was set before."""
        self._at = at = self._reactor.seconds() + seconds
        if self._timer is None:
            self._wait(seconds)
        elif at < self._earliest:
            self._timer.reset(seconds)
            self._earliest = at

    def stop(self) -> None:
        """Never, until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """The end: while this and its owner held each other, only the garbage collector would free both."""
        self.stop()
        self._passed = _nothing

    def _wait(self, seconds: float) -> None:
        seconds = min(seconds, FAR)
        self._timer = self._reactor.callLater(seconds, self._fired)
        self._earliest = self._reactor.seconds() + seconds

    def _fired(self) -> None:
        self._timer = None
        left = self._at - self._reactor.seconds()
        if left > 0:
            self._wait(left)
        else:
            self._passed()
