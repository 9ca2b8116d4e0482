"""Idle connections to upstreams, each kept for whoever next asks for the same.

Owns them while they are idle: one that ends, breaks or speaks unasked is dropped at once, because what it says would be
taken for the answer to the next request. Refuses what has not sent everything, and whatever is too many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from gateway.net.transport import Transport

# Descriptors that the pool may hold, beside those of the connections that are counted elsewhere.
MAX_IDLE = 512
# More than this of one key would be left from a peak, and be idle until they are swept.
MAX_IDLE_PER_KEY = 64
# Shorter than what servers usually wait for the next request before they close.
IDLE_SECONDS = 60.0


class Pool:
    """The owner of the idle transports. clock: seconds.

    key: all that must be the same for a connection to serve another's request: the upstream's address, how TLS was
    spoken to it, and as whom.
    """

    def __init__(self, clock: Callable[[], float], idle_seconds: float = IDLE_SECONDS) -> None:
        self._clock, self._idle_seconds = clock, idle_seconds
        # Of each key its transports, and since when they are idle; the one returned last at the end.
        self._idle: dict[Hashable, list[tuple[Transport, float]]] = {}
        self._size = 0
        # What `ready` has found, for `take`: another may be put on top of it in between.
        self._found: tuple[Transport, float] | None = None
        self._open = True

    def __len__(self) -> int:
        return self._size

    def ready(self, key: Hashable) -> bool:
        """Whether there is one at rest. What has ended or spoken without our having been told yet is dropped."""
        found = self._idle.get(key)
        while found:
            if found[-1][0].at_rest:
                self._found = found[-1]
                return True
            self._size -= 1
            found.pop()[0].abort()
        return False

    def take(self, key: Hashable) -> Transport:
        """The one that `ready` has just found, and no other: nobody has looked at those. The caller adopts it.

        Raises ValueError if it was not asked before.
        """
        chosen, self._found = self._found, None
        if chosen is None:
            raise ValueError("take comes after ready")
        self._idle[key].remove(chosen)
        self._size -= 1
        return chosen[0]

    def put(self, key: Hashable, transport: Transport) -> None:
        """Keep it; or close it if anything is on its way in either direction, or it is one too many."""
        found = self._idle.get(key)
        if found is None:
            found = self._idle[key] = []
        full = self._size >= MAX_IDLE or len(found) >= MAX_IDLE_PER_KEY or not self._open
        if full or transport.pending or transport.closed or transport.stream.unread:
            _hang_up(transport)
            return
        transport.adopt(self)
        transport.resume()
        found.append((transport, self._clock()))
        self._size += 1

    def sweep(self) -> None:
        """Close what has been idle for `idle_seconds`."""
        latest = self._clock() - self._idle_seconds
        self._drop(lambda _, since: since <= latest)

    def retain(self, current: Callable[[Hashable], bool]) -> None:
        """Close those whose key is not current any more, as after a reload."""
        self._drop(lambda key, _: not current(key))

    def close_all(self) -> None:
        """The end: nothing is kept from now on."""
        self._open = False
        self._drop(lambda _, __: True)

    def _drop(self, unwanted: Callable[[Hashable, float], bool]) -> None:
        for key, found in tuple(self._idle.items()):
            dropped = [transport for transport, since in found if unwanted(key, since)]
            for transport in dropped:
                self._forget(transport)
                _hang_up(transport)
            if not self._idle[key]:
                del self._idle[key]

    def _forget(self, transport: Transport) -> None:
        """Rare, so that it may look through all of them."""
        for found in self._idle.values():
            for at, (one, _) in enumerate(found):
                if one is transport:
                    del found[at]
                    self._size -= 1
                    return

    # --- what transports tell ---------------------------------------------------------------------------------------

    def sniffed(self, _: Transport, first: bytes) -> None:
        """Not in here: it sniffs no more."""

    def secured(self, transport: Transport) -> None:
        """Not in here: its handshake is done."""

    def received(self, transport: Transport, _: bytes) -> None:
        self._forget(transport)
        transport.abort()

    def lost(self, transport: Transport, _: str) -> None:
        self._forget(transport)


def _hang_up(transport: Transport) -> None:
    """In order, but without waiting for the peer: it has nothing to tell us, and this costs no descriptor."""
    transport.end()
    transport.abort()
