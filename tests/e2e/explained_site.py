"""A gateway with many rules, made from a seed, and clients' certificates and things of every kind.

Owns what there is and who is there; what is asked of it is for `explained` to make up. Clients come from any address: a
PROXY header says so. Each has a port of its own, by which the audit knows it. Some come without that header, where one
is due.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gateway import config
from gateway.doors import State
from gateway.errors import Problems
from gateway.inspection.explanation import Client
from gateway.inspection.known_things import read_things
from gateway.inspection.rehearsal import stage
from tests.fake_upstream import Caller, FakeUpstream
from tests.gateways import RunningGateway
from tests.pki import SERVER, Issued, issue, make_ca, make_crl, subject_of, write_pem
from tests.raw_client import PATIENCE
from tests.servers import free_port
from tests.things import Workshop

NETWORKS = ["all", "192.0.2.0/24", "192.0.2.0/25", "198.51.100.7", "2001:db8::/32", "192.0.2.128/25,2001:db8:1::/48"]
ADDRESSES = [
    "127.0.0.1",
    "192.0.2.7",
    "192.0.2.200",
    "198.51.100.7",
    "203.0.113.9",
    "2001:db8::7",
    "2001:db8:1::7",
    "2001:db9::1",
]
# Whoever comes from there shows no PROXY header, though one is due.
DIRECT = "127.0.0.1"
NAMES = ["alice", "bob", "carol"]
DATABASES = ["sales", "hr"]
ISSUER = "https://issuer.example"


# --- rules at random --------------------------------------------------------------------------------------------------


def _some(random: Random, names: Sequence[str], most: int = 2) -> str:
    return ",".join(random.sample(names, random.randint(1, most)))


def postgres_rules(random: Random, count: int) -> str:
    def line() -> str:
        action = random.choice(["allow", "allow", "deny"])
        subject = random.choice([_some(random, NAMES), _some(random, NAMES, 1), "all"])
        database = random.choice([_some(random, DATABASES), "all", "sameuser"])
        options = random.choice(["", "", " role=reader", " replication=yes", " superuser=yes"])
        return f"{action} {database} {subject} {random.choice(NETWORKS)}{options if action == 'allow' else ''}"

    return "".join(f"\n{line()}" for _ in range(count))


def admission_rules(random: Random, count: int, names: Sequence[str], *, methods: bool = False) -> str:
    def line() -> str:
        action = random.choice(["allow", "allow", "deny"])
        who = random.choice([_some(random, names), _some(random, names, 1), "all", "anonymous", *_patterns(names)])
        method = random.choice(["", "", " method=GET,HEAD", " method=POST"]) if methods else ""
        authority = random.choice(["", "", "", " ca=ca.crt", " ca=below.crt"])
        return f"{action} {who} {random.choice(NETWORKS)}{method}{authority}"

    return "".join(f"\n{line()}" for _ in range(count))


def _patterns(names: Sequence[str]) -> list[str]:
    return ["a*", "*ro*"] if "alice" in names else []


def topic_rules(random: Random, count: int, names: Sequence[str]) -> str:
    def line() -> str:
        action = random.choice(["allow", "allow", "deny"])
        who = random.choice([_some(random, names), "all", "all"])
        verb = random.choice(["publish", "subscribe", "all"])
        about = random.choice(["#", "a/#", "a/+", "a/b", "by/%c/#", "by/%i", "$SYS/#", "by/%u/x", "+/b"])
        return f"{action} {who} {verb} {about}"

    return "".join(f"\n{line()}" for _ in range(count))


# --- who is there ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """A client's certificate: its files, and what a PEM of them holds."""

    name: str
    issued: Issued
    files: tuple[Path, Path]
    context: ssl.SSLContext

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.issued.certificate, *self.issued.chain)


def _context(files: Sequence[Path] = ()) -> ssl.SSLContext:
    """Whoever answers is believed: it is not the gateway's own certificate that is tried here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # So that a weak certificate is the gateway's to refuse.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if files:
        context.load_cert_chain(files[0], files[1])
    return context


def _certificates(gateway: RunningGateway, folder: Path) -> dict[str, Shown]:
    """What careless and hostile clients show, too; and the CRLs of the authorities."""
    ca = gateway.ca
    below, stranger, lapsed = make_ca("below", ca), make_ca("stranger"), make_ca("lapsed", ca, valid=(-9, -1))
    weak = rsa.generate_private_key(65_537, 1024)  # noqa: S505 - so that it is refused
    made = {name: issue(ca, name) for name in NAMES}
    made |= {
        "alice from below": issue(below, "alice"),
        "alice without her issuer": Issued(*_pair(issue(below, "alice"))),
        "alice below lapsed": issue(lapsed, "alice"),
        "alice of a stranger": issue(stranger, "alice"),
        "alice expired": issue(ca, "alice", valid=(-9, -1)),
        "alice to come": issue(ca, "alice", valid=(1, 9)),
        "alice revoked": issue(ca, "alice"),
        "bob revoked below": issue(below, "bob"),
        "alice the server": issue(ca, "alice", eku=(SERVER,)),
        "alice for anything": issue(ca, "alice", eku=()),
        "alice with a weak key": issue(ca, "alice", key=weak),
        "two names": issue(ca, subject=two_names("alice", "bob")),
    }
    write_pem(folder / "below.crt", below.certificate)
    crls = make_crl(ca, [made["alice revoked"]]), make_crl(below, [made["bob revoked below"]]), make_crl(lapsed)
    write_pem(folder / "crl.pem", *crls)
    return {name: shown_of(one, folder, name) for name, one in made.items()}


def _pair(issued: Issued) -> tuple[Any, Any]:
    return issued.certificate, issued.key


def two_names(*names: str) -> x509.Name:
    return subject_of(*[[(NameOID.COMMON_NAME, name)] for name in names])


def shown_of(issued: Issued, folder: Path, name: str) -> Shown:
    files = issued.write(folder, name)
    return Shown(name, issued, files, _context(files))


def _things(
    workshop: Workshop, channels: Sequence[str], shown: dict[str, Shown], folder: Path
) -> tuple[list[str], dict[str, str]]:
    """One that may do all in the first channel, one that may only listen there, and one that is disabled."""
    ca, ledger, keys = workshop.gateway.ca, workshop.ledger, {}
    for number in range(3):
        record, key = ledger.create_thing(f"thing {number}")
        ledger.connect(record.id, channels[0], publish=number != 1)
        keys[record.id] = key
        for name, cn in ((f"key of thing {number}", key), (f"id of thing {number}", record.id)):
            shown[name] = shown_of(issue(ca, cn), folder, name)
    shown["key of nobody"] = shown_of(issue(ca, "a-key-of-nobody"), folder, "key of nobody")
    ids = list(keys)
    ledger.connect(ids[1], channels[1], subscribe=False)
    ledger.set_enabled(ids[2], False)
    return ids, keys


# --- what is there ----------------------------------------------------------------------------------------------------


def _postgres(caller: Caller) -> None:
    caller.let_in()
    caller.wait()


def _web(caller: Caller) -> None:
    while caller.read():
        caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def _anything(caller: Caller) -> None:
    caller.send(b"!")
    caller.wait()


def _sections(
    random: Random, ports: dict[str, int], upstreams: Sequence[int], things: Sequence[str]
) -> dict[str, dict[str, object]]:
    database, web, anything = (f"127.0.0.1:{port}" for port in upstreams)
    trust = {"certificate": "server.crt", "key": "server.key", "client_ca": "ca.crt", "client_crl": "crl.pem"}
    listeners: dict[str, dict[str, object]] = {
        name: {"listen": f"127.0.0.1:{port}", "proxy_protocol": "127.0.0.0/8"} for name, port in ports.items()
    }
    required = {"client_certificate": "required"}
    listeners["postgres:main"] |= {"rules": postgres_rules(random, 14)}
    listeners["postgres:strict"] |= {"rules": postgres_rules(random, 8), "role": "claim:role", **required}
    listeners["tunnel:main"] |= {"mode": "server", "upstream": anything, "rules": admission_rules(random, 9, NAMES)}
    listeners["tunnel:any"] |= {
        "mode": "server",
        "upstream": anything,
        "alpn": "none",
        "client_certificate": "optional",
        "rules": admission_rules(random, 9, NAMES),
    }
    listeners["mqtt:main"] |= {"rules": admission_rules(random, 5, things) + "\nallow all all"}
    listeners["mqtt:topics"] |= {
        "rules": admission_rules(random, 5, things) + "\nallow all all",
        "cn": "id",
        "password": "ignored",
        "topics": topic_rules(random, 9, things),
    }
    routes: dict[str, dict[str, object]] = {
        "route:things": {"path": "/things", "cn": "id"},
        "route:open": {"path": "/open", "cn": "id", "client": "none"},
        "route:either": {"path": "/things/either", "cn": "id", "client": "optional", "websocket": "yes"},
        "route:host": {"path": "/", "host": "a.example, *.b.example", "cn": "id"},
    }
    for one in routes.values():
        one |= {
            "upstream": f"http://{web}",
            "rules": admission_rules(random, 7, NAMES, methods=True) + "\nallow all all",
        }
    for path, serve in (("/http", "channels"), ("/mqtt", "mqtt")):
        routes[f"route:{serve}"] = {"path": path, "serve": serve, "client": "optional"}
        routes[f"route:{serve}"] |= {"rules": admission_rules(random, 4, things) + "\nallow all all"}
    return {
        "tls": {"client_certificate": "optional", **trust},
        "hub": {"database": "memory"},
        "jwt:main": {"public_keys": "jwt.pub", "issuer": ISSUER},
        "upstream:main": {"hosts": database, "tls": "disable"},
        "limits": {"max_connections_per_subject": 10_000},
        **listeners,
        **routes,
    }


# --- the site ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Explained:
    """state: what `explain` believes to be in force. things: their ids, with what each may do; keys: by thing."""

    gateway: RunningGateway
    random: Random
    ports: dict[str, int]
    shown: dict[str, Shown]
    things: list[str]
    keys: dict[str, str]
    channels: list[str]
    state: State
    bare: ssl.SSLContext = field(default_factory=_context)
    number: int = 1024

    @classmethod
    @contextmanager
    def running(cls, folder: Path, seed: int) -> Iterator[Self]:
        random = Random(seed)
        with ExitStack() as stack:
            gateway = RunningGateway.made_mqtt(folder, {})
            for section in ("route:http", "route:ws", "route:mqtt", "https:main", "mqtt:main"):
                del gateway.sections[section]
            key = gateway.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (folder / "jwt.pub").write_bytes(key)
            shown = _certificates(gateway, folder)
            upstreams = [stack.enter_context(FakeUpstream.running(talk)) for talk in (_postgres, _web, _anything)]
            ports = {name: free_port() for name in ("postgres:main", "postgres:strict", "tunnel:main", "tunnel:any")}
            ports |= {name: free_port() for name in ("https:main", "mqtt:main", "mqtt:topics")}
            with Workshop.of(gateway) as workshop:
                channels = [workshop.channel(), workshop.channel()]
                things, keys = _things(workshop, channels, shown, folder)
            gateway.sections |= _sections(random, ports, [one.port for one in upstreams], things)
            gateway.sections["health"] = {"listen": f"127.0.0.1:{gateway.port}"}
            stack.enter_context(gateway.for_a_while())
            problems = Problems()
            settings = config.load(folder / "gw.ini", {}, folder, problems)
            problems.raise_if_any()
            assert settings.registry is not None
            state = stage(settings, read_things(settings.registry), None)
            yield cls(gateway, random, ports, shown, things, keys, channels, state)

    # --- a connection -------------------------------------------------------------------------------------------------

    def call(self, listener: str, address: str) -> tuple[socket.socket, str]:
        """From that address, with the name that the audit has for it."""
        self.number += 1
        sock = socket.create_connection(("127.0.0.1", self.ports[listener]), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address == DIRECT:
            return sock, f"{DIRECT}:{sock.getsockname()[1]}"
        six = ":" in address
        there = "2001:db8::1" if six else "192.0.2.1"
        sock.sendall(f"PROXY TCP{6 if six else 4} {address} {there} {self.number} 1\r\n".encode())
        return sock, f"[{address}]:{self.number}" if six else f"{address}:{self.number}"

    def secure(self, sock: socket.socket, certificate: Shown | None, alpn: str, name: str = "localhost") -> Any:
        """alpn: empty for none. Raises OSError if the gateway does not want it at once."""
        context = certificate.context if certificate else self.bare
        context.set_alpn_protocols([alpn] if alpn else [])
        return context.wrap_socket(sock, server_hostname=name)

    def client(self, certificate: Shown | None, address: str) -> Client:
        return Client(address, certificate.chain if certificate else ())

    def any_certificate(self) -> Shown | None:
        """Half of them are as they should be."""
        good = [None, *(self.shown[name] for name in (*NAMES, "alice from below"))]
        return self.random.choice(good if self.random.random() < 0.5 else [None, *self.shown.values()])
