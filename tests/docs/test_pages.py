"""The grammar of a page: what nobody would follow is found."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import BadPage, Kind, blocks
from tests.docs.walk import pattern


def kinds(text: str) -> list[Kind]:
    return [block.kind for block in blocks("page.md", text)]


def test_every_kind() -> None:
    text = (
        "# A page\n\n```sh\ntrue\n```\n\n```text\n```\nThis is `a.ini`:\n```ini a.ini\n[tls]\n```\n"
        "```sh refused\nfalse\n```\n```sh background\nsleep 1\n```\n```text\n```\n```ini example\n```\n"
        "```text background\n```\n"
    )
    found = [Kind.RUN, Kind.SEEN, Kind.FILE, Kind.REFUSED, Kind.BACKGROUND, Kind.SEEN, Kind.EXAMPLE]
    assert kinds(text) == [*found, Kind.SEEN_THERE]


def test_a_block_knows_where_it_is_and_what_is_in_it() -> None:
    (block,) = blocks("page.md", "one\n\n```sh\n  a\n\nb\n```\n")
    assert (str(block), block.text, block.said) == ("page.md, line 3", "  a\n\nb\n", "one\n")


@pytest.mark.parametrize(
    "text",
    [
        "```\nls\n```\n",
        "```bash\nls\n```\n",
        "```sh hidden\nls\n```\n",
        "```ini gw.ini\n```\n",
        "in `other.ini`:\n```ini gw.ini\n```\n",
        "in `/etc/gw.ini`:\n```ini /etc/gw.ini\n```\n",
        "in `../gw.ini`:\n```ini ../gw.ini\n```\n",
        "```text\nseen\n```\n",
        "in `gw.ini`:\n```ini gw.ini\n```\n```text\nseen\n```\n",
        "```sh example\n```\n```text\nseen\n```\n",
        "```sh\n```\n```text background\nseen\n```\n",
        "```sh\nls\n",
        "    ls\n",
        "\tls\n",
        "1. one\n   ```sh\n   ls\n   ```\n",
    ],
)
def test_what_nobody_would_follow(text: str) -> None:
    with pytest.raises(BadPage, match=r"page\.md, line \d"):
        kinds(text)


@pytest.mark.parametrize(
    ("shown", "printed", "matches"),
    [
        ("one\n", "one\n", True),
        ("one\n", "one  \n", True),
        ("one\n", "one\ntwo\n", False),
        ("one\n", "zero\none\n", False),
        ("o.e\n", "one\n", False),
        ("o…e\n", "o, and then some e\n", True),
        ("o…e\n", "o\ne\n", False),
        ("one\n…\nthree\n", "one\nthree\n", True),
        ("one\n…\nthree\n", "one\ntwo\n2.5\nthree\n", True),
        ("…\n", "", True),
    ],
)
def test_what_is_seen(shown: str, printed: str, matches: bool) -> None:
    assert bool(re.fullmatch(pattern(shown), printed)) is matches
