"""A real Mosquitto for the tests: a broker on a free port of loopback, in a folder of its own, plain or with TLS.

Owns its configuration, its start and its end. What it has kept is written down at a `stop`, and at a `kill` only as far
as `settings` say so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.pki import Issued, issue, make_ca, write_pem
from tests.servers import free_port

# Generous, since the machine may be busy: nothing waits this long unless something is broken.
PATIENCE = 30.0


def mosquitto_program() -> Path | None:
    """Where the broker is; Debian keeps it in /usr/sbin, which is not on everybody's PATH."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    return Path(found) if found else None


@dataclass(slots=True)
class Mosquitto:
    """One running broker. `ca` signed its certificate, and vouches for its clients' certificates; None: no TLS.

    users: with their passwords; with none, anybody may come, with whatever name and password. acl: as Mosquitto's
    acl_file has it; empty: everybody may do everything. settings: further lines of its configuration.
    """

    program: Path
    folder: Path
    ca: Issued | None
    users: Mapping[str, str]
    acl: str
    settings: Mapping[str, object]
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    host = "127.0.0.1"

    @classmethod
    @contextmanager
    def running(
        cls,
        program: Path,
        *,
        tls: bool = False,
        users: Mapping[str, str] | None = None,
        acl: str = "",
        **settings: object,
    ) -> Iterator[Self]:
        """A new broker that knows nothing yet, until the end of the block."""
        folder = Path(tempfile.mkdtemp(prefix="securegw-test-"))
        ca = make_ca("broker CA") if tls else None
        broker = cls(program, folder, ca, users or {}, acl, settings, free_port())
        try:
            broker._make()
            broker.start()
            yield broker
        finally:
            broker.kill()
            shutil.rmtree(folder)

    # --- what it knows ------------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def root_certificate(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def upstream(self) -> dict[str, object]:
        """What an `[mqtt:…]` that leads to it says: verify-full where it speaks TLS."""
        if self.ca is None:
            return {"upstream": f"{self.host}:{self.port}", "tls": "disable"}
        return {"upstream": f"localhost:{self.port}", "root_certificate": self.root_certificate}

    def log_count(self, text: str) -> int:
        """How many lines of its log have that in them."""
        return sum(1 for line in self.log.read_text("utf-8").splitlines() if text in line)

    # --- what it does -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts it, on the port that it had, with what it has written down; until it listens."""
        command = [str(self.program), "-c", str(self.folder / "mosquitto.conf")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text("utf-8"))
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM: it tells its clients, and writes down what it has."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Ends it without a word to anybody, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    # --- how ----------------------------------------------------------------------------------------------------------

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def _make(self) -> None:
        if self.ca:
            write_pem(self.root_certificate, self.ca.certificate)
            issue(self.ca, "localhost", sans=("localhost", self.host)).write(self.folder, "server")
        if self.users:
            self._write_users()
        if self.acl:
            (self.folder / "acl").write_text(self.acl, "utf-8")
            (self.folder / "acl").chmod(0o600)
        lines = (f"{key} {value}\n" for key, value in {**self._defaults(), **self.settings}.items())
        (self.folder / "mosquitto.conf").write_text("".join(lines), "utf-8")

    def _write_users(self) -> None:
        """Its own program replaces the passwords of a file of `name:password` lines by their hashes."""
        path = self.folder / "users"
        path.write_text("".join(f"{name}:{password}\n" for name, password in self.users.items()), "utf-8")
        path.chmod(0o600)
        program = shutil.which("mosquitto_passwd") or "mosquitto_passwd"
        subprocess.run([program, "-U", str(path)], check=True, capture_output=True)

    def _defaults(self) -> dict[str, object]:
        given: dict[str, object] = {
            # Where we are root it would become another user, who cannot read the folder.
            "user": "root",
            "listener": f"{self.port} {self.host}",
            "allow_anonymous": "false" if self.users else "true",
            "persistence": "true",
            "persistence_location": f"{self.folder}/",
            "log_dest": "stderr",
            "log_type": "all",
            # Neither side waits for the other's acknowledgement of a small packet.
            "set_tcp_nodelay": "true",
        }
        if self.ca:
            given |= {"certfile": self.folder / "server.crt", "keyfile": self.folder / "server.key"}
        if self.users:
            given["password_file"] = self.folder / "users"
        if self.acl:
            given["acl_file"] = self.folder / "acl"
        return given
