"""A real gateway process for the tests: `twistd -n securegw -c …` on free ports, in front of a real PostgreSQL, of a
web service, or of whatever is behind a tunnel.

Owns its folder (certificates, a JWT key pair, the INI, the audit file), its start and its end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jwt
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests import audit_page
from tests.pki import Issued, issue, make_ca, write_pem
from tests.servers import PostgresServer, free_port

TWISTD = Path(sys.executable).parent / "twistd"
# Generous, since the machine may be busy: nothing waits this long unless something is broken.
PATIENCE = 30.0

Sections = Mapping[str, Mapping[str, object]]


def wait_until(true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Until it is; fails with `what` when it is not in time."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"it did not happen in time: {what}"
        time.sleep(0.02)


def ini(sections: Sections) -> str:
    return "\n".join(
        f"[{section}]\n"
        + "".join(f"{key} = {value}\n".replace("\n", "\n    ").rstrip(" ") for key, value in keys.items())
        for section, keys in sections.items()
    )


def behind(server: PostgresServer, **more: object) -> dict[str, object]:
    """An `[upstream:…]` for that server: verify-full where it speaks TLS, else its Unix socket."""
    if server.ca is None:
        return {"hosts": f"{server.folder}:{server.port}", **more}
    return {"hosts": f"localhost:{server.port}", "root_certificate": server.root_certificate, **more}


@dataclass(slots=True)
class RunningGateway:
    """`port` is its first listener on 127.0.0.1; `root_certificate` is what its clients trust.

    Made by `running`, that is `[postgres:main]`. Made by `https`, it is `[https:main]` (also as `https_port`), there is
    `[health]` on `health_port`, and the authority whose certificate is `root_certificate` vouches for clients, too.
    Made by `tunnels`, it is that of `[health]`: a mere question at a tunnel would already be one to what is behind it.
    Made by `mqtt`, it is as if made by `https`, with `[mqtt:main]` on `mqtt_port`.
    """

    folder: Path
    sections: dict[str, dict[str, object]]
    port: int
    key: Ed25519PrivateKey
    ca: Issued
    environ: dict[str, str] = field(default_factory=dict)
    health_port: int = 0
    mqtt_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    # What it has open while nobody is connected; known once it has started.
    idle_descriptors: int = 0

    @classmethod
    @contextmanager
    def running(cls, folder: Path, sections: Sections, **environ: str) -> Iterator[Self]:
        """With `sections` over the defaults below: at least `[upstream:main]`."""
        with cls.made(folder, sections, **environ).for_a_while() as gateway:
            yield gateway

    @classmethod
    def made(cls, folder: Path, sections: Sections, **environ: str) -> Self:
        gateway = cls._bare(folder, environ)
        key = gateway.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "jwt.pub").write_bytes(key)
        defaults: Sections = {
            "tls": {"certificate": "server.crt", "key": "server.key"},
            "jwt:main": {"public_keys": "jwt.pub"},
            "postgres:main": {"listen": f"127.0.0.1:{gateway.port}", "rules": "\nallow all all all"},
        }
        return gateway._with(defaults, sections)

    @classmethod
    @contextmanager
    def https(cls, folder: Path, sections: Sections, **environ: str) -> Iterator[Self]:
        """With `sections` over the defaults below: at least the `upstream` of `[route:main]`."""
        with cls.made_https(folder, sections, **environ).for_a_while() as gateway:
            yield gateway

    @classmethod
    def made_https(cls, folder: Path, sections: Sections, **environ: str) -> Self:
        """A listener for HTTPS that asks for client certificates, and one route that lets in who shows one."""
        gateway = cls._bare(folder, environ)
        gateway.health_port = free_port()
        tls = {"certificate": "server.crt", "key": "server.key"}
        defaults: Sections = {
            "tls": {**tls, "client_certificate": "optional", "client_ca": "ca.crt"},
            "health": {"listen": f"127.0.0.1:{gateway.health_port}"},
            "https:main": {"listen": f"127.0.0.1:{gateway.port}"},
            "route:main": {"path": "/", "websocket": "yes", "rules": "\nallow all all"},
        }
        return gateway._with(defaults, sections)

    @classmethod
    @contextmanager
    def tunnels(cls, folder: Path, sections: Sections, **environ: str) -> Iterator[Self]:
        """With `sections`: at least one `[tunnel:…]`, on a port of the test's choice."""
        with cls.made_tunnels(folder, sections, **environ).for_a_while() as gateway:
            yield gateway

    @classmethod
    def made_tunnels(cls, folder: Path, sections: Sections, **environ: str) -> Self:
        gateway = cls._bare(folder, environ)
        gateway.health_port = gateway.port
        return gateway._with({"health": {"listen": f"127.0.0.1:{gateway.port}"}}, sections)

    @classmethod
    @contextmanager
    def mqtt(cls, folder: Path, sections: Sections, **environ: str) -> Iterator[Self]:
        """With `sections` over the defaults below, which need nothing more."""
        with cls.made_mqtt(folder, sections, **environ).for_a_while() as gateway:
            yield gateway

    @classmethod
    def made_mqtt(cls, folder: Path, sections: Sections, **environ: str) -> Self:
        """MQTT, also over WebSockets, and channels over HTTPS, for the things of a registry in a file; and the hub."""
        gateway = cls._bare(folder, environ)
        gateway.health_port, gateway.mqtt_port = free_port(), free_port()
        tls = {"certificate": "server.crt", "key": "server.key"}
        everybody = {"rules": "\nallow all all"}
        defaults: Sections = {
            "tls": {**tls, "client_certificate": "optional", "client_ca": "ca.crt"},
            "registry": {"database": "registry.sqlite"},
            "hub": {"database": "hub.sqlite"},
            "health": {"listen": f"127.0.0.1:{gateway.health_port}"},
            "https:main": {"listen": f"127.0.0.1:{gateway.port}"},
            "mqtt:main": {"listen": f"127.0.0.1:{gateway.mqtt_port}", **everybody},
            "route:http": {"path": "/http", "serve": "channels", **everybody},
            "route:ws": {"path": "/ws", "serve": "channels", **everybody},
            "route:mqtt": {"path": "/mqtt", "serve": "mqtt", **everybody},
        }
        return gateway._with(defaults, sections)

    @classmethod
    def _bare(cls, folder: Path, environ: dict[str, str]) -> Self:
        ca = make_ca("gateway tests")
        folder.mkdir(parents=True, exist_ok=True)
        write_pem(folder / "ca.crt", ca.certificate)
        issue(ca, "localhost", sans=["localhost", "127.0.0.1"]).write(folder, "server")
        return cls(folder, {}, free_port(), Ed25519PrivateKey.generate(), ca, environ)

    def _with(self, defaults: Sections, sections: Sections) -> Self:
        everywhere: Sections = {"gateway": {"shutdown_grace": 5}, "audit": {"file": "audit.jsonl"}}
        for section, keys in (*everywhere.items(), *defaults.items(), *sections.items()):
            self.sections[section] = {**self.sections.get(section, {}), **keys}
        return self

    @contextmanager
    def for_a_while(self) -> Iterator[Self]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    # --- life ---------------------------------------------------------------------------------------------------------

    def write_ini(self) -> Path:
        path = self.folder / "gw.ini"
        path.write_text(ini(self.sections))
        return path

    def start(self, *, wait: bool = True) -> None:
        command = [str(TWISTD), "-n", f"--pidfile={self.folder / 'pid'}", "securegw", "-c", str(self.write_ini())]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environ},
            )
        if wait:
            wait_until(self._answers, "the gateway listens")
            # The question itself was a connection: only after its end can be counted.
            wait_until(lambda: not self._connected(), "the first connection's end")
            self.idle_descriptors = self.descriptors() - self.pooled()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            probe.settimeout(PATIENCE)
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            # It has accepted for sure once it answers our end with its own.
            probe.shutdown(socket.SHUT_WR)
            return probe.recv(1) == b""

    def _connected(self) -> bool:
        assert self.process is not None
        sockets = psutil.Process(self.process.pid).net_connections("tcp")
        return any(one.status != psutil.CONN_LISTEN and one.laddr.port == self.port for one in sockets)

    def stop(self) -> int:
        """SIGTERM, and its exit status; what is still there after that is killed."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()

    def reload(self, succeeds: bool = True) -> None:
        """SIGHUP, and wait until it has done it, or said that it could not."""
        assert self.process is not None
        word = "reloaded" if succeeds else "reload failed"
        before = self.log.read_text().count(word)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.read_text().count(word) > before, word)

    def reconfigure(self, sections: Sections) -> None:
        """These sections (all of their keys) in place of those that it had of the same name, without a restart."""
        for section, keys in sections.items():
            self.sections[section] = dict(keys)
        self.write_ini()
        self.reload()

    # --- what tests ask -----------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def root_certificate(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def https_port(self) -> int:
        assert self.health_port, "made for Postgres"
        return self.port

    def thing(self, key: str, name: str = "thing", **more: Any) -> tuple[Path, Path]:
        """The files of a certificate and its private key, for the thing with that key. more: as for `pki.issue`."""
        return issue(self.ca, key, **more).write(self.folder, name)

    def token(self, subject: str, seconds: float = 600, **claims: object) -> str:
        return jwt.encode({"sub": subject, "exp": time.time() + seconds, **claims}, self.key, algorithm="EdDSA")

    def connection(self, user: str, database: str = "postgres", **more: Any) -> dict[str, Any]:
        """What libpq's drivers need to connect: keyword arguments of psycopg.connect and psycopg2.connect."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": user,
            "dbname": database,
            "password": self.token(user),
            "sslmode": "verify-full",
            "sslrootcert": str(self.root_certificate),
            **more,
        }

    def environment(self, user: str, database: str = "postgres") -> dict[str, str]:
        """What psql and pgbench need to connect."""
        return {
            **os.environ,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": user,
            "PGDATABASE": database,
            "PGPASSWORD": self.token(user),
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(self.root_certificate),
        }

    def audit(self, event: str = "close") -> list[dict[str, Any]]:
        """The records so far, of which docs/audit.md knows every key."""
        path = self.folder / "audit.jsonl"
        # What stands after the last line feed is being written just now.
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        for entry in entries:
            assert entry.keys() <= audit_page.KEYS[entry["event"]], entry
        return [entry for entry in entries if entry["event"] == event]

    def end_of(self, client: str) -> dict[str, Any]:
        """The one record of the end of the connection from that address, once it has ended."""

        def records() -> list[dict[str, Any]]:
            return [entry for entry in self.audit() if entry["client"] == client]

        wait_until(records, f"the connection of {client} has ended")
        (record,) = records()
        return record

    def descriptors(self) -> int:
        assert self.process is not None
        return psutil.Process(self.process.pid).num_fds()

    def pooled(self) -> int:
        """How many connections to web services and brokers there are, which nobody has ended."""
        assert self.process is not None
        guarding = [keys for section, keys in self.sections.items() if section.startswith(("route:", "mqtt:"))]
        if not any("upstream" in keys for keys in guarding):
            return 0
        sockets = psutil.Process(self.process.pid).net_connections("tcp")
        own = (self.port, self.health_port, self.mqtt_port)
        open_now = [one for one in sockets if one.status == psutil.CONN_ESTABLISHED]
        return sum(1 for one in open_now if one.laddr.port not in own)

    def check_at_rest(self) -> None:
        """Nobody is connected any more, nothing leaked, and no error went unhandled.

        Idle connections to web services are no leak, nor are those to a broker over which messages were POSTed.
        """

        def at_rest() -> bool:
            return self.descriptors() - self.pooled() == self.idle_descriptors

        wait_until(at_rest, "the gateway has closed all that it opened")
        log = self.log.read_text()
        assert "Traceback" not in log, log
        assert "a bug" not in log, log
