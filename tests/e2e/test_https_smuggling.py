"""Whatever a client sends, the upstream understands what the gateway understood: h11 reads both sides of it.

Every hostile request either is refused, the connection ended and not a byte sent to the upstream; or the upstream gets
just what h11 reads in the client's bytes, with nobody's word but ours for who the client is. Never two requests of one.
"""

from __future__ import annotations

import base64
import random
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.smuggling import CASES, KEY, MARKER, WHOLE, Case, chunks, get, post
from tests.gateways import RunningGateway, wait_until
from tests.http_servers import ANSWER, Fields, Received, WebService, understood
from tests.raw_https import End, Ended, RawHTTPS, Response


@dataclass(slots=True)
class Site:
    """certificate: of the thing with KEY."""

    gateway: RunningGateway
    service: WebService
    certificate: tuple[Path, Path]

    def client(self) -> RawHTTPS:
        client = RawHTTPS(self.gateway.https_port, self.gateway.root_certificate, self.certificate)
        client.handshake()
        return client


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with WebService.running() as service:
        sections = {"route:main": {"upstream": f"http://127.0.0.1:{service.port}"}}
        with RunningGateway.https(tmp_path_factory.mktemp("gateway"), sections) as gateway:
            yield Site(gateway, service, gateway.thing(KEY))
            gateway.check_at_rest()
            service.hang_up()
            wait_until(lambda: not gateway.pooled(), "the pool lets go of what the upstream has ended")
            gateway.check_at_rest()


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    service = shared_site.service
    service.requests.clear()
    service.begun.clear()
    yield shared_site
    assert not service.refused
    # What is idle has said all that it had to say: nothing waits there for the next request.
    assert len([request for request in service.begun if not request.whole]) <= service.connections


# --- what the upstream has to get -----------------------------------------------------------------------------------

HOP_BY_HOP = {
    b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"transfer-encoding", b"upgrade",
}  # fmt: skip
NOT_BEHIND = HOP_BY_HOP | {
    b"age", b"authorization", b"cache-control", b"content-encoding", b"content-location", b"content-range",
    b"content-type", b"cookie", b"date", b"expires", b"location", b"max-forwards", b"pragma", b"range", b"retry-after",
    b"set-cookie", b"trailer", b"vary", b"warning", b"www-authenticate",
}  # fmt: skip
OURS = (b"Authorization", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"Client-Cert")


def plain(name: bytes) -> bytes:
    """What servers that make variables of fields see of a name."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


def dropped(name: bytes) -> bool:
    return name.lower() == b"proxy" or plain(name).strip(b"-") in HOP_BY_HOP or claims(name)


def misplaced(name: bytes) -> bool:
    return plain(name).strip(b"-") in NOT_BEHIND or dropped(name)


def claims(name: bytes) -> bool:
    """Whether any server could take it for a word of a proxy about its client."""
    name = plain(name)
    return name in (b"client-cert", b"client-cert-chain", b"forwarded", b"x-real-ip") or name.startswith(
        (b"x-forwarded-", b"x-client-cert", b"x-ssl-")
    )


def passed_on(request: Received) -> Fields:
    """The fields of a client's request that are the upstream's business."""
    listed = {option.strip().lower() for value in request.values(b"connection") for option in value.split(b",")}
    gone = listed | {b"authorization"}
    return [(name, value) for name, value in request.fields if name.lower() not in gone and not dropped(name)]


def target(request: Received) -> bytes:
    """In origin-form (RFC 9112, 3.2.1), or `*`."""
    scheme, _, rest = request.target.partition(b"://")
    if scheme.lower() != b"https":
        return request.target
    path = rest[len(rest.partition(b"/")[0].partition(b"?")[0]) :]
    if request.method == b"OPTIONS" and not path:
        return b"*"
    return path if path.startswith(b"/") else b"/" + path


def check_same(sent: Received, got: Received, about: dict[bytes, bytes]) -> None:
    """The upstream got what the client meant, and in addition exactly what we say of the client."""
    assert got.method == sent.method
    assert got.target == target(sent)
    assert got.body == sent.body
    trailers = [(name, value) for name, value in sent.trailers if not misplaced(name)]
    assert got.trailers == trailers
    (host,) = sent.values(b"host")
    assert got.values(b"host") == [host]
    ours = {**about, b"X-Forwarded-Host": host}
    assert {name: value for name, value in got.fields if name in OURS} == ours
    told = [name for name, _ in got.fields if claims(name) or name.lower() == b"authorization"]
    assert sorted(told) == sorted(ours)
    theirs = [(name, value) for name, value in got.fields if name.lower() not in HOP_BY_HOP and name not in ours]
    via = (b"Via", b"1.1 securegw")
    assert theirs.count(via) == passed_on(sent).count(via) + 1
    theirs.reverse()
    theirs.remove(via)
    theirs.reverse()
    assert theirs == passed_on(sent)
    assert got.values(b"upgrade") == []
    assert {value.lower() for value in got.values(b"connection")} <= {b"te"}


def check_understood(site: Site, client: RawHTTPS, data: bytes) -> None:
    """Each request that the upstream got is the next one of those that h11 finds in the client's bytes."""
    meant, _ = understood(data)
    got = site.service.requests
    assert len(got) <= len(meant), got
    der = ssl.PEM_cert_to_DER_cert(site.certificate[0].read_text())
    about = {
        b"Authorization": KEY.encode(),
        b"X-Forwarded-For": client.name.partition(":")[0].encode(),
        b"X-Forwarded-Proto": b"https",
        b"Client-Cert": b":%b:" % base64.b64encode(der),
    }
    for sent, received in zip(meant, got, strict=False):
        check_same(sent, received, about)


# --- the table --------------------------------------------------------------------------------------------------------


def final_answers(client: RawHTTPS, data: bytes) -> list[Response]:
    """All of them, up to an orderly end; those of the upstream are its own, and ours refuse and are the last."""
    meant, _ = understood(data)
    answers: list[Response] = []
    methods = [request.method for request in meant]
    with suppress(Ended):
        while True:
            method = methods[len(answers)] if len(answers) < len(methods) else b"GET"
            answers.append(client.response(method))
    assert client.ending() is End.ORDERLY
    for answer in answers:
        if answer.status == 200:
            assert answer.body in (ANSWER, b"")
        else:
            assert answer.refusal
            assert answer is answers[-1]
    return answers


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_hostile_request(site: Site, case: Case) -> None:
    """Sent at once, the marker right behind it."""
    bytes_before, connections_before = site.service.bytes_received, site.service.connections
    client = site.client()
    try:
        data = case.raw + MARKER
        client.send(data)
        if case.statuses:
            assert tuple(answer.status for answer in final_answers(client, data)) == case.statuses
        else:
            assert client.is_silent(0.05)
        whole = [status for status in case.statuses if status == 200]
        assert len(site.service.requests) == len(whole)
        check_understood(site, client, data)
    finally:
        client.close()
    if case.statuses and not whole:
        assert site.service.bytes_received == bytes_before
        assert site.service.connections == connections_before


SLOW = [case for case in CASES if len(case.raw) < 600]


@pytest.mark.parametrize("first", range(0, len(SLOW), 40))
def test_hostile_requests_byte_by_byte(site: Site, first: int) -> None:
    """Each byte in a TLS record of its own: nothing is understood in another way, only the head may be gone already."""
    for case in SLOW[first : first + 40]:
        site.service.requests.clear()
        data = case.raw + MARKER
        client = site.client()
        try:
            for at in range(len(data)):
                if not client.try_send(data[at : at + 1]):
                    break
            if case.statuses:
                statuses = tuple(answer.status for answer in final_answers(client, data))
                assert statuses == case.statuses, case.name
            assert len(site.service.requests) == case.statuses.count(200), case.name
            check_understood(site, client, data)
        finally:
            client.close()


@pytest.mark.parametrize("first", range(0, len(SLOW), 100))
def test_the_connection_goes_on_after_the_answer(site: Site, first: int) -> None:
    """As above, but the marker is sent when the answer is here, so nothing can be taken for the body."""
    for case in SLOW[first : first + 100]:
        if case.statuses != (200, 200) or case.raw.startswith(b"HEAD"):
            continue
        site.service.requests.clear()
        client = site.client()
        try:
            assert client.ask(case.raw).status == 200, case.name
            assert client.ask(MARKER).closes, case.name
            assert client.ending() is End.ORDERLY
            assert len(site.service.requests) == 2, case.name
            check_understood(site, client, case.raw + MARKER)
        finally:
            client.close()


# --- mutations --------------------------------------------------------------------------------------------------------

SEEDS = 600
BATCH = 50
PARENTS = (
    get("X: y", "Accept: */*") + get("Cookie: a=b"),
    post("Content-Length: 5", "X: y", body=b"hello"),
    post("Content-Length: 2", body=b"\r\n") + get(),
    chunks(WHOLE) + get("X: y"),
    chunks(b"5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n", "Trailer: X-Sum"),
    get("Connection: Upgrade, X", "Upgrade: h2c", "X: y") + post("Content-Length: 1", body=b"x"),
    post("Expect: 100-continue", "Content-Length: 5", body=b"hello"),
    get(f"Authorization: Bearer {KEY}", "X-Forwarded-For: 1", line="GET https://localhost/a?b=c HTTP/1.1")
    + chunks(WHOLE),
)
PIECES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\xff", b"\xa0", b"0",
    b"1",
    b"5", b"f", b"-", b"+", b"0x", b"_", b"\r\n ", b"\r\n\t", b"0\r\n\r\n", b"5\r\n", b" HTTP/1.1", b"HTTP/1.0", b"/",
    b"//", b"/../",
    b"%2e", b"%", b"?", b"#", b"@", b"Content-Length: 3\r\n", b"Content-Length: 300\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Host: evil\r\n", b"Host: localhost\r\n",
    b"Connection: close\r\n", b"Content-Length: 0\r\n", b"X: GET\r\n", b"X_Real_IP: evil\r\n", b"fff\r\n",
    b"Connection: content-length\r\n", b"Connection: keep-alive, host\r\n", b"X-Forwarded-For: 6\r\n",
    b"Client_Cert: evil\r\n", b"Authorization: evil\r\n", b"Upgrade: websocket\r\n",
    b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"Expect: 100-continue\r\n", b"chunked", b"identity", b"POST", b"GET",
)  # fmt: skip


def mutated(seed: int) -> bytes:
    """One of the parents with one to four hostile changes."""
    chance = random.Random(seed)
    data = chance.choice(PARENTS)
    for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3))):
        data = chance.choice((_inserted, _inserted, _inserted, _doubled, _replaced, _cut, _swapped))(data, chance)
    return data


def _place(data: bytes, chance: random.Random) -> int:
    """Anywhere, but mostly where a line begins."""
    starts = [at + 2 for at in range(len(data) - 1) if data[at : at + 2] == b"\r\n"]
    return chance.choice(starts) if starts and chance.random() < 0.8 else chance.randrange(len(data) + 1)


def _inserted(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.choice(PIECES) + data[at:]


def _replaced(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.choice(PIECES) + data[at + chance.randrange(1, 4) :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + data[at + chance.randrange(1, 6) :]


def _doubled(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    at = chance.randrange(len(lines))
    return b"\r\n".join((*lines[: at + 1], *lines[at:]))


def _swapped(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def answers_until_silence(client: RawHTTPS, meant: Sequence[Received], outcome: str) -> list[Response]:
    """All that come. Where h11 finds no whole request any more, the gateway may wait for the rest, too."""
    answers: list[Response] = []
    with suppress(Ended):
        while len(answers) < len(meant) or outcome == "done" or not client.is_silent(0.02):
            answers.append(client.response(meant[len(answers)].method if len(answers) < len(meant) else b"GET"))
    return answers


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_mutations(site: Site, first: int) -> None:
    """What the upstream gets is a beginning of what h11 understands; where it is not all, the client is told."""
    for seed in range(first, first + BATCH):
        site.service.requests.clear()
        data = mutated(seed) + MARKER
        meant, outcome = understood(data)
        client = site.client()
        try:
            client.send(data)
            answers = answers_until_silence(client, meant, outcome)
            passed = [answer for answer in answers if answer.status == 200]
            assert len(site.service.requests) == len(passed), (seed, data)
            check_understood(site, client, data)
            if len(passed) < len(meant):
                assert len(answers) == len(passed) + 1, (seed, data)
                assert answers[-1].status >= 400
                assert answers[-1].refusal
        finally:
            client.close()


def test_the_mutations_are_of_every_kind() -> None:
    """Else they would test nothing."""
    found = [understood(mutated(seed) + MARKER) for seed in range(SEEDS)]
    outcomes = [outcome for _, outcome in found]
    assert min(outcomes.count("done"), outcomes.count("refused")) > 100
    assert len({len(requests) for requests, _ in found}) >= 4
