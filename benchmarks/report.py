"""Turns raw figures into Markdown: medians with their spread, ratios of medians, and the targets beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.measure import Figures
from benchmarks.peers import DIRECT, GATEWAY, JWT_PROXY, NO_PROXY, PGBOUNCER, PGBOUNCER_FRESH, PLAIN, TLS


@dataclass(frozen=True, slots=True)
class Reading:
    """One peer, driven once."""

    part: str
    peer: str
    upstream: str
    round: int
    figures: Figures

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a comparison. `limits`: at most so many times another peer's median; `ceiling`: at most so much."""

    part: str
    figure: str
    title: str
    digits: int
    limits: tuple[tuple[str, float], ...] = ()
    ceiling: float | None = None


TRANSACTION_LIMITS = ((PGBOUNCER, 1.7), (JWT_PROXY, 0.6))
ROWS = (
    Row("pgbench-8", "cpu_us", "CPU per transaction, 8 clients, µs", 1, TRANSACTION_LIMITS),
    Row("pgbench-64", "cpu_us", "CPU per transaction, 64 clients, µs", 1, TRANSACTION_LIMITS),
    Row("pgbench-8", "tps", "transactions/s, 8 clients", 0),
    Row("pgbench-64", "tps", "transactions/s, 64 clients", 0),
    Row("latency", "latency_ms", "mean latency, 1 client, ms", 3),
    Row("copy", "cpu_ms", "CPU per MB of COPY, ms", 3, ((PGBOUNCER, 0.7),)),
    Row("copy", "mb_per_s", "COPY, MB/s", 0),
    Row("idle", "pss_kb", "memory per idle connection (PSS), KB", 1, ceiling=25.0),
    Row("idle", "rss_kb", "memory per idle connection (RSS), KB", 1),
    Row("idle", "base_mb", "memory before them (PSS), MB", 1),
)
COLUMNS = {PLAIN: (DIRECT, PGBOUNCER, GATEWAY), TLS: (DIRECT, PGBOUNCER, JWT_PROXY, GATEWAY)}
CONNECTION_FIGURES = (
    ("per_s", "new connections/s", 0),
    ("cpu_ms", "proxy's CPU per connection, ms", 2),
    ("cores", "proxy's cores busy", 2),
    ("loader_ms", "client's CPU per connection, ms", 2),
    ("loader_cores", "client's cores busy", 2),
)


class Readings:
    """All readings of a run, asked by part, peer and upstream."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = list(readings)

    def values(self, part: str, peer: str, upstream: str, figure: str) -> list[float]:
        wanted = part, peer, NO_PROXY if peer == DIRECT else upstream
        found = (r.figures for r in self._readings if (r.part, r.peer, r.upstream) == wanted)
        return [figures[figure] for figures in found if figure in figures]


def values(readings: Iterable[Reading], part: str, peer: str, figure: str) -> list[float]:
    found = (reading.figures for reading in readings if (reading.part, reading.peer) == (part, peer))
    return [figures[figure] for figures in found if figure in figures]


def ratios(readings: Iterable[Reading], part: str, figure: str, ours: str, theirs: str) -> list[float]:
    """One peer ÷ another, round by round."""
    by_round = {(r.round, r.peer): r.figures[figure] for r in readings if r.part == part}
    rounds = [number for number, name in by_round if name == ours and by_round.get((number, theirs))]
    return [by_round[number, ours] / by_round[number, theirs] for number in rounds]


def spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def markdown(readings: Readings) -> str:
    sections = [
        "### Plain upstream (TCP on 127.0.0.1)",
        comparison(readings, PLAIN),
        "### TLS upstream",
        comparison(readings, TLS),
        "### New TLS connections",
        new_connections(readings),
        "### Idle connections held",
        held(readings),
    ]
    return "\n\n".join(sections)


def comparison(readings: Readings, upstream: str) -> str:
    others = [name for name in COLUMNS[upstream] if name not in (DIRECT, GATEWAY)]
    heads = ["", *COLUMNS[upstream], *(f"{GATEWAY} ÷ {name}" for name in others), "target"]
    lines = [heads, ["---"] * len(heads)]
    for row in ROWS:
        values = {name: readings.values(row.part, name, upstream, row.figure) for name in COLUMNS[upstream]}
        if any(values.values()):
            cells = [spread(values[name], row.digits) for name in COLUMNS[upstream]]
            ratios = [_ratio(values[GATEWAY], values[name]) for name in others]
            shown = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            lines.append([row.title, *cells, *shown, _verdict(row, values, dict(zip(others, ratios, strict=True)))])
    return table(lines)


def _verdict(row: Row, values: dict[str, list[float]], ratios: dict[str, float | None]) -> str:
    targets = [(f"≤ {limit} times {name}", ratios[name], limit) for name, limit in row.limits if name in ratios]
    if row.ceiling is not None:
        own = values[GATEWAY]
        targets.append((f"≤ {row.ceiling:g}", median(own) if own else None, row.ceiling))
    return "; ".join(f"{text}: {met(value, limit)}" for text, value, limit in targets)


def met(value: float | None, limit: float) -> str:
    if value is None:
        return "not measured"
    return "met" if value <= limit else "missed"


def _ratio(ours: list[float], theirs: list[float]) -> float | None:
    return median(ours) / median(theirs) if ours and theirs and median(theirs) else None


def new_connections(readings: Readings) -> str:
    heads = ["peer", "upstream", *(title for _, title, _ in CONNECTION_FIGURES)]
    lines = [heads, ["---"] * len(heads)]
    for upstream in (NO_PROXY, PLAIN, TLS):
        for name in (PGBOUNCER, PGBOUNCER_FRESH, JWT_PROXY, GATEWAY) if upstream else (DIRECT,):
            values = {figure: readings.values("connect", name, upstream, figure) for figure, _, _ in CONNECTION_FIGURES}
            if values["per_s"]:
                lines.append([name, upstream, *(spread(values[f], digits) for f, _, digits in CONNECTION_FIGURES)])
    return table(lines) if len(lines) > 2 else "Not measured."


def held(readings: Readings) -> str:
    said = []
    for upstream in (PLAIN, TLS):
        asked = readings.values("hold", GATEWAY, upstream, "asked")
        for wanted, alive in zip(asked, readings.values("hold", GATEWAY, upstream, "alive"), strict=True):
            said.append(f"{upstream} upstream: {alive:.0f} of {wanted:.0f} answered a query after the wait.")
    return "\n\n".join(said) or "Not measured."


def table(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
