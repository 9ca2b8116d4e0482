"""The audit: a line is a record whatever is in it, private, and never in the way of a session."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from gateway import audit
from gateway.audit import Audit, record, request_record, whence
from gateway.session.vocabulary import Asked, Facts, Passage, RequestRecord
from tests import audit_page
from tests.wires import no_new_descriptors

NOW = 1_900_000_000.1234


@pytest.fixture
def log() -> Iterator[list[str]]:
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "gateway.audit":
            said.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield said
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


# --- records -------------------------------------------------------------------------------------------------------


def test_what_a_record_says_and_in_which_order():
    facts = Facts(user="u", subject="s", decision="allowed")
    line = record("close", NOW, facts, connection=7, listener="main", client="192.0.2.1:5", reason="why", from_client=0)
    assert line == (
        '{"time":"2030-03-17T17:46:40.123+00:00","event":"close","connection":7,"listener":"main",'
        '"client":"192.0.2.1:5","reason":"why","from_client":0,"user":"u","subject":"s","decision":"allowed"}'
    )


def test_what_is_not_known_is_left_out_but_zero_is_known():
    entry = json.loads(record("close", NOW, Facts(), reason=None, from_client=0))
    assert entry == {"time": "2030-03-17T17:46:40.123+00:00", "event": "close", "from_client": 0, "decision": "refused"}


HOSTILE = [
    'alice","decision":"allowed',
    'alice"}\n{"time":"2030-01-01","event":"close","subject":"mallory"}',
    "line\r\nbreak",
    "\u2028\u2029\x85\x0b\x0c",
    "\x00\x1b[31mred\x7f",
    "a\\",
    "ünïcödé 名前 😀",
    "\ud800 alone",
    "{brace} %s {0}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_can_neither_end_the_line_nor_fake_another(name: str):
    line = record("close", NOW, Facts(user=name, database=name), reason=name)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    entry = json.loads(line, object_pairs_hook=list)
    assert [key for key, _ in entry] == ["time", "event", "reason", "user", "database", "decision"]
    assert {value for key, value in entry if key in ("user", "database", "reason")} == {name}
    assert dict(entry)["decision"] == "refused"


@given(st.text(st.characters()))
def test_whatever_a_client_calls_itself(name: str):
    line = record("open", NOW, Facts(user=name))
    assert len((line + "\n").encode("ascii").splitlines()) == 1
    assert json.loads(line)["user"] == name


# --- records of requests -------------------------------------------------------------------------------------------

WHERE = whence(7, "https:main", "192.0.2.1:5")
ASKED = Asked("GET", "things.example.org", "/channels/1")


def test_what_the_record_of_a_request_says_and_in_which_order():
    facts = RequestRecord(
        ASKED,
        Passage("main", "key:0123456789abcdef", "0a", "allow all all"),
        status=200,
        upstream="10.0.0.1:80",
        decision="allowed",
        from_client=3,
        to_client=4,
        seconds=0.0126,
        reason="why",
    )
    assert request_record(NOW, WHERE, facts) == (
        '{"time":"2030-03-17T17:46:40.123+00:00","event":"request","connection":7,"listener":"https:main",'
        '"client":"192.0.2.1:5","method":"GET","host":"things.example.org","path":"/channels/1","status":200,'
        '"from_client":3,"to_client":4,"seconds":0.013,"decision":"allowed","route":"main","subject":"key:0123456789abcdef",'
        '"serial":"0a","rule":"allow all all","upstream":"10.0.0.1:80","reason":"why"}'
    )


def test_what_is_not_known_of_a_request_is_left_out_but_zero_is_known():
    entry = json.loads(request_record(NOW, WHERE, RequestRecord(Asked(), Passage())))
    assert entry == {
        "time": "2030-03-17T17:46:40.123+00:00",
        "event": "request",
        "connection": 7,
        "listener": "https:main",
        "client": "192.0.2.1:5",
        "method": "",
        "host": "",
        "path": "",
        "status": 0,
        "from_client": 0,
        "to_client": 0,
        "seconds": 0.0,
        "decision": "refused",
    }


def test_the_page_has_every_key_and_no_other():
    """Which of them comes in which record is looked at wherever a test reads a real gateway's (tests/gateways.py)."""
    facts = {field.name for field in fields(Facts)}
    request = json.loads(request_record(NOW, WHERE, RequestRecord(ASKED, Passage(*"abcd"), upstream="", reason="")))
    operators = {"uid", "connections", "killed"}
    assert set().union(*audit_page.KEYS.values()) == {*facts, *request, *operators, "action", "topic"}
    assert audit_page.KEYS["request"] == request.keys()


def _hostile_request(name: str) -> str:
    where = whence(7, name, name)
    passage = Passage(name, name, name, name)
    return request_record(NOW, where, RequestRecord(Asked(name, name, name), passage, 200, upstream=name, reason=name))


REQUEST_KEYS = [
    *(
        "time",
        "event",
        "connection",
        "listener",
        "client",
        "method",
        "host",
        "path",
        "status",
        "from_client",
        "to_client",
    ),
    *("seconds", "decision", "route", "subject", "serial", "rule", "upstream", "reason"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_nor_can_a_name_in_a_request(name: str):
    line = _hostile_request(name)
    assert line.isascii()
    assert line.isprintable()
    entry = json.loads(line, object_pairs_hook=list)
    assert [key for key, _ in entry] == REQUEST_KEYS
    ours = ("time", "event", "connection", "status", "from_client", "to_client", "seconds", "decision")
    assert {value for key, value in entry if key not in ours} == {name}
    assert dict(entry)["decision"] == "refused"


@given(st.text(st.characters()))
def test_whatever_is_asked_for(name: str):
    line = _hostile_request(name)
    assert len((line + "\n").encode("ascii").splitlines()) == 1
    assert json.loads(line)["path"] == name


@given(st.integers(0, 4_000_000_000_000))
def test_both_kinds_of_records_tell_the_time_alike(milliseconds: int):
    """To the millisecond; the middle of each, where rounding is no matter."""
    now = (milliseconds + 0.5) / 1000
    one, other = record("open", now, Facts()), request_record(now, WHERE, RequestRecord(ASKED, Passage()))
    assert json.loads(one)["time"] == json.loads(other)["time"]


def test_the_next_second_is_told_as_such():
    """The last one is remembered."""
    times = [NOW, NOW + 0.5, NOW + 0.9, NOW + 59, NOW]
    seconds = [json.loads(request_record(now, WHERE, RequestRecord(ASKED, Passage())))["time"][14:23] for now in times]
    assert seconds == ["46:40.123", "46:40.623", "46:41.023", "47:39.123", "46:40.123"]


@pytest.mark.parametrize("size", [257, 2_048, 2_049, 8_192, 32_000])
def test_a_long_path_is_cut_and_not_remembered(size: int):
    """One request fills neither the disk nor, for good, the memory."""
    asked = Asked("GET", "things.example.org", "/" + "a" * (size - 1))
    audit._remembered.cache_clear()
    line = request_record(NOW, WHERE, RequestRecord(asked, Passage()))
    assert audit._remembered.cache_info().currsize == 0
    told = json.loads(line)["path"]
    assert told == (asked.path if size <= 2_048 else asked.path[:2_048] + "...")
    assert len(line) < 3_000


def test_a_short_path_is_remembered():
    audit._remembered.cache_clear()
    for _ in range(2):
        line = request_record(NOW, WHERE, RequestRecord(ASKED._replace(path="/" + "a" * 255), Passage()))
        assert json.loads(line)["path"] == "/" + "a" * 255
    assert audit._remembered.cache_info().currsize == 1
    assert audit._remembered.cache_info().hits == 1


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_line_for_each_record(path: Path):
    audit = Audit(path)
    for number in range(3):
        audit.write(record("open", NOW, Facts(), connection=number))
    audit.close()
    assert [json.loads(line)["connection"] for line in path.read_text().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_may_read_it(path: Path, umask: int):
    before = os.umask(umask)
    try:
        Audit(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_there_stays(path: Path):
    path.write_text("before\n")
    audit = Audit(path)
    audit.write("after")
    audit.close()
    assert path.read_text() == "before\nafter\n"


def test_after_a_rotation_it_goes_on_in_the_new_file(path: Path):
    audit = Audit(path)
    audit.write("one")
    path.rename(path.with_suffix(".1"))
    audit.write("two")
    audit.reopen()
    audit.write("three")
    audit.close()
    assert path.with_suffix(".1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_reopening_leaves_no_descriptor(path: Path):
    audit = Audit(path)
    with no_new_descriptors():
        for _ in range(5):
            audit.reopen()
    audit.close()
    audit.close()


def test_a_reopening_that_fails_keeps_the_old_file(path: Path):
    audit = Audit(path)
    path.rename(path.with_suffix(".1"))
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        audit.reopen()
    audit.write("still")
    audit.close()
    assert path.with_suffix(".1").read_text() == "still\n"


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Audit(tmp_path / "no" / "such" / "folder")


def test_children_do_not_inherit_it(path: Path):
    audit = Audit(path)
    assert not os.get_inheritable(audit._fd)
    audit.close()


# --- when it cannot be written -------------------------------------------------------------------------------------


def test_a_full_disk_stops_nobody_and_is_said_once(log: list[str]):
    audit = Audit(Path("/dev/full"))
    for _ in range(3):
        audit.write(record("open", NOW, Facts()))
    assert len(log) == 1
    assert "No space left" in log[0]
    assert "records are being lost" in log[0]
    audit.close()


def test_how_many_were_lost_is_said_when_there_is_room_again(path: Path, log: list[str]):
    audit = Audit(Path("/dev/full"))
    for _ in range(3):
        audit.write("lost")
    audit._path = path
    assert audit.failing
    audit.reopen()
    assert not audit.failing
    audit.write("kept")
    audit.write("kept")
    audit.close()
    assert path.read_text() == "kept\nkept\n"
    assert [line for line in log if "3 records were lost" in line] == log[1:]


def test_how_many_were_lost_is_said_when_the_disk_has_room_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
):
    audit = Audit(path)

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        audit.write("lost")
    assert audit.failing
    audit.write("kept")
    assert not audit.failing
    audit.close()
    assert path.read_text() == "kept\n"
    assert "1 records were lost" in log[1]


def test_half_a_record_does_not_spoil_the_next(path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]):
    """A disk that fills up takes the beginning of a line; the next one must not be glued to it."""
    audit = Audit(path)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        audit.write("the first record")
    assert audit.failing
    assert "the beginning of a record only; records are being lost" in log[0]
    audit.write("the second")
    assert not audit.failing
    audit.write("the third")
    audit.close()
    assert path.read_text() == "the f\nthe second\nthe third\n"
    assert any("1 records were lost" in line for line in log)


def test_a_pipe_that_nobody_reads_is_refused(path: Path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device or address"):
        Audit(path)


def test_a_reader_who_sleeps_is_not_waited_for(path: Path, log: list[str]):
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    audit = Audit(path)
    line = "x" * 1000
    for _ in range(100):
        audit.write(line)
    assert "records are being lost" in log[0]
    os.read(reader, 65_536)
    audit.write("heard")
    assert "records were lost" in log[1]
    audit.close()
    os.close(reader)


# --- the log -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", *HOSTILE])
def test_without_a_file_records_go_to_the_log_as_they_are(log: list[str], name: str):
    audit = Audit(None)
    line = record("open", NOW, Facts(user=name))
    audit.write(line)
    audit.reopen()
    audit.close()
    assert log == [line]
