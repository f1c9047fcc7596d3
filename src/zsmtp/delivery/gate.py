"""Rate limits for connections and messages: how many may be begun, and when.

The opener of sessions asks the gate before each connection of every kind: the next candidate, a second connection in
clear, one in place of a connection that was lost, one more beside others. If none is allowed yet it awaits
``zsmtp.effects.Sleep`` and asks again. Without a gate there are no limits.

A gate decides and does not wait: times are arguments, in seconds on a monotonic clock::

    gate = ConnectionRate(30)
    allowed = gate.take(place, 2, now)  # 0: ask again at ``gate.opens_at(place, now)``

Messages pass a :class:`MessageRate` before they are given to a connection, all destinations together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple, Protocol

from zsmtp.errors import ConfigError
from zsmtp.patterns import pattern

PERIOD = 60.0  # seconds
MAX_PLACES = 10_000  # destinations remembered before those without a recent connection are dropped

Place = tuple[str, int]  # connections are counted by requested destination and port


class ConnectionGate(Protocol):
    """Decides whether connections may be begun now."""

    def take(self, place: Place, wanted: int, now: float) -> int:
        """Count up to ``wanted`` connections to ``place`` as begun; returns how many may be, 0 if none yet."""

    def give_back(self, place: Place, unused: int, taken: float) -> None:
        """Uncount ``unused`` connections of those counted at the time ``taken``: they were not begun."""

    def opens_at(self, place: Place, now: float) -> float:
        """The time when one more may be begun; ``now`` if that is now."""

    @property
    def rule(self) -> str:
        """The limit in words, for logs."""


class ConnectionRate:
    """At most ``most`` connections are begun to a destination in any 60 seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: dict[Place, deque[float]] = {}  # the times within the last period
        self._room = MAX_PLACES  # the number of places at which old ones are dropped

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


_RATE = pattern(r"\s*(\d+)\s*/\s*(\d*)\s*(s|sec|second|m|min|minute|h|hour|d|day)s?\s*")
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Rate(NamedTuple):
    """At most ``allowed`` in ``seconds``."""

    allowed: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``14/s``, ``100/min``, ``500/2h``; raises :class:`~zsmtp.errors.ConfigError`."""
        match = _RATE.fullmatch(text.lower())
        if match is None or not int(match[1]) or match[2] == "0":
            raise ConfigError(f"{text[:40]!r} is no rate (14/s, 100/min, 500/2h, 10000/day)")
        return cls(int(match[1]), int(match[2] or 1) * _PERIODS[match[3][0]])

    def __str__(self) -> str:
        unit, length = next((u, s) for u, s in reversed(_PERIODS.items()) if self.seconds % s == 0 or u == "s")
        times = self.seconds / length
        number = "" if times == 1 else str(int(times)) if times.is_integer() else repr(times)
        return f"{self.allowed}/{number}{unit}"


class MessageRate:
    """Limits the messages begun to ``rates``, each within any period of its own length."""

    def __init__(self, rates: Iterable[Rate]) -> None:
        self.rates = tuple(rates)
        self._begun: tuple[deque[float], ...] = tuple(deque() for _ in self.rates)

    def take(self, now: float) -> bool:
        """Count a message as begun; returns False, and counts nothing, if none may be begun yet."""
        if not self.room(now):
            return False
        for rate, begun in self._each():
            while begun and begun[0] <= now - rate.seconds:
                begun.popleft()
            begun.append(now)
        return True

    def room(self, now: float) -> int:
        """How many messages may be begun now."""
        return min(rate.allowed - _recent(begun, now - rate.seconds) for rate, begun in self._each())

    def opens_at(self, now: float) -> float:
        """The time when the next message may be begun; ``now`` if that is now."""
        full = [begun[0] + rate.seconds for rate, begun in self._each() if len(begun) == rate.allowed]
        return max([now, *full])

    def _each(self) -> Iterable[tuple[Rate, deque[float]]]:
        return zip(self.rates, self._begun, strict=True)

    @property
    def slowest(self) -> float:
        """The messages per second that it allows in the long run."""
        return min(rate.allowed / rate.seconds for rate in self.rates)


def _recent(times: deque[float], since: float) -> int:
    """How many of ``times``, the oldest first, are later than ``since``."""
    return len(times) - sum(1 for _ in takewhile(lambda one: one <= since, times))
