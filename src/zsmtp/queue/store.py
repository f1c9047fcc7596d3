"""The contract of a queue's store: what is atomic, what is durable, and what may be lost.

The runner, the listeners and the commands know this protocol and no table. There are three stores: in memory
(``zsmtp.queue.memory``, for tests and documentation), SQLite (``zsmtp.queue.sqlite``, one machine) and PostgreSQL
(``zsmtp.queue.postgres``, many); one suite of tests verifies this contract for all of them.

**Intake.** :meth:`QueueStore.submit` returns after its messages are on the disk: all of them, or none. It inserts rows
of its own messages and touches no other row, so two submissions never wait for each other (but for the same
idempotency key). A large message is written in parts by :meth:`QueueStore.upload` and exists once its last part is
committed.

**Delivery.** A process that delivers joins as a node and takes *leases* of sites (queue keys), or of some slots of a
site (``zsmtp.queue.slots``). Claims only read: the owner of a lease is the only node that delivers the recipients of
its keys and slots. Before a message may be complete at a server, the node commits a *mark* for the next owner of the
lease; it survives the death of the process, not necessarily that of the machine. Results are written in groups, each
conditional on the lease and on the attempt it was read with; a row that does not match is reported as a conflict and
not changed. Each group includes the list of attempts *in hand*: the list is durable and covers marks that are lost with
the machine.

**Suppressions.** A recipient that is submitted to a suppressed address of its tenant ends in the transaction that
accepts it: it is counted as accepted, failed and ``suppressed``, and is never claimed. In an upload it ends when its
recipients are released. Recipients that are queued when an address is suppressed stay.

**After a death.** Taking a lease that had an earlier owner returns the *doubts*: attempts with a mark and no result
(the process died), or everything in hand (the machine or the database died). They are settled like other results;
until then they are not claimed.

**Operators.** A change is made in separate pieces, each checked again in its own transaction. It never ends or moves a
recipient whose message a server may already have, by an attempt without a result: with a mark, or in hand when the
machine died; a hold, another due time or priority applies after that attempt. A recipient that was claimed and has no
mark yet is changed, its key is *poked*, and a mark for it is refused.

**Moving.** Mail moves from one queue to another while both are used; ``zsmtp.queue.moves`` defines the steps.
Recipients that a change sets apart for another queue are not claimed, marked, settled or changed any more. A message
that is submitted with its provenance is taken in once, with the standing of its recipients: a note of it is written in
the same transaction.

**What may be lost**: a mark, together with the machine, if the in-hand list has it; history of attempts that were not
yet written, together with the process. Never: an accepted message, a recipient without an end, an end without the
notice that is owed for it (both are one transaction).

Errors: :class:`~zsmtp.errors.QueueUnavailable` when the store cannot be read or written; the operation did not happen,
or (for a lost database connection) can be repeated without harm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from zsmtp.queue.filter import Filter
from zsmtp.queue.moves import ApartRecipient, Departure, Elsewhere, Move, Provenance, Standing, TakenIn
from zsmtp.queue.operators import Change, Health, NodeStatus, Row, Rule, SiteStatus
from zsmtp.queue.quotas import Amount
from zsmtp.queue.slots import ALL
from zsmtp.queue.states import (
    AttemptKey,
    HistoryEntry,
    OwedNotice,
    Position,
    QueuedMessage,
    QueuedRecipient,
    SubQueue,
)
from zsmtp.queue.suppression import Suppression
from zsmtp.records import dataclass

__all__ = [
    "Accepted",
    "Arrivals",
    "Change",
    "Claimed",
    "Deferred",
    "Doubt",
    "Ended",
    "Head",
    "Health",
    "Lease",
    "NewMessage",
    "NewRecipient",
    "NodeStatus",
    "QueueStore",
    "Row",
    "Rule",
    "Settlement",
    "SiteStatus",
    "Upload",
]

# --------------------------------------------------------------------- intake


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecipient:
    """A recipient of a new message."""

    address: bytes
    key: str
    notify: bytes | None = None
    orcpt: bytes | None = None
    hold: int = 0
    """The rule that holds it from the start, 0 if none does."""
    standing: Standing | None = None
    """For one from another queue: its state there, which overrides the values of the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A new message. The store gives its id, and never uses it again."""

    sender: bytes
    recipients: Sequence[NewRecipient]
    content: bytes
    """The whole message with LF or CRLF line ends; for an upload its beginning."""
    tenant: str = ""
    priority: int = 0
    due: float
    """When it may first be tried."""
    expires: float
    """When it is given up."""
    ret: bytes | None = None
    envid: bytes | None = None
    name: str = ""
    origin: str = ""
    options: Mapping[str, object] | None = None
    idempotency_key: str = ""
    """A second message of the tenant with this key is not queued; "" for none."""
    digest: bytes = b""
    """A hash over content and envelope; a second message with the key and another digest is a Conflict.

    The key is deleted a week after the last end of its message.
    """
    metered: bool = False
    """Whether it counts in the amounts accepted from its tenant (:meth:`QueueStore.accepted_by`)."""
    moved: Provenance | None = None
    """For one from another queue: its origin there. All its recipients have a ``standing`` then."""


class Accepted(NamedTuple):
    """The receipt of a queued message: its id, and whether it was queued before (by its idempotency key)."""

    id: int
    existed: bool = False


class Upload(Protocol):
    """A large message that arrives in parts. It cannot be seen or claimed before :meth:`accept` returned."""

    async def write(self, data: bytes) -> None:
        """Store more of the content; may wait until a part is on the disk."""

    async def add_recipients(self, recipients: Iterable[NewRecipient]) -> None:
        """Store more recipients."""

    async def accept(self) -> Accepted:
        """Complete the upload as a message, durably."""

    async def discard(self) -> None:
        """Discard the upload. The sweep removes those of dead processes after an hour."""


# ------------------------------------------------------------------- delivery


class Doubt(NamedTuple):
    """An attempt of an earlier owner with an unknown result: it is ``recipient.next_attempt``.

    ``machine``: it was only in hand when the machine or the database died, so it may not have been sent.
    """

    recipient: QueuedRecipient
    message: QueuedMessage
    machine: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to deliver to a site, or to a part of it. ``number`` only grows: it is the fence.

    ``keys`` are those it was taken for; :meth:`QueueStore.take` adds others of the same site on request.
    """

    number: int
    site: str
    keys: tuple[str, ...]
    doubts: tuple[Doubt, ...] = ()
    slots: int = ALL
    """The slots of the site that it has, as a mask (``zsmtp.queue.slots``); other leases of the site have others."""


class Head(NamedTuple):
    """A sub-queue, and the due time of its first recipient that is not held."""

    sub_queue: SubQueue
    due: float


class Claimed(NamedTuple):
    """A recipient to deliver, with its message; ``content`` is None if it is large (see ``QueueStore.content``)."""

    recipient: QueuedRecipient
    message: QueuedMessage
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The recipient has an end: its row is deleted, its history entry stays.

    The entry's ``attempt`` is the attempt that led to it, 0 if none did. An expiry without an attempt is a conflict if
    the recipient is held or may be tried for longer by now.
    """

    entry: HistoryEntry
    notice: OwedNotice | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """The recipient is tried again at ``due``. ``entry`` is None if no attempt was made (a delay of this side).

    Concurrent changes by an operator to other values (hold, priority, expiry) stay.
    """

    attempt: AttemptKey
    due: float
    entry: HistoryEntry | None
    status: str
    reason: str
    doubtful: bool = False
    hold: int = 0
    """The rule that holds it from now on, 0 if none does. A rule that is not there holds nothing."""
    notice: OwedNotice | None = None
    """A delay warning; sets ``warned``."""
    key: str | None = None
    """The queue key it moves to, None if it stays."""


Settlement = Ended | Deferred


class Arrivals(NamedTuple):
    """What changed since the last call: ``keys`` have new or earlier work, ``poked`` changed in the middle.

    The node drops the recipients of a poked key that it claimed and has not begun, and claims them again. ``rules``:
    the standing rules or suspensions changed. ``drain``: this node was asked to leave.
    """

    keys: Mapping[str, float]
    """The earliest new due time, by key."""
    poked: frozenset[str] = frozenset()
    rules: bool = False
    drain: bool = False
    surplus: int = 0
    """How many leases this node has beyond its share, which other nodes would like to have."""
    nodes: int = 1
    """How many nodes share the sites: those that take leases; 1 if one of them cannot serve a part of a site."""


class QueueStore(Protocol):
    """The operations of a store. Methods are coroutines on the loop that opened it, unless documented otherwise.

    A store that was opened before a ``fork`` refuses use after it.
    """

    @property
    def shard(self) -> int:
        """The shard its ids belong to."""

    @property
    def uid(self) -> str:
        """The unique identifier of this queue."""

    async def close(self) -> None:
        """Release all resources; leases are given back, marks stay."""

    # ------------------------------------------------------------------ intake

    async def submit(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Queue messages, all or none, durably; concurrent calls share a commit.

        Raises :class:`~zsmtp.errors.Conflict` for an idempotency key with another digest, QueueFull when intake has
        stopped, QueueError for a message without recipients or a value that cannot be kept (octets that are no UTF-8).
        A hold by a rule that does not exist holds nothing. For a message with a provenance: Conflict if one of its
        recipients was taken in before.
        """

    async def upload(self, message: NewMessage) -> Upload:
        """Begin a large message, whose content and further recipients come in parts."""

    def wake(self) -> None:
        """Look at once for messages that a program submitted in its own transaction; not a coroutine.

        The delivering process looks at once instead of within a second. If that is this process, :meth:`arrivals`
        returns, with or without changes.
        """

    # ---------------------------------------------------------------- delivery

    async def join(self, node: str) -> None:
        """Become a node. Raises :class:`~zsmtp.errors.QueueBusy` if only one is possible and another process is it."""

    def beat(self) -> None:
        """Record that the event loop runs; not a coroutine.

        After 10 s without it no mark is granted any more, after 20 s others may take the leases.
        """

    async def agenda(self) -> dict[str, float]:
        """The queue keys with recipients that are not held, and the due time of the first of each.

        Its cost grows with the keys, not with the recipients. A node reads it at the start and from time to time;
        between, it knows the changes from :meth:`arrivals` and from its own deferrals.
        """

    async def take(self, keys: Collection[str], *, limit: int) -> list[Lease]:
        """Lease sites, ``limit`` at most: the unowned ones of ``keys``, and those whose owner is gone.

        Unowned sites with doubts count as sites whose owner is gone, with or without other work. A lease has those of
        ``keys`` that belong to its site, and the other keys of the site with recipients that are not held. A site whose
        leases leave slots free is leased, too: the new lease has these slots, and all keys of the other leases.

        If one of ``keys`` belongs to a site that this node leases already, the lease is returned again with the same
        number, and does not count against ``limit``: with the key, if that is new there; with the free slots of the
        site, if the lease had the key before. If neither changes it, it is not returned.
        """

    async def give_back(self, leases: Collection[Lease]) -> None:
        """Give leases back. Raises QueueError if one has a mark. Doubts that were not settled stay."""

    async def shed(self, lease: Lease, slots: int) -> Lease | None:
        """Give up some slots of a lease, for other nodes; returns it with those that are left, None if it is over.

        Slots that it has not are ignored, so a call with a lost answer may be repeated. The list of attempts in hand
        loses those of these slots in the same transaction; doubts of these slots that were not settled stay. Raises
        QueueError, and changes nothing, if an attempt of these slots has a mark, or no slot would be left.
        """

    async def learn(self, sites: Mapping[str, str]) -> None:
        """Store the site of each queue key, for leases taken from then on; by default a key is its own site."""

    async def heads(self, leases: Collection[Lease]) -> list[Head]:
        """The sub-queues of the leases with recipients that are not held, and the due time of their first one.

        All slots count here: the first one may be another node's, and is not claimed then.
        """

    async def claim(
        self, lease: Lease, sub_queue: SubQueue, after: Position, now: float, *, limit: int, octets: int
    ) -> tuple[list[Claimed], float | None]:
        """Read recipients that are due at ``now`` and not held, in order, from behind ``after``.

        Only slots are read that the lease has, both in the store and as it is given here. At most ``limit`` recipients,
        and contents of at most ``octets`` in all (but at least one recipient): a content counts once, one of more than
        CHUNK octets not at all. Recipients in doubt are left out until they are settled. The second value is the due
        time of the next one (in the past, if the limits cut the list), None if there is none.
        """

    async def review(self, lease: Lease, after: tuple[int, int], *, limit: int) -> list[Claimed]:
        """Read the recipients of the lease behind ``after`` (message, number), in order of their ids.

        Slots as for :meth:`claim`. Due or not, without held ones and those in doubt; ``content`` is always None. It
        serves expiry and delay warnings at a site that gets no mail now.
        """

    def content(self, message: int, size: int) -> AsyncIterator[bytes]:
        """The content of a message in chunks, in bounded memory.

        Raises QueueError if it is not there or damaged, ContentUnavailable if it cannot be read now and others can.
        """

    async def mark(self, lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
        """Commit that these attempts may complete from now on.

        If this process dies, the next owner sees the mark; if the machine dies, the mark or the in-hand list.

        False if the lease is not valid for 10 s more, if it does not have the slot of an attempt, or if one is not the
        next one of its recipient any more, because an operator ended, held or moved it: then none is marked, and the
        node claims all again.
        """

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results in one durable transaction, with the attempts in hand after it; returns the conflicts.

        A recipient whose attempt count differs from that of the settlement, or which this lease does not have now, is
        left as it is and gets a ``late`` entry in its history, whose reason has the outcome that did not apply.
        Exception: the late result of an attempt that was settled as in doubt may still end it, under any owner of the
        lease, as long as the recipient is not due again.
        """

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait until something has changed, ``timeout`` seconds at most. One call at a time."""

    async def report(self, statuses: Sequence[SiteStatus]) -> None:
        """Store the status of sites for other processes; it may be lost with the process."""

    # ----------------------------------------------------------------- notices

    async def owed(self, now: float, *, limit: int) -> list[tuple[QueuedMessage, list[OwedNotice]]]:
        """Messages with owed notices and no recipient in hand, or with notices owed for 5 minutes.

        At most 100 recipients each.
        """

    async def notify(self, owed: Sequence[OwedNotice], notice: NewMessage | None) -> Accepted | None:
        """Replace owed notices by a queued message (None: no message is due), atomically.

        If they are not all owed any more, nothing happens, and the result is None.
        """

    # ------------------------------------------------------------ suppressions

    async def suppress(self, suppressions: Sequence[Suppression]) -> int:
        """Suppress addresses from now on, all or none; returns how many were not on the list.

        An existing one is replaced. Raises QueueError for an address or a tenant that cannot be stored.
        """

    async def unsuppress(self, tenant: str, addresses: Collection[bytes]) -> int:
        """Remove a tenant's addresses from the list; returns how many were there."""

    def suppressions(self, tenant: str | None = None, addresses: Collection[bytes] = ()) -> AsyncIterator[Suppression]:
        """The list, or its entries for a tenant and for these addresses, in order of tenant and address, read in pages.

        Ended suppressions are left out.
        """

    # ------------------------------------------------------------------ events

    async def record(self, event: HistoryEntry) -> bool:
        """Write an event (``bounced``, ``complained``) of an ended recipient, durably.

        False, and nothing is written, if the recipient has that event already, or has no end in the history. Nothing
        else is changed.
        """

    # ------------------------------------------------------------------- sweep

    async def sweep(self, now: float) -> int:
        """Do a bounded piece of housekeeping; returns how many rows it removed, 0 when nothing is left to do.

        It removes contents without recipients, abandoned uploads, history and idempotency keys that are too old, rules
        that ended (with a release of their holds), suppressions that ended. It does not expire recipients: the owner of
        a site does (``claim``, ``settle``, ``review``).
        """

    # --------------------------------------------------------------- operators

    def select(self, wanted: Filter, *, after: Position | None = None, limit: int | None = None) -> AsyncIterator[Row]:
        """The matching recipients, in order of their ids, read in pages: a long list blocks no other operation."""

    async def count(self, wanted: Filter, *, by: str = "") -> dict[str, int]:
        """Count the matching recipients by one of :data:`GROUPS`, without empty ones; "" gives one number, under ""."""

    def change(self, wanted: Filter, change: Change) -> AsyncIterator[int]:
        """Change the matching recipients, in pieces; yields how many each piece changed.

        Messages that arrive while it runs may or may not be among them. Raises QueueError for an invalid change, or a
        hold by a rule that does not exist.
        """

    async def accepted_by(self, tenant: str) -> dict[int, Amount]:
        """The amounts of ``metered`` messages accepted from a tenant, by slots of the last hour.

        The clock of the process that accepted a message determines its slot.
        """

    async def queued_by_tenant(self) -> dict[str, Amount]:
        """Messages and octets in the queue, by tenant (recipients are not counted); reads all messages.

        A message counts until its last recipient has an end, its notices were made, and a sweep has removed it.
        """

    async def message(self, message: int) -> QueuedMessage | None:
        """A message with recipients that have no end, or with an owed notice; None if there is none."""

    async def history(self, message: int, *, number: int | None = None) -> list[HistoryEntry]:
        """The history of a message, or of one of its recipients, oldest first."""

    async def ended(self, message: int, *, after: int = -1, limit: int) -> list[tuple[int, bytes]]:
        """Numbers and addresses of the ended recipients of a message, in order of number, after ``after``."""

    def ends(self, wanted: Filter, *, limit: int | None = None) -> AsyncIterator[HistoryEntry]:
        """Matching ends, youngest first."""

    async def events(self, cursor: str, *, limit: int) -> tuple[str, list[HistoryEntry]]:
        """History after a cursor ("" for its beginning), in the order in which it became visible, and the next cursor.

        No entry is left out and none comes twice.
        """

    async def sites(self, names: Collection[str] = ()) -> list[SiteStatus]:
        """The reported status of these sites, or of all."""

    async def nodes(self) -> list[NodeStatus]:
        """The processes that deliver, or did recently."""

    async def drain(self, node: str) -> int:
        """Ask the live nodes of a name to leave; returns how many there are.

        Such a node takes no more leases, finishes its attempts and gives its leases back. Raises QueueError where only
        one process can deliver.
        """

    async def rules(self) -> list[Rule]:
        """The standing rules, oldest first."""

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a rule; it applies from now on."""

    async def delete_rule(self, number: int) -> bool:
        """Delete a rule, and release the recipients that it holds; False if there is none of that number."""

    async def counters(self) -> Mapping[str, int]:
        """Totals of recipients since the queue was made.

        ``accepted`` = ``delivered`` + ``failed`` + ``expired`` + ``dropped`` + ``moved`` + those in the queue. Others
        are ``messages``, ``attempts`` (settled ones), ``deferred``, ``doubtful`` (attempts settled as in doubt),
        ``repeated`` (delivered after a doubt: perhaps twice), ``suppressed`` (failed because they were submitted to
        suppressed addresses), ``bounced`` and ``complained`` (events), ``late`` and ``notices``. The amounts by tenant
        (:meth:`accepted_by`) are not among them.
        """

    # ------------------------------------------------------------------ moving

    async def begin_move(self, to: Elsewhere, *, by: str) -> Move:
        """Begin a move to another queue; it sets no recipients apart yet."""

    async def moves(self) -> list[Move]:
        """The moves that began within a week, or have recipients set apart, oldest first."""

    async def apart(
        self, move: int, *, message: int = 0, after: tuple[int, int] = (0, -1), limit: int
    ) -> list[ApartRecipient]:
        """Recipients that are set apart in a move, in order of their ids, behind ``after`` (message, number).

        ``message``: only those of this one.
        """

    async def depart(self, departures: Sequence[Departure], *, by: str) -> int:
        """End set-apart recipients as moved, durably, without notices; returns how many there were."""

    async def taken_in(self, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
        """The notes on recipients taken in from the queue with this uid, in order.

        For these messages of it; without messages: the notes not yet known to have departed there.
        """

    async def departed(self, queue: str, notes: Collection[TakenIn]) -> None:
        """Note that these recipients have departed from their source; a sweep deletes the notes a week later.

        It may return before the change is on the disk.
        """

    # ------------------------------------------------------------------- state

    async def health(self) -> Health:
        """Whether the store can be read and written, and how much room is left."""

    def check(self) -> AsyncIterator[str]:
        """Look for inconsistencies; yields one sentence for each finding."""
