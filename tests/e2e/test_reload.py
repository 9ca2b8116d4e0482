"""SIGHUP: everything anew for those who come, nothing for those who are there, and all of it or nothing."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.pki import Issued, issue, make_ca, make_crl, write_pem
from tests.raw_client import RawClient
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"


@pytest.fixture(scope="module")
def clients_ca() -> Issued:
    return make_ca("clients")


@pytest.fixture(scope="module")
def shared_gateway(
    embedded_postgres: PostgresServer, clients_ca: Issued, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    for role in ("alice", "bob"):
        embedded_postgres.make_role(role, PASSWORD)
    folder = tmp_path_factory.mktemp("gateway")
    write_pem(folder / "clients.crt", clients_ca.certificate)
    write_pem(folder / "clients.crl", make_crl(clients_ca))
    tls = {"client_certificate": "optional", "client_ca": "clients.crt", "client_crl": "clients.crl"}
    sections: Sections = {"upstream:main": behind(embedded_postgres, password=PASSWORD), "tls": tls}
    with RunningGateway.running(folder, sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    """As it was at first, after each test."""
    kinds = {".crt", ".key", ".pub", ".crl"}
    before = {path: path.read_bytes() for path in shared_gateway.folder.iterdir() if path.suffix in kinds}
    sections = {section: dict(keys) for section, keys in shared_gateway.sections.items()}
    key = shared_gateway.key
    yield shared_gateway
    shared_gateway.key = key
    for path, content in before.items():
        path.write_bytes(content)
    shared_gateway.sections = sections
    shared_gateway.write_ini()
    shared_gateway.reload()
    shared_gateway.check_at_rest()


def connected(gateway: RunningGateway, *certificate: Path) -> RawClient:
    client = RawClient(gateway.port, gateway.root_certificate, certificate=certificate)
    client.start_tls()
    return client


@pytest.fixture
def live(gateway: RunningGateway) -> Iterator[RawClient]:
    """A session from before the reload, which must not notice it."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice"))
        pid = client.value("SELECT pg_backend_pid()")
        yield client
        assert client.value("SELECT pg_backend_pid()") == pid


def enters(gateway: RunningGateway, token: str, user: str = "alice") -> bool:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send_login(user, token)
        found = client.read()
        assert found is not None
        return found[0] == b"R"


def served(gateway: RunningGateway) -> bytes:
    with RawClient.connected(gateway.port) as client:
        return client.peer_certificate()


def der(issued: Issued) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)


# --- what changes -----------------------------------------------------------------------------------------------------


def test_new_certificate(gateway: RunningGateway, live: RawClient) -> None:
    new = issue(gateway.ca, "localhost", sans=["localhost", "127.0.0.1"])
    old = served(gateway)
    new.write(gateway.folder, "server")
    assert served(gateway) == old
    gateway.reload()
    assert served(gateway) == der(new) != old


def test_handshake_that_began_before_the_reload(gateway: RunningGateway) -> None:
    """Certificates are read when the connection opens, so the old one is still whole."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        issue(gateway.ca, "localhost", sans=["localhost"]).write(gateway.folder, "server")
        gateway.reload()
        client.log_in("alice", gateway.token("alice"))


def test_new_jwt_key(gateway: RunningGateway, live: RawClient) -> None:
    old_token = gateway.token("alice")
    gateway.key = Ed25519PrivateKey.generate()
    new_token = gateway.token("alice")
    assert not enters(gateway, new_token)
    public = gateway.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (gateway.folder / "jwt.pub").write_bytes(public)
    gateway.reload()
    assert enters(gateway, new_token)
    assert not enters(gateway, old_token)


def test_new_rules(gateway: RunningGateway, live: RawClient) -> None:
    assert enters(gateway, gateway.token("bob"), "bob")
    gateway.sections["postgres:main"]["rules"] = "\ndeny all bob all\nallow all all all"
    gateway.write_ini()
    assert enters(gateway, gateway.token("bob"), "bob")
    gateway.reload()
    assert not enters(gateway, gateway.token("bob"), "bob")
    assert enters(gateway, gateway.token("alice"))


def test_no_rules_let_nobody_in(gateway: RunningGateway, live: RawClient) -> None:
    gateway.sections["postgres:main"]["rules"] = ""
    gateway.write_ini()
    gateway.reload()
    assert not enters(gateway, gateway.token("alice"))


def test_new_limits(gateway: RunningGateway, live: RawClient) -> None:
    gateway.sections["limits"] = {"max_connections_per_subject": 1}
    gateway.write_ini()
    gateway.reload()
    assert not enters(gateway, gateway.token("alice"))
    assert enters(gateway, gateway.token("bob"), "bob")


def test_new_upstream_password(gateway: RunningGateway, embedded_postgres: PostgresServer, live: RawClient) -> None:
    embedded_postgres.sql("ALTER ROLE bob PASSWORD 'changed'")
    assert not enters(gateway, gateway.token("bob"), "bob")
    gateway.sections["upstream:main"]["password"] = "changed"
    gateway.write_ini()
    gateway.reload()
    assert enters(gateway, gateway.token("bob"), "bob")
    embedded_postgres.sql(f"ALTER ROLE bob PASSWORD '{PASSWORD}'")


def test_revoked_client_certificate(gateway: RunningGateway, clients_ca: Issued, tmp_path: Path) -> None:
    """Revocation holds for the handshakes to come, and for those that have been."""
    owned = issue(clients_ca, "alice")
    other = issue(clients_ca, "bob")
    files, other_files = owned.write(tmp_path, "alice"), other.write(tmp_path, "bob")
    before = connected(gateway, *files)
    before.log_in("alice", gateway.token("alice"))
    write_pem(gateway.folder / "clients.crl", make_crl(clients_ca, [owned]))
    gateway.reload()
    after = RawClient(gateway.port, gateway.root_certificate, certificate=files)
    # With TLS 1.3 the client may think that its handshake succeeded until it reads.
    try:
        after.start_tls()
        assert after.read() is None
    except (ssl.SSLError, ConnectionError):
        pass
    assert "certificate revoked" in gateway.end_of(after.name)["reason"]
    assert before.refusal()["C"] == "57P01"
    unaffected = connected(gateway, *other_files)
    unaffected.log_in("alice", gateway.token("alice"))
    for client in (before, after, unaffected):
        client.close()


def test_audit_file_rotation(gateway: RunningGateway, live: RawClient) -> None:
    current, rotated = gateway.folder / "audit.jsonl", gateway.folder / "audit.jsonl.1"
    current.rename(rotated)
    enters(gateway, gateway.token("alice"))
    wait_until(lambda: len(rotated.read_text().splitlines()) >= 3, "it still writes to the old file")
    gateway.reload()
    old = rotated.read_text()
    assert enters(gateway, gateway.token("bob"), "bob")
    wait_until(lambda: len(gateway.audit()) == 1, "it writes to the new file")
    assert gateway.audit()[0]["subject"] == "bob"
    assert rotated.read_text() == old
    assert current.stat().st_mode & 0o777 == 0o600


# --- what must not ----------------------------------------------------------------------------------------------------


def truncated_certificate(gateway: RunningGateway) -> str:
    path = gateway.folder / "server.crt"
    path.write_bytes(path.read_bytes()[:200])
    return "[tls] certificate: "


def key_of_another(gateway: RunningGateway) -> str:
    issue(gateway.ca, "other").write(gateway.folder, "other")
    (gateway.folder / "server.key").write_bytes((gateway.folder / "other.key").read_bytes())
    return "[tls] key: "


def bad_jwt_key(gateway: RunningGateway) -> str:
    (gateway.folder / "jwt.pub").write_text("not PEM")
    return "[jwt:main] public_keys: "


def missing_jwt_key(gateway: RunningGateway) -> str:
    (gateway.folder / "jwt.pub").unlink()
    return "No such file or directory"


def directory_instead_of_a_file(gateway: RunningGateway) -> str:
    gateway.sections["jwt:main"]["public_keys"] = "."
    return "Is a directory"


def bad_crl(gateway: RunningGateway) -> str:
    (gateway.folder / "clients.crl").write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    return "[tls] client_crl: "


def bad_rule(gateway: RunningGateway) -> str:
    gateway.sections["postgres:main"]["rules"] = "\nallow all all all\nalow all bob all"
    return "[postgres:main] rules, line 2: "


def changed_listen(gateway: RunningGateway) -> str:
    gateway.sections["postgres:main"]["listen"] = f"127.0.0.1:{free_port()}"
    return "[postgres:main] listen: a new or changed address needs a restart"


def another_listener(gateway: RunningGateway) -> str:
    gateway.sections["postgres:more"] = {"listen": f"127.0.0.1:{free_port()}", "rules": "\nallow all all all"}
    return "[postgres:more] listen: a new or changed address needs a restart"


def changed_audit(gateway: RunningGateway) -> str:
    gateway.sections["audit"]["file"] = "other.jsonl"
    return "[audit] file: a change needs a restart"


def unknown_key(gateway: RunningGateway) -> str:
    gateway.sections["limits"] = {"max_conections": 1}
    return "[limits] max_conections: no such key; did you mean max_connections?"


def no_ini(gateway: RunningGateway) -> str:
    (gateway.folder / "gw.ini").unlink()
    return "No such file or directory"


BREAKS = [
    truncated_certificate,
    key_of_another,
    bad_jwt_key,
    missing_jwt_key,
    directory_instead_of_a_file,
    bad_crl,
    bad_rule,
    changed_listen,
    another_listener,
    changed_audit,
    unknown_key,
    no_ini,
]


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_broken_reload_changes_nothing(
    gateway: RunningGateway, live: RawClient, breaks: Callable[[RunningGateway], str]
) -> None:
    """Not even what would have been right: bob stays allowed, and the certificate is the old one."""
    certificate = served(gateway)
    rules = "\ndeny all bob all\nallow all all all"
    gateway.sections["postgres:main"]["rules"] = rules
    gateway.write_ini()
    before = len(gateway.log.read_text())
    reason = breaks(gateway)
    if breaks is not no_ini:
        gateway.write_ini()
    gateway.reload(succeeds=False)
    said = gateway.log.read_text()[before:]
    assert "everything stays as it was" in said
    assert reason in said
    assert PASSWORD not in said
    assert served(gateway) == certificate
    assert enters(gateway, gateway.token("alice"))
    assert enters(gateway, gateway.token("bob"), "bob")
    # The next one, repaired, works: the fixture sees to that.
