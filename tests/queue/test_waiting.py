"""Nodes in virtual time: mail that waits for long, for a connection or for its relay, is looked through, too."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.queue.test_runner import Scene, play
from tests.queue.world import HOUR, SimulatedSite

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.explanation import Circumstances, Constraint, explain
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import Change
from zsmtp.queue.schedule import RetryPolicy
from zsmtp.queue.siterunner import REVIEW, SiteRunner
from zsmtp.queue.states import NoticeKind, Outcome
from zsmtp.queue.store import Claimed, Lease

RELAY = "relay:mail.example:25"
GONE = "no relay mail.example:25 is configured any more"


# ------------------------------------------------------------ mail without a way


def test_mail_of_a_relay_that_is_gone_waits_without_an_attempt_and_goes_at_once_when_it_is_there() -> None:
    async def scene(it: Scene) -> None:
        it.world.problems[RELAY] = GONE
        it.start()
        ids = await it.submit(RELAY, count=300)
        ids += await it.submit("one.example")
        await asyncio.sleep(2 * HOUR)
        assert [key for _, key, *_ in it.world.delivered] == ["one.example"]
        assert it.runner.problems == [f"mail to {RELAY} waits: {GONE}"]
        rows = [row async for row in it.store.select(Filter())]
        assert {(row.recipient.attempts, row.recipient.reason) for row in rows} == {(0, "")}
        (status,) = await it.store.sites([RELAY])
        assert (status.no_route, status.ready, status.busy) == (GONE, 0, 0)
        assert it.loop.wall() - status.updated < 10
        known = Circumstances(now=it.loop.wall(), nodes=await it.store.nodes(), status=status)
        found = explain(rows[0], [], known)
        assert (found.constraint, found.summary, found.until) == (Constraint.NO_ROUTE, GONE, None)
        assert it.world.site(RELAY).asked == 0

        it.world.problems.clear()
        before = it.loop.time()
        it.runner.reroute()
        await it.until_done(limit=60.0)
        assert it.loop.time() - before < 30
        assert all(it.outcomes(one) == [Outcome.DELIVERED] for one in ids)
        assert it.runner.problems == []
        assert (await it.store.sites([RELAY]))[0].no_route == ""
        await it.stop()

    play(scene)


def test_a_relay_that_goes_while_its_mail_is_under_way_gets_nothing_more() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites[RELAY] = SimulatedSite(latency=1.0, most=1)
        it.start()
        await it.submit(RELAY, count=100)
        await asyncio.sleep(10)
        it.world.problems[RELAY] = GONE
        it.runner.reroute()
        await asyncio.sleep(5)  # what had begun ends
        sent = len(it.world.delivered)
        assert 0 < sent < 100
        await asyncio.sleep(HOUR)
        assert len(it.world.delivered) == sent
        it.world.problems.clear()
        await asyncio.sleep(2)  # nobody says so: it is looked at again within a minute
        await it.until_done(limit=10 * 60.0)
        assert len(it.world.delivered) == 100
        await it.stop()

    play(scene)


def test_mail_without_a_way_is_warned_of_and_given_up_with_the_reason() -> None:
    async def scene(it: Scene) -> None:
        it.world.problems[RELAY] = GONE
        it.start()
        (one,) = await it.submit(RELAY, expires=2 * HOUR)
        await asyncio.sleep(HOUR + REVIEW + 60)
        assert [owed.kind for owed in it.store._data.owed.values()] == [NoticeKind.DELAYED]
        await it.until_done(limit=2 * HOUR)
        (entry,) = it.entries
        assert (entry.message, entry.outcome, entry.attempt) == (one, Outcome.EXPIRED, 0)
        assert entry.reason == f"given up after 0.1 days; the last reason: {GONE}"
        await it.stop()

    play(scene, config=QueueConfig(retry=RetryPolicy(warn_after=HOUR)))


def test_a_relay_that_goes_while_its_mail_is_not_due_is_named_before_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(it: Scene) -> None:
        it.world.sites[RELAY] = SimulatedSite(greylists=True)
        it.start()
        (one,) = await it.submit(RELAY)
        await asyncio.sleep(120)
        assert it.outcomes(one) == [Outcome.DEFERRED]
        it.world.problems[RELAY] = GONE
        it.runner.reroute()
        assert it.runner.problems == [f"mail to {RELAY} waits: {GONE}"]
        await asyncio.sleep(HOUR)
        assert it.runner.problems == [f"mail to {RELAY} waits: {GONE}"]
        it.world.problems.clear()
        it.runner.reroute()
        assert it.runner.problems == []
        await it.until_done(limit=60.0)
        assert it.outcomes(one) == [Outcome.DEFERRED, Outcome.DELIVERED]
        await it.stop()

    play(scene)
    assert f"mail to {RELAY} waits: {GONE}" in caplog.messages


def test_a_site_whose_mail_was_moved_elsewhere_is_given_back() -> None:
    async def scene(it: Scene) -> None:
        it.world.problems[RELAY] = GONE
        it.start()
        ids = await it.submit(RELAY, count=3)
        await asyncio.sleep(60)
        async for _ in it.store.change(Filter(), Change(key="one.example", by="me")):
            pass
        await it.until_done(limit=60.0)
        assert all(it.outcomes(one) == [Outcome.DELIVERED] for one in ids)
        await asyncio.sleep(3 * REVIEW)
        assert it.runner.problems == []
        ids = await it.submit(RELAY)
        await asyncio.sleep(10)
        assert it.runner.problems == [f"mail to {RELAY} waits: {GONE}"]
        it.world.problems.clear()
        it.runner.reroute()
        await it.until_done(limit=60.0)
        await it.stop()

    play(scene)


# ------------------------------------------------------- mail that waits for long


@pytest.mark.parametrize("many", [1, 500])
def test_what_waits_for_hours_for_a_connection_expires_and_is_warned_of(many: int) -> None:
    """The one connection there is belongs to a site that never lets go of it."""

    async def scene(it: Scene) -> None:
        it.world.sites["slow.example"] = SimulatedSite(latency=8 * HOUR)
        it.start()
        await it.submit("slow.example", expires=96 * HOUR)
        await asyncio.sleep(1)
        waiting = await it.submit("waiting.example", count=many, expires=3 * HOUR)
        later = await it.submit("waiting.example", expires=48 * HOUR)
        await asyncio.sleep(2 * HOUR)
        owed = [one.kind for one in it.store._data.owed.values()]
        assert owed == [NoticeKind.DELAYED] * (len(waiting) + 1)
        await asyncio.sleep(HOUR + 2 * REVIEW)
        assert all(it.outcomes(one) == [Outcome.EXPIRED] for one in waiting)
        assert it.world.site("waiting.example").asked == 0
        await it.until_done(limit=40 * HOUR)
        assert it.outcomes(later[0]) == [Outcome.DELIVERED]
        await it.stop()

    play(scene, config=QueueConfig(connections=1, retry=RetryPolicy(warn_after=HOUR)))


def test_a_site_that_is_looked_through_keeps_its_turn() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["slow.example"] = SimulatedSite(latency=2 * HOUR)
        it.start()
        await it.submit("slow.example", expires=96 * HOUR)
        await asyncio.sleep(1)
        await it.submit("first.example", expires=96 * HOUR)
        await asyncio.sleep(1)
        await it.submit("second.example", expires=96 * HOUR)
        await it.until_done(limit=24 * HOUR)
        assert [key for _, key, *_ in it.world.delivered] == ["slow.example", "first.example", "second.example"]
        await it.stop()

    play(scene, config=QueueConfig(connections=1))


def test_a_site_is_looked_through_once_at_a_time() -> None:
    async def scene(it: Scene) -> None:
        it.world.sites["dead.example"] = SimulatedSite(dead=((0.0, 1e9),))
        under_way, most, begun = 0, 0, []
        real = it.store.review

        async def slow(lease: Lease, after: tuple[int, int], *, limit: int) -> list[Claimed]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            begun.append(it.loop.time())
            await asyncio.sleep(3 * REVIEW)
            found = await real(lease, after, limit=limit)
            under_way -= 1
            return found

        it.store.review = slow  # type: ignore[method-assign]
        it.start()
        await it.submit("dead.example", count=20, expires=90 * HOUR)
        await asyncio.sleep(12 * HOUR)
        assert most == 1
        assert len(begun) > 5
        assert all(later - earlier >= 4 * REVIEW for earlier, later in pairwise(begun))
        await it.stop()

    play(scene)


def test_a_review_that_fails_is_made_again() -> None:
    async def scene(it: Scene) -> None:
        it.world.problems[RELAY] = GONE
        it.start()
        (one,) = await it.submit(RELAY, expires=HOUR)
        it.store.fail("review", QueueUnavailable("locked"), times=12)
        await it.until_done(limit=3 * HOUR)
        assert it.outcomes(one) == [Outcome.EXPIRED]
        await it.stop()

    play(scene)


def test_a_busy_site_is_not_looked_through() -> None:
    """What waits behind others that move is read in its time: looking through all of it would cost as much again."""
    reviews = 0
    real = SiteRunner.review

    async def counting(site: SiteRunner) -> None:
        nonlocal reviews
        reviews += 1
        await real(site)

    async def scene(it: Scene) -> None:
        it.world.sites["busy.example"] = SimulatedSite(latency=10.0, most=2)
        it.start()
        await it.submit("busy.example", count=600, expires=96 * HOUR)
        await it.until_done()
        assert it.loop.time() > 2 * REVIEW
        assert reviews == 0
        await it.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteRunner, "review", counting)
        play(scene)
