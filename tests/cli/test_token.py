"""Keys that sign tokens: what `keygen` makes, that it overwrites nothing, and that no secret is ever shown."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.cli import token
from gateway.token_issuing import KINDS
from gateway.tokens import load_public_key
from tests.cli.console import Console


def mode(name: str) -> int:
    return Path(name).stat().st_mode & 0o777


def test_a_key_is_made(console: Console) -> None:
    made = console.json("token", "keygen")
    public = load_public_key(Path("issuer.pub").read_bytes())
    assert made == {"key": "issuer.key", "public_key": "issuer.pub", "kid": public.thumbprint}
    assert load_pem_private_key(Path("issuer.key").read_bytes(), None).public_key() == public.public_key
    assert (mode("issuer.key"), mode("issuer.pub")) == (0o600, 0o644)
    assert sorted(path.name for path in Path().iterdir()) == ["issuer.key", "issuer.pub"]


@pytest.mark.parametrize(
    ("alg", "algorithm"), [("ed25519", "EdDSA"), ("es256", "ES256"), ("es384", "ES384"), ("rs256", "RS256")]
)
def test_each_kind(console: Console, alg: str, algorithm: str) -> None:
    console.ok("token", "keygen", "--out", f"of-{alg}", "--alg", alg)
    assert algorithm in load_public_key(Path(f"of-{alg}.pub").read_bytes()).algorithms


def test_all_kinds_are_offered() -> None:
    """By the copy that `token` keeps."""
    (alg,) = (one for one in token.keygen.params if one.name == "alg")
    assert isinstance(alg.type, click.Choice)
    assert tuple(alg.type.choices) == tuple(KINDS)


def test_what_is_there_is_not_overwritten(console: Console) -> None:
    console.ok("token", "keygen")
    before = Path("issuer.key").read_bytes(), Path("issuer.pub").read_bytes()
    assert console.refused("token", "keygen") == "Error: issuer.key: exists; --force replaces it\n"
    Path("issuer.key").unlink()
    assert console.refused("token", "keygen") == "Error: issuer.pub: exists; --force replaces it\n"
    assert not Path("issuer.key").exists()
    assert Path("issuer.pub").read_bytes() == before[1]
    console.ok("token", "keygen", "--force")
    assert Path("issuer.pub").read_bytes() != before[1]
    assert mode("issuer.key") == 0o600


STEPS = ("fsync", "replace", "link", "unlink", "open")


def pair() -> bool:
    """Whether both are there and belong together; False: neither is there."""
    there = [Path(f"issuer.{end}").exists() for end in ("key", "pub")]
    if not any(there):
        return False
    assert all(there)
    private = load_pem_private_key(Path("issuer.key").read_bytes(), None)
    assert private.public_key() == load_public_key(Path("issuer.pub").read_bytes()).public_key
    return True


def counted(name: str, steps: list[str], number: int, failure: BaseException) -> Callable[..., Any]:
    """That step, which fails if it is the one with that number."""
    real = getattr(os, name)

    def step(*arguments: Any, **more: Any) -> Any:
        steps.append(name)
        if len(steps) == number:
            raise failure
        return real(*arguments, **more)

    return step


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_both_are_new_or_neither_is(console: Console, force: bool, failure: BaseException) -> None:
    """The disk is full, or somebody interrupts, at each step in turn."""
    if force:
        console.ok("token", "keygen")
    for number in range(1, 100):
        steps: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, counted(name, steps, number, failure))
            result = console.run("token", "keygen", *(["--force"] if force else []))
        assert pair() or not force
        for left in Path().glob("issuer.*"):
            left.unlink() if not force else None
        if not result.exit_code and len(steps) < number:
            break
    assert 5 < number < 99


def test_no_private_key_on_the_terminal(console: Console) -> None:
    for options in ((), ("--force", "--json")):
        result = console.run("token", "keygen", *options)
        secret = Path("issuer.key").read_text().splitlines()[1]
        assert "PRIVATE" not in result.output
        assert secret not in result.output
    assert "there is no such folder" in console.refused("token", "keygen", "--out", "nowhere/issuer")
    assert console.refused("token", "keygen", "--alg", "hs256", status=2)


def test_a_passphrase_comes_from_a_file(console: Console) -> None:
    Path("word").write_text("correct horse\n")
    console.ok("token", "keygen", "--passphrase-file", "word")
    assert b"ENCRYPTED" in Path("issuer.key").read_bytes()
    load_pem_private_key(Path("issuer.key").read_bytes(), b"correct horse")
    console.ok("token", "keygen", "--force", "--passphrase-file", "-", stdin="battery staple\n")
    load_pem_private_key(Path("issuer.key").read_bytes(), b"battery staple")


@pytest.mark.parametrize(
    ("word", "why"),
    [("", "is empty"), ("one\ntwo\n", "one line of printable characters"), ("x" * 1024, "longer than 1023 bytes")],
)
def test_passphrases_that_are_refused(console: Console, word: str, why: str) -> None:
    Path("word").write_text(word)
    assert why in console.refused("token", "keygen", "--passphrase-file", "word")
    assert not list(Path().glob("issuer*"))


def test_every_command_teaches(console: Console) -> None:
    for command in ((), ("keygen",), ("issue",), ("inspect",), ("verify",), ("revoke",)):
        assert "securegw token" in console.ok("token", *command, "--help").partition("Examples:")[2]
