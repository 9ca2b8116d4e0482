"""The README keeps up with the code: every key with its true default, and no key that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.schema import LISTENER_TLS, NAMED, SINGLE

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
SECTIONS = {f"[{name}]": keys for name, keys in SINGLE.items()} | {
    f"[{name}:NAME]": keys for name, keys in NAMED.items()
}


def documented() -> dict[tuple[str, str], str]:
    """(section, key) → the default that the table gives."""
    found, section = {}, ""
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or cells[0].startswith("---") or cells[0] == "section":
            continue
        section = cells[0].strip("`") or section
        found.update({(section, key): cells[2] for key in re.findall(r"`([a-z_]+)`", cells[1])})
    return found


def test_every_key_is_in_the_table_and_no_other() -> None:
    known = {
        (section, key)
        for section, keys in SECTIONS.items()
        for key in keys
        if not (section == "[postgres:NAME]" and key in LISTENER_TLS)
    }
    assert set(documented()) == known


@pytest.mark.parametrize(("section", "key"), sorted(documented()))
def test_its_default_is_the_true_one(section: str, key: str) -> None:
    told = documented()[section, key]
    # The name of the section is the one default that is no text of the schema.
    assert told == ("NAME" if (section, key) == ("[login:NAME]", "role") else SECTIONS[section][key].default or "")
