"""Turns the raw figures of the MQTT benchmark into Markdown: the brokers, the fronts, and what else was seen.

A ratio is made within each round, of two peers that met the same minute of the machine; its cell is the median of all
rounds with the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.mqtt_peers import FRONT, HUB, MOSQUITTO, NGINX
from benchmarks.report import Reading, met, ratios, spread, table, values

PEERS = (MOSQUITTO, HUB, NGINX, FRONT)


class Row(NamedTuple):
    """figure, both: of the peer, and of it with the broker behind. hub, front: at most so many times the other one."""

    part: str
    title: str
    figure: str
    both: str
    digits: int
    hub: float | None = None
    front: float | None = None


ROWS = (
    Row("flood", "QoS 0, one publisher, many in a record: CPU per message, µs", "cpu_us", "both_us", 2, 1.0, 1.5),
    Row("mixed", "QoS 0, the same, 10 topics, 100 to 299 bytes: CPU per message, µs", "cpu_us", "both_us", 2),
    Row("single", "QoS 0, one publisher, one in a record: CPU per message, µs", "cpu_us", "both_us", 2, 1.0, 1.5),
    Row("qos1", "QoS 1, 20 publishers, window 20: CPU per message, µs", "cpu_us", "both_us", 2, 1.3, 1.5),
    Row("pair", "1 → 1, QoS 0, bursts: CPU per message received, µs", "cpu_us", "both_us", 2, None, 1.5),
    Row("bursts", "1 → 50, QoS 0, bursts: CPU per message received, µs", "cpu_us", "both_us", 2, 1.0, 1.5),
    Row("fanout", "1 → 50, QoS 0, 200/s: CPU per message received, µs", "cpu_us", "both_us", 2, 1.0, 1.5),
    Row(
        "idle",
        "100 clients, a message a second each: CPU per second, ms",
        "cpu_ms_per_s",
        "both_ms_per_s",
        2,
        None,
        1.5,
    ),
    Row("connect", "CPU per new connection, µs", "cpu_us", "both_us", 0),
    Row("hold", "memory per idle client (PSS), KB", "pss_kb", "both_pss_kb", 1),
    Row("hold", "memory per idle client (RSS), KB", "rss_kb", "both_rss_kb", 1),
)
SEEN = (
    ("per_s", "per second", 0),
    ("lost", "lost, %", 2),
    ("p50_us", "median, µs", 0),
    ("p99_us", "99th percentile, µs", 0),
    ("cores", "its cores", 2),
    ("loader_cores", "loader's cores", 2),
    ("broker_cores", "broker's cores", 2),
)


class Comparison(NamedTuple):
    title: str
    theirs: str
    ours: str
    both: bool


COMPARISONS = (
    Comparison("The hub beside Mosquitto", MOSQUITTO, HUB, both=False),
    Comparison("In front of Mosquitto, without what is behind", NGINX, FRONT, both=False),
    Comparison("In front of Mosquitto, with it", NGINX, FRONT, both=True),
)


def markdown(readings: Sequence[Reading]) -> str:
    parts = [(f"### {comparison.title}", compared(readings, comparison)) for comparison in COMPARISONS]
    parts.append(("### What else was seen", seen(readings)))
    return "\n\n".join(text for part in parts for text in part)


def compared(readings: Sequence[Reading], what: Comparison) -> str:
    heads = ["", what.theirs, what.ours, f"{what.ours} ÷ {what.theirs}", "target"]
    lines = [heads, ["---"] * len(heads)]
    for row in ROWS:
        figure = row.both if what.both else row.figure
        found = [values(readings, row.part, name, figure) for name in (what.theirs, what.ours)]
        if any(found):
            ratio = ratios(readings, row.part, figure, what.ours, what.theirs)
            lines.append(
                [row.title, *(spread(cell, row.digits) for cell in found), spread(ratio, 2), _target(row, what, ratio)]
            )
    return table(lines)


def _target(row: Row, what: Comparison, ratio: list[float]) -> str:
    limit = None if what.both else row.hub if what.ours == HUB else row.front
    if limit is None:
        return ""
    return f"≤ {limit} times {what.theirs}: {met(median(ratio) if ratio else None, limit)}"


def seen(readings: Sequence[Reading]) -> str:
    heads = ["part", "peer", *(title for _, title, _ in SEEN)]
    lines = [heads, ["---"] * len(heads)]
    for part in dict.fromkeys(row.part for row in ROWS if row.part != "hold"):
        for name in PEERS:
            if values(readings, part, name, "per_s"):
                shown = (spread(values(readings, part, name, figure), digits) for figure, _, digits in SEEN)
                lines.append([part, name, *shown])
    return table(lines)
