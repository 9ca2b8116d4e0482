"""A gateway with MQTT as the tests of real clients have it: its things, and the broker behind it, if there is one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gateway.wire.mqtt_packets import Version
from tests.e2e.mqtt_vocabulary import Account, Hello, Message
from tests.gateways import RunningGateway, Sections, wait_until
from tests.mosquitto import Mosquitto, mosquitto_program
from tests.raw_mqtt import RawMQTT, connect_of
from tests.things import Device, Files, Workshop, topic

HUB, MOSQUITTO = "hub", "mosquitto"


@dataclass(frozen=True, slots=True)
class MQTTSite:
    """broker: None where messages stay in the gateway's own hub. alice, bob: things that are connected to `channel`;
    mallory: one that is connected to `other` alone. All of them were there before the gateway started.
    """

    gateway: RunningGateway
    workshop: Workshop
    broker: Mosquitto | None
    channel: str
    other: str
    alice: Device
    bob: Device
    mallory: Device
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    @contextmanager
    def running(
        cls, folder: Path, destination: str, sections: Sections | None = None, *, tls: bool = False
    ) -> Iterator[Self]:
        """destination: HUB or MOSQUITTO; tls: how the gateway speaks to the latter."""
        with ExitStack() as stack:
            gateway = RunningGateway.made_mqtt(folder, sections or {})
            broker: Mosquitto | None = None
            if destination == MOSQUITTO:
                program = mosquitto_program()
                assert program is not None
                broker = stack.enter_context(Mosquitto.running(program, tls=tls))
                gateway.sections["mqtt:main"] |= broker.upstream
                del gateway.sections["hub"]
            workshop = stack.enter_context(Workshop.of(gateway))
            channel, other = workshop.channel(), workshop.channel()
            things = workshop.thing(channel), workshop.thing(channel), workshop.thing(other)
            stack.enter_context(gateway.for_a_while())
            yield cls(gateway, workshop, broker, channel, other, *things)

    def place(self) -> str:
        """A topic of the channel that no test has used."""
        return topic(self.channel, f"place-{next(self._numbers)}")

    def account(self, device: Device, **more: bool) -> Account:
        return Account.of(self.gateway, device, **more)

    def hello(
        self,
        version: int,
        *,
        clean: bool = True,
        keep_alive: int = 60,
        will: Message | None = None,
        expiry: int | None = None,
        aliases: int = 0,
    ) -> Hello:
        """With a client id that no other test has used."""
        return Hello(version, f"client-{next(self._numbers)}", clean, keep_alive, will, expiry, aliases)

    @contextmanager
    def raw(self, certificate: Files | None) -> Iterator[RawMQTT]:
        """With TLS, ready for a CONNECT."""
        files = certificate or ()
        with RawMQTT.connected(self.gateway.mqtt_port, self.gateway.root_certificate, files) as client:
            yield client

    @contextmanager
    def logged_in(self, device: Device, version: Version, **more: Any) -> Iterator[RawMQTT]:
        """With a client id that no other test has used. more: what else its CONNECT says."""
        with self.raw(device.certificate) as client:
            hello = connect_of(device, version, **{"client_id": self.hello(version).client_id, **more})
            assert client.log_in(hello).code == 0
            yield client

    def new_thing(self) -> Device:
        """Another that is connected to `channel`, from when the gateway lets it in."""
        device = self.workshop.thing(self.channel)
        wait_until(lambda: self.lets_in(device), "the gateway knows the new thing")
        return device

    def lets_in(self, device: Device) -> bool:
        with self.raw(device.certificate) as client:
            return client.log_in(connect_of(device, Version.V311, "is it let in?")).code == 0

    def check_no_secret(self) -> None:
        """No key stands in what the gateway has written."""
        written = "".join((self.gateway.folder / name).read_text() for name in ("audit.jsonl", "log"))
        for device in (self.alice, self.bob, self.mallory):
            assert device.key not in written
