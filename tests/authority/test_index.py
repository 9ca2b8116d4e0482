"""The index is read as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authority.errors import AuthorityError
from gateway.authority.index import Index, Record, parse
from tests.authority.authorities import NOW

ALICE = Record(0x1F, "alice", "client", "Älice", ("email:a@b.example",), NOW, NOW + timedelta(days=9), 9, "alice.crt")
OLD = replace(ALICE, serial=0x20, file=None, requested=True, revoked_at=NOW, reason="superseded")
INDEX = Index("ab" * 32, 3, NOW, NOW + timedelta(days=30), 30, (OLD, ALICE))


@pytest.mark.parametrize("index", [INDEX, replace(INDEX, records=())])
def test_it_is_read_as_it_was_written(index: Index) -> None:
    assert parse(index.write()) == index


def test_a_new_one_takes_the_files_of_its_name() -> None:
    new = replace(ALICE, serial=0x21)
    assert INDEX.with_record(new).records == (OLD, replace(ALICE, file=None), new)


def test_revoking() -> None:
    assert INDEX.with_revoked([0x1F], NOW, "keyCompromise").records == (
        OLD,
        replace(ALICE, revoked_at=NOW, reason="keyCompromise"),
    )


def changed(change: Callable[[Any], object]) -> bytes:
    document = json.loads(INDEX.write())
    change(document)
    return json.dumps(document).encode()


CERTIFICATE: tuple[tuple[str, Any], ...] = (
    ("serial", "0x1f"), ("serial", 31), ("serial", ""), ("serial", "20"), ("serial", "f" * 41),
    ("kind", "ca"), ("kind", None), ("file", "../alice.crt"), ("file", "bob.crt"), ("file", True), ("file", []),
    ("names", "dns:a"), ("names", [1]), ("days", 0), ("days", True), ("days", 1.0),
    ("not_after", "2031-05-06"), ("not_after", None), ("requested", 1),
    ("reason", "superseded"), ("revoked_at", "2031-05-06T07:08:09Z"), ("more", 1),
)  # fmt: skip


@pytest.mark.parametrize(("member", "value"), CERTIFICATE)
def test_a_certificate_that_says_something_else(member: str, value: object) -> None:
    with pytest.raises(AuthorityError, match=r"the index is damaged.*certificate 2"):
        parse(changed(lambda document: document["certificates"][1].update({member: value})))


def without(member: str, document: Any) -> None:
    del document["certificates"][0][member]


def test_every_member_has_to_be_there() -> None:
    for member in json.loads(INDEX.write())["certificates"][0]:
        with pytest.raises(AuthorityError, match="other members"):
            parse(changed(partial(without, member)))


def test_a_reason_that_nobody_gives() -> None:
    with pytest.raises(AuthorityError, match="damaged"):
        parse(changed(lambda document: document["certificates"][0].update(reason="certificateHold")))


@pytest.mark.parametrize(
    "document",
    [
        b"", b"\xff", b"{", b"[]", b"null", INDEX.write()[:-3], INDEX.write() + b"{}", b"[" * 100_000,
        INDEX.write().replace(b'"version": 1', b'"version": 2'),
        INDEX.write().replace(b'"version": 1', b'"version": true'),
        INDEX.write().replace(b'"version": 1', b'"version": 1.0'),
        INDEX.write().replace(b'"number": 3', b'"number": NaN'),
        INDEX.write().replace(b'"number": 3', b'"number": 3, "number": 4'),
        INDEX.write().replace(b'"number": 3', b'"number": 0'),
        INDEX.write().replace(b"abab", b"ABAB"),
        INDEX.write().replace(b'"reason": "superseded"', b'"reason": null'),
    ],
)  # fmt: skip
def test_a_damaged_document(document: bytes) -> None:
    with pytest.raises(AuthorityError, match=r"the index is damaged, .* restore it"):
        parse(document)


@given(st.integers(0, 700), st.binary(max_size=3))
def test_whatever_is_changed_in_it_is_read_or_refused(at: int, data: bytes) -> None:
    document = INDEX.write()
    with suppress(AuthorityError):
        parse(document[:at] + data + document[at + len(data) :])
