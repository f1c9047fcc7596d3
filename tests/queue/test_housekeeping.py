"""Housekeeping: notices that are owed become messages, whatever is wrong with one of them or with the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.support import virtualtime
from tests.support.virtualtime import VirtualLoop

from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.errors import ContentUnavailable, QueueFull
from zsmtp.queue.composer import Composer
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.filter import Filter
from zsmtp.queue.housekeeping import LATER, Housekeeping
from zsmtp.queue.memory.store import MemoryStore
from zsmtp.queue.operators import Change
from zsmtp.queue.store import NewMessage, NewRecipient
from zsmtp.queue.templates import load
from zsmtp.server.serviceconfig import service_config


async def failed(store: MemoryStore, now: float, *senders: bytes) -> list[int]:
    """Queue a message of each sender, and let it fail."""
    ids = []
    for sender in senders:
        message = NewMessage(
            sender=sender,
            recipients=[NewRecipient(address=b"r@there.example", key="there.example")],
            content=b"Subject: x\n\nhello\n",
            due=now,
            expires=now + 3600,
        )
        ids += [accepted.id for accepted in await store.submit([message])]
    async for _ in store.change(Filter.parse("key=there.example"), Change(end="failed", by="me", notify=True)):
        pass
    return ids


async def notified(store: MemoryStore) -> list[bytes]:
    """Whom notices are queued for."""
    return sorted([row.recipient.address async for row in store.select(Filter.parse("from=<>"))])


def play(scene: Callable[[VirtualLoop, MemoryStore, Housekeeping], Awaitable[None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        store = MemoryStore(clock=loop.wall, monotonic=loop.time)
        await store.join("node")
        composer = Composer(service_config({}).notices, load(None), shard=store.shard)
        keeping = Housekeeping(
            store, composer, Destinations(Config()), QueueConfig(), clock=loop.wall, nonce=lambda: bytes(16)
        )
        task = loop.create_task(keeping.run())
        await scene(loop, store, keeping)
        keeping.stop()
        await task

    virtualtime.run(main)


def test_a_message_whose_notices_fail_keeps_nobody_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(loop: VirtualLoop, store: MemoryStore, keeping: Housekeeping) -> None:
        compose = Composer.compose
        broken = [True]

        def sometimes(self: Composer, message, *arguments, **values):  # type: ignore[no-untyped-def]
            if broken and message.sender == b"bad@a.example":
                raise ValueError("a fault")
            return compose(self, message, *arguments, **values)

        monkeypatch.setattr(Composer, "compose", sometimes)
        await failed(store, loop.wall(), b"bad@a.example", b"good@a.example", b"other@a.example")
        await asyncio.sleep(10)
        assert await notified(store) == [b"good@a.example", b"other@a.example"]
        broken.clear()
        await asyncio.sleep(LATER + 10)
        assert await notified(store) == [b"bad@a.example", b"good@a.example", b"other@a.example"]

    play(scene)


def test_a_message_whose_content_cannot_be_read_now_keeps_nobody_from_their_notices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(loop: VirtualLoop, store: MemoryStore, keeping: Housekeeping) -> None:
        content, mounted = MemoryStore.content, []

        async def sometimes(self: MemoryStore, message: int, size: int) -> AsyncIterator[bytes]:
            if message == ids[0] and not mounted:
                raise ContentUnavailable("the folder is not mounted")
            async for chunk in content(self, message, size):
                yield chunk

        monkeypatch.setattr(MemoryStore, "content", sometimes)
        ids = await failed(store, loop.wall(), b"large@a.example", b"small@a.example")
        await asyncio.sleep(10)
        assert await notified(store) == [b"small@a.example"]
        mounted.append(True)
        await asyncio.sleep(LATER + 10)
        assert await notified(store) == [b"large@a.example", b"small@a.example"]

    play(scene)


def test_a_full_disk_is_said_once_and_owed_notices_are_made_later(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(loop: VirtualLoop, store: MemoryStore, keeping: Housekeeping) -> None:
        await asyncio.sleep(1)
        store.fail("notify", QueueFull("intake has stopped"), times=10)
        await failed(store, loop.wall(), b"a@a.example")
        await asyncio.sleep(30)
        assert await notified(store) == []
        assert [(one.levelno, one.getMessage()) for one in caplog.records] == [
            (logging.ERROR, "housekeeping: intake has stopped")
        ]
        await asyncio.sleep(60)
        assert await notified(store) == [b"a@a.example"]

    play(scene)
