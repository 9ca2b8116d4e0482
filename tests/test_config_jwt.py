"""[jwt:NAME] and [control]: keys from files and sets, the list of revoked tokens, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import load
from gateway.errors import Problems
from gateway.legacy import read as legacy
from gateway.settings import Config
from tests.test_config import POSTGRES, UPSTREAM, Reader, public_pem
from tests.test_jwks import EC256, ED, document

URL = "https://issuer.example/.well-known/jwks.json"


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    (tmp_path / "issuer.pub").write_bytes(public_pem())
    (tmp_path / "jwks.json").write_bytes(document(ED | {"kid": "one"}, EC256 | {"alg": "ES256"}))
    (tmp_path / "revoked.txt").write_text("# lost\none\ntwo\t1700000000\n")

    def read(text: str, environ: Mapping[str, str] | None = None) -> tuple[Config, list[str]]:
        (tmp_path / "gw.ini").write_text(text + UPSTREAM + POSTGRES, "utf-8")
        problems = Problems()
        config = load(tmp_path / "gw.ini", environ or {}, tmp_path, problems)
        return config, [str(problem).replace(str(tmp_path), "DIR") for problem in problems.found]

    return read


def test_defaults(read: Reader) -> None:
    config, problems = read("[jwt:main]\npublic_keys = issuer.pub\n")
    jwt = config.jwt["main"]
    assert (problems, config.warnings, config.control) == ([], (), None)
    assert (jwt.jwks, jwt.jwks_root_certificate, jwt.jwks_refresh) == (None, None, 300.0)
    assert (jwt.revoked, jwt.revoked_file) == (frozenset(), None)


def test_a_set_in_a_file_stands_beside_public_keys(read: Reader, tmp_path: Path) -> None:
    config, problems = read("[jwt:main]\npublic_keys = issuer.pub mine\njwks = jwks.json\n")
    assert problems == []
    assert [key.kid for key in config.jwt["main"].keys] == ["mine", "one", None]
    assert config.jwt["main"].jwks is None
    alone, problems = read("[jwt:main]\njwks = jwks.json\n")
    assert (problems, len(alone.jwt["main"].keys)) == ([], 2)
    # Each load reads it anew.
    (tmp_path / "jwks.json").write_bytes(document(ED))
    assert len(read("[jwt:main]\njwks = jwks.json\n")[0].jwt["main"].keys) == 1


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://issuer.example",
        "https://issuer.example:8443/keys?p=a%20b&q=[1]",
        "https://[2001:db8::1]/keys",
        "https://192.0.2.1:1/@tenant/keys",
    ],
)
def test_a_url_is_only_remembered(read: Reader, tmp_path: Path, url: str) -> None:
    text = f"[jwt:main]\njwks = {url}\njwks_root_certificate = ca.crt\njwks_refresh = 60\n"
    config, problems = read(text)
    jwt = config.jwt["main"]
    assert problems == []
    assert (jwt.keys, jwt.jwks, jwt.jwks_root_certificate) == ((), url, tmp_path / "ca.crt")
    assert jwt.jwks_refresh == 60


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks.json",
        "HTTPS://issuer.example/",
        "ftp://issuer.example/",
        "file:///etc/jwks.json",
        "https:/etc/jwks.json",
        "https://",
        "https:///keys",
        "https://alice:hunter2@issuer.example/",
        "https://hunter2@issuer.example/",
        "https://issuer.example/#hunter2",
        "https://issuer.example/a b",
        "https://issuer.example/ä",
        "https://issuer.example\\@evil.example/",
        "https://issuer.example:0/",
        "https://issuer.example:99999/",
        "https://issuer.example:/",
        "https://999.1.1.1/",
        "https://*/",
        f"https://issuer.example/{'x' * 2048}",
    ],
)
def test_urls_that_are_refused(read: Reader, url: str) -> None:
    _, problems = read(f"[jwt:main]\njwks = {url}\n")
    assert len(problems) == 1
    assert problems[0].startswith("[jwt:main] jwks: ")
    assert "hunter2" not in problems[0]


def test_the_list_of_revoked_tokens(read: Reader, tmp_path: Path) -> None:
    config, problems = read("[jwt:main]\npublic_keys = issuer.pub\nrevoked = revoked.txt\n")
    jwt = config.jwt["main"]
    assert problems == []
    assert (jwt.revoked, jwt.revoked_file) == (frozenset({"one", "two"}), tmp_path / "revoked.txt")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[jwt:x]\n", "[jwt:x] public_keys: is required, or else jwks: without a key nobody is let in"),
        ("[jwt:x]\nissuer = a\n", "[jwt:x] public_keys: is required, or else jwks: without a key nobody is let in"),
        ("[jwt:x]\npublic_keys =\n", "[jwt:x] public_keys: is empty"),
        ("[jwt:x]\njwks =\n", "[jwt:x] jwks: is empty"),
        ("[jwt:x]\njwks = nowhere.json\n", "[jwt:x] jwks: DIR/nowhere.json: No such file or directory"),
        ("[jwt:x]\njwks = issuer.pub\n", "[jwt:x] jwks: DIR/issuer.pub: is not strict JSON"),
        (
            "[jwt:x]\njwks = jwks.json\njwks_refresh = 60\n",
            "[jwt:x] jwks_refresh: is of no use: jwks is not a URL",
        ),
        (
            "[jwt:x]\npublic_keys = issuer.pub\njwks_root_certificate = ca.crt\n",
            "[jwt:x] jwks_root_certificate: is of no use: jwks is not a URL",
        ),
        (f"[jwt:x]\njwks = {URL}\njwks_refresh = 0.5\n", "[jwt:x] jwks_refresh: must be at least 1 second"),
        (
            "[jwt:x]\npublic_keys = issuer.pub\nrevoked = nowhere\n",
            "[jwt:x] revoked: DIR/nowhere: No such file or directory",
        ),
        (
            "[jwt:x]\npublic_keys = issuer.pub\nrevoked = bad.txt\n",
            "[jwt:x] revoked: DIR/bad.txt, line 2: is not a jti",
        ),
        (f"[control]\nsocket = /{'x' * 107}\n", f"[control] socket: /{'x' * 107} is longer than the 107 bytes"),
        (
            "[control]\nsocket = both\n[health]\nlisten = unix:DIR/both\n",
            "[control] socket: DIR/both is taken: [health] listens on DIR/both",
        ),
    ],
)
def test_each_mistake_is_told_with_its_place(read: Reader, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "bad.txt").write_text("one\ntwo\tnever\n")
    _, problems = read("[jwt:main]\npublic_keys = issuer.pub\n" + text.replace("DIR", str(tmp_path)))
    assert [one for one in problems if one.startswith(problem)]
    assert len(problems) == 1


def test_a_set_with_a_private_key_is_told(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(document(ED | {"d": "AAAA"}))
    _, problems = read("[jwt:main]\njwks = jwks.json\n")
    assert len(problems) == 1
    assert problems[0].startswith("[jwt:main] jwks: DIR/jwks.json: key 1: it is a private or secret one (d)")


def test_a_set_that_is_too_large_is_not_read_to_its_end(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(json.dumps({"keys": [ED], "x": "x" * 2_000_000}).encode())
    assert read("[jwt:main]\njwks = jwks.json\n")[1] == ["[jwt:main] jwks: DIR/jwks.json: is larger than 1048576 bytes"]


def test_the_control_socket(read: Reader, tmp_path: Path) -> None:
    config, problems = read("[jwt:main]\njwks = jwks.json\n[control]\nsocket = control.sock\n")
    assert (problems, config.control) == ([], tmp_path / "control.sock")
    config, problems = read("[jwt:main]\njwks = jwks.json\n", {"SECUREGW_CONTROL_SOCKET": "/run/securegw.sock"})
    assert (problems, config.control) == ([], Path("/run/securegw.sock"))


def test_jwt_postgresql_proxys_environment_has_none_of_it(tmp_path: Path) -> None:
    _, jwt, _ = legacy({"PUBLIC_KEYS__0": public_pem().decode()}, tmp_path, Problems())
    assert (len(jwt.keys), jwt.jwks, jwt.revoked, jwt.revoked_file) == (1, None, frozenset(), None)
