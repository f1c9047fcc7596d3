"""The contract of a queue's store: what is atomic, what is durable, and what may be lost.

The runner, the listeners and the commands know this protocol and no table. There are three stores: in memory
(``zsmtp.queue.memory``, for tests and documentation), SQLite (``zsmtp.queue.sqlite``, one machine) and PostgreSQL
(``zsmtp.queue.postgres``, many); one suite of tests holds all of them to what stands here.

**Intake.** :meth:`QueueStore.submit` returns after its messages are on the disk: all of them, or none. It inserts rows
of its own messages and touches no other row, so two submissions never wait for each other (but for the same
idempotency key). A large message is written in parts by :meth:`QueueStore.upload` and exists from the moment its last
part says so.

**Delivery.** A process that delivers joins as a node and takes *leases* of sites (queue keys). Claims only read: who
has a lease is the only one to deliver the recipients of its keys. Before a message may be complete at a server a *mark*
is committed that the next owner of the lease will see; it survives the death of the process, not necessarily that of
the machine. Results are written in groups, each predicated on the lease and on the attempt it was read with; a row that
does not match is reported as a conflict and not changed. With each group goes the list of what is *in hand*: durable,
it covers what marks may lose with the machine.

**Suppressions.** A recipient that is submitted to a suppressed address of its tenant ends in the transaction that
accepts it: it is counted as accepted, failed and ``suppressed``, and is never claimed. Of an upload it ends when its
recipients are let go. Recipients that are there when an address is suppressed stay.

**After a death.** Taking a lease that somebody held before returns the *doubts*: attempts with a mark and no result
(the process died), or everything in hand (the machine or the database died). They are settled like other results;
until then they are not claimed.

**Operators.** A change is made in pieces of its own, each checked anew where it is written. It never ends or moves a
recipient that a server may have by now, by an attempt without a result: with a mark, or in hand when the machine died;
a hold, another due time or priority is for what comes after that attempt. What was claimed and has no mark yet is
changed, its key is *poked*, and a mark for it is refused.

**Moving.** Mail goes from one queue to another while both are used; ``zsmtp.queue.moves`` says by which steps. What a
change sets apart for another queue is not claimed, marked, settled or changed any more. A message that is submitted
with its provenance is taken in with what its recipients carry, once: there is a note of it, in the same transaction.

**What may be lost**: a mark, together with the machine, if the in-hand list has it; history of attempts that were not
yet written, together with the process. Never: an accepted message, a recipient without an end, an end without the
notice that is owed for it (both are one transaction).

Errors: :class:`~zsmtp.errors.QueueUnavailable` when the store cannot be read or written; what was asked for did not
happen, or (for a lost database connection) may be asked for again without harm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from zsmtp.queue.filter import Filter
from zsmtp.queue.moves import ApartRecipient, Departure, Elsewhere, Move, Provenance, Standing, TakenIn
from zsmtp.queue.operators import Change, Health, NodeStatus, Row, Rule, SiteStatus
from zsmtp.queue.quotas import Amount
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
    """A recipient to be queued."""

    address: bytes
    key: str
    notify: bytes | None = None
    orcpt: bytes | None = None
    hold: int = 0
    """The rule that holds it from the start, 0 if none does."""
    standing: Standing | None = None
    """Of one that comes from another queue: how it stood there. What the message says of these values is not for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to be queued. Its id is given by the store, and never used again."""

    sender: bytes
    recipients: Sequence[NewRecipient]
    content: bytes
    """The whole message with LF or CRLF line ends; of an upload its beginning, the rest follows."""
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
    """What the second one must equal: a hash over content and envelope. Otherwise it is a Conflict.

    The key is forgotten a week after the last end of the message it was used for.
    """
    metered: bool = False
    """Whether it counts in what was accepted from its tenant (:meth:`QueueStore.accepted_by`)."""
    moved: Provenance | None = None
    """Of one that comes from another queue: from where. All its recipients have a ``standing`` then."""


class Accepted(NamedTuple):
    """That a message is queued: its id, and whether it was queued before (by its idempotency key)."""

    id: int
    existed: bool = False


class Upload(Protocol):
    """A large message on its way in. Nothing of it can be seen or claimed before :meth:`accept` returned."""

    async def write(self, data: bytes) -> None:
        """Store more of the content; may wait until a part is on the disk."""

    async def add_recipients(self, recipients: Iterable[NewRecipient]) -> None:
        """Store more recipients."""

    async def accept(self) -> Accepted:
        """Make it a message, durably."""

    async def discard(self) -> None:
        """Forget it; what a dead process left is swept after an hour."""


# ------------------------------------------------------------------- delivery


class Doubt(NamedTuple):
    """An attempt of an earlier owner whose result is not known: it is ``recipient.next_attempt``.

    ``machine`` tells that it was only in hand when the machine or the database died: a superset of what was sent.
    """

    recipient: QueuedRecipient
    message: QueuedMessage
    machine: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to deliver to a site. ``number`` only grows: it is the fence.

    ``keys`` are those it was taken for; :meth:`QueueStore.take` adds others of the same site when they are asked for.
    """

    number: int
    site: str
    keys: tuple[str, ...]
    doubts: tuple[Doubt, ...] = ()


class Head(NamedTuple):
    """The first recipient of a sub-queue that may be tried: when it is due."""

    sub_queue: SubQueue
    due: float


class Claimed(NamedTuple):
    """A recipient to deliver, with its message; ``content`` is there if it is small, else None (see ``content``)."""

    recipient: QueuedRecipient
    message: QueuedMessage
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The recipient has an end: its row goes, its history entry stays.

    The entry's ``attempt`` is the attempt that led to it, 0 if none did. An expiry without an attempt is a conflict if
    the recipient is held or may be tried for longer by now.
    """

    entry: HistoryEntry
    notice: OwedNotice | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """The recipient is tried again at ``due``. ``entry`` is None if no attempt was made (a delay of this side).

    What an operator changed meanwhile and this does not name (hold, priority, expiry) stays as it is.
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

    What was claimed of a poked key and not begun is to be forgotten and claimed anew. ``rules`` tells that the standing
    rules or suspensions changed, ``drain`` that this node was asked to leave.
    """

    keys: Mapping[str, float]
    """The earliest due time that came, by key."""
    poked: frozenset[str] = frozenset()
    rules: bool = False
    drain: bool = False
    surplus: int = 0
    """How many leases this node has beyond its share, which other nodes would like to have."""


class QueueStore(Protocol):
    """What a store does. All methods but those that say so are coroutines on the loop that opened it.

    A store that was opened before a ``fork`` refuses use after it.
    """

    @property
    def shard(self) -> int:
        """The shard its ids belong to."""

    @property
    def uid(self) -> str:
        """What tells this queue from all others."""

    async def close(self) -> None:
        """Let go of everything; leases are given back, marks stay."""

    # ------------------------------------------------------------------ intake

    async def submit(self, messages: Sequence[NewMessage]) -> list[Accepted]:
        """Queue messages, all or none, durably; concurrent calls share a commit.

        Raises :class:`~zsmtp.errors.Conflict` for an idempotency key with another digest, QueueFull when intake has
        stopped, QueueError for a message without recipients or a value that cannot be kept (octets that are no UTF-8).
        A hold by a rule that is not there is none. Of a message with a provenance: Conflict if one of its recipients
        was taken in before.
        """

    async def upload(self, message: NewMessage) -> Upload:
        """Begin a large message, whose content and further recipients come in parts."""

    def wake(self) -> None:
        """Have messages looked for that a program submitted in a transaction of its own; not a coroutine.

        Whoever delivers, in whichever process, does so at once instead of within a second. If that is this process,
        :meth:`arrivals` comes back from waiting, whether it found something or not.
        """

    # ---------------------------------------------------------------- delivery

    async def join(self, node: str) -> None:
        """Become a node: raises :class:`~zsmtp.errors.QueueBusy` where only one can be and another one is."""

    def beat(self) -> None:
        """Say that the event loop turns; not a coroutine.

        After 10 s without it no mark is granted any more, after 20 s others may take the leases.
        """

    async def agenda(self) -> dict[str, float]:
        """The queue keys with recipients that are not held, and when the first of each is due.

        It costs by keys, not by recipients. A node reads it when it starts and now and then; between, arrivals and what
        it deferred itself tell it what changed.
        """

    async def take(self, keys: Collection[str], *, limit: int) -> list[Lease]:
        """Lease sites, ``limit`` at most: those of ``keys`` that nobody owns, and those whose owner is gone.

        The owner is gone of sites with doubts that nobody owns, whether they have other work or not. A lease has those
        of ``keys`` that belong to its site, and the other keys of the site with recipients that are not held. If one of
        ``keys`` belongs to a site that this node leases already, and is new there, the lease comes again, of the same
        number and with all its keys; it does not count.
        """

    async def give_back(self, leases: Collection[Lease]) -> None:
        """Give leases up. Nothing of them may have a mark: QueueError. Doubts that were not settled stay."""

    async def learn(self, sites: Mapping[str, str]) -> None:
        """Remember which site a queue key belongs to, for leases taken from then on; else it is one of its own."""

    async def heads(self, leases: Collection[Lease]) -> list[Head]:
        """The sub-queues of the leases with recipients that are not held, and when their first one is due."""

    async def claim(
        self, lease: Lease, sub_queue: SubQueue, after: Position, now: float, *, limit: int, octets: int
    ) -> tuple[list[Claimed], float | None]:
        """Read recipients that are due at ``now``, behind ``after``, in order, that are not held.

        At most ``limit`` of them, and contents of at most ``octets`` in all (but at least one recipient): a content
        counts once, one of more than CHUNK octets not at all. Recipients in doubt are left out until they are settled.
        The second value is when the next one behind them is due (in the past, if the limits cut the list), None if
        there is none.
        """

    async def review(self, lease: Lease, after: tuple[int, int], *, limit: int) -> list[Claimed]:
        """Read the recipients of the lease behind ``after`` (message, number), in order of their ids.

        Due or not, held ones and those in doubt left out, ``content`` always None: for what a site that gets no mail
        now has to be looked through, expiry and delay warnings.
        """

    def content(self, message: int, size: int) -> AsyncIterator[bytes]:
        """The content of a message in chunks, in bounded memory. Raises QueueError if it is not there."""

    async def mark(self, lease: Lease, attempts: Sequence[AttemptKey]) -> bool:
        """Commit that these attempts may complete from now on.

        The next owner sees the mark, if this process dies. If the machine dies, it or the in-hand list is seen.

        False if the lease is not good for 10 s more, or if one of the attempts is not the next one of its recipient any
        more, because an operator ended, held or moved it: then none is marked, and all are to be claimed anew.
        """

    async def settle(
        self, lease: Lease, settlements: Sequence[Settlement], in_hand: Collection[AttemptKey]
    ) -> list[AttemptKey]:
        """Write results in one durable transaction, with what is in hand after it; returns the conflicts.

        A recipient whose attempt count is not what the settlement was made from, or whose lease is another's by now, is
        left as it is and gets a ``late`` entry in its history, which says in its reason what it would have been.
        Exception: an attempt that was settled as in doubt may still be ended by its own late result, whoever owns the
        lease, as long as the recipient is not due again.
        """

    async def arrivals(self, timeout: float) -> Arrivals:
        """Wait until there is something new, ``timeout`` seconds at most. One call at a time."""

    async def report(self, statuses: Sequence[SiteStatus]) -> None:
        """Keep how sites are served, for others to see; it may be lost with the process."""

    # ----------------------------------------------------------------- notices

    async def owed(self, now: float, *, limit: int) -> list[tuple[QueuedMessage, list[OwedNotice]]]:
        """Messages that notices are owed for and of which no recipient is in hand, or that wait for 5 minutes.

        At most 100 recipients each.
        """

    async def notify(self, owed: Sequence[OwedNotice], notice: NewMessage | None) -> Accepted | None:
        """Replace owed notices by a queued message (None: there is nobody to notify), atomically.

        If they are not all owed any more, nothing happens, and the answer is None.
        """

    # ------------------------------------------------------------ suppressions

    async def suppress(self, suppressions: Sequence[Suppression]) -> int:
        """Have addresses not written to from now on, all or none; how many were not on the list.

        One that is there is replaced. Raises QueueError for an address or a tenant that cannot be kept.
        """

    async def unsuppress(self, tenant: str, addresses: Collection[bytes]) -> int:
        """Take addresses of a tenant off the list; how many were there."""

    def suppressions(self, tenant: str | None = None, addresses: Collection[bytes] = ()) -> AsyncIterator[Suppression]:
        """The list, or what it has of a tenant and of these addresses, in order of tenant and address, read in pages.

        What has ended is left out.
        """

    # ------------------------------------------------------------------ events

    async def record(self, event: HistoryEntry) -> bool:
        """Write an event (``bounced``, ``complained``) of a recipient that has its end, durably.

        False, and nothing is written, if the recipient has that event, or has no end that is still known. Nothing else
        is changed.
        """

    # ------------------------------------------------------------------- sweep

    async def sweep(self, now: float) -> int:
        """Do a bounded piece of housekeeping; how many rows it removed: 0, when nothing is left to be done.

        Contents nobody needs, uploads that were abandoned, history and idempotency keys that are too old, rules that
        ended (what they hold is released), suppressions that ended. Expiry is not its work: who owns a site looks at it
        (``claim``, ``settle``, ``review``).
        """

    # --------------------------------------------------------------- operators

    def select(self, wanted: Filter, *, after: Position | None = None, limit: int | None = None) -> AsyncIterator[Row]:
        """The recipients that match, in order of their ids, read in pages: a long list holds nobody up."""

    async def count(self, wanted: Filter, *, by: str = "") -> dict[str, int]:
        """How many match, by one of :data:`GROUPS`; "" gives one number, under ""; groups of none are left out."""

    def change(self, wanted: Filter, change: Change) -> AsyncIterator[int]:
        """Change the recipients that match, in pieces; yields how many were changed by each piece.

        Messages that come while it runs may or may not be among them. Raises QueueError for a change that is none, or a
        hold by a rule that is not there.
        """

    async def accepted_by(self, tenant: str) -> dict[int, Amount]:
        """What was accepted from a tenant, of messages that say so (``metered``), by slots of the last hour.

        In which slot a message counts is said by the clock of the process that accepted it.
        """

    async def queued_by_tenant(self) -> dict[str, Amount]:
        """Messages and octets that are in the queue, by tenant (recipients are not counted); it looks at all of them.

        A message is there until its last recipient has an end, its notices were made, and a sweep has removed it.
        """

    async def message(self, message: int) -> QueuedMessage | None:
        """A message with recipients that have no end, or that a notice is owed for; None if there is none."""

    async def history(self, message: int, *, number: int | None = None) -> list[HistoryEntry]:
        """The history of a message, or of one of its recipients, oldest first."""

    async def ended(self, message: int, *, after: int = -1, limit: int) -> list[tuple[int, bytes]]:
        """Numbers and addresses of recipients of a message that have their end, by number, behind one."""

    def ends(self, wanted: Filter, *, limit: int | None = None) -> AsyncIterator[HistoryEntry]:
        """Ends that match, youngest first."""

    async def events(self, cursor: str, *, limit: int) -> tuple[str, list[HistoryEntry]]:
        """History behind a cursor ("" for its beginning), in the order in which it became visible, and the next cursor.

        No entry is left out and none comes twice.
        """

    async def sites(self, names: Collection[str] = ()) -> list[SiteStatus]:
        """What was reported of these sites, or of all."""

    async def nodes(self) -> list[NodeStatus]:
        """The processes that deliver, or did a moment ago."""

    async def drain(self, node: str) -> int:
        """Ask the living nodes of a name to leave; how many there are.

        Such a node takes no other leases, ends what is under way and gives its leases back. Raises QueueError where
        only one process can deliver.
        """

    async def rules(self) -> list[Rule]:
        """The standing rules, oldest first."""

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a rule; it holds from now on."""

    async def delete_rule(self, number: int) -> bool:
        """Delete a rule, and release what it holds; False if there is none of that number."""

    async def counters(self) -> Mapping[str, int]:
        """Totals of recipients since the queue was made.

        ``accepted`` = ``delivered`` + ``failed`` + ``expired`` + ``dropped`` + ``moved`` + those that are there. Beside
        them ``messages``, ``attempts`` (settled ones), ``deferred``, ``doubtful`` (attempts settled as in doubt),
        ``repeated`` (delivered after a doubt: somebody may have it twice), ``suppressed`` (failed because they were
        submitted to suppressed addresses), ``bounced`` and ``complained`` (events), ``late`` and ``notices``. What was
        accepted by tenant (:meth:`accepted_by`) is kept beside them, and is not among them.
        """

    # ------------------------------------------------------------------ moving

    async def begin_move(self, to: Elsewhere, *, by: str) -> Move:
        """Begin a move to another queue; nothing is set apart by this."""

    async def moves(self) -> list[Move]:
        """The moves that began within a week, or have recipients set apart, oldest first."""

    async def apart(
        self, move: int, *, message: int = 0, after: tuple[int, int] = (0, -1), limit: int
    ) -> list[ApartRecipient]:
        """Recipients that are set apart in a move, in order of their ids, behind ``after`` (message, number).

        ``message``: only those of this one.
        """

    async def depart(self, departures: Sequence[Departure], *, by: str) -> int:
        """End recipients that are set apart, as moved, durably, without notices; how many there were."""

    async def taken_in(self, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
        """The notes of what was taken in from a queue, by its uid, in order.

        Of these messages of it; of none: those that are not known to have departed there.
        """

    async def departed(self, queue: str, notes: Collection[TakenIn]) -> None:
        """Note that this has departed from its source; a sweep forgets it a week later.

        It need not be on the disk before it is answered.
        """

    # ------------------------------------------------------------------- state

    async def health(self) -> Health:
        """Whether it can be read and written, and how much room is left."""

    def check(self) -> AsyncIterator[str]:
        """Look for what must not be; yields one sentence for each finding."""
