"""Files and folders that others could change: each that is read, whoever names it."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.inspection.findings import Finding, Level
from gateway.inspection.permissions import check_permissions
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.pki import issue, make_crl, write_pem

SECTIONS: Sections = {
    **DATABASE,
    "control": {"socket": "run/c.sock"},
    "registry": {"database": "things.sqlite"},
    "hub": {"database": "hub.sqlite"},
    "tls": {"certificate": "server.crt", "key": "server.key", "sni": "b.crt b.key"},
    "jwt:main": {"public_keys": "jwt.pub kid", "revoked": "revoked"},
    "upstream:main": {"hosts": "db.example", "root_certificate": "db.crt", "password_file": "password"},
    "mqtt:main": {
        "client_certificate": "required",
        "client_ca": "ca.crt",
        "client_crl": "crl.pem",
        "rules": '\nallow all all\nallow all 192.0.2.0/24 ca="of guests.crt"',
    },
}
NAMED = ("things.sqlite", "hub.sqlite", "server.crt", "server.key", "b.crt", "b.key", "jwt.pub", "revoked", "db.crt")


@pytest.fixture(autouse=True)
def umask() -> Iterable[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site.made(tmp_path)
    issue(site.ca, "b.example", sans=["b.example"]).write(tmp_path, "b")
    write_pem(tmp_path / "crl.pem", make_crl(site.ca))
    for name in ("things.sqlite", "hub.sqlite", "revoked", "db.crt", "of guests.crt", "password", "audit.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "run").mkdir()
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o700)
    return site


def found(site: Site, **environ: str) -> list[Finding]:
    return list(check_permissions(site.write(SECTIONS), environ))


def test_for_their_owners_alone(site: Site) -> None:
    (one,) = found(site)
    assert (one.level, one.text) == (Level.OK, "only their owners can change the 16 files")


@pytest.mark.parametrize("name", [*NAMED, "ca.crt", "crl.pem", "of guests.crt", "password", "audit.jsonl", "gw.ini"])
def test_a_file_that_everybody_can_change(site: Site, name: str) -> None:
    site.write(SECTIONS)
    (site.folder / name).chmod(0o602)
    (one,) = found(site)
    assert one.level is Level.FAIL
    assert one.text == f"{site.folder / name}: everybody on this machine can change it: chmod go-w"


def test_what_only_a_variable_names(site: Site) -> None:
    other = site.folder / "other.pub"
    other.touch()
    other.chmod(0o666)
    (one,) = found(site, SECUREGW_JWT_MAIN_PUBLIC_KEYS=str(other))
    assert (one.section, one.about, one.level) == ("jwt:main", "public_keys", Level.FAIL)


@pytest.mark.parametrize("mode", [0o777, 0o703])
def test_a_folder_in_which_everybody_can_replace_files(site: Site, mode: int) -> None:
    site.folder.chmod(mode)
    (one,) = found(site)
    words = f"{site.folder}: everybody on this machine can put other files into this folder: chmod go-w"
    assert (one.level, one.text) == (Level.FAIL, words)


def test_a_sticky_folder_is_no_place_for_a_socket(site: Site) -> None:
    """Files that are there cannot be replaced in it, but whoever comes first can make those that are not."""
    site.write(SECTIONS)
    site.folder.chmod(0o1777)
    assert [one.level for one in found(site)] == [Level.OK]
    (site.folder / "run" / "c.sock").touch()
    (site.folder / "run").chmod(0o1777)
    (one,) = found(site)
    assert (one.section, one.level) == ("control", Level.FAIL)


@pytest.mark.parametrize(
    ("group", "name", "level"),
    [(0, "root", Level.OK), (4711, "carol", Level.OK), (4712, "users", Level.WARN), (4711, "users", Level.WARN)],
)
def test_a_group(site: Site, monkeypatch: pytest.MonkeyPatch, group: int, name: str, level: Level) -> None:
    """Root's may, and the owner's, which has its name and is nobody else's."""
    real = Path.stat

    def status(path: Path, **more: bool) -> os.stat_result:
        found = real(path, **more)
        return os.stat_result((found.st_mode, *found[1:4], 4711, group, *found[6:10]))

    monkeypatch.setattr(Path, "stat", status)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_gid=4711, pw_name="carol"))
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name=name))
    (site.folder / "jwt.pub").chmod(0o660)
    (one,) = found(site)
    assert one.level is level
    if level is Level.WARN:
        assert one.text.endswith(f"jwt.pub: the group {name} can change it: chmod go-w")


def test_an_owner_and_a_group_without_names(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    real = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda path, **more: os.stat_result((*real(path, **more)[:4], 4711, 4711, *real(path)[6:10]))
    )
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(grp, "getgrgid", nobody)
    (site.folder / "jwt.pub").chmod(0o660)
    (one,) = found(site)
    assert (one.level, "the group 4711" in one.text) == (Level.WARN, True)
