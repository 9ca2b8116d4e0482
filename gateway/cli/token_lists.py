"""Every [jwt:NAME] that a revoked token concerns, and the list of each.

Several sections may trust one key, and each goes by its own list. Owns the search for those that believe a token, or
would, and what becomes of their lists. Refuses silence about one that goes on believing it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.errors import Failure, told
from gateway.cli.token_files import Sections, read_token
from gateway.cli.token_reading import Refused, verified

if TYPE_CHECKING:
    from gateway.identity import Identity
    from gateway.settings import Config, JWTSettings


@dataclass(frozen=True, slots=True)
class Concerned:
    """sections: each that believes the token, or would. expires: until when, in seconds since the epoch; None: nobody
    knows. unknown: in words, each of which nobody knows whether it is one of them."""

    jti: str
    expires: int | None
    sections: tuple[JWTSettings, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """files: of each section; None: it is on no list there. new: it was not on all of them before. missing: why it is
    not, in words; empty: it is wherever it has to be."""

    files: dict[str, Path | None]
    new: bool
    missing: tuple[str, ...]


def by_jti(jti: str, found: Sections) -> Concerned:
    """The section that was named, or all that have a list; and all that trust a key of one of these."""
    if found.chosen is not None:
        meant: tuple[JWTSettings, ...] = (found.chosen,)
    else:
        meant = tuple(one for one in found.sound if one.revoked_file is not None) or found.sound
    sections = tuple(one for one in found.sound if any(one is other or _share_a_key(one, other) for other in meant))
    return Concerned(jti, None, sections, tuple(_unreadable(found)))


def by_token(path: str, found: Sections) -> Concerned:
    """Every section that believes it, and so knows until when.

    Nobody else does: whoever brings a forgery of the same jti, with an earlier exp, would have the line of the true one
    dropped early. Raises Failure, also where the section that was named does not believe it, and OSError.
    """
    token = read_token(path)
    believed: dict[str, Identity] = {}
    refused: list[tuple[str, str]] = []
    unfetched: list[tuple[str, str]] = []
    for one in found.sound:
        try:
            believed[one.name] = verified(token, one, frozenset())
        except Failure as error:
            (refused if isinstance(error, Refused) else unfetched).append((one.name, error.message))
    by = found.chosen.name if found.chosen is not None else None
    if not believed or by not in (None, *believed):
        raise Failure(f"{path}: {_why([*refused, *unfetched], by)}; if it is to be revoked anyway, give its jti")
    serials = {identity.serial for identity in believed.values()}
    if None in serials:
        raise Failure(f"{path}: it has no jti, so it cannot be revoked alone: remove the key that signed it")
    (jti,) = serials  # it is one token
    assert jti is not None
    expires = max(math.ceil(identity.expires) for identity in believed.values())
    unknown = (f"[jwt:{name}] {why}; if it believes the token, revoke the jti there, too" for name, why in unfetched)
    sections = tuple(one for one in found.sound if one.name in believed)
    return Concerned(jti, expires, sections, (*unknown, *_unreadable(found)))


def put_on_lists(concerned: Concerned, config: Config) -> Listed:
    """On as many as can be written. Raises Failure if that is none of them."""
    files: dict[str, Path | None] = {}
    new: dict[Path, bool] = {}
    missing: list[str] = []
    for one in concerned.sections:
        try:
            file = _list_of(one)
            if file not in new:
                new[file] = _add(file, concerned, config)
        except Failure as error:
            missing.append(error.message)
        else:
            files[one.name] = file
    if not new:
        raise Failure("\n".join(dict.fromkeys((*missing, *concerned.unknown))))
    named = {f"jwt:{one.name}": files.get(one.name) for one in concerned.sections}
    return Listed(named, any(new.values()), tuple(dict.fromkeys((*missing, *concerned.unknown))))


def _share_a_key(one: JWTSettings, other: JWTSettings) -> bool:
    """What a URL has is not fetched for it: there is no token of which the right one is wanted."""
    if one.jwks is not None and one.jwks == other.jwks:
        return True
    return not {key.thumbprint for key in one.keys}.isdisjoint(key.thumbprint for key in other.keys)


def _unreadable(found: Sections) -> Iterator[str]:
    for problem in found.wrong:
        yield f"{problem}; nobody can tell whether that section believes the token. Mend it, and try again"


def _why(refused: Iterable[tuple[str, str]], name: str | None) -> str:
    """name: of the section that alone is meant."""
    reasons = dict(refused)
    if name is not None or len(reasons) == 1:
        return reasons.get(name or "", next(iter(reasons.values())))
    return "; ".join(f"[jwt:{one}] {reason}" for one, reason in reasons.items())


def _list_of(settings: JWTSettings) -> Path:
    """Raises Failure, with what would make one."""
    if settings.revoked_file is None:
        raise Failure(
            f"[jwt:{settings.name}] revoked: is not given, so it has no list of revoked tokens. Make an empty file, "
            "add this line to the section, reload, and try again:\nrevoked = revoked.txt"
        )
    return settings.revoked_file


def _add(file: Path, concerned: Concerned, config: Config) -> bool:
    """Raises Failure."""
    from gateway import revoked_tokens

    leeway = max(one.leeway for one in config.jwt.values() if one.revoked_file == file)
    try:
        with told():
            return revoked_tokens.add(file, concerned.jti, concerned.expires, time.time(), leeway)
    except ValueError as error:
        raise Failure(str(error)) from None
