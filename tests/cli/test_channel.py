"""Channels: what each command does to the registry, and what it says."""

from __future__ import annotations

from tests.cli.console import Console

ID = "8b0ad5c4-42ea-4a38-9b4c-9b34bd9d0a51"


def test_a_new_channel(console: Console) -> None:
    assert console.ok("channel", "create", "heating", "--id", ID) == f"id    {ID}\nname  heating\n"
    made = console.json("channel", "create", "cooling")
    assert made["name"] == "cooling"
    assert made["id"] != ID


def test_an_id_is_taken_once(console: Console) -> None:
    console.ok("channel", "create", "heating", "--id", ID)
    assert ID in console.refused("channel", "create", "cooling", "--id", ID)
    assert "UUID" in console.refused("channel", "create", "cooling", "--id", "17")


def test_a_second_one_of_a_name_has_to_be_meant(console: Console) -> None:
    """No command by that name would know any more which of them is meant."""
    console.ok("channel", "create", "heating", "--id", ID)
    told = f"Error: there is a channel named heating already (id {ID}); --force makes another one of that name\n"
    assert console.refused("channel", "create", "heating") == told
    assert console.refused("channel", "create", "heating", "--json") == told
    assert len(console.json("channel", "list")) == 1
    assert console.json("channel", "create", "heating", "--force")["id"] != ID
    console.ok("thing", "create", "heating")


def test_channels_are_listed(console: Console) -> None:
    assert console.json("channel", "list") == []
    for name in ("heating", "cooling"):
        console.ok("channel", "create", name)
    console.ok("thing", "create", "boiler")
    console.ok("connect", "boiler", "heating")
    heading, *rows = console.ok("channel", "list").splitlines()
    assert heading.split() == ["ID", "NAME", "CREATED", "(UTC)"]
    assert [row.split()[1] for row in rows] == ["heating", "cooling"]
    assert [one["name"] for one in console.json("channel", "list", "--thing", "boiler")] == ["heating"]
    assert "'pump'" in console.refused("channel", "list", "--thing", "pump")


def test_a_channel_is_shown_with_its_things(console: Console) -> None:
    console.ok("channel", "create", "heating", "--id", ID)
    thing = console.json("thing", "create", "boiler")["id"]
    console.ok("connect", "boiler", "heating", "--no-publish")
    shown = console.json("channel", "show", "heating")
    assert shown["things"] == [{"id": thing, "name": "boiler", "publish": False, "subscribe": True}]
    assert console.ok("channel", "show", ID).splitlines()[-1].split() == [thing, "boiler", "no", "yes"]
    assert console.refused("channel", "show", "cooling") == "Error: there is no channel 'cooling'\n"


def test_a_channel_is_deleted_with_its_connections(console: Console) -> None:
    console.ok("channel", "create", "heating", "--id", ID)
    console.ok("thing", "create", "boiler")
    console.ok("connect", "boiler", "heating")
    assert "say --yes" in console.refused("channel", "delete", "heating", status=2)
    assert console.ok("channel", "delete", "heating", "--yes") == f"The channel heating ({ID}) is deleted.\n"
    assert console.json("channel", "list") == []
    assert console.json("thing", "show", "boiler")["channels"] == []
    console.ok("channel", "create", "cooling")
    assert console.json("channel", "delete", "cooling", "--yes")["name"] == "cooling"
