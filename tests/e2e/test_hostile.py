"""Whatever comes to a real gateway: a right answer or a close, one true audit record, and nothing left behind."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fake_upstream import Caller, FakeUpstream, server_context
from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.pki import issue, make_ca, write_pem
from tests.raw_client import SSL_REQUEST, RawClient, cancel, message, packet, password, query, startup
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the upstream"
CLEARTEXT_PASSWORD = (b"R", struct.pack("!I", 3))


@pytest.fixture(scope="module")
def shared_gateway(
    embedded_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    embedded_postgres.make_role("alice", PASSWORD)
    sections: Sections = {
        "upstream:main": behind(embedded_postgres, password=PASSWORD),
        "postgres:main": {"rules": "\ndeny template1 all all\nallow all all all"},
    }
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway, embedded_postgres: PostgresServer) -> Iterator[RunningGateway]:
    yield shared_gateway
    check_nothing_left(shared_gateway)
    wait_until(lambda: not embedded_postgres.connections(), "the upstream is rid of everybody")


def check_nothing_left(gateway: RunningGateway) -> None:
    gateway.check_at_rest()
    text = gateway.log.read_text() + (gateway.folder / "audit.jsonl").read_text()
    # The first is how every JWT begins, whatever its header: {"
    for secret in ("eyJ", PASSWORD, "Unhandled"):
        assert secret not in text
    ended = [record["connection"] for record in gateway.audit()]
    assert len(ended) == len(set(ended))
    assert {record["connection"] for record in gateway.audit("open")} <= set(ended)


def refused(gateway: RunningGateway, client: RawClient, sqlstate: str, reason: str) -> dict[str, str]:
    """The client is told just that, and the audit why."""
    fields = client.refusal()
    assert fields["C"] == sqlstate
    assert set(fields) == {"S", "V", "C", "M"}
    check_record(gateway, client, reason)
    return fields


def check_record(gateway: RunningGateway, client: RawClient, reason: str, decision: str = "refused") -> None:
    record = gateway.end_of(client.name)
    assert reason in record["reason"]
    assert record["decision"] == decision


def connected(gateway: RunningGateway) -> RawClient:
    """In clear, so far."""
    return RawClient(gateway.port, gateway.root_certificate)


# --- the first packet -------------------------------------------------------------------------------------------------

SSLV2_HELLO = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n", "invalid length", id="http"),
        pytest.param(random.Random(1).randbytes(400), "invalid length", id="random"),
        pytest.param(SSLV2_HELLO, "invalid length", id="sslv2"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "invalid length", id="ssh"),
        pytest.param(struct.pack("!II", 10_001, 3 << 16) + bytes(9_993), "10001", id="oversize"),
        pytest.param(struct.pack("!II", 0xFFFFFFFF, 3 << 16), "invalid length", id="length all ones"),
        pytest.param(struct.pack("!II", 7, 3 << 16), "invalid length", id="too short"),
        pytest.param(struct.pack("!I", 0), "invalid length", id="zeros"),
        pytest.param(packet(3 << 16, b"user\0alice"), "final zero", id="unfinished start-up"),
        pytest.param(packet(3 << 16, b"user\0alice\0user\0bob\0\0"), "repeated", id="two users"),
        pytest.param(packet(80877103, b"\0"), "9 bytes", id="SSLRequest with a body"),
        pytest.param(packet(80877102, bytes(300)), "CancelRequest", id="cancel with a huge key"),
        pytest.param(SSL_REQUEST + startup("alice"), "unencrypted bytes after", id="CVE-2021-23214"),
        pytest.param(SSL_REQUEST + SSL_REQUEST, "unencrypted bytes after", id="SSLRequest twice at once"),
    ],
)
def test_garbage_as_the_first_packet(gateway: RunningGateway, first: bytes, reason: str) -> None:
    with closing(connected(gateway)) as client:
        client.send_raw(first)
        refused(gateway, client, "08P01", reason)


def test_plain_text_client(gateway: RunningGateway) -> None:
    with closing(connected(gateway)) as client:
        client.send_raw(startup("alice"))
        assert "TLS" in refused(gateway, client, "28000", "plain text")["M"]


def test_plain_text_client_that_sends_its_token_all_the_same(gateway: RunningGateway) -> None:
    with closing(connected(gateway)) as client:
        client.send_raw(startup("alice") + password(gateway.token("alice")))
        refused(gateway, client, "28000", "plain text")


@pytest.mark.parametrize("version", [2 << 16, 4 << 16, 0, 0xFFFFFFFF])
def test_other_major_versions(gateway: RunningGateway, version: int) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send(packet(version, b"user\0alice\0\0"))
        refused(gateway, client, "0A000", "protocol ")


# --- TLS --------------------------------------------------------------------------------------------------------------

TLS10_HELLO = bytes.fromhex("160301002d010000290301") + bytes(range(32)) + bytes.fromhex("000002002f0100")


def check_handshake_refused(gateway: RunningGateway, client: RawClient, reason: str) -> None:
    """A TLS alert (content type 21) or nothing, then the end: PostgreSQL's messages have no place here."""
    answer = b"".join(iter(client.receive, b""))
    assert not answer or answer[0] == 21
    check_record(gateway, client, reason)


@pytest.mark.parametrize("ask", [SSL_REQUEST, b""], ids=["SSLRequest", "direct"])
def test_tls_1_0(gateway: RunningGateway, ask: bytes) -> None:
    with closing(connected(gateway)) as client:
        client.send_raw(ask)
        assert not ask or client.receive() == b"S"
        client.send_raw(TLS10_HELLO)
        check_handshake_refused(gateway, client, "TLS handshake: unsupported protocol")


@pytest.mark.parametrize("ask", [SSL_REQUEST, b"\x16"], ids=["SSLRequest", "direct"])
def test_garbage_instead_of_a_client_hello(gateway: RunningGateway, ask: bytes) -> None:
    with closing(connected(gateway)) as client:
        if ask == SSL_REQUEST:
            client.send_raw(ask)
            assert client.receive() == b"S"
            ask = b""
        client.send_raw(ask + b"GET / HTTP/1.1\r\n\r\n" + bytes(60))
        check_handshake_refused(gateway, client, "TLS handshake: ")


def test_client_that_does_not_trust_us(gateway: RunningGateway, tmp_path: Path) -> None:
    other = write_pem(tmp_path / "other.crt", make_ca("another").certificate)
    with closing(RawClient(gateway.port, other)) as client:
        with pytest.raises(ssl.SSLCertVerificationError):
            client.start_tls()
        client.send_raw(client._outgoing.read())
        client.close_sending()
        assert client.receive() == b""
        check_record(gateway, client, "unknown ca")


def test_direct_tls_without_alpn(gateway: RunningGateway) -> None:
    with closing(connected(gateway)) as client:
        client.start_tls(b"")
        refused(gateway, client, "08P01", "ALPN")


def test_tls_inside_tls(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send(SSL_REQUEST)
        refused(gateway, client, "08P01", "inside TLS")


def test_damaged_record_in_the_middle_of_a_session(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice"))
        client.send_raw(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert b"".join(iter(client.receive, b"")) == b""
        check_record(gateway, client, "broke", "allowed")


# --- slow and absent clients ------------------------------------------------------------------------------------------


def test_byte_by_byte_through_the_whole_login(gateway: RunningGateway) -> None:
    with closing(RawClient(gateway.port, gateway.root_certificate, slowly=True)) as client:
        client.start_tls()
        client.log_in("alice", gateway.token("alice"))
        assert client.value("SELECT current_user") == "alice"
    check_record(gateway, client, "the client's connection broke", "allowed")


def before_anything(_: RunningGateway, client: RawClient) -> None:
    pass


def in_the_first_packet(_: RunningGateway, client: RawClient) -> None:
    client.send_raw(SSL_REQUEST[:5])


def after_asking_for_tls(_: RunningGateway, client: RawClient) -> None:
    client.send_raw(SSL_REQUEST)
    assert client.socket.recv(1) == b"S"


def in_the_client_hello(gateway: RunningGateway, client: RawClient) -> None:
    after_asking_for_tls(gateway, client)
    client.send_raw(client.hello()[:100])


def after_the_client_hello(gateway: RunningGateway, client: RawClient) -> None:
    after_asking_for_tls(gateway, client)
    client.send_raw(client.hello())
    assert client.socket.recv(1)


def after_the_handshake(_: RunningGateway, client: RawClient) -> None:
    client.start_tls()


def in_the_startup_packet(_: RunningGateway, client: RawClient) -> None:
    client.start_tls()
    client.send(startup("alice")[:12])


def after_the_startup_packet(_: RunningGateway, client: RawClient) -> None:
    client.start_tls()
    client.send(startup("alice"))
    assert client.read() == CLEARTEXT_PASSWORD


def in_the_password(gateway: RunningGateway, client: RawClient) -> None:
    after_the_startup_packet(gateway, client)
    client.send(password(gateway.token("alice"))[:-10])


STAGES = [
    before_anything,
    in_the_first_packet,
    after_asking_for_tls,
    in_the_client_hello,
    after_the_client_hello,
    after_the_handshake,
    in_the_startup_packet,
    after_the_startup_packet,
    in_the_password,
]
Stage = Callable[[RunningGateway, RawClient], None]


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_client_leaves(gateway: RunningGateway, stage: Stage, reset: bool) -> None:
    with closing(connected(gateway)) as client:
        stage(gateway, client)
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    record = gateway.end_of(client.name)
    assert record["decision"] == "refused"
    assert record["reason"]
    assert "upstream" not in record


def test_client_leaves_right_after_its_password(gateway: RunningGateway) -> None:
    """Wherever the login then is, nothing stays: not here, not upstream."""
    for _ in range(10):
        with closing(connected(gateway)) as client:
            client.start_tls()
            client.send_login("alice", gateway.token("alice"))
        gateway.end_of(client.name)


def test_client_leaves_in_the_middle_of_a_query(gateway: RunningGateway, embedded_postgres: PostgresServer) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice"))
        client.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)"))
        client.receive()
    assert gateway.end_of(client.name)["decision"] == "allowed"


def check_no_message(client: RawClient) -> None:
    """Where the handshake has begun there is no place for PostgreSQL's messages: records of it, an alert, the end."""
    data = b"".join(iter(partial(client.socket.recv, 9999), b""))
    assert b"57014" not in data


def test_silent_clients_have_a_deadline(embedded_postgres: PostgresServer, tmp_path: Path) -> None:
    """At every stage of the login; whoever can be told is told."""
    sections: Sections = {
        "upstream:main": behind(embedded_postgres, password=PASSWORD),
        "limits": {"handshake_timeout": 1.5},
    }
    with RunningGateway.running(tmp_path, sections) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(closing(connected(gateway))) for _ in STAGES]
        began = time.monotonic()
        for client, stage in zip(clients, STAGES, strict=True):
            stage(gateway, client)
        for client, stage in zip(clients, STAGES, strict=True):
            if stage in (after_asking_for_tls, in_the_client_hello, after_the_client_hello):
                check_no_message(client)
            else:
                assert client.refusal()["C"] == "57014", stage
            check_record(gateway, client, "timed out while ")
        assert time.monotonic() - began < 10
        stack.close()
        check_nothing_left(gateway)


def test_slow_dribble_does_not_move_the_deadline(embedded_postgres: PostgresServer, tmp_path: Path) -> None:
    sections: Sections = {
        "upstream:main": behind(embedded_postgres, password=PASSWORD),
        "limits": {"handshake_timeout": 1},
    }
    with RunningGateway.running(tmp_path, sections) as gateway:
        with closing(connected(gateway)) as client:
            client.socket.settimeout(0.1)
            dribble = iter(packet(3 << 16, b"user\0" + b"a" * 9000))
            began = time.monotonic()
            while time.monotonic() < began + 10:
                try:
                    client.send_raw(bytes([next(dribble)]))
                    if client.socket.recv(1):
                        break
                except TimeoutError:
                    continue
            assert 0.5 < time.monotonic() - began < 8
            check_record(gateway, client, "timed out while CLEAR")
        check_nothing_left(gateway)


def test_many_quick_connects(gateway: RunningGateway) -> None:
    before = len(gateway.audit())
    for number in range(500):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            if number % 2:
                client.sendall(SSL_REQUEST)
    wait_until(lambda: len(gateway.audit()) == before + 500, "500 connections have ended")


def test_many_at_once(gateway: RunningGateway) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connected(gateway))) for _ in range(300)]
        for client in clients:
            client.send_raw(SSL_REQUEST)
        for client in clients:
            assert client.socket.recv(1) == b"S"
        with RawClient.connected(gateway.port, gateway.root_certificate) as another:
            another.log_in("alice", gateway.token("alice"))


# --- tokens -----------------------------------------------------------------------------------------------------------


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(gateway: RunningGateway) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, {"sub": "alice", "exp": time.time() + 60})]
    return ".".join(map(base64url, parts)) + "."


def with_the_public_key_as_secret(gateway: RunningGateway) -> str:
    header, claims = {"alg": "HS256", "typ": "JWT"}, {"sub": "alice", "exp": time.time() + 60}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    key = (gateway.folder / "jwt.pub").read_bytes()
    return f"{signed}.{base64url(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def foreign(gateway: RunningGateway) -> str:
    return jwt.encode({"sub": "alice", "exp": time.time() + 60}, Ed25519PrivateKey.generate(), algorithm="EdDSA")


def with_its_own_key(gateway: RunningGateway) -> str:
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}
    claims = {"sub": "alice", "exp": time.time() + 60}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"jwk": jwk, "jku": "http://127.0.0.1:1/"})


def changed(gateway: RunningGateway) -> str:
    head, claims, signature = gateway.token("mallory").split(".")
    payload = json.loads(base64.urlsafe_b64decode(claims + "=="))
    return f"{head}.{base64url(json.dumps({**payload, 'sub': 'alice'}).encode())}.{signature}"


# By what is the matter with it, and what the audit says of that.
TOKENS: dict[str, tuple[Callable[[RunningGateway], str], str]] = {
    "none": (unsigned, "strict base64url"),
    "none with a signature": (lambda gateway: unsigned(gateway) + "AAAA", "no configured key may verify alg 'none'"),
    "HS256 with the public key": (with_the_public_key_as_secret, "no configured key may verify alg 'HS256'"),
    "foreign": (foreign, "signature fits no configured key"),
    "own key": (with_its_own_key, "signature fits no configured key"),
    "changed": (changed, "signature fits no configured key"),
    "expired": (lambda gateway: gateway.token("alice", -1), "expired"),
    "not yet": (lambda gateway: gateway.token("alice", nbf=time.time() + 100), "nbf"),
    "other user": (lambda gateway: gateway.token("bob"), "for another user"),
    "other case": (lambda gateway: gateway.token("Alice"), "for another user"),
    "space": (lambda gateway: gateway.token("alice ") + "", "for another user"),
    "longer": (lambda gateway: gateway.token("alice") + "A", "the token's signature"),
    "cut": (lambda gateway: gateway.token("alice")[:-4], "the token's signature"),
    "padded": (lambda gateway: gateway.token("alice") + "=", "strict base64url"),
    "line feed": (lambda gateway: gateway.token("alice") + "\n", "strict base64url"),
    "the password": (lambda gateway: PASSWORD, "not a JWT"),
    "empty": (lambda gateway: "", "not a JWT"),
    "three dots": (lambda gateway: "...", "not a JWT"),
    "60000 dots": (lambda gateway: "." * 60_000, "not a JWT"),
}


@pytest.mark.parametrize(("token", "reason"), TOKENS.values(), ids=TOKENS.keys())
def test_token(gateway: RunningGateway, token: Callable[[RunningGateway], str], reason: str) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send_login("alice", token(gateway))
        fields = refused(gateway, client, "28P01", reason)
        assert fields["M"] == "Authentication failed"
        record = gateway.end_of(client.name)
        assert record["reason"].startswith("authentication failed: ")
        assert record["user"] == "alice"
        assert "upstream" not in record


def test_token_of_another_user_is_audited_as_theirs(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send_login("alice", gateway.token("mallory", jti="token-7"))
        client.refusal()
        record = gateway.end_of(client.name)
        assert (record["user"], record["subject"], record["jti"]) == ("alice", "mallory", "token-7")


def test_token_as_long_as_allowed(gateway: RunningGateway) -> None:
    token = gateway.token("alice", ballast="x" * 48_000)
    assert 64_000 < len(token) < 65_536 - 6
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.log_in("alice", token)


@pytest.mark.parametrize("size", [65_537, 200_000])
def test_token_of_more_than_64_kib(gateway: RunningGateway, size: int) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send_login("alice", "e" * size)
        refused(gateway, client, "08P01", "protocol violation: message b'p'")


@pytest.mark.parametrize(
    "instead",
    [
        query("SELECT 1"),
        b"\0" * 40,
        message(b"p", b"no zero at its end"),
        message(b"p", b"two\0strings\0"),
        b"p\0\0\0\1",
    ],
    ids=["a query", "zeros", "unfinished", "two strings", "impossible length"],
)
def test_something_else_than_a_password(gateway: RunningGateway, instead: bytes) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send(startup("alice"))
        assert client.read() == CLEARTEXT_PASSWORD
        client.send(instead)
        refused(gateway, client, "08P01", "protocol violation")


def test_everything_at_once(gateway: RunningGateway) -> None:
    """A password sent unasked would come before anybody knows that it is wanted."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send(startup("alice") + password(gateway.token("alice")) + query("SELECT 1"))
        refused(gateway, client, "08P01", "bytes after the StartupMessage")


# --- what is asked for ------------------------------------------------------------------------------------------------


def attempt(gateway: RunningGateway, client: RawClient, user: str, database: str, **more: str) -> None:
    client.send_login(user, gateway.token(user), database, **more)


def test_database_that_is_not_allowed(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "template1")
        refused(gateway, client, "28000", "deny template1 all all")


@pytest.mark.parametrize(
    "parameters",
    [{"replication": "true"}, {"options": "-c session_authorization=postgres"}, {"session_authorization": "postgres"}],
)
def test_more_than_is_allowed(gateway: RunningGateway, parameters: dict[str, str]) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "postgres", **parameters)
        refused(gateway, client, "28000", "denied")


def test_superuser(gateway: RunningGateway, embedded_postgres: PostgresServer) -> None:
    embedded_postgres.make_role("root", PASSWORD, options="SUPERUSER")
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        attempt(gateway, client, "root", "postgres")
        refused(gateway, client, "28000", "superuser")


def test_database_that_does_not_exist(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "nowhere")
        assert 'database "nowhere" does not exist' in refused(gateway, client, "3D000", "3D000")["M"]


def test_upstream_that_refuses_our_password(gateway: RunningGateway) -> None:
    """What is between the gateway and the database is no business of the client's."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        attempt(gateway, client, "nobody-there", "postgres")
        fields = refused(gateway, client, "28000", "28P01")
        assert "nobody-there" not in fields["M"]


# --- bad upstreams ----------------------------------------------------------------------------------------------------


def hang(caller: Caller) -> None:
    caller.wait()


def speak_http(caller: Caller) -> None:
    caller.read()
    caller.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    caller.wait()


def error_before_tls(caller: Caller) -> None:
    """Nobody's word, so nobody may hear it (CVE-2024-10977)."""
    caller.read()
    caller.send(message(b"E", b"SFATAL\0VFATAL\0C3D000\0MSend your password to me\0\0"))
    caller.wait()


def more_than_one_byte(caller: Caller) -> None:
    caller.read()
    caller.send(b"S" + message(b"R", struct.pack("!I", 0)))
    caller.wait()


def without_tls(caller: Caller) -> None:
    caller.read()
    caller.send(b"N")
    caller.wait()


def hang_up(caller: Caller) -> None:
    caller.read()


def inside(context: ssl.SSLContext, *answers: bytes) -> Callable[[Caller], None]:
    """TLS, then one of the answers to whatever is said, each after the other."""

    def talk(caller: Caller) -> None:
        caller.start_tls(context)
        for answer in answers:
            caller.read()
            caller.send(answer)
        caller.wait()

    return talk


def authentication(kind: int, more: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!I", kind) + more)


READY = authentication(0) + message(b"S", b"is_superuser\0off\0") + message(b"Z", b"I")
SCRAM = authentication(10, b"SCRAM-SHA-256\0\0")

# What each upstream does, what the audit says of it.
BAD: dict[str, str] = {
    "down": "Connection refused",
    "hanging": "longer than connect_timeout",
    "http": "something else than one byte S or N",
    "error-before-tls": "something else than one byte S or N",
    "two-bytes": "something else than one byte S or N",
    "without-tls": "does not offer TLS",
    "hangs-up": "closed the connection",
    "foreign-certificate": "certificate verify failed: unable to get local issuer certificate",
    "wrong-name": "the upstream's certificate is not for localhost",
    "expired-certificate": "certificate has expired",
    "garbage-inside": "breaks the protocol",
    "huge-message": "breaks the protocol",
    "hanging-inside": "longer than connect_timeout",
    "lets-in-unasked": "'none', which password_methods does not allow",
    "wants-cleartext": "'password', which password_methods does not allow",
    "wants-md5": "'md5', which password_methods does not allow",
    "wrong-scram": "SCRAM",
    "unproven": "at the wrong moment",
    "endless-greeting": "no end",
}


@pytest.fixture(scope="module")
def bad_upstreams(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningGateway, dict[str, int], dict[str, FakeUpstream]]]:
    """One gateway with a listener for each of them: their ports, and the upstreams."""
    folder = tmp_path_factory.mktemp("bad")
    ca, other = make_ca("upstreams"), make_ca("others")
    good = server_context(folder, issue(ca, sans=["localhost"]), "good")
    foreign = server_context(folder, issue(other, sans=["localhost"]), "foreign")
    wrong = server_context(folder, issue(ca, "localhost", sans=["elsewhere.example"]), "wrong")
    expired = server_context(folder, issue(ca, sans=["localhost"], valid=(-9, -1)), "expired")
    status = message(b"S", b"x\0" + b"y" * 60_000 + b"\0")
    talks = {
        "hanging": hang,
        "http": speak_http,
        "error-before-tls": error_before_tls,
        "two-bytes": more_than_one_byte,
        "without-tls": without_tls,
        "hangs-up": hang_up,
        "foreign-certificate": inside(foreign, READY),
        "wrong-name": inside(wrong, READY),
        "expired-certificate": inside(expired, READY),
        "garbage-inside": inside(good, random.Random(2).randbytes(999)),
        "huge-message": inside(good, b"R\x7f\xff\xff\xff"),
        "hanging-inside": inside(good),
        "lets-in-unasked": inside(good, READY),
        "wants-cleartext": inside(good, authentication(3)),
        "wants-md5": inside(good, authentication(5, b"salt")),
        "wrong-scram": inside(good, SCRAM, authentication(11, b"r=another nonce,s=c2FsdA==,i=4096")),
        "unproven": inside(good, SCRAM, READY),
        "endless-greeting": inside(good, SCRAM.replace(SCRAM, authentication(0)) + status * 9),
    }
    write_pem(folder / "upstreams.crt", ca.certificate)
    with ExitStack() as stack:
        fakes = {name: stack.enter_context(FakeUpstream.running(talk)) for name, talk in talks.items()}
        ports = {name: free_port() for name in BAD}
        sections: dict[str, dict[str, object]] = {}
        for name in BAD:
            sections[f"postgres:{name}"] = {
                "listen": f"127.0.0.1:{ports[name]}",
                "upstream": name,
                "rules": "\nallow all all all",
            }
            sections[f"upstream:{name}"] = {
                "hosts": f"localhost:{fakes[name].port if name in fakes else free_port()}",
                "root_certificate": folder / "upstreams.crt",
                "connect_timeout": 1 if "hanging" in name else 20,
            }
            if name != "endless-greeting":
                sections[f"upstream:{name}"]["password"] = PASSWORD
        sections["upstream:main"] = {"hosts": "/nowhere/.s.PGSQL.5432"}
        yield stack.enter_context(RunningGateway.running(folder, sections)), ports, fakes


@pytest.mark.parametrize("name", BAD)
def test_bad_upstream(bad_upstreams: tuple[RunningGateway, dict[str, int], dict[str, FakeUpstream]], name: str) -> None:
    gateway, ports, fakes = bad_upstreams
    with RawClient.connected(ports[name], gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "postgres")
        fields = refused(gateway, client, "08006", BAD[name])
        assert fields["M"] == "The database cannot be reached"
    check_nothing_left(gateway)
    if name in fakes:
        (caller,) = fakes[name].callers
        assert PASSWORD.encode() not in caller.said


def test_socket_that_is_not_there(
    bad_upstreams: tuple[RunningGateway, dict[str, int], dict[str, FakeUpstream]],
) -> None:
    gateway = bad_upstreams[0]
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "postgres")
        refused(gateway, client, "08006", "No such file")
    check_nothing_left(gateway)


def test_client_leaves_while_the_upstream_hangs(
    bad_upstreams: tuple[RunningGateway, dict[str, int], dict[str, FakeUpstream]],
) -> None:
    gateway, ports, fakes = bad_upstreams
    callers = len(fakes["hanging"].callers)
    with RawClient.connected(ports["hanging"], gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "postgres")
        wait_until(lambda: len(fakes["hanging"].callers) > callers, "the upstream was dialed")
    assert gateway.end_of(client.name)["reason"] == "TLS: unexpected eof while reading"
    check_nothing_left(gateway)


def test_nothing_is_dialed_for_a_bad_token(
    bad_upstreams: tuple[RunningGateway, dict[str, int], dict[str, FakeUpstream]],
) -> None:
    gateway, ports, fakes = bad_upstreams
    callers = len(fakes["http"].callers)
    for token in (foreign(gateway), gateway.token("alice", -5), gateway.token("bob")):
        with RawClient.connected(ports["http"], gateway.root_certificate) as client:
            client.send_login("alice", token)
            assert client.refusal()["C"] == "28P01"
    assert len(fakes["http"].callers) == callers


def test_too_much_ahead_of_the_login(
    bad_upstreams: tuple[RunningGateway, dict[str, int], dict[str, FakeUpstream]],
) -> None:
    """What a client sends before it is let in is bounded."""
    gateway, ports, _ = bad_upstreams
    with RawClient.connected(ports["hanging-inside"], gateway.root_certificate) as client:
        attempt(gateway, client, "alice", "postgres")
        client.send(bytes(200_000))
        refused(gateway, client, "08P01", "ahead of ReadyForQuery")
    check_nothing_left(gateway)


def test_cancel_of_nothing_in_clear(gateway: RunningGateway) -> None:
    with closing(connected(gateway)) as client:
        client.send_raw(cancel(1, b"none"))
        assert client.is_closed()
        check_record(gateway, client, "cancel: no such session", "cancel")
