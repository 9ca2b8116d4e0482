"""Access: who may come in at one listener, and to where. Everything about sessions that a reload replaces."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy import Policy
from gateway.routes import Routes
from gateway.tokens import TokenVerifier
from gateway.upstream import Upstream


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
    """

    routes: Routes
    handshake_timeout: float = 30.0
    head_timeout: float = 30.0
    body_timeout: float = 30.0
    keepalive_timeout: float = 75.0
    grace: float = 30.0
