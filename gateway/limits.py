"""How much one address or one subject may have: pure counting, with the time passed in.

Owns the counters; says yes or no, and refuses nothing by itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv6Address

# A rate is remembered for so many keys at once; past that the stalest are forgotten, which can only be generous.
_MAX_BUCKETS = 10_000


def whose(address: str) -> str:
    """What one client can have as its address: an IPv4 address, or the /64 that whoever has one IPv6 address has."""
    if ":" not in address:
        return address
    return str(IPv6Address(int(IPv6Address(address)) >> 64 << 64))


@dataclass(slots=True)
class Count:
    """At most `limit` at a time of each key."""

    limit: int
    _held: Counter[str] = field(default_factory=Counter)

    def take(self, key: str) -> bool:
        """Whether there was room; if so, it is taken until `free(key)`."""
        if self._held[key] >= self.limit:
            return False
        self._held[key] += 1
        return True

    def free(self, key: str) -> None:
        self._held[key] -= 1
        if self._held[key] <= 0:
            del self._held[key]

    def total(self) -> int:
        return self._held.total()


@dataclass(slots=True)
class Rate:
    """At most `per_second` a second of each key, and as many at once after a rest (a token bucket)."""

    per_second: float
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def allow(self, key: str, now: float) -> bool:
        burst = max(1.0, self.per_second)
        level, since = self._buckets.pop(key, (burst, now))
        level = min(burst, level + (now - since) * self.per_second)
        if len(self._buckets) >= _MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        allowed = level >= 1
        self._buckets[key] = (level - allowed, now)
        return allowed
