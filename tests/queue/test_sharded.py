"""Several queues to submit to: which one takes a message, what happens while one is down, and whose an id is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue.harness import there
from tests.support.patience import LIMIT
from tests.support.postgres import Cluster, cluster, needs_postgres

import zsmtp
from zsmtp.errors import (
    ConfigError,
    Conflict,
    QueueError,
    QueueFull,
    QueueUnavailable,
    QuotaExceeded,
    SubmissionError,
)
from zsmtp.queue import sharded
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ids import MAX_SHARD, from_text
from zsmtp.queue.ingest import QueueSubmission
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.quotas import TenantLimits
from zsmtp.queue.sharded import ShardedQueue, home
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.store import Accepted, NewMessage

NOTE = b"From: a@example.org\r\nTo: b@example.net\r\nMessage-ID: <1@example.org>\r\n\r\nHi\r\n"


def note(key: str = "", *, tenant: str = "") -> QueueSubmission:
    return QueueSubmission(message=NOTE, tenant=tenant, idempotency_key=key)


def files(folder: Path, number: int = 2) -> dict[int, Path]:
    """The shards 0, 1, ... in files, which are made when they are opened."""
    return {shard: folder / f"{shard}.db" for shard in range(number)}


def with_shards(folder: Path, work: Callable[[ShardedQueue], Awaitable[None]], *, number: int = 2) -> None:
    """Do something with the shards 0, 1, ..., of which 0 is the first to be given messages."""

    async def main() -> None:
        async with zsmtp.aio.ShardedQueue.open(files(folder, number), chance=lambda: 0.0) as queue:
            await work(queue)

    asyncio.run(main())


def shard_of(id: str) -> int:
    return from_text(id)[1]


async def break_down(queue: ShardedQueue, shard: int, error: Exception) -> Callable[[], None]:
    """Let a shard answer submissions by an error, and nothing else, until what is returned is called."""
    store = (await queue.queue_of(f"{shard:02}0000000000000")).store

    async def fail(*_: object) -> list[Accepted]:
        raise error

    store.submit = store.rules = fail  # type: ignore[method-assign,assignment]

    def mend() -> None:
        del store.submit, store.rules

    return mend


def key_of(place: int, shards: int = 2, *, tenant: str = "") -> str:
    """An idempotency key that belongs to a place."""
    return next(key for key in map(str, range(1000)) if home(tenant, key, range(shards)) == place)


# ------------------------------------------------------------------------ keys


@given(st.text(), st.text(), st.sets(st.integers(0, MAX_SHARD), min_size=1, max_size=40), st.integers(0, MAX_SHARD))
def test_keys_stay_where_they_are_when_a_shard_comes_or_goes(tenant: str, key: str, some: set[int], one: int) -> None:
    before, after = home(tenant, key, some - {one} or {one}), home(tenant, key, some | {one})
    assert before in some | {one}
    assert after in (before, one)


def test_keys_belong_to_all_shards_alike() -> None:
    places = [home("acme", str(number), range(4)) for number in range(4000)]
    assert all(900 < places.count(place) < 1100 for place in range(4))
    assert [home("acme", f"order-{number}", (7, 0, 1, 2, 3)) for number in range(8)] == [7, 3, 7, 3, 7, 3, 0, 7]


def test_a_key_is_known_where_it_belongs(tmp_path: Path) -> None:
    async def work(queue: ShardedQueue) -> None:
        for place in (0, 1):
            key = key_of(place)
            first = await queue.submit(NOTE, idempotency_key=key)
            assert (shard_of(first), await queue.submit(NOTE, idempotency_key=key)) == (place, first)
            with pytest.raises(Conflict):
                await queue.submit(NOTE + b"more\r\n", idempotency_key=key)
        mend = await break_down(queue, 1, QueueUnavailable("the disk is gone"))
        with pytest.raises(QueueUnavailable, match="the disk is gone"):
            await queue.submit(NOTE, idempotency_key=f"{key_of(1)}")
        mend()

    with_shards(tmp_path, work)


def test_messages_of_one_commit_belong_to_one_shard(tmp_path: Path) -> None:
    async def work(queue: ShardedQueue) -> None:
        assert {shard_of(id) for id in await queue.submit_many([note(), NOTE])} == {0}
        assert {shard_of(id) for id in await queue.submit_many([note(key_of(1)), note(key_of(1))])} == {1}
        for mixed in ([note(key_of(1)), note(key_of(0))], [note(key_of(1)), note()]):
            with pytest.raises(SubmissionError, match="belong to different queues"):
                await queue.submit_many(mixed)
        assert await queue.submit_many([]) == []

    with_shards(tmp_path, work)


# -------------------------------------------------------------------- what is up


def test_messages_go_to_one_shard_as_long_as_it_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "REST", 0.01)

    async def work(queue: ShardedQueue) -> None:
        assert {shard_of(await queue.submit(NOTE)) for _ in range(5)} == {0}
        for error in (QueueUnavailable("the disk is gone"), QueueFull("the disk is full")):
            mend = await break_down(queue, 0, error)
            assert {shard_of(await queue.submit(NOTE)) for _ in range(3)} == {1}
            assert {shard_of(id) for id in await queue.submit_many([NOTE])} == {1}
            mend()
            async with asyncio.timeout(LIMIT):
                while shard_of(await queue.submit(NOTE)) != 0:
                    await asyncio.sleep(0.01)

    with_shards(tmp_path, work)


def test_which_shard_is_first_is_drawn(tmp_path: Path) -> None:
    async def main() -> None:
        paths = files(tmp_path, 3)
        for number, chance in enumerate((0.0, 0.4, 0.99)):
            async with zsmtp.aio.ShardedQueue.open(paths, chance=lambda given=chance: given) as queue:  # type: ignore[misc]
                assert shard_of(await queue.submit(NOTE)) == number

    asyncio.run(main())


def test_where_it_cannot_be_said_whether_it_was_taken_no_other_is_tried(tmp_path: Path) -> None:
    async def work(queue: ShardedQueue) -> None:
        await break_down(queue, 0, QueueUnavailable("lost at the last moment", undecided=True))
        with pytest.raises(QueueUnavailable) as raised:
            await queue.submit(NOTE)
        assert raised.value.undecided
        stores = [(await queue.queue_of(f"0{shard}0000000000000")).store for shard in (0, 1)]
        assert [await there(store) for store in stores] == [[], []]
        assert shard_of(await queue.submit(NOTE)) == 1  # the next one goes elsewhere

    with_shards(tmp_path, work)


def test_no_shard_takes_it(tmp_path: Path) -> None:
    async def work(queue: ShardedQueue) -> None:
        for shard in (0, 1):
            await break_down(queue, shard, QueueUnavailable(f"{shard} is gone"))
        for _ in range(2):  # all rest now, and are asked all the same
            with pytest.raises(QueueUnavailable, match="1 is gone") as raised:
                await queue.submit(NOTE)
            assert not raised.value.undecided

    with_shards(tmp_path, work)


def test_a_quota_is_no_reason_to_go_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        config = QueueConfig(tenants={"acme": TenantLimits(messages_per_hour=1)})
        paths = files(tmp_path)
        async with zsmtp.aio.ShardedQueue.open(paths, queue=config, chance=lambda: 0.0) as queue:
            assert shard_of(await queue.submit(NOTE, tenant="acme")) == 0
            with pytest.raises(QuotaExceeded):
                await queue.submit(NOTE, tenant="acme")

    asyncio.run(main())


@pytest.fixture
def other() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.remove()


@needs_postgres
def test_a_database_that_is_stopped_and_comes_back(other: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "REST", 0.01)
    urls = {0: other.database(template=False), 1: cluster().database(template=False)}

    async def main() -> None:
        for shard, url in urls.items():
            await (await PostgresStore.open(url, shard=shard)).close()
        async with zsmtp.aio.ShardedQueue.open(urls, chance=lambda: 0.0) as queue:
            early = await queue.submit(NOTE)
            await asyncio.to_thread(other.stop, signal.SIGQUIT)
            late = await queue.submit(NOTE)
            assert (shard_of(early), shard_of(late)) == (0, 1)
            assert not (await queue.status(late)).done
            with pytest.raises(QueueUnavailable):
                await queue.status(early)
            async with zsmtp.aio.ShardedQueue.open(urls, chance=lambda: 0.0) as another:  # opened while one is down
                assert shard_of(await another.submit(NOTE)) == 1
                with pytest.raises(QueueUnavailable, match=r"opening it|connect"):
                    await another.cancel(early)
                await asyncio.to_thread(other.start)
                async with asyncio.timeout(LIMIT):
                    for one in (queue, another):
                        while shard_of(await one.submit(NOTE)) != 0:
                            await asyncio.sleep(0.01)
                assert (await another.cancel(early)).complete

    asyncio.run(main())


# --------------------------------------------------------------------- opening


def test_one_shard_is_enough_to_begin(tmp_path: Path) -> None:
    async def main() -> None:
        urls = {0: tmp_path / "missing" / "a.db", 1: tmp_path / "b.db"}
        async with zsmtp.aio.ShardedQueue.open(urls, chance=lambda: 0.0) as queue:
            assert shard_of(await queue.submit(NOTE)) == 1
            with pytest.raises(QueueUnavailable, match="there is no folder"):
                await queue.submit(NOTE, idempotency_key=key_of(0))
        urls[1] = tmp_path / "missing" / "b.db"
        with pytest.raises(QueueUnavailable, match=r"no queue can be opened: queue .*a\.db: .*; queue .*b\.db: "):
            await zsmtp.aio.ShardedQueue.open(urls, chance=lambda: 0.0)

    asyncio.run(main())


def test_a_queue_with_another_number_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        await (await SQLiteStore.open(tmp_path / "1.db", shard=5)).close()
        with pytest.raises(QueueError, match=r"1\.db is shard 5, not 1"):
            await zsmtp.aio.ShardedQueue.open({1: tmp_path / "1.db"})
        async with zsmtp.aio.ShardedQueue.open({5: tmp_path / "1.db"}) as queue:
            assert shard_of(await queue.submit(NOTE)) == 5

    asyncio.run(main())


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ("a.db", "by their numbers"),
        (["a.db"], "by their numbers"),
        ({}, "by their numbers"),
        ({0: "a.db", 1: "memory:"}, "memory: is no shard"),
        ({0: "nonsense:x"}, "nonsense:x is none of"),
        ({1024: "a.db"}, "1024 is no shard"),
        ({True: "a.db"}, "True is no shard"),
        ({"0": "a.db"}, "'0' is no shard"),
    ],
)
def test_what_may_be_opened(urls: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        zsmtp.aio.ShardedQueue.open(urls)


def test_what_is_not_open_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        queue = zsmtp.aio.ShardedQueue.open(files(tmp_path))
        with pytest.raises(QueueError, match="not open"):
            await queue.submit(NOTE)
        async with queue:
            with pytest.raises(QueueError, match="open already"):
                await queue.start()
            with monkeypatch.context() as child:
                child.setattr(os, "getpid", lambda: -1)
                with pytest.raises(QueueError, match="before a fork"):
                    await queue.submit(NOTE)
                await queue.aclose()  # leaves the parent's alone
            assert await queue.submit(NOTE)
        await queue.aclose()
        with pytest.raises(QueueError, match="not open"):
            await queue.status("000000000000000")

    asyncio.run(main())


# ------------------------------------------------------------------------- ids


def test_an_id_leads_to_its_queue(tmp_path: Path) -> None:
    async def work(queue: ShardedQueue) -> None:
        ids = [await queue.submit(NOTE, idempotency_key=key_of(place)) for place in (0, 1)]
        for id in ids:
            assert [row.recipient.address for row in (await queue.status(id)).waiting] == [b"b@example.net"]
            with pytest.raises(TimeoutError):
                await queue.wait(id, timeout=0.0)
            assert (await queue.cancel(id)).recalled == ("b@example.net",)
            assert [end.outcome.value for end in await queue.wait(id)] == ["dropped"]
        with pytest.raises(QueueError, match="these queues are 0, 1"):
            await queue.status("070000000000000")
        with pytest.raises(QueueError, match="no message id"):
            await queue.status("nonsense")

    with_shards(tmp_path, work)


# ------------------------------------------------------- without an event loop


def test_the_same_without_an_event_loop(tmp_path: Path) -> None:
    paths = files(tmp_path)
    with zsmtp.ShardedQueue.open(paths) as queue:
        id = queue.submit(NOTE, idempotency_key=key_of(1))
        assert shard_of(id) == 1
        assert queue.submit_many([note(key_of(1)), note(key_of(1))]) == [id, id]
        assert not queue.status(id).done
        assert queue.cancel(id).complete
        assert [end.outcome.value for end in queue.wait(id, timeout=LIMIT)] == ["dropped"]
    with pytest.raises(QueueError):
        queue.submit(NOTE)
    queue.close()


def test_large_messages_are_read_anew_for_another_shard(tmp_path: Path) -> None:
    large = NOTE + b"line of a large message\r\n" * 60_000
    (tmp_path / "large.eml").write_bytes(large)

    async def work(queue: ShardedQueue) -> None:
        store = (await queue.queue_of("000000000000000")).store

        async def upload(new: NewMessage) -> object:
            raise QueueUnavailable("the disk is gone")

        store.upload = upload  # type: ignore[method-assign,assignment]
        id = await queue.submit(tmp_path / "large.eml")
        assert shard_of(id) == 1
        found = (await queue.queue_of(id)).store
        content = found.content(from_text(id)[0], (await queue.status(id)).message.size)  # type: ignore[union-attr]
        assert b"".join([chunk async for chunk in content]).replace(b"\r\n", b"\n") == large.replace(b"\r\n", b"\n")

    with_shards(tmp_path, work)
