"""Results: aligned for people, exact for programs, and harmless to a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.output import compact, listed, printable, record, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, böiler 世界", "plain, böiler 世界"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("a\nb\tc\0", r"a\nb\tc\x00"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe", r"\u202egpj.exe"),
        ("\udc80", r"\udc80"),
    ],
)
def test_nothing_that_a_terminal_obeys_gets_there(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.dictionaries(st.text(), st.text()))
def test_json_is_one_printable_line_and_the_same_value(value: dict[str, str]) -> None:
    line = compact(value)
    assert line.isprintable()
    assert json.loads(line) == value


@given(st.lists(st.dictionaries(st.text(), st.integers(), max_size=2), max_size=4))
def test_a_list_is_one_document_with_one_record_in_each_line(records: list[dict[str, int]]) -> None:
    lines = list(listed(records))
    assert json.loads("\n".join(lines)) == records
    assert len(lines) == len(records) + 2


def test_columns_are_aligned_however_wide_their_characters_are() -> None:
    assert list(
        table(("id", "name", "enabled"), [("1", "世界", "yes"), ("22", "e\N{COMBINING ACUTE ACCENT}", "no")])
    ) == [
        "ID  NAME  ENABLED",
        "1   世界  yes",
        "22  e\N{COMBINING ACUTE ACCENT}     no",
    ]


def test_a_table_of_nothing_has_its_headings() -> None:
    assert list(table(("id", "name"), [])) == ["ID  NAME"]


def test_the_fields_of_a_record_stand_below_each_other() -> None:
    assert list(record({"id": "1", "known as": "\x1b"})) == ["id        1", r"known as  \x1b"]
