"""One authority for all: making certificates takes longer than any of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.net import dial
from gateway.net.poller import Poller
from tests.reactor import ManualReactor
from tests.wires import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> ManualReactor:
    reactor = ManualReactor()
    monkeypatch.setattr(dial, "resolvers", lambda: reactor.threads)
    return reactor


@pytest.fixture
def poller(reactor: ManualReactor) -> Iterator[Poller]:
    poller = Poller(reactor)
    yield poller
    poller.close()
