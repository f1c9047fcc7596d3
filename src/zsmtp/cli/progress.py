"""The progress of sending, for a user at a terminal.

It is a bar if ``rich`` is installed (the extra ``ui``), else an occasional line; nothing if standard error is no
terminal, or if the work is too small to wait for. The display receives the events of all connections
(``zsmtp.events``) and each result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from zsmtp.cli.terminal import is_terminal
from zsmtp.events import ContentProgress, ContentSent, ContentStarted, Event

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LARGE = 1 << 20  # octets; a display is made from this size on
MANY = 20  # recipients
PAUSE = 5.0  # seconds between two lines


class ProgressDisplay:
    """Counts octets and recipients. Base class; subclasses display the counters."""

    def __init__(self, octets: int, recipients: int) -> None:
        self.octets = octets
        self.recipients = recipients
        self.sent = 0
        self.settled = 0

    def observer(self) -> Callable[[Event], None]:
        """The observer for one connection."""
        before = 0

        def observe(event: Event) -> None:
            nonlocal before
            if isinstance(event, ContentStarted):
                before = 0
            elif isinstance(event, ContentProgress | ContentSent):  # small contents are counted when sent
                octets, before = max(event.octets - before, 0), event.octets
                self.add_sent(octets)

        return observe

    def add_sent(self, octets: int) -> None:
        """Count octets that were sent."""
        self.sent += octets
        self.show()

    def settle(self) -> None:
        """Count a recipient that has its result."""
        self.settled += 1
        self.show()

    def show(self) -> None:
        """Display the changed counters."""

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display."""

    @property
    def words(self) -> str:
        """``12 of 500 recipients``."""
        return f"{self.settled} of {self.recipients} recipient{'' if self.recipients == 1 else 's'}"


class Lines(ProgressDisplay):
    """Displays a line every few seconds."""

    def __init__(self, octets: int, recipients: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(octets, recipients)
        self._clock = clock
        self._next = clock() + PAUSE

    def show(self) -> None:
        """Write a line if it is time for one."""
        now = self._clock()
        if now >= self._next:
            self._next = now + PAUSE
            sent = f"{min(self.sent, self.octets) / 1e6:.1f} of {self.octets / 1e6:.1f} MB"
            sys.stderr.write(f"{self.words}, {sent}\n")
            sys.stderr.flush()


class Bar(ProgressDisplay):
    """Displays a bar of rich."""

    def __init__(self, octets: int, recipients: int, bar: RichProgress) -> None:
        super().__init__(octets, recipients)
        self._bar = bar
        self._task = bar.add_task(self.words, total=octets)

    def show(self) -> None:
        """Update the bar; rich draws it ten times a second."""
        over = self.settled >= self.recipients
        self._bar.update(
            self._task, completed=self.octets if over else min(self.sent, self.octets), description=self.words
        )

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def progress_for(octets: int, recipients: int, *, colour: bool) -> ProgressDisplay | None:
    """The display for this amount of work; None for no display."""
    if not is_terminal(sys.stderr) or (octets < LARGE and recipients < MANY):
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        return Lines(octets, recipients)
    console = Console(stderr=True, no_color=not colour, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # Results that are written meanwhile must stand above the bar, unless they go elsewhere.
    same = is_terminal(sys.stdout)
    bar = RichProgress(*columns, console=console, transient=True, redirect_stdout=same, redirect_stderr=True)
    return Bar(octets, recipients, bar)
