"""`securegw pki` makes: what it says, what it refuses, and what it never shows."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import click
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority import sealing
from gateway.cli.pki import pki as group
from gateway.identity import from_certificate
from tests.authority.test_requests import request as csr
from tests.cli.pki_console import PKI

KEY = "8c1f8e0f-6c9d-4c1f-9a3b-the-secret"
ID = "8c1f8e0f-6c9d-4c1f-9a3b-5d7e9f012345"
SHOWN = "key:"
WORD = "correct horse battery"


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PKI:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sealing, "ROUNDS", 1000)
    return PKI(tmp_path)


def subject(pki: PKI, name: str, cn: str = "id") -> str:
    """As the gateway reads it."""
    certificate = x509.load_pem_x509_certificate((pki.folder / f"{name}.crt").read_bytes())
    return from_certificate(certificate.public_bytes(Encoding.DER), 0.0, (), cn=cn).subject


def days(pki: PKI, name: str) -> int:
    certificate = x509.load_pem_x509_certificate((pki.folder / f"{name}.crt").read_bytes())
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days


# --- what is made -----------------------------------------------------------------------------------------------------


def test_what_the_seed_did_by_hand(pki: PKI) -> None:
    """Three years, a thousand days, two years."""
    assert "pki/ca.crt" in pki.ok("ca")
    assert "pki/server.key" in pki.ok("server", "--dns", "gw.example.com", "--ip", "192.0.2.1")
    said = pki.ok("thing", "boiler", "--key-file", pki.write("secret", f"{KEY}\n"))
    assert "pki/boiler.key" in said
    pki.ok("client", "alice", "--cn", "Alice Ärmel", "--email", "alice@example.com")
    assert [days(pki, name) for name in ("ca", "server", "boiler", "alice")] == [1095, 1000, 730, 730]
    assert subject(pki, "alice") == "Alice Ärmel"
    assert subject(pki, "boiler", "key") in said
    assert sorted(path.name for path in pki.folder.iterdir()) == [
        ".lock", "alice.crt", "alice.key", "boiler.crt", "boiler.key", "ca.crt", "ca.key", "crl.pem", "index.json",
        "server.crt", "server.key",
    ]  # fmt: skip
    assert stat.S_IMODE(pki.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in pki.folder.glob("*.key")} == {0o600}


def test_for_programs(pki: PKI) -> None:
    assert pki.json("ca")["certificate"] == "pki/ca.crt"
    made = pki.json("server", "--dns", "gw.example.com", "--name", "gw", "--days", "90")
    assert (made["certificate"], made["key"], made["names"]) == ("pki/gw.crt", "pki/gw.key", ["dns:gw.example.com"])
    assert (made["kind"], made["days"], made["revoked_at"]) == ("server", 90, None)


def test_rsa_and_another_folder(pki: PKI) -> None:
    pki.ok("ca", "--dir", "other", "--rsa", "--name", "Other CA", "--days", "10")
    pki.ok("client", "alice", "--dir", "other")
    assert (pki.here / "other" / "alice.crt").is_file()
    assert not pki.folder.exists()


def test_a_thing_by_its_id(pki: PKI) -> None:
    pki.ok("ca")
    pki.ok("thing", "boiler", "--id", ID.upper(), "--uri", "spiffe://example.com/boiler")
    assert subject(pki, "boiler") == ID


def test_what_ends_with_the_ca_is_told(pki: PKI) -> None:
    pki.ok("ca", "--days", "30")
    result = pki.run("client", "alice")
    assert "ends with the CA, before the 730 days are over" in result.stderr
    assert pki.run("client", "bob", "--days", "29").stderr == ""


def test_name_constraints(pki: PKI) -> None:
    pki.ok("ca", "--permit-dns", "example.com", "--permit-ip", "192.0.2.0/24")
    pki.ok("server", "--dns", "gw.example.com", "--ip", "192.0.2.1")
    assert "dns:gw.example.org" in pki.refused("server", "--name", "b", "--dns", "gw.example.org")
    assert "ip:192.0.3.1" in pki.refused("server", "--name", "b", "--dns", "b.example.com", "--ip", "192.0.3.1")


def test_every_command_teaches(pki: PKI) -> None:
    for name, command in group.commands.items():
        shown = pki.ok(name, "--help")
        assert f"securegw pki {name}" in shown, name
        assert isinstance(command, click.Command)
        # No secret is an argument.
        for parameter in command.params:
            assert parameter.name not in {"key", "passphrase", "password"}


# --- what is never shown ----------------------------------------------------------------------------------------------


def test_the_key_of_a_thing_is_only_in_its_certificate(pki: PKI) -> None:
    pki.ok("ca")
    shown = pki.run("thing", "boiler", "--key-file", "-", stdin=f"{KEY}\n").output
    shown += pki.run("thing", "boiler", "--key-file", "-", stdin=f"{KEY}\n").output
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("renew", "boiler"),
        ("revoke", "boiler"),
        ("revoke", "boiler", "--json"),
    ):
        shown += pki.run(*arguments).output
    assert SHOWN in shown
    assert KEY not in shown
    assert [name for name, content in pki.files().items() if KEY.encode() in content] == []
    assert stat.S_IMODE((pki.folder / "boiler.crt").stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["k" * 65, "se cret", "schlüssel"])
def test_a_key_that_a_certificate_cannot_carry(pki: PKI, key: str) -> None:
    pki.ok("ca")
    assert key not in pki.refused("thing", "boiler", "--key-file", pki.write("secret", key))


# --- the passphrase ---------------------------------------------------------------------------------------------------


SIGNING = [
    ("server", "--dns", "b.example", "--name", "b"),
    ("thing", "b", "--id", ID),
    ("client", "b"),
    ("sign", "b.csr", "--as", "client", "--name", "b"),
    ("revoke", "alice"),
    ("crl",),
    ("renew", "alice"),
    ("renew", "ca"),
]


@pytest.fixture
def sealed(pki: PKI) -> PKI:
    pki.ok("ca", "--passphrase-file", pki.write("word", f"{WORD}\n"))
    pki.ok("client", "alice", "--passphrase-file", "word")
    pki.write("b.csr", csr())
    return pki


@pytest.mark.parametrize("arguments", SIGNING)
def test_whatever_signs_needs_it(sealed: PKI, arguments: tuple[str, ...]) -> None:
    assert b"ENCRYPTED" in (sealed.folder / "ca.key").read_bytes()
    assert "protected by a passphrase; give it with --passphrase-file" in sealed.refused(*arguments)
    said = sealed.refused(*arguments, "--passphrase-file", "-", stdin="another one\n")
    assert "the passphrase does not open it" in said
    assert "another one" not in said
    assert WORD not in sealed.ok(*arguments, "--passphrase-file", "-", stdin=WORD)


def test_the_list_needs_none(sealed: PKI) -> None:
    assert "alice" in sealed.ok("list")


def test_one_that_is_not_needed_protects_nothing(pki: PKI) -> None:
    pki.ok("ca")
    word = pki.write("word", WORD)
    assert "is not protected by a passphrase, yet one is given" in pki.refused("client", "a", "--passphrase-file", word)


@pytest.mark.parametrize("content", ["", "\n", "short", "two\nlines of it", "x" * 5000, b"\xff" * 20])
def test_a_passphrase_that_is_none(pki: PKI, content: str | bytes) -> None:
    pki.refused("ca", "--passphrase-file", pki.write("word", content))
    assert not (pki.folder / "ca.key").exists()


def test_standard_input_is_one_file(sealed: PKI) -> None:
    for arguments in (("thing", "b", "--key-file", "-"), ("sign", "-", "--as", "client", "--name", "b")):
        assert "two files at once" in sealed.refused(*arguments, "--passphrase-file", "-", status=2, stdin=WORD)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(pki: PKI) -> None:
    pki.ok("ca")
    assert "--force" in pki.refused("ca")
    pki.ok("client", "alice")
    assert "--force" in pki.refused("client", "alice")
    before = (pki.folder / "alice.crt").read_bytes()
    pki.ok("client", "alice", "--force")
    assert (pki.folder / "alice.crt").read_bytes() != before
    pki.write("pki/bob.key", "precious")
    assert "bob.key: exists" in pki.refused("client", "bob")


def test_renewing_does_not_take_up_another_key(pki: PKI) -> None:
    """Nor another name of any other kind: what would, and what is left of the former."""
    pki.ok("ca")
    serial = pki.json("thing", "boiler", "--key-file", "-", stdin=KEY)["serial"]
    assert "`securegw pki renew boiler` makes its successor" in pki.refused(
        "thing", "boiler", "--key-file", "-", stdin=KEY
    )
    before, after = (f"key:{sha256(key.encode()).hexdigest()[:16]}" for key in (KEY, KEY[::-1]))
    told = pki.refused("thing", "boiler", "--key-file", "-", stdin=KEY[::-1])
    assert told == (
        f"Error: boiler: has a certificate for {before}, and a renewed one would be for that, too; --force makes one "
        f"for {after} in its place, and then `securegw pki revoke {serial}` takes the former back\n"
    )
    pki.ok("thing", "boiler", "--key-file", "-", "--force", stdin=KEY[::-1])
    assert "makes its successor" in pki.refused("thing", "boiler", "--key-file", "-", stdin=KEY[::-1])
    assert f"has a certificate for {after}, and" in pki.refused("thing", "boiler", "--key-file", "-", stdin=KEY)
    pki.write("a.csr", csr())
    signed = pki.refused("sign", "a.csr", "--as", "thing", "--name", "boiler", "--id", ID)
    assert "boiler.key: exists" in signed or f"for {ID} in its place" in signed


def test_what_force_leaves_is_told(pki: PKI) -> None:
    pki.ok("ca")
    first = pki.json("client", "alice")["serial"]
    second = pki.json("client", "alice", "--force")["serial"]
    pki.ok("revoke", first)
    result = pki.run("client", "alice", "--cn", "a", "--force")
    assert "The former certificate stays good until " in result.stderr
    assert f"unless it is revoked: securegw pki revoke {second}\n" in result.stderr
    assert first not in result.stderr
    assert "former" not in pki.run("client", "bob", "--force").stderr


def test_what_is_left_to_do_names_another_folder(pki: PKI) -> None:
    pki.ok("ca", "--dir", "of things")
    serial = pki.json("client", "alice", "--dir", "of things")["serial"]
    command = f"securegw pki revoke {serial} --dir 'of things'"
    assert command in pki.refused("client", "alice", "--cn", "a", "--dir", "of things")
    assert command in pki.run("client", "alice", "--force", "--dir", "of things").stderr


def test_help_does_not_promise_a_question(pki: PKI) -> None:
    assert "every command that signs needs --passphrase-file" in " ".join(pki.ok("ca", "--help").split())


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True), (0o604, True)])
def test_a_key_file_that_others_can_read(pki: PKI, mode: int, warned: bool) -> None:
    pki.ok("ca")
    secret = pki.here / pki.write("secret", KEY)
    secret.chmod(mode)
    result = pki.run("thing", "boiler", "--key-file", "secret")
    assert (result.exit_code, "Warning: secret can be read by others" in result.stderr) == (0, warned)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True), (0o640, os.geteuid() != 0)])
def test_the_cas_key_that_others_can_read(pki: PKI, mode: int, warned: bool) -> None:
    pki.ok("ca")
    (pki.folder / "ca.key").chmod(mode)
    for arguments in (("client", "alice"), ("crl",), ("revoke", "alice"), ("renew", "ca")):
        result = pki.run(*arguments)
        told = "Warning: pki/ca.key can be read by others, who can certify anybody: chmod 600, or another CA.\n"
        assert (result.exit_code, told in result.stderr) == (0, warned)


def test_a_passphrase_that_others_can_read(pki: PKI) -> None:
    word = pki.here / pki.write("word", "correct horse\n")
    word.chmod(0o600)
    assert pki.run("ca", "--passphrase-file", str(word)).stderr == ""
    (pki.folder / "ca.key").chmod(0o644)
    assert pki.run("client", "alice", "--passphrase-file", str(word)).stderr == ""  # what others read is sealed
    word.chmod(0o644)
    told = pki.run("client", "bob", "--passphrase-file", str(word)).stderr
    assert told.startswith(f"Warning: {word} can be read by others, who have its secret: chmod 600")


def test_a_key_that_the_registry_does_not_take(pki: PKI) -> None:
    pki.ok("ca")
    assert "a thing's key has at least 16 characters" in pki.refused("thing", "b", "--key-file", "-", stdin="k" * 15)
    pki.ok("thing", "b", "--key-file", "-", stdin="k" * 16)


@pytest.mark.parametrize(
    "arguments",
    [
        ("server",),
        ("server", "--dns", "a b"),
        ("server", "--dns", "\x1b[2Jevil"),
        ("server", "--dns", "192.0.2.1"),
        ("server", "--ip", "gw.example.com"),
        ("server", "--dns", "a.example", "--days", "0"),
        ("server", "--dns", "a.example", "--days", "1000000000"),
        ("server", "--dns", "a.example", "--name", "../../evil"),
        ("thing", "boiler"),
        ("thing", "boiler", "--id", "no-uuid"),
        ("thing", "boiler", "--id", ID, "--key-file", "-"),
        ("client", "../evil"),
        ("client", "/tmp/evil"),
        ("client", "ca"),
        ("client", "a\nb"),
        ("client", "a\0b"),
        ("client", "a" * 10_000),
        ("client", "\u202egpj.exe"),
        ("client", "alice", "--cn", ""),
        ("client", "alice", "--cn", "\x1b[2J"),
        ("client", "alice", "--cn", "a" * 65),
        ("client", "alice", "--uri", "no uri"),
        ("client", "alice", "--email", "no mail"),
        ("sign", "x.csr", "--name", "a"),
        ("sign", "x.csr", "--as", "ca", "--name", "a"),
        ("renew", "ca", "--new-key"),
        ("revoke", "alice", "--reason", "certificateHold"),
    ],
)
def test_a_wrong_use(pki: PKI, arguments: tuple[str, ...]) -> None:
    pki.ok("ca")
    pki.write("x.csr", csr())
    said = pki.refused(*arguments, status=2)
    assert said.translate({ord("\n"): "", ord("\t"): ""}).isprintable()
    assert len(said) < 15_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("client", "alice"),
        ("list",),
        ("crl",),
        ("revoke", "alice"),
        ("renew", "alice"),
        ("server", "--dns", "a.example"),
    ],
)
def test_there_has_to_be_a_ca(pki: PKI, arguments: tuple[str, ...]) -> None:
    assert "securegw pki ca" in pki.refused(*arguments)
    pki.folder.mkdir(mode=0o700)
    assert "has no CA in it; `securegw pki ca` makes one" in pki.refused(*arguments)


def test_a_folder_that_others_can_look_into(pki: PKI) -> None:
    pki.folder.mkdir(mode=0o755)
    assert "chmod 700" in pki.refused("ca")


def test_damage_is_told_in_a_sentence(pki: PKI) -> None:
    pki.ok("ca")
    pki.write("pki/index.json", "{}")
    for arguments in (("list",), ("client", "a"), ("revoke", "a")):
        assert "the index is damaged" in pki.refused(*arguments)
    pki.write("pki/ca.crt", "")
    assert "ca.crt: is not a readable certificate" in pki.refused("list")


def test_a_full_disk_changes_nothing(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    pki.ok("ca")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    told = f"Error: {pki.folder / 'alice.crt'}: No space left on device; nothing was changed\n"
    assert pki.refused("client", "alice") == told


# --- several at once --------------------------------------------------------------------------------------------------

_PROCESS = """
import sys
from pathlib import Path
from gateway.cli.main import Frame
from gateway.cli.pki import pki
from gateway.cli.settings import Installation
Frame("securegw", commands=[pki]).main(["pki", *sys.argv[1:]], obj=Installation(None, {}, Path.cwd()))
"""


def test_commands_at_once_lose_nothing(pki: PKI) -> None:
    pki.ok("ca")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, "client", f"client-{n}"], stdout=subprocess.PIPE, env=environment
        )
        for n in range(3)
    ]
    for child in children:
        with child:
            assert child.wait(60) == 0
    assert {one["name"] for one in pki.json("list")} == {"ca", *(f"client-{n}" for n in range(3))}
