"""A reactor whose time and whose readiness the test decides: a Clock, and turns over real descriptors.

Owns no thread: what is deferred to one waits until `run_threads`.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

# A turn waits for readiness at most so long, which only a broken test ever does.
PATIENCE = 10.0


class HeldThreads:
    """Stands for a ThreadPool; what it is given waits until `run`."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def callInThreadWithCallback(  # noqa: N802
        self, told: Callable[[bool, Any], None], call: Callable[..., Any], *values: Any, **named: Any
    ) -> None:
        def job() -> None:
            try:
                result = call(*values, **named)
            except Exception:  # noqa: BLE001 - as a ThreadPool does
                told(False, Failure())
            else:
                told(True, result)

        self.jobs.append(job)


@implementer(IReactorFDSet)
class ManualReactor(Clock):
    """Nothing happens between `turn`s and `advance`s. Writers are not selected on: the gateway has none."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.threads = HeldThreads()

    def addReader(self, reader: IReadDescriptor) -> None:  # noqa: N802
        self.readers.add(reader)

    def removeReader(self, reader: IReadDescriptor) -> None:  # noqa: N802
        self.readers.discard(reader)

    def addWriter(self, writer: IWriteDescriptor) -> None:  # noqa: N802
        raise NotImplementedError

    def removeWriter(self, writer: IWriteDescriptor) -> None:  # noqa: N802
        raise NotImplementedError

    def removeAll(self) -> list[Any]:  # noqa: N802
        removed, self.readers = list(self.readers), set()
        return removed

    def getReaders(self) -> list[Any]:  # noqa: N802
        return list(self.readers)

    def getWriters(self) -> list[Any]:  # noqa: N802
        return []

    def callFromThread(self, call: Callable[..., Any], *values: Any, **named: Any) -> None:  # noqa: N802
        self.callLater(0, call, *values, **named)

    def run_threads(self) -> None:
        jobs, self.threads.jobs = self.threads.jobs, []
        for job in jobs:
            job()
        self.advance(0)

    def turn(self, wait: float = 0.0) -> bool:
        """Every reader that is ready reads once; whether there was one."""
        ready, _, _ = select.select(self.readers, [], [], wait)
        for reader in ready:
            if reader in self.readers:
                reader.doRead()
        return bool(ready)

    def settle(self) -> None:
        """Turns until nothing is ready. Fails if that never comes: something spins."""
        for _ in range(10_000):
            if not self.turn():
                return
        raise AssertionError("something is always ready: it spins")

    def until(self, true: Callable[[], object], *steps: Callable[[], object]) -> None:
        """Turns, and the test's own steps, until it is so."""
        for _ in range(3_000):
            if true():
                return
            for step in steps:
                step()
            self.turn(0.001)
        raise AssertionError("it did not happen")
