"""What sections say of TLS and of certificates: of a listener, on the way to an upstream, in the rules about clients.

Owns how a listener's own words and those of [tls] fit together. Refuses halves: a certificate without its key, a CA
that would check nobody, words about a TLS that is not there. It reads the CAs that rules name; the other files are
`certs`' to read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256

from gateway.addresses import is_local
from gateway.admission import Admission, AdmissionRule, parse_admission_rule
from gateway.ini import Reading
from gateway.pem import load_certificates
from gateway.schema import TLS
from gateway.things import UUID
from gateway.upstream import Address, ClientTLS, ServerTLS, TLSMode
from gateway.wire.http1 import METHODS

# --- listeners ------------------------------------------------------------------------------------------------------

# The kinds of sections that [tls] is for.
LISTENERS = ("postgres", "https", "mqtt", "tunnel")

# What stands for a key, which is secret, in rules and in the audit (`gateway.identity`).
_OF_A_KEY = re.compile(r"key:[0-9a-f]{16}")
_OF_A_THING = re.compile(UUID)
_METHODS = frozenset(method.decode("ascii") for method in METHODS)


def server_tls(reading: Reading, section: str, own: Mapping[str, Any]) -> ServerTLS | None:
    """None while there is no certificate. own: the values of the listener's section; without one, [tls] has it."""
    shared = reading.values("tls")
    values = {key: shared[key] if own[key] is None else own[key] for key in TLS}
    sections = {key: "tls" for key in TLS if own[key] is None and reading.given("tls", key)}
    _check_client_certificates(reading, section, values, sections)
    missing = [key for key in ("certificate", "key") if values[key] is None]
    if len(missing) == 1:
        (other,) = {"certificate", "key"}.difference(missing)
        reading.once(sections.get(other, section), missing[0], f"is required with {other}")
    elif missing and reading.configured:
        for key in missing:
            _require(reading, section, key)
    return None if missing else ServerTLS(**values, sections=sections)


def _require(reading: Reading, section: str, key: str) -> None:
    """In [tls], once for all listeners; but where another has one of its own, this one was forgotten."""
    listeners = [one for kind in LISTENERS for one, _ in reading.named(kind) if _ends_tls(reading, one)]
    if any(reading.given(one, key) for one in listeners):
        reading.problems.add(section, key, "is required (or in [tls], for all listeners without their own)")
    else:
        each = "each of " if len(listeners) > 1 else ""
        reading.once("tls", key, f"is required (or in {each}{', '.join(f'[{one}]' for one in listeners)})")


def _ends_tls(reading: Reading, section: str) -> bool:
    """A tunnel with mode = client begins it, and its certificate is shown to the upstream."""
    return reading.values(section).get("mode") != "client"


def _check_client_certificates(
    reading: Reading, section: str, values: Mapping[str, Any], sections: Mapping[str, str]
) -> None:
    """Whoever asks for certificates says whose, and whoever names a CA or a CRL says that they are asked for."""
    asked = values["client_certificate"]
    if asked != "none" and values["client_ca"] is None:
        place = sections.get("client_certificate", section)
        reading.once(place, "client_ca", f"is required with client_certificate = {asked}")
    for key in ("client_ca", "client_crl"):
        place = sections.get(key, section)
        # A listener may say none to what [tls] says for the others.
        if asked == "none" and values[key] and (place == section or not reading.given(section, "client_certificate")):
            reading.once(place, "client_certificate", f"is none, so {key} would check nobody")


# --- upstreams ------------------------------------------------------------------------------------------------------


def client_tls(
    reading: Reading,
    section: str,
    values: Mapping[str, Any],
    mode: TLSMode,
    own_keys: tuple[str, str] = ("client_certificate", "client_key"),
    alpn: tuple[bytes, ...] = (),
) -> ClientTLS:
    """own_keys: those that name our own certificate and its key."""
    certificate, key = own_keys
    reading.both(section, values, certificate, key)
    return ClientTLS(mode, values["root_certificate"], values[certificate], values[key], values["crl"], alpn, own_keys)


def check_unused_tls(reading: Reading, section: str, own_keys: tuple[str, str], why: str) -> None:
    """Who names a certificate believes that there is TLS."""
    for key in ("root_certificate", "crl", *own_keys):
        if reading.given(section, key):
            reading.problems.add(section, key, f"is of no use: {why}")


def warn_of_clear_text(reading: Reading, section: str, addresses: tuple[Address, ...], what: str) -> None:
    if not all(is_local(address) or address.host == "localhost" for address in addresses):
        reading.warnings.append(f"[{section}] upstream: {what} in clear text")


# --- rules about clients with certificates --------------------------------------------------------------------------


def admission(
    reading: Reading, section: str, values: Mapping[str, Any], *, methods: bool = True, things: bool = False
) -> Admission:
    """methods: there are requests here, so rules may be about their methods. things: a registry knows the keys, so
    rules are about the ids of things."""
    if values["cn"] == "key" and values["identity"] != "cn":
        reading.problems.add(section, "identity", f"is {values['identity']}, but with cn = key the key is in the CN")

    def parse(line: str, source: str) -> AdmissionRule:
        rule = parse_admission_rule(line, source, partial(_fingerprints, reading.folder))
        if rule.methods and not methods:
            raise ValueError("method is for routes: nobody looks for requests in a tunnel")
        if rule.methods and not rule.methods <= _METHODS:
            raise ValueError("method has one that no client can ask for, such as GET, HEAD, POST")
        named = rule.identities.names.exact
        if things and not all(map(_OF_A_THING.fullmatch, named)):
            raise ValueError("an identity is the id of a thing here, such as 0d7c9a52-…, and a name is none")
        if not things and values["cn"] == "key" and not all(map(_OF_A_KEY.fullmatch, named)):
            # Not which one: it may be the key itself.
            raise ValueError("with cn = key an identity is key: and 16 hexadecimal digits, and a name here is none")
        return rule

    return Admission(reading.rules(section, values["rules"], parse))


def _fingerprints(folder: Path, path: str) -> frozenset[bytes]:
    """Of the certificates in that file: SHA-256, as in TLSFacts.peer_issuers."""
    found = load_certificates(Path(os.path.normpath(folder / path)))
    return frozenset(certificate.fingerprint(SHA256()) for certificate in found)
