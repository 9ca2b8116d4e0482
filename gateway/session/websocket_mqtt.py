"""MQTT over a WebSocket (MQTT-6): the packets in binary frames, on their way to the session that a port of its own has.

Owns the handshake's sub-protocol and the frames; packets may span frames and share them. Refuses text, and a page of
another origin whose browser has shown a certificate without that page knowing its key. What is in the packets, and who
it is that sends them, is for `gateway.session.mqtt` to say: the request has only passed the rules of its route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.session.http_answers import Refusal, switching
from gateway.session.http_exchange import State
from gateway.session.vocabulary import (
    Asked,
    Close,
    Command,
    Data,
    Dial,
    Event,
    Killed,
    Lost,
    Mail,
    Opened,
    Passage,
    Questions,
    Reloaded,
    RequestRecord,
    Secured,
    Send,
    Session,
    ShuttingDown,
    Side,
    StartTLS,
    TLSFacts,
)
from gateway.upstream import Address
from gateway.wire.http1 import Refused, RequestHead
from gateway.wire.websocket import check_request, close_frame
from gateway.wire.websocket_frames import ClientFrames, Closing, FrameError, Piece, Ping, binary_frame, pong_frame

# RFC 6455, 7.4.1.
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_NO_TEXT: Final = 1003
_POLICY: Final = 1008

# Of the Close where the session ends without a word of its own, as it does before 5.0.
_CODES: Final[dict[type[Event], int]] = {ShuttingDown: _GOING_AWAY, Killed: _POLICY, Reloaded: _POLICY}

# MQTT-6.0.0-3; the other is what 3.1 was offered as.
_PROTOCOLS: Final = (b"mqtt", b"mqttv3.1")


def chosen_protocol(head: RequestHead) -> bytes:
    """Of those that the client has offered (RFC 6455, 4.2.2; MQTT-6.0.0-4). Raises Refused."""
    lines = [value for name, _, value in head.fields if name == b"sec-websocket-protocol"]
    offered = [one.strip(b" \t") for one in b",".join(lines).split(b",")]
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    raise Refused(400, "Sec-WebSocket-Protocol does not offer mqtt")


def of_another_origin(head: RequestHead) -> bool:
    """Whether a page asks that was not served under this name (RFC 6454, 7; RFC 6455, 10.2). Its browser shows the
    certificate of whoever looks at it."""
    origins = [value.lower() for name, _, value in head.fields if name == b"origin"]
    return any(origin != b"https://" + head.host.lower() for origin in origins)


class Inside:
    """Questions of a session inside a WebSocket. counted: the subject that its connection is counted for already."""

    def __init__(self, questions: Questions, counted: str | None) -> None:
        self._questions, self._counted = questions, counted

    def admit(self, subject: str) -> bool:
        if self._counted is not None:
            return self._counted == subject
        self._counted = subject
        return self._questions.admit(subject)

    def renew(self) -> bool:
        return self._questions.renew()

    def trusted(self) -> bool:
        return self._questions.trusted()

    def idle(self, dial: Dial) -> bool:
        return self._questions.idle(dial)

    def tell(self, event: Event) -> None:
        self._questions.tell(event)

    def deliver(self, data: bytes) -> None:
        # Not past the session: it becomes a frame there.
        self._questions.tell(Mail(data))

    def congested(self) -> bool:
        return self._questions.congested()


class MQTTSocket:
    """`handle(event) -> [command]` from the upgrade on. inner: the MQTT session."""

    def __init__(self, inner: Session) -> None:
        self.inner = inner
        # Each piece is passed on as it comes: the session inside has a bound for its packets.
        self._frames = ClientFrames()
        self._over = False

    def moved(self) -> tuple[int, int]:
        return self.inner.moved()

    def begin(self, client: Address, tls: TLSFacts) -> Sequence[Command]:
        """Its connection is there, and so is TLS."""
        opened = [one for one in self.inner.handle(Opened(client)) if not isinstance(one, StartTLS)]
        return self._framed((*opened, *self.inner.handle(Secured(Side.CLIENT, tls))), _NORMAL)

    def handle(self, event: Event) -> Sequence[Command]:
        if self._over:
            return self.inner.handle(event)
        if isinstance(event, Data) and event.side is Side.CLIENT:
            return self._heard(event.data)
        return self._framed(self.inner.handle(event), _CODES.get(type(event), _NORMAL))

    def _heard(self, data: bytes) -> Sequence[Command]:
        """One read: all of MQTT in it at once, then the answers to what is the WebSocket's own."""
        frames, pieces, pongs = self._frames, list[bytes](), list[Command]()
        end: tuple[int, str] | None = None
        frames.receive(data)
        try:
            while end is None and (frame := frames.next()) is not None:
                if isinstance(frame, Piece):
                    if frame.text:
                        raise FrameError("a text frame, where MQTT is spoken", _NO_TEXT)
                    pieces.append(frame.data)
                elif isinstance(frame, Ping):
                    pongs.append(Send(Side.CLIENT, pong_frame(frame.data)))
                elif isinstance(frame, Closing):
                    end = frame.code or _NORMAL, "the client has closed the WebSocket"
        except FrameError as error:
            end = error.code, str(error)
        return self._told(b"".join(pieces), pongs, end)

    def _told(self, packets: bytes, pongs: Sequence[Command], end: tuple[int, str] | None) -> Sequence[Command]:
        commands = self._framed(self.inner.handle(Data(Side.CLIENT, packets)), _NORMAL) if packets else ()
        if self._over:
            return commands
        if end is None:
            return *commands, *pongs
        code, reason = end
        return *commands, *pongs, *self._ended(code, reason)

    def _ended(self, code: int, reason: str) -> Sequence[Command]:
        """The WebSocket's end is that of the connection for MQTT (MQTT-3.14: no DISCONNECT has come)."""
        last = [one for one in self.inner.handle(Lost(Side.CLIENT, reason)) if not _is_for_client(one)]
        self._over = True
        return *last, Close(reason, close_frame(code))

    def _framed(self, commands: Sequence[Command], code: int) -> Sequence[Command]:
        """What the session says to its client, in frames. code: of the Close, where the session ends without a word."""
        framed: list[Command] = []
        for command in commands:
            if isinstance(command, Send) and command.side is Side.CLIENT:
                framed.append(Send(Side.CLIENT, binary_frame(command.data)))
            elif isinstance(command, Close):
                self._over = True
                framed.append(_framed_close(command, code))
            else:
                framed.append(command)
        return framed


def _is_for_client(command: Command) -> bool:
    return isinstance(command, Close) or (isinstance(command, Send) and command.side is Side.CLIENT)


def _framed_close(command: Close, code: int) -> Close:
    """A farewell in MQTT says why; the WebSocket's Close only that it was not the client's wish."""
    if not command.farewell:
        return Close(command.reason, close_frame(code), broken=command.broken)
    code = _POLICY if code == _NORMAL else code
    return Close(command.reason, binary_frame(command.farewell) + close_frame(code), broken=command.broken)


class MQTTOpening:
    """The request that opens it, which is answered at once; its attributes are those of an `Exchange`.

    make: the MQTT session, given whom it may ask.
    """

    held = keep = final = last = False
    ahead = b""

    def __init__(
        self,
        head: RequestHead,
        asked: Asked,
        passage: Passage,
        make: Callable[[], Session],
        client: Address,
        tls: TLSFacts,
    ) -> None:
        self._head, self._make, self._client, self._tls = head, make, client, tls
        self._record = RequestRecord(asked, passage, status=101, decision="allowed")
        self.state = State.WAITING
        self.socket: MQTTSocket

    def begin(self, data: bytes) -> Sequence[Command]:
        """Raises `http1.Refused`."""
        key, protocol = check_request(self._head), chosen_protocol(self._head)
        self.socket, self.ahead = MQTTSocket(self._make()), data
        self.state = State.UPGRADED
        told = Send(Side.CLIENT, switching(key, protocol))
        return told, self._record, *self.socket.begin(self._client, self._tls)

    def handle(self, event: Event) -> Sequence[Command]:  # noqa: ARG002 - it opens at once, so nothing comes here
        return ()

    def refuse(self, refusal: Refusal) -> Sequence[Command]:  # noqa: ARG002 - for the same reason
        return ()

    def abandon(self, reason: str) -> list[Command]:  # noqa: ARG002 - for the same reason
        return []
