"""Queues a large message from blocks in bounded memory: an upload that is accepted at its end, or discarded.

All intakes with a complete large message use it; a listener, which receives messages from clients, uses
:class:`~zsmtp.queue.store.Upload` directly::

    accepted = await upload_blocks(store, new, in_threads(blocks))
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterator

from zsmtp.errors import QueueError
from zsmtp.queue.store import Accepted, NewMessage, QueueStore, Upload

log = logging.getLogger("zsmtp.queue")


async def upload_blocks(store: QueueStore, new: NewMessage, blocks: AsyncIterable[bytes]) -> Accepted:
    """Queue a message with this content. After an error no part of it stays."""
    upload = await store.upload(new)
    try:
        async for block in blocks:
            await upload.write(block)
        return await upload.accept()
    except BaseException:
        await discard(upload)
        raise


async def discard(upload: Upload) -> None:
    """Discard an upload; if that fails, the sweep of the store removes it later."""
    try:
        await upload.discard()
    except QueueError as error:
        log.info("a message that was broken off is left to the sweep: %s", error)


async def in_threads(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks that threads read from files, or make, because that may take long."""
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block
