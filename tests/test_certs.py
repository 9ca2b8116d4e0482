"""The context layer, by handshakes over a socket pair: who is let in, who is refused, and what the operator is told."""

from __future__ import annotations

import contextlib
import gc
import socket
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import pytest
from asn1crypto import crl as asn1crl  # type: ignore[import-untyped]
from asn1crypto import pem as asn1pem
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from gateway import trust
from gateway.certs import Certificates, ClientContext, ServerContext, handshake_failure, tls_facts
from gateway.errors import ConfigError, Problems, UpstreamError
from gateway.upstream import Address, ClientTLS, Login, ServerTLS, TLSMode, Upstream
from tests.pki import CLIENT, PEM, SERVER, Issued, common_name, issue, make_ca, make_crl, pem, write_pem
from tests.wires import unix_pair

openssl: Any = vars(SSL)["_lib"]
CA = make_ca("Server CA")
CLIENTS = make_ca("Client CA")
SERVER_CERTIFICATE = issue(CA, "db.example.org", sans=["db.example.org", "127.0.0.1", "::1"], eku=[SERVER])


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "gateway.trust":
            said.append(f"{event['path'].name}: {event['words']}")

    globalLogPublisher.addObserver(observe)
    yield said
    globalLogPublisher.removeObserver(observe)


@dataclass
class Pair:
    """Two connections after their handshake; an error is what ended that side's."""

    client: SSL.Connection
    server: SSL.Connection
    client_error: SSL.Error | None = None
    server_error: SSL.Error | None = None

    @property
    def accepted(self) -> bool:
        return self.client_error is None and self.server_error is None


def sockets() -> tuple[socket.socket, socket.socket]:
    pair = unix_pair()
    for each in pair:
        each.setblocking(False)
    return pair


def step(connection: SSL.Connection) -> bool | SSL.Error:
    """True when that side's handshake is complete, an error when it failed, False when it waits."""
    try:
        connection.do_handshake()
    except (SSL.WantReadError, SSL.WantWriteError):
        return False
    except SSL.Error as error:
        return error
    return True


def shake(client: SSL.Connection, server: SSL.Connection) -> Pair:
    """Drives both to their end, then lets the client read: in TLS 1.3 a late refusal of its certificate comes there."""
    outcome: dict[SSL.Connection, bool | SSL.Error] = {client: False, server: False}
    for _ in range(20):
        for side in (client, server):
            outcome[side] = outcome[side] or step(side)
    errors = {side: result for side, result in outcome.items() if isinstance(result, SSL.Error)}
    if client not in errors:
        try:
            client.recv(1)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            errors[client] = error
    return Pair(client, server, errors.get(client), errors.get(server))


def plain_client(
    sock: socket.socket,
    certificate: Issued | None = None,
    *,
    name: str | None = None,
    alpn: list[bytes] | None = None,
    maximum: int = 0,
    ciphers: bytes | None = None,
) -> SSL.Connection:
    """A client that is not the gateway's own, and as careless as OpenSSL lets it be."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(ciphers or b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(0)
    context.set_max_proto_version(maximum)
    if certificate:
        context.use_certificate(certificate.certificate)
        context.use_privatekey(certificate.key)
        for issuer in certificate.chain:
            context.add_extra_chain_cert(issuer)
    if alpn:
        context.set_alpn_protos(alpn)
    connection = SSL.Connection(context, sock)
    if name is not None:
        connection.set_tlsext_host_name(name.encode())
    connection.set_connect_state()
    return connection


def plain_server(
    sock: socket.socket, certificate: Issued = SERVER_CERTIFICATE, *, ask: bool = False, maximum: int = 0
) -> SSL.Connection:
    """A server that is not the gateway's own; `ask`s for any client certificate."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(0)
    context.set_max_proto_version(maximum)
    context.use_certificate(certificate.certificate)
    context.use_privatekey(certificate.key)
    for issuer in certificate.chain:
        context.add_extra_chain_cert(issuer)
    if ask:
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    connection = SSL.Connection(context, sock)
    connection.set_accept_state()
    return connection


class Listener:
    """A server context built from files in a folder, and clients that try it."""

    def __init__(self, folder: Path, alpn: tuple[bytes, ...] = (), **settings: Any) -> None:
        certificate, key = SERVER_CERTIFICATE.write(folder, "server")
        self.tls = ServerTLS(certificate, key, **settings)
        self.context = ServerContext("postgres", self.tls, alpn, problems := Problems())
        problems.raise_if_any()

    def meet(self, certificate: Issued | None = None, **knobs: Any) -> Pair:
        ours, theirs = sockets()
        return shake(plain_client(theirs, certificate, **knobs), self.context.connection(ours))


def problems_of(tls: ServerTLS) -> list[str]:
    ServerContext("postgres", tls, (), problems := Problems())
    return [str(problem) for problem in problems.found]


def verifying(folder: Path, *crls: PEM, **settings: Any) -> Listener:
    """A listener that requires a certificate of CLIENTS, with a CRL file if there are any."""
    ca = write_pem(folder / "clients.crt", CLIENTS.certificate)
    crl = write_pem(folder / "clients.crl", *crls) if crls else None
    return Listener(folder, **{"client_certificate": "required", "client_ca": ca, "client_crl": crl, **settings})


def refusal(pair: Pair) -> str:
    """The server's own reason; that the client failed as well is part of the claim."""
    assert pair.client_error is not None
    assert pair.server_error is not None
    return handshake_failure(pair.server, pair.server_error)


# --- the protocol itself ------------------------------------------------------------------------------------------


def test_tls_1_3_with_the_post_quantum_group_where_openssl_has_it(tmp_path: Path) -> None:
    pair = Listener(tmp_path).meet()
    assert pair.accepted
    assert tls_facts(pair.server).version == "TLSv1.3"
    if SSL.OPENSSL_VERSION_NUMBER >= 0x30500000:
        assert pair.server.get_group_name() == "X25519MLKEM768"


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_old_versions_are_refused(tmp_path: Path, version: int) -> None:
    assert "protocol" in refusal(Listener(tmp_path).meet(maximum=version))


def test_the_minimum_version_is_kept(tmp_path: Path) -> None:
    assert Listener(tmp_path).meet(maximum=SSL.TLS1_2_VERSION).accepted
    strict = Listener(tmp_path, minimum_version="1.3")
    assert "protocol" in refusal(strict.meet(maximum=SSL.TLS1_2_VERSION))
    assert strict.meet().accepted


def test_tls_1_2_has_forward_secrecy_and_aead_only(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    offered = listener.meet().server.get_cipher_list()
    old = [name for name in offered if not name.startswith("TLS_")]
    assert old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in old)
    assert "PSK" not in "".join(old)
    cbc = listener.meet(maximum=SSL.TLS1_2_VERSION, ciphers=b"ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    assert "no shared cipher" in refusal(cbc)


def test_renegotiation_is_refused(tmp_path: Path) -> None:
    pair = Listener(tmp_path).meet(maximum=SSL.TLS1_2_VERSION)
    assert pair.client.renegotiate()
    client: bool | SSL.Error = False
    for _ in range(5):
        client = client or step(pair.client)
        with contextlib.suppress(SSL.Error):
            pair.server.recv(1)
    assert "no renegotiation" in str(client)
    assert pair.server.total_renegotiations() == 0


def resumes(server: SSL.Context, maximum: int) -> bool:
    """Whether a second connection gets by without a handshake of its own, offering the first one's session."""
    client = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client.set_max_proto_version(maximum)
    session = None
    for _ in range(2):
        ours, theirs = sockets()
        first, second = SSL.Connection(client, theirs), SSL.Connection(server, ours)
        first.set_connect_state()
        second.set_accept_state()
        if session:
            first.set_session(session)
        assert shake(first, second).accepted
        session = first.get_session()
        first.shutdown()  # without it OpenSSL forgets the session
    return bool(openssl.SSL_session_reused(first._ssl))


@pytest.mark.parametrize("maximum", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_no_session_is_ever_resumed(tmp_path: Path, maximum: int) -> None:
    naive = SSL.Context(SSL.TLS_SERVER_METHOD)
    naive.use_certificate(SERVER_CERTIFICATE.certificate)
    naive.use_privatekey(SERVER_CERTIFICATE.key)
    assert resumes(naive, maximum), "the attempt itself does not work"
    assert not resumes(Listener(tmp_path).context._default, maximum)


def test_options_and_modes(tmp_path: Path) -> None:
    for context in (Listener(tmp_path).context._default, ClientContext("u", ClientTLS(), Login(), Problems())._context):
        options = context.set_options(0)
        assert options & SSL.OP_NO_COMPRESSION
        assert options & SSL.OP_NO_RENEGOTIATION
        assert options & SSL.OP_NO_TICKET
        assert not options & SSL.OP_IGNORE_UNEXPECTED_EOF
        assert context.set_mode(0) & 0x13 == 0x13
        assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_twisted_may_use_it_too(tmp_path: Path) -> None:
    context = Listener(tmp_path).context
    assert verifyObject(IOpenSSLServerConnectionCreator, context)
    connection: SSL.Connection = context.serverConnectionForTLS(None)  # type: ignore[arg-type]
    assert connection.get_context() is context._default


def test_a_connection_is_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    listener = sni_listener(tmp_path, ("a.example.org",), alpn=(b"postgresql",))
    gc.collect()
    gc.disable()
    try:
        pair = listener.meet(name="a.example.org", alpn=[b"postgresql"])
        gone = weakref.ref(pair.server)
        del pair
        assert gone() is None
    finally:
        gc.enable()


# --- ALPN ---------------------------------------------------------------------------------------------------------


def test_alpn_is_our_first_that_the_client_offers(tmp_path: Path) -> None:
    listener = Listener(tmp_path, alpn=(b"h2", b"http/1.1"))
    assert tls_facts(listener.meet(alpn=[b"http/1.1", b"h2"]).server).alpn == b"h2"
    assert tls_facts(listener.meet(alpn=[b"x", b"http/1.1"]).server).alpn == b"http/1.1"


def test_alpn_without_a_common_protocol_is_the_alert_of_rfc_7301(tmp_path: Path) -> None:
    listener = Listener(tmp_path, alpn=(b"postgresql",))
    pair = listener.meet(alpn=[b"http/1.1"])
    assert refusal(pair) == "the client offers no protocol of ours"
    assert "no application protocol" in str(pair.client_error)
    # The refusal belongs to that connection: the context serves the next one.
    assert tls_facts(listener.meet(alpn=[b"postgresql"]).server).alpn == b"postgresql"


def test_alpn_may_be_left_out_by_either_side(tmp_path: Path) -> None:
    assert tls_facts(Listener(tmp_path, alpn=(b"postgresql",)).meet().server).alpn == b""
    pair = Listener(tmp_path).meet(alpn=[b"postgresql"])
    assert pair.accepted
    assert tls_facts(pair.client).alpn == b""


# --- SNI ----------------------------------------------------------------------------------------------------------


def sni_listener(folder: Path, *names: tuple[str, ...], alpn: tuple[bytes, ...] = (), **settings: Any) -> Listener:
    """A listener with one further certificate for each tuple of SANs; its CN says which."""
    pairs = tuple(issue(CA, sans[0], sans=sans).write(folder, f"sni{n}") for n, sans in enumerate(names))
    return Listener(folder, alpn, sni=pairs, **settings)


def served(listener: Listener, name: str | None) -> str:
    pair = listener.meet(name=name)
    assert pair.accepted
    certificate = pair.client.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate.subject.rfc4514_string().removeprefix("CN=")


@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        ("a.example.org", "a.example.org"),
        ("A.Example.ORG", "a.example.org"),
        ("b.example.org", "*.example.org"),
        ("db.example.org", "db.example.org"),  # the default certificate's own name comes before any wildcard
        ("x.b.example.org", "db.example.org"),  # a wildcard is one label
        ("example.org", "db.example.org"),
        ("*.example.org", "*.example.org"),
        (".example.org", "*.example.org"),
        ("unknown.test", "db.example.org"),
        ("upper.test", "Upper.Test"),
        ("ü", "db.example.org"),
        (None, "db.example.org"),
    ],
)
def test_sni_chooses_the_certificate(tmp_path: Path, name: str | None, certificate: str) -> None:
    listener = sni_listener(tmp_path, ("a.example.org",), ("*.example.org", "*"), ("Upper.Test",))
    assert served(listener, name) == certificate


def test_the_first_certificate_of_a_name_serves_it(tmp_path: Path) -> None:
    listener = sni_listener(tmp_path, ("one.test", "shared.test"), ("two.test", "shared.test"))
    assert served(listener, "shared.test") == "one.test"


def test_the_name_changes_nothing_but_the_certificate(tmp_path: Path) -> None:
    ca = write_pem(tmp_path / "clients.crt", CLIENTS.certificate)
    listener = sni_listener(
        tmp_path, ("a.example.org",), alpn=(b"postgresql",), client_certificate="required", client_ca=ca
    )
    refused = listener.meet(name="a.example.org", alpn=[b"postgresql"])
    assert "peer did not return a certificate" in refusal(refused)
    foreign = listener.meet(issue(CA), name="a.example.org", alpn=[b"postgresql"])
    assert "certificate verify failed" in refusal(foreign)
    assert "no protocol" in refusal(listener.meet(name="a.example.org", alpn=[b"x"]))
    good = listener.meet(issue(CLIENTS), name="a.example.org", alpn=[b"postgresql"])
    assert good.accepted
    facts = tls_facts(good.server)
    assert (facts.alpn, facts.server_name) == (b"postgresql", "a.example.org")


@pytest.mark.skipif(not hasattr(openssl, "SSL_CTX_set1_curves_list"), reason="this pyOpenSSL cannot force a retry")
def test_a_hello_after_a_retry_is_answered_by_a_reloaded_listener_too(tmp_path: Path) -> None:
    """OpenSSL asks for the name again after a HelloRetryRequest, when only the connection holds the old contexts."""
    listener = sni_listener(tmp_path, ("a.example.org",))
    ours, theirs = sockets()
    server = listener.context.connection(ours)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    # The client sends a key share for its first group only, and the gateway wants the other one.
    openssl.SSL_CTX_set1_curves_list(context._context, b"X448:X25519")
    client = SSL.Connection(context, theirs)
    client.set_tlsext_host_name(b"a.example.org")
    client.set_connect_state()
    assert step(client) is False
    assert step(server) is False
    del listener
    gc.collect()
    assert shake(client, server).accepted


# --- client certificates ------------------------------------------------------------------------------------------


def test_a_good_client_certificate_is_told_in_der(tmp_path: Path) -> None:
    alice = issue(CLIENTS, "alice", eku=[CLIENT])
    pair = verifying(tmp_path).meet(alice)
    assert pair.accepted
    assert tls_facts(pair.server).peer_certificate == alice.certificate.public_bytes(Encoding.DER)
    assert tls_facts(Listener(tmp_path).meet(alice).server).peer_certificate is None, "nobody asked for it"


def fingerprints(*authorities: Issued) -> tuple[bytes, ...]:
    return tuple(sha256(each.certificate.public_bytes(Encoding.DER)).digest() for each in authorities)


def test_who_vouches_for_a_client_is_told_from_its_issuer_to_the_root(tmp_path: Path) -> None:
    middle = make_ca("Middle", CLIENTS)
    low = make_ca("Low", middle)
    for issued, issuers in ((issue(CLIENTS), (CLIENTS,)), (issue(low), (low, middle, CLIENTS))):
        pair = verifying(tmp_path).meet(issued)
        assert tls_facts(pair.server, issuers=True).peer_issuers == fingerprints(*issuers)
        assert tls_facts(pair.server).peer_issuers == (), "nobody asked for it"


def test_a_certificate_that_is_only_sent_along_vouches_for_nobody(tmp_path: Path) -> None:
    alice = issue(CLIENTS, "alice")
    pair = verifying(tmp_path).meet(replace(alice, chain=(CA.certificate, ROGUE.certificate)))
    assert pair.accepted
    sent = [each.to_cryptography() for each in pair.server.get_peer_cert_chain() or ()]
    assert CA.certificate in sent, "the attempt itself does not work"
    assert tls_facts(pair.server, issuers=True).peer_issuers == fingerprints(CLIENTS)


def test_nobody_vouches_for_who_shows_no_certificate(tmp_path: Path) -> None:
    pair = verifying(tmp_path, client_certificate="optional").meet()
    assert tls_facts(pair.server, issuers=True).peer_issuers == ()


@pytest.mark.parametrize("maximum", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_no_certificate(tmp_path: Path, maximum: int) -> None:
    required = verifying(tmp_path).meet(maximum=maximum)
    assert "peer did not return a certificate" in refusal(required)
    optional = verifying(tmp_path, client_certificate="optional").meet(maximum=maximum)
    assert optional.accepted
    assert tls_facts(optional.server).peer_certificate is None


ROGUE = make_ca("Client CA")  # the same name, another key
REFUSED = {
    "foreign": (issue(CA, "alice"), "unable to get local issuer certificate"),
    "of a namesake authority": (issue(ROGUE, "alice"), "unable to get local issuer certificate"),
    "self-signed": (make_ca("alice"), "self-signed certificate"),
    "expired": (issue(CLIENTS, "alice", valid=(-2, -1)), "certificate has expired"),
    "not yet valid": (issue(CLIENTS, "alice", valid=(1, 2)), "certificate is not yet valid"),
    "for servers": (issue(CLIENTS, "alice", eku=[SERVER]), "unsuitable certificate purpose"),
    "of a leaf": (issue(issue(CLIENTS, "mallory"), "alice"), "invalid CA certificate"),
}


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("flaw", REFUSED)
def test_a_bad_client_certificate_is_refused_even_where_it_is_optional(tmp_path: Path, flaw: str, mode: str) -> None:
    certificate, reason = REFUSED[flaw]
    assert reason in refusal(verifying(tmp_path, client_certificate=mode).meet(certificate))


def test_a_certificate_without_a_stated_purpose_serves_any(tmp_path: Path) -> None:
    assert verifying(tmp_path).meet(issue(CLIENTS, "alice", eku=[])).accepted


def test_the_systems_authorities_are_not_those_of_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(write_pem(tmp_path / "system.crt", CA.certificate)))
    assert "unable to get local issuer" in refusal(verifying(tmp_path).meet(issue(CA, "alice")))


def test_an_intermediate_comes_with_the_client_and_the_root_from_us(tmp_path: Path) -> None:
    intermediate = make_ca("Intermediate", CLIENTS)
    alice = issue(intermediate, "alice")
    listener = verifying(tmp_path)
    assert listener.meet(alice).accepted
    assert "unable to get local issuer" in refusal(listener.meet(replace(alice, chain=())))


def test_clients_are_told_whom_we_trust(tmp_path: Path) -> None:
    pair = verifying(tmp_path).meet(issue(CLIENTS))
    assert [name.CN for name in pair.client.get_client_ca_list()] == ["Client CA"]


# --- revocation ---------------------------------------------------------------------------------------------------

ALICE = issue(CLIENTS, "alice")
MALLORY = issue(CLIENTS, "mallory")
INTERMEDIATE = make_ca("Intermediate", CLIENTS)
BOB = issue(INTERMEDIATE, "bob")


def test_a_revoked_client_is_refused(tmp_path: Path) -> None:
    listener = verifying(tmp_path, make_crl(CLIENTS, [MALLORY]))
    assert listener.meet(ALICE).accepted
    assert "certificate revoked" in refusal(listener.meet(MALLORY))


def test_a_revoked_client_is_refused_under_another_certificate_of_ours(tmp_path: Path) -> None:
    pair = issue(CA, sans=["a.example.org"]).write(tmp_path, "sni")
    listener = verifying(tmp_path, make_crl(CLIENTS, [MALLORY]), sni=(pair,))
    assert listener.meet(ALICE, name="a.example.org").accepted
    assert "certificate revoked" in refusal(listener.meet(MALLORY, name="a.example.org"))


def test_every_certificate_of_the_chain_needs_a_crl(tmp_path: Path) -> None:
    root, intermediate = make_crl(CLIENTS), make_crl(INTERMEDIATE)
    assert verifying(tmp_path, root, intermediate).meet(BOB).accepted
    assert "unable to get certificate CRL" in refusal(verifying(tmp_path, root).meet(BOB))
    assert "unable to get certificate CRL" in refusal(verifying(tmp_path, intermediate).meet(BOB))


def test_a_revoked_intermediate_takes_its_clients_along(tmp_path: Path) -> None:
    listener = verifying(tmp_path, make_crl(CLIENTS, [INTERMEDIATE]), make_crl(INTERMEDIATE))
    assert "certificate revoked" in refusal(listener.meet(BOB))


def test_a_forged_crl_clears_nobody(tmp_path: Path) -> None:
    assert "CRL signature failure" in refusal(verifying(tmp_path, make_crl(CLIENTS, key=ROGUE.key)).meet(ALICE))


def test_a_stale_crl_refuses_by_default_and_is_told_at_the_start(tmp_path: Path, warnings: list[str]) -> None:
    listener = verifying(tmp_path, make_crl(CLIENTS, valid=(-3, -1)))
    assert warnings == ["clients.crl: a CRL in it is past its nextUpdate: whom it speaks of is refused"]
    assert "CRL has expired" in refusal(listener.meet(ALICE))


def test_a_stale_crl_may_count_still_with_one_warning(tmp_path: Path, warnings: list[str]) -> None:
    listener = verifying(tmp_path, make_crl(CLIENTS, [MALLORY], valid=(-3, -1)), stale_crl="warn")
    assert listener.meet(ALICE).accepted
    assert listener.meet(ALICE).accepted
    assert warnings == ["clients.crl: a CRL past its nextUpdate is still trusted (stale_crl = warn)"]


def test_a_stale_crl_that_counts_forgives_nothing_else(tmp_path: Path) -> None:
    listener = verifying(tmp_path, make_crl(CLIENTS, [MALLORY], valid=(-3, -1)), stale_crl="warn")
    assert "certificate revoked" in refusal(listener.meet(MALLORY))
    assert "certificate has expired" in refusal(listener.meet(issue(CLIENTS, valid=(-2, -1))))
    assert "unsuitable certificate purpose" in refusal(listener.meet(issue(CLIENTS, eku=[SERVER])))
    assert "unable to get local issuer" in refusal(listener.meet(issue(CA)))
    assert "unable to get certificate CRL" in refusal(listener.meet(BOB))
    early = verifying(tmp_path, make_crl(CLIENTS, valid=(1, 2)), stale_crl="warn")
    assert "CRL is not yet valid" in refusal(early.meet(ALICE))


# --- upstreams ----------------------------------------------------------------------------------------------------


def client_context(tls: ClientTLS, login: Login | None = None) -> ClientContext:
    context = ClientContext("upstream:u", tls, login or Login(), problems := Problems())
    problems.raise_if_any()
    return context


def greet(context: ClientContext, host: str, certificate: Issued = SERVER_CERTIFICATE, *, ask: bool = False) -> Pair:
    ours, theirs = sockets()
    return shake(context.connection(ours, host), plain_server(theirs, certificate, ask=ask))


def reached(context: ClientContext, host: str, certificate: Issued = SERVER_CERTIFICATE) -> None:
    """Handshake and name check, as the net layer does them; raises whatever refuses."""
    pair = greet(context, host, certificate)
    if pair.client_error:
        raise UpstreamError(handshake_failure(pair.client, pair.client_error))
    context.verify(pair.client, host)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pem(tmp_path / "root.crt", CA.certificate)


@pytest.mark.parametrize("host", ["db.example.org", "DB.example.org", "db.example.org.", "127.0.0.1", "::1"])
def test_verify_full_by_name_and_by_address(root: Path, host: str) -> None:
    reached(client_context(ClientTLS(TLSMode.VERIFY_FULL, root)), host)


@pytest.mark.parametrize(
    "host",
    [
        "other.example.org",
        "example.org",
        "x.db.example.org",
        "127.0.0.2",
        "::2",
        "127.1",
        "/run/postgresql",
        "",
        "dü.de",
    ],
)
def test_verify_full_refuses_other_names(root: Path, host: str) -> None:
    with pytest.raises(UpstreamError, match="for " + host):
        reached(client_context(ClientTLS(TLSMode.VERIFY_FULL, root)), host)
    reached(client_context(ClientTLS(TLSMode.VERIFY_CA, root)), host)


def test_a_host_that_is_not_ascii_has_no_certificate(root: Path) -> None:
    """Its A-labels would, and are what belongs into the configuration: nothing is translated on the way."""
    certificate = issue(CA, sans=["xn--bcher-kva.example"])
    context = client_context(ClientTLS(TLSMode.VERIFY_FULL, root))
    reached(context, "xn--bcher-kva.example", certificate)
    with pytest.raises(UpstreamError, match="for bücher"):
        reached(context, "bücher.example", certificate)


@pytest.mark.parametrize(
    ("certificate", "host"),
    [
        (issue(CA, "db.example.org"), "db.example.org"),
        (issue(CA, "127.0.0.1"), "127.0.0.1"),
        (issue(CA, "127.0.0.1", sans=["localhost"]), "127.0.0.1"),
        (issue(CA, "x", sans=["127.0.0.1"], subject=common_name("localhost")), "localhost"),
    ],
)
def test_a_cn_is_never_a_name(root: Path, certificate: Issued, host: str) -> None:
    with pytest.raises(UpstreamError, match="is not for"):
        reached(client_context(ClientTLS(TLSMode.VERIFY_FULL, root)), host, certificate)


@pytest.mark.parametrize("mode", [TLSMode.VERIFY_CA, TLSMode.VERIFY_FULL, TLSMode.REQUIRE])
@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (issue(CLIENTS, sans=["db.example.org"]), "unable to get local issuer"),
        (issue(CA, sans=["db.example.org"], valid=(-2, -1)), "certificate has expired"),
        (issue(CA, sans=["db.example.org"], eku=[CLIENT]), "unsuitable certificate purpose"),
    ],
)
def test_with_a_root_certificate_every_mode_verifies(
    root: Path, mode: TLSMode, certificate: Issued, reason: str
) -> None:
    with pytest.raises(UpstreamError, match=reason):
        reached(client_context(ClientTLS(mode, root)), "db.example.org", certificate)


def test_require_without_a_root_certificate_verifies_nothing(tmp_path: Path) -> None:
    stranger = make_ca("self-signed")
    pair = greet(client_context(ClientTLS(TLSMode.REQUIRE)), "db.example.org", stranger)
    assert pair.accepted
    assert tls_facts(pair.client).peer_certificate == stranger.certificate.public_bytes(Encoding.DER)


def test_without_a_root_certificate_the_systems_authorities_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    reached(client_context(ClientTLS()), "db.example.org")
    with pytest.raises(UpstreamError, match="unable to get local issuer"):
        reached(client_context(ClientTLS()), "db.example.org", issue(CLIENTS, sans=["db.example.org"]))


def test_with_a_root_certificate_the_systems_authorities_do_not_count(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(write_pem(root.with_name("system.crt"), CLIENTS.certificate)))
    with pytest.raises(UpstreamError, match="unable to get local issuer"):
        reached(client_context(ClientTLS(TLSMode.VERIFY_CA, root)), "db", issue(CLIENTS))


def test_a_revoked_upstream_is_refused_and_a_stale_crl_too(root: Path) -> None:
    crl = write_pem(root.with_name("root.crl"), make_crl(CA, [SERVER_CERTIFICATE]))
    with pytest.raises(UpstreamError, match="certificate revoked"):
        reached(client_context(ClientTLS(TLSMode.VERIFY_CA, root, crl=crl)), "db.example.org")
    write_pem(crl, make_crl(CA, valid=(-2, -1)))
    with pytest.raises(UpstreamError, match="CRL has expired"):
        reached(client_context(ClientTLS(TLSMode.VERIFY_CA, root, crl=crl)), "db.example.org")


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("db.example.org", "db.example.org"),
        ("db.example.org.", "db.example.org"),
        ("127.0.0.1", None),
        ("::1", None),
        ("/run/postgresql", None),
        ("@abstract", None),
    ],
)
def test_only_dns_names_are_sent_as_server_name(host: str, sent: str | None) -> None:
    pair = greet(client_context(ClientTLS(TLSMode.REQUIRE)), host)
    assert pair.accepted
    assert tls_facts(pair.server).server_name == sent


@pytest.mark.parametrize(
    ("offer", "theirs", "agreed"),
    [
        ((b"h2",), (b"h2",), b"h2"),
        ((b"x", b"h2"), (b"h2", b"http/1.1"), b"h2"),
        ((b"h2",), (), b""),
        ((), (b"h2",), b""),
    ],
)
def test_protocols_are_offered_to_an_upstream(
    tmp_path: Path, offer: tuple[bytes, ...], theirs: tuple[bytes, ...], agreed: bytes
) -> None:
    ours, far = sockets()
    context = client_context(ClientTLS(TLSMode.REQUIRE, alpn=offer))
    pair = shake(context.connection(ours, "db.example.org"), Listener(tmp_path, theirs).context.connection(far))
    assert pair.accepted
    assert tls_facts(pair.client).alpn == agreed


def test_an_upstream_of_another_protocol(tmp_path: Path) -> None:
    ours, far = sockets()
    context = client_context(ClientTLS(TLSMode.REQUIRE, alpn=(b"h2",)))
    pair = shake(context.connection(ours, "db"), Listener(tmp_path, (b"mqtt",)).context.connection(far))
    assert "no application protocol" in str(pair.client_error)


def test_an_old_upstream_is_refused() -> None:
    context = client_context(ClientTLS(TLSMode.REQUIRE))
    for maximum, accepted in ((SSL.TLS1_2_VERSION, True), (SSL.TLS1_1_VERSION, False)):
        ours, theirs = sockets()
        assert shake(context.connection(ours, "db"), plain_server(theirs, maximum=maximum)).accepted is accepted


# --- all of them --------------------------------------------------------------------------------------------------


def upstream(tls: ClientTLS, *logins: Login, name: str = "main") -> Upstream:
    return Upstream(name, (Address("db.example.org", 5432),), tls, logins)


def test_a_logins_client_certificate_comes_before_the_upstreams(tmp_path: Path) -> None:
    general, special = issue(CLIENTS, "general"), issue(CLIENTS, "special")
    own = Login("admin", None, *special.write(tmp_path, "special"))
    general_pair = general.write(tmp_path, "general")
    service = upstream(ClientTLS(TLSMode.REQUIRE, None, *general_pair), own, Login("reader", "secret"))
    certificates = Certificates.build({}, {"upstream:main": service}, problems := Problems())
    problems.raise_if_any()
    for login, expected in ((own, special), (service.login("reader"), general), (service.login("nobody"), general)):
        pair = greet(certificates.client(service, login), "db.example.org", ask=True)
        assert tls_facts(pair.server).peer_certificate == expected.certificate.public_bytes(Encoding.DER)


def test_no_context_without_tls_or_for_strangers() -> None:
    plain = upstream(ClientTLS(TLSMode.DISABLE, crl=Path("missing")))
    certificates = Certificates.build({}, {"upstream:main": plain}, problems := Problems())
    assert not problems.found
    with pytest.raises(LookupError):
        certificates.client(plain, Login())
    with pytest.raises(LookupError):
        certificates.server("postgres")


def test_a_reload_leaves_running_sessions_alone(tmp_path: Path) -> None:
    listener = verifying(tmp_path)
    before = listener.meet(ALICE)
    write_pem(tmp_path / "clients.crl", make_crl(CLIENTS, [ALICE]))
    reloaded = replace(listener.tls, client_crl=tmp_path / "clients.crl")
    certificates = Certificates.build({"postgres": (reloaded, ())}, {}, problems := Problems())
    problems.raise_if_any()
    listener.context = certificates.server("postgres")
    assert "certificate revoked" in refusal(listener.meet(ALICE))
    before.client.send(b"still here")
    assert before.server.recv(100) == b"still here"


# --- clients that were let in before ------------------------------------------------------------------------------


def met(folder: Path, certificate: Issued | None, **settings: Any) -> SSL.Connection:
    """The server's side of a connection that an older context has let in."""
    folder.mkdir()
    pair = verifying(folder, **settings).meet(certificate)
    assert pair.accepted
    return pair.server


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_certificate_that_is_still_good(tmp_path: Path, mode: str) -> None:
    before = met(tmp_path / "before", ALICE, client_certificate=mode)
    for crls in ((), (make_crl(CLIENTS),), (make_crl(CLIENTS, [MALLORY]),)):
        assert verifying(tmp_path, *crls, client_certificate=mode).context.still_trusts(before)


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_certificate_that_is_revoked_since(tmp_path: Path, mode: str) -> None:
    before = met(tmp_path / "before", ALICE, client_certificate=mode)
    now = verifying(tmp_path, make_crl(CLIENTS, [MALLORY, ALICE]), client_certificate=mode)
    assert not now.context.still_trusts(before)


@pytest.mark.parametrize("name", ["Client CA", "Other CA"])
def test_a_certificate_whose_authority_is_gone(tmp_path: Path, name: str) -> None:
    """Also in favour of one of the same name."""
    before = met(tmp_path / "before", ALICE)
    ca = write_pem(tmp_path / "other.crt", make_ca(name).certificate)
    assert not verifying(tmp_path, client_ca=ca).context.still_trusts(before)
    both = write_pem(tmp_path / "both.crt", make_ca(name).certificate, CLIENTS.certificate)
    assert verifying(tmp_path, client_ca=both).context.still_trusts(before)


@pytest.mark.parametrize(("mode", "trusted"), [("optional", True), ("required", False)])
def test_no_certificate_where_one_is_wanted_since(tmp_path: Path, mode: str, trusted: bool) -> None:
    before = met(tmp_path / "before", None, client_certificate="optional")
    assert verifying(tmp_path, client_certificate=mode).context.still_trusts(before) is trusted


def test_a_certificate_where_none_is_looked_at_any_more(tmp_path: Path) -> None:
    """Nobody is asked for one now, so a session of before knows more than it should: it has to come back."""
    before = met(tmp_path / "before", ALICE)
    assert not Listener(tmp_path).context.still_trusts(before)


def test_a_certificate_behind_an_intermediate(tmp_path: Path) -> None:
    """The chain that the client sent counts as it did then, and each link can be revoked."""
    before = met(tmp_path / "before", BOB)
    assert verifying(tmp_path).context.still_trusts(before)
    clean = make_crl(CLIENTS), make_crl(INTERMEDIATE)
    assert verifying(tmp_path, *clean).context.still_trusts(before)
    assert not verifying(tmp_path, clean[0], make_crl(INTERMEDIATE, [BOB])).context.still_trusts(before)
    assert not verifying(tmp_path, make_crl(CLIENTS, [INTERMEDIATE]), clean[1]).context.still_trusts(before)
    foreign = write_pem(tmp_path / "foreign.crt", make_ca("Client CA").certificate)
    assert not verifying(tmp_path, client_ca=foreign).context.still_trusts(before)


def test_a_certificate_that_has_expired_since(tmp_path: Path) -> None:
    brief = issue(CLIENTS, "brief", valid=(-1, 1.2 / 86_400))
    before = met(tmp_path / "before", brief)
    now = verifying(tmp_path).context
    now._trust._store(()).set_time(datetime.now(UTC) + timedelta(minutes=1))
    assert not now.still_trusts(before)


STALE, EARLY = (-3, -1), (1, 2)


def test_a_crl_that_has_become_stale_since(tmp_path: Path) -> None:
    """By the clock alone. As in a handshake, `stale_crl` says what that means."""
    before = met(tmp_path / "before", ALICE)
    stale = make_crl(CLIENTS, [MALLORY], valid=STALE)
    assert not verifying(tmp_path, stale).context.still_trusts(before)
    warned = verifying(tmp_path, stale, stale_crl="warn").context
    assert warned.still_trusts(before)
    assert warned.still_trusts(before)


def test_a_stale_crl_that_counts_still_revokes(tmp_path: Path) -> None:
    before, behind = met(tmp_path / "before", ALICE), met(tmp_path / "behind", BOB)
    revoked = make_crl(CLIENTS, [ALICE], valid=STALE)
    assert not verifying(tmp_path, revoked, stale_crl="warn").context.still_trusts(before)
    clean, other = make_crl(CLIENTS, valid=STALE), make_crl(INTERMEDIATE, valid=STALE)
    assert verifying(tmp_path, clean, other, stale_crl="warn").context.still_trusts(behind)
    for crls in (
        (make_crl(CLIENTS, [INTERMEDIATE], valid=STALE), other),
        (clean, make_crl(INTERMEDIATE, [BOB], valid=STALE)),
        (clean, make_crl(INTERMEDIATE, [BOB])),
        (make_crl(CLIENTS, [INTERMEDIATE]), other),
        # The newest counts, however old they both are.
        (clean, other, make_crl(INTERMEDIATE, [BOB], valid=(-2, -1))),
        (make_crl(INTERMEDIATE, [BOB], valid=(-2, -1)), clean, other),
    ):
        assert not verifying(tmp_path, *crls, stale_crl="warn").context.still_trusts(behind)


def test_a_stale_crl_that_counts_forgives_nothing_else_of_before(tmp_path: Path) -> None:
    before, behind = met(tmp_path / "before", ALICE), met(tmp_path / "behind", BOB)
    stale = make_crl(CLIENTS, valid=STALE)
    forged = make_crl(CLIENTS, valid=STALE, key=ROGUE.key)
    assert not verifying(tmp_path, forged, stale_crl="warn").context.still_trusts(before)
    other = write_pem(tmp_path / "other.crt", make_ca("Client CA").certificate)
    assert not verifying(tmp_path, stale, stale_crl="warn", client_ca=other).context.still_trusts(before)
    for crls in (
        (stale,),
        (stale, make_crl(INTERMEDIATE, valid=EARLY)),
        (make_crl(CLIENTS, valid=EARLY), make_crl(INTERMEDIATE, valid=STALE)),
        (stale, make_crl(INTERMEDIATE, key=ROGUE.key)),
    ):
        assert not verifying(tmp_path, *crls, stale_crl="warn").context.still_trusts(behind)


@pytest.mark.parametrize("later", [timedelta(minutes=-5), timedelta(), timedelta(minutes=1)])
def test_a_stale_crl_that_counts_and_a_certificate_that_has_expired_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: timedelta
) -> None:
    brief = issue(CLIENTS, "brief", valid=(-1 / 1440, 30 / 86_400))
    before = met(tmp_path / "before", brief)
    now = verifying(tmp_path, make_crl(CLIENTS, valid=STALE), stale_crl="warn").context

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp((datetime.now(tz) + later).timestamp(), tz)

    monkeypatch.setattr(trust, "datetime", Clock)
    assert now.still_trusts(before) is not bool(later)


# --- problems of the configuration --------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> ServerTLS:
    return ServerTLS(*SERVER_CERTIFICATE.write(tmp_path, "server"))


def test_a_key_of_another_certificate(tmp_path: Path, good: ServerTLS) -> None:
    other = write_pem(tmp_path / "other.key", CLIENTS.key)
    told = f"[postgres] key: {other}: does not match the certificate {good.certificate}"
    assert problems_of(replace(good, key=other)) == [told]


def test_an_encrypted_key_is_a_problem_and_no_prompt(tmp_path: Path, good: ServerTLS) -> None:
    key = write_pem(good.key, SERVER_CERTIFICATE.key, passphrase=b"swordfish")
    (told,) = problems_of(good)
    assert told.startswith(f"[postgres] key: {key}: is encrypted")
    assert "swordfish" not in told


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\xff\x00", pem(SERVER_CERTIFICATE.key)[:-40], pem(SERVER_CERTIFICATE.certificate)]
)
def test_a_key_that_is_none(good: ServerTLS, content: bytes) -> None:
    good.key.write_bytes(content)
    assert problems_of(good) == [f"[postgres] key: {good.key}: is not a readable PEM private key"]


def test_a_key_that_tls_cannot_use(good: ServerTLS) -> None:
    key = x25519.X25519PrivateKey.generate()
    good.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert problems_of(good) == [f"[postgres] key: {good.key}: TLS has no use for this kind of private key"]


def test_a_key_that_is_too_weak(tmp_path: Path) -> None:
    weak = issue(CA, key=rsa.generate_private_key(65537, 1024))  # noqa: S505  that is the point
    (told,) = problems_of(ServerTLS(*weak.write(tmp_path, "weak")))
    assert told.endswith("OpenSSL refuses it: ee key too small")


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)])
def test_other_kinds_of_keys(tmp_path: Path, key: Any) -> None:
    assert problems_of(ServerTLS(*issue(CA, key=key).write(tmp_path, "other"))) == []


CHAIN = pem(SERVER_CERTIFICATE.certificate, CA.certificate)


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", CHAIN[:-40], CHAIN.replace(b"MII", b"M!I", 1), CHAIN + b"-----BEGIN TRUSTED CERTIFICATE-----\n"],
)
def test_a_certificate_file_counts_to_its_last_block(good: ServerTLS, content: bytes) -> None:
    good.certificate.write_bytes(content)
    (told,) = problems_of(good)
    assert told.startswith(f"[postgres] certificate: {good.certificate}: ")
    assert "readable" in told


def test_the_chain_is_sent_along(tmp_path: Path, root: Path) -> None:
    server = issue(make_ca("Intermediate", CA), sans=["db.example.org"])
    context = ServerContext("postgres", ServerTLS(*server.write(tmp_path, "server")), (), Problems())
    ours, theirs = sockets()
    verifier = client_context(ClientTLS(TLSMode.VERIFY_FULL, root))
    assert shake(verifier.connection(theirs, "db.example.org"), context.connection(ours)).accepted


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_without_an_authority_no_client_certificate_is_accepted(tmp_path: Path, mode: str) -> None:
    """The configuration refuses this; if it did not, it would let nobody in who shows one."""
    pair = Listener(tmp_path, client_certificate=mode).meet(ALICE)
    assert "certificate verify failed" in refusal(pair)


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_an_empty_authority_is_told(tmp_path: Path, good: ServerTLS, mode: str) -> None:
    empty = write_pem(tmp_path / "empty.crt")
    told = f"[postgres] client_ca: {empty}: is not a readable PEM certificate"
    assert problems_of(replace(good, client_certificate=mode, client_ca=empty)) == [told]


def test_a_crl_that_would_check_nobody(tmp_path: Path) -> None:
    ca = write_pem(tmp_path / "ca.crt", CA.certificate)
    with pytest.raises(ConfigError, match=r"^\[upstream:u\] crl: would check nothing"):
        client_context(ClientTLS(TLSMode.REQUIRE, crl=ca))


CRL = pem(make_crl(CLIENTS))


@pytest.mark.parametrize("content", [b"", CHAIN, CRL + CRL[:-40], CRL.replace(b"MI", b"M!", 1)])
def test_a_crl_file_counts_to_its_last_block(tmp_path: Path, good: ServerTLS, content: bytes) -> None:
    crl = tmp_path / "clients.crl"
    crl.write_bytes(content)
    ca = write_pem(tmp_path / "clients.crt", CLIENTS.certificate)
    told = f"[postgres] client_crl: {crl}: is not a readable PEM CRL"
    assert problems_of(replace(good, client_certificate="required", client_ca=ca, client_crl=crl)) == [told]


def test_a_crl_that_would_never_be_stale(tmp_path: Path, good: ServerTLS) -> None:
    eternal = asn1crl.CertificateList.load(make_crl(CLIENTS).public_bytes(Encoding.DER))
    eternal["tbs_cert_list"]["next_update"] = None
    crl = tmp_path / "clients.crl"
    crl.write_bytes(asn1pem.armor("X509 CRL", eternal.dump(force=True)))
    ca = write_pem(tmp_path / "clients.crt", CLIENTS.certificate)
    told = f"[postgres] client_crl: {crl}: has no nextUpdate, so nobody could tell when it is stale"
    assert problems_of(replace(good, client_certificate="required", client_ca=ca, client_crl=crl)) == [told]


def test_a_certificate_that_no_name_could_choose(tmp_path: Path, good: ServerTLS) -> None:
    pair = issue(CA, "nameless", sans=["127.0.0.1"]).write(tmp_path, "nameless")
    told = f"[postgres] sni: {pair[0]}: has no DNS name in its subjectAltName to choose it by"
    assert problems_of(replace(good, sni=(pair,))) == [told]


def test_half_a_client_certificate_is_not_presented(tmp_path: Path) -> None:
    """Nor the upstream's in its place: the login has its own, and the configuration refuses half of one."""
    certificate, key = ALICE.write(tmp_path, "alice")
    whole = ClientTLS(TLSMode.REQUIRE, certificate=certificate, key=key)
    for half in (Login(certificate=certificate), Login(key=key)):
        pair = greet(client_context(whole, half), "db.example.org", ask=True)
        assert pair.accepted
        assert tls_facts(pair.server).peer_certificate is None


def test_all_problems_are_told_at_once_and_each_once_under_a_key_that_there_is(tmp_path: Path) -> None:
    gone, folder = tmp_path / "gone", tmp_path
    certificate, key = ALICE.write(tmp_path, "alice")
    shared = ServerTLS(
        gone,
        gone,
        sni=((certificate, write_pem(tmp_path / "clients.key", CLIENTS.key)),),
        client_certificate="required",
        client_ca=gone,
        client_crl=folder,
        sections=dict.fromkeys(("certificate", "key", "sni", "client_certificate", "client_ca", "client_crl"), "tls"),
    )
    own = replace(shared, certificate=folder, sections={"key": "tls", "client_ca": "tls", "sni": "tls"})
    client = ClientTLS(root_certificate=gone, crl=folder, certificate=gone, key=gone)
    logins = (
        Login("a", certificate=gone, key=key, section="login:a"),
        Login("b", certificate=certificate, key=tmp_path / "clients.key", section="login:b"),
        Login("c", "secret", section="login:c"),
    )
    service = upstream(client, *logins)
    servers = {"postgres:one": (shared, ()), "postgres:two": (shared, ()), "postgres:own": (own, ())}
    Certificates.build(servers, {"upstream:main": service}, problems := Problems())
    with pytest.raises(ConfigError) as told:
        problems.raise_if_any()
    assert str(told.value).splitlines() == [
        f"[tls] client_ca: {gone}: No such file or directory",
        f"[tls] client_crl: {folder}: Is a directory",
        f"[tls] certificate: {gone}: No such file or directory",
        f"[tls] key: {gone}: No such file or directory",
        f"[tls] sni: {tmp_path / 'clients.key'}: does not match the certificate {certificate}",
        f"[postgres:own] client_crl: {folder}: Is a directory",
        f"[postgres:own] certificate: {folder}: Is a directory",
        f"[upstream:main] root_certificate: {gone}: No such file or directory",
        f"[upstream:main] crl: {folder}: Is a directory",
        f"[upstream:main] client_certificate: {gone}: No such file or directory",
        f"[upstream:main] client_key: {gone}: No such file or directory",
        f"[login:a] certificate: {gone}: No such file or directory",
        f"[login:b] key: {tmp_path / 'clients.key'}: does not match the certificate {certificate}",
    ]


def test_a_context_with_problems_opens_no_door(tmp_path: Path, good: ServerTLS) -> None:
    """Nobody should use one; if somebody does, every client is refused."""
    for broken in (
        replace(good, client_certificate="required", client_ca=tmp_path / "gone"),
        replace(good, certificate=tmp_path / "gone"),
    ):
        context = ServerContext("postgres", broken, (), problems := Problems())
        assert problems.found
        ours, theirs = sockets()
        assert not shake(plain_client(theirs, ALICE), context.connection(ours)).accepted


# --- warnings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("valid", [(-2, -1), (1, 2)])
def test_own_certificates_outside_their_dates_only_warn(
    tmp_path: Path, warnings: list[str], valid: tuple[float, float]
) -> None:
    assert problems_of(ServerTLS(*issue(CA, valid=valid).write(tmp_path, "late"))) == []
    assert warnings == ["late.crt: this certificate is outside its dates of validity"]


@pytest.mark.parametrize(("mode", "root_may"), [(0o600, True), (0o400, True), (0o640, True), (0o644, False)])
def test_keys_that_others_can_use_only_warn(good: ServerTLS, warnings: list[str], mode: int, root_may: bool) -> None:
    good.key.chmod(mode)
    private = root_may and (mode & 0o077 == 0 or good.key.stat().st_uid == 0)
    assert problems_of(good) == []
    assert warnings == ([] if private else ["server.key: others can use this private key; protect it with: chmod 600"])


def test_no_secret_in_any_repr(tmp_path: Path, good: ServerTLS) -> None:
    context = ServerContext("postgres", good, (), Problems())
    assert "PRIVATE" not in repr(context)
    assert str(SERVER_CERTIFICATE.key.private_numbers().private_value) not in repr(vars(context))  # type: ignore[union-attr]
