"""What the configuration says itself, key by key, where a check has to know which file or which secret was named.

Owns nothing of what it means: that is the configuration's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.errors import Problems
from gateway.ini import Reading, read_ini
from gateway.schema import SINGLE
from gateway.settings import Config


def given(config: Config, environ: Mapping[str, str]) -> Reading:
    """Of the INI as it is now, and the environment. Its problems, if there are any, are for others to tell."""
    assert config.path is not None  # whoever asks has an INI
    texts = read_ini(config.path, Problems()) or {}
    reading = Reading(Problems(), config.path.parent.resolve(), texts)
    reading.drop_unknown_sections()
    reading.override(environ, dict.fromkeys((*reading.texts, *SINGLE, *_sections(config))))
    return reading


def _sections(config: Config) -> Iterator[str]:
    """Also those that variables alone have made."""
    yield from (f"jwt:{name}" for name in config.jwt)
    yield from (f"upstream:{name}" for name in config.upstreams)
    yield from (f"postgres:{one.name}" for one in config.postgres)
    yield from (f"https:{one.name}" for one in config.https)
    yield from (f"route:{one.name}" for one in config.routes)
    yield from (f"mqtt:{one.name}" for one in config.mqtt)
