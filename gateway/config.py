"""The INI and the environment, read into the frozen tree of `settings`; every mistake is told, all of them at once.

Owns how the sections fit together, and those of PostgreSQL; `config_https`, `config_mqtt`, `config_tunnel` and
`config_jwt` have the others. Refuses references to nothing, one address for two listeners, and secrets that are empty.
It binds nothing, and reads no file but the INI, secrets, public keys, revoked tokens and the CAs that rules name;
certificates are `certs`' to read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway import legacy
from gateway.addresses import collide
from gateway.config_https import https_listeners, https_routes
from gateway.config_jwt import jwt_settings
from gateway.config_mqtt import hub, mqtt_listeners, registry
from gateway.config_tls import client_tls, server_tls
from gateway.config_tunnel import tunnels
from gateway.errors import Problems
from gateway.ini import Reading, read_ini
from gateway.policy import parse_rule
from gateway.schema import SINGLE
from gateway.settings import AuditSettings, Config, GatewaySettings, LimitSettings, PostgresListener
from gateway.upstream import MAX_SOCKET_PATH, Address, Login, TLSMode, Upstream

# A container may be configured by its environment alone, so these sections need not stand in the INI.
_MAIN = ("jwt:main", "upstream:main", "postgres:main", "https:main", "route:main", "mqtt:main")


def load(path: Path | None, environ: Mapping[str, str], folder: Path, problems: Problems) -> Config:
    """The configuration of the INI at `path`, or without one that of jwt-postgresql-proxy's environment.

    folder: where the gateway was started, absolute: from there `path` and the paths in that environment are meant.
    The answer may only be used after `problems.raise_if_any()`. It is as complete as can be, so that the files it names
    can be checked, and their problems told, together with those found here.
    """
    if path is None:
        return _without_ini(Reading(problems, folder), environ)
    path = folder / path
    texts = read_ini(path, problems)
    if texts is None:
        return _config(Reading(Problems(), folder), path)
    reading = Reading(problems, path.parent.resolve(), texts)
    reading.drop_unknown_sections()
    reading.override(environ, (*reading.texts, *SINGLE, *_MAIN))
    if legacy.present(environ):
        reading.warnings.append("the environment of jwt-postgresql-proxy is ignored, because -c is given")
    return _config(reading, path)


def _without_ini(reading: Reading, environ: Mapping[str, str]) -> Config:
    if not legacy.present(environ):
        ini = "gw.ini" if (reading.folder / "gw.ini").is_file() else "conf/gw.ini"
        reading.problems.add("environment", "-c", f"no configuration: start with twistd securegw -c {ini}")
        return _config(Reading(Problems(), reading.folder), None)
    reading.override(environ, ("gateway", "limits", "audit"))
    reading.warnings.extend(legacy.WARNINGS)
    upstream, jwt, listener = legacy.read(environ, reading.folder, reading.problems)
    return Config(
        path=None,
        **_always(reading),
        upstreams={upstream.name: upstream},
        jwt={jwt.name: jwt},
        postgres=(listener,),
        quickstart_directory=None,
        warnings=tuple(reading.warnings),
    )


# --- the tree -------------------------------------------------------------------------------------------------------


def _always(reading: Reading) -> dict[str, Any]:
    return {
        "gateway": GatewaySettings(**reading.values("gateway")),
        "limits": LimitSettings(**reading.values("limits")),
        "audit": AuditSettings(**reading.values("audit")),
    }


def _config(reading: Reading, path: Path | None) -> Config:
    for section in SINGLE:
        reading.values(section)  # also if nothing uses it: a mistake there is one
    logins = _logins(reading)
    upstreams = {name: _upstream(reading, section, name, logins) for section, name in reading.named("upstream")}
    jwt = {name: jwt_settings(reading, section, name) for section, name in reading.named("jwt")}
    postgres = tuple(_postgres(reading, section, name) for section, name in reading.named("postgres"))
    https = https_listeners(reading)
    mqtt = mqtt_listeners(reading)
    config = Config(
        path=path,
        **_always(reading),
        upstreams=upstreams,
        jwt=jwt,
        postgres=postgres,
        quickstart_directory=reading.values("quickstart")["directory"],
        https=https,
        routes=https_routes(reading, https, mqtt),
        tunnels=tunnels(reading),
        health=reading.values("health")["listen"],
        mqtt=mqtt,
        registry=registry(reading, _password(reading, "registry", reading.values("registry"))),
        hub=hub(reading, mqtt),
        control=_control(reading),
        warnings=tuple(reading.warnings),
    )
    _check_addresses(reading, config)
    return config


def _check_addresses(reading: Reading, config: Config) -> None:
    if not (config.postgres or config.https or config.mqtt or config.tunnels):
        reason = "is missing, and so is any [https:NAME], [mqtt:NAME] or [tunnel:NAME]: nothing would listen"
        reading.problems.add("postgres:main", "section", reason)
    taken: list[tuple[str, Address]] = []
    for section, addresses in _listening(config):
        for address in addresses:
            for other, before in taken:
                if collide(address, before):
                    key = "socket" if section == "control" else "listen"
                    reading.problems.add(section, key, f"{address} is taken: [{other}] listens on {before}")
            taken.append((section, address))


def _listening(config: Config) -> Iterator[tuple[str, tuple[Address, ...]]]:
    """Each section that listens, and where."""
    yield from ((f"postgres:{one.name}", one.listen) for one in config.postgres)
    yield from ((f"https:{one.name}", one.listen) for one in config.https)
    yield from ((f"mqtt:{one.name}", one.listen) for one in config.mqtt)
    yield from ((f"tunnel:{one.name}", one.listen) for one in config.tunnels)
    yield "health", config.health
    if config.control:
        yield "control", (Address(str(config.control), 0),)


def _control(reading: Reading) -> Path | None:
    socket: Path | None = reading.values("control")["socket"]
    if socket and len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        reason = f"{socket} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have"
        reading.problems.add("control", "socket", reason)
        return None
    return socket


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def _upstream(reading: Reading, section: str, name: str, logins: list[tuple[str, Login]]) -> Upstream:
    values = reading.values(section)
    password = _password(reading, section, values)
    own = () if password is None else (Login(password=password),)
    return Upstream(
        name=name,
        addresses=values["hosts"] or (),
        tls=client_tls(reading, section, values, _upstream_tls_mode(reading, section, values)),
        logins=(*(login for upstream, login in logins if upstream == name), *own),
        target_session_attrs=values["target_session_attrs"],
        password_methods=values["password_methods"],
        connect_timeout=values["connect_timeout"],
    )


def _upstream_tls_mode(reading: Reading, section: str, values: Mapping[str, Any]) -> TLSMode:
    """A PostgreSQL server has no TLS on a Unix socket (manual, "Secure TCP/IP Connections with SSL")."""
    mode: TLSMode = values["tls"]
    sockets = [not address.port for address in values["hosts"] or ()]
    if any(sockets) and not all(sockets):
        reading.problems.add(section, "hosts", "mixes Unix sockets, which have no TLS, with TCP: use two upstreams")
    elif any(sockets) and not reading.given(section, "tls"):
        return TLSMode.DISABLE
    elif any(sockets) and mode is not TLSMode.DISABLE:
        reading.problems.add(section, "tls", "a Unix socket has no TLS: say disable, or nothing")
    elif mode is TLSMode.REQUIRE and not reading.given(section, "root_certificate"):
        reading.warnings.append(f"[{section}] tls = require encrypts, but whoever answers is taken for the upstream")
    elif mode is TLSMode.DISABLE and sockets:
        reading.warnings.append(f"[{section}] tls = disable: queries and results cross the network in clear text")
    if mode is TLSMode.DISABLE and reading.given(section, "root_certificate"):
        reading.warnings.append(f"[{section}] root_certificate is not used with tls = disable")
    return mode


def _logins(reading: Reading) -> list[tuple[str, Login]]:
    """(upstream, login) of every [login:NAME]."""
    logins: list[tuple[str, Login]] = []
    for section, name in reading.named("login"):
        values = reading.values(section)
        reading.both(section, values, "certificate", "key")
        upstream, role = values["upstream"], values["role"] or name
        _refers(reading, section, "upstream", upstream)
        if any(other == upstream and login.role == role for other, login in logins):
            reading.problems.add(section, "role", f"{role} has another [login:...] for [upstream:{upstream}]")
        password = _password(reading, section, values)
        logins.append((upstream, Login(role, password, values["certificate"], values["key"], section)))
    return logins


def _postgres(reading: Reading, section: str, name: str) -> PostgresListener:
    values = reading.values(section)
    _refers(reading, section, "upstream", values["upstream"])
    _refers(reading, section, "jwt", values["jwt"])
    return PostgresListener(
        name=name,
        listen=values["listen"],
        tls=server_tls(reading, section, values),
        upstream=values["upstream"],
        jwt=values["jwt"],
        rules=reading.rules(section, values["rules"], parse_rule),
        role_claim=values["role"],
        proxy_protocol=values["proxy_protocol"],
        terminate_on_expiry=values["on_expiry"] == "terminate",
        application_name=values["application_name"],
    )


def _refers(reading: Reading, section: str, kind: str, name: str) -> None:
    if reading.configured and f"{kind}:{name}" not in reading.texts:
        reading.problems.add(section, kind, f"no section [{kind}:{name}]")


def _password(reading: Reading, section: str, values: Mapping[str, Any]) -> str | None:
    password: str | None = values["password"]
    path: Path | None = values["password_file"]
    if path is None:
        return password
    if password is not None:
        reading.problems.add(section, "password_file", "is a second answer to password: give only one of them")
        return None
    with reading.problems.at(section, "password_file"):
        return reading.secret(path)
    return None
