"""Which address of an upstream comes next: each in turn, and those that failed lately after all the others.

Owns what was learned about them from real requests (passive health checks); it sends nothing by itself, and refuses no
address for good: when all have failed, all are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.session.vocabulary import Dial

# An address that could not be reached is asked last for so long.
DOWN_SECONDS = 10.0


class Backends:
    """Shared by all sessions. clock: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turns: dict[str, int] = {}
        self._down: dict[tuple[str, str] | None, float] = {}

    def order(self, dials: Sequence[Dial]) -> Sequence[Dial]:
        """One for each address of an upstream: in the order in which to try them now."""
        if len(dials) == 1:
            return dials
        name, now = dials[0].upstream.name, self._clock()
        turn = self._turns[name] = self._turns.get(name, -1) + 1
        up = [dial for dial in dials if self._down.get(dial.name, 0.0) <= now]
        down = [dial for dial in dials if dial not in up]
        # Each group by itself: the next of those that are up does not get what was meant for one that is down.
        return [*_rotated(up, turn), *_rotated(down, turn)]

    def preferred(self, dials: Sequence[Dial]) -> Sequence[Dial]:
        """The same where they do not take turns: in their own order, but for those that failed lately."""
        now = self._clock()
        down = [dial for dial in dials if self._down.get(dial.name, 0.0) > now]
        return [*(dial for dial in dials if dial not in down), *down]

    def failed(self, dial: Dial) -> None:
        self._down[dial.name] = self._clock() + DOWN_SECONDS

    def worked(self, dial: Dial) -> None:
        if self._down:
            self._down.pop(dial.name, None)


def _rotated(dials: list[Dial], turn: int) -> list[Dial]:
    start = turn % len(dials) if dials else 0
    return dials[start:] + dials[:start]
