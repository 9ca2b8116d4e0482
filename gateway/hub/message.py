"""A message as the hub keeps it: without the packet that brought it, and without what belongs to one connection only.

Owns what travels with a message and what does not, and how much room it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Final

from gateway.hub.tree import size
from gateway.wire.mqtt_packets import NOTHING, Properties, Publish, Will

# What Python keeps for a message and its place in a queue besides what is counted byte by byte.
_OVERHEAD: Final = 256


@dataclass(frozen=True, slots=True)
class Message:
    """properties: those that travel (MQTT-3.3.2.3): payload format, content type, response topic, correlation data and
    user properties. expires: seconds since the epoch; None: never."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False
    properties: Properties = NOTHING
    expires: float | None = None

    def remaining(self, now: float) -> int | None:
        """Whole seconds that it still has (MQTT-3.3.2-6); 0: none; None: it does not expire."""
        return None if self.expires is None else max(0, ceil(self.expires - now))

    def weight(self) -> int:
        """Bytes that it counts where they are bounded."""
        total = _OVERHEAD + size(self.topic) + len(self.payload)
        properties = self.properties
        if properties is not NOTHING:
            total += size(properties.content_type or "") + size(properties.response_topic or "")
            total += len(properties.correlation_data or b"")
            total += sum(_OVERHEAD + size(name) + size(value) for name, value in properties.user_properties)
        return total


def travelling(properties: Properties) -> Properties:
    """Of what 5.0 said beside a PUBLISH or a Will, that which the receivers are told, unaltered (MQTT-3.3.2-4 …)."""
    if properties is NOTHING:
        return NOTHING
    found = Properties(
        payload_format=properties.payload_format,
        content_type=properties.content_type,
        response_topic=properties.response_topic,
        correlation_data=properties.correlation_data,
        user_properties=properties.user_properties,
    )
    return NOTHING if found == NOTHING else found


def published(packet: Publish | Will, now: float) -> Message:
    """The message in that packet, if it is published at `now` (seconds since the epoch)."""
    expiry = packet.properties.message_expiry
    return Message(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.retain,
        travelling(packet.properties),
        None if expiry is None else now + expiry,
    )
