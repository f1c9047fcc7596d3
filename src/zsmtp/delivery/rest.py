"""Hosts left alone: a destination whose host failed as a whole is not tried again for as long as its verdict says.

Mail that comes for it meanwhile gets the same verdict at once (``Verdict.retry_after``): a dead host is waited for
once, not once per message. Time is an argument, in seconds on any clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Hashable

from zsmtp.delivery.outcome import Verdict

MAX_RESTING = 1000  # destinations remembered


class Resting:
    """The destinations left alone now, by whatever names them."""

    def __init__(self) -> None:
        self._until: dict[Hashable, tuple[float, Verdict]] = {}

    def remember(self, destination: Hashable, failure: Verdict | None, now: float) -> None:
        """Leave a destination alone if its last failure says so (``Route.failure``; None if there was none)."""
        if failure is None or not failure.retry_after:
            return
        while len(self._until) >= MAX_RESTING:
            del self._until[next(iter(self._until))]
        self._until[destination] = (now + failure.retry_after, failure)

    def get(self, destination: Hashable, now: float) -> tuple[float, Verdict] | None:
        """For how many seconds a destination rests, and the verdict on its mail; None if it may be tried."""
        rest = self._until.get(destination)
        if rest is None:
            return None
        until, verdict = rest
        if now < until:
            return until - now, verdict
        del self._until[destination]
        return None
