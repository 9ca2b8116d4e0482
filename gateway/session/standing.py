"""Whether the things that a certificate names may still come in, where it is not the registry that lets them in: at a
route that leads to an upstream, and at a tunnel.

There the rules decide, and the registry is only a list of who may not: a thing that is disabled is refused, and whoever
is in hears within a moment that its thing was disabled, deleted or given another key. A name that the registry does not
know is as good as without one, so a thing that is deleted can come back: to keep it out, disable it or revoke its
certificate.

When nobody can say who is disabled (the registry has been away for longer than `stale_after`) this refuses every name
that could be a thing's: otherwise whoever can keep the gateway from its registry takes back what it has revoked.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import Denied
from gateway.identity import Identity
from gateway.session.vocabulary import Questions, Reloaded
from gateway.things import UUID, Change, Thing, Things, Watch

_ID: Final = re.compile(UUID)


class Standing:
    """Of one connection. It is told of a change as of a reload, and then asks `again`."""

    __slots__ = ("_questions", "_things", "_watched")

    def __init__(self, things: Things, questions: Questions) -> None:
        self._things, self._questions = things, questions
        # What it was asked about and the registry has known.
        self._watched: dict[bytes | str, tuple[str, Watch]] = {}

    def check(self, identity: Identity | None) -> None:
        """Raises Denied, `gateway.things.Unavailable`. From now on changes are told."""
        if identity is None:
            return
        name = identity.key if identity.key is not None else identity.subject
        if isinstance(name, bytes) or _ID.fullmatch(name):
            self._check(name)

    def again(self) -> None:
        """Whether all that it was asked about still holds. Raises as `check`."""
        for name in self._watched:
            self._check(name)

    def stop(self) -> None:
        for _, watch in self._watched.values():
            watch.stop()
        self._watched.clear()

    def _check(self, name: bytes | str) -> None:
        things, known = self._things, self._watched.get(name)
        thing: Thing | None = things.with_key(name) if isinstance(name, bytes) else things.named(name)
        if thing is not None and not thing.enabled:
            raise Denied("the thing is disabled")
        if known is not None:
            if thing is None or thing.id != known[0]:
                raise Denied("the thing was deleted or given another key")
        elif thing is not None:
            self._watched[name] = thing.id, things.watch(thing.id, self._changed)

    def _changed(self, change: Change) -> None:
        if change in (Change.REVOKED, Change.UNKNOWN):
            # As an event, which waits its turn if the session is at something.
            self._questions.tell(Reloaded())
