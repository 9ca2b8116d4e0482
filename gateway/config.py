"""The INI and the environment, read into the frozen tree of `settings`; every mistake is told, all of them at once.

Owns where a text comes from and how the sections fit together. Refuses unknown sections and keys, second answers to one
question, references to nothing, and secrets that are empty. It binds nothing, and reads no file but the INI, secrets
and public keys; certificates are `certs`' to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from configparser import (
    DuplicateOptionError,
    DuplicateSectionError,
    MissingSectionHeaderError,
    ParsingError,
    RawConfigParser,
)
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gateway import legacy
from gateway.errors import Problem, Problems
from gateway.policy import Rule, parse_rule
from gateway.schema import SINGLE, TLS, Key, keys_of, line, nearest
from gateway.settings import AuditSettings, Config, GatewaySettings, JWTSettings, LimitSettings, PostgresListener
from gateway.tokens import VerificationKey, load_public_key
from gateway.upstream import ClientTLS, Login, ServerTLS, TLSMode, Upstream

_PREFIX = "SECUREGW_"

# A container may be configured by its environment alone, so these sections need not stand in the INI.
_MAIN = ("jwt:main", "upstream:main", "postgres:main")

_Texts = dict[str, dict[str, str]]


def load(path: Path | None, environ: Mapping[str, str], folder: Path, problems: Problems) -> Config:
    """The configuration of the INI at `path`, or without one that of jwt-postgresql-proxy's environment.

    folder: where the gateway was started, absolute: from there `path` and the paths in that environment are meant.
    The answer may only be used after `problems.raise_if_any()`. It is as complete as can be, so that the files it names
    can be checked, and their problems told, together with those found here.
    """
    if path is None:
        return _without_ini(_Reading(problems, folder), environ)
    path = folder / path
    texts = _ini(path, problems)
    if texts is None:
        return _Reading(Problems(), folder).config(path)
    reading = _Reading(problems, path.parent.resolve(), texts)
    reading.drop_unknown_sections()
    reading.override(environ, (*reading.texts, *SINGLE, *_MAIN))
    if legacy.present(environ):
        reading.warnings.append("the environment of jwt-postgresql-proxy is ignored, because -c is given")
    return reading.config(path)


def _without_ini(reading: _Reading, environ: Mapping[str, str]) -> Config:
    if not legacy.present(environ):
        reading.problems.add("environment", "-c", "no configuration: start with twistd securegw -c conf/gw.ini")
        return _Reading(Problems(), reading.folder).config(None)
    reading.override(environ, ("gateway", "limits", "audit"))
    reading.warnings.extend(legacy.WARNINGS)
    upstream, jwt, listener = legacy.read(environ, reading.folder, reading.problems)
    return reading.tree(None, None, {upstream.name: upstream}, {jwt.name: jwt}, (listener,))


# --- the INI --------------------------------------------------------------------------------------------------------


class _Parser(RawConfigParser):
    # The inherited pattern forgives anything after the bracket.
    SECTCRE = re.compile(r"\[(?P<header>[^\]]+)\]\Z")

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _ini(path: Path, problems: Problems) -> _Texts | None:
    """None if the file cannot be read as a whole. Problems name lines by number: their text may be a secret."""
    parser = _Parser(
        # No heading can be empty, so no section is the one whose keys configparser copies into all the others.
        default_section="",
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=None,
        interpolation=None,
        strict=True,
    )
    where = str(path)
    try:
        parser.read_string(path.read_text("utf-8"), where)
    except OSError as error:
        problems.add(where, "file", error.strerror or "cannot be read")
    except UnicodeDecodeError:
        problems.add(where, "file", "is not UTF-8")
    except DuplicateSectionError as error:
        problems.add(error.section, "section", f"stands a second time in line {error.lineno}")
    except DuplicateOptionError as error:
        problems.add(error.section, error.option, f"is given a second time in line {error.lineno}")
    except MissingSectionHeaderError as error:
        problems.add(where, f"line {error.lineno}", "stands before the first [section]")
    except ParsingError as error:
        for number, _ in error.errors:
            problems.add(where, f"line {number}", "is neither [section] nor key = value")
    else:
        return {section: dict(parser.items(section)) for section in parser.sections()}
    return None


# --- the environment ------------------------------------------------------------------------------------------------


def _variable(section: str, key: str) -> str:
    return _PREFIX + re.sub(r"[^A-Z0-9]", "_", f"{section}_{key}".upper())


def _meanings(sections: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Every variable there is for these sections, and the keys it stands for; more than one: it is ambiguous."""
    meanings: dict[str, list[tuple[str, str]]] = {}
    for section in dict.fromkeys(sections):
        for key in keys_of(section):
            meanings.setdefault(_variable(section, key), []).append((section, key))
    return meanings


# --- the tree -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reading:
    """What was given as text, and the tree made from it."""

    problems: Problems
    folder: Path
    texts: _Texts = field(default_factory=dict, repr=False)
    variables: dict[tuple[str, str], str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def drop_unknown_sections(self) -> None:
        for section in list(self.texts):
            try:
                keys_of(section)
            except ValueError as error:
                self.problems.add(section, "section", str(error))
                del self.texts[section]

    def override(self, environ: Mapping[str, str], sections: Iterable[str]) -> None:
        """What is not understood is only a warning: for a service of that name Kubernetes itself sets SECUREGW_PORT,
        SECUREGW_SERVICE_HOST and more in every container."""
        meanings = _meanings(sections)
        for variable in sorted(name for name in environ if name.startswith(_PREFIX)):
            match meanings.get(variable, []):
                case [(section, key)]:
                    self.texts.setdefault(section, {})[key] = environ[variable]
                    self.variables[section, key] = variable
                case []:
                    # At any distance: the nearest is one name, while a list of them all would fill a page.
                    hint = get_close_matches(variable, meanings, n=1, cutoff=0.0)[0]
                    self.warnings.append(f"{variable} is ignored: it stands for no key (the nearest is {hint})")
                case several:
                    keys = " and ".join(f"[{section}] {key}" for section, key in several)
                    self.warnings.append(f"{variable} is ignored: it could stand for {keys}")

    # --- values

    def values(self, section: str) -> dict[str, Any]:
        keys = keys_of(section)
        for unknown in self.texts.get(section, {}):
            if unknown not in keys:
                hint = nearest(unknown, {key: key for key in keys})
                self.problems.add(section, unknown, f"no such key; {hint}")
        return {name: self._value(section, name, key) for name, key in keys.items()}

    def _value(self, section: str, name: str, key: Key) -> Any:
        text = self.texts.get(section, {}).get(name)
        if text is None:
            if key.required:
                self.problems.add(section, name, "is required")
            return key.absent(self.folder)
        variable = self.variables.get((section, name))
        with self.problems.at(section, f"{name} ({variable})" if variable else name):
            return key.read(text, self.folder)
        return key.absent(self.folder)

    def given(self, section: str, key: str) -> bool:
        return key in self.texts.get(section, {})

    def named(self, kind: str) -> list[tuple[str, str]]:
        """(section, NAME) of every [kind:NAME]."""
        return [(section, section.partition(":")[2]) for section in self.texts if section.startswith(f"{kind}:")]

    @property
    def configured(self) -> bool:
        """There is an upstream to guard, so everything that guards it must be there too."""
        return bool(self.named("upstream"))

    # --- sections

    def config(self, path: Path | None) -> Config:
        logins = self._logins()
        upstreams = {name: self._upstream(section, name, logins) for section, name in self.named("upstream")}
        jwt = {name: self._jwt(section, name) for section, name in self.named("jwt")}
        shared_tls = self.values("tls")
        postgres = tuple(self._postgres(section, name, shared_tls) for section, name in self.named("postgres"))
        if not postgres:
            self.problems.add("postgres:main", "section", "is missing, and without it nothing listens")
        return self.tree(path, self.values("quickstart")["directory"], upstreams, jwt, postgres)

    def tree(
        self,
        path: Path | None,
        quickstart_directory: Path | None,
        upstreams: Mapping[str, Upstream],
        jwt: Mapping[str, JWTSettings],
        postgres: tuple[PostgresListener, ...],
    ) -> Config:
        return Config(
            path=path,
            gateway=GatewaySettings(**self.values("gateway")),
            limits=LimitSettings(**self.values("limits")),
            audit=AuditSettings(**self.values("audit")),
            upstreams=upstreams,
            jwt=jwt,
            postgres=postgres,
            quickstart_directory=quickstart_directory,
            warnings=tuple(self.warnings),
        )

    def _jwt(self, section: str, name: str) -> JWTSettings:
        values = self.values(section)
        keys: list[VerificationKey] = []
        for path, kid in values["public_keys"] or ():
            with self.problems.at(section, "public_keys"):
                pem = path.read_bytes()
                try:
                    keys.append(load_public_key(pem, kid))
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
        return JWTSettings(
            name, tuple(keys), values["issuer"], values["audience"] or (), values["leeway"], values["max_lifetime"]
        )

    def _upstream(self, section: str, name: str, logins: list[tuple[str, Login]]) -> Upstream:
        values = self.values(section)
        self._both(section, values, "client_certificate", "client_key")
        tls = ClientTLS(
            self._upstream_tls_mode(section, values),
            values["root_certificate"],
            values["client_certificate"],
            values["client_key"],
            values["crl"],
        )
        password = self._password(section, values)
        own = () if password is None else (Login(password=password),)
        return Upstream(
            name=name,
            addresses=values["hosts"] or (),
            tls=tls,
            logins=(*(login for upstream, login in logins if upstream == name), *own),
            target_session_attrs=values["target_session_attrs"],
            password_methods=values["password_methods"],
            connect_timeout=values["connect_timeout"],
        )

    def _upstream_tls_mode(self, section: str, values: Mapping[str, Any]) -> TLSMode:
        """A PostgreSQL server has no TLS on a Unix socket (manual, "Secure TCP/IP Connections with SSL")."""
        mode: TLSMode = values["tls"]
        sockets = [not address.port for address in values["hosts"] or ()]
        if any(sockets) and not all(sockets):
            self.problems.add(section, "hosts", "mixes Unix sockets, which have no TLS, with TCP: use two upstreams")
        elif any(sockets) and not self.given(section, "tls"):
            return TLSMode.DISABLE
        elif any(sockets) and mode is not TLSMode.DISABLE:
            self.problems.add(section, "tls", "a Unix socket has no TLS: say disable, or nothing")
        elif mode is TLSMode.REQUIRE and not self.given(section, "root_certificate"):
            self.warnings.append(f"[{section}] tls = require encrypts, but whoever answers is taken for the upstream")
        elif mode is TLSMode.DISABLE and sockets:
            self.warnings.append(f"[{section}] tls = disable: queries and results cross the network in clear text")
        if mode is TLSMode.DISABLE and self.given(section, "root_certificate"):
            self.warnings.append(f"[{section}] root_certificate is not used with tls = disable")
        return mode

    def _logins(self) -> list[tuple[str, Login]]:
        """(upstream, login) of every [login:NAME]."""
        logins: list[tuple[str, Login]] = []
        for section, name in self.named("login"):
            values = self.values(section)
            self._both(section, values, "certificate", "key")
            upstream, role = values["upstream"], values["role"] or name
            self._refers(section, "upstream", upstream)
            if any(other == upstream and login.role == role for other, login in logins):
                self.problems.add(section, "role", f"{role} has another [login:...] for [upstream:{upstream}]")
            password = self._password(section, values)
            logins.append((upstream, Login(role, password, values["certificate"], values["key"], section)))
        return logins

    def _postgres(self, section: str, name: str, shared_tls: Mapping[str, Any]) -> PostgresListener:
        values = self.values(section)
        self._refers(section, "upstream", values["upstream"])
        self._refers(section, "jwt", values["jwt"])
        rules = self._rules(section, values["rules"])
        if self.configured and not values["rules"]:
            self.warnings.append(f"[{section}] rules is empty, so nobody is let in")
        return PostgresListener(
            name=name,
            listen=values["listen"],
            tls=self._server_tls(section, values, shared_tls),
            upstream=values["upstream"],
            jwt=values["jwt"],
            rules=rules,
            role_claim=values["role"],
            proxy_protocol=values["proxy_protocol"],
            terminate_on_expiry=values["on_expiry"] == "terminate",
            application_name=values["application_name"],
        )

    def _rules(self, section: str, lines: tuple[str, ...]) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for number, text in enumerate(lines, 1):
            with self.problems.at(section, f"rules, line {number}"):
                rules.append(parse_rule(text, f"[{section}] rules, line {number}"))
        return tuple(rules)

    def _server_tls(self, section: str, own: Mapping[str, Any], shared: Mapping[str, Any]) -> ServerTLS | None:
        values = {key: shared[key] if own[key] is None else own[key] for key in TLS}
        sections = {key: "tls" for key in TLS if own[key] is None and self.given("tls", key)}
        self._client_certificates(section, values, sections)
        missing = [key for key in ("certificate", "key") if values[key] is None]
        if len(missing) == 1:
            (other,) = {"certificate", "key"}.difference(missing)
            self._once(sections.get(other, section), missing[0], f"is required with {other}")
        elif missing and self.configured:
            for key in missing:
                self.problems.add(section, key, "is required")
        return None if missing else ServerTLS(**values, sections=sections)

    def _client_certificates(self, section: str, values: Mapping[str, Any], sections: Mapping[str, str]) -> None:
        """Whoever asks for certificates says whose, and whoever names a CA or a CRL says that they are asked for."""
        asked = values["client_certificate"]
        if asked != "none" and values["client_ca"] is None:
            place = sections.get("client_certificate", section)
            self._once(place, "client_ca", f"is required with client_certificate = {asked}")
        for key in ("client_ca", "client_crl"):
            place = sections.get(key, section)
            # A listener may say none to what [tls] says for the others.
            if asked == "none" and values[key] and (place == section or not self.given(section, "client_certificate")):
                self._once(place, "client_certificate", f"is none, so {key} would check nobody")

    def _once(self, section: str, key: str, reason: str) -> None:
        """What [tls] says wrong is wrong for every listener, but one problem."""
        if Problem(section, key, reason) not in self.problems.found:
            self.problems.add(section, key, reason)

    # --- parts of sections

    def _refers(self, section: str, kind: str, name: str) -> None:
        if self.configured and f"{kind}:{name}" not in self.texts:
            self.problems.add(section, kind, f"no section [{kind}:{name}]")

    def _both(self, section: str, values: Mapping[str, Any], certificate: str, key: str) -> None:
        for missing, other in ((certificate, key), (key, certificate)):
            if values[missing] is None and values[other] is not None:
                self.problems.add(section, missing, f"is required with {other}")

    def _password(self, section: str, values: Mapping[str, Any]) -> str | None:
        password: str | None = values["password"]
        path: Path | None = values["password_file"]
        if path is None:
            return password
        if password is not None:
            self.problems.add(section, "password_file", "is a second answer to password: give only one of them")
            return None
        with self.problems.at(section, "password_file"):
            return _secret(path)
        return None


def _secret(path: Path) -> str:
    """One line; its line feed is the editor's. The errors say nothing of what is in the file."""
    try:
        secret = line(path.read_bytes().decode("utf-8").removesuffix("\n"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    if not secret:
        raise ValueError(f"{path} is empty")
    return secret
