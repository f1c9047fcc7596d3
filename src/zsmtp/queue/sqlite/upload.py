"""A large message on its way in: written in parts, each a short transaction that nobody else's has to wait for.

The parts need not be on the disk before the commit that accepts the message is: that one waits for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from zsmtp.errors import QueueError
from zsmtp.queue.limits import (
    CHUNK,
    PART_OCTETS,
    PART_RECIPIENTS,
)
from zsmtp.queue.sqlite.intake import Staged, UploadPart
from zsmtp.queue.store import (
    Accepted,
    NewMessage,
    NewRecipient,
)
from zsmtp.records import replace


class SQLiteUpload:
    """An upload into a SQLite file. What is small in the end is written at once, when it is accepted."""

    def __init__(
        self,
        new: NewMessage,
        write: Callable[[UploadPart], Awaitable[int]],
        accept: Callable[[Staged], Awaitable[Accepted]],
        discard: Callable[[int], Awaitable[None]],
    ) -> None:
        self._new = replace(new, content=b"", recipients=())
        self._write = write
        self._accept = accept
        self._discard = discard
        self._message = 0
        self._content = bytearray(new.content)
        self._size = len(new.content)
        self._chunks = 0
        self._recipients = list(new.recipients)
        self._written = 0  # recipients
        self._over = False

    async def write(self, data: bytes) -> None:
        """Store more of the content; waits until a part is written."""
        self._refuse_if_over()
        self._content += data
        self._size += len(data)
        while len(self._content) >= PART_OCTETS:
            await self._part()

    async def add_recipients(self, recipients: Iterable[NewRecipient]) -> None:
        """Store more recipients; waits until a part is written."""
        self._refuse_if_over()
        for recipient in recipients:
            self._recipients.append(recipient)
            if len(self._recipients) > PART_RECIPIENTS:
                await self._part()

    async def stage(self) -> Staged:
        """Write all parts but the last, and return what is to be accepted."""
        self._refuse_if_over()
        while len(self._content) > PART_OCTETS or len(self._recipients) > PART_RECIPIENTS:
            await self._part()
        self._over = True
        chunks = self._take_chunks(len(self._content))
        if not self._size:
            chunks = [(0, b"")]
        count = self._written + len(self._recipients)
        arriving = self._written > 0
        return Staged(self._new, self._message, self._size, count, chunks, self._recipients, arriving)

    async def accept(self) -> Accepted:
        """Make it a message, durably."""
        return await self._accept(await self.stage())

    async def discard(self) -> None:
        """Forget it."""
        self._over = True
        if self._message:
            await self._discard(self._message)

    def _refuse_if_over(self) -> None:
        if self._over:
            raise QueueError("this upload is over: it was accepted or discarded")

    async def _part(self) -> None:
        chunks = self._take_chunks(min(len(self._content) // CHUNK * CHUNK, PART_OCTETS))
        many = len(self._recipients) > PART_RECIPIENTS  # a few are written with the message, and need not be let go
        recipients = self._recipients[:PART_RECIPIENTS] if many else []
        del self._recipients[: len(recipients)]
        part = UploadPart(self._new, self._message, chunks, self._written, recipients)
        self._written += len(recipients)
        self._message = await self._write(part)

    def _take_chunks(self, octets: int) -> list[tuple[int, bytes]]:
        chunks = []
        for start in range(0, octets, CHUNK):
            chunks.append((self._chunks, bytes(self._content[start : min(start + CHUNK, octets)])))
            self._chunks += 1
        del self._content[:octets]
        return chunks
