"""The measurements: each drives one peer once and returns named figures.

CPU is that of the peer's process (user and system, with its children), read from /proc; the load's is never in it.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.client import ServerError, close_all, connect_for, open_many
from benchmarks.peers import Peer, Site, clean_environment

Figures = dict[str, float]

TICKS = os.sysconf("SC_CLK_TCK")
# pgbench --progress-timestamp: `progress: 1700000000.123 s, 9021.6 tps, lat 0.886 ms stddev 0.288, 0 failed`.
PROGRESS = re.compile(r"progress: ([0-9.]+) s, ([0-9.]+) tps, lat ([0-9.]+) ms .*?([0-9]+) failed")
ROW_BYTES = 1000
SLACK_SECONDS = 60.0
SETTLE_SECONDS = 1.0
# Sessions opened and closed before memory is read: what the first use of anything costs is not billed to the rest.
WARM_UP = 20


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its living descendants: proc(5), /proc/pid/stat fields 4, 14 and 15."""
    return sum(family(pid).values()) / TICKS


def family(pid: int) -> dict[int, int]:
    """A process and its living descendants, with the clock ticks that each has used."""
    table: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended while we looked.
            table[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    members, grown = {pid}, True
    while grown:
        children = {child for child, (parent, _) in table.items() if parent in members} - members
        members, grown = members | children, bool(children)
    return {member: table[member][1] for member in members}


def memory_kb(pid: int) -> tuple[int, int]:
    """Resident and proportional set size: proc(5), /proc/pid/smaps_rollup."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, re.MULTILINE))
    return int(found["Rss"]), int(found["Pss"])


def cpu_of(peer: Peer) -> float:
    return cpu_seconds(peer.process.pid) if peer.process else 0.0


def client_environment(site: Site, peer: Peer) -> dict[str, str]:
    return clean_environment() | {
        "PGHOST": "localhost",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": str(peer.account.port),
        "PGUSER": peer.account.role,
        "PGDATABASE": peer.account.database,
        "PGPASSWORD": peer.account.password,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(site.credentials.certificate),
        "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
        "PGGSSENCMODE": "disable",
        "PGCONNECT_TIMEOUT": "30",
    }


def same_terms(site: Site, peer: Peer) -> str:
    """TLS 1.3 with the one certificate, or an error; returns the cipher."""
    (connection,) = open_many(peer.account, 1)
    try:
        version, cipher = connection.socket.version(), connection.socket.cipher()
        shown = connection.socket.getpeercert(binary_form=True)
    finally:
        connection.close()
    expected = ssl.PEM_cert_to_DER_cert(site.credentials.certificate.read_text())
    if version != "TLSv1.3" or cipher is None or shown != expected:
        raise ServerError(f"{peer.name} does not speak on the same terms: {version}, {cipher}")
    return cipher[0]


def fill(site: Site, peer: Peer, scale: int) -> None:
    command = [str(site.binaries / "pgbench"), "--initialize", "--quiet", f"--scale={scale}"]
    subprocess.run(
        command, env=client_environment(site, peer), check=True, capture_output=True, timeout=SLACK_SECONDS + 10 * scale
    )


def pgbench(site: Site, peer: Peer, clients: int, seconds: int) -> Figures:
    """`pgbench -S -M prepared`, between its first and last progress line: connecting is not in the figures."""
    command = [
        str(site.binaries / "pgbench"),
        *("-S", "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds + 1)),
        *("-P", "1", "--progress-timestamp"),
    ]
    samples: list[tuple[float, float, float, float]] = []
    said: list[str] = []
    child = subprocess.Popen(
        command, env=client_environment(site, peer), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    alarm = threading.Timer(seconds + SLACK_SECONDS, child.kill)
    alarm.start()
    try:
        assert child.stderr is not None
        for line in child.stderr:
            said.append(line)
            if match := PROGRESS.match(line):
                cpu = cpu_of(peer)
                if match[4] != "0":
                    raise RuntimeError(f"pgbench against {peer.name}: {line}")
                samples.append((float(match[1]), float(match[2]), float(match[3]), cpu))
        if child.wait(SLACK_SECONDS) or len(samples) < 2:
            raise RuntimeError(f"pgbench against {peer.name} failed: {''.join(said[-5:])}")
    finally:
        alarm.cancel()
        child.kill()
        child.wait()
    return _pgbench_figures(peer, samples)


def _pgbench_figures(peer: Peer, samples: list[tuple[float, float, float, float]]) -> Figures:
    transactions = latency = 0.0
    for before, after in pairwise(samples):
        done = after[1] * (after[0] - before[0])
        transactions += done
        latency += done * after[2]
    elapsed = samples[-1][0] - samples[0][0]
    figures = {"tps": transactions / elapsed, "latency_ms": latency / transactions}
    return figures | _cpu_figures(peer, samples[-1][3] - samples[0][3], elapsed, "cpu_us", 1e6 / transactions)


def _cpu_figures(peer: Peer, cpu: float, elapsed: float, name: str, scale: float) -> Figures:
    return {name: cpu * scale, "cores": cpu / elapsed} if peer.process else {}


def copy_out(site: Site, peer: Peer, megabytes: int) -> Figures:
    """One psql reads `megabytes` (10^6 bytes, as psql sees them) of rows made on the fly, and throws them away."""
    rows = megabytes * 1_000_000 // ROW_BYTES
    query = f"copy (select repeat('x', {ROW_BYTES - 1}) from generate_series(1, {rows})) to stdout"
    start, cpu = time.monotonic(), cpu_of(peer)
    subprocess.run(
        [site.binaries / "psql", "-X", "-q", "-c", query],
        env=client_environment(site, peer),
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=SLACK_SECONDS + megabytes / 10,
    )
    elapsed, used = time.monotonic() - start, cpu_of(peer) - cpu
    return {"mb_per_s": megabytes / elapsed} | _cpu_figures(peer, used, elapsed, "cpu_ms", 1e3 / megabytes)


def connections(peer: Peer, seconds: float) -> Figures:
    """New sessions by our own client: a full TLS handshake, a login and one query each. Its own CPU is told too."""
    count, elapsed, own, used = connect_for(peer.account, seconds, lambda: cpu_of(peer))
    figures = {"per_s": count / elapsed, "loader_ms": 1e3 * own / count, "loader_cores": own / elapsed}
    return figures | _cpu_figures(peer, used, elapsed, "cpu_ms", 1e3 / count)


def idle_memory(peer: Peer, count: int) -> Figures:
    """What `count` idle sessions add to a process that has only been warmed up."""
    assert peer.process is not None
    close_all(open_many(peer.account, WARM_UP))
    time.sleep(SETTLE_SECONDS)
    rss, pss = memory_kb(peer.process.pid)
    held = open_many(peer.account, count)
    try:
        time.sleep(SETTLE_SECONDS)
        rss_after, pss_after = memory_kb(peer.process.pid)
    finally:
        close_all(held)
    return {"rss_kb": (rss_after - rss) / count, "pss_kb": (pss_after - pss) / count, "base_mb": pss / 1024}


def hold(peer: Peer, count: int, seconds: float) -> Figures:
    """Opens `count` sessions, leaves them idle, then counts those that still answer a query."""
    held = open_many(peer.account, count)
    try:
        cpu = cpu_of(peer)
        time.sleep(seconds)
        used = cpu_of(peer) - cpu
        alive = 0
        for connection in held:
            try:
                connection.ask("select 1")
                alive += 1
            except (OSError, ServerError):
                pass  # Counted by its absence.
    finally:
        close_all(held)
    return {"asked": count, "alive": alive, "idle_cores": used / seconds}
