"""Files that the gateway writes, and those that hold secrets: whether they are where they should be, and for whom.

Owns nothing of their content; nothing is made or changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gateway.errors import Problems
from gateway.ini import read_ini
from gateway.inspection.credentials import check_secret
from gateway.inspection.findings import Finding, fail, ok, warn
from gateway.inspection.given import given
from gateway.settings import Config

# Keys whose values are secrets, or files of them; what a section of MQTT says of passwords is a word.
_SECRET: Final = "password"  # noqa: S105 - the name of a key
_FILES: Final = ("password_file", "upstream_password_file")
# Where systemd makes the unit's folders at the start (systemd.exec(5), RuntimeDirectory=): before it there are none.
_MADE_AT_THE_START: Final = tuple(map(Path, ("/run", "/var/lib", "/var/log")))


def check_places(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    if config.audit.file is not None:
        yield _writable("audit", "file", config.audit.file)
    if config.registry is not None and isinstance(config.registry.database, Path):
        yield _writable("registry", "database", config.registry.database)
    if config.hub is not None and config.hub.database is not None:
        yield _writable("hub", "database", config.hub.database, made=True)
    if config.control is not None:
        yield _writable("control", "socket", config.control)
    if config.path is not None:
        yield from check_secrets(config, environ)


def _writable(section: str, key: str, path: Path, *, made: bool = False) -> Finding:
    """made: the gateway makes its folder, too."""
    folder = path.parent.parent if made and not path.parent.exists() else path.parent
    if path.exists() and not os.access(path, os.W_OK):
        return fail(section, key, f"{path}: cannot be written to")
    if not path.exists() and not folder.is_dir():
        if any(folder.is_relative_to(one) for one in _MADE_AT_THE_START):
            return warn(section, key, f"{folder}: there is no such folder yet; systemd makes it, if its unit says so")
        return fail(section, key, f"{folder}: there is no such folder")
    if not path.exists() and not os.access(folder, os.W_OK | os.X_OK):
        return fail(section, key, f"{folder}: nothing can be made there")
    return ok(section, key, f"{path}: {'can be written to' if path.exists() else 'will be made'}")


def check_secrets(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Passwords in the INI, and in files of their own."""
    assert config.path is not None  # there is an INI wherever there is a check
    texts = read_ini(config.path, Problems()) or {}
    if any(key == _SECRET and not section.startswith("mqtt:") for section, keys in texts.items() for key in keys):
        yield from check_secret("configuration", "passwords", config.path)
    reading = given(config, environ)
    for section in reading.texts:
        for key in _FILES:
            value = reading.values(section).get(key)
            if isinstance(value, Path):
                yield from check_secret(section, key, value)
