"""What can be said of rules, and of the routes and listeners that they are for, without anybody asking for anything.

Owns which of them never decide, which let nobody in, and what leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from gateway.admission import Admission
from gateway.inspection.dead_rules import Dead, dead_admission, dead_policy, dead_topics
from gateway.inspection.findings import Finding, ok, warn
from gateway.pem import UNREADABLE, load_certificates
from gateway.routes import Route
from gateway.settings import Config, HTTPSListener
from gateway.upstream import is_ip


def check_rules(config: Config) -> Iterator[Finding]:
    for one in config.postgres:
        yield from _lines(f"postgres:{one.name}", "rules", one.rules, dead_policy(one.rules))
    for route in config.routes:
        yield from _of_route(route)
    for listener in config.mqtt:
        section, topics = f"mqtt:{listener.name}", listener.topics.rules
        yield from _admission(section, listener.admission)
        if topics:
            yield from _lines(section, "topics", topics, dead_topics(topics))
    for tunnel in config.tunnels:
        if tunnel.tls is not None:
            yield from _admission(f"tunnel:{tunnel.name}", tunnel.admission)


def _admission(section: str, admission: Admission) -> Iterator[Finding]:
    return _lines(section, "rules", admission.rules, dead_admission(admission.rules))


def _of_route(route: Route) -> Iterator[Finding]:
    """Where nobody is asked for a certificate, nobody has a name; but things that are known by their keys do."""
    section, rules = f"route:{route.name}", route.admission.rules
    if route.client != "none" or route.serve != "upstream":
        yield from _admission(section, route.admission)
        return
    about = [one for one in rules if one.identities.names.keywords and one.authorities is None]
    for rule in rules:
        if rule not in about:
            yield warn(section, "rules", f"{_line(rule.source)}: {rule.text} (never decides: client = none)")
    yield from _lines(section, "rules", about, dead_admission(about))


def _lines(section: str, key: str, rules: Sequence[object], dead: Sequence[Dead]) -> Iterator[Finding]:
    if not rules:
        yield warn(section, key, "no line lets anybody in")
    for one in dead:
        decides = f"{_line(one.by).partition(':')[0]} decides" if one.by else "the lines before it decide"
        yield warn(section, key, f"{_line(one.rule)} (never decides: {decides} first)")
    if len(rules) > len(dead):
        yield ok(section, key, f"{len(rules) - len(dead)} of its lines can decide")


def _line(place: str) -> str:
    """Without its section and key, which are said already."""
    return place.partition(", ")[2]


# --- what leads nowhere ---------------------------------------------------------------------------------------------


def check_reach(config: Config) -> Iterator[Finding]:
    """Routes whose hosts no certificate of their listener is for; listeners and sections that nothing uses."""
    listeners = {one.name: one for one in config.https}
    for route in config.routes:
        for listener in (listeners[name] for name in route.listeners if name in listeners):
            yield from _hosts(route, listener)
    used = {one.upstream for one in config.postgres}
    for name in config.upstreams:
        if name not in used:
            yield warn(f"upstream:{name}", "section", "no [postgres:NAME] leads there")
    issuers = {one.jwt for one in config.postgres}
    for name in config.jwt:
        if name not in issuers:
            yield warn(f"jwt:{name}", "section", "no [postgres:NAME] believes it")


def _hosts(route: Route, listener: HTTPSListener) -> Iterator[Finding]:
    """A client that verifies names, as all should, never gets as far as the route otherwise."""
    if listener.tls is None:
        return
    names = _names([listener.tls.certificate, *(certificate for certificate, _ in listener.tls.sni)])
    for host in route.hosts:
        parent = host.partition(".")[2]
        if host not in names and (is_ip(host) or f"*.{parent}" not in names):
            yield warn(f"route:{route.name}", "host", f"{host}: no certificate of [https:{listener.name}] is for it")


def _names(paths: Sequence[Path]) -> set[str]:
    """Those that the certificates in these files are for."""
    found: set[str] = set()
    for path in paths:
        with suppress(OSError, x509.ExtensionNotFound, *UNREADABLE):
            leaf = load_certificates(path)[0]
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            found |= {name.lower() for name in names.get_values_for_type(x509.DNSName)}
            found |= {str(one) for one in names.get_values_for_type(x509.IPAddress)}
    return found
