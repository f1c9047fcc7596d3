"""The promises about parts of sites: each recipient has one owner, whichever slots are shed, taken and taken over."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from tests.queue.contract import all_of, promise, told
from tests.queue.harness import (
    NOON,
    Harness,
    attempts,
    claim,
    ended,
    in_doubt,
    in_doubt_of,
    lease_of,
    new,
    there,
    to,
)

from zsmtp.errors import QueueError
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import Change, SiteStatus
from zsmtp.queue.slots import ALL, has, slot_of
from zsmtp.queue.states import AttemptKey
from zsmtp.queue.store import Claimed, Doubt, Lease, QueueStore

LOW, HIGH = 0x00FF, 0xFF00
KEY = "one.example"
MANY = 40


async def submitted(store: QueueStore, key: str = KEY, number: int = MANY) -> None:
    """Queue messages: some in each half of the slots."""
    await store.submit([new(to(f"u{n}@{key}", key)) for n in range(number)])


async def leased(queue: Harness) -> tuple[QueueStore, Lease]:
    """The store of a node, with that mail, and its lease of the site."""
    store = queue.store
    await store.join("node")
    await submitted(store)
    return store, await lease_of(store, KEY)


def within(slots: int, claimed: list[Claimed]) -> list[Claimed]:
    """Those in slots."""
    return [one for one in claimed if has(slots, one.recipient.message)]


class Two(NamedTuple):
    """Two nodes that share a site."""

    first: QueueStore
    second: QueueStore
    low: Lease
    high: Lease


async def shared(queue: Harness) -> Two:
    """The first node has the low slots of the site, the second one the high ones."""
    first = queue.store
    await first.join("first")
    await submitted(first)
    low = await first.shed(await lease_of(first, KEY), HIGH)
    assert low is not None
    second = await queue.another()
    await second.join("second")
    return Two(first, second, low, await lease_of(second, KEY))


@promise
async def each_slot_has_one_owner(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    assert (low.slots, high.slots) == (LOW, HIGH)
    assert high.number > low.number
    assert low.keys == high.keys == (KEY,)
    mine, theirs = await claim(first, low, NOON), await claim(second, high, NOON)
    assert len(mine) + len(theirs) == MANY
    assert within(LOW, mine) == mine
    assert within(HIGH, theirs) == theirs
    assert len(mine) > 5 < len(theirs)
    third = await queue.another()
    await third.join("third")
    for store in (first, second, third):
        assert await store.take([KEY], limit=10) == []
    for store in (second, third):
        await store.close()


@promise
async def a_part_marks_and_settles_only_its_own(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    mine, theirs = await claim(first, low, NOON), await claim(second, high, NOON)
    assert not await first.mark(low, attempts(theirs[:1]))
    assert not await first.mark(low, attempts([mine[0], theirs[0]]))
    assert await first.mark(low, attempts(mine[:1]))
    assert await second.mark(high, attempts(theirs[:1]))
    one, other = mine[0].recipient, theirs[0].recipient
    assert await first.settle(low, [ended(other, NOON)], []) == [other.next_attempt]
    assert (await first.counters())["late"] == 1
    assert await second.settle(high, [ended(one, NOON)], []) == [one.next_attempt]
    assert await second.settle(high, [ended(other, NOON)], []) == []
    assert await first.settle(low, [ended(one, NOON)], []) == []
    assert len(await there(first)) == MANY - 2
    page = await first.review(low, (0, -1), limit=100)
    assert [found.recipient for found in page] == [one.recipient for one in mine[1:]]
    await second.close()


@promise
async def what_was_sent_before_slots_were_shed_is_late_after(queue: Harness) -> None:
    """Nobody does this who keeps the contract; a store that is asked for it gives it to the owner only."""
    store, lease = await leased(queue)
    gone = within(HIGH, await claim(store, lease, NOON))[0].recipient
    await store.shed(lease, HIGH)
    assert not await store.mark(lease, [gone.next_attempt])
    assert await store.settle(lease, [ended(gone, NOON)], [gone.next_attempt]) == [gone.next_attempt]
    assert len(await there(store)) == MANY
    assert await there(store, "state=leased") == []


@promise
async def slots_that_nobody_wants_come_back(queue: Harness) -> None:
    store, lease = await leased(queue)
    assert lease.slots == ALL
    assert await store.take([KEY], limit=10) == []
    left = await store.shed(lease, 0x0FF0)
    assert left == Lease(lease.number, KEY, (KEY,), slots=0xF00F)
    claimed = await claim(store, left, NOON)
    assert within(0xF00F, claimed) == claimed
    (head,) = await store.heads([left])
    found, due = await store.claim(left, head.sub_queue, claimed[-1].recipient.position, NOON, limit=9, octets=9)
    assert (found, due) == ([], None), "what others have is not next"
    assert await store.shed(left, 0x0FF0) == left, "as if the answer had been lost"
    narrow = Lease(left.number, left.site, left.keys, slots=0x000F)
    claimed = await claim(store, narrow, NOON)
    assert claimed == within(0x000F, claimed) != []
    (again,) = await store.take([KEY], limit=0)
    assert again == lease
    assert len(await claim(store, again, NOON)) == MANY
    assert await store.take([KEY], limit=10) == []


@promise
async def a_lease_that_is_over_sheds_nothing(queue: Harness) -> None:
    store, lease = await leased(queue)
    with pytest.raises(QueueError, match="give it back"):
        await store.shed(lease, ALL)
    await store.give_back([lease])
    assert await store.shed(lease, HIGH) is None
    assert (await lease_of(store, KEY)).slots == ALL


@promise
async def slots_with_a_mark_are_not_shed(queue: Harness) -> None:
    store, lease = await leased(queue)
    one = (await claim(store, lease, NOON))[0].recipient
    assert await store.mark(lease, [one.next_attempt])
    mine = 1 << slot_of(one.message)
    with pytest.raises(QueueError, match="settle them first"):
        await store.shed(lease, mine | 0x0101)
    assert await store.take([KEY], limit=1) == [], "nothing was given up"
    left = await store.shed(lease, ALL & ~mine)
    assert left is not None
    assert left.slots == mine
    assert await store.settle(left, [ended(one, NOON)], []) == []
    await store.give_back([left])


@promise
async def what_is_in_hand_of_shed_slots_is_not_in_doubt(queue: Harness) -> None:
    store, lease = await leased(queue)
    claimed = await claim(store, lease, NOON)
    assert await store.settle(lease, [], attempts(claimed)) == []
    left = await store.shed(lease, HIGH)
    assert left is not None
    assert await there(store, "state=leased") == [one.recipient.address.decode() for one in within(LOW, claimed)]
    assert await store.settle(left, [], attempts(claimed)) == []  # it was made before, and is written after
    store = await queue.crash(machine=True)
    await store.join("next")
    lease = await lease_of(store, KEY)
    assert lease.slots == ALL
    assert in_doubt_of(lease) == [(attempt, True) for attempt in attempts(within(LOW, claimed))]
    for doubt in lease.doubts:
        assert await store.settle(lease, [in_doubt(doubt.recipient, NOON, NOON + 9)], []) == []


@promise
async def doubts_go_with_their_slots(queue: Harness) -> None:
    store, lease = await leased(queue)
    claimed = await claim(store, lease, NOON)
    marked = [within(LOW, claimed)[0], within(HIGH, claimed)[0]]
    assert await store.mark(lease, attempts(marked))
    store = await queue.crash()
    await store.join("next")
    lease = await lease_of(store, KEY)
    doubts = {doubt.recipient.next_attempt: doubt for doubt in lease.doubts}
    assert doubts.keys() == set(attempts(marked))
    low, high = (doubts[one.recipient.next_attempt] for one in marked)
    left = await store.shed(lease, HIGH)
    assert left is not None
    assert left.doubts == (low,)
    assert await store.settle(left, [in_doubt(high.recipient, NOON, NOON + 9)], []) == [high.recipient.next_attempt]
    (again,) = await store.take([], limit=0)  # somebody has to settle it, so it counts as work
    assert (again.number, again.slots) == (lease.number, ALL)
    assert set(again.doubts) == {low, high}
    assert await store.settle(again, [in_doubt(one.recipient, NOON, NOON + 9) for one in again.doubts], []) == []
    assert await store.take([KEY], limit=9) == []


@promise
async def the_doubts_of_a_dead_part_are_the_next_owners(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    sent, other = (await claim(second, high, NOON))[:2]
    assert await second.mark(high, attempts([sent]))
    assert await second.settle(high, [], attempts([sent, other])) == []
    mine = (await claim(first, low, NOON))[0]
    assert await first.mark(low, attempts([mine]))
    third = await queue.another()
    await third.join("third")
    queue.clock.advance(19)
    for store in (first, third):
        store.beat()
        assert await store.take([KEY], limit=9) == []
    queue.clock.advance(2)
    for store in (first, third):
        store.beat()
    (part,) = await third.take([], limit=9)
    assert (part.site, part.slots, part.keys) == (KEY, HIGH, (KEY,))
    assert part.doubts == (Doubt(sent.recipient, sent.message, machine=False),)
    assert part.number > high.number
    assert await first.take([KEY], limit=9) == []
    assert not await second.mark(high, attempts([other]))
    assert await second.settle(high, [ended(sent.recipient, NOON)], []) == attempts([sent])
    assert await first.settle(low, [ended(mine.recipient, NOON)], []) == []
    assert await third.settle(part, [in_doubt(sent.recipient, NOON, NOON + 300)], []) == []
    # Until it is due again, the word of the marked attempt still settles it.
    assert await second.settle(high, [ended(sent.recipient, NOON)], []) == []
    assert len(await there(first)) == MANY - 2
    for store in (second, third):
        await store.close()


@promise
async def the_other_part_takes_a_dead_one_over(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    sent = (await claim(second, high, NOON))[0]
    assert await second.mark(high, attempts([sent]))
    queue.clock.advance(21)
    first.beat()
    (whole,) = await first.take([], limit=0)
    assert (whole.number, whole.slots) == (low.number, ALL)
    assert in_doubt_of(whole) == [(sent.recipient.next_attempt, False)]
    assert sent.recipient not in [one.recipient for one in await claim(first, whole, NOON)]
    assert await first.settle(whole, [in_doubt(sent.recipient, NOON, NOON)], []) == []
    assert len(await claim(first, whole, NOON)) == MANY
    await second.close()


@promise
async def an_operator_changes_no_part_behind_its_owner(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    sent, next_one = (await claim(second, high, NOON))[:2]
    mine = (await claim(first, low, NOON))[0]
    assert await second.mark(high, attempts([sent]))
    assert await first.mark(low, attempts([mine]))
    assert await all_of(first.change(Filter(), Change(end="dropped"))) == MANY - 2
    assert KEY in (await told(second, lambda news: news.poked)).poked
    assert not await second.mark(high, attempts([next_one]))
    assert len(await there(first)) == 2
    assert await second.settle(high, [ended(sent.recipient, NOON)], []) == []
    assert await first.settle(low, [ended(mine.recipient, NOON)], []) == []
    await second.close()


@promise
async def keys_stay_with_a_site_as_long_as_it_has_a_lease(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    await first.learn({KEY: "provider", "two.example": "provider"})
    await submitted(first, "two.example", 1)
    third = await queue.another()
    await third.join("third")
    (elsewhere,) = await third.take([KEY, "two.example"], limit=9)
    assert (elsewhere.site, elsewhere.keys, elsewhere.slots) == ("provider", ("two.example",), ALL)
    await first.give_back([low])
    (part,) = await first.take([KEY], limit=9)
    assert (part.site, part.keys, part.slots) == (KEY, (KEY,), LOW)
    await second.give_back([high])
    await first.give_back([part])
    (more,) = await third.take([KEY], limit=0)
    assert (more.number, more.keys) == (elsewhere.number, (KEY, "two.example"))
    for store in (second, third):
        await store.close()


@promise
async def each_part_has_the_new_keys_of_its_site(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    await first.learn({"two.example": KEY})
    await submitted(first, "two.example")
    (more,) = await first.take(["two.example"], limit=0)
    assert (more.number, more.keys, more.slots) == (low.number, (KEY, "two.example"), LOW)
    (other,) = await second.take(["two.example"], limit=0)
    assert (other.number, other.keys, other.slots) == (high.number, (KEY, "two.example"), HIGH)
    mine, theirs = await claim(first, more, NOON), await claim(second, other, NOON)
    assert len(mine) + len(theirs) == 2 * MANY
    assert within(LOW, mine) == mine
    left = await first.shed(more, 0x000F)
    assert left is not None
    await first.learn({"three.example": KEY})
    await submitted(first, "three.example", 1)
    (grown,) = await first.take(["three.example"], limit=0)
    assert (grown.slots, len(grown.keys)) == (0x00F0, 3), "a new key does not fetch slots back"
    await second.close()


@promise
async def a_drained_node_gives_its_part_to_others(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    async with asyncio.timeout(60):
        while (await first.arrivals(0.01)).nodes != 2:
            await submitted(first, KEY, 1)  # a node is told with its next heartbeat, or notification
    left = await first.shed(low, 0x000F)
    assert left is not None
    assert await first.drain("second") == 1
    assert await second.take([KEY], limit=9) == [], "a node that leaves takes no more slots"
    await second.give_back([high])
    (whole,) = await first.take([KEY], limit=0)
    assert (whole.number, whole.slots) == (low.number, ALL)
    async with asyncio.timeout(60):
        while (await first.arrivals(0.01)).nodes != 1:
            await submitted(first, KEY, 1)
    await second.close()


@promise
async def a_node_that_is_closed_gives_its_part_back(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, low, _ = await shared(queue)
    await second.close()
    (whole,) = await first.take([KEY], limit=0)
    assert (whole.number, whole.slots) == (low.number, ALL)
    await first.give_back([whole])
    assert (await lease_of(first, KEY)).number > low.number


@promise
async def each_owner_of_a_site_reports(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    first, second, _, high = await shared(queue)
    mine = SiteStatus(site=KEY, node="first", updated=NOON, window=3, busy=2, ready=7, slots=LOW)
    theirs = SiteStatus(site=KEY, node="second", updated=NOON, window=4, slots=HIGH)
    await first.report([mine])
    await second.report([theirs])
    assert await first.sites([KEY]) == await second.sites() == [mine, theirs]
    assert [node.sites for node in await first.nodes()] == [1, 1]
    await second.give_back([high])
    assert await first.sites() == [mine]
    await second.close()


@promise
async def a_key_moves_into_a_part(queue: Harness) -> None:
    """A recipient that an operator moves to a site in parts belongs to the owner of its slot."""
    if not queue.many_nodes:
        return
    first, second, low, high = await shared(queue)
    await submitted(first, "two.example", 1)
    (other,) = await first.take(["two.example"], limit=9)
    (one,) = await claim(first, other, NOON)
    assert await all_of(first.change(Filter.parse("domain=two.example"), Change(key=KEY))) == 1
    mine, theirs = await claim(first, low, NOON), await claim(second, high, NOON)
    assert len(mine) + len(theirs) == MANY + 1
    attempt: AttemptKey = one.recipient.next_attempt
    is_low = has(LOW, attempt.message)
    assert await first.mark(low, [attempt]) == is_low
    assert await second.mark(high, [attempt]) == (not is_low)
    owner, lease = (first, low) if is_low else (second, high)
    assert not await first.mark(other, [attempt])
    (found,) = [found for found in (*mine, *theirs) if found.recipient.next_attempt == attempt]
    assert await owner.settle(lease, [ended(found.recipient, NOON)], []) == []
    await second.close()
