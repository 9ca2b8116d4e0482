"""The configuration as a frozen tree of values, ready to use: keys are parsed, paths absolute, numbers checked.

Owns the shape only; `config` fills it from the INI and `legacy` from the environment of jwt-postgresql-proxy. Refuses
nothing by itself, and shows no secret in its repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.admission import Admission
from gateway.hub.settings import HubSettings
from gateway.policy import Rule
from gateway.registry.settings import RegistrySettings
from gateway.routes import Route
from gateway.rules import Network
from gateway.session.mqtt_access import AS_THING, BrokerLogin
from gateway.tokens import VerificationKey
from gateway.topic_rules import TopicRules
from gateway.upstream import Address, ServerTLS, Upstream


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """shutdown_grace: seconds that busy sessions keep after SIGTERM, and in which one that has expired or was idle for
    too long may look for a message boundary to end at."""

    shutdown_grace: float


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one peer, and all of them, may take.

    handshake_timeout: seconds until the upstream is dialed; from then on its own connect_timeout counts.
    idle_timeout: seconds, or None for no limit. cancel_rate: CancelRequests a second from one client address. All
    clients on Unix sockets are one address.
    """

    max_connections: int
    max_connections_per_subject: int
    max_connections_per_address: int
    handshake_timeout: float
    idle_timeout: float | None
    cancel_rate: int


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """file: where the records go; None is the log."""

    file: Path | None


@dataclass(frozen=True, slots=True)
class JWTSettings:
    """What a token must be to be believed. An empty audience or a None is a check that is not made.

    keys: those in files. jwks: the https URL of more, fetched every jwks_refresh seconds from a server that a CA in
    jwks_root_certificate vouches for, or without that file one of the system's. revoked: every `jti` in revoked_file.
    """

    name: str
    keys: tuple[VerificationKey, ...]
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    leeway: float = 0.0
    max_lifetime: float | None = None
    jwks: str | None = None
    jwks_root_certificate: Path | None = None
    jwks_refresh: float = 300.0
    revoked: frozenset[str] = field(default=frozenset(), repr=False)
    revoked_file: Path | None = None


@dataclass(frozen=True, slots=True)
class PostgresListener:
    """One `[postgres:NAME]`.

    listen: where; the host `*` is every interface, IPv4 and IPv6.
    tls: None only while there is no upstream (the quickstart fills it in).
    upstream, jwt: keys of `Config.upstreams` and `Config.jwt`.
    role_claim: the claim that names the upstream role; None: the subject itself.
    proxy_protocol: the networks whose connections must begin with a PROXY header.
    application_name: a template with {subject}, {address} and {application_name}; None: as the client says.
    """

    name: str
    listen: tuple[Address, ...]
    tls: ServerTLS | None
    upstream: str
    jwt: str
    rules: tuple[Rule, ...]
    role_claim: str | None = None
    proxy_protocol: tuple[Network, ...] = ()
    terminate_on_expiry: bool = True
    application_name: str | None = None


@dataclass(frozen=True, slots=True)
class HTTPSListener:
    """One `[https:NAME]`. tls, listen, proxy_protocol: as of a PostgresListener.

    head_timeout: seconds for a request's head, from its first byte. body_timeout: in so many seconds the client has to
    send at least a little more of the body. keepalive_timeout: seconds between two requests.
    """

    name: str
    listen: tuple[Address, ...]
    tls: ServerTLS | None
    proxy_protocol: tuple[Network, ...] = ()
    head_timeout: float = 30.0
    body_timeout: float = 30.0
    keepalive_timeout: float = 75.0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One `[tunnel:NAME]`.

    tls: of a tunnel that ends its clients' TLS (`mode = server`); None for one that speaks TLS to its upstream
    (`mode = client`) and listens in plain, on loopback or a Unix socket only. upstream: named `tunnel:NAME`.
    alpn: what has to be negotiated; empty: nothing. cn, identity: as of a Route; a key is not asked for.
    half_close_timeout: seconds that one direction may be silent after the other has ended.
    """

    name: str
    listen: tuple[Address, ...]
    tls: ServerTLS | None
    upstream: Upstream
    alpn: tuple[bytes, ...]
    admission: Admission
    cn: str = "id"
    identity: str = "cn"
    half_close_timeout: float = 600.0
    proxy_protocol: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class MQTTListener:
    """One `[mqtt:NAME]`. tls, listen, proxy_protocol: as of a PostgresListener; whether clients show certificates is
    said there. upstream: named `mqtt:NAME`; None: the embedded hub. The rest: as of `session.mqtt_access.MQTTAccess`.
    """

    name: str
    listen: tuple[Address, ...]
    tls: ServerTLS | None
    admission: Admission
    topics: TopicRules
    upstream: Upstream | None = None
    login: BrokerLogin = AS_THING
    cn: str = "key"
    identity: str = "cn"
    fill_password: bool = True
    check_password: bool = True
    prefix_client_ids: bool = True
    drop_denied: bool = False
    max_packet: int = 262_144
    packet_rate: float | None = None
    keep_alive: int = 0
    proxy_protocol: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class HubFile:
    """The embedded hub. database: the SQLite file that it keeps things in; None: memory alone."""

    database: Path | None
    settings: HubSettings


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the gateway was told. Without any upstream it is for the quickstart to complete: a Postgres listener
    whose `upstream` is in no section, and a route whose upstream has no address.

    path: the INI, or None. quickstart_directory: None when there is no INI to stand beside. control: the Unix socket
    that operators speak to; None: there is none.
    warnings: what is allowed but worth a line in the log.
    """

    path: Path | None
    gateway: GatewaySettings
    limits: LimitSettings
    audit: AuditSettings
    upstreams: Mapping[str, Upstream]
    jwt: Mapping[str, JWTSettings]
    postgres: tuple[PostgresListener, ...]
    quickstart_directory: Path | None
    warnings: tuple[str, ...]
    https: tuple[HTTPSListener, ...] = ()
    routes: tuple[Route, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    health: tuple[Address, ...] = ()
    mqtt: tuple[MQTTListener, ...] = ()
    registry: RegistrySettings | None = None
    hub: HubFile | None = None
    control: Path | None = None

    @property
    def configured(self) -> bool:
        """Something is to be guarded: this is not for the quickstart."""
        web = any(route.upstream.addresses or route.admission.rules for route in self.routes)
        mqtt = any(one.topics.rules or one.admission.rules for one in self.mqtt)
        postgres = any(one.rules for one in self.postgres) or any(one.keys or one.jwks for one in self.jwt.values())
        return bool(self.upstreams or self.tunnels or web or mqtt or postgres or self.registry)
