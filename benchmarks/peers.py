"""Starts and ends the servers that are compared, each on a free loopback port with a folder of its own.

Everything here ends what it started, by process id, and gives up on a server that is not ready in time.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from benchmarks.client import Account, Connection, ServerError
from benchmarks.credentials import Credentials, write_credentials

ROOT = Path(__file__).resolve().parent.parent
ROLE = DATABASE = "bench"
JWT_PROXY_REQUIREMENT = "jwt-postgresql-proxy==0.0.2"
# Room for the 2,000 sessions that are held while those of the peer before are still ending.
SERVER_CONNECTIONS = 5000
PROXY_CONNECTIONS = 3000
START_SECONDS = 60.0
STOP_SECONDS = 30.0
INSTALL_SECONDS = 600.0

DIRECT = "direct"
PGBOUNCER = "PgBouncer"
PGBOUNCER_FRESH = "PgBouncer, no reuse"
JWT_PROXY = "jwt-postgresql-proxy"
GATEWAY = "securegw"
NO_PROXY = ""
PLAIN = "plain"
TLS = "TLS"


class MissingError(Exception):
    """Something this machine lacks, and how to get it."""


class Become(TypedDict, total=False):
    """Popen's way to run a child as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


class Process:
    """A child in its own session, its output in a file, ended by its id."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        *,
        account: pwd.struct_passwd | None = None,
        environment: dict[str, str] | None = None,
        stop: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._stop = stop
        with log.open("ab") as output:
            self._child: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=clean_environment() | (environment or {}),
                start_new_session=True,
                **(as_account(account) if account else Become()),
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def ended(self) -> bool:
        return self._child.poll() is not None

    def stop(self) -> None:
        if self.ended():
            return
        self._child.send_signal(self._stop)
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class Peer:
    """A place to connect to, and the process whose CPU and memory count (None for PostgreSQL itself)."""

    name: str
    upstream: str
    account: Account
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """This run's folder, the one kept between runs, what was found on the machine, and the PostgreSQL started on it."""

    folder: Path
    kept: Path
    binaries: Path
    pgbouncer: str
    account: pwd.struct_passwd
    credentials: Credentials
    server_port: int


def as_account(account: pwd.struct_passwd) -> Become:
    """Become `account` where we are root (PostgreSQL and PgBouncer refuse to run as root)."""
    if os.geteuid() != 0:
        return Become()
    return Become(user=account.pw_uid, group=account.pw_gid, extra_groups=[])


def clean_environment() -> dict[str, str]:
    """Ours could carry PG* or SECUREGW_* variables that change what is measured."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}


def find_binaries() -> Path:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    for folder in reversed(folders):
        if all((folder / name).exists() for name in ("postgres", "initdb", "psql", "pgbench")):
            return folder
    raise MissingError("PostgreSQL with pgbench under /usr/lib/postgresql (apt-get install postgresql)")


def find_pgbouncer() -> str:
    found = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise MissingError("pgbouncer (apt-get install pgbouncer)")
    return found


def server_account() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    names = {entry.pw_name for entry in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_site(kept: Path, folder: Path, stack: ExitStack) -> Site:
    """A new PostgreSQL that speaks TLS and trusts loopback: logging in upstream costs every peer the same nothing."""
    binaries, pgbouncer, account = find_binaries(), find_pgbouncer(), server_account()
    folder.chmod(0o711)
    credentials = write_credentials(folder, ROLE, account)
    site = Site(folder, kept, binaries, pgbouncer, account, credentials, free_port())
    data = _own_folder(site, "postgres")
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-N"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=START_SECONDS,
        **as_account(account),
    )
    settings = {
        "port": site.server_port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": data,
        "max_connections": SERVER_CONNECTIONS,
        "shared_buffers": "256MB",
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": credentials.certificate,
        "ssl_key_file": credentials.key,
    }
    (data / "postgresql.auto.conf").write_text("".join(f"{key} = '{value}'\n" for key, value in settings.items()))
    process = Process(
        [str(binaries / "postgres"), "-D", str(data)], folder / "postgres.log", account=account, stop=signal.SIGINT
    )
    stack.callback(process.stop)
    superuser = Account(site.server_port, "postgres", "postgres", "")
    wait_until_ready(superuser, process)
    connection = Connection(superuser)
    connection.ask(f"create role {ROLE} login")
    connection.ask(f"create database {DATABASE} owner {ROLE}")
    connection.close()
    return site


def wait_until_ready(account: Account, process: Process) -> None:
    """Until a login succeeds."""

    def log_in() -> str:
        try:
            Connection(account).close()
        except ServerError as error:
            return repr(error)
        return ""

    wait_until(log_in, process, process.log)


def wait_until(refused: Callable[[], str], process: Process, *logs: Path) -> None:
    """Until nothing is refused and no OSError raised. A server that ends, or is not ready in time, is an error with its
    last words."""
    deadline = time.monotonic() + START_SECONDS
    reason = "it ended"
    while time.monotonic() < deadline and not process.ended():
        try:
            reason = refused()
        except OSError as error:
            reason = str(error) or type(error).__name__
        if not reason:
            return
        time.sleep(0.1)
    said = "".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
    raise RuntimeError(f"{process.log.parent.name}/{process.log.name}: not ready: {reason}\n{said}")


def direct(site: Site) -> Peer:
    return Peer(DIRECT, NO_PROXY, Account(site.server_port, ROLE, DATABASE, site.credentials.token))


def start_pgbouncer(site: Site, upstream: str, stack: ExitStack, *, reuse: bool = True) -> Peer:
    """Session mode. Its clients' password is the same token, compared as text."""
    port = free_port()
    folder = _own_folder(site, f"pgbouncer-{port}")
    users = folder / "userlist.txt"
    users.write_text(f'"{ROLE}" "{site.credentials.token}"\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"""[databases]
{DATABASE} = host=127.0.0.1 port={site.server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = session
max_client_conn = {PROXY_CONNECTIONS}
default_pool_size = {PROXY_CONNECTIONS}
server_lifetime = {3600 if reuse else 0}
client_tls_sslmode = require
client_tls_protocols = tlsv1.3
client_tls_cert_file = {site.credentials.certificate}
client_tls_key_file = {site.credentials.key}
server_tls_sslmode = {"require" if upstream == TLS else "disable"}
log_connections = 0
log_disconnections = 0
"""
    )
    process = Process([site.pgbouncer, str(configuration)], folder / "log", account=site.account)
    return _ready(PGBOUNCER if reuse else PGBOUNCER_FRESH, upstream, site, port, process, stack)


def install_jwt_proxy(site: Site) -> Path:
    """The proxy in a virtual environment of its own, kept when the folder is."""
    environment = site.kept / "jwt-postgresql-proxy"
    command = environment / "bin" / "jwt-postgresql-proxy"
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    if not command.exists():
        for step in ([sys.executable, "-m", "venv", str(environment)], [*pip, JWT_PROXY_REQUIREMENT]):
            result = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
            if result.returncode:
                said = (result.stdout + result.stderr)[-2000:]
                raise MissingError(f"{JWT_PROXY_REQUIREMENT} from PyPI (needs apt-get install python3-venv)\n{said}")
    return command


def start_jwt_proxy(site: Site, upstream: str, stack: ExitStack) -> Peer:
    if upstream != TLS:
        raise ValueError("jwt-postgresql-proxy has no plain upstream")
    port = free_port()
    environment = {
        "PUBLIC_KEYS__0": site.credentials.public_key.read_text(),
        "UPSTREAM__HOST": "127.0.0.1",
        "UPSTREAM__PORT": str(site.server_port),
        "UPSTREAM__PASSWORD": "unused",
        "DOWNSTREAM__IP": "127.0.0.1",
        "DOWNSTREAM__PORT": str(port),
        "DOWNSTREAM__CERTFILE": str(site.credentials.certificate),
        "DOWNSTREAM__KEYFILE": str(site.credentials.key),
    }
    log = site.folder / f"jwt-postgresql-proxy-{port}.log"
    process = Process([str(install_jwt_proxy(site))], log, environment=environment)
    return _ready(JWT_PROXY, upstream, site, port, process, stack)


def start_gateway(site: Site, upstream: str, stack: ExitStack) -> Peer:
    port = free_port()
    configuration = site.folder / f"gateway-{port}.ini"
    configuration.write_text(
        f"""[limits]
max_connections = {PROXY_CONNECTIONS}
max_connections_per_subject = {PROXY_CONNECTIONS}
max_connections_per_address = {PROXY_CONNECTIONS}
[jwt:main]
public_keys = {site.credentials.public_key}
[upstream:main]
hosts = 127.0.0.1:{site.server_port}
tls = {"require" if upstream == TLS else "disable"}
[postgres:main]
listen = 127.0.0.1:{port}
certificate = {site.credentials.certificate}
key = {site.credentials.key}
upstream = main
jwt = main
rules = allow all all 127.0.0.1/32
"""
    )
    twistd = Path(sys.executable).with_name("twistd")
    process = Process(
        [str(twistd), "-n", "--pidfile=", "securegw", "-c", str(configuration)],
        site.folder / f"gateway-{port}.log",
        # The plugin is found from the checkout, whether or not the project is installed.
        environment={"PYTHONPATH": str(ROOT)},
    )
    return _ready(GATEWAY, upstream, site, port, process, stack)


def start_pgbouncer_fresh(site: Site, upstream: str, stack: ExitStack) -> Peer:
    """PgBouncer that dials upstream for every client, as the gateways do."""
    return start_pgbouncer(site, upstream, stack, reuse=False)


START: dict[str, Callable[[Site, str, ExitStack], Peer]] = {
    PGBOUNCER: start_pgbouncer,
    PGBOUNCER_FRESH: start_pgbouncer_fresh,
    JWT_PROXY: start_jwt_proxy,
    GATEWAY: start_gateway,
}


def _ready(name: str, upstream: str, site: Site, port: int, process: Process, stack: ExitStack) -> Peer:
    stack.callback(process.stop)
    account = Account(port, ROLE, DATABASE, site.credentials.token)
    wait_until_ready(account, process)
    return Peer(name, upstream, account, process)


def _own_folder(site: Site, name: str) -> Path:
    folder = site.folder / name
    folder.mkdir(mode=0o700)
    os.chown(folder, site.account.pw_uid, site.account.pw_gid)
    return folder
