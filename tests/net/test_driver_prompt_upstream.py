"""An upstream whose side of TLS is done within the very call that greets it, and which then speaks first."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from gateway.certs import ClientContext
from gateway.net.poller import Poller
from gateway.session.vocabulary import Data, Dial, Dialed, Opened, Secured, Side, Splice, StartTLS
from gateway.upstream import Address
from tests.drivers import Make, benches
from tests.reactor import PATIENCE, ManualReactor
from tests.wires import Authority, Peer


@pytest.fixture
def bench(reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path) -> Iterator[Make]:
    with benches(reactor, poller, authority, tmp_path) as make:
        yield make


def test_what_it_says_first_is_relayed(bench: Make, authority: Authority, monkeypatch: pytest.MonkeyPatch):
    """The session that hears Secured answers with Splice, so it must never hear of Data behind that."""
    one = bench()
    one.server.close()
    one.server = socket.create_server(("127.0.0.1", 0))
    one.server.setblocking(False)
    # Which whom it accepts inherits: what it says must not wait for what it said to be acknowledged.
    one.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connect = ClientContext.connection

    def prompt(context: ClientContext, sock: socket.socket, host: str) -> SSL.Connection:
        connection = connect(context, sock, host)
        shake = connection.do_handshake
        if not one.accepted:
            one.accepted.append(Peer(one.server.accept()[0]))
        peer = one.far

        def shake_at_once() -> None:
            while not peer.secured or peer.outbox:
                with suppress(SSL.WantReadError):
                    shake()
                peer.play()
            select.select([sock], [], [], PATIENCE)

        peer.secure(authority.as_server(peer.sock))
        peer.write(b"I speak first")
        monkeypatch.setattr(connection, "do_handshake", shake_at_once)
        return connection

    monkeypatch.setattr(ClientContext, "connection", prompt)
    one.answers |= {
        Opened: [Dial(authority.upstream, Address(*one.server.getsockname()))],
        Dialed: [StartTLS(Side.UPSTREAM)],
        Secured: [Splice(faithful=True)],
    }
    one.start()
    one.until(lambda: one.client.data)
    assert one.client.data == b"I speak first"
    assert one.session.of(Data) == []
