"""Whether an MQTT client would be let in, and might publish to a topic or subscribe to a filter, and what decides that.

Owns what such a client would send, and what a broker that lets everybody in would answer. The decision is the session's
own; which line about topics it comes from is found by asking the same lines, fewer of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.doors import State
from gateway.inspection.explanation import (
    Client,
    Entrance,
    Explanation,
    denying,
    directly,
    known,
    none_of,
    of_registry,
    place,
)
from gateway.inspection.rehearsal import Rehearsal
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.mqtt_caller import Caller, Rejected, RulePermission
from gateway.session.vocabulary import (
    Data,
    Denial,
    Dialed,
    Enter,
    Opened,
    Secured,
    Send,
    Side,
    StartTLS,
    TLSFacts,
)
from gateway.settings import MQTTListener
from gateway.things import channel_of
from gateway.topic_rules import Speaker, TopicRule, TopicRules
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Packet,
    PubAck,
    Publish,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    Version,
)
from gateway.wire.mqtt_topics import is_filter, is_name, shared

# Its answers say what became of a request.
VERSION: Final = Version.V5

_ALPN: Final = b"mqtt"
_ID: Final = 1
_BOTH: Final = frozenset({"publish", "subscribe"})


@dataclass(frozen=True, slots=True)
class Asking:
    """What an MQTT client says. action: `publish`, `subscribe`, or None to connect only. topic: or a filter.

    Raises ValueError for what no client could say.
    """

    client_id: str = "explain"
    user_name: str | None = None
    password: bytes | None = field(default=None, repr=False)
    action: str | None = None
    topic: str = ""

    def __post_init__(self) -> None:
        fits = is_name if self.action == "publish" else is_filter
        share = shared(self.topic)
        if self.action is not None and not fits(share[1] if share else self.topic):
            raise ValueError(f"{self.topic} is no {'topic' if self.action == 'publish' else 'filter'} of MQTT")
        self.written()

    @property
    def connect(self) -> Connect:
        return Connect(VERSION, self.client_id, user_name=self.user_name, password=self.password)

    @property
    def request(self) -> Packet | None:
        """With QoS 1: there is an answer to it."""
        if self.action == "publish":
            return Publish(self.topic, b"", 1, packet_id=_ID)
        return Subscribe(_ID, (Subscription(self.topic),)) if self.action else None

    def written(self) -> list[bytes]:
        """One packet after the other."""
        said = [self.connect, self.request] if self.request else [self.connect]
        return [mqtt.serialize(one, VERSION) for one in said]


@directly
def explain(state: State, listener: MQTTListener, client: Client, asking: Asking) -> Explanation:
    section = f"mqtt:{listener.name}"
    entrance = Entrance(state, section, listener.tls, client)
    rehearsal = entrance.rehearsal
    rehearsal.tell(Opened(client.where))
    refused = entrance.shake_hands(_ALPN)
    if refused is not None:
        return refused
    connect, *request = asking.written()
    rehearsal.tell(Data(Side.CLIENT, connect))
    entered = rehearsal.dialed is not None or bool(rehearsal.said(Enter))
    if entered and request:
        _log_in_at_broker(rehearsal)
        rehearsal.tell(Data(Side.CLIENT, *request))
    reason = _refusal(rehearsal)
    rule, notes = rehearsal.facts.rule or denying(reason, section, listener.admission.rules), entrance.notes
    details = _details(rehearsal, asking)
    if entered and request:
        details |= known(let_in_by=rule)
        rule = _about_topic(state.access[section], entrance.tls, client, asking)
    rehearsal.end()
    allowed = entered and reason is None
    return Explanation(allowed, section, reason, rule, details, notes)


def _log_in_at_broker(rehearsal: Rehearsal) -> None:
    """Where there is one: it is reached, and lets everybody in."""
    if rehearsal.dialed is None:
        return
    rehearsal.tell(Dialed())
    if StartTLS(Side.UPSTREAM, small=True) in rehearsal.commands:
        rehearsal.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3", _ALPN)))
    rehearsal.tell(Data(Side.UPSTREAM, mqtt.serialize(ConnAck(), VERSION)))


def _refusal(rehearsal: Rehearsal) -> str | None:
    denials = rehearsal.said(Denial)
    if denials or rehearsal.refusal:
        return denials[0].reason if denials else rehearsal.refusal
    codes = [code for packet in _answers(rehearsal) for code in _codes(packet) if code >= Reason.UNSPECIFIED_ERROR]
    return f"the hub itself refuses it, with code {codes[0]:#04x}" if codes else None


def _answers(rehearsal: Rehearsal) -> Iterator[Packet]:
    data, at = b"".join(one.data for one in rehearsal.said(Send) if one.side is Side.CLIENT), 0
    while at < len(data) and (found := mqtt.frame(data, at, mqtt.MAX_REMAINING)) is not None:
        yield mqtt.parse(data, at, *found, VERSION)
        at = found[1]


def _codes(packet: Packet) -> tuple[int, ...]:
    if isinstance(packet, SubAck):
        return packet.codes
    return (packet.code,) if isinstance(packet, PubAck) else ()


def _details(rehearsal: Rehearsal, asking: Asking) -> dict[str, str]:
    facts = rehearsal.facts
    asked = asking.action and f"{asking.action} {asking.topic}"
    return known(subject=facts.subject, serial=facts.serial, upstream=facts.upstream, asked=asked)


# --- which line about topics it is ----------------------------------------------------------------------------------


def _about_topic(access: MQTTAccess, tls: TLSFacts, client: Client, asking: Asking) -> str | None:
    """The line, or the connection in the registry, that says what the session has just done; None: there is none."""
    caller = Caller(lambda: access, tls, client.address, time.time)
    try:
        entry = caller.admit(asking.connect)
    except Rejected:
        return None
    if isinstance(entry.permission, RulePermission):
        rule = deciding(access.topics.rules, entry.permission.speaker, asking.action or "", asking.topic)
        return place(rule) if rule else none_of(f"mqtt:{access.name}", "topics", access.topics.rules)
    share = shared(asking.topic)
    channel = channel_of(share[1] if share else asking.topic)
    return of_registry(entry.owner, channel) if channel else None


def deciding(rules: tuple[TopicRule, ...], speaker: Speaker, action: str, topic: str) -> TopicRule | None:
    """The first line after which the answer is what it is; None: it is no, because no line says anything.

    Behind the lines up to it stands one that allows everything, so only a line that denies makes the answer a no.
    """
    share = shared(topic) if action == "subscribe" else None
    asked = share[1] if share else topic
    whole = TopicRule(True, None, _BOTH, asked.replace("%", "%%"), "", "")

    def allowed(some: tuple[TopicRule, ...]) -> bool:
        about = TopicRules(some)
        return about.may_publish(speaker, asked) if action == "publish" else about.may_subscribe(speaker, asked)

    for count, rule in enumerate(rules, 1):
        if allowed(rules[:count]) or not allowed((*rules[:count], whole)):
            return rule
    return None
