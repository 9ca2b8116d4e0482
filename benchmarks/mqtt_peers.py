"""Builds the load of the MQTT benchmark, and starts what is compared: two brokers, and two fronts of a third.

Mosquitto with its own TLS listener and the gateway with its hub are the brokers; nginx's stream module and the gateway
with an upstream are the fronts, each before a plain Mosquitto of its own. Each server listens on a free loopback port,
has a folder of its own and is ended by process id. As far as the machine has two cores, what is under measurement has
the first, the load and the Mosquitto behind a front the rest.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.credentials import MutualCredentials, write_mutual_credentials
from benchmarks.load import build, shares
from benchmarks.mqtt_client import ACCEPTED, ask, ask_plainly
from benchmarks.peers import ROOT, MissingError, Process, free_port, wait_until

MOSQUITTO = "Mosquitto"
NGINX = "nginx stream"
HUB = "securegw, hub"
FRONT = "securegw, front"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
# Every client sends one, as things do; nobody compares it, because the certificate says who it is.
ANY_WORD = "benchmark"
# Room for the clients that are held, of which a front needs two files each, and some more.
CONNECTIONS = 6000


@dataclass(frozen=True, slots=True)
class Site:
    """This run's folder and programs. at_peer, at_load: how a command gets its cores."""

    folder: Path
    mosquitto: str
    nginx: str
    loader: Path
    credentials: MutualCredentials
    at_peer: tuple[str, ...]
    at_load: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A place to connect to, the process whose CPU and memory count (with its children), and the broker behind it."""

    name: str
    port: int
    process: Process
    broker: Process | None = None


def start_site(folder: Path) -> Site:
    mosquitto, nginx = (_find(name) for name in ("mosquitto", "nginx"))
    if not STREAM_MODULE.exists():
        raise MissingError("nginx's stream module (apt-get install libnginx-mod-stream)")
    folder.chmod(0o711)
    return Site(folder, mosquitto, nginx, build("mqtt_load", folder), write_mutual_credentials(folder), *shares())


def _find(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise MissingError(f"{name} (apt-get install mosquitto nginx-light)")
    return found


def start_mosquitto(site: Site, stack: ExitStack) -> Peer:
    """Its own TLS listener; the certificate names the client, and an access list says what it may publish and read."""
    port, shown = free_port(), site.credentials
    folder = _own_folder(site, "mosquitto", port)
    access = folder / "access"
    access.write_text(f"user {shown.thing_key}\ntopic readwrite #\n")
    access.chmod(0o600)
    process = _mosquitto(
        site,
        folder,
        site.at_peer,
        f"""listener {port} 127.0.0.1
cafile {shown.authority}
certfile {shown.certificate}
keyfile {shown.key}
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
acl_file {access}
""",
    )
    stack.callback(process.stop)
    return _ready(site, Peer(MOSQUITTO, port, process))


def start_broker(site: Site, stack: ExitStack) -> tuple[int, Process]:
    """The Mosquitto behind a front: no TLS, no questions."""
    port = free_port()
    folder = _own_folder(site, "broker", port)
    process = _mosquitto(site, folder, site.at_load, f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    stack.callback(process.stop)

    def refused() -> str:
        return "" if ask_plainly(port) == ACCEPTED else "no CONNACK"

    wait_until(refused, process, folder / "log")
    return port, process


def _mosquitto(site: Site, folder: Path, cores: tuple[str, ...], listener: str) -> Process:
    """Everything as it is by default, with its log (two lines for each connection) in a file."""
    configuration = folder / "mosquitto.conf"
    account = "user root\n" if os.geteuid() == 0 else ""
    configuration.write_text(f"{account}persistence false\nlog_dest file {folder / 'log'}\n{listener}")
    return Process([*cores, site.mosquitto, "-c", str(configuration)], folder / "output")


def start_nginx(site: Site, stack: ExitStack) -> Peer:
    """One worker, a line of log for each connection; no session tickets, because a resumed session would not show its
    certificate again."""
    upstream, broker = start_broker(site, stack)
    port, shown = free_port(), site.credentials
    folder = _own_folder(site, "nginx", port)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {folder / "pid"};
error_log {folder / "error.log"};
load_module {STREAM_MODULE};
events {{ worker_connections {2 * CONNECTIONS}; }}
stream {{
  log_format connection '$remote_addr [$time_local] $ssl_client_s_dn $status $bytes_received $bytes_sent';
  access_log {folder / "access.log"} connection;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {shown.certificate};
    ssl_certificate_key {shown.key};
    ssl_client_certificate {shown.authority};
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    proxy_timeout 1h;
    proxy_pass 127.0.0.1:{upstream};
  }}
}}
"""
    )
    process = Process([*site.at_peer, site.nginx, "-c", str(configuration)], folder / "output")
    stack.callback(process.stop)
    return _ready(site, Peer(NGINX, port, process, broker))


def start_hub(site: Site, stack: ExitStack) -> Peer:
    port = free_port()
    return _ready(site, Peer(HUB, port, _gateway(site, port, "[hub]\ndatabase = memory\n", stack)))


def start_front(site: Site, stack: ExitStack) -> Peer:
    upstream, broker = start_broker(site, stack)
    port = free_port()
    keys = f"upstream = 127.0.0.1:{upstream}\ntls = disable\n"
    return _ready(site, Peer(FRONT, port, _gateway(site, port, keys, stack), broker))


def _gateway(site: Site, port: int, keys: str, stack: ExitStack) -> Process:
    """The certificate names the thing, and a rule for topics says what it may publish and read."""
    folder, shown = _own_folder(site, "gateway", port), site.credentials
    configuration = folder / "gw.ini"
    configuration.write_text(
        f"""[tls]
certificate = {shown.certificate}
key = {shown.key}
client_ca = {shown.authority}
client_certificate = required
minimum_version = 1.3
[limits]
max_connections = {CONNECTIONS}
max_connections_per_subject = {CONNECTIONS}
max_connections_per_address = {CONNECTIONS}
[audit]
file = {folder / "audit.log"}
[mqtt:main]
listen = 127.0.0.1:{port}
cn = id
password = ignored
rules = allow all all
topics = allow all all #
{keys}"""
    )
    twistd = Path(sys.executable).with_name("twistd")
    process = Process(
        [*site.at_peer, str(twistd), "-n", "--pidfile=", "securegw", "-c", str(configuration)],
        folder / "output",
        # The plugin is found from the checkout, whether or not the project is installed.
        environment={"PYTHONPATH": str(ROOT)},
    )
    stack.callback(process.stop)
    return process


START: dict[str, Callable[[Site, ExitStack], Peer]] = {
    MOSQUITTO: start_mosquitto,
    HUB: start_hub,
    NGINX: start_nginx,
    FRONT: start_front,
}


def _own_folder(site: Site, kind: str, port: int) -> Path:
    folder = site.folder / f"{kind}-{port}"
    folder.mkdir(mode=0o711)
    return folder


def _ready(site: Site, peer: Peer) -> Peer:
    def refused() -> str:
        code = ask(site.credentials, peer.port, ANY_WORD).code
        return "" if code == ACCEPTED else f"CONNACK {code}"

    folder = peer.process.log.parent
    wait_until(refused, peer.process, peer.process.log, folder / "log", folder / "error.log")
    return peer
