"""securegw beside Mosquitto and nginx, over MQTT with client certificates, on this machine, in turn.

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

from benchmarks import mqtt_measure, mqtt_report
from benchmarks.machine import gateway_versions, machine_facts, plainly, said_by, scratch
from benchmarks.mqtt_peers import FRONT, HUB, MOSQUITTO, NGINX, START, Peer, Site, start_site
from benchmarks.peers import GATEWAY, MissingError
from benchmarks.report import Reading

SHORT = {"mosquitto": MOSQUITTO, "hub": HUB, "nginx": NGINX, "front": FRONT}
# Memory differs little from run to run, and takes a new server and 5,000 handshakes each time.
HOLD_ROUNDS = 3
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = mqtt_measure.PARTS
    parser.add_argument("--rounds", type=int, default=5, help="times each peer is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each time (default 4)")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--peers", nargs="+", choices=SHORT, default=list(SHORT), metavar="PEER", help=", ".join(SHORT))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw figure there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="scratch folder, kept (default: one that is removed)")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, and --seconds more than 0")
    return options


def run(options: argparse.Namespace, site: Site, readings: list[Reading], ciphers: set[str], stack: ExitStack) -> None:
    """Every part, round by round, each round through all peers: A B C D, A B C D."""
    names = [SHORT[short] for short in options.peers]
    running: dict[str, Peer] = {}
    for name in names:
        running[name] = START[name](site, stack)
        ciphers.add(mqtt_measure.same_terms(site, running[name]))
    for part in options.only:
        for number in range(1, 1 + (min(options.rounds, HOLD_ROUNDS) if part == mqtt_measure.HOLD else options.rounds)):
            for name in names:
                if part == mqtt_measure.HOLD:
                    figures = mqtt_measure.hold(site, name)
                else:
                    figures = mqtt_measure.drive(part, site, running[name], options.seconds)
                readings.append(Reading(part, name, "plain", number, figures))
                print(f"{part} {number}: {name}: {plainly(figures)}", file=sys.stderr, flush=True)


def facts(options: argparse.Namespace, site: Site) -> dict[str, str]:
    """What the figures depend on."""
    found = machine_facts()
    found["Mosquitto"] = said_by(site.mosquitto, "-h").partition(",")[0].removeprefix("mosquitto version ")
    found["nginx"] = said_by(site.nginx, "-V").partition(", TLS SNI")[0].removeprefix("nginx version: ")
    if {"hub", "front"} & set(options.peers):
        found[GATEWAY] = gateway_versions()
    found["cores"] = f"peer: {_told(site.at_peer)}; load, and the broker behind a front: {_told(site.at_load)}"
    return found


def _told(share: tuple[str, ...]) -> str:
    return share[-1] if share else "any"


def show(options: argparse.Namespace, known: dict[str, str], readings: list[Reading]) -> None:
    for name, value in known.items():
        print(f"- {name}: {value}")
    print(f"\n{mqtt_report.markdown(readings)}")
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
    failure = None
    with ExitStack() as stack:
        try:
            site = start_site(scratch(options.work, stack)[1])
            known = facts(options, site)
            run(options, site, readings, ciphers, stack)
        except MissingError as missing:
            print(f"missing: {missing}", file=sys.stderr)
            return 1
        except FAILURES as error:
            failure = error
    if readings:
        known["TLS to the client"] = f"1.3, ECDSA P-256 both ways, full handshakes, {', '.join(sorted(ciphers))}"
        known["figures"] = f"medians of {options.rounds} rounds of {options.seconds:g} s (lowest to highest)"
        show(options, known, readings)
    if failure:
        print(f"\nstopped early: {failure}", file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
