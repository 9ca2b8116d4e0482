"""A member that is given twice, wherever it is in a document."""

from __future__ import annotations

import json

import pytest

from gateway.members import each_once


def test_each_once() -> None:
    assert json.loads('{"a": {"a": 1}, "b": [{}]}', object_pairs_hook=each_once) == {"a": {"a": 1}, "b": [{}]}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "\\u0061": 2}}]'])
def test_twice(text: str) -> None:
    with pytest.raises(ValueError, match=r"^gives a member twice$"):
        json.loads(text, object_pairs_hook=each_once)
