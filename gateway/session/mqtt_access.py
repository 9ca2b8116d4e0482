"""Who may come in as an MQTT client, and to where. Everything about MQTT sessions that a reload replaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.admission import Admission
from gateway.hub.hub import Hub
from gateway.session.backends import Backends
from gateway.things import Things
from gateway.topic_rules import TopicRules
from gateway.upstream import Upstream


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """How the gateway itself logs in at the broker. as_thing: with what the thing has shown instead, where it has."""

    as_thing: bool = True
    user_name: str | None = None
    password: bytes | None = field(default=None, repr=False)


AS_THING: Final = BrokerLogin()


@dataclass(frozen=True, slots=True, eq=False)
class MQTTAccess:
    """One `[mqtt:NAME]`. All times are in seconds. eq: told apart by which one it is, as a reload makes a new one.

    things: None where there is no registry; then `topics` says what may be said where, and certificates alone who is
    there. hub: the embedded one; None where there is an `upstream`, named `mqtt:NAME`. backends: which of its addresses
    have failed lately; None: nobody remembers.
    client, cn, identity: as of a route. fill_password: who shows a certificate with a key in it may leave the password
    out. check_password: with cn = id it is compared with the thing's key.
    prefix_client_ids: whoever it is may choose any client id, which is kept apart from those of others; otherwise it
    has to be the identity's name.
    drop_denied: before 5.0, what may not be published is dropped and acknowledged, instead of ending the connection.
    packet_rate: packets a second that are taken from one client, or None for no limit; more of them wait.
    keep_alive: the most that a client may ask for; 0: no limit, and none has to be asked for.
    """

    name: str
    admission: Admission
    topics: TopicRules
    things: Things | None = None
    hub: Hub | None = None
    upstream: Upstream | None = None
    backends: Backends | None = None
    login: BrokerLogin = AS_THING
    client: str = "required"
    cn: str = "key"
    identity: str = "cn"
    fill_password: bool = True
    check_password: bool = True
    prefix_client_ids: bool = True
    drop_denied: bool = False
    max_packet: int = 262_144
    packet_rate: float | None = None
    keep_alive: int = 0
    handshake_timeout: float = 30.0
