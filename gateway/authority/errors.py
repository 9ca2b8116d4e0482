"""What an authority refuses, as typed data."""

from __future__ import annotations


class AuthorityError(Exception):
    """What was asked of the authority could not be done; the text is for the person, and quotes no secret."""
