"""Who is told what happens on a transport; and what stands in for whoever has ended: an owner, and a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.session.vocabulary import Command, Event, Facts

if TYPE_CHECKING:
    from gateway.net.transport import Transport


class Owner(Protocol):
    """Never called again after `lost`."""

    def sniffed(self, _: Transport, first: bytes) -> None: ...

    def received(self, transport: Transport, data: bytes) -> None: ...

    def secured(self, transport: Transport) -> None: ...

    def lost(self, transport: Transport, reason: str) -> None: ...


class _Nobody:
    """The owner of a transport that is being closed."""

    def sniffed(self, _: Transport, first: bytes) -> None: ...

    def received(self, transport: Transport, data: bytes) -> None: ...

    def secured(self, transport: Transport) -> None: ...

    def lost(self, transport: Transport, reason: str) -> None: ...


NOBODY = _Nobody()


class _Over:
    """The session of a connection that has ended."""

    facts = Facts()

    def handle(self, event: Event) -> Sequence[Command]:  # noqa: ARG002 - it hears nothing any more
        return ()

    def moved(self) -> tuple[int, int]:
        return 0, 0


OVER = _Over()
