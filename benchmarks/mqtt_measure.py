"""The measurements over MQTT: each drives one peer once and returns named figures.

The load runs first as far as its connections and a little of the part, so that opening them is in no figure but that of
`connect`. CPU is that of the peer's processes (and, beside it, of the broker behind a front) while the load runs and
until everything it sent is acknowledged.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, TypeVar

from benchmarks import load
from benchmarks.measure import SETTLE_SECONDS, WARM_UP, Figures, family, memory_kb
from benchmarks.mqtt_client import ACCEPTED, ask
from benchmarks.mqtt_peers import ANY_WORD, START, Peer, Site
from benchmarks.peers import Process

Seen = TypeVar("Seen")

PAYLOAD = 200
SUBSCRIBERS = 50
HELD = 5000
HOLD = "hold"
# Linux, clock_getcpuclockid(3): the CPU time of a whole process, in nanoseconds where /proc has ticks.
CPU_OF_PROCESS = 2


class Load(NamedTuple):
    """work: what mqtt_load does. rate: messages a second in all, where they are paced."""

    work: str
    connections: int
    rate: float = 1


LOADS = {
    "flood": Load("flood", 1),
    "mixed": Load("mixed", 1),
    "single": Load("single", 1),
    "qos1": Load("qos1", 20),
    "pair": Load("bursts", 1 + 1),
    "bursts": Load("bursts", 1 + SUBSCRIBERS),
    "fanout": Load("fanout", 1 + SUBSCRIBERS, 200),
    "idle": Load("idle", 100, 100),
    "connect": Load("connect", 16),
}
PARTS = (*LOADS, HOLD)


def same_terms(site: Site, peer: Peer) -> str:
    """TLS 1.3 with the one certificate, and a certificate required; returns the cipher."""
    shown = ssl.PEM_cert_to_DER_cert(site.credentials.certificate.read_text())
    right = ask(site.credentials, peer.port, ANY_WORD)
    if (right.code, right.version, right.certificate) != (ACCEPTED, "TLSv1.3", shown):
        raise RuntimeError(f"{peer.name} does not speak on the same terms: {right.code}, {right.version}")
    try:
        bare = ask(site.credentials, peer.port, ANY_WORD, certificate=False).code
    except OSError:
        bare = None  # The TLS alert.
    if bare == ACCEPTED:
        raise RuntimeError(f"{peer.name} lets in a client without a certificate")
    return right.cipher


def cpu_seconds(process: Process | None) -> float:
    """User and system time of a process and its living descendants."""
    members = family(process.pid) if process else {}
    return sum(time.clock_gettime(~member << 3 | CPU_OF_PROCESS) for member in members)


def drive(part: str, site: Site, peer: Peer, seconds: float) -> Figures:
    """One run of the loader, which ends with an error at anything wrong that it receives."""

    def look() -> tuple[float, float]:
        return cpu_seconds(peer.process), cpu_seconds(peer.broker)

    told, before, after = _run(LOADS[part], site, peer, seconds, look)
    used, behind = (late - early for early, late in zip(before, after, strict=True))
    elapsed = told["seconds"]
    figures = {
        "cpu_us": used * 1e6 / told["ops"],
        "both_us": (used + behind) * 1e6 / told["ops"],
        "cpu_ms_per_s": used * 1e3 / elapsed,
        "both_ms_per_s": (used + behind) * 1e3 / elapsed,
        "per_s": told["ops"] / elapsed,
        "lost": told["lost"] * 1e2 / (told["ops"] + told["lost"]),
        "cores": used / elapsed,
        "loader_cores": told["cpu"] / elapsed,
        "broker_cores": behind / elapsed,
    }
    return figures | {name: told[name] for name in ("p50_us", "p99_us") if told[name]}


def hold(site: Site, name: str) -> Figures:
    """What HELD clients that say nothing add to a peer, newly started for them; all of them answer afterwards."""
    with ExitStack() as stack:
        peer = START[name](site, stack)

        def look() -> tuple[tuple[int, int], tuple[int, int]]:
            time.sleep(SETTLE_SECONDS)
            return _memory_kb(peer.process), _memory_kb(peer.broker)

        _run(Load("hold", WARM_UP), site, peer, 0, lambda: None)
        base = look()
        _, held, _ = _run(Load("hold", HELD), site, peer, 0, look)
    (rss, pss), (behind_rss, behind_pss) = (
        [(late - early) / HELD for early, late in zip(*pair, strict=True)] for pair in zip(base, held, strict=True)
    )
    return {
        "rss_kb": rss,
        "pss_kb": pss,
        "both_rss_kb": rss + behind_rss,
        "both_pss_kb": pss + behind_pss,
        "base_mb": base[0][1] / 1024,
    }


def _memory_kb(process: Process | None) -> tuple[int, int]:
    """Resident and proportional set size of a process with its descendants."""
    found = [memory_kb(member) for member in (family(process.pid) if process else ())]
    return sum(rss for rss, _ in found), sum(pss for _, pss in found)


def _run(what: Load, site: Site, peer: Peer, seconds: float, look: Callable[[], Seen]) -> tuple[Figures, Seen, Seen]:
    shown = site.credentials
    command = [
        *(*site.at_load, str(site.loader), what.work, str(peer.port), str(what.connections), str(seconds)),
        *map(str, (shown.authority, shown.client_certificate, shown.client_key)),
        *(shown.thing_key, ANY_WORD, str(PAYLOAD), str(what.rate)),
    ]
    try:
        return load.drive(command, seconds, look)
    except RuntimeError as failure:
        raise RuntimeError(f"load on {peer.name}: {failure}") from None
