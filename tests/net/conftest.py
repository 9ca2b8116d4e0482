"""One authority for all: making certificates takes longer than any of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import task

from gateway.net import dial
from gateway.net.poller import Poller
from tests.reactor import ManualReactor
from tests.wires import Authority


@pytest.fixture(scope="session", autouse=True)
def twisted_runs() -> None:
    """Its reactor opens a pipe when it first does, which no test has left open."""
    from twisted.internet import reactor

    pytest_twisted.blockon(task.deferLater(reactor, 0))


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
