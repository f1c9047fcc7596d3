"""The store in PostgreSQL beyond the contract: its tables, lost connections, many nodes, poolers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import quote

import psycopg
import pytest
from tests.queue.harness import DAY, NOON, PostgresHarness, attempts, claim, ended, findings, new, play, take, there
from tests.support.loop import Loop, pass_time
from tests.support.postgres import cluster, needs_postgres

from zsmtp.errors import ConfigError, QueueError, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.limits import PART_OCTETS, PART_RECIPIENTS
from zsmtp.queue.operators import Change
from zsmtp.queue.postgres import connect, schema, sweep, threads, transaction
from zsmtp.queue.postgres.connect import Database
from zsmtp.queue.postgres.leases import TAKES
from zsmtp.queue.postgres.schema import is_made, meta_of, migrate
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.programs import later, numbered_files
from zsmtp.queue.suppression import Suppression

pytestmark = needs_postgres


@pytest.fixture
def url() -> str:
    return cluster().database()


def with_store(url: str, work: Callable[[PostgresStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = await PostgresStore.open(url)
        try:
            await work(store)
            assert await findings(store) == []
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


# ---------------------------------------------------------------------- URLs


def test_urls_are_read_by_libpq_and_shown_without_secrets() -> None:
    database = Database.of("postgresql://ann:secret@db.example:5433/mail?sslmode=disable&pooled=yes")
    assert database.pooled
    assert database.name == "postgresql://db.example:5433/mail"
    values = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    assert (values["user"], values["sslmode"], "pooled" in values) == ("ann", "disable", False)
    literal = Database.of("postgresql:///mail?password=a+b%20c&options=-c%20jit%3Don").conninfo
    assert psycopg.conninfo.conninfo_to_dict(literal) == {"dbname": "mail", "password": "a+b c", "options": "-c jit=on"}
    local = Database.of("postgresql:///mail?host=%2Frun%2Fpostgresql")
    assert psycopg.conninfo.conninfo_to_dict(local.conninfo) == {"dbname": "mail", "host": "/run/postgresql"}


def test_the_server_compiles_no_queries_unless_the_url_asks_for_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(url: str) -> list[str]:
        with Database.of(url).connect() as connection:
            return [connection.execute(f"SHOW {name}".encode()).fetchall()[0][0] for name in ("jit", "work_mem")]

    assert settings(url) == ["off", "4MB"]
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    assert settings(url) == ["off", "5MB"]
    assert settings(f"{url}&options={quote('-c work_mem=6MB -c jit=on')}") == ["on", "6MB"]
    monkeypatch.delenv("PGOPTIONS")
    assert settings(f"{url}&pooled=yes") == ["on", "4MB"], "a pooler refuses options that it does not know"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://db/mail?pooled=maybe", "neither yes nor no"),
        ("postgresql://db/mail?nonsense=1", "not understood"),
        ("postgresql://[/mail", "cannot be read"),
    ],
)
def test_urls_that_are_none(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Database.of(url)


def test_a_server_that_is_not_there() -> None:
    async def main() -> None:
        with pytest.raises(QueueUnavailable, match="opening it"):
            await PostgresStore.open("postgresql:///mail?host=%2Fnowhere&user=nobody")

    asyncio.run(main())


# -------------------------------------------------------------------- tables


def test_a_later_migration_forgets_no_program_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(cluster().database()) as connection:
        connection.execute("UPDATE zsmtp_meta SET value = '0.0.9' WHERE name = 'min_program'")
        files = numbered_files(resources.files("zsmtp.queue.postgres") / "migrations")
        monkeypatch.setattr(schema, "numbered_files", lambda _: [*files, ("SELECT 1", "0.0.1")])
        migrate(connection)
        assert meta_of(connection)["min_program"] == "0.0.9"
        assert later("0.1.0", "0.10") == later("0.10", "") == "0.10"


def test_many_programs_may_make_the_tables_at_once() -> None:
    url = cluster().database(template=False)

    def make() -> None:
        with psycopg.connect(url) as connection:
            shards.append(migrate(connection, 3))

    shards: list[int] = []
    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shards == [3] * 4
    with psycopg.connect(url) as connection:
        assert is_made(connection)
        with pytest.raises(QueueError, match="is shard 3, not 0"):
            migrate(connection, 0)


def test_migrations_are_applied_once_while_an_older_program_works(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = numbered_files(resources.files("zsmtp.queue.postgres") / "migrations")
    later = [*known, ("ALTER TABLE zsmtp_message ADD COLUMN later text", "0.1.0")]

    async def old(store: PostgresStore) -> None:
        await store.submit([new("a@example.net")])
        with monkeypatch.context() as patch, psycopg.connect(url) as connection:
            patch.setattr(schema, "numbered_files", lambda folder: later)
            assert not is_made(connection)
            for _ in range(2):
                migrate(connection)
            assert meta_of(connection)["schema"] == str(len(later))
        await store.submit([new("b@example.net")])
        assert await there(store) == ["a@example.net", "b@example.net"]

    with_store(url, old)


def test_a_database_of_the_first_release_gets_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    url = cluster().database(template=False)
    with monkeypatch.context() as first, psycopg.connect(url) as connection:
        first.setattr(schema, "numbered_files", lambda folder: numbered_files(folder)[:1])
        migrate(connection)
        assert meta_of(connection)["schema"] == "1"

    async def work(store: PostgresStore) -> None:
        await store.submit([new("bob@example.net")])
        await store.suppress([Suppression(address=b"bob@example.net", at=0.0)])
        await store.submit([new("bob@example.net")])
        assert await there(store) == ["bob@example.net"]

    with_store(url, work)


def test_a_program_that_is_too_old_says_so(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE zsmtp_meta SET value = '99.0' WHERE name = 'min_program'")

    async def main() -> None:
        with pytest.raises(QueueError, match=r"it needs zsmtp 99\.0 or later"):
            await PostgresStore.open(url)

    asyncio.run(main())


def test_each_migration_is_a_numbered_file() -> None:
    names = sorted(path.name for path in (Path(schema.__file__).parent / "migrations").glob("*.sql"))
    assert names == [f"{number:04}.sql" for number in range(1, len(names) + 1)]


def test_the_history_is_kept_by_days() -> None:
    async def scenario(queue: PostgresHarness) -> None:
        store = queue.store
        for _ in range(3):
            await store.submit([new()])
            async for _ in store.change(Filter(), Change(end="dropped")):
                pass
            queue.clock.advance(15 * DAY)  # without a sweep there is no partition for that day
        assert len((await store.events("", limit=10))[1]) == 3
        await store.sweep(queue.now())
        assert len((await store.events("", limit=10))[1]) == 2
        with psycopg.connect(queue._url) as connection:
            rows = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'zsmtp_history_%' ORDER BY 1"
            ).fetchall()
        days = [name.removeprefix("zsmtp_history_") for (name,) in rows]
        assert days[0] > "20251128"
        assert "20260119" in days  # a week ahead

    play(PostgresHarness(), scenario)


def test_days_that_a_dead_node_had_detached_are_dropped_all_the_same(url: str) -> None:
    async def work(store: PostgresStore) -> None:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT zsmtp_make_day(day) FROM unnest(ARRAY['2020-01-01', '2020-01-02']::date[]) AS day")
            other.execute("ALTER TABLE zsmtp_history DETACH PARTITION zsmtp_history_20200101")
        stores = [store, await PostgresStore.open(url), await PostgresStore.open(url)]
        await asyncio.gather(*(one.sweep(time.time()) for one in stores))
        for one in stores[1:]:
            await one.close()
        with psycopg.connect(url) as other:
            found = other.execute("SELECT relname FROM pg_class WHERE relname LIKE 'zsmtp_history_2020%'").fetchall()
        assert found == []

    with_store(url, work)


def test_a_day_that_another_node_is_dropping_is_left_to_it() -> None:
    """Two nodes can wait for each other there; PostgreSQL ends the wait of one of them with an error."""
    days = ["zsmtp_history_20200101", "zsmtp_history_20200102"]
    db = Mock()

    def execute(command: str | bytes, *values: object) -> Mock:
        if days[0].encode() in (command if isinstance(command, bytes) else b""):
            raise psycopg.errors.DeadlockDetected
        return Mock(fetchall=lambda: [(day, False) for day in days])

    db.execute.side_effect = execute
    assert sweep.drop_days(db, time.time(), 86400) == 1
    assert db.execute.call_args.args == (f"DROP TABLE {days[1]}".encode(),)


# --------------------------------------------------------------- connections


def test_connections_that_were_ended_are_made_anew(url: str) -> None:
    async def work(store: PostgresStore) -> None:
        await store.join("node")
        await store.submit([new("a@example.net")])
        (lease,) = await take(store)
        for address in ("b@example.net", "c@example.net"):
            with psycopg.connect(url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid()"
                )
            await store.submit([new(address)])
            assert len(await claim(store, lease, NOON * 2)) == len(await there(store))
        some = await claim(store, lease, NOON * 2)
        store.beat()
        assert await store.mark(lease, attempts(some))
        assert await store.settle(lease, [ended(one.recipient, NOON) for one in some], []) == []
        assert (await store.health()).problem == ""

    with_store(url, work)


class CuttingRelay(threading.Thread):
    """Passes a connection on until the server got a word, whose answer never arrives; the rest passes."""

    def __init__(self, folder: Path, target: Path, word: bytes, *, before: bool) -> None:
        super().__init__(daemon=True)
        self.meanwhile: Callable[[], None] = lambda: None
        self.word = word
        self.before = before
        self.cuts = 0
        self.folder = folder
        self._target = str(target)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self._target)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for one, other in ((client, server), (server, client)):
                    if one not in ready:
                        continue
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    cut = one is client and self.word in data and not self.cuts
                    if not (cut and self.before):
                        other.sendall(data)
                    if cut:
                        self.cuts += 1
                        self.meanwhile()
                        while not self.before and server not in select.select([client, server], [], [])[0]:
                            server.sendall(client.recv(1 << 16))
                        return


@pytest.fixture
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., CuttingRelay]]:
    made: list[CuttingRelay] = []

    def make(word: bytes, *, before: bool) -> CuttingRelay:
        folder = tmp_path_factory.mktemp("relay")
        made.append(CuttingRelay(folder, cluster().folder / ".s.PGSQL.5432", word, before=before))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("before", [True, False])
def test_a_connection_that_is_lost_in_a_commit(url: str, relay: Callable[..., CuttingRelay], before: bool) -> None:
    """The server is asked what became of it: nothing is said to have failed that was done, nothing is done twice."""
    way = relay(b"COMMIT", before=before)
    through = url.replace(quote(str(cluster().folder), safe=""), quote(str(way.folder), safe=""))

    async def work(store: PostgresStore) -> None:
        try:
            await store.submit([new("a@example.net")])
        except QueueUnavailable:
            assert before
            await store.submit([new("a@example.net")])
        assert way.cuts == 1
        assert await there(store) == ["a@example.net"]

    with_store(through, work)


def test_a_server_that_dies_in_a_commit(url: str, relay: Callable[..., CuttingRelay]) -> None:
    """It gives the id of the transaction to another one then, which says nothing of the first."""
    way = relay(b"COMMIT", before=True)
    through = url.replace(quote(str(cluster().folder), safe=""), quote(str(way.folder), safe=""))

    def die() -> None:
        cluster().crash()
        for _ in range(50):
            with psycopg.connect(url) as other:
                other.execute("UPDATE zsmtp_meta SET value = value WHERE name = 'shard'")

    way.meanwhile = die

    async def work(store: PostgresStore) -> None:
        with pytest.raises(QueueUnavailable, match="may have been done") as raised:
            await store.submit([new("a@example.net", idempotency_key="1")])
        assert raised.value.undecided
        assert way.cuts == 1
        (accepted,) = await store.submit([new("a@example.net", idempotency_key="1")])
        assert (await there(store), accepted.existed) == (["a@example.net"], False)

    with_store(through, work)


def test_behind_a_pooler_nothing_is_prepared_or_listened_to(url: str) -> None:
    async def work(store: PostgresStore) -> None:
        await store.join("node")
        other = await PostgresStore.open(url)
        for number in range(12):
            await other.submit([new(f"u{number}@example.net")])
        found = {}
        for _ in range(5):
            found |= (await store.arrivals(1.5)).keys
            if found:
                break
        assert list(found) == ["example.net"]
        (lease,) = await take(store)
        assert len(await claim(store, lease, NOON * 2)) == 12
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            ).fetchall()
        assert rows == []
        await other.close()

    with_store(f"{url}&pooled=yes", work)


def test_a_server_that_does_not_answer_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: PostgresStore) -> None:
        with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watch:
            other.execute("LOCK TABLE zsmtp_counter")  # as long as the server is asked, it says nothing
            monkeypatch.setattr(connect, "BEGIN", connect.BEGIN.replace("'2s'", "'10min'"))
            monkeypatch.setattr(transaction, "BEGIN", connect.BEGIN)
            waiting = asyncio.create_task(store.submit([new("a@example.net")]))
            while not watch.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'zsmtp_counter'::regclass"
            ).fetchone():
                await asyncio.sleep(0.01)
            pass_time(threads.WRITING)
            with pytest.raises(QueueUnavailable, match="may have been done"):
                await waiting
        await store.submit([new("b@example.net")])
        assert (await there(store))[-1] == "b@example.net"  # what was given up may have been done, and says so

    with_store(url, work)


# --------------------------------------------------------------------- nodes


def test_nodes_share_the_sites() -> None:
    async def scenario(queue: PostgresHarness) -> None:
        first, second = queue.store, await queue.another()
        await first.submit([new(f"a@d{number}.example") for number in range(40)])
        await first.join("first")
        assert len(await take(first, limit=200)) == 40  # it is alone
        await second.join("second")
        assert await take(second, limit=200) == []
        surplus = 0
        for _ in range(100):
            first._pulse.beat_now()
            surplus = (await first.arrivals(0.2)).surplus
            if surplus:
                break
        assert surplus == 20
        assert len(await _all_leases(queue)) == 40

    play(PostgresHarness(), scenario)


async def _all_leases(queue: PostgresHarness) -> list[int]:
    with psycopg.connect(queue._url) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM zsmtp_lease").fetchall()]


def test_a_node_takes_its_share_and_the_rest_if_nobody_does() -> None:
    async def scenario(queue: PostgresHarness) -> None:
        first, second = queue.store, await queue.another()
        await first.join("first")
        await second.join("second")
        keys = [f"d{number}.example" for number in range(40)]
        await first.submit([new(f"a@{key}") for key in keys])
        assert len(await first.take(keys, limit=200)) == 20
        assert len(await second.take(keys, limit=200)) == 20
        await first.submit([new(f"a@e{number}.example") for number in range(2)])
        more = ["e0.example", "e1.example"]
        assert len(await first.take(more, limit=200)) == 1
        first._delivery._asked_for = {key: at - 60 for key, at in first._delivery._asked_for.items()}
        assert len(await first.take(more, limit=200)) == 1  # nobody else took it for a while

    play(PostgresHarness(), scenario)


def test_a_frozen_take_keeps_nobody_waiting_for_long(url: str) -> None:
    """A node that stands still in the middle of taking leases is ended by the server."""

    async def work(store: PostgresStore) -> None:
        await store.join("node")
        await store.submit([new("a@example.net")])
        with psycopg.connect(url) as frozen:
            frozen.execute(f"SELECT pg_advisory_xact_lock({TAKES})")
            assert await store.take(["example.net"], limit=1) == []
            frozen.execute("SET LOCAL idle_in_transaction_session_timeout = '1s'")
            while not await store.take(["example.net"], limit=1):
                store.beat()
            with contextlib.suppress(psycopg.Error):
                frozen.rollback()

    with_store(url, work)


@pytest.mark.parametrize("reads_first", [True, False])
def test_what_is_written_last_is_seen_by_other_kinds_of_jobs(url: str, reads_first: bool) -> None:
    async def work(store: PostgresStore) -> None:
        with psycopg.connect(url, autocommit=True) as db:
            writing = transaction.WriteTransaction(db, NOON, reads_first=reads_first)
            assert writing.ask("SELECT count(*), %s FROM zsmtp_counter", ("100%; it's",)) == [(0, "100%; it's")]
            writing.last("INSERT INTO zsmtp_counter (names, amounts) VALUES (%s, %s)", (["100%; it's"], [1]))
            assert writing.ask("SELECT count(*) FROM zsmtp_counter") == [(0 if reads_first else 1,)]
            writing.count("messages", 2)
            writing.commit()
            assert db.execute("SELECT names, amounts FROM zsmtp_counter ORDER BY 1").fetchall() == [
                (["100%; it's"], [1]),
                (["messages"], [2]),
            ]

    with_store(url, work)


def test_a_node_that_was_forgotten_joins_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: PostgresStore) -> None:
        await store.join("node")
        await store.submit([new("a@example.net")])
        with psycopg.connect(url, autocommit=True) as other:
            with monkeypatch.context() as patch:
                patch.setattr(store._pulse, "_answered", lambda answer: None)  # it does not hear of it yet
                other.execute("DELETE FROM zsmtp_node")
                assert await store.take(["example.net"], limit=1) == []
            store._pulse.beat_now()
            while not await store.take(["example.net"], limit=1):
                await store.arrivals(0.1)
            other.execute("DELETE FROM zsmtp_node")  # its lease has no owner now
            store._pulse.beat_now()
            while not await store.take(["example.net"], limit=1):
                await store.arrivals(0.1)
        assert [node.node for node in await store.nodes()] == ["node"]

    with_store(url, work)


def test_a_store_that_was_opened_before_a_fork_refuses_use(url: str) -> None:
    async def work(store: PostgresStore) -> None:
        await store.submit([new("a@example.net")])
        process = os.fork()
        if not process:
            try:
                store.wake()
                await store.submit([new("b@example.net")])
            except QueueError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        assert await there(store) == ["a@example.net"]

    with_store(url, work)


@pytest.mark.parametrize("table", ["content", "recipient"])
def test_an_upload_whose_parts_died_with_the_server_is_not_accepted(table: str) -> None:
    """Parts are on the disk with the message only, and the server may be restarted between them."""

    async def scenario(queue: PostgresHarness) -> None:
        many = [f"u{number}@example.net" for number in range(2 * PART_RECIPIENTS)]
        upload = await queue.store.upload(new(*many, content=b""))
        await upload.write(bytes(3 * PART_OCTETS))
        lost = f"DELETE FROM zsmtp_{table} WHERE ctid IN (SELECT ctid FROM zsmtp_{table} LIMIT 1)"
        queue._admin.execute(lost.encode())
        with pytest.raises(QueueUnavailable, match="parts of this message were lost"):
            await upload.accept()
        await upload.discard()
        assert await there(queue.store) == []
        while await queue.store.sweep(NOON):
            pass

    play(PostgresHarness(), scenario)  # type: ignore[arg-type]
