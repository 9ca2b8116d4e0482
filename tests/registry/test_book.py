"""A book answers at once or not at all, and tells each watcher once of what concerns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gateway.registry.book import Book, Changes, Entry, Snapshot
from gateway.things import NO_RIGHTS, Change, Rights, Thing, Things, Unavailable, key_hash

ONE, TWO, THREE = (str(UUID(int=number)) for number in (1, 2, 3))
HERE, THERE = (str(UUID(int=number)) for number in (11, 12))
BOTH, PUBLISH, SUBSCRIBE = Rights(True, True), Rights(True, False), Rights(False, True)


def entry(
    name: str = ONE, key: bytes = b"key", rights: Mapping[str, Rights] | None = None, enabled: bool = True
) -> Entry:
    return Entry(Thing(name, "its name", key_hash(key), enabled), {HERE: BOTH} if rights is None else rights)


def everything(*entries: Entry, channels: tuple[str, ...] = (HERE, THERE)) -> Snapshot:
    return Snapshot({entry.thing.id: entry for entry in entries}, set(channels))


def changed(*entries: Entry, gone: tuple[str, ...] = (), channels: Mapping[str, bool] | None = None) -> Changes:
    return Changes({entry.thing.id: entry for entry in entries} | dict.fromkeys(gone), channels or {})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> Book:
    """With one thing in it."""
    book = Book(300, clock.callLater)
    book.replace(everything(entry()))
    return book


def heard_of(book: Book, thing: str = ONE) -> list[Change]:
    heard: list[Change] = []
    book.watch(thing, heard.append)
    return heard


QUESTIONS: list[Callable[[Book], object]] = [
    lambda book: book.with_key(b"key"),
    lambda book: book.named(ONE),
    lambda book: book.has_channel(HERE),
    lambda book: book.rights(ONE, HERE),
    lambda book: book.watch(ONE, lambda _: None),
]


# --- answers --------------------------------------------------------------------------------------------------------


def test_is_what_sessions_ask(book: Book) -> None:
    things: Things = book
    assert things.named(ONE)


@pytest.mark.parametrize("question", QUESTIONS)
def test_nothing_before_the_first_reading(clock: Clock, question: Callable[[Book], object]) -> None:
    book = Book(300, clock.callLater)
    book.lost()
    clock.advance(1000)
    with pytest.raises(Unavailable):
        question(book)
    assert not book.available


def test_answers(book: Book) -> None:
    assert book.available
    assert book.with_key(b"key") == book.named(ONE) == entry().thing
    assert book.with_key(b"Key") is book.with_key(b"") is book.with_key(key_hash(b"key")) is None
    assert book.named(TWO) is book.named("") is None
    assert book.has_channel(HERE)
    assert not book.has_channel(ONE)
    assert book.rights(ONE, HERE) == BOTH
    assert book.rights(ONE, THERE) == book.rights(TWO, HERE) == book.rights(HERE, ONE) == NO_RIGHTS


def test_disabled_is_known_and_may_nothing(book: Book) -> None:
    book.apply(changed(entry(enabled=False)))
    thing = book.with_key(b"key")
    assert thing
    assert not thing.enabled
    assert book.rights(ONE, HERE) == NO_RIGHTS


def test_no_rights_in_a_channel_that_is_gone(book: Book) -> None:
    book.apply(changed(channels={HERE: False}))
    assert not book.has_channel(HERE)
    assert book.rights(ONE, HERE) == NO_RIGHTS
    book.apply(changed(channels={HERE: True}))
    assert book.rights(ONE, HERE) == BOTH


def test_a_new_key_and_no_old_one(book: Book) -> None:
    book.apply(changed(entry(key=b"new")))
    assert book.with_key(b"key") is None
    assert book.with_key(b"new") == book.named(ONE)


def test_deleted(book: Book) -> None:
    book.apply(changed(gone=(ONE, TWO)))
    assert book.with_key(b"key") is book.named(ONE) is None
    assert book.rights(ONE, HERE) == NO_RIGHTS


def test_two_change_keys_with_each_other(book: Book) -> None:
    book.apply(changed(entry(TWO, b"other")))
    book.apply(changed(entry(ONE, b"other"), entry(TWO, b"key")))
    first, second = book.with_key(b"other"), book.with_key(b"key")
    assert first
    assert second
    assert (first.id, second.id) == (ONE, TWO)


def test_a_key_has_one_owner(book: Book) -> None:
    """Somebody deleted the one and gave its key to the other, and only the other's change was told."""
    heard = heard_of(book)
    book.apply(changed(entry(TWO)))
    owner = book.with_key(b"key")
    assert owner
    assert owner.id == TWO
    assert book.named(ONE) is None
    assert heard == [Change.REVOKED]


# --- who is told ----------------------------------------------------------------------------------------------------

DIFFERENCES = [
    (entry(), entry(), None),
    (None, None, None),
    (None, entry(), Change.GROWN),
    (entry(), None, Change.REVOKED),
    (entry(), entry(enabled=False), Change.REVOKED),
    (entry(), entry(key=b"new"), Change.REVOKED),
    (entry(), entry(key=b"new", enabled=False), Change.REVOKED),
    (entry(enabled=False), entry(), Change.GROWN),
    (entry(enabled=False, rights={}), entry(rights={}), Change.GROWN),
    (entry(enabled=False), entry(key=b"new"), Change.REVOKED),
    (entry(enabled=False), entry(enabled=False, rights={}), None),
    (entry(enabled=False), None, Change.REVOKED),
    (entry(rights={}), entry(), Change.GROWN),
    (entry(), entry(rights={}), Change.SHRUNK),
    (entry(), entry(rights={HERE: PUBLISH}), Change.SHRUNK),
    (entry(), entry(rights={HERE: SUBSCRIBE}), Change.SHRUNK),
    (entry(rights={HERE: PUBLISH}), entry(), Change.GROWN),
    (entry(rights={HERE: PUBLISH}), entry(rights={HERE: SUBSCRIBE}), Change.SHRUNK),
    (entry(), entry(rights={THERE: BOTH}), Change.SHRUNK),
    (entry(), entry(rights={HERE: BOTH, THERE: PUBLISH}), Change.GROWN),
]


@pytest.mark.parametrize(("before", "after", "change"), DIFFERENCES)
@pytest.mark.parametrize("whole", [True, False])
def test_differences(
    clock: Clock, before: Entry | None, after: Entry | None, change: Change | None, whole: bool
) -> None:
    book = Book(300, clock.callLater)
    book.replace(everything(*filter(None, [before])))
    heard = heard_of(book)
    if whole:
        book.replace(everything(*filter(None, [after])))
    else:
        book.apply(changed(*filter(None, [after]), gone=() if after else (ONE,)))
    assert heard == ([change] if change else [])


def test_a_name_is_no_change(book: Book) -> None:
    heard = heard_of(book)
    book.apply(changed(Entry(Thing(ONE, "another name", key_hash(b"key")), {HERE: BOTH})))
    assert heard == []
    named = book.named(ONE)
    assert named
    assert named.name == "another name"


def test_others_hear_nothing(book: Book) -> None:
    book.apply(changed(entry(TWO, b"two")))
    mine, theirs = heard_of(book, ONE), heard_of(book, TWO)
    book.apply(changed(entry(rights={}), entry(TWO, b"two")))
    assert (mine, theirs) == ([Change.SHRUNK], [])


def test_each_of_several_hears_it_once(book: Book) -> None:
    first, second = heard_of(book), heard_of(book)
    book.apply(changed(gone=(ONE,)))
    assert first == second == [Change.REVOKED]


def test_who_has_stopped_hears_nothing(book: Book) -> None:
    heard: list[Change] = []
    watch = book.watch(ONE, heard.append)
    other = heard_of(book)
    watch.stop()
    watch.stop()
    book.apply(changed(gone=(ONE,)))
    assert (heard, other) == ([], [Change.REVOKED])


def test_nothing_is_kept_of_those_who_have_stopped(book: Book) -> None:
    for watch in [book.watch(ONE, lambda _: None) for _ in range(3)]:
        watch.stop()
    assert not book._watches


def test_stopping_while_being_told(book: Book) -> None:
    heard: list[str] = []

    def watcher(name: str) -> Callable[[Change], None]:
        def hear(_: Change) -> None:
            heard.append(name)
            for watch in watches:
                watch.stop()

        return hear

    watches = [book.watch(ONE, watcher(name)) for name in "abc"]
    book.apply(changed(gone=(ONE,)))
    assert heard == ["a"]


def test_watching_and_asking_while_being_told(book: Book) -> None:
    """What is told is already so; and who comes now hears of the next change."""
    seen: list[object] = []
    late: list[Change] = []

    def hear(_: Change) -> None:
        seen.append((book.named(ONE), book.rights(TWO, HERE)))
        book.watch(ONE, late.append)

    book.watch(ONE, hear)
    book.apply(changed(entry(TWO, b"two"), gone=(ONE,)))
    assert seen == [(None, BOTH)]
    assert late == []
    book.apply(changed(entry()))
    assert late == [Change.GROWN]


def test_a_bug_of_one_keeps_nothing_from_the_others(book: Book) -> None:
    def buggy(_: Change) -> None:
        raise RuntimeError("a bug")

    book.watch(ONE, buggy)
    heard = heard_of(book)
    with pytest.raises(ExceptionGroup, match="watchers"):
        book.apply(changed(gone=(ONE,)))
    assert heard == [Change.REVOKED]
    assert book.named(ONE) is None


# --- what is not there any more --------------------------------------------------------------------------------------


@pytest.fixture
def deleted(book: Book) -> list[str]:
    """What the book has told."""
    told: list[str] = []
    book.deleted = told.append
    return told


def test_what_was_deleted_is_told(book: Book, deleted: list[str]) -> None:
    book.apply(changed(entry(TWO, b"two"), entry(THREE, b"three")))
    book.apply(changed(gone=(ONE, TWO)))
    assert sorted(deleted) == [ONE, TWO]
    book.replace(everything())
    assert sorted(deleted) == [ONE, TWO, THREE]
    book.replace(everything())
    book.apply(changed(gone=(ONE,)))
    assert len(deleted) == 3


def test_what_is_there_still_was_not_deleted(book: Book, deleted: list[str]) -> None:
    for other in (entry(enabled=False), entry(key=b"new"), entry(rights={}), entry()):
        book.apply(changed(other))
        book.replace(everything(entry(rights={}, enabled=False)))
    book.apply(changed(channels={HERE: False}))
    book.lost()
    book.close()
    assert deleted == []


def test_who_lost_its_key_to_another_in_silence_is_told_of_as_well(book: Book, deleted: list[str]) -> None:
    book.apply(changed(entry(TWO)))
    assert deleted == [ONE]


def test_what_was_deleted_while_the_source_was_away_is_told_once_it_is_back(
    book: Book, clock: Clock, deleted: list[str]
) -> None:
    book.lost()
    clock.advance(1000)
    assert deleted == []
    book.replace(everything(entry(TWO, b"two")))
    assert deleted == [ONE]


@pytest.mark.parametrize("whole", [True, False])
def test_its_sessions_hear_of_it_first(book: Book, whole: bool) -> None:
    """So that they end with what they have, and nothing is left when the rest of it is forgotten."""
    heard: list[object] = []
    book.watch(ONE, heard.append)
    book.deleted = lambda thing: heard.append((thing, book.named(thing)))
    if whole:
        book.replace(everything())
    else:
        book.apply(changed(gone=(ONE,)))
    assert heard == [Change.REVOKED, (ONE, None)]


# --- a source that is away ------------------------------------------------------------------------------------------


def test_known_counts_for_some_time(book: Book, clock: Clock) -> None:
    heard = heard_of(book)
    book.lost()
    clock.advance(299)
    assert book.with_key(b"key")
    assert book.with_key(b"unknown") is None
    assert book.rights(ONE, HERE) == BOTH
    assert heard == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_then_nothing_counts(book: Book, clock: Clock, question: Callable[[Book], object]) -> None:
    heard = heard_of(book)
    book.lost()
    clock.advance(300)
    assert heard == [Change.UNKNOWN]
    with pytest.raises(Unavailable):
        question(book)
    book.lost()
    clock.advance(1000)
    assert heard == [Change.UNKNOWN]


def test_it_counts_from_the_first_loss(book: Book, clock: Clock) -> None:
    book.lost()
    clock.advance(200)
    book.lost()
    clock.advance(100)
    assert not book.available


def test_found_in_time(book: Book, clock: Clock) -> None:
    heard = heard_of(book)
    book.lost()
    clock.advance(200)
    book.found()
    assert not clock.getDelayedCalls()
    book.lost()
    clock.advance(200)
    assert book.available
    clock.advance(100)
    assert not book.available
    assert heard == [Change.UNKNOWN]


@pytest.mark.parametrize("back", [lambda book: book.found(), lambda book: book.apply(changed())])
def test_found_too_late(book: Book, clock: Clock, back: Callable[[Book], None]) -> None:
    heard = heard_of(book)
    book.lost()
    clock.advance(300)
    back(book)
    assert book.rights(ONE, HERE) == BOTH
    assert heard == [Change.UNKNOWN]


def test_what_changed_meanwhile_is_told(book: Book, clock: Clock) -> None:
    heard = heard_of(book)
    book.lost()
    clock.advance(300)
    book.replace(everything(entry(rights={})))
    assert heard == [Change.UNKNOWN, Change.SHRUNK]


def test_who_is_told_may_ask_again(book: Book, clock: Clock) -> None:
    answers: list[object] = []
    book.watch(ONE, lambda change: answers.append(change is Change.UNKNOWN or book.named(ONE)))
    book.lost()
    clock.advance(300)
    book.replace(everything())
    assert answers == [True, None]


def test_stopping_at_unknown(book: Book, clock: Clock) -> None:
    heard: list[Change] = []

    def hear(change: Change) -> None:
        heard.append(change)
        second.stop()

    book.watch(ONE, hear)
    second = book.watch(ONE, heard.append)
    book.lost()
    clock.advance(300)
    assert heard == [Change.UNKNOWN]


def test_closed(book: Book, clock: Clock) -> None:
    heard = heard_of(book)
    book.lost()
    book.close()
    assert not clock.getDelayedCalls()
    assert heard == []
    with pytest.raises(Unavailable):
        book.named(ONE)


# --- both ways to the same end --------------------------------------------------------------------------------------

some_rights = st.dictionaries(st.sampled_from([HERE, THERE]), st.sampled_from([BOTH, PUBLISH, SUBSCRIBE]))
some_entries = st.builds(
    entry, st.sampled_from([ONE, TWO, THREE]), st.sampled_from([b"a", b"b", b"c", b"d"]), some_rights, st.booleans()
)
snapshots = st.lists(
    some_entries, unique_by=(lambda entry: entry.thing.id, lambda entry: entry.thing.key), max_size=3
).map(lambda entries: everything(*entries))


@settings(deadline=None)
@given(st.lists(snapshots, min_size=2, max_size=6))
def test_changes_lead_where_a_new_snapshot_leads(history: list[Snapshot]) -> None:
    whole, stepwise = (Book(300, Clock().callLater) for _ in range(2))
    first, *later = history
    whole.replace(Snapshot(dict(first.things), first.channels))
    stepwise.replace(Snapshot(dict(first.things), first.channels))
    heard = [[heard_of(book, name) for name in (ONE, TWO, THREE)] for book in (whole, stepwise)]
    for snapshot in later:
        whole.replace(Snapshot(dict(snapshot.things), snapshot.channels))
        stepwise.apply(Changes({name: snapshot.things.get(name) for name in (ONE, TWO, THREE)}, {}))
        for book in (whole, stepwise):
            assert book._things == snapshot.things
            assert book._by_key == {entry.thing.key: entry.thing for entry in snapshot.things.values()}
    assert heard[0] == heard[1]
