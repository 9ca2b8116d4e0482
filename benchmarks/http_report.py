"""Turns the raw figures of the HTTP benchmark into Markdown: what each peer costs, and what else was seen.

A ratio is made within each round, of two peers that met the same minute of the machine; its cell is the median of all
rounds with the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.http_peers import NGINX, NGINX_NJS
from benchmarks.peers import GATEWAY
from benchmarks.report import Reading, met, ratios, spread, table, values

PEERS = (NGINX, NGINX_NJS, GATEWAY)


class Row(NamedTuple):
    """limit: at most so many times nginx."""

    part: str
    title: str
    figure: str
    digits: int
    limit: float | None = None


ROWS = (
    Row("get", "CPU per GET of 200 bytes, µs", "cpu_us", 1, 1.6),
    Row("post", "CPU per POST of 500 bytes, µs", "cpu_us", 1, 1.6),
    Row("download", "CPU per MB of download, ms", "cpu_ms_per_mb", 3, 1.2),
    Row("upload", "CPU per MB of upload, ms", "cpu_ms_per_mb", 3),
    Row("ws64", "CPU per WebSocket echo of 64 B, µs", "cpu_us", 1, 1.6),
    Row("ws16k", "CPU per WebSocket echo of 16 KB, µs", "cpu_us", 1, 1.6),
    Row("connect", "CPU per new connection, µs", "cpu_us", 0),
)
SEEN = (
    ("per_s", "operations/s", 0),
    ("mb_per_s", "MB/s", 1),
    ("p50_us", "median, µs", 0),
    ("p99_us", "99th percentile, µs", 0),
    ("cores", "proxy's cores", 2),
    ("loader_cores", "loader's cores", 2),
    ("upstream_cores", "upstream's cores", 2),
)


def markdown(readings: Sequence[Reading]) -> str:
    return "\n\n".join(("### CPU beside nginx", costs(readings), "### What else was seen", seen(readings)))


def costs(readings: Sequence[Reading]) -> str:
    heads = ["", *PEERS, *(f"{GATEWAY} ÷ {name}" for name in PEERS[:-1]), "target"]
    lines = [heads, ["---"] * len(heads)]
    for row in ROWS:
        cells = [spread(values(readings, row.part, name, row.figure), row.digits) for name in PEERS]
        if any(cell != "-" for cell in cells):
            compared = [ratios(readings, row.part, row.figure, GATEWAY, name) for name in PEERS[:-1]]
            lines.append([row.title, *cells, *(spread(ratio, 2) for ratio in compared), _target(row, compared[0])])
    return table(lines)


def _target(row: Row, ratio: list[float]) -> str:
    if row.limit is None:
        return ""
    return f"≤ {row.limit} times {NGINX}: {met(median(ratio) if ratio else None, row.limit)}"


def seen(readings: Sequence[Reading]) -> str:
    heads = ["part", "peer", *(title for _, title, _ in SEEN)]
    lines = [heads, ["---"] * len(heads)]
    for row in ROWS:
        for name in PEERS:
            if values(readings, row.part, name, "per_s"):
                shown = (spread(values(readings, row.part, name, figure), digits) for figure, _, digits in SEEN)
                lines.append([row.part, name, *shown])
    return table(lines)
