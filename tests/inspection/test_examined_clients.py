"""What a listener says of a client's certificate without a handshake is what it does in one."""

from __future__ import annotations

import ssl
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL, crypto

from gateway.certs import ServerContext
from gateway.errors import Problems
from gateway.trust import Examined
from gateway.upstream import ServerTLS
from tests.pki import CLIENT, PEM, SERVER, Days, Issued, issue, make_ca, make_crl, write_pem

CA = make_ca("root")
BELOW = make_ca("below", CA)
STRANGER = make_ca("stranger")
LAPSED = make_ca("lapsed", CA, valid=(-9, -1))
WEAK = make_ca("weak", CA, key=ec.generate_private_key(ec.SECP192R1()))


def signed_with_sha1(issued: Issued) -> Issued:
    """As authorities did until 2015; cryptography no longer can."""
    old = crypto.X509.from_cryptography(issued.certificate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.sign(crypto.PKey.from_cryptography_key(CA.key), "sha1")
    return replace(issued, certificate=old.to_cryptography())


CLIENTS = {
    "signed with SHA-1": signed_with_sha1(issue(CA, "a")),
    "good": issue(CA, "a", eku=[CLIENT]),
    "of any purpose": issue(CA, "a", eku=[]),
    "a server's": issue(CA, "a", eku=[SERVER]),
    "below": issue(BELOW, "a"),
    "without its issuer": replace(issue(BELOW, "a"), chain=()),
    "of a stranger": issue(STRANGER, "a"),
    "expired": issue(CA, "a", valid=(-9, -1)),
    "to come": issue(CA, "a", valid=(1, 9)),
    "below one that has lapsed": issue(LAPSED, "a"),
    "below a weak one": issue(WEAK, "a"),
    "with a weak key": issue(CA, "a", key=rsa.generate_private_key(65_537, 1024)),  # noqa: S505 - to be refused
    "with a weak curve": issue(CA, "a", key=ec.generate_private_key(ec.SECP192R1())),
    "revoked": issue(CA, "a"),
    "revoked below": issue(BELOW, "a"),
    "an authority": CA,
}
REVOKED = [CLIENTS["revoked"]], [CLIENTS["revoked below"]]


def crls(root: Days, below: Days) -> list[PEM]:
    return [make_crl(CA, REVOKED[0], valid=root), make_crl(BELOW, REVOKED[1], valid=below)]


FRESH, STALE, FUTURE = (-2, 7), (-2, -1), (1, 7)
LISTS: dict[str, list[PEM]] = {
    "none": [],
    "fresh": crls(FRESH, FRESH),
    "root stale": crls(STALE, FRESH),
    "all stale": crls(STALE, STALE),
    "one missing": crls(FRESH, FRESH)[:1],
    "stale, and a new one": [make_crl(CA, valid=STALE), *crls(FRESH, FRESH)],
    "not in force yet": crls(FUTURE, STALE),
    "forged": [make_crl(CA, key=STRANGER.key), make_crl(BELOW)],
}


def listener(folder: Path, name: str, stale: str, client: str) -> ServerContext:
    trust = write_pem(folder / "ca.crt", CA.certificate)
    pair = issue(CA, "localhost", sans=["localhost"]).write(folder, "server")
    revoked = write_pem(folder / "crl.pem", *LISTS[name]) if LISTS[name] else None
    tls = ServerTLS(*pair, client_certificate=client, client_ca=trust, client_crl=revoked, stale_crl=stale)
    context = ServerContext("tls", tls, (), problems := Problems())
    problems.raise_if_any()
    return context


def files(folder: Path, name: str) -> tuple[Path, Path]:
    return CLIENTS[name].write(folder, "client")


def shakes_hands(listening: ServerContext, certificate: tuple[Path, Path] | None) -> bool:
    """With a client that OpenSSL lets show anything, in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if certificate:
        context.load_cert_chain(*certificate)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    server = SSL.Connection(listening.serverConnectionForTLS(None).get_context(), None)  # type: ignore[arg-type]  # it is not asked for
    server.set_accept_state()
    for _ in range(6):
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        if data := outgoing.read():
            server.bio_write(data)
        try:
            server.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error:
            return False
        else:
            return True
        with suppress(SSL.WantReadError):
            incoming.write(server.bio_read(65_536))
    raise AssertionError("no end of it")


@pytest.mark.parametrize("stale", ["deny", "warn"])
@pytest.mark.parametrize("name", LISTS)
def test_as_in_a_handshake(tmp_path: Path, name: str, stale: str) -> None:
    # A client that could not use its key would show none, and be let in by a listener that only asks.
    context = listener(tmp_path, name, stale, "required")
    for client, issued in CLIENTS.items():
        found = context.examine((issued.certificate, *issued.chain))
        really = shakes_hands(context, files(tmp_path, client))
        assert (found.refusal is None) == really, (client, found)


@pytest.mark.parametrize("client", ["none", "optional", "required"])
def test_who_shows_none(tmp_path: Path, client: str) -> None:
    context = listener(tmp_path, "none", "deny", client)
    assert (context.examine(()).refusal is None) == shakes_hands(context, None)


def test_who_is_not_asked_is_not_looked_at(tmp_path: Path) -> None:
    assert listener(tmp_path, "none", "deny", "none").examine((CLIENTS["expired"].certificate,)) == Examined()


def test_a_stale_list_that_still_counts_is_told(tmp_path: Path) -> None:
    context = listener(tmp_path, "root stale", "warn", "optional")
    assert context.examine((CLIENTS["good"].certificate,)).stale
    assert context.examine((CLIENTS["revoked"].certificate,)).refusal == "certificate revoked"
    context = listener(tmp_path, "fresh", "warn", "optional")
    assert not context.examine((CLIENTS["good"].certificate,)).stale
