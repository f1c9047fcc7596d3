"""Writes results to the store: gathered for some milliseconds, in one transaction for each lease.

A result that cannot be written stops delivery (a sent message without a recorded result would be sent again): no new
attempt may begin while :attr:`ResultWriter.problem` has the reason. Writing is retried until it works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from zsmtp.errors import QueueError
from zsmtp.queue.ids import to_text
from zsmtp.queue.site import KeyQueue
from zsmtp.queue.states import AttemptKey, HistoryEntry
from zsmtp.queue.store import Ended, Lease, QueueStore, Settlement

log = logging.getLogger("zsmtp.queue")

GATHER = 0.010  # seconds results gather before they are written
GROUP = 200  # results that are written without waiting for more
RETRY = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds between tries to write to a failing store


class LeasedSite(Protocol):
    """A leased site, as the writer of its results needs it."""

    @property
    def lease(self) -> Lease:
        """The lease under which its results are written."""

    def in_hand(self) -> Iterable[AttemptKey]:
        """The attempts of recipients that were read and have no result in the store."""

    def written(self, results: Sequence[tuple[KeyQueue, Settlement]]) -> None:
        """Called when these results are in the store."""


class ResultWriter:
    """Writes results to ``store``; ``on_entry`` is called with each history entry once it is written."""

    def __init__(self, store: QueueStore, on_entry: Callable[[HistoryEntry], None] | None = None) -> None:
        self._store = store
        self._on_entry = on_entry
        self._waiting: dict[LeasedSite, list[tuple[KeyQueue, Settlement]]] = {}
        self._count = 0
        self._writing = 0
        self._stirred = asyncio.Event()
        self.problem = ""
        """Why results cannot be written now, "" while they can."""

    def add(self, site: LeasedSite, key: KeyQueue, result: Settlement) -> None:
        """Add a result for a recipient of ``key``."""
        self._waiting.setdefault(site, []).append((key, result))
        self._count += 1
        if self._count in (1, GROUP):
            self._stirred.set()

    @property
    def all_written(self) -> bool:
        """Whether no result waits for writing."""
        return not self._waiting and not self._writing

    async def write(self) -> None:
        """Write results until cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            if self._count < GROUP:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stirred.wait(), GATHER)
                self._stirred.clear()
            batches, self._waiting, self._count = self._waiting, {}, 0
            self._writing = len(batches)
            try:
                await asyncio.gather(*[self._settle(site, results) for site, results in batches.items()])
            finally:
                self._writing = 0

    async def _settle(self, site: LeasedSite, results: list[tuple[KeyQueue, Settlement]]) -> None:
        settlements = [result for _, result in results]
        ended = {recipient_of(result) for result in settlements}
        tries = 0
        while True:
            in_hand = [attempt for attempt in site.in_hand() if attempt[:2] not in ended]
            try:
                conflicts = await self._store.settle(site.lease, settlements, in_hand)
            except QueueError as error:
                if not self.problem:
                    log.error("results cannot be written, so nothing new is delivered: %s", error)
                self.problem = str(error)
                await asyncio.sleep(RETRY[min(tries, len(RETRY) - 1)])
                tries += 1
                continue
            break
        if self.problem:
            log.warning("results are written again")
            self.problem = ""
        for attempt in conflicts:
            log.warning("%s: a result came too late: the recipient was changed meanwhile", to_text(attempt.message))
        if self._on_entry is not None:
            for result in settlements:
                if result.entry is not None:
                    self._on_entry(result.entry)
        site.written(results)


def recipient_of(result: Settlement) -> tuple[int, int]:
    """The message and the number of the recipient of a result."""
    if isinstance(result, Ended):
        return result.entry.message, result.entry.number
    return result.attempt[:2]
