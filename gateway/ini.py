"""What was given as text, in the INI and in the environment, and the values that the schema reads from it.

Owns where a text comes from. Refuses unknown sections and keys, second answers to one question, and quotes no line that
it cannot read: its text may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from configparser import (
    DuplicateOptionError,
    DuplicateSectionError,
    MissingSectionHeaderError,
    ParsingError,
    RawConfigParser,
)
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway import named_files
from gateway.errors import Problem, Problems
from gateway.schema import Key, Keys, keys_of, nearest
from gateway.spellings import line

T = TypeVar("T")

_PREFIX = "SECUREGW_"
# It names the INI for the command `securegw` (`cli.settings`).
_OF_THE_COMMAND = "SECUREGW_CONFIG"

# Whoever says who may come in, or by whose word, means a gateway of his own, and not the quickstart's demonstration.
_GUARDING: Final[Mapping[str, tuple[str, ...]]] = {
    "route": ("upstream", "rules"),
    "postgres": ("rules",),
    "mqtt": ("topics", "rules"),
    "jwt": ("public_keys", "jwks"),
}

_HEADING_OR_KEY = re.compile(r"\s*(?:\[[a-z]+(?::[^\]]*)?\]\Z|(?P<key>[a-z_]+)\s*=)")

Texts = dict[str, dict[str, str]]


# --- the INI --------------------------------------------------------------------------------------------------------


class _Parser(RawConfigParser):
    # The inherited pattern forgives anything after the bracket.
    SECTCRE = re.compile(r"\[(?P<header>[^\]]+)\]\Z")

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def read_ini(path: Path, problems: Problems) -> Texts | None:
    """None if the file cannot be read as a whole. Problems name lines by number: their text may be a secret."""
    parser = _Parser(
        # No heading can be empty, so no section is the one whose keys configparser copies into all the others.
        default_section="",
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=None,
        interpolation=None,
        strict=True,
    )
    where = str(path)
    try:
        # Every line end there is becomes a line feed, as in any text that Python reads.
        parser.read_file(StringIO(named_files.read(path).decode("utf-8"), newline=None), where)
    except OSError as error:
        problems.add(where, "file", error.strerror or "cannot be read")
    except UnicodeDecodeError:
        problems.add(where, "file", "is not UTF-8")
    except DuplicateSectionError as error:
        problems.add(error.section, "section", f"stands a second time in line {error.lineno}")
    except DuplicateOptionError as error:
        problems.add(error.section, error.option, f"is given a second time in line {error.lineno}")
    except MissingSectionHeaderError as error:
        problems.add(where, f"line {error.lineno}", "stands before the first [section]")
    except ParsingError as error:
        for number, _ in error.errors:
            problems.add(where, f"line {number}", "is neither [section] nor key = value")
    else:
        return {section: dict(parser.items(section)) for section in parser.sections()}
    return None


# --- the environment ------------------------------------------------------------------------------------------------


def _variable(section: str, key: str) -> str:
    return _PREFIX + re.sub(r"[^A-Z0-9]", "_", f"{section}_{key}".upper())


def _meanings(sections: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Every variable there is for these sections, and the keys it stands for; more than one: it is ambiguous."""
    meanings: dict[str, list[tuple[str, str]]] = {}
    for section in dict.fromkeys(sections):
        for key in keys_of(section):
            meanings.setdefault(_variable(section, key), []).append((section, key))
    return meanings


# --- both -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reading:
    """What was given, section by section, and what is wrong with it."""

    problems: Problems
    folder: Path
    texts: Texts = field(default_factory=dict, repr=False)
    variables: dict[tuple[str, str], str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _values: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def drop_unknown_sections(self) -> None:
        for section in list(self.texts):
            try:
                keys_of(section)
            except ValueError as error:
                self.problems.add(section, "section", str(error))
                del self.texts[section]

    def override(self, environ: Mapping[str, str], sections: Iterable[str]) -> None:
        """What is not understood is only a warning: for a service of that name Kubernetes itself sets SECUREGW_PORT,
        SECUREGW_SERVICE_HOST and more in every container."""
        meanings = _meanings(sections)
        for variable in sorted(name for name in environ if name.startswith(_PREFIX) and name != _OF_THE_COMMAND):
            match meanings.get(variable, []):
                case [(section, key)]:
                    self.texts.setdefault(section, {})[key] = environ[variable]
                    self.variables[section, key] = variable
                case []:
                    # At any distance: the nearest is one name, while a list of them all would fill a page.
                    hint = get_close_matches(variable, meanings, n=1, cutoff=0.0)[0]
                    self.warnings.append(f"{variable} is ignored: it stands for no key (the nearest is {hint})")
                case several:
                    keys = " and ".join(f"[{section}] {key}" for section, key in several)
                    self.warnings.append(f"{variable} is ignored: it could stand for {keys}")

    def values(self, section: str) -> dict[str, Any]:
        """By key. Whoever asks again gets the same, and what is wrong is told once."""
        if section not in self._values:
            keys = keys_of(section)
            for unknown in self.texts.get(section, {}):
                if unknown not in keys:
                    hint = nearest(unknown, {key: key for key in keys})
                    self.problems.add(section, unknown, f"no such key; {hint}")
            self._check_indented(section, keys)
            self._values[section] = {name: self._value(section, name, key) for name, key in keys.items()}
        return self._values[section]

    def _check_indented(self, section: str, keys: Keys) -> None:
        """An indented line continues the value before it, whatever it looks like."""
        for key, text in self.texts.get(section, {}).items():
            for more in text.split("\n")[1:]:
                found = _HEADING_OR_KEY.match(more)
                if found and (found["key"] is None or found["key"] in keys):
                    reason = f"goes on with an indented line that looks like {found[0].strip()}: take its spaces away"
                    self.problems.add(section, key, reason)

    def _value(self, section: str, name: str, key: Key) -> Any:
        text = self.texts.get(section, {}).get(name)
        if text is None:
            if key.required:
                self.problems.add(section, name, "is required")
            return key.absent(self.folder)
        variable = self.variables.get((section, name))
        with self.problems.at(section, f"{name} ({variable})" if variable else name):
            return key.read(text, self.folder)
        return key.absent(self.folder)

    def given(self, section: str, key: str) -> bool:
        return key in self.texts.get(section, {})

    def _text(self, section: str, key: str) -> str:
        return self.texts.get(section, {}).get(key, "").strip()

    def named(self, kind: str) -> list[tuple[str, str]]:
        """(section, NAME) of every [kind:NAME]."""
        return [(section, section.partition(":")[2]) for section in self.texts if section.startswith(f"{kind}:")]

    @property
    def configured(self) -> bool:
        """There is something to guard, so everything that guards it must be there too."""
        others = self.named("upstream") or self.named("tunnel") or self.given("registry", "database")
        return bool(others) or any(
            self._text(section, key)
            for kind, keys in _GUARDING.items()
            for section, _ in self.named(kind)
            for key in keys
        )

    # --- what several sections share

    def rules(self, section: str, lines: tuple[str, ...], parse: Callable[[str, str], T]) -> tuple[T, ...]:
        """parse: of a line and where it stands. Raises ValueError, or OSError for a file that the line names."""
        if self.configured and not lines:
            self.warnings.append(f"[{section}] rules is empty, so nobody is let in")
        return self.lines(section, "rules", lines, parse)

    def lines(self, section: str, key: str, lines: tuple[str, ...], parse: Callable[[str, str], T]) -> tuple[T, ...]:
        """As `rules`, of any key that is a list of lines."""
        found: list[T] = []
        for number, text in enumerate(lines, 1):
            with self.problems.at(section, f"{key}, line {number}"):
                found.append(parse(text, f"[{section}] {key}, line {number}"))
        return tuple(found)

    @staticmethod
    def secret(path: Path) -> str:
        """One line; its line feed is the editor's. The errors, ValueError and OSError, say nothing of what is in the
        file."""
        try:
            secret = line(named_files.read(path).decode("utf-8").removesuffix("\n"))
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8") from None
        if not secret:
            raise ValueError(f"{path} is empty")
        return secret

    def both(self, section: str, values: Mapping[str, Any], certificate: str, key: str) -> None:
        for missing, other in ((certificate, key), (key, certificate)):
            if values[missing] is None and values[other] is not None:
                self.problems.add(section, missing, f"is required with {other}")

    def once(self, section: str, key: str, reason: str) -> None:
        """What [tls] says wrong is wrong for every listener, but one problem."""
        if Problem(section, key, reason) not in self.problems.found:
            self.problems.add(section, key, reason)
