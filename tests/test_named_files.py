"""Files that a configuration names: a pipe, a device or an endless file in the place of one stops nobody."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway import pem
from gateway.config import load
from gateway.errors import ConfigError, Problem, Problems
from gateway.ini import read_ini
from gateway.named_files import MAX_FILE, alone, content, opened, read
from tests.pki import make_crl, write_pem
from tests.test_doors import CA, Site
from tests.wires import no_new_descriptors


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc\r\n")
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "file") == read(tmp_path / "link", 5) == b"abc\r\n"
    (tmp_path / "file").write_bytes(b"")
    assert read(tmp_path / "file", 0) == b""
    assert read(Path("/proc/self/cmdline")), "which has a size of 0"


def test_a_larger_one(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(OSError, match=f"is larger than {MAX_FILE} bytes") as told:
        read(tmp_path / "file")
    assert (told.value.errno, told.value.filename) == (errno.EFBIG, str(tmp_path / "file"))


def test_what_is_read_of_an_open_one_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcd")
    with opened(tmp_path / "file") as file, pytest.raises(OSError, match="is larger than 3 bytes"):
        content(file, 3)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _terminal(path: Path) -> None:
    path.symlink_to(os.ttyname(pty.openpty()[1]))


@pytest.mark.parametrize("made", [_pipe, _endless, _terminal])
def test_what_is_no_file(tmp_path: Path, made: Callable[[Path], None]) -> None:
    made(tmp_path / "one")
    with no_new_descriptors(), pytest.raises(OSError, match="is not a file") as told:
        read(tmp_path / "one")
    assert told.value.filename == str(tmp_path / "one")


def test_what_the_system_has_words_for(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device or address"):
            read(tmp_path / "socket")


def test_a_list_of_revoked_certificates_may_be_larger_than_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authority cannot choose how many it has to revoke."""
    crl = tmp_path / "clients.crl"
    write_pem(crl, make_crl(CA))
    with crl.open("ab") as file:
        file.write(b"\n" * MAX_FILE)
    assert len(pem.load_crls(crl)) == 1
    monkeypatch.setattr(pem, "MAX_CRL", MAX_FILE)
    with pytest.raises(OSError, match="is larger than"):
        pem.load_crls(crl)


# --- one at a time ----------------------------------------------------------------------------------------------------

ME = os.geteuid()


def test_one_at_a_time(tmp_path: Path) -> None:
    with no_new_descriptors():
        with alone(tmp_path / "lock", ME, 0):
            why = "another command holds this lock"
            with pytest.raises(TimeoutError, match=why) as told, alone(tmp_path / "lock", ME, 0):
                pytest.fail("both were let in")
            assert told.value.filename == str(tmp_path / "lock")
        with pytest.raises(KeyError), alone(tmp_path / "lock", ME, 0):
            raise KeyError
        with alone(tmp_path / "lock", ME, 0):
            pass


def test_it_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with alone(tmp_path / "lock", ME, 0):
            assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def _linked(path: Path) -> None:
    path.with_name("precious").touch()
    path.symlink_to("precious")


def _readable(path: Path) -> None:
    path.touch(0o644)


def _written(path: Path) -> None:
    path.touch(0o600)
    path.write_text("secret")


def _of_two_names(path: Path) -> None:
    path.touch(0o600)
    path.with_name("other").hardlink_to(path)


LOCKS = [
    (_pipe, "is not a file"),
    (_endless, "symbolic"),
    (_linked, "symbolic"),
    (_readable, "others can open"),
    (_written, "is not empty, or has another name"),
    (_of_two_names, "is not empty, or has another name"),
]


@pytest.mark.parametrize(("made", "why"), LOCKS)
def test_what_is_no_lock(tmp_path: Path, made: Callable[[Path], None], why: str) -> None:
    made(tmp_path / "lock")
    with no_new_descriptors(), pytest.raises(OSError, match=why) as told, alone(tmp_path / "lock", ME, 0):
        pytest.fail("it was used")
    assert told.value.filename == str(tmp_path / "lock")


@pytest.mark.skipif(ME != 0, reason="only root can give a file away")
def test_a_lock_of_somebody_else(tmp_path: Path) -> None:
    """Where others may make files, he can have made it first."""
    with alone(tmp_path / "lock", 12345, 0):
        assert (tmp_path / "lock").stat().st_uid == 12345
    with (
        pytest.raises(PermissionError, match="is a lock of user 12345, who could") as told,
        alone(tmp_path / "lock", 0, 0),
    ):
        pytest.fail("it was used")
    assert told.value.filename == str(tmp_path / "lock")


@pytest.mark.skipif(ME != 0, reason="only root can give a file away")
@pytest.mark.parametrize("content", ["", "secret"])
def test_only_what_was_made_for_a_lock_is_given_away(tmp_path: Path, content: str) -> None:
    """Whose folder it is can move any file of root's in there to the lock's place: also one that is empty as yet."""
    lock = tmp_path / "lock"
    lock.touch(0o600)
    lock.write_text(content)
    with suppress(OSError), alone(lock, 12345, 0), pytest.raises(TimeoutError), alone(lock, 0, 0):
        pytest.fail("both were let in")
    assert lock.stat().st_uid == 0


def test_whatever_fails_has_the_name_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call on a descriptor knows none."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for call, lock, owner in (("fcntl.flock", tmp_path / "one", ME), ("os.fchown", tmp_path / "two", ME + 12345)):
        with monkeypatch.context() as patched, no_new_descriptors():
            patched.setattr(call, fails)
            with pytest.raises(OSError, match="No locks available") as told, alone(lock, owner, 0):
                pytest.fail("it was used")
        assert (told.value.errno, told.value.filename) == (errno.ENOLCK, str(lock))


def test_a_lock_that_was_removed_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    lock.touch(0o600)
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def removed(_: float) -> None:
            lock.unlink()
            held.close()

        monkeypatch.setattr(time, "sleep", removed)
        with alone(lock, ME, 60), pytest.raises(TimeoutError), alone(lock, ME, 0):
            pytest.fail("both were let in")


# --- each that a configuration can name -------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    write_pem(tmp_path / "clients.crl", make_crl(CA))
    for name in ("revoked.txt", "password"):
        (tmp_path / name).write_text("x\n")
    site.sections["tls"] |= {"client_crl": "clients.crl", "sni": "tunnel.crt tunnel.key"}
    site.sections["jwt:main"] |= {"revoked": "revoked.txt"}
    site.sections["upstream:main"] |= {"password_file": "password", "crl": "clients.crl"}
    site.sections["login:client"] = {"upstream": "main", "certificate": "https.crt", "key": "https.key"}
    return site


NAMED = ["shared.crt", "shared.key", "tunnel.key", "ca.crt", "clients.crl", "jwt.pub", "revoked.txt", "password"]


@pytest.mark.parametrize("name", [*NAMED, "https.crt", "https.key"])
@pytest.mark.parametrize("made", [_pipe, _endless])
def test_a_reload_does_not_wait_for_it(site: Site, name: str, made: Callable[[Path], None]) -> None:
    site.build()
    (site.folder / name).unlink()
    made(site.folder / name)
    told = _built(site)
    assert isinstance(told, ConfigError)
    assert f"{site.folder / name}: is not a file" in str(told)


@pytest.mark.parametrize("made", [_pipe, _endless])
def test_nor_for_a_set_of_keys(site: Site, made: Callable[[Path], None]) -> None:
    site.sections["jwt:main"] = {"jwks": "set"}
    made(site.folder / "set")
    assert "[jwt:main] jwks" in str(_built(site))


@pytest.mark.parametrize("made", [_pipe, _endless])
def test_nor_for_the_configuration_itself(tmp_path: Path, made: Callable[[Path], None]) -> None:
    made(tmp_path / "gw.ini")
    problems = Problems()
    load(tmp_path / "gw.ini", {}, tmp_path, problems)
    assert problems.found == [Problem(str(tmp_path / "gw.ini"), "file", "is not a file")]


def test_one_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "gw.ini").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    problems = Problems()
    load(tmp_path / "gw.ini", {}, tmp_path, problems)
    assert problems.found == [Problem(str(tmp_path / "gw.ini"), "file", f"is larger than {MAX_FILE} bytes")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_other_systems(tmp_path: Path, end: str) -> None:
    (tmp_path / "gw.ini").write_bytes(f"[audit]{end}file = a{end}{end}[jwt:main]{end}issuer = b{end}".encode())
    assert read_ini(tmp_path / "gw.ini", Problems()) == {"audit": {"file": "a"}, "jwt:main": {"issuer": "b"}}


def _built(site: Site) -> Exception | None:
    """What came of a reload. It would wait for ever, so it does in a thread that nobody waits for."""
    told: list[Exception | None] = []

    def build() -> None:
        try:
            site.build()
        except ConfigError as error:
            told.append(error)
        else:
            told.append(None)

    thread = threading.Thread(target=build, daemon=True)
    thread.start()
    thread.join(10)
    assert told, "it waits"
    return told[0]
