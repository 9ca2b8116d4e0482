"""Clients of all four protocols that nobody has thought up one by one: what the gateway does, and what `explain` says.

Owns the generation, the play over real sockets, and the same question to `explain`.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.inspection import explain, explain_mqtt
from gateway.inspection.explanation import Explanation
from gateway.things import topic_of
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import ConnAck, PubAck, SubAck, Version
from tests.e2e.explained_site import ADDRESSES, DATABASES, ISSUER, NAMES, Explained, Shown
from tests.raw_client import SSL_REQUEST, password, startup


@dataclass(frozen=True, slots=True)
class Outcome:
    """asked: for whoever reads that it failed. client: its name in the audit. allowed: whether it really was."""

    asked: str
    client: str
    explained: Explanation
    allowed: bool


def _ended(play: Callable[[], bool]) -> bool:
    """A connection that ends is a no."""
    try:
        return play()
    except (OSError, EOFError):
        return False


def _read(sock: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _token(site: Explained, certificate: Shown | None) -> tuple[bytes, str, str]:
    """A token, for whom it is, and what is the matter with it."""
    random = site.random
    subject = random.choice(NAMES)
    claims: dict[str, Any] = {"sub": subject, "exp": time.time() + 600, "iss": ISSUER, "role": random.choice(NAMES)}
    claims["jti"] = f"token {site.number}"
    flaw = random.choice(["", "", "", "expired", "issuer", "key", "bound", "roleless", "narrow", "not a token"])
    key = site.gateway.key
    if flaw == "expired":
        claims["exp"] = time.time() - random.choice([10, 3600])
    elif flaw == "issuer":
        claims["iss"] = "https://somebody.else"
    elif flaw == "key":
        key = Ed25519PrivateKey.generate()
    elif flaw == "bound":
        to = certificate or site.shown["alice"]
        digest = hashlib.sha256(to.chain[0].public_bytes(Encoding.DER)).digest()
        claims["cnf"] = {"x5t#S256": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()}
    elif flaw == "roleless":
        del claims["role"]
    elif flaw == "narrow":
        claims["securegw"] = random.choice([{"db": ["sales"]}, {"cidr": ["192.0.2.0/24"]}, {"db": []}, {"rows": 1}])
    token = "a.b.c" if flaw == "not a token" else jwt.encode(claims, key, algorithm="EdDSA")
    return token.encode(), subject, flaw


def postgres(site: Explained) -> Outcome:
    random = site.random
    name, address = random.choice(["main", "main", "strict"]), random.choice(ADDRESSES)
    certificate = site.any_certificate()
    token, subject, flaw = _token(site, certificate)
    user = random.choice([subject, subject, subject, "carol"])
    database = random.choice([*DATABASES, user, "other"])
    replication = random.random() < 0.1
    listener = next(one for one in site.state.config.postgres if one.name == name)
    login = explain.LoginAttempt(user, database, token, replication)
    explained = explain.postgres(site.state, listener, site.client(certificate, address), login)
    sock, client = site.call(f"postgres:{name}", address)

    def play() -> bool:
        sock.sendall(SSL_REQUEST)
        if not sock.recv(1):
            return False
        with site.secure(sock, certificate, "") as tls:
            # Where it is asked in SQL whether the role is a superuser.
            tls.sendall(startup(user, database, **({"replication": "database"} if replication else {})))
            kind, length = struct.unpack("!cI", _read(tls, 5))
            _read(tls, length - 4)
            if kind != b"R":
                return False
            tls.sendall(password(token))
            return _read(tls, 1) == b"R"

    with sock:
        allowed = _ended(play)
    asked = f"{name}: {user} to {database} with {flaw or 'a good'} token of {subject}, replication {replication}"
    return Outcome(f"{asked}, {certificate and certificate.name}, from {address}", client, explained, allowed)


def http(site: Explained) -> Outcome:
    random, certificate, address = site.random, site.any_certificate(), site.random.choice(ADDRESSES)
    path = random.choice(
        [
            "/things/1",
            "/things/either/1",
            "/things/%65ither",
            "/open",
            "/nowhere",
            "/",
            "/mqtt",
            "/things//x",
            *(f"/http/channels/{one}/messages" for one in (*site.channels, site.things[0])),
            f"/http/channels/{site.channels[0]}/messages/sub/topic",
        ]
    )
    host = random.choice(["localhost", "localhost", "localhost", "a.example", "x.b.example"])
    websocket = random.random() < 0.25
    method = "GET" if websocket else random.choice(["GET", "POST", "POST", "DELETE"])
    key = random.choice([None, None, None, *site.keys.values(), "a wrong one"])
    authorization = random.choice([b"Thing %b", b"%b"]) % key.encode() if key else None
    protocol = random.choice(["mqtt", "mqtt", "", "other"]) if websocket else ""
    request = explain.WebRequest(method, host, path, authorization, websocket, protocol)
    (listener,) = site.state.config.https
    explained = explain.http(site.state, listener, site.client(certificate, address), request)
    sock, client = site.call("https:main", address)

    def play() -> bool:
        with site.secure(sock, certificate, "http/1.1", host) as tls:
            tls.sendall(request.head())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += _read(tls, 1)
            status = int(answer.split(b" ")[1])
            # What is behind it says 200, also to a WebSocket, which is then none.
            return status in (101, 200, 202) or (websocket and status == 502)

    with sock:
        allowed = _ended(play)
    asked = f"{method} {host}{path} {'WebSocket ' + protocol if websocket else ''} with {authorization!r}"
    return Outcome(f"{asked}, {certificate and certificate.name}, from {address}", client, explained, allowed)


def tunnel(site: Explained) -> Outcome:
    name, address, certificate = site.random.choice(["main", "any"]), site.random.choice(ADDRESSES), None
    certificate = site.any_certificate()
    listener = next(one for one in site.state.config.tunnels if one.name == name)
    explained = explain.tunnel(site.state, listener, site.client(certificate, address))
    sock, client = site.call(f"tunnel:{name}", address)

    def play() -> bool:
        with site.secure(sock, certificate, "h2" if name == "main" else "") as tls:
            return _read(tls, 1) == b"!"

    with sock:
        allowed = _ended(play)
    return Outcome(f"{name}: {certificate and certificate.name}, from {address}", client, explained, allowed)


def _mqtt_asking(site: Explained, name: str) -> tuple[Shown | None, explain_mqtt.Asking]:
    """Half of them are a thing that does all as it should; of the others anything may be wrong."""
    random, number = site.random, site.random.randrange(len(site.things))
    thing = site.things[number]
    certificate: Shown | None = site.shown[f"{'key' if name == 'main' else 'id'} of thing {number}"]
    user_name, key = random.choice([None, thing]), random.choice([None, site.keys[thing]])
    if random.random() < 0.5:
        certificate = site.any_certificate()
        user_name = random.choice([None, thing, "somebody"])
        key = random.choice([None, site.keys[thing], "a wrong one"])
    action = random.choice(["publish", "subscribe", "subscribe", None])
    near = random.choice(["a", "a/b", "a/b/c", f"by/{thing}/x", "by/me", "$SYS/x", "x/b", topic_of(site.channels[0])])
    far = random.choice(["#", "a/#", "+/b", "a/+/c", f"{topic_of(site.channels[1])}/#", "$share/g/a/#", near])
    if name == "main":
        near = far = topic_of(random.choice(site.channels), random.choice(["", "x"]))
    return certificate, explain_mqtt.Asking(
        client_id=random.choice(["me", "you", "a/b"]),
        user_name=user_name,
        password=key.encode() if key else None,
        action=action,
        topic=near if action == "publish" else far,
    )


def mqtt_client(site: Explained) -> Outcome:
    name, address = site.random.choice(["main", "topics", "topics"]), site.random.choice(ADDRESSES)
    certificate, asking = _mqtt_asking(site, name)
    listener = next(one for one in site.state.config.mqtt if one.name == name)
    explained = explain_mqtt.explain(site.state, listener, site.client(certificate, address), asking)
    sock, client = site.call(f"mqtt:{name}", address)
    # To be told the same; but before 5.0 there is no password alone, and no word for what the hub keeps to itself.
    only_5 = (asking.password and not asking.user_name) or asking.topic.startswith("$SYS")
    version = Version.V5 if only_5 else site.random.choice([Version.V311, Version.V5])

    def answer(tls: Any) -> Any:
        data = bytearray(_read(tls, 2))
        data += _read(tls, data[1])
        return mqtt.parse(data, 0, 2, len(data), version)

    def play() -> bool:
        with site.secure(sock, certificate, "mqtt") as tls:
            tls.sendall(mqtt.serialize(replace(asking.connect, version=version), version))
            found = answer(tls)
            if not isinstance(found, ConnAck) or found.code:
                return False
            if asking.request is None:
                return True
            tls.sendall(mqtt.serialize(asking.request, version))
            found = answer(tls)
            if isinstance(found, SubAck):
                return found.codes[0] < 0x80
            return isinstance(found, PubAck) and found.code < 0x80

    with sock:
        allowed = _ended(play)
    asked = f"{name}: {asking.action} {asking.topic} as {asking.client_id}, {asking.user_name}, {version.name}"
    return Outcome(f"{asked}, {certificate and certificate.name}, from {address}", client, explained, allowed)


ALL: Sequence[Callable[[Explained], Outcome]] = (postgres, http, tunnel, mqtt_client)
