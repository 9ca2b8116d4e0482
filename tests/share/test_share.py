"""The record of a share: read back as it was written, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.share.share import Query, Record, Share, Table, read_record

TABLE = Share.of("orders", "shop", "acme", ["203.0.113.0/24"], Table("public", "orders", ("id", "total")))
QUERY = Share.of("sums", "shop", "acme", ["2001:db8::/32", "203.0.113.0/24", "203.0.113.0/24"], Query.of("SELECT 1;\n"))


def record(share: Share) -> Record:
    return Record(share, "0" * 64, "2026-01-02T03:04:05+00:00", "postgres")


@pytest.mark.parametrize("share", [TABLE, QUERY])
def test_a_record_is_read_as_it_was_written(share: Share) -> None:
    found = read_record(record(share).comment(), share.name)
    assert found is not None
    assert found.comment() == record(share).comment()
    assert not share.differences(found.share)


@pytest.mark.parametrize(
    "change",
    [
        ("securegw share ", "securegw share  "),
        ("securegw share ", ""),
        ('"version": 1', '"version": 2'),
        ('"version": 1', '"version": true'),
        ('"version": 1', '"version": 1, "version": 1'),
        ('"version": 1', '"version": 1, "more": 1'),
        ('"name": "orders"', '"name": "others"'),
        ('"subject": "acme"', '"subject": ["acme"]'),
        ('"subject": "acme"', '"subject": ""'),
        ('["203.0.113.0/24"]', '"203.0.113.0/24"'),
        ('["203.0.113.0/24"]', "[]"),
        ('["203.0.113.0/24"]', '["203.0.113.1/24"]'),
        ('["public", "orders"]', '["public", "orders", "id"]'),
        ('["public", "orders"]', "{}"),
        ("}", "} "),
        ("}", ""),
        ('"version": 1', "[" * 100_000),
    ],
)
def test_whatever_else_is_no_record(change: tuple[str, str]) -> None:
    comment = record(TABLE).comment()
    assert change[0] in comment
    assert read_record(comment.replace(*change), "orders") is None


def test_nor_is_one_about_another_role_or_none() -> None:
    assert read_record(record(TABLE).comment(), "another") is None
    assert read_record(None, "orders") is None
    assert read_record("the role of our application", "orders") is None


@given(st.text())
def test_no_comment_breaks_the_reading(text: str) -> None:
    assert read_record(text, "orders") is None
    assert read_record(f"securegw share {text}", "orders") is None


@pytest.mark.parametrize(
    ("name", "database", "subject", "networks", "columns"),
    [
        ("x" * 58, "shop", "acme", ["192.0.2.0/24"], ()),
        ("x", "d" * 64, "acme", ["192.0.2.0/24"], ()),
        ("x", "shop", "", ["192.0.2.0/24"], ()),
        ("x", "shop", "a\nb", ["192.0.2.0/24"], ()),
        ("x", "shop", " a", ["192.0.2.0/24"], ()),
        ("x", "shop", "a" * 2049, ["192.0.2.0/24"], ()),
        ("x", "shop", "acme", [], ()),
        ("x", "shop", "acme", ["192.0.2.1/24"], ()),
        ("x", "shop", "acme", ["all"], ()),
        ("x", "shop", "acme", ["192.0.2.0/24"], ("a", "a")),
        ("x", "shop", "acme", ["192.0.2.0/24"], ("a" * 64,)),
    ],
)
def test_what_cannot_be_shared(
    name: str, database: str, subject: str, networks: list[str], columns: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"name|database|subject|network|column|address|host bits"):
        Share.of(name, database, subject, networks, Table("public", "t", columns))


def test_a_query_is_known_by_its_text() -> None:
    assert Query.of("SELECT 1") == Query.of(" SELECT 1 ;\n")
    assert Query.of("SELECT 1") != Query.of("SELECT 2")
    for nothing in ("", " ; ", "SELECT\0"):
        with pytest.raises(ValueError, match="query"):
            Query.of(nothing)


def test_differences_are_told_each() -> None:
    other = Share.of("orders", "shop2", "bob", ["192.0.2.0/24"], Table("public", "orders"))
    told = other.differences(TABLE)
    assert [one.split()[0] for one in told] == ["database", "partner", "networks", "source"]
    assert "203.0.113.0/24, not 192.0.2.0/24" in told[2]
