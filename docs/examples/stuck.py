"""A queue in which mail waits for several reasons, and ``shell``, which runs ``zsmtp`` commands on it."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zsmtp.cli.main import main
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.states import START, HistoryEntry, Outcome
from zsmtp.queue.store import Deferred, NewMessage, NewRecipient

DAY = 86400.0
REFUSED = "connect to mx1.example.com [192.0.2.25]:25: connection refused"
GREYLISTED = "4.7.1 Greylisted, please come back"
CONTENT = b"Subject: Lunch\r\n\r\nAt one, by the river?\r\n"


def shell(command: str) -> None:
    """Run ``zsmtp ...``."""
    program, *words = shlex.split(command)
    assert program == "zsmtp"
    main(words)


async def fill(store: SQLiteStore, now: float) -> None:
    """Mail that was tried once, or not at all since its site does not answer, or that is of a bad sender."""
    for sender, address in (
        (b"ann@shop.example", b"bob@example.net"),
        (b"ann@shop.example", b"carol@example.com"),
        (b"ann@shop.example", b"dave@example.com"),
        (b"offers@bulk.example", b"erin@example.org"),
    ):
        key = address.rpartition(b"@")[2].decode()
        recipients = [NewRecipient(address=address, key=key)]
        message = NewMessage(sender=sender, recipients=recipients, content=CONTENT, due=now - 60, expires=now + 5 * DAY)
        await store.submit([message])
    await store.join("node-1")
    (lease,) = await store.take(["example.net"], limit=1)
    (head,) = await store.heads([lease])
    ((claimed,), _) = await store.claim(lease, head.sub_queue, START, now, limit=1, octets=1 << 20)
    recipient = claimed.recipient
    entry = HistoryEntry(
        at=now - 25,
        message=recipient.message,
        number=0,
        attempt=1,
        outcome=Outcome.DEFERRED,
        address=recipient.address,
        sender=claimed.message.sender,
        key=recipient.key,
        seconds=1.5,
        status="4.7.1",
        code=450,
        reason=GREYLISTED,
        server="mx.example.net [192.0.2.1]:25",
    )
    deferred = Deferred(recipient.next_attempt, now + 285, entry, entry.status, entry.reason)
    await store.settle(lease, [deferred], ())
    await store.give_back([lease])
    dead = SiteStatus(site="example.com", node="node-1", updated=now, dead_until=now + 285, dead_reason=REFUSED)
    await store.report([dead])


@contextmanager
def delivering(path: Path) -> Iterator[float]:
    """The queue, with a process that delivers from it: a thread here. Gives the time that it was made at."""
    now = time.time()
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        store = await SQLiteStore.open(path)
        await fill(store, now)
        ready.set()
        await asyncio.to_thread(done.wait)
        await store.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield now
    finally:
        done.set()
        thread.join()
