"""`securegw check` as people and programs call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.check import check
from gateway.cli.settings import Installation
from tests.cli.console import framed
from tests.fake_upstream import Caller, FakeUpstream
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.servers import free_port

FRAME = framed(check)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.made(tmp_path)


def run(site: Site, sections: Sections, *arguments: str) -> Result:
    where = Installation(str(site.write({**DATABASE, **sections})), {}, site.folder)
    return CliRunner().invoke(FRAME, ["check", *arguments], obj=where, prog_name="securegw")


def upstream(port: int) -> Sections:
    return {"upstream:main": {"hosts": f"127.0.0.1:{port}", "tls": "disable"}}


def test_a_page_for_people(site: Site) -> None:
    result = run(site, {}, "--offline")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:2] == ["[configuration]", f"  ok    file         {site.folder / 'gw.ini'}: can be used"]
    assert "[postgres:main]" in lines
    assert "  ok    rules        2 of its lines can decide" in lines
    # All texts begin in the same column.
    assert {line.index(line[8:].partition("  ")[2].strip()) for line in lines if line.startswith("  ok")} == {21}


def test_json_for_programs(site: Site) -> None:
    found: list[dict[str, Any]] = json.loads(run(site, {}, "--offline", "--json").stdout)
    assert {"jwt:main", "postgres:main", "tls"} <= {one["section"] for one in found}
    assert all(set(one) == {"section", "about", "level", "text"} for one in found)


def test_whoever_is_there_is_asked(site: Site) -> None:
    with FakeUpstream.running(Caller.let_in) as fake:
        result = run(site, upstream(fake.port))
        assert (result.exit_code, len(fake.callers)) == (0, 1)
        assert f"  ok    127.0.0.1:{fake.port} as alice" in result.stdout
        assert run(site, upstream(fake.port), "--offline").exit_code == 0
        assert len(fake.callers) == 1


def test_a_failure_is_the_status(site: Site) -> None:
    port = free_port()
    result = run(site, upstream(port))
    assert result.exit_code == 1
    assert f"  FAIL  127.0.0.1:{port}" in result.stdout
    assert run(site, upstream(port), "--offline").exit_code == 0


def test_mistakes_of_the_configuration_all_at_once(site: Site) -> None:
    (site.folder / "server.crt").unlink()
    result = run(site, {"postgres:main": {"ruels": "x", "role": "y"}})
    assert result.exit_code == 1
    for words in ("FAIL  ruels", "FAIL  role", "FAIL  certificate"):
        assert words in result.stdout


def test_there_is_no_configuration(tmp_path: Path) -> None:
    result = CliRunner().invoke(FRAME, ["check"], obj=Installation(None, {}, tmp_path), prog_name="securegw")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no configuration" in result.stderr


def test_help_teaches(site: Site) -> None:
    result = run(site, {}, "--help")
    assert "securegw check --offline && systemctl reload securegw" in result.stdout
