"""A queue under test: a store, the clock it goes by, and the ways in which its process or machine may die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import psycopg
from tests.support.patience import LIMIT
from tests.support.postgres import cluster, installed

from zsmtp.queue.filter import Filter
from zsmtp.queue.leases import VALID
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.operators import Row
from zsmtp.queue.postgres.bodies import LEAST, configure
from zsmtp.queue.postgres.results import RENEW
from zsmtp.queue.postgres.schema import make_days
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.states import (
    START,
    AttemptKey,
    HistoryEntry,
    NoticeKind,
    Outcome,
    OwedNotice,
    QueuedMessage,
    QueuedRecipient,
)
from zsmtp.queue.store import (
    Claimed,
    Deferred,
    Ended,
    Lease,
    NewMessage,
    NewRecipient,
    QueueStore,
)

NOON = 1_764_331_200.0  # 2025-11-28T12:00:00Z
DAY = 86400.0


class Clock:
    """A clock that is set; it starts at noon."""

    def __init__(self) -> None:
        self.now = NOON
        self.turning = 1000.0  # what waits are measured by
        self.passed: list[Callable[[float], None]] = []  # who is told that time passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.turning += seconds
        for tell in self.passed:
            tell(seconds)

    def jump(self, seconds: float) -> None:
        """Set the clock of the machine; no time passes."""
        self.now += seconds


class Harness(ABC):
    """One queue. ``store`` is the process under test; ``free`` what its disk has left, negative if unknown."""

    store: QueueStore
    many_nodes: bool
    """Whether several processes can deliver at a time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.free = -1

    @abstractmethod
    async def start(self) -> QueueStore:
        """Make the queue."""

    @abstractmethod
    async def another(self) -> QueueStore:
        """A store of another process on the same queue."""

    @abstractmethod
    async def crash(self, *, machine: bool = False) -> QueueStore:
        """Let all processes die, or the machine; ``store`` is a new one then."""

    @abstractmethod
    async def stop(self) -> None:
        """Close everything."""

    def now(self) -> float:
        """The time."""
        return self.clock.now

    def wait(self, seconds: float) -> None:
        """Let time pass while the event loop turns."""
        self.clock.advance(seconds)
        self.store.beat()


class MemoryHarness(Harness):
    """The store in memory."""

    store: MemoryStore
    many_nodes = True

    async def start(self) -> QueueStore:
        self.store = MemoryStore(
            clock=lambda: self.clock.now, monotonic=lambda: self.clock.turning, free_space=lambda: self.free
        )
        return self.store

    async def another(self) -> QueueStore:
        return self.store.another()

    async def crash(self, *, machine: bool = False) -> QueueStore:
        self.store = self.store.crash(machine=machine)
        return self.store

    async def stop(self) -> None:
        await self.store.close()


class SQLiteHarness(Harness):
    """The store in a SQLite file. A death is a copy of the files as they are, opened anew."""

    store: SQLiteStore
    many_nodes = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.boots = 1
        self._opened: list[SQLiteStore] = []
        self._copies = itertools.count(1)

    async def start(self) -> QueueStore:
        self.path = self.folder / "queue.db"
        self.store = await self.open()
        return self.store

    async def open(self) -> SQLiteStore:
        """Open the file as it is now."""
        store = await SQLiteStore.open(
            self.path,
            clock=lambda: self.clock.now,
            monotonic=lambda: self.clock.turning,
            free_space=lambda: self.free,
            boot=f"boot {self.boots}",
            busy=LIMIT,
        )
        self._opened.append(store)
        return store

    async def another(self) -> QueueStore:
        return await self.open()

    async def crash(self, *, machine: bool = False) -> QueueStore:
        folder = self.folder / f"after-{next(self._copies)}"
        folder.mkdir()
        log = self.path.with_name(f"{self.path.name}-wal")
        begun = None
        while begun is None or begun != _begin_of(log):  # a log that is begun anew meanwhile lacks what it had before
            begun = _begin_of(log)
            for path in (self.path, log):
                if path.exists():
                    shutil.copyfile(path, folder / path.name)
        self.path = folder / self.path.name
        self.boots += machine
        self.store = await self.open()
        return self.store

    async def stop(self) -> None:
        for store in self._opened:
            await store.close()


def _begin_of(log: Path) -> bytes:
    """The header of a log, which is another one each time that the log begins anew."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        return file.read(32)
    return b""


class BeatingStore(PostgresStore):
    """A store whose heartbeat is sent with each turn of the loop: time does not pass while a thread is waited for."""

    admin: psycopg.Connection[tuple[object, ...]]

    def beat(self) -> None:
        super().beat()
        node = self._delivery._results.node
        if node:
            self.admin.execute(RENEW, (VALID, node))


class PostgresHarness(Harness):
    """The store in a PostgreSQL database. Each store has a role of its own, by which it is cut off when it dies."""

    store: PostgresStore
    many_nodes = True

    def __init__(self) -> None:
        super().__init__()
        self._opened: list[tuple[str, PostgresStore]] = []

    async def start(self) -> QueueStore:
        self.cluster = cluster()
        self._url = self.cluster.database()
        self._admin = psycopg.connect(self._url, autocommit=True)
        self._admin.execute("CREATE TABLE zsmtp_test_clock (now timestamptz NOT NULL)")
        self._admin.execute("INSERT INTO zsmtp_test_clock VALUES (to_timestamp(%s))", (self.clock.now,))
        self._admin.execute(
            "CREATE OR REPLACE FUNCTION zsmtp_clock() RETURNS timestamptz LANGUAGE sql VOLATILE "
            "AS 'SELECT now FROM zsmtp_test_clock'"
        )
        self._admin.execute("UPDATE zsmtp_meta SET value = md5(random()::text) WHERE name = 'uid'")  # of the template
        make_days(self._admin)
        self.clock.passed.append(self._advance_database)
        self.store = await self.open()
        return self.store

    def _advance_database(self, seconds: float) -> None:
        """Let time pass by the clock of the database."""
        self._admin.execute("UPDATE zsmtp_test_clock SET now = now + make_interval(secs => %s)", (seconds,))

    async def open(self) -> PostgresStore:
        """Open a store as another process would."""
        role = f"life_{next(_ROLES)}"
        self._admin.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
        store = await BeatingStore.open(
            self._url.replace("user=zsmtp", f"user={role}"),
            clock=lambda: self.clock.now,
            monotonic=lambda: self.clock.turning,
            free_space=lambda: self.free,
        )
        store.admin = self._admin
        self._opened.append((role, store))
        return store

    async def another(self) -> QueueStore:
        return await self.open()

    async def crash(self, *, machine: bool = False) -> QueueStore:
        for role, _ in self._opened:
            self._admin.execute(f"ALTER ROLE {role} NOLOGIN")
        self._admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'life%%' AND datname = %s",
            (self._admin.info.dbname,),
        )
        if machine:
            self.cluster.crash()
            self._admin.close()
            self._admin = psycopg.connect(self._url, autocommit=True)
            for _, store in self._opened:
                store.admin = self._admin
        self._advance_database(VALID + 1)  # nobody hears of them for so long
        self.store = await self.open()
        return self.store

    async def stop(self) -> None:
        for _, store in self._opened:
            await store.close()
        self._admin.close()


class FolderHarness(PostgresHarness):
    """The same with a shared folder for the last parts of large bodies."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.bodies = folder / "bodies"

    async def start(self) -> QueueStore:
        store = await super().start()
        self.bodies.mkdir(0o700)
        configure(self._admin, path=str(self.bodies), above=LEAST)
        return store


_ROLES = itertools.count(1)


class Make(Protocol):
    """Makes a harness; the folder is the test's own."""

    def __call__(self, folder: Path, /) -> Harness: ...


STORES: dict[str, Make] = {
    "memory": lambda folder: MemoryHarness(),
    "sqlite": SQLiteHarness,
}
"""All stores that are held to the contract."""
FOLDERS: dict[str, Make] = {}
"""Those that differ from one of these by where large bodies are."""
if installed():
    STORES["postgres"] = lambda folder: PostgresHarness()
    FOLDERS["folder"] = FolderHarness


def play(harness: Harness, scenario: Callable[[Harness], Awaitable[None]]) -> None:
    """Run a scenario against a queue of its own, which is found to be in order in the end."""

    async def main() -> None:
        await harness.start()
        try:
            await scenario(harness)
            assert await findings(harness.store) == []
        finally:
            await harness.stop()

    asyncio.run(main())


async def findings(store: QueueStore) -> list[str]:
    """What ``check`` finds, after a sweep of what is to be swept."""
    return [finding async for finding in store.check()]


# ------------------------------------------------------------------ messages


def to(address: str, key: str | None = None, **values: object) -> NewRecipient:
    """A recipient; its key is its domain if no other is given."""
    return NewRecipient(address=address.encode(), key=key or address.rpartition("@")[2], **values)


def new(
    *recipients: str | NewRecipient, content: bytes = b"Subject: x\r\n\r\nhello\r\n", **values: object
) -> NewMessage:
    """A message that is due at noon, for five days."""
    given: dict[str, object] = {"sender": b"ann@shop.example", "due": NOON, "expires": NOON + 5 * DAY} | values
    some = [to(one) if isinstance(one, str) else one for one in recipients or ("bob@example.net",)]
    return NewMessage(recipients=some, content=content, **given)


def entry(
    one: QueuedRecipient, outcome: Outcome, at: float, *, attempt: int | None = None, **values: object
) -> HistoryEntry:
    """What history says of an attempt for a recipient."""
    return HistoryEntry(
        at=at,
        message=one.message,
        number=one.number,
        attempt=one.attempts + 1 if attempt is None else attempt,
        outcome=outcome,
        address=one.address,
        sender=b"ann@shop.example",
        key=one.key,
        tenant=one.tenant,
        **values,
    )


def ended(one: QueuedRecipient, at: float, outcome: Outcome = Outcome.DELIVERED, **values: object) -> Ended:
    """An end."""
    return Ended(entry(one, outcome, at, **values))


def failed(one: QueuedRecipient, at: float) -> Ended:
    """A failure, of which the sender is to be notified."""
    return Ended(entry(one, Outcome.FAILED, at, status="5.1.1", code=550, reason="no such user"), notice(one, at))


def notice(one: QueuedRecipient, at: float, kind: NoticeKind = NoticeKind.FAILED) -> OwedNotice:
    """A notice that is owed for a recipient."""
    return OwedNotice(message=one.message, number=one.number, kind=kind, at=at, address=one.address, status="5.1.1")


def deferred(one: QueuedRecipient, at: float, due: float, *, counted: bool = True, **values: object) -> Deferred:
    """A deferral by a server, or by this side."""
    reason = "451 4.7.1 come back later" if counted else "no slot"
    said = entry(one, Outcome.DEFERRED, at, status="4.7.1", code=451, reason=reason) if counted else None
    return Deferred(one.next_attempt, due, said, "4.7.1", reason, **values)


def in_doubt(one: QueuedRecipient, at: float, due: float) -> Deferred:
    """The settlement of a doubt by trying again."""
    return Deferred(
        one.next_attempt, due, entry(one, Outcome.IN_DOUBT, at), "4.4.2", "the connection broke", doubtful=True
    )


# ------------------------------------------------------------------ delivery


async def take(store: QueueStore, *keys: str, limit: int = 100) -> list[Lease]:
    """Lease the sites of keys, or of all keys with work."""
    return await store.take(keys or sorted(await store.agenda()), limit=limit)


async def lease_of(store: QueueStore, *keys: str) -> Lease:
    """The lease of the site of some keys, or of the only site with work."""
    leases = await take(store, *keys)
    assert len(leases) == 1, leases
    return leases[0]


async def claim(store: QueueStore, lease: Lease, now: float, limit: int = 1000) -> list[Claimed]:
    """All that is due under a lease."""
    claimed: list[Claimed] = []
    for head in await store.heads([lease]):
        found, _ = await store.claim(lease, head.sub_queue, START, now, limit=limit, octets=1 << 30)
        claimed += found
    return claimed


def in_doubt_of(lease: Lease) -> list[tuple[AttemptKey, bool]]:
    """What is in doubt under a lease, and whether because the machine died."""
    return [(doubt.recipient.next_attempt, doubt.machine) for doubt in lease.doubts]


def attempts(claimed: Sequence[Claimed]) -> list[AttemptKey]:
    """The attempts that are made for what was claimed."""
    return [one.recipient.next_attempt for one in claimed]


async def all_claimed(store: QueueStore, recipients: int, now: float) -> list[Claimed]:
    """Wait until so many recipients can be claimed, from all sites."""
    end = time.monotonic() + LIMIT
    while True:
        await store.arrivals(0.02)
        leases = await take(store)
        claimed = [one for lease in leases for one in await claim(store, lease, now, 10_000)]
        if len(claimed) == recipients:
            return claimed
        assert time.monotonic() < end, f"{len(claimed)} recipients can be claimed, not {recipients}"
        await store.give_back(leases)


async def rows(store: QueueStore, text: str = "") -> list[Row]:
    """What a filter selects."""
    return [row async for row in store.select(Filter.parse(text))]


async def there(store: QueueStore, text: str = "") -> list[str]:
    """The addresses a filter selects."""
    return [row.recipient.address.decode() for row in await rows(store, text)]


async def content_of(store: QueueStore, message: QueuedMessage) -> bytes:
    """The content of a message."""
    return b"".join([chunk async for chunk in store.content(message.id, message.size)])


async def swept(store: QueueStore, now: float) -> None:
    """Sweep until nothing is left to be swept."""
    for _ in range(1000):
        if not await store.sweep(now):
            return
    raise AssertionError("the sweep never comes to its end")
