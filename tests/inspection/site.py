"""A folder with a configuration, for what looks at one: certificates, keys, and an INI of the test's own sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import config
from gateway.cli.settings import Installation
from gateway.errors import Problems
from gateway.settings import Config
from tests.gateways import Sections, ini
from tests.pki import Issued, issue, make_ca, write_pem

DATABASE: Sections = {
    "upstream:main": {"hosts": "127.0.0.1:9", "tls": "disable"},
    "jwt:main": {"public_keys": "jwt.pub"},
    "postgres:main": {"listen": "127.0.0.1:6432", "rules": "\nallow sales alice 192.0.2.0/24\ndeny all mallory all"},
}


@dataclass(slots=True)
class Site:
    folder: Path
    ca: Issued = field(default_factory=make_ca)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @classmethod
    def made(cls, folder: Path) -> Site:
        site = cls(folder)
        write_pem(folder / "ca.crt", site.ca.certificate)
        issue(site.ca, "localhost", sans=["localhost", "127.0.0.1"]).write(folder, "server")
        public = site.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "jwt.pub").write_bytes(public)
        return site

    def write(self, sections: Sections) -> Path:
        """With [tls] and an audit file, unless they say otherwise."""
        tls = {"certificate": "server.crt", "key": "server.key"}
        path = self.folder / "gw.ini"
        path.touch(0o600)
        path.write_text(ini({"audit": {"file": "audit.jsonl"}, "tls": tls, **sections}))
        return path

    def config(self, sections: Sections) -> Config:
        problems = Problems()
        found = config.load(self.write(sections), {}, self.folder, problems)
        problems.raise_if_any()
        return found

    def installation(self, sections: Sections) -> Installation:
        return Installation(str(self.write(sections)), {}, self.folder)
