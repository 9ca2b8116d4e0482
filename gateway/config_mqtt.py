"""The MQTT listeners, the embedded hub and the registry of things, from the INI's sections.

Owns how these fit together. Refuses a listener whose clients nobody could tell apart or whose topics nobody could
decide about, words about a broker that is not there, and a database that is described in halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.addresses import DatabaseURL
from gateway.config_tls import admission, check_unused_tls, client_tls, server_tls, warn_of_clear_text
from gateway.hub.settings import HubSettings
from gateway.ini import Reading
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.schema import keys_of
from gateway.session.mqtt_access import BrokerLogin
from gateway.settings import HubFile, MQTTListener
from gateway.topic_rules import TopicRules, parse_topic_rule
from gateway.upstream import TLSMode, Upstream

_OWN_KEYS = ("upstream_certificate", "upstream_key")
# What is about a broker, or about the way to it.
_ABOUT_BROKERS = ("tls", "root_certificate", "crl", *_OWN_KEYS, "upstream_user", "upstream_password_file")
_ABOUT_SERVERS = ("password", "password_file", "tls", "root_certificate", "client_certificate", "client_key")


def _meant(reading: Reading, section: str, key: str) -> bool:
    """What does nothing was meant to do something. Only a default may stand anywhere, as they do in conf/gw.ini."""
    return bool(reading.values(section)[key] != keys_of(section)[key].absent(reading.folder))


# --- the registry ---------------------------------------------------------------------------------------------------


def registry(reading: Reading, password: str | None) -> RegistrySettings | None:
    """None where there is none. password: as the section says it, or its file."""
    values = reading.values("registry")
    database: Path | DatabaseURL | None = values["database"]
    if not isinstance(database, DatabaseURL):
        for key in _ABOUT_SERVERS:
            if _meant(reading, "registry", key):
                reading.problems.add("registry", key, "is of use only with database = postgresql://…")
        return RegistrySettings(database, values["stale_after"]) if database is not None else None
    reading.both("registry", values, "client_certificate", "client_key")
    mode = _database_tls(reading, values, database)
    with reading.problems.at("registry", "database"):
        server = PostgresDatabase(
            hosts=database.hosts,
            dbname=database.name,
            user=database.user,
            port=database.port,
            password=password,
            tls=mode,
            root_certificate=values["root_certificate"],
            certificate=values["client_certificate"] if values["client_key"] else None,
            key=values["client_key"] if values["client_certificate"] else None,
        )
        return RegistrySettings(server, values["stale_after"])
    return None


def _database_tls(reading: Reading, values: Mapping[str, Any], database: DatabaseURL) -> TLSMode:
    """As of an [upstream:NAME]: a Unix socket has no TLS."""
    mode: TLSMode = values["tls"]
    sockets = [host.startswith("/") for host in database.hosts]
    if all(sockets) and not reading.given("registry", "tls"):
        return TLSMode.DISABLE
    if any(sockets) and mode is not TLSMode.DISABLE:
        reading.problems.add("registry", "tls", "a Unix socket has no TLS: say disable, or nothing")
    elif mode is TLSMode.REQUIRE and not reading.given("registry", "root_certificate"):
        reading.warnings.append("[registry] tls = require encrypts, but whoever answers is taken for the database")
    elif mode is TLSMode.DISABLE and not all(sockets):
        reading.warnings.append("[registry] tls = disable: what is known of things crosses the network in clear text")
    return mode


# --- the hub --------------------------------------------------------------------------------------------------------


def hub(reading: Reading, listeners: tuple[MQTTListener, ...]) -> HubFile | None:
    """None where every listener has a broker, or there is none."""
    values = reading.values("hub")
    if all(one.upstream is not None for one in listeners):
        return None
    database: Path | str | None = values["database"]
    if database is None:
        database = reading.values("quickstart")["directory"] / "hub.sqlite"
    return HubFile(
        database if isinstance(database, Path) else None,
        HubSettings(
            max_packet_size=max(one.max_packet for one in listeners),
            receive_maximum=values["receive_maximum"],
            max_queued=values["max_queued"],
            max_retained=values["max_retained"],
            max_sessions=values["max_sessions"],
            max_session_expiry=values["max_session_expiry"],
        ),
    )


# --- the listeners --------------------------------------------------------------------------------------------------


def mqtt_listeners(reading: Reading) -> tuple[MQTTListener, ...]:
    return tuple(_listener(reading, section, name) for section, name in reading.named("mqtt"))


def _listener(reading: Reading, section: str, name: str) -> MQTTListener:
    values = reading.values(section)
    # The quickstart brings a registry of its own.
    known = reading.given("registry", "database") or not reading.configured
    tls = server_tls(reading, section, values)
    _check_authority(reading, section, known, values)
    password = _password_word(reading, section, values, known)
    return MQTTListener(
        name=name,
        listen=values["listen"],
        tls=tls,
        admission=admission(reading, section, values, methods=False, things=known),
        topics=TopicRules(reading.lines(section, "topics", values["topics"], parse_topic_rule)),
        upstream=_upstream(reading, section, values),
        login=_login(reading, section, values),
        cn=values["cn"],
        identity=values["identity"],
        fill_password=password == "fill",  # noqa: S105 - a word of the configuration
        check_password=password != "ignored",  # noqa: S105 - the same
        prefix_client_ids=values["client_id"] == "prefix",
        drop_denied=values["denied_publish"] == "drop",
        max_packet=values["max_packet_size"],
        packet_rate=values["max_packets_per_second"],
        keep_alive=values["keep_alive"],
        proxy_protocol=values["proxy_protocol"],
    )


def _check_authority(reading: Reading, section: str, known: bool, values: Mapping[str, Any]) -> None:
    """Somebody has to know who may say what where."""
    if not reading.configured or known:
        return
    if not reading.given(section, "topics"):
        reason = "is required without [registry] database (or remove this section, and the routes that lead to it)"
        reading.problems.add(section, "topics", reason)
    asked = values["client_certificate"] or reading.values("tls")["client_certificate"]
    if asked == "none":
        reading.warnings.append(
            f"[{section}] nobody shows a certificate, and there is no [registry]: all are anonymous"
        )


def _password_word(reading: Reading, section: str, values: Mapping[str, Any], known: bool) -> str:
    word: str | None = values["password"]
    with_key = values["cn"] == "key"
    if with_key and word == "ignored":
        reading.problems.add(section, "password", "is ignored, but with cn = key it has to be the key, if it is there")
    elif not with_key and word == "fill":
        reading.problems.add(section, "password", "is fill, but with cn = id the certificate holds no key")
    elif not with_key and word == "required" and reading.configured and not known:
        reading.problems.add(section, "password", "is required, but without [registry] nobody knows what it should be")
    return word or ("fill" if with_key else "required" if known else "ignored")


def _upstream(reading: Reading, section: str, values: Mapping[str, Any]) -> Upstream | None:
    addresses = values["upstream"]
    if not addresses:
        for key in _ABOUT_BROKERS:
            if _meant(reading, section, key):
                reading.problems.add(section, key, "is about an upstream, and there is none: the hub is here")
        return None
    mode = _broker_tls(reading, section, values)
    return Upstream(
        name=section,
        addresses=addresses,
        tls=client_tls(reading, section, values, mode, _OWN_KEYS, (b"mqtt",)),
        connect_timeout=values["connect_timeout"],
    )


def _broker_tls(reading: Reading, section: str, values: Mapping[str, Any]) -> TLSMode:
    mode: TLSMode = values["tls"]
    sockets = [not address.port for address in values["upstream"]]
    if all(sockets) and not reading.given(section, "tls"):
        return TLSMode.DISABLE
    if any(sockets) and mode is not TLSMode.DISABLE:
        reading.problems.add(section, "tls", "a Unix socket has no TLS: say disable, or nothing")
    elif mode is TLSMode.REQUIRE and not reading.given(section, "root_certificate"):
        reading.warnings.append(f"[{section}] tls = require encrypts, but whoever answers is taken for the broker")
    elif mode is TLSMode.DISABLE:
        check_unused_tls(reading, section, _OWN_KEYS, "tls = disable")
        warn_of_clear_text(reading, section, values["upstream"], "messages, with their keys, cross the network")
    return mode


def _login(reading: Reading, section: str, values: Mapping[str, Any]) -> BrokerLogin:
    as_thing = values["upstream_identity"] == "thing"
    if as_thing:
        for key in ("upstream_user", "upstream_password_file"):
            if reading.given(section, key):
                reading.warnings.append(f"[{section}] {key} is not used with upstream_identity = thing")
    elif reading.given(section, "upstream") and not reading.given(section, "upstream_password_file"):
        reading.warnings.append(f"[{section}] upstream_identity = gateway, without a password: the broker trusts us")
    password: bytes | None = None
    path: Path | None = values["upstream_password_file"]
    if path is not None:
        with reading.problems.at(section, "upstream_password_file"):
            password = reading.secret(path).encode("utf-8")
    return BrokerLogin(as_thing, values["upstream_user"], password)
