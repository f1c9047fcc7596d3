"""Messages under way on one link: started as far ahead as the peer's pace allows, landed as their replies come in.

:class:`Flights` runs the transactions of one open session. Replies are matched to transactions by the session, by
position; here each transaction has its own books, so that a refusal in the middle of a flight shifts nothing. When the
session breaks, those in doubt get their verdict, and everybody else goes back to be sent on the next link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.opening import Link
from zsmtp.delivery.outcome import Level, Verdict, from_loss, from_refusal
from zsmtp.delivery.pace import Pace
from zsmtp.delivery.transaction import TransactionBook
from zsmtp.errors import CommandError, ContentError
from zsmtp.net.effects import Exchange
from zsmtp.proto.plan import (
    ContentForm,
    Refusal,
    Transaction,
    capacity,
    plan_transaction,
    recipient_refusal,
    sender_refusal,
    size_refusal,
)
from zsmtp.proto.session import Answer, Finished, Lost
from zsmtp.proto.status import EnhancedStatus

More = Callable[[], Delivery | None]


@dataclass(slots=True, eq=False)
class Work:
    """A delivery on its way: ``pending`` are the recipients to be sent on this link, once it is known (None)."""

    delivery: Delivery
    pending: list[int] | None = None
    content: ContentForm | None = None

    @property
    def done(self) -> bool:
        """Whether everybody has a verdict."""
        return not self.delivery.ledger.unsettled

    def start_over(self) -> None:
        """Forget what was made for the link before."""
        self.pending = None
        self.content = None


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """One transaction under way."""

    work: Work
    batch: list[int]
    book: TransactionBook


@dataclass(frozen=True, slots=True)
class Broken:
    """A session that ended under its messages.

    ``culprit`` is the work whose reply was waited for, or whose content could not be read; ``untouched`` tells that no
    reply to it had come, ``out_of_step`` that messages were riding, which may be why.
    """

    lost: Lost
    verdict: Verdict
    culprit: Work | None
    untouched: bool
    out_of_step: bool

    def verdict_for(self, work: Work) -> Verdict:
        """The verdict on those of ``work`` left undecided: with the dialogue if it was theirs."""
        return self.verdict if work is self.culprit else from_loss(self.lost.error, "", self.verdict.peer)


@dataclass(slots=True, eq=False)
class Flights:
    """The transactions of one link. ``works`` is shared with the caller: deliveries not yet settled, in order.

    ``more`` is asked for another delivery to the same destination when there is room beside those under way.
    """

    link: Link
    pace: Pace
    works: deque[Work]
    more: More
    _flying: dict[Transaction, _Flight] = field(default_factory=dict)
    _rode: bool = False
    _winding_up: bool = False

    def run(self) -> Generator[Any, Any, Broken | None]:
        """Deliver until all works are settled or the link has done what it may (None), or the session breaks."""
        while True:
            self._start_what_fits()
            if not self._flying:
                return None
            event = yield Exchange(self.link.stream, self.link.session)
            if isinstance(event, Answer):
                if event.transaction is not None:
                    self._flying[event.transaction].book.answered(event)
            elif isinstance(event, Finished):
                self._land(self._flying.pop(event.transaction))
            else:
                return self._break_off(event)

    # -------------------------------------------------------------- starting

    def _start_what_fits(self) -> None:
        while not self._winding_up and self._has_room():
            work = self._next_work()
            if work is None:
                return
            limit = self.link.capabilities.mail_max
            if limit and self.link.transactions >= limit:
                self._winding_up = True
                return
            self._start(work)

    def _has_room(self) -> bool:
        octets = sum(transaction.content.size for transaction in self._flying)
        return self.pace.room(self.link.capabilities, len(self._flying), octets)

    def _next_work(self) -> Work | None:
        """The first work with somebody to be sent; another delivery, if something is under way to ride behind."""
        while self.works and self.works[0].done:
            self.works.popleft()
        for work in self.works:
            if work.pending is None:
                self._prepare(work)
            if work.pending:
                return work
        if not self._flying:
            return None
        delivery = self.more()
        if delivery is None:
            return None
        self.works.append(Work(delivery))
        return self._next_work()

    def _prepare(self, work: Work) -> None:
        """Choose the content for this link, and settle what needs no word from the server."""
        message, ledger = work.delivery.message, work.delivery.ledger
        link = self.link
        work.pending = []
        try:
            work.content = message.content_for(link.capabilities)
        except ContentError as error:
            ledger.settle_all(ledger.unsettled, from_loss(error, "", None, level=Level.MESSAGE))
            return
        refusal = sender_refusal(message.envelope, link.capabilities) or size_refusal(work.content, link.capabilities)
        if refusal is not None:
            ledger.settle_all(ledger.unsettled, from_refusal(refusal, link.peer, level=Level.MESSAGE))
            return
        for index in ledger.unsettled:
            refusal = recipient_refusal(message.envelope.recipients[index], link.capabilities)
            if refusal is not None:
                ledger.settle(index, from_refusal(refusal, link.peer))
        work.pending = ledger.unsettled

    def _start(self, work: Work) -> None:
        """Plan a transaction for as many recipients as fit into one, and hand it to the session."""
        assert work.pending is not None
        assert work.content is not None
        link = self.link
        everybody = work.delivery.message.envelope.recipients
        limit = capacity([everybody[i] for i in work.pending], link.capabilities)
        batch, work.pending = work.pending[:limit], work.pending[limit:]
        envelope = replace(work.delivery.message.envelope, recipients=tuple(everybody[i] for i in batch))
        flow = self.pace.flow(link.capabilities, work.content.size)
        try:
            transaction = plan_transaction(envelope, work.content, link.capabilities, flow)
        except CommandError as error:  # a DSN wish or another parameter that must not reach the wire
            refusal = Refusal(EnhancedStatus(5, 5, 4), str(error))
            work.delivery.ledger.settle_all(batch, from_refusal(refusal, link.peer, level=Level.MESSAGE))
            return
        riding = bool(self._flying)
        self._rode = self._rode or riding
        book = TransactionBook(transaction, batch, work.delivery.ledger, link.peer, link.capabilities, riding=riding)
        self._flying[transaction] = _Flight(work, batch, book)
        link.transactions += 1
        link.session.transact(transaction)

    # --------------------------------------------------------------- landing

    def _land(self, flight: _Flight) -> None:
        """All replies to a transaction are in: who is to be sent again comes first again."""
        book, work = flight.book, flight.work
        if book.out_of_step:
            self.pace.got_out_of_step()
            self._winding_up = True  # on a clean session, and strictly
        elif book.put_off:
            self.pace.was_put_off()
        elif book.taken:
            self.pace.went_well()
        again = [index for index in flight.batch if index in work.delivery.ledger.unsettled]
        if again:
            work.pending = again + (work.pending or [])
        self.link.finished += 1

    def _break_off(self, lost: Lost) -> Broken:
        """The session is over: settle who is in doubt; everybody else stays open in the ledgers."""
        flight = self._flying.get(lost.transaction) if lost.transaction is not None else None
        for other in self._flying.values():
            other.book.lost(lost)
        if flight is None and self._flying:
            flight = next(iter(self._flying.values()))
        return Broken(
            lost,
            flight.book.loss_verdict(lost.error) if flight else from_loss(lost.error, "", self.link.peer),
            flight.work if flight is not None else None,
            untouched=flight is None or not flight.book.any_reply,
            out_of_step=self._rode,
        )
