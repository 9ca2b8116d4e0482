"""A hub with a store, that can be ended in an orderly way and in the other."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

from gateway.hub.settings import HubSettings
from gateway.hub.store import SqliteStore
from tests.hub.clients import FailingStore, World


class Machine:
    """Hubs one after the other, on the same file."""

    def __init__(self, folder: Path, settings: HubSettings | None = None) -> None:
        self._folder, self._names = folder, count()
        self._path = folder / "0"
        self.store = FailingStore(SqliteStore(self._path))
        self.world = World(self.store, settings)

    def _start(self, now: float) -> World:
        self.store = FailingStore(SqliteStore(self._path))
        self.world = World(self.store, now=now, permissions=self.world.permissions)
        return self.world

    def restart(self, after: float = 0) -> World:
        self.world.hub.close()
        return self._start(self.world.time.now + after)

    def crash(self, after: float = 0) -> World:
        """What a killed process leaves: the file and its WAL as they are."""
        old, self._path = self._path, self._folder / f"crashed-{next(self._names)}"
        for suffix in ("", "-wal"):
            source = Path(f"{old}{suffix}")
            if source.exists():
                shutil.copy(source, f"{self._path}{suffix}")
        self.store.close()
        return self._start(self.world.time.now + after)
