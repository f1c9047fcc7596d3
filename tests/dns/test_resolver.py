"""The caching resolver and the plain driver of decisions."""

from collections.abc import Generator
from typing import Any

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.destination import Effect, OwnAddresses
from zsmtp.dns.resolver import CachingResolver, carry_out
from zsmtp.dns.static import StaticResolver

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

    def decision() -> Generator[Effect, Any, list[Any]]:
        first = yield A
        own = yield OwnAddresses()
        second = yield B
        return [first.query, own, second.query]

    own = frozenset({"192.0.2.1"})
    assert carry_out(decision(), Recorder(), deadline=7.0, own_addresses=lambda: own) == [A, own, B]
    assert deadlines == [7.0, 7.0]


def test_a_decision_without_effects() -> None:
    def decision() -> Generator[Effect, Any, str]:
        return "at once"
        yield A  # what makes it a generator

    assert carry_out(decision(), StaticResolver(""), deadline=0.0, own_addresses=frozenset) == "at once"
