"""One message of QoS 1 or 2 on its way to one session (MQTT-4.3, 4.4)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.hub.journal import Kept
from gateway.hub.message import Message
from gateway.hub.rows import DeliveryRow

if TYPE_CHECKING:
    from gateway.hub.shared import Group


class Delivery:
    """packet_id: 0: it has never been sent. sent: on this connection. released: the client has it, and PUBREL is next.
    done: there is nothing more to be done. kept: it is stored, under the number `sequence`. group: the shared
    subscription that it is of."""

    __slots__ = (
        "done",
        "group",
        "identifiers",
        "kept",
        "message",
        "packet_id",
        "qos",
        "released",
        "retain",
        "sent",
        "sequence",
        "weight",
    )

    def __init__(
        self,
        message: Message,
        qos: int,
        retain: bool,
        identifiers: tuple[int, ...],
        group: Group | None = None,
        weight: int = 0,
    ) -> None:
        self.message, self.qos, self.retain = message, qos, retain
        self.identifiers, self.group = identifiers, group
        self.weight = weight or message.weight()
        self.packet_id = self.sequence = 0
        self.sent = self.released = self.done = False
        self.kept: Kept | None = None

    def row(self, session: int) -> DeliveryRow:
        assert self.kept is not None
        return DeliveryRow(
            self.sequence,
            session,
            self.kept.id,
            self.qos,
            self.retain,
            json.dumps(self.identifiers) if self.identifiers else "[]",
            self.packet_id,
            self.released,
            self.group.filter if self.group is not None else None,
        )
