"""What can go wrong, as typed data: the bottom layer, which every other module may import.

Each error carries the reason *for the operator* (the audit record). What a client may read is decided
by the session that catches it, and is a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: `[section] key: reason`."""

    section: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"[{self.section}] {self.key}: {self.reason}"


class ConfigError(Exception):
    """The configuration cannot be used. `str()` is one line per problem, in the order found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@dataclass(slots=True)
class Problems:
    """Collects configuration problems so that all of them are told at once."""

    found: list[Problem] = field(default_factory=list)

    def add(self, section: str, key: str, reason: str) -> None:
        self.found.append(Problem(section, key, reason))

    @contextmanager
    def at(self, section: str, key: str) -> Iterator[None]:
        """Turn a ValueError or OSError of the body into a problem of `[section] key`."""
        try:
            yield
        except OSError as error:
            self.add(section, key, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except ValueError as error:
            self.add(section, key, str(error))

    def raise_if_any(self) -> None:
        """Raises ConfigError with every problem found so far, if there is one."""
        if self.found:
            raise ConfigError(tuple(self.found))


class ProtocolError(Exception):
    """The peer's bytes break the protocol's grammar. Nothing of them may be used."""


class Denied(Exception):
    """Identity was not proven or a rule said no; the text is the true reason, for the audit record only."""


class UpstreamError(Exception):
    """The upstream could not be reached, would not let us in, or broke its protocol."""
