"""Mail that moves between queues: what is set apart, what is carried, and that no death on the way loses or doubles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.queue.contract import told
from tests.queue.harness import (
    DAY,
    NOON,
    STORES,
    Harness,
    Make,
    attempts,
    claim,
    content_of,
    deferred,
    ended,
    in_doubt,
    lease_of,
    new,
    play,
    rows,
    swept,
    take,
    there,
    to,
)

from zsmtp.errors import Conflict, QueueError
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import time_of
from zsmtp.queue.limits import BY_COMMAND, HELD_FOR_DOUBT, MOVES_KEPT
from zsmtp.queue.moves import (
    Departure,
    Elsewhere,
    Move,
    Provenance,
    Standing,
    apart,
    held_before,
    holds_apart,
    is_apart,
    move_of,
)
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.sql import ARRIVING
from zsmtp.queue.states import Outcome, State
from zsmtp.queue.store import Accepted, NewMessage, NewRecipient, QueueStore
from zsmtp.records import replace

FAR = Elsewhere("0" * 32, "elsewhere")
stores = pytest.mark.parametrize("make", STORES.values(), ids=STORES)
PAIRS = [(source, target) for source in STORES for target in STORES]
pairs = pytest.mark.parametrize(("source", "target"), PAIRS, ids=["-to-".join(pair) for pair in PAIRS])


def test_a_hold_says_in_which_move_and_what_held_before() -> None:
    for move in (1, 2, 1000, 1 << 29):
        for hold in (0, 1, HELD_FOR_DOUBT, BY_COMMAND, -(1 << 31)):
            found = apart(move, hold)
            assert is_apart(found)
            assert (move_of(found), held_before(found)) == (move, hold)
            assert holds_apart(move)[0] <= found <= holds_apart(move)[1]
            assert found > -(1 << 63)
    assert holds_apart(2)[1] < holds_apart(1)[0]
    assert not any(map(is_apart, (0, HELD_FOR_DOUBT, BY_COMMAND, ARRIVING)))


# --------------------------------------------------------------------- one store


async def set_apart(store: QueueStore, text: str = "") -> tuple[Move, int]:
    """Set recipients apart in a new move; how many were."""
    move = await store.begin_move(FAR, by="ann")
    return move, sum([number async for number in store.change(Filter.parse(text), Change(move=move.number))])


async def nobody_has_what_is_set_apart(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net"), new("b@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON)
    move, number = await set_apart(store, "to=a@example.net")
    assert number == 1
    assert not await store.mark(lease, attempts(claimed))  # what was claimed before is not begun
    assert await store.mark(lease, attempts(claimed[1:]))
    assert [one.recipient.address for one in await claim(store, lease, NOON)] == [b"b@example.net"]
    gone = claimed[0].recipient
    for result in (ended(gone, NOON), deferred(gone, NOON, NOON + 60), deferred(gone, NOON, NOON, counted=False)):
        assert await store.settle(lease, [result], []) == [gone.next_attempt]
    for change in (
        Change(due=NOON + 1),
        Change(hold=0),
        Change(hold=BY_COMMAND),
        Change(key="example.org"),
        Change(rank=1),
        Change(expires=NOON + 1),
        Change(end="failed", notify=True),
        Change(end="dropped"),
        Change(move=move.number),
    ):
        found = [number async for number in store.change(Filter.parse("to=a@example.net"), change)]
        assert sum(found) == 0
    (row,) = await rows(store, "to=a@example.net")
    assert row.state is State.HELD
    assert replace(row.recipient, hold=0) == gone
    (one,) = await store.apart(move.number, limit=10)
    assert (one.recipient, one.message, one.key) == (gone, row.message, None)
    assert await store.settle(lease, [ended(claimed[1].recipient, NOON)], []) == []


async def what_somebody_has_is_not_set_apart(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("marked@example.net"), new("free@example.net"), new("doubt@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    marked, free, doubtful = await claim(store, lease, NOON)
    assert await store.mark(lease, attempts([marked, doubtful]))
    assert await store.settle(lease, [in_doubt(doubtful.recipient, NOON, NOON + 60)], []) == []
    _, number = await set_apart(store)
    assert number == 1
    assert await there(store, "state=held") == ["free@example.net"]
    assert await store.settle(lease, [ended(marked.recipient, NOON)], []) == []
    queue.wait(61)  # nobody's word on the attempt in doubt counts any more
    _, number = await set_apart(store, "to=doubt@example.net")
    assert number == 1
    assert free.recipient.address.decode() in await there(store, "state=held")


async def what_was_in_hand_when_the_machine_died_is_not_set_apart(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net"), new("b@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON)
    assert await store.settle(lease, [], attempts(claimed[:1])) == []
    assert await store.mark(lease, attempts(claimed[:1]))  # which the machine may lose
    store = await queue.crash(machine=True)
    _, number = await set_apart(store)
    assert number == 1
    assert await there(store, "state=held") == ["b@example.net"]
    await store.join("next")
    (lease,) = await take(store, "example.net")
    (doubt,) = lease.doubts
    assert doubt.recipient.address == b"a@example.net"
    assert await store.settle(lease, [in_doubt(doubt.recipient, NOON, NOON)], []) == []
    _, number = await set_apart(store)
    assert number == 1


async def what_is_set_apart_is_in_doubt_of_nobody(queue: Harness) -> None:
    """What was in hand and had no mark when it was set apart got none since, whatever dies."""
    store = queue.store
    await store.submit([new("a@example.net"), new("b@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON)
    assert await store.settle(lease, [], attempts(claimed)) == []
    _, number = await set_apart(store, "to=a@example.net")
    assert number == 1
    store = await queue.crash(machine=True)
    await store.join("next")
    (lease,) = await take(store, "example.net")
    assert [doubt.recipient.address for doubt in lease.doubts] == [b"b@example.net"]
    assert await store.settle(lease, [in_doubt(lease.doubts[0].recipient, NOON, NOON)], []) == []


async def holds_are_kept_and_rules_are_asked_again(queue: Harness) -> None:
    store = queue.store
    stays, goes = [await store.add_rule(Rule(action="hold", filter="", by="ann")) for _ in range(2)]
    await store.submit(
        [
            new(to("stays@example.net", hold=stays.number)),
            new(to("goes@example.net", hold=goes.number)),
            new(to("command@example.net", hold=BY_COMMAND)),
            new("free@example.net"),
        ]
    )
    move, number = await set_apart(store)
    assert number == 4
    assert await store.delete_rule(goes.number)
    holds = {one.recipient.address: one.recipient.hold for one in await store.apart(move.number, limit=10)}
    assert holds == {
        b"stays@example.net": stays.number,
        b"goes@example.net": 0,
        b"command@example.net": BY_COMMAND,
        b"free@example.net": 0,
    }


async def what_departs_has_its_end_and_owes_nothing(queue: Harness) -> None:
    store = queue.store
    (accepted,) = await store.submit([new("a@example.net", "b@example.net", "c@example.net")])
    message = await store.message(accepted.id)
    assert message is not None
    move, _ = await set_apart(store, "to!=c@example.net")
    other, _ = await set_apart(store, "to=c@example.net")
    there_is = [Departure(move.number, accepted.id, number, "to X in elsewhere") for number in range(3)]
    assert await store.depart(there_is, by="ann") == 2
    assert await store.depart(there_is, by="ann") == 0
    assert await there(store) == ["c@example.net"]
    history = await store.history(accepted.id)
    assert [(one.outcome, one.reason, one.by, one.attempt) for one in history] == [
        (Outcome.MOVED, "to X in elsewhere", "ann", 0)
    ] * 2
    counters = await store.counters()
    assert (counters["accepted"], counters["moved"]) == (3, 2)
    assert await store.owed(NOON + DAY, limit=10) == []
    assert [one.outcome async for one in store.ends(Filter.parse("end=moved"))] == [Outcome.MOVED] * 2
    assert await store.depart([Departure(other.number, accepted.id, 2, "to X")], by="ann") == 1
    await swept(store, queue.now())
    assert await store.message(accepted.id) is None
    with pytest.raises(QueueError):
        await content_of(store, message)


def from_elsewhere(*addresses: str, message: int, number: int = 0, move: int = 1, **values: object) -> NewMessage:
    """A message that comes from another queue."""
    recipients = [
        NewRecipient(
            address=address.encode(),
            key="example.net",
            standing=Standing(
                number=number + place,
                rank=0,
                due=NOON,
                expires=NOON + DAY,
                attempts=2,
                warned=True,
                doubtful=True,
                status="4.7.1",
                reason="later",
            ),
        )
        for place, address in enumerate(addresses)
    ]
    numbers = tuple(range(number, number + len(addresses)))
    moved = Provenance(queue=FAR.uid, move=move, message=message, numbers=numbers, submitted=NOON - DAY)
    return replace(new(), recipients=recipients, moved=moved, **values)


async def what_comes_from_elsewhere_comes_once(queue: Harness) -> None:
    store, old = queue.store, (await queue.store.submit([new("before@example.net")]))[0].id - (DAY_OF_IDS)
    (accepted,) = await store.submit([from_elsewhere("a@example.net", "b@example.net", message=old)])
    assert accepted == Accepted(old)
    again = from_elsewhere("b@example.net", "c@example.net", message=old, number=1)
    for one in ([again], [new("x@example.net"), again]):
        with pytest.raises(Conflict):
            await store.submit(one)
    upload = await store.upload(replace(again, recipients=()))
    await upload.write(b"x" * 2_000_000)
    await upload.add_recipients(again.recipients)
    with pytest.raises(Conflict):
        await upload.accept()
    with pytest.raises(Conflict):  # not even in one call
        await store.submit(
            [from_elsewhere("d@example.net", message=old + 9), from_elsewhere("d@example.net", message=old + 9)]
        )
    (third,) = await store.submit([from_elsewhere("c@example.net", message=old, number=2)])
    (fourth,) = await store.submit([from_elsewhere("a@example.net", message=old, move=2)])  # another one of that id
    assert old < third.id < fourth.id < old + 10  # the next ones that are free
    assert await there(store) == [
        "a@example.net", "b@example.net", "c@example.net", "a@example.net", "before@example.net"
    ]  # fmt: skip
    notes = await store.taken_in(FAR.uid)
    assert [(one.move, one.message, one.numbers, one.here) for one in notes] == [
        (1, old, (0, 1), old),
        (1, old, (2,), third.id),
        (2, old, (0,), fourth.id),
    ]
    assert await store.taken_in("1" * 32) == []
    store = await queue.crash(machine=True)
    await store.departed(FAR.uid, notes[:2])
    assert await store.taken_in(FAR.uid) == notes[2:]
    assert await store.taken_in(FAR.uid, [old]) == notes
    with pytest.raises(Conflict):  # as long as somebody might try again
        await store.submit([again])
    queue.wait(MOVES_KEPT + 1)
    await swept(store, queue.now())
    assert await store.taken_in(FAR.uid, [old]) == notes[2:]


DAY_OF_IDS = int(DAY * 1000) << 22


async def what_is_refused_leaves_no_note(queue: Harness) -> None:
    """Of a request that cannot be taken nothing is kept, and others of the same transaction are."""
    store = queue.store
    old = (await store.submit([new("before@example.net")]))[0].id - DAY_OF_IDS
    good = from_elsewhere("a@example.net", message=old, move=1)
    bad = from_elsewhere("b@example.net", message=old + 1)
    bad = replace(bad, recipients=[replace(bad.recipients[0], key="\0")])
    answers = await asyncio.gather(
        store.submit([good, bad]), store.submit([new("c@example.net")]), return_exceptions=True
    )
    assert isinstance(answers[0], QueueError)
    assert await store.taken_in(FAR.uid) == []
    assert await there(store) == ["before@example.net", "c@example.net"]
    (accepted,) = await store.submit([good])
    assert [note.here for note in await store.taken_in(FAR.uid)] == [accepted.id]


async def what_comes_from_elsewhere_is_found_by_who_delivers(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"{name}@example.net", due=NOON) for name in "ab"])
    old = (await rows(store))[0].recipient.message - DAY_OF_IDS
    await store.join("node")
    lease = await lease_of(store)
    read = await claim(store, lease, NOON)
    await store.arrivals(0)
    other = await queue.another()
    for place, process in enumerate((other, store)):
        (accepted,) = await process.submit([from_elsewhere(f"old{place}@example.net", message=old + place)])
        assert time_of(accepted.id) == NOON - DAY
        await told(store, lambda news: "example.net" in news.poked and "example.net" in news.keys)
    found = await claim(store, lease, NOON)
    assert [one.recipient.address for one in found] == [
        b"old0@example.net", b"old1@example.net", b"a@example.net", b"b@example.net"
    ]  # fmt: skip
    (one, other_one, *_) = found
    assert (one.recipient.attempts, one.recipient.doubtful, one.message.submitted) == (2, True, NOON - DAY)
    assert await store.mark(lease, attempts([one, other_one, *read]))
    assert await store.settle(lease, [ended(each.recipient, NOON) for each in (one, other_one, *read)], []) == []
    assert (await store.counters())["repeated"] == 2


async def ids_of_the_future_are_not_kept(queue: Harness) -> None:
    (first,) = await queue.store.submit([new()])
    (second,) = await queue.store.submit([from_elsewhere("a@example.net", message=first.id + DAY_OF_IDS)])
    assert first.id < second.id < first.id + 10  # the next one


async def a_change_needs_a_move_that_began(queue: Harness) -> None:
    await queue.store.submit([new()])
    for number in (1, 7, -1):
        with pytest.raises(QueueError, match="move"):
            _ = [one async for one in queue.store.change(Filter(), Change(move=number))]
    move = await queue.store.begin_move(FAR, by="ann")
    assert await queue.store.moves() == [move]
    assert (move.to, move.by, move.begun) == (FAR, "ann", NOON)
    kept, _ = await set_apart(queue.store)
    queue.wait(MOVES_KEPT + 1)
    await swept(queue.store, queue.now())
    assert await queue.store.moves() == [kept]


@stores
@pytest.mark.parametrize(
    "scenario",
    [
        nobody_has_what_is_set_apart,
        what_somebody_has_is_not_set_apart,
        what_was_in_hand_when_the_machine_died_is_not_set_apart,
        what_is_set_apart_is_in_doubt_of_nobody,
        holds_are_kept_and_rules_are_asked_again,
        what_departs_has_its_end_and_owes_nothing,
        what_comes_from_elsewhere_comes_once,
        what_is_refused_leaves_no_note,
        what_comes_from_elsewhere_is_found_by_who_delivers,
        ids_of_the_future_are_not_kept,
        a_change_needs_a_move_that_began,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_store(scenario: Callable[[Harness], Awaitable[None]], make: Make, tmp_path: Path) -> None:
    play(make(tmp_path), scenario)
