"""What is made satisfies those who check certificates: OpenSSL and GnuTLS at their strictest, cryptography's reading of
RFC 5280 and the CA/Browser Forum, Go, Node, and the gateway itself."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification
from OpenSSL import SSL

from gateway.authority import names
from gateway.authority.authority import Foundation, Order, found, opened
from gateway.authority.keys import new_key
from gateway.certs import ServerContext, handshake_failure
from gateway.errors import Problems
from gateway.upstream import ServerTLS

HERE = Path(__file__).parent
HOST, KEY = "gw.example.com", "8c1f8e0f-6c9d.4c1f~9a3b!5d7e"
# As long as a DNS name may be, so that no common name has room for it.
LONG = ".".join(["a" * 60] * 3 + ["example.com"])

SERVERS, CLIENTS = ("server", "long"), ("thing", "alice")


@dataclass(frozen=True, slots=True)
class Made:
    """A folder of an authority, with SERVERS, CLIENTS, and `gone`, which is revoked."""

    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.crt").read_bytes())


VARIETIES = {
    "plain": Foundation("securegw CA", 1095),
    "rsa": Foundation("securegw CA", 1095, with_rsa=True),
    # Those who sign for others are often constrained; and dates beyond 2049 are written in another way.
    "constrained": Foundation("Über CA", 1095, names.constraints(("example.com",), ("127.0.0.0/8", "::1/128"))),
    "domain": Foundation("securegw CA", 1095, names.constraints(("example.com",), ())),
    "century": Foundation("securegw CA", 36500),
}


@pytest.fixture(scope="module", params=VARIETIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    wanted, folder = VARIETIES[request.param], tmp_path_factory.mktemp("authority") / "pki"
    now = datetime.now(UTC)
    found(folder, wanted, now, None)
    here = [] if request.param == "domain" else [names.ip("127.0.0.1"), names.ip("::1")]
    server = (names.dns(HOST), names.dns("*.example.com"), *here)
    alice = (names.email("alice@example.com"), names.uri("spiffe://example.com/alice"), names.dns("alice.example.com"))
    # Under constraints a key with a dot is not signed, since OpenSSL would read a host.
    key = KEY if wanted.limits is None else KEY.replace(".", "-")
    days = 36500 if request.param == "century" else 700
    orders = (
        Order("server", "server", names.server_subject(server), HOST, server, days),
        Order("long", "server", names.server_subject([names.dns(LONG)]), LONG, (names.dns(LONG),), days),
        Order("thing", "thing", names.key_subject(key), names.key_shown(key), (), days),
        Order("alice", "client", names.subject("Älice"), "Älice", alice, days),
        Order("gone", "client", names.subject("gone"), "gone", (names.uri("urn:gone"),), days),
    )
    for order in orders:
        with opened(folder) as authority:
            authority.sign(authority.issuer(None), order, now, new_key(with_rsa=wanted.with_rsa), force=False)
    with opened(folder) as authority:
        authority.revoke(authority.issuer(None), authority.named("gone"), "keyCompromise", now)
    return Made(folder)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment
    )


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


# --- OpenSSL ----------------------------------------------------------------------------------------------------------


def openssl(made: Made, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    lists = ("-CAfile", made.file("ca.crt"), "-CRLfile", made.file("crl.pem"), "-crl_check_all", "-no-CApath")
    return run("openssl", "verify", "-x509_strict", "-check_ss_sig", *lists, *more, made.file(f"{name}.crt"))


@needs("openssl")
def test_openssl(made: Made) -> None:
    good = [
        openssl(made, "server", "-purpose", "sslserver", "-verify_hostname", HOST),
        openssl(made, "server", "-purpose", "sslserver", "-verify_hostname", "other.example.com"),
        openssl(made, "long", "-purpose", "sslserver", "-verify_hostname", LONG),
        openssl(made, "thing", "-purpose", "sslclient"),
        openssl(made, "alice", "-purpose", "sslclient", "-verify_email", "alice@example.com"),
    ]
    assert [(one.returncode, one.stderr) for one in good] == [(0, "")] * len(good)
    bad = {
        "certificate revoked": openssl(made, "gone", "-purpose", "sslclient"),
        "unsuit": openssl(made, "alice", "-purpose", "sslserver"),
        "purpose": openssl(made, "server", "-purpose", "sslclient"),
        "hostname mismatch": openssl(made, "server", "-verify_hostname", "example.org"),
    }
    for reason, one in bad.items():
        assert one.returncode == 2, one
        assert reason in one.stderr.lower()


# --- GnuTLS -----------------------------------------------------------------------------------------------------------

_SERVER_AUTH, _CLIENT_AUTH = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"


def certtool(made: Made, name: str, purpose: str, *more: str) -> subprocess.CompletedProcess[str]:
    trust = ("--load-ca-certificate", made.file("ca.crt"), "--load-crl", made.file("crl.pem"))
    use = ("--verify-profile", "medium", "--verify-purpose", purpose)
    return run("certtool", "--verify", *trust, *use, *more, "--infile", made.file(f"{name}.crt"))


@needs("certtool")
def test_gnutls(made: Made) -> None:
    good = [
        certtool(made, "server", _SERVER_AUTH, "--verify-hostname", HOST),
        certtool(made, "long", _SERVER_AUTH, "--verify-hostname", LONG),
        certtool(made, "thing", _CLIENT_AUTH),
        certtool(made, "alice", _CLIENT_AUTH, "--verify-email", "alice@example.com"),
    ]
    for one in good:
        assert one.returncode == 0, one
        assert "Chain verification output: Verified." in one.stdout
    bad = {
        "revoked": certtool(made, "gone", _CLIENT_AUTH),
        "purpose": certtool(made, "server", _CLIENT_AUTH),
        "does not match": certtool(made, "server", _SERVER_AUTH, "--verify-hostname", "example.org"),
    }
    for reason, one in bad.items():
        assert one.returncode != 0, one
        assert reason in one.stdout + one.stderr


# --- cryptography -----------------------------------------------------------------------------------------------------


def test_the_rules_of_the_web(made: Made) -> None:
    store = verification.Store([made.certificate("ca")])
    builder = verification.PolicyBuilder().store(store)
    for name, host in (("server", HOST), ("server", "other.example.com"), ("long", LONG)):
        verified = builder.build_server_verifier(x509.DNSName(host)).verify(made.certificate(name), [])
        assert len(verified) == 2
    alice = builder.build_client_verifier().verify(made.certificate("alice"), [])
    assert x509.RFC822Name("alice@example.com") in (alice.subjects or ())
    with pytest.raises(verification.VerificationError):
        builder.build_client_verifier().verify(made.certificate("server"), [])
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("example.org")).verify(made.certificate("server"), [])


def test_the_rules_of_the_web_but_for_names_that_a_thing_does_not_have(made: Made) -> None:
    policies = (
        verification.ExtensionPolicy.webpki_defaults_ca(),
        verification.ExtensionPolicy.webpki_defaults_ee().may_be_present(
            x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
        ),
    )
    builder = verification.PolicyBuilder().store(verification.Store([made.certificate("ca")]))
    verifier = builder.extension_policies(ca_policy=policies[0], ee_policy=policies[1]).build_client_verifier()
    assert len(verifier.verify(made.certificate("thing"), []).chain) == 2


def test_an_address_of_a_server(made: Made) -> None:
    if (
        not made.certificate("server")
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value.get_values_for_type(x509.IPAddress)
    ):
        return
    builder = verification.PolicyBuilder().store(verification.Store([made.certificate("ca")]))
    for address in ("127.0.0.1", "::1"):
        builder.build_server_verifier(x509.IPAddress(ip_address(address))).verify(made.certificate("server"), [])


# --- Go ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("go") / "strict"
    folders = {"GOCACHE": str(program.with_name("cache")), "GOPATH": str(program.with_name("path"))}
    built = run("go", "build", "-o", str(program), str(HERE / "strict.go"), **folders, GO111MODULE="off")
    assert built.returncode == 0, built.stderr
    return str(program)


@needs("go")
def test_go(made: Made, go: str) -> None:
    trust = (go, made.file("ca.crt"), made.file("crl.pem"))
    good = [
        run(*trust, made.file("server.crt"), "server", HOST),
        run(*trust, made.file("server.crt"), "server", "other.example.com"),
        run(*trust, made.file("long.crt"), "server", LONG),
        run(*trust, made.file("thing.crt"), "client"),
        run(*trust, made.file("alice.crt"), "client"),
    ]
    assert [(one.returncode, one.stderr) for one in good] == [(0, "")] * len(good)
    assert run(*trust, made.file("gone.crt"), "client").returncode == 3
    assert "incompatible key usage" in run(*trust, made.file("alice.crt"), "server").stderr


# --- Node -------------------------------------------------------------------------------------------------------------


@needs("node")
def test_node(made: Made) -> None:
    def shaken(host: str, *clients: str) -> list[dict[str, str]]:
        done = run("node", str(HERE / "handshake.js"), made.file(""), host, *clients)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert shaken(HOST, *CLIENTS, "gone") == [{"said": "true"}, {"said": "true"}, {"said": "CERT_REVOKED"}]
    assert shaken("example.org", "alice") == [{"error": "ERR_TLS_CERT_ALTNAME_INVALID"}]


# --- the gateway ------------------------------------------------------------------------------------------------------


def gateway(made: Made) -> ServerContext:
    problems = Problems()
    tls = ServerTLS(
        made.folder / "server.crt",
        made.folder / "server.key",
        client_certificate="required",
        client_ca=made.folder / "ca.crt",
        client_crl=made.folder / "crl.pem",
    )
    context = ServerContext("https:main", tls, (), problems)
    problems.raise_if_any()
    return context


def accept(context: ServerContext, listener: socket.socket) -> str:
    """What the gateway says of the one client that comes: nothing if it lets it in."""
    sock, _ = listener.accept()
    sock.setblocking(False)
    connection, deadline = context.connection(sock), time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            try:
                connection.do_handshake()
                connection.send(b"welcome")
                return ""
            except SSL.WantReadError:
                select.select([sock], [], [], 1)
            except SSL.Error as error:
                return handshake_failure(connection, error)
        return "it took too long"
    finally:
        sock.close()


def call(made: Made, name: str, port: int, said: list[bytes]) -> None:
    """Python's own client, with the certificate of that name."""
    context = ssl.create_default_context(cafile=made.file("ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(made.file(f"{name}.crt"), made.file(f"{name}.key"))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as sock,
            context.wrap_socket(sock, server_hostname=HOST) as secure,
        ):
            said.append(secure.recv(100))
    except OSError as error:
        said.append(str(error).encode())


@pytest.mark.parametrize(("name", "refused"), [("thing", ""), ("alice", ""), ("gone", "certificate revoked")])
def test_the_gateway(made: Made, name: str, refused: str) -> None:
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = threading.Thread(target=call, args=(made, name, listener.getsockname()[1], said))
        client.start()
        verdict = accept(gateway(made), listener)
        client.join(20)
    assert (refused in verdict) if refused else (verdict == "")
    assert (said == [b"welcome"]) is not bool(refused)
