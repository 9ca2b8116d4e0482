"""Whatever happens in whatever order: what was acknowledged arrives, with QoS 2 once, and in order.

Publisher and subscriber are models of a client that does all that the standard asks of it (MQTT-4.3, 4.4). Connections
are lost at any point, with everything that was on its way in both directions; so is the whole process.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.mqtt_packets import PubAck, PubComp, Publish, PubRec, PubRel, Version
from tests.hub.clients import V5, V311, Client
from tests.hub.machine import Machine

QUIET = ("publish 1", "publish 2", "turn", "hear", "read")
ROUGH = ("lose publisher", "lose subscriber", "crash", "close", "wait")
steps = st.lists(st.sampled_from(QUIET) | st.sampled_from(QUIET + ROUGH), max_size=40)


class Publisher:
    """open: packet identifier → what was sent and is not acknowledged; None: PUBREC has come."""

    def __init__(self, machine: Machine, version: Version) -> None:
        self.machine, self.version = machine, version
        self.open: dict[int, Publish | None] = {}
        self.accepted: list[bytes] = []
        self.serial = 0
        self.client = self.connect()

    def connect(self) -> Client:
        client = self.machine.world.keeping("publisher", self.version)
        if not client.present:
            # MQTT-4.1: without a session there, nothing of it is left here; what it had is sent as a new message.
            self.open = {packet_id: packet for packet_id, packet in self.open.items() if packet is not None}
        self.client = client
        for packet_id, packet in self.open.items():
            if packet is None:
                client.answer(PubRel(packet_id), turn=False)
            else:
                client.publish(packet.topic, packet.payload, packet.qos, packet_id, dup=True, turn=False)
        return client

    def publish(self, qos: int) -> None:
        packet_id = next(n for n in range(1, 200) if n not in self.open)
        self.serial += 1
        packet = self.open[packet_id] = Publish("t", b"%d/%d" % (qos, self.serial), qos, packet_id=packet_id)
        self.client.publish(packet.topic, packet.payload, qos, packet_id, turn=False)

    def hear(self) -> None:
        for packet in self.client.take():
            assert isinstance(packet, PubAck | PubRec | PubComp)
            sent = self.open.get(packet.packet_id)
            if isinstance(packet, PubComp):
                assert sent is None
                del self.open[packet.packet_id]
                continue
            if sent is not None and packet.packet_id in self.open:
                self.accepted.append(sent.payload)
            if isinstance(packet, PubAck):
                del self.open[packet.packet_id]
            else:
                self.open[packet.packet_id] = None
                self.client.answer(PubRel(packet.packet_id), turn=False)


class Subscriber:
    """received: identifiers of QoS 2 that PUBREL has not come for."""

    def __init__(self, machine: Machine, version: Version) -> None:
        self.machine, self.version = machine, version
        self.received: set[int] = set()
        self.seen: list[bytes] = []
        self.client = self.connect()
        self.client.subscribe("t")
        self.client.take()

    def connect(self) -> Client:
        self.client = self.machine.world.keeping("subscriber", self.version)
        return self.client

    def read(self, most: int = 2) -> bool:
        """Answer a few packets; the others are lost on the way. False: there were none."""
        packets = self.client.take()
        for packet in packets[:most]:
            if isinstance(packet, Publish):
                self._message(packet)
            else:
                assert isinstance(packet, PubRel)
                self.received.discard(packet.packet_id)
                self.client.answer(PubComp(packet.packet_id), turn=False)
        if len(packets) > most:
            self.connect()
        return bool(packets)

    def _message(self, packet: Publish) -> None:
        if packet.qos == 1:
            self.seen.append(packet.payload)
            self.client.answer(PubAck(packet.packet_id), turn=False)
            return
        if packet.packet_id not in self.received:
            self.received.add(packet.packet_id)
            self.seen.append(packet.payload)
        self.client.answer(PubRec(packet.packet_id), turn=False)


class Play:
    def __init__(self, folder: Path, version: Version) -> None:
        self.machine = Machine(folder)
        self.subscriber = Subscriber(self.machine, version)
        self.publisher = Publisher(self.machine, version)
        self.time_turn()

    def time_turn(self) -> None:
        self.machine.world.time.turn()

    def step(self, name: str) -> None:
        if name.startswith("publish"):
            self.publisher.publish(int(name[-1]))
        elif name == "turn":
            self.time_turn()
        elif name == "wait":
            self.machine.world.time.pass_by(5)
        elif name == "hear":
            self.publisher.hear()
        elif name == "read":
            self.subscriber.read()
        elif name == "lose publisher":
            self.publisher.connect()
        elif name == "lose subscriber":
            self.subscriber.connect()
        else:
            (self.machine.crash if name == "crash" else self.machine.restart)()
            self.subscriber.connect()
            self.publisher.connect()

    def finish(self) -> None:
        self.publisher.connect()
        self.subscriber.connect()
        for _ in range(200):
            self.time_turn()
            self.publisher.hear()
            if not self.subscriber.read(10_000) and not self.publisher.open:
                break
        self.time_turn()
        assert not self.publisher.open

    def check(self) -> None:
        seen, accepted = self.subscriber.seen, self.publisher.accepted
        assert set(accepted) <= set(seen)
        twice = [payload for payload in seen if payload.startswith(b"2")]
        assert len(set(twice)) == len(twice)
        for qos in (b"1", b"2"):
            first = list(dict.fromkeys(payload for payload in seen if payload.startswith(qos)))
            assert first == sorted(first, key=lambda payload: int(payload[2:]))
        stored = self.machine.store.load()
        assert (stored.deliveries, stored.messages, stored.inbound) == ([], [], [])
        assert all(not session.out.count for session in self.machine.world.hub.sessions)
        assert not self.machine.world.hub.sessions._budget.used


@given(version=st.sampled_from([V311, V5]), order=steps)
@settings(max_examples=100, deadline=None)
def test_any_order(version: Version, order: list[str]):
    with TemporaryDirectory() as folder:
        play = Play(Path(folder), version)
        try:
            for name in order:
                play.step(name)
            play.finish()
            play.check()
        finally:
            play.machine.store.close()
