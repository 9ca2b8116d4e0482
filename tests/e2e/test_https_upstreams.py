"""Web services of every kind behind the gateway; and how real clients fare when these die, or when the gateway ends."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.https_clients import CLIENTS, Ask, Caller, Client, one, use_http_client
from tests.e2e.web_application import WebApplication, blocks, digest
from tests.gateways import PATIENCE, RunningGateway, Sections, wait_until
from tests.pki import issue, make_ca, make_crl, write_pem
from tests.servers import free_port

KEY = "thing-key"
ALLOW = {"rules": "\nallow all all"}
HEALTH = "/.well-known/securegw/health"


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    if request.param == "curl":
        request.getfixturevalue("curl_program")
    return CLIENTS[request.param]


# --- over TLS, and on a Unix socket -----------------------------------------------------------------------------------


def server_context(folder: Path) -> ssl.SSLContext:
    """Demands a certificate of the authority that made its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "inside.crt")
    context.load_cert_chain(folder / "service.crt", folder / "service.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, WebApplication, WebApplication]]:
    """A gateway, and behind it an application with TLS and one on a Unix socket."""
    folder = tmp_path_factory.mktemp("gateway")
    ca, stranger = make_ca("inside"), make_ca("inside")
    service = issue(ca, "service", sans=["localhost"])
    service.write(folder, "service")
    issue(ca, "the gateway").write(folder, "gateway")
    write_pem(folder / "inside.crt", ca.certificate)
    write_pem(folder / "stranger.crt", stranger.certificate)
    write_pem(folder / "inside.crl", make_crl(ca, [service]))
    with (
        WebApplication.running("over TLS", tls=server_context(folder)) as secure,
        WebApplication.running("on a socket", path=folder / "application.sock") as local,
    ):
        named = {"upstream": f"https://localhost:{secure.port}", "root_certificate": "inside.crt", **ALLOW}
        ours = {"client_certificate": "gateway.crt", "client_key": "gateway.key"}
        sections: Sections = {
            "route:main": {**named, **ours},
            "route:name": {"path": "/name", **named, **ours, "upstream": f"https://127.0.0.1:{secure.port}"},
            "route:ca": {"path": "/ca", **named, **ours, "tls": "verify-ca", "root_certificate": "stranger.crt"},
            "route:crl": {"path": "/crl", **named, **ours, "crl": "inside.crl"},
            "route:mute": {"path": "/mute", **named},
            "route:socket": {"path": "/socket", "upstream": f"unix:{folder}/application.sock", **ALLOW},
        }
        with RunningGateway.https(folder, sections) as gateway:
            yield gateway, secure, local
            secure.hang_up()
            local.hang_up()
            gateway.check_at_rest()


def test_over_tls_with_a_certificate_of_ours(
    inside: tuple[RunningGateway, WebApplication, WebApplication], client: Client
) -> None:
    gateway, _, _ = inside
    caller = Caller.of(gateway, gateway.thing(KEY))
    size = 3_000_000
    parts = [b"x" * 30_000] * 3
    up, down, again = client(caller, Ask("/", "PUT", body=parts), Ask(f"/download?size={size}"), Ask("/again"))
    assert (up.told["application"], up.told["sha256"]) == ("over TLS", digest(parts))
    assert up.told["peer"] == ["the gateway"]
    assert digest([down.body]) == digest(blocks(size))
    assert again.told["connection"] == up.told["connection"]


@pytest.mark.parametrize("path", ["/name", "/ca", "/crl", "/mute"])
def test_an_upstream_that_is_not_the_one_meant(
    inside: tuple[RunningGateway, WebApplication, WebApplication], client: Client, path: str
) -> None:
    """Of another name, of another authority, revoked; and one that does not want us without a certificate."""
    gateway, secure, _ = inside
    asked = len(secure.asked)
    answer = one(client(Caller.of(gateway, gateway.thing(KEY)), Ask(path)))
    assert answer.status == 502
    assert answer.refusal in ("no upstream can be reached", "the upstream gave no valid answer")
    assert len(secure.asked) == asked


def test_on_a_unix_socket(inside: tuple[RunningGateway, WebApplication, WebApplication], client: Client) -> None:
    gateway, _, _ = inside
    first, second = client(Caller.of(gateway, gateway.thing(KEY)), Ask("/socket", "POST", body=b"a"), Ask("/socket/b"))
    assert (first.told["application"], first.told["body"]) == ("on a socket", "a")
    assert (second.told["target"], second.heard["authorization"]) == ("/socket/b", KEY)


# --- several addresses ------------------------------------------------------------------------------------------------


def test_one_address_is_down_and_another_dies_in_the_middle(tmp_path: Path) -> None:
    """Several clients ask all the while, and none of them sees it."""
    down = free_port()
    with WebApplication.running("mortal") as mortal, WebApplication.running("other") as other:
        urls = ", ".join(f"http://127.0.0.1:{port}" for port in (down, mortal.port, other.port))
        with RunningGateway.https(tmp_path, {"route:main": {"upstream": urls}}) as gateway:
            context = Caller.of(gateway, gateway.thing(KEY)).context
            half = threading.Barrier(5, timeout=PATIENCE)

            def ask(name: int) -> list[str]:
                answers = []
                url = f"https://localhost:{gateway.https_port}"
                with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE, base_url=url) as client:
                    for number in range(100):
                        if number == 50:
                            half.wait()
                            half.wait()
                        response = client.get(f"/{name}/{number}")
                        assert response.status_code == 200, response.text
                        assert response.json()["target"] == f"/{name}/{number}"
                        answers.append(response.json()["application"])
                return answers

            with ThreadPoolExecutor() as threads:
                runs = [threads.submit(ask, name) for name in range(4)]
                half.wait()
                mortal.die()
                half.wait()
                answers = [run.result() for run in runs]
            before = [name for run in answers for name in run[:50]]
            assert before.count("mortal") > 20
            assert before.count("other") > 20
            assert {name for run in answers for name in run[50:]} == {"other"}
            other.hang_up()
            gateway.check_at_rest()


def test_none_is_left(tmp_path: Path, curl_program: None) -> None:
    with WebApplication.running() as mortal:
        urls = f"http://127.0.0.1:{free_port()}, {mortal.url}"
        with RunningGateway.https(tmp_path, {"route:main": {"upstream": urls}}) as gateway:
            caller = Caller.of(gateway, gateway.thing(KEY))
            assert one(use_http_client(caller, Ask("/"))).status == 200
            mortal.die()
            answer = one(use_http_client(caller, Ask("/", "POST", body=b"x")))
            assert (answer.status, answer.refusal) == (502, "no upstream can be reached")
            gateway.check_at_rest()


# --- health, and the end ----------------------------------------------------------------------------------------------


def ask_health(*arguments: str) -> tuple[int, dict[str, object]]:
    command = ["curl", "-q", "-sS", "--noproxy", "*", "-w", "\n%{http_code}", "--max-time", str(PATIENCE), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)


def test_health_from_ready_to_draining(tmp_path: Path, curl_program: None) -> None:
    """As curl sees it on a port and on a Unix socket; and who has asked something gets the answer all the same."""
    with ExitStack() as stack:
        application = stack.enter_context(WebApplication.running())
        gateway = RunningGateway.made_https(tmp_path, {"route:main": {"upstream": application.url}})
        where = f"127.0.0.1:{gateway.health_port}"
        gateway.sections["health"] = {"listen": f"{where}, unix:{tmp_path}/health.sock"}
        gateway.start()
        stack.callback(gateway.stop)
        ways = ((f"http://{where}",), ("--unix-socket", f"{tmp_path}/health.sock", "http://localhost"))
        for *arguments, base in ways:
            status, told = ask_health(*arguments, base + HEALTH)
            assert (status, told["status"], told["reload"]) == (200, "ready", "ok")
            assert ask_health(*arguments, f"{base}{HEALTH}/live") == (200, {"status": "live"})
        caller = Caller.of(gateway, gateway.thing(KEY))
        with ThreadPoolExecutor() as threads:
            slow = threads.submit(use_http_client, caller, Ask("/slow?seconds=1.5"))
            wait_until(lambda: application.busy, "the application is asked")
            assert gateway.process is not None
            gateway.process.terminate()
            wait_until(lambda: "stopping: " in gateway.log.read_text(), "it stops")
            for *arguments, base in ways:
                assert ask_health(*arguments, base + HEALTH)[0] == 503
                assert ask_health(*arguments, f"{base}{HEALTH}/live")[0] == 200
            answer = one(slow.result())
        assert answer.told["target"] == "/slow?seconds=1.5"
        assert answer.values("connection") == ["close"]
        assert gateway.process.wait(PATIENCE) == 0
