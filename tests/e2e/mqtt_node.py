"""MQTT.js in one process of Node for all of its clients: as `mqtt_vocabulary` has them."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from typing import Any, Self

from tests.e2e.mqtt_vocabulary import V5, V31, Account, Extras, Hello, Message, Refused, Wish
from tests.e2e.wss_clients import NODE_SCRIPTS
from tests.gateways import PATIENCE

Event = dict[str, Any]

# MQTT.js's names of what 5.0 can say, and ours.
_PROPERTIES = {
    "contentType": "content_type",
    "responseTopic": "response_topic",
    "messageExpiryInterval": "expiry",
    "topicAlias": "alias",
}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _extras(properties: dict[str, Any]) -> Extras:
    said = {ours: properties[theirs] for theirs, ours in _PROPERTIES.items() if theirs in properties}
    correlation, identifiers = properties.get("correlationData"), properties.get("subscriptionIdentifier", ())
    return Extras(
        user_properties=tuple((name, value) for name, value in properties.get("userProperties", ())),
        correlation=base64.b64decode(correlation) if correlation is not None else None,
        subscription_ids=(identifiers,) if isinstance(identifiers, int) else tuple(identifiers),
        **said,
    )


def _properties(extras: Extras, version: int) -> dict[str, Any]:
    if version != V5:
        return {}
    said = {theirs: getattr(extras, ours) for theirs, ours in _PROPERTIES.items() if getattr(extras, ours) is not None}
    names = dict.fromkeys(name for name, _ in extras.user_properties)
    if names:
        said["userProperties"] = {
            one: [value for name, value in extras.user_properties if name == one] for one in names
        }
    if extras.correlation is not None:
        said["correlationData"] = _text(extras.correlation)
    return said


class Node:
    """The process. What it tells is sorted by client, in a thread."""

    def __init__(self) -> None:
        command = ["node", str(NODE_SCRIPTS / "mqtt_client.js")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self.told: dict[int, Queue[Event]] = {}
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        node = cls()
        with node.process:
            node._thread.start()
            try:
                yield node
            finally:
                node.process.kill()
                node._thread.join(PATIENCE)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.told[event["id"]].put(event)

    def new_client(self) -> int:
        number = next(self._numbers)
        self.told[number] = Queue()
        return number

    def do(self, client: int, command: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": client, "do": command, **more}) + "\n")
        self.process.stdin.flush()

    @contextmanager
    def open(self, account: Account, hello: Hello) -> Iterator[NodeClient]:
        """An `Opener`."""
        client = NodeClient(self, hello.version)
        client.connect(account, hello)
        try:
            yield client
        finally:
            client.leave()


class NodeClient:
    def __init__(self, node: Node, version: int) -> None:
        self.node, self.version = node, version
        self.number = node.new_client()
        self.session_present = False
        self._left = False
        self._messages: list[Message] = []

    def connect(self, account: Account, hello: Hello) -> None:
        scheme = "wss" if account.path else "mqtts"
        url = f"{scheme}://{account.host}:{account.port}{account.path}"
        self.node.do(self.number, "open", url=url, options=self._options(account, hello))
        event = self._next("connected", "error", "close")
        if event["event"] == "error":
            raise Refused(event.get("code") or 0)
        if event["event"] == "close":
            raise ConnectionError
        self.session_present = event["sessionPresent"]

    def _options(self, account: Account, hello: Hello) -> dict[str, Any]:
        options: dict[str, Any] = {
            "ca": str(account.trust),
            "clientId": hello.client_id,
            "clean": hello.clean,
            "keepalive": hello.keep_alive,
            "protocolVersion": hello.version,
        }
        if hello.version == V31:
            options["protocolId"] = "MQIsdp"
        if account.certificate:
            options["cert"], options["key"] = map(str, account.certificate)
        if account.user_name is not None:
            options |= {"username": account.user_name, "password": account.password}
        if hello.version == V5:
            said = {"sessionExpiryInterval": hello.expiry, "topicAliasMaximum": hello.aliases or None}
            options["properties"] = {name: value for name, value in said.items() if value is not None}
        if will := hello.will:
            options["will"] = {"topic": will.topic, "payload": _text(will.payload), "qos": will.qos}
            options["will"] |= {"retain": will.retain}
            if hello.version == V5:
                options["will"]["properties"] = _properties(will.extras, V5)
        return options

    def _next(self, *wanted: str) -> Event:
        """The next event of that kind; messages are kept, and what is of no other interest is skipped."""
        while True:
            event = self.node.told[self.number].get(timeout=PATIENCE)
            if event["event"] == "message":
                self._messages.append(self._message(event))
            if event["event"] in wanted:
                return event

    def _message(self, event: Event) -> Message:
        payload = base64.b64decode(event["payload"])
        return Message(event["topic"], payload, event["qos"], event["retain"], _extras(event["properties"]))

    def _answer(self) -> Event:
        event = self._next("answer", "close")
        if event["event"] == "close":
            raise ConnectionError
        if event.get("error"):
            raise Refused(event.get("code") or 0)
        return event

    # --- what tests call ----------------------------------------------------------------------------------------------

    def subscribe(self, *wishes: Wish) -> Sequence[int]:
        filters = {
            wish.filter: {
                "qos": wish.qos,
                "nl": wish.no_local,
                "rap": wish.retain_as_published,
                "rh": wish.retain_handling,
            }
            for wish in wishes
        }
        identifier = wishes[0].identifier
        properties = {"subscriptionIdentifier": identifier} if identifier and self.version == V5 else {}
        self.node.do(self.number, "subscribe", filters=filters, properties=properties)
        codes: list[int] = self._answer()["codes"]
        return codes

    def unsubscribe(self, topic_filter: str) -> None:
        self.node.do(self.number, "unsubscribe", filter=topic_filter)
        self._answer()

    def publish(self, message: Message) -> None:
        properties = _properties(message.extras, self.version)
        options = {"qos": message.qos, "retain": message.retain, "properties": properties}
        self.node.do(self.number, "publish", topic=message.topic, payload=_text(message.payload), options=options)
        self._answer()

    def receive(self) -> Message:
        if not self._messages:
            assert self._next("message", "close")["event"] == "message"
        return self._messages.pop(0)

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self.node.do(self.number, "leave")
            self._next("left")

    def vanish(self) -> None:
        self.node.do(self.number, "vanish")
        self.end()

    def end(self) -> int | None:
        code: int | None = None
        while (event := self._next("disconnect", "close"))["event"] != "close":
            code = event["code"]
        self._left = True
        return code
