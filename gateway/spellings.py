"""How the text of one key is read: single values, and lists of them by commas or lines.

Owns these grammars, but for those of `addresses` and of rules. Refuses, as ValueError, what is not exactly one of the
spellings documented in conf/gw.ini; a reason names what was given only where no secret can be meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from string import Formatter

from gateway.addresses import (
    DatabaseURL,
    WebService,
    database_url,
    https_url,
    web_host,
    web_service,
)
from gateway.policy import role_name
from gateway.rules import Network, parse_network
from gateway.upstream import Address, TLSMode

# --- single values --------------------------------------------------------------------------------------------------


def line(text: str) -> str:
    # An indented line continues the value before it, so a forgotten key would otherwise become part of a password.
    if re.search(r"[\r\n\0]", text):
        raise ValueError("must be one line")
    return text


def path(text: str) -> Path:
    return Path(line(text))


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ValueError("is not a whole number from 1 up")
    return int(text)


def seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise ValueError("is not a number of seconds such as 30 or 0.5")
    return float(text)


def timeout(text: str) -> float:
    if not seconds(text):
        raise ValueError("must be more than 0 seconds")
    return seconds(text)


def interval(text: str) -> float:
    """Less would only be load on whoever is asked so often."""
    if seconds(text) < 1:
        raise ValueError("must be at least 1 second")
    return seconds(text)


def seconds_or_none(text: str) -> float | None:
    return seconds(text) or None


def one_of(*words: str, secret: bool = False) -> Callable[[str], str]:
    """secret: where the name of the key is that of a secret elsewhere, so the text could be one."""

    def parse(text: str) -> str:
        if line(text) not in words:
            raise ValueError(f"{'' if secret else f'{text} '}is not one of {', '.join(words)}")
        return text

    return parse


def yes_or_no(text: str) -> bool:
    return one_of("yes", "no")(text) == "yes"


def name(text: str) -> str:
    """A name for use in section headings, so also in the names of environment variables."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", text):
        raise ValueError("a name has up to 63 of A-Z a-z 0-9 _ . -")
    return text


def role(text: str) -> str:
    return role_name(line(text))


def log_file(text: str) -> Path | None:
    return None if text == "-" else path(text)


def tls_mode(text: str) -> TLSMode:
    # The last two are jwt-postgresql-proxy's and its relatives' spellings.
    modes = {mode.value: mode for mode in TLSMode} | {"disabled": TLSMode.DISABLE, "required": TLSMode.REQUIRE}
    if line(text) not in modes:
        raise ValueError(f"{text} is not one of {', '.join(mode.value for mode in TLSMode)}")
    return modes[text]


def role_claim(text: str) -> str | None:
    """`claim:NAME` → NAME; `sub` → None."""
    if text == "sub":
        return None
    if not re.fullmatch(r"claim:\S+", text):
        raise ValueError("is neither sub nor claim:NAME")
    return text.removeprefix("claim:")


def packets_or_none(text: str) -> float | None:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is not a whole number from 0 up")
    return float(text) or None


def packet_size(text: str) -> int:
    """Less would not hold a CONNECT; MQTT has no longer packet (MQTT-2.1.4)."""
    size = count(text)
    if not 1_024 <= size <= 268_435_460:
        raise ValueError("is not from 1024 to 268435460 bytes")
    return size


def keep_alive(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError("is not a number of seconds from 0 to 65535")
    return int(text)


def receive_maximum(text: str) -> int:
    number = count(text)
    if number > 65_535:
        raise ValueError("is not from 1 to 65535")
    return number


def database(text: str) -> Path | DatabaseURL:
    """The path of a SQLite file, or `postgresql://USER@HOST[:PORT]/NAME`."""
    return database_url(text) if text.startswith(("postgresql:", "postgres:")) else path(text)


def key_set(text: str) -> Path | str:
    """The path of a file, or a URL: a scheme is none of a file's name."""
    return https_url(text) if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) else path(text)


def hub_file(text: str) -> Path | str:
    if text == "none":
        raise ValueError("is a path, or memory")
    return text if text == "memory" else path(text)


def scheme(text: str) -> bytes:
    """A scheme of Authorization, a token (RFC 9110, 11.1 and 5.6.2); `none` is to have none."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,63}", text):
        raise ValueError(f"{text} is neither none nor a word such as Thing or Bearer")
    return b"" if text == "none" else text.encode("ascii")


def application_name(text: str) -> str | None:
    """A template for str.format with three plain fields; anything more could reach into objects."""
    fields = ("subject", "address", "application_name")
    for _, field, spec, conversion in Formatter().parse(text):
        if field is not None and (field not in fields or spec or conversion):
            raise ValueError("may hold only {subject}, {address} and {application_name} (and {{ for a brace)")
    return line(text) or None


# --- lists: commas or lines -----------------------------------------------------------------------------------------


def words(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in re.split(r"[,\n]", text) if item.strip())
    if text.strip() and not items:
        raise ValueError("is empty")
    return items


def addresses(parse: Callable[[str], Address]) -> Callable[[str], tuple[Address, ...]]:
    def parse_all(text: str) -> tuple[Address, ...]:
        return tuple(parse(word) for word in words(text))

    return parse_all


def service(text: str) -> WebService:
    return web_service(words(text))


def names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name(word) for word in words(text)))


def web_hosts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(web_host(word) for word in words(text)))


def schemes(text: str) -> frozenset[bytes]:
    """In lower case, as they are compared (RFC 9110, 11.1)."""
    return frozenset(scheme(word).lower() for word in words(text))


def protocols(text: str) -> tuple[bytes, ...]:
    """Names of ALPN (RFC 7301, 3.1); `none` is no protocol at all."""
    found = words(text)
    if found == ("none",):
        return ()
    for word in found:
        if not re.fullmatch(r"[!-~]{1,255}", word) or word == "none":
            raise ValueError(f"{word} is not the name of a protocol such as h2 (or, alone, none)")
    return tuple(word.encode("ascii") for word in found)


def networks(text: str) -> tuple[Network, ...]:
    return tuple(parse_network(word) for word in words(text))


def password_methods(text: str) -> frozenset[str]:
    known = one_of("scram-sha-256", "scram-sha-256-plus", "md5", "password", "none")
    return frozenset(known(word) for word in words(text))


def certificate_pairs(text: str) -> tuple[tuple[Path, Path], ...]:
    pairs = []
    for row in _rows(text):
        if len(row) != 2:
            raise ValueError("each line is the path of a certificate, then that of its key")
        pairs.append((Path(row[0]), Path(row[1])))
    return tuple(pairs)


def public_keys(text: str) -> tuple[tuple[Path, str | None], ...]:
    keys: list[tuple[Path, str | None]] = []
    for row in _rows(text):
        if len(row) > 2:
            raise ValueError("each line is the path of a public key, then, if its issuer names it, its kid")
        keys.append((Path(row[0]), row[1] if len(row) == 2 else None))
    return tuple(keys)


def rule_lines(text: str) -> tuple[str, ...]:
    rows = (row.strip() for row in text.split("\n"))
    return tuple(row for row in rows if row and not row.startswith("#"))


def _rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.split("\n") if row.strip()]
