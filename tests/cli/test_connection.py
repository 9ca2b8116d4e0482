"""Connecting and disconnecting: which rights come of which words."""

from __future__ import annotations

import pytest

from tests.cli.console import Console


@pytest.fixture
def pair(console: Console) -> tuple[str, str]:
    """The ids of a thing and a channel."""
    return console.json("thing", "create", "boiler")["id"], console.json("channel", "create", "heating")["id"]


@pytest.mark.parametrize(
    ("options", "publish", "subscribe", "said"),
    [
        ((), True, True, "publish and subscribe"),
        (("--no-subscribe",), True, False, "publish"),
        (("--no-publish",), False, True, "subscribe"),
    ],
)
def test_a_connection_has_the_rights_that_are_not_taken_from_it(
    console: Console, pair: tuple[str, str], options: tuple[str, ...], publish: bool, subscribe: bool, said: str
) -> None:
    thing, channel = pair
    made = console.json("connect", "boiler", channel, *options)
    assert made == {"thing": thing, "channel": channel, "publish": publish, "subscribe": subscribe}
    assert console.ok("connect", thing, "heating", *options) == f"{thing} may {said} in heating.\n"
    with console.ledger() as ledger:
        (found,) = ledger.connections()
    assert (found.publish, found.subscribe) == (publish, subscribe)


def test_a_second_connection_takes_the_place_of_the_first(console: Console, pair: tuple[str, str]) -> None:
    console.ok("connect", *pair)
    console.ok("connect", *pair, "--no-publish")
    (only,) = console.json("thing", "show", "boiler")["channels"]
    assert (only["publish"], only["subscribe"]) == (False, True)


def test_a_connection_without_rights_is_wrong_usage(console: Console, pair: tuple[str, str]) -> None:
    assert "securegw disconnect" in console.refused("connect", *pair, "--no-publish", "--no-subscribe", status=2)
    assert console.json("thing", "show", "boiler")["channels"] == []


def test_a_thing_is_disconnected(console: Console, pair: tuple[str, str]) -> None:
    console.ok("connect", *pair)
    assert console.ok("disconnect", "boiler", "heating") == "boiler has no part in heating any more.\n"
    assert console.json("thing", "show", "boiler")["channels"] == []
    console.ok("connect", *pair)
    assert console.json("disconnect", *pair)["thing"] == pair[0]
    assert "is not connected" in console.refused("disconnect", *pair)


@pytest.mark.parametrize("command", ["connect", "disconnect"])
def test_both_have_to_be_there(console: Console, pair: tuple[str, str], command: str) -> None:
    assert console.refused(command, "pump", "heating") == "Error: there is no thing 'pump'\n"
    assert console.refused(command, "boiler", "cooling") == "Error: there is no channel 'cooling'\n"
