"""What the commands about tokens read: tokens, private keys with their passphrases, and the section [jwt:NAME].

Owns which section is meant. Refuses files that are larger than any that is meant; no reason quotes what is in one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli import files
from gateway.cli.errors import Failure
from gateway.cli.output import note
from gateway.cli.settings import Installation, insist

if TYPE_CHECKING:
    from gateway.errors import Problems
    from gateway.settings import Config, JWTSettings
    from gateway.token_issuing import PrivateKey

# RSA of 16,384 bits has 12 KB, in PEM and encrypted.
_MAX_KEY: Final = 64 * 1024

# What OpenSSL takes for PKCS #8; cryptography refuses more.
_MAX_PASSPHRASE: Final = 1023

passphrase_file = click.option(
    "--passphrase-file",
    metavar="FILE",
    help="The passphrase of the private key is the one line of FILE (- is standard input).",
)

jwt_name = click.option(
    "--jwt",
    "jwt_name",
    metavar="NAME",
    help="The section [jwt:NAME] of the configuration. Default: main, or the only one.",
)


def passphrase(path: str | None) -> bytes | None:
    """Never an argument, which every user of the machine could read. Raises Failure, OSError."""
    if path is None:
        return None
    word = files.read_key(path).encode("utf-8")
    if len(word) > _MAX_PASSPHRASE:
        raise Failure(f"{path}: the passphrase is longer than {_MAX_PASSPHRASE} bytes")
    return word


def private_key(path: str, passphrase_path: str | None) -> PrivateKey:
    """Raises Failure, OSError."""
    from gateway.pem import exposed
    from gateway.token_issuing import load_private_key

    if path == passphrase_path == files.STREAM:
        raise click.UsageError("standard input cannot be both the key and its passphrase")
    pem, word = files.read(path, _MAX_KEY), passphrase(passphrase_path)
    try:
        key = load_private_key(pem, word)
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None
    if path != files.STREAM and exposed(Path(path)):
        note(f"Warning: {path} can be read by others, who can make tokens for everybody: chmod 600, or a new key.")
    return key


def read_token(path: str) -> bytes:
    """Without the line feed at its end. Raises Failure, OSError."""
    from gateway.tokens import MAX_TOKEN

    token = files.read(path, MAX_TOKEN + 2).removesuffix(b"\n").removesuffix(b"\r")
    if not token:
        raise Failure(f"{path}: is empty")
    return token


def certificate(path: str) -> bytes:
    """DER of the first certificate in a PEM file, which is the client's own. Raises Failure, OSError."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from gateway.pem import load_certificates

    try:
        return load_certificates(Path(path))[0].public_bytes(Encoding.DER)
    except ValueError as error:
        raise Failure(str(error)) from None


def section(installation: Installation, name: str | None) -> tuple[Config, JWTSettings]:
    """The configuration, and its [jwt:NAME], whatever is wrong with other sections: a token can be revoked while the
    INI is being edited. Raises Failure, ConfigError."""
    path, config, problems = installation.read()
    found = _chosen(config, name, problems)
    if found is None:
        known = ", ".join(f"[jwt:{one}]" for one in config.jwt) or "no [jwt:NAME] at all"
        wanted = f"there is no [jwt:{name or 'main'}]" if name or not config.jwt else "say --jwt, for which of them"
        raise Failure(f"{path}: {wanted}; it has {known}")
    return config, found


def section_if_any(installation: Installation, name: str | None) -> JWTSettings | None:
    """As `section`, but whoever names none may also have none: tokens can be issued far from the gateway."""
    if name is not None:
        return section(installation, name)[1]
    try:
        installation.ini()
    except Failure:
        return None
    _, config, problems = installation.read()
    return _chosen(config, None, problems)


def _chosen(config: Config, name: str | None, problems: Problems) -> JWTSettings | None:
    """Raises ConfigError for what is wrong with that section, or could be it."""
    found = config.jwt.get(name or "main")
    if found is None and (not config.jwt or any(one.key == "section" for one in problems.found)):
        problems.raise_if_any()
    if name is None and len(config.jwt) == 1:
        found = next(iter(config.jwt.values()))
    if found is not None:
        insist(problems, (f"jwt:{found.name}",))
    return found
