"""One client's session (MQTT-4.1): what is remembered of it, with a connection or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.hub.journal import Kept
from gateway.hub.message import Message
from gateway.hub.outbound import Outbound
from gateway.hub.outbox import Outbox
from gateway.hub.ports import Cancellable, Permission
from gateway.hub.rows import SessionRow
from gateway.wire.mqtt_packets import Version

if TYPE_CHECKING:
    from gateway.hub.shared import Group


@dataclass(frozen=True, slots=True, eq=False)
class Subscribed:
    """identifier: 0: none. group: it is a shared one, of that."""

    session: Session
    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0
    group: Group | None = None


@dataclass(slots=True, eq=False)
class LastWill:
    """delay: seconds from the end of the connection on. expiry: seconds from its publication on. due: when it is
    published (epoch); None: the connection is there."""

    message: Message
    delay: int
    expiry: int | None
    kept: Kept | None = None
    due: float | None = None
    timer: Cancellable | None = None


class Session:
    """owner: whose it is. expiry: seconds that it outlives its connection. ended: when that did (epoch); None: it is
    there. received: the client's own messages of QoS 2 that it has not released yet. stored: there is a row of it."""

    __slots__ = (
        "box",
        "client_id",
        "ended",
        "expiry",
        "filter_bytes",
        "id",
        "out",
        "owner",
        "permission",
        "received",
        "stored",
        "subscriptions",
        "timer",
        "version",
        "will",
    )

    def __init__(self, number: int, owner: str, client_id: str, permission: Permission, out: Outbound) -> None:
        self.id, self.owner, self.client_id, self.permission, self.out = number, owner, client_id, permission, out
        self.box: Outbox = out.box
        self.version = Version.V5
        self.subscriptions: dict[str, Subscribed] = {}
        self.filter_bytes = 0
        self.received: set[int] = set()
        self.expiry = 0
        self.ended: float | None = None
        self.timer: Cancellable | None = None
        self.will: LastWill | None = None
        self.stored = False

    def row(self) -> SessionRow:
        will = self.will
        return SessionRow(
            self.id,
            self.owner,
            self.client_id,
            self.version,
            self.expiry,
            self.ended,
            will.kept.id if will is not None and will.kept is not None else None,
            will.delay if will is not None else 0,
            will.expiry if will is not None else None,
            will.due if will is not None else None,
        )
