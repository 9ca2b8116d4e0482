"""The sections [jwt:NAME]: whose tokens are believed, and which of them no more.

Owns how public keys, a key set and the list of revoked tokens become settings. Refuses a section without any key, and
words about a URL where there is none. It reads those files; what a URL names is fetched elsewhere, and later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway import jwks, named_files, revoked_tokens
from gateway.ini import Reading
from gateway.settings import JWTSettings
from gateway.tokens import VerificationKey, load_public_key


def jwt_settings(reading: Reading, section: str, name: str) -> JWTSettings:
    values = reading.values(section)
    if not (reading.given(section, "public_keys") or reading.given(section, "jwks")):
        reading.problems.add(section, "public_keys", "is required, or else jwks: without a key nobody is let in")
    source: Path | str | None = values["jwks"]
    url = source if isinstance(source, str) else None
    if url is None:
        _check_unused(reading, section)
    return JWTSettings(
        name,
        (*_public_keys(reading, section, values), *_key_set(reading, section, source)),
        values["issuer"],
        values["audience"] or (),
        values["leeway"],
        values["max_lifetime"],
        url,
        values["jwks_root_certificate"],
        values["jwks_refresh"],
        _revoked(reading, section, values["revoked"]),
        values["revoked"],
    )


def _check_unused(reading: Reading, section: str) -> None:
    for key in ("jwks_root_certificate", "jwks_refresh"):
        if reading.given(section, key):
            reading.problems.add(section, key, "is of no use: jwks is not a URL")


def _public_keys(reading: Reading, section: str, values: Mapping[str, Any]) -> list[VerificationKey]:
    keys: list[VerificationKey] = []
    for path, kid in values["public_keys"] or ():
        with reading.problems.at(section, "public_keys"):
            pem = named_files.read(path)
            try:
                keys.append(load_public_key(pem, kid))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    return keys


def _key_set(reading: Reading, section: str, source: Path | str | None) -> tuple[VerificationKey, ...]:
    """Of a file; nothing of a URL."""
    if isinstance(source, Path):
        with reading.problems.at(section, "jwks"):
            document = named_files.read(source, jwks.MAX_DOCUMENT)
            try:
                return jwks.parse(document)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
    return ()


def _revoked(reading: Reading, section: str, path: Path | None) -> frozenset[str]:
    if path is not None:
        with reading.problems.at(section, "revoked"):
            return revoked_tokens.read(path)
    return frozenset()
