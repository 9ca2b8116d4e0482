"""Shared subscriptions (MQTT-4.8.2): each message goes to one of those who share."""

from __future__ import annotations

from gateway.hub.delivery import Delivery
from gateway.hub.frames import Frames
from gateway.hub.session import Session, Subscribed


class Group:
    """Those who have subscribed to the same `$share/name/filter`, which is `filter`, whole."""

    __slots__ = ("_next", "filter", "members")

    def __init__(self, topic_filter: str) -> None:
        self.filter = topic_filter
        self.members: list[Subscribed] = []
        self._next = 0

    def add(self, member: Subscribed) -> None:
        self.remove(member.session)
        self.members.append(member)

    def remove(self, session: Session) -> None:
        self.members = [member for member in self.members if member.session is not session]

    def pick(self, qos: int, weight: int) -> Subscribed | None:
        """Whose turn it is for such a message: of those who take it at once, else of those who are connected and have
        room, else, with QoS 1 and 2, of the others. None: nobody can have it."""
        best, best_rank = None, 0
        size = len(self.members)
        for step in range(size):
            index = (self._next + step) % size
            rank = _rank(self.members[index], qos, weight)
            if rank > best_rank:
                best, best_rank = index, rank
                if rank == _AT_ONCE:
                    break
        if best is None:
            return None
        self._next = (best + 1) % size
        return self.members[best]

    def share(self, frames: Frames, weight: int) -> bool:
        """Give the message to one of them. False: nobody can have it."""
        message = frames.message
        member = self.pick(message.qos, weight)
        if member is None:
            return False
        out, qos = member.session.out, min(message.qos, member.qos)
        retain = message.retain and member.retain_as_published
        identifiers = (member.identifier,) if member.identifier else ()
        if qos:
            return out.offer(Delivery(message, qos, retain, identifiers, self, weight), frames)
        out.tell(frames, retain, identifiers)
        return True


_NEVER, _OFFLINE, _SLOW, _AT_ONCE = range(4)


def _rank(member: Subscribed, qos: int, weight: int) -> int:
    out = member.session.out
    if not min(qos, member.qos):
        return _AT_ONCE if out.box.ready else _NEVER
    if not out.has_room(weight):
        return _NEVER
    if out.open:
        return _AT_ONCE
    return _SLOW if out.box.client is not None else _OFFLINE
