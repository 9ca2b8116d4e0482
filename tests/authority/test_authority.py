"""What is signed is in the index, what is revoked is on the list, and nothing is done twice."""

from __future__ import annotations

import re
import shutil
import stat
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.authority import names
from gateway.authority.authority import CRL, Foundation, Made, found, opened
from gateway.authority.errors import AuthorityError
from gateway.authority.index import Record
from gateway.authority.keys import new_key, read_key
from gateway.pem import load_crls
from gateway.serials import serial_text
from tests.authority.authorities import NOW, certificate, client, crl, make, number, server, sign, signing
from tests.pki import issue, make_ca, write_pem

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
FILES = {"ca.crt", "ca.key", "crl.pem", "index.json", ".lock"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "pki")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def records(folder: Path) -> tuple[Record, ...]:
    with opened(folder) as authority:
        return authority.index.records


def revoke(folder: Path, target: str, reason: str = "unspecified", at: timedelta = DAY * 0) -> tuple[Record, ...]:
    with signing(folder) as (authority, issuer):
        return authority.revoke(issuer, authority.named(target), reason, NOW + at)


def renew(folder: Path, name: str, *, days: int | None = None, with_new_key: bool = False, at: timedelta = DAY) -> Made:
    with signing(folder) as (authority, issuer):
        return authority.renew(issuer, name, NOW + at, days, with_new_key=with_new_key)


def issued(folder: Path, at: datetime) -> None:
    """Of the last list, by what somebody has written into the index."""
    with opened(folder) as authority:
        (folder / "index.json").write_bytes(replace(authority.index, issued=at).write())


def listed(folder: Path) -> set[int]:
    """Serial numbers on the list, which the gateway can read."""
    (read,) = load_crls(folder / "crl.pem")
    return {one.serial_number for one in read}


# --- a CA -------------------------------------------------------------------------------------------------------------


def test_a_new_one(folder: Path) -> None:
    assert set(files(folder)) == FILES
    assert {path.name for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o644} == {
        "ca.crt",
        "crl.pem",
    }
    assert records(folder) == ()
    assert (number(folder), listed(folder)) == (1, set())
    assert crl(folder).next_update_utc == NOW + 30 * DAY


def test_another_one_only_in_its_place_by_force(folder: Path) -> None:
    before = files(folder)
    with pytest.raises(AuthorityError, match=r"ca\.crt: exists; --force"):
        make(folder)
    (folder / "ca.crt").unlink()
    with pytest.raises(AuthorityError, match=r"ca\.key: exists; --force"):
        make(folder)
    found(folder, Foundation("Another CA", 10), NOW, None, force=True)
    assert files(folder)["ca.key"] != before["ca.key"]
    # Both have a list by that number otherwise, and readers go by the name of the issuer.
    assert number(folder) == 2


def test_nothing_is_left_of_one_that_could_not_be(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="8 to 1023 bytes"):
        found(tmp_path / "pki", Foundation("Test CA", 10), NOW, b"short")
    assert not (tmp_path / "pki").exists()


def test_a_folder_without_one(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir(mode=0o700)
    with pytest.raises(AuthorityError, match="has no CA in it"), opened(tmp_path / "pki"):
        pytest.fail("there is none")
    make(tmp_path / "pki")


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "index.json"])
@pytest.mark.parametrize("damage", [b"", b"\x00\xff", None, "another"])
def test_a_damaged_one_signs_nothing(folder: Path, tmp_path: Path, name: str, damage: bytes | str | None) -> None:
    """None: the file is not there. `another`: that of another CA."""
    if isinstance(damage, bytes):
        (folder / name).write_bytes(damage)
    elif damage is None:
        (folder / name).unlink()
    else:
        shutil.copy(make(tmp_path / "other") / name, folder / name)
    before = files(folder)
    with pytest.raises((AuthorityError, FileNotFoundError)):
        sign(folder, client())
    assert files(folder) == before


def test_a_certificate_that_is_not_a_cas(folder: Path) -> None:
    leaf = issue(make_ca())
    for other in (leaf, make_ca(issuer=make_ca())):
        write_pem(folder / "ca.crt", other.certificate)
        with pytest.raises(AuthorityError, match="root CA"), opened(folder):
            pytest.fail("it was taken")


def test_an_interrupted_change_is_finished_before_anything_else(folder: Path) -> None:
    made = sign(folder, client())
    (folder / ".ready").mkdir()
    for name in ("index.json", "alice.crt", "alice.key"):
        (folder / name).rename(folder / ".ready" / name)
    assert records(folder) == (made.record,)
    assert set(files(folder)) == FILES | {"alice.crt", "alice.key"}


# --- certificates -----------------------------------------------------------------------------------------------------


def test_what_is_signed_is_in_the_index(folder: Path) -> None:
    made = sign(folder, server("gw.example.com", "*.example.com"))
    signed = certificate(folder, "server")
    assert records(folder) == (made.record,)
    assert made.record == Record(
        signed.serial_number,
        "server",
        "server",
        "gw.example.com",
        ("dns:gw.example.com", "dns:*.example.com"),
        signed.not_valid_before_utc,
        signed.not_valid_after_utc,
        1000,
        "server.crt",
    )
    assert (made.capped, made.with_key) == (False, True)
    assert signed.not_valid_after_utc == NOW + 1000 * DAY
    key = read_key((folder / "server.key").read_bytes(), None, "server.key")
    assert key.public_key() == signed.public_key()
    assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600


def test_a_request_leaves_no_key(folder: Path) -> None:
    public = new_key().public_key()
    with signing(folder) as (authority, issuer):
        made = authority.sign_request(issuer, client(), NOW, public, force=False)
    assert (made.with_key, made.record.requested) == (False, True)
    assert certificate(folder, "alice").public_key() == public
    assert not (folder / "alice.key").exists()


def test_it_ends_with_the_ca(folder: Path) -> None:
    made = sign(folder, client(days=2000))
    assert made.capped
    assert made.record.end == certificate(folder, "ca").not_valid_after_utc
    with pytest.raises(AuthorityError, match="renew it first"):
        sign(folder, client("bob"), now=NOW + 1096 * DAY)


def test_a_name_is_not_used_twice_without_force(folder: Path) -> None:
    first = sign(folder, client()).record
    before = files(folder)
    with pytest.raises(AuthorityError, match=r"alice: has a certificate until 2033-05-05.*renew alice.*--force"):
        sign(folder, client())
    for name in ("alice.crt", "alice.key"):  # their files may have been moved to where they are used
        (folder / name).unlink()
    with pytest.raises(AuthorityError, match="has a certificate until"):
        sign(folder, client())
    assert set(files(folder)) == set(before) - {"alice.crt", "alice.key"}
    second = sign(folder, client(), force=True).record
    assert [(one.serial, one.file) for one in records(folder)] == [(first.serial, None), (second.serial, "alice.crt")]


def test_a_name_is_free_again_once_its_certificate_has_ended_and_its_files_are_gone(folder: Path) -> None:
    sign(folder, client(days=10))
    with pytest.raises(AuthorityError, match=r"alice\.crt: exists"):
        sign(folder, client(), now=NOW + 11 * DAY)
    (folder / "alice.crt").unlink()
    with pytest.raises(AuthorityError, match=r"alice\.key: exists"):
        sign(folder, client(), now=NOW + 11 * DAY)
    (folder / "alice.key").unlink()
    sign(folder, client(), now=NOW + 11 * DAY)


def test_a_dangling_link_is_in_the_way(folder: Path, tmp_path: Path) -> None:
    (folder / "alice.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuthorityError, match=r"alice\.key: exists"):
        sign(folder, client())
    sign(folder, client(), force=True)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_key_is_not_left_beside_a_certificate_that_is_for_another(folder: Path, force: bool) -> None:
    sign(folder, client())
    with signing(folder) as (authority, issuer), pytest.raises(AuthorityError, match="would not be the key of"):
        authority.sign_request(issuer, client(), NOW, new_key().public_key(), force=force)


@pytest.mark.parametrize("name", ["../evil", "ca", "a/b", ""])
def test_no_order_writes_elsewhere(folder: Path, name: str) -> None:
    before = files(folder)
    with pytest.raises(AuthorityError):
        sign(folder, server("a.example", name=name), force=True)
    assert files(folder) == before


def test_what_is_beyond_the_ca_is_not_signed(tmp_path: Path) -> None:
    folder = make(tmp_path / "pki", limits=names.constraints(("example.com",), ()))
    before = files(folder)
    with pytest.raises(AuthorityError, match=r"dns:gw\.example\.org: is not among what this CA is for"):
        sign(folder, server("gw.example.org"))
    assert files(folder) == before
    sign(folder, server("gw.example.com"))


# --- renewal ----------------------------------------------------------------------------------------------------------


def test_a_successor_has_the_same_key_and_names(folder: Path) -> None:
    first = sign(folder, server("gw.example.com", "b.example.com")).record
    before, key = certificate(folder, "server"), (folder / "server.key").read_bytes()
    made = renew(folder, "server")
    after = certificate(folder, "server")
    assert after.serial_number != before.serial_number
    assert (after.public_key(), after.subject) == (before.public_key(), before.subject)
    assert after.not_valid_after_utc == NOW + 1001 * DAY
    assert (folder / "server.key").read_bytes() == key
    assert not made.with_key
    assert made.record.names == first.names
    assert [(one.serial, one.file, one.revoked_at) for one in records(folder)] == [
        (first.serial, None, None),
        (made.record.serial, "server.crt", None),
    ]
    assert listed(folder) == set()


def test_a_successor_with_a_new_key_and_other_dates(folder: Path) -> None:
    sign(folder, client())
    before = (folder / "alice.key").read_bytes()
    made = renew(folder, "alice", days=10, with_new_key=True)
    assert made.with_key
    assert made.record.end == NOW + 11 * DAY
    assert (folder / "alice.key").read_bytes() != before
    key = load_pem_private_key((folder / "alice.key").read_bytes(), None)
    assert key.public_key() == certificate(folder, "alice").public_key()


def test_the_key_need_not_be_here(folder: Path) -> None:
    sign(folder, client())
    (folder / "alice.key").unlink()
    renew(folder, "alice")
    assert not (folder / "alice.key").exists()


def test_what_cannot_be_renewed(folder: Path) -> None:
    with pytest.raises(AuthorityError, match="no certificate of that name"):
        renew(folder, "bob")
    with signing(folder) as (authority, issuer):
        authority.sign_request(issuer, client("carol"), NOW, new_key().public_key(), force=False)
    with pytest.raises(AuthorityError, match="key was made elsewhere"):
        renew(folder, "carol", with_new_key=True)
    sign(folder, client())
    sign(folder, client("dave"))
    shutil.copy(folder / "dave.crt", folder / "alice.crt")
    with pytest.raises(AuthorityError, match="is not the certificate that the index has"):
        renew(folder, "alice")
    write_pem(folder / "alice.crt", issue(make_ca("Test CA"), "alice").certificate)
    with pytest.raises(AuthorityError, match="is not a certificate that this CA has signed"):
        renew(folder, "alice")
    revoke(folder, "dave")
    with pytest.raises(AuthorityError, match="its certificate is revoked"):
        renew(folder, "dave")


def test_the_ca_itself_is_renewed_with_the_same_key(folder: Path) -> None:
    sign(folder, client())
    before, later = certificate(folder, "ca"), NOW + 1000 * DAY
    with signing(folder) as (authority, issuer):
        authority.renew_self(issuer, later, None)
    after = certificate(folder, "ca")
    assert after.not_valid_after_utc == later + 1095 * DAY
    assert (after.public_key(), after.subject) == (before.public_key(), before.subject)
    assert after.serial_number != before.serial_number
    certificate(folder, "alice").verify_directly_issued_by(after)
    assert sign(folder, server("a.example"), now=later).record.end == later + 1000 * DAY


def test_a_renewed_ca_keeps_its_constraints(tmp_path: Path) -> None:
    folder = make(tmp_path / "pki", limits=names.constraints(("example.com",), ()))
    with signing(folder) as (authority, issuer):
        authority.renew_self(issuer, NOW, 10)
    with pytest.raises(AuthorityError, match="is not among what this CA is for"):
        sign(folder, server("gw.example.org"))


# --- revocation -------------------------------------------------------------------------------------------------------


def test_all_certificates_of_a_name_are_taken_back(folder: Path) -> None:
    sign(folder, client())
    other = sign(folder, client("bob")).record
    renew(folder, "alice")
    gone = revoke(folder, "alice", "keyCompromise")
    assert len(gone) == 2
    assert listed(folder) == {one.serial for one in gone}
    assert {(one.name, one.reason) for one in records(folder)} == {("alice", "keyCompromise"), ("bob", None)}
    assert other.serial not in listed(folder)
    assert number(folder) == 2


def test_revoking_again_keeps_what_was_said_first_and_makes_a_new_list(folder: Path) -> None:
    sign(folder, client())
    revoke(folder, "alice", "keyCompromise")
    (folder / "crl.pem").write_bytes(b"damaged")
    assert revoke(folder, "alice", "superseded", DAY) == ()
    (one,) = records(folder)
    assert (one.revoked_at, one.reason) == (NOW, "keyCompromise")
    assert listed(folder) == {one.serial}


@pytest.mark.parametrize("form", ["{}", "0x{}", "0{}"])
def test_one_is_taken_back_by_its_serial_number(folder: Path, form: str) -> None:
    first = sign(folder, client()).record
    renew(folder, "alice")
    (gone,) = revoke(folder, form.format(serial_text(first.serial).upper()))
    assert gone.serial == first.serial
    assert listed(folder) == {first.serial}


def test_a_serial_number_as_openssl_prints_it(folder: Path) -> None:
    serial = f"{sign(folder, client()).record.serial:040X}"
    with opened(folder) as authority:
        assert authority.named(":".join(serial[at : at + 2] for at in range(0, 40, 2)))
        assert authority.named("") == authority.named("0") == authority.named("nobody") == ()


def test_a_name_that_is_another_ones_serial_number(folder: Path) -> None:
    serial = serial_text(sign(folder, client()).record.serial)
    sign(folder, client(serial))
    with opened(folder) as authority, pytest.raises(AuthorityError, match="is the name of one certificate"):
        authority.named(serial)


def test_one_that_the_index_has_lost_is_still_taken_back(folder: Path) -> None:
    backup = (folder / "index.json").read_bytes()
    lost = sign(folder, client()).record
    revoke(folder, "alice")
    pem = (folder / "alice.crt").read_bytes()
    (folder / "index.json").write_bytes(backup)
    with signing(folder) as (authority, issuer):
        (gone,) = authority.revoke(issuer, [authority.known(pem, "alice.crt")], "keyCompromise", NOW)
    assert (gone.serial, gone.kind, gone.subject) == (lost.serial, "client", names.key_shown("alice"))
    assert listed(folder) == {lost.serial}
    assert number(folder) == 3  # and not 2 for the second time
    with opened(folder) as authority:
        assert authority.known(pem, "alice.crt").serial == lost.serial


def test_nobody_elses_certificate_is_taken_back(folder: Path) -> None:
    other = write_pem(folder.with_name("other.crt"), issue(make_ca("Test CA"), "alice").certificate)
    for content in (other.read_bytes(), b"", b"\x00"):
        with opened(folder) as authority, pytest.raises(AuthorityError, match="is not a certificate that this CA"):
            authority.known(content, "other.crt")


def test_who_has_ended_is_on_one_list_more(folder: Path) -> None:
    serial = sign(folder, client(days=10)).record.serial
    revoke(folder, "alice")
    for at, on_it in ((9, True), (11, True), (12, False)):
        with signing(folder) as (authority, issuer):
            authority.publish(issuer, NOW + at * DAY, None)
        assert (serial in listed(folder)) is on_it


def test_how_long_a_list_is_good_is_remembered(folder: Path) -> None:
    with signing(folder) as (authority, issuer):
        authority.publish(issuer, NOW, 7)
    assert crl(folder).next_update_utc == NOW + 7 * DAY
    sign(folder, client())
    revoke(folder, "alice", at=DAY)
    assert crl(folder).next_update_utc == NOW + 8 * DAY
    assert number(folder) == 3


def test_the_key_of_a_thing_is_not_in_the_index(folder: Path) -> None:
    order = client("boiler")
    key = "the-secret-key-of-a-boiler"
    sign(folder, type(order)("boiler", "thing", names.key_subject(key), names.key_shown(key), (), 730))
    renew(folder, "boiler")
    revoke(folder, "boiler")
    content = files(folder)
    assert [name for name, data in content.items() if key.encode() in data] == []
    subject = certificate(folder, "boiler").subject
    assert subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == key
    assert stat.S_IMODE((folder / "boiler.crt").stat().st_mode) == 0o600


def test_a_clock_that_was_once_ahead_forgets_nobody(folder: Path) -> None:
    serial = sign(folder, client()).record.serial
    revoke(folder, "alice")
    for at in (900, 901):
        with signing(folder) as (authority, issuer):
            authority.publish(issuer, NOW + at * DAY, None)
    # By that clock the certificate has ended, so the second of these lists is without it; and then the clock is right.
    assert serial not in listed(folder)
    issued(folder, NOW + 2 * DAY)
    with signing(folder) as (authority, issuer):
        authority.publish(issuer, NOW + 2 * DAY, None)
    assert serial in listed(folder)


def test_one_that_has_ended_by_one_clock_is_on_the_list(folder: Path) -> None:
    serial = sign(folder, client(days=10)).record.serial
    revoke(folder, "alice")
    issued(folder, NOW + 900 * DAY)
    with signing(folder) as (authority, issuer):
        authority.publish(issuer, NOW + 900 * DAY - 5 * MINUTE, None)
    assert serial not in listed(folder)
    issued(folder, NOW + 5 * MINUTE + 10 * DAY)
    with signing(folder) as (authority, issuer):
        authority.publish(issuer, NOW + 10 * DAY, None)
    assert serial in listed(folder)


def test_no_list_is_made_before_the_last_one(folder: Path) -> None:
    sign(folder, client())
    with signing(folder) as (authority, issuer):
        authority.publish(issuer, NOW - 5 * MINUTE, None)
    issued(folder, NOW)
    before = files(folder)
    early = NOW - 6 * MINUTE
    words = (
        f"the last {CRL} is of 2031-05-06 07:08 UTC, and by the clock it is 2031-05-06 07:02 UTC now. If the clock was "
        f'wrong then and is right now, write "issued": "2031-05-06T07:02:09Z" into {folder / "index.json"}'
    )
    with signing(folder) as (authority, issuer):
        with pytest.raises(AuthorityError, match=re.escape(words)):
            authority.publish(issuer, early, None)
        with pytest.raises(AuthorityError, match=re.escape(words)):
            authority.revoke(issuer, authority.named("alice"), "unspecified", early)
    assert files(folder) == before
