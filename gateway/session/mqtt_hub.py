"""An MQTT client of the embedded hub, from the verdict about its CONNECT to its end.

Owns how its packets become calls of the hub, and how what the hub has for it becomes bytes to send. Refuses a PUBLISH
or a SUBSCRIBE for what it has no right to, with the code that its version has for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from gateway.hub.attached import Attached
from gateway.hub.hub import Hub
from gateway.hub.routes import Topic
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.mqtt_caller import Entry
from gateway.session.mqtt_frames import PLAIN, Run, Single
from gateway.session.mqtt_link import TOPIC_ALIASES, Ending, Link, Steps, keep_alive, to_client
from gateway.session.vocabulary import (
    Command,
    Data,
    Dismissed,
    Drained,
    Enter,
    Mail,
    Questions,
    Send,
    Side,
)
from gateway.wire.mqtt_packets import (
    NOTHING,
    ConnAck,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    Subscribe,
    Unsubscribe,
    Version,
)

# The first byte of a PUBLISH with QoS 0 that is not retained (MQTT-3.3.1).
_QOS_0: Final = 0x30
# Bytes that are gathered for a client before they are sent, and it is seen whether it takes them.
_ENOUGH: Final = 65_536


class HubLink(Link[Topic]):
    """Implements `gateway.hub.ports.Client`."""

    def __init__(
        self,
        entry: Entry,
        current: Callable[[], MQTTAccess],
        asked: Questions,
        clock: Callable[[], float],
        hub: Hub,
    ) -> None:
        super().__init__(entry, current, asked, clock, PLAIN)
        self._hub = hub
        self._attached: Attached | None = None
        self._dropped_before = 0
        # What the hub has for it while it is at something, to be sent with what that answers: so it is in order, and
        # needs no way through the driver. Of what has not been sent yet, only this knows how much it is.
        self._answers: list[Command] = []
        self._waiting = 0
        self._busy = self._more = False

    def begin(self) -> Sequence[Command]:
        self.watch()
        self._busy = True
        entry, hub = self.entry, self._hub
        attached = self._attached = hub.attach(entry.owner, entry.connect, self, entry.permission)
        self._dropped_before = attached.dropped
        attached.start()
        hub.flush()
        properties = self._terms(attached) if self.version is Version.V5 else NOTHING
        return (
            to_client(ConnAck(attached.session_present, 0, properties), self.version),
            Enter(),
            self.deadline(),
            *self._together(),
        )

    def _together(self) -> Sequence[Command]:
        """What has come together; if that is enough for once, the rest comes when it is sent."""
        answers, self._answers = self._answers, []
        if self._more:
            self.asked.tell(Drained())
        self._waiting, self._busy, self._more = 0, False, False
        return answers

    def _terms(self, attached: Attached) -> Properties:
        """What 5.0 tells a client of what holds here (MQTT-3.2.2.3)."""
        connect, settings = self.entry.connect, self._hub.settings
        granted = attached.session_expiry
        alive = keep_alive(connect, self.access)
        return Properties(
            session_expiry=granted if granted != (connect.properties.session_expiry or 0) else None,
            receive_maximum=settings.receive_maximum,
            maximum_packet_size=self.access.max_packet,
            assigned_client_identifier=self.entry.assigned,
            topic_alias_maximum=TOPIC_ALIASES,
            server_keep_alive=alive if alive != connect.keep_alive else None,
        )

    # --- what the client sends --------------------------------------------------------------------------------------

    def run(self, run: Run[Topic]) -> None:
        assert self._attached is not None  # the link has begun
        data = self.frames.data
        if data[run.start] == _QOS_0:
            self._attached.forward(run.topic, data[run.start : run.end], run.number)
            return
        at = run.payload - (3 if self.version is Version.V5 else 2)
        self._attached.publish_plain(run.topic, data[at] << 8 | data[at + 1], data[run.payload : run.end])

    def packet(self, packet: Packet, single: Single) -> None:  # noqa: ARG002 - every link has this signature
        _PACKETS[type(packet)](self, packet)

    def data(self, event: Data) -> Sequence[Command]:
        self._busy = True
        return super().data(event)

    def heard(self) -> Sequence[Command]:
        self._hub.flush()
        answers = self._together()
        return (*answers, *self.hold()) if self.asked.congested() else answers

    def _publish(self, packet: Publish) -> None:
        assert self._attached is not None  # the link has begun
        topic = self.topic_of(packet)
        if not self.may_publish(topic):
            self._deny(packet)
            return
        if self.entry.connect.version is not Version.V5 or packet.properties is NOTHING:
            self.frames.know(topic, self._hub.topic(topic.encode("utf-8")))
        elif not packet.topic:
            packet = replace(packet, topic=topic)
        self._attached.publish(packet)

    def _deny(self, packet: Publish) -> None:
        """5.0 has a code for it, where there is an acknowledgement to put it in (MQTT-3.4.2.1, 3.5.2.1); elsewhere
        there is only the end of the connection."""
        assert self._attached is not None  # the link has begun
        if not self.access.drop_denied and not (self.version is Version.V5 and packet.qos):
            raise Ending(Reason.NOT_AUTHORIZED, "it may not publish to that topic")
        self._attached.refuse(packet, Reason.NOT_AUTHORIZED)

    def _acknowledge(self, packet: PubAck | PubRec | PubRel | PubComp) -> None:
        assert self._attached is not None  # the link has begun
        self._attached.acknowledge(packet)

    def _subscribe(self, packet: Subscribe) -> None:
        assert self._attached is not None  # the link has begun
        refused: dict[int, int] = {}
        for at, one in enumerate(packet.subscriptions):
            if not self.may_subscribe(one.filter):
                refused[at] = Reason.NOT_AUTHORIZED if self.version is Version.V5 else Refusal.SUBSCRIPTION_FAILED
        self._attached.subscribe(packet, refused)

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        assert self._attached is not None  # the link has begun
        self._attached.unsubscribe(packet)

    def _ping(self, _: PingReq) -> None:
        self._answers.append(to_client(PingResp(), self.version))

    def _disconnect(self, packet: Disconnect) -> None:
        expiry = packet.properties.session_expiry
        if expiry and not self.entry.connect.properties.session_expiry:
            raise Ending(Reason.PROTOCOL_ERROR, "a session expiry in DISCONNECT that was 0 in CONNECT")  # 3.14.2.2.2
        self.close(will=packet.code != Reason.SUCCESS, session_expiry=expiry)

    def filters(self) -> Sequence[str]:
        return self._attached.filters if self._attached is not None else ()

    @property
    def dropped(self) -> int:
        return self._attached.dropped - self._dropped_before if self._attached is not None else 0

    # --- what the hub says ------------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        if self._busy:
            self._answers.append(Send(Side.CLIENT, data))
            self._waiting += len(data)
        elif self._current() is self.access:
            self.asked.deliver(data)
        else:
            self.asked.tell(Mail(data))  # which asks first whether it may still hear it

    def congested(self) -> bool:
        if self._busy and self._waiting >= _ENOUGH:
            self._more = True
            return True
        return self.asked.congested()

    def end(self, code: Reason, reason: str) -> None:
        self.asked.tell(Dismissed(code, reason))

    def mailed(self, event: Mail) -> Sequence[Command]:
        self.renew()
        return (Send(Side.CLIENT, event.data),)

    def drained(self, event: Drained) -> Sequence[Command]:
        """Also told by itself, once it has sent what was enough for once; then it may have to wait all the same."""
        if self.asked.congested() or self._attached is None:
            return ()
        self.renew()
        self._busy = True
        self._attached.drained()
        self._hub.flush()
        return *self._together(), *super().drained(event)

    def left(self, *, will: bool, session_expiry: int | None = None) -> None:
        if self._attached is not None:
            self._attached.detach(will=will, session_expiry=session_expiry)
            self._hub.flush()

    STEPS: ClassVar[Steps] = {
        **Link.STEPS,
        (Data, Side.CLIENT): data,
        (Mail, None): mailed,
        (Drained, None): drained,
    }


_PACKETS: dict[type[Packet], Callable[[HubLink, Any], None]] = {
    Publish: HubLink._publish,
    PubAck: HubLink._acknowledge,
    PubRec: HubLink._acknowledge,
    PubRel: HubLink._acknowledge,
    PubComp: HubLink._acknowledge,
    Subscribe: HubLink._subscribe,
    Unsubscribe: HubLink._unsubscribe,
    PingReq: HubLink._ping,
    Disconnect: HubLink._disconnect,
}
