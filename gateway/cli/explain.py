"""`securegw explain`: whether somebody would be let in, and what decides that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli.explain_answer import answer
from gateway.cli.explain_asked import (
    Asked,
    certificate,
    key_file,
    listener_name,
    origin,
    read_token_or_nothing,
    secret,
    subject_of,
    web_request,
)
from gateway.cli.options import as_json
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.inspection.explain_mqtt import Asking


@click.group()
def explain() -> None:
    """Who would be let in, and by which rule.

    The answer is the gateway's own: its sessions are asked, with the configuration as it is on the disk now. Nothing is
    dialed, and nothing is written. How many connections there are already does not matter here.

    The status is 0 if it would be let in, 1 if not.

    \b
    Examples:
      securegw explain postgres --token-file alice.token \\
          --database sales --from 192.0.2.7
      securegw explain http GET https://api.example.org/things \\
          --certificate boiler.crt --from 192.0.2.7
      securegw explain mqtt --certificate boiler.crt --from 192.0.2.7 \\
          --publish channels/0d7c…/messages
      securegw explain tunnel things --certificate adapter.crt --from 198.51.100.7
    """


@explain.command()
@click.option("--token-file", metavar="FILE", help="The token is the one line of FILE (- is standard input).")
@click.option("--user", metavar="NAME", help="Whom the client logs in as. Default: the token's sub.")
@click.option("--database", metavar="NAME", help="Which database it asks for. Default: of the user's own name.")
@click.option("--replication", is_flag=True, help="It asks for a replication connection.")
@certificate
@origin
@listener_name
@as_json
@click.pass_obj
def postgres(
    installation: Installation,
    token_file: str | None,
    user: str | None,
    database: str | None,
    replication: bool,
    certificate: str | None,
    origin: str,
    listener: str | None,
    as_json: bool,
) -> None:
    """Whether a token opens a database.

    \b
    Examples:
      securegw explain postgres --token-file alice.token \\
          --database sales --from 192.0.2.7
      securegw explain postgres --token-file - --from local --json < alice.token
    """
    from gateway.inspection.explain import LoginAttempt
    from gateway.inspection.explain import postgres as ask

    asked = Asked.of(installation, certificate, origin)
    token = read_token_or_nothing(token_file)
    one = asked.listener("postgres", asked.config.postgres, listener)
    name = user or subject_of(token)
    login = LoginAttempt(name, database or name, token, replication)
    answer(ask(asked.state(one.jwt), one, asked.client, login), asked.path, as_json)


@explain.command()
@click.argument("method")
@click.argument("url")
@certificate
@key_file
@click.option("--scheme", default="", help="What stands before the key in Authorization, such as Thing.")
@click.option("--subprotocol", default="", metavar="NAME", help="Of a WebSocket, such as mqtt.")
@origin
@listener_name
@as_json
@click.pass_obj
def http(
    installation: Installation,
    method: str,
    url: str,
    certificate: str | None,
    key_file: str | None,
    scheme: str,
    subprotocol: str,
    origin: str,
    listener: str | None,
    as_json: bool,
) -> None:
    """Whether a request goes through.

    METHOD, and a URL of https://, or of wss:// for a WebSocket.

    \b
    Examples:
      securegw explain http GET https://api.example.org/things/1 \\
          --certificate boiler.crt --from 192.0.2.7
      securegw explain http GET wss://api.example.org/ws \\
          --certificate boiler.crt --key-file boiler.secret --from local
    """
    from gateway.inspection.explain import http as ask

    request, port = web_request(method, url, secret(key_file), scheme, subprotocol)
    asked = Asked.of(installation, certificate, origin)
    one = asked.listener("https", asked.config.https, listener, port)
    answer(ask(asked.state(), one, asked.client, request), asked.path, as_json)


@explain.command()
@click.option("--publish", metavar="TOPIC", help="It publishes there.")
@click.option("--subscribe", metavar="FILTER", help="It subscribes to that.")
@certificate
@click.option("--user-name", metavar="NAME", help="What it says as its user name.")
@key_file
@click.option("--client-id", metavar="ID", default="explain", show_default=True, help="What it calls itself.")
@origin
@listener_name
@as_json
@click.pass_obj
def mqtt(
    installation: Installation,
    publish: str | None,
    subscribe: str | None,
    certificate: str | None,
    user_name: str | None,
    key_file: str | None,
    client_id: str,
    origin: str,
    listener: str | None,
    as_json: bool,
) -> None:
    """Whether an MQTT client may do something.

    That is to connect, and then to publish or to subscribe.

    The password is the key in --key-file.

    \b
    Examples:
      securegw explain mqtt --certificate boiler.crt --from 192.0.2.7
      securegw explain mqtt --certificate boiler.crt --from 192.0.2.7 \\
          --subscribe 'channels/0d7c…/messages/#'
    """
    from gateway.inspection.explain_mqtt import explain as ask

    asking = _asking(publish, subscribe, user_name, secret(key_file), client_id)
    asked = Asked.of(installation, certificate, origin)
    one = asked.listener("mqtt", asked.config.mqtt, listener)
    answer(ask(asked.state(), one, asked.client, asking), asked.path, as_json)


def _asking(
    publish: str | None, subscribe: str | None, user_name: str | None, password: bytes | None, client_id: str
) -> Asking:
    from gateway.inspection.explain_mqtt import Asking

    if publish is not None and subscribe is not None:
        raise click.UsageError("--publish or --subscribe, not both at once")
    action = "publish" if publish is not None else "subscribe" if subscribe is not None else None
    try:
        return Asking(client_id, user_name, password, action, publish or subscribe or "")
    except ValueError as error:
        raise click.UsageError(f"{error}") from None


@explain.command()
@click.argument("name", required=False)
@certificate
@origin
@as_json
@click.pass_obj
def tunnel(installation: Installation, name: str | None, certificate: str | None, origin: str, as_json: bool) -> None:
    """Whether a certificate opens the tunnel [tunnel:NAME].

    \b
    Example:
      securegw explain tunnel things --certificate adapter.crt --from 198.51.100.7
    """
    from gateway.inspection.explain import tunnel as ask

    asked = Asked.of(installation, certificate, origin)
    one = asked.listener("tunnel", asked.config.tunnels, name)
    answer(ask(asked.state(), one, asked.client), asked.path, as_json)
