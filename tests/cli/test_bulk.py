"""Importing and exporting: all or nothing, no key lost, and there and back again."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import bulk
from gateway.registry.ledger import Ledger, LedgerError
from gateway.registry.settings import RegistrySettings
from tests.cli.console import Console, into_nowhere, on_a_terminal

ID = "8b0ad5c4-42ea-4a38-9b4c-9b34bd9d0a51"
KEY = "a-key-of-its-own-0123456789"


def things(console: Console) -> dict[str, str]:
    """name → SHA-256 of its key."""
    with console.ledger() as ledger:
        return {one.name: one.key_sha256 for one in ledger.things()}


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def test_things_are_imported_and_their_new_keys_printed(console: Console) -> None:
    console.ok("channel", "create", "heating")
    rows = f'name,id,key,channels,metadata\nboiler,{ID},,heating:publish,"{{""a"": 1}}"\npump,,{KEY},,\n'
    result = console.run("thing", "import", "-", stdin=rows)
    assert result.exit_code == 0
    assert "2 things are imported, 1 of them with a new key" in result.stderr
    assert "never shown again" in result.stderr
    (printed,) = csv.DictReader(result.stdout.splitlines())
    assert (printed["id"], printed["name"]) == (ID, "boiler")
    assert things(console) == {"boiler": hashed(printed["key"]), "pump": hashed(KEY)}
    shown = console.json("thing", "show", ID)
    assert shown["metadata"] == {"a": 1}
    assert [(one["name"], one["publish"], one["subscribe"]) for one in shown["channels"]] == [("heating", True, False)]


def test_keys_are_json_where_that_is_asked_for(console: Console) -> None:
    (printed,) = console.json("thing", "import", "-", stdin='[{"name": "boiler"}]')
    assert things(console) == {printed["name"]: hashed(printed["key"])}
    assert console.json("thing", "import", "-", stdin="[]") == []


def test_keys_go_to_a_file_of_its_own(console: Console) -> None:
    Path("fleet.csv").write_text("name\nboiler\npump\n")
    assert console.ok("thing", "import", "fleet.csv", "--keys-out", "keys.csv") == ""
    with Path("keys.csv").open(newline="") as file:
        written = {row["name"]: hashed(row["key"]) for row in csv.DictReader(file)}
    assert things(console) == written
    assert Path("keys.csv").stat().st_mode & 0o777 == 0o600


def test_without_new_keys_there_is_no_file(console: Console) -> None:
    console.ok("thing", "import", "-", "--keys-out", "keys.csv", stdin=f"name,key\nboiler,{KEY}\n")
    assert not Path("keys.csv").exists()
    assert things(console) == {"boiler": hashed(KEY)}


def test_a_file_of_keys_that_is_there_stays_and_nothing_is_imported(console: Console) -> None:
    Path("keys.csv").write_text("old keys")
    assert "--force" in console.refused("thing", "import", "-", "--keys-out", "keys.csv", stdin="name\nboiler\n")
    assert Path("keys.csv").read_text() == "old keys"
    assert things(console) == {}
    console.ok("thing", "import", "-", "--keys-out", "keys.csv", "--force", stdin="name\nboiler\n")
    assert Path("keys.csv").read_text().startswith("id,name,key\n")


def test_keys_are_safe_before_the_registry_hears_of_them(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts: list[str] = []
    original = Ledger.import_things

    def import_things(self: Ledger, *arguments: Any, **more: Any) -> Any:
        drafts.extend(path.read_text() for path in Path().glob(".keys.csv.*"))
        return original(self, *arguments, **more)

    monkeypatch.setattr(Ledger, "import_things", import_things)
    console.ok("thing", "import", "-", "--keys-out", "keys.csv", stdin="name\nboiler\n")
    assert drafts == [Path("keys.csv").read_text()]


@pytest.mark.parametrize("way", [(), ("--keys-out", "keys.csv")])
def test_what_the_registry_refuses_is_told_by_its_line_and_nothing_is_left(
    console: Console, way: tuple[str, ...]
) -> None:
    console.ok("thing", "create", "boiler", "--id", ID)
    before = things(console)
    rows = f"name,id,channels\nnew,,\n\nagain,{ID},\n"
    told = console.refused("thing", "import", "-", *way, stdin=rows)
    assert told.startswith("Error: line 4: there is a thing with this id already")
    told = console.refused("thing", "import", "-", *way, stdin="name,channels\nnew,\nother,nowhere\n")
    assert told.startswith("Error: line 3: ")
    assert "nowhere" in told
    assert things(console) == before
    assert list(Path().iterdir()) == []


def test_a_file_with_mistakes_is_refused_before_the_registry_is_opened(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = console.settings.database
    assert isinstance(database, Path)
    assert console.refused("thing", "import", "-", stdin="name\na\n\x1b\n").startswith("Error: line 3: a name has")
    assert not database.exists()


def test_a_file_that_is_too_large_or_not_there_is_told(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_MAX_FILE", 10)
    Path("fleet.csv").write_text("name\nboiler\n")
    assert console.refused("thing", "import", "fleet.csv") == "Error: fleet.csv: is larger than 10 bytes\n"
    assert console.refused("thing", "import", "-", stdin="name\nboiler\n") == "Error: -: is larger than 10 bytes\n"
    assert console.refused("thing", "import", "other.csv") == "Error: other.csv: No such file or directory\n"


def test_a_registry_that_fails_takes_no_key_file_with_it(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_things(*_: Any, **__: Any) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(Ledger, "import_things", import_things)
    told = console.refused("thing", "import", "-", "--keys-out", "keys.csv", stdin="name\nboiler\n")
    assert told == "Error: the disk is full\n"
    assert list(Path().iterdir()) == []


def test_ctrl_c_takes_no_key_with_it(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ledger.import_things

    def import_things(self: Ledger, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "import_things", import_things)
    told = console.refused("thing", "import", "-", "--keys-out", "keys.csv", stdin="name\nboiler\n")
    (draft,) = Path().iterdir()
    assert draft.name in told
    (written,) = csv.DictReader(draft.read_text().splitlines())
    assert things(console) == {"boiler": hashed(written["key"])}


@pytest.mark.parametrize("options", [(), ("--json",), ("--keys-out", "-")])
@pytest.mark.parametrize("closed", [False, True])
def test_keys_that_could_not_be_shown_are_no_success(console: Console, options: tuple[str, ...], closed: bool) -> None:
    """Neither on a full disk nor for somebody who has stopped reading: nobody has the keys, and they count."""
    Path("fleet.csv").write_text("name\nboiler\npump\n")
    done = into_nowhere(console.command("thing", "import", "fleet.csv", *options), closed)
    remedy = "rotate-key each, or delete and import with --keys-out"
    told = f"Error: the things are imported, but their new keys could not be shown: {remedy}\n"
    assert (done.returncode, done.stderr.decode()) == (1, told)
    assert things(console).keys() == {"boiler", "pump"}


def test_keys_are_not_shown_on_a_terminal_unless_that_is_said(console: Console) -> None:
    Path("fleet.csv").write_text("name\nboiler\n")
    Path("known.csv").write_text(f"name,key\npump,{KEY}\n")
    done = on_a_terminal(console.command("thing", "import", "fleet.csv"))
    assert (done.status, "--keys-out FILE" in done.errors, done.shown, things(console)) == (2, True, "", {})
    assert on_a_terminal(console.command("thing", "import", "known.csv")).status == 0
    done = on_a_terminal(console.command("thing", "import", "fleet.csv", "--keys-out", "-"))
    (printed,) = csv.DictReader(done.shown.splitlines())
    assert things(console) == {"boiler": hashed(printed["key"]), "pump": hashed(KEY)}


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [(), ("--keys-out", "keys.csv")])
def test_names_that_are_taken_are_told_all_at_once_and_nothing_is_written(
    console: Console, way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.registry.bulk.BATCH", 2)
    console.ok("thing", "create", "boiler", "--id", ID)
    before = things(console)
    rows = "name\npump\nboiler\n\npump\nfan\nboiler\npump\n"
    assert console.refused("thing", "import", "-", *way, stdin=rows) == (
        f"Error: line 3: there is a thing named boiler already (id {ID})\n"
        "line 5: the name pump is that of line 2\n"
        "line 7: the name boiler is that of line 3\n"
        "line 8: the name pump is that of line 2\n"
        "--force imports all the same\n"
    )
    assert (things(console), list(Path().iterdir())) == (before, [])
    console.ok("thing", "import", "-", *way, "--force", stdin=rows)
    assert len(console.json("thing", "list")) == 7


def test_only_so_many_names_are_told(console: Console) -> None:
    told = console.refused("thing", "import", "-", stdin="name\n" + "meter\n" * 1500)
    assert told.splitlines()[19:] == [
        "line 22: the name meter is that of line 2",
        "and 1,479 lines more",
        "--force imports all the same",
    ]


def test_forcing_names_never_takes_the_keys_of_who_has_them(console: Console) -> None:
    """The same file once more, with --force for its keys."""
    Path("fleet.csv").write_text("name\nboiler\n")
    console.ok("thing", "import", "fleet.csv", "--keys-out", "keys.csv")
    keys, before = Path("keys.csv").read_text(), things(console)
    told = console.refused("thing", "import", "fleet.csv", "--keys-out", "keys.csv", "--force")
    assert "--force would replace keys.csv, which may hold a key of what is there: name another file" in told
    assert (Path("keys.csv").read_text(), things(console)) == (keys, before)


# --- there and back again -------------------------------------------------------------------------------------------


def fleet(count: int) -> str:
    """All that an export can hold, in as many things."""
    names = ["meter", "=1+1", "'=x", 'a, "b"', "böiler 世界", "-", "x;y:publish"]
    channels = [[], ["heating"], [{"channel": "cold", "publish": False}, {"channel": "heating", "subscribe": False}]]
    return json.dumps(
        [
            {
                "name": f"{names[n % len(names)]} {n}",
                "enabled": n % 3 > 0,
                "metadata": {"n": n, "text": 'a "quoted", ü'} if n % 2 else {},
                "channels": channels[n % len(channels)],
            }
            for n in range(count)
        ]
    )


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_thousand_things_go_to_another_registry(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    ids = {name: console.json("channel", "create", name)["id"] for name in ("heating", "cold")}
    console.ok("thing", "import", "-", "--keys-out", "keys.csv", stdin=fleet(1000))
    console.ok("thing", "export", "--format", form, "-o", "things")
    other = Console(RegistrySettings(tmp_path / "other.sqlite"))
    monkeypatch.setattr("gateway.cli.settings.Installation.registry", lambda _: other.settings)
    for name, identifier in ids.items():
        other.ok("channel", "create", name, "--id", identifier)
    result = other.run("thing", "import", "things")
    assert (result.stdout, result.stderr) == ("", "1,000 things are imported, 0 of them with a new key.\n")
    assert sorted(other.ok("thing", "export", "--format", form).splitlines()) == sorted(
        Path("things").read_text().splitlines()
    )
    with console.ledger() as one, other.ledger() as two:
        assert {thing.id: thing.key_sha256 for thing in one.things()} == {
            thing.id: thing.key_sha256 for thing in two.things()
        }
        assert list(one.connections()) == list(two.connections())


def test_an_export_is_never_put_in_the_place_of_a_file(console: Console) -> None:
    Path("things.csv").write_text("other")
    assert "--force" in console.refused("thing", "export", "-o", "things.csv")
    assert Path("things.csv").read_text() == "other"
    console.ok("thing", "export", "-o", "things.csv", "--force")
    assert Path("things.csv").read_text() == "name,id,key_sha256,enabled,metadata,channels\n"
    assert Path("things.csv").stat().st_mode & 0o777 == 0o600


def test_an_export_of_nothing_is_a_document(console: Console) -> None:
    assert json.loads(console.ok("thing", "export", "--format", "json")) == []


# --- the bar --------------------------------------------------------------------------------------------------------


def errors_on_a_terminal(command: list[str]) -> bytes:
    """What standard error shows there."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        subprocess.run(command, stderr=terminal, stdout=subprocess.DEVNULL, timeout=60, check=True)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # nobody has it open any more
        pass
    finally:
        os.close(ours)
    return shown


def test_a_bar_is_shown_on_a_terminal_if_there_is_much_to_do(console: Console) -> None:
    Path("many").write_text("name\n" + "meter\n" * 5000)
    Path("few").write_text("name\n" + "meter\n" * 10)
    shown = errors_on_a_terminal(console.command("thing", "import", "many", "--force"))
    assert all(f" {percent}%".encode() in shown for percent in (20, 40, 60, 80, 100))
    assert b"Importing" not in errors_on_a_terminal(console.command("thing", "import", "few", "--force"))
    assert b"Exporting" in errors_on_a_terminal(console.command("thing", "export"))
    assert b"Exporting" in errors_on_a_terminal(console.command("thing", "export", "-o", "things.csv"))
    assert "Importing" not in console.run("thing", "import", "many", "--force").output
