"""The HTTPS listeners and their routes, from the INI's sections.

Owns how the two fit together. Refuses a route to no listener, two routes for the same requests, an upstream with words
that contradict its URL, and a route that requires what its listener never asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.addresses import WebService
from gateway.config_tls import admission, check_unused_tls, client_tls, server_tls, warn_of_clear_text
from gateway.ini import Reading
from gateway.routes import Route, clashes
from gateway.schema import keys_of
from gateway.settings import HTTPSListener, MQTTListener
from gateway.upstream import ClientTLS, TLSMode, Upstream

_ALPN = (b"http/1.1",)

# What is of no use where there is no key to compare.
_ABOUT_KEYS = ("schemes", "send_scheme")


def https_listeners(reading: Reading) -> tuple[HTTPSListener, ...]:
    listeners = []
    for section, name in reading.named("https"):
        values = reading.values(section)
        listeners.append(
            HTTPSListener(
                name=name,
                listen=values["listen"],
                tls=server_tls(reading, section, values),
                proxy_protocol=values["proxy_protocol"],
                head_timeout=values["head_timeout"],
                body_timeout=values["body_timeout"],
                keepalive_timeout=values["keepalive_timeout"],
            )
        )
    return tuple(listeners)


def https_routes(
    reading: Reading, listeners: tuple[HTTPSListener, ...], mqtt: tuple[MQTTListener, ...]
) -> tuple[Route, ...]:
    routes = tuple(_route(reading, section, name) for section, name in reading.named("route"))
    for other, route in clashes(routes):
        reason = f"[{other.upstream.name}] has the same listener, host and path"
        reading.problems.add(route.upstream.name, "path", reason)
    by_name = {listener.name: listener for listener in listeners}
    for route in routes:
        _check_served(reading, route, {one.name for one in mqtt})
        _check_trust(reading, route, by_name, {one.name: one for one in mqtt})
        for name in route.listeners:
            if name in by_name:
                _check_certificates(reading, route, by_name[name])
            else:
                reading.problems.add(route.upstream.name, "listener", f"no section [https:{name}]")
    used = {name for route in routes for name in route.listeners}
    reading.warnings.extend(f"[https:{name}] has no [route:...] to serve" for name in by_name if name not in used)
    return routes


def _route(reading: Reading, section: str, name: str) -> Route:
    values = reading.values(section)
    service: WebService | None = values["upstream"]
    local = values["serve"] != "upstream"
    # The quickstart brings a registry of its own.
    known = reading.given("registry", "database") or not reading.configured
    if service is None and reading.configured and not local and not reading.given(section, "upstream"):
        reading.problems.add(section, "upstream", "is required (or remove this section and its listener)")
    _check_unused(reading, section, values)
    return Route(
        name=name,
        listeners=values["listener"],
        hosts=values["host"],
        path=values["path"],
        upstream=Upstream(
            name=section,
            addresses=service.addresses if service else (),
            tls=_upstream_tls(reading, section, values, service) if service else ClientTLS(TLSMode.DISABLE),
            connect_timeout=values["connect_timeout"],
        ),
        admission=admission(reading, section, values, things=local and known),
        base=service.base if service else None,
        keep_host=values["host_header"] == "client",
        client=values["client"],
        cn=values["cn"],
        identity=values["identity"],
        schemes=values["schemes"],
        send_scheme=values["send_scheme"],
        client_cert=values["client_cert"],
        websocket=values["websocket"],
        ws_key=values["ws_key"] == "required",
        ws_forward_key=values["ws_query"] == "forward",
        response_timeout=values["response_timeout"],
        serve=values["serve"],
        mqtt=values["mqtt"],
    )


def _upstream_tls(reading: Reading, section: str, values: Mapping[str, Any], service: WebService) -> ClientTLS:
    """Its URLs say whether there is TLS; the key `tls` says how much it proves."""
    mode: TLSMode = values["tls"]
    if service.scheme == "https":
        if mode is TLSMode.DISABLE:
            reading.problems.add(section, "tls", "is disable, but the upstream is https://")
        elif mode is TLSMode.REQUIRE and not reading.given(section, "root_certificate"):
            reading.warnings.append(
                f"[{section}] tls = require encrypts, but whoever answers is taken for the upstream"
            )
        return client_tls(reading, section, values, mode, alpn=_ALPN)
    where = "http://" if service.scheme == "http" else "a Unix socket"
    if reading.given(section, "tls") and mode is not TLSMode.DISABLE:
        reading.problems.add(section, "tls", f"the upstream is {where}, without TLS: say disable, or nothing")
    check_unused_tls(reading, section, ("client_certificate", "client_key"), f"the upstream is {where}, without TLS")
    if service.scheme == "unix" and values["host_header"] == "upstream":
        reading.problems.add(section, "host_header", "is upstream, but a Unix socket has no name to send")
    warn_of_clear_text(reading, section, service.addresses, "requests, with their keys, cross the network")
    return ClientTLS(TLSMode.DISABLE)


def _check_served(reading: Reading, route: Route, mqtt: set[str]) -> None:
    """What a route leads to, if it is not an upstream."""
    section = route.upstream.name
    if route.serve == "upstream":
        if route.mqtt != keys_of(section)["mqtt"].default:
            reading.problems.add(section, "mqtt", "is of use only with serve = channels or mqtt")
        return
    if route.upstream.addresses:
        reading.problems.add(section, "upstream", f"is of no use: serve = {route.serve} leads to [mqtt:{route.mqtt}]")
    if route.mqtt not in mqtt:
        reading.problems.add(section, "mqtt", f"no section [mqtt:{route.mqtt}]")
    if route.serve == "channels" and reading.configured and not reading.given("registry", "database"):
        reading.problems.add(section, "serve", "is channels, and only a [registry] knows channels")


def _check_trust(
    reading: Reading, route: Route, listeners: Mapping[str, HTTPSListener], mqtt: Mapping[str, MQTTListener]
) -> None:
    """A name in a certificate is whose the authority says. Where two listeners lead to the same sessions and channels,
    they have to believe the same authorities, or one's guests could be the other's things."""
    if route.serve == "upstream" or route.client == "none" or route.mqtt not in mqtt:
        return
    there = mqtt[route.mqtt].tls
    for name in route.listeners:
        here = listeners[name].tls if name in listeners else None
        if here is None or there is None or "none" in (here.client_certificate, there.client_certificate):
            continue
        if (here.client_ca, here.client_crl) != (there.client_ca, there.client_crl):
            reason = f"[https:{name}] and [mqtt:{route.mqtt}] have another client_ca or client_crl"
            reading.problems.add(route.upstream.name, "mqtt", reason)


def _check_unused(reading: Reading, section: str, values: Mapping[str, Any]) -> None:
    """What does nothing was meant to do something. Only a default may stand anywhere, as they do in conf/gw.ini."""
    for key in _ABOUT_KEYS:
        default = keys_of(section)[key].absent(reading.folder)
        if values["cn"] == "id" and values[key] != default:
            reading.problems.add(section, key, "is about the key in Authorization, and with cn = id there is none")


def _check_certificates(reading: Reading, route: Route, listener: HTTPSListener) -> None:
    if listener.tls is None and not reading.configured:
        return  # the quickstart brings certificates of its own
    own, section = f"https:{listener.name}", route.upstream.name
    asked = reading.values(own)["client_certificate"] or reading.values("tls")["client_certificate"]
    if asked == "none" and route.client != "none":
        reason = f"is {route.client}, but [{own}] has client_certificate = none, so nobody could show one"
        reading.problems.add(section, "client", reason)
