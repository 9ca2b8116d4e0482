"""A request to a channel, by POST or to open a WebSocket: which topic it means, and whether its thing may.

Owns the grammar of the path behind the route's, and the order of the answers. Nobody learns which channels there are
without the key of a thing: 401 comes first, whatever else is wrong; then 404 for a channel that there is not, and 403
for one that the thing is not connected to.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from gateway.identity import Identity
from gateway.routes import Route
from gateway.session.http_answers import FORBIDDEN, Refusal, unauthorized, unavailable
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.vocabulary import Asked
from gateway.things import UUID, Rights, Thing, Things, Unavailable, matches, topic_of
from gateway.wire.http1 import RequestHead
from gateway.wire.mqtt_packets import NOTHING, Properties
from gateway.wire.mqtt_topics import is_name
from gateway.wire.websocket_frames import is_text

_PLACE: Final = re.compile(rf"/channels/({UUID})/messages(?:/(.*))?")
_NO_LEVEL: Final = re.compile(r"[+#/\0]")
_REGISTRY: Final = "the registry cannot be asked"

# More than any media type with its parameters needs (RFC 6838, 4.2: 127 for each of its two names).
MAX_CONTENT_TYPE: Final = 512
# Types that are text by their own definition; and structured ones by their suffix (RFC 6839).
_TEXTUAL: Final = re.compile(
    r"(?:text/.*|application/(?:json|xml|yaml|x-ndjson|json-seq|javascript|x-www-form-urlencoded)|.*\+(?:json|xml|yaml))",
    re.IGNORECASE,
)
_CHARSET: Final = re.compile(r';[ \t]*charset="?+(?!(?:utf-?8|us-ascii)"?[ \t]*(?:;|\Z))', re.IGNORECASE)
# What a packet has besides its topic, its payload and its content type: flags, lengths, an identifier, the format.
_OVERHEAD: Final = 32


class Place(NamedTuple):
    """Of one request: the channel, its topic, and what is said of a payload that is no text, and of one that is.

    room: bytes that a message may have, so that it fits into a packet of MQTT.
    """

    channel: str
    topic: str
    bare: Properties
    text: Properties
    room: int

    def properties(self, payload: bytes) -> Properties:
        """MQTT-3.3.2.3.2: the payload's format is said only where it is true."""
        return self.text if self.text is not self.bare and is_text(payload) else self.bare


class ChannelRequest:
    """Asked anew with each request that has this very head. key: the secret that came with it."""

    __slots__ = ("_identity", "_place", "access", "asked", "head", "key", "route", "serial")

    def __init__(
        self,
        route: Route,
        access: MQTTAccess,
        head: RequestHead,
        asked: Asked,
        identity: Identity | None,
        key: bytes | None,
    ) -> None:
        self.route, self.access, self.head, self.asked = route, access, head, asked
        self.key, self._identity = key, identity
        self.serial = None if identity is None else identity.serial
        self._place: Place | None = None

    @property
    def things(self) -> Things:
        """Raises Refusal."""
        if self.access.things is None:
            raise unavailable("there is no registry of things")
        return self.access.things

    @property
    def opens(self) -> bool:
        """Whether it asks for a WebSocket."""
        return self.head.method == b"GET" and self.head.upgrade == b"websocket"

    def thing(self) -> Thing:
        """Who sends it. Raises Refusal."""
        try:
            thing = self._find(self.things)
        except Unavailable:
            raise unavailable(_REGISTRY) from None
        if not thing.enabled:
            raise unauthorized("the thing is disabled")
        return thing

    def _find(self, things: Things) -> Thing:
        identity, key = self._identity, self.key
        if identity is not None and identity.key is None:
            # cn = id: the certificate names it, and a key only confirms that.
            thing = things.named(identity.subject)
            if thing is None:
                raise unauthorized("the certificate names no thing")
            if key is not None and not matches(thing, key):
                raise unauthorized("the key is not that of the thing in the certificate")
            return thing
        if key is None:
            raise unauthorized("no key")
        thing = things.with_key(key)
        if thing is None:
            raise unauthorized("no thing has that key")
        return thing

    def rights(self, thing: Thing) -> Rights:
        """What it may do there; at least what it asks for. Raises Refusal."""
        opens, place = self.opens, self.place
        try:
            rights = self.things.rights(thing.id, place.channel)
            if rights.publish or (opens and rights.subscribe):
                return rights
            if not self.things.has_channel(place.channel):
                raise Refusal(404, "there is no such channel")
        except Unavailable:
            raise unavailable(_REGISTRY) from None
        raise Refusal(403, FORBIDDEN, "the thing is not connected to that channel, or may not publish there")

    @property
    def place(self) -> Place:
        """Raises Refusal: of another method, of a path that is no channel's, of a Content-Type that cannot be told."""
        if self._place is None:
            head = self.head
            if head.method != b"POST" and not self.opens:
                raise Refusal(405, "a channel takes POST, and WebSockets", fields=b"Allow: POST\r\n")
            channel, topic = _read_path(head.path.decode("ascii").removeprefix(self.route.path))
            content_type = _content_type(head)
            room = self.access.max_packet - len(topic.encode("utf-8")) - len(content_type) - _OVERHEAD
            self._place = Place(channel, topic, *_known_content(content_type), max(0, room))
        return self._place


def _read_path(path: str) -> tuple[str, str]:
    """`/channels/<id>/messages[/subtopic…]`, as it came: the channel and the topic. Raises Refusal."""
    found = _PLACE.fullmatch(path)
    if found is None:
        raise Refusal(404, "there is nothing here", "the path is no channel's")
    channel, subtopic = found.groups()
    if subtopic is None:
        return channel, topic_of(channel)
    topic = topic_of(channel, "/".join(map(_read_level, subtopic.split("/"))))
    if not is_name(topic):
        raise _bad_subtopic()
    return channel, topic


def _read_level(raw: str) -> str:
    """Decoded once (RFC 3986, 2.4), which must not make two levels of it, nor a wildcard (MQTT-4.7.1)."""
    try:
        level = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise _bad_subtopic() from None
    if not level or _NO_LEVEL.search(level):
        raise _bad_subtopic()
    return level


def _bad_subtopic() -> Refusal:
    return Refusal(400, "the subtopic is none: levels of UTF-8, none of them empty, without + and #")


def _content_type(head: RequestHead) -> bytes:
    """Raises Refusal."""
    found = [value for name, _, value in head.fields if name == b"content-type"]
    if len(found) > 1 or (found and len(found[0]) > MAX_CONTENT_TYPE):
        raise Refusal(400, "not one Content-Type of reasonable length")
    return found[0] if found else b""


def _read_content(content_type: bytes) -> tuple[Properties, Properties]:
    """What MQTT 5.0 says with it (MQTT-3.3.2.3.9): of any payload, and of one that is UTF-8. Raises Refusal."""
    if not content_type:
        return NOTHING, NOTHING
    try:
        text = content_type.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "Content-Type is not UTF-8") from None
    bare = Properties(content_type=text)
    media_type = text.partition(";")[0].strip(" \t")
    if not _TEXTUAL.fullmatch(media_type) or _CHARSET.search(text):
        return bare, bare
    return bare, Properties(content_type=text, payload_format=1)


_known_content = lru_cache(maxsize=128)(_read_content)
