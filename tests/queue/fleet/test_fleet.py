"""Fleets in virtual time: whatever fails, nothing is lost, and what comes twice was said to be in doubt."""

from __future__ import annotations

import gc
import random
from dataclasses import replace

import pytest
from tests.queue.fleet.links import StoreLink, Umpire
from tests.queue.fleet.network import ReceivedCopy
from tests.queue.fleet.scenario import FleetPlan, run_fleet
from tests.queue.fleet.stores import MemoryFleetStore
from tests.queue.fleet.verdict import FleetReport, wrong_copies, wrong_ends, wrong_notices
from tests.queue.harness import DAY, NOON
from tests.support import virtualtime
from tests.support.effort import examples
from tests.support.processes import ProcessLoop

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.slots import ALL, slot_of
from zsmtp.queue.states import AttemptKey, HistoryEntry, NoticeKind, Outcome, OwedNotice
from zsmtp.queue.store import Deferred, Ended, Lease, NewMessage, NewRecipient

SEEDS = 20
MESSAGES = 5000


def play(plan: FleetPlan) -> FleetReport:
    """Play a plan in virtual time, on a store in memory."""

    async def main(loop: ProcessLoop) -> FleetReport:
        return await run_fleet(loop, plan, MemoryFleetStore(loop.wall, loop.time))

    gc.disable()  # a world makes many small things and throws them away at its end
    try:
        return virtualtime.run(main, make=ProcessLoop)
    finally:
        gc.enable()


def one_message(**values: object) -> NewMessage:
    recipient = NewRecipient(address=b"r@one.example", key="one.example")
    given = {"sender": b"a@example.org", "recipients": [recipient], "content": b"x", "due": NOON, "expires": NOON + DAY}
    return NewMessage(**(given | values))


def ended_entry(attempt: AttemptKey, outcome: Outcome = Outcome.DELIVERED, node: str = "one") -> HistoryEntry:
    return HistoryEntry(
        at=NOON,
        message=attempt.message,
        number=attempt.number,
        attempt=attempt.attempt,
        outcome=outcome,
        address=b"r@one.example",
        sender=b"a@example.org",
        key="one.example",
        node=node,
    )


FIRST = AttemptKey(1, 0, 1)
SECOND = AttemptKey(1, 0, 2)


def test_the_umpire_sees_what_a_store_lets_a_past_owner_do() -> None:
    umpire = Umpire(lambda node: None, lambda node: None)
    old, new = Lease(1, "one.example", ("one.example",)), Lease(2, "one.example", ("one.example",))
    umpire.took("one", [old])
    umpire.marked("one", old, [FIRST], allowed=True)
    umpire.took("two", [new])
    umpire.settled("one", old, [Ended(ended_entry(FIRST))], [FIRST])
    assert umpire.faults == []
    umpire.settled("one", old, [Ended(ended_entry(FIRST))], [])
    umpire.marked("one", old, [SECOND], allowed=True)
    umpire.marked("two", new, [FIRST], allowed=True)
    umpire.took("one", [old])
    found = [words.partition(": ")[2] or words for words in umpire.faults]
    assert found == [
        "a result of one counts, which has lost the site",
        "one was allowed to send it under the lease of the past",
        "two was allowed to send it after one",
        "lease 1 of one.example was given to one after 2",
    ]


def test_the_umpire_knows_the_slots_of_parts() -> None:
    umpire = Umpire(lambda node: None, lambda node: None)
    low, high = ALL & ~(1 << slot_of(1)), 1 << slot_of(1)
    old, new = Lease(1, "one.example", ("one.example",)), Lease(2, "one.example", ("one.example",), slots=high)
    umpire.took("one", [old])
    umpire.shed(old, high)
    umpire.took("two", [new])
    umpire.marked("two", new, [FIRST], allowed=True)
    assert umpire.faults == []
    umpire.marked("one", old, [SECOND], allowed=True)
    assert len(umpire.faults) == 1, "it gave that slot up"
    umpire.took("one", [replace(old, slots=low)])
    umpire.took("one", [old])
    assert len(umpire.faults) == 1, "the other node is dead, so it may have all"
    umpire.took("two", [new])
    assert len(umpire.faults) == 2, "and that one has nothing any more"


def test_the_umpire_accepts_the_late_word_of_an_attempt_in_doubt() -> None:
    umpire = Umpire(lambda node: None, lambda node: None)
    old, new = Lease(1, "one.example", ("one.example",)), Lease(2, "one.example", ("one.example",))
    umpire.took("one", [old])
    umpire.marked("one", old, [FIRST], allowed=True)
    umpire.took("two", [new])
    doubt = ended_entry(FIRST, Outcome.IN_DOUBT, "two")
    umpire.settled("two", new, [Deferred(FIRST, NOON, doubt, "4.4.2", "lost", doubtful=True)], [])
    umpire.settled("one", old, [Ended(ended_entry(FIRST))], [])
    assert umpire.faults == []
    umpire.settled("two", new, [Ended(ended_entry(SECOND, node="two"))], [])
    assert len(umpire.faults) == 1, "nobody allowed that one"


def test_the_verdict_sees_what_is_lost_and_what_comes_twice() -> None:
    delivered, doubted = ended_entry(SECOND, node="two"), ended_entry(FIRST, Outcome.IN_DOUBT, "two")
    one, two = ReceivedCopy(1.0, "one"), ReceivedCopy(2.0, "two")
    assert list(wrong_ends({(1, 0)}, [doubted, delivered])) == []
    assert len(list(wrong_ends({(1, 0), (1, 1)}, [delivered, delivered]))) == 2
    assert len(list(wrong_ends(set(), [delivered]))) == 1
    assert list(wrong_copies([doubted, delivered], {FIRST: [one], SECOND: [two]})) == []
    assert len(list(wrong_copies([delivered], {FIRST: [one], SECOND: [two]}))) == 1, "the first one is not in doubt"
    assert len(list(wrong_copies([delivered], {SECOND: [two, two]}))) == 1
    assert len(list(wrong_copies([delivered], {SECOND: [one]}))) == 1, "another one says that it sent it"
    assert len(list(wrong_copies([delivered], {}))) == 1
    failed = ended_entry(FIRST, Outcome.FAILED)
    notice = OwedNotice(message=1, number=0, kind=NoticeKind.FAILED, at=NOON, address=b"r@one.example")
    assert list(wrong_notices([failed], [notice])) == []
    assert len(list(wrong_notices([failed], []))) == 1
    assert len(list(wrong_notices([delivered], [notice]))) == 1


def test_a_report_has_seed_faults_and_counts() -> None:
    report = FleetReport(7, 10, 12, 5, 60.0, {"killed": 2}, {"delivered": 12, "late": 0}, [f"w{n}" for n in range(30)])
    lines = str(report).splitlines()
    assert lines[:3] == [
        "seed 7: 10 messages, 12 recipients, 5 nodes in all, 60 s",
        "  faults: killed 2",
        "  counts: delivered 12",
    ]
    assert lines[3:5] == ["  WRONG: w0", "  WRONG: w1"]
    assert lines[-1] == "  ... 30 findings in all"


def test_an_answer_that_is_lost_may_be_asked_for_again() -> None:
    """What was done is not done twice, and a lease that nobody knows of is not kept."""

    async def main(loop: ProcessLoop) -> None:
        store = MemoryStore(clock=loop.wall, monotonic=loop.time)
        umpire = Umpire(lambda node: None, lambda node: None)
        link = StoreLink(store.another(), umpire, "one", random.Random(0), lambda: False)
        await link.join("one")
        lost = 0
        message = one_message(expires=loop.wall() + DAY, idempotency_key="k", digest=b"d")
        for _ in range(40):
            loop.call_soon(link.break_off)
            try:
                await link.submit([message])
                leases = await link.take(["one.example"], limit=1)
                if leases:
                    await link.give_back(leases)
            except QueueUnavailable:
                lost += 1
        link.mend()
        assert lost == umpire.counts["answers lost"] > 5
        assert (await store.counters())["messages"] == 1
        assert len(await link.take(["one.example"], limit=1)) == 1
        assert umpire.faults == []

    virtualtime.run(main, make=ProcessLoop)


@pytest.mark.seeds
@pytest.mark.parametrize("seed", range(examples(SEEDS)))
def test_a_fleet_in_which_everything_fails(seed: int) -> None:
    report = play(FleetPlan(seed=seed, messages=MESSAGES))
    print(report)
    assert report.messages == MESSAGES
    assert not report.findings, str(report)
    assert report.counts["slots given up"] > 10
    assert report.counts["spans of two nodes at the big site"] > 3
