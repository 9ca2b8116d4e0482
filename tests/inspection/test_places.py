"""What the gateway writes, and whether it could; and which secrets are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.inspection.places import check_places
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site


@pytest.fixture(autouse=True)
def nobody_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write everywhere."""

    def access(path: Path, wanted: int) -> bool:
        return path.stat().st_mode >> 6 & wanted == wanted

    monkeypatch.setattr(os, "access", access)


def told(site: Site, sections: Sections) -> list[str]:
    found = check_places(site.config({**DATABASE, **sections}), {})
    return [f"{one.level.value} [{one.section}] {one.about}: {one.text}" for one in found]


HUB: Sections = {"hub": {"database": "new/hub.sqlite"}, "mqtt:main": {"topics": "allow all all #", "cn": "id"}}


def hub(site: Site, prepare: Callable[[Path], object]) -> str:
    """What is said of its database. prepare: given the database's path."""
    path = site.folder / "new" / "hub.sqlite"
    prepare(path)
    asks = {"client_certificate": "optional", "client_ca": "ca.crt"}
    (found,) = [one for one in told(site, {**HUB, "mqtt:main": {**HUB["mqtt:main"], **asks}}) if "[hub]" in one]
    return found.replace(f"{site.folder}/", "")


def test_its_folder_is_made_with_it(site: Site) -> None:
    assert hub(site, bool) == "ok [hub] database: new/hub.sqlite: will be made"


@pytest.mark.parametrize("mode", [0o500, 0o600])
def test_a_folder_in_which_nothing_can_be_made(site: Site, mode: int) -> None:
    """Of one that is there, whatever is around it."""
    assert hub(site, lambda path: path.parent.mkdir(mode)) == "FAIL [hub] database: new: nothing can be made there"


def test_what_is_there(site: Site) -> None:
    def make(path: Path) -> None:
        path.parent.mkdir(0o700)
        path.touch(0o600)

    assert hub(site, make) == "ok [hub] database: new/hub.sqlite: can be written to"
    (site.folder / "new" / "hub.sqlite").chmod(0o400)
    assert hub(site, bool) == "FAIL [hub] database: new/hub.sqlite: cannot be written to"


def test_a_password_of_the_broker(site: Site) -> None:
    """In a file of its own it is a secret; what a section of MQTT says of passwords otherwise is a word."""
    secret = site.folder / "broker.password"
    secret.write_text("a secret\n")
    secret.chmod(0o604)
    mqtt = {
        "upstream": "broker.example:1883",
        "tls": "disable",
        "upstream_identity": "gateway",
        "upstream_user": "us",
        "upstream_password_file": "broker.password",
        "password": "ignored",
        "cn": "id",
        "topics": "allow all all #",
        "client_certificate": "optional",
        "client_ca": "ca.crt",
    }
    path = site.write(DATABASE)
    path.chmod(0o644)
    found = [one for one in told(site, {"mqtt:main": mqtt}) if not one.startswith("ok")]
    assert found == [
        f"FAIL [mqtt:main] upstream_password_file: {secret}: everybody on this machine can use it: chmod 600"
    ]
