"""Notices about recipients that are tried again, for a user who waits: how many, why, and when.

Deferrals come in bunches, and one line is for a bunch::

    327 recipients are deferred (450 4.2.1 later) and tried again, the first of them at 14:05:12, in 5 min
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from zsmtp.cli.results import reason_of
from zsmtp.client.report import Result

BUNCH = 1.0  # seconds


class RetryNotice:
    """Collects deferrals, and passes a line about those of each second to ``say``."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._say = say
        self._clock = clock
        self._count = 0
        self._reason = ""
        self._other = False
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, result: Result, seconds: float) -> None:
        """Add a recipient that was deferred, and is tried again in ``seconds``."""
        due, reason = self._clock() + seconds, reason_of(result)
        if self._timer is None:
            self._reason, self._next, self._other = reason, due, False
            self._timer = asyncio.get_running_loop().call_later(BUNCH, self.flush)
        self._count += 1
        self._other = self._other or (result.attempted and reason != self._reason)
        self._next = min(self._next, due)

    def flush(self) -> None:
        """Write the notice about the collected deferrals, if there are any."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        who = "1 recipient is" if self._count == 1 else f"{self._count} recipients are"
        more = ", and for other reasons" if self._other else ""
        at = time.strftime("%H:%M:%S", time.localtime(self._next))
        first = ", the first of them" if self._count > 1 else ""
        left = shown_wait(self._next - self._clock())
        self._say(f"{who} deferred ({self._reason}{more}) and tried again{first} at {at}, in {left}")
        self._count = 0


def shown_wait(seconds: float) -> str:
    """A wait as text for people: ``45 s``, ``5 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
