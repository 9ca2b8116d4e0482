"""Cancel keys: random, exact, one session each, and gone with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.session import cancel
from gateway.session.cancel import CancelKeys, CancelTarget
from gateway.upstream import Login
from tests.fakes import FIRST, NOW, SECOND, UPSTREAM_KEY, upstream


def target(pid: int = 7, key: bytes = UPSTREAM_KEY) -> CancelTarget:
    return CancelTarget(upstream(), FIRST, Login(), pid, key, "alice")


@pytest.mark.parametrize("size", [4, 32, 256])
def test_key_has_the_size_asked_for_and_finds_its_target(size: int) -> None:
    keys, wanted = CancelKeys(5), target()
    key = keys.issue(wanted, size)
    assert len(key) == size
    assert keys.find(7, key) is wanted
    assert len(keys) == 1


def test_keys_are_fresh_and_never_the_upstreams() -> None:
    keys = CancelKeys(5)
    issued = {keys.issue(target(), 4) for _ in range(200)}
    assert len(issued) == 200
    assert UPSTREAM_KEY not in issued


def test_only_the_exact_key_of_the_exact_pid() -> None:
    keys = CancelKeys(5)
    key = keys.issue(target(), 32)
    wrong = [b"", key[:-1], key + b"\0", bytes([key[0] ^ 1]) + key[1:], key[:-1] + bytes([key[-1] ^ 1]), UPSTREAM_KEY]
    assert [keys.find(7, attempt) for attempt in wrong] == [None] * len(wrong)
    assert keys.find(8, key) is None
    assert keys.find(-7, key) is None


def test_every_key_of_the_pid_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where a wrong key differs nor which of several it is shows in the time taken."""
    compared: list[bytes] = []

    def compare(known: bytes, key: bytes) -> bool:
        compared.append(known)
        return known == key

    keys = CancelKeys(5)
    issued = [keys.issue(target(), 4) for _ in range(3)]
    monkeypatch.setattr(cancel, "compare_digest", compare)
    assert keys.find(7, issued[0]) is not None
    assert keys.find(7, b"\0\0\0\0\0") is None
    assert compared == issued * 2


def test_two_backends_with_the_same_pid() -> None:
    """Two hosts of one upstream number their processes alike."""
    keys = CancelKeys(5)
    one, other = target(), CancelTarget(upstream(), SECOND, Login(), 7, b"\x09\x09\x09\x09")
    first, second = keys.issue(one, 4), keys.issue(other, 4)
    assert keys.find(7, first) is one
    assert keys.find(7, second) is other
    keys.revoke(7, first)
    assert keys.find(7, first) is None
    assert keys.find(7, second) is other


def test_a_key_that_is_taken_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"aaaa", b"aaaa", b"aaaa", b"bbbb"])
    monkeypatch.setattr("secrets.token_bytes", lambda size: next(drawn))
    keys = CancelKeys(5)
    assert [keys.issue(target(), 4), keys.issue(target(), 4)] == [b"aaaa", b"bbbb"]


def test_revoked_keys_open_nothing_and_nothing_is_kept() -> None:
    keys = CancelKeys(5)
    key = keys.issue(target(), 4)
    keys.revoke(7, b"\0\0\0\0\0")
    keys.revoke(8, key)
    assert len(keys) == 1
    keys.revoke(7, key)
    keys.revoke(7, key)
    assert keys.find(7, key) is None
    assert len(keys) == 0
    assert keys._targets == {}


def test_rate_is_per_address() -> None:
    keys = CancelKeys(2)
    assert [keys.allow("10.0.0.1", NOW) for _ in range(3)] == [True, True, False]
    assert keys.allow("10.0.0.2", NOW)


def test_keys_are_not_shown() -> None:
    secret = b"very secret key"
    assert "secret" not in repr(target(key=secret))
    keys = CancelKeys(5)
    assert repr(keys.issue(target(), 4)) not in repr(keys)


@given(st.binary(max_size=300), st.integers())
def test_guesses_find_nothing(key: bytes, pid: int) -> None:
    keys = CancelKeys(5)
    issued = keys.issue(target(), 32)
    assert keys.find(pid, key) is None or key == issued
