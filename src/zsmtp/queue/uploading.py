"""A whole message that comes in blocks, queued in bounded memory: an upload that is accepted at its end, or discarded.

Every way in that has a large message at hand comes here; a listener, whose messages come as their clients send them,
uses :class:`~zsmtp.queue.store.Upload` itself::

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
    """Queue a message with this content. Whatever goes wrong, nothing of it stays."""
    upload = await store.upload(new)
    try:
        async for block in blocks:
            await upload.write(block)
        return await upload.accept()
    except BaseException:
        await discard(upload)
        raise


async def discard(upload: Upload) -> None:
    """Discard an upload; one that cannot be is swept by the store later."""
    try:
        await upload.discard()
    except QueueError as error:
        log.info("a message that was broken off is left to the sweep: %s", error)


async def in_threads(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks that are read from files, or made, in threads, as that may take a while."""
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block
