"""Revocation lists of other authorities, and authorities that are none."""

from __future__ import annotations

import pytest

from gateway.inspection.findings import Level
from gateway.inspection.lists import check_lists
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.pki import CLIENT, Issued, issue, make_ca, make_crl, write_pem

LISTENER = {**DATABASE["postgres:main"], "client_certificate": "required", "client_ca": "ca.crt"}
OTHER = make_ca("Other CA")


def told(site: Site, sections: Sections) -> list[str]:
    return [
        f"{one.level.value} [{one.section}] {one.about}: {one.text.removeprefix(f'{site.folder}/')}"
        for one in check_lists(site.config({**DATABASE, **sections}))
        if one.level is not Level.OK
    ]


def with_lists(site: Site, *lists: Issued) -> list[str]:
    write_pem(site.folder / "crl.pem", *map(make_crl, lists))
    return told(site, {"postgres:main": {**LISTENER, "client_crl": "crl.pem"}})


def test_its_own(site: Site) -> None:
    assert with_lists(site, site.ca) == []
    found = list(check_lists(site.config({**DATABASE, "postgres:main": {**LISTENER, "client_crl": "crl.pem"}})))
    assert [one.level for one in found] == [Level.OK]


WITHOUT = "client_crl: is not given: a certificate that is revoked still gets in"


def test_clients_that_cannot_be_revoked(site: Site) -> None:
    """Told where the authority stands, once; but each of those that have no list which others have."""
    assert told(site, {"postgres:main": LISTENER}) == [f"warn [postgres:main] {WITHOUT}"]
    write_pem(site.folder / "crl.pem", make_crl(site.ca))
    clients = {"client_certificate": "optional", "client_ca": "ca.crt"}
    tls = {"certificate": "server.crt", "key": "server.key", **clients}
    more: Sections = {
        "postgres:main": {**DATABASE["postgres:main"], "client_certificate": "none"},
        "https:a": {"client_crl": "crl.pem", "listen": "127.0.0.1:1"},
        "https:b": {"listen": "127.0.0.1:2"},
        "https:c": {"listen": "127.0.0.1:3"},
    }
    words = "is not given, though [https:a], which believes the same authority, has one"
    assert told(site, {"tls": tls, **more}) == [
        f"warn [{section}] client_crl: {words}: a certificate that is revoked there still gets in here"
        for section in ("https:b", "https:c")
    ]
    del more["https:b"], more["https:c"]
    assert told(site, {"tls": tls, **more}) == []
    more = {"https:a": {"listen": "127.0.0.1:1"}, "https:b": {"listen": "127.0.0.1:2"}}
    assert told(site, {"tls": tls, "postgres:main": DATABASE["postgres:main"], **more}) == [f"warn [tls] {WITHOUT}"]


@pytest.mark.parametrize("same", [True, False])
def test_a_list_of_half_of_them(site: Site, same: bool) -> None:
    """It is the authority that counts, not the file that it is in, nor what else is there."""
    write_pem(site.folder / "crl.pem", make_crl(site.ca))
    write_pem(site.folder / "more.crt", OTHER.certificate, *([site.ca.certificate] if same else []))
    web = {"listen": "127.0.0.1:1", "client_certificate": "optional", "client_ca": "more.crt"}
    (found,) = told(site, {"postgres:main": {**LISTENER, "client_crl": "crl.pem"}, "https:a": web})
    assert found.startswith("warn [https:a] client_crl: is not given")
    assert ("though [postgres:main]" in found) == same


def test_authorities_that_cannot_be_read(site: Site) -> None:
    config = site.config({**DATABASE, "postgres:main": LISTENER})
    (site.folder / "ca.crt").unlink()
    assert [(one.section, one.about) for one in check_lists(config)] == [("postgres:main", "client_crl")]


def test_of_another_with_the_same_name(site: Site) -> None:
    """OpenSSL finds it by its name, and then lets nobody in."""
    place = "FAIL [postgres:main] client_crl: crl.pem"
    assert with_lists(site, make_ca()) == [
        f"{place}: the CRL of CN=Test CA is of another authority with the same name: nobody is let in by it",
        f"{place}: has no CRL of CN=Test CA, so whomever that vouches for is refused",
    ]


def test_of_an_authority_that_is_not_there(site: Site) -> None:
    """It may be that of one that clients send along."""
    words = "counts only for those who send its certificate along: it is none of the authorities"
    (found,) = with_lists(site, site.ca, OTHER)
    assert found == f"warn [postgres:main] client_crl: crl.pem: the CRL of CN=Other CA {words}"


@pytest.mark.parametrize("number", [1, 2])
def test_authorities_without_one(site: Site, number: int) -> None:
    third = make_ca("Third CA")
    write_pem(site.folder / "ca.crt", site.ca.certificate, OTHER.certificate, third.certificate)
    found = with_lists(site, *[site.ca, OTHER][:number])
    assert len(found) == 3 - number
    assert found[-1] == (
        "warn [postgres:main] client_crl: crl.pem: has no CRL of CN=Third CA, so whomever that vouches for is refused"
    )


def test_of_a_server(site: Site) -> None:
    write_pem(site.folder / "crl.pem", make_crl(make_ca()))
    upstream = {"hosts": "db.example", "root_certificate": "ca.crt", "crl": "crl.pem"}
    assert [one.partition(":")[0] for one in told(site, {"upstream:main": upstream})] == ["FAIL [upstream"] * 2


def test_authorities_that_are_none(site: Site) -> None:
    leaf = issue(site.ca, "leaf", eku=[CLIENT])
    write_pem(site.folder / "ca.crt", leaf.certificate, site.ca.certificate, OTHER.certificate)
    tunnel = {"mode": "server", "listen": "127.0.0.1:7000", "upstream": "127.0.0.1:7001", "rules": "\nallow all all"}
    clients = {"client_certificate": "required", "client_ca": "ca.crt"}
    found = told(site, {"postgres:main": LISTENER, "tunnel:main": {**tunnel, **clients}})
    assert [one for one in found if "client_ca" in one] == [
        f"warn [{section}] client_ca: ca.crt: CN=leaf is no authority (basicConstraints), so it vouches for nobody"
        for section in ("postgres:main", "tunnel:main")
    ]
