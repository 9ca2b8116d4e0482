"""securegw beside PgBouncer and jwt-postgresql-proxy, on this machine, in turn.

It installs nothing into the project: servers, certificates and the other proxy's environment live in a scratch
folder. benchmarks/README.md says what is measured and what is not.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

# Run as a script, the first place would be this folder, where `http` is not the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure, peers, report
from benchmarks.client import ServerError
from benchmarks.machine import gateway_versions, machine_facts, plainly, said_by, scratch
from benchmarks.measure import Figures
from benchmarks.peers import (
    DIRECT,
    GATEWAY,
    JWT_PROXY,
    NO_PROXY,
    PGBOUNCER,
    PGBOUNCER_FRESH,
    PLAIN,
    TLS,
    MissingError,
    Peer,
    Site,
)
from benchmarks.report import Reading, Readings

PARTS = ("pgbench-8", "pgbench-64", "latency", "copy", "connect", "idle", "hold")
# Memory that an earlier part freed would hide what connections need.
FRESH_PROCESS = ("idle", "hold")
PROXIES = (PGBOUNCER, JWT_PROXY, GATEWAY)
CONTENDERS = (
    (DIRECT, NO_PROXY),
    (PGBOUNCER, PLAIN),
    (GATEWAY, PLAIN),
    (PGBOUNCER, TLS),
    (JWT_PROXY, TLS),
    (GATEWAY, TLS),
)
DIALING = ((PGBOUNCER_FRESH, PLAIN), (PGBOUNCER_FRESH, TLS))
FAILURES = (ServerError, RuntimeError, OSError, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    rounds: int
    seconds: int = 10
    megabytes: int = 500
    idle: int = 1000
    held: int = 2000
    hold_seconds: float = 30.0
    scale: int = 10


QUICK = Size(rounds=1, seconds=2, megabytes=50, idle=100, held=200, hold_seconds=2.0, scale=1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each peer is measured (default 5)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one round, little load, no figures to keep")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--peers", nargs="+", choices=PROXIES, default=PROXIES, metavar="PEER", help=", ".join(PROXIES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw figure there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="scratch folder, kept (default: one that is removed)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def contenders(part: str, chosen: list[str]) -> list[tuple[str, str]]:
    """Who takes part: memory is only a proxy's, and holding many is asked of the gateway alone."""
    wanted = [entry for entry in CONTENDERS if entry[0] in (DIRECT, *chosen)]
    if part == "hold":
        return [entry for entry in wanted if entry[0] == GATEWAY]
    if part == "idle":
        return [entry for entry in wanted if entry[0] != DIRECT]
    if part == "connect" and PGBOUNCER in chosen:
        return [*wanted, *DIALING]
    return wanted


def drive(part: str, site: Site, peer: Peer, size: Size) -> Figures:
    match part:
        case "pgbench-8":
            return measure.pgbench(site, peer, 8, size.seconds)
        case "pgbench-64":
            return measure.pgbench(site, peer, 64, size.seconds)
        case "latency":
            return measure.pgbench(site, peer, 1, size.seconds)
        case "copy":
            return measure.copy_out(site, peer, size.megabytes)
        case "connect":
            return measure.connections(peer, size.seconds)
        case "idle":
            return measure.idle_memory(peer, size.idle)
        case _:
            return measure.hold(peer, size.held, size.hold_seconds)


def run(options: argparse.Namespace, site: Site, readings: list[Reading], ciphers: set[str]) -> None:
    """Every part, round by round, each round through all peers: A B A B."""
    size = QUICK if options.quick else Size(rounds=options.rounds)
    measure.fill(site, peers.direct(site), size.scale)
    running: dict[tuple[str, str], Peer] = {(DIRECT, NO_PROXY): peers.direct(site)}
    with ExitStack() as stack:
        for part in options.only:
            for number in range(1, 1 + (1 if part == "hold" else size.rounds)):
                for name, upstream in contenders(part, options.peers):
                    with ExitStack() as fresh:
                        if part in FRESH_PROCESS:
                            peer = peers.START[name](site, upstream, fresh)
                        else:
                            known = running.get((name, upstream))
                            peer = running[name, upstream] = known or peers.START[name](site, upstream, stack)
                        ciphers.add(measure.same_terms(site, peer))
                        figures = drive(part, site, peer, size)
                    readings.append(Reading(part, name, upstream, number, figures))
                    print(f"{part} {number}: {name} {upstream}: {plainly(figures)}", file=sys.stderr, flush=True)


def facts(options: argparse.Namespace, site: Site) -> dict[str, str]:
    """What the figures depend on."""
    found = machine_facts() | {
        "PostgreSQL": said_by(site.binaries / "postgres", "--version"),
        PGBOUNCER: said_by(site.pgbouncer, "--version"),
    }
    if JWT_PROXY in options.peers:
        code = "from importlib.metadata import version as v; print(v('jwt-postgresql-proxy'), 'gevent', v('gevent'))"
        found[JWT_PROXY] = said_by(peers.install_jwt_proxy(site).with_name("python"), "-c", code)
    if GATEWAY in options.peers:
        found[GATEWAY] = gateway_versions()
    return found


def show(options: argparse.Namespace, known: dict[str, str], readings: list[Reading]) -> None:
    if options.quick:
        print("**A smoke run: too short to keep.**\n")
    for name, value in known.items():
        print(f"- {name}: {value}")
    print(f"\n{report.markdown(Readings(readings))}")
    if options.json:
        raw = {"facts": known, "readings": [reading.as_json() for reading in readings]}
        options.json.write_text(json.dumps(raw, indent=1) + "\n")


def main() -> int:
    options = arguments()
    # The default action of SIGTERM would leave the servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    readings: list[Reading] = []
    ciphers: set[str] = set()
    with ExitStack() as stack:
        try:
            site = peers.start_site(*scratch(options.work, stack), stack)
            known = facts(options, site)
        except MissingError as missing:
            print(f"missing: {missing}", file=sys.stderr)
            return 1
        failure = None
        try:
            run(options, site, readings, ciphers)
        except FAILURES as error:
            failure = error
        rounds = 1 if options.quick else options.rounds
        known["TLS to the client"] = f"1.3, ECDSA P-256, full handshakes, {', '.join(sorted(ciphers))}"
        known["figures"] = f"medians of {rounds} rounds (lowest to highest); ratios are of medians"
    show(options, known, readings)
    if failure:
        print(f"\nstopped early, the tables are incomplete: {failure}", file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
