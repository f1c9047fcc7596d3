"""Tracks one message: its state, the ends of its recipients, and its recall.

Programs use these functions for messages they submitted; operators use filters (``zsmtp.queue.filter``). All of them
take a store and the number of a message. An unknown message, or one whose history was dropped by age, is a QueueError.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from zsmtp.errors import QueueError
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import to_text
from zsmtp.queue.operators import Change, Row
from zsmtp.queue.states import HistoryEntry, Outcome, Position, QueuedMessage
from zsmtp.queue.store import QueueStore

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 1.0
_CANCELLED = "cancelled by its sender"


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """The current status of a message."""

    message: QueuedMessage | None
    """As it was accepted; None when all its recipients have an end."""
    waiting: tuple[Row, ...]
    """Its recipients without an end, each with its state."""
    history: tuple[HistoryEntry, ...]
    """Attempts and ends, oldest first."""

    @property
    def ends(self) -> tuple[HistoryEntry, ...]:
        """The ends of its recipients, in their order."""
        return _ends(self.history)

    @property
    def done(self) -> bool:
        """Whether all its recipients have an end."""
        return not self.waiting


@dataclass(frozen=True, slots=True)
class Recall:
    """The result of a recall, by recipient."""

    recalled: tuple[str, ...]
    """Recipients to which it will not be delivered."""
    in_hand: tuple[str, ...]
    """Recipients whose server may have it by now: the attempt continues."""
    ended: tuple[HistoryEntry, ...]
    """The ends of recipients that had one before."""

    @property
    def complete(self) -> bool:
        """Whether it is delivered to no recipient."""
        return not self.in_hand and not any(entry.outcome is Outcome.DELIVERED for entry in self.ended)


async def status(store: QueueStore, message: int) -> MessageStatus:
    """The status of a message."""
    found = await store.message(message)
    waiting = () if found is None else tuple(await _waiting(store, message, found.recipients))
    history = tuple(await store.history(message))
    if found is None and not history:
        raise _unknown(store, message)
    return MessageStatus(found if waiting else None, waiting, history)


async def wait(store: QueueStore, message: int, timeout: float | None) -> list[HistoryEntry]:
    """Wait until all recipients of a message have an end; returns the ends. Raises TimeoutError.

    It polls the store, at last once a second.
    """
    pause = _FIRST_PAUSE
    async with asyncio.timeout(timeout):
        while True:
            found = await store.message(message)
            history = await store.history(message)
            if found is None and not history:
                raise _unknown(store, message)
            ends = _ends(history)
            if found is None or len(ends) == found.recipients:
                return list(ends)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)


async def cancel(store: QueueStore, message: int) -> Recall:
    """Recall a message: it is not delivered any more, except by attempts that a server may have completed already."""
    only = _only(store, message)
    before = await status(store, message)
    async for _ in store.change(only, Change(end="dropped", reason=_CANCELLED, by="its sender")):
        pass
    in_hand = [row.recipient for row in await _waiting(store, message, len(before.waiting))]
    left = {recipient.number for recipient in in_hand}
    known = {entry.number for entry in before.ends}
    new = [entry for entry in _ends(await store.history(message)) if entry.number not in known | left]
    return Recall(
        recalled=tuple(_text(entry.address) for entry in new if entry.outcome is Outcome.DROPPED),
        in_hand=tuple(_text(recipient.address) for recipient in in_hand),
        ended=(*before.ends, *(entry for entry in new if entry.outcome is not Outcome.DROPPED)),
    )


async def _waiting(store: QueueStore, message: int, most: int) -> list[Row]:
    """The recipients of a message without an end, at most ``most``, so that no others are read."""
    if not most:
        return []
    start = Position(0.0, message, -1)
    return [row async for row in store.select(_only(store, message), after=start, limit=most)]


def _ends(history: list[HistoryEntry] | tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    """The end of each recipient; a late result is none."""
    found = {entry.number: entry for entry in history if entry.outcome.end is not None}
    return tuple(found[number] for number in sorted(found))


def _only(store: QueueStore, message: int) -> Filter:
    return Filter.parse(f"id={to_text(message, store.shard)}")


def _unknown(store: QueueStore, message: int) -> QueueError:
    return QueueError(f"there is no message {to_text(message, store.shard)} in this queue, nor its history")


def _text(address: bytes) -> str:
    return address.decode("utf-8", "replace")
