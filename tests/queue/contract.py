"""The promises of the contract of stores, each as a scenario that every store has to keep.

A scenario is given a :class:`~tests.queue.harness.Harness` and says nothing of what is behind it;
``test_contract.py`` plays all of them against all stores.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.queue.harness import (
    DAY,
    NOON,
    Harness,
    all_claimed,
    attempts,
    claim,
    content_of,
    deferred,
    ended,
    failed,
    findings,
    in_doubt,
    in_doubt_of,
    lease_of,
    new,
    notice,
    rows,
    swept,
    take,
    there,
    to,
)

from zsmtp.errors import Conflict, QueueBusy, QueueError, QueueFull, QueueUnavailable
from zsmtp.queue import quotas
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import from_text, time_of, to_text
from zsmtp.queue.limits import (
    BY_COMMAND,
    CHUNK,
    PART_RECIPIENTS,
)
from zsmtp.queue.operators import (
    Change,
    Rule,
    SiteStatus,
)
from zsmtp.queue.quotas import Amount
from zsmtp.queue.states import (
    START,
    AttemptKey,
    NoticeKind,
    Outcome,
    Position,
    State,
    SubQueue,
)
from zsmtp.queue.store import (
    Arrivals,
    Deferred,
    Doubt,
    Ended,
    NewRecipient,
    QueueStore,
)
from zsmtp.queue.suppression import OVERRIDE, PIECE, Suppression
from zsmtp.records import replace as replaced

Scenario = Callable[[Harness], Awaitable[None]]
PROMISES: list[Scenario] = []


def promise(scenario: Scenario) -> Scenario:
    """Add a scenario to the suite."""
    PROMISES.append(scenario)
    return scenario


async def all_of(changes: AsyncIterator[int]) -> int:
    """How many were changed in all pieces."""
    return sum([number async for number in changes])


async def told(store: QueueStore, enough: Callable[[Arrivals], object]) -> Arrivals:
    """What a store tells until it is enough. What others did is told in pieces, and with what they did before it."""
    news = Arrivals({})
    async with asyncio.timeout(60):
        while not enough(news):
            store.beat()
            more = await store.arrivals(1)
            news = Arrivals(
                {**news.keys, **more.keys}, news.poked | more.poked, news.rules or more.rules, news.drain or more.drain
            )
    return news


# -------------------------------------------------------------------- intake


@promise
async def accepted_is_on_disk(queue: Harness) -> None:
    (accepted,) = await queue.store.submit([new("bob@example.net", "ann@example.org")])
    store = await queue.crash(machine=True)
    assert await there(store) == ["bob@example.net", "ann@example.org"]
    message = await store.message(accepted.id)
    assert message is not None
    assert await content_of(store, message) == b"Subject: x\r\n\r\nhello\r\n"


@promise
async def a_message_comes_back_as_it_was_submitted(queue: Harness) -> None:
    content = bytes(range(256)) * 20
    (accepted,) = await queue.store.submit(
        [
            new(
                NewRecipient(
                    address="jörg@exämple.net".encode(),
                    key="xn--exmple-cua.net",
                    notify=b"SUCCESS,DELAY",
                    orcpt=b"utf-8;j\\x{F6}rg@example.net",
                ),
                content=content,
                sender="käthe@example.org".encode(),
                tenant="Ä-tenant",
                priority=3,
                due=NOON + 0.125,
                expires=NOON + 60.5,
                ret=b"HDRS",
                envid=b"abc+2B",
                name="<1@example.org>",
                origin="smtp 192.0.2.1 login ann",
                options={"require_tls": True, "deliver_by": 3600, "tags": ["a", "ü"]},
            )
        ]
    )
    (row,) = await rows(queue.store)
    message, one = row.message, row.recipient
    assert message.id == one.message == accepted.id
    assert (message.sender, message.tenant, message.priority) == ("käthe@example.org".encode(), "Ä-tenant", 3)
    assert (message.submitted, message.size, message.recipients) == (NOON, len(content), 1)
    assert (message.ret, message.envid, message.name) == (b"HDRS", b"abc+2B", "<1@example.org>")
    assert message.origin == "smtp 192.0.2.1 login ann"
    assert message.options == {"require_tls": True, "deliver_by": 3600, "tags": ["a", "ü"]}
    assert (one.address, one.key, one.rank) == ("jörg@exämple.net".encode(), "xn--exmple-cua.net", -3)
    assert (one.notify, one.orcpt) == (b"SUCCESS,DELAY", b"utf-8;j\\x{F6}rg@example.net")
    assert (one.due, one.expires, one.attempts, one.hold) == (NOON + 0.125, NOON + 60.5, 0, 0)
    assert row.state is State.DUE
    await queue.store.join("node")
    (claimed,) = await claim(queue.store, await lease_of(queue.store), NOON + 1)
    assert (claimed.recipient, claimed.message, claimed.content) == (one, message, content)


@promise
async def ids_grow_with_time_and_are_never_used_again(queue: Harness) -> None:
    first, second = await queue.store.submit([new(), new()])
    assert first.id < second.id
    assert time_of(first.id) == NOON
    assert from_text(to_text(second.id, 7)) == (second.id, 7)
    await all_of(queue.store.change(Filter(), Change(end="dropped")))
    await swept(queue.store, NOON)
    queue.clock.jump(-3600)  # the clock goes back by an hour
    store = await queue.crash()
    (third,) = await store.submit([new()])
    assert third.id > second.id
    queue.clock.jump(7200)
    (fourth,) = await store.submit([new()])
    assert time_of(fourth.id) == NOON + 3600


@promise
async def a_clock_that_is_far_off_loses_nothing(queue: Harness) -> None:
    store = queue.store
    await store.join("node")
    (first,) = await store.submit([new("a@example.net")])
    queue.clock.jump(100 * 365 * DAY)  # beyond all ids
    for refused in ([new("b@example.net"), new("c@example.net")], [new(content=b"x" * (2 << 20))]):
        with pytest.raises(QueueUnavailable, match="the clock of the machine says"):
            await store.submit(refused)
    lease = await lease_of(store)
    (claimed,) = await claim(store, lease, queue.now())
    assert await store.mark(lease, attempts([claimed]))
    assert await store.settle(lease, [deferred(claimed.recipient, queue.now(), queue.now() + 60)], []) == []
    queue.clock.jump(-100 * 365 * DAY)
    assert await all_of(store.change(Filter(), Change(due=NOON))) == 1
    queue.clock.jump(-70 * 365 * DAY)  # before 1970
    (second,) = await store.submit([new("d@example.net", due=0.0)])
    assert second.id > first.id
    queue.clock.jump(70 * 365 * DAY)
    assert [one.recipient.address for one in await claim(store, lease, NOON)] == [b"d@example.net", b"a@example.net"]
    assert await store.count(Filter(), by="age") == {"<5m": 2}
    await swept(store, NOON)
    assert await there(store) == ["a@example.net", "d@example.net"]


@promise
async def messages_are_taken_all_or_none(queue: Harness) -> None:
    good = new("bob@example.net")
    for bad in (
        new(NewRecipient(address=b"\xff@example.net", key="example.net")),
        new(NewRecipient(address=b"a\0b@example.net", key="example.net")),
        new(to("bob@example.net", "example\0net")),
        new(to("bob@example.net", orcpt=b"\xe4")),
        new(sender=b"\xff@example.net"),
        new(tenant="\ud800"),
        new(due=float("nan")),
        new(expires=1e300),
        new(priority=1 << 40),
        new(options={"a": object()}),
        new(to("bob@example.net", hold=-1)),
        replaced(good, recipients=()),
    ):
        with pytest.raises(QueueError):
            await queue.store.submit([good, bad, good])
        assert await there(queue.store) == []
    assert len(await queue.store.submit([good, good])) == 2
    assert (await queue.store.counters())["accepted"] == 2


@promise
async def words_lose_only_what_cannot_be_kept(queue: Harness) -> None:
    await queue.store.submit([new(name="a\0b\udc80", origin="x" * 600)])
    (row,) = await rows(queue.store)
    assert (row.message.name, row.message.origin) == ("a\ufffdb\ufffd", "x" * 497 + "...")


@promise
async def a_second_message_with_the_same_key_is_not_queued(queue: Harness) -> None:
    order = new(idempotency_key="order 1", digest=b"d", tenant="shop")
    (first,) = await queue.store.submit([order])
    (again,) = await queue.store.submit([order])
    assert (again.id, first.existed, again.existed) == (first.id, False, True)
    (elsewhere,) = await queue.store.submit([replaced(order, tenant="other")])
    assert not elsewhere.existed
    one, two = await queue.store.submit([replaced(order, idempotency_key="2"), replaced(order, idempotency_key="2")])
    assert (one.id, one.existed, two.existed) == (two.id, False, True)
    with pytest.raises(Conflict):
        await queue.store.submit([new(), replaced(order, digest=b"other")])
    with pytest.raises(Conflict):
        await queue.store.submit([replaced(order, idempotency_key="3", digest=bytes([n])) for n in range(2)])
    assert len(await there(queue.store)) == 3
    store = await queue.crash(machine=True)
    assert (await store.submit([order]))[0] == (first.id, True)


@promise
async def a_key_is_forgotten_a_week_after_the_last_end(queue: Harness) -> None:
    order = new("a@example.net", "b@example.net", idempotency_key="order 1", expires=NOON + 60 * DAY)
    (first,) = await queue.store.submit([order])
    await all_of(queue.store.change(Filter.parse("to=a@*"), Change(end="failed")))
    queue.clock.advance(20 * DAY)
    await swept(queue.store, queue.now())
    assert (await queue.store.submit([order]))[0].existed  # b has no end yet
    await all_of(queue.store.change(Filter(), Change(end="dropped")))
    queue.clock.advance(6 * DAY)
    await swept(queue.store, queue.now())
    assert (await queue.store.submit([order]))[0] == (first.id, True)
    queue.clock.advance(2 * DAY)
    await swept(queue.store, queue.now())
    assert not (await queue.store.submit([order]))[0].existed


@promise
async def concurrent_submissions_are_all_taken(queue: Harness) -> None:
    answers = await asyncio.gather(
        *(queue.store.submit([new(f"u{n}@example.net", idempotency_key=f"{n % 10}")]) for n in range(50)),
        *(queue.store.submit([new(NewRecipient(address=b"\xff", key="x"))]) for _ in range(3)),
        return_exceptions=True,
    )
    taken = [answer[0] for answer in answers if not isinstance(answer, BaseException)]
    assert len(taken) == 50
    assert len({one.id for one in taken}) == sum(not one.existed for one in taken) == 10
    assert len(await there(queue.store)) == 10


@promise
async def intake_stops_before_results_do(queue: Harness) -> None:
    await queue.store.submit([new()])
    await queue.store.join("node")
    (claimed,) = await claim(queue.store, lease := await lease_of(queue.store), NOON)
    for free, octets, full in (((64 << 20) + 2000, 1000, False), ((64 << 20) + 1999, 1000, True), (0, 0, True)):
        queue.free = free
        if full:
            with pytest.raises(QueueFull):
                await queue.store.submit([new(content=b"x" * octets)])
            upload = await queue.store.upload(new(content=b""))
            with pytest.raises(QueueFull):
                await upload.write(b"x" * (2 << 20))
            await upload.discard()
        else:
            await queue.store.submit([new(content=b"x" * octets)])
        assert (await queue.store.health()).free_octets == free
    assert await queue.store.settle(lease, [ended(claimed.recipient, NOON)], []) == []
    assert len(await there(queue.store)) == 1


# ------------------------------------------------------------------- uploads


@promise
async def nothing_of_an_upload_is_seen_before_it_is_accepted(queue: Harness) -> None:
    await queue.store.join("node")
    upload = await queue.store.upload(new("first@example.net", content=b"begin "))
    many = [to(f"u{n}@d{n % 3}.example.net") for n in range(2500)]
    await upload.add_recipients(many)
    content = b"".join(b"%07d " % n for n in range(300_000))
    for start in range(0, len(content), 100_000):
        await upload.write(content[start : start + 100_000])
    assert await rows(queue.store) == []
    assert await queue.store.count(Filter()) == {"": 0}
    assert await queue.store.count(Filter(), by="key") == {}
    assert await all_of(queue.store.change(Filter(), Change(end="dropped"))) == 0
    assert await take(queue.store) == []
    await swept(queue.store, NOON)
    accepted = await upload.accept()
    message = await queue.store.message(accepted.id)
    assert message is not None
    assert (message.size, message.recipients) == (len(content) + 6, 2501)
    assert await content_of(queue.store, message) == b"begin " + content
    assert await queue.store.count(Filter(), by="state") == {"due": 2501}
    assert (await queue.store.counters())["accepted"] == 2501
    claimed = await all_claimed(queue.store, 2501, NOON)
    assert {one.recipient.number for one in claimed} == set(range(2501))
    assert {one.content for one in claimed} == {None}
    with pytest.raises(QueueError):
        await upload.write(b"x")
    with pytest.raises(QueueError):
        await upload.accept()


@promise
async def an_accepted_upload_survives_in_the_middle_of_being_let_go(queue: Harness) -> None:
    rule = await queue.store.add_rule(Rule(action="hold", filter=""))
    upload = await queue.store.upload(new("first@example.net", content=b""))
    await upload.add_recipients([to(f"u{n}@example.net") for n in range(3 * PART_RECIPIENTS)])
    await upload.add_recipients([to("held@example.net", hold=rule.number), to("x@example.net", hold=99)])
    await upload.write(b"content")
    await upload.accept()
    assert await all_of(queue.store.change(Filter.parse("to=u7@*"), Change(hold=rule.number))) == 1
    assert await all_of(queue.store.change(Filter.parse("to=u8@*"), Change(end="dropped"))) == 1
    store = await queue.crash(machine=True)
    await store.join("node")
    claimed = await all_claimed(store, 3 * PART_RECIPIENTS, NOON)
    assert {b"u7@example.net", b"u8@example.net", b"held@example.net"}.isdisjoint(
        one.recipient.address for one in claimed
    )
    assert await there(store, "state=held") == ["u7@example.net", "held@example.net"]


@promise
async def an_abandoned_upload_is_swept_after_an_hour(queue: Harness) -> None:
    abandoned = await queue.store.upload(new(content=b""))
    await abandoned.write(b"x" * (3 << 20))
    await abandoned.add_recipients([to(f"u{n}@example.net") for n in range(1500)])
    slow = await queue.store.upload(new(content=b""))
    for _ in range(3):
        queue.clock.advance(1500)
        await swept(queue.store, queue.now())
        await slow.write(b"y" * (1 << 20))
    with pytest.raises(QueueError):
        await abandoned.write(b"x" * (1 << 20))
    await slow.accept()
    assert [row.message.size for row in await rows(queue.store)] == [3 << 20]
    discarded = await queue.store.upload(new(content=b"x" * (2 << 20)))
    await discarded.write(b"x")
    await discarded.discard()
    await swept(queue.store, queue.now())


@promise
async def an_upload_keeps_its_idempotency_key(queue: Harness) -> None:
    large = new(content=b"x" * (3 << 20), idempotency_key="1", digest=b"d")
    upload = await queue.store.upload(large)
    await upload.write(b"y")
    first = await upload.accept()
    again = await queue.store.upload(large)
    await again.write(b"y")
    assert await again.accept() == (first.id, True)
    other = await queue.store.upload(replaced(large, digest=b"other"))
    await other.write(b"y")
    with pytest.raises(Conflict):
        await other.accept()
    await swept(queue.store, NOON)
    assert len(await rows(queue.store)) == 1
    empty = await queue.store.upload(replaced(large, recipients=(), idempotency_key=""))
    with pytest.raises(QueueError):
        await empty.accept()


@promise
async def a_large_message_may_be_submitted_with_small_ones(queue: Harness) -> None:
    large = new(*(f"u{n}@example.net" for n in range(1200)), content=b"z" * (CHUNK * 5 + 3))
    first, second, third = await queue.store.submit([new("a@example.net"), large, new("b@example.net")])
    assert await queue.store.count(Filter()) == {"": 1202}
    message = await queue.store.message(second.id)
    assert message is not None
    assert await content_of(queue.store, message) == b"z" * (CHUNK * 5 + 3)
    assert len({first.id, second.id, third.id}) == 3
    with pytest.raises(QueueError):
        await queue.store.submit([large, new(sender=b"\xff")])
    assert await queue.store.count(Filter()) == {"": 1202}


# -------------------------------------------------------------------- leases


@promise
async def a_site_has_one_owner(queue: Harness) -> None:
    await queue.store.submit([new("a@one.example"), new("b@two.example")])
    await queue.store.join("node")
    first = await take(queue.store, limit=1)
    second = await take(queue.store)
    assert len(first) == len(second) == 1
    assert {first[0].site, second[0].site} == {"one.example", "two.example"}
    assert second[0].number > first[0].number
    assert await take(queue.store) == []
    await queue.store.give_back(first)
    (again,) = await take(queue.store)
    assert again.site == first[0].site
    assert again.number > second[0].number
    assert await claim(queue.store, first[0], NOON) == []  # the old lease is worth nothing


@promise
async def the_agenda_has_keys_with_work(queue: Harness) -> None:
    store = queue.store
    rule = await store.add_rule(Rule(action="hold", filter=""))
    await store.submit([new("a@later.example", due=NOON + 3600), new("b@now.example", due=NOON - 5)])
    await store.submit([new("c@now.example", priority=3), new("d@now.example", tenant="t", due=NOON - 9)])
    await store.submit([new(to("e@held.example", hold=rule.number))])
    await store.join("node")
    assert await store.agenda() == {"later.example": NOON + 3600, "now.example": NOON - 9}
    await take(store)
    assert len(await store.agenda()) == 2  # leased or not


@promise
async def no_more_sites_are_leased_than_asked_for(queue: Harness) -> None:
    await queue.store.submit([new(f"a@d{n}.example", due=NOON - n) for n in range(20)])
    await queue.store.join("node")
    leases = await queue.store.take(["d3.example", "new.example", "d5.example"], limit=2)
    assert [lease.site for lease in leases] == ["d3.example", "new.example"]
    assert await queue.store.take(["d5.example"], limit=0) == []
    assert await queue.store.take([], limit=10) == []
    assert len(await take(queue.store)) == 19


@promise
async def domains_of_one_site_share_a_lease(queue: Harness) -> None:
    store = queue.store
    await store.join("node")
    await store.submit([new("a@one.example"), new("b@two.example"), new("c@three.example")])
    await store.learn({"one.example": "mx.provider", "two.example": "mx.provider", "four.example": "mx.provider"})
    leases = {lease.site: lease for lease in await take(store)}
    assert {site: lease.keys for site, lease in leases.items()} == {
        "mx.provider": ("one.example", "two.example"),
        "three.example": ("three.example",),
    }
    await store.submit([new("d@four.example")])
    assert "four.example" in (await store.arrivals(1)).keys
    (more,) = await store.take(["four.example"], limit=0)
    assert (more.number, more.keys) == (leases["mx.provider"].number, ("four.example", "one.example", "two.example"))
    assert {head.sub_queue.key for head in await store.heads([more])} == set(more.keys)
    assert await store.count(Filter(), by="site") == {"mx.provider": 3, "three.example": 1}
    assert await store.count(Filter.parse("site=mx.*"), by="key") == {
        "one.example": 1,
        "two.example": 1,
        "four.example": 1,
    }


@promise
async def what_is_learned_later_holds_for_later_leases(queue: Harness) -> None:
    store = queue.store
    await store.join("node")
    await store.submit([new("a@one.example"), new("b@two.example")])
    leases = await take(store)
    await store.learn({"one.example": "mx.provider", "two.example": "mx.provider"})
    assert len(await store.heads(leases)) == 2
    await store.give_back(leases[:1])
    (new_one,) = await take(store)
    assert new_one.site == "mx.provider"
    await store.give_back(leases[1:])
    (more,) = await take(store)
    assert (more.number, more.site, more.keys) == (new_one.number, "mx.provider", ("one.example", "two.example"))
    assert await take(store) == []


@promise
async def only_a_node_delivers(queue: Harness) -> None:
    with pytest.raises(QueueError):
        await queue.store.arrivals(0)
    if not queue.many_nodes:
        await queue.store.join("first")
        other = await queue.another()
        with pytest.raises(QueueBusy, match=r"node first \(process \d+\)"):
            await other.join("second")
        await queue.store.close()
        await other.join("second")
        queue.store = other


@promise
async def leases_are_lost_if_the_loop_does_not_turn(queue: Harness) -> None:
    await queue.store.submit([new("a@one.example"), new("b@one.example")])
    await queue.store.join("node")
    lease = await lease_of(queue.store)
    first, second = await claim(queue.store, lease, NOON)
    queue.clock.advance(9)
    assert await queue.store.mark(lease, attempts([first]))
    queue.clock.advance(2)
    assert not await queue.store.mark(lease, attempts([second]))
    queue.store.beat()
    assert await queue.store.mark(lease, attempts([second]))
    assert await queue.store.settle(lease, [ended(second.recipient, NOON)], attempts([first])) == []
    queue.clock.advance(21)
    (again,) = await take(queue.store)
    assert again.number > lease.number
    assert again.doubts == (Doubt(first.recipient, first.message, machine=False),)
    assert await queue.store.settle(lease, [ended(first.recipient, NOON)], []) == attempts([first])
    queue.store.beat()
    assert await queue.store.settle(again, [in_doubt(first.recipient, NOON, NOON)], []) == []
    (claimed,) = await claim(queue.store, again, NOON)
    assert claimed.recipient.doubtful
    assert claimed.recipient.attempts == 1


@promise
async def an_old_owner_changes_nothing(queue: Harness) -> None:
    if not queue.many_nodes:
        return
    await queue.store.submit([new("a@one.example")])
    await queue.store.join("first")
    other = await queue.another()
    await other.join("second")
    old = await lease_of(queue.store)
    (claimed,) = await claim(queue.store, old, NOON)
    assert await queue.store.mark(old, attempts([claimed]))
    queue.clock.advance(21)
    other.beat()
    (lease,) = await other.take([], limit=1)  # its owner is gone
    assert in_doubt_of(lease) == [(claimed.recipient.next_attempt, False)]
    assert not await queue.store.mark(old, attempts([claimed]))
    assert await queue.store.settle(old, [ended(claimed.recipient, NOON)], []) == attempts([claimed])
    assert await other.settle(lease, [in_doubt(claimed.recipient, NOON, NOON + 300)], []) == []
    # Until it is due again, the word of the marked attempt still settles it.
    assert await queue.store.settle(old, [ended(claimed.recipient, NOON)], []) == []
    assert await rows(other) == []
    assert [one.outcome for one in await other.history(claimed.message.id)] == [
        Outcome.LATE,
        Outcome.IN_DOUBT,
        Outcome.DELIVERED,
    ]
    await other.close()


@promise
async def a_lease_with_a_mark_is_not_given_back(queue: Harness) -> None:
    await queue.store.submit([new()])
    await queue.store.join("node")
    lease = await lease_of(queue.store)
    (claimed,) = await claim(queue.store, lease, NOON)
    await queue.store.mark(lease, attempts([claimed]))
    with pytest.raises(QueueError):
        await queue.store.give_back([lease])
    assert await queue.store.settle(lease, [deferred(claimed.recipient, NOON, NOON, counted=False)], []) == []
    await queue.store.give_back([lease])
    assert (await lease_of(queue.store)).doubts == ()


# -------------------------------------------------------------------- claims


@promise
async def claims_come_in_order_from_a_position(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@example.net", due=NOON - n % 4) for n in range(12)])
    await store.submit([new("later@example.net", due=NOON + 60)])
    await store.submit([new("first@example.net", priority=5), new("other@example.net", tenant="other")])
    await store.join("node")
    lease = await lease_of(store)
    heads = await store.heads([lease])
    assert heads == [
        (SubQueue("example.net", "", -5), NOON),
        (SubQueue("example.net", "", 0), NOON - 3),
        (SubQueue("example.net", "other", 0), NOON),
    ]
    sub_queue = SubQueue("example.net", "", 0)
    found = []
    after = START
    while part := (await store.claim(lease, sub_queue, after, NOON, limit=5, octets=1 << 20))[0]:
        assert len(part) <= 5
        found += part
        after = part[-1].recipient.position
    assert [one.recipient.address for one in found] == [
        b"u%d@example.net" % n for n in sorted(range(12), key=lambda n: (-(n % 4), n))
    ]
    assert [one.recipient.position for one in found] == sorted(one.recipient.position for one in found)
    everything, _ = await store.claim(lease, sub_queue, START, NOON + 60, limit=100, octets=1 << 20)
    assert len(everything) == 13
    elsewhere = SubQueue("elsewhere.example", "", 0)
    assert await store.claim(lease, elsewhere, START, NOON, limit=5, octets=1) == ([], None)


@promise
async def claims_bring_small_contents_within_their_limit(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", content=b"x" * 1000) for _ in range(5)])
    await store.submit([new("b@example.net", "c@example.net", content=b"y" * (CHUNK + 1), due=NOON + 1)])
    await store.submit([new("d@example.net", "e@example.net", content=b"z" * CHUNK, due=NOON + 2)])
    await store.join("node")
    lease = await lease_of(store)
    (head,) = await store.heads([lease])

    async def claimed(octets: int, now: float = NOON) -> list[int]:
        found, _ = await store.claim(lease, head.sub_queue, START, now, limit=100, octets=octets)
        return [-1 if one.content is None else len(one.content) for one in found]

    assert await claimed(0) == [1000]
    assert await claimed(2500) == [1000, 1000]
    assert await claimed(5000, NOON + 1) == [1000] * 5 + [-1, -1]
    assert await claimed(5000 + CHUNK, NOON + 2) == [1000] * 5 + [-1, -1, CHUNK, CHUNK]
    assert await claimed(4999 + CHUNK, NOON + 2) == [1000] * 5 + [-1, -1]


@promise
async def recipients_that_are_held_are_not_claimed(queue: Harness) -> None:
    store = queue.store
    rule = await store.add_rule(Rule(action="hold", filter="domain=held.example"))
    await store.submit([new(to("a@example.net", hold=rule.number), "b@example.net", to("c@example.net", hold=99))])
    await store.join("node")
    lease = await lease_of(store)
    assert [one.recipient.address for one in await claim(store, lease, NOON)] == [b"b@example.net", b"c@example.net"]
    assert await there(store, "state=held") == ["a@example.net"]
    await store.arrivals(0)
    assert await store.delete_rule(rule.number)
    assert not await store.delete_rule(rule.number)
    news = await store.arrivals(1)
    assert (dict(news.keys), news.poked, news.rules) == ({"example.net": NOON}, {"example.net"}, True)
    assert len(await claim(store, lease, NOON)) == 3


@promise
async def a_claim_tells_when_the_next_one_is_due(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@example.net", due=NOON + n, content=b"x" * 100) for n in range(4)])
    await store.join("node")
    lease = await lease_of(store)
    (head,) = await store.heads([lease])

    async def claimed(after: Position, now: float, **limits: int) -> tuple[list[int], float | None]:
        given = {"limit": 100, "octets": 1000} | limits
        found, due = await store.claim(lease, head.sub_queue, after, now, **given)
        return [int(one.recipient.address[1:2]) for one in found], due

    assert await claimed(START, NOON + 1) == ([0, 1], NOON + 2)
    assert await claimed(START, NOON + 1, limit=1) == ([0], NOON + 1)
    assert await claimed(START, NOON + 1, octets=100) == ([0], NOON + 1)
    assert await claimed(START, NOON + 9) == ([0, 1, 2, 3], None)
    assert await claimed(START, NOON - 1) == ([], NOON)
    (row, *_) = await rows(store, "to=u3@*")
    assert await claimed(row.recipient.position, NOON + 9) == ([], None)
    assert await claimed(Position(NOON + 2.5, 0, -1), NOON + 2) == ([], NOON + 3)


@promise
async def what_is_in_doubt_neither_fills_a_claim_nor_comes_next(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@example.net", due=NOON + n, content=b"x" * 100) for n in range(8)])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON + 9)
    assert await store.mark(lease, [attempts(claimed)[n] for n in (0, 1, 2, 4, 6, 7)])
    store = await queue.crash()
    await store.join("node")
    lease = await lease_of(store)
    (head,) = await store.heads([lease])

    async def found(after: Position, now: float, **limits: int) -> tuple[list[int], float | None]:
        given = {"limit": 100, "octets": 1000} | limits
        some, due = await store.claim(lease, head.sub_queue, after, now, **given)
        return [int(one.recipient.address[1:2]) for one in some], due

    assert await found(START, NOON + 9, limit=1) == ([3], NOON + 5)
    assert await found(START, NOON + 9, octets=199) == ([3], NOON + 5)
    assert await found(START, NOON + 9) == ([3, 5], None)
    assert await found(START, NOON) == ([], NOON + 3)
    assert await found(claimed[3].recipient.position, NOON + 9, limit=2) == ([5], None)
    assert await found(claimed[5].recipient.position, NOON + 9) == ([], None)


@promise
async def a_site_is_looked_through_in_the_order_of_ids(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("z@one.example", "held@one.example", due=NOON + DAY), new("b@two.example")])
    await store.submit([new("c@one.example", "d@two.example", "e@one.example", priority=9)])
    await store.learn({"one.example": "provider", "two.example": "provider"})
    await all_of(store.change(Filter.parse("to=held@*"), Change(hold=BY_COMMAND)))
    await store.join("node")
    lease = await lease_of(store)
    found = await store.review(lease, (0, -1), limit=10)
    assert [one.recipient.address[:1] for one in found] == [b"z", b"b", b"c", b"d", b"e"]
    assert {one.content for one in found} == {None}
    assert found[2].message == found[3].message
    pages = []
    after = (0, -1)
    while page := await store.review(lease, after, limit=2):
        pages += page
        after = page[-1].recipient.message, page[-1].recipient.number
    assert pages == found
    over = [Ended(replaced(ended(one.recipient, NOON, Outcome.EXPIRED).entry, attempt=0)) for one in found[:2]]
    assert await store.settle(lease, over, []) == [
        AttemptKey(one.recipient.message, one.recipient.number, 0) for one in found[:2]
    ]
    await all_of(store.change(Filter.parse("to=z@*"), Change(expires=NOON)))
    assert await store.settle(lease, over, []) == [AttemptKey(found[1].message.id, 0, 0)]
    assert [one.address for one in await store.history(found[0].message.id)][-1] == b"z@one.example"


# ------------------------------------------------------------ marks, results


@promise
async def one_end_for_each_recipient(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", "b@example.net", "c@example.net", "d@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    a, b, c, d = (one.recipient for one in await claim(store, lease, NOON))
    assert await store.settle(
        lease, [ended(a, NOON), deferred(b, NOON, NOON + 300), failed(c, NOON), ended(a, NOON)], [d.next_attempt]
    ) == [a.next_attempt]
    assert await store.settle(lease, [ended(b, NOON), ended(c, NOON)], []) == [b.next_attempt, c.next_attempt]
    counters = await store.counters()
    assert counters == {
        "messages": 1,
        "accepted": 4,
        "attempts": 3,
        "delivered": 1,
        "failed": 1,
        "deferred": 1,
        "late": 3,
    }
    (row, _) = await rows(store)
    assert row.recipient == replaced(b, due=NOON + 300, attempts=1, status="4.7.1", reason="451 4.7.1 come back later")
    assert [(one.number, one.outcome) for one in await store.history(a.message)] == [
        (0, Outcome.DELIVERED),
        (1, Outcome.DEFERRED),
        (2, Outcome.FAILED),
        (0, Outcome.LATE),
        (1, Outcome.LATE),
        (2, Outcome.LATE),
    ]
    assert (await store.history(a.message))[3].reason == "delivered"


@promise
async def an_end_comes_with_its_notice(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", "b@example.net"), new("c@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    a, b, c = (one.recipient for one in await claim(store, lease, NOON))
    await store.settle(lease, [failed(a, NOON), failed(c, NOON), ended(b, NOON)], [])
    store = await queue.crash(machine=True)
    await swept(store, NOON)
    owed = await store.owed(NOON, limit=10)
    assert [(message.id, [one.address for one in notices]) for message, notices in owed] == [
        (a.message, [b"a@example.net"]),
        (c.message, [b"c@example.net"]),
    ]
    for message, notices in owed:  # the content is kept for the notice
        assert await content_of(store, message) == b"Subject: x\r\n\r\nhello\r\n"
        report = new(to("ann@shop.example", notify=b"NEVER"), sender=b"", content=b"sorry", origin="notice")
        accepted = await store.notify(notices, report)
        assert accepted is not None
        assert await store.notify(notices, report) is None
    assert await store.owed(NOON, limit=10) == []
    assert await there(store) == ["ann@shop.example"] * 2
    await swept(store, NOON)
    assert await store.message(a.message) is None
    assert await store.message(c.message) is None
    with pytest.raises(QueueError):
        [chunk async for chunk in store.content(a.message, 21)]
    assert (await store.counters())["notices"] == 2


@promise
async def notices_wait_for_what_is_in_hand(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(*(f"u{n}@example.net" for n in range(120)))])
    await store.join("node")
    lease = await lease_of(store)
    some = [one.recipient for one in await claim(store, lease, NOON)]
    await store.settle(lease, [failed(one, NOON) for one in some[:-1]], [some[-1].next_attempt])
    assert await store.owed(NOON + 299, limit=10) == []
    ((_, notices),) = await store.owed(NOON + 300, limit=10)
    assert [one.number for one in notices] == list(range(100))
    await store.settle(lease, [], [])
    ((message, notices),) = await store.owed(NOON, limit=10)
    assert await store.notify(notices, None) is None
    ((_, rest),) = await store.owed(NOON, limit=10)
    assert [one.number for one in rest] == list(range(100, 119))
    assert await store.message(message.id) is not None
    assert await store.notify(rest, None) is None
    assert "notices" not in await store.counters()


@promise
async def a_delay_is_warned_of_once(queue: Harness) -> None:
    store = queue.store
    await store.submit([new()])
    await store.join("node")
    lease = await lease_of(store)
    (one,) = [one.recipient for one in await claim(store, lease, NOON)]
    warning = notice(one, NOON, NoticeKind.DELAYED)
    assert await store.settle(lease, [deferred(one, NOON, NOON + 60, notice=warning)], []) == []
    (row,) = await rows(store)
    assert row.recipient.warned
    assert await store.settle(lease, [failed(row.recipient, NOON)], []) == []
    ((_, notices),) = await store.owed(NOON, limit=1)
    assert [one.kind for one in notices] == [NoticeKind.DELAYED, NoticeKind.FAILED]
    assert await store.notify(notices[:1], None) is None
    ((_, notices),) = await store.owed(NOON, limit=1)
    assert [one.kind for one in notices] == [NoticeKind.FAILED]
    await store.notify(notices, None)


@promise
async def our_own_delays_are_no_attempts(queue: Harness) -> None:
    store = queue.store
    await store.submit([new()])
    await store.join("node")
    lease = await lease_of(store)
    (one,) = [one.recipient for one in await claim(store, lease, NOON)]
    await store.mark(lease, [one.next_attempt])
    assert await store.settle(lease, [deferred(one, NOON, NOON + 5, counted=False, key="relay:backup")], []) == []
    (row,) = await rows(store)
    assert row.recipient == replaced(one, due=NOON + 5, key="relay:backup", status="4.7.1", reason="no slot")
    assert await store.history(one.message) == []
    assert (await store.arrivals(1)).keys["relay:backup"] == NOON + 5
    store = await queue.crash()
    await store.join("node")
    assert (await lease_of(store)).doubts == ()


@promise
async def a_deferral_leaves_what_an_operator_did(queue: Harness) -> None:
    store = queue.store
    await store.submit([new()])
    await store.join("node")
    lease = await lease_of(store)
    (one,) = [one.recipient for one in await claim(store, lease, NOON)]
    assert await store.mark(lease, [one.next_attempt])
    rule = await store.add_rule(Rule(action="hold", filter=""))
    assert await all_of(store.change(Filter(), Change(hold=rule.number))) == 1
    assert await all_of(store.change(Filter(), Change(rank=-4))) == 1
    assert await all_of(store.change(Filter(), Change(expires=NOON + 9 * DAY))) == 1
    assert await store.settle(lease, [deferred(one, NOON, NOON + 60)], []) == []
    (row,) = await rows(store)
    assert (row.state, row.recipient.hold, row.recipient.rank) == (State.HELD, rule.number, -4)
    assert (row.recipient.due, row.recipient.expires) == (NOON + 60, NOON + 9 * DAY)


@promise
async def in_doubt_is_what_has_a_mark_and_no_result(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@example.net") for n in range(6)])
    await store.join("node")
    lease = await lease_of(store)
    some = [one.recipient for one in await claim(store, lease, NOON)]
    keys = [one.next_attempt for one in some]
    assert await store.settle(lease, [], keys) == []
    assert await store.mark(lease, keys[:4])
    settlements = [ended(some[0], NOON), deferred(some[1], NOON, NOON), deferred(some[2], NOON, NOON, counted=False)]
    assert await store.settle(lease, settlements, keys[3:]) == []
    store = await queue.crash()
    await store.join("node")
    lease = await lease_of(store)
    assert in_doubt_of(lease) == [(keys[3], False)]
    others = {keys[4], keys[5], keys[2], keys[1]._replace(attempt=2)}
    assert set(attempts(await claim(store, lease, NOON))) == others  # what is in doubt is left out
    assert set(attempts(await store.review(lease, (0, -1), limit=10))) == others
    store = await queue.crash()  # nothing was settled: the same doubts again
    await store.join("node")
    lease = await lease_of(store)
    assert in_doubt_of(lease) == [(keys[3], False)]
    assert await store.settle(lease, [in_doubt(some[3], NOON, NOON + 300)], []) == []
    assert len(await claim(store, lease, NOON)) == 4
    store = await queue.crash()
    await store.join("node")
    assert (await lease_of(store)).doubts == ()
    assert (await store.counters())["doubtful"] == 1


@promise
async def after_the_death_of_the_machine_what_was_in_hand_counts(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@example.net") for n in range(5)])
    await store.join("node")
    lease = await lease_of(store)
    some = [one.recipient for one in await claim(store, lease, NOON)]
    keys = [one.next_attempt for one in some]
    assert await store.mark(lease, keys[4:])  # in no list that is on the disk: the mark itself is
    assert await store.settle(lease, [ended(some[0], NOON)], keys[1:4]) == []
    assert await store.mark(lease, keys[1:2])
    assert await store.settle(lease, [deferred(some[2], NOON, NOON)], [keys[1], keys[3]]) == []
    store = await queue.crash(machine=True)
    await store.join("node")
    lease = await lease_of(store)
    assert [attempt for attempt, _ in in_doubt_of(lease)] == [keys[1], keys[3], keys[4]]
    assert [machine for _, machine in in_doubt_of(lease)][1:] == [True, False]
    store = await queue.crash()  # the process dies before it settled any of them
    await store.join("node")
    lease = await lease_of(store)
    assert [attempt for attempt, _ in in_doubt_of(lease)] == [keys[1], keys[3], keys[4]]
    settled = [in_doubt(some[n], NOON, NOON) for n in (1, 3, 4)]
    assert await store.settle(lease, settled, []) == []
    assert len(await claim(store, lease, NOON)) == 4


@promise
async def doubts_that_were_not_settled_stay_with_the_site(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    (one,) = [one.recipient for one in await claim(store, lease, NOON)]
    assert await store.mark(lease, [one.next_attempt])
    rule = await store.add_rule(Rule(action="hold", filter=""))
    await all_of(store.change(Filter(), Change(hold=rule.number)))  # held or not, doubts are work
    store = await queue.crash()
    await store.join("node")
    lease = await lease_of(store)
    await store.give_back([lease])
    lease = await lease_of(store)
    assert in_doubt_of(lease) == [(one.next_attempt, False)]
    assert lease.doubts[0].recipient.hold == rule.number
    assert await store.settle(lease, [in_doubt(one, NOON, NOON)], []) == []
    await store.give_back([lease])
    assert await take(store, limit=1) == []
    await store.delete_rule(rule.number)
    assert (await lease_of(store)).doubts == ()


@promise
async def the_late_word_of_an_attempt_in_doubt_settles_it(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net"), new("b@example.net"), new("c@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    a, b, c = (one.recipient for one in await claim(store, lease, NOON))
    await store.mark(lease, [a.next_attempt, b.next_attempt, c.next_attempt])
    await store.settle(lease, [in_doubt(one, NOON, NOON + 300) for one in (a, b, c)], [])
    assert await store.settle(lease, [deferred(c, NOON, NOON + 600)], []) == [c.next_attempt]
    queue.clock.advance(200)
    assert await store.settle(lease, [ended(a, queue.now())], []) == []
    queue.clock.advance(100)
    assert await store.settle(lease, [ended(b, queue.now())], []) == [b.next_attempt]
    assert await there(store) == ["b@example.net", "c@example.net"]
    again = (await claim(store, lease, queue.now()))[0].recipient
    assert await store.settle(lease, [ended(again, queue.now())], []) == []
    assert (await store.counters())["repeated"] == 1
    assert [one.outcome for one in await store.history(b.message)] == [
        Outcome.IN_DOUBT,
        Outcome.LATE,
        Outcome.DELIVERED,
    ]


@promise
async def no_mark_for_what_an_operator_ended_held_or_moved(queue: Harness) -> None:
    for change in (Change(end="dropped"), Change(hold=1), Change(key="elsewhere.example")):
        store = queue.store
        if change.hold:
            assert (await store.add_rule(Rule(action="hold", filter=""))).number == 1
        await store.submit([new("a@example.net"), new("b@example.net")])
        await store.join(f"node {change}")
        lease = await lease_of(store, "example.net")
        claimed = await claim(store, lease, NOON)
        assert await all_of(store.change(Filter.parse("to=a@*"), change)) == 1
        assert "example.net" in (await store.arrivals(1)).poked
        assert not await store.mark(lease, attempts(claimed))
        assert await store.mark(lease, attempts(claimed[1:]))
        assert await store.settle(lease, [ended(one.recipient, NOON) for one in claimed], []) == [
            *([] if change.hold else attempts(claimed[:1]))
        ]
        await all_of(store.change(Filter(), Change(end="dropped")))
        await queue.crash()


@promise
async def marks_requested_together_are_checked_one_by_one(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@one.example"), new("b@one.example"), new("c@two.example")])
    await store.join("node")
    one, two = await lease_of(store, "one.example"), await lease_of(store, "two.example")
    a, b = attempts(await claim(store, one, NOON))
    (c,) = attempts(await claim(store, two, NOON))
    over = b._replace(attempt=b.attempt + 1)
    asked = [(one, [a]), (one, [a, over]), (two, [b]), (two, [c]), (one, [c, b]), (one, [])]
    answers = await asyncio.gather(*[store.mark(lease, some) for lease, some in asked])
    assert answers == [True, False, False, True, False, True]
    await queue.crash()
    await queue.store.join("node")
    leases = await take(queue.store, "one.example", "two.example")
    assert sorted(doubt.recipient.next_attempt for lease in leases for doubt in lease.doubts) == [a, c]


@promise
async def what_has_a_mark_is_neither_ended_nor_moved(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", "b@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON)
    await store.mark(lease, attempts(claimed[:1]))
    assert await all_of(store.change(Filter(), Change(key="elsewhere.example"))) == 1
    assert await all_of(store.change(Filter(), Change(end="failed"))) == 1
    assert await there(store) == ["a@example.net"]
    assert await store.settle(lease, [ended(claimed[0].recipient, NOON)], []) == []
    counters = await store.counters()
    assert (counters["delivered"], counters["failed"]) == (1, 1)


@promise
async def what_was_in_hand_when_the_machine_died_is_neither_ended_nor_moved(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", "b@example.net")])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON)
    assert await store.settle(lease, [], attempts(claimed[:1])) == []  # a mark may follow, and go with the machine
    store = await queue.crash(machine=True)
    for change in (Change(key="elsewhere.example"), Change(end="dropped")):
        assert await all_of(store.change(Filter(), change)) == 1  # the other one
    assert await there(store) == ["a@example.net"]
    await store.join("next")
    lease = await lease_of(store)
    (doubt,) = lease.doubts
    assert doubt.recipient.address == b"a@example.net"
    assert await all_of(store.change(Filter(), Change(end="failed"))) == 0
    assert await all_of(store.change(Filter(), Change(rank=1))) == 1
    assert await store.settle(lease, [in_doubt(doubt.recipient, NOON, NOON)], []) == []
    assert await all_of(store.change(Filter(), Change(end="failed"))) == 1
    assert await there(store) == []


@promise
async def a_recipient_is_in_one_state(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@example.net") for n in range(4)])
    await store.join("node")
    lease = await lease_of(store)
    claimed = await claim(store, lease, NOON)
    rule = await store.add_rule(Rule(action="hold", filter=""))
    await all_of(store.change(Filter.parse("to=u0@*"), Change(hold=rule.number)))
    await store.settle(lease, [], attempts(claimed[:2]))
    await store.mark(lease, attempts(claimed[2:3]))
    assert [row.state for row in await rows(store)] == [State.HELD, State.LEASED, State.LEASED, State.DUE]
    assert await store.count(Filter(), by="state") == {"held": 1, "leased": 2, "due": 1}
    other = await queue.another()
    for state, addresses in (("leased", ["u1", "u2"]), ("due", ["u3"]), ("held", ["u0"])):
        assert await there(other, f"state={state}") == [f"{one}@example.net" for one in addresses]
    assert len(await there(store, "state!=due")) == 3
    store = await queue.crash()
    assert await store.count(Filter(), by="state") == {"held": 1, "due": 3}


# ------------------------------------------------------------------ arrivals


@promise
async def arrivals_tell_what_came(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("before@example.net")])
    await store.join("node")
    assert (await store.arrivals(0))[:3] == ({}, set(), False)
    await store.submit([new("a@one.example", due=NOON + 60), new("b@two.example")])
    await store.submit([new("c@one.example", due=NOON + 30)])
    news = await store.arrivals(1)
    assert dict(news.keys) == {"one.example": NOON + 30, "two.example": NOON}
    assert (await store.arrivals(0))[:3] == ({}, set(), False)
    waiting = asyncio.create_task(store.arrivals(30))
    await asyncio.sleep(0)
    await store.submit([new("d@three.example")])
    assert dict((await waiting).keys) == {"three.example": NOON}
    waiting = asyncio.create_task(store.arrivals(30))
    await asyncio.sleep(0)
    store.wake()  # whoever waits looks at once
    assert (await waiting)[:3] == ({}, set(), False)


@promise
async def arrivals_tell_what_other_processes_did(queue: Harness) -> None:
    await queue.store.join("node")
    other = await queue.another()
    await other.submit([new("a@one.example"), new("b@two.example", due=NOON + 60)])
    other.wake()
    news = await told(queue.store, lambda news: len(news.keys) == 2)
    assert dict(news.keys) == {"one.example": NOON, "two.example": NOON + 60}
    assert len(await claim(queue.store, await lease_of(queue.store, "one.example"), NOON)) == 1
    await all_of(other.change(Filter.parse("to=b@*"), Change(due=NOON)))
    news = await told(queue.store, lambda news: news.poked and news.keys)
    assert news.keys["two.example"] <= NOON
    assert news.poked == {"two.example"}
    assert len(await claim(queue.store, await lease_of(queue.store, "two.example"), NOON)) == 1
    await other.submit([new("c@three.example")])
    await queue.store.submit([new("d@four.example")])  # at once: before anybody looked for what others did
    news = await told(queue.store, lambda news: len(news.keys) == 2)
    assert dict(news.keys) == {"three.example": NOON, "four.example": NOON}
    rule = await other.add_rule(Rule(action="suspend", filter="domain=x"))
    await told(queue.store, lambda news: news.rules)
    await other.delete_rule(rule.number)
    await told(queue.store, lambda news: news.rules)
    upload = await other.upload(new(content=b""))
    await upload.add_recipients([to(f"u{n}@five.example") for n in range(2000)])
    await upload.accept()
    assert (await told(queue.store, lambda news: "five.example" in news.keys)).keys["five.example"] == NOON
    upload = await other.upload(new("f@six.example", content=b""))
    await upload.write(b"x" * (3 << 20))
    await queue.store.submit([new("g@seven.example")])  # its id is behind that of the upload
    await told(queue.store, lambda news: "seven.example" in news.keys)
    await upload.accept()
    other.wake()
    assert (await told(queue.store, lambda news: "six.example" in news.keys)).keys["six.example"] <= NOON
    await other.close()


# ----------------------------------------------------------------- operators


@promise
async def lists_come_in_the_order_of_ids(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(*(f"u{n}.{m}@example.net" for n in range(3))) for m in range(4)])
    found = await rows(store)
    places = [(row.recipient.message, row.recipient.number) for row in found]
    assert places == sorted(places)
    first = [row async for row in store.select(Filter(), limit=5)]
    assert first == found[:5]
    rest = [row async for row in store.select(Filter(), after=first[-1].recipient.position)]
    assert rest == found[5:]
    assert [row async for row in store.select(Filter(), limit=0)] == []
    assert [row async for row in store.select(Filter.parse("to=u1.*"), after=Position(0.0, places[4][0], 1))] == [
        found[7],
        found[10],
    ]


@promise
async def counts_by_every_group(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@one.example", "b@two.example", tenant="t")])
    queue.clock.advance(400)
    await store.submit([new("c@one.example")])
    queue.clock.advance(7 * 3600)
    await store.submit([new("d@one.example")])
    assert await store.count(Filter()) == {"": 4}
    assert await store.count(Filter(), by="key") == {"one.example": 3, "two.example": 1}
    assert await store.count(Filter(), by="site") == {"one.example": 3, "two.example": 1}
    assert await store.count(Filter(), by="tenant") == {"t": 2, "": 2}
    assert await store.count(Filter(), by="state") == {"due": 4}
    assert await store.count(Filter(), by="reason") == {"": 4}
    assert await store.count(Filter(), by="age") == {"<5m": 1, ">6h": 3}
    assert await store.count(Filter.parse("to=a@*,c@*"), by="key") == {"one.example": 2}
    assert await store.count(Filter.parse("tenant=t"), by="site") == {"one.example": 1, "two.example": 1}
    with pytest.raises(QueueError):
        await store.count(Filter(), by="colour")


@promise
async def a_change_is_one_thing(queue: Harness) -> None:
    await queue.store.submit([new()])
    assert await all_of(queue.store.change(Filter(), Change(hold=BY_COMMAND))) == 1
    assert await all_of(queue.store.change(Filter(), Change(hold=0))) == 1
    for change in (Change(), Change(due=NOON, hold=1), Change(end="delivered"), Change(hold=-1), Change(hold=7)):
        with pytest.raises(QueueError):
            await all_of(queue.store.change(Filter(), change))


@promise
async def changes_work_in_pieces(queue: Harness) -> None:
    store = queue.store
    await store.join("node")
    await store.submit([new(*(f"u{n}@d{n % 7}.example" for n in range(900))) for _ in range(3)])
    pieces = [number async for number in store.change(Filter.parse("key!=d0.example"), Change(due=NOON + 60))]
    assert len(pieces) > 1
    wanted = 3 * (900 - 129)
    assert sum(pieces) == wanted
    assert await store.count(Filter.parse("due>0")) == {"": wanted}
    news = await store.arrivals(1)
    assert news.poked == {f"d{n}.example" for n in range(1, 7)}
    assert (
        await all_of(store.change(Filter.parse("due>0"), Change(end="failed", reason="operator", by="ann"))) == wanted
    )
    assert await store.count(Filter()) == {"": 3 * 129}
    assert (await store.counters())["failed"] == wanted


@promise
async def an_end_by_an_operator_is_an_end(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net"), new("b@example.net"), new("c@example.net", sender=b"")])
    change = Change(end="failed", status="5.7.0", reason="spam", by="ann", notify=True)
    assert await all_of(store.change(Filter.parse("to=a@*,c@*"), change)) == 2
    assert await all_of(store.change(Filter(), Change(end="dropped"))) == 1
    ((message, (owed,)),) = await store.owed(NOON, limit=10)
    assert (owed.message, owed.status, owed.reason, owed.at) == (message.id, "5.7.0", "spam", NOON)
    found = [one async for one in store.ends(Filter())]
    assert [(one.address, one.outcome, one.by, one.attempt) for one in found] == [
        (b"b@example.net", Outcome.DROPPED, "", 0),
        (b"c@example.net", Outcome.FAILED, "ann", 0),
        (b"a@example.net", Outcome.FAILED, "ann", 0),
    ]
    await store.notify([owed], None)


@promise
async def ends_are_found_youngest_first(queue: Harness) -> None:
    store = queue.store
    await store.submit([new(f"u{n}@d{n % 2}.example", tenant="t" if n == 3 else "") for n in range(6)])
    await store.learn({"d1.example": "provider"})
    for n in range(6):
        end = "dropped" if n % 3 else "failed"
        await all_of(store.change(Filter.parse(f"to=u{n}@*"), Change(end=end, status=f"5.0.{n}", reason=f"Reason {n}")))

    async def found(text: str, limit: int | None = None) -> list[bytes]:
        return [one.address[:2] async for one in store.ends(Filter.parse(text), limit=limit)]

    assert await found("") == [b"u5", b"u4", b"u3", b"u2", b"u1", b"u0"]
    assert await found("", 2) == [b"u5", b"u4"]
    assert await found("end=failed") == [b"u3", b"u0"]
    assert await found("tenant=t") == [b"u3"]
    assert await found("site=provider end!=failed") == [b"u5", b"u1"]
    assert await found('reason="n 4"') == await found("status=5.0.4") == [b"u4"]
    assert await found("domain=d0.*  age<=1h", 1) == [b"u4"]
    with pytest.raises(QueueError):
        await found("size>3")


@promise
async def events_leave_nothing_out_and_say_nothing_twice(queue: Harness) -> None:
    store = queue.store
    cursor, found = await store.events("", limit=10)
    assert found == []
    seen = []
    for n in range(5):
        await store.submit([new(f"u{n}.{m}@example.net") for m in range(5)])
        await all_of(store.change(Filter(), Change(end="dropped")))
        cursor, found = await store.events(cursor, limit=3)
        seen += found
    while found:
        cursor, found = await store.events(cursor, limit=3)
        seen += found
    assert len(seen) == len({(one.message, one.number) for one in seen}) == 25
    assert (await store.events("", limit=100))[1] == seen
    with pytest.raises(QueueError):
        await store.events("first", limit=1)
    queue.clock.advance(31 * DAY)
    await swept(store, queue.now())
    assert len((await store.events("", limit=100))[1]) <= 1
    await store.submit([new("z@example.net")])
    await all_of(store.change(Filter(), Change(end="dropped")))
    assert [one.address for one in (await store.events(cursor, limit=10))[1]] == [b"z@example.net"]


@promise
async def how_sites_are_served_can_be_seen(queue: Harness) -> None:
    store = queue.store
    assert await store.nodes() == []
    await store.join("node-1")
    await store.submit([new("a@one.example"), new("b@two.example")])
    await take(store)
    one = SiteStatus(site="one.example", node="node-1", updated=NOON, window=5, busy=2, ready=7)
    two = SiteStatus(
        site="two.example",
        node="node-1",
        updated=NOON,
        dead_until=NOON + 60.5,
        dead_reason="refused",
        rate_until=NOON + 1,
        rate="14/s",
        no_slot=True,
    )
    await store.report([two, one])
    other = await queue.another()
    assert await other.sites() == [one, two]
    assert await other.sites(["two.example", "three.example"]) == [two]
    (node,) = await other.nodes()
    assert (node.node, node.since, node.pid, node.alive, node.sites) == ("node-1", NOON, os.getpid(), True, 2)
    await store.report([replaced(one, busy=3)])
    assert await store.sites(["one.example"]) == [replaced(one, busy=3)]
    await other.close()


@promise
async def a_node_that_is_drained_takes_nothing_more(queue: Harness) -> None:
    store = queue.store
    await store.join("node-1")
    if not queue.many_nodes:
        with pytest.raises(QueueError, match="one process delivers"):
            await store.drain("node-1")
        return
    await store.submit([new("a@one.example"), new("b@two.example")])
    (lease,) = await take(store, limit=1)
    other = await queue.another()
    assert await other.drain("nobody") == 0
    assert await other.drain("node-1") == 1
    await told(store, lambda news: news.drain)
    assert [(node.node, node.draining) for node in await other.nodes()] == [("node-1", True)]
    assert await take(store) == []
    await store.give_back([lease])
    await other.join("node-2")
    assert len(await take(other)) == 2  # at once
    await other.close()


@promise
async def rules_stand_until_they_end(queue: Harness) -> None:
    store = queue.store
    rule = await store.add_rule(
        Rule(action="reroute", filter="domain=x", argument="relay:b", until=NOON + 60, by="ann", reason="why")
    )
    second = await store.add_rule(Rule(action="hold", filter=""))
    assert (rule.number, rule.created, second.number) == (1, NOON, 2)
    store = await queue.crash(machine=True)
    assert await store.rules() == [rule, second]
    await store.submit([new(to("a@example.net", hold=rule.number), to("b@example.net", hold=second.number))])
    await store.join("node")
    assert await take(store, limit=1) == []
    queue.wait(60)
    await swept(store, queue.now())
    assert await store.rules() == [second]
    assert (await store.arrivals(1)).keys == {"example.net": NOON}
    assert [one.recipient.address for one in await claim(store, await lease_of(store), NOON)] == [b"a@example.net"]
    assert (await store.add_rule(Rule(action="hold", filter=""))).number == 3


def suppression(address: str, **values: object) -> Suppression:
    """A suppression since noon."""
    given: dict[str, object] = {"reason": "they asked", "source": "ann", "at": NOON} | values
    return Suppression(address=address.encode(), **given)


async def suppressed_addresses(store: QueueStore, tenant: str | None = None, *addresses: str) -> list[str]:
    """Who is on the list."""
    found = store.suppressions(tenant, [address.encode() for address in addresses])
    return [one.address.decode() async for one in found]


@promise
async def a_suppressed_address_ends_with_its_submission(queue: Harness) -> None:
    store = queue.store
    assert await store.suppress([suppression("Bob@Example.NET"), suppression("x@example.org", tenant="other")]) == 2
    (accepted, only) = await store.submit(
        [new("bob@example.net", "x@example.org", "BOB@example.net"), new("bob@EXAMPLE.net")]
    )
    assert await there(store) == ["x@example.org"]
    store = await queue.crash(machine=True)
    assert await there(store) == ["x@example.org"]
    for message, number in ((accepted.id, 0), (accepted.id, 2), (only.id, 0)):
        (ending,) = [one for one in await store.history(message) if one.number == number]
        assert (ending.outcome, ending.attempt, ending.status) == (Outcome.FAILED, 0, "5.7.1")
        assert (ending.reason, ending.by) == ("suppressed: they asked", "suppression by ann")
    owed = await store.owed(NOON, limit=10)
    assert [(message.id, [one.number for one in notices]) for message, notices in owed] == [
        (accepted.id, [0, 2]),
        (only.id, [0]),
    ]
    counters = await store.counters()
    assert (counters["accepted"], counters["failed"], counters["suppressed"]) == (4, 3, 3)
    await store.join("node")
    (claimed,) = await all_claimed(store, 1, NOON)
    assert claimed.recipient.address == b"x@example.org"


@promise
async def a_suppressed_message_leaves_nothing_behind(queue: Harness) -> None:
    store = queue.store
    await store.suppress([suppression("bob@example.net")])
    (null,) = await store.submit([new("bob@example.net", "bob@example.net", sender=b"")])
    (large,) = await store.submit([new("bob@example.net", sender=b"", content=b"x" * (CHUNK * 5))])
    await swept(store, NOON)
    for accepted in (null, large):
        assert await store.message(accepted.id) is None
        assert (await store.history(accepted.id))[0].outcome is Outcome.FAILED
    assert await store.owed(NOON, limit=10) == []


@promise
async def suppressions_do_not_hold_for_others(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("bob@example.net", "early@example.net")])
    await store.suppress([suppression("bob@example.net"), suppression("ann@shop.example")])
    await store.submit(
        [
            new("bob@example.net", tenant="other"),
            new("bob@example.net", options={OVERRIDE: True}),
            new("ann@shop.example", sender=b"", origin="notice"),
        ]
    )
    assert await there(store) == [
        "bob@example.net",
        "early@example.net",
        "bob@example.net",
        "bob@example.net",
        "ann@shop.example",
    ]
    assert (await store.counters()).get("suppressed", 0) == 0


@promise
async def recipients_of_an_upload_are_held_to_the_list(queue: Harness) -> None:
    store = queue.store
    rule = await store.add_rule(Rule(action="hold", filter=""))
    await store.suppress([suppression(f"{name}@example.net") for name in ("u3", "u1500", "held", "last")])
    upload = await store.upload(new("first@example.net", content=b""))
    await upload.add_recipients([to("held@example.net", hold=rule.number)])
    await upload.add_recipients([to(f"u{n}@example.net") for n in range(2 * PART_RECIPIENTS)])
    await upload.add_recipients([to("last@example.net", hold=rule.number)])
    accepted = await upload.accept()
    await store.join("node")
    claimed = await all_claimed(store, 2 * PART_RECIPIENTS - 1, NOON)
    assert len({one.recipient.address for one in claimed}) == 2 * PART_RECIPIENTS - 1
    assert {one.address for one in await store.history(accepted.id)} == {
        b"u3@example.net",
        b"u1500@example.net",
        b"held@example.net",
        b"last@example.net",
    }


@promise
async def an_idempotency_key_is_not_suppressed_twice(queue: Harness) -> None:
    store = queue.store
    message = new("bob@example.net", idempotency_key="k", digest=b"d")
    (first,) = await store.submit([message])
    await store.suppress([suppression("bob@example.net")])
    assert [one.id for one in await store.submit([message])] == [first.id]
    assert await there(store) == ["bob@example.net"]


@promise
async def the_list_is_kept_in_order(queue: Harness) -> None:
    store = queue.store
    many = [f"u{n:05}@example.net" for n in range(2 * PIECE + 1)]
    assert await store.suppress([suppression(address, tenant="b") for address in reversed(many)]) == len(many)
    assert await store.suppress([suppression("K\u00e4the@B\u00fccher.example"), suppression(many[0], tenant="a")]) == 2
    again = suppression("KÄTHE@xn--bcher-kva.example", reason="x" * 9999, source="bounce", at=NOON + 1, until=NOON + 9)
    assert await store.suppress([again]) == 0
    store = await queue.crash(machine=True)
    assert await suppressed_addresses(store) == ["käthe@xn--bcher-kva.example", many[0], *many]
    assert await suppressed_addresses(store, "b", many[7], "nobody@example.net") == [many[7]]
    assert await suppressed_addresses(store, None, many[0]) == [many[0], many[0]]
    (found,) = [one async for one in store.suppressions("")]
    assert (found.source, found.at, found.until, len(found.reason)) == ("bounce", NOON + 1, NOON + 9, 500)
    assert await store.unsuppress("b", [b"U00003@EXAMPLE.net", b"nobody@example.net", many[9].encode()]) == 2
    assert await suppressed_addresses(store, "b", many[3], many[4]) == [many[4]]
    for wrong in (suppression(""), suppression("a@b.example", tenant="\0"), suppression("a@b.example", at=-1.0)):
        with pytest.raises(QueueError):
            await store.suppress([suppression("fine@example.net"), wrong])
    assert await suppressed_addresses(store, None, "fine@example.net") == []
    assert await store.suppress([]) == await store.unsuppress("", []) == 0


@promise
async def a_suppression_ends_at_its_time(queue: Harness) -> None:
    store = queue.store
    await store.suppress([suppression("bob@example.net", until=NOON + 60), suppression("eve@example.net")])
    await store.submit([new("bob@example.net")])
    assert await there(store) == []
    queue.clock.advance(60)
    assert await suppressed_addresses(store) == ["eve@example.net"]
    await store.submit([new("bob@example.net", due=queue.now())])
    assert await there(store) == ["bob@example.net"]
    await swept(store, queue.now())
    assert await store.unsuppress("", [b"bob@example.net", b"eve@example.net"]) == 1


@promise
async def an_event_is_written_once_and_changes_no_end(queue: Harness) -> None:
    store = queue.store
    (accepted,) = await store.submit([new("a@example.net", "b@example.net")])
    await all_of(store.change(Filter.parse("to=a@*"), Change(end="dropped")))
    (end,) = await store.history(accepted.id)
    event = replaced(end, at=NOON + 5, outcome=Outcome.BOUNCED, status="5.1.1", reason="x" * 9999, by="", server="mx")
    assert await asyncio.gather(*[store.record(event) for _ in range(5)]) == [True, False, False, False, False]
    assert await store.record(replaced(event, outcome=Outcome.COMPLAINED))
    assert not await store.record(replaced(event, number=1))
    assert not await store.record(replaced(event, message=accepted.id + 1))
    store = await queue.crash(machine=True)
    assert await store.history(accepted.id) == [
        end,
        replaced(event, reason="x" * 497 + "..."),
        replaced(event, reason="x" * 497 + "...", outcome=Outcome.COMPLAINED),
    ]
    assert [one.outcome async for one in store.ends(Filter())] == [Outcome.DROPPED]
    assert await there(store) == ["b@example.net"]
    counters = await store.counters()
    assert [counters.get(name, 0) for name in ("dropped", "bounced", "complained", "attempts")] == [1, 1, 1, 0]


@promise
async def bodies_are_kept_until_the_last_end(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@one.example", "b@two.example", content=b"x" * (CHUNK * 6))])
    await store.join("node")
    leases = {lease.site: lease for lease in await take(store, limit=2)}
    for left, site in ((1, "one.example"), (0, "two.example")):
        (claimed,) = await claim(store, leases[site], NOON)
        assert claimed.content is None
        assert await content_of(store, claimed.message) == b"x" * (CHUNK * 6)
        assert await store.settle(leases[site], [ended(claimed.recipient, NOON)], []) == []
        await swept(store, NOON)
        assert (await store.message(claimed.message.id) is not None) == bool(left)
    with pytest.raises(QueueError):
        await content_of(store, claimed.message)
    await store.submit([new("a@one.example", content=b"y" * octets) for octets in (CHUNK, CHUNK + 1, CHUNK * 3)])
    for claimed in await claim(store, leases["one.example"], NOON):
        assert await content_of(store, claimed.message) == b"y" * claimed.message.size
        assert await store.settle(leases["one.example"], [ended(claimed.recipient, NOON)], []) == []
        assert await store.message(claimed.message.id) is None
    await swept(store, NOON)


@promise
async def what_tenants_submit_is_counted_by_slots(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", "b@example.net", tenant="shop", metered=True), new(tenant="shop")])
    upload = await store.upload(new(content=b"x", tenant="shop", metered=True))
    await upload.write(b"y" * CHUNK * 5)
    await upload.accept()
    refused = [new(tenant="shop", metered=True), new(sender=b"\xff", tenant="shop", metered=True)]
    with pytest.raises(QueueError):
        await store.submit(refused)
    (slot,) = await store.accepted_by("shop")
    assert slot <= NOON < slot + quotas.SLOT
    size = len(new().content)
    assert await store.accepted_by("shop") == {slot: Amount(2, size + 1 + CHUNK * 5, 3)}
    assert await store.accepted_by("") == {}
    queue.wait(quotas.SLOT)
    again = new(tenant="shop", metered=True, idempotency_key="1", digest=b"1")
    for _ in range(2):
        await store.submit([again])
    other = await queue.another()
    assert await other.accepted_by("shop") == {
        slot: Amount(2, size + 1 + CHUNK * 5, 3),
        slot + quotas.SLOT: Amount(1, size, 1),
    }
    await swept(store, queue.now())
    assert len(await store.accepted_by("shop")) == 2
    assert set(await store.counters()) <= {"messages", "accepted"}
    queue.wait(quotas.HOUR)
    assert set(await store.accepted_by("shop")) == {slot + quotas.SLOT}
    queue.wait(quotas.SLOT)
    await swept(store, queue.now())
    assert await store.accepted_by("shop") == {}
    assert await findings(store) == []


@promise
async def what_tenants_submit_is_counted_until_it_is_swept(queue: Harness) -> None:
    """An old count is removed from the store, not only passed over."""
    store = queue.store
    await store.submit([new(tenant="shop", metered=True)])
    queue.clock.advance(quotas.HOUR + quotas.SLOT)
    await swept(store, queue.now())
    queue.clock.advance(-quotas.HOUR - quotas.SLOT)
    assert await store.accepted_by("shop") == {}


@promise
async def what_is_queued_is_counted_by_tenant(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net", "b@example.net", tenant="shop"), new(tenant="shop"), new(content=b"x")])
    size = len(new().content)
    assert await store.queued_by_tenant() == {"shop": Amount(2, 2 * size), "": Amount(1, 1)}
    await all_of(store.change(Filter.parse("to=a@*"), Change(end="dropped")))
    await swept(store, NOON)
    assert (await store.queued_by_tenant())["shop"] == Amount(2, 2 * size)
    await all_of(store.change(Filter.parse("tenant=shop"), Change(end="dropped")))
    await swept(store, NOON)
    assert await store.queued_by_tenant() == {"": Amount(1, 1)}


@promise
async def history_of_one_recipient_and_who_has_an_end(queue: Harness) -> None:
    store = queue.store
    (accepted,) = await store.submit([new(*(f"u{number}@example.net" for number in range(5)))])
    await store.submit([new("other@example.com")])
    await store.join("node")
    lease = await lease_of(store, "example.net")
    claimed = {one.recipient.number: one.recipient for one in await claim(store, lease, NOON)}
    some = [deferred(claimed[1], NOON, NOON + 60), *(ended(claimed[number], NOON) for number in (4, 0, 2))]
    assert await store.settle(lease, some, []) == []
    async for _ in store.change(Filter.parse("to=u1@*"), Change(end="dropped")):
        pass
    assert [one.outcome for one in await store.history(accepted.id, number=1)] == [Outcome.DEFERRED, Outcome.DROPPED]
    assert await store.history(accepted.id, number=3) == await store.history(accepted.id, number=9) == []
    named = [(number, f"u{number}@example.net".encode()) for number in (0, 1, 2, 4)]
    assert await store.ended(accepted.id, limit=9) == named
    assert await store.ended(accepted.id, limit=2) == named[:2]
    assert await store.ended(accepted.id, after=1, limit=2) == named[2:]
    assert await store.ended(accepted.id, after=4, limit=2) == await store.ended(accepted.id + 1, limit=1) == []


@promise
async def history_goes_by_age(queue: Harness) -> None:
    store = queue.store
    await store.submit([new("a@example.net"), new("b@example.net")])
    first, second = await rows(store)
    await all_of(store.change(Filter.parse("to=a@*"), Change(end="dropped")))
    queue.clock.advance(15 * DAY)
    await all_of(store.change(Filter(), Change(end="dropped")))
    await swept(store, queue.now())
    assert len(await store.history(first.message.id)) == 1
    queue.clock.advance(16 * DAY)
    await swept(store, queue.now())
    assert await store.history(first.message.id) == []
    assert len(await store.history(second.message.id)) == 1


@promise
async def words_of_strangers_are_kept_within_bounds(queue: Harness) -> None:
    store = queue.store
    await store.submit([new()])
    await store.join("node")
    lease = await lease_of(store)
    (one,) = [one.recipient for one in await claim(store, lease, NOON)]
    words = "\0\ud800" + "ü" * 1000
    said = replaced(ended(one, NOON, Outcome.DEFERRED).entry, reason=words, server=words, tls="\udcff", status="4\0")
    owed = replaced(notice(one, NOON, NoticeKind.DELAYED), reason=words, server="\0")
    assert await store.settle(lease, [Deferred(one.next_attempt, NOON, said, "4\0", words, notice=owed)], []) == []
    kept = "\ufffd\ufffd" + "ü" * 495 + "..."
    (row,) = await rows(store)
    assert (row.recipient.reason, row.recipient.status) == (kept, "4\ufffd")
    (entry,) = await store.history(one.message)
    assert (entry.reason, entry.server, entry.tls, entry.status) == (kept, kept, "\ufffd", "4\ufffd")
    ((_, (found,)),) = await store.owed(NOON, limit=1)
    assert (found.reason, found.server) == (kept, "\ufffd")


@promise
async def a_closed_store_refuses_use(queue: Harness) -> None:
    other = await queue.another()
    await other.close()
    await other.close()
    if not queue.many_nodes:
        with pytest.raises(QueueError):
            await other.submit([new()])
        with pytest.raises(QueueError):
            await rows(other)
        with pytest.raises(QueueError):
            await other.join("node")
