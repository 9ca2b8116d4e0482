"""The upstream's side of a connection: dialed or taken from the pool, secured, and given back or dropped.

Owns the transport to the upstream, the attempt to reach it, and what it is dialed as. Refuses an upstream whose
certificate is not what its mode asks for, and one that is not configured any more. Decides nothing, tells nobody.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from gateway.certs import Certificates
from gateway.errors import UpstreamError
from gateway.net import dial
from gateway.net.door import House
from gateway.net.owner import Owner
from gateway.net.transport import Transport
from gateway.session.vocabulary import Dial


class UpstreamSide:
    """transport: what is connected at present. certificates, in all of these: those in force for this connection."""

    __slots__ = ("_attempt", "_house", "_target", "transport")

    def __init__(self, house: House) -> None:
        self._house = house
        self._attempt: dial.Dial | None = None
        self._target: Dial | None = None
        self.transport: Transport | None = None

    @property
    def begun(self) -> bool:
        return self.transport is not None or self._attempt is not None

    def dial(self, target: Dial, connected: Callable[[socket.socket], None], failed: Callable[[str], None]) -> None:
        """One of the two is called, unless it is dropped first; they call `connected` and `failed` here."""
        self._target = target
        timeout = target.upstream.connect_timeout
        self._attempt = dial.Dial(self._house.reactor, self._house.poller, target.address, connected, failed, timeout)

    def connected(self, sock: socket.socket, owner: Owner) -> Transport:
        self._attempt = None
        self.transport = transport = Transport(self._house.poller, self._house.reactor, sock, owner)
        transport.resume()
        return transport

    def failed(self) -> None:
        self._attempt = None

    def reuse(self, target: Dial, certificates: Certificates, owner: Owner) -> Transport:
        """The idle one that the pool has just said is there."""
        self._target = target
        # Other contexts, other trust: what one of them has verified is not for a session of the other's.
        self.transport = transport = self._house.pool.take((certificates, target.name))
        transport.adopt(owner)
        return transport

    def release(self, certificates: Certificates) -> Transport | None:
        """To the pool, which may have closed it then. None: there is nothing to give back."""
        transport, target = self.transport, self._target
        if transport is None or target is None:
            return None
        self.transport = None
        self._house.pool.put((certificates, target.name), transport)
        return transport

    def start_tls(self, certificates: Certificates, *, small: bool) -> None:
        """Of whatever is connected. Raises UpstreamError."""
        transport, target = self.transport, self._target
        if transport is None or target is None:
            return
        try:
            context = certificates.client(target.upstream, target.login)
        except LookupError:
            # A cancel for a session that is older than a reload which took its upstream away.
            raise UpstreamError("the upstream is not configured any more") from None
        transport.start_tls(lambda sock: context.connection(sock, target.address.host), small=small)

    def verify(self, certificates: Certificates) -> None:
        """Its handshake is done. Raises UpstreamError."""
        transport, target = self.transport, self._target
        assert transport is not None  # it is the one whose handshake is done
        assert transport.connection is not None
        assert target is not None
        certificates.client(target.upstream, target.login).verify(transport.connection, target.address.host)

    def settle(self) -> None:
        """What was dialed is not needed any more, and an idle session should cost little."""
        self._target = None

    def close(self) -> None:
        """In order: what was sent before still arrives there."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None

    def drop(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        if self.transport is not None:
            self.transport.abort()
            self.transport = None
