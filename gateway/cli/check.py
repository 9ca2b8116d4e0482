"""`securegw check`: what is wrong, before somebody else finds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from gateway.cli.options import as_json
from gateway.cli.output import listed, printable, write
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.inspection.findings import Finding
    from gateway.inspection.reachable import Inquiry


@click.command()
@click.option("--offline", is_flag=True, help="Ask nobody: look only at what is on this machine's disk.")
@as_json
@click.pass_obj
def check(installation: Installation, offline: bool, as_json: bool) -> None:
    """Look for what is wrong.

    It looks at everything that the gateway depends on: the configuration as a whole; certificates, CRLs and keys (do
    they fit, how long do they last, who can read and change them); rules that never decide; and, unless --offline is
    given, whether each address of each upstream is there, with TLS as configured, and lets us in, and whether the
    registry and the key sets at URLs can be read.

    Each line is ok, warn (it works, but somebody should look at it) or FAIL. The status is 1 if any is FAIL.

    \b
    Examples:
      securegw check
      securegw check --offline && systemctl reload securegw
      securegw check --json | jq '.[] | select(.level != "ok")'
    """
    from gateway.inspection.check import check as look

    found = look(installation.ini(), installation.environ, installation.folder, None if offline else _ask)
    write(listed(map(_fields, found)) if as_json else _page(found))
    if any(one.level.value == "FAIL" for one in found):
        click.get_current_context().exit(1)


def _ask(inquiries: list[Inquiry]) -> list[Finding]:
    """Some of them take a while."""
    from gateway.inspection.reachable import asked

    if not sys.stderr.isatty():
        return asked(inquiries)
    with click.progressbar(length=len(inquiries), label="Asking", file=sys.stderr) as bar:
        return asked(inquiries, lambda: bar.update(1))


def _page(found: Sequence[Finding]) -> Iterator[str]:
    width = max((len(printable(one.about)) for one in found), default=0)
    for section, several in groupby(found, lambda one: one.section):
        yield f"[{printable(section)}]"
        for one in several:
            about = printable(one.about).ljust(width)
            yield f"  {one.level.value:4}  {about}  {printable(one.text)}".rstrip()


def _fields(one: Finding) -> dict[str, str]:
    return {"section": one.section, "about": one.about, "level": one.level.value, "text": one.text}
