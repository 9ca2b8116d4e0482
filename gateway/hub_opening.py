"""The hub that a configuration asks for, with its file.

Owns how it is opened, and which of its settings last as long as the process. Refuses a file that cannot be used, told
with whatever else is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.errors import Problems
from gateway.hub.hub import Hub, Nobody
from gateway.hub.ports import Permission
from gateway.hub.rows import StoreError
from gateway.hub.store import MemoryStore, SqliteStore
from gateway.session.mqtt_caller import ChannelPermission
from gateway.settings import HubFile
from gateway.things import Things


def open_hub(
    found: HubFile | None, problems: Problems, things: Things | None, call_later: Callable[..., Any]
) -> Hub | None:
    """None: there is to be none, or something is wrong, also before. things: they decide who may have what."""
    if found is None or problems.found:
        return None
    with problems.at("hub", "database"):
        return _hub(found, things, call_later)
    return None


def _hub(found: HubFile, things: Things | None, call_later: Callable[..., Any]) -> Hub:
    """Raises ValueError, OSError."""

    def permission_of(owner: str) -> Permission:
        return ChannelPermission(things, owner) if things is not None else Nobody()

    path = found.database
    try:
        if path is not None:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        store = SqliteStore(path) if path is not None else MemoryStore()
        return Hub(found.settings, store, time.time, call_later, permission_of)
    except StoreError as error:
        raise ValueError(f"{path}: {error}") from None


def lasting(found: HubFile | None) -> HubFile | None:
    """Without what follows from the listeners: it is only a shortcut of the hub's."""
    return replace(found, settings=replace(found.settings, max_packet_size=0)) if found is not None else None
