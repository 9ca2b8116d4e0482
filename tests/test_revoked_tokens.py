"""The list of revoked tokens: read strictly, and written as a whole, whoever else writes."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import named_files, revoked_tokens
from gateway.revoked_tokens import add, read
from gateway.tokens import MAX_JTI, check_jti

NOW = 1_700_000_000
YEAR = 365 * 86_400
NO_JTI = "a jti has no spaces"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "revoked.txt"
    path.touch()
    return path


# --- reading ----------------------------------------------------------------------------------------------------------


def test_an_empty_list(file: Path) -> None:
    assert read(file) == frozenset()


def test_lines(file: Path) -> None:
    file.write_text(
        "# lost laptops\n\none\ntwo\t1700000000\nurn:uuid:3/+=\nfünf\none\nlast-without-a-line-feed", "utf-8"
    )
    assert read(file) == {"one", "two", "urn:uuid:3/+=", "fünf", "last-without-a-line-feed"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"one\r", NO_JTI),
        (b" one", NO_JTI),
        (b"one ", NO_JTI),
        (b"one\x00", NO_JTI),
        (b"one\xe2\x80\xae", NO_JTI),
        # Each of these looks as if it revoked the token one.
        (b"one # laptop", NO_JTI),
        (b"one#laptop", NO_JTI),
        (b"one 1900000000", NO_JTI),
        (b"one,two", NO_JTI),
        (b"one;", NO_JTI),
        (b'"one"', NO_JTI),
        (b"'one'", NO_JTI),
        ("one\u00a0".encode(), NO_JTI),
        ("one\u200b".encode(), NO_JTI),
        ("f\u00fcnf # laptop".encode(), NO_JTI),
        (b"\xef\xbb\xbfone", NO_JTI),
        (b"\xff", "is not UTF-8"),
        (b"\t1700000000", "is not a jti, or a jti, a tab and its exp"),
        (b"one\t", "is not a jti, or a jti, a tab and its exp"),
        (b"one\t\t1700000000", "is not a jti, or a jti, a tab and its exp"),
        (b"one\t1700000000.5", "is not a jti, or a jti, a tab and its exp"),
        (b"one\t-1", "is not a jti, or a jti, a tab and its exp"),
        (b"one\t1700000000\t", "is not a jti, or a jti, a tab and its exp"),
        (b"one\t1700000000 # laptop", "is not a jti, or a jti, a tab and its exp"),
        (b"#\xff", "is not UTF-8"),
        ("one\t\u0661".encode(), "is not a jti, or a jti, a tab and its exp"),
        (b"one\t999999999999", "has an exp that is not a date"),
        (b"x" * (MAX_JTI + 1), "the jti is longer than 1024 bytes"),
        (("ü" * (MAX_JTI // 2 + 1)).encode(), "the jti is longer than 1024 bytes"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_and_not_overlooked(file: Path, line: bytes, why: str) -> None:
    file.write_bytes(b"good\n" + line + b"\nbetter\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}, line 2: {why}"):
        read(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="line 2"):
        add(file, "new", None, NOW)
    assert file.read_bytes() == before


def test_lines_as_long_as_can_be(file: Path) -> None:
    longest = {"x" * MAX_JTI, "ü" * (MAX_JTI // 2)}
    file.write_text("".join(f"{jti}\t253402300799\n" for jti in longest), "utf-8")
    assert read(file) == longest


def test_a_comment_may_say_anything(file: Path) -> None:
    file.write_text("#\u200b, \ttab\r\none\n#", "utf-8")
    assert read(file) == {"one"}


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a file"):
        read(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a file"):
        add(tmp_path / "pipe", "one", None, NOW)
    with pytest.raises(FileNotFoundError):
        add(tmp_path / "nowhere", "one", None, NOW)
    assert not (tmp_path / "nowhere").exists()


def test_it_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoked_tokens, "MAX_LINES", 3)
    file.write_text("a\nb\nc\n")
    assert len(read(file)) == 3
    with pytest.raises(ValueError, match="would have more than 3 lines"):
        add(file, "d", None, NOW)
    for content in ("a\nb\nc\nd", "a\nb\nc\nd\n"):
        file.write_text(content)
        with pytest.raises(ValueError, match="has more than 3 lines"):
            read(file)
    monkeypatch.setattr(revoked_tokens, "MAX_FILE", 7)
    with pytest.raises(OSError, match="is larger than 7 bytes"):
        read(file)
    file.write_text("a\nbb\n")
    with pytest.raises(ValueError, match="would be larger than 7 bytes"):
        add(file, "cc", None, NOW)
    assert file.read_text() == "a\nbb\n"


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_token_is_added_once(file: Path) -> None:
    assert add(file, "one", NOW + 60, NOW)
    assert add(file, "two", None, NOW)
    assert not add(file, "one", NOW + 60, NOW)
    assert not add(file, "two", NOW + 60, NOW)
    assert file.read_text() == f"one\t{NOW + 60}\ntwo\n"
    assert read(file) == {"one", "two"}


@pytest.mark.parametrize("later", [NOW + 61, None])
def test_a_line_stays_for_as_long_as_any_of_its_tokens_could_need_it(file: Path, later: int | None) -> None:
    """Of two tokens with one name, or after a first answer that was wrong: never is later than any date."""
    file.write_text(f"one\t{NOW}\ntwo\none\t{NOW + 60}\n")
    assert not add(file, "one", later, NOW)
    assert file.read_text() == ("two\none\n" if later is None else f"two\none\t{later}\n")
    assert not add(file, "one", NOW + 30, NOW)
    assert not add(file, "one", later, NOW)
    assert file.read_text() == ("two\none\n" if later is None else f"two\none\t{later}\n")


def test_a_line_that_is_only_due_is_known_and_kept(file: Path) -> None:
    file.write_text(f"one\t{NOW - YEAR}\n")
    assert not add(file, "one", NOW - YEAR, NOW)
    assert read(file) == {"one"}


def test_it_is_added_behind_a_line_without_a_line_feed(file: Path) -> None:
    file.write_text("# mine\none")
    add(file, "two", None, NOW)
    assert file.read_text() == "# mine\none\ntwo\n"


@pytest.mark.parametrize(
    "jti",
    ["", " one", "a b", "a,b", "a#b", "a\u200b", "one\n", "one\ttwo", "#one", "x" * 1025, "\x1b[31m", "one\u2028"],
)
def test_names_that_a_line_cannot_hold(file: Path, jti: str) -> None:
    with pytest.raises(ValueError, match="jti"):
        add(file, jti, None, NOW)
    assert file.read_text() == ""


@pytest.mark.parametrize("expires", [-1, 253_402_300_800])
def test_no_date(file: Path, expires: int) -> None:
    with pytest.raises(ValueError, match="exp is not a date"):
        add(file, "one", expires, NOW)


def test_lines_go_long_after_no_token_could_need_them(file: Path) -> None:
    """After a week and the verifier's leeway; but never the new one, whose sessions may still live."""
    week = 7 * 86_400
    file.write_text(f"# kept\ngone\t{NOW - week - 31}\nnot-yet\t{NOW - week - 30}\nfor-ever\n")
    assert add(file, "new", NOW - YEAR, NOW, leeway=30)
    assert file.read_text() == f"# kept\nnot-yet\t{NOW - week - 30}\nfor-ever\nnew\t{NOW - YEAR}\n"


def test_a_clock_set_back_brings_no_token_back(file: Path) -> None:
    file.write_text(f"one\t{NOW}\n")
    add(file, "two", None, NOW + 6 * 86_400)
    assert read(file) == {"one", "two"}


def test_the_file_keeps_its_mode_and_is_the_one_behind_a_link(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    add(link, "one", None, NOW)
    assert link.is_symlink()
    assert (file.stat().st_mode & 0o777, file.read_text()) == (0o640, "one\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".revoked.txt.lock", "link", "revoked.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_file_keeps_its_owner(file: Path) -> None:
    os.chown(file, 12345, 23456)
    add(file, "one", None, NOW)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)
    # Else its owner could never take it.
    assert file.with_name(".revoked.txt.lock").stat().st_uid == 12345


def test_what_fails_leaves_the_list_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("one\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device; nothing was changed") as caught:
        add(file, "two", None, NOW)
    assert caught.value.filename == str(file.resolve())
    assert file.read_text() == "one\n"
    assert sorted(file.parent.iterdir()) == [file.with_name(".revoked.txt.lock"), file]


def test_writers_wait_for_each_other(file: Path) -> None:
    """Each of them replaces the file: one that did not look again would write into what nobody reads any more."""
    names = {f"{who}-{number}" for who in range(4) for number in range(20)}

    def write(who: int) -> None:
        for number in range(20):
            add(file, f"{who}-{number}", None, NOW)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert read(file) <= names
    assert read(file) == names
    assert len(file.read_text().splitlines()) == len(names)


def test_writers_of_other_processes_wait_too(file: Path) -> None:
    program = "import sys; from pathlib import Path; from gateway.revoked_tokens import add\n"
    program += "for n in range(20): add(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', None, 0)"
    command = [sys.executable, "-c", program, str(file)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([*command, who], env=environ) for who in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert read(file) == {f"{who}-{number}" for who in "ab" for number in range(20)}


def test_whoever_may_read_the_list_cannot_hold_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock needs no more than to open a file for reading (flock(2))."""
    monkeypatch.setattr(named_files, "PATIENCE_SECONDS", 0)
    with file.open("rb") as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)
        assert add(file, "one", None, NOW)
    assert stat.S_IMODE(file.with_name(".revoked.txt.lock").stat().st_mode) == 0o600


def test_nobody_waits_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_files, "PATIENCE_SECONDS", 0)
    add(file, "one", None, NOW)
    lock = file.resolve().with_name(".revoked.txt.lock")
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another command holds this lock") as told:
            add(file, "two", None, NOW)
    assert (told.value.filename, file.read_text()) == (str(lock), "one\n")
    assert add(file, "two", None, NOW)


def test_the_list_is_replaced_while_its_lock_is_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(file, "one", None, NOW)
    with file.with_name(".revoked.txt.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def other(_: float) -> None:
            file.with_name("new").write_text("one\nother\n")
            file.with_name("new").replace(file)
            held.close()

        monkeypatch.setattr(time, "sleep", other)
        assert add(file, "two", None, NOW)
    assert file.read_text() == "one\nother\ntwo\n"


def test_the_link_leads_elsewhere_while_the_lock_is_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    add(link, "one", None, NOW)
    file.with_name("new").touch()
    with file.with_name(".revoked.txt.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def turned(_: float) -> None:
            link.unlink()
            link.symlink_to("new")
            held.close()

        monkeypatch.setattr(time, "sleep", turned)
        assert add(link, "two", None, NOW)
    assert (file.read_text(), file.with_name("new").read_text()) == ("one\n", "two\n")


def test_the_list_of_another_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He could not take the lock any more."""
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user") as told:
        add(file, "one", None, NOW)
    assert told.value.filename == str(file.resolve())
    assert list(file.parent.iterdir()) == [file]


# --- properties -------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_any_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """What can be read holds every line that is not a comment."""
    file = tmp_path_factory.mktemp("any") / "revoked.txt"
    file.write_bytes(content)
    try:
        found = read(file)
    except ValueError:
        return
    lines = content.decode("utf-8").split("\n")
    assert found == {line.partition("\t")[0] for line in lines if line and not line.startswith("#")}
    for jti in found:
        check_jti(jti)


@given(
    st.lists(
        st.sampled_from(["a", "\u00fc", "\u200b", " ", "\t", "#", ",", "'", "9", "\n", "\r", "\x1c", "\U0001f600"])
    )
)
def test_what_is_read_in_one_go_is_what_is_read_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, content: list[str]
) -> None:
    """The second has a line that is no plain one."""
    file = tmp_path_factory.mktemp("both") / "revoked.txt"
    answers = []
    for before in ("", "one\t253402300799\n"):
        file.write_bytes((before + "one\n" + "".join(content)).encode())
        try:
            answers.append(read(file))
        except ValueError:
            answers.append(frozenset())
    assert answers[0] == answers[1]


@given(st.lists(st.tuples(st.text(max_size=12), st.none() | st.integers(0, 2 * NOW)), max_size=6))
def test_what_is_added_is_read(tmp_path_factory: pytest.TempPathFactory, revoked: list[tuple[str, int | None]]) -> None:
    file = tmp_path_factory.mktemp("added") / "revoked.txt"
    file.touch()
    added = set()
    for jti, expires in revoked:
        try:
            add(file, jti, expires, 0)
        except ValueError:
            continue
        added.add(jti)
    assert read(file) == added
