"""A connection that never was: one of the gateway's own sessions, told what a client would do, and what it answers.

Owns the part of the driver in that: one event at a time, and what the session asks is answered with yes, for it is not
about how many there are. Refuses nothing, decides nothing, and opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.doors import Doors, State
from gateway.errors import Problems
from gateway.hub.hub import Hub
from gateway.hub.store import MemoryStore
from gateway.inspection.known_things import never
from gateway.net.door import Door
from gateway.session.cancel import CancelKeys
from gateway.session.health import Health
from gateway.session.vocabulary import Close, Command, Dial, Ended, Event, Facts, Mail, Reuse
from gateway.settings import Config
from gateway.things import Things
from gateway.tokens import VerificationKey

C = TypeVar("C", bound=Command)

Keys = Callable[[str], Sequence[VerificationKey]]


def stage(config: Config, things: Things | None, keys: Keys | None, problems: Problems | None = None) -> State:
    """What would be in force, with a hub that is empty and forgets everything. Raises ConfigError.

    keys: those that are known of a `[jwt:NAME]` with a URL, by its NAME. problems: those that were found before.
    """
    hub = Hub(config.hub.settings, MemoryStore(), time.time, never) if config.hub else None
    doors = Doors(lambda: state, _health, CancelKeys(config.limits.cancel_rate), hub=hub, things=things, keys=keys)
    state = doors.build(config, problems or Problems())
    return state


def _health() -> Health:
    return Health(ready=True, last_reload_failed=False, connections=0)


class Rehearsal:
    """A `Questions`. commands: all that the session has said so far."""

    def __init__(self, door: Door) -> None:
        self.commands: list[Command] = []
        self._events: list[Event] = []
        self._busy = False
        self._session = door.session(self)

    # --- what the session asks --------------------------------------------------------------------------------------

    def admit(self, subject: str) -> bool:  # noqa: ARG002 - whoever it is
        return True

    def renew(self) -> bool:
        return True

    def trusted(self) -> bool:
        return True

    def idle(self, dial: Dial) -> bool:  # noqa: ARG002 - there is none
        return False

    def deliver(self, data: bytes) -> None:
        self.tell(Mail(data))

    def congested(self) -> bool:
        return False

    def tell(self, event: Event) -> None:
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self.commands += self._session.handle(self._events.pop(0))
        finally:
            self._busy = False

    # --- what is asked of it ----------------------------------------------------------------------------------------

    @property
    def facts(self) -> Facts:
        return self._session.facts

    def said(self, kind: type[C]) -> list[C]:
        """All commands of that kind so far."""
        return [one for one in self.commands if isinstance(one, kind)]

    @property
    def refusal(self) -> str | None:
        """Why it has ended, if it has."""
        ends = self.said(Close)
        return ends[0].reason if ends else None

    @property
    def dialed(self) -> Dial | None:
        """Where it has first asked to be connected to."""
        for one in self.commands:
            if isinstance(one, Dial | Reuse):
                return one.dial if isinstance(one, Reuse) else one
        return None

    def end(self) -> None:
        """Nothing more happens, and what it has registered is given back."""
        self.tell(Ended())
