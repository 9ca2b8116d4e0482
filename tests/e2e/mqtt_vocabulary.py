"""What the tests say to an MQTT client, whichever library it is, and what it tells them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from tests.gateways import RunningGateway
from tests.things import Device, Files

V31, V311, V5 = 3, 4, 5


@dataclass(frozen=True, slots=True)
class Account:
    """Where to, and as whom. path: of the WebSocket on an HTTPS listener; empty: MQTT right over TLS."""

    port: int
    trust: Path
    user_name: str | None = None
    password: str | None = field(default=None, repr=False)
    certificate: Files | None = None
    path: str = ""
    host: str = "localhost"

    @classmethod
    def of(cls, gateway: RunningGateway, device: Device, *, password: bool = True, certificate: bool = True) -> Self:
        """password: whether it is said, with the user name. certificate: whether one is shown."""
        return cls(
            gateway.mqtt_port,
            gateway.root_certificate,
            device.id if password else None,
            device.key if password else None,
            device.certificate if certificate else None,
        )

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.trust)
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        return context


@dataclass(frozen=True, slots=True)
class Extras:
    """What 5.0 can say with a message. expiry: in seconds. subscription_ids, alias: as of the standard."""

    content_type: str | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry: int | None = None
    subscription_ids: tuple[int, ...] = ()
    alias: int | None = None


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    extras: Extras = NO_EXTRAS


@dataclass(frozen=True, slots=True)
class Hello:
    """What a CONNECT says. expiry: seconds that 5.0 keeps the session. aliases: how many it takes from the server."""

    version: int = V311
    client_id: str = "client"
    clean: bool = True
    keep_alive: int = 60
    will: Message | None = None
    expiry: int | None = None
    aliases: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """One subscription, with what 5.0 can ask for. identifier: of the subscription."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    identifier: int | None = None


class Refused(Exception):
    """A CONNACK that is none of success; `code`: of the client's version."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class MQTTClient(Protocol):
    """A connected one. Everything waits for the answer, and fails when there is none in time."""

    @property
    def session_present(self) -> bool: ...

    def subscribe(self, *wishes: Wish) -> Sequence[int]:
        """The codes of SUBACK. All of them have the same identifier, if any."""

    def unsubscribe(self, topic_filter: str) -> None: ...

    def publish(self, message: Message) -> None:
        """Until it is acknowledged, with QoS 0 until it was written."""

    def receive(self) -> Message:
        """The next one."""

    def leave(self) -> None:
        """With DISCONNECT."""

    def vanish(self) -> None:
        """Without."""

    def end(self) -> int | None:
        """Until the connection has ended by itself: the code of DISCONNECT, or None where none is told."""


class Opener(Protocol):
    """Raises Refused. Whoever has not left at the end of the block does so then."""

    def __call__(self, account: Account, hello: Hello) -> AbstractContextManager[MQTTClient]: ...
