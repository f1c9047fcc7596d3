"""Receives the content of a message for the queue: in memory, in a file, or as an upload.

:class:`~zsmtp.server.queueintake.QueueIntake` decides on the rest (rights, added fields, replies); this module only on
the place of the octets.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Awaitable
from typing import IO, TYPE_CHECKING

from zsmtp.body.source import Source
from zsmtp.errors import (
    ContentError,
    QueueError,
    QueueFull,
    QueueUnavailable,
    SubmissionError,
)
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_replies import NO_ROOM, SERVICE_ERROR
from zsmtp.queue.admission import amount_of
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.store import NewMessage, Upload
from zsmtp.queue.uploading import discard, in_threads, upload_blocks
from zsmtp.records import replace
from zsmtp.server.access import Rights
from zsmtp.server.intake import Outcome, ReceivedEnvelope, SessionInfo
from zsmtp.signing.finalform import SigningChoice

if TYPE_CHECKING:
    from zsmtp.server.queueintake import QueueIntake


class QueuedContent:
    """A message that is received for the queue: in memory, or as an upload once it is large.

    A large message with a signature is in a temporary file until it is complete: the signature comes first.
    """

    __slots__ = (
        "_blocks",
        "_choice",
        "_envelope",
        "_file",
        "_intake",
        "_new",
        "_octets",
        "_refusal",
        "_rights",
        "_session",
        "_upload",
    )

    def __init__(self, intake: QueueIntake, session: SessionInfo, envelope: ReceivedEnvelope, rights: Rights) -> None:
        self._intake = intake
        self._session = session
        self._envelope = envelope
        self._rights = rights
        self._blocks: list[bytes] = []
        self._octets = 0
        self._refusal: Reply | None = None
        self._new: NewMessage | None = None
        self._upload: asyncio.Task[Upload | None] | None = None
        self._choice: SigningChoice | None = None
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> Awaitable[object] | None:
        """Keep content in memory, as long as it is small."""
        self._octets += len(data)
        if self._refusal is not None:
            return None
        if self._file is not None:
            self._keep(self._file, data)
            return None
        if self._upload is None:
            self._blocks.append(data)
            if self._octets <= CHUNK:
                return None
            return self._begin_upload()
        self._upload = self._intake.run(self._more(self._upload, data))
        return self._upload

    def _begin_upload(self) -> Awaitable[object] | None:
        beginning = b"".join(self._blocks)
        self._blocks = []
        self._choice = self._intake.signed_with(self._rights, beginning)
        if self._choice is not None:
            self._begin_file(beginning)
            return None
        new = self._prepared(beginning)
        if new is None:
            return None
        self._new = new
        self._upload = self._intake.run(self._start(new))
        return self._upload

    def _prepared(self, content: bytes) -> NewMessage | None:
        new = self._intake.prepared(self._session, self._envelope, self._rights, content)
        if isinstance(new, Reply):
            self._refuse(new)
            return None
        return new

    def _begin_file(self, beginning: bytes) -> None:
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the message
        except OSError as error:
            self._refuse_file(error)
            return
        self._keep(self._file, beginning)

    def _keep(self, file: IO[bytes], data: bytes) -> None:
        try:
            file.write(data)
        except OSError as error:
            self._refuse_file(error)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _refuse_file(self, error: OSError) -> None:
        doing = f"a message to be signed cannot be kept in {tempfile.gettempdir()}"
        self._refusal = self._intake.failed(_temporary_file(error, doing))

    async def _start(self, new: NewMessage) -> Upload | None:
        try:
            return await self._intake.store.upload(new)
        except QueueError as error:
            self._refusal = self._intake.failed(error)
            return None

    async def _more(self, before: asyncio.Task[Upload | None], data: bytes) -> Upload | None:
        upload = await before
        if upload is None:
            return None
        try:
            await upload.write(data)
        except QueueError as error:
            self._refusal = self._intake.failed(error)
            await discard(upload)
            return None
        return upload

    def commit(self) -> Outcome | Awaitable[Outcome]:
        """Queue the message."""
        if self._refusal is not None:
            self._close_file()
            return self._refusal
        if self._upload is not None:
            return self._intake.run(self._accept(self._upload))
        if self._file is not None and self._choice is not None:
            return self._intake.run(self._accept_file(self._file, self._choice))
        content = self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)
        self._blocks = []
        choice = self._intake.signed_with(self._rights, content)
        new = self._signed(content, choice) if choice is not None else self._prepared(content)
        if new is None:
            return self._refusal or SERVICE_ERROR
        return self._intake.run(self._submit(new))

    def _signed(self, content: bytes, choice: SigningChoice) -> NewMessage | None:
        """A message in memory, signed; None if it is refused."""
        intake = self._intake
        given = intake.unsigned(self._session, self._envelope, self._rights, Source.from_bytes(content))
        if isinstance(given, Reply):
            self._refuse(given)
            return None
        made = choice.sign(given.header, given.body)
        done = intake.signed(self._session, self._envelope, self._rights, given, made)
        if isinstance(done, Reply):
            self._refuse(done)
            return None
        new, blocks = done
        return replace(new, content=b"".join(blocks))

    def _refuse(self, reply: Reply) -> None:
        self._refusal = reply
        self._intake.refused += 1

    async def _accept_file(self, file: IO[bytes], choice: SigningChoice) -> Outcome:
        """Sign and queue a message that is in a file."""
        intake = self._intake
        try:
            content = Source(file, 0, file.seek(0, os.SEEK_END))
            given = intake.unsigned(self._session, self._envelope, self._rights, content)
            if isinstance(given, Reply):
                intake.refused += 1
                return given
            made = await asyncio.to_thread(choice.sign, given.header, given.body)
            done = intake.signed(self._session, self._envelope, self._rights, given, made)
            if isinstance(done, Reply):
                intake.refused += 1
                return done
            new, blocks = done
            size = self._octets + len(given.read.trace) + len(made.header)
            with await intake.admission.reserve(new.tenant, amount_of(new, size)) as room:
                accepted = await upload_blocks(intake.store, new, in_threads(blocks))
                room.done([accepted])
        except SubmissionError as error:
            return intake.beyond(error)
        except (ContentError, OSError) as error:  # buffered octets may be written only now
            return intake.failed(_temporary_file(error, "a temporary file cannot be written or read"))
        except QueueError as error:
            return intake.failed(error)
        finally:
            file.close()
        return intake.taken(new, accepted, self._octets)

    async def _submit(self, new: NewMessage) -> Outcome:
        try:
            with await self._intake.admission.reserve(new.tenant, amount_of(new, len(new.content))) as room:
                (accepted,) = await self._intake.store.submit((new,))
                room.done([accepted])
        except SubmissionError as error:
            return self._intake.beyond(error)
        except QueueError as error:
            return self._intake.failed(error)
        return self._intake.taken(new, accepted, len(new.content))

    async def _accept(self, last: asyncio.Task[Upload | None]) -> Outcome:
        upload = await last
        if upload is None or self._refusal is not None or self._new is None:
            return self._refusal or NO_ROOM
        try:
            with await self._intake.admission.reserve(self._new.tenant, amount_of(self._new, self._octets)) as room:
                accepted = await upload.accept()
                room.done([accepted])
        except SubmissionError as error:
            await discard(upload)
            return self._intake.beyond(error)
        except QueueError as error:
            await discard(upload)
            return self._intake.failed(error)
        return self._intake.taken(self._new, accepted, self._octets)

    def abort(self, reason: Abort) -> None:
        """Discard the content, including parts in the store."""
        self._blocks = []
        self._close_file()
        if self._upload is not None:
            self._intake.run(self._undo(self._upload))

    async def _undo(self, last: asyncio.Task[Upload | None]) -> None:
        upload = await last
        if upload is not None:
            await discard(upload)


def _temporary_file(error: ContentError | OSError, doing: str) -> QueueError:
    """The error for a temporary file that cannot be written or read."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = f"{doing}: {error.strerror if isinstance(error, OSError) else error}"
    return QueueFull(text) if full else QueueUnavailable(text)
