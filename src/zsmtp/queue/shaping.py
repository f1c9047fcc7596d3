"""Traffic shaping: the connection window of a site, its rates, and the probes of a site that does not answer.

Rules and states without a clock: times are arguments, in seconds on a clock that does not go back.

**The connection window** of a site grows and shrinks by the results of its connections. A delivery is good if a session
was established, with any reply about the message; a failed connection or handshake, or 421, is bad. Each result counts
``1/window``, so the window grows by one after as many good results as it is wide and shrinks after as many bad ones: a
server that takes five connections of twenty then defers a sixth of its mail, instead of half with a constant step of
one. The window only grows while it is used.

**A site is dead** when more connections failed in a row than its window was wide when the first of them failed.
Then only one probe at a time is tried, at growing intervals; waiting recipients are not touched. The first good result
restores the site, with its initial window.

**Rates** are token buckets: a number of messages, recipients or connections in a number of seconds. Several may be
given; all of them apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zsmtp.delivery.gate import Rate as Rate
from zsmtp.errors import ConfigError
from zsmtp.fieldtypes import check_least, check_types

START, MOST = 5, 20  # connections to a site: at first, and at most

PROBES = (60.0, 120.0, 300.0, 600.0, 900.0)  # seconds between probes of a dead site; the last one repeats
PROBE_JITTER = 0.1  # of the interval, either way


class TokenBucket:
    """The state of one rate: a bucket that is full at first and refills evenly."""

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._level = float(rate.allowed)
        self._at: float | None = None

    def wait(self, now: float, wanted: int = 1) -> float:
        """Seconds until ``wanted`` may be taken; 0.0 for now. More than a full bucket waits for a full one."""
        missing = min(wanted, self.rate.allowed) - self._filled(now)
        return max(missing, 0.0) * self.rate.seconds / self.rate.allowed

    def take(self, now: float, taken: int = 1) -> None:
        """Subtract ``taken``, even below zero: later calls wait for the excess."""
        self._level = self._filled(now) - taken
        self._at = now

    def change(self, rate: Rate, now: float) -> None:
        """Go on with another rate; a smaller bucket loses what it cannot hold, a larger one gains nothing at once."""
        level = self._filled(now)
        self.rate = rate
        self._level, self._at = min(level, float(rate.allowed)), now

    def _filled(self, now: float) -> float:
        if self._at is None:
            return self._level
        return min(self.rate.allowed, self._level + (now - self._at) * self.rate.allowed / self.rate.seconds)


class Buckets:
    """The states of several rates, which all apply."""

    __slots__ = ("_buckets",)

    def __init__(self, rates: Iterable[Rate]) -> None:
        self._buckets = [TokenBucket(rate) for rate in rates]

    def wait(self, now: float, wanted: int = 1) -> tuple[float, Rate | None]:
        """Seconds until ``wanted`` may be taken, and the rate with the longest wait (None: no wait)."""
        longest, binding = 0.0, None
        for bucket in self._buckets:
            seconds = bucket.wait(now, wanted)
            if seconds > longest:
                longest, binding = seconds, bucket.rate
        return longest, binding

    def change(self, rates: Iterable[Rate], now: float) -> None:
        """Go on with other rates, one for each that there is."""
        for bucket, rate in zip(self._buckets, rates, strict=True):
            bucket.change(rate, now)

    def empty(self, now: float) -> None:
        """Let them fill from nothing."""
        for bucket in self._buckets:
            bucket.take(now, bucket.rate.allowed)

    def take(self, now: float, taken: int = 1) -> None:
        """Subtract ``taken`` from all of them."""
        for bucket in self._buckets:
            bucket.take(now, taken)


class ConnectionWindow:
    """The connection window of a site: ``size`` connections, 0 while it is dead."""

    __slots__ = ("_failed", "_most", "_score", "_size", "_start", "_worth", "dead")

    def __init__(self, start: int = START, most: int = MOST) -> None:
        self._start = min(start, most)
        self._most = most
        self._size = self._start
        self._score = 0.0  # in connections; the window changes by one when it reaches one
        self._failed = 0  # connections that failed since the last good one
        self._worth = self._size  # size of the window when the first of them failed
        self.dead = False

    @property
    def size(self) -> int:
        """The connections allowed now."""
        return 0 if self.dead else self._size

    @property
    def most(self) -> int:
        """The largest size of the window."""
        return self._most

    def good(self, busy: int) -> None:
        """Record an established session, or a reply to a message, with ``busy`` connections in use."""
        self._failed = 0
        if self.dead:
            self.dead = False
            self._size, self._score = self._start, 0.0
            return
        if self._size < self._most and busy >= self._size:  # an unused window need not grow
            self._score = max(self._score, 0.0) + 1 / self._size
            if self._score >= 1:
                self._size, self._score = self._size + 1, 0.0

    def bad(self) -> None:
        """Record a failed session, or one closed with 421."""
        if not self._failed:
            self._worth = self._size
        self._failed += 1
        if self._failed > self._worth:
            self.dead = True
        self._score = min(self._score, 0.0) - 1 / self._size
        if self._score <= -1 and self._size > 1:
            self._size, self._score = self._size - 1, 0.0

    def change(self, start: int, most: int) -> None:
        """Go on with another initial and another largest size; if that is smaller, so is the window, in proportion."""
        size = self._size * most // self._most if most < self._most else self._size
        self._start, self._most = min(start, most), most
        self.limit(size)

    def limit(self, connections: int) -> None:
        """Reduce the window to the number of connections that the server accepts; it grows again from there."""
        self._size = max(min(self._size, connections), 1)
        self._score = 0.0


class ProbeTimes:
    """The times of probes of a dead site: one probe at a time, at growing intervals."""

    __slots__ = ("_failures", "at")

    def __init__(self) -> None:
        self._failures = 0
        self.at = 0.0  # the next probe, on the caller's clock

    def failed(self, now: float, chance: float) -> None:
        """Schedule the next probe after a failed one, or for a new dead site; ``chance`` is random, from 0 to 1."""
        interval = PROBES[min(self._failures, len(PROBES) - 1)]
        self._failures += 1
        self.at = now + interval * (1 + PROBE_JITTER * (2 * chance - 1))

    def succeeded(self) -> None:
        """Reset the intervals: the site is not dead any more."""
        self._failures = 0
        self.at = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """The configured limits of a site."""

    start: int = START
    """Connections at first."""
    most: int = MOST
    """Connections at most."""
    messages: tuple[Rate, ...] = ()
    """Rates of messages."""
    recipients: tuple[Rate, ...] = ()
    """Rates of recipients."""
    connections: tuple[Rate, ...] = ()
    """Rates of new connections."""
    per_connection: int = 0
    """Messages over one connection, 0: as many as the server accepts."""

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, start=1, per_connection=0)
        if self.most < self.start:
            raise ConfigError(f"most: {self.most} is less than start, which is {self.start}")


def rates(texts: str | Sequence[str]) -> tuple[Rate, ...]:
    """The rates of a configuration: one text or several. Raises ConfigError."""
    return tuple(Rate.parse(text) for text in ([texts] if isinstance(texts, str) else texts))
