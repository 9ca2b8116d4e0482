"""What a check says of files and of rules: of each mistake, and nothing of what is right."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import OKPAlgorithm

from gateway.inspection.check import check
from gateway.inspection.credentials import check_certificates, check_dates, check_secret
from gateway.inspection.findings import Finding, Level
from gateway.inspection.rules import check_reach, check_rules
from gateway.trust import weak_key, weak_signature
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.pki import CLIENT, SERVER, common_name, issue, make_ca, make_crl, new_key, write_pem


def bad(found: Iterable[Finding]) -> list[str]:
    return [f"{one.level.value} [{one.section}] {one.about}: {one.text}" for one in found if one.level is not Level.OK]


def whole(site: Site, sections: Sections) -> list[Finding]:
    return check(site.write(sections), {}, site.folder, None)


# --- a configuration --------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_good_one(site: Site) -> None:
    found = whole(site, DATABASE)
    assert bad(found) == [
        "warn [upstream:main] tls: disable: queries and results cross the network in clear text",
    ]


def test_sections_stand_as_in_the_file(site: Site) -> None:
    def order(**environ: str) -> list[str]:
        found = check(path, environ, site.folder, None)
        return list(dict.fromkeys(one.section for one in found))

    path = site.write(DATABASE)
    assert order() == ["configuration", "audit", "tls", "upstream:main", "jwt:main", "postgres:main"]
    heads = path.read_text().removeprefix("[").split("\n[")
    path.write_text("".join(f"[{one}\n" for one in reversed(heads)))
    assert order() == ["configuration", "postgres:main", "jwt:main", "upstream:main", "tls", "audit"]
    assert order(SECUREGW_CONTROL_SOCKET="c.sock")[-1] == "control"
    (site.folder / "server.key").unlink()
    assert order() == ["upstream:main", "tls"]


def test_everything_that_there_can_be(site: Site) -> None:
    """Each file of each section is looked at."""
    issue(site.ca, "gateway", eku=[CLIENT]).write(site.folder, "gateway")
    issue(site.ca, "b.example", sans=["b.example"]).write(site.folder, "b")
    for name in ("b.key", "server.key", "gateway.key"):
        (site.folder / name).chmod(0o600)
    (site.folder / "revoked").write_text("7\n")
    ours = {"client_certificate": "gateway.crt", "client_key": "gateway.key", "root_certificate": "ca.crt"}
    found = whole(site, {
        "tls": {
            "certificate": "server.crt",
            "key": "server.key",
            "sni": "b.crt b.key",
            "client_ca": "ca.crt",
            "client_certificate": "optional",
        },
        "control": {"socket": "c.sock"},
        "hub": {"database": "var/hub.sqlite"},
        "registry": {"database": "things.sqlite"},
        "jwt:main": {"public_keys": "jwt.pub\njwt.pub", "revoked": "revoked"},
        "upstream:main": {"hosts": "db.example", **ours},
        "login:alice": {"certificate": "gateway.crt", "key": "gateway.key"},
        "postgres:main": {"listen": "127.0.0.1:6432", "rules": "allow all all all"},
        "https:main": {"listen": "127.0.0.1:8443"},
        "route:main": {"upstream": "https://web.example", "client": "optional", "rules": "allow all all", **ours},
        "mqtt:main": {"topics": "\nallow all all #\nallow all publish a", "rules": "allow all all"},
        "tunnel:main": {
            "mode": "server",
            "listen": "127.0.0.1:7000",
            "upstream": "127.0.0.1:7001",
            "client_certificate": "required",
            "rules": "\nallow all all\ndeny mallory all",
        },
    })  # fmt: skip
    assert bad(found) == [
        "warn [tls] client_crl: is not given: a certificate that is revoked still gets in",
        "warn [jwt:main] public_keys: one key is there twice",
        "warn [mqtt:main] topics: line 2: allow all publish a (never decides: line 1 decides first)",
        "warn [tunnel:main] rules: line 2: deny mallory all (never decides: line 1 decides first)",
    ]
    told = {f"[{one.section}] {one.about}: {one.text.removeprefix(str(site.folder))}" for one in found}
    for words in (
        "[tls] sni: /b.crt: CN=b.example, EC secp256r1",
        "[tls] sni: /b.key: for its owner alone",
        "[hub] database: /var/hub.sqlite: will be made",
        "[registry] database: /things.sqlite: will be made",
        "[control] socket: /c.sock: will be made",
        "[jwt:main] revoked: /revoked: 1 revoked",
        "[upstream:main] client_certificate: /gateway.crt: CN=gateway, EC secp256r1",
        "[route:main] client_key: /gateway.key: for its owner alone",
        "[login:alice] key: /gateway.key: for its owner alone",
    ):
        assert words in told, "\n".join(sorted(told))


def test_weak_authorities(site: Site) -> None:
    write_pem(site.folder / "ca.crt", make_ca("weak", key=rsa.generate_private_key(65_537, 1024)).certificate)  # noqa: S505
    clients = {"client_certificate": "optional", "client_ca": "ca.crt"}
    (found,) = certificates(site, {"postgres:main": {**DATABASE["postgres:main"], **clients}})
    words = "of CN=weak: its RSA key of 1024 bits is too weak"
    assert found == f"warn [postgres:main] client_ca: {site.folder / 'ca.crt'}: {words}"


def test_all_that_is_wrong_at_once(site: Site) -> None:
    (site.folder / "server.key").unlink()
    found = whole(site, {**DATABASE, "postgres:main": {"listen": "nowhere", "upsteam": "x"}})
    told = "\n".join(bad(found))
    for words in (
        "FAIL [postgres:main] upsteam",
        "FAIL [postgres:main] listen",
        "FAIL [tls] key",
        "warn [postgres:main] rules: is empty",
    ):
        assert words in told


def test_what_the_gateway_warns_of_at_its_start_has_its_place(site: Site) -> None:
    web = {"listen": "127.0.0.1:8443"}
    path = site.write({**DATABASE, "postgres:main": {"rules": ""}, "https:main": web})
    found = bad(check(path, {"SECUREGW_PORT": "tcp://10.0.0.1"}, site.folder, None))
    assert found[0].startswith("warn [configuration] environment: SECUREGW_PORT is ignored: it stands for no key")
    for words in (
        "warn [upstream:main] tls: disable: queries and results cross the network in clear text",
        "warn [postgres:main] rules: is empty, so nobody is let in",
        "warn [https:main] section: has no [route:...] to serve",
    ):
        assert words in found


def test_one_that_guards_nothing(site: Site) -> None:
    path = site.write({"postgres:main": {}})
    (found,) = [one for one in check(path, {}, site.folder, None) if one.level is not Level.OK]
    assert "guards nothing" in found.text


def test_a_file_that_is_not_there(site: Site) -> None:
    (found,) = bad(check(site.folder / "gone.ini", {}, site.folder, None))
    assert "gone.ini" in found


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "level"), [(60, "ok"), (20, "warn"), (5, "warn"), (0.5, "FAIL"), (-1, "FAIL"), (-300, "FAIL")]
)
def test_how_long_a_certificate_lasts(site: Site, days: float, level: str) -> None:
    issue(site.ca, "localhost", valid=(-365, 60)).write(site.folder, "server")
    now = datetime.now(UTC) + timedelta(days=60 - days)
    (found,) = [one for one in check_dates(site.config(DATABASE), now) if one.about == "certificate"]
    assert found.level.value == level


def test_one_that_is_not_valid_yet(site: Site) -> None:
    issue(site.ca, "localhost", valid=(1, 60)).write(site.folder, "server")
    (found,) = bad(check_dates(site.config(DATABASE)))
    assert found.startswith("FAIL [tls] certificate")
    assert "begins only at" in found


@pytest.mark.parametrize(("stale", "level"), [("deny", "FAIL"), ("warn", "warn")])
def test_a_stale_crl(site: Site, stale: str, level: str) -> None:
    write_pem(site.folder / "crl.pem", make_crl(site.ca, valid=(-9, -1)))
    clients = {"client_certificate": "optional", "client_ca": "ca.crt", "client_crl": "crl.pem", "stale_crl": stale}
    (found,) = bad(check_dates(site.config({**DATABASE, "postgres:main": {**DATABASE["postgres:main"], **clients}})))
    assert found.startswith(f"{level} [postgres:main] client_crl")
    assert "is over" in found


def test_of_several_authorities_one_may_be_over(site: Site) -> None:
    old = make_ca("old", valid=(-9, -1))
    write_pem(site.folder / "ca.crt", old.certificate, site.ca.certificate)
    clients = {"client_certificate": "optional", "client_ca": "ca.crt"}
    (found,) = bad(check_dates(site.config({**DATABASE, "postgres:main": {**DATABASE["postgres:main"], **clients}})))
    assert found.startswith("warn [postgres:main] client_ca")
    assert "CN=old" in found


def certificates(site: Site, sections: Sections | None = None) -> list[str]:
    return bad(check_certificates(site.config({**DATABASE, **(sections or {})})))


def test_a_chain_in_the_wrong_order(site: Site) -> None:
    below = make_ca("below", site.ca)
    server = issue(below, "localhost", sans=["localhost"])
    write_pem(site.folder / "server.crt", server.certificate, site.ca.certificate, below.certificate)
    write_pem(site.folder / "server.key", server.key)
    (found, more) = certificates(site)
    place = f"FAIL [tls] certificate: {site.folder / 'server.crt'}"
    assert found == f"{place}: CN=Test CA comes behind CN=localhost, but has not issued it"
    assert more == f"{place}: CN=below comes behind CN=Test CA, but has not issued it"


def test_a_server_without_names_and_for_the_wrong_purpose(site: Site) -> None:
    issue(site.ca, "localhost", eku=[CLIENT]).write(site.folder, "server")
    purpose, names = certificates(site)
    place = f"[tls] certificate: {site.folder / 'server.crt'}"
    assert purpose == f"FAIL {place}: is not for a server (extendedKeyUsage)"
    assert names.startswith(f"warn {place}: has no name or address")


def test_one_that_is_signed_by_itself(site: Site) -> None:
    key = new_key()
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(common_name("localhost"), common_name("localhost"), key.public_key(), 1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=90))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    write_pem(site.folder / "server.crt", builder.add_extension(names, False).sign(key, SHA256()))
    write_pem(site.folder / "server.key", key)
    (found,) = certificates(site)
    words = "is signed by itself: nobody can vouch for it"
    assert found == f"warn [tls] certificate: {site.folder / 'server.crt'}: {words}"


def test_a_client_certificate_that_is_not_for_clients(site: Site) -> None:
    issue(site.ca, "gateway", eku=[SERVER]).write(site.folder, "gateway")
    ours = {"hosts": "db.example", "client_certificate": "gateway.crt", "client_key": "gateway.key"}
    (found,) = bad(check_certificates(site.config({**DATABASE, "upstream:main": ours})))
    assert found.startswith("FAIL [upstream:main] client_certificate")
    assert found.endswith("is not for a client (extendedKeyUsage)")


def test_weak_keys() -> None:
    ca = make_ca()
    weak = rsa.generate_private_key(65_537, 1024)  # noqa: S505 - to be told of
    assert weak_key(issue(ca, key=weak).certificate) == "its RSA key of 1024 bits is too weak"
    curve = ec.generate_private_key(ec.SECP192R1())
    assert weak_key(issue(ca, key=curve).certificate) == "its key on the curve secp192r1 is too weak"
    for good in (rsa.generate_private_key(65_537, 2048), new_key(), ed25519.Ed25519PrivateKey.generate()):
        assert weak_key(issue(ca, key=good).certificate) is None
        assert weak_signature(issue(make_ca(key=good)).certificate) is None


# --- who can read it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "level"), [(0o600, "ok"), (0o400, "ok"), (0o660, "warn"), (0o604, "FAIL"), (0o777, "FAIL")]
)
def test_private_keys(site: Site, mode: int, level: str) -> None:
    (site.folder / "server.key").chmod(mode)
    (found,) = check_secret("tls", "key", site.folder / "server.key")
    assert found.level.value == level


def test_passwords_in_the_ini_and_in_files(site: Site) -> None:
    secret = site.folder / "secret"
    secret.write_text("a secret\n")
    secret.chmod(0o644)
    upstream = {**DATABASE["upstream:main"], "password_file": "secret"}
    path = site.write({**DATABASE, "upstream:main": upstream, "login:alice": {"password": "another"}})
    path.chmod(0o644)
    told = "\n".join(bad(check(path, {}, site.folder, None)))
    assert f"FAIL [configuration] passwords: {path}" in told
    assert f"FAIL [upstream:main] password_file: {secret}" in told
    assert "a secret" not in told


def test_keys_have_the_name_of_the_key_that_names_their_file(site: Site) -> None:
    def keys(found: list[Finding]) -> list[str]:
        return [f"{one.level.value} {one.about}: {one.text}" for one in found if one.section == "jwt:main"]

    known = {"a": site.key, "b": ed25519.Ed25519PrivateKey.generate()}
    jwks = [{**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in known.items()]
    (site.folder / "jwks.json").write_text(json.dumps({"keys": jwks}))
    told = ["ok jwks: 2: Ed25519/EdDSA a, Ed25519/EdDSA b"]
    assert keys(whole(site, {**DATABASE, "jwt:main": {"jwks": "jwks.json"}})) == told
    both = {"public_keys": "jwt.pub c", "jwks": "jwks.json"}
    assert keys(whole(site, {**DATABASE, "jwt:main": both})) == [
        "ok public_keys: 1: Ed25519/EdDSA c",
        *told,
        "warn public_keys: one key is there twice",
    ]
    twice = [jwks[0], {**jwks[0], "kid": "d"}]
    (site.folder / "twice.json").write_text(json.dumps({"keys": twice}))
    told_twice = keys(whole(site, {**DATABASE, "jwt:main": {"jwks": "twice.json"}}))
    assert told_twice[1:] == ["warn jwks: one key is there twice"]
    path = site.write({**DATABASE, "jwt:main": {}})
    found = check(path, {"SECUREGW_JWT_MAIN_JWKS": str(site.folder / "jwks.json")}, site.folder, None)
    assert keys(found) == told


def test_authorities_of_a_key_set_that_cannot_be_used(site: Site) -> None:
    (site.folder / "issuer-ca.crt").write_text("garbage")
    jwt = {"jwks": "https://issuer.example/keys", "jwks_root_certificate": "issuer-ca.crt"}
    (found,) = [one for one in bad(whole(site, {**DATABASE, "jwt:main": jwt})) if "jwt" in one]
    assert found.startswith(
        f"FAIL [jwt:main] jwks_root_certificate: {site.folder / 'issuer-ca.crt'}: is not a readable"
    )


def test_what_cannot_be_written_to(site: Site) -> None:
    sections = {**DATABASE, "audit": {"file": "gone/audit.jsonl"}, "registry": {"database": "lost/things.sqlite"}}
    told = "\n".join(bad(whole(site, sections)))
    assert f"FAIL [audit] file: {site.folder / 'gone'}: there is no such folder" in told
    assert f"FAIL [registry] database: {site.folder / 'lost'}: there is no such folder" in told


@pytest.mark.parametrize("folder", ["/run", "/var/lib", "/var/log"])
def test_what_systemd_makes_at_the_start(site: Site, folder: str) -> None:
    new = f"{folder}/securegw-of-a-test"
    sections = {"control": {"socket": f"{new}/c.sock"}, "registry": {"database": f"{new}/things.sqlite"}}
    found = bad(whole(site, {**DATABASE, **sections, "audit": {"file": f"{new}/audit.jsonl"}}))
    assert [one for one in found if new in one] == [
        f"warn [{section}] {key}: {new}: there is no such folder yet; systemd makes it, if its unit says so"
        for section, key in (("audit", "file"), ("control", "socket"), ("registry", "database"))
    ]


# --- rules ------------------------------------------------------------------------------------------------------------


def test_rules_that_never_decide(site: Site) -> None:
    rules = "\nallow all all all\nallow sales alice 192.0.2.0/24"
    found = bad(check_rules(site.config({**DATABASE, "postgres:main": {"rules": rules}})))
    line = "line 2: allow sales alice 192.0.2.0/24 (never decides: line 1 decides first)"
    assert found == [f"warn [postgres:main] rules: {line}"]


def test_names_where_nobody_has_one(site: Site) -> None:
    route = {
        "upstream": "http://127.0.0.1:9",
        "client": "none",
        "cn": "id",
        "rules": "\nallow alice all\nallow all all",
    }
    found = bad(check_rules(site.config({"https:main": {}, "route:main": route})))
    assert found == ["warn [route:main] rules: line 1: allow alice all (never decides: client = none)"]


def test_nobody_is_let_in(site: Site) -> None:
    route = {"upstream": "http://127.0.0.1:9", "client": "none"}
    assert bad(check_rules(site.config({"https:main": {}, "route:main": route}))) == [
        "warn [route:main] rules: no line lets anybody in"
    ]


def test_hosts_that_no_certificate_is_for(site: Site) -> None:
    issue(site.ca, "x", sans=["a.example", "*.b.example", "127.0.0.1"]).write(site.folder, "server")
    hosts = "a.example, x.b.example, *.b.example, 127.0.0.1, x.a.example, *.a.example, 192.0.2.1"
    route = {"upstream": "http://127.0.0.1:9", "client": "none", "host": hosts}
    found = bad(check_reach(site.config({"https:main": {}, "route:main": route})))
    assert [one.split(": ")[1] for one in found] == ["x.a.example", "*.a.example", "192.0.2.1"]


def test_sections_that_nothing_uses(site: Site) -> None:
    more = {"upstream:other": {"hosts": "db.example"}, "jwt:other": {"public_keys": "jwt.pub"}}
    assert bad(check_reach(site.config({**DATABASE, **more}))) == [
        "warn [upstream:other] section: no [postgres:NAME] leads there",
        "warn [jwt:other] section: no [postgres:NAME] believes it",
    ]
