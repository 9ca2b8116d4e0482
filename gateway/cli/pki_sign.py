"""`securegw pki sign`: a certificate for a key that was made elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.authority.kinds import DAYS, KINDS
from gateway.cli.files import read
from gateway.cli.options import as_json, force
from gateway.cli.output import note
from gateway.cli.pki_options import (
    Shown,
    alternatives,
    days,
    directory,
    now,
    passphrase,
    passphrase_file,
    refusals,
    replaced,
    signing,
    tell_of,
)
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.authority.requests import Request


@click.command()
@click.argument("file")
@click.option("--as", "kind", type=click.Choice(KINDS), required=True, help="What it may be used as.")
@click.option("--name", metavar="NAME", required=True, help="Makes NAME.crt.")
@alternatives
@click.option("--ip", metavar="ADDRESS", multiple=True, help="An IP address, for a server.")
@click.option("--cn", metavar="TEXT", help="The common name of a client. Default: NAME.")
@click.option(
    "--key-file", metavar="FILE", help="The secret key of a thing is the one line of FILE (- is standard input)."
)
@click.option("--id", "identifier", metavar="UUID", help="The id of a thing, instead of its key.")
@click.option("--requested-names", is_flag=True, help="Take the names that the request asks for, too.")
@days(None, f"How long it lasts. Default: {DAYS['server']} for a server, {DAYS['client']} for others.")
@directory
@passphrase_file
@force
@as_json
@click.pass_obj
def sign(
    installation: Installation,
    /,
    file: str,
    kind: str,
    requested_names: bool,
    directory: str,
    passphrase_file: str | None,
    force: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Sign a request that was made elsewhere.

    So the private key never has to travel. FILE is the request (PKCS #10, PEM); - is standard input. Of it only the key
    is taken, once its signature has proven that the sender has the private key. What the certificate says is said here:
    a request could ask for anybody's name.

    \b
    Examples:
      securegw pki sign db.csr --as server --name db --dns db.example.com
      securegw pki sign boiler.csr --as thing --name boiler --key-file -
      securegw pki sign web.csr --as server --name web --requested-names
    """
    from gateway.authority.requests import MAX_REQUEST, read_request
    from gateway.cli.pki_orders import Asked, order

    one = Asked(**asked)
    word = passphrase(passphrase_file, one.key_file, file)
    with refusals():
        request = read_request(read(file, MAX_REQUEST), file)
    wanted = order(kind, one, request, take_names=requested_names)
    with signing(installation, directory, word) as (authority, issuer):
        former = replaced(authority, wanted, directory, force)
        made = authority.sign_request(issuer, wanted, now(), request.public_key, force=force)
    Shown(directory, as_json).made(made)
    _tell_of_the_rest(request, made.record.names)
    tell_of(former, directory)


def _tell_of_the_rest(request: Request, taken: tuple[str, ...]) -> None:
    from gateway.authority.names import shown

    left = [one for one in map(shown, request.names) if one not in taken]
    if left or request.ignored:
        note(f"The request also asks for {', '.join((*left, *request.ignored))}, which is not in the certificate.")
