"""securegw beside nginx with a client-certificate check, on this machine, in turn.

It installs nothing into the project: programs, certificates and configurations live in a scratch folder.
benchmarks/README.md says what is measured and what is not.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

# Run as a script, the first place would be this folder, where `http` is not the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import http_measure, http_report
from benchmarks.http_peers import NGINX, NGINX_NJS, START, Peer, Site, start_site
from benchmarks.machine import gateway_versions, machine_facts, plainly, said_by, scratch
from benchmarks.peers import GATEWAY, MissingError
from benchmarks.report import Reading, ratios, values

SHORT = {"nginx": NGINX, "njs": NGINX_NJS, "securegw": GATEWAY}
QUICK_SECONDS = 3.0
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = http_measure.PARTS
    parser.add_argument("--rounds", type=int, default=7, help="times each peer is measured (default 7)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each time (default 5)")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--peers", nargs="+", choices=SHORT, metavar="PEER", help=", ".join(SHORT))
    parser.add_argument(
        "--quick", nargs="+", choices=parts, metavar="PART", help="only one short round of these parts, without a table"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw figure there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="scratch folder, kept (default: one that is removed)")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, and --seconds more than 0")
    if options.quick:
        options.only, options.rounds, options.seconds = options.quick, 1, QUICK_SECONDS
    # For a quick look the cheaper nginx is enough.
    options.peers = options.peers or (["nginx", "securegw"] if options.quick else list(SHORT))
    return options


def run(options: argparse.Namespace, site: Site, readings: list[Reading], ciphers: set[str], stack: ExitStack) -> None:
    """Every part, round by round, each round through all peers: A B C, A B C."""
    running: dict[str, Peer] = {}
    for name in (SHORT[short] for short in options.peers):
        running[name] = START[name](site, stack)
        ciphers.add(http_measure.same_terms(site, running[name]))
    for part in options.only:
        for number in range(1, 1 + options.rounds):
            for name, peer in running.items():
                figures = http_measure.drive(part, site, peer, options.seconds)
                readings.append(Reading(part, name, "plain", number, figures))
                print(f"{part} {number}: {name}: {plainly(figures)}", file=sys.stderr, flush=True)


def facts(options: argparse.Namespace, site: Site) -> dict[str, str]:
    """What the figures depend on."""
    nginx = said_by(site.nginx, "-V").partition(", TLS SNI")[0].removeprefix("nginx version: ")
    found = machine_facts() | {"nginx": nginx}
    if "securegw" in options.peers:
        found[GATEWAY] = gateway_versions()
    found["cores"] = f"proxy: {_told(site.at_proxy)}; load and upstream: {_told(site.at_load)}"
    return found


def _told(share: tuple[str, ...]) -> str:
    return share[-1] if share else "any"


def show(options: argparse.Namespace, known: dict[str, str], readings: list[Reading]) -> None:
    for name, value in known.items():
        print(f"- {name}: {value}")
    print(f"\n{http_report.markdown(readings)}")
    if options.json:
        raw = {"facts": known, "readings": [reading.as_json() for reading in readings]}
        options.json.write_text(json.dumps(raw, indent=1) + "\n")


def show_quickly(options: argparse.Namespace, readings: list[Reading]) -> None:
    for row in http_report.ROWS:
        if row.part in options.only:
            peers = (name for name in http_report.PEERS if values(readings, row.part, name, row.figure))
            said = [f"{name} {values(readings, row.part, name, row.figure)[0]:.4g}" for name in peers]
            said += [f"ratio {ratio:.2f}" for ratio in ratios(readings, row.part, row.figure, GATEWAY, NGINX)]
            print(f"{row.title}: {', '.join(said)}")


def main() -> int:
    options = arguments()
    # The default action of SIGTERM would leave the servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    readings: list[Reading] = []
    ciphers: set[str] = set()
    failure = None
    with ExitStack() as stack:
        try:
            site = start_site(scratch(options.work, stack)[1], stack)
            known = facts(options, site)
            run(options, site, readings, ciphers, stack)
        except MissingError as missing:
            print(f"missing: {missing}", file=sys.stderr)
            return 1
        except FAILURES as error:
            failure = error
    if options.quick:
        show_quickly(options, readings)
    elif readings:
        known["TLS to the client"] = f"1.3, ECDSA P-256 both ways, full handshakes, {', '.join(sorted(ciphers))}"
        known["figures"] = f"medians of {options.rounds} rounds of {options.seconds:g} s (lowest to highest)"
        show(options, known, readings)
    if failure:
        print(f"\nstopped early: {failure}", file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
