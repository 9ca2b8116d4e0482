"""`securegw pki list`, `revoke`, `crl` and `renew`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.cli import pki_in_force, pki_records
from gateway.cli.main import NAME, securegw
from gateway.cli.running import TakenUp
from gateway.cli.settings import Installation
from gateway.serials import serial_text
from tests.cli.pki_console import PKI
from tests.gateways import ini
from tests.pki import issue, make_ca, write_pem


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PKI:
    monkeypatch.chdir(tmp_path)
    made = PKI(tmp_path)
    made.ok("ca")
    made.ok("client", "alice")
    return made


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[Installation]:
    """Each time that the running gateway is told to."""
    told: list[Installation] = []

    def take_up(installation: Installation) -> TakenUp:
        told.append(installation)
        return TakenUp(True, "The running gateway was reloaded.")

    for module in (pki_records, pki_in_force):
        monkeypatch.setattr(module, "take_up", take_up)
    return told


def serials(pki: PKI) -> list[str]:
    crl = x509.load_pem_x509_crl((pki.folder / "crl.pem").read_bytes())
    return [serial_text(one.serial_number) for one in crl]


def state(pki: PKI, name: str) -> str:
    (found,) = (one["state"] for one in pki.json("list") if one["name"] == name)
    return str(found)


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    then = datetime.now(UTC) + timedelta(days=days)
    monkeypatch.setattr(pki_records, "now", lambda: then)


# --- revocation -------------------------------------------------------------------------------------------------------


def test_by_name(pki: PKI, reloads: list[Installation]) -> None:
    result = pki.run("revoke", "alice", "--reason", "KEYCOMPROMISE")
    assert "alice (alice), serial number" in result.stdout
    assert result.stdout.endswith(", is on the list of revoked certificates.\n")
    assert result.stderr == "The running gateway was reloaded.\n"
    assert len(serials(pki)) == len(reloads) == 1
    assert state(pki, "alice") == "revoked (keyCompromise)"


def test_reasons_are_shown_as_they_are_spelt(pki: PKI) -> None:
    assert "'keyCompromise'" in pki.refused("revoke", "alice", "--reason", "nonsense", status=2)


def test_again(pki: PKI, reloads: list[Installation]) -> None:
    pki.ok("revoke", "alice", "--reason", "superseded")
    before = serials(pki)
    assert "was revoked before (superseded)" in pki.ok("revoke", "alice")
    (one,) = pki.json("revoke", "alice")
    assert (one["reason"], one["new"]) == ("superseded", False)
    assert serials(pki) == before
    # The gateway may have missed the first time.
    assert len(reloads) == 3


def test_by_serial_number_and_by_file(pki: PKI) -> None:
    pki.ok("client", "bob")
    known = {one["name"]: one["serial"] for one in pki.json("list")}
    pki.ok("revoke", known["alice"])
    assert serials(pki) == [known["alice"]]
    (pki.folder / "bob.crt").rename(pki.here / "found.crt")
    pki.ok("revoke", "found.crt")
    assert sorted(serials(pki)) == sorted([known["alice"], known["bob"]])


def test_a_renewed_one_goes_with_its_name(pki: PKI) -> None:
    pki.ok("renew", "alice")
    assert len(pki.json("revoke", "alice")) == 2
    assert len(serials(pki)) == 2


@pytest.mark.parametrize("target", ["bob", "0", "", "ff", "../alice", "none.crt", "a" * 200, "\x1b[2J"])
def test_nobody(pki: PKI, reloads: list[Installation], target: str) -> None:
    said = pki.refused("revoke", target)
    assert "is neither the name nor the serial number" in said
    assert "\x1b" not in said
    assert not reloads


def test_a_file_of_another_authority(pki: PKI, reloads: list[Installation]) -> None:
    write_pem(pki.here / "other.crt", issue(make_ca("securegw CA"), "alice").certificate)
    for name in ("other.crt", pki.write("empty", ""), pki.write("large", "x" * 100_000)):
        pki.refused("revoke", name)
    assert not reloads


def test_without_a_configuration_it_says_what_is_left_to_do(pki: PKI) -> None:
    assert "put the new file in its place, and reload it" in pki.run("revoke", "alice").stderr


def configured(
    pki: PKI, client_crl: str = "", crl: str = "", client_ca: str = "pki/ca.crt", more: str = "", root: str = ""
) -> str:
    """gw.ini, whose listener reads that list of revoked certificates. more: the same of [mqtt:main], which has a
    client_ca of its own then. root: the upstream's authority."""
    pki.ok("server", "--dns", "localhost", "--force")
    upstream = {"hosts": "db.example", "tls": "verify-full"}
    upstream |= {"root_certificate": root or "pki/ca.crt"} if root or crl else {}
    upstream |= {"crl": crl} if crl else {}
    clients = {"client_certificate": "required", "client_ca": client_ca}
    sections = {
        "tls": {"certificate": "pki/server.crt", "key": "pki/server.key"},
        "upstream:main": upstream,
        "jwt:main": {"public_keys": "jwt.pub"},
        "postgres:main": clients | ({"client_crl": client_crl} if client_crl else {}),
    }
    if more:
        sections |= {"registry": {"database": "registry.sqlite"}, "hub": {"database": "memory"}}
        sections["mqtt:main"] = {"listen": "127.0.0.1:1", "rules": "allow all all", **clients}
        sections["mqtt:main"] |= {"client_crl": more} if more != "none" else {}
    public = Ed25519PrivateKey.generate().public_key()
    pki.write("jwt.pub", public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return pki.write("gw.ini", ini(sections))


def unread(pki: PKI, section: str, words: str) -> str:
    """What is told of that place."""
    return f"{pki.here / 'gw.ini'}: [{section}] {words}, and the gateway is reloaded.\n"


def test_a_gateway_that_reads_another_list(pki: PKI, reloads: list[Installation]) -> None:
    """What is let in is not revoked, and nobody shall believe that it is."""
    pki.write("things.crl", (pki.folder / "crl.pem").read_bytes())
    configured(pki, "things.crl")
    words = f"client_crl is {pki.here / 'things.crl'}: nothing is revoked there until that has what is in "
    told = unread(pki, "postgres:main", f"{words}{pki.folder / 'crl.pem'}")
    result = pki.run("revoke", "alice")
    assert (result.exit_code, result.stderr) == (1, f"Error: what was changed is written, but not in force.\n{told}")
    assert "alice (alice), serial number" in result.stdout
    assert "from now on" not in result.stdout
    found = pki.run("revoke", "alice", "--json")
    assert (found.exit_code, json.loads(found.stdout)[0]["reloaded"]) == (1, None)
    # Nothing more is taken back by it than by the list before, which lets nobody in once it is stale.
    result = pki.run("crl")
    assert (result.exit_code, result.stderr) == (0, f"Warning: {told}")
    assert not reloads


def test_a_gateway_that_reads_no_list(pki: PKI, reloads: list[Installation]) -> None:
    configured(pki)
    words = f"has no client_crl: nothing is revoked there until it has client_crl = {pki.folder / 'crl.pem'}"
    result = pki.run("revoke", "alice")
    assert result.exit_code == 1
    assert result.stderr.endswith(unread(pki, "postgres:main", words))
    assert not reloads


def test_another_authority_has_another_list(pki: PKI, reloads: list[Installation]) -> None:
    pki.ok("ca", "--dir", "others")
    configured(pki, client_ca="others/ca.crt")
    result = pki.run("revoke", "alice")
    assert (result.exit_code, "is verified by this CA" in result.stderr) == (0, True)
    # Its own is meant, though it has been renewed since, and stands behind another.
    bundle = (pki.here / "others/ca.crt").read_bytes() + (pki.folder / "ca.crt").read_bytes()
    pki.write("both.crt", bundle)
    pki.ok("renew", "ca")
    configured(pki, client_ca="both.crt")
    assert pki.run("revoke", "alice").exit_code == 1
    assert len(reloads) == 1  # by `renew`


def test_each_place_has_to_read_it(pki: PKI, reloads: list[Installation]) -> None:
    configured(pki, "pki/crl.pem", more="none")
    result = pki.run("revoke", "alice")
    assert (result.exit_code, len(reloads)) == (1, 1)
    assert "[mqtt:main] has no client_crl: nothing is revoked there" in result.stderr
    assert "[postgres:main]" not in result.stderr
    configured(pki, "pki/crl.pem", more="pki/crl.pem")
    assert pki.ok("revoke", "alice").endswith("\nThe certificate is refused from now on.\n")


def test_an_upstream_that_is_believed(pki: PKI, reloads: list[Installation]) -> None:
    configured(pki, "pki/crl.pem", root="pki/ca.crt")
    pki.ok("revoke", "alice")
    result = pki.run("revoke", "server")
    assert result.exit_code == 1
    assert "[upstream:main] has no crl: nothing is revoked there until it has crl = " in result.stderr
    configured(pki, crl="pki/crl.pem")
    assert pki.ok("revoke", "server").endswith("\nThe certificates are refused from now on.\n")
    assert len(reloads) == 3


def test_a_gateway_that_reads_this_one(pki: PKI, reloads: list[Installation]) -> None:
    (pki.here / "linked.pem").symlink_to(pki.folder / "crl.pem")
    for client_crl in ("pki/crl.pem", "linked.pem"):
        configured(pki, client_crl)
        result = pki.run("revoke", "alice")
        assert result.stderr == "The running gateway was reloaded.\n"
        assert result.stdout.endswith("\nThe certificate is refused from now on.\n")
        assert pki.run("crl").stderr == "The running gateway was reloaded.\n"
        # Who goes to that server has to know of it, too.
        assert "from now on" not in pki.ok("revoke", "server")
    assert len(reloads) == 6


def test_a_list_that_is_read_for_servers_alone(pki: PKI, reloads: list[Installation]) -> None:
    pki.write("things.crl", (pki.folder / "crl.pem").read_bytes())
    configured(pki, "things.crl", "pki/crl.pem")
    assert "[postgres:main] client_crl is " in pki.run("revoke", "alice").stderr
    assert not reloads
    assert pki.run("revoke", "server").stderr == "The running gateway was reloaded.\n"
    warning, told = pki.run("crl").stderr.splitlines()
    assert warning.startswith("Warning: ")
    assert told == "The running gateway was reloaded."


def test_a_configuration_that_cannot_be_used_is_told_by_the_reload(pki: PKI) -> None:
    pki.write("gw.ini", "[contrl]\n")
    result = pki.run("revoke", "alice")
    assert "it was not asked to" in result.stderr
    assert (result.exit_code, len(serials(pki))) == (1, 1)


def test_a_configuration_that_only_the_gateway_can_use(pki: PKI, reloads: list[Installation]) -> None:
    """It has a variable that whoever revokes has not: what it reads is not known here, though it is reloaded."""
    configured(pki)
    with (pki.here / "gw.ini").open("a") as file:
        file.write("[upstream:other]\nhosts = ${NO_SUCH_VARIABLE}\n")
    result = pki.run("revoke", "alice")
    assert (result.exit_code, len(reloads), "from now on" in result.stdout) == (1, 1, False)
    assert (
        "but not in force.\nthe configuration cannot be used here, so nobody knows whether the gateway" in result.stderr
    )
    assert f"reads {pki.folder / 'crl.pem'}: [upstream:other] hosts: " in result.stderr
    result = pki.run("crl")
    assert (result.exit_code, "Warning: the configuration cannot be used here" in result.stderr) == (0, True)


def test_a_listener_that_only_the_gateway_can_use(pki: PKI) -> None:
    """Beside a registry it is not as if nothing listened."""
    listener = "[postgres:main]\nlisten = ${NO_SUCH_VARIABLE}\nrules = allow all all all\n"
    pki.write("gw.ini", f"[registry]\ndatabase = things.sqlite\n{listener}")
    result = pki.run("revoke", "alice")
    assert (result.exit_code, "[postgres:main] listen: " in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("content", "why"),
    [("-----BEGIN CERTIFICATE-----\n", "is not a readable PEM certificate"), (None, "No such file or directory")],
)
def test_an_authority_that_cannot_be_read_may_be_this_one(
    pki: PKI, reloads: list[Installation], content: str | None, why: str
) -> None:
    if content is not None:
        pki.write("unreadable.crt", content)
    configured(pki, client_ca="unreadable.crt")
    result = pki.run("revoke", "alice")
    assert (result.exit_code, "from now on" in result.stdout) == (1, False)
    assert "[postgres:main] has no client_crl: nothing is revoked there until it has client_crl = " in result.stderr
    assert f"{pki.here / 'unreadable.crt'}: {why}, so it may be this CA: " in result.stderr
    assert not reloads
    configured(pki, "pki/crl.pem", client_ca="unreadable.crt")
    assert pki.ok("revoke", "alice").endswith("\nThe certificate is refused from now on.\n")


LISTLESS = [
    "[jwt:other]\njwks = https://issuer.example/keys\njwks_root_certificate = pki/ca.crt\n",
    "[registry]\ndatabase = postgresql://gw@db.example/gw\ntls = verify-full\nroot_certificate = pki/ca.crt\n",
]


@pytest.mark.parametrize("listless", LISTLESS)
@pytest.mark.parametrize("crl", ["", "pki/crl.pem"])
def test_who_goes_by_no_list_believes_a_server_that_is_revoked(
    pki: PKI, reloads: list[Installation], crl: str, listless: str
) -> None:
    configured(pki, "pki/crl.pem", crl)
    with (pki.here / "gw.ini").open("a") as file:
        file.write(listless)
    (pki.here / "gw.ini").chmod(0o600)
    section = listless.partition("\n")[0]
    told = f"{section} has no list of revoked certificates: it goes on believing this one until its authority there"
    result = pki.run("revoke", "server")
    assert (result.exit_code, len(reloads), "from now on" in result.stdout) == (1, 1, False)
    assert f"{pki.here / 'gw.ini'}: {told} is another\n" in result.stderr
    assert "nothing is revoked there until" not in result.stderr
    # Clients do not go there, and a new list says nothing of any one certificate.
    for arguments in (("revoke", "alice"), ("crl",)):
        result = pki.run(*arguments)
        assert (result.exit_code, result.stderr) == (0, "The running gateway was reloaded.\n")


def test_where_nothing_goes_by_any_list(pki: PKI, reloads: list[Installation]) -> None:
    pki.ok("ca", "--dir", "others")
    configured(pki, client_ca="others/ca.crt")
    with (pki.here / "gw.ini").open("a") as file:
        file.write(LISTLESS[0])
    result = pki.run("revoke", "server")
    assert (result.exit_code, "[jwt:other] has no list of" in result.stderr) == (1, True)
    result = pki.run("crl")
    assert (result.exit_code, "goes by a list of this CA: bring " in result.stderr) == (0, True)
    assert not reloads


def test_where_nobody_is_asked_for_a_certificate_nobody_is_let_in_by_one(pki: PKI, reloads: list[Installation]) -> None:
    """What all listeners share need not be for each."""
    configured(pki, "pki/crl.pem", more="none")
    shared = "client_certificate = required\nclient_ca = pki/ca.crt\n"
    head, mqtt, tail = (pki.here / "gw.ini").read_text().partition("[mqtt:main]\n")
    text = head.replace("[tls]\n", f"[tls]\n{shared}") + mqtt + tail.replace(shared, "client_certificate = none\n")
    pki.write("gw.ini", text)
    assert pki.ok("revoke", "alice").endswith("\nThe certificate is refused from now on.\n")
    pki.write("gw.ini", text.replace("client_certificate = none", "client_certificate = optional"))
    assert (pki.run("revoke", "alice").exit_code, len(reloads)) == (1, 2)


def test_where_nobody_answers_nobody_knows(pki: PKI) -> None:
    """It may have been started before the socket was written, and go on."""
    configured(pki, "pki/crl.pem")
    with (pki.here / "gw.ini").open("a") as file:
        file.write("[control]\nsocket = c.sock\n")
    for arguments in (("revoke", "alice"), ("crl",)):
        result = pki.run(*arguments)
        assert (result.exit_code, bool(result.stdout)) == (1, True)
        assert "from now on" not in result.stdout
        assert "c.sock: nobody answers there; is the gateway running" in result.stderr
        assert "If it was started before [control] socket was written, restart it. If none runs, " in result.stderr
    # What is renewed lets nobody in who should not get in.
    assert pki.run("renew", "server").exit_code == 0


def test_without_a_socket_it_is_left_to_the_person(pki: PKI) -> None:
    """Nor does a gateway run with a registry alone, as whoever writes it has it."""
    configured(pki, "pki/crl.pem")
    for told in ("[control] socket is not given", "has no listener, only a [registry]"):
        result = pki.run("revoke", "alice")
        assert (result.exit_code, told in result.stderr, "from now on" in result.stdout) == (0, True, False)
        pki.write("gw.ini", "[registry]\ndatabase = things.sqlite\n")


@pytest.mark.parametrize(
    "arguments", [("revoke", "alice"), ("crl",), ("renew", "alice"), ("renew", "alice", "--new-key"), ("renew", "ca")]
)
@pytest.mark.parametrize(("reloaded", "status"), [(True, 0), (None, 0), (False, 1)])
def test_whether_it_is_in_force(
    pki: PKI, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reloaded: bool | None, status: int
) -> None:
    for module in (pki_records, pki_in_force):
        monkeypatch.setattr(module, "take_up", lambda _: TakenUp(reloaded, "Such words."))
    before = pki.files()
    result = pki.run(*arguments)
    assert (result.exit_code, bool(result.stdout)) == (status, True)
    wrong = "Error: what was changed is written, but not in force. Such words.\n"
    assert result.stderr.endswith(wrong if status else "Such words.\n")
    assert pki.files() != before
    found = json.loads(pki.run(*arguments, "--json").stdout)
    assert (found[0] if isinstance(found, list) else found)["reloaded"] is reloaded


# --- the list of revoked certificates ---------------------------------------------------------------------------------


def test_a_new_list(pki: PKI, reloads: list[Installation]) -> None:
    made = pki.json("crl", "--days", "7")
    assert (made["crl"], made["number"]) == ("pki/crl.pem", 2)
    left = datetime.fromisoformat(made["next_update"]) - datetime.now(UTC)
    assert timedelta(days=6.9) < left < timedelta(days=7)
    assert "number      3" in pki.ok("crl")
    assert len(reloads) == 2


def test_a_list_that_is_nearly_stale_is_told(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pki.run("list").stderr == ""
    later(monkeypatch, 24)
    assert "crl.pem has to be made anew before" in pki.run("list").stderr
    later(monkeypatch, 31)
    assert "crl.pem is stale since" in pki.run("list").stderr


# --- what exists ------------------------------------------------------------------------------------------------------


def test_states(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    pki.ok("client", "bob", "--days", "40")
    pki.ok("client", "carol")
    pki.ok("revoke", "carol")
    assert [state(pki, name) for name in ("ca", "alice", "bob", "carol")] == [
        "good",
        "good",
        "good",
        "revoked (unspecified)",
    ]
    later(monkeypatch, 20)
    assert state(pki, "bob") == "good for 19 days more"
    later(monkeypatch, 41)
    assert state(pki, "bob") == "ended"
    pki.ok("renew", "alice")
    assert [one["state"] for one in pki.json("list") if one["name"] == "alice"] == ["replaced, still good", "good"]


def test_those_that_end_soon(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, days in (("soon", 5), ("renewed", 5), ("gone", 5), ("later", 50)):
        pki.ok("client", name, "--days", str(days))
    pki.ok("renew", "renewed", "--days", "100")
    pki.ok("revoke", "gone")
    assert [one["name"] for one in pki.json("list", "--expiring", "30")] == ["soon"]
    assert pki.json("list", "--expiring", "2") == []
    assert [one["name"] for one in pki.json("list", "--expiring", "2000")] == [
        "ca",
        "alice",
        "soon",
        "later",
        "renewed",
    ]
    later(monkeypatch, 10)
    assert [one["name"] for one in pki.json("list", "--expiring", "0")] == ["soon"]


def test_for_people(pki: PKI) -> None:
    heading, ca, alice = pki.ok("list").splitlines()
    assert heading.split() == ["NAME", "KIND", "FOR", "UNTIL", "(UTC)", "STATE", "SERIAL"]
    assert ca.startswith("ca     ca      securegw CA  ")
    assert alice.startswith("alice  client  alice  ")


# --- renewal ----------------------------------------------------------------------------------------------------------


def test_a_successor(pki: PKI, reloads: list[Installation]) -> None:
    before, key = ((pki.folder / name).read_bytes() for name in ("alice.crt", "alice.key"))
    result = pki.run("renew", "alice")
    assert result.exit_code == 0
    assert "The certificate before it is not revoked: it stays good until its end." in result.stderr
    assert (pki.folder / "alice.crt").read_bytes() != before
    assert (pki.folder / "alice.key").read_bytes() == key
    assert pki.json("renew", "alice", "--new-key", "--days", "9")["days"] == 9
    assert (pki.folder / "alice.key").read_bytes() != key
    assert len(reloads) == 2
    assert serials(pki) == []


def test_the_ca(pki: PKI, reloads: list[Installation]) -> None:
    assert pki.json("renew", "ca", "--days", "4000")["certificate"] == "pki/ca.crt"
    result = pki.run("renew", "ca")
    assert "pki/ca.crt" in result.stdout
    assert "Give the new ca.crt to every client and every server that verifies" in result.stderr
    pki.ok("client", "bob", "--days", "1000")
    assert len(reloads) == 2


@pytest.mark.parametrize("name", ["bob", "../alice", "", "alice.crt"])
def test_what_cannot_be_renewed(pki: PKI, reloads: list[Installation], name: str) -> None:
    pki.refused("renew", name)
    (pki.folder / "alice.crt").unlink()
    assert "alice.crt: No such file" in pki.refused("renew", "alice")
    pki.ok("revoke", "alice")
    assert "its certificate is revoked" in pki.refused("renew", "alice")
    assert len(reloads) == 1


@pytest.mark.parametrize("command", [("revoke", "alice"), ("crl",), ("renew", "alice"), ("renew", "ca")])
def test_a_configuration_that_is_not_there_is_told_before_anything_is_changed(
    pki: PKI, reloads: list[Installation], command: tuple[str, ...]
) -> None:
    """The gateway would never hear of it."""
    before = {path: path.read_bytes() for path in pki.folder.iterdir()}
    for arguments, environ in ((["-c", "typo.ini"], {}), ([], {"SECUREGW_CONFIG": "typo.ini"})):
        result = CliRunner(env=environ).invoke(securegw, [*arguments, "pki", *command], prog_name=NAME)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "Error: typo.ini: there is no such file" in result.stderr
    assert {path: path.read_bytes() for path in pki.folder.iterdir()} == before
    assert reloads == []
