"""New messages of a queue in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zsmtp.errors import QueueError
from zsmtp.queue import intake, quotas
from zsmtp.queue.memory.base import MemoryBase
from zsmtp.queue.memory.data import Pending
from zsmtp.queue.moves import Provenance, TakenIn
from zsmtp.queue.quotas import Amount
from zsmtp.queue.settlement import suppressed
from zsmtp.queue.states import QueuedMessage
from zsmtp.queue.store import (
    Accepted,
    NewMessage,
    NewRecipient,
)
from zsmtp.queue.suppression import folded, holds, is_subject


class MemoryStoreIntake(MemoryBase):
    """The intake operations of a store."""

    async def submit(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Queue messages, all or none."""
        self._begin("submit")
        for message in messages:
            intake.check_message(message, len(message.recipients))
            for recipient in message.recipients:
                intake.check_recipient(recipient)
            intake.check_room(self._free_space(), len(message.content))
        found = [self._known(message) for message in messages]
        drawn: dict[tuple[str, str], tuple[bytes, int]] = {}
        others: list[Provenance] = []
        for message in messages:  # two of the same call with one key
            if message.moved is not None:
                self._check_moved(message.moved, others)
                others.append(message.moved)
            if message.idempotency_key:
                digest, _ = drawn.setdefault((message.tenant, message.idempotency_key), (message.digest, 0))
                intake.check_digest(message, digest, 0, self.shard)
        return [
            known or self._known(message) or self._accept(message, message.recipients, message.content)
            for message, known in zip(messages, found, strict=True)
        ]

    def _known(self, message: NewMessage) -> Accepted | None:
        known = self._data.idempotency.get((message.tenant, message.idempotency_key))
        if known is None or not message.idempotency_key:
            return None
        intake.check_digest(message, known[0], known[1], self.shard)
        return Accepted(known[1], existed=True)

    def _accept(
        self, message: NewMessage, recipients: Sequence[NewRecipient], content: bytes, drawn: int = 0
    ) -> Accepted:
        data = self._data
        now = self._clock()
        number = drawn or self._draw(message)
        data.messages[number] = intake.message_of(message, number, now, size=len(content), recipients=len(recipients))
        data.contents[number] = content
        for place, recipient in enumerate(recipients):
            one = intake.recipient_of(message, recipient, number, place, hold=data.hold(recipient.hold))
            data.put(one)
            self._tell_due(one)
            if recipient.standing is not None:  # it may come before others that were read already
                self._tell(poked=[one.key])
        if message.idempotency_key:
            data.idempotency[message.tenant, message.idempotency_key] = (message.digest, number)
        if (moved := message.moved) is not None:
            data.taken_in[moved.queue, TakenIn(moved.move, moved.message, moved.numbers, number)] = None
            if moved.idempotency_key:
                data.idempotency.setdefault((message.tenant, moved.idempotency_key), (moved.digest, number))
        data.counters["messages"] += 1
        data.counters["accepted"] += len(recipients)
        if message.metered:
            data.counters.update(quotas.counted([(message.tenant, Amount(1, len(content), len(recipients)))], now))
        if message.moved is None:
            self._end_suppressed(data.messages[number], now)
        return Accepted(number)

    def _draw(self, message: NewMessage) -> int:
        now = self._clock()
        return self._data.draw(now) if message.moved is None else self._data.draw_for(message.moved.message, now)

    def _check_moved(self, moved: Provenance, others: Iterable[Provenance] = ()) -> None:
        notes = [note for queue, note in self._data.taken_in if queue == moved.queue and note.message == moved.message]
        intake.check_not_taken_in(moved, notes, others)

    def _end_suppressed(self, message: QueuedMessage, now: float) -> None:
        """End the recipients of a new message whose addresses are suppressed."""
        data = self._data
        if not data.suppressions or not is_subject(message.origin, message.options):
            return
        for place in range(message.recipients):
            one = data.recipients[message.id, place]
            found = data.suppressions.get((one.tenant, folded(one.address)))
            if found is not None and holds(found, now):
                self._settle(suppressed(one, message, found, now), one)
                data.counters["suppressed"] += 1

    async def upload(self, message: NewMessage) -> MemoryUpload:
        """Begin a large message."""
        self._begin("upload")
        intake.check_message(message, 1)
        number = self._draw(message)
        self._data.uploads[number] = Pending(message, self._clock())
        return MemoryUpload(self, number)


class MemoryUpload:
    """An upload into a queue in memory."""

    def __init__(self, store: MemoryStoreIntake, number: int) -> None:
        self._store = store
        self._number = number

    def _pending(self) -> Pending:
        self._store._begin("upload")
        pending = self._store._data.uploads.get(self._number)
        if pending is None:
            raise QueueError("this upload is over: it was accepted, discarded, or swept after an hour without a part")
        pending.touched = self._store._clock()
        return pending

    async def write(self, data: bytes) -> None:
        """Store more of the content."""
        intake.check_room(self._store._free_space(), len(data))
        self._pending().content.append(bytes(data))

    async def add_recipients(self, recipients: Iterable[NewRecipient]) -> None:
        """Store more recipients."""
        recipients = list(recipients)
        for recipient in recipients:
            intake.check_recipient(recipient)
        self._pending().recipients.extend(recipients)

    async def accept(self) -> Accepted:
        """Complete the upload as a message."""
        pending = self._pending()
        intake.check_message(pending.message, len(pending.recipients))
        if pending.message.moved is not None:
            self._store._check_moved(pending.message.moved)
        del self._store._data.uploads[self._number]
        known = self._store._known(pending.message)
        return known or self._store._accept(
            pending.message, pending.recipients, b"".join(pending.content), drawn=self._number
        )

    async def discard(self) -> None:
        """Discard the upload."""
        self._store._data.uploads.pop(self._number, None)
