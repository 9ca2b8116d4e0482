"""The index: what this authority has signed, until when, and what it has taken back.

Owns the document and its strict reading; it is the one place where revocations are kept, and the CRL is made of it.
Refuses a document that says anything else than this module writes: whoever forgets a revocation lets somebody in.
No key of a thing is ever in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from gateway.authority.errors import AuthorityError
from gateway.authority.kinds import KINDS, REASONS
from gateway.members import each_once
from gateway.serials import serial_text

# 250 bytes for each of a hundred thousand certificates, and room.
MAX_INDEX: Final = 64 * 1024 * 1024

_VERSION: Final = 1
TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_SERIAL: Final = re.compile("[0-9a-f]{1,40}")
_FINGERPRINT: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Record:
    """One certificate.

    subject: as people may read it. names: `dns:…`, `ip:…`, `email:…`, `uri:…`. days: how long it was meant to last.
    file: its name in the folder; None once another has taken its place. requested: its key was never here.
    """

    serial: int
    name: str
    kind: str
    subject: str
    names: tuple[str, ...]
    begin: datetime
    end: datetime
    days: int
    file: str | None
    requested: bool = False
    revoked_at: datetime | None = None
    reason: str | None = None

    def live(self, now: datetime) -> bool:
        return self.revoked_at is None and now <= self.end


@dataclass(frozen=True, slots=True)
class Index:
    """ca: SHA-256 of the CA's certificate, in hexadecimal. issued and next_update: of the CRL. days: its lifetime."""

    ca: str
    number: int
    issued: datetime
    next_update: datetime
    days: int
    records: tuple[Record, ...] = ()

    def with_record(self, record: Record) -> Self:
        """The files of that name are its own from now on."""
        others = (replace(one, file=None) if one.file == record.file else one for one in self.records)
        return replace(self, records=(*others, record))

    def with_revoked(self, serials: Iterable[int], at: datetime, reason: str) -> Self:
        found = frozenset(serials)
        return replace(
            self,
            records=tuple(
                replace(one, revoked_at=at, reason=reason) if one.serial in found else one for one in self.records
            ),
        )

    def write(self) -> bytes:
        """A JSON document with one certificate in each line."""
        crl = {
            "number": self.number,
            "issued": f"{self.issued:{TIME}}",
            "next_update": f"{self.next_update:{TIME}}",
            "days": self.days,
        }
        head = json.dumps({"version": _VERSION, "ca": self.ca, "crl": crl})
        lines = ",\n".join(json.dumps(fields(one), ensure_ascii=False) for one in self.records)
        return f'{head[:-1]}, "certificates": [\n{lines}\n]}}\n'.encode()


def fields(one: Record) -> dict[str, Any]:
    """As it is in the document, and in what programs are told."""
    return {
        "serial": serial_text(one.serial),
        "name": one.name,
        "kind": one.kind,
        "subject": one.subject,
        "names": list(one.names),
        "not_before": f"{one.begin:{TIME}}",
        "not_after": f"{one.end:{TIME}}",
        "days": one.days,
        "file": one.file,
        "requested": one.requested,
        "revoked_at": None if one.revoked_at is None else f"{one.revoked_at:{TIME}}",
        "reason": one.reason,
    }


# --- reading --------------------------------------------------------------------------------------------------------


def parse(document: bytes) -> Index:
    """Raises AuthorityError, which says where the document is not one of ours."""
    try:
        if len(document) > MAX_INDEX:
            raise ValueError(f"is larger than {MAX_INDEX} bytes")
        root = json.loads(document.decode(), object_pairs_hook=each_once, parse_constant=_no_constant)
        members = _members(root, {"version", "ca", "crl", "certificates"})
        if _typed(members["version"], int) != _VERSION:
            raise ValueError("is of another version")
        crl = _members(members["crl"], {"number", "issued", "next_update", "days"})
        records = tuple(_records(_typed(members["certificates"], list)))
        return Index(
            _matching(_FINGERPRINT, members["ca"]),
            _natural(crl["number"]),
            _moment(crl["issued"]),
            _moment(crl["next_update"]),
            _natural(crl["days"]),
            records,
        )
    except (ValueError, RecursionError) as error:
        raise AuthorityError(
            f"the index is damaged, so nobody can tell what is revoked: restore it from a backup ({error})"
        ) from None


def _records(found: list[Any]) -> Iterator[Record]:
    serials = set()
    for number, one in enumerate(found, 1):
        try:
            record = _record(one)
            if record.serial in serials:
                raise ValueError("has a serial number that another has, too")
        except ValueError as error:
            raise ValueError(f"certificate {number}: {error}") from None
        serials.add(record.serial)
        yield record


_MEMBERS: Final = frozenset(
    {"serial", "name", "kind", "subject", "names", "not_before", "not_after", "days", "file", "requested"}
    | {"revoked_at", "reason"}
)


def _record(found: Any) -> Record:
    one = _members(found, _MEMBERS)
    if (one["revoked_at"] is None) != (one["reason"] is None):
        raise ValueError("is half revoked")
    name = _typed(one["name"], str)
    if one["file"] not in (None, f"{name}.crt"):
        raise ValueError("has a file of another name")
    return Record(
        int(_matching(_SERIAL, one["serial"]), 16),
        name,
        _one_of(KINDS, one["kind"]),
        _typed(one["subject"], str),
        tuple(_typed(each, str) for each in _typed(one["names"], list)),
        _moment(one["not_before"]),
        _moment(one["not_after"]),
        _natural(one["days"]),
        one["file"],
        _typed(one["requested"], bool),
        None if one["revoked_at"] is None else _moment(one["revoked_at"]),
        None if one["reason"] is None else _one_of(REASONS, one["reason"]),
    )


def _no_constant(text: str) -> None:
    raise ValueError(f"has {text}, which is not JSON")


def _members(found: Any, expected: Iterable[str]) -> Mapping[str, Any]:
    members: dict[str, Any] = _typed(found, dict)
    if set(members) != set(expected):
        raise ValueError("has other members than it should")
    return members


def _typed(found: Any, kind: type) -> Any:
    if type(found) is not kind:
        raise ValueError(f"has something else where {kind.__name__} should be")
    return found


def _natural(found: Any) -> int:
    if _typed(found, int) < 1:
        raise ValueError("has a number below 1")
    return int(found)


def _matching(pattern: re.Pattern[str], found: Any) -> str:
    if not pattern.fullmatch(_typed(found, str)):
        raise ValueError("has something else where hexadecimal digits should be")
    return str(found)


def _one_of(words: tuple[str, ...], found: Any) -> str:
    if found not in words:
        raise ValueError(f"has something else where one of {', '.join(words)} should be")
    return str(found)


def _moment(found: Any) -> datetime:
    return datetime.strptime(_typed(found, str), TIME).replace(tzinfo=UTC)
