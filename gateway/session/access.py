"""Access: who may come in at one listener, and to where. Everything about sessions that a reload replaces."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy import Policy
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
