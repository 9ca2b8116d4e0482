"""One thing at a time: what each command does to the registry, and what it says."""

from __future__ import annotations

import os
import pty
import subprocess
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from tests.cli.console import Console, into_nowhere, on_a_terminal

ID = "8b0ad5c4-42ea-4a38-9b4c-9b34bd9d0a51"
KEY = "a-key-of-its-own-0123456789"


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def shown_key(page: str) -> str:
    (line,) = (line for line in page.splitlines() if line.startswith("key "))
    return line.split()[1]


def test_a_new_thing_has_a_key_that_is_printed_and_kept_as_a_hash(console: Console) -> None:
    result = console.run("thing", "create", "boiler")
    key = shown_key(result.stdout)
    assert "never shown again" in result.stderr
    assert key not in result.stderr
    with console.ledger() as ledger:
        assert ledger.thing("boiler").key_sha256 == hashed(key)
    assert key not in console.ok("thing", "show", "boiler") + console.ok("thing", "list") + console.ok(
        "thing", "export"
    )


def test_a_new_thing_as_json(console: Console) -> None:
    made = console.json("thing", "create", "boiler", "--id", ID.upper(), "--metadata", '{"room": "cellar"}')
    assert UUID(made["id"]) == UUID(ID)
    assert (made["name"], made["enabled"], made["metadata"]) == ("boiler", True, {"room": "cellar"})
    assert made["key_sha256"] == hashed(made["key"])


@pytest.mark.parametrize("source", ["file", "-"])
def test_a_key_of_its_own_comes_from_a_file_or_standard_input_and_is_not_printed(console: Console, source: str) -> None:
    Path("file").write_text(f"{KEY}\n")
    result = console.run("thing", "create", "boiler", "--key-file", source, stdin=f"{KEY}\n")
    assert result.exit_code == 0
    assert KEY not in result.output
    assert "never" not in result.stderr
    with console.ledger() as ledger:
        assert ledger.thing("boiler").key_sha256 == hashed(KEY)


@pytest.mark.parametrize("command", [("create", "boiler"), ("rotate-key", "boiler")])
def test_a_new_key_goes_to_a_file_that_only_its_owner_reads(console: Console, command: tuple[str, str]) -> None:
    if command[0] == "rotate-key":
        console.ok("thing", "create", "boiler")
    result = console.run("thing", *command, "--key-out", "boiler.secret")
    key = Path("boiler.secret").read_text().removesuffix("\n")
    assert (result.exit_code, Path("boiler.secret").stat().st_mode & 0o777) == (0, 0o600)
    assert key not in result.output
    assert "boiler.secret" in result.stderr
    with console.ledger() as ledger:
        assert ledger.thing("boiler").key_sha256 == hashed(key)


def test_a_key_file_that_is_there_is_not_replaced_and_nothing_is_made(console: Console) -> None:
    Path("boiler.secret").write_text("old")
    assert "--force" in console.refused("thing", "create", "boiler", "--key-out", "boiler.secret")
    assert Path("boiler.secret").read_text() == "old"
    assert console.json("thing", "list") == []
    console.ok("thing", "create", "boiler", "--key-out", "boiler.secret", "--force")
    assert Path("boiler.secret").read_text() != "old"


def test_a_key_that_the_registry_refuses_leaves_no_file(console: Console) -> None:
    console.refused("thing", "rotate-key", "nobody", "--key-out", "key")
    assert list(Path().iterdir()) == []


def test_a_key_that_one_has_goes_nowhere(console: Console) -> None:
    console.refused("thing", "create", "boiler", "--key-file", "-", "--key-out", "key", stdin=KEY, status=2)


def test_no_key_is_ever_an_argument(console: Console) -> None:
    for command in ("create", "rotate-key"):
        assert "No such option" in console.refused("thing", command, "boiler", "--key", KEY, status=2)


def test_a_key_that_is_refused_is_not_quoted(console: Console) -> None:
    told = console.refused("thing", "create", "boiler", "--key-file", "-", stdin="too short")
    assert told.startswith("Error: a key has")
    assert "too short" not in told


@pytest.mark.parametrize("metadata", ["[]", "{", '{"a": 1, "a": 2}', "{} x", '{"a": NaN}', ""])
def test_metadata_that_is_no_object_is_wrong_usage(console: Console, metadata: str) -> None:
    assert "--metadata" in console.refused("thing", "create", "boiler", "--metadata", metadata, status=2)
    assert console.json("thing", "list") == []


@pytest.mark.parametrize("name", ["", "\x1b[2J", "a\nb", "\udc80"])
def test_a_name_that_cannot_be_shown_is_refused_without_showing_it(console: Console, name: str) -> None:
    told = console.refused("thing", "create", name)
    assert told.startswith("Error: a name has")
    assert told.removesuffix("\n").isprintable()


def test_things_are_listed_in_columns_and_as_one_document(console: Console) -> None:
    assert console.json("thing", "list") == []
    console.ok("channel", "create", "heating")
    first, second = console.json("thing", "create", "boiler"), console.json("thing", "create", "pump")
    console.ok("connect", "pump", "heating")
    console.ok("thing", "disable", "pump")
    heading, *rows = console.ok("thing", "list").splitlines()
    assert heading.split() == ["ID", "NAME", "ENABLED", "CREATED", "(UTC)"]
    assert [row.split()[:3] for row in rows] == [[first["id"], "boiler", "yes"], [second["id"], "pump", "no"]]
    assert [one["name"] for one in console.json("thing", "list")] == ["boiler", "pump"]
    assert [one["name"] for one in console.json("thing", "list", "--channel", "heating")] == ["pump"]
    assert "'cooling'" in console.refused("thing", "list", "--channel", "cooling")


def test_a_thing_is_shown_with_its_channels_and_its_name_in_the_audit(console: Console) -> None:
    key = console.json("thing", "create", "boiler", "--metadata", '{"a": 1}')["key"]
    channel = console.json("channel", "create", "heating")["id"]
    console.ok("connect", "boiler", "heating", "--no-subscribe")
    shown = console.json("thing", "show", "boiler")
    assert shown["channels"] == [{"id": channel, "name": "heating", "publish": True, "subscribe": False}]
    page = console.ok("thing", "show", shown["id"])
    assert f"key:{hashed(key)[:16]}\n" in page
    assert '{"a": 1}' in page
    assert page.splitlines()[-1].split() == [channel, "heating", "yes", "no"]


def test_a_thing_is_disabled_and_enabled(console: Console) -> None:
    made = console.json("thing", "create", "boiler")
    assert console.ok("thing", "disable", "boiler") == f"The thing boiler ({made['id']}) is disabled.\n"
    assert console.json("thing", "show", "boiler")["enabled"] is False
    assert console.json("thing", "enable", "boiler")["enabled"] is True
    assert console.json("thing", "disable", "boiler")["enabled"] is False
    assert console.ok("thing", "enable", "boiler").endswith("is enabled.\n")


def test_a_key_is_rotated(console: Console) -> None:
    before = console.json("thing", "create", "boiler")
    after = console.json("thing", "rotate-key", "boiler")
    assert after["id"] == before["id"]
    assert after["key"] != before["key"]
    assert after["key_sha256"] == hashed(after["key"])
    result = console.run("thing", "rotate-key", "boiler", "--key-file", "-", stdin=KEY)
    assert KEY not in result.output
    assert console.json("thing", "show", "boiler")["key_sha256"] == hashed(KEY)


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("closed", [False, True])
def test_a_key_that_could_not_be_shown_is_no_success(console: Console, options: tuple[str, ...], closed: bool) -> None:
    """Neither on a full disk nor for somebody who has stopped reading: nobody has the key, and it counts."""
    for command, told in (
        ("create", "Error: the boiler was made, but its key could not be shown: "),
        ("rotate-key", "Error: the boiler has a new key, but it could not be shown: "),
    ):
        done = into_nowhere(console.command("thing", command, "the boiler", *options), closed)
        (made,) = console.json("thing", "list")
        again = f"securegw thing rotate-key {made['id']}\n"  # others may have its name
        assert (done.returncode, done.stderr.decode()) == (1, told + again)


def test_what_has_to_follow_a_new_key_is_told(console: Console) -> None:
    assert "pki" not in console.run("thing", "create", "boiler").stderr
    for options, file in ((), "FILE"), (("--key-out", "a key"), "'a key'"), (("--key-file", "-"), "FILE"):
        told = console.run("thing", "rotate-key", "boiler", *options, stdin=KEY).stderr
        assert f"(cn = key), it needs a new one: securegw pki thing boiler --key-file {file} --force\n" in told
    Path("own").write_text(KEY[::-1])
    assert "--key-file own --force\n" in console.run("thing", "rotate-key", "boiler", "--key-file", "own").stderr


def test_a_name_that_several_have_is_answered_with_their_ids(console: Console) -> None:
    ids = [console.json("thing", "create", "boiler", "--force")["id"] for _ in range(2)]
    told = console.refused("thing", "disable", "boiler")
    assert all(one in told for one in ids)
    console.ok("thing", "disable", ids[0])


def test_what_is_not_there_is_named(console: Console) -> None:
    for command in ("show", "disable", "enable", "rotate-key"):
        assert console.refused("thing", command, "boiler") == "Error: there is no thing 'boiler'\n"
    assert console.refused("thing", "delete", "boiler", "--yes") == "Error: there is no thing 'boiler'\n"


def test_a_name_of_escapes_does_not_reach_the_terminal(console: Console) -> None:
    told = console.refused("thing", "show", "\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}")
    assert told.removesuffix("\n").isprintable()


# --- deleting -------------------------------------------------------------------------------------------------------


def test_a_thing_is_deleted_without_a_question_only_with_yes(console: Console) -> None:
    made = console.json("thing", "create", "boiler")
    assert "say --yes" in console.refused("thing", "delete", "boiler", status=2, stdin="y\n")
    assert console.ok("thing", "delete", "boiler", "--yes") == f"The thing boiler ({made['id']}) is deleted.\n"
    assert console.json("thing", "list") == []
    console.ok("thing", "create", "pump")
    assert console.json("thing", "delete", "pump", "--yes")["name"] == "pump"


@pytest.mark.parametrize(("answer", "status", "left"), [(b"y\n", 0, 1), (b"n\n", 1, 2), (b"\n", 1, 2), (b"\x04", 1, 2)])
def test_on_a_terminal_it_asks(console: Console, answer: bytes, status: int, left: int) -> None:
    console.ok("thing", "create", "boiler")
    console.ok("channel", "create", "heating")
    console.ok("thing", "create", "pump")
    for name in ("boiler", "pump"):
        console.ok("connect", name, "heating")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        command = console.command("thing", "delete", "boiler", "--json")
        done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == status, done.stderr
    assert b"Delete the thing boiler" in done.stderr
    assert b"connections: 1" in done.stderr
    assert bool(done.stdout) == (status == 0)
    assert len(console.json("thing", "list")) == left


def test_a_second_one_of_a_name_has_to_be_meant(console: Console) -> None:
    """No command by that name would know any more which of them is meant."""
    first = console.json("thing", "create", "boiler")["id"]
    told = f"Error: there is a thing named boiler already (id {first}); --force makes another one of that name\n"
    for options in (), ("--json",), ("--key-file", "-"), ("--key-out", "boiler.secret"):
        assert console.refused("thing", "create", "boiler", *options, stdin=KEY) == told
    assert (len(console.json("thing", "list")), list(Path().iterdir())) == (1, [])
    console.ok("thing", "create", "boiler", "--force", "--key-out", "boiler.secret")
    assert len(console.json("thing", "list")) == 2
    assert "there is a thing named boiler already" in console.refused("thing", "create", "boiler")
    console.ok("channel", "create", "boiler")


def test_forcing_a_name_never_takes_the_key_of_who_has_it(console: Console) -> None:
    """--force has two meanings, and whoever has just read of one of them does not mean the other."""
    console.ok("thing", "create", "boiler", "--key-out", "boiler.secret")
    key = Path("boiler.secret").read_text()
    told = console.refused("thing", "create", "boiler", "--key-out", "boiler.secret", "--force")
    assert "there is a thing named boiler already" in told
    assert "--force would replace boiler.secret, which may hold a key of what is there: name another file" in told
    assert Path("boiler.secret").read_text() == key
    assert len(console.json("thing", "list")) == 1


def test_the_stream_replaces_no_file_of_its_name(console: Console) -> None:
    Path("-").write_text("a file")
    console.ok("thing", "create", "boiler")
    console.ok("thing", "create", "boiler", "--force", "--key-out", "-")
    assert (len(console.json("thing", "list")), Path("-").read_text()) == (2, "a file")


@pytest.mark.parametrize("command", ["create", "rotate-key"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_key_is_not_shown_on_a_terminal(console: Console, command: str, options: tuple[str, ...]) -> None:
    made = console.json("thing", "create", "boiler") if command == "rotate-key" else None
    done = on_a_terminal(console.command("thing", command, "boiler", *options))
    assert (done.status, "--key-out FILE" in done.errors, done.shown) == (2, True, "")
    assert [one["key_sha256"] for one in console.json("thing", "list")] == ([made["key_sha256"]] if made else [])


def test_a_key_is_shown_on_a_terminal_if_that_is_said(console: Console) -> None:
    done = on_a_terminal(console.command("thing", "create", "boiler", "--key-out", "-"))
    assert (done.status, list(Path().iterdir())) == (0, [])
    assert console.json("thing", "show", "boiler")["key_sha256"] == hashed(shown_key(done.shown))
    Path("own").write_text(KEY)
    done = on_a_terminal(console.command("thing", "rotate-key", "boiler", "--key-file", "own"))
    assert (done.status, KEY in done.shown + done.errors) == (0, False)
    told = console.run("thing", "rotate-key", "boiler", "--key-out", "-")
    assert console.json("thing", "show", "boiler")["key_sha256"] == hashed(shown_key(told.stdout))
    assert "--key-file FILE" in told.stderr


def test_without_any_standard_output_the_person_hears_that_the_key_is_lost(console: Console) -> None:
    command = ["sh", "-c", '"$@" >&-', "sh", *console.command("thing", "create", "boiler")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"rotate-key {console.json('thing', 'show', 'boiler')['id']}\n" in done.stderr
