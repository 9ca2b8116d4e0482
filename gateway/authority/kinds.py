"""What kinds of certificates there are, how long each usually lasts, and for which reasons one is taken back."""

from __future__ import annotations

from typing import Final

KINDS: Final = ("server", "thing", "client")

DAYS: Final = {"server": 1000, "thing": 730, "client": 730}

# RFC 5280, 5.3.1, without those that are for authorities, and certificateHold, which could be taken back.
REASONS: Final = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
