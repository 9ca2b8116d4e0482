"""Client certificates: none, optional, required; revoked, foreign, expired; and tokens that are bound to one."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.gateways import RunningGateway, behind
from tests.pki import SERVER, Issued, issue, make_ca, make_crl, write_pem
from tests.raw_client import RawClient
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"

Files = Sequence[Path]


def thumbprint(issued: Issued) -> str:
    digest = hashlib.sha256(issued.certificate.public_bytes(Encoding.DER)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def issued(folder: Path) -> dict[str, Issued]:
    """Certificates by what is the matter with them; their files are of the same names."""
    ca, foreign = make_ca("clients"), make_ca("clients")
    middle = make_ca("clients, below", ca)
    found = {
        "good": issue(ca, "alice"),
        "another": issue(ca, "alice"),
        "chained": issue(middle, "alice"),
        "revoked": issue(ca, "mallory"),
        "foreign": issue(foreign, "alice"),
        "expired": issue(ca, "alice", valid=(-9, -1)),
        "not-yet": issue(ca, "alice", valid=(1, 9)),
        "for-servers": issue(ca, "alice", eku=(SERVER,)),
    }
    for name, each in found.items():
        each.write(folder, name)
    write_pem(folder / "clients.crt", ca.certificate)
    write_pem(folder / "clients.crl", make_crl(ca, [found["revoked"]]), make_crl(middle))
    return found


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """Of the listeners, by their client_certificate."""
    return {"optional": free_port(), "required": free_port()}


@pytest.fixture(scope="module")
def shared_gateway(
    embedded_postgres: PostgresServer, folder: Path, issued: dict[str, Issued], ports: dict[str, int]
) -> Iterator[RunningGateway]:
    embedded_postgres.make_role("alice", PASSWORD)
    sections: dict[str, dict[str, object]] = {"upstream:main": behind(embedded_postgres, password=PASSWORD)}
    for kind, port in ports.items():
        sections[f"postgres:{kind}"] = {
            "listen": f"127.0.0.1:{port}",
            "rules": "\nallow all all all",
            "client_certificate": kind,
            "client_ca": "clients.crt",
            "client_crl": "clients.crl",
        }
    with RunningGateway.running(folder, sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    yield shared_gateway
    shared_gateway.check_at_rest()


def files(gateway: RunningGateway, name: str) -> Files:
    return [gateway.folder / f"{name}.crt", gateway.folder / f"{name}.key"]


def enters(gateway: RunningGateway, port: int, certificate: Files = (), **claims: Any) -> bool:
    """With a good token; not: told that authentication failed."""
    with RawClient.connected(port, gateway.root_certificate, certificate=certificate) as client:
        client.send_login("alice", gateway.token("alice", **claims))
        found = client.read()
        assert found is not None
        if found[0] == b"R":
            return True
        assert b"C28P01\0MAuthentication failed\0" in found[1]
        return False


def check_handshake_refused(
    gateway: RunningGateway, port: int, certificate: Files, reason: str, version: ssl.TLSVersion
) -> None:
    """With TLS 1.3 the client hears of it after its own handshake is complete: nothing may be answered then."""
    client = RawClient(port, gateway.root_certificate, certificate=certificate)
    client.context.maximum_version = version
    try:
        client.start_tls()
        client.send(b"")
        assert client.read() is None
    except (ssl.SSLError, ConnectionError):
        pass
    finally:
        client.close()
    record = gateway.end_of(client.name)
    assert reason in record["reason"]
    assert "TLS handshake" in record["reason"]
    assert "user" not in record


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@pytest.mark.parametrize("certificate", ["good", "another", "chained"])
def test_good_ones(gateway: RunningGateway, ports: dict[str, int], certificate: str) -> None:
    for port in (gateway.port, *ports.values()):
        assert enters(gateway, port, files(gateway, certificate))


def test_none(gateway: RunningGateway, ports: dict[str, int]) -> None:
    assert enters(gateway, gateway.port)
    assert enters(gateway, ports["optional"])


@VERSIONS
def test_none_where_one_is_required(gateway: RunningGateway, ports: dict[str, int], version: ssl.TLSVersion) -> None:
    check_handshake_refused(gateway, ports["required"], (), "peer did not return a certificate", version)


@VERSIONS
@pytest.mark.parametrize("kind", ["optional", "required"])
@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("foreign", "certificate verify failed"),
        ("revoked", "certificate revoked"),
        ("expired", "certificate has expired"),
        ("not-yet", "certificate is not yet valid"),
        ("for-servers", "unsuitable certificate purpose"),
    ],
)
def test_bad_ones(
    gateway: RunningGateway, ports: dict[str, int], kind: str, certificate: str, reason: str, version: ssl.TLSVersion
) -> None:
    check_handshake_refused(gateway, ports[kind], files(gateway, certificate), reason, version)


def test_a_certificate_is_no_token(gateway: RunningGateway, ports: dict[str, int]) -> None:
    with RawClient.connected(ports["required"], gateway.root_certificate, certificate=files(gateway, "good")) as client:
        client.send_login("alice", "")
        assert client.refusal()["C"] == "28P01"


# --- tokens bound to a certificate (RFC 8705, 3.1) --------------------------------------------------------------------


def test_bound_token(gateway: RunningGateway, ports: dict[str, int], issued: dict[str, Issued]) -> None:
    bound = {"x5t#S256": thumbprint(issued["good"])}
    for port in ports.values():
        assert enters(gateway, port, files(gateway, "good"), cnf=bound)
        # Of the same CA and the same name, but not the same.
        assert not enters(gateway, port, files(gateway, "another"), cnf=bound)
    assert not enters(gateway, ports["optional"], cnf=bound)
    # Where nobody asks for a certificate, none is presented.
    assert not enters(gateway, gateway.port, files(gateway, "good"), cnf=bound)


@pytest.mark.parametrize(
    "cnf", [{}, None, "x", {"jkt": "x"}, {"x5t#S256": ""}, {"x5t#S256": None}, {"x5t#S256": "AAAA"}], ids=str
)
def test_malformed_binding(gateway: RunningGateway, ports: dict[str, int], cnf: object) -> None:
    assert not enters(gateway, ports["optional"], files(gateway, "good"), cnf=cnf)


def test_why_is_in_the_audit(gateway: RunningGateway, ports: dict[str, int], issued: dict[str, Issued]) -> None:
    bound = {"x5t#S256": thumbprint(issued["good"])}
    for certificate, reason in ((files(gateway, "another"), "another client certificate"), ((), "none was presented")):
        with RawClient.connected(ports["optional"], gateway.root_certificate, certificate=certificate) as client:
            client.send_login("alice", gateway.token("alice", cnf=bound))
            assert client.refusal()["M"] == "Authentication failed"
        assert reason in gateway.end_of(client.name)["reason"]
