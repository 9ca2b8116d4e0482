"""The measurements over HTTPS: each drives one peer once and returns named figures.

The load runs first as far as its connections and one operation each, so that opening them is in no figure but that of
`connect`. CPU is that of the peer's processes while the load runs, read from /proc.
"""

from __future__ import annotations

import ssl

from benchmarks import load
from benchmarks.http_client import FORBIDDEN, OK, ask
from benchmarks.http_peers import LARGE, SMALL, Peer, Site
from benchmarks.measure import Figures, cpu_seconds

# Of each part: how many connections, each busy all the time.
CONNECTIONS = {"get": 16, "post": 16, "download": 1, "upload": 1, "ws64": 16, "ws16k": 16, "connect": 16}
PARTS = tuple(CONNECTIONS)


def same_terms(site: Site, peer: Peer) -> str:
    """TLS 1.3 with the one certificate, the key required and compared, a certificate required; returns the cipher."""
    shown = ssl.PEM_cert_to_DER_cert(site.credentials.certificate.read_text())
    right = ask(site.credentials, peer.port, site.credentials.thing_key)
    if (right.status, right.version, right.certificate) != (OK, "TLSv1.3", shown):
        raise RuntimeError(f"{peer.name} does not speak on the same terms: {right.status}, {right.version}")
    if (wrong := ask(site.credentials, peer.port, "another").status) != FORBIDDEN:
        raise RuntimeError(f"{peer.name} answers {wrong} to a foreign key")
    try:
        bare = ask(site.credentials, peer.port, site.credentials.thing_key, certificate=False).status
    except OSError:
        bare = 0  # The TLS alert: refused, too.
    if bare == OK:
        raise RuntimeError(f"{peer.name} lets in a client without a certificate")
    return right.cipher


def drive(part: str, site: Site, peer: Peer, seconds: float) -> Figures:
    """One run of the loader, which verifies every answer and ends with an error at the first wrong one."""
    shown = site.credentials
    command = [
        *(*site.at_load, str(site.loader), part, str(peer.port), str(CONNECTIONS[part]), str(seconds)),
        *map(str, (shown.authority, shown.client_certificate, shown.client_key, shown.thing_key, SMALL, LARGE)),
    ]
    try:
        told, before, after = load.drive(
            command, seconds, lambda: (cpu_seconds(peer.process.pid), cpu_seconds(site.backend.pid))
        )
    except RuntimeError as failure:
        raise RuntimeError(f"load on {peer.name}: {failure}") from None
    return _figures(told, after[0] - before[0], after[1] - before[1])


def _figures(told: Figures, used: float, upstream: float) -> Figures:
    elapsed, megabytes = told["seconds"], told["bytes"] / 1e6
    return {
        "cpu_us": used * 1e6 / told["ops"],
        "cpu_ms_per_mb": used * 1e3 / megabytes,
        "per_s": told["ops"] / elapsed,
        "mb_per_s": megabytes / elapsed,
        "p50_us": told["p50_us"],
        "p99_us": told["p99_us"],
        "cores": used / elapsed,
        "loader_cores": told["cpu"] / elapsed,
        "upstream_cores": upstream / elapsed,
    }
