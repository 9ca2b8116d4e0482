"""The tunnels and the health listener, from the INI's sections.

Owns what a tunnel's mode means for its other keys. Refuses keys of the other mode, a client's plain side that others
could reach, and an upstream that nobody verifies, unless `insecure = yes` is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.addresses import is_local
from gateway.admission import Admission, parse_admission_rule
from gateway.config_tls import admission, check_unused_tls, client_tls, server_tls, warn_of_clear_text
from gateway.ini import Reading
from gateway.schema import TUNNEL_CLIENT, TUNNEL_SERVER
from gateway.settings import Tunnel
from gateway.upstream import ClientTLS, ServerTLS, TLSMode, Upstream

# Our own certificate: in either mode, so not among what only one of them has.
_OWN = ("certificate", "key")


def tunnels(reading: Reading) -> tuple[Tunnel, ...]:
    return tuple(_tunnel(reading, section, name) for section, name in reading.named("tunnel"))


def _tunnel(reading: Reading, section: str, name: str) -> Tunnel:
    values = reading.values(section)
    server = values["mode"] != "client"
    _check_mode(reading, section, values["mode"])
    return Tunnel(
        name=name,
        listen=values["listen"] or (),
        tls=_server_tls(reading, section, values) if server else None,
        upstream=Upstream(
            name=section,
            addresses=values["upstream"] or (),
            tls=_plain(reading, section, values) if server else _client_tls(reading, section, values),
            connect_timeout=values["connect_timeout"],
        ),
        alpn=values["alpn"],
        admission=admission(reading, section, values, methods=False) if server else _everybody(section),
        cn=values["cn"],
        identity=values["identity"],
        half_close_timeout=values["half_close_timeout"],
        proxy_protocol=values["proxy_protocol"],
    )


def _check_mode(reading: Reading, section: str, mode: str | None) -> None:
    others = {"server": (TUNNEL_CLIENT, "client"), "client": (TUNNEL_SERVER, "server")}
    if mode is None:
        return
    keys, other = others[mode]
    for key in keys:
        if key not in _OWN and reading.given(section, key):
            reading.problems.add(section, key, f"is for mode = {other} only")


# --- mode = server --------------------------------------------------------------------------------------------------


def _server_tls(reading: Reading, section: str, values: Mapping[str, Any]) -> ServerTLS | None:
    """Whatever [tls] says for the others, a tunnel asks for certificates: it has nothing else to know a client by."""
    asked = values["client_certificate"] or "required"
    if asked != "required":
        reading.warnings.append(f"[{section}] client_certificate = {asked}: rules with all let in who shows none")
    return server_tls(reading, section, {**values, "client_certificate": asked})


def _plain(reading: Reading, section: str, values: Mapping[str, Any]) -> ClientTLS:
    warn_of_clear_text(reading, section, values["upstream"] or (), "what comes out of the tunnel crosses the network")
    return ClientTLS(TLSMode.DISABLE)


# --- mode = client --------------------------------------------------------------------------------------------------


def _everybody(section: str) -> Admission:
    """Who reaches its plain side is on this machine, and shows nothing to know him by."""
    return Admission((parse_admission_rule("allow all local,127.0.0.0/8,::1", f"[{section}] mode = client", _no_file),))


def _no_file(_: str) -> frozenset[bytes]:
    return frozenset()


def _client_tls(reading: Reading, section: str, values: Mapping[str, Any]) -> ClientTLS:
    if not all(map(is_local, values["listen"] or ())):
        reason = "is plain with mode = client, so only 127.0.0.1:port, [::1]:port or unix:/path"
        reading.problems.add(section, "listen", reason)
    if not all(address.port for address in values["upstream"] or ()):
        reading.problems.add(section, "upstream", "no certificate is for a Unix socket: host:port with mode = client")
    mode: TLSMode = values["tls"]
    _check_verified(reading, section, mode, insecure=values["insecure"])
    return client_tls(reading, section, values, mode, _OWN, values["alpn"])


def _check_verified(reading: Reading, section: str, mode: TLSMode, *, insecure: bool) -> None:
    if mode is TLSMode.DISABLE:
        meaning = "is disable, so nothing is encrypted"
        check_unused_tls(reading, section, _OWN, "tls = disable")
    elif mode is TLSMode.REQUIRE and not reading.given(section, "root_certificate"):
        meaning = "is require without a root_certificate, so whoever answers is taken for the upstream"
    else:
        if insecure:
            reading.warnings.append(f"[{section}] insecure = yes changes nothing: tls = {mode.value} verifies")
        return
    if insecure:
        reading.warnings.append(f"[{section}] tls {meaning}")
    else:
        reading.problems.add(section, "tls", f"{meaning}; if that is meant, say insecure = yes")
