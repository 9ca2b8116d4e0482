"""The cancel keys that the gateway gave to its clients, and which upstream backend each stands for.

A client never learns the upstream's own key: it gets a random one, which opens exactly one session here, for as long as
that session lives.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hmac import compare_digest

from gateway.limits import Rate, whose
from gateway.upstream import Address, Login, Upstream


@dataclass(frozen=True, slots=True)
class CancelTarget:
    """The backend behind one session: where it is, and its own pid and key. `subject` is for the audit."""

    upstream: Upstream
    address: Address
    login: Login
    pid: int
    key: bytes = field(repr=False)
    subject: str | None = None


class CancelKeys:
    """All live sessions of the process, by the backend pid that their client sees."""

    def __init__(self, rate: float) -> None:
        self.rate = Rate(rate)
        # Two upstreams may have a backend of the same pid; nearly always there is one.
        self._targets: dict[int, tuple[tuple[bytes, CancelTarget], ...]] = {}

    def issue(self, target: CancelTarget, size: int) -> bytes:
        """A new random key of `size` bytes that stands for the target until `revoke`."""
        held = self._targets.get(target.pid, ())
        key = secrets.token_bytes(size)
        while any(key == known for known, _ in held):
            key = secrets.token_bytes(size)
        self._targets[target.pid] = (*held, (key, target))
        return key

    def revoke(self, pid: int, key: bytes) -> None:
        held = tuple(entry for entry in self._targets.pop(pid, ()) if entry[0] != key)
        if held:
            self._targets[pid] = held

    def find(self, pid: int, key: bytes) -> CancelTarget | None:
        """The target of exactly this key. Takes the same time wherever a wrong key differs."""
        found = None
        for known, target in self._targets.get(pid, ()):
            if compare_digest(known, key):
                found = target
        return found

    def allow(self, address: str, now: float) -> bool:
        """Whether that client address may try one more key now."""
        return self.rate.allow(whose(address), now)

    def __len__(self) -> int:
        return sum(map(len, self._targets.values()))
