"""Many things as text: what is written is read again, what is wrong is told by its line, and nothing is guessed."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.errors import Failure
from gateway.cli.thing_rows import keys_csv, keys_json, read_rows, things_csv, things_json
from gateway.registry.records import ConnectionRecord, RowChannel, ThingRecord, ThingRow

IDS = ["8b0ad5c4-42ea-4a38-9b4c-9b34bd9d0a51", "11111111-2222-3333-4444-555555555555"]
KEY = "a-secret-key-0123456789"
HASH = "ab" * 32
SECRET = "topsecret-topsecret"


def refusal(content: str | bytes) -> str:
    with pytest.raises(Failure) as caught:
        read_rows(content if isinstance(content, bytes) else content.encode())
    assert SECRET not in caught.value.message
    return caught.value.message


def read_csv(text: str) -> list[ThingRow]:
    return [row for _, row in read_rows(text.encode())]


# --- what is written is read again ----------------------------------------------------------------------------------

NAMES = st.one_of(
    st.text(min_size=1, max_size=254).filter(str.isprintable),
    st.text("'=+-@a\",;", min_size=1, max_size=5),
)
RECORDS = st.builds(
    ThingRecord,
    id=st.uuids().map(str),
    name=NAMES,
    enabled=st.booleans(),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.booleans() | st.none(), max_size=2),
    created=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    key_sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
)
THINGS = st.lists(RECORDS, max_size=4, unique_by=(lambda one: one.id, lambda one: one.key_sha256))
RIGHTS = st.sampled_from([(True, True), (True, False), (False, True)])


@given(st.sampled_from([things_csv, things_json]), THINGS, st.lists(RIGHTS, max_size=2))
def test_an_export_is_read_as_what_it_was(
    written: Any, things: list[ThingRecord], rights: list[tuple[bool, bool]]
) -> None:
    channels = [(identifier, *right) for identifier, right in zip(IDS, rights, strict=False)]
    connections = {one.id: [ConnectionRecord(one.id, *channel) for channel in channels] for one in things}
    text = "".join(f"{line}\n" for line in written(things, connections))
    assert [row for _, row in read_rows(text.encode())] == [
        ThingRow(
            name=one.name,
            id=one.id,
            key_sha256=one.key_sha256,
            metadata=one.metadata,
            enabled=one.enabled,
            channels=tuple(RowChannel(*channel) for channel in channels),
        )
        for one in things
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''x"])
def test_no_spreadsheet_takes_a_name_for_a_formula(name: str) -> None:
    thing = ThingRecord(IDS[0], name, True, {}, datetime(2026, 1, 1, tzinfo=UTC), HASH)
    for text in ("\n".join(things_csv([thing], {})), "\n".join(keys_csv([ThingRow(name, IDS[0], KEY)]))):
        (row,) = csv.DictReader(io.StringIO(text))
        assert row["name"] == f"'{name}"
    assert read_csv("\n".join(things_csv([thing], {})))[0].name == name


def test_new_keys_are_written_with_whose_they_are() -> None:
    rows = [ThingRow('a,"b"', IDS[0], KEY)]
    assert list(keys_csv(rows)) == ["id,name,key", f'{IDS[0]},"a,""b""",{KEY}']
    assert json.loads("".join(keys_json(rows))) == [{"id": IDS[0], "name": 'a,"b"', "key": KEY}]


# --- what people write ----------------------------------------------------------------------------------------------


def test_a_name_is_enough() -> None:
    assert read_rows(b"name\nboiler\n") == [(2, ThingRow("boiler", metadata={}))]
    assert read_rows(b'{"name": "boiler"}') == [(1, ThingRow("boiler"))]


def test_columns_have_any_order_and_a_spreadsheets_habits() -> None:
    heading, channels = (
        "\N{BYTE ORDER MARK}Enabled, NAME ,key,channels",
        "heating ; a b:publish;x:y;x:y:publish;cold:subscribe;",
    )
    (row,) = read_csv(f"{heading}\r\nFALSE,boiler,{KEY},{channels}\r\n\r\n")
    assert row == ThingRow(
        "boiler",
        key=KEY,
        enabled=False,
        metadata={},
        channels=(
            RowChannel("heating"),
            RowChannel("a b", publish=True, subscribe=False),
            RowChannel("x:y"),
            RowChannel("x:y", publish=True, subscribe=False),
            RowChannel("cold", publish=False, subscribe=True),
        ),
    )


@pytest.mark.parametrize(
    ("text", "enabled"), [("", True), ("yes", True), ("1", True), ("True", True), ("no", False), ("0", False)]
)
def test_enabled_may_be_said_in_several_ways(text: str, enabled: bool) -> None:
    assert read_csv(f"name,enabled\nx,{text}\n")[0].enabled is enabled


def test_json_may_be_a_list_or_lines_and_its_channels_text_or_objects() -> None:
    one = '{"name": "a", "channels": ["heating", {"channel": "cold", "subscribe": false}], "enabled": null}'
    row = ThingRow("a", channels=(RowChannel("heating"), RowChannel("cold", True, False)))
    assert read_rows(f"[\n{one},\n\n{one}]".encode()) == [(2, row), (4, row)]
    assert read_rows(f"{one}\n{one}\n".encode()) == [(1, row), (2, row)]


def test_nothing_is_no_thing() -> None:
    assert read_rows(b"name\n") == read_rows(b"[]") == []


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "boiler\n",
        "id,key\n",
        "name,name\n",
        "name;id\n",
        "name,colour\n",
        "\nname\n",
        f"{SECRET}\n",
        "name,\nx,y\n",
    ],
)
def test_a_heading_names_each_column_once_and_no_other(text: str) -> None:
    assert refusal(text).startswith("line 1: has to name the columns")


@pytest.mark.parametrize(
    ("heading", "row", "reason"),
    [
        ("name,id", "", None),
        ("name,id", "a", "has 1 cells; the heading has 2"),
        ("name,id", "a,,", "has 3 cells; the heading has 2"),
        ("name,id", f",{IDS[0]}", "a name has"),
        ("name,id", f"{'x' * 255},{IDS[0]}", "a name has"),
        ("name,id", '"a\nb",', "a name has"),
        ("name,id", '"a\x1b[2J",', "a name has"),
        ("name,id", f"a,{SECRET}", "its id is not a UUID"),
        ("name,key", f"a,{SECRET} {SECRET}", "a key has"),
        ("name,key", "a,short", "a key has"),
        ("name,key,key_sha256", f"a,{SECRET},{HASH}", "has key and key_sha256"),
        ("name,key_sha256", f"a,{SECRET}", "a key_sha256 has 64 hexadecimal digits"),
        ("name,enabled", "a,maybe", "enabled is neither true nor false"),
        ("name,metadata", "a,[]", "metadata is not a JSON object"),
        ("name,metadata", 'a,"{""x"": 1, ""x"": 1}"', "metadata gives a member twice"),
        ("name,metadata", 'a,"{""x"": NaN}"', "metadata has a number"),
        ("name,metadata", 'a,"{""x"": ""' + "y" * 20_000 + '""}"', "the metadata has 20008 bytes"),
    ],
)
def test_a_bad_row_is_told_by_its_line(heading: str, row: str, reason: str | None) -> None:
    text = f"{heading}\ngood,{','.join(['' for _ in heading.split(',')][1:])}\n{row}\n"
    if reason is None:
        assert len(read_csv(text)) == 1
    else:
        assert refusal(text).startswith(f"line 3: {reason}")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("1", "is not a JSON object"),
        ("{}", "a name has"),
        ('{"name": 1}', "its name has to be text"),
        ('{"name": "a", "enabled": 1}', "its enabled has to be true or false"),
        ('{"name": "a", "id": 1}', "its id has to be text"),
        ('{"name": "a", "metadata": []}', "its metadata has to be an object"),
        ('{"name": "a", "channels": "b"}', "its channels has to be a list"),
        ('{"name": "a", "channels": [1]}', "each of its channels"),
        ('{"name": "a", "channels": [{"channel": "b", "publsh": true}]}', "each of its channels"),
        ('{"name": "a", "channels": [{"channel": 1}]}', "its channel has to be text"),
        ('{"name": "a", "channels": [{"channel": "b", "publish": 1}]}', "its publish has to be"),
        ('{"name": "a", "channels": [{"channel": "b", "publish": false, "subscribe": false}]}', "a connection lets"),
        (f'{{"name": "a", "{SECRET}": 1}}', "has a member that is none of name, id,"),
        ('{"name": "a", "name": "b"}', "gives a member twice"),
        ('{"name": "a"', "is not JSON"),
        (r'{"name": "\ud800"}', "has half of a surrogate pair"),
    ],
)
def test_a_bad_object_is_told_by_its_line(item: str, reason: str) -> None:
    assert refusal(f'{{"name": "good"}}\n{item}').startswith(f"line 2: {reason}")


def test_the_line_of_a_row_is_where_it_begins() -> None:
    text = 'name,metadata\na,"{\n}"\n\nb,"{\n"\nc\n'
    assert refusal(text).splitlines() == ["line 5: metadata is not JSON", "line 7: has 1 cells; the heading has 2"]


def test_what_only_one_thing_can_have_is_told_with_the_line_of_the_other() -> None:
    assert refusal(f"name,id\na,{IDS[0]}\nb,\nc,{IDS[0].upper()}\n") == "line 4: has the id of line 2"
    assert refusal(f"name,key\na,{KEY}\nb,{KEY}\n") == "line 3: has the key of line 2"
    assert refusal(f"name,key_sha256\na,{HASH}\nb,{HASH.upper()}\n") == "line 3: has the key of line 2"


def test_many_mistakes_are_told_at_once_but_not_all() -> None:
    told = refusal("name,enabled\n" + "a,maybe\n" * 25).splitlines()
    assert told == [f"line {n}: enabled is neither true nor false" for n in range(2, 22)] + ["and 5 lines more"]


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_what_is_not_utf_8_is_told_by_its_line(before: bytes) -> None:
    assert refusal(before + b"name\na\n\xff\n") == "line 3: is not UTF-8"
    assert refusal("name\na\n".encode("utf-16")) == "line 1: is not UTF-8"


def test_a_nul_is_told_by_its_line() -> None:
    assert refusal(b"name\na\nb\0\n") == "line 3: has a NUL"
    assert refusal(b'{"name": "a"}\n\0') == "line 2: has a NUL"


@pytest.mark.parametrize("row", ['"a', '"a" b', '"a"b"', "x" * 200_000, '"' + "\n" * 200_000 + '"'])
def test_what_is_not_csv_is_told_by_its_line(row: str) -> None:
    assert refusal(f"name\ngood\n{row}").startswith("line 3: is not CSV: ")


def test_a_million_empty_lines_are_nothing() -> None:
    assert read_rows(b"name\n" + b"\n" * 1_000_000) == []


@given(st.text(alphabet="name,key\n\"\r;{}[]:'x=", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for content in (text, f"name,metadata\n{text}", f'[{{"name": "a"}}, {text}]'):
        with suppress(Failure):
            assert all(row.name.isprintable() for _, row in read_rows(content.encode()))
