"""From a configuration to its doors: what each listener's next connection needs, made anew by every reload.

Owns how settings become certificates, access and sessions. Refuses, as ConfigError, a configuration of which any file
cannot be used; nothing is half made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.certs import Certificates
from gateway.errors import Problems
from gateway.hub.hub import Hub
from gateway.net.door import Door
from gateway.policy import Policy
from gateway.routes import Routes
from gateway.session import http, mqtt, postgres
from gateway.session.access import Access, HTTPAccess
from gateway.session.backends import Backends
from gateway.session.cancel import CancelKeys
from gateway.session.health import Health, HealthSession
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.tunnel import TunnelAccess, TunnelSession
from gateway.session.vocabulary import Questions, Session
from gateway.settings import Config, HTTPSListener, MQTTListener, PostgresListener, Tunnel
from gateway.things import Things
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import Address, ServerTLS, Upstream

HEALTH = "health"

# A session, given whom it may ask.
_Opener = Callable[[Questions], Session]


@dataclass(frozen=True, slots=True)
class State:
    """What a reload replaces as a whole: the configuration, and by a listener's section its door and its access."""

    config: Config
    doors: Mapping[str, Door]
    access: Mapping[str, Any]


def listening(config: Config) -> dict[str, tuple[Address, ...]]:
    """Every listener's section, and where it listens."""
    named: dict[str, tuple[Address, ...]] = {f"postgres:{one.name}": one.listen for one in config.postgres}
    named |= {f"https:{one.name}": one.listen for one in config.https}
    named |= {f"mqtt:{one.name}": one.listen for one in config.mqtt}
    named |= {f"tunnel:{one.name}": one.listen for one in config.tunnels}
    return named | ({HEALTH: config.health} if config.health else {})


@dataclass(slots=True)
class Doors:
    """state: the one in force now; sessions read their access from there. health: how the gateway is.

    hub, things: of the whole process, whatever is reloaded; None where there are none. keys: those that are known now
    of the URL of a `[jwt:NAME]`, by its NAME. missing_key: to be called with it when a token names one that is not.
    """

    state: Callable[[], State]
    health: Callable[[], Health]
    cancels: CancelKeys
    hub: Hub | None = None
    things: Things | None = None
    keys: Callable[[str], Sequence[VerificationKey]] | None = None
    missing_key: Callable[[str], None] | None = None
    backends: Backends = field(default_factory=lambda: Backends(time.time))

    def build(self, config: Config, problems: Problems) -> State:
        """Raises ConfigError with all that is wrong, after every file was looked at."""
        certificates = Certificates.build(_servers(config), _upstreams(config), problems)
        problems.raise_if_any()
        access: dict[str, Any] = {f"postgres:{one.name}": self._postgres_access(config, one) for one in config.postgres}
        brokers = {one.name: self._mqtt_access(config, one) for one in config.mqtt}
        access |= {f"mqtt:{name}": one for name, one in brokers.items()}
        access |= {f"https:{one.name}": _https_access(config, one, brokers, self.things) for one in config.https}
        access |= {f"tunnel:{one.name}": _tunnel_access(config, one, self.things) for one in config.tunnels}
        make = partial(self._door, config, certificates)
        doors = [make(f"postgres:{one.name}", self._postgres, one) for one in config.postgres]
        doors += [make(f"https:{one.name}", self._https, one) for one in config.https]
        doors += [make(f"mqtt:{one.name}", self._mqtt, one) for one in config.mqtt]
        doors += [make(f"tunnel:{one.name}", self._tunnel, one) for one in config.tunnels]
        doors += [make(HEALTH, self._health)] if config.health else []
        return State(config, {door.name: door for door in doors}, access)

    def _door(
        self,
        config: Config,
        certificates: Certificates,
        section: str,
        opener: Callable[[str], _Opener],
        one: PostgresListener | HTTPSListener | MQTTListener | Tunnel | None = None,
    ) -> Door:
        return Door(
            name=section,
            session=opener(section),
            certificates=certificates,
            proxy_networks=one.proxy_protocol if one else (),
            handshake_timeout=config.limits.handshake_timeout,
            idle_timeout=config.limits.idle_timeout,
            grace=config.gateway.shutdown_grace,
            quiet=one is None,
            latest=lambda: self.state().doors[section],
        )

    def _postgres_access(self, config: Config, one: PostgresListener) -> Access:
        jwt = config.jwt[one.jwt]
        return Access(
            listener=one.name,
            verifier=TokenVerifier(
                jwt.keys,
                issuer=jwt.issuer,
                audience=jwt.audience,
                leeway=jwt.leeway,
                max_lifetime=jwt.max_lifetime,
                revoked=jwt.revoked,
                revocable=jwt.revoked_file is not None,
                more=partial(self.keys, jwt.name) if jwt.jwks and self.keys else None,
                missing=partial(self.missing_key, jwt.name) if jwt.jwks and self.missing_key else None,
            ),
            policy=Policy(one.rules),
            upstream=config.upstreams[one.upstream],
            role_claim=one.role_claim,
            application_name=one.application_name,
            terminate_on_expiry=one.terminate_on_expiry,
            handshake_timeout=config.limits.handshake_timeout,
        )

    def _mqtt_access(self, config: Config, one: MQTTListener) -> MQTTAccess:
        return MQTTAccess(
            name=one.name,
            admission=one.admission,
            topics=one.topics,
            things=self.things,
            hub=None if one.upstream else self.hub,
            upstream=one.upstream,
            backends=self.backends,
            login=one.login,
            client=one.tls.client_certificate if one.tls else "none",
            cn=one.cn,
            identity=one.identity,
            fill_password=one.fill_password,
            check_password=one.check_password,
            prefix_client_ids=one.prefix_client_ids,
            drop_denied=one.drop_denied,
            max_packet=one.max_packet,
            packet_rate=one.packet_rate,
            keep_alive=one.keep_alive,
            handshake_timeout=config.limits.handshake_timeout,
        )

    def _access(self, section: str) -> Callable[[], Any]:
        return lambda: self.state().access[section]

    def _postgres(self, section: str) -> _Opener:
        access = self._access(section)
        return lambda asked: postgres.PostgresSession(access, self.cancels, asked, time.time)

    def _https(self, section: str) -> _Opener:
        access = self._access(section)
        return lambda asked: http.HTTPSession(access, self.backends, asked, time.time)

    def _mqtt(self, section: str) -> _Opener:
        access = self._access(section)
        return lambda asked: mqtt.MQTTSession(access, asked, time.time)

    def _tunnel(self, section: str) -> _Opener:
        access = self._access(section)
        return lambda asked: TunnelSession(access, asked, time.time)

    def _health(self, _: str) -> _Opener:
        return lambda _: HealthSession(self.health)


def _servers(config: Config) -> dict[str, tuple[ServerTLS, tuple[bytes, ...]]]:
    """How each listener speaks TLS to its clients, and what it speaks inside."""
    found: dict[str, tuple[ServerTLS | None, tuple[bytes, ...]]] = {}
    found |= {f"postgres:{one.name}": (one.tls, (postgres.ALPN,)) for one in config.postgres}
    found |= {f"https:{one.name}": (one.tls, http.ALPN) for one in config.https}
    found |= {f"mqtt:{one.name}": (one.tls, mqtt.ALPN) for one in config.mqtt}
    found |= {f"tunnel:{one.name}": (one.tls, one.alpn) for one in config.tunnels}
    return {section: (tls, alpn) for section, (tls, alpn) in found.items() if tls is not None}


def _upstreams(config: Config) -> dict[str, Upstream]:
    """By the section that configures them."""
    found = {f"upstream:{name}": upstream for name, upstream in config.upstreams.items()}
    found |= {f"route:{route.name}": route.upstream for route in config.routes}
    found |= {f"mqtt:{one.name}": one.upstream for one in config.mqtt if one.upstream}
    return found | {f"tunnel:{one.name}": one.upstream for one in config.tunnels}


def _https_access(
    config: Config, one: HTTPSListener, brokers: Mapping[str, MQTTAccess], things: Things | None
) -> HTTPAccess:
    return HTTPAccess(
        routes=Routes(tuple(route for route in config.routes if one.name in route.listeners)),
        handshake_timeout=config.limits.handshake_timeout,
        head_timeout=one.head_timeout,
        body_timeout=one.body_timeout,
        keepalive_timeout=one.keepalive_timeout,
        grace=config.gateway.shutdown_grace,
        mqtt=brokers,
        things=things,
    )


def _tunnel_access(config: Config, one: Tunnel, things: Things | None) -> TunnelAccess:
    return TunnelAccess(
        upstream=one.upstream,
        admission=one.admission,
        server=one.tls is not None,
        alpn=one.alpn,
        cn=one.cn,
        identity=one.identity,
        half_close_timeout=one.half_close_timeout,
        handshake_timeout=config.limits.handshake_timeout,
        things=things,
    )
