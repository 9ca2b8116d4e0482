"""The frame: how it ends, which configuration it takes, and that a shell can complete its words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli.errors import Failure
from gateway.cli.main import NAME, main, securegw
from gateway.cli.settings import Installation
from gateway.registry.ledger import open_ledger
from gateway.registry.settings import RegistrySettings
from tests.cli.console import Console


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name)


def module(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- how it is called, and how it ends ------------------------------------------------------------------------------


def test_it_has_these_commands() -> None:
    assert {
        " ".join(words)
        for words in commands(securegw)
        if len(words) != 1 or words[0] in ("check", "connect", "disconnect")
    } == {
        "",
        "check",
        "connect",
        "disconnect",
        *(f"explain {name}" for name in ("http", "mqtt", "postgres", "tunnel")),
        *(f"pki {name}" for name in ("ca", "client", "crl", "list", "renew", "revoke", "server", "sign", "thing")),
        *(f"sessions {name}" for name in ("counters", "drain", "kill", "list", "reload")),
        *(f"share {name}" for name in ("check", "create", "list", "revoke")),
        *(f"token {name}" for name in ("inspect", "issue", "keygen", "revoke", "verify")),
        *(f"channel {name}" for name in ("create", "delete", "list", "show")),
        *(
            f"thing {name}"
            for name in ("create", "delete", "disable", "enable", "export", "import", "list", "rotate-key", "show")
        ),
    }


@pytest.mark.parametrize("words", list(commands(securegw)), ids=" ".join)
def test_every_command_explains_itself_without_any_configuration(words: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = CliRunner().invoke(securegw, [*words, option], prog_name=NAME)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: {' '.join((NAME, *words))} ")
        assert "..." not in result.stdout.partition("Commands:")[2]  # each summary fits
        assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("thing", "lst"), ("thing", "show"), ("thing", "list", "--no"), ("connect", "boiler")]
)
def test_wrong_usage_has_status_2_and_points_to_the_help(console: Console, arguments: tuple[str, ...]) -> None:
    assert "--help" in console.refused(*arguments, status=2)


def test_it_is_a_module_too(console: Console) -> None:
    done = module("thing", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: securegw thing ")
    done = module("thing", "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    done = module("thing", "list", SECUREGW_CONFIG="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: no configuration: ")


def test_whoever_stops_reading_hears_no_complaint(console: Console) -> None:
    many = "name\n" + "a thing with a name that is rather long\n" * 3000
    console.ok("thing", "import", "-", "--force", stdin=many)
    for arguments in (("thing", "list"), ("thing", "list", "--json"), ("thing", "export")):
        with subprocess.Popen(console.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 1


def test_a_full_disk_is_told(console: Console) -> None:
    console.ok("thing", "create", "boiler")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            console.command("thing", "list"), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"Error: No space left on device\n"


def test_a_reason_that_names_escapes_shows_none(console: Console) -> None:
    told = console.refused("thing", "import", "\x1b[2J.csv")
    assert told == "Error: \\x1b[2J.csv: No such file or directory\n"


def test_a_locale_without_unicode_changes_nothing(console: Console) -> None:
    console.ok("thing", "create", "böiler")
    done = subprocess.run(
        console.command("thing", "list"),
        env={**os.environ, "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert "böiler".encode() in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    done = module(_SECUREGW_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert "_SECUREGW_COMPLETE" in done.stdout
    done = module(_SECUREGW_COMPLETE="bash_complete", COMP_WORDS="securegw thing dis", COMP_CWORD="2")
    assert done.stdout == "plain,disable\n"


def test_help_and_completion_do_not_wait_for_what_they_do_not_need() -> None:
    script = (
        "import sys, gateway.cli.main; print({'gateway.config', 'gateway.registry.ledger', 'twisted'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def test_the_entry_point_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["securegw", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0


# --- which configuration --------------------------------------------------------------------------------------------


def test_the_configuration_is_the_one_that_is_given_or_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    given, named, conf, here = (tmp_path / name for name in ("given.ini", "named.ini", "conf/gw.ini", "gw.ini"))
    for path in (given, named, conf, here):
        path.touch()
    assert Installation("given.ini", {"SECUREGW_CONFIG": "named.ini"}, tmp_path).ini() == given
    assert Installation(None, {"SECUREGW_CONFIG": str(named)}, tmp_path).ini() == named
    assert Installation(None, {"SECUREGW_CONFIG": ""}, tmp_path).ini() == conf
    conf.unlink()
    assert Installation(None, {}, tmp_path).ini() == here
    here.unlink()
    with pytest.raises(Failure) as caught:
        Installation(None, {}, tmp_path).ini()
    for tried in ("-c", "$SECUREGW_CONFIG", str(conf), str(here)):
        assert tried in caught.value.message


def test_one_that_is_given_and_not_there_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "gw.ini").touch()
    for installation in (
        Installation("no.ini", {}, tmp_path),
        Installation(None, {"SECUREGW_CONFIG": "no.ini"}, tmp_path),
    ):
        with pytest.raises(Failure, match=r"no\.ini: there is no such file"):
            installation.ini()


def test_what_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for told, why in (
        (str(tmp_path), "is a folder: name the file in it"),
        ("pipe", "is not a file"),
        ("pipe/gw.ini", "there is no such file"),
    ):
        with pytest.raises(Failure) as caught:
            Installation(told, {}, tmp_path).ini()
        assert caught.value.message == f"{told}: {why} (-c)"


def test_one_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    """Nor is another one taken, which may be another gateway's: whoever revokes something has to hear that nobody was
    told of it."""
    (tmp_path / "conf").mkdir()
    unreadable = tmp_path / "conf" / "gw.ini"
    unreadable.symlink_to(unreadable)
    (tmp_path / "gw.ini").touch()
    for given in "conf/gw.ini", None:
        assert Installation(given, {}, tmp_path).ini() == unreadable
    done = module("-c", str(unreadable), "thing", "list")
    assert done.returncode == 1
    assert f"[{unreadable}] file: Too many levels of symbolic links" in done.stderr


def test_a_configuration_with_mistakes_is_refused_with_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "gw.ini").write_text("[nonsense]\n[limits]\nmax_connections = none\n")
    done = module("-c", str(tmp_path / "gw.ini"), "thing", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the configuration cannot be used:\n")
    assert "[nonsense] section: " in done.stderr
    assert "[limits] max_connections: " in done.stderr


def test_the_registry_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "gw.ini").write_text(
        "[registry]\ndatabase = things.sqlite\n[tls]\ncertificate = a.crt\nkey = a.key\n[mqtt:main]\n"
    )
    done = module("-c", str(tmp_path / "gw.ini"), "thing", "create", "boiler")
    assert (done.returncode, done.stdout.split()[3]) == (0, "boiler")
    assert "boiler" in module("thing", "list", SECUREGW_CONFIG=str(tmp_path / "gw.ini")).stdout
    assert (tmp_path / "things.sqlite").exists()
    (tmp_path / "other.ini").write_text(
        "[tls]\ncertificate = a.crt\nkey = a.key\nclient_certificate = required\nclient_ca = a.crt\n"
        "[https:main]\n[route:main]\nupstream = http://127.0.0.1:1\nrules = allow all all\n"
    )
    done = module("-c", str(tmp_path / "other.ini"), "thing", "list")
    assert done.returncode == 1
    assert "other.ini: [registry] database is not given" in done.stderr


def test_an_ini_with_a_registry_alone_will_do(tmp_path: Path) -> None:
    """For whoever may write what the gateways may only read."""
    registry = "[registry]\ndatabase = things.sqlite\n"
    (tmp_path / "gw.ini").write_text(registry)
    done = module("-c", str(tmp_path / "gw.ini"), "thing", "create", "boiler")
    assert (done.returncode, (tmp_path / "things.sqlite").exists()) == (0, True)
    assert done.stderr.startswith("Keep the key now")
    (tmp_path / "gw.ini").write_text(f"{registry}stale_after = never\n")
    done = module("-c", str(tmp_path / "gw.ini"), "thing", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing would listen" not in done.stderr
    (tmp_path / "gw.ini").write_text("[limits]\n")
    assert "nothing would listen" in module("-c", str(tmp_path / "gw.ini"), "thing", "list").stderr


REGISTRY = "[registry]\ndatabase = things.sqlite\n[tls]\ncertificate = a.crt\nkey = a.key\n[mqtt:main]\n"
UPSTREAM = "[upstream:main]\nhosts = db.example\n"


def test_a_mistake_elsewhere_does_not_keep_anybody_from_the_registry(tmp_path: Path) -> None:
    """What takes something away has to work while somebody else is editing the file."""
    path = tmp_path / "gw.ini"
    path.write_text(REGISTRY)
    assert module("-c", str(path), "thing", "create", "boiler").returncode == 0
    path.write_text(f"{REGISTRY}{UPSTREAM}password_file = no.secret\n")
    done = module("-c", str(path), "thing", "disable", "boiler")
    assert (done.returncode, done.stdout.endswith("is disabled.\n")) == (0, True)
    mistake = f"[upstream:main] password_file: {tmp_path / 'no.secret'}: No such file or directory"
    assert done.stderr == f"Warning: the configuration has 1 other mistake (securegw check): {mistake}\n"
    path.write_text(f"[nonsense]\n{REGISTRY}{UPSTREAM}password_file = no.secret\n")
    told = module("-c", str(path), "thing", "list").stderr
    assert told.startswith("Warning: the configuration has 2 other mistakes (securegw check): [nonsense] section: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "mistake",
    [
        "[registry]\ndatabase = things.sqlite\nstale_after = never\n[postgres:main]\n",
        "[registry]\n[postgres:main]\n[limit]\n",
        "[registry]\ndatabase = things.sqlite\ndatabase = things.sqlite\n[postgres:main]\n",
        "[registry]\ndatabase = things.sqlite\n[limits]\n[limits]\n",
        "[registry]\ndatabase = things.sqlite\n[limits]\nwhatever\n",
        "[registri]\ndatabase = things.sqlite\n[postgres:main]\n[quickstart]\ndirectory = var\n",
    ],
)
def test_a_mistake_that_could_mean_another_registry_is_refused(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "gw.ini").write_text(mistake)
    (tmp_path / "var").mkdir()
    for demo in (tmp_path, tmp_path / "var"):
        (demo / "registry.sqlite").touch()
    done = module("-c", str(tmp_path / "gw.ini"), "thing", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Error: the configuration cannot be used:\n" in done.stderr


def test_the_quickstarts_registry_is_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "gw.ini").write_text("[postgres:main]\n[quickstart]\ndirectory = var\n")
    done = module("-c", str(tmp_path / "gw.ini"), "thing", "list")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"Error: {tmp_path / 'var' / 'registry.sqlite'}: is not there; start the gateway once"
    )
    (tmp_path / "var").mkdir()
    with open_ledger(RegistrySettings(tmp_path / "var" / "registry.sqlite")) as ledger:
        ledger.create_thing("demo-thing")
    assert "demo-thing" in module("-c", str(tmp_path / "gw.ini"), "thing", "list").stdout


def test_a_registry_that_cannot_be_opened_is_named(console: Console) -> None:
    assert isinstance(console.settings.database, Path)
    console.settings.database.write_text("this is no database, but long enough to be one; " * 100)
    told = console.refused("thing", "list")
    assert told.startswith(f"Error: {console.settings.database}: ")
