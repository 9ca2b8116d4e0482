"""Whether a proven client of PostgreSQL may open what it asks for, and as which role.

Owns what is asked of a token's restrictions and of the rules, and nothing that changes: what is in force is passed in.
Refuses what either of them refuses, and a start-up that would hide a superuser.
"""

from __future__ import annotations

from gateway.errors import Denied
from gateway.identity import Identity
from gateway.policy import Allow, Request
from gateway.restrictions import restrictions
from gateway.session.access import Access
from gateway.session.postgres_startup import Startup
from gateway.wire import postgres as wire


class NotAllowed(Exception):
    """The client is known, and the answer is no; the text is the true reason, for the audit record only."""


def verdict(access: Access, current: Access, identity: Identity, asked: Startup, address: str) -> Allow:
    """Raises NotAllowed, and Denied where the token names no role.

    access: of the time when the session was opened; current: the latest, whose rules decide. address: the client's.
    """
    request = Request(
        listener=access.listener,
        # Replication belongs to no database: even where one is named, a base backup reads all of them.
        database="" if asked.replication else asked.database,
        user=identity.subject,
        role=_role(access.role_claim, identity),
        address=address,
        replication=asked.replication,
    )
    if narrower := restrictions(identity.claims).refusal(asked.database, address, asked.replication):
        raise NotAllowed(narrower)
    decision = current.policy.decide(identity, request)
    if not isinstance(decision, Allow):
        raise NotAllowed(decision.reason)
    if wire.sets_session_authorization(asked.parameters) and not decision.superuser:
        # Only a superuser can, and would not look like one until RESET SESSION AUTHORIZATION.
        raise NotAllowed("session_authorization set at start-up needs superuser=yes")
    return decision


def _role(claim: str | None, identity: Identity) -> str:
    """Raises Denied. claim: which one names the upstream role; None: the subject itself is its name."""
    if claim is None:
        return identity.subject
    role = identity.claims.get(claim)
    if not isinstance(role, str) or "\0" in role or not 1 <= len(role.encode()) <= wire.MAX_NAME:
        raise Denied(f"the token has no claim {claim!r} that names a role")
    return role
