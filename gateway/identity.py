"""Who is there: an Identity, from token claims or from a client certificate.

Owns the value and nothing else; proving it is the work of `tokens` and of the TLS layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """A proven identity. Its expiry becomes the deadline of the session that it opens.

    kind: `"jwt"` (later also `"certificate"`).
    subject: the exact name that was proven (`sub`).
    expires: seconds since the epoch; the session ends then.
    serial: what names this one credential for audit and revocation (`jti`), or None.
    claims: every verified claim, read only; never logged.
    """

    kind: str
    subject: str
    expires: float
    serial: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
