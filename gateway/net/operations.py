"""What an operator can do with the running gateway, made of its pieces; the control socket asks for it.

Owns what the audit says of it: a kill, a probe, a reload and a drain each leave a record with the user, besides those
of the sessions. Implements `gateway.net.control.Gateway`. Refuses to take a connection from what is no IP address.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed

from gateway import audit, control
from gateway.net.connections import Connections
from gateway.net.door import Door
from gateway.net.live import Live
from gateway.session.vocabulary import Facts
from gateway.upstream import Address

# Of a name in a list: so much is shown. A client can give itself a name of tens of thousands of characters.
MAX_SHOWN: Final = 512

_SHOWN: Final = {one.name for one in fields(control.Session)} & {one.name for one in fields(Facts)}


@dataclass(slots=True)
class Operations:
    """doors: those in force now, by their section. again: reloads, and says why it failed; None: it did not. unfetched:
    fires with the token keys that are not there yet. end: begins the end of the process, once."""

    connections: Connections
    doors: Callable[[], Mapping[str, Door]]
    again: Callable[[], control.Refused | None]
    unfetched: Callable[[], Deferred[Sequence[str]]]
    end: Callable[[], None]
    _ending: bool = False

    def sessions(self) -> Iterator[control.Session]:
        return map(_session, self.connections.live())

    def kill(self, asked: control.Kill, uid: int) -> int:
        chosen = asked.ids or [one.id for one in self.connections.live() if _is_meant(one.facts, asked)]
        killed = self.connections.kill(frozenset(chosen), f"killed by an operator (user {uid})")
        named = {"subject": asked.identity, "jti": asked.jti, "serial": asked.serial}
        self._record("kill", uid, connections=list(asked.ids) or None, killed=killed, **named)
        return killed

    def counters(self) -> Mapping[str, int]:
        return self.connections.counters()

    def reload(self, uid: int) -> Deferred[control.Done | control.Refused]:
        refused = self.again()
        self._record("reload", uid, reason="failed" if refused else None)
        return succeed(refused) if refused else self.unfetched().addCallback(lambda but: control.Done(tuple(but)))

    def drain(self, uid: int) -> None:
        if not self._ending:
            self._ending = True
            self._record("drain", uid)
            self.end()

    def left(self) -> int:
        return len(self.connections)

    def enter(self, asked: control.Enter, sock: socket.socket, uid: int) -> None:
        try:
            if self.connections.draining:
                # Nobody would tell it to end.
                raise control.NotDone("the gateway is ending")
            door, address = self._door(asked.listener), _address(asked.address)
        except control.NotDone:
            sock.close()
            raise
        self._record("probe", uid, listener=door.name, client=address)
        self.connections.open(door, sock, Address(address, 0), as_client=True)

    def _door(self, listener: str) -> Door:
        """Raises NotDone."""
        doors = self.doors()
        if listener not in doors:
            raise control.NotDone(f"there is no listener of that name; there are {', '.join(sorted(doors))}")
        return doors[listener]

    def _record(self, event: str, uid: int, **more: Any) -> None:
        facts = Facts(decision="allowed")
        self.connections.write_audit(audit.record(event, self.connections.now(), facts, uid=uid, **more))


def _is_meant(facts: Facts, asked: control.Kill) -> bool:
    """Exactly: to end a session too many is no small mistake."""
    if asked.identity is not None:
        return facts.subject == asked.identity
    if asked.jti is not None:
        return facts.jti == asked.jti
    return facts.serial == asked.serial


def _session(live: Live) -> control.Session:
    told = {name: _short(value) for name, value in asdict(live.facts).items() if name in _SHOWN and value is not None}
    return control.Session(
        id=live.id,
        listener=live.listener,
        client=str(live.client),
        opened_at=float(live.opened_at),
        moved=live.from_client + live.to_client,
        state=live.state,
        **told,
    )


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _address(text: str) -> str:
    """As a listener would have it. Raises NotDone."""
    try:
        address = ip_address(text)
    except ValueError:
        raise control.NotDone("the address is not an IP address") from None
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.scope_id is not None:
        raise control.NotDone("the address is one of this machine's links alone")
    return str(address.ipv4_mapped or address)
