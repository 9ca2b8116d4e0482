"""Who may stay, asked directly: what is looked up, what is watched, and what a change means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import Denied
from gateway.identity import Identity
from gateway.session.standing import Standing
from gateway.session.vocabulary import Reloaded
from gateway.things import Change, Thing, Unavailable, key_hash
from tests.fakes import NOW, Whom
from tests.mqtt_sessions import KEY, OTHER_ID, OTHER_KEY, THING_ID, Registry

UNKNOWN_ID = "9d7c9a52-1111-4222-8333-444455556666"
DISABLED, GONE = "the thing is disabled", "the thing was deleted or given another key"


def named(subject: str) -> Identity:
    return Identity("certificate", subject, NOW + 600)


def keyed(key: str) -> Identity:
    return Identity("certificate", "key:0123456789abcdef", NOW + 600, key=key.encode())


BY_KEY, BY_ID = keyed(KEY), named(THING_ID)
BOTH = pytest.mark.parametrize("identity", [BY_KEY, BY_ID])


class One:
    """A connection's standing, the registry that it asks, and whom it tells."""

    def __init__(self, *identities: Identity) -> None:
        self.registry, self.whom = Registry(), Whom(lambda _: True)
        self.standing = Standing(self.registry, self.whom)
        for identity in identities:
            self.standing.check(identity)

    @property
    def watched(self) -> list[str]:
        return [watch.thing for watch in self.registry.watches]

    def check(self, identity: Identity | None) -> str | None:
        """What it says of that one; None: it may come in."""
        try:
            self.standing.check(identity)
        except Denied as denied:
            return str(denied)
        return None

    def again(self) -> str | None:
        try:
            self.standing.again()
        except Denied as denied:
            return str(denied)
        return None

    def rekey(self, thing: str, key: str) -> None:
        self.registry.things[thing] = replace(self.registry.things[thing], key=key_hash(key.encode()))


# --- who comes in -----------------------------------------------------------------------------------------------------


@BOTH
def test_a_thing_that_is_enabled_is_watched_from_then_on(identity: Identity) -> None:
    one = One()
    assert one.check(identity) is None
    assert one.watched == [THING_ID]


@BOTH
def test_a_thing_that_is_disabled_is_refused_and_not_watched(identity: Identity) -> None:
    one = One()
    one.registry.disable()
    assert one.check(identity) == DISABLED
    assert one.watched == []
    assert one.again() is None


@BOTH
def test_the_same_name_again_is_watched_once(identity: Identity) -> None:
    one = One(identity)
    assert one.check(identity) is None
    assert one.watched == [THING_ID]


@pytest.mark.parametrize("identity", [keyed("nobodys-key-0001"), named(UNKNOWN_ID)])
def test_whom_the_registry_does_not_know_it_does_not_refuse(identity: Identity) -> None:
    one = One(identity)
    assert one.watched == []
    assert one.again() is None


def test_who_was_not_known_is_looked_up_anew_each_time() -> None:
    """And is watched once he is known."""
    one = One(named(UNKNOWN_ID))
    one.registry.things[UNKNOWN_ID] = Thing(UNKNOWN_ID, "new", b"a hash", enabled=False)
    assert one.again() is None
    assert one.check(named(UNKNOWN_ID)) == DISABLED
    one.registry.things[UNKNOWN_ID] = Thing(UNKNOWN_ID, "new", b"a hash")
    assert one.check(named(UNKNOWN_ID)) is None
    assert one.watched == [UNKNOWN_ID]


@pytest.mark.parametrize(
    "identity",
    [None, named("meter-7"), named(KEY), named(THING_ID.upper()), named(f"{THING_ID}\n"), named(f"x{THING_ID}")],
)
def test_what_is_no_things_name_is_not_looked_up(identity: Identity | None) -> None:
    one = One()
    one.registry.available = False
    assert one.check(identity) is None
    assert one.again() is None


def test_the_key_is_the_name_where_there_is_one() -> None:
    """The subject of such an identity is made from the key; that of another thing's id would change nothing."""
    one = One()
    one.registry.disable(OTHER_ID)
    assert one.check(replace(keyed(KEY), subject=OTHER_ID)) is None
    assert one.watched == [THING_ID]


# --- when nobody can say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [BY_KEY, BY_ID, keyed("nobodys-key-0001"), named(UNKNOWN_ID)])
def test_nobody_comes_in_who_could_be_a_thing(identity: Identity) -> None:
    one = One()
    one.registry.available = False
    with pytest.raises(Unavailable):
        one.standing.check(identity)
    assert one.watched == []


@BOTH
def test_nor_may_a_thing_stay_until_the_registry_is_back(identity: Identity) -> None:
    one = One(identity)
    one.registry.available = False
    with pytest.raises(Unavailable):
        one.standing.again()
    one.registry.available = True
    assert one.again() is None
    assert one.watched == [THING_ID]


# --- who may stay -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("asked", ["again", "check"])
def test_a_thing_that_was_disabled_meanwhile(identity: Identity, asked: str) -> None:
    one = One(identity)
    one.registry.disable()
    assert (one.again() if asked == "again" else one.check(identity)) == DISABLED


@BOTH
@pytest.mark.parametrize("asked", ["again", "check"])
def test_a_thing_that_was_deleted_meanwhile(identity: Identity, asked: str) -> None:
    """It was known to this connection: a stranger with that name would not be refused."""
    one = One(identity)
    del one.registry.things[THING_ID]
    assert (one.again() if asked == "again" else one.check(identity)) == GONE
    assert One().check(named(UNKNOWN_ID)) is None


def test_another_key_ends_who_came_with_the_old_one() -> None:
    one = One(BY_KEY)
    one.rekey(THING_ID, "a-new-key-0001")
    assert one.again() == GONE


def test_another_key_is_nothing_to_who_came_with_the_id() -> None:
    one = One(BY_ID)
    one.rekey(THING_ID, "a-new-key-0001")
    assert one.again() is None


@pytest.mark.parametrize("asked", ["again", "check"])
def test_a_name_used_again_by_another_thing(asked: str) -> None:
    """The key leads to a thing that is there and enabled, but not to the one that came in."""
    one = One(BY_KEY)
    one.rekey(THING_ID, "a-new-key-0001")
    one.rekey(OTHER_ID, KEY)
    assert (one.again() if asked == "again" else one.check(BY_KEY)) == GONE
    assert one.watched == [THING_ID]


@pytest.mark.parametrize("thing", [THING_ID, OTHER_ID])
def test_after_two_names_both_have_to_hold(thing: str) -> None:
    one = One(BY_KEY, named(OTHER_ID))
    assert one.watched == [THING_ID, OTHER_ID]
    assert one.again() is None
    one.registry.disable(thing)
    assert one.again() == DISABLED


def test_a_key_and_an_id_of_the_same_thing_are_two_names() -> None:
    one = One(BY_KEY, BY_ID)
    one.rekey(THING_ID, "a-new-key-0001")
    assert one.check(BY_ID) is None
    assert one.again() == GONE


def test_who_comes_later_is_not_refused_for_another() -> None:
    """`check` is about the one that it is given, and only `again` about all of them."""
    one = One(BY_KEY)
    one.registry.disable(THING_ID)
    assert one.check(keyed(OTHER_KEY)) is None
    assert one.again() == DISABLED


# --- what it tells its session ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Change.REVOKED, [Reloaded()]),
        (Change.UNKNOWN, [Reloaded()]),
        (Change.SHRUNK, []),
        (Change.GROWN, []),
    ],
)
def test_a_change_is_told_as_a_reload(change: Change, told: list[Reloaded]) -> None:
    """What it may do in channels is not what this is about."""
    one = One(BY_KEY)
    one.registry.tell(change)
    assert one.whom.told == told


def test_a_change_of_each_that_was_named_is_told() -> None:
    one = One(BY_KEY, named(OTHER_ID))
    one.registry.tell(Change.REVOKED, OTHER_ID)
    one.registry.tell(Change.REVOKED, THING_ID)
    assert one.whom.told == [Reloaded(), Reloaded()]


@BOTH
@pytest.mark.parametrize("disabled", [True, False])
def test_what_a_reload_does(identity: Identity, disabled: bool) -> None:
    """What is so now decides: a thing that is enabled again by then may stay, and is watched on."""
    one = One(identity)
    if disabled:
        one.registry.disable()
    one.registry.tell(Change.REVOKED)
    assert one.whom.told == [Reloaded()]
    assert one.again() == (DISABLED if disabled else None)
    one.registry.tell(Change.REVOKED)
    assert one.whom.told == [Reloaded(), Reloaded()]


def test_the_end_of_it_ends_the_watches() -> None:
    one = One(BY_KEY, named(OTHER_ID))
    one.standing.stop()
    assert one.watched == []
    one.registry.disable()
    one.registry.tell(Change.REVOKED)
    assert one.whom.told == []
    assert one.again() is None
    one.standing.stop()
