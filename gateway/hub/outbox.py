"""What one client is to be sent: gathered until the next flush, or held back until the store has taken it.

Owns the order of what a client gets, and whether it takes anything at present.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.hub.journal import Journal, refusal
from gateway.hub.ports import Client
from gateway.hub.rows import StoreError
from gateway.hub.status import Counters
from gateway.wire.mqtt_packets import Reason

if TYPE_CHECKING:
    from gateway.hub.attached import Attached


class Outbox:
    """ready: whether more may be put in; what cannot wait is missed otherwise. Answers to what the client itself has
    sent may be put in at any time: a session does not read from a client that does not take them.

    dirty: of the whole hub, those with something in it. missed: messages that this client did not get. unanswered: of
    the client's own messages, those whose PUBACK is held. fate: how the connection is to end, at the next flush.
    """

    __slots__ = (
        "_counters",
        "_dirty",
        "_held",
        "_journal",
        "attached",
        "chunks",
        "client",
        "fate",
        "missed",
        "ready",
        "released",
        "size",
        "unanswered",
    )

    def __init__(self, dirty: list[Outbox], journal: Journal, counters: Counters) -> None:
        self._dirty, self._journal, self._counters = dirty, journal, counters
        self.attached: Attached | None = None
        self.client: Client | None = None
        self.ready = False
        self.chunks: list[bytes] = []
        self.missed = 0
        self._reset()

    def _reset(self) -> None:
        self.chunks.clear()
        self.size = 0
        # What to send; and what instead if it cannot be stored, None: the end.
        self._held: list[tuple[bytes, bytes | None]] = []
        self.unanswered = 0
        self.released = False  # something was, since the session last looked
        self.fate: tuple[Reason, str] | None = None

    def connect(self, attached: Attached, client: Client) -> None:
        self._reset()
        self.attached, self.client = attached, client

    def disconnect(self) -> None:
        self.attached, self.client, self.ready = None, None, False
        self._reset()

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def miss(self, count: int = 1) -> None:
        """Messages that are not sent. Without a connection there is none that would have been."""
        if self.client is not None:
            self.lose(count)

    def lose(self, count: int = 1) -> None:
        """Messages that should have been kept."""
        self.missed += count
        self._counters.dropped += count

    def put(self, data: bytes) -> None:
        if not self.chunks:
            self._dirty.append(self)
        self.chunks.append(data)
        self.size += len(data)

    def hold(self, data: bytes, refused: bytes | None) -> None:
        """Put that in once everything that was to be stored up to now is. refused: what instead if that fails;
        None: there is nothing to be said to it, and the connection ends."""
        if not self._held:
            self._journal.answer(self._stored)
        self._held.append((data, refused))

    def queue(self, data: bytes) -> None:
        """Put that in behind whatever is held."""
        if self._held:
            self._held.append((data, data))
        else:
            self.put(data)

    def _stored(self, failure: StoreError | None) -> None:
        held, self._held = self._held, []
        self.unanswered = 0
        self.released = True
        for data, refused in held:
            if failure is None:
                self.put(data)
            else:
                self._put_refused(failure, refused)

    def _put_refused(self, failure: StoreError, refused: bytes | None) -> None:
        if self.fate is not None:
            return
        if refused is None:
            self.end(refusal(failure), "the store failed")
        else:
            self.put(refused)

    def end(self, code: Reason, reason: str) -> None:
        """At the next flush, with what is in it so far."""
        if self.client is not None and self.fate is None:
            self.fate = (code, reason)
            self.ready = False
            self._dirty.append(self)

    def flush(self) -> None:
        """One delivery of everything that has come together."""
        if self.chunks and self.client is not None:
            data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
            self.chunks.clear()
            self.size = 0
            client = self.client
            client.deliver(data)
            if client is self.client and client.congested():
                self.ready = False
