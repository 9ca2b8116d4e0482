"""`token issue`: what goes into a token, what does not, and that it opens exactly what it says."""

from __future__ import annotations

import errno
import json
import os
import stat
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.token_issuing import KINDS, private_pem, public_pem
from gateway.tokens import TokenVerifier, VerificationKey, certificate_bound, load_public_key
from gateway.upstream import Address
from tests.cli.console import Console
from tests.cli.tokens import claims, configure, issued
from tests.fakes import NOW, Conversation, access, startup
from tests.pki import issue, make_ca, pem

KEY = KINDS["ed25519"]()


@pytest.fixture(autouse=True)
def _key(console: Console) -> None:
    Path("issuer.key").touch(0o600)
    Path("issuer.key").write_bytes(private_pem(KEY, None))
    Path("issuer.pub").write_bytes(public_pem(KEY))


def ignored(console: Console, *options: str) -> str:
    """What stands on standard error, where it worked."""
    result = console.run("token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "1h", *options)
    assert result.exit_code == 0, result.output
    return result.stderr


def wrong(console: Console, *options: str) -> str:
    given = ("--key", "issuer.key", "--sub", "alice", "--ttl", "1h")
    return console.refused("token", "issue", *given, *options, status=2)


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_the_least(console: Console) -> None:
    token = issued(console)
    identity = TokenVerifier([VerificationKey(KEY.public_key())]).verify(token.encode(), claims(token)["iat"])
    assert set(identity.claims) == {"sub", "iat", "exp", "jti"}
    assert jwt.get_unverified_header(token)["kid"] == load_public_key(Path("issuer.pub").read_bytes()).thumbprint


@pytest.mark.parametrize(("ttl", "seconds"), [("30s", 30), ("15m", 900), ("8h", 28_800), ("366d", 31_622_400)])
def test_how_long(console: Console, ttl: str, seconds: int) -> None:
    found = claims(issued(console, ttl=ttl))
    assert found["exp"] - found["iat"] == seconds


@pytest.mark.parametrize("ttl", ["0s", "1", "h", "1.5h", "-1h", "1w", "1h30m", " 1h", "01h", "9999999999s", "\u0663h"])
def test_what_is_no_time(console: Console, ttl: str) -> None:
    text = console.refused("token", "issue", "--key", "issuer.key", "--sub", "a", "--ttl", ttl, status=2)
    assert f"'--ttl': {ttl!r} is not a time such as 30s, 15m, 8h or 7d" in text


@pytest.mark.parametrize("ttl", ["367d", "8785h", "999999999s", "999999999d"])
def test_times_that_are_too_long(console: Console, ttl: str) -> None:
    text = console.refused("token", "issue", "--key", "issuer.key", "--sub", "a", "--ttl", ttl, status=2)
    assert f"'--ttl': {ttl} is more than a year (366d)" in text


def test_everything_that_can_be_said(console: Console) -> None:
    certificate = issue(make_ca(), "alice")
    Path("alice.crt").write_bytes(pem(certificate.certificate, make_ca().certificate))
    options = ["--db", "sales", "--db", "a b", "--cidr", "192.0.2.0/24", "--bind-cert", "alice.crt", "--iss", "me"]
    options += ["--aud", "x", "--aud", "y", "--claim", 'role="reader"', "--claim", 'groups=["a", {"b": 1}]']
    token = issued(console, *options, sub="al ice")
    found = claims(token)
    assert found["securegw"] == {"db": ["sales", "a b"], "cidr": ["192.0.2.0/24"]}
    assert (found["sub"], found["iss"], found["aud"]) == ("al ice", "me", ["x", "y"])
    assert (found["role"], found["groups"]) == ("reader", ["a", {"b": 1}])
    identity = TokenVerifier([VerificationKey(KEY.public_key())]).verify(token.encode(), found["iat"])
    certificate_bound(identity, certificate.certificate.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--cidr", "192.0.2.1/24"], "cidr has an item"),
        (["--cidr", "all"], "cidr has an item"),
        (["--db", ""], "db has a name"),
        (["--db", "n" * 64], "db has a name"),
        (["--claim", "role"], "is not NAME=JSON"),
        (["--claim", '="x"'], "is not NAME=JSON"),
        (["--claim", "role=reader"], "a text needs quotes"),
        (["--claim", "role="], "a text needs quotes"),
        (["--claim", 'role="a", "b": "c"'], "has more than one value"),
        (["--claim", 'role="a", "value": "c"'], "gives a member twice"),
        (["--claim", 'role="a"} {'], "has something behind its JSON"),
        (["--claim", "role=NaN"], "a number that is none"),
        (["--claim", 'role="a"', "--claim", 'role="b"'], "given twice for one claim"),
        (["--claim", 'sub="root"'], "the claim sub cannot be given like this"),
        (["--claim", "securegw={}"], "the claim securegw cannot be given like this"),
        (["--claim", "exp=9999999999"], "the claim exp cannot be given like this"),
        (["--passphrase", "hunter2"], "No such option"),
    ],
)
def test_options_that_are_refused(console: Console, options: list[str], why: str) -> None:
    assert why in wrong(console, *options)


def test_what_has_to_be_said(console: Console) -> None:
    for left in ("--key", "--sub", "--ttl"):
        given = {"--key": "issuer.key", "--sub": "alice", "--ttl": "1h"}
        del given[left]
        options = [part for option in given.items() for part in option]
        assert f"Missing option '{left}'" in console.refused("token", "issue", *options, status=2)


# --- the configuration ------------------------------------------------------------------------------------------------


def test_issuer_and_audience_are_the_configurations(console: Console) -> None:
    configure({"jwt:other": {"public_keys": "issuer.pub", "issuer": "them"}}, issuer="us", audience="db, web")
    found = claims(issued(console))
    assert (found["iss"], found["aud"]) == ("us", "db")
    other = claims(issued(console, "--jwt", "other"))
    assert (other["iss"], "aud" in other) == ("them", False)
    said = claims(issued(console, "--iss", "me", "--aud", "web"))
    assert (said["iss"], said["aud"]) == ("me", "web")


def test_a_token_that_the_gateway_would_refuse_is_told(console: Console) -> None:
    configure(max_lifetime=600)
    assert "max_lifetime is 600 seconds, so the gateway will refuse" in ignored(console)
    configure(max_lifetime=3600)
    assert "Warning" not in ignored(console)
    Path("issuer.pub").write_bytes(public_pem(KINDS["ed25519"]()))
    assert "this key is not one of [jwt:main]" in ignored(console)
    configure(jwks="https://issuer.example/")
    assert "Warning" not in ignored(console)


@pytest.mark.parametrize("way", ["-c", "SECUREGW_CONFIG"])
def test_one_that_was_named_has_to_be_there(console: Console, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Else it would be a token without the issuer that the gateway wants."""
    named = ("-c", "typo.ini") if way == "-c" else ()
    if not named:
        monkeypatch.setenv(way, "typo.ini")
    refused = console.refused(*named, "token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "1h")
    assert refused.startswith("Error: typo.ini: there is no such file")


def test_a_configuration_that_is_meant_has_to_be_there(console: Console) -> None:
    given = ("token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "1h", "--jwt", "other")
    assert "no configuration" in console.refused(*given)
    configure()
    assert "there is no [jwt:other]; it has [jwt:main]" in console.refused(*given)
    configure(leeway="never")
    assert "leeway" in console.refused(*given[:-2])


# --- keys and files ---------------------------------------------------------------------------------------------------


def test_to_a_file(console: Console) -> None:
    assert issued(console, "--out", "alice.token") == ""
    token = Path("alice.token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert claims(token.read_text().removesuffix("\n"))["sub"] == "alice"
    again = ("token", "issue", "--key", "issuer.key", "--sub", "bob", "--ttl", "1h", "--out", "alice.token")
    before = token.read_bytes()
    assert "exists; --force replaces it" in console.refused(*again)
    assert token.read_bytes() == before
    console.ok(*again, "--force")
    assert claims(token.read_text().strip())["sub"] == "bob"


def test_for_programs(console: Console) -> None:
    told = json.loads(issued(console, "--json"))
    found = claims(told["token"])
    assert told == {"token": told["token"], **{name: found[name] for name in ("sub", "jti", "exp")}}
    told = json.loads(issued(console, "--json", "--out", "alice.token"))
    assert (told["file"], "token" in told) == ("alice.token", False)


def test_the_jti_is_told_so_that_it_can_be_revoked(console: Console) -> None:
    result = console.run("token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "1h")
    assert claims(result.stdout.strip())["jti"] in result.stderr
    assert result.stdout.count("\n") == 1


def test_an_encrypted_key(console: Console) -> None:
    Path("issuer.key").write_bytes(private_pem(KEY, b"hunter2"))
    Path("word").write_text("hunter2\n")
    given = ("token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "1h")
    assert console.refused(*given) == "Error: issuer.key: is encrypted: a passphrase is needed: --passphrase-file\n"
    Path("other").write_text("hunter3\n")
    refused = console.refused(*given, "--passphrase-file", "other")
    assert "the passphrase is another" in refused
    assert "hunter" not in refused
    assert claims(console.ok(*given, "--passphrase-file", "word").strip())["sub"] == "alice"
    assert claims(console.ok(*given, "--passphrase-file", "-", stdin="hunter2\n").strip())["sub"] == "alice"


def test_a_key_on_standard_input(console: Console) -> None:
    given = ("token", "issue", "--key", "-", "--sub", "alice", "--ttl", "1h")
    assert console.ok(*given, stdin=private_pem(KEY, None))
    assert "standard input cannot be two files at once" in console.refused(*given, "--passphrase-file", "-", status=2)


def test_files_that_are_no_key_or_certificate(console: Console) -> None:
    Path("junk").write_text("hunter2")
    junk = ("token", "issue", "--sub", "alice", "--ttl", "1h", "--key")
    assert console.refused(*junk, "junk") == "Error: junk: is not a readable PEM private key\n"
    assert "is larger than" in console.refused(*junk, "-", stdin=b"x" * 70_000)
    assert "No such file" in console.refused(*junk, "nowhere")
    assert "junk" in console.refused(*junk, "issuer.key", "--bind-cert", "junk")


def test_a_key_that_others_can_read_is_told(console: Console) -> None:
    assert "Warning" not in ignored(console)
    Path("issuer.key").chmod(0o644)
    assert "issuer.key can be read by others" in ignored(console)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True)])
def test_a_passphrase_that_others_can_read_is_told(console: Console, mode: int, warned: bool) -> None:
    Path("word").write_text("hunter2\n")
    Path("word").chmod(mode)
    Path("issuer.key").write_bytes(private_pem(KEY, b"hunter2"))
    told = ignored(console, "--passphrase-file", "word")
    assert ("Warning: word can be read by others" in told, "hunter2" in told) == (warned, False)


def test_a_full_disk_leaves_no_file(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(Path().iterdir())
    given = ("token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "1h", "--out", "alice.token")
    assert console.refused(*given) == "Error: alice.token: No space left on device; nothing was changed\n"
    assert sorted(Path().iterdir()) == before


# --- the property -----------------------------------------------------------------------------------------------------

DATABASES = ["shop", "Shop", "sales", "a b", "all", "sameuser", "-", 'quo"ted', "ü"]
NETWORKS = ["192.0.2.0/24", "192.0.2.7", "198.51.100.0/25", "0.0.0.0/0", "2001:db8::/32", "::/0", "203.0.113.9/32"]
CLIENTS = ["192.0.2.7", "192.0.2.8", "198.51.100.200", "198.51.100.1", "2001:db8::1", "fe80::1", "::ffff:192.0.2.7", ""]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(DATABASES), max_size=3),
    st.lists(st.sampled_from(NETWORKS), max_size=3),
    st.sampled_from(DATABASES),
    st.sampled_from(CLIENTS),
    st.booleans(),
)
def test_a_token_is_accepted_exactly_where_it_says(
    console: Console, databases: list[str], networks: list[str], database: str, client: str, replication: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.cli.token_issue.time", SimpleNamespace(time=lambda: NOW))
        token = issued(console, *(f"--db={name}" for name in databases), *(f"--cidr={one}" for one in networks))
    here = ip_address(client.removeprefix("::ffff:")) if client else None
    reached = here is not None and any(here in ip_network(one) for one in networks)
    expected = (not databases or (database in databases and not replication)) and (not networks or reached)
    parameters = {b"user": b"alice", b"database": database.encode()}
    start = startup(parameters | ({b"replication": b"database"} if replication else {}))
    verifier = TokenVerifier([VerificationKey(KEY.public_key())])
    where = access("allow all all all replication=yes", verifier=verifier)
    talk = Conversation(where, client=Address(client, 1234 if client else 0)).proven(start, token.encode())
    assert bool(talk.dials) == expected, talk.reason
