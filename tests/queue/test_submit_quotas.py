"""Quotas for programs: every way of ``submit`` is held against them, on every kind of queue."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from tests.support.postgres import cluster, needs_postgres

import zsmtp
import zsmtp.aio
from zsmtp.queue.config import QueueConfig, TenantLimits
from zsmtp.queue.filter import Filter
from zsmtp.queue.ingest import QueueSubmission
from zsmtp.queue.limits import PART_OCTETS

NOTE = b"From: a@example.org\nTo: b@example.net\n\nhello\n"
LARGE = NOTE + b"x" * 70 + b"\n" + b"y" * PART_OCTETS + b"\n"


def config(**limits: int) -> QueueConfig:
    return QueueConfig(tenants={"shop": TenantLimits(**limits)})


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A queue that processes share."""
    return cluster().database() if request.param == "postgres" else f"sqlite://{tmp_path}/mail.db"


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory:"
    return cluster().database() if request.param == "postgres" else f"sqlite://{tmp_path}/mail.db"


def test_a_queue_refuses_what_goes_beyond(url: str) -> None:
    async def main() -> None:
        async with zsmtp.aio.Queue.open(url, queue=config(messages_per_hour=3)) as queue:
            await queue.submit(NOTE, tenant="shop")
            many = [QueueSubmission(message=NOTE, tenant="shop") for _ in range(3)]
            with pytest.raises(zsmtp.QuotaExceeded) as caught:
                await queue.submit_many(many)
            assert (caught.value.tenant, caught.value.quota, caught.value.limit) == ("shop", "messages_per_hour", 3)
            assert caught.value.frees is not None
            assert caught.value.frees > caught.value.now
            await queue.submit_many(many[:1])
            await queue.submit(LARGE, tenant="shop")
            for message in (NOTE, LARGE):
                with pytest.raises(zsmtp.QueueFull, match="the quota messages_per_hour = 3 of tenant 'shop' is used"):
                    await queue.submit(message, tenant="shop")
            await queue.submit(NOTE)
            assert await queue.store.count(Filter(), by="tenant") == {"shop": 3, "": 1}
            with pytest.raises(zsmtp.SubmissionError, match="more than the whole quota"):
                await queue.submit_many([*many, *many])

    asyncio.run(main())


def test_a_second_message_with_the_same_key_takes_no_room(url: str) -> None:
    with zsmtp.Queue.open(url, queue=config(queued_messages=2)) as queue:
        for _ in range(3):
            queue.submit(NOTE, tenant="shop", idempotency_key="1")
            queue.cancel(queue.submit(NOTE, tenant="other"))
        queue.submit(NOTE, tenant="shop")
        with pytest.raises(zsmtp.QuotaExceeded):
            queue.submit(NOTE, tenant="shop")


@pytest.mark.parametrize("quota", ["recipients_per_hour", "queued_messages"])
def test_another_process_counts_the_same(shared: str, quota: str) -> None:
    limits = config(**{quota: 2})
    with zsmtp.Queue.open(shared, queue=limits) as queue:
        for _ in range(2):
            queue.submit(NOTE, tenant="shop")
    with zsmtp.Queue.open(shared, queue=limits) as queue, pytest.raises(zsmtp.QuotaExceeded):
        queue.submit(NOTE, tenant="shop")
    with zsmtp.Queue.open(shared) as queue:  # one that knows of no quotas
        queue.submit(NOTE, tenant="shop")


def test_in_transactions_of_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    limits = config(queued_messages=3)

    async def asynchronous() -> None:
        async with zsmtp.aio.Queue.open(path, queue=limits) as queue:
            with closing(sqlite3.connect(path)) as connection, connection:
                await queue.submit(NOTE, tenant="shop", connection=connection)
                lost = queue.submit(NOTE, tenant="shop", connection="no connection")  # type: ignore[arg-type]
                with pytest.raises(zsmtp.QueueError, match="needs a connection"):
                    await lost

    asyncio.run(asynchronous())
    with zsmtp.Queue.open(path, queue=limits) as queue, closing(sqlite3.connect(path)) as connection:
        with connection:
            with pytest.raises(zsmtp.QueueError, match="needs a connection"):
                queue.submit(NOTE, tenant="shop", connection="no connection")  # type: ignore[arg-type]
            for _ in range(2):
                queue.submit(NOTE, tenant="shop", connection=connection)
            with pytest.raises(zsmtp.QuotaExceeded):
                queue.submit(NOTE, tenant="shop", connection=connection)
            queue.submit(NOTE, connection=connection)
        with pytest.raises(zsmtp.QuotaExceeded):
            queue.submit(NOTE, tenant="shop")


@needs_postgres
def test_in_transactions_of_the_caller_in_postgresql() -> None:
    url = cluster().database()
    limits = config(messages_per_hour=3)

    async def asynchronous() -> None:
        async with (
            zsmtp.aio.Queue.open(url, queue=limits) as queue,
            await psycopg.AsyncConnection.connect(url) as connection,
        ):
            await queue.submit(NOTE, tenant="shop", connection=connection)

    asyncio.run(asynchronous())
    with zsmtp.Queue.open(url, queue=limits) as queue, psycopg.connect(url) as connection:
        for _ in range(2):
            queue.submit(NOTE, tenant="shop", connection=connection)
        with pytest.raises(zsmtp.QuotaExceeded):
            queue.submit(NOTE, tenant="shop", connection=connection)
