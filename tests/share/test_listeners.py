"""Which listeners lead to a server: by where their upstreams are, and not by what they are called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.share.listeners import leading_to
from gateway.upstream import Address, ClientTLS, Upstream
from tests.share.test_reach import reach

MAIN = Upstream("main", (Address("127.0.0.1", 5432), Address("127.0.0.1", 5433)), ClientTLS())


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        ([Address("127.0.0.1", 5433)], True),
        ([Address("192.0.2.1", 5432), Address("127.0.0.1", 5432)], True),
        ([Address("localhost", 5432)], True),
        ([Address("127.0.0.1", 5434)], False),
        ([Address("none.invalid", 5432)], False),
        ([Address("/run/.s.PGSQL.5432", 0)], False),
    ],
)
def test_one_address_in_common_is_enough(addresses: list[Address], found: bool) -> None:
    listener = reach().listener
    second = replace(listener, name="second", upstream="second")
    upstreams = {"main": MAIN, "second": Upstream("second", tuple(addresses), ClientTLS())}
    assert leading_to(MAIN, [listener, second], upstreams) == [listener, second][: 1 + found]
