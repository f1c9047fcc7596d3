"""The store of a fleet, as the machine that it runs on has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.store import QueueStore


class FleetStore(Protocol):
    """A queue that many processes share."""

    async def open(self) -> QueueStore:
        """The store of a process of its own."""

    async def restart(self) -> None:
        """Let the machine of the store die and come back: what was not on the disk is lost. The processes live."""


class MemoryFleetStore:
    """A queue in memory, in virtual time."""

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._first = MemoryStore(clock=clock, monotonic=monotonic)

    async def open(self) -> QueueStore:
        return self._first.another()

    async def restart(self) -> None:
        self._first.restart()
