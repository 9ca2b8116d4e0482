"""What is told of a connection while it lives, to an operator who looks at all of them.

Owns the shape only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.session.vocabulary import Facts
from gateway.upstream import Address

# opening: it has proven nothing yet. over limit: it will only be told that there are too many. ending: it waits for the
# end of a message, or until nothing moves.
Stage = Literal["opening", "over limit", "open", "ending"]


@dataclass(frozen=True, slots=True)
class Live:
    """A connection as it was at one moment.

    id: its number in the audit. listener: the section. client: whose address it has, a PROXY header believed.
    opened_at: seconds since the epoch. facts: a copy; over HTTP those of the latest request. from_client, to_client:
    bytes as the audit counts them at the end; over HTTP only those of a WebSocket.
    """

    id: int
    listener: str
    client: Address
    opened_at: float
    facts: Facts
    from_client: int
    to_client: int
    state: Stage
