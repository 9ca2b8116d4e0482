"""What the quickstart has to try over MQTT: two things and a channel that connects them, in a registry of its own.

Owns the file of that registry. What is there is kept: things that somebody made beside ours, and what was done to ours,
but for their keys, which are those in their certificates, and their connections, without which there is nothing to try.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.embedded import EmbeddedError
from gateway.quickstart_demo import Demo, admission_from_here, door, python
from gateway.quickstart_pki import PKI, THINGS
from gateway.registry.ledger import Ledger, open_ledger
from gateway.registry.records import LedgerError, NotFound
from gateway.registry.settings import RegistrySettings
from gateway.routes import Route
from gateway.settings import Config, MQTTListener
from gateway.things import key_hash

CHANNEL = "demo"


@dataclass(frozen=True, slots=True)
class DemoThings:
    """ids: of the things, in the order of THINGS."""

    registry: RegistrySettings
    ids: tuple[str, ...]
    channel: str


def make_things(path: Path, pki: PKI) -> DemoThings:
    """Raises EmbeddedError."""
    settings = RegistrySettings(path)
    try:
        with open_ledger(settings) as ledger:
            try:
                channel = ledger.channel(CHANNEL).id
            except NotFound:
                channel = ledger.create_channel(CHANNEL).id
            return DemoThings(settings, tuple(_thing(ledger, pki, one, channel) for one in THINGS), channel)
    except LedgerError as error:
        raise EmbeddedError(f"{path}: {error}") from None


def _thing(ledger: Ledger, pki: PKI, name: str, channel: str) -> str:
    key = pki.thing(name)
    try:
        found = ledger.thing(f"{CHANNEL}-{name}")
        if found.key_sha256 != key_hash(key.encode("ascii")).hex():
            ledger.rotate_key(found.id, key)
    except NotFound:
        found, _ = ledger.create_thing(f"{CHANNEL}-{name}", key=key)
    ledger.connect(found.id, channel)
    return found.id


# --- what there is to try -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Channels:
    """Where channels are served over HTTPS: the URL of the listener, and the path of its route."""

    port: int
    post: str
    socket: str


def _channels(config: Config) -> _Channels | None:
    """The first route for each, by name: `http` and `ws` are Mainflux's."""
    found = [route for route in config.routes if route.serve == "channels"]
    if not found:
        return None
    listener, port = door(one for one in config.https if one.name in found[0].listeners)
    paths = {route.name: route.path for route in found if listener.name in route.listeners}
    return _Channels(port, paths.get("http", found[0].path), paths.get("ws", found[0].path))


def things_demo(config: Config, listener: MQTTListener, port: int, things: DemoThings, pki: PKI) -> Demo:
    """listener, port: where things connect."""
    channels = _channels(config)
    # Made once, so that a configuration that was read again is equal to that of before.
    admission = admission_from_here()

    def admitted(route: Route) -> Route:
        ours = route.serve != "upstream" and not route.admission.rules
        return replace(route, admission=admission) if ours else route

    def complete(config: Config) -> Config:
        return replace(
            config,
            registry=things.registry,
            https=tuple(replace(one, tls=one.tls or pki.mutual) for one in config.https),
            routes=tuple(map(admitted, config.routes)),
            mqtt=tuple(
                replace(
                    one,
                    tls=one.tls or pki.mutual,
                    admission=one.admission if one.admission.rules else admission,
                )
                for one in config.mqtt
            ),
        )

    asked = ", with CA_FILE, CERT_FILE and KEY_FILE of yours" if listener.tls else ""
    where = "a broker of yours" if listener.upstream else "the hub"
    told = (
        f"two things share a channel of {where}. Each line in a terminal of its own{asked}; the first and last listen:"
    )
    if shutil.which("mosquitto_sub") is None:
        told = f"mosquitto_sub and mosquitto_pub are in Debian's mosquitto-clients.\nquickstart: {told}"
    variables = _mqtt_variables(port, things, None if listener.tls else pki, channels)
    return Demo(complete, variables, told, _mosquitto(channels))


def _mqtt_variables(port: int, things: DemoThings, pki: PKI | None, channels: _Channels | None) -> dict[str, str]:
    variables = {"MQTT_HOST": "localhost", "MQTT_PORT": str(port), "CHANNEL_ID": things.channel}
    if channels:
        base = f"localhost:{channels.port}"
        variables["POST_URL"] = f"https://{base}{channels.post}/channels/{things.channel}/messages"
        variables["WSS_URL"] = f"wss://{base}{channels.socket}/channels/{things.channel}/messages"
    for prefix, name, thing in zip(("", "OTHER_"), THINGS, things.ids, strict=True):
        variables[f"{prefix}THING_ID"] = thing
        if pki:
            certificate, key = pki.files(name)
            variables |= {f"{prefix}CERT_FILE": str(certificate), f"{prefix}KEY_FILE": str(key)}
            variables[f"{prefix}THING_KEY"] = pki.thing(name)
    return variables | ({"CA_FILE": str(pki.ca)} if pki else {})


def _mosquitto(channels: _Channels | None) -> tuple[str, ...]:
    """As in the documentation of Mainflux; the password may be left out, since the certificate holds it."""
    common = '-h "$MQTT_HOST" -p "$MQTT_PORT" --cafile "$CA_FILE" -t "channels/$CHANNEL_ID/messages"'
    other = f'-u "$OTHER_THING_ID" -P "$OTHER_THING_KEY" --cert "$OTHER_CERT_FILE" --key "$OTHER_KEY_FILE" {common}'
    thing = f'-u "$THING_ID" -P "$THING_KEY" --cert "$CERT_FILE" --key "$KEY_FILE" {common}'
    lines = (f"mosquitto_sub {other}", f"mosquitto_pub {thing} -m hello")
    if channels is None:
        return lines
    curl = 'curl -sS --cacert "$CA_FILE" --cert "$CERT_FILE" --key "$KEY_FILE" -X POST "$POST_URL" -d hello'
    return *lines, curl, _websocket()


def _websocket() -> str:
    """Says hello in the channel, and prints what it hears there until it is ended.

    Not with the threads of websockets.sync: what one of them sends while the other reads the session tickets of TLS 1.3
    can stay in OpenSSL, and never reach us.
    """
    return python(
        "import asyncio, os, ssl; from websockets.asyncio.client import connect; "
        'tls = ssl.create_default_context(cafile=os.environ["CA_FILE"]); '
        'tls.load_cert_chain(os.environ["CERT_FILE"], os.environ["KEY_FILE"]); '
        'url = os.environ["WSS_URL"] + "?authorization=" + os.environ["THING_KEY"]; '
        "do = asyncio.new_event_loop().run_until_complete; "
        'socket = do(connect(url, ssl=tls)); do(socket.send("hello")); messages = aiter(socket); '
        "[print(message, flush=True) for message in iter(lambda: do(anext(messages, None)), None)]"
    )
