"""Who is told of an end that comes near: of which files, how often, and never too early."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from gateway.inspection.expiry import Expiry, ExpiryWatch, expiries, left
from tests.inspection.site import DATABASE, Site
from tests.pki import issue, make_ca, make_crl, write_pem

NOW = datetime(2031, 1, 1, tzinfo=UTC)
DAY = 86_400.0


def expiry(life: float, days: float) -> Expiry:
    until = NOW + timedelta(days=days)
    return Expiry("tls", "certificate", Path("server.crt"), "it", until - timedelta(days=life), until)


@pytest.mark.parametrize(
    ("life", "days", "due"),
    [
        (365, 40, None),
        (365, 30, 30),
        (365, 8, 30),
        (365, 7, 7),
        (365, 1, 1),
        (365, 0.1, 1),
        (365, 0, 0),
        (365, -9, 0),
        (90, 30, 30),
        # An authority's 90 days may be a second less (RFC 5280, 4.1.2.5: notAfter is the last one in which it counts).
        (90 - 1 / 86_400, 30, 30),
        (89, 30, None),
        (89, 7, 7),
        (20, 7, None),
        (2, 1, None),
        # What lasts for a month is renewed in the last days of it.
        (30, 29, None),
        (30, 7, 7),
        (7, 6, None),
        (7, 1, 1),
        (1, 0.5, None),
        (1, -0.1, 0),
    ],
)
def test_when_somebody_is_told(life: float, days: float, due: int | None) -> None:
    assert expiry(life, days).due(NOW) == due


@pytest.mark.parametrize(
    ("days", "words"),
    [(9.5, "ends in 9 days"), (1.5, "ends in 1 day"), (0.5, "ends within a day"), (0, "is over")],
)
def test_in_words(days: float, words: str) -> None:
    assert left(expiry(365, days), NOW) == words


# --- which files ------------------------------------------------------------------------------------------------------


def test_every_file_once(site: Site) -> None:
    other, folder = make_ca("other"), site.folder
    issue(site.ca, "sni", sans=["sni.example"]).write(folder, "sni")
    issue(other, "gateway").write(folder, "gateway")
    issue(other, "alice").write(folder, "alice")
    write_pem(folder / "other.crt", other.certificate)
    write_pem(folder / "crl.pem", make_crl(site.ca), make_crl(other))
    ours = {"client_certificate": "gateway.crt", "client_key": "gateway.key", "root_certificate": "other.crt"}
    clients = {"client_certificate": "optional", "client_ca": "ca.crt", "client_crl": "crl.pem"}
    found = expiries(
        site.config(
            {
                **DATABASE,
                "upstream:main": {"hosts": "db.example", **ours},
                "login:alice": {"certificate": "alice.crt", "key": "alice.key"},
                "https:main": {**clients, "sni": "\nsni.crt sni.key"},
                "route:main": {"upstream": "https://api.example", "crl": "crl.pem", **ours},
            }
        )
    )
    assert [(one.section, one.key, one.path.name, one.what) for one in found] == [
        ("tls", "certificate", "server.crt", "the certificate of CN=localhost"),
        ("https:main", "sni", "sni.crt", "the certificate of CN=sni"),
        ("https:main", "client_ca", "ca.crt", "the certificate of CN=Test CA"),
        ("https:main", "client_crl", "crl.pem", "the CRL of CN=Test CA"),
        ("https:main", "client_crl", "crl.pem", "the CRL of CN=other"),
        ("upstream:main", "root_certificate", "other.crt", "the certificate of CN=other"),
        ("upstream:main", "client_certificate", "gateway.crt", "the certificate of CN=gateway"),
        ("login:alice", "certificate", "alice.crt", "the certificate of CN=alice"),
    ]


def test_what_cannot_be_read_is_for_others_to_tell(site: Site) -> None:
    settings = site.config(DATABASE)
    (site.folder / "server.crt").write_text("no certificate")
    assert expiries(settings) == ()


# --- the watch --------------------------------------------------------------------------------------------------------


@pytest.fixture
def said() -> Iterator[list[str]]:
    found: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("gateway.inspection"):
            found.append(f"{event['place']}: {event['words']}")

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def watch_of(days: float, site: Site) -> tuple[ExpiryWatch, Clock]:
    """Over a certificate that lasts so many days longer than the time of the clock."""
    issue(site.ca, "localhost", sans=["localhost"], valid=(-365, 60)).write(site.folder, "server")
    clock = Clock()
    begins = (datetime.now(UTC) + timedelta(days=60 - days)).timestamp()
    watch = ExpiryWatch(clock, lambda: begins + clock.seconds())
    watch.adopt(site.config(DATABASE))
    return watch, clock


def test_told_once_for_each_of_the_days(site: Site, said: list[str]) -> None:
    watch, clock = watch_of(32.5, site)
    watch.start()
    assert said == []
    clock.pump([DAY] * 40)
    assert [text.partition("CN=localhost ")[2].partition(" (")[0] for text in said] == [
        "ends in 29 days",
        "ends in 6 days",
        "ends within a day",
        "is over",
    ]
    assert said[0].startswith(f"[tls] certificate = {site.folder / 'server.crt'}: the certificate of CN=localhost")


def test_told_at_the_start_and_again_after_a_reload_that_changed_nothing(site: Site, said: list[str]) -> None:
    watch, clock = watch_of(20.5, site)
    watch.start()
    clock.pump([DAY] * 3)
    assert len(said) == 1
    watch.adopt(site.config(DATABASE))
    assert len(said) == 2
    assert "ends in 17 days" in said[1]


def test_a_renewed_certificate_is_not_told_of(site: Site, said: list[str]) -> None:
    watch, _ = watch_of(20.5, site)
    issue(site.ca, "localhost", sans=["localhost"], valid=(-1, 365)).write(site.folder, "server")
    watch.start()
    assert len(said) == 1  # the file, but not what is in use
    watch.adopt(site.config(DATABASE))
    assert len(said) == 1


def test_nothing_is_said_before_the_start_and_after_the_end(site: Site, said: list[str]) -> None:
    watch, clock = watch_of(0.5, site)
    assert said == []
    watch.start()
    watch.stop()
    watch.stop()
    clock.pump([DAY] * 3)
    assert len(said) == 1
    watch.adopt(site.config(DATABASE))
    assert len(said) == 1
    assert clock.getDelayedCalls() == []
