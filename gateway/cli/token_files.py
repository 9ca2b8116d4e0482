"""What the commands about tokens read: tokens, private keys with their passphrases, and the section [jwt:NAME].

Owns which section is meant. Refuses files that are larger than any that is meant; no reason quotes what is in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli import files
from gateway.cli.errors import Failure
from gateway.cli.settings import Installation, insist

if TYPE_CHECKING:
    from gateway.errors import Problem, Problems
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

token_file = click.option("--token-file", metavar="FILE", help="The token itself (- is standard input).")

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
    """Raises UsageError, Failure, OSError."""
    from gateway.token_issuing import load_private_key

    files.once(path, passphrase_path)
    pem, word = files.read(path, _MAX_KEY), passphrase(passphrase_path)
    try:
        key = load_private_key(pem, word)
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None
    files.warn_of_readers(path, "who can make tokens for everybody: chmod 600, or a new key")
    return key


def read_token(path: str) -> bytes:
    """Without the line feed at its end. Raises Failure, OSError."""
    from gateway.tokens import MAX_TOKEN

    token = files.read(path, MAX_TOKEN + 2).removesuffix(b"\n").removesuffix(b"\r")
    if not token:
        raise Failure(f"{path}: is empty")
    return token


def meant_file(file: str | None, token_file: str | None) -> str:
    """Of the two ways to name a token's file the one that was used. Raises UsageError."""
    if file is None and token_file is not None:
        return token_file
    if file is None or token_file is not None:
        raise click.UsageError("give the token's file once: either FILE or --token-file FILE")
    return file


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
        raise _not_there(path, config, name)
    return config, found


def section_if_any(installation: Installation, name: str | None) -> JWTSettings | None:
    """As `section`, but whoever names none may also have none: tokens can be issued far from the gateway."""
    if name is not None:
        return section(installation, name)[1]
    if installation.ini_if_any() is None:
        return None
    _, config, problems = installation.read()
    return _chosen(config, None, problems)


@dataclass(frozen=True, slots=True)
class Sections:
    """Every [jwt:NAME]. chosen: the one that was named. sound: those without mistakes. wrong: the others' mistakes."""

    config: Config
    chosen: JWTSettings | None
    sound: tuple[JWTSettings, ...]
    wrong: tuple[Problem, ...]


def sections(installation: Installation, name: str | None) -> Sections:
    """As `section`, for what concerns all that believe a token. Raises Failure, ConfigError."""
    path, config, problems = installation.read()
    found = _chosen(config, name, problems)
    if found is None:
        if name or not config.jwt:
            raise _not_there(path, config, name)
        insist(problems, ())
    known = {f"jwt:{one}" for one in config.jwt}
    wrong = tuple(one for one in problems.found if one.section in known)
    unsound = {one.section for one in wrong}
    sound = tuple(one for one in config.jwt.values() if f"jwt:{one.name}" not in unsound)
    return Sections(config, found if name else None, sound, wrong)


def _not_there(path: Path, config: Config, name: str | None) -> Failure:
    known = ", ".join(f"[jwt:{one}]" for one in config.jwt) or "no [jwt:NAME] at all"
    wanted = f"there is no [jwt:{name or 'main'}]" if name or not config.jwt else "say --jwt, for which of them"
    return Failure(f"{path}: {wanted}; it has {known}")


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
