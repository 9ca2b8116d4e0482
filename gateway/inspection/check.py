"""Everything that can be wrong before anybody connects, as one list.

Owns the order in which it is looked at: first whether the configuration can be used at all; only then what else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from gateway.config import load
from gateway.doors import State
from gateway.errors import ConfigError, Problems
from gateway.ini import read_ini
from gateway.inspection.credentials import check_certificates, check_dates, check_jwt
from gateway.inspection.findings import Finding, fail, ok, warn
from gateway.inspection.lists import check_lists
from gateway.inspection.permissions import check_permissions
from gateway.inspection.places import check_places
from gateway.inspection.reachable import Inquiry, inquiries
from gateway.inspection.rehearsal import stage
from gateway.inspection.rules import check_reach, check_rules
from gateway.schema import keys_of
from gateway.settings import Config

_WHOLE: Final = "configuration"
_PLACE: Final = re.compile(r"\[([^\]]+)\] (.*)", re.DOTALL)
# A key, and what of it: `rules is empty`, `tls = disable: …`, `upstream: …`.
_KEY: Final = re.compile(r"([a-z_]+)(?: =|:)? (.*)", re.DOTALL)


def check(
    path: Path, environ: Mapping[str, str], folder: Path, ask: Callable[[list[Inquiry]], list[Finding]] | None
) -> list[Finding]:
    """path, environ, folder: as of `config.load`. ask: has those questions answered; None: nobody is asked anything.

    Section by section, in the order of the configuration.
    """
    problems = Problems()
    config = load(path, environ, folder, problems)
    found = [_warning(text) for text in config.warnings]
    state: State | None = None
    try:
        if config.configured or problems.found:
            state = stage(config, None, None, problems)
    except ConfigError as error:
        found += [fail(one.section, one.key, one.reason) for one in error.problems]
        return _grouped(found, folder / path)
    if state is None:
        return [*found, warn(_WHOLE, "file", f"{path}: guards nothing; the gateway would start its demonstration")]
    found = [ok(_WHOLE, "file", f"{path}: can be used"), *found, *_offline(config, environ)]
    if ask is not None:
        found += ask(inquiries(config, next(iter(state.doors.values())).certificates))
    return _grouped(found, folder / path)


def _offline(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    yield from check_permissions(config, environ)
    yield from check_certificates(config)
    yield from check_lists(config)
    yield from check_dates(config)
    yield from check_jwt(config, environ)
    yield from check_rules(config)
    yield from check_reach(config)
    yield from check_places(config, environ)


def _warning(text: str) -> Finding:
    """As the gateway puts it into its log: it begins with its place, or is about the environment."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return warn(_WHOLE, "environment", text)
    section, words = found.groups()
    about = _KEY.fullmatch(words)
    if about is None or about[1] not in keys_of(section):
        return warn(section, "section", words)
    return warn(section, about[1], about[2])


def _grouped(found: list[Finding], path: Path) -> list[Finding]:
    """What is about one section stands together, and sections as in the file; those that are not in it come last."""
    written = read_ini(path, Problems()) or {}
    order = list(dict.fromkeys((_WHOLE, *written, *(one.section for one in found))))
    return sorted(found, key=lambda one: order.index(one.section))
