"""Names: one and the same in SQL, in a rule, in pg_hba.conf and in an INI, or none."""

from __future__ import annotations

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import quote_ident

from gateway.policy import parse_rule
from gateway.share.names import Name, Text, checked, parse_list, quoted, rendered, slug, spelled
from tests.servers import PostgresServer

ODD = [
    '"',
    'a"b',
    "it's",
    "a b",
    "ä€",
    "all",
    "sameuser",
    "a,b",
    "a=b",
    "a#b",
    "+a",
    "@a",
    "SELECT",
    "A",
    "a{}b",
    "%s",
    "\\",
]

names = st.text(min_size=1).filter(lambda name: name.isprintable())


@pytest.mark.parametrize(
    ("text", "separator", "found"),
    [
        ("sales.orders", ".", ("sales", "orders")),
        ("Sales.Orders", ".", ("Sales", "Orders")),
        ('"a.b"."c""d"', ".", ("a.b", 'c"d')),
        ("id,name", ",", ("id", "name")),
        ('"a,b",c', ",", ("a,b", "c")),
        ("öl", ".", ("öl",)),
    ],
)
def test_names_are_taken_as_they_stand(text: str, separator: str, found: tuple[str, ...]) -> None:
    assert parse_list(text, separator) == found


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", '"a', '""', 'a"b"', "a, b", "a b", '"a"b', "a,b."])
def test_half_a_list_is_refused(text: str) -> None:
    for separator in ".,":
        with pytest.raises(ValueError, match="name"):
            parse_list(text, separator)


@pytest.mark.parametrize(
    "name", ["", "a" * 64, "ä" * 32, "a\nb", "a\0b", " a", "a ", "\x1b[1m", "/regular.*", "\ud800"]
)
def test_what_cannot_be_a_name_everywhere_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="the name"):
        checked(name, "the name")


@pytest.mark.parametrize("name", ["a" * 63, "ä" * 31, *ODD])
def test_what_can_be_is_one(name: str) -> None:
    assert checked(name, "the name") == name


@given(names, names)
def test_a_rule_reads_a_quoted_name_as_that_name(subject: str, role: str) -> None:
    rule = parse_rule(f"allow {quoted(subject)} {quoted(subject)} 192.0.2.0/24 role={quoted(role[:15])}", "here")
    assert rule.subjects.exact == rule.databases.exact == {subject}
    assert not rule.subjects.keywords
    assert rule.role == role[:15]


@given(names)
def test_what_people_write_in_quotes_is_that_name(name: str) -> None:
    assert parse_list('"' + name.replace('"', '""') + '"', ".") == (name,)


def test_a_section_and_a_file_have_a_plain_name() -> None:
    assert slug("orders_acme-1") == "orders_acme-1"
    for name in ("../a", "A", "a]b", "ä", "a b", "x" * 41):
        assert slug(name).isascii()
        assert slug(name).replace("-", "").isalnum()
    assert slug("A") != slug("B")
    assert spelled("a", "B c") == 'a."B c"'


def test_quotes_are_the_servers(embedded_postgres: PostgresServer) -> None:
    """What psycopg2 would have done with a connection."""
    server = embedded_postgres
    with psycopg2.connect(host=server.folder, port=server.port, user="postgres", dbname="postgres") as connection:
        for name in ODD:
            assert rendered(Name(name)) == quote_ident(name, connection)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {rendered(Text(name))} AS {rendered(Name(name))}")
                assert cursor.description is not None
                assert (cursor.fetchall(), cursor.description[0].name) == ([(name,)], name)
    connection.close()
