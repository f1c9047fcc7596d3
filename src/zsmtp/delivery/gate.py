"""The gate that connections pass: how many may be begun to a destination, and when.

The opener of sessions asks the gate before each connection of every kind: the next candidate, a second connection in
clear, one in place of a connection that was lost, one more beside others. Where it is not time yet it awaits
``zsmtp.effects.Sleep`` and asks again. Without a gate nothing is limited and nothing is asked.

A gate decides and does not wait: times are arguments, in seconds on a clock that does not go back::

    gate = ConnectionRate(30)
    allowed = gate.take(place, 2, now)  # 0: ask again at ``gate.opens_at(place, now)``
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

PERIOD = 60.0  # seconds
MAX_PLACES = 10_000  # destinations known before those without a connection in the last period are dropped

Place = tuple[str, int]  # by what connections are counted: the destination that was asked for, and its port


class ConnectionGate(Protocol):
    """Decides whether connections may be begun now."""

    def take(self, place: Place, wanted: int, now: float) -> int:
        """Count up to ``wanted`` connections to ``place`` as begun; how many may be, 0 if it is not time yet."""

    def give_back(self, place: Place, unused: int, taken: float) -> None:
        """Count so many fewer of those that were taken at that time: they were not begun."""

    def opens_at(self, place: Place, now: float) -> float:
        """When one more may be begun; ``now`` if that is now."""

    @property
    def rule(self) -> str:
        """How many it allows, in words for logs."""


class ConnectionRate:
    """At most ``most`` connections are begun to a destination in any 60 seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: dict[Place, deque[float]] = {}  # when, for each of the last period
        self._room = MAX_PLACES  # how many places there may be before it is looked which can be dropped

    @property
    def rule(self) -> str:
        """See :class:`ConnectionGate`."""
        return f"{self._most} a minute"

    def take(self, place: Place, wanted: int, now: float) -> int:
        """See :class:`ConnectionGate`."""
        begun = self._begun.get(place)
        if begun is None:
            self._make_room(now)
            begun = self._begun[place] = deque()
        _forget_old(begun, now)
        allowed = min(wanted, self._most - len(begun))
        begun.extend([now] * allowed)
        return allowed

    def give_back(self, place: Place, unused: int, taken: float) -> None:
        """See :class:`ConnectionGate`."""
        begun = self._begun.get(place)
        if begun is not None:
            for _ in range(min(unused, begun.count(taken))):
                begun.remove(taken)

    def opens_at(self, place: Place, now: float) -> float:
        """See :class:`ConnectionGate`."""
        begun = self._begun.get(place)
        if not begun or len(begun) < self._most:
            return now
        return max(begun[0] + PERIOD, now)

    def _make_room(self, now: float) -> None:
        if len(self._begun) < self._room:
            return
        for place, begun in list(self._begun.items()):
            _forget_old(begun, now)
            if not begun:
                del self._begun[place]
        self._room = max(2 * len(self._begun), MAX_PLACES)


def _forget_old(begun: deque[float], now: float) -> None:
    while begun and begun[0] + PERIOD <= now:
        begun.popleft()
