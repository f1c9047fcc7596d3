"""Messages that a queue signs when they are submitted: what is stored, and what arrives."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.signing.sent import EIGHT_BIT, LARGE, PLAIN, arrived, is_good, relay_to, written
from tests.support.patience import LIMIT
from tests.support.script import Script, Step
from tests.support.sink import Sink
from tests.support.wire import Transaction

import zsmtp
from zsmtp.body.target import Target
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations, load_signing
from zsmtp.errors import Conflict
from zsmtp.queue.composer import Composer, NoticeSettings
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.filter import Filter
from zsmtp.queue.housekeeping import Housekeeping
from zsmtp.queue.ids import from_text
from zsmtp.queue.ingest import Ingest
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.operators import Change
from zsmtp.queue.states import Outcome
from zsmtp.queue.store import NewMessage, NewRecipient
from zsmtp.queue.templates import load
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.signature import Algorithm


@pytest.fixture
def keys(tmp_path: Path) -> tuple[DKIMKey, ...]:
    return written(tmp_path, "rsa", Algorithm.RSA_SHA256), written(tmp_path, "ed")


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite://{tmp_path}/mail.db"


async def stored(queue: zsmtp.aio.Queue, id: str) -> bytes:
    """The content of a message, as a server gets it."""
    status = await queue.status(id)
    assert status.message is not None
    blocks: AsyncIterator[bytes] = queue.store.content(from_text(id)[0], status.message.size)
    content = b"".join([block async for block in blocks])
    return b"\r\n".join(line.removesuffix(b"\r") for line in content.split(b"\n"))


def test_what_is_stored_is_signed_once_and_arrives_so(url: str, keys: tuple[DKIMKey, ...], tmp_path: Path) -> None:
    path = tmp_path / "large.eml"
    path.write_bytes(LARGE)

    async def work(sink: Sink) -> None:
        config = Config(relay=relay_to(sink), dkim=keys)
        async with zsmtp.aio.Queue.open(url, config=config) as queue:
            ids = [await queue.submit(PLAIN), await queue.submit(str(path))]
            ids += await queue.submit_many([EIGHT_BIT, PLAIN])
            before = [await stored(queue, id) for id in ids]
            assert all(is_good(message, ["rsa", "ed"]) for message in before)
            if url == "memory:":
                return
        async with zsmtp.aio.Queue.open(url, config=Config(relay=relay_to(sink)), deliver=True) as queue:
            for id in ids:
                assert [end.outcome for end in await queue.wait(id, timeout=LIMIT)] == [Outcome.DELIVERED]
        assert sorted(before) == sorted(arrived(sink))

    with Sink(Script(caps=("PIPELINING", "8BITMIME", "SMTPUTF8"))) as sink:
        asyncio.run(work(sink))


def test_in_a_transaction_of_the_caller_s(keys: tuple[DKIMKey, ...], tmp_path: Path) -> None:
    file = tmp_path / "app.db"

    async def work() -> None:
        async with zsmtp.aio.Queue.open(file, config=Config(dkim=keys)) as queue:
            connection = sqlite3.connect(file)
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            id = await queue.submit(EIGHT_BIT, connection=connection)
            connection.commit()
            connection.close()
            assert is_good(await stored(queue, id), ["rsa", "ed"])

    asyncio.run(work())


def test_from_threads(keys: tuple[DKIMKey, ...]) -> None:
    with zsmtp.Queue.open("memory:", config=Config(dkim=keys)) as queue:
        status = queue.status(queue.submit(PLAIN))
    assert status.message is not None
    assert status.message.size > len(PLAIN) + 500


def test_a_message_signed_anew_is_the_same_message_to_an_idempotency_key(keys: tuple[DKIMKey, ...]) -> None:
    """Signatures of RSA keys are alike, those with another time are not: what was given decides."""

    async def work() -> None:
        async with zsmtp.aio.Queue.open("memory:", config=Config(dkim=keys)) as queue:
            first = await queue.submit(EIGHT_BIT, idempotency_key="1")
            assert await queue.submit(EIGHT_BIT, idempotency_key="1") == first
            with pytest.raises(Conflict):
                await queue.submit(PLAIN, idempotency_key="1")

    asyncio.run(work())


def test_no_file_stays_open_when_a_message_is_refused(keys: tuple[DKIMKey, ...], tmp_path: Path) -> None:
    """With warnings as errors, a temporary file that is left to the collector fails the test."""
    path = tmp_path / "large.eml"
    path.write_bytes(LARGE)
    ingest = Ingest(Config(dkim=keys), QueueConfig(), lambda: 2e9)
    with pytest.raises(zsmtp.SubmissionError, match="given up before"):
        ingest.read(zsmtp.QueueSubmission(message=str(path), expires=1.0))
    with ingest.read(zsmtp.QueueSubmission(message=str(path))) as one:
        assert one.large
        assert sum(map(len, one.blocks())) == one.size


def taken(sink: Sink) -> list[Transaction]:
    return [one for connection in sink.connections for one in connection.transactions if one.complete]


def test_a_notice_is_signed_too(url: str, keys: tuple[DKIMKey, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.queue.housekeeping.LOOK", 0.05)

    async def work(sink: Sink) -> None:
        config = Config(relay=relay_to(sink), helo_name="example.org", dkim=keys)
        async with zsmtp.aio.Queue.open(url, config=config, deliver=True) as queue:
            id = await queue.submit(EIGHT_BIT, dsn=zsmtp.DSN(notify="failure", ret="full"))
            assert [end.outcome for end in await queue.wait(id, timeout=LIMIT)] == [Outcome.FAILED]
            await asyncio.to_thread(sink.wait_for, lambda sink: bool(taken(sink)))

    with Sink(Script(replies={"RCPT": (Step("550 5.1.1 no such user"), Step("250 ok"))})) as sink:
        asyncio.run(work(sink))
    (notice,) = taken(sink)
    assert notice.mail == b"MAIL FROM:<>"
    (content,) = arrived(sink)
    assert b"<mailer-daemon@example.org>" in content
    assert is_good(content, ["rsa", "ed"])


@pytest.mark.parametrize("domain", ["example.org", "elsewhere.example"])
def test_a_notice_that_returns_a_large_message_whole_is_signed(domain: str, keys: tuple[DKIMKey, ...]) -> None:
    original = PLAIN + "Grüße\n".encode() * 80_000

    async def work() -> None:
        store = MemoryStore()
        await store.join("node")
        destinations = Destinations(Config())
        composer = Composer(NoticeSettings(host=domain, return_limit=1 << 20), load(None))
        made = load_signing(Config(dkim=keys), Target(), time.time)
        keeping = Housekeeping(store, composer, destinations, QueueConfig(), signing=made)
        now = time.time()
        recipient = NewRecipient(address=b"b@there.example", key="there.example")
        new = NewMessage(
            sender=b"a@example.org", recipients=[recipient], content=original, due=now, expires=now + 60, ret=b"FULL"
        )
        await store.submit([new])
        async for _ in store.change(Filter.parse("key=there.example"), Change(end="failed", by="me", notify=True)):
            pass
        assert await keeping.make_notices() == 1
        (row,) = [row async for row in store.select(Filter.parse("from=<>"))]
        content = b"".join([block async for block in store.content(row.message.id, row.message.size)])
        assert len(content) > len(original)
        content = b"\r\n".join(line.removesuffix(b"\r") for line in content.split(b"\n"))
        assert is_good(content, ["rsa", "ed"] if domain == "example.org" else [])

    asyncio.run(work())
