"""Real HTTP clients, all asked in one way: curl, httpx, aiohttp and Python's own http.client.

Each asks its requests one after the other over whatever connections it likes, and shows answers as they came: it
follows no redirect and decodes no content.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import httpx
from yarl import URL

from tests.gateways import PATIENCE, RunningGateway

Fields = list[tuple[str, str]]
Files = tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class Ask:
    """body: given in parts, it is sent in chunks."""

    path: str = "/"
    method: str = "GET"
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """fields: names in lower case."""

    status: int
    fields: Fields
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known == name]

    @property
    def told(self) -> dict[str, Any]:
        """What the application says that it was asked."""
        assert self.status == 200, self
        told: dict[str, Any] = json.loads(self.body)
        return told

    @property
    def heard(self) -> dict[str, str]:
        """The fields that the application got, each of which it got once."""
        fields = [(name.lower(), value) for name, value in self.told["fields"]]
        assert len(dict(fields)) == len(fields), fields
        return dict(fields)

    @property
    def refusal(self) -> str:
        """The text of an answer of the gateway's own."""
        assert self.status >= 400
        assert self.values("content-type") == ["application/json"], self
        assert self.values("connection") == ["close"]
        content = json.loads(self.body)
        assert content["status"] == self.status
        return str(content["error"])


@dataclass(frozen=True, slots=True)
class Caller:
    """Where to, and as whom: certificate is the files of a certificate and its key."""

    port: int
    trust: Path
    certificate: Files | None = None
    host: str = "localhost"

    @classmethod
    def of(cls, gateway: RunningGateway, certificate: Files | None) -> Caller:
        return cls(gateway.https_port, gateway.root_certificate, certificate)

    def url(self, path: str = "/") -> str:
        return f"https://{self.host}:{self.port}{path}"

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.trust)
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        return context


class Client(Protocol):
    def __call__(self, caller: Caller, *asks: Ask) -> list[Answer]: ...


def one(answers: Iterable[Answer]) -> Answer:
    (answer,) = answers
    return answer


# --- curl -------------------------------------------------------------------------------------------------------------


def curl_arguments(caller: Caller) -> list[str]:
    """How it finds the gateway and whom it trusts. Nothing from anybody's ~/.curlrc or proxy."""
    arguments = ["-q", "-sS", "--noproxy", "*", "--cacert", str(caller.trust), "--max-time", str(PATIENCE)]
    arguments += ["--resolve", f"{caller.host}:{caller.port}:127.0.0.1"]
    if caller.certificate:
        arguments += ["--cert", str(caller.certificate[0]), "--key", str(caller.certificate[1])]
    return arguments


def run_curl(caller: Caller, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = ["curl", *curl_arguments(caller), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=2 * PATIENCE, check=False)


def curl(caller: Caller, *asks: Ask) -> list[Answer]:
    """In one run, so that it can keep its connection."""
    arguments: list[str] = []
    for ask in asks:
        arguments += ["--next", *curl_arguments(caller)] if arguments else []
        arguments += ["-i", "-w", "\n%{size_header} %{size_download}\n", *_curl_ask(ask), caller.url(ask.path)]
    done = run_curl(caller, *arguments)
    assert done.returncode == 0, done.stderr
    return list(_curl_answers(done.stdout, len(asks)))


def _curl_ask(ask: Ask) -> list[str]:
    arguments = ["--head"] if ask.method == "HEAD" else ["-X", ask.method]
    arguments += [word for name, value in ask.fields.items() for word in ("-H", f"{name}: {value}")]
    if ask.body is None:
        return arguments
    text = ask.body if isinstance(ask.body, bytes) else b"".join(ask.body)
    if not isinstance(ask.body, bytes):
        arguments += ["-H", "Transfer-Encoding: chunked"]
    if "content-type" not in map(str.lower, ask.fields):
        arguments += ["-H", "Content-Type:"]
    return [*arguments, "--data-binary", text.decode("ascii")]


def _curl_answers(out: bytes, count: int) -> Iterable[Answer]:
    """From the end: a body can hold anything, but what stands behind it tells its size."""
    answers = []
    for _ in range(count):
        rest, _, sizes = out.removesuffix(b"\n").rpartition(b"\n")
        head_size, body_size = map(int, sizes.split())
        body = rest[len(rest) - body_size :]
        head = rest[len(rest) - body_size - head_size : len(rest) - body_size]
        out = rest[: len(rest) - body_size - head_size]
        answers.append(Answer(*curl_head(head)[-1], body))
    assert out == b""
    return reversed(answers)


def curl_head(head: bytes) -> list[tuple[int, Fields]]:
    """Each head that came, those of interim answers too."""
    found = []
    for part in head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n\r\n"):
        first, *lines = part.split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        found.append((int(first.split()[1]), [(name.lower(), value) for name, value in pairs]))
    return found


# --- Python's ---------------------------------------------------------------------------------------------------------


def use_httpx(caller: Caller, *asks: Ask) -> list[Answer]:
    answers = []
    with httpx.Client(verify=caller.context, trust_env=False, timeout=PATIENCE) as client:
        for ask in asks:
            body = ask.body if ask.body is None or isinstance(ask.body, bytes) else iter(ask.body)
            with client.stream(ask.method, caller.url(ask.path), headers=dict(ask.fields), content=body) as response:
                fields = [(name.lower(), value) for name, value in response.headers.multi_items()]
                answers.append(Answer(response.status_code, fields, b"".join(response.iter_raw())))
    return answers


def use_aiohttp(caller: Caller, *asks: Ask) -> list[Answer]:
    return asyncio.run(aiohttp_answers(caller, *asks))


async def aiohttp_answers(caller: Caller, *asks: Ask) -> list[Answer]:
    answers = []
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
        context = caller.context
        for ask in asks:
            body = ask.body if ask.body is None or isinstance(ask.body, bytes) else _parts(ask.body)
            url = URL(caller.url(ask.path), encoded=True)
            asking = session.request(ask.method, url, headers=ask.fields, data=body, ssl=context, allow_redirects=False)
            async with asking as response:
                fields = [(name.decode().lower(), value.decode("latin-1")) for name, value in response.raw_headers]
                answers.append(Answer(response.status, fields, await response.read()))
    return answers


async def _parts(parts: Sequence[bytes]) -> Any:
    for part in parts:
        yield part


def use_http_client(caller: Caller, *asks: Ask) -> list[Answer]:
    answers = []
    connection = http.client.HTTPSConnection(caller.host, caller.port, timeout=PATIENCE, context=caller.context)
    for ask in asks:
        body = ask.body if ask.body is None or isinstance(ask.body, bytes) else iter(ask.body)
        chunked = body is not None and not isinstance(body, bytes)
        connection.request(ask.method, ask.path, body=body, headers=dict(ask.fields), encode_chunked=chunked)
        response = connection.getresponse()
        fields = [(name.lower(), value) for name, value in response.getheaders()]
        answers.append(Answer(response.status, fields, response.read()))
    connection.close()
    return answers


CLIENTS: dict[str, Client] = {
    "curl": curl,
    "httpx": use_httpx,
    "aiohttp": use_aiohttp,
    "http.client": use_http_client,
}
