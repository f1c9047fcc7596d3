"""Housekeeping of a node beside delivery: makes messages from owed notices, and removes data that is out of use.

With the end of a recipient its store writes a row for the notice that is owed (``zsmtp.queue.notices``). This module
combines the owed rows of one message into one notice (``zsmtp.queue.composer``), which replaces them in one
transaction, so that each sender is notified exactly once. A notice that returns a large message whole is first queued
in parts, under an idempotency key, and then replaces the rows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable

from zsmtp.body.source import Source
from zsmtp.client.destinations import Destinations
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ContentUnavailable, QueueError, QueueFull, QueueUnavailable, ZsmtpError
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.queue.composer import MAX_HEADER, ComposedNotice, Composer
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ids import to_text
from zsmtp.queue.states import OwedNotice, QueuedMessage
from zsmtp.queue.store import NewMessage, QueueStore
from zsmtp.queue.submission import Submitter
from zsmtp.queue.uploading import in_threads, upload_blocks
from zsmtp.records import replace
from zsmtp.signing.finalform import MessageSigning, sign_whole

log = logging.getLogger("zsmtp.queue")

NOTICES_AT_ONCE = 50  # messages whose notices are made in one round
LOOK = 2.0  # seconds between two polls for owed notices
SWEEP = 30.0  # seconds between two sweeps, if the one before found nothing
LATER = 300.0  # seconds until a message whose notices failed is tried again
RETRY = 5.0  # seconds until a failing store is tried again
IN_MEMORY = 256 * 1024  # octets of an original that are read before the decision to return it whole


def reporting_name(name: str = "") -> str:
    """The name of the reporting system: ``name`` if it is a host name, else the name of this machine."""
    for one in (name, os.uname().nodename):
        if one and domain_problem(one) is None:
            return one
    return "localhost"


class Housekeeping:
    """The housekeeping of one queue. ``destinations`` are those of the configuration that delivers its mail.

    ``clock`` is the wall clock in seconds since 1970, ``nonce`` gives 16 unpredictable octets.
    """

    def __init__(
        self,
        store: QueueStore,
        composer: Composer,
        destinations: Destinations,
        config: QueueConfig,
        *,
        signing: MessageSigning | None = None,
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], bytes] = lambda: os.urandom(16),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._composer = composer
        self.reconfigure(config, signing, destinations)
        self._clock = clock
        self._nonce = nonce
        self._chance = chance
        self._stopped = asyncio.Event()
        self._trouble = ""
        self._failed: dict[int, float] = {}  # messages whose notices failed, and when they are tried again
        self.notices = 0
        """Notices that were queued."""

    def reconfigure(self, config: QueueConfig, signing: MessageSigning | None, destinations: Destinations) -> None:
        """Use another configuration from now on; ``signing`` signs notices."""
        self._config = config
        self._signing = signing
        self._submitter = Submitter(destinations, config)

    async def run(self) -> None:
        """Make notices and sweep until :meth:`stop`."""
        next_sweep = 0.0
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            pause = LOOK
            try:
                if await self.make_notices():
                    pause = 0.0
                if loop.time() >= next_sweep:
                    removed = await self._store.sweep(self._clock())
                    next_sweep = loop.time() + (LOOK if removed else SWEEP * (0.5 + self._chance()))
                self._trouble = ""
            except (QueueUnavailable, QueueFull) as error:
                if str(error) != self._trouble:
                    log.error("housekeeping: %s", error)
                    self._trouble = str(error)
                pause = RETRY
            except Exception:
                log.exception("housekeeping: a fault of this program")
                pause = RETRY
            await self._sleep(pause)

    def stop(self) -> None:
        """End :meth:`run` after its current work."""
        self._stopped.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass

    async def make_notices(self) -> int:
        """Make some of the owed notices; returns the number of their original messages.

        A message whose notices fail by a fault of this program, or whose content cannot be read now, is skipped for a
        while, so that it delays no others.
        """
        now = asyncio.get_running_loop().time()
        self._failed = {message: again for message, again in self._failed.items() if again > now}
        owed = await self._store.owed(self._clock(), limit=NOTICES_AT_ONCE + len(self._failed))
        made = 0
        for message, notices in owed:
            if message.id in self._failed:
                continue
            try:
                await self._make(message, notices)
            except ContentUnavailable as error:
                log.error("%s: its notices wait: %s", to_text(message.id, self._store.shard), error)
                self._failed[message.id] = now + LATER
            except (QueueUnavailable, QueueFull):
                raise
            except Exception:
                log.exception("%s: its notices cannot be made now", to_text(message.id, self._store.shard))
                self._failed[message.id] = now + LATER
            else:
                made += 1
        return made

    async def _make(self, message: QueuedMessage, notices: list[OwedNotice]) -> None:
        if message.null_sender:
            await self._store.notify(notices, None)
            return
        now = self._clock()
        try:
            recipients = self._submitter.recipients(Envelope(b"", (EnvelopeRecipient(message.sender, b"NEVER"),)))
        except ZsmtpError as error:
            log.error("%s: no notice can be made: %s", to_text(message.id, self._store.shard), error)
            await self._store.notify(notices, None)
            return
        composed = self._composer.compose(
            message,
            notices,
            await self._beginning(message),
            recipients=recipients,
            now=now,
            expires=self._config.retry.expires(now, null_sender=True),
            nonce=self._nonce(),
        )
        if composed is None:
            await self._store.notify(notices, None)
            return
        if composed.streamed:
            await self._upload(message, composed)
            await self._store.notify(notices, None)
        else:
            await self._store.notify(notices, self._signed(composed.message))
        self.notices += 1
        log.info(
            "%s: notified <%s> (%s, %d of its recipients)",
            to_text(message.id, self._store.shard),
            message.sender.decode("utf-8", "replace"),
            notices[0].kind.value,
            len(notices),
        )

    async def _beginning(self, message: QueuedMessage) -> bytes:
        """The first octets of the original; empty if its content is gone."""
        beginning = b""
        try:
            async for chunk in self._store.content(message.id, message.size):
                beginning += chunk
                if len(beginning) >= max(MAX_HEADER, IN_MEMORY):
                    break
        except QueueUnavailable:
            raise
        except QueueError:
            return b""
        return beginning

    def _signed(self, notice: NewMessage) -> NewMessage:
        """A notice, signed if there is a key for it."""
        blocks = None if self._signing is None else sign_whole(self._signing, Source.from_bytes(notice.content))
        return notice if blocks is None else replace(notice, content=b"".join(blocks))

    async def _upload(self, message: QueuedMessage, composed: ComposedNotice) -> None:
        """Queue a notice that returns a large message whole, in bounded memory."""
        chunks = composed.stream(self._store.content(message.id, message.size))
        if self._signing is not None:
            await self._upload_signed(self._signing, composed.message, chunks)
            return
        await upload_blocks(self._store, composed.message, chunks)

    async def _upload_signed(self, signing: MessageSigning, notice: NewMessage, chunks: AsyncIterator[bytes]) -> None:
        """The same with a signature, which comes first; a temporary file holds the notice meanwhile."""
        with tempfile.TemporaryFile() as file:
            async for chunk in chunks:
                file.write(chunk)
            content = Source(file, 0, file.tell())
            blocks = await asyncio.to_thread(sign_whole, signing, content) or content.blocks()
            await upload_blocks(self._store, notice, in_threads(blocks))
