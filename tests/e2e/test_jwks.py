"""Tokens whose keys are at a URL: a real gateway, a real issuer over https, and psycopg as the client."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from tests.fake_upstream import Caller, FakeUpstream
from tests.gateways import RunningGateway, behind, wait_until
from tests.pki import Issued, issue, make_ca, write_pem
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"


class Issuer:
    """Publishes its keys at `url`, and counts who asks. down: it answers everybody with an error."""

    def __init__(self, folder: Path, stack: ExitStack, ca: Issued) -> None:
        folder.mkdir()
        self.keys = {"first": Ed25519PrivateKey.generate()}
        self.down = False
        self.root = write_pem(folder / "ca.crt", ca.certificate)
        issue(ca, sans=["localhost"]).write(folder, "server")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._server = stack.enter_context(FakeUpstream.running(self._answer))

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.port}/jwks.json"

    @property
    def asked(self) -> int:
        return len(self._server.callers)

    def _answer(self, caller: Caller) -> None:
        caller.socket = self._context.wrap_socket(caller.socket, server_side=True)
        while b"\r\n\r\n" not in caller.said and caller.read():
            pass
        jwks = [
            {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]
        body = json.dumps({"keys": jwks}).encode()
        status = b"503 Away" if self.down else b"200 OK"
        caller.send(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    def token(self, kid: str) -> str:
        claims = {"sub": "alice", "exp": time.time() + 600}
        return jwt.encode(claims, self.keys[kid], algorithm="EdDSA", headers={"kid": kid})


class Site:
    """A gateway that believes the issuer."""

    def __init__(self, folder: Path, stack: ExitStack, server: PostgresServer, **jwks: object) -> None:
        self._stack = stack
        self.issuer = Issuer(folder / "issuer", stack, make_ca("an issuer's authority"))
        self.health_port = free_port()
        sections: dict[str, dict[str, object]] = {
            "upstream:main": behind(server, password=PASSWORD),
            "health": {"listen": f"127.0.0.1:{self.health_port}"},
            "jwt:main": {"jwks": self.issuer.url, "jwks_root_certificate": self.issuer.root, **jwks},
        }
        self.gateway = RunningGateway.made(folder / "gateway", sections)
        # No other keys than the issuer's.
        del self.gateway.sections["jwt:main"]["public_keys"]

    def start(self) -> None:
        self._stack.enter_context(self.gateway.for_a_while())

    def keys(self) -> object:
        """How they are, as a balancer is told."""
        told = httpx.get(f"http://127.0.0.1:{self.health_port}/.well-known/securegw/health")
        assert told.status_code == 200
        return told.json()["keys"]

    def refused(self, token: str) -> bool:
        """Whether that is what comes of it. Anything else than this and a login is an error."""
        try:
            connection = psycopg.connect(
                host="localhost",
                port=self.gateway.port,
                user="alice",
                dbname="postgres",
                password=token,
                sslmode="verify-full",
                sslrootcert=str(self.gateway.root_certificate),
            )
        except psycopg.OperationalError as error:
            if "Authentication failed" in str(error):
                return True
            raise
        with connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        return False


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def server(embedded_postgres: PostgresServer) -> PostgresServer:
    embedded_postgres.make_role("alice", PASSWORD)
    return embedded_postgres


def test_keys_at_a_url(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, server, jwks_refresh=1)
    site.start()
    first = site.issuer.token("first")
    assert not site.refused(first), "the start waited for them"
    assert site.keys() == "ok"

    site.issuer.down = True
    wait_until(lambda: "the last good set stays in force" in site.gateway.log.read_text(), "it was missed")
    assert site.keys() == "away"
    assert not site.refused(first)

    site.issuer.down = False
    site.issuer.keys = {"second": Ed25519PrivateKey.generate()}
    wait_until(lambda: site.refused(first), "the first key was withdrawn")
    assert not site.refused(site.issuer.token("second"))
    assert "Traceback" not in site.gateway.log.read_text()


def test_a_reload_asks_at_once(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, server)
    site.start()
    site.issuer.keys["second"] = Ed25519PrivateKey.generate()
    second = site.issuer.token("second")
    site.gateway.reload()
    wait_until(lambda: not site.refused(second), "the new key is known")
    assert site.issuer.asked >= 2


def test_a_reload_tells_that_the_keys_at_a_new_url_are_not_there(
    server: PostgresServer, tmp_path: Path, stack: ExitStack
) -> None:
    site = Site(tmp_path, stack, server)
    site.gateway.sections["control"] = {"socket": "control.sock"}
    site.start()
    first = site.issuer.token("first")
    assert not site.refused(first)

    def reload() -> subprocess.CompletedProcess[str]:
        site.gateway.write_ini()
        ini = str(site.gateway.folder / "gw.ini")
        command = [sys.executable, "-m", "gateway.cli", "-c", ini, "sessions", "reload"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    # Nobody vouches for the issuer any more.
    site.gateway.sections["jwt:main"]["jwks_root_certificate"] = site.gateway.root_certificate
    done = reload()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Reloaded, but:\n[jwt:main] jwks: TLS: certificate verify failed; until")
    assert site.refused(first)
    site.gateway.sections["jwt:main"]["jwks_root_certificate"] = site.issuer.root
    done = reload()
    assert (done.returncode, done.stdout, done.stderr) == (0, "Reloaded.\n", "")
    assert not site.refused(first)


def test_a_token_of_a_new_key_is_a_reason_to_ask(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, server)
    site.start()
    asked = site.issuer.asked
    site.issuer.keys["second"] = Ed25519PrivateKey.generate()
    second = site.issuer.token("second")
    assert site.refused(second), "nobody waits for it"
    wait_until(lambda: not site.refused(second), "the new key is known")
    assert site.issuer.asked == asked + 1


def test_an_issuer_that_is_down_keeps_nobody_else_out(server: PostgresServer, tmp_path: Path, stack: ExitStack) -> None:
    site = Site(tmp_path, stack, server)
    site.issuer.down = True
    site.start()
    first = site.issuer.token("first")
    assert site.refused(first)
    site.issuer.down = False
    wait_until(lambda: not site.refused(first), "it asked again")
