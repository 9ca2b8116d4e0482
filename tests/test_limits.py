"""Counting: never more than the limit, nothing kept of who has gone, and rates that refill with time alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import limits
from gateway.limits import Count, Rate


def test_at_most_so_many_of_each_key() -> None:
    count = Count(2)
    assert [count.take("alice") for _ in range(4)] == [True, True, False, False]
    assert count.take("bob")
    assert count.total() == 3


def test_what_was_refused_was_not_taken() -> None:
    count = Count(1)
    count.take("alice")
    assert not count.take("alice")
    count.free("alice")
    assert count.take("alice")


@pytest.mark.parametrize("limit", [0, -1])
def test_no_room_at_all(limit: int) -> None:
    count = Count(limit)
    assert not count.take("alice")
    assert count.total() == 0


def test_keys_are_exact() -> None:
    count = Count(1)
    assert all(count.take(key) for key in ("alice", "Alice", "alice ", ""))


def test_nothing_is_kept_of_who_has_gone_or_was_refused() -> None:
    count = Count(1)
    count.take("alice")
    count.free("alice")
    count.take("bob")
    count.free("bob")
    none = Count(0)
    none.take("carol")
    assert len(count._held) == len(none._held) == 0


@given(st.integers(1, 3), st.lists(st.tuples(st.booleans(), st.sampled_from("abc"))))
def test_against_a_plain_list(limit: int, steps: list[tuple[bool, str]]) -> None:
    count, held = Count(limit), Counter[str]()
    for take, key in steps:
        if take:
            room = held[key] < limit
            assert count.take(key) is room
            held[key] += room
        elif held[key]:
            count.free(key)
            held[key] -= 1
        assert count.total() == held.total()


def test_rate_allows_a_burst_and_then_its_pace() -> None:
    rate = Rate(3)
    assert [rate.allow("a", 100) for _ in range(5)] == [True, True, True, False, False]
    assert rate.allow("b", 100)
    assert not rate.allow("a", 100.3)
    assert rate.allow("a", 100.4)
    assert not rate.allow("a", 100.4)


def test_rest_earns_no_more_than_one_burst() -> None:
    rate = Rate(2)
    assert [rate.allow("a", now) for now in (0, 0, 0)] == [True, True, False]
    assert [rate.allow("a", 1e9) for _ in range(3)] == [True, True, False]


def test_trying_does_not_delay_the_next_token() -> None:
    rate = Rate(1)
    assert rate.allow("a", 0)
    assert not any(rate.allow("a", now / 10) for now in range(1, 10))
    assert rate.allow("a", 1.05)


def test_slow_rates_still_allow_one() -> None:
    rate = Rate(0.1)
    assert rate.allow("a", 0)
    assert not rate.allow("a", 9)
    assert rate.allow("a", 10.1)


def test_rate_zero_stays_shut_after_the_first() -> None:
    rate = Rate(0)
    assert rate.allow("a", 0)
    assert not rate.allow("a", 1e9)


def test_memory_is_bounded_and_the_stalest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_BUCKETS", 3)
    rate = Rate(1)
    for key in "abc":
        assert rate.allow(key, 0)
    assert not rate.allow("c", 0)  # pushes nobody out: it was there
    assert not rate.allow("a", 0)  # now the freshest
    assert rate.allow("d", 0)  # pushes b out
    assert rate.allow("e", 0)  # and c
    assert not rate.allow("a", 0)
    assert rate.allow("b", 0)
    assert len(rate._buckets) == 3


@given(st.integers(1, 5), st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_never_more_than_burst_and_pace(per_second: int, gaps: list[float]) -> None:
    rate, now, allowed = Rate(per_second), 0.0, 0
    for gap in gaps:
        now += gap
        allowed += rate.allow("a", now)
        assert allowed <= per_second + now * per_second + 1e-6
