"""How an operator, a reload and the registry end a tunnel's connection, in each of its states; and whom they leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.session.vocabulary import Close, Command, Dialed, Ended, Event, Killed, Reloaded, Secured, Side, Splice
from gateway.things import Change, Thing
from tests.mqtt_sessions import METER, NAMED, OTHER_THING, THING, THING_ID, Registry
from tests.pki import Issued
from tests.session.test_tunnel import H2, REMOTE, Conversation, Rules, client, server, shown

KILL = Killed("killed by an operator")
NOT_TRUSTED = "the client certificate is not trusted any more"
DISABLED = "denied: the thing is disabled"


def secured(**given: Any) -> Conversation:
    talk = Conversation(server(**given))
    talk.secured()
    return talk


def securing() -> Conversation:
    talk = secured(upstream=REMOTE)
    talk.tell(Dialed())
    return talk


STATES: dict[str, Callable[[], Conversation]] = {
    "handshake": lambda: Conversation(server()),
    "dialing": secured,
    "securing": securing,
    "open": lambda: Conversation(server()).open(),
    "client, dialing": lambda: Conversation(client()),
    "client, open": lambda: Conversation(client()).open(),
}
CERTIFIED = ("dialing", "securing", "open")


@pytest.mark.parametrize("state", STATES)
def test_killed_in_each_state(state: str) -> None:
    """Nothing can be said in a protocol that is not known: it breaks."""
    assert STATES[state]().tell(KILL) == [Close(KILL.reason, broken=True)]


@pytest.mark.parametrize("state", STATES)
def test_a_certificate_that_is_not_trusted_any_more(state: str) -> None:
    """Before the end of the handshake that is the driver's to ask; and where there is none, nothing is."""
    talk = STATES[state]()
    assert talk.tell(Reloaded()) == []
    talk.whom.trusts = False
    assert talk.tell(Reloaded()) == ([Close(NOT_TRUSTED, broken=True)] if state in CERTIFIED else [])


def test_a_reload_leaves_what_is_open_under_the_rules_of_then() -> None:
    talk = Conversation(server()).open()
    talk.access = server(admission=Rules(allowed=False))
    assert talk.tell(Reloaded()) == []


# --- a thing that is disabled -----------------------------------------------------------------------------------------


class Guarded(Conversation):
    """A tunnel whose clients are things, with the registry that knows them."""

    def __init__(self, cn: str = "key", **given: Any) -> None:
        self.registry = Registry()
        super().__init__(server(things=self.registry, cn=cn, **given))

    def open_as(self, issued: Issued) -> Guarded:
        self.secured(shown(issued))
        self.tell(Dialed())
        assert self.of(Splice)
        return self

    def change(self, change: Change) -> list[Command]:
        """What the session does once it has heard of it."""
        self.registry.tell(change)
        told, self.whom.told = self.whom.told, []
        return [command for event in told for command in self.tell(event)]


@pytest.mark.parametrize("how", ["disabled", "away"])
def test_who_is_not_let_in(how: str) -> None:
    """Whoever keeps the registry away takes back nothing."""
    talk = Guarded()
    talk.registry.disable() if how == "disabled" else setattr(talk.registry, "available", False)
    talk.secured(shown(THING))
    assert talk.refusal == (DISABLED if how == "disabled" else "denied: the registry cannot be asked")
    assert talk.registry.watches == []


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("disabled", DISABLED),
        ("deleted", "denied: the thing was deleted or given another key"),
        ("another key", "denied: the thing was deleted or given another key"),
        ("away", "denied: the registry cannot be asked"),
        ("more rights", None),
        ("less rights", None),
    ],
)
def test_what_happens_to_a_thing_meanwhile(change: str, reason: str | None, steps: int) -> None:
    """Its rights in channels are not what a tunnel is about."""
    talk = Guarded(upstream=REMOTE)
    on_the_way: list[Event] = [Dialed(), Secured(Side.UPSTREAM, H2)]
    talk.secured(shown(THING))
    for event in on_the_way[:steps]:
        talk.tell(event)
    registry = talk.registry
    match change:
        case "disabled":
            registry.disable()
        case "deleted":
            del registry.things[THING_ID]
        case "another key":
            registry.things[THING_ID] = Thing(THING_ID, "one", b"another hash")
        case "away":
            registry.available = False
    kinds = {"away": Change.UNKNOWN, "more rights": Change.GROWN, "less rights": Change.SHRUNK}
    answer = talk.change(kinds.get(change, Change.REVOKED))
    assert answer == ([Close(reason, broken=True)] if reason else [])
    talk.tell(Ended())
    assert registry.watches == []


def test_a_reload_asks_the_registry_too() -> None:
    talk = Guarded().open_as(THING)
    talk.registry.disable()
    assert talk.tell(Reloaded()) == [Close(DISABLED, broken=True)]


def test_the_rules_come_first() -> None:
    """Whom they refuse learns nothing of the registry, nor does anybody watch for him."""
    talk = Guarded(admission=Rules(allowed=False))
    talk.registry.disable()
    talk.secured(shown(THING))
    assert talk.refusal == "denied: rules:1: so it is written"


def test_where_clients_show_nothing_the_registry_is_not_asked() -> None:
    registry = Registry()
    registry.available = False
    talk = Conversation(client(things=registry)).open()
    assert talk.tell(Reloaded()) == []


@pytest.mark.parametrize(("cn", "issued"), [("key", METER), ("id", METER), ("id", THING)])
def test_whom_the_registry_does_not_know_it_does_not_refuse(cn: str, issued: Issued) -> None:
    """A key in a certificate that is read as an id is no key; and a name that is no id of a thing is not looked up."""
    talk = Guarded(cn).open_as(issued)
    talk.registry.disable()
    assert talk.change(Change.REVOKED) == talk.tell(Reloaded()) == []
    assert talk.registry.watches == []
    talk.registry.available = False
    assert bool(talk.tell(Reloaded())) is False


def test_a_key_that_nobody_knows_cannot_be_asked_about_either_when_nobody_can_say() -> None:
    """It could be that of a thing which was disabled."""
    talk = Guarded()
    talk.registry.available = False
    talk.secured(shown(METER))
    assert talk.refusal == "denied: the registry cannot be asked"
    named = Guarded("id")
    named.registry.available = False
    named.open_as(METER)


def test_a_certificate_that_names_the_thing_by_its_id() -> None:
    talk = Guarded("id").open_as(NAMED)
    talk.registry.disable()
    assert talk.change(Change.REVOKED) == [Close(DISABLED, broken=True)]
    again = Guarded("id")
    again.registry.disable()
    again.secured(shown(NAMED))
    assert again.refusal == DISABLED


def test_another_things_end_is_not_its() -> None:
    talk = Guarded().open_as(OTHER_THING)
    talk.registry.disable()
    assert talk.change(Change.REVOKED) == talk.tell(Reloaded()) == []
