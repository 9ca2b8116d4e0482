"""What is told of one connection: to the audit, and to an operator while it lives.

Owns what is the same in all of that: its number, its listener, whose address it has, since when it is open. A quiet
door's connections leave no record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway import audit
from gateway.net.door import Door, House
from gateway.net.live import Live, Stage
from gateway.session.vocabulary import Denial, Facts, RequestRecord
from gateway.upstream import Address


class Records:
    """client: the address, as far as it is known. lasting: what has become of the connection does not end with a
    request, so that its own end is to be told, too.
    """

    __slots__ = ("_house", "_listener", "_number", "_opened_at", "_quiet", "_where", "client", "lasting")

    def __init__(self, house: House, door: Door, number: int, client: Address, opened_at: float) -> None:
        self._house, self._number, self._listener, self._quiet = house, number, door.name, door.quiet
        self.client, self._opened_at = client, opened_at
        self.lasting = False
        # The part of each request's record that is always the same; it is known once there was one.
        self._where = ""

    @property
    def of_requests(self) -> bool:
        """Whether there were any, which tell of themselves."""
        return bool(self._where)

    def request(self, command: RequestRecord) -> None:
        # What has become a WebSocket does not end with a request.
        self.lasting = command.status == 101
        if not self._where:
            self._where = audit.whence(self._number, self._listener, str(self.client))
        self._house.write_audit(audit.request_record(self._house.now(), self._where, command))

    def opened(self, facts: Facts) -> None:
        self._write("open", facts)

    def denied(self, command: Denial, facts: Facts) -> None:
        about = {"action": command.action, "topic": command.topic, "reason": command.reason}
        self._write("denied", replace(facts, decision="refused", rule=None), **about)

    def closed(self, facts: Facts, reason: str) -> None:
        self._write("close", facts, reason=reason, seconds=round(self._house.now() - self._opened_at, 3))

    def _write(self, event: str, facts: Facts, **about: Any) -> None:
        if self._quiet:
            return
        who: dict[str, Any] = {"connection": self._number, "listener": self._listener, "client": str(self.client)}
        self._house.write_audit(audit.record(event, self._house.now(), facts, **who, **about))

    def live(self, facts: Facts, from_client: int, to_client: int, stage: Stage) -> Live:
        about = self._number, self._listener, self.client, self._opened_at
        return Live(*about, replace(facts), from_client, to_client, stage)
