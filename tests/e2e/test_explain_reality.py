"""What `explain` says is what the gateway does: held to that with clients, rules and certificates made at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.explained import ALL, Outcome
from tests.e2e.explained_site import Explained
from tests.gateways import wait_until

# Of each protocol, before each of these many sets of rules.
CASES = 140
SEEDS = (5, 50)


@pytest.mark.parametrize("seed", SEEDS)
def test_explain_says_what_the_gateway_does(tmp_path: Path, seed: int) -> None:
    with Explained.running(tmp_path, seed) as site:
        for play in ALL:
            outcomes = [play(site) for _ in range(CASES)]
            told = _told(site, outcomes)
            for number, outcome in enumerate(outcomes):
                where = f"seed {seed}, {play.__name__}, case {number}: {outcome}"
                assert outcome.explained.allowed == outcome.allowed, where
                _check_words(outcome, told[outcome.client], where)
            # Neither all of them nor nobody: there is something to be told apart.
            assert CASES // 20 < sum(one.allowed for one in outcomes) < CASES - CASES // 20


def _told(site: Explained, outcomes: list[Outcome]) -> dict[str, list[dict[str, Any]]]:
    """What the audit has of each of these clients."""
    clients = {one.client for one in outcomes}

    def found() -> dict[str, list[dict[str, Any]]]:
        records: dict[str, list[dict[str, Any]]] = {}
        for event in ("open", "request", "denied", "close"):
            for one in site.gateway.audit(event):
                records.setdefault(one["client"], []).append(one)
        return records

    wait_until(lambda: clients <= found().keys(), "the audit tells of everybody")
    return found()


def _check_words(outcome: Outcome, records: list[dict[str, Any]], where: str) -> None:
    """The same line decided, and the reason is the same."""
    explained = outcome.explained
    rules = {explained.rule, explained.details.get("let_in_by")}
    if explained.allowed:
        assert all(one["rule"] in rules for one in records if one.get("rule")), (where, records)
        return
    reasons = [one["reason"] for one in records if one.get("reason")]
    assert any(_same(explained.reason or "", reason) for reason in reasons), (where, records)


def _same(explained: str, told: str) -> bool:
    """But for what a moment makes different, and what OpenSSL has its own words for."""
    if explained.startswith("PROXY header: "):
        return told.startswith("PROXY header: ")
    if explained.startswith("TLS: "):
        words = explained.removeprefix("TLS: ").partition(" ([")[0]
        return words in told or words.startswith(("OpenSSL's security level", "no client certificate"))
    return _shortened(explained) == _shortened(told)


def _shortened(reason: str) -> str:
    return reason.partition(" seconds ago")[0].rstrip("0123456789")
