"""Whether upstreams are there: over real sockets, with whatever can be wrong with them."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.inspection.findings import Finding
from gateway.inspection.reachable import asked, inquiries
from gateway.inspection.rehearsal import stage
from gateway.jwks import MAX_DOCUMENT
from gateway.registry.ledger import open_ledger
from gateway.registry.settings import RegistrySettings
from tests.fake_upstream import Caller, FakeUpstream, Talk, server_context
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.pki import issue, make_ca, write_pem
from tests.raw_client import message
from tests.servers import free_port

# Long enough for whoever answers, short for those who do not.
PATIENCE = 0.5


def findings(site: Site, sections: Sections) -> list[Finding]:
    config = site.config(sections)
    state = stage(config, None, None)
    (certificates,) = {door.certificates for door in state.doors.values()}
    return asked(inquiries(config, certificates))


def told(site: Site, sections: Sections) -> list[str]:
    return [
        f"{one.level.value} {one.about.partition(' as ')[2] or one.about}: {one.text}"
        for one in findings(site, sections)
    ]


def database(port: int, *rules: str, **more: object) -> Sections:
    """rules: by themselves they name nobody."""
    listener = {**DATABASE["postgres:main"], "rules": "".join(f"\n{one}" for one in rules or ("allow sales all all",))}
    upstream = {"hosts": f"localhost:{port}", "connect_timeout": PATIENCE, **more}
    return {**DATABASE, "postgres:main": listener, "upstream:main": upstream}


PLAIN = {"tls": "disable"}
ROLE = {"login:alice": {"password": "secret"}}


def refusing(sqlstate: str) -> Talk:
    def talk(caller: Caller) -> None:
        caller.read()
        caller.send(message(b"R", b"\0\0\0\3"))
        caller.read()
        caller.send(message(b"E", b"SFATAL\0VFATAL\0C" + sqlstate.encode() + b"\0Mno\0\0"))
        caller.wait()

    return talk


def let_in(caller: Caller) -> None:
    caller.read()
    caller.send(message(b"R", b"\0\0\0\3"))
    caller.read()
    caller.let_in()
    caller.wait()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_nobody_there(site: Site) -> None:
    port = free_port()
    assert told(site, database(port, **PLAIN)) == [f"FAIL localhost:{port}: Connection refused"]


def test_somebody_who_says_nothing(site: Site) -> None:
    with FakeUpstream.running(Caller.wait) as fake:
        (one,) = told(site, database(fake.port))
        assert one == f"FAIL localhost:{fake.port}: no answer in time (connect_timeout)"


def test_reached_in_plain(site: Site) -> None:
    with FakeUpstream.running(Caller.wait) as fake:
        (one,) = told(site, database(fake.port, **PLAIN))
        assert one == f"ok localhost:{fake.port}: reached, without TLS; no role is known to log in as"


def test_somebody_who_never_comes_to_an_end(site: Site) -> None:
    """Each byte comes soon enough; all of them never would."""

    def trickle(caller: Caller) -> None:
        caller.read()
        caller.send(b"R\0\0\xff\0")
        while True:
            caller.send(b"\0")
            time.sleep(PATIENCE / 20)

    with FakeUpstream.running(trickle) as fake:
        (one,) = told(site, {**database(fake.port, **PLAIN), **ROLE})
    assert one == "FAIL alice: no answer in time (connect_timeout)"


@contextmanager
def secured(site: Site, name: str = "localhost", talk: Talk = Caller.wait, ca: Any = None) -> Iterator[FakeUpstream]:
    context = server_context(site.folder, issue(ca or site.ca, name, sans=[name]), "upstream")

    def greet(caller: Caller) -> None:
        with suppress(ssl.SSLError):
            caller.start_tls(context)
            talk(caller)

    with FakeUpstream.running(greet) as fake:
        yield fake


ROOT = {"root_certificate": "ca.crt"}


def test_reached_over_tls(site: Site) -> None:
    with secured(site) as fake:
        (one,) = told(site, database(fake.port, **ROOT))
    assert one.endswith("TLSv1.3, certificate and name verified; no role is known to log in as")


def test_another_name_and_another_authority(site: Site) -> None:
    with secured(site, "other.example") as fake:
        assert "the upstream's certificate is not for localhost" in told(site, database(fake.port, **ROOT))[0]
        assert told(site, database(fake.port, **ROOT, tls="verify-ca"))[0].startswith("ok")
    with secured(site, ca=make_ca("stranger")) as fake:
        assert "FAIL" in (one := told(site, database(fake.port, **ROOT))[0])
        assert "certificate verify failed" in one
        assert "whoever answers is believed" in told(site, database(fake.port, tls="require"))[0]


def test_no_tls_where_it_is_wanted(site: Site) -> None:
    with FakeUpstream.running(lambda caller: caller.send(b"N") if caller.read() else None) as fake:
        assert told(site, database(fake.port))[0].endswith("the upstream does not offer TLS")


CLEAR = {"password_methods": "password", **ROOT}


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (let_in, "ok alice: TLSv1.3, certificate and name verified; logged in to sales"),
        (refusing("28P01"), "FAIL alice: TLSv1.3, certificate and name verified; the upstream refused: 28P01 no"),
        (refusing("3D000"), "ok alice: TLSv1.3, certificate and name verified; logged in (there is no database sales)"),
    ],
)
def test_logging_in(site: Site, talk: Talk, words: str) -> None:
    with secured(site, talk=talk) as fake:
        (one,) = told(site, {**database(fake.port, **CLEAR), **ROLE})
    assert one.startswith(words)


def logins(site: Site, *rules: str, **listener: object) -> list[str]:
    """ROLE DATABASE of each startup message."""
    with FakeUpstream.running(Caller.let_in) as fake:
        sections = database(fake.port, *rules, **PLAIN)
        told(site, {**sections, "postgres:main": {**sections["postgres:main"], **listener}})
        said = [bytes(caller.said).partition(b"Q")[0].split(b"\0") for caller in fake.callers]
    return sorted(f"{one[one.index(b'user') + 1].decode()} {one[one.index(b'database') + 1].decode()}" for one in said)


def test_whom_it_logs_in_as(site: Site) -> None:
    assert logins(site, "allow sales alice,bob all", "allow hr bob all", "deny all mallory all") == [
        "alice sales",
        "bob sales",
    ]
    assert logins(site, "allow sameuser carol all", "allow all dave all role=reader") == [
        "carol carol",
        "reader postgres",
    ]
    # Where a claim names the role, subjects are no roles.
    assert logins(site, "allow sales alice all", "allow hr all all role=reader", role="claim:role") == ["reader hr"]
    many = ",".join(f"user{number:03}" for number in range(100))
    assert logins(site, f"allow sales {many} all") == [f"user{number:03} sales" for number in range(20)]


def test_a_subject_that_has_no_password(site: Site) -> None:
    with secured(site, talk=let_in) as fake:
        (one,) = told(site, database(fake.port, "allow sales alice all", **CLEAR))
    assert one.startswith("FAIL alice: the upstream asks for a password, and none is configured for this role")


def test_a_password_that_is_asked_for_in_a_way_that_is_not_allowed(site: Site) -> None:
    with secured(site, talk=let_in) as fake:
        (one,) = told(site, {**database(fake.port, **ROOT), **ROLE})
    assert one.startswith("FAIL alice: the upstream asks for the password by 'password'")
    assert "secret" not in one


def test_every_address_at_the_same_time(site: Site) -> None:
    with FakeUpstream.running(Caller.wait) as fake:
        hosts = ", ".join([f"localhost:{fake.port}"] * 10)
        found = told(site, {**database(1), "upstream:main": {"hosts": hosts, "connect_timeout": PATIENCE}})
        assert len(found) == 10
        assert len(fake.callers) == 10


# --- the others -------------------------------------------------------------------------------------------------------


def services(site: Site, port: int) -> Sections:
    write_pem(site.folder / "other.crt", make_ca("other").certificate)
    way = {"root_certificate": "ca.crt", "connect_timeout": PATIENCE}
    return {
        "https:main": {"listen": "127.0.0.1:8443"},
        "route:main": {"upstream": f"https://localhost:{port}", "client": "none", **way},
        "mqtt:main": {
            "upstream": f"localhost:{port}",
            "topics": "\nallow all all #",
            **way,
            "root_certificate": "other.crt",
        },
        "tunnel:local": {
            "mode": "client",
            "listen": "127.0.0.1:7183",
            "upstream": f"localhost:{port}",
            "tls": "require",
            "insecure": "yes",
            "connect_timeout": PATIENCE,
        },
    }


def test_web_services_brokers_and_tunnels(site: Site) -> None:
    context = server_context(site.folder, issue(site.ca, "localhost", sans=["localhost"]), "upstream")

    def greet(caller: Caller) -> None:
        with suppress(ssl.SSLError):
            caller.socket = context.wrap_socket(caller.socket, server_side=True)
            caller.wait()

    with FakeUpstream.running(greet) as fake:
        found = {one.section: one for one in findings(site, services(site, fake.port))}
    assert found["route:main"].text == "TLSv1.3, certificate and name verified"
    assert found["mqtt:main"].text.startswith("TLS: certificate verify failed")
    assert found["tunnel:local"].text == "TLSv1.3, but whoever answers is believed"


def test_a_unix_socket(site: Site) -> None:
    path = site.folder / "web.sock"
    route = {"upstream": f"unix:{path}", "client": "none"}
    (one,) = findings(site, {"https:main": {}, "route:main": route})
    assert (one.level.value, one.text) == ("FAIL", "No such file or directory")


def test_a_registry(site: Site) -> None:
    path = site.folder / "registry.sqlite"
    sections = {**DATABASE, "registry": {"database": str(path)}}
    missing = findings(site, sections)[-1]
    assert (missing.level.value, missing.text) == (
        "warn",
        f"{path}: there is no registry yet; the first `securegw channel create` makes it",
    )
    assert not path.exists()
    open_ledger(RegistrySettings(path)).close()
    assert findings(site, sections)[-1].text == f"{path}: read"
    path.write_bytes(b"something else")
    assert findings(site, sections)[-1].level.value == "FAIL"


def test_a_key_set_at_a_url(site: Site) -> None:
    port = free_port()
    jwt = {"jwks": f"https://localhost:{port}/keys", "jwks_root_certificate": "ca.crt"}
    (_, one) = findings(site, {**database(free_port(), **PLAIN), "jwt:main": jwt})
    assert one.level.value == "FAIL"
    assert one.text.startswith(f"https://localhost:{port}/keys: ")


def keys(site: Site, document: bytes) -> Callable[[Caller], None]:
    context = server_context(site.folder, issue(site.ca, "localhost", sans=["localhost"]), "keys")

    def serve(caller: Caller) -> None:
        with suppress(ssl.SSLError):
            caller.socket = context.wrap_socket(caller.socket, server_side=True)
            caller.read()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(document)}\r\nConnection: close\r\n\r\n"
            caller.send(head.encode() + document)

    return serve


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b'{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}', ": 1 key"),
        (b'{"keys":[]}', "to sign with"),
        (b"<html>", "JSON"),
        (b'{"keys":[' + b" " * MAX_DOCUMENT, "longer than 1048576 bytes"),
    ],
)
def test_what_is_at_that_url(site: Site, document: bytes, words: str) -> None:
    with FakeUpstream.running(keys(site, document)) as fake:
        jwt = {"jwks": f"https://localhost:{fake.port}/keys", "jwks_root_certificate": "ca.crt"}
        (_, one) = findings(site, {**database(free_port(), **PLAIN), "jwt:main": jwt})
    assert one.text.endswith(words), one


def test_each_answer_is_counted(site: Site, tmp_path: Path) -> None:
    config = site.config(database(free_port(), **PLAIN))
    state = stage(config, None, None)
    counted: list[None] = []
    asked(inquiries(config, state.doors["postgres:main"].certificates), lambda: counted.append(None))
    assert len(counted) == 1
