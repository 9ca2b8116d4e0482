"""What may stand in a certificate, and what its files may be called.

Owns the grammars of the names that are signed: stricter than what most readers take, since one strict reader is enough
to make a certificate useless. Refuses names that could mean a path, a second name, or what the CA must not vouch for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.authority.errors import AuthorityError

# ub-common-name (RFC 5280, appendix A.1): of characters there, of the bytes of their UTF-8 to some readers.
MAX_COMMON_NAME: Final = 64

# RFC 1035, 2.3.4, and RFC 5321, 4.5.3.1.3 less the brackets; as long as a SPIFFE ID may be (SPIFFE-ID, section 2.3).
_MAX_DNS: Final = 253
_MAX_EMAIL: Final = 254
_MAX_URI: Final = 2048

# How much of a key's SHA-256 stands for it: as in gateway.identity, so that rules, audit and index say the same.
_KEY_DIGITS: Final = 16

_FILE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_OURS: Final = "ca"

_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LOCAL_PART: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# RFC 3986, 3, with a scheme, and a host without user and brackets where there is an authority (RFC 5280, 4.2.1.6).
_URI: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?=.)"
    r"(?://[A-Za-z0-9._-]+(?::[0-9]{1,5})?(?=[/?#]|\Z)|(?!//))"
    r"(?:[A-Za-z0-9._~:/?@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
    r"(?:#(?:[A-Za-z0-9._~:/?@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?"
)
_VISIBLE: Final = re.compile(r"[!-~]+")
# What OpenSSL takes for a host in a common name, where no DNS name stands beside it (X509_check_host, CN2DNSID).
_HOST_LIKE: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")


def file_name(name: str) -> str:
    """What the files NAME.crt and NAME.key are called by. Raises AuthorityError."""
    if not _FILE.fullmatch(name):
        raise AuthorityError(
            f"{_short(name)}: a name is 1 to 64 letters of ASCII, digits, '-', '_' and '.', begins with a letter or a "
            "digit, and does not end with a '.'; files are called by it"
        )
    if name.casefold() == _OURS:
        raise AuthorityError(f"{name}: is the name of the authority's own files")
    return name


def _short(text: str) -> str:
    return text if len(text) <= MAX_COMMON_NAME else f"{text[:MAX_COMMON_NAME]}..."


# --- the subject ----------------------------------------------------------------------------------------------------


def subject(common_name: str) -> x509.Name:
    """With one common name, as a UTF8String, which gateway.identity can read. Raises AuthorityError."""
    if not common_name.isprintable() or common_name != common_name.strip():
        raise AuthorityError(
            "a common name has only characters that can be seen, and neither begins nor ends with a space"
        )
    size = len(common_name.encode())
    if not 0 < size <= MAX_COMMON_NAME:
        raise AuthorityError(f"a common name has 1 to {MAX_COMMON_NAME} bytes of UTF-8, not {size} (RFC 5280)")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def key_subject(key: str) -> x509.Name:
    """Of a thing whose certificate carries its secret key. Raises AuthorityError, which never quotes it."""
    if not _VISIBLE.fullmatch(key):
        raise AuthorityError("a key in a certificate has only visible characters of ASCII, and no space")
    if len(key) > MAX_COMMON_NAME:
        raise AuthorityError(
            f"the key has {len(key)} characters, and a common name at most {MAX_COMMON_NAME} (RFC 5280, appendix A.1): "
            "give the thing a shorter key, or a certificate for its id (--id), with cn = id at its listener"
        )
    return subject(key)


def id_subject(identifier: str) -> x509.Name:
    """Of a thing whose certificate carries its id, in the text that the registry writes. Raises AuthorityError."""
    try:
        return subject(str(UUID(identifier)))
    except ValueError:
        raise AuthorityError(f"{_short(identifier)}: is no UUID") from None


def server_subject(names: Sequence[x509.GeneralName]) -> x509.Name:
    """The first of its names that has room in a common name; where none has, the subject is empty and the names are
    critical (RFC 5280, 4.1.2.6). Clients look at the names alone (RFC 9525, 2)."""
    for name in map(str, (one.value for one in names)):
        if len(name) <= MAX_COMMON_NAME:
            return subject(name)
    return x509.Name([])


def key_shown(key: str) -> str:
    """What stands for a secret key where people read: as in an Identity."""
    return f"key:{sha256(key.encode()).hexdigest()[:_KEY_DIGITS]}"


def common_name(name: x509.Name) -> str:
    """The first one, or nothing."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


# --- subjectAltName -------------------------------------------------------------------------------------------------


def dns(text: str) -> x509.DNSName:
    """In lower case; `*.` may stand for one label before two others. Raises AuthorityError."""
    name = text.lower()
    host = name.removeprefix("*.")
    if not host.isascii():
        raise AuthorityError(f"{_short(text)}: write a DNS name that is not ASCII in its form with xn--")
    if not _HOST.fullmatch(host) or len(name) > _MAX_DNS:
        raise AuthorityError(f"{_short(text)}: is no DNS name")
    if host.rpartition(".")[2].isdigit():
        raise AuthorityError(f"{_short(text)}: is no DNS name; an address is given with --ip")
    if host != name and "." not in host:
        raise AuthorityError(f"{_short(text)}: is a wildcard for everything below a top-level domain")
    return x509.DNSName(name)


def ip(text: str) -> x509.IPAddress:
    """Raises AuthorityError."""
    try:
        address = ip_address(text)
    except ValueError:
        raise AuthorityError(f"{_short(text)}: is no IP address") from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise AuthorityError(f"{_short(text)}: a zone means something on one machine only")
    return x509.IPAddress(address)


def email(text: str) -> x509.RFC822Name:
    """Raises AuthorityError."""
    local, _, host = text.rpartition("@")
    if not _LOCAL_PART.fullmatch(local) or not _HOST.fullmatch(host.lower()) or len(text) > _MAX_EMAIL:
        raise AuthorityError(f"{_short(text)}: is no e-mail address of ASCII characters")
    return x509.RFC822Name(text)


def uri(text: str) -> x509.UniformResourceIdentifier:
    """Raises AuthorityError."""
    if not _URI.fullmatch(text) or len(text) > _MAX_URI:
        raise AuthorityError(f"{_short(text)}: is no absolute URI, or has a host that is not a plain name")
    return x509.UniformResourceIdentifier(text)


def shown(name: x509.GeneralName) -> str:
    """As people and the index read it: `dns:gw.example.com`."""
    kinds = {x509.DNSName: "dns", x509.IPAddress: "ip", x509.RFC822Name: "email"}
    return f"{kinds.get(type(name), 'uri')}:{name.value}"


# --- name constraints -----------------------------------------------------------------------------------------------

_EVERY_ADDRESS: Final = (x509.IPAddress(ip_network("0.0.0.0/0")), x509.IPAddress(ip_network("::/0")))


def constraints(domains: Sequence[str], networks: Sequence[str]) -> x509.NameConstraints | None:
    """A CA for these domains (and what is below them) and networks only (RFC 5280, 4.2.1.10); None: no constraint.

    An address is a name of another form, which a list of domains alone would leave free: without networks there are
    none. Raises AuthorityError.
    """
    if not domains and not networks:
        return None
    if not domains:
        raise AuthorityError("a CA that is for networks has to be for a domain, too; otherwise every DNS name is free")
    named: list[x509.GeneralName] = [_domain(one) for one in domains]
    within = [x509.IPAddress(_network(one)) for one in networks]
    return x509.NameConstraints([*named, *within], None if within else list(_EVERY_ADDRESS))


def _domain(text: str) -> x509.DNSName:
    if text.startswith(("*", ".")):
        raise AuthorityError(f"{_short(text)}: a domain is given by itself, and means what is below it, too")
    return dns(text)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise AuthorityError(f"{_short(text)}: is no network, such as 192.0.2.0/24") from None


def refuse_beyond(
    limits: x509.NameConstraints | None, subject_name: x509.Name, names: Sequence[x509.GeneralName]
) -> None:
    """A name that the CA's constraints exclude makes the whole certificate worthless. Raises AuthorityError."""
    if limits is None:
        return
    permitted = limits.permitted_subtrees or []
    domains = [one.value for one in permitted if isinstance(one, x509.DNSName)]
    networks = [one.value for one in permitted if isinstance(one, x509.IPAddress)]
    for name in names:
        inside = True
        if isinstance(name, x509.DNSName):
            inside = _below(name.value, domains)
        elif isinstance(name, x509.IPAddress):
            inside = any(_contains(network, name.value) for network in networks)
        if not inside:
            raise AuthorityError(f"{shown(name)}: is not among what this CA is for (its name constraints)")
    _refuse_host_like(common_name(subject_name), names, domains)


def _refuse_host_like(name: str, names: Sequence[x509.GeneralName], domains: Sequence[str]) -> None:
    """OpenSSL holds a common name that looks like a host to the constraints, where no DNS name stands beside it."""
    if any(isinstance(one, x509.DNSName) for one in names) or not _HOST_LIKE.fullmatch(name):
        return
    if not _below(name.lower(), domains):
        # Not quoted: it may be a thing's key.
        raise AuthorityError("its common name looks like a host, and no such host is among what this CA is for")


def _below(name: str, domains: Sequence[str]) -> bool:
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)


def _contains(
    network: IPv4Network | IPv6Network | IPv4Address | IPv6Address,
    address: IPv4Network | IPv6Network | IPv4Address | IPv6Address,
) -> bool:
    return isinstance(network, IPv4Network | IPv6Network) and address in network
