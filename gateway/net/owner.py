"""Who is told what happens on a transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
