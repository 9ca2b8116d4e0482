"""What waits to be stored, and who waits for it: all changes of one turn of the reactor are one commit.

Owns the order (a client hears nothing that depends on a change before it is stored), the numbers of what is stored, and
what happens when the store fails: whoever waits is refused, what was accepted in that turn is taken back, and nothing
more is written until the store takes the whole state, as it is in memory by then, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.hub.message import Message
from gateway.hub.ports import Later
from gateway.hub.rows import Change, Row, Store, StoreError, message_row
from gateway.wire.mqtt_packets import Reason

# Seconds between attempts to write everything anew after a failure. Each costs as much as there is.
_RETRY: Final = 1.0


class Kept:
    """A message that is stored once, however often it is referred to, and as long as it is."""

    __slots__ = ("id", "message", "references")

    def __init__(self, number: int, message: Message, references: int = 0) -> None:
        self.id, self.message, self.references = number, message, references


class Journal:
    """snapshot: every row that there should be. flush: called once who waited has been answered.

    failure: why nothing can be stored at present.
    """

    def __init__(
        self, store: Store, later: Later, snapshot: Callable[[], Iterable[Row]], flush: Callable[[], None]
    ) -> None:
        self.durable = store.durable
        self.failure: StoreError | None = None
        self.changes = 0  # so many there have been; who sees it grow has something to wait for
        self._store, self._later, self._snapshot, self._flush = store, later, snapshot, flush
        self._waiting: list[Row] = []
        self._undo: list[Callable[[], None]] = []
        self._answers: list[Callable[[StoreError | None], None]] = []
        self._number = 0
        self._scheduled = False

    def number(self, at_least: int = 0) -> int:
        """One that nothing else has."""
        self._number = max(self._number + 1, at_least)
        return self._number

    # --- what is to be stored -----------------------------------------------------------------------------------

    def add(self, change: Change, row: tuple[Any, ...]) -> None:
        if not self.durable or self.failure is not None:
            return
        self.changes += 1
        self._waiting.append((change, row))
        self._schedule()

    def keep(self, message: Message) -> Kept:
        """It is not stored before somebody refers to it."""
        return Kept(self.number(), message)

    def refer(self, kept: Kept) -> None:
        """One reference more."""
        if not kept.references:
            self.add(Change.PUT_MESSAGE, message_row(kept.id, kept.message))
        kept.references += 1

    def release(self, kept: Kept) -> None:
        """One reference less."""
        kept.references -= 1
        if not kept.references:
            self.add(Change.DROP_MESSAGE, (kept.id,))

    def undo(self, call: Callable[[], None]) -> None:
        """To be called if what was added in this turn cannot be stored."""
        if self._waiting:
            self._undo.append(call)

    def answer(self, call: Callable[[StoreError | None], None]) -> None:
        """To be called once everything added so far is stored, or has failed to be."""
        self._answers.append(call)
        self._schedule()

    # --- commits ------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._later(0, self.commit)

    def commit(self) -> None:
        self._scheduled = False
        if self._waiting:
            self._store_all()
        answers, self._answers = self._answers, []
        for answer in answers:
            answer(self.failure)
        self._flush()

    def _store_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        undo, self._undo = self._undo, []
        try:
            self._store.commit(waiting)
        except StoreError as error:
            self.failure = error
            for call in reversed(undo):
                call()
            self._later(_RETRY, self._again)

    def _again(self) -> None:
        if self.failure is None or not self.durable:
            return
        try:
            self._store.commit([(Change.CLEAR, ()), *self._snapshot()])
        except StoreError as error:
            self.failure = error
            self._later(_RETRY, self._again)
        else:
            self.failure = None

    def close(self) -> None:
        """Everything is stored that can be; later changes are not."""
        if self.failure is not None:
            self._again()
        self.commit()
        self.durable = False
        self._store.close()


def refusal(failure: StoreError) -> Reason:
    """What 5.0 says to it."""
    return Reason.QUOTA_EXCEEDED if failure.full else Reason.IMPLEMENTATION_SPECIFIC_ERROR
