"""Puts replies into the order of their commands, even if some are decided late (RFC 2920 3.2).

Each command has a slot, numbered from 0. A slot is opened when the command is read and filled when its reply is known;
filled slots are sent up to the first unfilled one. So a server may process the commands behind a message while it is
still writing the message to disk, and several messages of one connection can be committed together.
"""

from __future__ import annotations

from collections import deque

from zsmtp.errors import LocalError


class ReplySlots:
    """The slots of one session, and the octets that may be sent.

    ``count`` are the replies not taken yet and the slots without one; ``octets`` may be sent, the first of them since
    ``since``.
    """

    __slots__ = ("_first", "_ready", "_slots", "count", "octets", "since")

    def __init__(self) -> None:
        self._slots: deque[bytes | None] = deque()
        self._first = 0  # the number of the first slot that was not sent
        self._ready: list[bytes] = []
        self.count = 0
        self.octets = 0
        self.since = 0.0

    @property
    def waiting(self) -> int:
        """Slots that are open, or filled behind one that is."""
        return len(self._slots)

    def open(self) -> int:
        """Open the next slot; its number."""
        slots = self._slots
        slots.append(None)
        self.count += 1
        return self._first + len(slots) - 1

    def add(self, octets: bytes, now: float) -> None:
        """Open the next slot and fill it."""
        self.count += 1
        if self._slots:
            self._slots.append(octets)
        else:
            self._first += 1
            self._release(octets, now)

    def fill(self, slot: int, octets: bytes, now: float) -> None:
        """Fill an open slot. Raises LocalError if it is none."""
        slots = self._slots
        place = slot - self._first
        if not 0 <= place < len(slots) or slots[place] is not None:
            raise LocalError(f"slot {slot} is not open")
        if place:
            slots[place] = octets
            return
        known: bytes | None = octets
        while known is not None:
            slots.popleft()
            self._first += 1
            self._release(known, now)
            known = slots[0] if slots else None

    def take(self) -> bytes:
        """Remove and return the octets that may be sent."""
        ready = self._ready
        if not ready:
            return b""
        octets = b"".join(ready)
        self.count -= len(ready)
        ready.clear()
        self.octets = 0
        return octets

    def withdraw(self, slot: int) -> None:
        """Remove this slot and those behind it, which were opened last and are not filled."""
        while self._first + len(self._slots) > slot:
            self._slots.pop()
            self.count -= 1

    def drop(self) -> None:
        """Remove all slots that were not sent."""
        self._first += len(self._slots)
        self.count -= len(self._slots)
        self._slots.clear()

    def _release(self, octets: bytes, now: float) -> None:
        if not self.octets:
            self.since = now
        self._ready.append(octets)
        self.octets += len(octets)
