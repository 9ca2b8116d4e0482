"""Builds the load and the upstream of the HTTP benchmark, and starts what is compared: nginx twice, and securegw.

Each server listens on a free loopback port, has a folder of its own and is ended by process id. nginx is Debian's
program with a configuration written here, never its service. As far as the machine has two cores, the proxy under
measurement has the first and everything else the rest.
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
from benchmarks.http_client import OK, ask
from benchmarks.load import build, shares
from benchmarks.peers import GATEWAY, ROOT, MissingError, Process, free_port, wait_until

NGINX = "nginx, map"
NGINX_NJS = "nginx, njs"
NJS_MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
SMALL = 200
LARGE = 100_000_000


@dataclass(frozen=True, slots=True)
class Site:
    """This run's folder, and the upstream that every peer has. at_proxy, at_load: how a command gets its cores."""

    folder: Path
    nginx: str
    loader: Path
    credentials: MutualCredentials
    backend: Process
    backend_port: int
    at_proxy: tuple[str, ...]
    at_load: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A place to connect to, and the process whose CPU counts, with its children."""

    name: str
    port: int
    process: Process


def start_site(folder: Path, stack: ExitStack) -> Site:
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        raise MissingError("nginx (apt-get install nginx-light)")
    folder.chmod(0o711)
    loader, program = (build(name, folder) for name in ("http_load", "http_backend"))
    credentials, port = write_mutual_credentials(folder), free_port()
    at_proxy, at_load = shares()
    backend = Process(
        [*at_load, str(program), str(port), credentials.thing_key, str(SMALL), str(LARGE)], folder / "backend.log"
    )
    stack.callback(backend.stop)
    return Site(folder, nginx, loader, credentials, backend, port, at_proxy, at_load)


def start_nginx(site: Site, stack: ExitStack) -> Peer:
    """The check in the configuration alone: everything that runs is C."""
    return _start_nginx(
        NGINX,
        site,
        "",
        # The client's header, if there is one, has to repeat the common name; what is left is what goes upstream.
        r"""map $ssl_client_s_dn $thing_key { "~^CN=(?<cn>[^,+]+)$" $cn; }
  map "$thing_key $http_authorization" $checked {
    "~^(?<same>[^ ]+) \k<same>$" $thing_key;
    "~^[^ ]+ $" $thing_key;
  }""",
        stack,
    )


NJS = """function check(r) {
    const found = /^CN=([^,+]+)$/.exec(r.variables.ssl_client_s_dn);
    const given = r.headersIn.Authorization;
    return found && (!given || given === found[1]) ? found[1] : '';
}

export default { check };
"""


def start_nginx_njs(site: Site, stack: ExitStack) -> Peer:
    """The check in JavaScript, as Mainflux shipped it."""
    if not NJS_MODULE.exists():
        raise MissingError("njs (apt-get install libnginx-mod-http-js)")
    script = site.folder / "identity.js"
    script.write_text(NJS)
    check = f"js_import identity from {script};\n  js_set $checked identity.check;"
    return _start_nginx(NGINX_NJS, site, f"load_module {NJS_MODULE};", check, stack)


def _start_nginx(name: str, site: Site, modules: str, check: str, stack: ExitStack) -> Peer:
    """One worker, upstream keep-alive, one line of log per request; no session tickets, because a resumed session would
    not show its certificate again. Its limits of requests per connection are out of the way, and so is the disk."""
    port, shown = free_port(), site.credentials
    folder = site.folder / f"nginx-{port}"
    folder.mkdir(mode=0o711)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    scratch = " ".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {folder / "pid"};
error_log {folder / "error.log"};
{modules}
events {{ worker_connections 4096; }}
http {{
  access_log {folder / "access.log"} combined;
  {scratch}
  {check}
  upstream backend {{
    server 127.0.0.1:{site.backend_port};
    keepalive 32;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {shown.certificate};
    ssl_certificate_key {shown.key};
    ssl_client_certificate {shown.authority};
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    keepalive_requests 1000000000;
    client_max_body_size 1g;
    proxy_http_version 1.1;
    proxy_max_temp_file_size 0;
    proxy_set_header Host $http_host;
    proxy_set_header Connection "";
    proxy_set_header Authorization $checked;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto https;
    if ($checked = "") {{ return 403; }}
    location / {{ proxy_pass http://backend; }}
    location /upload {{
      proxy_request_buffering off;
      proxy_pass http://backend;
    }}
    location /ws {{
      proxy_set_header Host $http_host;
      proxy_set_header Connection Upgrade;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Authorization $checked;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
      proxy_pass http://backend;
    }}
  }}
}}
"""
    )
    return _ready(name, site, port, [site.nginx, "-c", str(configuration)], folder / "log", stack)


def start_gateway(site: Site, stack: ExitStack) -> Peer:
    port, shown = free_port(), site.credentials
    folder = site.folder / f"gateway-{port}"
    folder.mkdir()
    configuration = folder / "gw.ini"
    configuration.write_text(
        f"""[tls]
certificate = {shown.certificate}
key = {shown.key}
client_ca = {shown.authority}
client_certificate = required
minimum_version = 1.3
[audit]
file = {folder / "audit.log"}
[https:main]
listen = 127.0.0.1:{port}
[route:main]
path = /
upstream = http://127.0.0.1:{site.backend_port}
cn = key
websocket = yes
ws_key = optional
rules = allow all all
"""
    )
    twistd = Path(sys.executable).with_name("twistd")
    command = [str(twistd), "-n", "--pidfile=", "securegw", "-c", str(configuration)]
    return _ready(GATEWAY, site, port, command, folder / "log", stack, {"PYTHONPATH": str(ROOT)})


START: dict[str, Callable[[Site, ExitStack], Peer]] = {
    NGINX: start_nginx,
    NGINX_NJS: start_nginx_njs,
    GATEWAY: start_gateway,
}


def _ready(
    name: str,
    site: Site,
    port: int,
    command: list[str],
    log: Path,
    stack: ExitStack,
    environment: dict[str, str] | None = None,
) -> Peer:
    process = Process([*site.at_proxy, *command], log, environment=environment)
    stack.callback(process.stop)

    def refused() -> str:
        status = ask(site.credentials, port, site.credentials.thing_key).status
        return "" if status == OK else f"status {status}"

    wait_until(refused, process, log, log.with_name("error.log"))
    return Peer(name, port, process)
