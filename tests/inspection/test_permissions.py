"""Files and folders that others could change: each that is read, whoever names it; and what is said of them at the
start."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from gateway import config
from gateway.errors import Problems
from gateway.inspection.findings import Finding, Level
from gateway.inspection.permissions import check_permissions, warnings
from gateway.settings import Config
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
    return list(check_permissions(loaded(site, SECTIONS, environ), environ))


def loaded(site: Site, sections: Sections, environ: Mapping[str, str]) -> Config:
    """Whatever is in the files."""
    return config.load(site.write(sections), environ, site.folder, Problems())


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


def test_a_section_that_only_variables_have_made(site: Site) -> None:
    other = site.folder / "other.pub"
    other.touch()
    other.chmod(0o666)
    sections = {section: keys for section, keys in SECTIONS.items() if section not in ("jwt:main", "control")}
    (site.folder / "run").chmod(0o777)
    environ = {"SECUREGW_JWT_MAIN_PUBLIC_KEYS": str(other), "SECUREGW_CONTROL_SOCKET": "run/c.sock"}
    found = check_permissions(loaded(site, sections, environ), environ)
    assert [(one.section, one.about, one.level) for one in found] == [
        ("jwt:main", "public_keys", Level.FAIL),
        ("control", "socket", Level.FAIL),
    ]


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


@pytest.mark.parametrize(("group", "told"), [(0, 0), (4711, 0), (4712, 1)])
def test_at_the_start_nobody_is_asked_for_names(
    site: Site, monkeypatch: pytest.MonkeyPatch, group: int, told: int
) -> None:
    """They may be kept on another machine, which does not answer while the reactor waits."""
    real = Path.stat

    def status(path: Path, **more: bool) -> os.stat_result:
        found = real(path, **more)
        return os.stat_result((found.st_mode, *found[1:4], 4711, group, *found[6:10]))

    def never(_: int) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(Path, "stat", status)
    monkeypatch.setattr(pwd, "getpwuid", never)
    monkeypatch.setattr(grp, "getgrgid", never)
    (site.folder / "jwt.pub").chmod(0o660)
    lines = [line for line in warnings(loaded(site, SECTIONS, {}), {}) if "jwt.pub" in line]
    assert len(lines) == told
    assert all("the group 4712 can change it" in line for line in lines)


# --- at the start -----------------------------------------------------------------------------------------------------


def test_nothing_is_said_where_all_is_well(site: Site) -> None:
    assert warnings(loaded(site, SECTIONS, {}), {}) == []


def test_secrets_that_others_can_read_and_files_that_they_can_change(site: Site) -> None:
    settings = loaded(site, {**SECTIONS, "login:alice": {"password": "a secret"}}, {})
    for name, mode in {"gw.ini": 0o644, "password": 0o644, "jwt.pub": 0o666, "run": 0o777}.items():
        (site.folder / name).chmod(mode)
    everybody = "everybody on this machine can"
    assert warnings(settings, {}) == [
        f"[jwt:main] public_keys: {site.folder / 'jwt.pub'}: {everybody} change it: chmod go-w",
        f"[control] socket: {site.folder / 'run'}: {everybody} put other files into this folder: chmod go-w",
        f"[configuration] passwords: {site.folder / 'gw.ini'}: {everybody} use it: chmod 600",
        f"[upstream:main] password_file: {site.folder / 'password'}: {everybody} use it: chmod 600",
    ]


@pytest.mark.parametrize("name", ["server.key", "b.key"])
def test_of_keys_of_tls_something_is_said_already(site: Site, name: str) -> None:
    """Where they are read; but of the folder that they are in nothing is."""
    settings = loaded(site, SECTIONS, {})
    (site.folder / name).chmod(0o666)
    assert warnings(settings, {}) == []
    site.folder.chmod(0o777)
    (one,) = warnings(settings, {})
    assert f"{site.folder}: everybody on this machine can put other files into this folder" in one


def test_it_neither_waits_nor_raises(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(site, SECTIONS, {})
    for name in ("gw.ini", "password", "jwt.pub"):
        (site.folder / name).unlink()
        os.mkfifo(site.folder / name, 0o600)
    assert warnings(settings, {}) == []

    def fail(_: Path, **__: bool) -> None:
        raise ValueError("embedded null byte")

    monkeypatch.setattr(Path, "stat", fail)
    (one,) = warnings(settings, {})
    assert one.startswith("[configuration] permissions: who else can use the files is not known")


def test_what_guards_nothing_and_what_has_no_ini(site: Site) -> None:
    path = site.folder / "gw.ini"
    path.write_text("[postgres:main]\n")
    path.chmod(0o666)
    assert warnings(config.load(path, {}, site.folder, Problems()), {}) == ()
    environ = {"UPSTREAM__HOST": "db.example"}
    settings = config.load(None, environ, site.folder, Problems())
    assert settings.configured
    assert warnings(settings, environ) == ()
