"""`securegw token`: the keys that sign tokens, and the tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from gateway.cli import files
from gateway.cli.options import as_json, force
from gateway.cli.output import compact, note, record, write
from gateway.cli.token_files import passphrase, passphrase_file
from gateway.cli.token_issue import issue
from gateway.cli.token_reading import inspect, verify
from gateway.cli.token_revoke import revoke

# As in `gateway.token_issuing`, which a shell that completes a word does not wait for.
_KINDS = ("ed25519", "es256", "es384", "rs256")


@click.group()
def token() -> None:
    """Tokens (JWT), PostgreSQL's passwords here.

    A client shows one in the place of a password.

    Whoever has the private key can make tokens for everybody, so it stays away from the gateway, which needs only the
    public one, as [jwt:main] public_keys.

    \b
    Examples:
      securegw token keygen --out issuer
      securegw token issue --key issuer.key --sub alice --ttl 8h --out alice.token
      securegw token verify alice.token
      securegw token revoke --token-file alice.token
    """


@token.command()
@click.option("--out", metavar="NAME", default="issuer", show_default=True, help="Makes NAME.key and NAME.pub.")
@click.option("--alg", type=click.Choice(_KINDS), default="ed25519", show_default=True, help="The kind of key.")
@passphrase_file
@force
@as_json
def keygen(out: str, alg: str, passphrase_file: str | None, force: bool, as_json: bool) -> None:
    """Make a key that signs tokens.

    NAME.key is private (0600, for its owner alone); NAME.pub is for the gateway.

    \b
    Examples:
      securegw token keygen
      securegw token keygen --out issuer-2031 --alg es256 --passphrase-file word
    """
    from gateway.token_issuing import KINDS, private_pem, public_pem
    from gateway.tokens import VerificationKey

    secret, public = Path(f"{out}.key"), Path(f"{out}.pub")
    word = passphrase(passphrase_file)
    with _only_with(secret, public), files.private(secret, force) as private, files.private(public, force) as published:
        key = KINDS[alg]()
        private.file.write(private_pem(key, word))
        published.file.write(public_pem(key))
        # What needs room on the disk comes before either has its name.
        private.keep()
        # The gateway, which reads it, is often another user.
        os.fchmod(published.file.fileno(), 0o644)
    made = {"key": str(secret), "public_key": str(public), "kid": VerificationKey(key.public_key()).thumbprint}
    write([compact(made)] if as_json else record(made))
    note(f"For the gateway to believe its tokens, add {public} to public_keys in [jwt:main], and reload.")


@contextmanager
def _only_with(secret: Path, public: Path) -> Iterator[None]:
    """The body puts `public` into its place, and then `secret`. Where only the first comes about, what was there before
    is there again: keys that do not belong together would let nobody in."""
    before = public.with_name(f".{public.name}.{os.getpid()}")
    was = _inode(secret), _inode(public)
    with suppress(OSError):
        os.link(public, before, follow_symlinks=False)
    try:
        yield
    except BaseException:
        if _inode(secret) == was[0] and _inode(public) != was[1]:
            _put_back(before, public)
        raise
    finally:
        before.unlink(missing_ok=True)


def _put_back(before: Path, public: Path) -> None:
    if os.path.lexists(before):
        before.replace(public)
    else:
        public.unlink()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


for _command in (issue, inspect, verify, revoke):
    token.add_command(_command)
