"""A private key under a passphrase: PKCS #8 with PBES2 (RFC 8018, 6.2), which OpenSSL and others open.

Owns the writing alone, because the library's own asks whoever guesses for 2,048 rounds only; it reads what is written
here. Refuses passphrases that would protect nothing.
"""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7

from gateway.authority.errors import AuthorityError

# OWASP's number for PBKDF2 with HMAC-SHA256: a third of a second for each guess, and each command.
ROUNDS: Final = 600_000

# Shorter ones are found in spite of that; longer ones the library does not take when it reads.
MIN_PASSPHRASE: Final = 8
MAX_PASSPHRASE: Final = 1023

# RFC 8018, appendix C; NIST's registry for the last.
_PBES2: Final = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2: Final = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256: Final = bytes.fromhex("06082a864886f70d02090500")  # with the NULL of its parameters
_AES256_CBC: Final = bytes.fromhex("060960864801650304012a")

_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30


def seal(private_key: bytes, passphrase: bytes) -> bytes:
    """The DER of a PrivateKeyInfo as the PEM of an EncryptedPrivateKeyInfo. Raises AuthorityError."""
    if not MIN_PASSPHRASE <= len(passphrase) <= MAX_PASSPHRASE:
        raise AuthorityError(f"a passphrase has {MIN_PASSPHRASE} to {MAX_PASSPHRASE} bytes")
    salt, iv = os.urandom(16), os.urandom(16)
    key = PBKDF2HMAC(SHA256(), 32, salt, ROUNDS).derive(passphrase)
    padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padder.update(private_key) + padder.finalize()) + encryptor.finalize()
    rounds = ROUNDS.to_bytes((ROUNDS.bit_length() + 8) // 8, "big")
    derivation = _der(_OCTETS, salt) + _der(_INTEGER, rounds) + _der(_SEQUENCE, _HMAC_SHA256)
    scheme = _der(_SEQUENCE, _PBKDF2 + _der(_SEQUENCE, derivation)) + _der(_SEQUENCE, _AES256_CBC + _der(_OCTETS, iv))
    algorithm = _der(_SEQUENCE, _PBES2 + _der(_SEQUENCE, scheme))
    return _pem(_der(_SEQUENCE, algorithm + _der(_OCTETS, encrypted)))


def _der(tag: int, content: bytes) -> bytes:
    """X.690, 8.1.3, and 10.1: the shortest form of the length."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _pem(der: bytes) -> bytes:
    """RFC 7468, 11; its lines are of 64 characters."""
    text = b64encode(der)
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + lines + b"\n-----END ENCRYPTED PRIVATE KEY-----\n"
