"""The language of the control socket: whatever is written is read back, and nothing else is read at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import control
from gateway.control import Kill, Refused, Session, Sessions, read_answer, read_request, write_answer, write_request

texts = st.text(max_size=40)
numbers = st.integers(0, 2**63 - 1)

requests = st.one_of(
    *(st.just(kind()) for kind in (control.ListSessions, control.AskCounters, control.Reload, control.Drain)),
    st.builds(lambda ids: Kill(tuple(ids)), st.lists(numbers, min_size=1, max_size=5)),
    st.builds(lambda text: Kill(identity=text), texts),
    st.builds(lambda text: Kill(jti=text), texts),
    st.builds(lambda text: Kill(serial=text), texts),
    st.builds(control.Enter, texts, texts),
)
optional = st.none() | texts
sessions = st.builds(
    Session,
    *(numbers, texts, texts, st.floats(allow_nan=False, allow_infinity=False), numbers, texts),
    *([optional] * 11),
)
answers = st.one_of(
    st.builds(control.Done, st.lists(texts, max_size=3).map(tuple)),
    st.builds(Refused, texts, st.lists(texts, max_size=3).map(tuple)),
    st.builds(Sessions, st.lists(sessions, max_size=3).map(tuple), st.booleans()),
    st.builds(control.Killed, numbers),
    st.builds(control.Counters, st.dictionaries(texts, numbers, max_size=3)),
    st.builds(control.Left, numbers),
)


@given(requests)
def test_a_request_is_read_as_it_was_written(request_: control.Request):
    line = write_request(request_)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert read_request(line[:-1]) == request_


@given(answers)
def test_an_answer_is_read_as_it_was_written(answer: control.Answer):
    line = write_answer(answer)
    assert b"\n" not in line[:-1]
    assert read_answer(line[:-1]) == answer


@given(st.binary(max_size=200))
def test_of_bytes_that_are_nobodys_only_a_value_error_comes(line: bytes):
    for read in (read_request, read_answer):
        with pytest.raises(ValueError, match=r"\w"):
            read(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["sessions", "kill", "counters", "reload", "drain", "enter"]),
    st.dictionaries(st.sampled_from(["ids", "identity", "jti", "serial", "listener", "address", "x"]), json_values),
)
def test_what_is_read_is_what_would_be_written(word: str, members: dict[str, object]):
    line = json.dumps({"do": word, **members}).encode()
    try:
        found = read_request(line)
    except ValueError:
        return
    assert json.loads(write_request(found)) == {"do": word, **members}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"sessions"',
        b'{"do":"Sessions"}',
        b'{"do":["sessions"]}',
        b'{"do":null}',
        b'{"do":"sessions","do":"sessions"}',
        b'{"do":"sessions","x":1}',
        b'{"do":"sessions"}{"do":"sessions"}',
        b'{"do":"kill"}',
        b'{"do":"kill","ids":[]}',
        b'{"do":"kill","ids":[true]}',
        b'{"do":"kill","ids":[1.0]}',
        b'{"do":"kill","ids":[-1]}',
        b'{"do":"kill","ids":[9223372036854775808]}',
        b'{"do":"kill","ids":[NaN]}',
        b'{"do":"kill","ids":1}',
        b'{"do":"kill","identity":null}',
        b'{"do":"kill","identity":1}',
        b'{"do":"kill","identity":"a","jti":"b"}',
        b'{"do":"kill","ids":[1],"identity":"b"}',
        b'{"do":"enter","listener":"postgres:main"}',
        b'{"do":"enter","listener":"postgres:main","address":1}',
        b'{"do":"enter","listener":"\xff","address":"192.0.2.1"}',
        b"\xef\xbb\xbf" + b'{"do":"sessions"}',
        b'{"do":"kill","ids":[' + b"9" * 5000 + b"]}",
        b'{"do":"kill","identity":"' + b"a" * (control.MAX_TEXT + 1) + b'"}',
        b'{"do":"kill","ids":' + b"[" * 30_000,
        b'{"do":"sessions"' + b" " * control.MAX_REQUEST + b"}",
    ],
)
def test_a_request_that_is_refused(line: bytes):
    with pytest.raises(ValueError, match=r"\w") as told:
        read_request(line)
    assert "aaa" not in str(told.value)
    assert "999" not in str(told.value)


def test_white_space_means_nothing():
    assert read_request(b' { "do" : "sessions" }\r') == control.ListSessions()  # RFC 8259, 2


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"ok":1}',
        b'{"ok":false}',
        b'{"ok":false,"error":1}',
        b'{"ok":false,"error":"x","reasons":"y"}',
        b'{"ok":false,"error":"x","killed":1}',
        b'{"ok":true,"error":"x"}',
        b'{"ok":true,"killed":-1}',
        b'{"ok":true,"killed":1,"left":1}',
        b'{"ok":true,"counters":{"a":"1"}}',
        b'{"ok":true,"sessions":[{}]}',
        b'{"ok":true,"sessions":[1]}',
        b'{"ok":true,"sessions":[],"more":1}',
    ],
)
def test_an_answer_that_is_refused(line: bytes):
    with pytest.raises(ValueError, match=r"\w"):
        read_answer(line)


def test_a_session_is_whole_or_refused():
    one = Session(1, "postgres:main", "192.0.2.1:5", 1.5, 2, "open", subject="alice")
    whole = json.loads(write_answer(Sessions((one,))))["sessions"][0]
    assert whole["subject"] == "alice"
    assert "jti" not in whole
    nan = {**whole, "opened_at": float("nan")}
    for broken in (
        nan,
        {**whole, "opened_at": 1},
        {**whole, "id": "1"},
        {**whole, "key": "x"},
        {**whole, "subject": None},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            read_answer(json.dumps({"ok": True, "sessions": [broken]}).encode())
    for name in ("id", "listener", "client", "opened_at", "moved", "state"):
        without = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(ValueError, match="missing"):
            read_answer(json.dumps({"ok": True, "sessions": [without]}).encode())


def test_a_kill_names_sessions_in_exactly_one_way():
    assert Kill(identity="").identity == ""
    for wrong in ({}, {"identity": "a", "jti": "b"}, {"ids": (1,), "serial": "a"}):
        with pytest.raises(ValueError, match="exactly one"):
            Kill(**wrong)


def test_a_request_that_is_too_long_is_not_written():
    with pytest.raises(ValueError, match="longer than 65536 bytes"):
        write_request(Kill(ids=tuple(range(10**9, 10**9 + 10_000))))


def test_what_a_reload_says_is_cut_to_what_is_read():
    """Each of these characters is 12 bytes of JSON."""
    long = "\U0001f512" * 5000
    kept = (long[:800],) * 99
    for reasons, told in (((long,) * 100, (*kept, long[:800])), ((long,) * 101, (*kept, "and 2 more"))):
        for answer, read in (
            (Refused(long, reasons), Refused(long[:800], told)),
            (control.Done(reasons), control.Done(told)),
        ):
            line = write_answer(answer)
            assert len(line) < control.MAX_ANSWER
            assert read_answer(line[:-1]) == read


def test_the_longest_line_of_sessions_can_be_read():
    shown = "\U0001f600" * 515
    one = Session(2**63 - 1, "mqtt:m", "::1", 1e9, 2**63 - 1, "over limit", *([shown] * 11))
    line = write_answer(Sessions((one,) * control.SESSIONS_IN_A_LINE, more=True))
    assert read_answer(line[:-1]) == Sessions((one,) * control.SESSIONS_IN_A_LINE, more=True)
