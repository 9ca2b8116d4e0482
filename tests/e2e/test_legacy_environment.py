"""In place of jwt-postgresql-proxy: `twistd -n securegw` with its environment variables alone, its README's own example
as the issuer and psycopg2 as the client, in front of a server with TLS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.gateways import PATIENCE, TWISTD, RunningGateway, wait_until
from tests.pki import issue, make_ca
from tests.raw_client import RawClient
from tests.servers import PostgresServer, free_port

# "All users that the proxy connects to on the database must have the same password."
PASSWORD = "the one password"
PRIVATE_KEY = (
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VwBCIEINQG5lNt1bE8TZa68mV/WZdpqsXaOXBHvgPQGm5CcjHp\n"
    b"-----END PRIVATE KEY-----\n"
)


def b64encode_nopadding(to_encode: bytes) -> bytes:
    return urlsafe_b64encode(to_encode).rstrip(b"=")


def token(user: str, seconds: float = 60 * 60 * 24, private_key: Ed25519PrivateKey | None = None) -> str:
    """Made as that README makes it, with its header."""
    private_key = private_key or loaded_key()
    header = {"typ": "JWT", "alg": "EdDSA", "crv": "Ed25519"}
    payload = {"sub": user, "exp": int(time.time() + seconds)}
    parts = [b64encode_nopadding(json.dumps(part).encode("utf-8")) for part in (header, payload)]
    to_sign = b".".join(parts)
    return (to_sign + b"." + b64encode_nopadding(private_key.sign(to_sign))).decode()


def loaded_key() -> Ed25519PrivateKey:
    key = load_pem_private_key(PRIVATE_KEY, password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def public_pem(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def server(debian_postgres: PostgresServer) -> Iterator[PostgresServer]:
    debian_postgres.make_role("my_user", PASSWORD)
    debian_postgres.make_role("old_user", PASSWORD, method="md5")
    debian_postgres.make_role("boss", PASSWORD, options="SUPERUSER")
    debian_postgres.sql("DROP DATABASE IF EXISTS my_dbname")
    debian_postgres.sql("CREATE DATABASE my_dbname")
    with debian_postgres.hba("hostssl all old_user 127.0.0.1/32 md5"):
        yield debian_postgres


@pytest.fixture(scope="module")
def next_key() -> Ed25519PrivateKey:
    """What keys are rotated to."""
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def environment(
    server: PostgresServer, next_key: Ed25519PrivateKey, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Exactly its variables."""
    certificate, key = issue(make_ca(), "my.dbhost.test").write(tmp_path_factory.mktemp("tls"), "server")
    return {
        "PUBLIC_KEYS__0": public_pem(loaded_key()),
        "PUBLIC_KEYS__7": public_pem(next_key),
        "UPSTREAM__HOST": "localhost",
        "UPSTREAM__PORT": str(server.port),
        "UPSTREAM__PASSWORD": PASSWORD,
        "DOWNSTREAM__IP": "127.0.0.1",
        "DOWNSTREAM__PORT": str(free_port()),
        "DOWNSTREAM__CERTFILE": str(certificate),
        "DOWNSTREAM__KEYFILE": str(key),
    }


def started(environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """With nothing else of our own environment that it could read."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("SECUREGW", "PG"))}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [str(TWISTD), "-n", "securegw"],
            cwd=folder,
            env=base | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@pytest.fixture(scope="module")
def log(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of the running gateway."""
    folder = tmp_path_factory.mktemp("gateway")
    process = started(environment, folder)
    try:
        wait_until(lambda: "listening on" in (folder / "log").read_text() or process.poll() is not None, "it listens")
        yield folder / "log"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    text = (folder / "log").read_text()
    assert "Traceback" not in text
    assert PASSWORD not in text
    assert "eyJ" not in text


@pytest.mark.parametrize("user", ["my_user", "old_user"], ids=["scram", "md5"])
def test_its_own_example(log: Path, environment: dict[str, str], user: str) -> None:
    connection = psycopg2.connect(
        password=token(user),
        user=user,
        host="127.0.0.1",
        dbname="my_dbname",
        port=int(environment["DOWNSTREAM__PORT"]),
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database(), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (user, "my_dbname", True)
        assert connection.info.ssl_in_use
    connection.close()


def test_superuser(log: Path, environment: dict[str, str]) -> None:
    """It let them in, so this does; an INI has to say so."""
    with RawClient.connected(int(environment["DOWNSTREAM__PORT"])) as client:
        client.log_in("boss", token("boss"), "my_dbname")
        assert client.value("SHOW is_superuser") == "on"
    assert "it lets superusers in" in log.read_text()


def test_rotated_key(log: Path, environment: dict[str, str], next_key: Ed25519PrivateKey) -> None:
    with RawClient.connected(int(environment["DOWNSTREAM__PORT"])) as client:
        client.log_in("my_user", token("my_user", private_key=next_key), "my_dbname")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: token("old_user"),
        lambda: token("my_user", -1),
        lambda: token("my_user", private_key=Ed25519PrivateKey.generate()),
        lambda: token("my_user")[:-2],
        lambda: PASSWORD,
    ],
    ids=["other user", "expired", "foreign", "cut", "the upstream's password"],
)
def test_its_error(log: Path, environment: dict[str, str], bad: Callable[[], str]) -> None:
    with RawClient.connected(int(environment["DOWNSTREAM__PORT"])) as client:
        client.send_login("my_user", bad(), "my_dbname")
        fields = client.refusal()
        assert (fields["C"], fields["M"]) == ("28P01", "Authentication failed")
    with pytest.raises(psycopg2.OperationalError, match="FATAL:  Authentication failed\n"):
        psycopg2.connect(
            password=bad(),
            user="my_user",
            host="127.0.0.1",
            dbname="my_dbname",
            port=int(environment["DOWNSTREAM__PORT"]),
            sslmode="require",
        )


def test_what_is_missing_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    left = dict(environment)
    for name in ("UPSTREAM__HOST", "PUBLIC_KEYS__0", "PUBLIC_KEYS__7", "DOWNSTREAM__KEYFILE"):
        del left[name]
    left["DOWNSTREAM__PORT"] = "many"
    process = started(left, tmp_path)
    assert process.wait(PATIENCE) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(line.startswith("[environment] ") for line in lines)
    for name in ("UPSTREAM__HOST", "PUBLIC_KEYS__0", "DOWNSTREAM__KEYFILE", "DOWNSTREAM__PORT"):
        assert sum(name in line for line in lines) == 1


def test_with_an_ini_it_is_ignored(environment: dict[str, str], tmp_path: Path) -> None:
    """Two answers to one question: the INI counts, and it is said."""
    sections = {"upstream:main": {"hosts": "/nowhere:1"}}
    with RunningGateway.running(tmp_path, sections, **environment) as gateway:
        assert "the environment of jwt-postgresql-proxy is ignored" in gateway.log.read_text()
        with RawClient.connected(gateway.port, gateway.root_certificate) as client:
            client.send_login("my_user", token("my_user"))
            assert client.refusal()["C"] == "28P01"
