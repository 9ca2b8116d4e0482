"""Who else could change what decides about trust: the files that are read and written, and the folders they are in.

Owns which files those are: whatever the configuration names, and itself; and what of files a gateway says that starts.
Who can read a secret is told elsewhere.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import stat_result
from pathlib import Path
from typing import Any, Final

from gateway.inspection.credentials import tls_keys
from gateway.inspection.findings import Finding, Level, fail, ok, warn
from gateway.inspection.given import given
from gateway.inspection.places import check_secrets
from gateway.rules import parse_fields
from gateway.settings import Config

_WHOLE: Final = "configuration"
# Made anew by each gateway, so that it matters who may make files, and not only who may change those of others.
_SOCKET: Final = ("control", "socket")
# A folder that the gateway looks at only where it guards nothing.
_DEMONSTRATION: Final = "quickstart"

Named = tuple[str, str, Path]


def warnings(config: Config, environ: Mapping[str, str]) -> Sequence[str]:
    """For the log, as others of the configuration. Without an INI, and where nothing is guarded, there are none. No
    other machine is asked, since the reactor waits.

    Nothing for the TLS keys that others can use or change: that is said where the keys are read.
    """
    if config.path is None or not config.configured:
        return ()
    try:
        found = [*check_permissions(config, environ, tls_keys(config), ask=False), *check_secrets(config, environ)]
    except (OSError, ValueError) as error:
        return (f"[{_WHOLE}] permissions: who else can use the files is not known: {error}",)
    return [f"[{one.section}] {one.about}: {one.text}" for one in found if one.level is not Level.OK]


def check_permissions(
    config: Config,
    environ: Mapping[str, str],
    besides: Collection[Path] = (),
    *,
    ask: bool = True,
) -> Iterator[Finding]:
    """besides: files that are not looked at, though their folders are. ask: for the names of users and groups, which
    may take long where they are kept on another machine."""
    assert config.path is not None  # there is an INI wherever there is a check
    named = [(_WHOLE, "file", config.path), *_named(config, environ)]
    found = [one for each in named if each[2] not in besides and (one := _of_file(*each, ask)) is not None]
    folders: dict[Path, Named] = {}
    for section, key, file in named:
        folders.setdefault(file.parent, (section, key, file))
        if (section, key) == _SOCKET:
            folders[file.parent] = section, key, file
    found += [one for each in folders.values() if (one := _of_folder(*each, ask)) is not None]
    yield from dict.fromkeys(found)
    if not found:
        yield ok(_WHOLE, "permissions", f"only their owners can change the {len({file for *_, file in named})} files")


def _named(config: Config, environ: Mapping[str, str]) -> Iterator[Named]:
    reading = given(config, environ)
    for section in reading.texts:
        if section != _DEMONSTRATION:
            values = reading.values(section)
            for key, value in values.items():
                yield from ((section, key, one) for one in _paths(value))
            for one in _in_rules(values.get("rules") or ()):
                yield section, "rules", Path(os.path.normpath(reading.folder / one))


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _paths(one)


def _in_rules(lines: Iterable[str]) -> Iterator[str]:
    """The files of authorities that rules name (ca=PATH)."""
    for line in lines:
        with suppress(ValueError):
            yield from (item.name for field in parse_fields(line) if field.option == "ca" for item in field.items)


def _of_file(section: str, key: str, file: Path, ask: bool) -> Finding | None:
    with suppress(OSError):
        status = file.stat()
        if stat.S_ISREG(status.st_mode):
            return _told(section, key, f"{file}: {{}} can change it", status, ask)
    return None


def _of_folder(section: str, key: str, file: Path, ask: bool) -> Finding | None:
    """In a sticky one everybody may make files, but not replace those of others (unlink(2), EPERM)."""
    with suppress(OSError):
        status = file.parent.stat()
        is_safe = status.st_mode & stat.S_ISVTX and file.exists() and (section, key) != _SOCKET
        if not is_safe:
            words = f"{file.parent}: {{}} can put other files into this folder"
            return _told(section, key, words, status, ask)
    return None


def _told(section: str, key: str, words: str, status: stat_result, ask: bool) -> Finding | None:
    if status.st_mode & stat.S_IWOTH:
        return fail(section, key, f"{words.format('everybody on this machine')}: chmod go-w")
    if status.st_mode & stat.S_IWGRP and not _is_own(status, ask):
        group = _group(status.st_gid) if ask else str(status.st_gid)
        return warn(section, key, f"{words.format(f'the group {group}')}: chmod go-w")
    return None


def _is_own(status: stat_result, ask: bool) -> bool:
    """Whether the group is root's, or its owner's alone: by custom it has the owner's name, and mostly the number."""
    if status.st_gid == 0 or not ask:
        return status.st_gid in (0, status.st_uid)
    try:
        owner = pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return owner.pw_gid == status.st_gid and _group(status.st_gid) == owner.pw_name


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
