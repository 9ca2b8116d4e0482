"""All files of a change are there, or none, whenever it is cut off."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.authority.errors import AuthorityError
from gateway.authority.folder import PRIVATE, Content, locked, make

BEFORE = {"index.json": b"old", "crl.pem": b"old list"}
AFTER = {"index.json": b"new", "crl.pem": b"new list", "a.crt": b"certificate", "a.key": b"key"}
# What a change does to the disk, in the order in which it does.
STEPS = ("mkdir", "open", "fsync", "rename", "replace", "rmdir")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def commit(folder: Path, files: dict[str, bytes]) -> None:
    with locked(folder) as found:
        found.commit({name: Content(data) for name, data in files.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "pki")
    commit(tmp_path / "pki", BEFORE)
    return tmp_path / "pki"


def test_it_is_for_its_owner_alone_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        make(folder.with_name("other"))
        with locked(folder) as found:
            found.commit({"a.crt": Content(b""), "a.key": Content(b"", PRIVATE)})
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.with_name("other").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a.crt").stat().st_mode) == 0o644
    assert stat.S_IMODE((folder / "a.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / ".lock").stat().st_mode) == 0o600


# --- cut off ----------------------------------------------------------------------------------------------------------


@contextmanager
def failing(number: int, fail: Callable[[], object]) -> Iterator[list[str]]:
    """The step with that number fails, of all that are counted. Tells the steps so far."""
    steps: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(name, getattr(os, name), steps, number, fail))
        yield steps


def counted(
    name: str, real: Callable[..., Any], steps: list[str], number: int, fail: Callable[[], object]
) -> Callable[..., Any]:
    def step(*arguments: Any, **more: Any) -> Any:
        steps.append(name)
        if len(steps) == number:
            fail()
        return real(*arguments, **more)

    return step


def steps_of_a_change(folder: Path) -> int:
    with failing(0, lambda: None) as steps:
        commit(folder, AFTER)
    assert set(steps) == set(STEPS)
    return len(steps)


def test_a_crash_at_any_step_leaves_all_or_nothing(tmp_path: Path) -> None:
    make(tmp_path / "pki")
    number, found = steps_of_a_change(tmp_path / "pki"), []
    for step in range(1, number + 1):
        folder = tmp_path / str(step)
        make(folder)
        commit(folder, BEFORE)
        crash(step, folder)
        with locked(folder):
            left = contents(folder)
        assert left in (BEFORE, AFTER)
        found.append(left == AFTER)
    # Once it is decided it stays so.
    assert found == sorted(found)
    assert set(found) == {False, True}


def crash(step: int, folder: Path) -> None:
    """In a process of its own, which is gone at that step."""
    child = os.fork()
    if child == 0:
        with failing(step, lambda: os._exit(9)):
            commit(folder, AFTER)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_any_step_leaves_all_or_nothing_and_says_which(tmp_path: Path) -> None:
    make(tmp_path / "pki")
    number = steps_of_a_change(tmp_path / "pki")
    for step in range(1, number + 1):
        folder = tmp_path / str(step)
        make(folder)
        commit(folder, BEFORE)
        with pytest.raises((OSError, AuthorityError), match="No space left") as failed, failing(step, full):
            commit(folder, AFTER)
        decided = "the next command puts the files in their place" in str(failed.value)
        if not decided:
            assert contents(folder) == BEFORE  # not even a draft, which could be of a key
        with locked(folder):
            assert contents(folder) == (AFTER if decided else BEFORE)


# RLIMIT_FSIZE is the nearest to a disk that is really full: the kernel cuts the write short.
_SHORT = """
import resource, sys
from pathlib import Path
from gateway.authority.folder import Content, locked
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with locked(Path(sys.argv[1])) as folder:
    folder.commit({"a.key": Content(b"key"), "index.json": Content(b"x" * 101)})
"""


def test_a_write_that_the_kernel_cuts_short(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _SHORT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert contents(folder) == BEFORE


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_two_commands_at_once(folder: Path) -> None:
    with (
        locked(folder),
        pytest.raises(TimeoutError, match="another command holds this lock"),
        locked(folder, patience=0),
    ):
        pytest.fail("both were let in")
    with locked(folder, patience=0):
        pass


def test_a_lock_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = locked(folder)
    first.__enter__()
    monkeypatch.setattr(time, "sleep", lambda _: first.__exit__(None, None, None))
    with locked(folder):
        pass


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_a_folder_that_others_can_write_in(folder: Path) -> None:
    folder.chmod(0o770)
    with pytest.raises(AuthorityError, match="others can write in it"), locked(folder):
        pytest.fail("it was used")
    folder.chmod(0o750)
    with locked(folder):
        pass
    with pytest.raises(AuthorityError, match="others can look into it"):
        make(folder)


def test_a_folder_of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(AuthorityError, match="belongs to another user"), locked(folder):
        pytest.fail("it was used")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(AuthorityError, match="there is no such folder"), locked(tmp_path / name):
            pytest.fail("it was used")
    with pytest.raises(AuthorityError, match="there is no such folder"):
        make(tmp_path / "none" / "pki")


def test_links_are_replaced_and_what_they_lead_to_is_not(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (folder / "a.key").symlink_to(tmp_path / "precious")
    commit(folder, {"a.key": b"key"})
    assert not (folder / "a.key").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), locked(folder):
        pytest.fail("it was used")


def test_a_folder_in_the_place_of_a_file(folder: Path) -> None:
    (folder / "a.crt").mkdir()
    with pytest.raises(AuthorityError, match="is a folder"):
        commit(folder, AFTER)
    (folder / "a.crt").rmdir()
    assert contents(folder) == BEFORE


def test_a_file_that_is_larger_than_any(folder: Path) -> None:
    (folder / "crl.pem").write_bytes(b"x" * 101)
    with locked(folder) as found:
        assert found.read("crl.pem", 101) == b"x" * 101
        with pytest.raises(AuthorityError, match="larger than 100 bytes"):
            found.read("crl.pem", 100)
