"""Prepares new messages for a database: in parts, and as columns.

A large message is written in parts, each a short transaction that delays no other; the parts need not be on the disk
before the commit that accepts the message: that one waits for all of them. This module makes the columns of a message
for the stores in databases, in the order of ``zsmtp.queue.sql``; ``zsmtp.queue.intake`` has the rules of submission.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import intake
from zsmtp.queue.limits import (
    CHUNK,
    PART_OCTETS,
    PART_RECIPIENTS,
)
from zsmtp.queue.moves import Standing
from zsmtp.queue.states import OwedNotice, milliseconds
from zsmtp.queue.store import (
    Accepted,
    NewMessage,
    NewRecipient,
)
from zsmtp.records import replace

_FARTHEST = (1 << 53) / 1000
_LARGEST = 1 << 31


class Staged(NamedTuple):
    """An upload before its acceptance: the parts written, and the rest.

    ``message`` 0: no part was written. ``rest`` are its last recipients, whose numbers end with ``recipients``;
    ``arriving``: others were written before.
    """

    new: NewMessage
    message: int
    size: int
    recipients: int
    chunks: list[tuple[int, bytes]]
    rest: list[NewRecipient]
    arriving: bool


class UploadPart(NamedTuple):
    """A part of an upload: chunks by their number, recipients with the number of the first."""

    new: NewMessage
    message: int
    chunks: list[tuple[int, bytes]]
    first: int
    recipients: list[NewRecipient]


class Notifying(NamedTuple):
    """Owed notices, and the message that replaces them."""

    owed: Sequence[OwedNotice]
    notice: NewMessage | None


class StagedUpload:
    """An upload into a database. A message that turns out small is written in one part, at its acceptance."""

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
        """Write all parts but the last, and return the upload for its acceptance."""
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
        """Complete the upload as a message, durably."""
        return await self._accept(await self.stage())

    async def discard(self) -> None:
        """Discard the upload."""
        self._over = True
        if self._message:
            await self._discard(self._message)

    def _refuse_if_over(self) -> None:
        if self._over:
            raise QueueError("this upload is over: it was accepted or discarded")

    async def _part(self) -> None:
        chunks = self._take_chunks(min(len(self._content) // CHUNK * CHUNK, PART_OCTETS))
        many = len(self._recipients) > PART_RECIPIENTS  # a few are written with the message, and need no release
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


def is_large(message: NewMessage) -> bool:
    """Whether a message should be written in parts."""
    return len(message.recipients) > PART_RECIPIENTS or len(message.content) > PART_OCTETS


def check(requested: Sequence[NewMessage | Staged]) -> None:
    """Raise a QueueError that names the value, for one that cannot be stored."""
    for one in requested:
        item = one if isinstance(one, Staged) else staged(one)
        intake.check_message(item.new, item.recipients)
        for recipient in item.rest:
            intake.check_recipient(recipient)


def staged(new: NewMessage) -> Staged:
    """A message that is written in one transaction."""
    content = new.content
    chunks = [(part, content[part * CHUNK : (part + 1) * CHUNK]) for part in range(-(-len(content) // CHUNK) or 1)]
    return Staged(new, 0, len(content), len(new.recipients), chunks, list(new.recipients), False)


def octets_of(items: Sequence[NewMessage | Staged]) -> int:
    """The octets of content not yet written."""
    return sum(
        sum(len(data) for _, data in item.chunks) if isinstance(item, Staged) else len(item.content) for item in items
    )


def taken(
    requests: Iterable[Sequence[NewMessage | Staged]],
    free: int,
    take: Callable[[Sequence[NewMessage | Staged]], list[Accepted]],
) -> list[list[Accepted] | Exception]:
    """The results of requests, of which ``take`` takes all messages or none; ``free`` octets are left."""
    answers: list[list[Accepted] | Exception] = []
    for messages in requests:
        try:
            intake.check_room(free, octets_of(messages))
            answers.append(take(messages))
        except QueueError as error:
            answers.append(error)
    return answers


def octets_of_part(part: UploadPart) -> int:
    """The octets of content of a part of an upload."""
    return sum(len(data) for _, data in part.chunks)


def message_row(new: NewMessage, message: int, now: int, size: int, recipients: int) -> tuple[object, ...]:
    """The columns of a message; raises ValueError, UnicodeError or OverflowError for values that cannot be stored."""
    sender, tenant = new.sender.decode(), new.tenant
    due = new.due
    if not recipients or not 0 <= due < _FARTHEST or not -_LARGEST < new.priority < _LARGEST:
        raise ValueError(new)
    if "\0" in sender or not tenant.isascii() or "\0" in tenant or new.idempotency_key:
        check_encodable(f"{sender}{tenant}{new.idempotency_key}")
    return (
        message,
        tenant,
        sender,
        now if new.moved is None else milliseconds(new.moved.submitted),
        size,
        recipients,
        new.priority,
        decoded(new.ret),
        decoded(new.envid),
        intake.clean(new.name),
        intake.clean(new.origin),
        intake.options_text(new) if new.options else None,
    )


def standing_row(
    new: NewMessage, recipient: NewRecipient, stood: Standing, place: tuple[int, int], hold: int
) -> tuple[object, ...]:
    """The columns of a recipient from another queue (``sql.RECIPIENT``); raises as :func:`message_row`."""
    address, key = recipient.address.decode(), recipient.key
    check_encodable(f"{address}{key}")
    if not (0 <= stood.due < _FARTHEST and 0 <= stood.expires < _FARTHEST):
        raise ValueError(stood)
    return (
        *place,
        address,
        key,
        new.tenant,
        stood.rank,
        milliseconds(stood.due),
        milliseconds(stood.expires),
        stood.attempts,
        decoded(recipient.notify),
        decoded(recipient.orcpt),
        hold,
        stood.warned,
        stood.doubtful,
        intake.clean(stood.status),
        intake.clean(stood.reason),
    )


def expiry(new: NewMessage) -> int:
    """When a message is given up, in milliseconds; raises ValueError."""
    expires = new.expires
    if not 0 <= expires < _FARTHEST:
        raise ValueError(expires)
    return milliseconds(expires)


def decoded(octets: bytes | None) -> str | None:
    """Octets that may be absent, as text; raises ValueError or UnicodeError."""
    if octets is None:
        return None
    text = octets.decode()
    if "\0" in text:
        raise ValueError(octets)
    return text


def check_encodable(text: str) -> None:
    """Raise ValueError or UnicodeError for a text that cannot be stored."""
    if b"\0" in text.encode():
        raise ValueError(text)
