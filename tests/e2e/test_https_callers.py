"""Who a real client is, and where it may go: keys, names, authorities, revocation, hosts and paths, PROXY headers."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.e2e.https_clients import CLIENTS, Answer, Ask, Caller, Client, Files, one, run_curl, use_http_client
from tests.e2e.web_application import WebApplication
from tests.gateways import RunningGateway, wait_until
from tests.pki import issue, make_ca, make_crl, write_pem
from tests.servers import free_port

KEY = "0b1d6a52-Thing_key"
DOOR = "spiffe://example.org/door/7"
API, THINGS = "api.example.org", "seven.things.example.org"
EVERYBODY = "\nallow all all"


@dataclass(frozen=True, slots=True)
class Site:
    """applications and certificates: by name. proxied: the port whose clients come through a balancer."""

    gateway: RunningGateway
    applications: dict[str, WebApplication]
    certificates: dict[str, Files]
    proxied: int

    def caller(self, certificate: str | None = "thing", host: str = "localhost") -> Caller:
        files = self.certificates[certificate] if certificate else None
        return replace(Caller.of(self.gateway, files), host=host)

    @property
    def asked(self) -> int:
        """How often an application was."""
        return sum(len(application.asked) for application in self.applications.values())


def made_certificates(folder: Path) -> dict[str, Files]:
    """Of two authorities that the gateway believes, and of one that it does not."""
    first, second, foreign = (make_ca(name) for name in ("first", "second", "first"))
    found = {
        "thing": issue(first, KEY),
        "of-second": issue(second, KEY),
        "revoked": issue(first, KEY),
        "foreign": issue(foreign, KEY),
        "expired": issue(first, KEY, valid=(-9, -1)),
        "door": issue(second, "not a key", sans=[x509.UniformResourceIdentifier(DOOR)]),
        "window": issue(second, "-", sans=[x509.UniformResourceIdentifier("spiffe://example.org/window")]),
        "spaced": issue(first, f" {KEY}"),
    }
    write_pem(folder / "first.crt", first.certificate)
    write_pem(folder / "clients.crt", first.certificate, second.certificate)
    write_pem(folder / "clients.crl", make_crl(first, [found["revoked"]]), make_crl(second))
    return {name: issued.write(folder, name) for name, issued in found.items()}


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, proxied = tmp_path_factory.mktemp("gateway"), free_port()
    names = ("main", "api", "things")
    with ExitStack() as stack:
        applications = {name: stack.enter_context(WebApplication.running(name)) for name in names}
        main = applications["main"].url
        trust = {"client_ca": "clients.crt", "client_crl": "clients.crl"}
        sections: dict[str, dict[str, object]] = {
            "tls": {**trust, "sni": "\napi.crt api.key\nthings.crt things.key"},
            "https:proxied": {"listen": f"127.0.0.1:{proxied}", "proxy_protocol": "127.0.0.0/8"},
            "route:main": {"upstream": main, "listener": "main, proxied"},
            "route:optional": {"path": "/optional", "upstream": main, "client": "optional", "rules": EVERYBODY},
            "route:none": {"path": "/none", "upstream": main, "client": "none", "rules": "\nallow anonymous all"},
            "route:word": {
                "path": "/word", "upstream": main, "schemes": "Thing", "send_scheme": "Client", "rules": EVERYBODY,
            },
            "route:id": {
                "path": "/id", "upstream": main, "cn": "id", "identity": "uri",
                "rules": "\nallow spiffe://example.org/door/* all",
            },
            "route:first": {"path": "/first", "upstream": main, "rules": "\nallow all all ca=first.crt"},
            "route:read": {"path": "/read", "upstream": main, "rules": "\nallow all all method=GET,HEAD"},
            "route:nobody": {"path": "/nobody", "upstream": main},
            "route:here": {
                "path": "/here", "upstream": main, "listener": "proxied", "rules": "\nallow all 203.0.113.7",
            },
            "route:api": {"host": API, "upstream": f"{applications['api'].url}/v2", "rules": EVERYBODY},
            "route:deep": {"host": API, "path": "/deep", "upstream": main, "rules": EVERYBODY},
            "route:things": {
                "host": "*.things.example.org", "upstream": applications["things"].url, "host_header": "upstream",
                "rules": EVERYBODY,
            },
        }  # fmt: skip
        gateway = RunningGateway.made_https(folder, sections)
        for name, host in (("api", API), ("things", "*.things.example.org")):
            issue(gateway.ca, name, sans=[host]).write(folder, name)
        certificates = made_certificates(folder)
        gateway.start()
        stack.callback(gateway.stop)
        yield Site(gateway, applications, certificates, proxied)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.gateway.check_at_rest()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    if request.param == "curl":
        request.getfixturevalue("curl_program")
    return CLIENTS[request.param]


def authorized(value: str) -> dict[str, str]:
    return {"Authorization": value}


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_key_is_filled_in(site: Site, client: Client) -> None:
    assert one(client(site.caller(), Ask("/"))).heard["authorization"] == KEY


@pytest.mark.parametrize("value", [KEY, f"Thing {KEY}", f"Bearer {KEY}", f"Client {KEY}", f"bearer {KEY}"])
def test_the_key_repeated(site: Site, client: Client, value: str) -> None:
    answer = one(client(site.caller(), Ask("/", fields=authorized(value))))
    assert answer.heard["authorization"] == KEY


@pytest.mark.parametrize(
    "value",
    ["another", "Bearer another", f"Basic {KEY}", KEY.lower(), f"{KEY}x", KEY[:-1], f"Bearer Thing {KEY}", f'"{KEY}"'],
)
def test_another_key(site: Site, client: Client, value: str) -> None:
    asked = site.asked
    answer = one(client(site.caller(), Ask("/", fields=authorized(value))))
    assert (answer.status, answer.refusal) == (403, "the key in Authorization is not the certificate's")
    assert site.asked == asked


def test_two_keys(site: Site, curl_program: None) -> None:
    asked = site.asked
    caller = site.caller()
    fields = ("-H", f"Authorization: {KEY}", "-H", f"authorization: {KEY}")
    done = run_curl(caller, *fields, "-w", "%{http_code}", caller.url())
    assert done.stdout.endswith(b"\n400")
    assert site.asked == asked


def test_the_words_of_a_route(site: Site, client: Client) -> None:
    for fields in ({}, authorized(f"Thing {KEY}"), authorized(f"thing {KEY}")):
        assert one(client(site.caller(), Ask("/word", fields=fields))).heard["authorization"] == f"Client {KEY}"
    for value in (KEY, f"Bearer {KEY}"):
        assert one(client(site.caller(), Ask("/word", fields=authorized(value)))).status == 403


# --- certificates -----------------------------------------------------------------------------------------------------


def test_no_certificate_where_one_is_required(site: Site, client: Client) -> None:
    asked = site.asked
    answer = one(client(site.caller(None), Ask("/", fields=authorized(KEY))))
    assert (answer.status, answer.refusal) == (403, "a client certificate is required here")
    assert site.asked == asked


def test_a_certificate_that_names_nobody(site: Site, client: Client) -> None:
    asked = site.asked
    answer = one(client(site.caller("spaced"), Ask("/")))
    assert (answer.status, answer.refusal) == (403, "the client certificate names nobody")
    assert site.asked == asked


@pytest.mark.parametrize(
    ("certificate", "alert"), [("revoked", "revoked"), ("foreign", "unknown ca"), ("expired", "expired")]
)
def test_certificates_that_end_in_an_alert(site: Site, curl_program: None, certificate: str, alert: str) -> None:
    """Also on a route that would do without one."""
    asked = site.asked
    for path in ("/", "/none"):
        caller = site.caller(certificate)
        done = run_curl(caller, caller.url(path))
        # Over TLS 1.3 it comes when the client believes to be connected.
        assert done.returncode in (35, 55, 56), done.stderr
        assert alert in done.stderr.decode()
        assert done.stdout == b""
    with pytest.raises(ssl.SSLError, match=alert.replace(" ", "[ _]")):
        use_http_client(site.caller(certificate), Ask("/"))
    assert site.asked == asked


def test_a_route_where_a_certificate_is_optional(site: Site, client: Client) -> None:
    assert one(client(site.caller(), Ask("/optional"))).heard["authorization"] == KEY
    assert one(client(site.caller(), Ask("/optional", fields=authorized("another")))).status == 403
    heard = one(client(site.caller(None), Ask("/optional"))).heard
    assert not {"authorization", "client-cert"} & set(heard)
    assert one(client(site.caller(None), Ask("/optional", fields=authorized("x")))).heard["authorization"] == "x"


def test_a_route_where_a_certificate_is_not_looked_at(site: Site, client: Client) -> None:
    for certificate in ("thing", None):
        heard = one(client(site.caller(certificate), Ask("/none"))).heard
        assert not {"authorization", "client-cert"} & set(heard)
        heard = one(client(site.caller(certificate), Ask("/none", fields=authorized("Bearer x")))).heard
        assert heard["authorization"] == "Bearer x"


def test_a_name_in_place_of_a_key(site: Site, client: Client) -> None:
    """Authorization is then between the client and the application."""
    heard = one(client(site.caller("door"), Ask("/id"))).heard
    assert "authorization" not in heard
    der = base64.b64decode(heard["client-cert"].strip(":"))
    assert der == ssl.PEM_cert_to_DER_cert(site.certificates["door"][0].read_text())
    answer = one(client(site.caller("door"), Ask("/id", fields=authorized("Bearer its.own.token"))))
    assert answer.heard["authorization"] == "Bearer its.own.token"
    records = [record for record in site.gateway.audit("request") if record["path"] == "/id"]
    assert records[-1]["subject"] == DOOR
    asked = site.asked
    for certificate in ("window", "thing", None):
        assert one(client(site.caller(certificate), Ask("/id"))).status == 403
    assert site.asked == asked


# --- rules and routes -------------------------------------------------------------------------------------------------


def test_a_rule_for_the_clients_of_one_authority(site: Site, client: Client) -> None:
    assert one(client(site.caller("thing"), Ask("/first"))).heard["authorization"] == KEY
    asked = site.asked
    answer = one(client(site.caller("of-second"), Ask("/first")))
    assert (answer.status, answer.refusal) == (403, "forbidden")
    assert site.asked == asked
    assert one(client(site.caller("of-second"), Ask("/second"))).heard["authorization"] == KEY


def test_a_rule_for_some_methods(site: Site, client: Client) -> None:
    answers = client(site.caller(), Ask("/read"), Ask("/read", "HEAD"), Ask("/read", "DELETE"))
    assert [answer.status for answer in answers] == [200, 200, 403]


def test_no_rule_lets_nobody_in(site: Site, client: Client) -> None:
    asked = site.asked
    answer = one(client(site.caller(), Ask("/nobody")))
    assert (answer.status, answer.refusal) == (403, "forbidden")
    assert site.asked == asked


def where(answer: Answer) -> tuple[str, str, str]:
    told = answer.told
    return told["application"], told["target"], answer.heard["host"]


def test_routes_by_host_and_path(site: Site, client: Client) -> None:
    """With the certificate for each name, which the clients verify."""
    port = site.gateway.https_port
    asks = (Ask("/"), Ask("/a?b"), Ask("/deep/a"), Ask("/deeper"))
    found = [where(answer) for answer in client(site.caller(host=API), *asks)]
    host = f"{API}:{port}"
    assert found == [
        ("api", "/v2/", host), ("api", "/v2/a?b", host), ("main", "/deep/a", host), ("api", "/v2/deeper", host),
    ]  # fmt: skip
    own = f"127.0.0.1:{site.applications['things'].port}"
    assert where(one(client(site.caller(host=THINGS), Ask("/first")))) == ("things", "/first", own)
    assert where(one(client(site.caller(), Ask("/firsts")))) == ("main", "/firsts", f"localhost:{port}")


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's clients ask the resolver, and curl brings its own answers."""
    asked = socket.getaddrinfo

    def answer(host: str | bytes | None, *arguments: Any, **more: Any) -> Any:
        return asked("127.0.0.1" if host in (API, THINGS) else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize("host", [API, f"x.{API}", "127.0.0.1"])
def test_a_host_that_tls_was_not_asked_for(site: Site, curl_program: None, host: str) -> None:
    asked = site.asked
    caller = site.caller()
    done = run_curl(caller, "-H", f"Host: {host}", "-w", "%{http_code}", caller.url())
    assert done.stdout.endswith(b"\n421")
    assert site.asked == asked


def test_openssl_gets_the_certificate_of_the_name_that_it_asks_for(site: Site, openssl_program: None) -> None:
    for name, subject in ((API, "CN = api"), (THINGS, "CN = things"), ("localhost", "CN = localhost")):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.gateway.https_port}", "-servername", name]
        command += ["-CAfile", str(site.gateway.root_certificate), "-verify_hostname", name, "-verify_return_error"]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
        assert f"subject={subject}\n" in done.stdout.decode()
        assert "Verify return code: 0 (ok)" in done.stdout.decode()


# --- PROXY headers ----------------------------------------------------------------------------------------------------


def through_balancer(site: Site, source: str, path: str) -> tuple[int, dict[str, Any]]:
    caller = site.caller()
    plain = socket.create_connection(("127.0.0.1", site.proxied))
    plain.sendall(f"PROXY TCP4 {source} 192.0.2.1 51234 443\r\n".encode())
    connection = http.client.HTTPConnection("localhost", site.proxied)
    with closing(connection), caller.context.wrap_socket(plain, server_hostname="localhost") as connection.sock:
        connection.request("GET", path, headers={"X-Forwarded-For": "198.51.100.1"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_the_address_that_a_balancer_tells(site: Site) -> None:
    status, told = through_balancer(site, "203.0.113.9", "/")
    assert status == 200
    assert [value for name, value in told["fields"] if name == "X-Forwarded-For"] == ["203.0.113.9"]
    # Its record is written when the answer is on its way.
    told_client = "203.0.113.9:51234"
    wait_until(lambda: told_client in [record["client"] for record in site.gateway.audit("request")], "the record")


def test_rules_hold_for_the_address_that_a_balancer_tells(site: Site) -> None:
    assert through_balancer(site, "203.0.113.7", "/here")[0] == 200
    assert through_balancer(site, "203.0.113.8", "/here") == (403, {"status": 403, "error": "forbidden"})


def test_curl_sends_a_proxy_header(site: Site, curl_program: None) -> None:
    caller = replace(site.caller(), port=site.proxied)
    done = run_curl(caller, "--haproxy-protocol", "--interface", "127.5.6.7", caller.url())
    assert ["X-Forwarded-For", "127.5.6.7"] in json.loads(done.stdout)["fields"]
    # Without one nobody can come in there.
    assert run_curl(caller, caller.url()).returncode == 35
