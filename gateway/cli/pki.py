"""`securegw pki`: a certificate authority of one's own, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.authority.kinds import DAYS
from gateway.cli.options import as_json, force
from gateway.cli.output import compact, record, write
from gateway.cli.pki_options import (
    Shown,
    alternatives,
    days,
    directory,
    making,
    now,
    passphrase,
    passphrase_file,
    refusals,
    replaced,
    signing,
    tell_of,
    until,
    with_rsa,
)
from gateway.cli.pki_records import crl, list_, renew, revoke
from gateway.cli.pki_sign import sign
from gateway.cli.settings import Installation


@click.group()
def pki() -> None:
    """Certificates, by a CA in a folder.

    The folder has the CA's certificate ca.crt, which whoever checks certificates needs; its private key ca.key, which
    nobody but you needs; the list of revoked certificates crl.pem, for client_crl; an index; and NAME.crt with NAME.key
    for each certificate. Whoever has ca.key can be anybody: keep the folder where only you can read it, and have a
    backup of it.

    \b
    Examples:
      securegw pki ca --passphrase-file ca.pass
      securegw pki server --dns gw.example.com --passphrase-file ca.pass
      securegw pki thing boiler --key-file boiler.secret --passphrase-file ca.pass
      securegw pki list --expiring 30
      securegw pki revoke boiler --passphrase-file ca.pass
    """


@pki.command()
@directory
@click.option("--name", metavar="TEXT", default="securegw CA", show_default=True, help="Its common name.")
@days(1095, "How long it lasts, and so at most what it signs.")
@with_rsa
@passphrase_file
@click.option("--permit-dns", metavar="DOMAIN", multiple=True, help="It is for this domain, and what is below, only.")
@click.option("--permit-ip", metavar="NETWORK", multiple=True, help="With --permit-dns: for this network only.")
@force
@as_json
@click.pass_obj
def ca(
    installation: Installation,
    directory: str,
    name: str,
    days: int,
    with_rsa: bool,
    passphrase_file: str | None,
    permit_dns: tuple[str, ...],
    permit_ip: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Make a CA.

    That is ca.crt, ca.key (0600), crl.pem and an index, in a folder for you alone (0700).

    With a passphrase its key is of no use to whoever gets the file, and every command that signs needs
    --passphrase-file. With --permit-dns it can vouch for no DNS name beyond that domain, and for no IP address but
    those of --permit-ip; names of clients, such as e-mail addresses and URIs, stay free.

    \b
    Examples:
      securegw pki ca
      securegw pki ca --name "Example CA" --permit-dns example.com
      securegw pki ca --dir /srv/pki --rsa --days 3650
    """
    from gateway.authority import names
    from gateway.authority.authority import CERTIFICATE, CRL, KEY, Foundation, found

    word = passphrase(passphrase_file)
    with refusals():
        wanted = Foundation(name, days, names.constraints(permit_dns, permit_ip), with_rsa)
        end = found(installation.folder / directory, wanted, now(), word, force=force)
    files = {
        what: str(Path(directory) / file) for what, file in (("certificate", CERTIFICATE), ("key", KEY), ("crl", CRL))
    }
    if as_json:
        write([compact(files | {"not_after": end.isoformat()})])
    else:
        write(record(files | {"until": until(end)}))


@pki.command()
@click.option("--dns", metavar="NAME", multiple=True, help="A DNS name that clients call it by; *.example.com, too.")
@click.option("--ip", metavar="ADDRESS", multiple=True, help="An IP address that clients call it by.")
@click.option("--name", metavar="NAME", default="server", show_default=True, help="Makes NAME.crt and NAME.key.")
@days(DAYS["server"], "How long it lasts. Apple's systems take at most 825.")
@making
@click.pass_obj
def server(installation: Installation, /, **said: Any) -> None:
    """Certify a server.

    Makes a certificate and a private key for the gateway, or for an upstream.

    \b
    Examples:
      securegw pki server --dns gw.example.com --dns mqtt.example.com
      securegw pki server --name postgres --dns db.internal --ip 192.0.2.7
    """
    _make(installation, "server", **said)


@pki.command()
@click.argument("name")
@click.option(
    "--key-file", metavar="FILE", help="The thing's secret key is the one line of FILE (- is standard input)."
)
@click.option("--id", "identifier", metavar="UUID", help="The thing's id, instead of its key.")
@alternatives
@days(DAYS["thing"], "How long it lasts.")
@making
@click.pass_obj
def thing(installation: Installation, /, **said: Any) -> None:
    """Certify a thing.

    Makes NAME.crt and NAME.key, its private key. The certificate's common name is the thing's secret key, for listeners
    with cn = key, or its id, for those with cn = id. With the key in it the certificate is a secret, too; the index has
    only the first digits of its hash.

    \b
    Examples:
      securegw pki thing boiler --key-file boiler.secret
      securegw pki thing boiler --id 8c1f8e0f-6c9d-4c1f-9a3b-5d7e9f012345
    """
    _make(installation, "thing", **said)


@pki.command()
@click.argument("name")
@click.option("--cn", metavar="TEXT", help="Its common name. Default: NAME.")
@alternatives
@days(DAYS["client"], "How long it lasts.")
@making
@click.pass_obj
def client(installation: Installation, /, **said: Any) -> None:
    """Certify a person or a program.

    Makes NAME.crt and NAME.key, for whoever is a client and no thing.

    \b
    Examples:
      securegw pki client alice --email alice@example.com
      securegw pki client billing --uri spiffe://example.com/billing
    """
    _make(installation, "client", **said)


for _command in (sign, revoke, crl, list_, renew):
    pki.add_command(_command)


def _make(
    installation: Installation,
    kind: str,
    *,
    with_rsa: bool,
    directory: str,
    passphrase_file: str | None,
    force: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """asked: the fields of an Asked."""
    from gateway.authority.keys import new_key
    from gateway.cli.pki_orders import Asked, order

    one = Asked(**asked)
    word = passphrase(passphrase_file, one.key_file)
    wanted = order(kind, one)
    with signing(installation, directory, word) as (authority, issuer):
        former = replaced(authority, wanted, directory, force)
        made = authority.sign(issuer, wanted, now(), new_key(with_rsa=with_rsa), force=force)
    Shown(directory, as_json).made(made)
    tell_of(former, directory)
