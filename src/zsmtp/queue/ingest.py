"""Turns a program's message into one for a store: the content in octets, and the values beside it.

:meth:`Ingest.read` reads messages exactly as ``Client.deliver`` does (``zsmtp.client.message``): an ``EmailMessage``,
octets, a path or a binary file, stored without ``Bcc`` and otherwise unchanged. Intakes with their own envelope
(``zsmtp-sendmail``, imports) give header and body to :meth:`Ingest.assemble`. The result is an :class:`Ingested`: a
small message is whole in its ``new``; the octets of a large one are still in their source, and are read block by block
during the upload::

    with ingest.read(QueueSubmission(message=path, sender=..., recipients=[...])) as one:
        if one.large: ...  # store.upload(one.new), then one.blocks()
        else: ...          # store.submit([one.new])

An idempotency key has a digest, a hash over envelope and content as given: added fields (Date, Message-ID) differ each
time, and are no part of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING

from zsmtp.body.source import Source
from zsmtp.client.client import Submission
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations, load_signing
from zsmtp.client.dsn import DSN
from zsmtp.client.header import message_id, with_missing
from zsmtp.client.message import Letter, MessageLike, octets_first, spooled
from zsmtp.errors import SubmissionError
from zsmtp.proto.mailoptions import instant, options_of
from zsmtp.proto.plan import Envelope
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.limits import PART_OCTETS
from zsmtp.queue.store import NewMessage
from zsmtp.queue.submission import Submitter, digest
from zsmtp.queue.suppression import OVERRIDE
from zsmtp.records import replace

if TYPE_CHECKING:
    from zsmtp.proto.mailoptions import OptionArguments

    class SubmitArguments(OptionArguments, total=False):
        """The fields of :class:`QueueSubmission` but the message, as keyword arguments (PEP 692)."""

        sender: str | bytes | None
        recipients: str | bytes | Iterable[str | bytes] | None
        name: str
        dsn: DSN | None
        tenant: str
        not_before: float | datetime | None
        expires: float | datetime | None
        idempotency_key: str
        override_suppression: bool


IN_TRANSACTION = 64 << 20
"""Octets of contents in one transaction, which are held in memory."""
LIBRARY = "library"
"""The origin of messages that programs submit through the library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSubmission(Submission):
    """A message with its envelope and its queue options.

    A message of higher ``priority`` (-9 to 9) is tried earlier among the mail of its tenant; servers that offer
    MT-PRIORITY also receive it. The queue itself holds one with ``hold_for`` or ``hold_until``, as it does with
    ``not_before``.
    """

    tenant: str = ""
    """The tenant whose mail it is: tenants take turns, and have their own limits."""
    not_before: float | datetime | None = None
    """When it may first be tried: seconds since 1970, or a time with its zone; None: now."""
    expires: float | datetime | None = None
    """When it is given up; None: by the configuration."""
    idempotency_key: str = ""
    """A second message of the tenant with this key is not queued; "" for none."""
    override_suppression: bool = False
    """Whether it also goes to suppressed addresses (``zsmtp.queue.suppression``)."""


class Ingested:
    """A message that was read. ``new`` is the value for the store; its content is empty for a large message."""

    __slots__ = ("_body", "_close", "_header", "new", "size")

    def __init__(self, new: NewMessage, header: bytes, body: Source, close: Callable[[], None]) -> None:
        self.new = new
        self.size = len(header) + 1 + body.size
        self._header = header
        self._body = body
        self._close = close

    @property
    def large(self) -> bool:
        """Whether it must be uploaded in parts."""
        return self.size > PART_OCTETS

    def blocks(self) -> Iterator[bytes]:
        """Its octets. Raises ContentError if they cannot be read to their end."""
        return _blocks(self._header, self._body)

    def whole(self) -> NewMessage:
        """The value for the store with the whole content, of any size."""
        return replace(self.new, content=b"".join(self.blocks())) if self.large else self.new

    def close(self) -> None:
        """Close the file."""
        self._close()

    def __enter__(self) -> Ingested:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Ingest:
    """Reads messages for a queue that delivers by ``config``. ``clock`` gives seconds since 1970."""

    def __init__(self, config: Config, queue: QueueConfig, clock: Callable[[], float] = time.time) -> None:
        destinations = Destinations(config)
        self._submitter = Submitter(destinations, queue)
        self.signing = load_signing(config, destinations.target(), clock)
        """What signs messages as they are read, which takes a thread's time; None if nothing does."""
        self._add_missing = config.content.add_missing
        self._clock = clock

    def read(self, given: Submission | MessageLike, *, origin: str = LIBRARY) -> Ingested:
        """Read a message from a program. Raises SubmissionError, ContentError, or OSError for a file."""
        one = given if isinstance(given, Submission) else QueueSubmission(message=given)
        return self._read(one, one.message, origin)

    async def read_aside(self, given: Submission | MessageLike) -> Ingested:
        """As :meth:`read`; the event loop is not blocked by what takes long: it is done in turns, or in a thread."""
        one = given if isinstance(given, Submission) else QueueSubmission(message=given)
        message = await octets_first(one.message)
        is_small = isinstance(message, bytes) and len(message) <= PART_OCTETS
        hashed = isinstance(one, QueueSubmission) and one.idempotency_key and not is_small
        if self.signing is None and not hashed:
            return self._read(one, message, LIBRARY)
        return await asyncio.to_thread(self._read, one, message, LIBRARY)

    def _read(self, one: Submission, message: MessageLike, origin: str) -> Ingested:
        letter = Letter(
            message,
            sender=one.sender,
            recipients=one.recipients,
            name=one.name,
            dsn=one.dsn,
            options=options_of(one),
        )
        try:
            return self.assemble(
                letter.envelope(range(len(letter.recipients))),
                letter.header,
                letter.body(),
                submission=one,
                name=letter.name,
                origin=origin,
                add_missing=self._add_missing,
                close=letter.close,
            )
        except BaseException:
            letter.close()
            raise

    async def read_many(self, submissions: Iterable[Submission | MessageLike]) -> list[NewMessage]:
        """Read messages for one commit, whole. Raises as :meth:`read`, SubmissionError if they are too large."""
        new: list[NewMessage] = []
        octets = 0
        for given in submissions:
            with await self.read_aside(given) as one:
                octets += one.size
                if octets > IN_TRANSACTION:
                    raise SubmissionError(f"more than {IN_TRANSACTION >> 20} MiB for one commit; submit large messages")
                new.append(await asyncio.to_thread(one.whole) if one.large else one.new)
        return new

    def assemble(
        self,
        envelope: Envelope,
        header: bytes,
        body: Source,
        *,
        submission: Submission | None = None,
        name: str = "",
        origin: str,
        add_missing: bool = False,
        close: Callable[[], None] = lambda: None,
    ) -> Ingested:
        """Put a message together. ``header`` is the block with LF line ends, ``body`` what follows the empty line.

        ``submission`` has the queue options; its message, envelope and mail options are ignored. ``name`` is the
        Message-ID if that is known already. ``close`` is called when the result is closed. Raises SubmissionError and
        ContentError.
        """
        wanted = submission if isinstance(submission, QueueSubmission) else _PLAIN
        for word, value in (("tenant", wanted.tenant), ("idempotency_key", wanted.idempotency_key)):
            if not isinstance(value, str):
                raise SubmissionError(f"{word}: a string is expected, not {type(value).__name__}")
        signed = self._signed(header, body, envelope.sender)
        if signed is not None:
            sent, stored, kept = signed
            close = partial(_close_both, kept, close)
        else:
            sent, stored, kept = with_missing(header, envelope.sender) if add_missing else header, body, None
        try:
            large = len(sent) + 1 + stored.size > PART_OCTETS
            content = b"" if large else b"%b\n%b" % (sent, stored.read())
            new = self._submitter.message(
                envelope,
                sent,
                now=self._clock(),
                content=content,
                tenant=wanted.tenant,
                not_before=instant(wanted.not_before, "not_before"),
                expires=instant(wanted.expires, "expires"),
                name=name or message_id(sent),
                origin=origin,
                idempotency_key=wanted.idempotency_key,
                options={OVERRIDE: True} if wanted.override_suppression else None,
            )
            if wanted.idempotency_key and (large or sent is not header):
                new = replace(new, digest=digest(envelope, _blocks(header, body)))
        except BaseException:
            if kept is not None:
                kept.close()
            raise
        return Ingested(new, sent, stored, close)

    def _signed(self, header: bytes, body: Source, sender: bytes) -> tuple[bytes, Source, IO[bytes] | None] | None:
        """Header and body of a signed message, and the file of the body if that is a new one.

        None: it is not signed.
        """
        if self.signing is None or not (choice := self.signing.choose(header)).keys:
            return None
        done = choice.sign(with_missing(header, sender), body)
        if done.body is None:
            return done.header, body, None
        kept = spooled(done.body())
        return done.header, Source(kept, 0, done.body_size), kept


def _close_both(file: IO[bytes] | None, close: Callable[[], None]) -> None:
    if file is not None:
        file.close()
    close()


_PLAIN = QueueSubmission(message=b"")


def _blocks(header: bytes, body: Source) -> Iterator[bytes]:
    yield header + b"\n"
    yield from body.blocks()
