"""Files come into being whole, for their owner alone, and in nobody's place."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import click
import pytest

from gateway.cli.errors import Failure
from gateway.cli.files import entrust, folder_beside, once, private, read, read_key


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_with_its_last_byte_for_its_owner_alone(tmp_path: Path) -> None:
    with private(tmp_path / "keys", force=False) as draft:
        draft.file.write(b"secret")
        assert "keys" not in names(tmp_path)
        assert stat.S_IMODE(draft.path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["keys"]
    assert (tmp_path / "keys").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


def test_it_does_not_appear_if_its_content_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), private(tmp_path / "keys", force=False) as draft:
        draft.keep()
        raise ValueError("no")
    assert names(tmp_path) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("old")
    with pytest.raises(Failure, match="keys: exists; --force replaces it"), private(tmp_path / "keys", force=False):
        pytest.fail("the body ran")
    assert (tmp_path / "keys").read_text() == "old"


def test_force_replaces_it_and_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("old")
    (tmp_path / "keys").chmod(0o644)
    with pytest.raises(ValueError, match="no"), private(tmp_path / "keys", force=True):
        raise ValueError("no")
    assert (tmp_path / "keys").read_text() == "old"
    with private(tmp_path / "keys", force=True) as draft:
        draft.file.write(b"new")
    assert (tmp_path / "keys").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


@pytest.mark.parametrize("force", [False, True])
def test_devices_and_folders_are_never_replaced(tmp_path: Path, force: bool) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(Failure, match="is not a file"), private(path, force):
            pytest.fail("the body ran")


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ini").write_text("")
    (tmp_path / "theirs").mkdir(mode=0o711)
    folder_beside(tmp_path / "ini", tmp_path / "theirs")
    folder_beside(tmp_path / "ini", tmp_path / "ours")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("theirs", "ours")]
    assert modes == [0o711, 0o700]


def test_nothing_is_given_to_a_group_that_we_are_not_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ini").write_text("")
    asked: list[tuple[int, int]] = []

    def fchown(_: int, owner: int, group: int) -> None:
        asked.append((owner, group))
        raise PermissionError

    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(os, "fchown", fchown)
    # That of the file is not the owner's own.
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(("x", "x", 1, -2, "", "", "")))
    (tmp_path / "ini").chmod(0o640)
    with (
        pytest.raises(Failure, match="ini: is read by a group that"),
        private(tmp_path / "keys", force=False) as draft,
    ):
        entrust(draft.file.fileno(), tmp_path / "ini")
    assert asked == [(-1, (tmp_path / "ini").stat().st_gid)]
    assert names(tmp_path) == ["ini"]


def test_standard_input_is_read_once() -> None:
    once("-", None, "file", "file", None)
    with pytest.raises(click.UsageError, match="cannot be two files"):
        once("-", None, "-")


def test_a_dangling_link_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match="exists"), private(tmp_path / "keys", force=False):
        pytest.fail("the body ran")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(Failure, match="none: there is no such folder"),
        private(tmp_path / "none" / "keys", force=False),
    ):
        pytest.fail("the body ran")


def test_a_file_that_came_meanwhile_stays_and_so_does_the_content(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="its content is in") as caught, private(tmp_path / "keys", force=False) as draft:
        draft.file.write(b"mine")
        (tmp_path / "keys").write_text("theirs")
    assert (tmp_path / "keys").read_text() == "theirs"
    assert Path(str(caught.value.message).rpartition(" ")[2]).read_text() == "mine"


def test_ctrl_c_takes_nothing_precious_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), private(tmp_path / "keys", force=False) as draft:
        draft.file.write(b"precious")
        draft.keep()
        raise KeyboardInterrupt
    assert draft.path.read_bytes() == b"precious"
    assert str(draft.path) in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), private(tmp_path / "things", force=False):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read(str(tmp_path / "file"), 5) == b"12345"
    with pytest.raises(Failure, match="is larger than 4 bytes"):
        read(str(tmp_path / "file"), 4)


def test_what_never_ends_is_read_no_further() -> None:
    with pytest.raises(Failure, match="is larger than"):
        read("/dev/zero", 1000)


@pytest.mark.parametrize("content", [b"0123456789abcdef", b"0123456789abcdef\n", b"0123456789abcdef\r\n"])
def test_a_key_is_the_one_line_of_its_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert read_key(str(tmp_path / "key")) == "0123456789abcdef"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"topsecret\n\n", b"topsecret\nx", b"topsecret\0", b"topsecret\xff", b"s" * 5000]
)
def test_anything_else_is_no_key_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(Failure, match=r"key: (is|has)") as caught:
        read_key(str(tmp_path / "key"))
    assert "secret" not in str(caught.value.message)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    told = r"No space left on device; nothing was changed: '.*/keys'"
    with pytest.raises(OSError, match=told), private(tmp_path / "keys", force=False):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_disk_that_is_full_at_once_is_told_as_well(tmp_path: Path, size: int) -> None:
    told = r"No space left on device; nothing was changed: '.*/keys'"
    with (
        Path("/dev/full").open("wb") as full,
        pytest.raises(OSError, match=told),
        private(tmp_path / "keys", force=False) as draft,
    ):
        os.dup2(full.fileno(), draft.file.fileno())
        draft.file.write(b"x" * size)
    assert names(tmp_path) == []


def test_what_was_kept_for_a_change_that_was_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else has the new key, and it counts by now."""

    def broken(_: int) -> None:
        raise OSError(5, os.strerror(5))

    told = "keys: Input/output error; its content is in "
    with pytest.raises(Failure, match=told) as caught, private(tmp_path / "keys", force=False) as draft:
        draft.file.write(b"key")
        draft.keep()
        monkeypatch.setattr(os, "fsync", broken)
    assert names(tmp_path) == [draft.path.name]
    assert Path(str(caught.value.message).rpartition(" ")[2]).read_bytes() == b"key"


def test_what_is_written_behind_that_takes_nothing_with_it(tmp_path: Path) -> None:
    told = "keys: No space left on device; its content is in "
    with (
        Path("/dev/full").open("wb") as full,
        pytest.raises(Failure, match=told),
        private(tmp_path / "keys", force=False) as draft,
    ):
        draft.file.write(b"key")
        draft.keep()
        draft.file.write(b"more")
        os.dup2(full.fileno(), draft.file.fileno())
    assert draft.path.read_bytes() == b"key"
