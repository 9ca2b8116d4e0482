"""One JSON record when a session opens, one for each HTTP request, and one when a connection ends whose requests have
not told everything; with the true reason.

Owns the records' form and their file. A record that cannot be written (a full disk) never stops a session: it is
counted, and said in the log. Secrets never get here: `Facts` and `RequestRecord`, which records are made of, hold none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from gateway.session.vocabulary import Asked, Facts, Passage, RequestRecord

_log = Logger()

# What is remembered in its written form has to be short; and nobody fills the disk with one request.
_SHORT_PATH = 256
_LONGEST_PATH = 2048


def record(event: str, now: float, facts: Facts, **more: Any) -> str:
    """One line: the fixed keys first; what is not known is left out. `now`: seconds since the epoch."""
    entry = {"time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"), "event": event}
    entry.update({key: value for key, value in (*more.items(), *asdict(facts).items()) if value is not None})
    # Everything outside ASCII is escaped: a name can never end the line or fake another one.
    return json.dumps(entry, ensure_ascii=True, separators=(",", ":"))


def request_record(now: float, where: str, facts: RequestRecord) -> str:
    """The same for one HTTP request. Put together from parts that come again and again: json.dumps takes six times as
    long, and this is on the path of each. where: from `whence`."""
    upstream = f',"upstream":{_quoted(facts.upstream)}' if facts.upstream is not None else ""
    reason = f',"reason":{_quoted(facts.reason)}' if facts.reason is not None else ""
    return (
        f'{{"time":"{_moment(now)}","event":"request",{where},{_asked(facts.asked)},"status":{facts.status},'
        f'"from_client":{facts.from_client},"to_client":{facts.to_client},"seconds":{facts.seconds:.3f},'
        f'"decision":"{facts.decision}"{_passage(facts.passage)}{upstream}{reason}}}'
    )


def whence(connection: int, listener: str, client: str) -> str:
    """The part of a record that is the same for all requests of a connection."""
    return f'"connection":{connection},"listener":{_quoted(listener)},"client":{_quoted(client)}'


def _asked(asked: Asked) -> str:
    return _remembered(asked) if len(asked.path) <= _SHORT_PATH else _written(asked)


def _written(asked: Asked) -> str:
    path = asked.path if len(asked.path) <= _LONGEST_PATH else asked.path[:_LONGEST_PATH] + "..."
    return f'"method":{_quoted(asked.method)},"host":{_quoted(asked.host)},"path":{_quoted(path)}'


_remembered = lru_cache(maxsize=1024)(_written)


@lru_cache(maxsize=4096)
def _passage(passage: Passage) -> str:
    return "".join(f',"{key}":{_quoted(value)}' for key, value in passage._asdict().items() if value is not None)


def _moment(now: float) -> str:
    """As `isoformat(timespec="milliseconds")` of that time in UTC."""
    milliseconds = int(now * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}+00:00"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Audit:
    """Where records go: a file of mode 0600, opened anew by `reopen` after a rotation; or, without a path, the log.

    Raises OSError if the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = -1
        self._lost = 0
        self._mend = b""
        self.reopen()

    @property
    def failing(self) -> bool:
        """Whether records are being lost: the latest one could not be written."""
        return bool(self._lost)

    def reopen(self) -> None:
        """Go on in the file that now has this name. On failure the old one is kept; raises OSError."""
        if self._path is None:
            return
        # A FIFO that nobody reads is an error then (ENXIO, fifo(7)), and one whose reader sleeps loses records.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        self.close()
        self._fd, self._mend = fd, b""
        # Of the old file. What becomes of this one, its first record tells.
        self._tell_lost()

    def write(self, line: str) -> None:
        if self._path is None:
            _log.info("{record}", record=line)
            return
        data = self._mend + line.encode("ascii") + b"\n"
        try:
            # One call a record: what another process appends never lands in the middle of it.
            written = os.write(self._fd, data)
            why = "" if written == len(data) else "there is room for the beginning of a record only"
            # Which must not spoil the next one.
            self._mend = b"\n" if why else b""
        except OSError as error:
            why = str(error)
        if why:
            if not self._lost:
                _log.error("audit: {path}: {error}; records are being lost", path=self._path, error=why)
            self._lost += 1
        else:
            self._tell_lost()

    def _tell_lost(self) -> None:
        if self._lost:
            _log.error("audit: {path}: {lost} records were lost", path=self._path, lost=self._lost)
            self._lost = 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
