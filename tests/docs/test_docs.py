"""All pages of docs/: each has a test that follows it, links lead somewhere, and what is only named is there, too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import click
import pytest

from gateway.cli.main import securegw
from gateway.schema import LISTENER_TLS, NAMED, SINGLE
from tests.docs import test_how_tos
from tests.docs.pages import DOCS, Kind, blocks, pages, text_of

ROOT = DOCS.parent
INDEX = "README.md"
# Nobody does anything in these: one lists the others, and they explain.
FOLLOWED_BY_NOBODY = {INDEX, "security-model.md", "audit.md"}
# Their commands need a machine of their own: a running systemd, and a container engine.
OF_A_MACHINE = {"run-with-systemd.md", "container.md"}

all_pages = pytest.mark.parametrize("page", pages())


def test_each_page_has_its_test() -> None:
    tested = {
        name.removeprefix("test_").replace("_", "-") + ".md" for name in vars(test_how_tos) if name.startswith("test_")
    }
    assert tested | FOLLOWED_BY_NOBODY | OF_A_MACHINE == set(pages())


@pytest.mark.parametrize("page", sorted(set(pages()) - FOLLOWED_BY_NOBODY))
def test_a_how_to_is_whole(page: str) -> None:
    parts = ("**Goal**: ", "\n## What can go wrong\n", "\n## How to undo it\n")
    assert [part for part in parts if part not in text_of(page)] == []


@pytest.mark.parametrize("page", sorted(FOLLOWED_BY_NOBODY | OF_A_MACHINE))
def test_nobody_runs_what_no_test_runs(page: str) -> None:
    assert {block.kind for block in blocks(page, text_of(page))} <= {Kind.EXAMPLE}


def test_the_index_has_every_page() -> None:
    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", text_of(INDEX))) == set(pages()) - {INDEX}


# --- links ------------------------------------------------------------------------------------------------------------


def prose(page: str) -> str:
    """The page without its blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", text_of(page))


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", path.read_text("utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@all_pages
def test_its_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (DOCS / name).resolve() if name else DOCS / page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


@all_pages
def test_the_files_of_the_project_that_it_names_are_there(page: str) -> None:
    named = re.findall(r"`((?:tests|conf|gateway|script)/[\w./-]+|Containerfile)`", prose(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- what is only named -----------------------------------------------------------------------------------------------


def code(page: str) -> list[str]:
    """What stands between backticks, in one line."""
    return [one.replace("\n", " ") for one in re.findall(r"`([^`]+)`", prose(page))]


def keys_of(section: str) -> set[str]:
    kind = section.partition(":")[0]
    found = set(NAMED.get(kind, SINGLE.get(kind, {})))
    assert found, f"[{section}]"
    return found | (set(LISTENER_TLS) if kind in ("postgres", "https", "mqtt") else set())


@all_pages
def test_the_keys_that_it_names_exist(page: str) -> None:
    for one in code(page):
        for section, key in re.findall(r"\[([a-z]+(?::[^\]]+)?)\](?: ([a-z_]+))?", one):
            assert not key or key in keys_of(section), one
            assert key or keys_of(section), one


@all_pages
def test_the_keys_of_its_examples_exist(page: str) -> None:
    for block in blocks(page, text_of(page)):
        if block.kind is Kind.EXAMPLE and block.language == "ini":
            parser = ConfigParser(interpolation=None)
            parser.read_string(block.text)
            for section in parser.sections():
                assert set(parser[section]) <= keys_of(section), f"{block}: [{section}]"


def commands(page: str) -> Iterator[str]:
    """All that call `securegw`, run or not."""
    yield from (one for one in code(page) if one.startswith("securegw "))
    for block in blocks(page, text_of(page)):
        if block.language == "sh":
            lines = block.text.replace("\\\n", " ").splitlines()
            yield from (line.strip() for line in lines if line.strip().startswith("securegw "))


@all_pages
def test_the_commands_that_it_names_exist(page: str) -> None:
    for one in commands(page):
        check_command(one)


def check_command(text: str) -> None:
    """Its sub-commands, and every option; what they are given is not looked at."""
    words = shlex.split(re.split(r"[|&]", text)[0], comments=True)[1:]
    found: click.Command = securegw
    options = {option for parameter in found.params for option in parameter.opts}
    for word in words:
        if isinstance(found, click.Group) and word in found.commands:
            found = found.commands[word]
            options |= {option for parameter in found.params for option in parameter.opts}
        assert not word.startswith("--") or word in {*options, "--help"}, text
    assert not isinstance(found, click.Group) or len(words) == 1, text
    assert found is not securegw, text


# --- what is for a machine of its own ---------------------------------------------------------------------------------


def test_what_is_said_of_the_units_stands_in_them() -> None:
    """Each `Name=` is set there, and with a value it is that one."""
    units = "\n".join((ROOT / "conf" / f"securegw.{kind}").read_text("utf-8") for kind in ("service", "socket"))
    said = [one for one in code("run-with-systemd.md") if re.fullmatch(r"[A-Z][A-Za-z]+=.*", one)]
    assert len(said) > 5
    for one in said:
        assert [line for line in units.splitlines() if line == one or (one.endswith("=") and line.startswith(one))], one


def test_what_is_said_of_the_image_stands_in_its_file() -> None:
    image, page = (ROOT / "Containerfile").read_text("utf-8"), text_of("container.md")
    said = ["/etc/securegw", "/var/lib/securegw", "10001", "127.0.0.1:9464", "SECUREGW_CONFIG", "6432", "8443", "8883"]
    assert [one for one in said if one not in image or one not in page] == []
