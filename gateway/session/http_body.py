"""One message body on its way through: where it ends, and how it is framed for the next one.

Owns the count. Refuses, as ProtocolError, a chunked body that is not exactly that (`wire.http1`).
"""

from __future__ import annotations

from gateway.wire.http1 import CHUNKED, ChunkedReader, chunk, last_chunk


class Body:
    """length: how many bytes there are, CHUNKED or UNTIL_CLOSE (RFC 9112, 6.3). chunked: it is sent on in chunks, as
    it is whenever its length is not known; else as it is.

    done: nothing more belongs to it. moved: bytes of content so far.
    """

    __slots__ = ("_chunked", "_left", "_reader", "done", "moved")

    def __init__(self, length: int, *, chunked: bool) -> None:
        self._left = length
        self._reader = ChunkedReader() if length == CHUNKED else None
        self._chunked = chunked
        self.done = not length
        self.moved = 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """What to send on, and how many of these bytes belonged to it. Raises ProtocolError."""
        if self._left >= 0:
            if len(data) > self._left:
                data = data[: self._left]
            used = len(data)
            self._left -= used
            self.moved += used
            self.done = not self._left
            return data, used
        if self._reader is None:
            content, used = data, len(data)
        else:
            content, used = self._reader.feed(data)
            self.done = self._reader.done
        self.moved += len(content)
        if not self._chunked:
            return content, used
        framed = chunk(content) if content else b""
        return (framed + last_chunk(self._reader.trailers) if self._reader and self.done else framed), used

    def end(self) -> bytes:
        """The sender has closed, in order, which is how a body UNTIL_CLOSE ends: what is still to be sent on."""
        self.done = True
        return last_chunk([]) if self._chunked else b""


# Of most requests. Nothing is ever fed to it.
NO_BODY = Body(0, chunked=False)
