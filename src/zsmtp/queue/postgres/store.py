"""The queue in a PostgreSQL database: the store of many machines.

Any number of processes on any number of machines submit, read, change and deliver. Each has threads with their own
connections (``workers``, ``pulse``); the event loop never blocks on the database::

    store = await PostgresStore.open("postgresql://mail@db.example/mail")
    await store.submit([message])
    await store.join("node-1")

``zsmtp.queue.store`` defines the contract. A message is accepted when it is committed with the server's
``synchronous_commit = on``: with a synchronous standby that means on two machines. Only marks are committed without
waiting for the disk, if the durable list of attempts in hand has them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue import settling
from zsmtp.queue.filter import Filter
from zsmtp.queue.intake import kept_suppression
from zsmtp.queue.limits import BY_COMMAND, CHUNK, HISTORY_KEPT, NOTICE_WAIT
from zsmtp.queue.moves import ApartRecipient, Departure, Elsewhere, Move, TakenIn
from zsmtp.queue.operators import Change, Health, NodeStatus, Row, Rule, SiteStatus
from zsmtp.queue.postgres import bodies, check, claims, listing, moving, provenance, suppressing, sweep
from zsmtp.queue.postgres.bodies import BodyFile
from zsmtp.queue.postgres.bodyfiles import BodyFiles, PostgresUpload
from zsmtp.queue.postgres.connect import Database, unavailable
from zsmtp.queue.postgres.cursors import events
from zsmtp.queue.postgres.delivery import PostgresDelivery
from zsmtp.queue.postgres.intake import PostgresIntake
from zsmtp.queue.postgres.listing import Place, WantedRows
from zsmtp.queue.postgres.operating import PIECE, PieceOfChange, PostgresOperating
from zsmtp.queue.postgres.pulse import Pulse
from zsmtp.queue.postgres.schema import check_server, is_made, migrate, shard_of, uid_of
from zsmtp.queue.postgres.sweep import PieceOfSweep, SweepMemory
from zsmtp.queue.postgres.threads import PostgresJob, PostgresReader, PostgresWriter
from zsmtp.queue.postgres.transaction import WriteTransaction
from zsmtp.queue.quotas import Amount
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.staged import Notifying, Staged, is_large, octets_of, octets_of_part
from zsmtp.queue.states import AttemptKey, HistoryEntry, OwedNotice, Position, QueuedMessage, SubQueue
from zsmtp.queue.store import Accepted, Arrivals, Claimed, Head, Lease, NewMessage, Settlement
from zsmtp.queue.suppression import Suppression, folded, in_pages

_FIRST_WINDOW = 2000  # recipients read for the first page of a list, so that it comes at once
_LARGEST_WINDOW = 32_000
_PROBE = 1.0  # seconds
_BEFORE_ALL: Place = (-1, -1)


class PostgresStore:
    """A ``QueueStore`` in a PostgreSQL database. Made by :meth:`open`."""

    def __init__(
        self,
        database: Database,
        shard: int,
        uid: str,
        *,
        history_kept: float,
        notice_rule: NoticeRule,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        free_space: Callable[[], int],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._database = database
        self._shard = shard
        self._uid = uid
        self._history_kept = history_kept
        self._clock = clock
        self._free_space = free_space
        writer = partial(PostgresWriter, loop=loop, database=database, clock=clock, on_news=self._on_news)
        self._writers = {
            name: writer(f"zsmtp queue {name}") for name in ("results", "leases", "intake", "keys", "operators")
        }
        self._claims = PostgresReader("zsmtp queue claims", loop, database)
        self._lists = PostgresReader("zsmtp queue lists", loop, database)
        self._files = BodyFiles(self._lists)
        self._pulse = Pulse(database, age=self._age, answered=self._answered)
        self._delivery = PostgresDelivery(
            database,
            self._writers["results"],
            self._writers["leases"],
            self._claims,
            monotonic=monotonic,
            pulse=self._pulse,
        )
        self._jobs = _Jobs(PostgresIntake(shard, free_space), PostgresOperating(notice_rule))
        self._memory = SweepMemory()
        self._going: dict[int, asyncio.Task[None]] = {}
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        shard: int | None = None,
        history_kept: float = HISTORY_KEPT,
        notice_rule: NoticeRule = settling.failure_notice,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        free_space: Callable[[], int] = lambda: -1,
    ) -> PostgresStore:
        """Open a queue, and make its tables if they do not exist.

        ``shard``: that of a new queue; raises QueueError if an old one has another. The others are for tests. Raises
        QueueUnavailable if the database cannot be reached, ConfigError for an invalid URL.
        """
        database = Database.of(url)
        found, uid = await asyncio.to_thread(_prepare, database, shard)
        return cls(
            database,
            found,
            uid,
            history_kept=history_kept,
            notice_rule=notice_rule,
            clock=clock,
            monotonic=monotonic,
            free_space=free_space,
        )

    @property
    def shard(self) -> int:
        """The shard its ids belong to."""
        return self._shard

    @property
    def uid(self) -> str:
        """The unique identifier of this queue."""
        return self._uid

    @property
    def url(self) -> str:
        """The database, without user and password."""
        return self._database.name

    def _age(self) -> float:
        return self._delivery.age()

    def _answered(self, answer: Any) -> None:
        self._delivery.answered(answer)

    def _on_news(self) -> None:
        """Notify other processes of a commit; called in a writer's thread."""
        self._delivery.look()
        self._notify_others()

    def _notify_others(self) -> None:
        if not self._closed:
            with suppress(RuntimeError):  # it runs already
                self._pulse.start()
            self._pulse.notify()

    async def _do(self, name: str, kind: PostgresJob[Any, Any], argument: object) -> Any:
        writer = self._writers[name]
        writer.check()
        if writer.ident is None:
            writer.start()
        return await writer.do(kind, argument)

    async def close(self) -> None:
        """Release all resources; leases are given back, marks stay."""
        await self._delivery.leave()
        for task in list(self._going.values()):
            task.cancel()
        await asyncio.gather(*self._going.values(), return_exceptions=True)
        for writer in self._writers.values():
            await writer.end()
        await self._files.end()
        await self._claims.end()
        await self._lists.end()
        self._closed = True
        await asyncio.to_thread(self._pulse.end)
        await asyncio.to_thread(self._delivery.end)

    # ------------------------------------------------------------------ intake

    async def submit(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Queue messages, all or none, durably."""
        if not messages:
            return []
        writer = "keys" if any(message.idempotency_key or message.moved for message in messages) else "intake"
        if not any(map(is_large, messages)):
            answer: list[Accepted] = await self._do(writer, self._jobs.submit, messages)
            return answer
        uploads = {place: self._upload(message) for place, message in enumerate(messages) if is_large(message)}
        items: list[NewMessage | Staged] = list(messages)
        try:
            for place, upload in uploads.items():
                items[place] = await upload.stage()
            answer = await self._do(writer, self._jobs.submit, items)
        except BaseException:
            for upload in uploads.values():
                with suppress(QueueError):
                    await upload.discard()
            raise
        for one in items:
            if isinstance(one, Staged) and one.arriving:
                self._release_soon(one.message)
        return answer

    async def upload(self, message: NewMessage) -> PostgresUpload:
        """Begin a large message."""
        self._writers["intake"].check()
        return self._upload(message)

    def _upload(self, message: NewMessage) -> PostgresUpload:
        async def accept(staged: Staged) -> Accepted:
            writer = "keys" if staged.new.idempotency_key or staged.new.moved else "intake"
            (accepted,) = await self._do(writer, self._jobs.submit, [staged])
            if staged.arriving:
                self._release_soon(staged.message)
            answer: Accepted = accepted
            return answer

        async def discard(number: int) -> None:
            await self._do("intake", self._jobs.discard, number)

        return PostgresUpload(
            message,
            self._files,
            write=partial(self._do, "intake", self._jobs.part),
            register=partial(self._do, "intake", self._jobs.body),
            accept=accept,
            discard=discard,
        )

    def wake(self) -> None:
        """Look at once for messages that a program submitted in its own transaction."""
        if self._delivery.joined:
            self._delivery.wake()
        self._notify_others()

    def _release_soon(self, message: int) -> None:
        if message not in self._going:
            self._going[message] = asyncio.get_running_loop().create_task(self._release_upload(message))

    async def _release_left(self) -> None:
        """Release the recipients of uploads that a dead process accepted."""
        for message in await self._lists.read("looking for uploads", sweep.unreleased_uploads):
            self._release_soon(message)

    async def _release_upload(self, message: int) -> None:
        """Release the recipients of an upload, in pieces; a sweep finds those that an error leaves."""
        try:
            with suppress(QueueError):
                while await self._do("intake", self._jobs.releasing_uploads, message):
                    pass
        finally:
            del self._going[message]

    # ---------------------------------------------------------------- delivery

    async def join(self, node: str) -> None:
        """Become a node."""
        for name in ("results", "leases"):
            writer = self._writers[name]
            writer.check()
            if writer.ident is None:
                writer.start()
        with suppress(RuntimeError):  # it runs already
            self._pulse.start()
        await self._delivery.join(node)
        await self._release_left()

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._delivery.beat()

    async def agenda(self) -> dict[str, float]:
        """The queue keys with recipients that are not held, and the due time of the first of each."""
        return await self._delivery.agenda()

    async def take(self, keys: Collection[str], *, limit: int) -> list[Lease]:
        """Lease sites without owner."""
        return await self._delivery.take(keys, limit=limit)

    async def give_back(self, leases: Collection[Lease]) -> None:
        """Give leases back."""
        await self._delivery.give_back(leases)

    async def shed(self, lease: Lease, slots: int) -> Lease | None:
        """Give up some slots of a lease."""
        return await self._delivery.shed(lease, slots)

    async def learn(self, sites: Mapping[str, str]) -> None:
        """Store the site of each queue key."""
        if sites:
            await self._do("operators", self._delivery.learning, dict(sites))

    async def heads(self, leases: Collection[Lease]) -> list[Head]:
        """The sub-queues of the leases with work."""
        return await self._delivery.heads(leases)

    async def claim(
        self, lease: Lease, sub_queue: SubQueue, after: Position, now: float, *, limit: int, octets: int
    ) -> tuple[list[Claimed], float | None]:
        """Read due recipients; returns them and the due time of the next one."""
        return await self._delivery.claim(lease, sub_queue, after, now, limit=limit, octets=octets)

    async def review(self, lease: Lease, after: tuple[int, int], *, limit: int) -> list[Claimed]:
        """Read recipients in order of their ids, due or not."""
        return await self._delivery.review(lease, after, limit=limit)

    async def content(self, message: int, size: int) -> AsyncIterator[bytes]:
        """The content of a message in chunks."""
        for part in range(max(-(-size // CHUNK), 1)):
            data = await self._claims.read(
                "reading a message", partial(claims.chunk, message=message, part=part, size=size)
            )
            if isinstance(data, BodyFile):
                async for block in self._files.content(data):
                    yield block
                return
            if data:
                yield data

    async def mark(self, lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
        """Commit that these attempts may complete."""
        return await self._delivery.mark(lease, attempts)

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results, and the list of attempts in hand after them."""
        return await self._delivery.settle(lease, settlements, in_hand)

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait until something has changed."""
        return await self._delivery.arrivals(timeout)

    async def report(self, statuses: Sequence[SiteStatus]) -> None:
        """Store the status of sites for other processes."""
        await self._delivery.report(statuses)

    # ----------------------------------------------------------------- notices

    async def owed(self, now: float, *, limit: int) -> list[tuple[QueuedMessage, list[OwedNotice]]]:
        """Messages with owed notices."""
        return await self._lists.read(
            "looking for notices", lambda db: claims.owed(db, now - NOTICE_WAIT, limit), snapshot=True
        )

    async def notify(self, owed: Sequence[OwedNotice], notice: NewMessage | None) -> Accepted | None:
        """Replace owed notices by a message."""
        answer: Accepted | None = await self._do("operators", self._jobs.notify, Notifying(owed, notice))
        return answer

    # ------------------------------------------------------------ suppressions

    async def suppress(self, suppressions: Sequence[Suppression]) -> int:
        """Suppress addresses from now on; returns how many were not on the list."""
        kept = [kept_suppression(one) for one in suppressions]
        return int(await self._do("operators", self._jobs.suppress, kept)) if kept else 0

    async def unsuppress(self, tenant: str, addresses: Collection[bytes]) -> int:
        """Remove a tenant's addresses from the list; returns how many were there."""
        wanted = {folded(address) for address in addresses}
        return int(await self._do("operators", self._jobs.unsuppress, (tenant, wanted))) if wanted else 0

    def suppressions(self, tenant: str | None = None, addresses: Collection[bytes] = ()) -> AsyncIterator[Suppression]:
        """The list, in order of tenant and address."""
        wanted = {folded(address) for address in addresses}
        page = partial(suppressing.page, now=self._clock(), tenant=tenant, addresses=wanted)
        return in_pages(lambda after: self._lists.read("reading suppressions", partial(page, after=after)))

    # ------------------------------------------------------------------ events

    async def record(self, event: HistoryEntry) -> bool:
        """Write an event of an ended recipient, once."""
        answer: bool = await self._do("operators", self._jobs.record, event)
        return answer

    # ------------------------------------------------------------------- sweep

    async def sweep(self, now: float) -> int:
        """Do a bounded piece of housekeeping."""
        piece = PieceOfSweep(now, self._history_kept, self._memory)
        done = 0
        for kind in self._jobs.sweeps:
            done += await self._do("operators", kind, piece)
        done += await self._lists.read("dropping old history", lambda db: sweep.drop_days(db, now, self._history_kept))
        done += await self._files.sweep(self._memory)
        await self._release_left()
        for rule in await self.rules():
            if rule.until is not None and rule.until <= now:
                done += 1
                await self._do("operators", self._jobs.release, rule.number)
        return done

    # --------------------------------------------------------------- operators

    def _query(self, wanted: Filter) -> WantedRows:
        return WantedRows(wanted, self._clock(), self._shard)

    async def select(
        self, wanted: Filter, *, after: Position | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        """The matching recipients, in order of their ids."""
        query = self._query(wanted)
        place: Place | None = _BEFORE_ALL if after is None else (after.message, after.number)
        window = _FIRST_WINDOW
        left = -1 if limit is None else limit
        while place is not None and left != 0:
            found = await self._lists.read(
                "listing", partial(listing.page, query=query, after=place, window=window), snapshot=True
            )
            for row in found.rows:
                if left == 0:
                    return
                left -= 1
                yield row
            place = found.after
            window = min(window * 2, _LARGEST_WINDOW)

    async def count(self, wanted: Filter, *, by: str = "") -> dict[str, int]:
        """Count the matching recipients, by a group."""
        return await self._lists.read(
            "counting", partial(listing.count, query=self._query(wanted), by=by), snapshot=True
        )

    async def change(self, wanted: Filter, change: Change) -> AsyncIterator[int]:
        """Change the matching recipients, in pieces."""
        settling.check_change(change)
        if change.hold not in (None, 0, BY_COMMAND, *(rule.number for rule in await self.rules())):
            raise QueueError(f"there is no rule {change.hold}")
        query = self._query(wanted)
        place: Place | None = _BEFORE_ALL
        window = _FIRST_WINDOW
        while place is not None:
            found, place = await self._lists.read(
                "looking for recipients",
                partial(listing.places, query=query, after=place, window=window, most=PIECE),
                snapshot=True,
            )
            if len(found) < PIECE:
                window = min(window * 2, _LARGEST_WINDOW)
            if found:
                yield await self._do("operators", self._jobs.change, PieceOfChange(query, found, change))

    async def message(self, message: int) -> QueuedMessage | None:
        """A queued message."""
        return await self._lists.read("reading a message", partial(listing.message, number=message))

    async def history(self, message: int, *, number: int | None = None) -> list[HistoryEntry]:
        """The history of a message, or of one of its recipients, oldest first."""
        return await self._lists.read("reading the history", partial(listing.history, message=message, number=number))

    async def ended(self, message: int, *, after: int = -1, limit: int) -> list[tuple[int, bytes]]:
        """Numbers and addresses of the ended recipients of a message, in order of number, after ``after``."""
        question = partial(listing.ended, message=message, after=after, limit=limit)
        return await self._lists.read("reading the history", question)

    async def ends(self, wanted: Filter, *, limit: int | None = None) -> AsyncIterator[HistoryEntry]:
        """Matching ends, youngest first."""
        wanted.check_for_ends()
        query = self._query(wanted)
        before: int | None = None
        left = -1 if limit is None else limit
        while left != 0:
            found, before = await self._lists.read(
                "looking for ends", partial(listing.ends, query=query, before=before), snapshot=True
            )
            for entry in found:
                if left == 0:
                    return
                left -= 1
                yield entry
            if before is None:
                return

    async def events(self, cursor: str, *, limit: int) -> tuple[str, list[HistoryEntry]]:
        """History after a cursor, and the next cursor."""
        return await self._lists.read("reading events", partial(events, cursor=cursor, limit=limit), snapshot=True)

    async def sites(self, names: Collection[str] = ()) -> list[SiteStatus]:
        """The reported status of sites."""
        return await self._lists.read("reading the status of sites", partial(listing.sites, names=names))

    async def nodes(self) -> list[NodeStatus]:
        """The processes that deliver, or did recently."""
        return await self._lists.read("reading the nodes", listing.nodes)

    async def drain(self, node: str) -> int:
        """Ask the nodes of a name to leave; returns how many there are."""
        answer: int = await self._do("operators", self._jobs.drain, node)
        return answer

    async def rules(self) -> list[Rule]:
        """The standing rules, oldest first."""
        return await self._lists.read("reading rules", listing.rules)

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a rule."""
        answer: Rule = await self._do("operators", self._jobs.add_rule, rule)
        return answer

    async def delete_rule(self, number: int) -> bool:
        """Delete a rule, and release the recipients that it holds."""
        left = await self._do("operators", self._jobs.release, number)
        if left is None:
            return False
        while left:
            left = await self._do("operators", self._jobs.release, number)
        return True

    async def accepted_by(self, tenant: str) -> dict[int, Amount]:
        """The amounts accepted from a tenant, by slot."""
        query = partial(listing.accepted_by, tenant=tenant, now=self._clock())
        return await self._lists.read("reading what a tenant used", query)

    async def queued_by_tenant(self) -> dict[str, Amount]:
        """Messages and octets in the queue, by tenant."""
        return await self._lists.read("counting by tenant", listing.queued_by_tenant)

    async def counters(self) -> Mapping[str, int]:
        """Totals since the queue was made."""
        return await self._lists.read("reading counters", listing.counters)

    # ------------------------------------------------------------------ moving

    async def begin_move(self, to: Elsewhere, *, by: str) -> Move:
        """Begin a move to another queue."""
        answer: Move = await self._do("operators", self._jobs.begin_of_move, moving.BeginRequest(to, by))
        return answer

    async def moves(self) -> list[Move]:
        """The moves that began, oldest first."""
        return await self._lists.read("reading moves", moving.moves)

    async def apart(
        self, move: int, *, message: int = 0, after: Place = _BEFORE_ALL, limit: int
    ) -> list[ApartRecipient]:
        """The recipients set apart in a move, in order of their ids."""
        return await self._lists.read(
            "looking for what moves", partial(moving.apart, move=move, message=message, after=after, limit=limit)
        )

    async def depart(self, departures: Sequence[Departure], *, by: str) -> int:
        """End recipients that have moved to another queue."""
        answer: int = await self._do("operators", self._jobs.depart, moving.DepartRequest(departures, by))
        return answer

    async def taken_in(self, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
        """The notes on recipients taken in from another queue."""
        return await self._lists.read(
            "looking for what was taken in", partial(provenance.taken_in, queue=queue, messages=messages)
        )

    async def departed(self, queue: str, notes: Collection[TakenIn]) -> None:
        """Note that these recipients have departed from their source."""
        await self._do("operators", self._jobs.departed, provenance.NotesOfDeparted(queue, notes))

    # ------------------------------------------------------------------- state

    async def health(self) -> Health:
        """The error of the last transaction, unless a probe shows that it is over."""
        problems = {name: writer.problem for name, writer in self._writers.items() if writer.problem}
        for name in problems:
            with suppress(TimeoutError, QueueUnavailable):
                await asyncio.wait_for(self._do(name, self._jobs.probe, None), _PROBE)
        problem = next((self._writers[name].problem for name in problems if self._writers[name].problem), "")
        trouble, free = await self._files.health()
        known = [octets for octets in (free, self._free_space()) if octets >= 0]
        return Health(problem or trouble, min(known, default=-1))

    async def check(self) -> AsyncIterator[str]:
        """Look for inconsistencies; yields one sentence for each."""
        for question in check.questions(self._shard):
            for finding in await self._lists.read("checking", question):
                yield finding
        async for finding in self._files.check(self._shard):
            yield finding


class _Jobs:
    """The jobs of the writers of a store."""

    def __init__(self, intake: PostgresIntake, operating: PostgresOperating) -> None:
        self.submit = PostgresJob("taking messages", intake.submit, octets=octets_of, reads_first=True)
        self.part = PostgresJob("taking a large message", intake.write_part, octets=octets_of_part, durable=_no)
        self.body = PostgresJob("taking a large message", bodies.register, durable=_no)
        self.discard = PostgresJob("discarding a message", intake.discard, durable=_no)
        self.notify = PostgresJob("queueing a notice", intake.notify)
        self.change = PostgresJob("changing recipients", operating.change)
        self.add_rule = PostgresJob("adding a rule", operating.add_rule)
        self.release = PostgresJob("releasing recipients", operating.release)
        self.record = PostgresJob("writing an event", operating.record)
        self.suppress = PostgresJob("suppressing addresses", suppressing.add)
        self.unsuppress = PostgresJob("taking addresses off the list", suppressing.remove)
        self.releasing_uploads = PostgresJob("letting recipients go", sweep.release_uploads, durable=_no)
        self.probe = PostgresJob("looking whether it can be written", _probe)
        self.begin_of_move = PostgresJob("beginning a move", moving.begin)
        self.depart = PostgresJob("ending recipients that moved", moving.depart)
        self.departed = PostgresJob("noting what departed", provenance.departed, durable=_no)
        self.drain = PostgresJob("asking a node to leave", _drain)
        self.sweeps = [
            PostgresJob("sweeping", run, durable=_no)
            for run in (
                sweep.uploads,
                sweep.finished,
                sweep.lost_bodies,
                sweep.idempotency,
                sweep.suppressions,
                sweep.news,
                sweep.counters,
                sweep.orphans,
                provenance.sweep,
                moving.sweep,
                sweep.days,
            )
        ]


def _no(argument: object) -> bool:
    """For kinds of jobs whose commit never waits for the disk."""
    return False


def _probe(transaction: WriteTransaction, requests: list[None]) -> list[None]:
    """Write without changing anything; fails if the database cannot be written."""
    transaction.db.execute("UPDATE zsmtp_meta SET value = value WHERE name = 'shard'")
    return requests


def _drain(transaction: WriteTransaction, nodes: list[str]) -> list[int]:
    return [
        transaction.db.execute(
            "UPDATE zsmtp_node SET draining = true WHERE name = %s AND valid_until > zsmtp_clock()", (node,)
        ).rowcount
        for node in nodes
    ]


def _prepare(database: Database, shard: int | None) -> tuple[int, str]:
    """Make the tables, if they do not exist; returns the shard and the uid."""
    try:
        connection = database.connect()
        try:
            check_server(connection)
            found = shard_of(connection, shard) if is_made(connection) else migrate(connection, shard)
            return found, uid_of(connection)
        finally:
            connection.close()
    except psycopg.Error as error:
        raise unavailable(database, "opening it", error) from None
