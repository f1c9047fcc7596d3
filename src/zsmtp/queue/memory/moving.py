"""Moves of mail between queues, in memory: recipients set apart here, and recipients taken in from other queues."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zsmtp.queue import settling
from zsmtp.queue.intake import clean
from zsmtp.queue.memory.base import MemoryBase
from zsmtp.queue.moves import ApartRecipient, Departure, Elsewhere, Move, TakenIn, held_before, holds_apart
from zsmtp.queue.states import milliseconds, seconds
from zsmtp.records import replace


class MemoryMoving(MemoryBase):
    """The operations of a store for moves between queues."""

    @property
    def uid(self) -> str:
        """The unique identifier of this queue."""
        return self._data.uid

    async def begin_move(self, to: Elsewhere, *, by: str) -> Move:
        """Begin a move to another queue."""
        self._begin("begin_move")
        self._data.last_move += 1
        move = Move(self._data.last_move, to, clean(by), seconds(milliseconds(self._clock())))
        self._data.moves[move.number] = move
        return move

    async def moves(self) -> list[Move]:
        """The moves that began, oldest first."""
        self._begin("moves")
        return list(self._data.moves.values())

    async def apart(
        self, move: int, *, message: int = 0, after: tuple[int, int] = (0, -1), limit: int
    ) -> list[ApartRecipient]:
        """The recipients set apart in a move, in order of their ids."""
        self._begin("apart")
        least, greatest = holds_apart(move)
        keys = {of: (key, digest) for (_, key), (digest, of) in self._data.idempotency.items()}
        return [
            ApartRecipient(
                replace(one, hold=self._data.hold(held_before(one.hold))),
                self._data.messages[one.message],
                keys.get(one.message),
            )
            for place, one in sorted(self._data.recipients.items())
            if least <= one.hold <= greatest and place > after and message in (0, one.message)
        ][:limit]

    async def depart(self, departures: Sequence[Departure], *, by: str) -> int:
        """End recipients that have moved to another queue."""
        self._begin("depart")
        done = 0
        for departure in departures:
            one = self._data.recipients.get((departure.message, departure.number))
            least, greatest = holds_apart(departure.move)
            if one is not None and least <= one.hold <= greatest:
                message = self._data.messages[one.message]
                self._settle(settling.departed(departure, one, message, self._clock(), by), one)
                done += 1
        return done

    async def taken_in(self, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
        """The notes on recipients taken in from another queue."""
        self._begin("taken_in")
        return [
            note
            for (of, note), departed in self._data.taken_in.items()
            if of == queue and (note.message in messages if messages else departed is None)
        ]

    async def departed(self, queue: str, notes: Collection[TakenIn]) -> None:
        """Note that these recipients have departed from their source."""
        self._begin("departed")
        for note in notes:
            if (queue, note) in self._data.taken_in:
                self._data.taken_in[queue, note] = self._clock()
