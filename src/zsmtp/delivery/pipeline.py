"""Messages under way on one link: started as far ahead as the peer's pace allows, landed as their replies come in.

:class:`Pipeline` runs the transactions of one open session. Replies are matched to transactions by the session, by
position; here each transaction has its own books, so that a refusal in the middle of a flight shifts nothing. When the
session breaks, those in doubt get their verdict, and everybody else goes back to be sent on the next link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import Scope, Verdict, from_loss, from_refusal
from zsmtp.delivery.pace import PeerPace
from zsmtp.delivery.sessionopener import OpenSession
from zsmtp.delivery.transaction import TransactionBook
from zsmtp.effects import AllowCompletion, Exchange
from zsmtp.errors import CommandError, ContentError, Interrupted, LocalError, ReplyError, WaitTimeout
from zsmtp.events import About, Observer, Remark, TransactionEnded, TransactionStarted, ignore
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import RSET
from zsmtp.proto.plan import (
    ContentForm,
    Flow,
    LocalRefusal,
    Transaction,
    capacity,
    left_out,
    options_refusal,
    plan_transaction,
    recipient_refusal,
    sender_refusal,
    size_refusal,
)
from zsmtp.proto.session import CompletionDue, Finished, Lost, SessionEvent, StepAnswered
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import NamedTuple, dataclass, field

More = Callable[[], Delivery | None]


@dataclass(slots=True, eq=False)
class PendingDelivery:
    """A delivery on its way: ``pending`` are the recipients to be sent on this link, once it is known (None)."""

    delivery: Delivery
    pending: list[int] | None = None
    content: ContentForm | None = None

    @property
    def done(self) -> bool:
        """Whether everybody has a verdict."""
        return self.delivery.ledger.settled

    def start_over(self) -> None:
        """Forget what was made for the link before."""
        self.pending = None
        self.content = None


class _Flight(NamedTuple):
    """One transaction under way."""

    work: PendingDelivery
    batch: list[int]
    book: TransactionBook
    octets: int


@dataclass(frozen=True, slots=True)
class SessionBroken:
    """A session that ended under its messages.

    ``culprit`` is the work whose reply was waited for, or whose content could not be read; ``untouched`` tells that no
    reply to it had come, ``out_of_step`` that it may be the peer's trouble with commands that ran ahead.
    """

    lost: Lost
    verdict: Verdict
    culprit: PendingDelivery | None
    untouched: bool
    out_of_step: bool

    def verdict_for(self, work: PendingDelivery) -> Verdict:
        """The verdict on those of ``work`` left undecided: with the dialogue if it was theirs."""
        return self.verdict if work is self.culprit else from_loss(self.lost.error, "", self.verdict.peer)


@dataclass(slots=True, eq=False)
class Pipeline:
    """The transactions of one link. ``works`` is shared with the caller: deliveries not yet settled, in order.

    ``more`` is asked for another delivery to the same destination when there is room beside those under way. ``asks``
    has leave asked for before a transaction may become complete (:class:`~zsmtp.effects.AllowCompletion`).
    """

    link: OpenSession
    pace: PeerPace
    works: deque[PendingDelivery]
    more: More
    observer: Observer = ignore
    asks: bool = False
    _flying: dict[Transaction, _Flight] = field(default_factory=dict)
    _octets: int = 0  # of content under way
    _to_start: deque[PendingDelivery] = field(default_factory=deque)  # works that may have somebody pending
    _rode: bool = False
    _winding_up: bool = False
    _capabilities: Capabilities = field(default_factory=Capabilities)  # those to be used

    async def run(self) -> SessionBroken | None:
        """Deliver until all works are settled or the link has done what it may (None), or the session breaks."""
        self._capabilities = self.pace.usable(self.link.capabilities)
        self._to_start = deque(self.works)
        self._start_what_fits()
        session = self.link.session
        session.asks_before_completion = self.asks
        exchange: Exchange[SessionEvent] = Exchange(self.link.stream, session)
        flying = self._flying
        while flying:
            event = session.next_event()
            if event is None:
                event = await exchange
            if isinstance(event, StepAnswered):
                if (transaction := event.transaction) is not None:
                    flying[transaction].book.answered(event)
            elif isinstance(event, Finished):
                self._land(flying.pop(event.transaction), event.transaction)
                if self.observer is not ignore:
                    self.observer(TransactionEnded(event.transaction))
                self._start_what_fits()
            elif isinstance(event, CompletionDue):
                if await AllowCompletion(tuple(map(self._asked_for, event.transactions))):
                    session.allow_completion(event.transactions)
                else:
                    session.fail(Interrupted("this side may not complete the message now"))
            elif isinstance(event, Lost):
                return self._break_off(event)
            else:
                raise LocalError("transactions are under way, and their session waits for nothing")
        return None

    def _asked_for(self, transaction: Transaction) -> tuple[Delivery, tuple[int, ...]]:
        """A delivery with those recipients of a transaction who have no verdict."""
        flight = self._flying[transaction]
        undecided = flight.work.delivery.ledger.unsettled
        return flight.work.delivery, tuple(index for index in flight.batch if index in undecided)

    # -------------------------------------------------------------- starting

    def _start_what_fits(self) -> None:
        while not self._winding_up and self.pace.room(
            self._capabilities, len(self._flying), self._octets, earned=self.link.standing.earned
        ):
            work = self._next_work()
            if work is None:
                return
            limit = self._capabilities.mail_max
            if limit and self.link.transactions >= limit:
                self._winding_up = True
                return
            self._start(work)

    def _next_work(self) -> PendingDelivery | None:
        """The first work with somebody to be sent; another delivery, if something is under way to ride behind."""
        while self.works and self.works[0].done:
            self.works.popleft()
        while True:
            while self._to_start:
                work = self._to_start[0]
                if not self.link.is_fit_for(work.delivery.message.envelope):
                    self._winding_up = True  # it needs a session of its own, and what came behind it keeps its place
                    return None
                if work.pending is None:
                    self._prepare(work)
                if work.pending:
                    return work
                self._to_start.popleft()
            delivery = self.more() if self._flying else None
            if delivery is None:
                return None
            work = PendingDelivery(delivery)
            self.works.append(work)
            self._to_start.append(work)

    def _prepare(self, work: PendingDelivery) -> None:
        """Choose the content for this link, and settle what needs no word from the server."""
        message, ledger = work.delivery.message, work.delivery.ledger
        link, options = self.link, work.delivery.message.envelope.options
        work.pending = []
        refusal = options_refusal(options, self._capabilities)
        if refusal is not None:
            ledger.settle_all(ledger.unsettled, from_refusal(refusal, link.peer, level=Scope.MESSAGE))
            return
        try:
            content = message.content_for(self._capabilities)
        except ContentError as error:
            ledger.settle_all(ledger.unsettled, from_loss(error, "", None, level=Scope.MESSAGE))
            return
        refusal = sender_refusal(message.envelope, self._capabilities)
        if refusal is None:
            refusal = content if isinstance(content, LocalRefusal) else size_refusal(content, self._capabilities)
        if refusal is not None:
            ledger.settle_all(ledger.unsettled, from_refusal(refusal, link.peer, level=Scope.MESSAGE))
            return
        assert isinstance(content, ContentForm)
        work.content = content
        if self.observer is not ignore:
            for text in left_out(options, self._capabilities):
                self.observer(Remark(text, About.DELIVERY, message.envelope))
        for index in ledger.unsettled:
            refusal = recipient_refusal(message.envelope.recipients[index], self._capabilities)
            if refusal is None:
                work.pending.append(index)
            else:
                ledger.settle(index, from_refusal(refusal, link.peer))

    def _start(self, work: PendingDelivery) -> None:
        """Plan a transaction for as many recipients as fit into one, and hand it to the session."""
        assert work.pending is not None
        assert work.content is not None
        link = self.link
        everybody = work.delivery.message.envelope.recipients
        limit = capacity([everybody[i] for i in work.pending], self._capabilities)
        batch, work.pending = work.pending[:limit], work.pending[limit:]
        envelope = work.delivery.message.envelope
        if len(batch) < len(everybody):
            envelope = envelope._replace(recipients=tuple(everybody[i] for i in batch))
        course = self.pace.course(work.content, self._capabilities, len(batch), link.standing)
        try:
            transaction = plan_transaction(envelope, course.content, course.capabilities, course.flow)
        except CommandError as error:  # a DSN wish or another parameter that must not reach the wire
            refusal = LocalRefusal(EnhancedStatus(5, 5, 4), str(error))
            work.delivery.ledger.settle_all(batch, from_refusal(refusal, link.peer, level=Scope.MESSAGE))
            return
        riding = bool(self._flying)
        self._rode = self._rode or riding
        book = TransactionBook(transaction, batch, work.delivery.ledger, link.peer, self._capabilities, riding=riding)
        self._flying[transaction] = _Flight(work, batch, book, work.content.size)
        self._octets += work.content.size
        link.transactions += 1
        if self.observer is not ignore:
            self.observer(TransactionStarted(work.delivery, transaction, tuple(batch), riding))
        link.session.transact(transaction)

    # --------------------------------------------------------------- landing

    def _land(self, flight: _Flight, transaction: Transaction) -> None:
        """All replies to a transaction are in: who is to be sent again comes first again."""
        book, work = flight.book, flight.work
        self._octets -= flight.octets
        if book.out_of_step:
            self.pace.got_out_of_step(within_group=not book.riding)
            self._winding_up = book.riding  # on a clean session, and strictly
            self._capabilities = self.pace.usable(self.link.capabilities)
        elif book.put_off:
            self.pace.was_put_off()
        elif book.taken:
            self.pace.went_well(self.link.finished)
        if book.content_answered and not book.out_of_step:
            if transaction.confirmed and not book.taken:
                self.pace.refused_chunk(transaction.content)
            if transaction.flow is not Flow.BLIND:
                self.link.standing = self.link.standing._replace(earned=True)
        again = [] if work.done else [index for index in work.delivery.ledger.unsettled if index in flight.batch]
        if again:
            work.pending = [*again, *(work.pending or ())]
            if work not in self._to_start:
                self._to_start.appendleft(work)
        self.link.finished += 1

    def _out_of_step(self, lost: Lost, at_work: TransactionBook | None) -> bool:
        """Whether it may be for commands that ran ahead that the session ended: the mail is to be sent again then."""
        if any(flight.book.out_of_step for flight in self._flying.values()):
            return True
        if isinstance(lost.error, WaitTimeout):
            return at_work is not None and at_work.left_waiting(lost)
        nonsense = not lost.in_step or isinstance(lost.error, ReplyError)
        return nonsense and self._rode and not (at_work is not None and at_work.cut_short)

    def _break_off(self, lost: Lost) -> SessionBroken:
        """The session is over: settle who is in doubt; everybody else stays open in the ledgers."""
        if not isinstance(lost.error, (Interrupted, ContentError)):
            self.pace.broke_off(self.link.finished)
        flight = self._flying.get(lost.transaction) if lost.transaction is not None else None
        for transaction, other in self._flying.items():
            other.book.lost(lost)
            if self.observer is not ignore:
                self.observer(TransactionEnded(transaction))
        if flight is None and self._flying:
            flight = next(iter(self._flying.values()))
        out_of_step = self._out_of_step(lost, flight.book if flight is not None else None)
        if out_of_step or not lost.in_step:
            behind_content = self._rode or (lost.step is not None and lost.step.phase is RSET)
            self.pace.got_out_of_step(within_group=not behind_content)
        return SessionBroken(
            lost,
            flight.book.loss_verdict(lost) if flight else from_loss(lost.error, "", self.link.peer),
            flight.work if flight is not None else None,
            untouched=flight is None or not flight.book.replies,
            out_of_step=out_of_step,
        )
