"""What a connection finds when it arrives: the settings of its listener, and the house that all connections share.

Owns these two shapes, and which peers are proxies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

from gateway.certs import Certificates
from gateway.net.poller import Poller
from gateway.net.pool import Pool
from gateway.rules import Network
from gateway.session.vocabulary import Questions, Session

if TYPE_CHECKING:
    from gateway.net.driver import Driver


@dataclass(frozen=True, slots=True)
class Door:
    """One listener's present settings, as a connection reads them when it opens, after its client's handshake, and,
    with HTTP, after a reload, which makes a new one.

    name: its section, by which `certificates` knows its context. session: makes one, given whom it may ask.
    proxy_networks: peers that must begin with a PROXY header. idle_timeout, grace: seconds. quiet: its connections
    leave no audit record. latest: this door as it is now.
    """

    name: str
    session: Callable[[Questions], Session]
    certificates: Certificates
    proxy_networks: tuple[Network, ...]
    handshake_timeout: float
    idle_timeout: float | None
    grace: float
    quiet: bool = False
    latest: Callable[[], Door] | None = None

    def expects_proxy(self, host: str) -> bool:
        """host: the peer's IP address; empty for a Unix socket, of which nobody is a proxy."""
        if not (self.proxy_networks and host):
            return False
        return any(ip_address(host) in network for network in self.proxy_networks)


class House(Protocol):
    """What all connections of the process share (`gateway.net.connections`). `now`: seconds since the epoch."""

    reactor: Any
    poller: Poller
    pool: Pool
    now: Callable[[], float]

    def welcome(self, driver: Driver, address: str) -> bool:
        """Count a connection from that address; False: it is one too many."""

    def opened(self, driver: Driver) -> None:
        """It has proven who it is, and something is dialed for it."""

    def admit(self, driver: Driver, subject: str) -> bool:
        """Count a session of that subject; False: it is one too many."""

    def farewell(self, driver: Driver) -> None:
        """It has ended: give back what was counted."""

    def write_audit(self, line: str) -> None: ...
