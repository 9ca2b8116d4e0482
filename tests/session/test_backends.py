"""Which address comes next: turns, and how long one that failed is the last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.session.backends import DOWN_SECONDS, Backends
from gateway.session.vocabulary import Dial
from gateway.upstream import Upstream
from tests.http_sessions import FIRST, SECOND, THIRD, Clock, upstream


def dials(one: Upstream) -> tuple[Dial, ...]:
    return tuple(Dial(one, address, name=(one.name, str(address))) for address in one.addresses)


THREE = dials(upstream(FIRST, SECOND, THIRD))
A, B, C = THREE


def test_each_in_turn() -> None:
    backends = Backends(Clock())
    assert [list(backends.order(THREE)) for _ in range(4)] == [[A, B, C], [B, C, A], [C, A, B], [A, B, C]]


def test_upstreams_have_turns_of_their_own() -> None:
    backends = Backends(Clock())
    others = dials(upstream(FIRST, SECOND, name="other"))
    backends.order(THREE)
    assert list(backends.order(others)) == list(others)
    assert list(backends.order(THREE)) == [B, C, A]


def test_a_reload_may_leave_fewer() -> None:
    backends = Backends(Clock())
    for _ in range(2):
        backends.order(THREE)
    assert sorted(map(str, backends.order((A, B)))) == sorted(map(str, (A, B)))
    assert list(backends.order((A,))) == [A]


def test_one_that_failed_is_the_last_for_a_while() -> None:
    clock = Clock()
    backends = Backends(clock)
    backends.failed(A)
    assert list(backends.order(THREE)) == [B, C, A]
    clock.now += DOWN_SECONDS - 0.001
    assert [backends.order(THREE)[-1] for _ in range(3)] == [A, A, A]
    clock.now += 0.001
    assert A in [backends.order(THREE)[0] for _ in range(3)]


def test_one_that_failed_again_waits_anew() -> None:
    clock = Clock()
    backends = Backends(clock)
    backends.failed(A)
    clock.now += DOWN_SECONDS - 1
    backends.failed(A)
    clock.now += DOWN_SECONDS - 1
    assert [backends.order(THREE)[-1] for _ in range(3)] == [A, A, A]


def test_one_that_works_again_has_its_turn() -> None:
    backends = Backends(Clock())
    backends.failed(A)
    backends.failed(B)
    backends.worked(A)
    assert [backends.order(THREE)[-1] for _ in range(3)] == [B, B, B]
    assert A in [backends.order(THREE)[0] for _ in range(3)]


def test_the_same_address_of_another_upstream_is_another_one() -> None:
    """What TLS proved there, or did not, is the upstream's own."""
    backends = Backends(Clock())
    others = dials(upstream(FIRST, SECOND, name="other"))
    backends.failed(A)
    assert list(backends.order(others)) == list(others)


def test_where_nobody_takes_turns_the_first_is_the_first() -> None:
    clock = Clock()
    backends = Backends(clock)
    assert [list(backends.preferred(THREE)) for _ in range(3)] == [[A, B, C]] * 3
    assert list(backends.preferred((A,))) == [A]
    backends.failed(B)
    backends.failed(A)
    assert list(backends.preferred(THREE)) == [C, A, B]
    backends.worked(A)
    assert list(backends.preferred(THREE)) == [A, C, B]
    clock.now += DOWN_SECONDS - 0.001
    assert list(backends.preferred(THREE)) == [A, C, B]
    clock.now += 0.001
    assert list(backends.preferred(THREE)) == [A, B, C]
    for one in THREE:
        backends.failed(one)
    assert list(backends.preferred(THREE)) == [A, B, C]


@given(st.lists(st.tuples(st.sampled_from(("order", "failed", "worked", "wait")), st.sampled_from(THREE)), max_size=30))
def test_all_are_always_tried_each_once(steps: list[tuple[str, Dial]]) -> None:
    """Those that have failed lately after all that have not."""
    clock = Clock()
    backends = Backends(clock)
    down: dict[str, float] = {}
    for what, dial in steps:
        match what:
            case "failed":
                backends.failed(dial)
                down[str(dial)] = clock.now + DOWN_SECONDS
            case "worked":
                backends.worked(dial)
                down.pop(str(dial), None)
            case "wait":
                clock.now += DOWN_SECONDS / 3
        order = backends.order(THREE)
        assert len(order) == 3
        assert set(map(str, order)) == set(map(str, THREE))
        late = [down.get(str(one), 0.0) > clock.now for one in order]
        assert late == sorted(late)
