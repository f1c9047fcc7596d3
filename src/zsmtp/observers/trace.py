"""The trace recorder: an observer that makes one document for each delivery.

A :class:`TraceRecorder` receives the events of deliveries that use one connection after the other, as an agent's do;
several may be in progress at once, pipelined. Parallel connections need a recorder each. It adds its clock's time to
each event, collects them in ``zsmtp.observers.tracebuilder`` and passes a :class:`~zsmtp.observers.document.Trace` to
``keep`` when a delivery has its last verdict and its last reply::

    recorder = TraceRecorder(keep)
    courier = Courier(settings, recorder)

The trace of the last delivery on a connection is passed once more, with QUIT, when the connection is closed; it has the
same :class:`Handle`. No error here affects a delivery: ``complain`` gets the first one, and the recorder stops.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zsmtp import events
from zsmtp.escape import escape
from zsmtp.events import About, Event
from zsmtp.observers.document import (
    BrokenItem,
    ConnectItem,
    ContentItem,
    DecisionItem,
    ExchangeItem,
    FetchItem,
    HandshakeItem,
    LookupItem,
    Trace,
    TracedConnection,
)
from zsmtp.observers.privacy import Veil
from zsmtp.observers.tracebuilder import DeliveryTrace, Items, SharedConnection, cut, cut_lines
from zsmtp.observers.wording import record_text, safety_of, transaction_text
from zsmtp.proto.phase import FINAL_PHASES, Phase

if TYPE_CHECKING:
    from zsmtp.dns.candidates import Endpoint
    from zsmtp.proto.plan import Transaction

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Handle:
    """The delivery of a trace: its ``number`` in the recorder, from 1, and the message's ``name`` ("" for none)."""

    number: int
    name: str


Keep = Callable[[Handle, Trace], None]


def _discard(text: str) -> None:
    """Default for ``complain``: discard warnings."""


@dataclass(slots=True, eq=False)
class _OpenTransaction:
    """A transaction in progress: its delivery, its number in the delivery, and its recipients."""

    book: DeliveryTrace
    number: int
    recipients: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Awaited:
    """A command without a reply yet: the place of its item."""

    items: Items
    place: int
    phase: Phase
    transaction: Transaction | None


class TraceRecorder:
    """The observer of one connection. ``clock`` returns seconds from any origin, ``wall`` since 1970.

    ``hashed`` hides mail addresses (``zsmtp.observers.privacy``); ``random`` returns the key for it.
    """

    def __init__(
        self,
        keep: Keep,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        hashed: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        complain: Callable[[str], None] = _discard,
    ) -> None:
        self._keep = keep
        self._clock = clock
        self._wall = wall
        self._hashed = hashed
        self._random = random
        self._warn = complain
        self._broken = False
        self._now = 0.0
        self._count = 0
        self._books: dict[int, tuple[Handle, DeliveryTrace]] = {}  # deliveries in progress, by identity
        self._last: tuple[Handle, DeliveryTrace] | None = None  # the last finished one, while its connection is open
        self._passage = SharedConnection(ended=True)
        self._open: dict[Transaction, _OpenTransaction] = {}
        self._awaited: deque[_Awaited] = deque()
        self._attempts: dict[Endpoint, int] = {}  # places of the attempts in progress
        self._lookup = -1
        self._fetch = -1
        self._handshake = -1
        self._content: dict[Transaction | None, tuple[Items, int]] = {}
        self._waiting_since = 0.0  # for a reply without a command of its own
        self._said_quit = False

    def __call__(self, event: Event) -> None:
        if self._broken:
            return
        try:
            self._now = self._clock()
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)
        except Exception as error:  # an error in a trace must not stop a delivery
            self._broken = True
            self._books.clear()
            self._open.clear()
            self._warn(f"no more traces: {escape(str(error) or type(error).__name__)}")

    def close(self) -> None:
        """Pass on the traces of unfinished deliveries."""
        for handle, book in list(self._books.values()):
            self._hand_over(handle, book)
        self._books.clear()

    # ---------------------------------------------------------------------------------------------------- deliveries

    def _delivery_started(self, event: events.DeliveryStarted) -> None:
        self._count += 1
        veil = Veil(self._random(16) if self._hashed else None)
        book = DeliveryTrace(event.delivery, event.destination, self._now, self._wall(), veil)
        self._last = None
        self._books[id(event.delivery)] = Handle(self._count, book.name), book
        if self._passage.ended:
            self._begin_passage()
        else:
            book.use(self._passage)

    def _settled(self, event: events.Settled) -> None:
        found = self._books.get(id(event.delivery))
        if found is not None:
            found[1].settle(event.recipient, event.verdict, self._now)
            self._finish_if_done(*found)

    def _returned(self, event: events.DeliveryReturned) -> None:
        """The delivery will be started again; the trace keeps the recipients that have their verdict."""
        if (found := self._books.pop(id(event.delivery), None)) is not None and found[1].settled:
            self._hand_over(*found)

    def _finish_if_done(self, handle: Handle, book: DeliveryTrace) -> None:
        if book.done:
            del self._books[id(book.delivery)]
            self._last = (handle, book)
            self._hand_over(handle, book)

    def _hand_over(self, handle: Handle, book: DeliveryTrace) -> None:
        self._keep(handle, book.trace(self._now))

    # ------------------------------------------------------------------------------------------------------ passages

    def _begin_passage(self) -> None:
        """Begin a new passage for all deliveries in progress."""
        self._passage = SharedConnection()
        self._attempts.clear()
        self._said_quit = False
        for _, book in self._books.values():
            book.use(self._passage)

    def _way(self) -> Items:
        """The items of the current passage."""
        if self._passage.ended:
            self._begin_passage()
        return self._passage.items

    def _end_passage(self, *, reason: str = "", refused: str = "") -> None:
        passage = self._passage
        connection = passage.connection
        if connection is not None and not passage.ended:
            passage.connection = replace(connection, closed=self._now, reason=reason, refused=refused)
        passage.ended = True
        self._handshake = -1
        self._awaited.clear()
        if self._last is not None and passage in self._last[1].passages:
            self._hand_over(*self._last)
            self._last = None

    def _lookup_started(self, event: events.LookupStarted) -> None:
        query = event.query
        self._lookup = self._way().add(LookupItem(start=self._now, name=cut(query.name), record_type=query.type.value))

    def _lookup_done(self, event: events.LookupDone) -> None:
        answer = event.answer
        self._way().change(
            self._lookup,
            end=self._now,
            status=answer.status.value,
            records=cut_lines(tuple(record_text(record) for record in answer.records)),
            ttl=answer.ttl,
            safety=safety_of(answer),
            source=cut(answer.source),
            problem=cut(answer.problem),
        )
        self._lookup = -1

    def _fetch_started(self, event: events.FetchStarted) -> None:
        self._fetch = self._way().add(FetchItem(start=self._now, host=cut(event.host)))

    def _fetch_done(self, event: events.FetchDone) -> None:
        self._way().change(self._fetch, end=self._now, octets=event.octets, problem=cut(event.problem))
        self._fetch = -1

    def _plan_made(self, event: events.PlanMade) -> None:
        way = self._way()
        self._passage.plan = event.plan
        for note in event.plan.route.notes:
            self._decide(way, About.ROUTE, note)

    def _connecting(self, event: events.Connecting) -> None:
        endpoint = event.endpoint
        self._attempts[endpoint] = self._way().add(
            ConnectItem(start=self._now, host=cut(endpoint.host), address=cut(endpoint.address), port=endpoint.port)
        )

    def _connect_failed(self, event: events.ConnectFailed) -> None:
        place = self._attempts.pop(event.endpoint, -1)
        self._way().change(place, end=self._now, failed=cut(event.reason))

    def _connected(self, event: events.Connected) -> None:
        if self._passage.connection is not None and not self._passage.ended:
            self._end_passage(reason="given up for another connection")
        items, endpoint = self._way(), event.endpoint
        items.change(self._attempts.pop(endpoint, -1), end=self._now)
        for place in self._attempts.values():
            items.change(place, end=self._now, failed="given up: another connection stood first")
        self._attempts.clear()
        self._passage.way_items = len(items.kept)
        self._passage.connection = TracedConnection(
            number=0,
            host=cut(endpoint.host),
            address=cut(endpoint.address),
            port=endpoint.port,
            local="" if event.local is None else cut(f"{event.local[0]}|{event.local[1]}"),
            opened=self._now,
        )
        self._waiting_since = self._now

    def _handshake_started(self, event: events.HandshakeStarted) -> None:
        self._handshake = self._way().add(HandshakeItem(start=self._now, server_name=cut(event.server_name)))

    def _handshake_done(self, event: events.HandshakeDone) -> None:
        facts = event.facts
        session, peer = (cut(facts.session), cut(facts.peer)) if facts is not None else ("", "")
        self._way().change(self._handshake, end=self._now, session=session, peer=peer, error=cut(event.error))
        self._handshake = -1
        self._waiting_since = self._now
        self._note(tls=session)

    def _secured(self, event: events.Secured) -> None:
        fitness = "good enough" if event.judgement.ok else "not good enough"
        self._decide(self._way(), About.SECURITY, f"{fitness}: {event.judgement.text}")

    def _session_opened(self, event: events.SessionOpened) -> None:
        self._note(capabilities=cut_lines(event.capabilities.keywords))

    def _note(self, **values: Any) -> None:
        """Add facts about the connection."""
        if self._passage.connection is not None:
            self._passage.connection = replace(self._passage.connection, **values)

    def _session_refused(self, event: events.SessionRefused) -> None:
        self._end_passage(refused=cut(event.verdict.diagnostic.partition("; ")[2] or event.verdict.diagnostic))

    def _session_lost(self, event: events.SessionLost) -> None:
        if self._said_quit:
            return  # the peer is expected to close then
        phase = event.phase.value if event.phase is not None else ""
        for awaited in self._awaited:
            awaited.items.change(awaited.place, end=self._now)
        self._awaited.clear()
        for items, place in self._content.values():
            items.change(place, end=self._now)
        self._content.clear()
        self._way().add(BrokenItem(start=self._now, end=self._now, reason=cut(event.reason), phase=phase))

    def _closed(self, event: events.Closed) -> None:
        if not self._passage.ended:
            self._end_passage(reason=cut(event.reason))

    # ------------------------------------------------------------------------------------------------------ dialogue

    def _line_sent(self, event: events.LineSent) -> None:
        if event.phase is None or event.phase is Phase.CONTENT:
            return  # the final dot is recorded when the content is sent
        self._said_quit = self._said_quit or event.phase is Phase.QUIT
        items, number = self._home(event.transaction)
        item = ExchangeItem(start=self._now, phase=event.phase.value, sent=cut(event.line), transaction=number)
        self._awaited.append(_Awaited(items, items.add(item), event.phase, event.transaction))

    def _home(self, transaction: Transaction | None) -> tuple[Items, int]:
        """The items that a transaction belongs to, and its number."""
        current = self._open.get(transaction) if transaction is not None else None
        return (current.book.items, current.number) if current is not None else (self._way(), 0)

    def _answered(self, event: events.Answered) -> None:
        phase, reply = event.phase, event.reply
        lines = reply.raw_lines
        hidden = phase is Phase.AUTH and reply.code == 334  # a challenge is part of the secret
        shown = (f"334 (a challenge of {sum(map(len, reply.lines))} octets)",) if hidden else cut_lines(lines)
        current = self._open.get(event.transaction) if event.transaction is not None else None
        recipient = event.recipient
        if current is not None and 0 <= recipient < len(current.recipients):
            recipient = current.recipients[recipient]
        place = self._claim(phase, event.transaction)
        if place is not None:
            place.items.change(place.place, end=self._now, code=reply.code, reply=shown, recipient=recipient)
        else:
            items, number = self._home(event.transaction)
            began = self._waiting_since or self._now
            items.add(
                ExchangeItem(
                    start=min(began, self._now),
                    end=self._now,
                    phase=phase.value,
                    code=reply.code,
                    reply=shown,
                    recipient=recipient,
                    transaction=number,
                )
            )
        self._waiting_since = self._now

    def _claim(self, phase: Phase, transaction: Transaction | None) -> _Awaited | None:
        """The command of a reply; LMTP's further final replies have none."""
        for position, awaited in enumerate(self._awaited):
            if awaited.phase is phase and awaited.transaction is transaction:
                del self._awaited[position]
                return awaited
            if position > 8:
                break
        return None

    def _transaction_started(self, event: events.TransactionStarted) -> None:
        found = self._books.get(id(event.delivery))
        if found is None:
            return
        book = found[1]
        book.use(self._passage)
        book.transactions += 1
        book.under_way += 1
        book.homes[book.transactions] = self._passage
        self._open[event.transaction] = _OpenTransaction(book, book.transactions, event.recipients)
        self._decide(book.items, About.DELIVERY, transaction_text(event))

    def _transaction_ended(self, event: events.TransactionEnded) -> None:
        current = self._open.pop(event.transaction, None)
        if current is None:
            return
        current.book.under_way -= 1
        found = self._books.get(id(current.book.delivery))
        if found is not None:
            self._finish_if_done(*found)

    def _content_started(self, event: events.ContentStarted) -> None:
        items, number = self._home(event.transaction)
        place = items.add(ContentItem(start=self._now, octets=event.octets, transaction=number))
        self._content[event.transaction] = (items, place)

    def _content_sent(self, event: events.ContentSent) -> None:
        items, place = self._content.pop(event.transaction, (self._way(), -1))
        items.change(place, end=self._now, header_octets=event.header_octets, recipients=event.recipients)
        for awaited in self._awaited:
            if awaited.phase in FINAL_PHASES and awaited.transaction is event.transaction:  # BDAT LAST
                awaited.items.change(awaited.place, start=self._now)
                return
        items, number = self._home(event.transaction)
        item = ExchangeItem(start=self._now, phase=Phase.CONTENT.value, sent=".", transaction=number)
        self._awaited.append(_Awaited(items, items.add(item), Phase.CONTENT, event.transaction))

    # --------------------------------------------------------------------------------------------------------- words

    def _remark(self, event: events.Remark) -> None:
        self._decide(self._items_of(event.envelope), event.about, event.text)

    def _items_of(self, envelope: object) -> Items:
        if envelope is not None:
            for _, book in self._books.values():
                if book.delivery.message.envelope is envelope:
                    return book.items
        return self._way()

    def _detail(self, event: events.Detail) -> None:
        if event.about is not About.ROUTE:  # those repeat the plan
            self._decide(self._way(), event.about, event.text)

    def _decision(self, event: events.Decision) -> None:
        found = self._books.get(id(event.delivery)) if event.delivery is not None else None
        self._decide(found[1].items if found is not None else self._way(), event.about, event.text)

    def _decide(self, items: Items, about: About, text: str) -> None:
        items.add(DecisionItem(start=self._now, end=self._now, about=about.value, text=cut(text)))


_HANDLERS: dict[type[Event], Callable[[TraceRecorder, Any], None]] = {
    events.DeliveryStarted: TraceRecorder._delivery_started,
    events.Settled: TraceRecorder._settled,
    events.DeliveryReturned: TraceRecorder._returned,
    events.LookupStarted: TraceRecorder._lookup_started,
    events.LookupDone: TraceRecorder._lookup_done,
    events.FetchStarted: TraceRecorder._fetch_started,
    events.FetchDone: TraceRecorder._fetch_done,
    events.PlanMade: TraceRecorder._plan_made,
    events.Connecting: TraceRecorder._connecting,
    events.ConnectFailed: TraceRecorder._connect_failed,
    events.Connected: TraceRecorder._connected,
    events.HandshakeStarted: TraceRecorder._handshake_started,
    events.HandshakeDone: TraceRecorder._handshake_done,
    events.Secured: TraceRecorder._secured,
    events.SessionOpened: TraceRecorder._session_opened,
    events.SessionRefused: TraceRecorder._session_refused,
    events.SessionLost: TraceRecorder._session_lost,
    events.Closed: TraceRecorder._closed,
    events.LineSent: TraceRecorder._line_sent,
    events.Answered: TraceRecorder._answered,
    events.TransactionStarted: TraceRecorder._transaction_started,
    events.TransactionEnded: TraceRecorder._transaction_ended,
    events.ContentStarted: TraceRecorder._content_started,
    events.ContentSent: TraceRecorder._content_sent,
    events.Remark: TraceRecorder._remark,
    events.Detail: TraceRecorder._detail,
    events.Decision: TraceRecorder._decision,
}
