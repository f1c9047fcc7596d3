"""Runs the transactions of one open session, as many at once as the peer's pace allows.

The session matches replies to transactions by position; each transaction has its own :class:`TransactionBook`, so that
a refusal of one does not affect the others. When the session breaks, recipients in doubt get their verdict, and all
other undecided ones are sent on the next link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import Scope, Verdict, from_loss, from_refusal
from zsmtp.delivery.pace import PeerPace
from zsmtp.delivery.sessionopener import OpenSession
from zsmtp.delivery.transaction import TransactionBook
from zsmtp.effects import AllowCompletion, Exchange, Operation
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
    """A delivery in progress: ``pending`` are the recipients to send on this link (None: not determined yet)."""

    delivery: Delivery
    pending: list[int] | None = None
    content: ContentForm | None = None

    @property
    def done(self) -> bool:
        """Whether every recipient has a verdict."""
        return self.delivery.ledger.settled

    def start_over(self) -> None:
        """Discard the content and state made for the previous link."""
        self.pending = None
        self.content = None


class _RunningTransaction(NamedTuple):
    """One transaction in progress."""

    work: PendingDelivery
    batch: list[int]
    book: TransactionBook
    octets: int


@dataclass(frozen=True, slots=True)
class SessionBroken:
    """A session that ended before its messages were answered.

    ``culprit`` is the work that awaited a reply, or whose content could not be read; ``untouched``: it had no reply
    yet; ``out_of_step``: pipelining probably caused the failure.
    """

    lost: Lost
    verdict: Verdict
    culprit: PendingDelivery | None
    untouched: bool
    out_of_step: bool

    def verdict_for(self, work: PendingDelivery) -> Verdict:
        """The verdict on the undecided recipients of ``work``; the culprit's includes the dialogue."""
        return self.verdict if work is self.culprit else from_loss(self.lost.error, "", self.verdict.peer)


@dataclass(slots=True, eq=False)
class Pipeline:
    """The transactions of one link. ``works`` are the unsettled deliveries in order, shared with the caller.

    ``more`` is called for another delivery to the same destination when there is room beside those in progress. With
    ``asks``, :class:`~zsmtp.effects.AllowCompletion` is awaited before a transaction may become complete.
    """

    link: OpenSession
    pace: PeerPace
    works: deque[PendingDelivery]
    more: More
    observer: Observer = ignore
    asks: bool = False
    _running: dict[Transaction, _RunningTransaction] = field(default_factory=dict)
    _octets: int = 0  # of content in progress
    _to_start: deque[PendingDelivery] = field(default_factory=deque)  # works that may have pending recipients
    _preparing: tuple[PendingDelivery, Operation[ContentForm | LocalRefusal]] | None = None
    _pipelined: bool = False
    _winding_up: bool = False
    _capabilities: Capabilities = field(default_factory=Capabilities)  # capabilities to use

    async def run(self) -> SessionBroken | None:
        """Deliver until all works are settled or the link must take no more (None), or the session breaks."""
        self._capabilities = self.pace.usable(self.link.capabilities)
        self._to_start = deque(self.works)
        self._start_what_fits()
        session = self.link.session
        session.asks_before_completion = self.asks
        exchange: Exchange[SessionEvent] = Exchange(self.link.stream, session)
        running = self._running
        while running or self._preparing is not None:
            if self._preparing is not None:
                await self._finish_preparing(*self._preparing)
                self._start_what_fits()
                continue
            event = session.next_event()
            if event is None:
                event = await exchange
            if isinstance(event, StepAnswered):
                if (transaction := event.transaction) is not None:
                    running[transaction].book.answered(event)
            elif isinstance(event, Finished):
                self._finish(running.pop(event.transaction), event.transaction)
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
        """A transaction's delivery, and its recipients without a verdict."""
        running = self._running[transaction]
        undecided = running.work.delivery.ledger.unsettled
        return running.work.delivery, tuple(index for index in running.batch if index in undecided)

    # -------------------------------------------------------------- starting

    def _start_what_fits(self) -> None:
        while not self._winding_up and self.pace.room(
            self._capabilities, len(self._running), self._octets, earned=self.link.standing.earned
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
        """The first work with pending recipients; another delivery, if it can be pipelined behind one in progress."""
        while self.works and self.works[0].done:
            self.works.popleft()
        while True:
            while self._to_start:
                work = self._to_start[0]
                if not self.link.is_fit_for(work.delivery.message.envelope):
                    self._winding_up = True  # it needs another session, and the works behind it keep their order
                    return None
                if work.pending is None:
                    self._prepare(work)
                    if self._preparing is not None:
                        return None
                if work.pending:
                    return work
                self._to_start.popleft()
            delivery = self.more() if self._running else None
            if delivery is None:
                return None
            work = PendingDelivery(delivery)
            self.works.append(work)
            self._to_start.append(work)

    def _prepare(self, work: PendingDelivery) -> None:
        """Choose the content for this link, or begin the work that does."""
        ledger = work.delivery.ledger
        work.pending = []
        refusal = options_refusal(work.delivery.message.envelope.options, self._capabilities)
        if refusal is not None:
            ledger.settle_all(ledger.unsettled, from_refusal(refusal, self.link.peer, level=Scope.MESSAGE))
            return
        try:
            content = work.delivery.message.content_for(self._capabilities)
        except ContentError as error:
            _cannot_be_read(work, error)
            return
        if isinstance(content, (ContentForm, LocalRefusal)):
            self._prepared(work, content)
        else:
            self._preparing = work, content

    async def _finish_preparing(self, work: PendingDelivery, choosing: Operation[ContentForm | LocalRefusal]) -> None:
        """Go through with the work that chooses a content."""
        try:
            content = await choosing
        except ContentError as error:
            _cannot_be_read(work, error)
        else:
            self._prepared(work, content)
        finally:
            self._preparing = None

    def _prepared(self, work: PendingDelivery, content: ContentForm | LocalRefusal) -> None:
        """Settle what needs no word from the server; the others are to be sent ``content``."""
        message, ledger, link = work.delivery.message, work.delivery.ledger, self.link
        pending: list[int] = []
        refusal: LocalRefusal | None
        refusal = sender_refusal(message.envelope, self._capabilities)
        if refusal is None:
            refusal = content if isinstance(content, LocalRefusal) else size_refusal(content, self._capabilities)
        if refusal is not None:
            ledger.settle_all(ledger.unsettled, from_refusal(refusal, link.peer, level=Scope.MESSAGE))
            return
        assert isinstance(content, ContentForm)
        work.content = content
        if self.observer is not ignore:
            for text in left_out(message.envelope.options, self._capabilities):
                self.observer(Remark(text, About.DELIVERY, message.envelope))
        for index in ledger.unsettled:
            refusal = recipient_refusal(message.envelope.recipients[index], self._capabilities)
            if refusal is None:
                pending.append(index)
            else:
                ledger.settle(index, from_refusal(refusal, link.peer))
        work.pending = pending

    def _start(self, work: PendingDelivery) -> None:
        """Plan a transaction for as many recipients as fit into one, and queue it in the session."""
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
        except CommandError as error:  # a DSN parameter or another one that must not be sent
            refusal = LocalRefusal(EnhancedStatus(5, 5, 4), str(error))
            work.delivery.ledger.settle_all(batch, from_refusal(refusal, link.peer, level=Scope.MESSAGE))
            return
        pipelined = bool(self._running)
        self._pipelined = self._pipelined or pipelined
        book = TransactionBook(
            transaction, batch, work.delivery.ledger, link.peer, self._capabilities, pipelined=pipelined
        )
        self._running[transaction] = _RunningTransaction(work, batch, book, work.content.size)
        self._octets += work.content.size
        link.transactions += 1
        if self.observer is not ignore:
            self.observer(TransactionStarted(work.delivery, transaction, tuple(batch), pipelined))
        link.session.transact(transaction)

    # ------------------------------------------------------------- finishing

    def _finish(self, running: _RunningTransaction, transaction: Transaction) -> None:
        """Finish a transaction with all its replies; recipients to send again go first."""
        book, work = running.book, running.work
        self._octets -= running.octets
        if book.out_of_step:
            self.pace.got_out_of_step(within_group=not book.pipelined)
            self._winding_up = book.pipelined  # continue on a new session, without pipelining
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
        again = [] if work.done else [index for index in work.delivery.ledger.unsettled if index in running.batch]
        if again:
            work.pending = [*again, *(work.pending or ())]
            if work not in self._to_start:
                self._to_start.appendleft(work)
        self.link.finished += 1

    def _out_of_step(self, lost: Lost, at_work: TransactionBook | None) -> bool:
        """Whether pipelining probably caused the session to end; the mail is sent again then."""
        if any(running.book.out_of_step for running in self._running.values()):
            return True
        if isinstance(lost.error, WaitTimeout):
            return at_work is not None and at_work.left_waiting(lost)
        nonsense = not lost.in_step or isinstance(lost.error, ReplyError)
        return nonsense and self._pipelined and not (at_work is not None and at_work.cut_short)

    def _break_off(self, lost: Lost) -> SessionBroken:
        """Handle the end of the session: settle recipients in doubt; all others stay open in the ledgers."""
        if not isinstance(lost.error, (Interrupted, ContentError)):
            self.pace.broke_off(self.link.finished)
        running = self._running.get(lost.transaction) if lost.transaction is not None else None
        for transaction, other in self._running.items():
            other.book.lost(lost)
            if self.observer is not ignore:
                self.observer(TransactionEnded(transaction))
        if running is None and self._running:
            running = next(iter(self._running.values()))
        out_of_step = self._out_of_step(lost, running.book if running is not None else None)
        if out_of_step or not lost.in_step:
            behind_content = self._pipelined or (lost.step is not None and lost.step.phase is RSET)
            self.pace.got_out_of_step(within_group=not behind_content)
        return SessionBroken(
            lost,
            running.book.loss_verdict(lost) if running else from_loss(lost.error, "", self.link.peer),
            running.work if running is not None else None,
            untouched=running is None or not running.book.replies,
            out_of_step=out_of_step,
        )


def _cannot_be_read(work: PendingDelivery, error: ContentError) -> None:
    """The verdict on a message whose content cannot be read on this side."""
    ledger = work.delivery.ledger
    ledger.settle_all(ledger.unsettled, from_loss(error, "", None, level=Scope.MESSAGE))
