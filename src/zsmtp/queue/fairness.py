"""Fair scheduling of tenants: deficit round robin over the sub-queues of a site (Shreedhar and Varghese, 1995).

Tenants take turns by weight, so one with a million messages delays another's single message by one round, not by the
million. Within a tenant the better rank goes first, then the earlier due time (the store reads them in this order).
Priority passes backlogs of the same tenant only; mail that is urgent for all tenants needs its own tenant.

The state is bounded by the sub-queues that have work; cost is constant for each message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

H = TypeVar("H", bound=Hashable)

QUANTUM = 10  # messages a tenant of weight 1 may send in its turn


class RoundRobin(Generic[H]):
    """Turns among ``H`` (tenants). ``weight`` is the share of each, 1 by default."""

    def __init__(self, weight: Callable[[H], float] = lambda _: 1.0) -> None:
        self._weight = weight
        self._deficits: OrderedDict[H, float] = OrderedDict()  # in the order of their turns; the first has it now

    def __len__(self) -> int:
        return len(self._deficits)

    def __contains__(self, member: H) -> bool:
        return member in self._deficits

    def add(self, member: H) -> None:
        """Add a member with work at the end, unless it takes part already."""
        self._deficits.setdefault(member, 0.0)

    def remove(self, member: H) -> None:
        """Remove a member without work; its deficit is discarded."""
        self._deficits.pop(member, None)

    def turn(self) -> H | None:
        """The member that has its turn; None if there are no members. Call :meth:`spent` for the work taken."""
        for _ in range(len(self._deficits)):
            member = next(iter(self._deficits))
            if self._deficits[member] > 0:
                return member
            self._deficits[member] += max(self._weight(member), 0.01) * QUANTUM
            if self._deficits[member] > 0:
                return member
            self._deficits.move_to_end(member)
        return next(iter(self._deficits), None)

    def spent(self, member: H, cost: float = 1.0) -> None:
        """``member`` took work worth ``cost`` messages; the turn goes on when its share is used up."""
        if member not in self._deficits:
            return
        self._deficits[member] -= cost
        if self._deficits[member] <= 0:
            self._deficits.move_to_end(member)

    def passed(self, member: H) -> None:
        """``member`` cannot use its turn now; it keeps its place among the others, at the end."""
        if member in self._deficits:
            self._deficits.move_to_end(member)
