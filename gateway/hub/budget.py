"""How many bytes wait, of one owner and of all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """Bytes. above: a wider one, of which this is a part."""

    limit: int
    above: Budget | None = None
    used: int = 0

    def has_room(self, weight: int) -> bool:
        return self.used + weight <= self.limit and (self.above is None or self.above.has_room(weight))

    def take(self, weight: int) -> None:
        """weight: negative to give it back."""
        self.used += weight
        if self.above is not None:
            self.above.take(weight)
