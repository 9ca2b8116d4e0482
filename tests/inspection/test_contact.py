"""One to a name that has several addresses, its one deadline, and ends of TLS that come after the handshake."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from gateway.certs import ClientContext
from gateway.errors import Problems, UpstreamError
from gateway.inspection.contact import Contact
from gateway.upstream import Address, ClientTLS, Login, TLSMode
from tests.fake_upstream import Caller, FakeUpstream, server_context
from tests.pki import issue, make_ca, write_pem
from tests.servers import free_port
from tests.wires import reset

NAME = Address("several.example", 1)


def resolve(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """To these ports of this machine."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_the_first_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeUpstream.running(lambda caller: caller.send(b"hello")) as fake:
        resolve(monkeypatch, free_port(), fake.port)
        with closing(Contact(NAME, 5)) as contact:
            assert contact.receive() == b"hello"
            with pytest.raises(UpstreamError, match="has closed the connection"):
                contact.receive()


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, free_port(), free_port())
    with pytest.raises(ConnectionRefusedError):
        Contact(NAME, 5)
    resolve(monkeypatch)
    with pytest.raises(OSError, match="has no address"):
        Contact(NAME, 5)


def test_all_of_them_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first:
        first.connect(full.getsockname())  # and so nobody else can
        resolve(monkeypatch, *[full.getsockname()[1]] * 5)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            Contact(NAME, 0.2)
        assert time.monotonic() - began < 0.6


def test_whoever_takes_nothing_is_not_waited_for() -> None:
    over = threading.Event()

    def take_nothing(_: Caller) -> None:
        over.wait(10)

    with FakeUpstream.running(take_nothing) as fake, closing(Contact(Address("127.0.0.1", fake.port), 0.2)) as contact:
        with pytest.raises(TimeoutError):
            contact.send(bytes(50_000_000))
        over.set()


# --- TLS --------------------------------------------------------------------------------------------------------------


@contextmanager
def secured(folder: Path, then: Callable[[ssl.SSLSocket], object], *, demands: bool = False) -> Iterator[Contact]:
    """By a server that does that once its handshake is over. demands: a certificate, which we do not have."""
    ca = make_ca()
    write_pem(folder / "ca.crt", ca.certificate)
    context = server_context(folder, issue(ca, sans=["127.0.0.1"]), "server")
    if demands:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.crt")
    over = threading.Event()

    def talk(caller: Caller) -> None:
        try:
            then(context.wrap_socket(caller.socket, server_side=True))
        finally:
            over.set()

    problems = Problems()
    believed = ClientContext("upstream:main", ClientTLS(TLSMode.VERIFY_FULL, folder / "ca.crt"), Login(), problems)
    problems.raise_if_any()
    with FakeUpstream.running(talk) as fake, closing(Contact(Address("127.0.0.1", fake.port), 5)) as contact:
        assert contact.secure(believed).version == "TLSv1.3"
        assert over.wait(5)
        yield contact


def send_on(contact: Contact) -> None:
    """What is sent first may still find its way."""
    for _ in range(100):
        contact.send(bytes(65_536))


@pytest.mark.parametrize("act", [send_on, Contact.receive])
def test_it_resets_the_connection(tmp_path: Path, act: Callable[[Contact], object]) -> None:
    with secured(tmp_path, reset) as contact, pytest.raises(UpstreamError, match=r"\Athe connection was cut\Z"):
        act(contact)


def test_it_says_farewell(tmp_path: Path) -> None:
    def farewell(sock: ssl.SSLSocket) -> None:
        sock.setblocking(False)
        with suppress(ssl.SSLWantReadError):  # ours, for which it does not wait
            sock.unwrap()

    with (
        secured(tmp_path, farewell) as contact,
        pytest.raises(UpstreamError, match=r"\Ait has closed the connection\Z"),
    ):
        contact.receive()


def test_it_demands_a_certificate(tmp_path: Path) -> None:
    """Of which TLS 1.3 tells only after the handshake (RFC 8446, 4.4.2.4)."""
    required = r"\ATLS: .*certificate required\Z"
    with secured(tmp_path, ssl.SSLSocket.close, demands=True) as contact, pytest.raises(UpstreamError, match=required):
        contact.receive()
