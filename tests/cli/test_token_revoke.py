"""`token revoke`: the list of the section that is meant, once, and a reload; nothing is half done."""

from __future__ import annotations

import json
import os
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


LISTED = "The jti one is on the list of revoked tokens. Whether there is a token that has it is not known here.\n"


def listed() -> list[str]:
    return Path("revoked.txt").read_text().splitlines()


def test_by_jti(console: Console, reloads: list[str]) -> None:
    result = console.run("token", "revoke", "one")
    refused = "Every token with the jti one is refused from now on.\n"
    assert (result.exit_code, result.stdout) == (0, LISTED + refused)
    assert result.stderr == "The running gateway was reloaded.\n"
    assert listed() == ["# lost", "one"]
    assert reloads == ["# lost\none\n"]
    # Once more is no mistake, and reloads: the first time it may have failed.
    assert console.ok("token", "revoke", "one").startswith("The jti one was on the list of revoked tokens before. ")
    assert (listed(), len(reloads)) == (["# lost", "one"], 2)


def test_by_token(console: Console) -> None:
    Path("token").write_text(issued(console))
    found = claims(Path("token").read_text().strip())
    assert console.json("token", "revoke", "--token-file", "token") == {
        "jti": found["jti"],
        "files": {"jwt:main": str(Path("revoked.txt").resolve())},
        "new": True,
        "reloaded": True,
    }
    assert listed() == ["# lost", f"{found['jti']}\t{found['exp']}"]
    assert "the token is revoked" in console.refused("token", "verify", "token")
    again = console.json("token", "revoke", "--token-file", "-", stdin=Path("token").read_bytes())
    assert (again["new"], len(listed())) == (False, 2)
    assert console.ok("token", "revoke", "--token-file", "token") == (
        f"The token {found['jti']} was on the list of revoked tokens before.\n"
        f"The token {found['jti']} is refused from now on.\n"
    )


def test_a_file_is_no_jti(console: Console, reloads: list[str]) -> None:
    """Nothing would be revoked by its name."""
    os.mkfifo("pipe")
    Path("a3.token").write_text(issued(console))
    for name in ("a3.token", "./a3.token", str(Path("a3.token").resolve()), "pipe"):
        refused = console.refused("token", "revoke", name, status=2)
        assert f"Error: {name} is a file: say --token-file {name}; a jti is what `securegw token inspect`" in refused
    assert "- is standard input: say --token-file -" in console.refused("token", "revoke", "-", status=2)
    assert (listed(), reloads) == (["# lost"], [])


def test_a_token_is_no_jti(console: Console, reloads: list[str]) -> None:
    token = issued(console)
    for given in (token, token.rpartition(".")[0], f"{token}\n"):
        refused = console.refused("token", "revoke", given, status=2)
        assert "this is a token, which every user of the machine can read while it is an argument" in refused
        assert token[:20] not in refused
    assert (listed(), reloads) == (["# lost"], [])


@pytest.mark.parametrize("jti", ["a.b.c", "e30", "urn:uuid:1.2", "here", "x" * 300, "é.é"])
def test_what_is_neither(console: Console, jti: str) -> None:
    Path("here").mkdir()
    console.ok("token", "revoke", jti)
    assert listed() == ["# lost", jti]


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
    assert "[jwt:main] revoked: is not given, so it has no list of revoked tokens" in refused
    assert refused.endswith("\nrevoked = revoked.txt\n")
    assert reloads == []


def test_the_list_of_the_section_that_is_meant(console: Console) -> None:
    others(public_keys="other.pub", revoked="others.txt")
    told = console.ok("token", "revoke", "one", "--jwt", "other")
    assert (listed(), Path("others.txt").read_text()) == (["# lost"], "one\n")
    # [jwt:main] believes another token of that jti, if there is one.
    assert told.endswith("Every token with the jti one is refused by [jwt:other] from now on.\n")


def test_the_largest_leeway_of_those_who_share_a_list(console: Console) -> None:
    week, now = 7 * 86_400, int(time.time())
    Path("revoked.txt").write_text(f"gone\t{now - week - 5000}\nkept\t{now - week - 3000}\n")
    more: dict[str, dict[str, object]] = {
        "jwt:other": {"public_keys": "issuer.pub", "revoked": "revoked.txt", "leeway": 4000},
        "jwt:third": {"public_keys": "other.pub", "leeway": 9000},
    }
    Path("other.pub").write_bytes(public_pem(OTHER))
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
    assert (result.exit_code, result.stdout) == (1, LISTED)
    assert result.stderr == "Error: what was changed is written, but not in force. It has not answered.\n"
    assert listed() == ["# lost", "one"]
    result = console.run("token", "revoke", "one", "--json")
    assert (result.exit_code, json.loads(result.stdout)["reloaded"]) == (1, False)


def test_where_nobody_answers_nobody_knows(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been started before the socket was written, and go on."""
    monkeypatch.setattr("gateway.cli.token_revoke.take_up", take_up)
    configure({"control": {"socket": "c.sock"}}, revoked="revoked.txt")
    result = console.run("token", "revoke", "one", "--json")
    assert (result.exit_code, json.loads(result.stdout)["reloaded"]) == (1, None)
    result = console.run("token", "revoke", "one")
    assert (result.exit_code, "from now on" in result.stdout) == (1, False)
    assert "c.sock: nobody answers there; is the gateway running" in result.stderr
    assert "If it was started before [control] socket was written, restart it. If none runs, " in result.stderr
    assert listed() == ["# lost", "one"]


def test_without_a_socket_it_is_left_to_the_person(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.token_revoke.take_up", lambda _: TakenUp(None, "Nobody was asked."))
    result = console.run("token", "revoke", "one", "--json")
    assert (result.exit_code, result.stderr, json.loads(result.stdout)["reloaded"]) == (0, "Nobody was asked.\n", None)


# --- who believes it, too ---------------------------------------------------------------------------------------------


def others(**other: object) -> None:
    """A second section beside [jwt:main], whose list would be empty."""
    Path("other.pub").write_bytes(public_pem(OTHER))
    Path("others.txt").touch()
    configure({"jwt:other": other}, revoked="revoked.txt")


@pytest.mark.parametrize("name", [(), ("--jwt", "main"), ("--jwt", "other")])
def test_each_that_believes_the_token_has_it_on_its_list(console: Console, name: tuple[str, ...]) -> None:
    others(public_keys="other.pub\n    issuer.pub", revoked="others.txt")
    Path("token").write_text(issued(console))
    found = claims(Path("token").read_text().strip())
    told = console.ok("token", "revoke", "--token-file", "token", *name)
    lists = f"{Path('revoked.txt').resolve()} and {Path('others.txt').resolve()}"
    assert told == (
        f"The token {found['jti']} is on the lists of revoked tokens {lists}.\n"
        f"The token {found['jti']} is refused from now on.\n"
    )
    line = f"{found['jti']}\t{found['exp']}"
    assert (listed(), Path("others.txt").read_text()) == (["# lost", line], f"{line}\n")
    assert console.json("token", "revoke", "--token-file", "token", *name)["new"] is False


@pytest.mark.parametrize("given", ["token", "jti"])
@pytest.mark.parametrize("name", [(), ("--jwt", "main"), ("--jwt", "other")])
def test_one_that_has_no_list_is_not_passed_over(
    console: Console, reloads: list[str], given: str, name: tuple[str, ...]
) -> None:
    """It goes on believing the token."""
    others(public_keys="issuer.pub")
    Path("token").write_text(issued(console))
    jti = claims(Path("token").read_text().strip())["jti"]
    asked = ("token", "revoke", *((jti,) if given == "jti" else ("--token-file", "token")), *name)
    result = console.run(*asked)
    assert (result.exit_code, len(reloads), len(listed())) == (1, 1, 2)
    assert "Error: the token is not revoked everywhere:\n[jwt:other] revoked: is not given, so " in result.stderr
    assert result.stderr.endswith("\nrevoked = revoked.txt\n")
    assert "from now on" not in result.stdout
    result = console.run(*asked, "--json")
    files = {"jwt:main": str(Path("revoked.txt").resolve()), "jwt:other": None}
    assert (result.exit_code, json.loads(result.stdout)["files"]) == (1, files)


def test_that_is_told_even_if_the_reload_fails(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.token_revoke.take_up", lambda _: TakenUp(False, "It has not answered."))
    others(public_keys="issuer.pub")
    result = console.run("token", "revoke", "one")
    assert result.exit_code == 1
    assert "but not in force. It has not answered.\nthe token is not revoked everywhere:\n[jwt:other] " in result.stderr


@pytest.mark.parametrize("more", [{}, {"issuer": "https://elsewhere.example"}])
def test_one_that_does_not_believe_the_token_is_left_alone(console: Console, more: dict[str, object]) -> None:
    others(public_keys="issuer.pub" if more else "other.pub", revoked="others.txt", **more)
    Path("token").write_text(issued(console))
    assert "is refused from now on" in console.ok("token", "revoke", "--token-file", "token")
    assert (len(listed()), Path("others.txt").read_text()) == (2, "")
    refused = console.refused("token", "revoke", "--token-file", "token", "--jwt", "other")
    assert "token: refused: " in refused
    assert Path("others.txt").read_text() == ""


def test_a_token_that_only_another_section_believes(console: Console) -> None:
    others(public_keys="other.pub", revoked="others.txt")
    token = jwt.encode({"sub": "a", "jti": "b", "exp": int(time.time()) + 60}, OTHER, "EdDSA")
    console.ok("token", "revoke", "--token-file", "-", stdin=token)
    assert (listed(), Path("others.txt").read_text().partition("\t")[0]) == (["# lost"], "b")


LATER: list[tuple[dict[str, float], dict[str, object]]] = [
    ({"exp": 900, "nbf": 60}, {"leeway": 0}),
    ({"exp": 900, "iat": 60}, {"leeway": 0}),
    ({"exp": 900, "nbf": 110}, {"leeway": 100}),
    ({"exp": 900, "nbf": 905}, {"leeway": 5}),
    ({"exp": 7200}, {"leeway": 120, "max_lifetime": 3600}),
]


@pytest.mark.parametrize("name", [(), ("--jwt", "main"), ("--jwt", "other")])
@pytest.mark.parametrize(("dates", "more"), LATER)
def test_one_that_believes_the_token_later(
    console: Console, dates: dict[str, float], more: dict[str, object], name: tuple[str, ...]
) -> None:
    """In a minute its owner would be let in."""
    others(public_keys="issuer.pub", revoked="others.txt", **more)
    configured = Path("gw.ini").read_text()
    Path("gw.ini").write_text(configured.replace("[jwt:main]\n", "[jwt:main]\nleeway = 1000\n"))
    now = int(time.time())
    token = jwt.encode({"sub": "a", "jti": "b", **{one: now + at for one, at in dates.items()}}, KEY, "EdDSA")
    told = console.ok("token", "revoke", "--token-file", "-", *name, stdin=token)
    assert told.endswith("The token b is refused from now on.\n")
    line = f"b\t{now + dates['exp'] + 1000}"
    assert (listed()[1:], Path("others.txt").read_text()) == ([line], f"{line}\n")


def test_one_that_has_believed_the_token_does_not_again(console: Console) -> None:
    others(public_keys="issuer.pub", leeway=0)
    configured = Path("gw.ini").read_text()
    Path("gw.ini").write_text(configured.replace("[jwt:main]\n", "[jwt:main]\nleeway = 100\n"))
    token = jwt.encode({"sub": "a", "jti": "b", "exp": int(time.time()) - 10}, KEY, "EdDSA")
    told = console.ok("token", "revoke", "--token-file", "-", stdin=token)
    assert (told.endswith("from now on.\n"), len(listed())) == (True, 2)
    refused = console.refused("token", "revoke", "--token-file", "-", "--jwt", "other", stdin=token)
    assert "the token expired 1" in refused


def test_a_token_that_nobody_believes(console: Console, reloads: list[str]) -> None:
    others(public_keys="other.pub", revoked="others.txt", issuer="b")
    configured = Path("gw.ini").read_text()
    Path("gw.ini").write_text(configured.replace("[jwt:main]\n", "[jwt:main]\nissuer = a\n"))
    token = jwt.encode({"sub": "a", "jti": "b", "iss": "c", "exp": int(time.time()) + 60}, OTHER, "EdDSA")
    refused = console.refused("token", "revoke", "--token-file", "-", stdin=token)
    assert "[jwt:main] refused: " in refused
    assert "; [jwt:other] refused: " in refused
    assert (listed(), Path("others.txt").read_text(), reloads) == (["# lost"], "", [])


@pytest.mark.parametrize("name", [(), ("--jwt", "main"), ("--jwt", "other")])
def test_a_jti_is_on_the_list_of_all_that_trust_the_same_key(console: Console, name: tuple[str, ...]) -> None:
    others(public_keys="other.pub\n    issuer.pub", revoked="others.txt")
    assert "The jti one is on the lists of " in console.ok("token", "revoke", "one", *name)
    assert (listed(), Path("others.txt").read_text()) == (["# lost", "one"], "one\n")


def test_without_a_name_a_jti_is_on_every_list(console: Console) -> None:
    others(public_keys="other.pub", revoked="others.txt")
    assert console.ok("token", "revoke", "one").endswith("\nEvery token with the jti one is refused from now on.\n")
    assert (listed(), Path("others.txt").read_text()) == (["# lost", "one"], "one\n")


def test_the_same_url_has_the_same_keys(console: Console) -> None:
    """They are not fetched for a jti: an issuer that is down keeps nothing in force."""
    url = {"jwks": "https://issuer.invalid/keys"}
    Path("others.txt").touch()
    more: Sections = {"jwt:other": {**url, "revoked": "others.txt"}, "jwt:third": {**url, "issuer": "a"}}
    configure(more, revoked="revoked.txt")
    result = console.run("token", "revoke", "one", "--jwt", "other")
    assert (result.exit_code, listed(), Path("others.txt").read_text()) == (1, ["# lost"], "one\n")
    assert "[jwt:third] revoked: is not given" in result.stderr


def test_whose_keys_cannot_be_fetched_is_told(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.inspection import key_sets

    def down(_: object) -> None:
        raise key_sets.Unfetched("it is down")

    monkeypatch.setattr(key_sets, "fetch", down)
    others(jwks="https://issuer.invalid/keys", revoked="others.txt")
    Path("token").write_text(issued(console))
    result = console.run("token", "revoke", "--token-file", "token")
    assert (result.exit_code, len(listed()), Path("others.txt").read_text()) == (1, 2, "")
    words = (
        "[jwt:other] https://issuer.invalid/keys: cannot be fetched: it is down; if it believes the token, revoke the"
    )
    assert words in result.stderr


def test_one_list_that_cannot_be_written_keeps_no_other_back(console: Console, reloads: list[str]) -> None:
    others(public_keys="issuer.pub", revoked="others.txt")
    Path(".others.txt.lock").mkdir()
    result = console.run("token", "revoke", "one")
    assert (result.exit_code, listed(), len(reloads)) == (1, ["# lost", "one"], 1)
    assert "the token is not revoked everywhere:\n" in result.stderr
    assert ".others.txt.lock: Is a directory" in result.stderr


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
    assert (result.exit_code, result.stdout, listed()) == (1, LISTED, ["# lost", "one"])
    assert "Error: what was changed is written, but not in force. " in result.stderr


def test_a_section_with_a_mistake_is_not_passed_over(console: Console, reloads: list[str]) -> None:
    others(public_keys="issuer.pub", revoked="others.txt", leeway="long")
    result = console.run("token", "revoke", "one", "--jwt", "main")
    assert (result.exit_code, listed(), len(reloads)) == (1, ["# lost", "one"], 1)
    assert "the token is not revoked everywhere:\n[jwt:other] leeway: " in result.stderr


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
