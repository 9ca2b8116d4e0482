"""A folder in which the commands about tokens have a key and a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt

from tests.cli.console import Console
from tests.gateways import ini

Sections = dict[str, dict[str, object]]


def configure(more: Sections | None = None, without: tuple[str, ...] = (), **main: object) -> Path:
    """gw.ini in this folder, which guards a database. main: more keys of [jwt:main]; without: some that it has."""
    settings = {"public_keys": "issuer.pub", **main}
    sections: Sections = {
        "jwt:main": {key: value for key, value in settings.items() if key not in without},
        "upstream:main": {"hosts": "db.example"},
        "postgres:main": {"certificate": "a.crt", "key": "a.key", "rules": "allow all all all"},
        **(more or {}),
    }
    path = Path("gw.ini")
    path.write_text(ini(sections), "utf-8")
    return path


def issued(console: Console, *options: str, sub: str = "alice", ttl: str = "1h") -> str:
    """The token that the command prints."""
    return console.ok("token", "issue", "--key", "issuer.key", "--sub", sub, "--ttl", ttl, *options).strip()


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return read
