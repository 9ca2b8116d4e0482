"""Who an MQTT client is, from its certificate and its CONNECT, and what it may say and hear.

Owns the comparison of the certificate with the user name and the password. Refuses, as Rejected, whoever is not proven,
whoever no rule lets in, a client id that is another's to use, and a Will on a topic that the client may not publish to.
"""

from __future__ import annotations

import hmac
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote

from gateway.errors import Denied
from gateway.hub.ports import Permission
from gateway.identity import Identity, from_certificate
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.vocabulary import TLSFacts
from gateway.things import Thing, Things, Unavailable, channel_of, matches
from gateway.topic_rules import Speaker, TopicRules
from gateway.wire.mqtt_packets import Connect, Reason, Version
from gateway.wire.mqtt_topics import shared

# Far beyond what client libraries make up, and what is in every audit record has to end somewhere.
MAX_CLIENT_ID: Final = 256

_MISMATCH: Final = "the password is not the key"


class Rejected(Denied):
    """The client hears `code`; the text is the true reason, for the audit."""

    def __init__(self, code: Reason, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Entry:
    """A client that is let in.

    connect: with the client id by which it is known behind us, never empty. assigned: that client id, where the client
    has left it to us. owner: whose its session is. key: the thing's secret, as it was shown. expires: seconds since
    the epoch. again: lets the same client in anew, under the rules of then.
    """

    connect: Connect
    owner: str
    expires: float
    permission: Permission
    rule: str
    assigned: str | None = None
    thing: Thing | None = None
    key: bytes | None = field(default=None, repr=False)
    again: Callable[[], Entry] | None = field(default=None, repr=False, compare=False)

    def renewed(self) -> Entry:
        """The same client, as it would be let in now. Raises Rejected, also where it would be somebody else."""
        if self.again is None:
            return self
        entry = self.again()
        if entry.owner != self.owner or type(entry.permission) is not type(self.permission):
            raise Rejected(Reason.NOT_AUTHORIZED, "another name, or other rights, come with the certificate now")
        return replace(entry, assigned=self.assigned)


@dataclass(frozen=True, slots=True)
class ChannelPermission:
    """What a thing may do in the channels that it is connected to."""

    things: Things
    thing: str

    def publish(self, topic: str) -> bool:
        channel = channel_of(topic)
        return channel is not None and _asked(lambda: self.things.rights(self.thing, channel).publish)

    def subscribe(self, topic_filter: str) -> bool:
        channel = channel_of(topic_filter)
        return channel is not None and _asked(lambda: self.things.rights(self.thing, channel).subscribe)


def _asked(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except Unavailable:
        return False


def why_not(permission: Permission, action: str, topic: str) -> str:
    """For the audit: why that was denied. action: `publish` or `subscribe`."""
    if not isinstance(permission, ChannelPermission):
        return "no rule about topics allows it"
    share = shared(topic)
    channel = channel_of(share[1] if share else topic)
    try:
        if channel is None:
            return "it is no channel's: channels/<id>/messages, with an id in small letters, and what is below it"
        if not permission.things.has_channel(channel):
            return "there is no such channel"
    except Unavailable:
        return "the registry cannot be asked"
    return f"the thing is not connected to that channel, or may not {action} there"


@dataclass(frozen=True, slots=True)
class RulePermission:
    """What the listener's rules about topics let somebody do."""

    rules: Callable[[], TopicRules]
    speaker: Speaker

    def publish(self, topic: str) -> bool:
        return self.rules().may_publish(self.speaker, topic)

    def subscribe(self, topic_filter: str) -> bool:
        return self.rules().may_subscribe(self.speaker, topic_filter)


@dataclass(frozen=True, slots=True)
class _Who:
    """identity: None: nobody in particular, whom only rules with `all` or `anonymous` let in. user_name: a proven
    one."""

    identity: Identity | None
    thing: Thing | None = None
    key: bytes | None = field(default=None, repr=False)
    user_name: str | None = None


class Caller:
    """current: the listener's access now. address: the client's, empty on a Unix socket. clock: seconds since the
    epoch.

    subject, serial: what was proven so far, for the audit.
    """

    def __init__(
        self, current: Callable[[], MQTTAccess], tls: TLSFacts, address: str, clock: Callable[[], float]
    ) -> None:
        self._current, self._tls, self._address, self._clock = current, tls, address, clock
        self.subject: str | None = None
        self.serial: str | None = None

    def admit(self, connect: Connect) -> Entry:
        """Raises Rejected."""
        access = self._current()
        try:
            who = self._identify(access, connect)
        except Unavailable:
            raise Rejected(Reason.SERVER_UNAVAILABLE, "the registry cannot be asked") from None
        if who.thing is not None and not who.thing.enabled:
            raise Rejected(Reason.NOT_AUTHORIZED, "the thing is disabled")
        verdict = access.admission.decide(who.identity, self._address)
        if not verdict.allowed:
            raise Rejected(Reason.NOT_AUTHORIZED, verdict.rule)
        subject = who.identity.subject if who.identity is not None else ""
        client_id, assigned = _client_id(access, connect, subject)
        permission = self._permission(access, who, subject, client_id)
        if connect.will is not None and not permission.publish(connect.will.topic):
            raise Rejected(Reason.NOT_AUTHORIZED, "it may not publish to the topic of its Will")
        known = replace(connect, client_id=client_id)
        return Entry(
            known,
            owner=_owner(access, who, subject),
            expires=who.identity.expires if who.identity is not None else math.inf,
            permission=permission,
            rule=verdict.rule,
            assigned=client_id if assigned else None,
            thing=who.thing,
            key=who.key,
            again=lambda: self.admit(known),
        )

    def _permission(self, access: MQTTAccess, who: _Who, subject: str, client_id: str) -> Permission:
        if access.topics.rules or access.things is None or who.thing is None:
            return RulePermission(lambda: self._current().topics, Speaker(subject, who.user_name, client_id))
        return ChannelPermission(access.things, who.thing.id)

    # --- who it is --------------------------------------------------------------------------------------------------

    def _identify(self, access: MQTTAccess, connect: Connect) -> _Who:
        identity = self._certified(access)
        if identity is None:
            return self._uncertified(access, connect)
        return self._with_key(access, connect, identity) if identity.key else self._with_id(access, connect, identity)

    def _certified(self, access: MQTTAccess) -> Identity | None:
        certificate, expires = self._tls.peer_certificate, self._tls.peer_expires
        if access.client == "none":
            return None
        if certificate is None or expires is None:
            if access.client == "required":
                raise Rejected(Reason.NOT_AUTHORIZED, "no client certificate")
            return None
        try:
            identity = from_certificate(
                certificate, expires, self._tls.peer_issuers, cn=access.cn, source=access.identity
            )
        except Denied as denied:
            raise Rejected(Reason.NOT_AUTHORIZED, str(denied)) from None
        self._name(identity)
        if expires <= self._clock():
            raise Rejected(Reason.NOT_AUTHORIZED, "the client certificate has expired")
        return identity

    def _name(self, identity: Identity) -> None:
        self.subject, self.serial = identity.subject, identity.serial

    def _as_thing(self, identity: Identity, thing: Thing) -> Identity:
        identity = replace(identity, subject=thing.id)
        self._name(identity)
        return identity

    def _uncertified(self, access: MQTTAccess, connect: Connect) -> _Who:
        """An id and a key, as with plain MQTTS; without a registry, nobody in particular."""
        things = access.things
        if things is None:
            return _Who(None)
        thing = things.named(connect.user_name or "")
        # Compared in any case, so that the time does not tell which ids there are.
        equal = matches(thing or _NOBODY, connect.password or b"")
        if thing is None or not equal:
            raise Rejected(Reason.BAD_USER_NAME_OR_PASSWORD, "unknown thing" if thing is None else _MISMATCH)
        identity = self._as_thing(Identity("key", thing.id, math.inf), thing)
        return _Who(identity, thing, connect.password, thing.id)

    def _with_key(self, access: MQTTAccess, connect: Connect, identity: Identity) -> _Who:
        """The certificate holds the key; the password has to be the same, the user name the thing's id."""
        key = identity.key
        assert key is not None  # the caller has asked
        if connect.password is None:
            if not access.fill_password:
                raise Rejected(Reason.BAD_USER_NAME_OR_PASSWORD, "no password")
        elif not hmac.compare_digest(connect.password, key):
            raise Rejected(Reason.BAD_USER_NAME_OR_PASSWORD, "the password is not the certificate's key")
        if access.things is None:
            return _Who(identity, None, key)
        thing = access.things.with_key(key)
        if thing is None:
            raise Rejected(Reason.NOT_AUTHORIZED, "no thing has that key")
        identity = self._as_thing(identity, thing)
        _check_user_name(connect, thing.id)
        return _Who(identity, thing, key, thing.id)

    def _with_id(self, access: MQTTAccess, connect: Connect, identity: Identity) -> _Who:
        """The certificate names the thing; the password has to be its key."""
        if access.things is None:
            proven = connect.user_name if connect.user_name == identity.subject else None
            return _Who(identity, None, None, proven)
        thing = access.things.named(identity.subject)
        if thing is None:
            raise Rejected(Reason.NOT_AUTHORIZED, "the certificate names no thing")
        _check_user_name(connect, thing.id)
        if not access.check_password:
            return _Who(identity, thing, None, thing.id)
        if not matches(thing, connect.password or b""):
            raise Rejected(Reason.BAD_USER_NAME_OR_PASSWORD, _MISMATCH)
        return _Who(identity, thing, connect.password, thing.id)


# No key has this hash.
_NOBODY: Final = Thing("", "", b"")


def _check_user_name(connect: Connect, thing: str) -> None:
    if connect.user_name is not None and connect.user_name != thing:
        raise Rejected(Reason.BAD_USER_NAME_OR_PASSWORD, "the user name is not the thing's id")


def _owner(access: MQTTAccess, who: _Who, subject: str) -> str:
    """The same thing at whichever listener; but a name in a certificate means what that listener's authorities say."""
    return who.thing.id if who.thing is not None else f"{access.name}/{subject}"


def _client_id(access: MQTTAccess, connect: Connect, subject: str) -> tuple[str, bool]:
    """The client id to go on with, and whether it is ours. Raises Rejected."""
    client_id = connect.client_id
    if len(client_id) > MAX_CLIENT_ID:
        raise Rejected(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client id is too long")
    if not access.prefix_client_ids:
        if client_id not in (subject, "") or not subject:
            raise Rejected(Reason.CLIENT_IDENTIFIER_NOT_VALID, "the client id is not the identity's name")
        return subject, not client_id
    if client_id:
        return client_id, False
    if not connect.clean_start and connect.version is not Version.V5:
        # 3.1.1: MQTT-3.1.3-8.
        raise Rejected(Reason.CLIENT_IDENTIFIER_NOT_VALID, "no client id for a session that is to be kept")
    return uuid.uuid4().hex, True


def broker_client_id(entry: Entry, *, prefixed: bool) -> str:
    """The client id behind us: no other identity's can be the same, whatever names and client ids hold."""
    return f"{quote(entry.owner, safe='')}:{entry.connect.client_id}" if prefixed else entry.connect.client_id
