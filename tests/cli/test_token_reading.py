"""`token inspect` shows and does not verify; `verify` says what the gateway says."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jwt
import pytest

from gateway.jwks import MAX_DOCUMENT
from gateway.token_issuing import KINDS, private_pem, public_pem
from tests.cli.console import Console
from tests.cli.tokens import claims, configure, issued
from tests.pki import issue, make_ca, pem, write_pem
from tests.test_jwks import document, jwk

KEY, OTHER = KINDS["ed25519"](), KINDS["ed25519"]()


@pytest.fixture(autouse=True)
def _key(console: Console) -> None:
    Path("issuer.key").touch(0o600)
    Path("issuer.key").write_bytes(private_pem(KEY, None))
    Path("issuer.pub").write_bytes(public_pem(KEY))


def saved(console: Console, *options: str, name: str = "token") -> str:
    Path(name).write_text(issued(console, *options) + "\n")
    return name


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_and_not_verified(console: Console) -> None:
    forged = jwt.encode({"sub": "mallory", "exp": 1_700_000_000, "iat": time.time() + 90_061}, OTHER, "EdDSA")
    result = console.run("token", "inspect", "-", stdin=forged)
    assert result.exit_code == 0
    assert "Not verified" in result.stderr
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["header alg"] == "EdDSA"
    assert lines["sub"].strip() == "mallory"
    assert lines["exp"].strip().startswith("1700000000 (2023-11-14 22:13:20 UTC, ")
    assert lines["exp"].endswith(" ago)")
    assert "in 1 d 1 h)" in lines["iat"]


def test_for_programs(console: Console) -> None:
    told = console.json("token", "inspect", saved(console, "--claim", 'role="a"'))
    assert (told["verified"], told["header"]["alg"], told["claims"]["role"]) == (False, "EdDSA", "a")


def test_what_is_no_date_is_shown_as_it_is(console: Console) -> None:
    for exp in (True, "soon", 1e300, -(10**15), [1]):
        assert console.ok("token", "inspect", "-", stdin=jwt.encode({"exp_": 1, "exp2": exp}, OTHER, "EdDSA"))
    shown = console.ok("token", "inspect", "-", stdin=jwt.encode({"iat": 1e300}, OTHER, "EdDSA"))
    assert "(not a date)" in shown


def test_a_terminal_obeys_no_token(console: Console) -> None:
    token = jwt.encode({"sub": "\x1b[31m", "x\x1b": ["\x9b"]}, OTHER, "EdDSA", headers={"y\x1b": "\x1b"})
    shown = console.ok("token", "inspect", "-", stdin=token)
    assert "\x1b" not in shown
    assert "\x9b" not in shown


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (b"", "is empty"),
        (b"a.b", "is not a JWT"),
        (b"a.b.c.d", "is not a JWT"),
        (b"e30=.e30.x", "its header is not strict base64url"),
        (b"e30.W10.x", "its claims set is not a JSON object"),
        (b"e30.\xff.x", "its claims set is not strict base64url"),
        (b"x" * 70_000, "is larger than"),
    ],
)
def test_what_is_no_token(console: Console, token: bytes, why: str) -> None:
    assert why in console.refused("token", "inspect", "-", stdin=token)


# --- verify -----------------------------------------------------------------------------------------------------------


def test_a_good_token(console: Console) -> None:
    configure()
    name = saved(console)
    assert console.json("token", "verify", name)["claims"]["sub"] == "alice"
    result = console.run("token", "verify", "-", stdin=Path(name).read_text())
    assert (result.exit_code, "The gateway believes it" in result.stderr) == (0, True)


def test_bad_tokens(console: Console) -> None:
    configure(issuer="us", revoked="revoked.txt")
    Path("revoked.txt").touch()
    name = saved(console)
    forged = jwt.encode({"sub": "alice", "iss": "us", "exp": time.time() + 60}, OTHER, "EdDSA")
    expired = jwt.encode({"sub": "alice", "iss": "us", "exp": time.time() - 60}, KEY, "EdDSA")
    unread = jwt.encode({"sub": "alice", "iss": "us", "exp": time.time() + 60, "securegw": {"x": 1}}, KEY, "EdDSA")
    foreign = issued(console, "--iss", "them")
    for token, why in (
        (forged, "signature fits no configured key"),
        (expired, "expired 60 seconds ago"),
        (unread, "securegw is not an object with db, cidr or both"),
        (foreign, "iss is not the configured issuer"),
        ("junk", "three parts expected"),
    ):
        assert why in console.refused("token", "verify", "-", stdin=token)
    assert console.ok("token", "verify", name)
    Path("revoked.txt").write_text(claims(Path(name).read_text().strip())["jti"])
    assert console.refused("token", "verify", name) == "Error: refused: the token is revoked\n"
    result = console.run("token", "verify", name, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"verified": False, "reason": "the token is revoked"})
    assert result.stderr == "Error: refused: the token is revoked\n"


def test_what_is_no_refusal_is_no_answer(console: Console) -> None:
    """Nobody knows whether it would be believed."""
    configure()
    assert "nowhere" in console.refused("token", "verify", "nowhere", "--json")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_the_file_is_named_in_one_of_two_ways(console: Console, command: str) -> None:
    configure()
    name = saved(console)
    shown = console.ok("token", command, name)
    assert console.ok("token", command, "--token-file", name) == shown
    assert console.ok("token", command, "--token-file", "-", stdin=Path(name).read_text()) == shown
    for both in ((), (name, "--token-file", name)):
        assert "either FILE or --token-file FILE" in console.refused("token", command, *both, status=2)


def test_a_bound_token_needs_its_certificate(console: Console) -> None:
    configure()
    ca = make_ca()
    alice, bob = issue(ca, "alice"), issue(ca, "bob")
    Path("alice.crt").write_bytes(pem(alice.certificate, ca.certificate))
    Path("bob.crt").write_bytes(pem(bob.certificate))
    name = saved(console, "--bind-cert", "alice.crt")
    assert console.ok("token", "verify", name, "--cert", "alice.crt")
    assert "bound to another" in console.refused("token", "verify", name, "--cert", "bob.crt")
    assert "none was presented" in console.refused("token", "verify", name)
    told = json.loads(console.run("token", "verify", name, "--json").stdout)
    assert (told["verified"], "none was presented" in told["reason"]) == (False, True)


def test_the_section_that_is_meant(console: Console) -> None:
    name = saved(console)
    Path("other.pub").write_bytes(public_pem(OTHER))
    assert "no configuration" in console.refused("token", "verify", name)
    configure({"jwt:other": {"public_keys": "other.pub"}})
    assert console.ok("token", "verify", name)
    assert "no configured key" in console.refused("token", "verify", name, "--jwt", "other")
    assert "it has [jwt:main], [jwt:other]" in console.refused("token", "verify", name, "--jwt", "third")


# --- keys at a URL ----------------------------------------------------------------------------------------------------


class Issuer(BaseHTTPRequestHandler):
    """Answers what its server has. A command that follows a redirection would find the keys."""

    def do_GET(self) -> None:
        status, body = self.server.answers.get(self.path, (404, b""))  # type: ignore[attr-defined] # our own server's
        self.send_response(status)
        self.send_header("Location", "/keys?p=1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def issuer(console: Console) -> Iterator[str]:
    """Its URL without a path; ca.crt is its authority's."""
    ca = make_ca("issuer")
    write_pem(Path("ca.crt"), ca.certificate)
    certificate, key = issue(ca, "issuer", sans=["localhost"]).write(Path(), "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), Issuer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answers = {  # type: ignore[attr-defined] # as above
        "/keys?p=1": (200, document(jwk(KEY, kid="a"))),
        "/moved": (302, b""),
        "/private": (200, document(jwk(KEY, d="AAAA"))),
        "/large": (200, b" " * (MAX_DOCUMENT + 1)),
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_are_fetched(console: Console, issuer: str) -> None:
    name = saved(console)
    configure(without=("public_keys",), jwks=f"{issuer}/keys?p=1", jwks_root_certificate="ca.crt")
    result = console.run("token", "verify", name)
    assert (result.exit_code, f"The keys of {issuer}/keys?p=1 were fetched now." in result.stderr) == (0, True)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nowhere", "the answer has the status 404"),
        ("/moved", "the answer is a redirect (302), which is not followed"),
        ("/private", "is a private or secret one"),
        ("/large", "the answer is longer than 1048576 bytes"),
    ],
)
def test_answers_that_are_no_keys(console: Console, issuer: str, path: str, why: str) -> None:
    name = saved(console)
    configure(jwks=f"{issuer}{path}", jwks_root_certificate="ca.crt")
    assert why in console.refused("token", "verify", name)


def test_whoever_answers_is_not_believed(console: Console, issuer: str) -> None:
    name = saved(console)
    write_pem(Path("ca.crt"), make_ca("another").certificate)
    configure(jwks=f"{issuer}/keys?p=1", jwks_root_certificate="ca.crt")
    assert "certificate verify failed" in console.refused("token", "verify", name)
    configure(jwks="https://127.0.0.1:1/keys")
    assert "cannot be fetched" in console.refused("token", "verify", name)
