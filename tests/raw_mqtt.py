"""An MQTT client over a TLS socket that sends exactly the bytes that it is told to, and reads packets strictly.

Packets are written and read with the gateway's grammar, which has oracles of its own; hostile ones, by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from gateway.wire import mqtt
from gateway.wire.mqtt_packets import ConnAck, Connect, Packet, PingReq, PingResp, Version
from tests.raw_https import RawHTTPS
from tests.things import Device

_MOST = 1_000_000


class RawMQTT(RawHTTPS):
    """`name`: what the audit calls it."""

    version = Version.V311

    @classmethod
    @contextmanager
    def connected(cls, port: int, trust: Path, certificate: Sequence[Path] = (), **more: Any) -> Iterator[Self]:
        """With TLS, ready for a CONNECT."""
        with closing(cls(port, trust, certificate, alpn=("mqtt",), **more)) as client:
            client.handshake()
            yield client

    def say(self, *packets: Packet) -> None:
        """All of them in one write."""
        self.send(self.written(*packets))

    def written(self, *packets: Packet) -> bytes:
        return b"".join(mqtt.serialize(packet, self.version) for packet in packets)

    def hear(self) -> Packet | None:
        """The next packet; None: the connection has ended between two."""
        while True:
            found = mqtt.frame(self._buffer, 0, _MOST) if self._buffer else None
            if found is not None and found[1] <= len(self._buffer):
                packet = mqtt.parse(self._buffer, 0, *found, self.version)
                del self._buffer[: found[1]]
                return packet
            if not self._more():
                assert not self._buffer, bytes(self._buffer)
                return None

    def hear_all(self) -> list[Packet]:
        """Up to the end of the connection."""
        return list(iter(self.hear, None))

    def log_in(self, connect: Connect) -> ConnAck:
        """The answer, whatever it is."""
        self.version = connect.version
        self.say(connect)
        answer = self.hear()
        assert isinstance(answer, ConnAck), answer
        return answer

    def exchange(self, packet: Packet) -> Packet | None:
        """What comes next."""
        self.say(packet)
        return self.hear()

    def check_alive(self) -> None:
        """Nothing is left to hear but the answer to a ping."""
        assert self.exchange(PingReq()) == PingResp()


def connect_of(device: Device, version: Version, client_id: str = "raw", **more: Any) -> Connect:
    """With its id and its key, unless `more` says otherwise."""
    return Connect(**{"version": version, "client_id": client_id, **_login(device), **more})


def _login(device: Device) -> dict[str, Any]:
    return {"user_name": device.id, "password": device.key.encode("ascii")}
