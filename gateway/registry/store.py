"""What the ledger needs of a database. The SQL is written once, with `?` for each value; dialects differ in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

Row = tuple[Any, ...]


class Store(Protocol):
    """One connection to a registry that is there. Everything raises LedgerError; Exists where a row is in the way."""

    def transaction(self, *, write: bool = True) -> AbstractContextManager[None]:
        """All or nothing of what the block does."""

    def alone(self) -> None:
        """Within a transaction that writes: nobody else who asks for this has it until the transaction is over, and
        what they have written before is seen from here on."""

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]: ...

    def change(self, sql: str, values: Sequence[Any]) -> int:
        """How many rows it has changed."""

    def insert(self, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None: ...

    def kept(self, moment: datetime) -> Any:
        """How that moment is kept; `moment` is in UTC."""

    def moment(self, kept: Any) -> datetime: ...

    def close(self) -> None: ...
