"""Certificate signing requests made elsewhere (PKCS #10, RFC 2986).

Owns what is believed of one: that its sender has the private key, and nothing else. Which names it asks for can be
read, but they become part of a certificate only by somebody's word. Refuses keys that are too weak to be worth signing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from gateway.authority import names
from gateway.authority.errors import AuthorityError

# With a long RSA key and a hundred names it is some 10 KB.
MAX_REQUEST: Final = 64 * 1024

# CA/Browser Forum, Baseline Requirements, 6.1.5 and 6.1.6; beyond the last, verifying is a burden to everybody.
_RSA_BITS: Final = (2048, 8192)
_MIN_EXPONENT: Final = 65537
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

# RFC 7468, 7 and appendix A; exactly one, so that it is clear which request somebody has looked at.
_BEGIN: Final = re.compile(rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----")
_ANY_BEGIN: Final = b"-----BEGIN"

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

# The forms that a certificate of ours may have, each by the grammar that it must pass.
_FORMS: Final[Mapping[type[x509.GeneralName], Callable[[str], x509.GeneralName]]] = {
    x509.DNSName: names.dns,
    x509.IPAddress: names.ip,
    x509.RFC822Name: names.email,
    x509.UniformResourceIdentifier: names.uri,
}


@dataclass(frozen=True, slots=True)
class Request:
    """names: those that it asks for. ignored: what else it asks for, by the names of the extensions."""

    public_key: CertificatePublicKeyTypes
    names: tuple[x509.GeneralName, ...]
    ignored: tuple[str, ...]


def read_request(pem: bytes, name: str) -> Request:
    """name: of its file, for the reasons. Raises AuthorityError."""
    if len(pem) > MAX_REQUEST or pem.count(_ANY_BEGIN) != 1 or not _BEGIN.search(pem):
        raise AuthorityError(f"{name}: is not a certificate signing request alone, as PEM")
    try:
        request = x509.load_pem_x509_csr(pem)
        extensions, public_key, signed = request.extensions, request.public_key(), request.is_signature_valid
    except _UNREADABLE:
        raise AuthorityError(f"{name}: is not a readable PEM certificate signing request") from None
    if not signed:
        raise AuthorityError(f"{name}: is not signed by the key in it, so its sender need not have that key")
    asked = [one.value for one in extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    others = [one for one in extensions if not isinstance(one.value, x509.SubjectAlternativeName)]
    # No library names every extension there is; its number does.
    ignored = tuple(type(one.value).__name__ if _known(one) else one.oid.dotted_string for one in others)
    return Request(_strong(public_key, name), tuple(asked[0]) if asked else (), ignored)


def _known(extension: x509.Extension[x509.ExtensionType]) -> bool:
    return not isinstance(extension.value, x509.UnrecognizedExtension)


def _strong(key: CertificatePublicKeyTypes, name: str) -> CertificatePublicKeyTypes:
    if isinstance(key, rsa.RSAPublicKey):
        fewest, most = _RSA_BITS
        if not fewest <= key.key_size <= most or key.public_numbers().e < _MIN_EXPONENT:
            raise AuthorityError(
                f"{name}: an RSA key has {fewest} to {most} bits, not {key.key_size}, and an exponent from "
                f"{_MIN_EXPONENT} on"
            )
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    raise AuthorityError(f"{name}: its key is neither RSA, nor ECDSA with P-256, P-384 or P-521")


def requested(request: Request, forms: tuple[type[x509.GeneralName], ...]) -> tuple[x509.GeneralName, ...]:
    """The names that it asks for, if a certificate of that kind may have each of them. A wildcard is nothing that one
    asks for. Raises AuthorityError."""
    found = []
    for one in request.names:
        if not isinstance(one, forms) or type(one) not in _FORMS:
            raise AuthorityError(f"the request asks for {_told(one)}, which this kind of certificate cannot have")
        if isinstance(one, x509.DNSName) and "*" in one.value:
            raise AuthorityError(f"the request asks for {_told(one)}: a wildcard has to be named, with --dns")
        found.append(_FORMS[type(one)](str(one.value)))
    return tuple(found)


def _told(name: x509.GeneralName) -> str:
    return names.shown(name) if type(name) in _FORMS else f"a {type(name).__name__}"
