"""Requests that the gateway serves itself, behind a route that leads to no upstream: channels, and MQTT.

Owns the choice of what answers them. Every errand is kept for as long as its head comes again under the same rules, but
who has sent it, and what that one may, is asked with each request.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from gateway.identity import Identity
from gateway.routes import Route
from gateway.session.access import HTTPAccess
from gateway.session.channel_broker import Approach, BrokerDelivery
from gateway.session.channel_broker import Caller as BrokerCaller
from gateway.session.channel_opening import Opening
from gateway.session.channel_post import Delivery, HubDelivery, Post
from gateway.session.channel_request import ChannelRequest
from gateway.session.channel_station import KEEP_ALIVE
from gateway.session.http_answers import FORBIDDEN, Refusal, unavailable
from gateway.session.http_caller import Caller
from gateway.session.http_exchange import Terms
from gateway.session.mqtt import MQTTSession
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.vocabulary import Asked, Passage, Questions, Session
from gateway.session.websocket_mqtt import Inside, MQTTOpening, of_another_origin
from gateway.things import Thing, Things, Unavailable
from gateway.wire.http1 import RequestHead

LocalExchange = Post | Opening | MQTTOpening


class Gate:
    """The rules of a route where they are about things. What they say is kept for the thing that came last."""

    def __init__(self, route: Route, caller: Caller, identity: Identity | None, head: RequestHead) -> None:
        self.caller, self.identity, self.head = caller, identity, head
        self._route = route
        self._known: tuple[str | None, str] | None = None

    def rule(self, thing: Thing | None) -> str:
        """Raises Refusal."""
        name = None if thing is None else thing.id
        if self._known is None or self._known[0] != name:
            self._known = name, self.caller.decide(self._route, self._as(thing), self.head.method)
        return self._known[1]

    def _as(self, thing: Thing | None) -> Identity | None:
        if thing is None:
            return self.identity
        if self.identity is None:
            return Identity("key", thing.id, math.inf)
        return replace(self.identity, subject=thing.id)


class Errand(Protocol):
    head: RequestHead
    asked: Asked

    def subject(self) -> str | None:
        """The id of the thing that sends it, proven just now; None: that will be seen later. Raises Refusal."""

    def rule(self) -> str:
        """Of the route's, the one that lets that thing in. Raises Refusal."""

    def exchange(self, passage: Passage, terms: Terms, counted: str | None, *, last: bool) -> LocalExchange:
        """counted: the subject that this connection is counted for. last: the answer ends it. Raises Refusal."""


class ChannelErrand:
    """To a channel, by POST or to open a WebSocket."""

    _thing: Thing

    def __init__(self, request: ChannelRequest, access: HTTPAccess, gate: Gate, questions: Questions) -> None:
        self._request, self._access, self._gate, self._questions = request, access, gate, questions
        self.head, self.asked = request.head, request.asked

    def subject(self) -> str:
        self._thing = self._request.thing()
        return self._thing.id

    def rule(self) -> str:
        return self._gate.rule(self._thing)

    def exchange(self, passage: Passage, terms: Terms, counted: str | None, *, last: bool) -> Post | Opening:  # noqa: ARG002 - the protocol's
        request, questions = self._request, self._questions
        if request.opens:
            approach = None if request.access.hub is not None else self._approach(terms, KEEP_ALIVE)
            return Opening(request, self._thing, passage, terms, questions, approach)
        request.rights(self._thing)
        return Post(request, passage, terms, self._delivery(terms), last=last)

    def _delivery(self, terms: Terms) -> Delivery:
        hub, seconds = self._request.access.hub, self._request.route.response_timeout
        if hub is not None:
            return HubDelivery(hub, self._questions, seconds)
        # Idle connections to brokers say nothing, and so are asked for none.
        return BrokerDelivery(self._approach(terms, 0), terms.idle, seconds, self._permit)

    def _permit(self) -> None:
        """Raises Refusal."""
        self._request.rights(self._request.thing())

    def _approach(self, terms: Terms, keep_alive: int) -> Approach:
        access = self._request.access
        caller = BrokerCaller(access, self._thing, self._request.key)
        return Approach(access, caller, terms.backends, self._access.versions, keep_alive)


class MQTTErrand:
    """To MQTT over a WebSocket. The session inside asks who it is, as it would on a port of its own."""

    def __init__(
        self,
        asked: Asked,
        things: Things | None,
        gate: Gate,
        make: Callable[[Questions], Session],
        questions: Questions,
    ) -> None:
        self.head, self.asked = gate.head, asked
        self._things, self._gate, self._make, self._questions = things, gate, make, questions
        self._thing: Thing | None = None

    def subject(self) -> str | None:
        """As far as its certificate says."""
        things, identity = self._things, self._gate.identity
        if things is None or identity is None:
            return None
        try:
            key = identity.key
            self._thing = things.with_key(key) if key is not None else things.named(identity.subject)
        except Unavailable:
            raise unavailable("the registry cannot be asked") from None
        return self._thing.id if self._thing is not None else None

    def rule(self) -> str:
        return self._gate.rule(self._thing)

    def exchange(self, passage: Passage, terms: Terms, counted: str | None, *, last: bool) -> MQTTOpening:  # noqa: ARG002 - the protocol's
        questions, caller = Inside(self._questions, counted), self._gate.caller
        return MQTTOpening(self.head, self.asked, passage, lambda: self._make(questions), caller.address, caller.tls)


def errand(
    route: Route,
    caller: Caller,
    identity: Identity | None,
    head: RequestHead,
    asked: Asked,
    current: Callable[[], HTTPAccess],
    questions: Questions,
    clock: Callable[[], float],
) -> Errand:
    """current: the listener's access now. clock: seconds since the epoch. Raises Refusal."""
    access = current()
    mqtt = access.mqtt.get(route.mqtt)
    if mqtt is None:
        raise unavailable(f"[mqtt:{route.mqtt}] is not there")
    # A browser shows the certificate of whoever looks at a page of somebody else's.
    foreign = of_another_origin(head) and caller.tls.peer_certificate is not None
    if foreign and (identity is None or identity.key is None):
        raise Refusal(403, FORBIDDEN, "a page of another origin, and no key to prove that it is meant")
    gate = Gate(route, caller, identity, head)
    if route.serve == "channels":
        key = caller.key(route, identity, head, said=foreign or (head.upgrade == b"websocket" and route.ws_key))
        return ChannelErrand(ChannelRequest(route, mqtt, head, asked, identity, key), access, gate, questions)
    caller.key(route, identity, head, said=foreign)

    def latest() -> MQTTAccess:
        return current().mqtt.get(route.mqtt, mqtt)

    return MQTTErrand(asked, mqtt.things, gate, lambda whom: MQTTSession(latest, whom, clock), questions)
