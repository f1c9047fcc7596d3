"""Builds the document of a trace from the facts of one delivery, and of each connection that it shares.

A :class:`SharedConnection`, also called a passage, holds one connection with the steps before it: the lookups, the
attempts, the session, its end. A :class:`DeliveryTrace` has the delivery's own transactions and verdicts, and the
connections that it used; its method ``trace`` makes the document. Times here are the recorder's clock; in the document
they count from the start of the delivery.

All data is bounded when it is recorded: the number of items, the length of a text, and the characters of all texts
together.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from zsmtp import __version__
from zsmtp.delivery.reasons import account_of
from zsmtp.escape import escape
from zsmtp.observers.document import (
    MAX_ITEMS,
    MAX_LINES,
    MAX_RECIPIENTS,
    MAX_TEXT,
    Addresses,
    AnyItem,
    BrokenItem,
    ConnectItem,
    DecisionItem,
    ExchangeItem,
    Fates,
    FetchItem,
    HandshakeItem,
    LookupItem,
    Trace,
    TracedConnection,
    TracedRecipient,
)
from zsmtp.observers.privacy import Veil

if TYPE_CHECKING:
    from zsmtp.delivery.deliveryplan import DeliveryPlan
    from zsmtp.delivery.envelope import Delivery
    from zsmtp.delivery.outcome import Verdict
    from zsmtp.proto.plan import Envelope

MAX_PASSAGE_ITEMS = 600
MAX_PASSAGES = 50  # of one delivery
MAX_PASSAGE_CHARACTERS = 100_000
MAX_CHARACTERS = 1_000_000  # of one delivery's own items
_SHORT = 80
_NEIGHBOURS = 200  # deliveries on one connection whose addresses are hidden in each other's traces
_ORDER = count()


def cut(text: str | bytes, limit: int = MAX_TEXT) -> str:
    """Printable text of bounded length; the cut is shown as ``...``."""
    shown = escape(text[: 4 * limit])
    return shown if len(shown) <= limit and len(text) <= 4 * limit else shown[: limit - 3] + "..."


def cut_lines(lines: tuple[bytes, ...] | tuple[str, ...]) -> tuple[str, ...]:
    """The first and the last of many lines, each cut."""
    if len(lines) > MAX_LINES:
        left_out = len(lines) - MAX_LINES + 1
        return (*(cut(line) for line in lines[: MAX_LINES - 2]), f"({left_out} more)", cut(lines[-1]))
    return tuple(cut(line) for line in lines)


@dataclass(slots=True, eq=False)
class Items:
    """Items in the order of their beginning, up to a maximum."""

    most: int
    most_characters: int  # of all texts together; later texts are cut short
    kept: list[AnyItem] = field(default_factory=list)
    order: list[int] = field(default_factory=list)  # position among all items of the recorder: clocks may stand still
    left_out: int = 0
    _characters: int = 0

    def add(self, item: AnyItem) -> int:
        """Add an item; returns its place, -1 if there is no room."""
        if len(self.kept) >= self.most or self._characters >= self.most_characters:
            self.left_out += 1
            return -1
        self.kept.append(item)
        self.order.append(next(_ORDER))
        self._characters += _length(item)
        return len(self.kept) - 1

    def change(self, place: int, **values: Any) -> None:
        """Complete an item that was added before, with short texts if there is no more room."""
        if place >= 0:
            if self._characters >= self.most_characters:
                values = {name: _short(value) for name, value in values.items()}
            before = self.kept[place]
            self.kept[place] = after = replace(before, **values)
            self._characters += _length(after) - _length(before)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return cut(value, _SHORT)
    return tuple(cut(one, _SHORT) for one in value[:1]) if isinstance(value, tuple) else value


def _length(item: AnyItem) -> int:
    texts = (getattr(item, name) for name in item.__dataclass_fields__)
    return sum(
        len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts if isinstance(text, str | tuple)
    )


@dataclass(slots=True, eq=False)
class SharedConnection:
    """One connection with the steps before it; ``users`` counts its deliveries, ``number`` identifies it."""

    items: Items = field(default_factory=lambda: Items(MAX_PASSAGE_ITEMS, MAX_PASSAGE_CHARACTERS))
    connection: TracedConnection | None = None
    way_items: int = 0  # items before the connection was established
    users: int = 0
    ended: bool = False
    plan: DeliveryPlan | None = None
    envelopes: deque[Envelope] = field(default_factory=lambda: deque(maxlen=_NEIGHBOURS))  # to hide their addresses


@dataclass(slots=True, eq=False)
class DeliveryTrace:
    """One delivery from its start to its last verdict. ``began`` is seconds since 1970."""

    delivery: Delivery
    destination: str
    start: float
    began: float
    veil: Veil
    passages: list[SharedConnection] = field(default_factory=list)
    items: Items = field(default_factory=lambda: Items(MAX_ITEMS, MAX_CHARACTERS))
    transactions: int = 0  # begun
    under_way: int = 0
    homes: dict[int, SharedConnection] = field(default_factory=dict)  # the passage of each transaction
    verdicts: dict[int, tuple[float, Verdict]] = field(default_factory=dict)
    fates: Counter[str] = field(default_factory=Counter)
    settled: int = 0

    def __post_init__(self) -> None:
        self._know(self.delivery.message.envelope)

    def _know(self, envelope: Envelope) -> None:
        if self.veil.addresses is Addresses.HASHED:
            originals = [one.orcpt.partition(b";")[2] for one in envelope.recipients if one.orcpt is not None]
            self.veil.know([envelope.sender, *(one.address for one in envelope.recipients), *originals])

    @property
    def name(self) -> str:
        """The message's name, printable and cut."""
        return cut(self.veil.text(cut(self.delivery.name)))

    @property
    def done(self) -> bool:
        """Whether every recipient has a verdict and no reply is due any more."""
        return self.settled == len(self.delivery.message.envelope.recipients) and not self.under_way

    def use(self, passage: SharedConnection) -> None:
        """Note that the delivery uses this passage from now on."""
        if len(self.passages) < MAX_PASSAGES and passage not in self.passages:
            self.passages.append(passage)
            passage.users += 1
            if self.veil.addresses is Addresses.HASHED:
                passage.envelopes.append(self.delivery.message.envelope)

    def settle(self, recipient: int, verdict: Verdict, now: float) -> None:
        """Record one verdict."""
        self.settled += 1
        self.fates[verdict.fate.value] += 1
        self.fates["in doubt"] += verdict.in_doubt
        if recipient < MAX_RECIPIENTS:
            self.verdicts[recipient] = (now, verdict)

    def trace(self, now: float) -> Trace:
        """The document of the facts so far."""
        envelope = self.delivery.message.envelope
        for passage in self.passages:  # shared items may contain addresses of other deliveries
            for other in passage.envelopes:
                self._know(other)
        connections, items, left_out = self._ways()
        return Trace(
            program=f"zsmtp {__version__}",
            started=datetime.fromtimestamp(self.began, UTC).isoformat(timespec="milliseconds"),
            seconds=_rounded(now - self.start),
            name=self.name,
            destination=cut(self.destination),
            sender=cut(self.veil.address(envelope.sender)),
            addresses=self.veil.addresses,
            fates=Fates(
                recipients=len(envelope.recipients),
                delivered=self.fates["delivered"],
                failed=self.fates["failed"],
                deferred=self.fates["deferred"],
                in_doubt=self.fates["in doubt"],
            ),
            recipients=tuple(
                self._recipient(number, one.address) for number, one in enumerate(envelope.recipients[:MAX_RECIPIENTS])
            ),
            connections=tuple(connections),
            items=tuple(items),
            left_out=left_out,
            plan=next((passage.plan for passage in self.passages if passage.plan is not None), None),
        )

    def _ways(self) -> tuple[list[TracedConnection], list[AnyItem], int]:
        """Connections and items of all passages used, and the delivery's own items."""
        connections: list[TracedConnection] = []
        items: list[tuple[float, int, AnyItem]] = []
        left_out = self.items.left_out
        numbers: dict[int, int] = {}
        for passage in self.passages:
            left_out += passage.items.left_out
            number, shared = 0, passage.users > 1
            if passage.connection is not None:
                number = len(connections) + 1
                numbers[id(passage)] = number
                connections.append(self._connection(passage.connection, number, passage.users))
            for place, (order, item) in enumerate(zip(passage.items.order, passage.items.kept, strict=True)):
                made_it = isinstance(item, ConnectItem) and item.end is not None and not item.failed
                there = number if made_it or place >= passage.way_items else 0
                shown = self._shown(item, there, shared=shared)
                items.append((item.start, order, shown))
        for order, item in zip(self.items.order, self.items.kept, strict=True):
            home = self.homes.get(getattr(item, "transaction", 0))
            items.append((item.start, order, self._shown(item, numbers.get(id(home), 0), shared=False)))
        items.sort(key=lambda one: one[:2])
        kept = [item for _, _, item in items[:MAX_ITEMS]]
        return connections, kept, left_out + len(items) - len(kept)

    def _connection(self, connection: TracedConnection, number: int, users: int) -> TracedConnection:
        closed = connection.closed
        return replace(
            connection,
            number=number,
            deliveries=users,
            opened=_rounded(connection.opened - self.start),
            closed=None if closed is None else _rounded(closed - self.start),
            reason=self.veil.text(connection.reason),
            refused=self.veil.text(connection.refused),
            capabilities=tuple(map(self.veil.facts, connection.capabilities)),
        )

    def _shown(self, item: AnyItem, connection: int, *, shared: bool) -> AnyItem:
        """An item in its form for the document."""
        values: dict[str, Any] = {
            "start": _rounded(item.start - self.start),
            "end": None if item.end is None else _rounded(item.end - self.start),
            "connection": connection,
            "shared": shared,
        }
        veil = self.veil
        match item:
            case ExchangeItem():
                values |= {"sent": veil.text(item.sent), "reply": tuple(veil.text(line) for line in item.reply)}
            case DecisionItem():
                values["text"] = veil.text(item.text)
            case BrokenItem():
                values["reason"] = veil.text(item.reason)
            case LookupItem():
                values |= {"records": tuple(map(veil.facts, item.records)), "problem": veil.facts(item.problem)}
            case HandshakeItem():
                values |= {"peer": veil.facts(item.peer), "error": veil.facts(item.error)}
            case ConnectItem():
                values["failed"] = veil.facts(item.failed)
            case FetchItem():
                values["problem"] = veil.facts(item.problem)
        return replace(item, **values)

    def _recipient(self, number: int, address: bytes) -> TracedRecipient:
        shown = cut(self.veil.address(address))
        if number not in self.verdicts:
            return TracedRecipient(address=shown)
        at, verdict = self.verdicts[number]
        return TracedRecipient(
            address=shown,
            at=_rounded(at - self.start),
            fate=verdict.fate.value,
            status=str(verdict.status),
            diagnostic=self.veil.text(cut(verdict.diagnostic)),
            text="\n".join(self.veil.text(cut(line)) for line in account_of(verdict).split("\n")[:MAX_LINES]),
            host=cut(verdict.peer.endpoint.host) if verdict.peer is not None else "",
            in_doubt=verdict.in_doubt,
        )


def _rounded(seconds: float) -> float:
    """Rounded to microseconds, the precision of clocks."""
    return round(seconds, 6)
