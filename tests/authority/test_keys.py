"""Private keys, and the passphrase over that of a CA."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from gateway.authority import sealing
from gateway.authority.certificates import SigningKey
from gateway.authority.errors import AuthorityError
from gateway.authority.keys import new_key, read_key, write_key
from tests.pki import pem

WORD = b"correct horse"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "ROUNDS", 1000)


@pytest.mark.parametrize("with_rsa", [False, True])
@pytest.mark.parametrize("word", [None, WORD, b"\xc3\xa4" * 4, b"x" * 1023])
def test_it_is_read_as_it_was_written(with_rsa: bool, word: bytes | None) -> None:
    key = new_key(with_rsa=with_rsa)
    assert numbers(read_key(write_key(key, word), word, "ca.key")) == numbers(key)


def numbers(key: SigningKey) -> object:
    return key.private_numbers()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("rounds", [127, 128, 600_000])
def test_openssl_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Also where the number has its highest bit set, and needs one more octet (X.690, 8.3)."""
    monkeypatch.setattr(sealing, "ROUNDS", rounds)
    key = new_key()
    (tmp_path / "ca.key").write_bytes(write_key(key, WORD))
    (tmp_path / "word").write_bytes(WORD)
    command = ["openssl", "pkey", "-in", str(tmp_path / "ca.key"), "-passin", f"file:{tmp_path / 'word'}"]
    opened = subprocess.run(command, capture_output=True, check=True).stdout
    assert numbers(read_key(opened, None, "opened")) == numbers(key)


def test_guessing_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sealing.ROUNDS >= 600_000  # OWASP


@pytest.mark.parametrize("word", [b"", b"short", b"x" * 1024])
def test_a_passphrase_that_is_none(word: bytes) -> None:
    with pytest.raises(AuthorityError, match="8 to 1023 bytes"):
        write_key(new_key(), word)


@pytest.mark.parametrize(
    ("written", "given", "reason"),
    [
        (WORD, None, "--passphrase-file"),
        (WORD, b"another one", "does not open it"),
        (None, WORD, "is not protected by a passphrase"),
    ],
)
def test_the_passphrase_has_to_be_that_of_the_key(written: bytes | None, given: bytes | None, reason: str) -> None:
    sealed = write_key(new_key(), written)
    with pytest.raises(AuthorityError, match=reason) as refused:
        read_key(sealed, given, "ca.key")
    assert "correct" not in str(refused.value)
    assert "another" not in str(refused.value)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_that_somebody_else_sealed(form: PrivateFormat) -> None:
    key = new_key()
    other = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(WORD))
    assert numbers(read_key(other, WORD, "ca.key")) == numbers(key)
    with pytest.raises(AuthorityError, match="--passphrase-file"):
        read_key(other, None, "ca.key")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, pem(new_key())[:-40], b"-----BEGIN PRIVATE KEY-----\n"])
def test_what_is_no_key(content: bytes) -> None:
    with pytest.raises(AuthorityError, match="not a readable PEM private key"):
        read_key(content, None, "ca.key")


def test_a_key_of_a_kind_that_is_not_used() -> None:
    with pytest.raises(AuthorityError, match="neither an ECDSA nor an RSA key"):
        read_key(pem(ed25519.Ed25519PrivateKey.generate()), None, "ca.key")
