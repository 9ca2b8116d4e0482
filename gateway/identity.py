"""Who is there: an Identity, from token claims or from a client certificate.

Owns the value, and the reading of a certificate's names, from its DER alone: proving a token is the work of `tokens`,
proving a certificate that of the TLS layer. Refuses, always as Denied, a certificate whose name two readers could take
for two names. No name is folded, trimmed or normalised, and none is in the text of a refusal: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.errors import Denied
from gateway.serials import serial_text

# X.520 allows a common name 64 characters; authorities for machines go beyond that.
MAX_KEY: Final = 256

# As long as a SPIFFE ID may be (SPIFFE-ID, section 2.3); a subject is in every audit record.
MAX_NAME: Final = 2048


@dataclass(frozen=True, slots=True)
class Identity:
    """A proven identity. Its expiry becomes the deadline of the session that it opens.

    kind: `"jwt"` or `"certificate"`.
    subject: the exact name that was proven (`sub`, or a name in the certificate). Of a key, which is secret, `key:` and
    the first 16 hexadecimal digits of its SHA-256.
    expires: seconds since the epoch; the session ends then.
    serial: what names this one credential for audit and revocation (`jti`; a certificate's in hexadecimal), or None.
    claims: every verified claim, read only; never logged.
    key: the secret that the certificate's CN holds, or None.
    issuers: SHA-256 of each certificate that vouches for it.
    """

    kind: str
    subject: str
    expires: float
    serial: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    key: bytes | None = field(default=None, repr=False)
    issuers: tuple[bytes, ...] = ()


def from_certificate(
    certificate: bytes, expires: float, issuers: tuple[bytes, ...], *, cn: str = "id", source: str = "cn"
) -> Identity:
    """Whom that DER certificate, whose chain the TLS layer has verified, is for.

    cn: `"key"`: its common name is the thing's secret key; `"id"`: a name in it is the identity, and `source` says
    which: `"cn"`, or the one subjectAltName of type `"uri"`, `"dns"`, `"email"`. Raises Denied for a certificate that
    does not say exactly one such name in one way (RFC 5280, 4.1.2.6 and 4.2.1.6).
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        name = _common_name(parsed.subject) if cn != "id" or source == "cn" else _alternative_name(parsed, source)
        serial = serial_text(parsed.serial_number)
    except _UNREADABLE:
        raise Denied("the certificate cannot be read") from None
    if cn == "id":
        return Identity("certificate", name, expires, serial, issuers=issuers)
    key = _key(name)
    return Identity("certificate", f"key:{sha256(key).hexdigest()[:16]}", expires, serial, key=key, issuers=issuers)


def serial_number(certificate: bytes) -> str | None:
    """That of a DER certificate in hexadecimal, as `from_certificate` has it; None for one that cannot be read."""
    try:
        return serial_text(x509.load_der_x509_certificate(certificate).serial_number)
    except _UNREADABLE:
        return None


# What cryptography raises, at once or when a field is first asked for, for DER that is not a certificate's.
_UNREADABLE: Final = (
    ValueError,
    TypeError,  # a common name that is a BIT STRING
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

_ALTERNATIVES: Final[Mapping[str, type[x509.UniformResourceIdentifier | x509.DNSName | x509.RFC822Name]]] = {
    "uri": x509.UniformResourceIdentifier,
    "dns": x509.DNSName,
    "email": x509.RFC822Name,
}

# An IA5String (RFC 5280, 4.2.1.6) without its controls and its space, which no URI, host name or mailbox needs.
_VISIBLE: Final = re.compile(r"[!-~]+")


def _common_name(subject: x509.Name) -> str:
    if any(len(rdn) != 1 for rdn in subject.rdns):
        raise Denied("the certificate's subject has an RDN of several values")
    found = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1:
        raise Denied(f"the certificate has {len(found)} common names")
    name = found[0].value
    if not isinstance(name, str) or _string_type(found[0]) not in _STRING_TYPES:
        raise Denied("the certificate's common name is neither a UTF8String nor a PrintableString")
    if not name.isprintable():
        # Controls, formats, and every space but U+0020: nobody can see them in a rule, nor a log tell them.
        raise Denied("the certificate's common name has a character that cannot be seen")
    if name != name.strip():
        raise Denied("the certificate's common name begins or ends with a space")
    return _bounded(name)


_COMMON_NAME: Final = bytes.fromhex("0603550403")  # OBJECT IDENTIFIER 2.5.4.3

# What RFC 5280, 4.1.2.4, leaves an authority. A TeletexString, for one, is T.61 to one reader and Latin-1 to another.
_STRING_TYPES: Final = (b"\x0c", b"\x13")


def _string_type(name: x509.NameAttribute[str | bytes]) -> bytes:
    """The ASN.1 tag of a common name; cryptography tells it only by writing the name again as it was."""
    return x509.Name([name]).public_bytes().partition(_COMMON_NAME)[2][:1]


def _alternative_name(certificate: x509.Certificate, source: str) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise Denied("the certificate has no subjectAltName") from None
    found = names.get_values_for_type(_ALTERNATIVES[source])
    if len(found) != 1:
        raise Denied(f"the certificate has {len(found)} names of the type {source} in its subjectAltName")
    if not _VISIBLE.fullmatch(found[0]):
        raise Denied(f"the certificate's {source} has a character that has no place in one")
    if source == "dns" and "*" in found[0]:
        raise Denied("the certificate's dns is a wildcard, so the name of nobody in particular")
    return _bounded(found[0])


def _bounded(name: str) -> str:
    if not 0 < len(name.encode()) <= MAX_NAME:
        raise Denied(f"the certificate's name is empty or longer than {MAX_NAME} bytes")
    return name


def _key(name: str) -> bytes:
    """Visible ASCII, since it has to stand in a field value (RFC 9110, 5.5). No space, since `a b` there could as well
    be the key `b` after the scheme `a`."""
    if not _VISIBLE.fullmatch(name) or len(name) > MAX_KEY:
        raise Denied(f"the certificate's common name is no key of 1 to {MAX_KEY} visible ASCII characters")
    return name.encode()
