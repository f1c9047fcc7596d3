"""The queue as programs have it, with and without an event loop: what is submitted, followed, called back."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.patience import LIMIT
from tests.support.receiver import receiving
from tests.support.script import Script, Step
from tests.support.sink import Sink

import zsmtp
from zsmtp.client.config import Content
from zsmtp.errors import ConfigError, Conflict, ContentError, QueueBusy, QueueError, QueueUnavailable, SubmissionError
from zsmtp.queue.bouncekeys import make_keys, read_keys
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import from_text
from zsmtp.queue.ingest import QueueSubmission
from zsmtp.queue.limits import PART_OCTETS
from zsmtp.queue.location import locate
from zsmtp.queue.returnpath import BounceConfig, ReturnedTo, ReturnPath
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.states import START, HistoryEntry, Outcome, QueuedMessage, State
from zsmtp.queue.store import Ended, QueueStore

NOTE = (
    b"From: Ann <a@example.org>\r\nTo: b@example.net\r\nBcc: c@example.com\r\nMessage-ID: <1@example.org>\r\n\r\nHi\r\n"
)
STORED = b"From: Ann <a@example.org>\nTo: b@example.net\nMessage-ID: <1@example.org>\n\nHi\r\n"


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite://{tmp_path}/mail.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mail.db"


Work = Callable[[zsmtp.aio.Queue], Awaitable[object]]


def with_queue(url: str | Path, work: Work, **options: Any) -> None:
    async def main() -> None:
        async with zsmtp.aio.Queue.open(url, **options) as queue:
            await work(queue)

    asyncio.run(main())


async def content(queue: zsmtp.aio.Queue, id: str) -> bytes:
    message = await stored(queue, id)
    return b"".join([block async for block in queue.store.content(message.id, message.size)])


async def stored(queue: zsmtp.aio.Queue, id: str) -> QueuedMessage:
    found = (await queue.status(id)).message
    assert found is not None
    return found


async def deliver(store: QueueStore, key: str) -> None:
    """Deliver all that is due for a key, as a runner would."""
    (lease,) = await store.take([key], limit=1)
    for head in await store.heads([lease]):
        claimed, _ = await store.claim(lease, head.sub_queue, START, 1e10, limit=100, octets=1 << 20)
        for one in claimed:
            store.beat()
            assert await store.mark(lease, [one.recipient.next_attempt])
            recipient, message = one.recipient, one.message
            entry = HistoryEntry(
                at=2e9,
                message=message.id,
                number=recipient.number,
                attempt=1,
                outcome=Outcome.DELIVERED,
                address=recipient.address,
                sender=message.sender,
                key=recipient.key,
            )
            assert await store.settle(lease, [Ended(entry)], []) == []
    await store.give_back([lease])


# ------------------------------------------------------------------ submission


def test_a_message_is_read_as_by_the_client(url: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        id = await queue.submit(NOTE)
        status = await queue.status(id)
        assert status.message is not None
        assert (status.message.sender, status.message.name) == (b"a@example.org", "<1@example.org>")
        assert status.message.origin == "library"
        assert [row.recipient.address for row in status.waiting] == [b"b@example.net", b"c@example.com"]
        assert {row.state for row in status.waiting} == {State.DUE}
        assert await content(queue, id) == STORED
        assert not status.done

    with_queue(url, work)


def test_all_that_can_be_asked_for_a_message_is_kept(url: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)

    async def work(queue: zsmtp.aio.Queue) -> None:
        id = await queue.submit(
            NOTE,
            sender="",
            recipients="Bob <b@Example.NET>",
            name="a name",
            require_tls=True,
            dsn=zsmtp.DSN(
                notify="success,delay", ret="headers", envid="7", original={"b@example.net": "o@example.org"}
            ),
            tenant="shop",
            priority=3,
            not_before=later,
            expires=later.timestamp() + 60,
        )
        (row,) = (await queue.status(id)).waiting
        message, recipient = row.message, row.recipient
        assert (message.sender, message.tenant, message.priority, message.name) == (b"", "shop", 3, "a name")
        assert (message.ret, message.envid) == (b"HDRS", b"7")
        assert (recipient.address, recipient.key) == (b"b@Example.NET", "example.net")
        assert (recipient.notify, recipient.orcpt) == (b"SUCCESS,DELAY", b"rfc822;o@example.org")
        assert message.options == {"require_tls": True, "not_before": later.timestamp()}
        assert recipient.due == pytest.approx(later.timestamp(), abs=0.001)
        assert recipient.expires == pytest.approx(later.timestamp() + 60, abs=0.001)

    with_queue(url, work)


def test_the_priority_goes_on_to_the_next_server(url: str) -> None:
    """What is asked for a message reaches the server by way of the row; the time of release is the queue's own."""

    async def work(sink: Sink) -> None:
        config = zsmtp.Config(relay=zsmtp.Relay.from_url(f"smtp://127.0.0.1:{sink.port}"))
        async with zsmtp.aio.Queue.open(url, config=config, deliver=True) as queue:
            ids = [
                await queue.submit(NOTE, recipients="b@example.net", priority=-4),
                await queue.submit(NOTE, recipients="b@example.net", hold_for=0.01),
                await queue.submit(NOTE, recipients="b@example.net", priority=0),
            ]
            for id in ids:
                (end,) = await queue.wait(id, timeout=LIMIT)
                assert end.outcome is Outcome.DELIVERED

    with Sink(Script(caps=("MT-PRIORITY", "FUTURERELEASE 60 2030-01-01T00:00:00Z"))) as sink:
        asyncio.run(work(sink))
    mails = [line for one in sink.connections for line in one.lines if line.startswith(b"MAIL")]
    assert sorted(mails) == [b"MAIL FROM:<a@example.org>"] * 2 + [b"MAIL FROM:<a@example.org> MT-PRIORITY=-4"]


def test_kinds_of_messages(url: str, tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"] = "a@example.org", "b@example.net"
    mail.set_content("Hi\n")
    file = tmp_path / "note.eml"
    file.write_bytes(NOTE)
    read, write = os.pipe()
    os.write(write, NOTE)
    os.close(write)

    async def work(queue: zsmtp.aio.Queue) -> None:
        assert (await content(queue, await queue.submit(mail))).endswith(b"\n\nHi\n")
        for kind in (file, str(file), io.BytesIO(NOTE), bytearray(NOTE), open(read, "rb")):  # noqa: SIM115
            assert await content(queue, await queue.submit(kind)) == STORED
            if not isinstance(kind, bytearray | str | Path):
                kind.close()

    with_queue(url, work)


@pytest.mark.parametrize("size", [PART_OCTETS - len(STORED) + 4, PART_OCTETS - len(STORED) + 5, 3 * PART_OCTETS + 7])
def test_a_large_message_comes_out_as_it_went_in(url: str, tmp_path: Path, size: int) -> None:
    file = tmp_path / "large.eml"
    file.write_bytes(NOTE[:-4] + b"x" * size)

    async def work(queue: zsmtp.aio.Queue) -> None:
        id = await queue.submit(file, idempotency_key="k")
        assert await content(queue, id) == STORED[:-4] + b"x" * size
        assert await queue.submit(file, idempotency_key="k") == id
        assert await queue.submit(file.read_bytes(), idempotency_key="k") == id
        with pytest.raises(Conflict):
            await queue.submit(file, recipients="other@example.net", idempotency_key="k")
        assert await queue.store.count(Filter()) == {"": 2}

    with_queue(url, work)


def test_a_large_message_takes_little_memory(path: Path, tmp_path: Path) -> None:
    program = """
import sys, zsmtp
from tests.support.memory import peak
with zsmtp.Queue.open(sys.argv[1]) as queue:
    before = peak()
    queue.submit(sys.argv[2])
    print(peak() - before)
"""
    file = tmp_path / "large.eml"
    with open(file, "wb") as large:
        large.write(NOTE)
        large.truncate(96 << 20)
    command = [sys.executable, "-c", program, path, file]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # KiB


def test_a_file_that_ends_early_queues_nothing(url: str, tmp_path: Path) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return b"" if self.tell() > PART_OCTETS else super().read(size)

    async def work(queue: zsmtp.aio.Queue) -> None:
        with pytest.raises(ContentError, match="early"):
            await queue.submit(Cut(NOTE + b"x" * (3 * PART_OCTETS)))
        assert await queue.store.count(Filter()) == {"": 0}

    with_queue(url, work)


def test_the_same_key_is_the_same_message_though_fields_are_added(url: str) -> None:
    bare = b"From: a@example.org\nTo: b@example.net\n\nHi\n"

    async def work(queue: zsmtp.aio.Queue) -> None:
        first = await queue.submit(bare, idempotency_key="k")
        assert await queue.submit(bare, idempotency_key="k") == first
        assert await queue.submit(bare, idempotency_key="k", tenant="other") != first
        assert b"\nMessage-ID: " in await content(queue, first)
        assert (await stored(queue, first)).name.startswith("<")
        with pytest.raises(Conflict, match="another message"):
            await queue.submit(bare + b"more", idempotency_key="k")

    with_queue(url, work, config=zsmtp.Config(content=Content(add_missing=True)))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"message": b"no header"}, SubmissionError, "does not begin with a header field"),
        ({"recipients": []}, SubmissionError, "no recipient"),
        ({"recipients": "nobody"}, SubmissionError, "no @"),
        ({"priority": 10}, SubmissionError, "priority 10"),
        ({"priority": "high"}, SubmissionError, "a whole number is expected, not str"),
        ({"tenant": None}, SubmissionError, "tenant: a string is expected"),
        ({"tenant": "a\0b"}, QueueError, "cannot be queued"),
        ({"idempotency_key": 7}, SubmissionError, "idempotency_key: a string is expected"),
        ({"not_before": datetime(2030, 1, 1)}, SubmissionError, "no time zone"),
        ({"not_before": "tomorrow"}, SubmissionError, "a time is expected, not str"),
        ({"not_before": float("nan")}, QueueError, "nan is no time"),
        ({"not_before": 1e12}, SubmissionError, "366 days at most"),
        ({"expires": 1.0}, SubmissionError, "given up before"),
    ],
)
def test_what_cannot_be_queued(url: str, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        with pytest.raises(error, match=words):
            await queue.submit(**{"message": NOTE, **arguments})
        assert await queue.store.count(Filter()) == {"": 0}

    with_queue(url, work)


def test_many_messages_are_one_commit_all_or_none(path: Path) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        assert await queue.submit_many([]) == []
        with pytest.raises(SubmissionError):
            await queue.submit_many([NOTE, b"no header"])
        with pytest.raises(QueueError):
            await queue.submit_many([NOTE, QueueSubmission(message=NOTE, tenant="\0")])
        assert await queue.store.count(Filter()) == {"": 0}
        with closing(sqlite3.connect(path)) as reader:
            before = reader.execute("PRAGMA data_version").fetchone()
            ids = await queue.submit_many([NOTE, zsmtp.Submission(message=NOTE), NOTE[:-4] + b"x" * (2 * PART_OCTETS)])
            assert reader.execute("SELECT count(DISTINCT submitted) FROM zsmtp_message").fetchone() == (1,)
            assert reader.execute("PRAGMA data_version").fetchone() != before
        assert len(set(ids)) == 3
        assert await content(queue, ids[2]) == STORED[:-4] + b"x" * (2 * PART_OCTETS)

    with_queue(path, work)


def test_submissions_of_many_tasks(url: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        ids = await asyncio.gather(*(queue.submit(NOTE) for _ in range(50)))
        assert len(set(ids)) == 50
        assert await queue.store.count(Filter()) == {"": 100}

    with_queue(url, work)


def test_a_message_outlives_the_queue_object(path: Path) -> None:
    ids: list[str] = []

    async def submit(queue: zsmtp.aio.Queue) -> None:
        ids.append(await queue.submit(NOTE))

    async def look(queue: zsmtp.aio.Queue) -> None:
        assert await content(queue, ids[0]) == STORED

    with_queue(path, submit)
    with_queue(path, look)


@pytest.mark.parametrize("size", [0, 2 * PART_OCTETS])
def test_what_was_submitted_outlives_a_killed_process(path: Path, size: int) -> None:
    program = """
import os, signal, sys, zsmtp
queue = zsmtp.Queue.open(sys.argv[1])
id = queue.submit(sys.stdin.buffer.read())
os.write(1, id.encode())
os.kill(os.getpid(), signal.SIGKILL)
"""
    message = NOTE + b"x" * size
    done = subprocess.run([sys.executable, "-c", program, path], input=message, stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL

    async def look(queue: zsmtp.aio.Queue) -> None:
        assert await content(queue, done.stdout.decode()) == STORED + b"x" * size

    with_queue(path, look)


# -------------------------------------------------------------------- tracking


def test_wait_gives_the_end_of_every_recipient(url: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        id = await queue.submit(NOTE)
        await queue.store.join("node")
        waiting = asyncio.create_task(queue.wait(id, timeout=LIMIT))
        await deliver(queue.store, "example.net")
        with pytest.raises(TimeoutError):
            await queue.wait(id, timeout=0.05)
        assert [row.recipient.address for row in (await queue.status(id)).waiting] == [b"c@example.com"]
        await deliver(queue.store, "example.com")
        ends = await waiting
        assert [(end.address, end.outcome) for end in ends] == [
            (b"b@example.net", Outcome.DELIVERED),
            (b"c@example.com", Outcome.DELIVERED),
        ]
        status = await queue.status(id)
        assert status.done
        assert status.message is None
        assert list(status.ends) == ends
        assert await queue.wait(id) == ends

    with_queue(url, work)


def test_events_are_read_by_a_cursor(url: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        cursor, entries = await queue.events()
        assert entries == []
        await queue.submit(NOTE)
        await queue.store.join("node")
        await deliver(queue.store, "example.net")
        await deliver(queue.store, "example.com")
        cursor, entries = await queue.events(cursor, limit=1)
        assert [entry.address for entry in entries] == [b"b@example.net"]
        cursor, entries = await queue.events(cursor)
        assert [entry.address for entry in entries] == [b"c@example.com"]
        assert await queue.events(cursor) == (cursor, [])

    with_queue(url, work)


def test_cancel_says_what_could_not_be_recalled(url: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        others = [await queue.submit(NOTE, recipients=["b@example.org"]) for _ in range(2)]
        id = await queue.submit(NOTE, recipients=["b@example.net", "c@example.com", "d@example.com"])
        await queue.store.join("node")
        await deliver(queue.store, "example.net")
        (lease,) = await queue.store.take(["example.com"], limit=1)
        attempt = (await queue.status(id)).waiting[0].recipient.next_attempt
        queue.store.beat()
        assert await queue.store.mark(lease, [attempt])
        recall = await queue.cancel(id)
        assert recall.recalled == ("d@example.com",)
        assert recall.in_hand == ("c@example.com",)
        assert [(end.address, end.outcome) for end in recall.ended] == [(b"b@example.net", Outcome.DELIVERED)]
        assert not recall.complete
        again = await queue.cancel(id)
        assert (again.recalled, again.in_hand) == ((), ("c@example.com",))
        for other in others:
            assert not (await queue.status(other)).done
        whole = await queue.cancel(others[0])
        assert whole.recalled == ("b@example.org",)
        assert whole.complete
        (end,) = await queue.wait(others[0], timeout=LIMIT)
        assert (end.outcome, end.reason) == (Outcome.DROPPED, "cancelled by its sender")
        assert not (await queue.status(others[1])).done

    with_queue(url, work)


def test_ids_that_are_not_there(url: str) -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        id = await queue.submit(NOTE)
        unknown = id[:-1] + ("1" if id[-1] == "0" else "0")
        for question in (queue.status, queue.wait, queue.cancel):
            with pytest.raises(QueueError, match="there is no message"):
                await question(unknown)
            with pytest.raises(QueueError, match="is no message id"):
                await question("x")
            with pytest.raises(QueueError, match="is of shard 1; this queue is shard 0"):
                await question("01" + id[2:])

    with_queue(url, work)


# --------------------------------------------------------- opening and closing


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("memory:", ""),
        ("/var/lib/app/mail.db", "/var/lib/app/mail.db"),
        ("mail.db", "mail.db"),
        (Path("a:b"), "a:b"),
        ("sqlite:///var/lib/app/mail.db", "/var/lib/app/mail.db"),
        ("sqlite:////var/lib/app/mail.db", "/var/lib/app/mail.db"),
        ("SQLITE:///tmp/a%3Fb%20c.db", "/tmp/a?b c.db"),
    ],
)
def test_where_a_queue_is(url: str | Path, path: str) -> None:
    assert locate(url).path == path
    assert locate(url).in_memory == (path == "")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://ann:secret@db.example.org:5433/mail?sslmode=require", "postgresql://db.example.org:5433/mail"),
        ("postgresql://a.example.org,b.example.org/mail", "postgresql://a.example.org,b.example.org/mail"),
        ("postgresql:///mail?host=%2Frun%2Fdb&user=ann&password=secret", "postgresql:///mail?host=/run/db"),
        ("postgresql://ann@/mail?host=/a%20b%26c&port=5433", "postgresql:///mail?host=/a%20b%26c&port=5433"),
        ("postgresql:///mail?host=db.example.org&port=5433", "postgresql://db.example.org:5433/mail"),
        ("postgresql:///mail", "postgresql:///mail"),
        ("memory:", "memory:"),
    ],
)
def test_the_name_of_a_queue_tells_it_from_others_and_no_secret(url: str, name: str) -> None:
    assert locate(url).name == name
    assert locate(name).name == name


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no URL and no path"),
        ("a\0b", "no URL and no path"),
        (b"mail.db", "not bytes"),
        (7, "not int"),
        (":memory:", "is called memory:"),
        ("memory:x", "is none of"),
        ("postgresql://db", "names no database"),
        ("postgres:mail", "names no database"),
        ("postgresql://[/mail", "cannot be read"),
        ("postgresql+psycopg://db/mail", "is none of"),
        ("mysql://db/mail", "is none of"),
        ("sqlite://mail.db", "is no local file"),
        ("sqlite:mail.db", "is no local file"),
        ("sqlite:///", "there is no path"),
        ("sqlite:///a.db?mode=ro", "nothing may follow"),
        ("sqlite://[/a", "is no URL"),
    ],
)
def test_what_names_no_queue(url: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        zsmtp.aio.Queue.open(url)
    with pytest.raises(ConfigError, match=words):
        zsmtp.Queue.open(url)


def test_it_is_opened_by_awaiting_it_and_once(path: Path) -> None:
    async def main() -> None:
        queue = await zsmtp.aio.Queue.open(path)
        with pytest.raises(QueueError, match="open already"):
            await queue
        id = await queue.submit(NOTE)
        await queue.aclose()
        await queue.aclose()
        with pytest.raises(QueueError, match="not open"):
            await queue.submit(NOTE)
        with pytest.raises(QueueError, match="not open"):
            await queue.status(id)

    asyncio.run(main())


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(QueueUnavailable):
        zsmtp.Queue.open(tmp_path / "none" / "mail.db")
    assert not [thread for thread in threading.enumerate() if thread.name == "zsmtp queue"]


def in_child(work: Callable[[], object]) -> str:
    """What work answers, or raises, in a forked process."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork beside threads is a warning from 3.12 on")
def test_after_a_fork_it_refuses_use(path: Path) -> None:
    words = "QueueError: this queue was opened before a fork; the child is to open it for itself"
    with zsmtp.Queue.open(path) as queue:
        id = queue.submit(NOTE)
        questions: list[Callable[[], object]] = [
            lambda: queue.submit(NOTE),
            lambda: queue.submit_many([NOTE]),
            lambda: queue.status(id),
            queue.wake,
        ]
        for question in questions:
            assert in_child(question) == words
        assert in_child(queue.close) == "None"
        with closing(sqlite3.connect(path)) as connection:
            assert in_child(lambda: queue.submit(NOTE, connection=connection)) == words
        assert in_child(lambda: zsmtp.Queue.open(path).submit(NOTE)) > id
        assert queue.submit(NOTE) > id

    async def work(queue: zsmtp.aio.Queue) -> None:
        assert in_child(lambda: queue.submit(NOTE).send(None)) == words
        assert in_child(queue.wake) == words

    with_queue(path, work)


# -------------------------------------------------------- without an event loop


def test_the_blocking_queue_does_the_same(url: str) -> None:
    with zsmtp.Queue.open(url) as queue:
        id = queue.submit(NOTE)
        (other,) = queue.submit_many([NOTE])
        assert [row.recipient.address for row in queue.status(id).waiting] == [b"b@example.net", b"c@example.com"]
        assert queue.cancel(id).complete
        assert [end.outcome for end in queue.wait(id, timeout=LIMIT)] == [Outcome.DROPPED] * 2
        assert len(queue.events()[1]) == 2
        with pytest.raises(TimeoutError):
            queue.wait(other, timeout=0.02)
        queue.wake()
        large = queue.submit(NOTE + b"x" * (2 * PART_OCTETS))
        assert from_text(large) > from_text(id)
    with pytest.raises(QueueError, match="closed"):
        queue.submit(NOTE)
    with pytest.raises(QueueError, match="closed"):
        queue.status(id)
    queue.close()


def test_threads_share_a_blocking_queue(path: Path) -> None:
    ids: list[str] = []
    with zsmtp.Queue.open(path) as queue:
        threads = [threading.Thread(target=lambda: ids.extend(queue.submit(NOTE) for _ in range(10))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(ids)) == 50


def test_who_waits_when_a_blocking_queue_is_closed_is_told(path: Path) -> None:
    queue = zsmtp.Queue.open(path)
    id = queue.submit(NOTE)
    said: list[str] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            queue.wait(id)
        except QueueError as error:
            said.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    queue.close()
    thread.join()
    assert said[0] in ("this queue was closed meanwhile", "this queue is closed")


# -------------------------------------------------------------------- delivery


@pytest.mark.parametrize("blocking", [False, True])
def test_with_deliver_mail_is_delivered(url: str, blocking: bool) -> None:
    with receiving() as receiver:
        config = zsmtp.Config(relay=zsmtp.Relay.from_url(f"smtp://127.0.0.1:{receiver.port}"))

        async def work(queue: zsmtp.aio.Queue) -> None:
            ends.extend(await queue.wait(await queue.submit(NOTE), timeout=LIMIT))

        ends: list[HistoryEntry] = []
        if blocking:
            with zsmtp.Queue.open(url, config=config, deliver=True) as queue:
                ends.extend(queue.wait(queue.submit(NOTE), timeout=LIMIT))
        else:
            with_queue(url, work, config=config, deliver=True)
    assert [end.outcome for end in ends] == [Outcome.DELIVERED] * 2
    (message,) = receiver.messages
    assert message.rcpt_tos == ["b@example.net", "c@example.com"]


@pytest.mark.parametrize("queued", [False, True])
def test_senders_log_in_for_themselves(url: str, queued: bool) -> None:
    """One server, a login for each sender, none for mail from no sender; with and without a queue."""
    script = Script(caps=("AUTH PLAIN",), replies={"AUTH": (Step("235 2.7.0 welcome"),)})
    with Sink(script) as sink:
        server = f"127.0.0.1:{sink.port}"
        logins = {name: zsmtp.Relay.from_url(f"smtp://{name}:secret@{server}") for name in ("ann", "shop")}
        config = zsmtp.Config(
            relay=zsmtp.Relay.from_url(f"smtp://{server}"),
            sender_routes={"ann@shop.example": logins["ann"], "shop.example": logins["shop"]},
        )
        senders = ["ann@shop.example", "bob@shop.example", "a@example.org", "<>"]

        async def work(queue: zsmtp.aio.Queue) -> None:
            for sender in senders:
                await queue.wait(await queue.submit(NOTE, sender=sender, recipients="b@example.net"), timeout=LIMIT)

        if queued:
            with_queue(url, work, config=config, deliver=True)
        else:
            with zsmtp.Client(config) as client:
                for sender in senders:
                    client.deliver(NOTE, sender=sender, recipients="b@example.net")
    said = [(auth, line) for one in sink.connections for auth, line in by_login(one.lines)]
    assert said == [
        (b"AUTH PLAIN " + b64encode(b"\0ann\0secret"), b"<ann@shop.example>"),
        (b"AUTH PLAIN " + b64encode(b"\0shop\0secret"), b"<bob@shop.example>"),
        (b"", b"<a@example.org>"),
        (b"", b"<>"),
    ]


def by_login(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The senders of a connection, each with the login."""
    login = next((line for line in lines if line.startswith(b"AUTH ")), b"")
    return [(login, line[len(b"MAIL FROM:") :].split()[0]) for line in lines if line.startswith(b"MAIL FROM:")]


def test_with_deliver_the_sender_is_notified_of_a_failure(url: str) -> None:
    with receiving() as receiver:
        receiver.refuse.add("b@example.net")
        config = zsmtp.Config(
            relay=zsmtp.Relay.from_url(f"smtp://127.0.0.1:{receiver.port}"), helo_name="mail.example.org"
        )

        async def work(queue: zsmtp.aio.Queue) -> None:
            first = await queue.submit(NOTE)
            assert {end.outcome for end in await queue.wait(first, timeout=LIMIT)} == {
                Outcome.DELIVERED,
                Outcome.FAILED,
            }
            async with asyncio.timeout(LIMIT):
                while len(receiver.messages) < 2:
                    await asyncio.sleep(0.01)

        with_queue(url, work, config=config, deliver=True)
    notice = receiver.messages[-1]
    assert (notice.mail_from, notice.rcpt_tos) == ("<>", ["a@example.org"])
    assert isinstance(notice.content, bytes)
    assert b"From: Mail Delivery System <mailer-daemon@mail.example.org>" in notice.content
    assert b"Final-Recipient: rfc822; b@example.net" in notice.content


@pytest.mark.parametrize(
    ("template", "transactions"), [("b+{id}@example.org", 1), ("b+{id}-{recipient}@example.org", 2)]
)
def test_mail_goes_out_under_return_paths(template: str, transactions: int, tmp_path: Path) -> None:
    keys = str(tmp_path / "keys")
    bounces = BounceConfig(return_path=template, key_file=keys)
    with pytest.raises(ConfigError, match=r"key_file: .* is not there"):
        zsmtp.aio.Queue.open("memory:", queue=QueueConfig(bounces=bounces), deliver=True)
    make_keys(keys)
    ids: list[str] = []
    with Sink(Script(caps=("DSN",))) as sink:
        config = zsmtp.Config(relay=zsmtp.Relay.from_url(f"smtp://127.0.0.1:{sink.port}"))

        async def work(queue: zsmtp.aio.Queue) -> None:
            for sender in ("a@example.org", "<>"):
                dsn = zsmtp.DSN(envid="order-7")
                id = await queue.submit(NOTE, sender=sender, recipients=["b@example.net", "c@example.net"], dsn=dsn)
                ends = await queue.wait(id, timeout=LIMIT)
                assert [(end.outcome, end.sender) for end in ends] == [
                    (Outcome.DELIVERED, sender.strip("<>").encode())
                ] * 2
                ids.append(id)

        with_queue("memory:", work, queue=QueueConfig(bounces=bounces), config=config, deliver=True)
    mails = [line for one in sink.connections for line in one.lines if line.startswith(b"MAIL")]
    assert len(mails) == transactions + 1
    returns = ReturnPath(bounces, read_keys(keys), 0)
    found = [returns.recognise(line.partition(b"<")[2].partition(b">")[0], time.time()) for line in mails]
    numbers = [None] if transactions == 1 else [0, 1]
    assert found == [ReturnedTo(from_text(ids[0])[0], number) for number in numbers] + [None]
    assert mails[-1].startswith(b"MAIL FROM:<> ")
    assert all(b"ENVID=order-7" in line for line in mails)


def test_mail_of_a_callers_transaction_is_delivered_when_it_is_committed(path: Path) -> None:
    with receiving() as receiver:
        config = zsmtp.Config(relay=zsmtp.Relay.from_url(f"smtp://127.0.0.1:{receiver.port}"))
        with (
            zsmtp.Queue.open(path, config=config, deliver=True) as queue,
            closing(sqlite3.connect(path)) as connection,
        ):
            with connection:
                id = queue.submit(NOTE, connection=connection)
            queue.wake()
            assert [end.outcome for end in queue.wait(id, timeout=LIMIT)] == [Outcome.DELIVERED] * 2


def test_two_that_deliver_take_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.queue.queue._TAKE_OVER", 0.05)
    with receiving() as receiver:
        config = zsmtp.Config(relay=zsmtp.Relay.from_url(f"smtp://127.0.0.1:{receiver.port}"))
        with (
            zsmtp.Queue.open(path, config=config, deliver=True, node="one") as first,
            zsmtp.Queue.open(path, config=config, deliver=True, node="two") as second,
        ):
            second.wait(second.submit(NOTE), timeout=LIMIT)
            first.close()
            (end, _) = second.wait(second.submit(NOTE), timeout=LIMIT)
            assert end.node == "two"


class Scripted:
    """What a queue asks of the modules that deliver; ``busy`` times another process delivers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, busy: int = 0, error: Exception | None = None) -> None:
        self.said: list[str] = []
        self.delivering = asyncio.Event()
        script = self

        class Connections:
            def __init__(self, config: zsmtp.Config) -> None:
                assert isinstance(config, zsmtp.Config)

            async def aclose(self) -> None:
                script.said.append("closed")

        class Runner:
            def __init__(
                self, store: QueueStore, connections: Connections, config: object, *, node: str, return_path: None
            ) -> None:
                self.over = asyncio.Event()
                self.joined = asyncio.Event()
                self.drained = False
                self.connections = connections
                script.said.append(node)

            async def run(self) -> None:
                nonlocal busy
                if busy:
                    busy -= 1
                    script.said.append("busy")
                    script.delivering.set()
                    await self.connections.aclose()
                    raise QueueBusy("node other delivers already")
                if error is not None:
                    raise error
                script.said.append("runs")
                script.delivering.set()
                await self.over.wait()
                script.said.append("stopped")
                await self.connections.aclose()

            def stop(self) -> None:
                self.over.set()

        monkeypatch.setitem(sys.modules, "zsmtp.queue.runner", SimpleNamespace(Runner=Runner))  # type: ignore[misc]
        monkeypatch.setitem(
            sys.modules,
            "zsmtp.queue.connections",
            SimpleNamespace(EngineConnections=Connections),  # type: ignore[misc]
        )


def test_with_deliver_it_delivers_until_it_is_left(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch)

    async def work(queue: zsmtp.aio.Queue) -> None:
        await script.delivering.wait()
        await queue.submit(NOTE)

    with_queue(url, work, deliver=True, node="one")
    assert script.said == ["one", "runs", "stopped", "closed"]


def test_while_another_process_delivers_it_waits_for_its_turn(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.queue.queue._TAKE_OVER", 0.0)
    script = Scripted(monkeypatch, busy=2)

    async def work(queue: zsmtp.aio.Queue) -> None:
        while "runs" not in script.said:
            await asyncio.sleep(0)

    with_queue(url, work, deliver=True, node="one")
    assert script.said == ["one", "busy", "closed", "one", "busy", "closed", "one", "runs", "stopped", "closed"]


def test_it_is_left_while_another_process_delivers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch, busy=1)

    async def work(queue: zsmtp.aio.Queue) -> None:
        await script.delivering.wait()

    with_queue(url, work, deliver=True, node="one")
    assert script.said == ["one", "busy", "closed"]


def test_a_delivery_that_ends_by_a_fault_is_loud(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Scripted(monkeypatch, error=ValueError("a fault"))

    async def work(queue: zsmtp.aio.Queue) -> None:
        while not caplog.records:
            await asyncio.sleep(0)
        await queue.submit(NOTE)

    with pytest.raises(ValueError, match="a fault"):
        with_queue(url, work, deliver=True)
    assert "this process no longer delivers the queue" in caplog.text


# ------------------------------------------------- in a transaction of the caller


@asynccontextmanager
async def application(path: Path) -> AsyncIterator[tuple[zsmtp.aio.Queue, sqlite3.Connection]]:
    """A queue in the file of an application, and a connection of that one."""
    async with zsmtp.aio.Queue.open(path) as queue:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE orders (text)")
            yield queue, connection


def in_application(path: Path, work: Callable[[zsmtp.aio.Queue, sqlite3.Connection], Awaitable[None]]) -> None:
    async def main() -> None:
        async with application(path) as (queue, connection):
            await work(queue, connection)

    asyncio.run(main())


def test_the_mail_is_there_if_and_only_if_the_caller_commits(path: Path) -> None:
    async def work(queue: zsmtp.aio.Queue, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO orders VALUES ('one')")
        lost = await queue.submit(NOTE, connection=connection)
        connection.rollback()
        with pytest.raises(QueueError, match="there is no message"):
            await queue.status(lost)
        with connection:
            connection.execute("INSERT INTO orders VALUES ('two')")
            id = await queue.submit(NOTE, connection=connection, tenant="shop", idempotency_key="order 2")
            with pytest.raises(QueueError, match="there is no message"):
                await queue.status(id)
        queue.wake()
        assert (await stored(queue, id)).tenant == "shop"
        assert await content(queue, id) == STORED
        assert await queue.submit(NOTE, connection=connection, tenant="shop", idempotency_key="order 2") == id
        connection.rollback()
        assert await queue.submit(NOTE, tenant="shop", idempotency_key="order 2") == id

    in_application(path, work)


def test_the_file_is_the_one_that_was_opened(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zsmtp.Queue.open(path.name) as queue, closing(sqlite3.connect(path)) as connection:
        monkeypatch.chdir("/")
        with connection:
            id = queue.submit(NOTE, connection=connection)
        assert queue.status(id).waiting


def test_savepoints_of_the_caller(path: Path) -> None:
    async def work(queue: zsmtp.aio.Queue, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        kept = await queue.submit(NOTE, connection=connection)
        connection.execute("SAVEPOINT mine")
        await queue.submit(NOTE, connection=connection)
        connection.execute("ROLLBACK TO mine")
        connection.execute("RELEASE mine")
        connection.execute("COMMIT")
        assert (await queue.status(kept)).waiting
        assert await queue.store.count(Filter()) == {"": 2}

    in_application(path, work)


def test_two_open_transactions_wait_for_one_another(path: Path) -> None:
    """The second one gets its turn when the first one is committed, in another thread."""

    async def work(queue: zsmtp.aio.Queue, connection: sqlite3.Connection) -> None:
        first = await queue.submit(NOTE, connection=connection)
        begun = threading.Event()

        def second() -> str:
            with closing(sqlite3.connect(path)) as mine, mine:
                begun.set()
                return queue.submit_in(mine, QueueSubmission(message=NOTE))

        waiting = asyncio.create_task(asyncio.to_thread(second))
        beside = asyncio.create_task(queue.submit(NOTE))
        await asyncio.to_thread(begun.wait)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert not beside.done()
        connection.commit()
        assert len({first, await waiting, await beside}) == 3
        assert await queue.store.count(Filter()) == {"": 6}

    in_application(path, work)


def test_connections_that_are_refused(path: Path, tmp_path: Path) -> None:
    async def work(queue: zsmtp.aio.Queue, connection: sqlite3.Connection) -> None:
        other = tmp_path / "other.db"
        await (await SQLiteStore.open(other)).close()
        with closing(sqlite3.connect(other)) as wrong, pytest.raises(QueueError, match="which is another queue than"):
            await queue.submit(NOTE, connection=wrong)
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        with closing(reader), pytest.raises(QueueError, match="read-only"):
            await queue.submit(NOTE, connection=reader)
        with closing(sqlite3.connect(":memory:")) as wrong:
            wrong.execute("ATTACH ? AS queue", (str(path),))
            with pytest.raises(QueueError, match="an attached file"):
                await queue.submit(NOTE, connection=wrong)
        connection.execute("PRAGMA synchronous = NORMAL")
        with pytest.raises(QueueError, match="synchronous"):
            await queue.submit(NOTE, connection=connection)
        assert await queue.store.count(Filter()) == {"": 0}

    in_application(path, work)


def test_a_message_that_is_too_large_for_a_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("queue", "ingest"):
        monkeypatch.setattr(f"zsmtp.queue.{module}.IN_TRANSACTION", 2 * PART_OCTETS)

    async def work(queue: zsmtp.aio.Queue, connection: sqlite3.Connection) -> None:
        fits = NOTE + b"x" * PART_OCTETS
        with connection:
            id = await queue.submit(fits, connection=connection)
        assert len(await content(queue, id)) == len(STORED) + PART_OCTETS
        with pytest.raises(SubmissionError, match="the limit in a caller's transaction"):
            await queue.submit(NOTE + b"x" * 2 * PART_OCTETS, connection=connection)
        with pytest.raises(SubmissionError, match="2 MiB for one commit"):
            await queue.submit_many([fits, fits])

    in_application(path, work)


def test_a_queue_in_memory_has_no_transactions() -> None:
    async def work(queue: zsmtp.aio.Queue) -> None:
        with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(QueueError, match="in no database"):
            await queue.submit(NOTE, connection=connection)

    with_queue("memory:", work)


def test_the_blocking_queue_submits_in_the_thread_of_the_caller(path: Path) -> None:
    with zsmtp.Queue.open(path) as queue:
        with closing(sqlite3.connect(path)) as connection:
            with connection:
                id = queue.submit(NOTE, connection=connection)
            queue.submit(NOTE, connection=connection)
            connection.rollback()
            queue.wake()
        assert [row.recipient.address for row in queue.status(id).waiting] == [b"b@example.net", b"c@example.com"]
        (message,) = {row.message.id for row in queue.status(id).waiting}
        assert message == from_text(id)[0]
