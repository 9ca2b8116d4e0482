"""Names of fields that are not the same to everybody: what a server might make of one decides whether it may pass."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from gateway.session.vocabulary import Dialed
from gateway.wire.http1_fields import HOP_BY_HOP
from tests.http_sessions import KEY, Conversation, access, message, request, route, sized, talk

SEPARATORS = "!#$%&'*+.^_`|~-"
FRAMING = sorted(name.decode().title() for name in HOP_BY_HOP)
CLAIMS = ["Client-Cert", "Client-Cert-Chain", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-Ip"]
# Each of them would be ours to say, or nobody's.
OURS = [*FRAMING, *CLAIMS, "X-Ssl-Client-Verify", "X-Client-Cert-Dn", "Proxy", "Authorization"]
FEW = 80  # in one head


def spellings(name: str) -> Iterator[str]:
    """With every separator in place of each dash; never the name itself."""
    parts = name.split("-")
    for between in product(SEPARATORS, repeat=len(parts) - 1):
        spelled = parts[0] + "".join(map("".join, zip(between, parts[1:], strict=True)))
        if spelled != name:
            yield spelled


def variable(name: str) -> str:
    """What the least careful of servers calls it."""
    return re.sub("[^A-Za-z0-9]", "_", name).upper()


def variables(fields: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in fields:
        found.setdefault(variable(name), []).append(value)
    return found


PLAIN = variables(talk().ask(request()).asked.fields)


@pytest.mark.parametrize("name", [name for name in OURS if "-" in name])
@pytest.mark.parametrize("change", [str, str.lower, str.upper])
def test_no_other_spelling_reaches_the_upstream(name: str, change: Any) -> None:
    """To a server that does not tell one separator from another, the request is what it is without these fields."""
    every = list(spellings(name))
    for few in (every[at : at + FEW] for at in range(0, len(every), FEW)):
        asked = talk().ask(request("/", *(f"{change(one)}: evil" for one in few), "X-Mine: 1")).asked
        assert variables(asked.fields) == PLAIN | {"X_MINE": ["1"]}


@pytest.mark.parametrize(
    "name", ["Content_Length", "Transfer_Encoding", "Expect_", "Connection_", "_Host", "Te.", "-Te"]
)
def test_framing_with_something_around_it(name: str) -> None:
    for value in ("43", "chunked", "100-continue"):
        for body in ("", "x"):
            lines = (f"{name}: {value}", f"Content-Length: {len(body)}")
            one = talk().ask(request("/", *lines, method="POST", body=body.encode()))
            assert name.lower() not in {known.lower() for known, _ in one.asked.fields}
            assert variables(one.asked.fields)["CONTENT_LENGTH"] == [str(len(body))]
            assert one.asked.body == body.encode()


@pytest.mark.parametrize("name", ["Proxy", "PROXY", "proxy", "Forwarded", "forwarded"])
def test_names_without_a_dash(name: str) -> None:
    assert variables(talk().ask(request("/", f"{name}: http://evil")).asked.fields) == PLAIN


def test_what_only_looks_alike_passes() -> None:
    lines = ["Proxy-Mode: a", "X-Proxy: b", "Authorization-Hint: c", "Forwarded-Not: d", "Content-Lengths: e", "Tea: f"]
    asked = talk().ask(request("/", *lines)).asked
    for line in lines:
        name, _, value = line.partition(": ")
        assert asked.one(name) == value


def test_one_spelling_after_another() -> None:
    """Names are remembered: what was said of one is not said of the next."""
    one = Conversation(access(route()))
    for name in ("X-Mine", "X.Real.IP", "X-Mine", "Transfer.Encoding", "X-Mine"):
        one.client(request("/", f"{name}: v"))
        one.tell(Dialed())
        one.upstream(sized())
        sent = variables(message(one.of_upstream()[-1]).fields)
        assert sent == (PLAIN | {"X_MINE": ["v"]} if name == "X-Mine" else PLAIN)


# --- what is remembered -----------------------------------------------------------------------------------------------


def caches() -> dict[str, Any]:
    """All of the gateway's, by name."""
    return {
        f"{module}.{name}": value
        for module in sorted(sys.modules)
        if module.startswith("gateway.")
        for name, value in vars(sys.modules[module]).items()
        if hasattr(value, "cache_info")
    }


def sizes() -> dict[str, int]:
    return {name: cache.cache_info().currsize for name, cache in caches().items()}


@pytest.fixture
def empty() -> None:
    """A cache that is full would not grow whatever it is given."""
    for cache in caches().values():
        cache.cache_clear()


LONG = {
    "path": request("/" + "a" * 8_192),
    "query": request("/?" + "a" * 8_192),
    "Connection": request("/", "Connection: " + ",".join(f"{n:04}" for n in range(4_000))),
    "name": request("/", "x" * 8_192 + ": 1"),
    "value": request("/", "X-Mine: " + "x" * 8_192),
    "names": request("/", *("x" * 300 + f"{n}: 1" for n in range(90))),
    "cookie": request("/", f"Authorization: {KEY}", "Cookie: " + "x" * 8_192),
}


@pytest.mark.parametrize("name", LONG)
def test_nothing_long_is_remembered(empty: None, name: str) -> None:
    """Or a few requests would fill the memory for good: the caches count entries, not bytes."""
    talk().ask(request("/", "X-Mine: 1", "Cookie: 1", f"Authorization: {KEY}")).upstream(sized())
    before = sizes()
    assert sum(before.values()) > 3
    one = talk().ask(LONG[name])
    one.upstream(sized())
    assert one.record.status == 200
    assert sizes() == before


@pytest.mark.parametrize(
    "host", ["a" * 8_192, "a." * 4_000 + "a", "[" + "0" * 8_192 + "::1]", "gw.example:" + "0" * 8_192]
)
def test_nor_is_a_long_host(empty: None, host: str) -> None:
    talk().ask(request()).upstream(sized())
    before = sizes()
    talk().client(request("/", f"Host: {host}"))
    assert sizes() == before


def test_what_is_short_is_remembered(empty: None) -> None:
    talk().ask(request()).upstream(sized())
    before = sum(sizes().values())
    talk().ask(request("/", "X-Mine: 1"))
    assert sum(sizes().values()) > before
