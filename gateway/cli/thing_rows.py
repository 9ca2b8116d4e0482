"""Many things as text: the CSV and the JSON that `securegw thing import` reads and `securegw thing export` writes.

Owns the columns. Refuses a file whole if any row of it is wrong, and tells the line of each; no reason quotes a cell,
because some are keys.

CSV is RFC 4180 with a heading. Where a spreadsheet would take a name for a formula, an apostrophe stands before it, as
spreadsheets themselves write it, and is taken off again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from gateway.cli.errors import Failure
from gateway.cli.output import compact, listed
from gateway.cli.strict_json import Malformed, json_object, values
from gateway.registry.records import (
    ConnectionRecord,
    LedgerError,
    RowChannel,
    ThingRecord,
    ThingRow,
    as_uuid,
    checked_hash,
    checked_key,
    checked_metadata,
    checked_name,
)

COLUMNS: Final = ("name", "id", "key", "key_sha256", "enabled", "metadata", "channels")
_EXPORTED: Final = ("name", "id", "key_sha256", "enabled", "metadata", "channels")
_KEYS: Final = ("id", "name", "key")

# How many mistakes are told: whoever has more has made one of them many times.
_MAX_TOLD: Final = 20

_JSON_BEGINS: Final = re.compile(r"\s*[\[{]")
_FORMULA: Final = re.compile(r"[=+\-@]|'[=+\-@']")
_GUARDED: Final = re.compile(r"'[=+\-@']")
_BOOLEANS: Final = {"": True, "true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_KINDS: Final = {str: "text", bool: "true or false", dict: "an object", list: "a list"}
_RIGHTS: Final = {"publish": (True, False), "subscribe": (False, True)}

T = TypeVar("T")


# --- reading --------------------------------------------------------------------------------------------------------


def read_rows(content: bytes) -> list[tuple[int, ThingRow]]:
    """All of them, each with its line. Raises Failure, with the lines that are wrong."""
    text = _text(content)
    rows: list[tuple[int, ThingRow]] = []
    problems: list[str] = []
    seen: dict[str | bytes, int] = {}
    for line, fields in _json(text) if _JSON_BEGINS.match(text) else _csv(text):
        try:
            row = _row(fields())
            _check(row, line, seen)
            rows.append((line, row))
        except (ValueError, LedgerError) as error:
            problems.append(f"line {line}: {error}")
    if problems:
        more = len(problems) - _MAX_TOLD
        raise Failure("\n".join(problems[:_MAX_TOLD] + [f"and {more} lines more"] * (more > 0)))
    return rows


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failure(f"line {1 + error.object.count(10, 0, error.start)}: is not UTF-8") from None
    if (nul := text.find("\0")) >= 0:
        raise Failure(f"line {_line(text, nul)}: has a NUL")
    return text


def _line(text: str, at: int) -> int:
    """From 1."""
    return 1 + text.count("\n", 0, at)


def _json(text: str) -> Iterator[tuple[int, Callable[[], Mapping[str, Any]]]]:
    line = counted = 0
    try:
        for at, value in values(text):
            line, counted = line + text.count("\n", counted, at), at
            yield line + 1, partial(_members, value)
    except Malformed as error:
        raise Failure(f"line {_line(text, error.at)}: {error}") from None


def _members(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    for name in value:
        if name not in COLUMNS:
            raise ValueError(f"has a member that is none of {', '.join(COLUMNS)}")
    return value


def _csv(text: str) -> Iterator[tuple[int, Callable[[], Mapping[str, Any]]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        heading = _heading(next(reader, []))
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                yield line, partial(_cells, heading, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise Failure(f"line {line}: is not CSV: {error}") from None


def _heading(cells: Sequence[str]) -> list[str]:
    heading = [cell.strip().lower() for cell in cells]
    if "name" not in heading or len(set(heading)) != len(heading) or not set(heading) <= set(COLUMNS):
        others = ", ".join(COLUMNS[1:])
        raise Failure(f"line 1: has to name the columns, separated by commas, each once: name, and any of {others}")
    return heading


def _cells(heading: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    if len(cells) != len(heading):
        raise ValueError(f"has {len(cells)} cells; the heading has {len(heading)}")
    texts = dict(zip(heading, cells, strict=True))
    enabled = texts.get("enabled", "").lower()
    if enabled not in _BOOLEANS:
        raise ValueError("enabled is neither true nor false")
    return {
        "name": texts["name"][1:] if _GUARDED.match(texts["name"]) else texts["name"],
        "id": texts.get("id") or None,
        "key": texts.get("key") or None,
        "key_sha256": texts.get("key_sha256") or None,
        "enabled": _BOOLEANS[enabled],
        "metadata": _metadata(texts.get("metadata", "")),
        "channels": [_end(end) for end in texts.get("channels", "").split(";") if end.strip()],
    }


def _metadata(text: str) -> Mapping[str, Any]:
    try:
        return json_object(text) if text else {}
    except ValueError as error:
        raise ValueError(f"metadata {error}") from None


def _end(text: str) -> Any:
    channel, _, right = text.strip().rpartition(":")
    if right not in _RIGHTS:
        return text.strip()
    publish, subscribe = _RIGHTS[right]
    return {"channel": channel, "publish": publish, "subscribe": subscribe}


# --- what a row means -----------------------------------------------------------------------------------------------


def _row(fields: Mapping[str, Any]) -> ThingRow:
    """Raises ValueError."""
    return ThingRow(
        name=_typed(fields, "name", str) or "",
        id=_typed(fields, "id", str),
        key=_typed(fields, "key", str),
        key_sha256=_typed(fields, "key_sha256", str),
        metadata=_typed(fields, "metadata", dict),
        enabled=_typed(fields, "enabled", bool) is not False,
        channels=tuple(map(_channel, _typed(fields, "channels", list) or ())),
    )


def _check(row: ThingRow, line: int, seen: dict[str | bytes, int]) -> None:
    """What the registry would refuse, too, but with one mistake at a time. Raises ValueError, LedgerError."""
    checked_name(row.name)
    checked_metadata(row.metadata)
    identifier = row.id and as_uuid(row.id)
    if row.id is not None and identifier is None:
        raise ValueError("its id is not a UUID")
    if row.key is not None and row.key_sha256 is not None:
        raise ValueError("has key and key_sha256: give one of them, or none for a new key")
    key = checked_key(row.key) if row.key is not None else row.key_sha256 and checked_hash(row.key_sha256)
    for what, value in (("id", identifier), ("key", key)):
        if value and seen.setdefault(value, line) != line:
            raise ValueError(f"has the {what} of line {seen[value]}")


def _typed(fields: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"its {name} has to be {_KINDS[kind]}")
    return value


def _channel(value: Any) -> RowChannel:
    if isinstance(value, str):
        return RowChannel(value)
    if not isinstance(value, dict) or not value.keys() <= {"channel", "publish", "subscribe"}:
        raise ValueError("each of its channels has to be an id, a name, or channel with publish and subscribe")
    rights = [_typed(value, right, bool) is not False for right in ("publish", "subscribe")]
    if not any(rights):
        raise ValueError("a connection lets a thing publish, subscribe, or both")
    return RowChannel(_typed(value, "channel", str) or "", *rights)


# --- writing --------------------------------------------------------------------------------------------------------

Connections = Mapping[str, Sequence[ConnectionRecord]]


def things_csv(things: Iterable[ThingRecord], connections: Connections) -> Iterator[str]:
    """connections: by the thing's id."""
    yield ",".join(_EXPORTED)
    for one in things:
        channels = ";".join(map(_end_text, connections.get(one.id, ())))
        metadata = compact(one.metadata) if one.metadata else ""
        enabled = "true" if one.enabled else "false"
        yield _csv_line(_guarded(one.name), one.id, one.key_sha256, enabled, metadata, channels)


def things_json(things: Iterable[ThingRecord], connections: Connections) -> Iterator[str]:
    """connections: by the thing's id."""
    return listed(
        {
            "name": one.name,
            "id": one.id,
            "key_sha256": one.key_sha256,
            "enabled": one.enabled,
            "metadata": one.metadata,
            "channels": [
                {"channel": to.channel, "publish": to.publish, "subscribe": to.subscribe}
                for to in connections.get(one.id, ())
            ],
        }
        for one in things
    )


def keys_csv(rows: Iterable[ThingRow]) -> Iterator[str]:
    yield ",".join(_KEYS)
    for row in rows:
        yield _csv_line(row.id or "", _guarded(row.name), row.key or "")


def keys_json(rows: Iterable[ThingRow]) -> Iterator[str]:
    return listed({"id": row.id, "name": row.name, "key": row.key} for row in rows)


def _csv_line(*cells: str) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def _guarded(name: str) -> str:
    return f"'{name}" if _FORMULA.match(name) else name


def _end_text(to: ConnectionRecord) -> str:
    if to.publish and to.subscribe:
        return to.channel
    return f"{to.channel}:{'publish' if to.publish else 'subscribe'}"
