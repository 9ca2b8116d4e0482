"""The README keeps up with the code: every key with its true default, no key that does not exist, INIs that work."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config import load
from gateway.errors import Problems
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
        if not (section in ("[postgres:NAME]", "[https:NAME]", "[mqtt:NAME]") and key in LISTENER_TLS)
    }
    assert set(documented()) == known


@pytest.mark.parametrize(("section", "key"), sorted(documented()))
def test_its_default_is_the_true_one(section: str, key: str) -> None:
    told = documented()[section, key]
    # The name of the section is the one default that is no text of the schema.
    assert told == ("NAME" if (section, key) == ("[login:NAME]", "role") else SECTIONS[section][key].default or "")


def inis() -> list[str]:
    """The indented blocks that begin with a heading and are configurations."""
    blocks = re.findall(r"(?m)^(?: {4,}\[[a-z:]+\]\n)(?:(?: {4,}.*)?\n)+", README)
    return [textwrap.dedent(block) for block in blocks]


@pytest.mark.parametrize("ini", inis())
def test_its_examples_are_read_without_a_problem(tmp_path: Path, ini: str) -> None:
    (tmp_path / "gw.ini").write_text(ini.replace("/run/secrets", str(tmp_path)), "utf-8")
    for name in ("db-password", "registry-password", "broker-password"):
        (tmp_path / name).write_text("secret\n")
    key = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "issuer.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    problems = Problems()
    config = load(tmp_path / "gw.ini", {}, tmp_path, problems)
    assert problems.found == []
    assert config.warnings == ()
    assert config.configured


def test_there_are_examples_of_each_kind() -> None:
    kinds = ("[postgres:", "[route:", "[mqtt:", "[registry]", "mode = server", "mode = client")
    assert [kind for kind in kinds if kind not in "".join(inis())] == []
