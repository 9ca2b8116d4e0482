"""Things, channels and connections for the tests, as an operator makes them, and the certificates of the things.

Owns the way to the registry that a gateway of the tests has. A thing's certificate names its key: CN = key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from gateway.registry.ledger import Ledger, open_ledger
from gateway.registry.settings import RegistrySettings
from tests.gateways import RunningGateway

Files = tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class Device:
    """A thing, with what it was given. certificate: the files of its certificate and its private key."""

    id: str
    key: str = field(repr=False)
    certificate: Files


@dataclass(slots=True)
class Workshop:
    """Makes things for one gateway, and takes them away again."""

    gateway: RunningGateway
    ledger: Ledger
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    @contextmanager
    def of(cls, gateway: RunningGateway, settings: RegistrySettings | None = None) -> Iterator[Self]:
        """settings: where its registry is, if it is not in the gateway's folder."""
        with open_ledger(settings or RegistrySettings(gateway.folder / "registry.sqlite")) as ledger:
            yield cls(gateway, ledger)

    def thing(self, *channels: str) -> Device:
        """A new one, connected to these."""
        name = f"thing-{next(self._numbers)}"
        record, key = self.ledger.create_thing(name)
        for channel in channels:
            self.ledger.connect(record.id, channel)
        return Device(record.id, key, self.certificate(key, name))

    def certificate(self, key: str, name: str) -> Files:
        return self.gateway.thing(key, name)

    def channel(self) -> str:
        """The id of a new one."""
        return self.ledger.create_channel(f"channel-{next(self._numbers)}").id


def topic(channel: str, subtopic: str = "") -> str:
    return f"channels/{channel}/messages{'/' if subtopic else ''}{subtopic}"
