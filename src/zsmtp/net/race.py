"""Schedules connection attempts: addresses in order, the next one early while an earlier one hangs (like RFC 8305).

A state machine without I/O: the driver reports events, with its clock's time, and asks what to start. The first
established connection wins; the other attempts are given up before any SMTP command is sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zsmtp.dns.candidates import Endpoint

SAME_HOST = 0.25  # seconds before another address of the same host is tried in parallel
OTHER_HOST = 2.0  # seconds before the next host is tried: it may have a worse preference


class Race:
    """One race over ``endpoints``.

    ``timeout`` seconds bound each attempt, and ``end`` is when the race is over (None: when the last attempt is).
    """

    def __init__(self, endpoints: Sequence[Endpoint], timeout: float, now: float, end: float | None = None) -> None:
        self._waiting = list(endpoints)
        self._timeout = timeout
        self._end = math.inf if end is None else end
        self._running: dict[Endpoint, float] = {}  # with the time it started
        self._next_start = now

    @property
    def over(self) -> bool:
        """Whether no attempt is running and none is left to start."""
        return not self._waiting and not self._running

    def start(self, now: float) -> Endpoint | None:
        """The endpoint to start connecting to now, or None. Call again until None."""
        if not self._waiting or now >= self._end or (self._running and now < self._next_start):
            return None
        endpoint = self._waiting.pop(0)
        self._running[endpoint] = now
        if self._waiting:
            self._next_start = now + (SAME_HOST if self._waiting[0].host == endpoint.host else OTHER_HOST)
        return endpoint

    def failed(self, endpoint: Endpoint) -> None:
        """An attempt ended without a connection; the next may start at once."""
        self._running.pop(endpoint, None)
        self._next_start = 0.0

    def expired(self, now: float) -> list[Endpoint]:
        """The attempts that timed out; they count as failed. At the end of the race the others are not tried."""
        if now >= self._end:
            self._waiting.clear()
        late = [one for one, started in self._running.items() if now >= min(started + self._timeout, self._end)]
        for endpoint in late:
            self.failed(endpoint)
        return late

    def overtaken(self, winner: Endpoint, now: float) -> tuple[tuple[Endpoint, float], ...]:
        """The attempts that started before ``winner``'s and still hang, each with its duration in seconds."""
        since = self._running[winner]
        return tuple((endpoint, now - started) for endpoint, started in self._running.items() if started < since)

    def deadline(self) -> float | None:
        """The time of the next early start or the next expiry."""
        times = [started + self._timeout for started in self._running.values()]
        if self._waiting:
            times.append(self._next_start)
        return min(*times, self._end) if times else None
