"""The queue in one SQLite file: the store of one machine.

Any number of processes may submit, read and change; one of them delivers. Each has a thread that writes
(``writer``), one that reads for delivery and one that reads for operators (``worker``); the event loop never accesses
the disk::

    store = await SQLiteStore.open("/var/lib/app/mail.db")
    await store.submit([message])
    await store.join("node-1")

``zsmtp.queue.store`` defines the contract. A mark survives the death of a process; it waits for the disk only if the
durable list of attempts in hand does not have it. All other operations return when their changes are on the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue import settling
from zsmtp.queue.filter import Filter
from zsmtp.queue.intake import kept_suppression
from zsmtp.queue.limits import (
    BY_COMMAND,
    CHUNK,
    HISTORY_KEPT,
    NOTICE_WAIT,
)
from zsmtp.queue.moves import ApartRecipient, Departure, Elsewhere, Move, TakenIn
from zsmtp.queue.operators import (
    Change,
    Health,
    NodeStatus,
    Row,
    Rule,
    SiteStatus,
)
from zsmtp.queue.quotas import Amount
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.sqlite import check, claims, listing, moving, provenance, suppressing, sweep
from zsmtp.queue.sqlite.connect import resolved
from zsmtp.queue.sqlite.delivery import SQLiteDelivery
from zsmtp.queue.sqlite.intake import SQLiteIntake
from zsmtp.queue.sqlite.listing import Place, Wanted
from zsmtp.queue.sqlite.locks import boot_id
from zsmtp.queue.sqlite.opening import StoreOptions, octets_free, prepare
from zsmtp.queue.sqlite.operating import PIECE, Changing, Operating
from zsmtp.queue.sqlite.reader import Reader
from zsmtp.queue.sqlite.wake import wake
from zsmtp.queue.sqlite.writer import JobKind, Writer, not_durable, probe
from zsmtp.queue.staged import Notifying, Staged, StagedUpload, is_large, octets_of, octets_of_part
from zsmtp.queue.states import (
    AttemptKey,
    HistoryEntry,
    OwedNotice,
    Position,
    QueuedMessage,
    SubQueue,
)
from zsmtp.queue.store import (
    Accepted,
    Arrivals,
    Claimed,
    Head,
    Lease,
    NewMessage,
    Settlement,
)
from zsmtp.queue.suppression import Suppression, folded, in_pages

_CLAIM_CACHE = 8 << 10  # KiB
_LIST_CACHE = 8 << 10
_FIRST_WINDOW = 2000  # recipients read for the first page of a list, so that it comes at once
_LARGEST_WINDOW = 32_000
_PROBE = 1.0  # seconds
_BEFORE_ALL: Place = (-1, -1)


class SQLiteStore:
    """A ``QueueStore`` in a SQLite file. Made by :meth:`open`."""

    def __init__(self, path: str, shard: int, uid: str, writer: Writer, options: StoreOptions) -> None:
        loop = asyncio.get_running_loop()
        self._path = path
        self._shard = shard
        self._uid = uid
        self._writer = writer
        self._options = options
        self._claims = Reader("zsmtp queue claims", loop, path, cache=_CLAIM_CACHE)
        self._lists = Reader("zsmtp queue lists", loop, path, cache=_LIST_CACHE)
        self._delivery = SQLiteDelivery(
            path,
            writer,
            self._claims,
            boot=options.boot,
            clock=options.clock,
            monotonic=options.monotonic,
            release=self._release_soon,
        )
        intake = SQLiteIntake(shard, options.free_space)
        operating = Operating(options.notice_rule, options.boot)
        self._submit = JobKind("taking messages", intake.submit, octets=octets_of)
        self._part = JobKind("taking a large message", intake.write_part, octets=octets_of_part, durable=not_durable)
        self._discard = JobKind("discarding a message", intake.discard, durable=not_durable)
        self._notify = JobKind("queueing a notice", intake.notify)
        self._change = JobKind("changing recipients", operating.change)
        self._add_rule = JobKind("adding a rule", operating.add_rule)
        self._begin_of_move = JobKind("beginning a move", moving.begin)
        self._depart = JobKind("ending recipients that moved", moving.depart)
        self._departed = JobKind("noting what departed", provenance.departed, durable=not_durable)
        self._release = JobKind("releasing recipients", operating.release)
        self._record = JobKind("writing an event", operating.record)
        self._suppress = JobKind("suppressing addresses", suppressing.add)
        self._unsuppress = JobKind("taking addresses off the list", suppressing.remove)
        self._releasing_uploads = JobKind("letting recipients go", sweep.release_uploads, durable=not_durable)
        self._probe = JobKind("looking whether it can be written", probe)
        self._sweeps = [
            JobKind("sweeping", run, durable=not_durable)
            for run in (
                sweep.uploads,
                sweep.finished,
                sweep.history,
                sweep.idempotency,
                sweep.tenants,
                sweep.pokes,
                sweep.suppressions,
                sweep.unreleased_uploads,
                provenance.sweep,
                moving.sweep,
                sweep.room,
            )
        ]
        self._cursor = sweep.Cursor()
        self._going: dict[int, asyncio.Task[None]] = {}

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        shard: int | None = None,
        busy: float = 10.0,
        history_kept: float = HISTORY_KEPT,
        notice_rule: NoticeRule = settling.failure_notice,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        free_space: Callable[[], int] | None = None,
        boot: str | None = None,
    ) -> SQLiteStore:
        """Open a queue, and make the file if it does not exist.

        ``shard``: that of a new file; raises QueueError if an old one has another. ``busy``: seconds to wait for locks
        of other processes. The others are for tests: clocks, the octets free on the disk, the boot id of the machine.
        Raises QueueUnavailable if the file cannot be opened.
        """
        name = resolved(path)
        options = StoreOptions(
            clock=clock,
            monotonic=monotonic,
            free_space=free_space or partial(octets_free, str(Path(name).parent)),
            boot=boot_id() if boot is None else boot,
            notice_rule=notice_rule,
            history_kept=history_kept,
        )
        found, uid = await asyncio.to_thread(prepare, name, shard, busy)
        writer = Writer(asyncio.get_running_loop(), name, busy=busy, clock=clock)
        store = cls(name, found, uid, writer, options)
        writer.start()
        return store

    @property
    def shard(self) -> int:
        """The shard its ids belong to."""
        return self._shard

    @property
    def uid(self) -> str:
        """The unique identifier of this queue."""
        return self._uid

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    async def close(self) -> None:
        """Release all resources; leases are given back, marks stay."""
        await self._delivery.leave()
        for task in list(self._going.values()):
            task.cancel()
        await asyncio.gather(*self._going.values(), return_exceptions=True)
        await self._writer.end()
        await self._claims.end()
        await self._lists.end()
        self._delivery.close()

    # ------------------------------------------------------------------ intake

    async def submit(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Queue messages, all or none, durably."""
        if not messages:
            return []
        if not any(map(is_large, messages)):
            return await self._writer.do(self._submit, messages)
        uploads = {place: self._upload(message) for place, message in enumerate(messages) if is_large(message)}
        items: list[NewMessage | Staged] = list(messages)
        try:
            for place, upload in uploads.items():
                items[place] = await upload.stage()
            return await self._writer.do(self._submit, items)
        except BaseException:
            for upload in uploads.values():
                with suppress(QueueError):
                    await upload.discard()
            raise

    async def upload(self, message: NewMessage) -> StagedUpload:
        """Begin a large message."""
        self._writer.check()
        return self._upload(message)

    def _upload(self, message: NewMessage) -> StagedUpload:
        async def accept(staged: Staged) -> Accepted:
            (accepted,) = await self._writer.do(self._submit, [staged])
            return accepted

        async def discard(number: int) -> None:
            await self._writer.do(self._discard, number)

        return StagedUpload(message, partial(self._writer.do, self._part), accept, discard)

    def wake(self) -> None:
        """Look at once for messages that a program submitted in its own transaction."""
        if self._delivery.joined:
            self._delivery.wake()
        else:
            wake(self._path)

    def _release_soon(self, message: int) -> None:
        if message not in self._going:
            self._going[message] = asyncio.get_running_loop().create_task(self._release_upload(message))

    async def _release_upload(self, message: int) -> None:
        """Release the recipients of an upload, in pieces; a sweep finds those that an error leaves."""
        try:
            with suppress(QueueError):
                while await self._writer.do(self._releasing_uploads, message):
                    pass
        finally:
            del self._going[message]

    # ---------------------------------------------------------------- delivery

    async def join(self, node: str) -> None:
        """Become the process that delivers."""
        await self._delivery.join(node)

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
        await self._delivery.learn(sites)

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
        busy = set().union(*self._delivery.busy.values())
        return await self._lists.read("looking for notices", lambda db: claims.owed(db, busy, now - NOTICE_WAIT, limit))

    async def notify(self, owed: Sequence[OwedNotice], notice: NewMessage | None) -> Accepted | None:
        """Replace owed notices by a message."""
        return await self._writer.do(self._notify, Notifying(owed, notice))

    # ------------------------------------------------------------ suppressions

    async def suppress(self, suppressions: Sequence[Suppression]) -> int:
        """Suppress addresses from now on; returns how many were not on the list."""
        kept = [kept_suppression(one) for one in suppressions]
        return await self._writer.do(self._suppress, kept) if kept else 0

    async def unsuppress(self, tenant: str, addresses: Collection[bytes]) -> int:
        """Remove a tenant's addresses from the list; returns how many were there."""
        wanted = {folded(address) for address in addresses}
        return await self._writer.do(self._unsuppress, (tenant, wanted)) if wanted else 0

    def suppressions(self, tenant: str | None = None, addresses: Collection[bytes] = ()) -> AsyncIterator[Suppression]:
        """The list, in order of tenant and address."""
        wanted = {folded(address) for address in addresses}
        page = partial(suppressing.page, now=self._options.clock(), tenant=tenant, addresses=wanted)
        return in_pages(lambda after: self._lists.read("reading suppressions", partial(page, after=after)))

    # ------------------------------------------------------------------ events

    async def record(self, event: HistoryEntry) -> bool:
        """Write an event of an ended recipient, once."""
        return await self._writer.do(self._record, event)

    # ------------------------------------------------------------------- sweep

    async def sweep(self, now: float) -> int:
        """Do a bounded piece of housekeeping."""
        poke = self._writer.poke
        piece = sweep.Sweeping(now, self._options.history_kept, self._cursor, poke)
        done = 0
        for kind in self._sweeps:
            done += await self._writer.do(kind, piece)
        for rule in await self.rules():
            if rule.until is not None and rule.until <= now:
                done += 1
                await self._writer.do(self._release, rule.number)
        return done

    # --------------------------------------------------------------- operators

    def _wanted(self, wanted: Filter) -> Wanted:
        delivers = self._delivery.delivers_somewhere()
        return Wanted(wanted, self._options.clock(), self._shard, delivers)

    async def select(
        self, wanted: Filter, *, after: Position | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        """The matching recipients, in order of their ids."""
        query = self._wanted(wanted)
        place: Place | None = _BEFORE_ALL if after is None else (after.message, after.number)
        window = _FIRST_WINDOW
        left = -1 if limit is None else limit
        while place is not None and left != 0:
            found = await self._lists.read("listing", partial(listing.page, wanted=query, after=place, window=window))
            for row in found.rows:
                if left == 0:
                    return
                left -= 1
                yield row
            place = found.after
            window = min(window * 2, _LARGEST_WINDOW)

    async def count(self, wanted: Filter, *, by: str = "") -> dict[str, int]:
        """Count the matching recipients, by a group."""
        return await self._lists.read("counting", partial(listing.count, wanted=self._wanted(wanted), by=by))

    async def change(self, wanted: Filter, change: Change) -> AsyncIterator[int]:
        """Change the matching recipients, in pieces."""
        settling.check_change(change)
        if change.hold not in (None, 0, BY_COMMAND, *(rule.number for rule in await self.rules())):
            raise QueueError(f"there is no rule {change.hold}")
        query = self._wanted(wanted)
        place: Place | None = _BEFORE_ALL
        window = _FIRST_WINDOW
        while place is not None:
            found, place = await self._lists.read(
                "looking for recipients",
                partial(listing.places, wanted=query, after=place, window=window, most=PIECE),
            )
            if len(found) < PIECE:
                window = min(window * 2, _LARGEST_WINDOW)
            if found:
                yield await self._writer.do(self._change, Changing(query, found, change))

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
        query = self._wanted(wanted)
        before: int | None = None
        left = -1 if limit is None else limit
        while left != 0:
            found, before = await self._lists.read(
                "looking for ends", partial(listing.ends, wanted=query, before=before)
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
        return await self._lists.read("reading events", partial(listing.events, cursor=cursor, limit=limit))

    async def sites(self, names: Collection[str] = ()) -> list[SiteStatus]:
        """The reported status of sites."""
        return await self._lists.read("reading the status of sites", partial(listing.sites, names=names))

    async def nodes(self) -> list[NodeStatus]:
        """The process that delivers, or delivered last."""
        alive = self._delivery.delivers_somewhere()
        return await self._lists.read("reading the nodes", partial(listing.nodes, alive=alive))

    async def drain(self, node: str) -> int:
        """Raise QueueError: there is only one delivering process, which can only be stopped."""
        raise QueueError(f"queue {self._path}: one process delivers from a file; stop that one")

    async def rules(self) -> list[Rule]:
        """The standing rules, oldest first."""
        return await self._lists.read("reading rules", listing.rules)

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a rule."""
        return await self._writer.do(self._add_rule, rule)

    async def delete_rule(self, number: int) -> bool:
        """Delete a rule, and release the recipients that it holds."""
        left = await self._writer.do(self._release, number)
        if left is None:
            return False
        while left:
            left = await self._writer.do(self._release, number)
        return True

    async def accepted_by(self, tenant: str) -> dict[int, Amount]:
        """The amounts accepted from a tenant, by slot."""
        query = partial(listing.accepted_by, tenant=tenant, now=self._options.clock())
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
        return await self._writer.do(self._begin_of_move, moving.MoveBeginning(to, by))

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
        return await self._writer.do(self._depart, moving.Departing(departures, by))

    async def taken_in(self, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
        """The notes on recipients taken in from another queue."""
        return await self._lists.read(
            "looking for what was taken in", partial(provenance.taken_in, queue=queue, messages=messages)
        )

    async def departed(self, queue: str, notes: Collection[TakenIn]) -> None:
        """Note that these recipients have departed from their source."""
        await self._writer.do(self._departed, provenance.DepartedNotes(queue, notes))

    # ------------------------------------------------------------------- state

    async def health(self) -> Health:
        """The error of the last transaction, unless a probe shows that it is over."""
        if self._writer.problem:
            with suppress(TimeoutError, QueueUnavailable):
                await asyncio.wait_for(self._writer.do(self._probe, None), _PROBE)
        return Health(self._writer.problem, self._options.free_space())

    async def check(self) -> AsyncIterator[str]:
        """Look for inconsistencies; yields one sentence for each."""
        for question in check.questions(self._shard):
            for finding in await self._lists.read("checking", question):
                yield finding
