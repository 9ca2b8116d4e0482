"""Private keys: made, written, and read again.

Owns their kinds: ECDSA with P-256, or RSA with 3,072 bits, which is as strong (NIST SP 800-57, table 2). Refuses a CA's
key without its passphrase, with another one, or with one that it does not need: whoever gives one believes that it
protects the key.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.authority.certificates import SigningKey
from gateway.authority.errors import AuthorityError
from gateway.authority.sealing import seal

_RSA_BITS: Final = 3072


def new_key(*, with_rsa: bool = False) -> SigningKey:
    if with_rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def write_key(key: SigningKey, passphrase: bytes | None = None) -> bytes:
    """As PEM, PKCS #8. Raises AuthorityError for a passphrase that is none."""
    if passphrase is not None:
        return seal(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(pem: bytes, passphrase: bytes | None, name: str) -> SigningKey:
    """name: of its file, for the reasons. Raises AuthorityError."""
    sealed = b"ENCRYPTED" in pem
    if sealed and passphrase is None:
        raise AuthorityError(f"{name}: is protected by a passphrase; give it with --passphrase-file")
    if passphrase is not None and not sealed:
        raise AuthorityError(f"{name}: is not protected by a passphrase, yet one is given")
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if sealed:
            raise AuthorityError(f"{name}: the passphrase does not open it, or it is damaged") from None
        raise AuthorityError(f"{name}: is not a readable PEM private key") from None
    if not isinstance(key, SigningKey):
        raise AuthorityError(f"{name}: is neither an ECDSA nor an RSA key")
    return key
