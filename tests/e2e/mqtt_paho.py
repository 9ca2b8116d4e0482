"""paho-mqtt, with its own thread, and aiomqtt, which is paho in an event loop: as `mqtt_vocabulary` has them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.e2e.event_loops import EventLoop
from tests.e2e.mqtt_vocabulary import V5, Account, Extras, Hello, Message, Refused, Wish
from tests.gateways import PATIENCE

# paho's names of what 5.0 can say, and ours.
_PROPERTIES = {
    "ContentType": "content_type",
    "ResponseTopic": "response_topic",
    "CorrelationData": "correlation",
    "MessageExpiryInterval": "expiry",
    "TopicAlias": "alias",
}


def _extras(properties: Properties | None) -> Extras:
    said = {ours: getattr(properties, theirs) for theirs, ours in _PROPERTIES.items() if hasattr(properties, theirs)}
    return Extras(
        user_properties=tuple(getattr(properties, "UserProperty", ())),
        subscription_ids=tuple(getattr(properties, "SubscriptionIdentifier", ())),
        **said,
    )


def _properties(extras: Extras, version: int, kind: int) -> Properties | None:
    if version != V5:
        return None
    properties = Properties(kind)
    for theirs, ours in _PROPERTIES.items():
        if getattr(extras, ours) is not None:
            setattr(properties, theirs, getattr(extras, ours))
    if extras.user_properties:
        properties.UserProperty = list(extras.user_properties)
    return properties


def _connect_properties(hello: Hello) -> Properties | None:
    if hello.version != V5:
        return None
    properties = Properties(PacketTypes.CONNECT)
    if hello.expiry is not None:
        properties.SessionExpiryInterval = hello.expiry
    if hello.aliases:
        properties.TopicAliasMaximum = hello.aliases
    return properties


def _subscription(wishes: Sequence[Wish], version: int) -> tuple[list[Any], Properties | None]:
    if version != V5:
        return [(wish.filter, wish.qos) for wish in wishes], None
    properties = Properties(PacketTypes.SUBSCRIBE)
    if wishes[0].identifier is not None:
        properties.SubscriptionIdentifier = wishes[0].identifier
    asked = [
        (wish.filter, SubscribeOptions(wish.qos, wish.no_local, wish.retain_as_published, wish.retain_handling))
        for wish in wishes
    ]
    return asked, properties


def _disconnect_code(code: Any) -> int | None:
    """Of the packet, if that was the end."""
    return code.value if isinstance(code, ReasonCode) and code.packetType == PacketTypes.DISCONNECT else None


def _cut(sock: Any) -> None:
    """The end of the connection, with no DISCONNECT before it."""
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _message(message: MQTTMessage | aiomqtt.Message) -> Message:
    extras = _extras(getattr(message, "properties", None))
    return Message(str(message.topic), bytes(message.payload), message.qos, bool(message.retain), extras)


# --- paho-mqtt --------------------------------------------------------------------------------------------------------


class PahoClient:
    def __init__(self, account: Account, hello: Hello) -> None:
        self.version = hello.version
        self.session_present = False
        self._left = False
        self._messages: Queue[Message] = Queue()
        self._answers: Queue[Any] = Queue()
        self._end: Queue[int | None] = Queue()
        self._client = self._made(account, hello)

    def connect(self, account: Account, hello: Hello) -> None:
        more: dict[str, Any] = {}
        if hello.version == V5:
            more = {"clean_start": hello.clean, "properties": _connect_properties(hello)}
        self._client.connect(account.host, account.port, hello.keep_alive, **more)
        self._client.loop_start()
        self.session_present = self._answer()

    def _made(self, account: Account, hello: Hello) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            hello.client_id,
            clean_session=None if hello.version == V5 else hello.clean,
            protocol=MQTTProtocolVersion(hello.version),
            transport="websockets" if account.path else "tcp",
            reconnect_on_failure=False,
        )
        client.tls_set_context(account.context)
        if account.path:
            client.ws_set_options(account.path)
        if account.user_name is not None:
            client.username_pw_set(account.user_name, account.password)
        if hello.will:
            properties = _properties(hello.will.extras, hello.version, PacketTypes.WILLMESSAGE)
            client.will_set(hello.will.topic, hello.will.payload, hello.will.qos, hello.will.retain, properties)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_message, client.on_subscribe = self._received, self._subscribed
        client.on_publish, client.on_unsubscribe = self._published, self._unsubscribed
        return client

    # --- what its thread calls ----------------------------------------------------------------------------------------

    def _connected(self, _: Client, __: Any, flags: ConnectFlags, code: ReasonCode, ___: Any) -> None:
        self._answers.put(Refused(code.value) if code.is_failure else flags.session_present)

    def _disconnected(self, _: Client, __: Any, ___: DisconnectFlags, code: ReasonCode, ____: Any) -> None:
        self._end.put(_disconnect_code(code))
        self._answers.put(ConnectionError(str(code)))

    def _received(self, _: Client, __: Any, message: MQTTMessage) -> None:
        self._messages.put(_message(message))

    def _subscribed(self, _: Client, __: Any, ___: int, codes: list[ReasonCode], ____: Any) -> None:
        self._answers.put([code.value for code in codes])

    def _unsubscribed(self, _: Client, __: Any, ___: int, ____: Any, _____: Any) -> None:
        self._answers.put(None)

    def _published(self, _: Client, __: Any, ___: int, code: ReasonCode, ____: Any) -> None:
        self._answers.put(Refused(code.value) if code.is_failure else None)

    def _answer(self) -> Any:
        answer = self._answers.get(timeout=PATIENCE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # --- what tests call ----------------------------------------------------------------------------------------------

    def subscribe(self, *wishes: Wish) -> Sequence[int]:
        asked, properties = _subscription(wishes, self.version)
        self._client.subscribe(asked, properties=properties)
        codes: list[int] = self._answer()
        return codes

    def unsubscribe(self, topic_filter: str) -> None:
        self._client.unsubscribe(topic_filter)
        self._answer()

    def publish(self, message: Message) -> None:
        properties = _properties(message.extras, self.version, PacketTypes.PUBLISH)
        self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        self._answer()

    def receive(self) -> Message:
        return self._messages.get(timeout=PATIENCE)

    def leave(self) -> None:
        if not self._left:
            self._client.disconnect()
            self._gone()

    def vanish(self) -> None:
        _cut(self._client.socket())
        self._gone()

    def _gone(self) -> None:
        self._left = True
        self._client.loop_stop()

    def end(self) -> int | None:
        code = self._end.get(timeout=PATIENCE)
        self._gone()
        return code


@contextmanager
def open_with_paho(account: Account, hello: Hello) -> Iterator[PahoClient]:
    client = PahoClient(account, hello)
    try:
        client.connect(account, hello)
        yield client
    finally:
        client.leave()


# --- aiomqtt ----------------------------------------------------------------------------------------------------------


class _Aiomqtt(aiomqtt.Client):
    """It keeps to itself whether the server had a session."""

    session_present = False

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason_code: ReasonCode, properties: Any = None
    ) -> None:
        self.session_present = flags.session_present
        super()._on_connect(client, userdata, flags, reason_code, properties)


class AiomqttClient:
    def __init__(self, loop: EventLoop, client: _Aiomqtt, version: int) -> None:
        self._loop, self._client, self.version = loop, client, version
        self.session_present = client.session_present
        self._left = False

    def subscribe(self, *wishes: Wish) -> Sequence[int]:
        asked, properties = _subscription(wishes, self.version)
        codes = self._loop.run(self._client.subscribe(asked, properties=properties))
        return [code if isinstance(code, int) else code.value for code in codes]

    def unsubscribe(self, topic_filter: str) -> None:
        self._loop.run(self._client.unsubscribe(topic_filter))

    def publish(self, message: Message) -> None:
        properties = _properties(message.extras, self.version, PacketTypes.PUBLISH)
        self._loop.run(
            self._client.publish(message.topic, message.payload, message.qos, message.retain, properties=properties)
        )

    def receive(self) -> Message:
        async def next_one() -> aiomqtt.Message:
            return await anext(self._client.messages)

        return _message(self._loop.run(next_one()))

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._loop.run(self._client.__aexit__(None, None, None))

    def vanish(self) -> None:
        _cut(self._client._client.socket())
        self.end()

    def end(self) -> int | None:
        async def ended() -> int | None:
            try:
                await self._client._disconnected
            except aiomqtt.MqttCodeError as error:
                return _disconnect_code(error.rc)
            return None

        code = self._loop.run(ended())
        self._left = True
        return code


@contextmanager
def open_with_aiomqtt(account: Account, hello: Hello) -> Iterator[AiomqttClient]:
    with EventLoop.running() as loop:

        async def opened() -> _Aiomqtt:
            return await _aiomqtt_client(account, hello).__aenter__()

        try:
            client = AiomqttClient(loop, loop.run(opened()), hello.version)
        except MqttConnectError as refused:
            raise Refused(refused.rc.value if isinstance(refused.rc, ReasonCode) else refused.rc or 0) from None
        try:
            yield client
        finally:
            client.leave()


def _aiomqtt_client(account: Account, hello: Hello) -> _Aiomqtt:
    is_5 = hello.version == V5
    return _Aiomqtt(
        account.host,
        account.port,
        username=account.user_name,
        password=account.password,
        identifier=hello.client_id,
        protocol=aiomqtt.ProtocolVersion(hello.version),
        will=_aiomqtt_will(hello),
        clean_session=None if is_5 else hello.clean,
        clean_start=hello.clean if is_5 else MQTT_CLEAN_START_FIRST_ONLY,
        transport="websockets" if account.path else "tcp",
        websocket_path=account.path or None,
        timeout=PATIENCE,
        keepalive=hello.keep_alive,
        properties=_connect_properties(hello),
        tls_context=account.context,
    )


def _aiomqtt_will(hello: Hello) -> aiomqtt.Will | None:
    if (will := hello.will) is None:
        return None
    properties = _properties(will.extras, hello.version, PacketTypes.WILLMESSAGE)
    return aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, properties)
