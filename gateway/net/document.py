"""One GET over https: a document that is small, is there soon, and comes from whom its URL names.

Owns that exchange, from looking the name up to the last byte; `certs` says whom TLS believes. Refuses what
`fetching` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from gateway.certs import ClientContext
from gateway.errors import UpstreamError
from gateway.net.fetching import ENDLESS, FIELDS, MAX_ANSWER, MAX_REASON, SECONDS, TOO_LONG, Unfetched, late, refuse

# pyOpenSSL: a connection without a socket, whose bytes somebody else moves.
_IN_MEMORY: Any = None


class Documents:
    """Fetches documents from servers that `context` lets us believe."""

    def __init__(self, reactor: Any, context: ClientContext) -> None:
        self._reactor, self._context = reactor, context

    def get(self, url: str) -> Deferred[bytes]:
        """The body. Fails with Unfetched; may be cancelled. Whatever comes of it, no connection is left."""
        line = _Line(self._reactor, self._context)

        def over(result: Any) -> Any:
            line.cut()
            return result

        whole: Deferred[bytes] = Deferred.fromCoroutine(_body(Agent.usingEndpointFactory(self._reactor, line), url))
        whole.addTimeout(SECONDS, self._reactor, _late)
        return whole.addBoth(over).addErrback(_explained)


async def _body(agent: Agent, url: str) -> bytes:
    """By itself an Agent follows no redirect and knows no proxy."""
    fields = Headers({name: [value] for name, value in FIELDS.items()})
    response = await agent.request(b"GET", url.encode("ascii"), fields)
    refuse(response.code)
    whole: Deferred[bytes] = Deferred()
    response.deliverBody(_Body(whole))
    return await whole


class _Body(Protocol):
    def __init__(self, whole: Deferred[bytes]) -> None:
        self._parts: list[bytes] = []
        self._whole = whole

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone):
            self._whole.callback(b"".join(self._parts))
        else:
            self._whole.errback(reason)


@implementer(IAgentEndpointFactory, IStreamClientEndpoint, IOpenSSLClientConnectionCreator)
class _Line:
    """The one connection of one fetch, as an Agent asks for it: TLS to whoever the URL names, through a `_Meter`.

    Not Twisted's own `optionsForClientTLS`: whatever its check of the name does not expect, such as a certificate
    without any subjectAltName, it logs, and lets pass.
    """

    def __init__(self, reactor: Any, context: ClientContext) -> None:
        self._reactor, self._context = reactor, context
        self._host = ""
        self._endpoint: Any = None
        self._meter: _Meter | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802 - IAgentEndpointFactory's
        self._host = uri.host.decode("ascii")
        creator = cast(IOpenSSLClientConnectionCreator, self)
        self._endpoint = wrapClientTLS(creator, HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=SECONDS))
        return cast(IStreamClientEndpoint, self)

    def clientConnectionForTLS(self, _: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._context.connection(_IN_MEMORY, self._host)

    def connect(self, factory: Any) -> Deferred[Any]:
        metered = WrappingFactory(factory)
        metered.protocol = self._metered
        # The log is not told each time that somebody connects and is gone again.
        metered.noisy = factory.noisy = False
        connecting: Deferred[Any] = self._endpoint.connect(metered)
        return connecting.addCallback(lambda meter: meter.wrappedProtocol)

    def _metered(self, factory: Any, wrapped: Any) -> _Meter:
        self._meter = _Meter(factory, wrapped)
        self._meter.check = lambda connection: self._context.verify(connection, self._host)
        return self._meter

    def cut(self) -> None:
        """A peer that has more to say, or does not say goodbye, is not waited for."""
        if self._meter is not None:
            self._meter.abortConnection()


@implementer(IHandshakeListener)
class _Meter(ProtocolWrapper):
    """One bound for all that a server may make us hold (status, fields, trailers and body), and whose it is.

    check: raises UpstreamError for a server that is another than the one that we mean. Until then nothing is sent.
    """

    check: Callable[[SSL.Connection], None]
    _left = MAX_ANSWER
    _refused: Unfetched | None = None

    def handshakeCompleted(self) -> None:  # noqa: N802 - IHandshakeListener's
        try:
            self.check(self.getHandle())
        except UpstreamError as error:
            self._refuse(str(error))

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated
        else:
            self._refuse(TOO_LONG)

    def _refuse(self, reason: str) -> None:
        self._refused = Unfetched(reason)
        self.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives it a default
        told = Failure(self._refused) if self._refused is not None else reason
        super().connectionLost(told)  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated


def _late(_: object, seconds: float) -> Failure:
    return Failure(late(seconds))


def _explained(failure: Failure) -> Failure:
    error: BaseException | None = failure.value
    # Twisted's ResponseFailed and its kin say only that there are reasons.
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value
    return Failure(error if isinstance(error, Unfetched) else Unfetched(_words(error)[:MAX_REASON]))


def _words(error: BaseException | None) -> str:
    if isinstance(error, PotentialDataLoss):
        return ENDLESS
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "TLS: " + "; ".join(reason for *_, reason in error.args[0])
    return str(error) or type(error).__name__
