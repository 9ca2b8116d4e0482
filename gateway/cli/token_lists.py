"""Every [jwt:NAME] that a revoked token concerns, and the list of each.

Several sections may trust one key, and each goes by its own list. Owns the search for those that believe a token, or
would, and what becomes of their lists. Refuses silence about one that goes on believing it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    answers = _asked(read_token(path), found.sound)
    believed, unfetched = answers.believed, answers.unfetched
    by = found.chosen.name if found.chosen is not None else None
    if not believed or by not in (None, *believed):
        why = _why({**answers.refused, **unfetched}, by)
        raise Failure(f"{path}: {why}; if it is to be revoked anyway, give its jti")
    serials = {identity.serial for identity in believed.values()}
    if None in serials:
        raise Failure(f"{path}: it has no jti, so it cannot be revoked alone: remove the key that signed it")
    (jti,) = serials  # it is one token
    assert jti is not None
    expires = max(math.ceil(identity.expires) for identity in believed.values())
    unknown = (
        f"[jwt:{name}] {why}; if it believes the token, revoke the jti there, too" for name, why in unfetched.items()
    )
    sections = tuple(one for one in found.sound if one.name in believed)
    return Concerned(jti, expires, sections, (*unknown, *_unreadable(found)))


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of each section, by its name: whom the token proves to it, why it never does, or why nobody knows."""

    believed: dict[str, Identity] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unfetched: dict[str, str] = field(default_factory=dict)

    def ask(self, token: bytes, section: JWTSettings, now: float) -> None:
        """now: seconds since the epoch."""
        try:
            self.believed[section.name] = verified(token, section, frozenset(), now)
        except Refused as error:
            self.refused.setdefault(section.name, error.message)  # by now, if it was asked before
        except Failure as error:
            self.unfetched[section.name] = error.message


def _asked(token: bytes, sections: Sequence[JWTSettings]) -> _Answers:
    """One that refuses it now may believe it yet: by less leeway it is too early (nbf, iat), and without an iat it
    lives too long (max_lifetime) until it is about to end. Whoever believes it at any time does so at its very end."""
    answers, now = _Answers(), time.time()
    for one in sections:
        answers.ask(token, one, now)
    ends = {identity.claims["exp"] for identity in answers.believed.values()}  # one, since it is one token
    for one in sections:
        if one.name in answers.refused and ends:
            answers.ask(token, one, max(now, math.nextafter(max(ends) + one.leeway, 0)))
    return answers


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


def _why(reasons: Mapping[str, str], name: str | None) -> str:
    """name: of the section that alone is meant."""
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
