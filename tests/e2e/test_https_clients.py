"""Real HTTP clients through a real gateway, to a real web application: each request and each answer as it was meant."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.e2e.https_clients import (
    CLIENTS,
    Answer,
    Ask,
    Caller,
    Client,
    Files,
    aiohttp_answers,
    curl_head,
    one,
    run_curl,
)
from tests.e2e.web_application import COOKIES, ELSEWHERE, GZIPPED, TEXT, WebApplication, blocks, digest
from tests.fake_upstream import Caller as Connection
from tests.gateways import PATIENCE, RunningGateway, wait_until
from tests.http_servers import ANSWER, Received, WebService
from tests.pki import issue

KEY = "6f1c2d9a-thing-key"
LARGE = 100 * 1024 * 1024
CHANNEL = "5a2c9d52-channel"
SENML = (
    '[{"bn":"some-base-name:","bt":1.276020076001e+09, "bu":"A","bver":5, "n":"voltage","u":"V","v":120.1}, '
    '{"n":"current","t":-5,"v":1.2}, {"n":"current","t":-4,"v":1.3}]'
)


@dataclass(frozen=True, slots=True)
class Site:
    """service: below /h11, for what aiohttp cannot say or tell. certificate: of the thing with KEY."""

    gateway: RunningGateway
    application: WebApplication
    service: WebService
    certificate: Files

    @property
    def caller(self) -> Caller:
        return Caller.of(self.gateway, self.certificate)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with WebApplication.running() as application, WebService.running() as service:
        everybody = {"rules": "\nallow all all"}
        sections = {
            "route:main": {"upstream": application.url},
            "route:h11": {"path": "/h11", "upstream": f"http://127.0.0.1:{service.port}", **everybody},
            # As the seed's reverse proxy does it: the adapter knows nothing of /http.
            "route:http": {"path": "/http", "upstream": f"{application.url}/", **everybody},
        }
        with RunningGateway.https(tmp_path_factory.mktemp("gateway"), sections) as gateway:
            yield Site(gateway, application, service, gateway.thing(KEY))


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.gateway.check_at_rest()
    assert not shared_site.service.refused


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    if request.param == "curl":
        request.getfixturevalue("curl_program")
    return CLIENTS[request.param]


# --- one request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_methods(site: Site, client: Client, method: str) -> None:
    body = b"" if method in ("GET", "OPTIONS") else b"temperature=-5&unit=C"
    path = "/a//b%2Cc/?q=a+b%20c&q=%C3%A4&empty="
    fields = {"Accept": "text/x", "X-Thing": "a, b;c", "Content-Type": "text/x"}
    told = one(client(site.caller, Ask(path, method, fields, body or None))).told
    assert (told["method"], told["target"], told["body"]) == (method, path, body.decode())
    heard = {name.lower(): value for name, value in told["fields"]}
    assert {name: heard[name.lower()] for name in fields} == fields
    assert heard["host"] == f"localhost:{site.gateway.https_port}"
    assert heard["authorization"] == KEY


def test_head(site: Site, client: Client) -> None:
    """Twice, since a body after the first answer would be taken for the second one."""
    full = one(client(site.caller, Ask("/download?size=12345")))
    assert len(full.body) == 12345
    for answer in client(site.caller, *[Ask("/download?size=12345", "HEAD")] * 2):
        assert (answer.status, answer.body) == (200, b"")
        assert answer.values("content-length") == full.values("content-length") == ["12345"]


@pytest.mark.parametrize("code", [204, 304, 404, 418, 500])
def test_the_applications_own_status(site: Site, client: Client, code: int) -> None:
    first, second = client(site.caller, Ask(f"/status/{code}"), Ask("/after"))
    assert first.status == code
    assert first.values("x-application") == ["application"]
    assert second.told["target"] == "/after"


def test_chunked_upload(site: Site, client: Client) -> None:
    parts = [b"one,", b"two" * 5000, b",", b"three"]
    first, second = client(site.caller, Ask("/up", "POST", body=parts), Ask("/after"))
    assert first.told["sha256"] == digest(parts)
    assert first.heard["transfer-encoding"] == "chunked"
    assert "content-length" not in first.heard
    assert second.told["target"] == "/after"


def test_chunked_download(site: Site, client: Client) -> None:
    size = 3_000_001
    first, second = client(site.caller, Ask(f"/download?size={size}&chunked=1"), Ask("/after"))
    assert first.values("transfer-encoding") == ["chunked"]
    assert (len(first.body), digest([first.body])) == (size, digest(blocks(size)))
    assert second.told["target"] == "/after"


def test_gzip_is_passed_on_as_it_is(site: Site, client: Client) -> None:
    answer = one(client(site.caller, Ask("/gzip", fields={"Accept-Encoding": "gzip"})))
    assert answer.body == GZIPPED
    assert answer.values("content-encoding") == ["gzip"]
    assert answer.values("content-length") == [str(len(GZIPPED))]
    assert answer.values("etag") == ['"of-gzip"']


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_passed_on_as_they_are(site: Site, client: Client, status: int) -> None:
    answer = one(client(site.caller, Ask(f"/redirect?status={status}")))
    assert (answer.status, answer.values("location")) == (status, [ELSEWHERE])


def test_several_cookies_stay_several(site: Site, client: Client) -> None:
    fields = {"Cookie": "session=a1b2; theme=dark"}
    baked, eaten = client(site.caller, Ask("/cookies"), Ask("/", fields=fields))
    assert baked.values("set-cookie") == list(COOKIES)
    assert eaten.heard["cookie"] == fields["Cookie"]


def test_what_the_application_is_told_of_the_client(site: Site, client: Client) -> None:
    """And of that nothing which the client said itself, in whatever spelling."""
    lies = ("X-Forwarded-For", "x_forwarded_host", "Forwarded", "X-Real-IP", "Client-Cert", "Client_Cert", "X-SSL-DN")
    heard = one(client(site.caller, Ask("/", fields=dict.fromkeys(lies, "evil")))).heard
    assert "evil" not in heard.values()
    assert heard["x-forwarded-for"] == "127.0.0.1"
    assert heard["x-forwarded-proto"] == "https"
    assert heard["x-forwarded-host"] == heard["host"] == f"localhost:{site.gateway.https_port}"
    assert heard["via"].endswith("1.1 securegw")
    # RFC 9440, 2.1: a Byte Sequence (RFC 8941, 3.3.5) of the DER.
    value = heard["client-cert"]
    assert value[0] == value[-1] == ":"
    der = base64.b64decode(value[1:-1], validate=True)
    assert der == ssl.PEM_cert_to_DER_cert(site.certificate[0].read_text())


def test_no_word_of_the_key_in_the_records(site: Site, client: Client) -> None:
    one(client(site.caller, Ask(f"/?authorization={KEY}", fields={"Authorization": f"Bearer {KEY}"})))
    for file in ("audit.jsonl", "log"):
        assert KEY not in (site.gateway.folder / file).read_text()


# --- connections ------------------------------------------------------------------------------------------------------


def test_many_requests_over_one_connection_on_both_sides(site: Site, client: Client) -> None:
    site.application.hang_up()
    wait_until(lambda: not site.gateway.pooled(), "the pool is empty")
    records = len(site.gateway.audit("request"))
    asks = [Ask(f"/{n}", "POST" if n % 2 else "GET", body=b"x" * n if n % 2 else None) for n in range(20)]
    answers = client(site.caller, *asks)
    assert [answer.told["target"] for answer in answers] == [ask.path for ask in asks]
    assert len({answer.told["connection"] for answer in answers}) == 1
    wait_until(lambda: len(site.gateway.audit("request")) == records + 20, "the last record")
    new = site.gateway.audit("request")[records:]
    assert len({record["connection"] for record in new}) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_ends_when_it_is_asked_again(site: Site, client: Client, method: str) -> None:
    """Of the pool, so what has no effect of its own is asked over a new one. What has is not: it may have been done."""

    def answer(connection: Connection, _: Received) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce")
        connection.read()

    with site.service.script("/h11/once", answer):
        body = b"x" if method == "POST" else None
        first, second = client(site.caller, Ask("/h11/once"), Ask("/h11/again", method, body=body))
    assert first.body == b"once"
    if method == "GET":
        assert (second.status, second.body) == (200, ANSWER)
    else:
        assert (second.status, second.refusal) == (502, "the upstream gave no valid answer")


def test_curl_keeps_its_connection(site: Site, curl_program: None) -> None:
    urls = [site.caller.url(f"/{n}") for n in range(3)]
    done = run_curl(site.caller, "-w", "%{num_connects} ", *(word for url in urls for word in ("-o", os.devnull, url)))
    assert done.stdout == b"1 0 0 ", done.stderr


@pytest.mark.parametrize("arguments", [("-0",), ("-0", "--no-alpn")], ids=["ALPN", "no ALPN"])
def test_http_1_0(site: Site, curl_program: None, arguments: Sequence[str]) -> None:
    """Knows no chunks, so such an answer ends with the connection; and the application is asked in HTTP/1.1."""
    size = 200_000
    for path in (f"/download?size={size}", f"/download?size={size}&chunked=1"):
        done = run_curl(site.caller, *arguments, "-i", site.caller.url(path))
        assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        ((status, fields),) = curl_head(head + b"\r\n\r\n")
        assert status == 200
        assert digest([body]) == digest(blocks(size))
        assert "transfer-encoding" not in dict(fields)
        assert dict(fields)["connection"] == "close"
    done = run_curl(site.caller, *arguments, "--data", "a=b", site.caller.url("/"))
    assert json.loads(done.stdout)["body"] == "a=b"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client(site: Site, openssl_program: None, version: str) -> None:
    """What TLS itself is like, and a request by hand."""
    caller, (certificate, key) = site.caller, site.certificate
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{caller.port}", "-servername", "localhost", version]
    command += ["-CAfile", str(caller.trust), "-verify_return_error", "-verify_hostname", "localhost"]
    command += ["-cert", str(certificate), "-key", str(key), "-alpn", "http/1.1", "-ign_eof"]
    request = b"GET /by-hand HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=PATIENCE, check=False)
    out = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert f"New, TLSv1.{version[-1]}, Cipher is" in out
    assert "ALPN protocol: http/1.1" in out
    assert "Verify return code: 0 (ok)" in out
    assert "CN = gateway tests" in out.partition("Acceptable client certificate CA names")[2]
    assert "HTTP/1.1 200 OK\r\n" in out
    assert '"target": "/by-hand"' in out


@pytest.mark.parametrize("arguments", [("-tls1_1",), ("-alpn", "h2"), ("-tls1_3", "-alpn", "mqtt")])
def test_openssl_s_client_that_is_refused(site: Site, openssl_program: None, arguments: Sequence[str]) -> None:
    """An older TLS, even where OpenSSL could still speak it, and other protocols."""
    asked = len(site.application.asked)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.gateway.https_port}", *arguments]
    command += ["-cipher", "ALL:@SECLEVEL=0", "-ign_eof"]
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert b"alert" in done.stderr
    assert b"HTTP/1.1" not in done.stdout
    assert len(site.application.asked) == asked


# --- large, and slowly begun ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("large") / "file"
    with path.open("wb") as file:
        file.writelines(blocks(LARGE))
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def large_digest() -> str:
    return digest(blocks(LARGE))


def test_curl_uploads_100_mb_once_it_is_told_to_go_on(
    site: Site, curl_program: None, large: Path, large_digest: str
) -> None:
    expect = ("-H", "Expect: 100-continue", "--expect100-timeout", str(PATIENCE))
    done = run_curl(site.caller, "-v", *expect, "-T", str(large), site.caller.url("/up"))
    assert done.returncode == 0, done.stderr
    assert b"< HTTP/1.1 100 Continue" in done.stderr
    told = json.loads(done.stdout)
    assert (told["method"], told["length"], told["sha256"]) == ("PUT", LARGE, large_digest)


def test_curl_uploads_nothing_when_the_application_does_not_want_it(
    site: Site, curl_program: None, large: Path
) -> None:
    arguments = ("-H", "Expect: 100-continue", "--expect100-timeout", str(PATIENCE), "-T", str(large))
    done = run_curl(site.caller, *arguments, "-w", " %{http_code} %{size_upload}", site.caller.url("/refuse"))
    assert done.stdout == b"not that 403 0", done.stderr


def test_curl_uploads_nothing_before_the_gateway_knows_who_it_is(site: Site, curl_program: None, large: Path) -> None:
    caller = Caller.of(site.gateway, None)
    arguments = ("-H", "Expect: 100-continue", "--expect100-timeout", str(PATIENCE), "-T", str(large))
    done = run_curl(caller, *arguments, "-w", " %{http_code} %{size_upload}", caller.url("/up"))
    assert done.stdout.endswith(b" 403 0"), done.stderr


def test_curl_downloads_100_mb(site: Site, curl_program: None, tmp_path: Path, large_digest: str) -> None:
    done = run_curl(site.caller, "-o", str(tmp_path / "file"), site.caller.url(f"/download?size={LARGE}"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "file").open("rb") as file:
        assert digest(iter(lambda: file.read(1 << 20), b"")) == large_digest
    (tmp_path / "file").unlink()


def test_httpx_downloads_100_mb_in_chunks(site: Site, large_digest: str) -> None:
    with httpx.Client(verify=site.caller.context, trust_env=False, timeout=PATIENCE) as client:
        with client.stream("GET", site.caller.url(f"/download?size={LARGE}&chunked=1")) as response:
            assert response.headers["transfer-encoding"] == "chunked"
            assert digest(response.iter_raw()) == large_digest
        assert client.get(site.caller.url("/after")).status_code == 200


def test_aiohttp_uploads_100_mb_in_chunks(site: Site, large_digest: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in blocks(LARGE):
            yield part

    async def upload() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(site.caller.url("/up"), data=parts(), ssl=site.caller.context) as response,
        ):
            told = await response.json()
        assert ["Transfer-Encoding", "chunked"] in told["fields"]
        assert (told["length"], told["sha256"]) == (LARGE, large_digest)

    asyncio.run(upload())


def test_an_answer_that_breaks_in_its_middle_never_looks_whole(site: Site, curl_program: None) -> None:
    """Not even in HTTP/1.0, where an answer of unknown length ends with the connection."""
    half = site.caller.url("/half?chunked=1")
    for arguments in ((site.caller.url("/half"),), (half,), ("-0", "--no-alpn", half)):
        done = run_curl(site.caller, "-o", os.devnull, *arguments)
        assert done.returncode in (18, 56), done.stderr


# --- as people use them -----------------------------------------------------------------------------------------------


def test_the_seeds_request(site: Site, curl_program: None) -> None:
    """Of the chapter on mutual authentication, word for word, but for the port and the folder."""
    certificate, key = site.certificate
    command = (
        f"curl -s -S -i --cacert {site.gateway.root_certificate} --cert {certificate} --key {key} --insecure -X POST "
        f'-H "Content-Type: application/senml+json" '
        f"https://localhost:{site.gateway.https_port}/http/channels/{CHANNEL}/messages -d '{SENML}'"
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    told = json.loads(body)
    assert (told["method"], told["target"]) == ("POST", f"/channels/{CHANNEL}/messages")
    assert told["body"] == SENML
    assert ["Authorization", KEY] in told["fields"]
    assert ["Content-Type", "application/senml+json"] in told["fields"]


def test_curl_decodes_follows_and_eats(site: Site, curl_program: None, tmp_path: Path) -> None:
    """What clients do by themselves: content codings, cookie jars."""
    assert run_curl(site.caller, "--compressed", site.caller.url("/gzip")).stdout == TEXT.encode()
    jar = str(tmp_path / "jar")
    for _ in range(2):
        run_curl(site.caller, "-b", jar, "-c", jar, site.caller.url("/cookies"))
    told = json.loads(run_curl(site.caller, "-b", jar, site.caller.url("/")).stdout)
    assert ["Cookie", "theme=dark; session=a1b2"] in told["fields"] or (
        ["Cookie", "session=a1b2; theme=dark"] in told["fields"]
    )


def test_httpx_decodes_and_eats(site: Site) -> None:
    with httpx.Client(verify=site.caller.context, trust_env=False, base_url=site.caller.url("")) as client:
        assert client.get("/gzip").text == TEXT
        assert dict(client.get("/cookies").cookies) == {"session": "a1b2", "theme": "dark"}
        assert ["Cookie", "session=a1b2; theme=dark"] in client.get("/").json()["fields"]


# --- trailers and interim answers, which few servers speak ------------------------------------------------------------


def test_trailers_of_a_request(site: Site) -> None:
    caller = site.caller
    site.service.requests.clear()
    with closing(http.client.HTTPSConnection("localhost", caller.port, context=caller.context)) as connection:
        connection.putrequest("POST", "/h11/trailers")
        for name, value in (("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum"), ("Content-Type", "text/plain")):
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"5\r\nhello\r\n0\r\nX-Sum: 5d41\r\nAuthorization: evil\r\n\r\n")
        assert connection.getresponse().status == 200
    (request,) = site.service.requests
    assert request.body == b"hello"
    assert request.trailers == [(b"X-Sum", b"5d41")]


def test_trailers_and_interim_answers(site: Site, curl_program: None, tmp_path: Path) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"

    def answer(connection: Connection, _: Received) -> None:
        connection.send(early + head)
        connection.send(b"5\r\nhello\r\n0\r\nX-Sum: 5d41\r\n\r\n")

    with site.service.script("/h11/answer", answer):
        done = run_curl(site.caller, "-D", str(tmp_path / "heads"), "--raw", site.caller.url("/h11/answer"))
    assert done.returncode == 0, done.stderr
    heads = (tmp_path / "heads").read_bytes()
    assert heads.startswith(early)
    assert b"\r\n\r\nHTTP/1.1 200 OK\r\n" in heads
    assert done.stdout == b"5\r\nhello\r\n0\r\nX-Sum: 5d41\r\n\r\n"


# --- several things at once -------------------------------------------------------------------------------------------


def test_fifty_things_at_once_are_never_mixed(site: Site, tmp_path: Path) -> None:
    """All of them send the same heads, and share the connections to the application."""
    things = {f"thing-{n}": issue(site.gateway.ca, f"key-of-{n}") for n in range(10, 60)}
    files = {name: issued.write(tmp_path, name) for name, issued in things.items()}
    before = site.application.connections

    async def all_of_them() -> list[list[Answer]]:
        def asking(name: str) -> Coroutine[None, None, list[Answer]]:
            asks = [Ask(f"/slow?seconds=0.01&n={n}", "PUT", body=name.encode() * n) for n in range(8)]
            return aiohttp_answers(Caller.of(site.gateway, files[name]), *asks)

        return await asyncio.gather(*map(asking, things))

    for name, answers in zip(things, asyncio.run(all_of_them()), strict=True):
        der = ssl.PEM_cert_to_DER_cert(files[name][0].read_text())
        for number, answer in enumerate(answers):
            assert answer.told["target"] == f"/slow?seconds=0.01&n={number}"
            assert answer.told["body"] == name * number
            assert answer.heard["authorization"] == name.replace("thing", "key-of")
            assert base64.b64decode(answer.heard["client-cert"].strip(":")) == der
    assert site.application.connections - before <= len(things)


def test_a_thing_whose_certificate_expires_between_two_requests(site: Site) -> None:
    certificate = site.gateway.thing("short-lived", "short-lived", valid=(-1, 2.5 / 86_400))
    caller = Caller.of(site.gateway, certificate)
    asked = len(site.application.asked)
    with closing(http.client.HTTPSConnection("localhost", caller.port, context=caller.context)) as connection:
        connection.request("GET", "/before")
        assert connection.getresponse().read()
        time.sleep(2.6)
        connection.request("GET", "/after")
        response = connection.getresponse()
        assert (response.status, response.headers["Connection"]) == (403, "close")
        assert json.loads(response.read())["error"] == "the client certificate has expired"
    assert site.application.asked[asked:] == ["/before"]
