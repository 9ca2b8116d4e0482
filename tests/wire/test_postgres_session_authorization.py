"""Whether a start-up packet may set session_authorization: every spelling that the server would understand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import postgres as wire


@pytest.mark.parametrize(
    "options",
    [
        b"-c session_authorization=x",
        b"-csession_authorization=x",
        b"--session_authorization=x",
        b"--session-authorization=x",
        b"-c session-authorization=x",
        b"-c Session-Authorization=x",
        b"--SESSION_AUTHORIZATION=x",
        rb"-c\ session_authorization=x",
        rb"-c session\_authorization=x",
        rb"-c s\ession_authorization=x",
        rb"-c session_authorization\=x",
        rb"-c session_authorization\ =x",
        b"-Ecsession_authorization=x",
        b"-E -c session_authorization=x",
        b"  -c\tsession_authorization=x",
        b"-c\nsession_authorization=x",
        b"-c\x0bsession_authorization=x",
        b"-c search_path=app -c session_authorization=x",
        b"-c session_authorization",
        b"-c work_mem=1MB --session-authorization=none",
        b"-c application_name=a.b -c session_authorization=x",
        b"-c role=x -c session_authorization=x",
    ],
)
def test_session_authorization_in_options(options: bytes) -> None:
    assert wire.sets_session_authorization({b"user": b"alice", b"options": options})


@pytest.mark.parametrize("name", [b"session_authorization", b"SESSION_AUTHORIZATION", b"Session_Authorization"])
def test_session_authorization_as_a_parameter(name: bytes) -> None:
    assert wire.sets_session_authorization({b"user": b"alice", name: b"x"})


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {b"user": b"session_authorization", b"database": b"session_authorization"},
        {b"application_name": b"session_authorization=x -c session_authorization=x"},
        {b"options": b""},
        {b"options": b"-c search_path=session_authorization"},
        {b"options": rb"-c search_path=a,\ session_authorization=x"},
        {b"options": b"-c app.session_authorization=x"},
        {b"options": b"--app.session_authorization=x"},
        {b"options": b"-c statement_timeout=5s -c geqo=off"},
        {b"options": b"-c role=x"},
        {b"options": b"--role=x"},
        {b"options": b"\\"},
        {b"role": b"x"},
        {b"app.session_authorization": b"x"},
    ],
)
def test_no_session_authorization(parameters: dict[bytes, bytes]) -> None:
    """A role set at start-up is none: who logged in is asked for whatever the role is."""
    assert not wire.sets_session_authorization(parameters)


@given(st.binary(max_size=30).filter(lambda text: b"\0" not in text))
def test_session_authorization_after_any_other_switches(before: bytes) -> None:
    """Once the switch stands alone, nothing before it may hide it; a backslash at the end would join it."""
    options = before.rstrip(b"\\") + b" --session-authorization=x"
    assert wire.sets_session_authorization({b"options": options})
