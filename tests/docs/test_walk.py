"""The reader of a page notices where it goes otherwise than the page says."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks
from tests.docs.walk import Reader


def walk(reader: Reader, text: str) -> None:
    reader.walk(blocks("page.md", text))


def test_a_page_that_is_right(reader: Reader) -> None:
    walk(
        reader,
        "Write `a.txt`:\n```text a.txt\nfrom the page\n```\n"
        "```sh\ncat a.txt; name=value; cd /\n```\n```text\nfrom …\n```\n"
        '```sh\necho "$name in $PWD"\n```\n```text\nvalue in /\n```\n'
        "```sh refused\ncd /tmp; false\n```\n```sh\npwd\n```\n```text\n/\n```\n"
        "```sh background\necho I am here; exec sleep 60\n```\n```text\nI am here\n```\n",
    )


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nfalse\n```\n",
        "```sh\nfalse; true\n```\n",
        '```sh\necho "$unset"\n```\n',
        "```sh\nfalse\n```\n```sh\ntrue\n```\n",
        "```sh\nexit\n```\n",
        "```sh refused\ntrue\n```\n",
        "```sh\necho one\n```\n```text\ntwo\n```\n",
        "```sh\necho one; echo two\n```\n```text\none\n```\n",
        "```sh refused\necho one; false\n```\n```text\ntwo\n```\n",
        "```sh background\ntrue\n```\n",
        "```sh background\necho one\n```\n```text\ntwo\n```\n",
        "```sh background\necho Traceback\n```\n```text\nTraceback\n```\n",
    ],
)
def test_a_page_that_is_wrong(reader: Reader, text: str) -> None:
    with pytest.raises(AssertionError, match=r"page\.md, line \d"):
        walk(reader, text)


def test_ports_are_free_ones_and_the_same_everywhere(reader: Reader) -> None:
    reader.ports["5432"] = 4321
    walk(
        reader,
        "Write `a.txt`:\n```text a.txt\n127.0.0.1:8080 localhost:5432 8080 18080 1.8080 2031-8080\n```\n"
        "```sh background\npython3 -m http.server -b 127.0.0.1 8080\n```\n"
        "```sh\ncat a.txt\n```\n```text\n127.0.0.1:8080 localhost:5432 8080 …\n```\n",
    )
    port, given, again, *others = (reader.folder / "a.txt").read_text().split()
    assert port != "127.0.0.1:8080"
    assert given == "localhost:4321"
    assert (again, others) == (port.partition(":")[2], ["18080", "1.8080", f"2031-{again}"])
