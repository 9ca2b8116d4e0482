"""`token revoke`: the list of the section that is meant, once, and a reload; nothing is half done."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
import pytest

from gateway.cli.running import TakenUp, take_up
from gateway.cli.settings import Installation
from gateway.token_issuing import KINDS, private_pem, public_pem
from tests.cli.console import Console
from tests.cli.tokens import Sections, claims, configure, issued

KEY, OTHER = KINDS["ed25519"](), KINDS["ed25519"]()


@pytest.fixture(autouse=True)
def reloads(console: Console, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stood in the list at each reload."""
    Path("issuer.key").touch(0o600)
    Path("issuer.key").write_bytes(private_pem(KEY, None))
    Path("issuer.pub").write_bytes(public_pem(KEY))
    Path("revoked.txt").write_text("# lost\n")
    configure(revoked="revoked.txt")
    found: list[str] = []

    def take_up(_: Installation) -> TakenUp:
        found.append(Path("revoked.txt").read_text())
        return TakenUp(True, "The running gateway was reloaded.")

    monkeypatch.setattr("gateway.cli.token_revoke.take_up", take_up)
    return found


def listed() -> list[str]:
    return Path("revoked.txt").read_text().splitlines()


def test_by_jti(console: Console, reloads: list[str]) -> None:
    result = console.run("token", "revoke", "one")
    assert (result.exit_code, result.stdout) == (0, "The token one is revoked.\n")
    assert result.stderr == "The running gateway was reloaded.\n"
    assert listed() == ["# lost", "one"]
    assert reloads == ["# lost\none\n"]
    # Once more is no mistake, and reloads: the first time it may have failed.
    assert console.ok("token", "revoke", "one") == "The token one was revoked before.\n"
    assert (listed(), len(reloads)) == (["# lost", "one"], 2)


def test_by_token(console: Console) -> None:
    Path("token").write_text(issued(console))
    found = claims(Path("token").read_text().strip())
    assert console.json("token", "revoke", "--token-file", "token") == {
        "jti": found["jti"],
        "file": str(Path("revoked.txt").resolve()),
        "new": True,
        "reloaded": True,
    }
    assert listed() == ["# lost", f"{found['jti']}\t{found['exp']}"]
    assert "the token is revoked" in console.refused("token", "verify", "token")
    again = console.json("token", "revoke", "--token-file", "-", stdin=Path("token").read_bytes())
    assert (again["new"], len(listed())) == (False, 2)


def test_a_bound_token_is_revoked_without_its_certificate(console: Console) -> None:
    claims_ = {"sub": "a", "jti": "b", "exp": time.time() + 60.5, "cnf": {"x5t#S256": "AAAA"}}
    console.ok("token", "revoke", "--token-file", "-", stdin=jwt.encode(claims_, KEY, "EdDSA"))
    assert listed()[1].startswith("b\t")


@pytest.mark.parametrize("exp", [60, -60])
def test_a_forgery_does_not_say_until_when(console: Console, reloads: list[str], exp: float) -> None:
    """Whoever holds the true token would have the line dropped early by bringing a forged one of the same jti."""
    forged = jwt.encode({"sub": "alice", "jti": "one", "exp": time.time() + exp}, OTHER, "EdDSA")
    refused = console.refused("token", "revoke", "--token-file", "-", stdin=forged)
    assert "signature fits no configured key; if it is to be revoked anyway, give its jti" in refused
    assert (listed(), reloads) == (["# lost"], [])


def test_a_token_without_a_name(console: Console, reloads: list[str]) -> None:
    nameless = jwt.encode({"sub": "alice", "exp": time.time() + 60}, KEY, "EdDSA")
    assert "has no jti" in console.refused("token", "revoke", "--token-file", "-", stdin=nameless)
    assert (listed(), reloads) == (["# lost"], [])


@pytest.mark.parametrize("arguments", [(), ("one", "--token-file", "token"), ("one", "two")])
def test_one_of_both(console: Console, arguments: tuple[str, ...]) -> None:
    console.refused("token", "revoke", *arguments, status=2)
    assert listed() == ["# lost"]


@pytest.mark.parametrize("jti", ["", " ", "#one", "one\ttwo", "one\ntwo", "\x1b[31m", "x" * 1025])
def test_names_that_no_line_can_hold(console: Console, reloads: list[str], jti: str) -> None:
    refused = console.refused("token", "revoke", "--", jti)
    assert "jti" in refused
    assert "\x1b" not in refused
    assert (listed(), reloads) == (["# lost"], [])


def test_without_a_list_the_line_to_add_is_told(console: Console, reloads: list[str]) -> None:
    configure()
    refused = console.refused("token", "revoke", "one")
    assert "[jwt:main] has no list of revoked tokens" in refused
    assert refused.endswith("\nrevoked = revoked.txt\n")
    assert reloads == []


def test_the_list_of_the_section_that_is_meant(console: Console) -> None:
    Path("others.txt").touch()
    configure({"jwt:other": {"public_keys": "issuer.pub", "revoked": "others.txt"}}, revoked="revoked.txt")
    console.ok("token", "revoke", "one", "--jwt", "other")
    assert (listed(), Path("others.txt").read_text()) == (["# lost"], "one\n")


def test_the_largest_leeway_of_those_who_share_a_list(console: Console) -> None:
    week, now = 7 * 86_400, int(time.time())
    Path("revoked.txt").write_text(f"gone\t{now - week - 5000}\nkept\t{now - week - 3000}\n")
    more: dict[str, dict[str, object]] = {
        "jwt:other": {"public_keys": "issuer.pub", "revoked": "revoked.txt", "leeway": 4000},
        "jwt:third": {"public_keys": "issuer.pub", "leeway": 9000},
    }
    configure(more, revoked="revoked.txt")
    console.ok("token", "revoke", "one")
    assert listed() == [f"kept\t{now - week - 3000}", "one"]


def test_a_list_that_cannot_be_read_is_left_alone(console: Console, reloads: list[str]) -> None:
    Path("revoked.txt").write_text("one\ntwo\tnever\n")
    assert "revoked.txt, line 2: is not a jti" in console.refused("token", "revoke", "three")
    assert (listed(), reloads) == (["one", "two\tnever"], [])


def test_what_is_not_in_force_is_a_failure(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.token_revoke.take_up", lambda _: TakenUp(False, "It has not answered."))
    result = console.run("token", "revoke", "one")
    assert (result.exit_code, result.stdout) == (1, "The token one is revoked.\n")
    assert result.stderr == "Error: what was changed is written, but not in force. It has not answered.\n"
    assert listed() == ["# lost", "one"]
    result = console.run("token", "revoke", "one", "--json")
    assert (result.exit_code, json.loads(result.stdout)["reloaded"]) == (1, False)


def test_where_no_gateway_runs_nothing_has_failed(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.token_revoke.take_up", lambda _: TakenUp(None, "Nobody was asked."))
    result = console.run("token", "revoke", "one", "--json")
    assert (result.exit_code, result.stderr, json.loads(result.stdout)["reloaded"]) == (0, "Nobody was asked.\n", None)


# --- a configuration with mistakes ------------------------------------------------------------------------------------

WRONG: Sections = {"upstream:main": {"hosts": "db.example", "password_file": "no.secret"}}
OTHER_SECTION: Sections = {"jwt:other": {"public_keys": "issuer.pub", "revoked": "others.txt"}}


def test_a_mistake_elsewhere_keeps_no_token_in_force(console: Console, reloads: list[str]) -> None:
    configure(WRONG, revoked="revoked.txt")
    result = console.run("token", "revoke", "one")
    assert (result.exit_code, listed(), len(reloads)) == (0, ["# lost", "one"], 1)
    warning, _ = result.stderr.splitlines()
    assert warning.startswith("Warning: the configuration has 1 other mistake (securegw check): [upstream:main] passw")


def test_a_mistake_elsewhere_is_told_by_the_reload(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.token_revoke.take_up", take_up)
    configure(WRONG, revoked="revoked.txt")
    result = console.run("token", "revoke", "one")
    assert (result.exit_code, result.stdout, listed()) == (1, "The token one is revoked.\n", ["# lost", "one"])
    assert "Error: what was changed is written, but not in force. " in result.stderr


@pytest.mark.parametrize("more", [{"leeway": "long"}, {"public_keys": "no.pub"}, {"leewai": 1}])
def test_a_mistake_in_the_section_that_is_meant(console: Console, reloads: list[str], more: dict[str, object]) -> None:
    configure({"jwt:main": {"public_keys": "issuer.pub", "revoked": "revoked.txt", **more}})
    assert "the configuration cannot be used:\n[jwt:main] " in console.refused("token", "revoke", "one")
    assert (listed(), reloads) == (["# lost"], [])


def test_the_only_section_need_not_be_the_one_that_is_meant(console: Console, reloads: list[str]) -> None:
    """Where another cannot be read: it could be in the list of the wrong one."""
    Path("others.txt").touch()
    text = configure(OTHER_SECTION, revoked="revoked.txt").read_text()
    Path("gw.ini").write_text(text.replace("[jwt:main]", "[jtw:main]"))
    assert "[jtw:main] section: " in console.refused("token", "revoke", "one")
    assert (Path("others.txt").read_text(), reloads) == ("", [])
    console.ok("token", "revoke", "one", "--jwt", "other")
    assert Path("others.txt").read_text() == "one\n"


def test_a_file_that_cannot_be_read_as_a_whole(console: Console, reloads: list[str]) -> None:
    with Path("gw.ini").open("a") as file:
        file.write("[limits]\n[limits]\n")
    assert "[limits] section: stands a second time" in console.refused("token", "revoke", "one")
    assert (listed(), reloads) == (["# lost"], [])
