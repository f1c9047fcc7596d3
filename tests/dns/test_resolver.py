"""The caching resolver and the plain driver of decisions."""

from typing import Any

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.resolver import CachingResolver, carry_out
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import OwnAddresses

A = Query("a.example", RecordType.A)
B = Query("b.example", RecordType.A)


class Clock:
    """A clock that goes when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_question_is_asked_once_within_its_ttl() -> None:
    clock = Clock()
    table = StaticResolver("a.example 10 A 192.0.2.1\nslow.example FAIL TIMEOUT")
    resolver = CachingResolver(table, clock)
    first = resolver.lookup(A, 0.0)
    clock.now = 9.0
    again = resolver.lookup(A, 0.0)
    assert (first.records, again.records) == (("192.0.2.1",), ("192.0.2.1",))
    assert (first.ttl, again.ttl) == (10, 1)
    assert table.queries == [A]
    clock.now = 10.0
    assert resolver.lookup(A, 0.0).ttl == 10
    assert table.queries == [A, A]


def test_effects_are_carried_out_in_order() -> None:
    deadlines: list[float] = []

    class Recorder:
        def lookup(self, query: Query, deadline: float) -> Answer:
            deadlines.append(deadline)
            return Answer(query, Status.NODATA)

    async def decision() -> list[Any]:
        first = await A
        own = await OwnAddresses()
        second = await B
        return [first.query, own, second.query]

    own = frozenset({"192.0.2.1"})
    assert carry_out(decision(), Recorder(), deadline=7.0, own_addresses=lambda: own) == [A, own, B]
    assert deadlines == [7.0, 7.0]


def test_a_decision_without_effects() -> None:
    async def decision() -> str:
        return "at once"

    assert carry_out(decision(), StaticResolver(""), deadline=0.0, own_addresses=frozenset) == "at once"
