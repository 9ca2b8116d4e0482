"""One to a name that has several addresses, and its one deadline."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing

import pytest

from gateway.errors import UpstreamError
from gateway.inspection.contact import Contact
from gateway.upstream import Address
from tests.fake_upstream import Caller, FakeUpstream
from tests.servers import free_port

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
