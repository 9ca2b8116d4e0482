"""JSON of operators: where each value stands, and that what can be read in two ways is not read at all."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.strict_json import Malformed, json_object, values

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("text", ["", " \n", "[]", " [ ] "])
def test_nothing_is_no_value(text: str) -> None:
    assert list(values(text)) == []


def test_the_items_of_a_list_and_values_in_sequence_tell_where_they_stand() -> None:
    assert list(values(' [ {"a": 1},\n2 ]\n')) == [(3, {"a": 1}), (13, 2)]
    assert list(values('{"a": 1}\n{"a": 2}')) == [(0, {"a": 1}), (9, {"a": 2})]


@given(st.lists(VALUES))
def test_what_python_writes_is_read(written: list[object]) -> None:
    assert [value for _, value in values(json.dumps(written))] == written
    assert [value for _, value in values(json.dumps(written, indent=1, ensure_ascii=False))] == written


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("[", 1),
        ("[1", 2),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("[1}", 2),
        ("[1] [2]", 3),
        ("[,1]", 1),
        ('{"a": 1} x', 9),
        ('{"a": 1, "a": 2}', 0),
        ('[{"a": {"b": 1, "b": 1}}]', 1),
        ("[NaN]", 1),
        ("[-Infinity]", 1),
        ("[1e999]", 1),
        ("[" + "1" * 5000 + "]", 1),
        (r'["\ud800"]', 1),
        (r'[{"\udfff": 1}]', 1),
        ('["\x01"]', 2),
        ("[\N{NO-BREAK SPACE}1]", 1),
        ("[" * 100_000, 1),
    ],
)
def test_anything_else_is_malformed_and_says_where(text: str, at: int) -> None:
    with pytest.raises(Malformed) as caught:
        list(values(text))
    assert caught.value.at == at


def test_no_reason_is_about_python() -> None:
    with pytest.raises(Malformed, match="has a number that is too long"):
        list(values("9" * 5000))


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert list(values(r'["\ud83d\ude00"]')) == [(1, "\N{GRINNING FACE}")]


@given(st.text(alphabet='[]{},:"\\u0dN1e- \n\t', max_size=30))
def test_any_text_is_read_or_malformed(text: str) -> None:
    with suppress(Malformed):
        list(values(text))


def test_one_object() -> None:
    assert json_object(' {"room": {"floor": -1}} ') == {"room": {"floor": -1}}


@pytest.mark.parametrize("text", ["", "[]", "1", "{} {}", "{", '{"a": 1, "a": 1}', '{"a": NaN}'])
def test_what_is_not_one_object_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|gives)"):
        json_object(text)


def test_no_reason_quotes_the_text() -> None:
    with pytest.raises(Malformed) as caught:
        json_object('{"key": "top secret" oops}')
    assert "secret" not in str(caught.value)
