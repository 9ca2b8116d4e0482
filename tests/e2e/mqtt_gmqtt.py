"""gmqtt, which shares no code with paho: as `mqtt_vocabulary` has it. It knows no 3.1 and no WebSockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gmqtt
from gmqtt.mqtt.handler import MQTTConnectError
from gmqtt.storage import PersistentStorage

from tests.e2e.event_loops import EventLoop
from tests.e2e.mqtt_vocabulary import V5, Account, Extras, Hello, Message, Refused, Wish

# gmqtt's names of what 5.0 can say, and ours.
_PROPERTIES = {
    "content_type": "content_type",
    "response_topic": "response_topic",
    "correlation_data": "correlation",
    "message_expiry_interval": "expiry",
    "topic_alias": "alias",
}


def _extras(properties: Mapping[str, Any]) -> Extras:
    said = {ours: properties[theirs][0] for theirs, ours in _PROPERTIES.items() if theirs in properties}
    return Extras(
        user_properties=tuple(properties.get("user_property", ())),
        subscription_ids=tuple(properties.get("subscription_identifier", ())),
        **said,
    )


def _properties(extras: Extras, version: int) -> dict[str, Any]:
    if version != V5:
        return {}
    said = {theirs: getattr(extras, ours) for theirs, ours in _PROPERTIES.items() if getattr(extras, ours) is not None}
    return said | ({"user_property": list(extras.user_properties)} if extras.user_properties else {})


class GmqttClient:
    def __init__(self, loop: EventLoop, account: Account, hello: Hello) -> None:
        self._loop, self.version = loop, hello.version
        self.session_present = False
        self._left = False
        self._unacknowledged = PersistentStorage()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._ended: asyncio.Queue[int | None] = asyncio.Queue()
        loop.run(self._connect(account, hello))

    async def _connect(self, account: Account, hello: Hello) -> None:
        given: dict[str, Any] = {}
        if hello.version == V5:
            given |= {"session_expiry_interval": hello.expiry} if hello.expiry is not None else {}
            given |= {"topic_alias_maximum": hello.aliases} if hello.aliases else {}
        will = hello.will and gmqtt.Message(
            hello.will.topic,
            hello.will.payload,
            hello.will.qos,
            hello.will.retain,
            **_properties(hello.will.extras, hello.version),
        )
        self._client = client = gmqtt.Client(
            hello.client_id,
            clean_session=hello.clean,
            will_message=will,
            persistent_storage=self._unacknowledged,
            **given,
        )
        client.set_config({"reconnect_retries": 0})
        if account.user_name is not None:
            client.set_auth_credentials(account.user_name, account.password)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_message, client.on_subscribe, client.on_unsubscribe = self._received, self._subscribed, self._removed
        version = {"keepalive": hello.keep_alive, "version": hello.version}
        await client.connect(account.host, account.port, ssl=account.context, **version)

    # --- what its loop calls ------------------------------------------------------------------------------------------

    def _connected(self, _: gmqtt.Client, flags: int, __: int, ___: Any) -> None:
        self.session_present = bool(flags & 1)

    def _disconnected(self, _: gmqtt.Client, packet: bytes | None, __: Any = None) -> None:
        self._ended.put_nowait(packet[0] if packet and self.version == V5 else None)

    def _received(self, _: gmqtt.Client, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> int:
        self._messages.put_nowait(Message(topic, payload, qos, bool(properties["retain"]), _extras(properties)))
        return 0

    def _subscribed(self, _: gmqtt.Client, __: int, codes: Sequence[int], ___: Any) -> None:
        self._answers.put_nowait(list(codes))

    def _removed(self, _: gmqtt.Client, __: int, ___: Any) -> None:
        self._answers.put_nowait(None)

    # --- what tests call ----------------------------------------------------------------------------------------------

    def subscribe(self, *wishes: Wish) -> Sequence[int]:
        async def subscribed() -> Any:
            asked = [
                gmqtt.Subscription(wish.filter, wish.qos, wish.no_local, wish.retain_as_published, wish.retain_handling)
                for wish in wishes
            ]
            identifier = wishes[0].identifier
            self._client.subscribe(asked, **({"subscription_identifier": identifier} if identifier else {}))
            return await self._answers.get()

        codes: list[int] = self._loop.run(subscribed())
        return codes

    def unsubscribe(self, topic_filter: str) -> None:
        async def removed() -> Any:
            self._client.unsubscribe(topic_filter)
            return await self._answers.get()

        self._loop.run(removed())

    def publish(self, message: Message) -> None:
        async def published() -> None:
            said = _properties(message.extras, self.version)
            self._client.publish(message.topic, message.payload, message.qos, message.retain, **said)
            await self._unacknowledged.wait_empty()

        self._loop.run(published())

    def receive(self) -> Message:
        return self._loop.run(self._messages.get())

    def leave(self) -> None:
        if not self._left:
            self._left = True
            try:
                self._loop.run(self._client.disconnect())
            except ssl.SSLError as error:
                # It has said DISCONNECT, and ends its TLS while answers of ours are still on their way to it.
                if error.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                    raise

    def vanish(self) -> None:
        async def cut() -> None:
            self._client._is_active = False
            self._client._connection._transport.abort()

        self._loop.run(cut())
        self.end()

    def end(self) -> int | None:
        code = self._loop.run(self._ended.get())
        self._left = True
        return code


@contextmanager
def open_with_gmqtt(account: Account, hello: Hello) -> Iterator[GmqttClient]:
    with EventLoop.running() as loop:
        try:
            client = GmqttClient(loop, account, hello)
        except MQTTConnectError as refused:
            raise Refused(refused._code) from None
        try:
            yield client
        finally:
            client.leave()
