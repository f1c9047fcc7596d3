"""What became of a fleet's mail: everything that was promised, held against ledgers that no node can see.

:func:`judge` compares what was accepted, what the queue's history says, and what receivers got. What is wrong is said
in sentences; a :class:`FleetReport` has them, with seed, faults and counts, as text for people.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tests.queue.fleet.network import BIG, ReceivedCopy

from zsmtp.queue.ids import to_text
from zsmtp.queue.states import AttemptKey, HistoryEntry, NoticeKind, Outcome, OwedNotice
from zsmtp.queue.store import QueueStore

if TYPE_CHECKING:
    from tests.queue.fleet.scenario import Fleet

SHOWN = 20
"""Findings that a report shows."""
Place = tuple[int, int]
"""Message and number of a recipient."""


class FleetReport(NamedTuple):
    """What was played, and what came of it."""

    seed: int
    messages: int
    recipients: int
    nodes: int
    seconds: float
    faults: Mapping[str, int]
    counts: Mapping[str, int]
    findings: Sequence[str]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.messages} messages, {self.recipients} recipients, {self.nodes} nodes in all, "
            f"{self.seconds:.0f} s",
            f"  faults: {_listed(self.faults)}",
            f"  counts: {_listed(self.counts)}",
            *(f"  WRONG: {finding}" for finding in self.findings[:SHOWN]),
        ]
        if len(self.findings) > SHOWN:
            lines.append(f"  ... {len(self.findings)} findings in all")
        return "\n".join(lines)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items() if number) or "none"


async def judge(fleet: Fleet, store: QueueStore) -> FleetReport:
    """Judge a fleet that has come to its end."""
    _, history = await store.events("", limit=1 << 30)
    received = fleet.world.received
    owed = [one for _, notices in await store.owed(fleet.loop.wall() + 1000, limit=1 << 30) for one in notices]
    findings = [
        *fleet.umpire.faults,
        *[finding async for finding in store.check()],
        *wrong_ends(fleet.accepted, history),
        *wrong_copies(history, received),
        *wrong_notices(history, owed),
    ]
    counters = await store.counters()
    copies = Counter(attempt[:2] for attempt in received for _ in received[attempt])
    counts = {name: counters.get(name, 0) for name in ("delivered", "failed", "expired", "attempts", "doubtful")}
    counts |= {
        "late": counters.get("late", 0),
        "copies": copies.total(),
        "second copies": sum(number - 1 for number in copies.values()),
        "spans of two nodes at the big site": spans_of_several(received, fleet.world.sites[BIG].copies),
        **fleet.umpire.counts,
    }
    return FleetReport(
        fleet.plan.seed,
        counters.get("messages", 0),
        len(fleet.accepted),
        fleet.joined,
        fleet.loop.time() - 1000.0,
        dict(sorted(fleet.faults.items())),
        counts,
        findings,
    )


def spans_of_several(received: Mapping[AttemptKey, Sequence[ReceivedCopy]], there: Collection[Place]) -> int:
    """In how many spans of ten seconds more than one node sent some of these recipients their mail."""
    nodes: defaultdict[int, set[str]] = defaultdict(set)
    for attempt, copies in received.items():
        for copy in copies if attempt[:2] in there else ():
            nodes[int(copy.at // 10)].add(copy.node)
    return sum(len(some) > 1 for some in nodes.values())


def wrong_ends(accepted: Collection[Place], history: Iterable[HistoryEntry]) -> Iterator[str]:
    """Every recipient that was accepted has one end, and nobody else has any."""
    ends = Counter((one.message, one.number) for one in history if one.outcome.end is not None)
    for place in accepted:
        if ends[place] != 1:
            yield f"{_name(place)} was accepted and has {ends[place]} ends"
    for place in ends.keys() - accepted:
        yield f"{_name(place)} has an end, and nobody was told that it is there"


def wrong_copies(
    history: Iterable[HistoryEntry], received: Mapping[AttemptKey, Sequence[ReceivedCopy]]
) -> Iterator[str]:
    """What came twice was said to be in doubt, and what was said to be delivered came."""
    said: defaultdict[AttemptKey, dict[Outcome, HistoryEntry]] = defaultdict(dict)
    for entry in history:
        said[AttemptKey(entry.message, entry.number, entry.attempt)][entry.outcome] = entry
    for attempt, copies in received.items():
        words = said[attempt]
        if len(copies) > 1:
            yield f"{_name(attempt)} was sent {len(copies)} times: by {', '.join(copy.node for copy in copies)}"
        if Outcome.DELIVERED in words and words[Outcome.DELIVERED].node != copies[0].node:
            yield f"{_name(attempt)} was sent by {copies[0].node}, and {words[Outcome.DELIVERED].node} says so"
        if not words.keys() & {Outcome.DELIVERED, Outcome.IN_DOUBT}:
            outcomes = ", ".join(outcome.value for outcome in words) or "nothing"
            yield f"{_name(attempt)} was sent by {copies[0].node}, and history says {outcomes}"
    for attempt, words in said.items():
        if Outcome.DELIVERED in words and attempt not in received:
            yield f"{_name(attempt)} is said to be delivered, and nobody got it"


def wrong_notices(history: Iterable[HistoryEntry], owed: Iterable[OwedNotice]) -> Iterator[str]:
    """Of each failure a notice is owed, and of nothing else."""
    failed = {(one.message, one.number) for one in history if one.outcome in (Outcome.FAILED, Outcome.EXPIRED)}
    told = {(one.message, one.number) for one in owed if one.kind is NoticeKind.FAILED}
    for place in failed - told:
        yield f"{_name(place)} failed, and no notice is owed"
    for place in told - failed:
        yield f"{_name(place)} did not fail, and a notice is owed"


def _name(place: tuple[int, ...]) -> str:
    words = f"{to_text(place[0])} recipient {place[1]}"
    return words if len(place) == 2 else f"{words} attempt {place[2]}"
