"""Bytes both ways between two transports, as fast as the machine can, with bounded memory.

Owns the back-pressure (a side is read only while the other takes what was read: at most one buffer waits), the byte
counters, and how a relay ends: at the end of both streams, broken, or with a farewell between two messages. Where the
end of a stream has a meaning, a `faithful` relay never makes one up: who has not got everything sees a connection that
broke. A native pump can take this class's place: it needs the two sockets, their SSL objects and what is pending, all
of which it is given here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.net.stream import VIEW, BrokenStream, EndOfStream
from gateway.net.transport import Transport
from gateway.session.vocabulary import Framing

# Reads of one side before others get their turn.
_TURNS = 4
# A read this short has emptied the socket; if not, the poller says so again.
_SHORT = 16_384
# When one side has ended, the other may go on while something moves, and is waited for so long when nothing does.
LINGER_SECONDS = 10.0
# A patient end wants the session idle for so long: a pipelining client may have more on its way.
QUIET_SECONDS = 0.05
# After the grace period the next message boundary is waited for so long.
LAST_SECONDS = 1.0


def _nothing(_: str) -> None:
    pass


class Pipe:
    """One direction. What it reads is told to its relay, and sent on."""

    __slots__ = ("_relay", "_sink", "_source", "ended", "moved", "over")

    def __init__(self, relay: Relay, source: Transport, sink: Transport) -> None:
        self._relay, self._source, self._sink = relay, source, sink
        self.moved = 0
        # over: nothing more is read. ended: because the source has ended, in order.
        self.over = self.ended = False

    def _shorten(self, size: int) -> int:
        """A farewell is due: how many of the bytes in VIEW are still to be sent on."""
        return size

    def _passed(self, size: int) -> bool:
        """So many bytes, still in VIEW, were sent on. Whether to go on."""
        raise NotImplementedError

    def pump(self) -> None:
        """Pass on what is there."""
        source, sink = self._source, self._sink
        stream, relay = source.stream, self._relay
        read = stream.read
        at = source
        try:
            # One turn more, for what the stream holds and no event will tell of.
            for turn in range(_TURNS + 1):
                if turn == _TURNS and not stream.unread:
                    return
                at = source
                size = read()
                if not size:
                    source.blocked()
                    return
                if relay.farewell is not None:
                    size = self._shorten(size)
                self.moved += size
                at = sink
                taken = sink.push(size)
                if not self._passed(size):
                    return
                if not taken:
                    source.pause()
                    return
                if size < _SHORT and not stream.unread:
                    return
        except EndOfStream:
            source.pause()
            self.over = self.ended = True
            self._relay.over(self)
        except BrokenStream as error:
            self._broken(at, str(error))

    def _broken(self, at: Transport, reason: str) -> None:
        if at is self._source:
            self._relay.lost(at, reason)
        else:
            self._relay.deaf(self, at, reason)

    def release(self) -> None:
        """The end: while each of them held the other, only the garbage collector would free both."""
        del self._relay

    def start(self) -> None:
        """What the sink was sent before this comes first."""
        if self._sink.pending:
            self._source.pause()
        else:
            self.resume()

    def resume(self) -> None:
        """The sink has taken everything: go on, first with what the source's TLS already holds."""
        if not (self.over or self._source.closed):
            self._source.resume()
            self.pump()


class _Up(Pipe):
    """Client → upstream."""

    __slots__ = ()

    def _passed(self, _: int) -> bool:
        framing = self._relay.framing
        if framing is not None:
            framing.asked = True
        return True


class _Down(Pipe):
    """Upstream → client: the only direction in which we may have a word to say at the end."""

    __slots__ = ()

    def _shorten(self, size: int) -> int:
        """Up to the end of the message begun last, so that the farewell need not wait for a read to end with one."""
        relay = self._relay
        if relay.patient or relay.framing is None:
            return size
        found = relay.framing.seek(VIEW[:size])
        return size if found is None else found

    def _passed(self, size: int) -> bool:
        relay = self._relay
        if relay.framing is not None:
            relay.framing.feed(VIEW[:size])
        return relay.farewell is None or not relay.take_leave()


class Relay:
    """`ended(reason)` is called exactly once, when nothing is relayed any more; closing may still linger.

    linger: once one side has ended in order, the other is ended when nothing has moved for so many seconds (it is
    looked at only so often: it may take twice as long). faithful: the sides are closed in order only when both have
    ended in order, and the client also after a farewell; otherwise they are reset.
    """

    __slots__ = (
        "_client",
        "_clock",
        "_done",
        "_down",
        "_ended",
        "_faithful",
        "_linger",
        "_looking",
        "_reason",
        "_timer",
        "_up",
        "_upstream",
        "farewell",
        "framing",
        "patient",
    )

    def __init__(
        self,
        clock: Any,
        client: Transport,
        upstream: Transport,
        framing: Framing | None,
        ended: Callable[[str], None],
        linger: float = LINGER_SECONDS,
        faithful: bool = False,
    ) -> None:
        self._clock, self._client, self._upstream, self.framing = clock, client, upstream, framing
        self._ended, self._linger, self._faithful = ended, linger, faithful
        self._up, self._down = _Up(self, client, upstream), _Down(self, upstream, client)
        self.farewell: bytes | None = None
        self.patient = self._done = False
        self._reason = ""
        self._looking: Any = None
        self._timer: Any = None

    @property
    def from_client(self) -> int:
        """Bytes client → upstream."""
        return self._up.moved

    @property
    def to_client(self) -> int:
        """Bytes upstream → client."""
        return self._down.moved

    def start(self, to_upstream: bytes) -> None:
        """Send what the client sent ahead, and begin."""
        self._client.relay(self._up.pump, self._down.resume)
        self._upstream.relay(self._down.pump, self._up.resume)
        if to_upstream:
            self._up.moved += len(to_upstream)
            self._upstream.write(to_upstream)
        for pipe in (self._up, self._down):
            if not self._done:
                pipe.start()

    # --- the end ----------------------------------------------------------------------------------------------------

    def finish(self, farewell: bytes, reason: str, patient: bool, grace: float) -> None:
        """End with `farewell` at the next message boundary (patient: once idle), or without after `grace` seconds."""
        if self._done or (self.farewell is not None and patient):
            return
        begun = self.farewell is None
        self.farewell, self._reason = farewell, reason
        if begun:
            self._stop_timer()
            self._timer = self._clock.callLater(grace, self._out_of_patience)
        if patient:
            self.patient = True
            self.take_leave()
        else:
            self._hurry()

    def take_leave(self) -> bool:
        """Say the farewell if this is the moment for it. Whether the relay has ended."""
        if self._done or self.farewell is None:
            return self._done
        framing = self.framing
        if not self.patient and (framing is None or framing.boundary):
            return self._leave()
        if self._looking is None and (framing is None or framing.idle):
            self._looking = self._clock.callLater(QUIET_SECONDS, self._look, self.from_client + self.to_client)
        return False

    def _look(self, moved: int) -> None:
        """The session seemed idle QUIET_SECONDS ago. Is it, with nothing sent since and nothing still on its way?"""
        self._looking = None
        framing = self.framing
        idle = framing is None or framing.idle
        if idle and moved == self.from_client + self.to_client and not (self._client.pending or self._upstream.pending):
            self._leave()
        else:
            self.take_leave()

    def _leave(self) -> bool:
        if self.farewell:
            self._client.write(self.farewell)
            self._client.close()  # it says itself that this is the end, which is then in order
        self._finish(self._reason)
        return True

    def _hurry(self) -> None:
        """No more is heard from the client; what the upstream says still comes, up to the next boundary."""
        self.patient = False
        self._up.over = True
        self._client.pause()
        self.take_leave()

    def _out_of_patience(self) -> None:
        """Now at the next boundary, wherever the session is; if none comes soon, without a word."""
        self._hurry()
        if not self._done:
            self._timer = self._clock.callLater(LAST_SECONDS, self._finish, self._reason)

    def over(self, pipe: Pipe) -> None:
        """One stream has ended in order: the other direction may finish."""
        if pipe is self._up:
            reason, sink = "the client closed the connection", self._upstream
        else:
            reason, sink = "the upstream closed the connection", self._client
        self._reason = self._reason or reason
        if self._up.over and self._down.over:
            self._finish(self._reason, whole=self._up.ended and self._down.ended)
            return
        sink.end()
        self._wait()

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(self._linger, self._waited, self._state())

    def _waited(self, state: tuple[int, ...]) -> None:
        self._timer = None
        if state == self._state():
            self._finish(self._reason)
        else:
            self._wait()

    def _state(self) -> tuple[int, ...]:
        """Different whenever something has moved."""
        return self.from_client, self.to_client, self._client.pending, self._upstream.pending

    def deaf(self, pipe: Pipe, sink: Transport, reason: str) -> None:
        """The sink takes no more. What an upstream said before that, such as why, the client still hears.

        Not over TLS, unless it was read already: OpenSSL reads nothing more after a write that failed.
        """
        if pipe is self._down or self._down.over:
            self.lost(sink, reason)
            return
        self._reason = self._reason or f"the upstream's connection broke: {reason}"
        pipe.over = True
        self._client.pause()
        self._wait()

    def lost(self, transport: Transport, reason: str) -> None:
        """That side broke."""
        side = "client" if transport is self._client else "upstream"
        transport.abort()
        self._finish(self._reason or f"the {side}'s connection broke: {reason}")

    def _finish(self, reason: str, whole: bool = False) -> None:
        """What a side has not taken yet is still sent to it for a moment, as `close` does."""
        if self._done:
            return
        self._done = True
        self._stop_timer()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        broken = self._faithful and not whole
        self._client.close(broken)
        self._upstream.close(broken)
        ended, self._ended = self._ended, _nothing
        ended(reason)
        self._up.release()
        self._down.release()

    def cut(self, reason: str) -> None:
        """End now, wherever that is in the stream."""
        self._finish(reason)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
