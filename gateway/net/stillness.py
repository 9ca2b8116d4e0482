"""Whether a connection is still one: that something moves, and that its client takes what it is sent.

Owns what was seen when it was looked at last. Times are in seconds since the epoch.
"""

from __future__ import annotations

from typing import Final

# So long something may wait for a client without a byte of it being taken.
STALL_SECONDS: Final = 60.0


class Stillness:
    __slots__ = ("_left", "_left_at", "_moved", "_moved_at")

    def __init__(self, now: float) -> None:
        self._moved = self._left = 0
        self._moved_at = self._left_at = now

    def idle(self, moved: int, now: float, timeout: float) -> bool:
        """moved: bytes so far, both ways. Whether they are as many as `timeout` seconds ago; once in that time."""
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        elif now - self._moved_at >= timeout:
            self._moved_at = now
            return True
        return False

    def stalled(self, left: int, now: float) -> bool:
        """left: bytes that wait for the client. Whoever takes nothing of them is not there any more, or wants us to
        believe that."""
        if not left or left != self._left:
            self._left, self._left_at = left, now
            return False
        return now - self._left_at >= STALL_SECONDS
