"""Access: who may come in at one listener, and to where. Everything about sessions that a reload replaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.policy import Policy
from gateway.routes import Routes
from gateway.session.mqtt_access import MQTTAccess
from gateway.things import Things
from gateway.tokens import TokenVerifier
from gateway.upstream import Upstream
from gateway.wire.mqtt_packets import Version


@dataclass(frozen=True, slots=True)
class Access:
    """Read by a session once, when it opens.

    role_claim: the token's claim that names the upstream role; None: the subject itself.
    application_name: a template with {subject}, {address} and {application_name}; None: as the client says.
    """

    listener: str
    verifier: TokenVerifier
    policy: Policy
    upstream: Upstream
    role_claim: str | None = None
    application_name: str | None = None
    terminate_on_expiry: bool = True
    handshake_timeout: float = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class HTTPAccess:
    """The same for an HTTPS listener, read anew for each request. All times are in seconds.

    Told apart by which one it is: a connection that is older than a reload ends with its next answer, so that its
    client comes back under the new trust.

    mqtt: by its name, each `[mqtt:NAME]` that a route leads to. versions: by the name of its upstream, what a broker
    was found to speak, where that is not 5.0. things: whoever is disabled there is let in to no upstream
    (`gateway.session.standing`); None: there is no registry.
    """

    routes: Routes
    handshake_timeout: float = 30.0
    head_timeout: float = 30.0
    body_timeout: float = 30.0
    keepalive_timeout: float = 75.0
    grace: float = 30.0
    mqtt: Mapping[str, MQTTAccess] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    things: Things | None = None
