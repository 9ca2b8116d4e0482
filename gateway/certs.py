"""The one certificate and context layer, for every listener and every upstream.

Owns what TLS looks like in the gateway: TLS 1.2 and 1.3, forward secrecy and AEAD only, no compression, no
renegotiation, no resumption (a resumed session would skip the client certificate's check), and how the peer's
certificate is verified: chain, dates, revocation, name, and purpose (RFC 5280, 4.2.1.12: one without that extension
serves any).

Everything is read and checked when it is built; a context is never changed once a connection has used it. A reload
builds a new `Certificates` whole, and its owner swaps it in; running sessions keep theirs.

Refuses, as a problem of the configuration: what `pem` refuses, and a CRL that would silently check nothing. Whether
keys are missing is `config`'s to say; here that trusts nobody and presents nothing.
Only warns in the log: an own certificate outside its dates, a CRL past its nextUpdate (a reload that also brings other
changes must not fail for them), a private key that others can read.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import service_identity
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import (
    FILETYPE_ASN1,
    dump_certificate,
)
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from gateway.errors import Problems, UpstreamError
from gateway.pem import UNREADABLE, Credential, Place, exposed, load_credential
from gateway.session.vocabulary import TLSFacts
from gateway.trust import Examined, Trust, Unbelieved, read_trust, warn
from gateway.upstream import ClientTLS, Login, ServerTLS, TLSMode, Upstream, is_ip

# Of TLS 1.2 only forward secrecy with AEAD (RFC 9325, 4.2). The suites and the groups of TLS 1.3 are OpenSSL's own:
# since 3.5 its first group is X25519MLKEM768.
TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
VERIFY_CLIENT = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
# OpenSSL's ENABLE_PARTIAL_WRITE and ACCEPT_MOVING_WRITE_BUFFER, which pyOpenSSL does not name: a write may take less
# than it was given, and is repeated from wherever the rest then lies.
PARTIAL_MOVING_WRITES = 0x1 | 0x2


# --- what both sides share ----------------------------------------------------------------------------------------


def _context(method: int, minimum_version: str) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(VERSIONS[minimum_version])
    context.set_cipher_list(TLS12_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    # With tickets off OpenSSL still numbers its TLS 1.3 sessions to the client, but without a cache none comes back.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(secrets.token_bytes(32))
    # RELEASE_BUFFERS saves some 35 KB for each idle connection.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | PARTIAL_MOVING_WRITES)
    return context


def _install(credential: Credential, context: SSL.Context) -> None:
    """Give that context our own certificate."""
    leaf, *issuers = credential.chain
    try:
        context.use_certificate(leaf)
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(credential.key)
        context.check_privatekey()
    except SSL.Error as error:
        raise ValueError(f"{credential.certificate_path}: OpenSSL refuses it: {_words(error)}") from error
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        warn(credential.certificate_path, "this certificate is outside its dates of validity")
    if exposed(credential.key_path):
        warn(credential.key_path, "others can use this private key; protect it with: chmod 600")


# --- listeners ----------------------------------------------------------------------------------------------------


def _protocol_choice(ours: tuple[bytes, ...]) -> Callable[[SSL.Connection, list[bytes]], bytes]:
    """The first of ours that the client offers; none: the fatal alert no_application_protocol (RFC 7301, 3.2).

    pyOpenSSL sends that alert for an exception only, which it raises again from the do_handshake() in progress.
    """

    def choose(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
        for protocol in ours:
            if protocol in offered:
                return protocol
        raise SSL.Error([("ALPN", "", "the client offers no protocol of ours")])

    return choose


@implementer(IOpenSSLServerConnectionCreator)
class ServerContext:
    """How one listener speaks TLS: a context for each certificate, otherwise alike, chosen by the server name.

    The choice is by exact name, then by wildcard; of certificates with the same name the first; else the default one.
    Client certificates are trusted by `client_ca` alone, never by the system's authorities.
    """

    def __init__(self, section: str, tls: ServerTLS, alpn: tuple[bytes, ...], problems: Problems) -> None:
        self._section = section
        self._tls = tls
        self._alpn = alpn
        self._trust = self._client_trust(problems)
        self._exact: dict[bytes, SSL.Context] = {}
        self._wildcard: dict[bytes, SSL.Context] = {}
        self._default = self._new_context()
        place, sni = self._place("certificate"), self._place("sni")
        credential = load_credential((place, self._place("key")), tls.certificate, tls.key, problems)
        if credential:
            with problems.at(*place):
                self._serve(credential, self._default)
        for certificate, key in tls.sni:
            credential = load_credential((sni, sni), certificate, key, problems)
            if credential:
                with problems.at(*sni):
                    self._serve(credential, self._new_context())
                    if not credential.dns_names():
                        raise ValueError(f"{certificate}: has no DNS name in its subjectAltName to choose it by")

    def _place(self, key: str) -> Place:
        return self._tls.sections.get(key, self._section), key

    def _client_trust(self, problems: Problems) -> Trust:
        tls = self._tls
        if tls.client_certificate == "none":
            return Trust()
        ca, crl = (self._place("client_ca"), tls.client_ca), (self._place("client_crl"), tls.client_crl)
        return read_trust(problems, ca, crl, tls.stale_crl)

    def _new_context(self) -> SSL.Context:
        context = _context(SSL.TLS_SERVER_METHOD, self._tls.minimum_version)
        self._trust.install(context, VERIFY_CLIENT[self._tls.client_certificate])
        for authority in self._trust.authorities:
            context.add_client_ca(authority)
        if self._alpn:
            context.set_alpn_select_callback(_protocol_choice(self._alpn))
        if self._tls.sni:
            # In each of them: after a HelloRetryRequest OpenSSL asks again, and then it asks the chosen one.
            context.set_tlsext_servername_callback(self._choose_certificate)
        return context

    def _serve(self, credential: Credential, context: SSL.Context) -> None:
        _install(credential, context)
        for name in credential.dns_names():
            if name.startswith(b"*."):
                self._wildcard.setdefault(name[2:], context)
            else:
                self._exact.setdefault(name, context)

    def _choose_certificate(self, connection: SSL.Connection) -> None:
        name = (connection.get_servername() or b"").lower()
        context = self._exact.get(name) or self._wildcard.get(name.partition(b".")[2]) or self._default
        if context is not connection.get_context():
            connection.set_context(context)

    def connection(self, sock: socket.socket) -> SSL.Connection:
        """A connection on that non-blocking socket, waiting for the client's hello."""
        connection = SSL.Connection(self._default, sock)
        connection.set_accept_state()
        return connection

    def still_trusts(self, connection: SSL.Connection) -> bool:
        """Whether the client of a connection that another context let in would be let in by this one, too.

        Its certificate may have been revoked since, its authority removed, or the CRL may have become stale, without a
        change in any file; then `stale_crl` says what counts, as it does in a handshake.
        """
        certificate = connection.get_peer_certificate()
        if certificate is None:
            return self._tls.client_certificate != "required"
        try:
            self._trust.believed(certificate, connection.get_peer_cert_chain() or [])
        except Unbelieved:
            return False
        return True

    def examine(self, chain: Sequence[x509.Certificate]) -> Examined:
        """How a handshake would go with a client that shows this certificate, and sends these along; empty: it shows
        none."""
        if self._tls.client_certificate == "none":
            return Examined()
        if chain:
            return self._trust.examine(chain)
        required = self._tls.client_certificate == "required"
        return Examined("no client certificate, and one is required" if required else None)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802, N803, ARG002 - as the interface has it
        """The same for Twisted's own TLS, in memory."""
        return SSL.Connection(self._default, None)


# --- upstreams ----------------------------------------------------------------------------------------------------


def _own_pair(tls: ClientTLS, login: Login) -> tuple[Path | None, Path | None]:
    """The client certificate and key of a login; the upstream's where the login has neither."""
    if login.certificate or login.key:
        return login.certificate, login.key
    return tls.certificate, tls.key


class ClientContext:
    """How we speak TLS to one upstream as one login.

    As in libpq, `require` verifies nothing, unless there is a root certificate: then it is `verify-ca`. Unlike libpq,
    `verify-full` never falls back on the certificate's CN (RFC 9525, 2).
    """

    def __init__(self, section: str, tls: ClientTLS, login: Login, problems: Problems) -> None:
        self._tls = tls
        self._context = _context(SSL.TLS_CLIENT_METHOD, "1.2")
        if tls.alpn:
            self._context.set_alpn_protos(list(tls.alpn))
        self._verify(section, problems)
        self._present(section, login, problems)

    def _verify(self, section: str, problems: Problems) -> None:
        tls = self._tls
        if tls.mode is TLSMode.REQUIRE and not tls.root_certificate:
            if tls.crl:
                problems.add(section, "crl", "would check nothing: require verifies only with a root_certificate")
            self._context.set_verify(SSL.VERIFY_NONE)
            return
        if not tls.root_certificate:
            self._context.set_default_verify_paths()
        ca, crl = ((section, "root_certificate"), tls.root_certificate), ((section, "crl"), tls.crl)
        read_trust(problems, ca, crl).install(self._context, SSL.VERIFY_PEER)

    def _present(self, section: str, login: Login, problems: Problems) -> None:
        certificate, key = _own_pair(self._tls, login)
        if not certificate or not key:
            return
        place, key_place = ((section, name) for name in self._tls.own_keys)
        if login.certificate:
            section = login.section or section
            place, key_place = (section, "certificate"), (section, "key")
        credential = load_credential((place, key_place), certificate, key, problems)
        if credential:
            with problems.at(*place):
                _install(credential, self._context)

    def connection(self, sock: socket.socket, host: str) -> SSL.Connection:
        """A connection on that non-blocking socket, about to greet `host`: a DNS name, IP address or socket path."""
        connection = SSL.Connection(self._context, sock)
        # RFC 6066, 3: the server name is a DNS name in ASCII without its final dot, and never an IP address.
        if host.isascii() and not host.startswith(("/", "@")) and not is_ip(host):
            connection.set_tlsext_host_name(host.removesuffix(".").encode("ascii"))
        connection.set_connect_state()
        return connection

    def verify(self, connection: SSL.Connection, host: str) -> None:
        """After the handshake, which checked all but the name. Raises UpstreamError."""
        if self._tls.mode is not TLSMode.VERIFY_FULL:
            return
        try:
            certificate = connection.get_peer_certificate(as_cryptography=True)
            if certificate is None or not host.isascii():
                raise UpstreamError(f"the upstream has no certificate that could be for {host}")
            if is_ip(host):
                verify_certificate_ip_address(certificate, host)
            else:
                verify_certificate_hostname(certificate, host.removesuffix("."))
        except (service_identity.VerificationError, service_identity.CertificateError, *UNREADABLE) as error:
            raise UpstreamError(f"the upstream's certificate is not for {host}") from error


# --- all of them, and what a handshake tells ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Certificates:
    """Every context of one configuration. Usable only if building it added no problem. Equal to no other."""

    servers: Mapping[str, ServerContext]
    clients: Mapping[tuple[str, Path | None, Path | None], ClientContext]

    @classmethod
    def build(
        cls,
        servers: Mapping[str, tuple[ServerTLS, tuple[bytes, ...]]],
        upstreams: Mapping[str, Upstream],
        problems: Problems,
    ) -> Certificates:
        """Both mappings are by configuration section, where their problems are reported."""
        # Listeners share what [tls] says, and logins what their upstream does: those problems are told once.
        found = Problems()
        contexts = {section: ServerContext(section, tls, alpn, found) for section, (tls, alpn) in servers.items()}
        clients: dict[tuple[str, Path | None, Path | None], ClientContext] = {}
        for section, upstream in upstreams.items():
            if upstream.tls.mode is TLSMode.DISABLE:
                continue
            for login in (Login(), *upstream.logins):
                key = (upstream.name, *_own_pair(upstream.tls, login))
                if key not in clients:
                    clients[key] = ClientContext(section, upstream.tls, login, found)
        problems.found.extend(dict.fromkeys(found.found))
        return cls(contexts, clients)

    def server(self, section: str) -> ServerContext:
        return self.servers[section]

    def client(self, upstream: Upstream, login: Login) -> ClientContext:
        """Raises LookupError where there is none: an unknown upstream, or one without TLS."""
        return self.clients[(upstream.name, *_own_pair(upstream.tls, login))]


def tls_facts(connection: SSL.Connection, *, issuers: bool = False) -> TLSFacts:
    """What a finished handshake proved.

    A client's certificate is always verified. An upstream's is too, except under `require` without a root certificate,
    where it is only what SCRAM's channel binding needs (RFC 5929, 4) and proves no name. issuers: say who vouches for
    it, too; a proof for a client's only.
    """
    certificate = connection.get_peer_certificate()
    name = connection.get_servername()
    return TLSFacts(
        version=connection.get_protocol_version_name(),
        alpn=connection.get_alpn_proto_negotiated(),
        server_name=None if name is None else name.decode("ascii", "backslashreplace"),
        peer_certificate=dump_certificate(FILETYPE_ASN1, certificate) if certificate else None,
        peer_expires=certificate.to_cryptography().not_valid_after_utc.timestamp() if certificate else None,
        peer_issuers=_issuers(connection) if issuers else (),
    )


def _issuers(connection: SSL.Connection) -> tuple[bytes, ...]:
    """Of the chain that OpenSSL verified, which need not be the one that the peer sent."""
    chain = connection.get_verified_chain() or []
    return tuple(sha256(dump_certificate(FILETYPE_ASN1, issuer)).digest() for issuer in chain[1:])


def handshake_failure(connection: SSL.Connection, error: SSL.Error) -> str:
    """Why a handshake failed, in OpenSSL's words, for the audit: also what was wrong with the peer's certificate."""
    words = _words(error)
    if "certificate verify failed" in words:
        private: Any = SSL  # pyOpenSSL keeps this to itself; where it is out of reach the audit says less
        try:
            code = private._lib.SSL_get_verify_result(connection._ssl)  # noqa: SLF001
            words += f": {private._ffi.string(private._lib.X509_verify_cert_error_string(code)).decode()}"  # noqa: SLF001
        except AttributeError:
            pass
    return words


def _words(error: SSL.Error) -> str:
    """OpenSSL's reasons without its function names and codes."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, list) and queue:
        return "; ".join(reason for *_, reason in queue)
    return str(error.args[-1]) if error.args else type(error).__name__
