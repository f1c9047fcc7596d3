"""One message's way over a route: sessions, transactions, and what to do when one of them breaks.

:meth:`Courier.deliver` is a generator of effects. It walks the plan: opens a session unless the route has one, runs as
many transactions as the recipients need, and after a 421 or a lost connection tries the next candidate at once with
those nobody decided about. It returns when every recipient of the ledger is settled, whatever happened.

RFC 5321 3.3 is the transaction, 4.5.3.1.10 the second one for recipients that were too many, 5.1 the next candidate.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from zsmtp.delivery.envelope import Message
from zsmtp.delivery.opening import Link, Opener
from zsmtp.delivery.outcome import (
    Fate,
    Level,
    Verdict,
    from_loss,
    from_no_route,
    from_refusal,
    next_candidate_may_help,
)
from zsmtp.delivery.pool import Route
from zsmtp.delivery.report import Ledger
from zsmtp.delivery.settings import SessionSettings
from zsmtp.delivery.transaction import TransactionBook
from zsmtp.dns.destination import plan_destination
from zsmtp.dns.plan import Endpoint, Plan
from zsmtp.errors import CommandError, ConnectionLost, ContentError, Interrupted
from zsmtp.events import Closed, Detail, Observer, Remark, ignore
from zsmtp.net.effects import Close, Exchange
from zsmtp.proto import command
from zsmtp.proto.phase import Phase, Result
from zsmtp.proto.plan import (
    ContentForm,
    Refusal,
    capacity,
    plan_transaction,
    recipient_refusal,
    sender_refusal,
    size_refusal,
)
from zsmtp.proto.session import Answer, Lost
from zsmtp.proto.status import EnhancedStatus

IDLE_LIMIT = 20.0  # seconds of rest after which a connection is asked with RSET whether it still lives


@dataclass(frozen=True, slots=True)
class _Broken:
    """A session that ended under a message. ``untouched``: before any reply to this message's commands came."""

    lost: Lost
    verdict: Verdict
    untouched: bool


class Courier:
    """Delivers messages over routes, as ``settings`` say. Its methods are generators of effects."""

    def __init__(self, settings: SessionSettings, observer: Observer = ignore) -> None:
        self._opener = Opener(settings, observer)
        self._observe = observer

    def open(self, route: Route, skip: set[Endpoint] | None = None) -> Generator[Any, Any, Verdict | None]:
        """See that ``route`` has an open session; a verdict if it cannot have one.

        ``skip`` are endpoints not to be tried. A route without a link is planned anew: answers are cached by the
        resolver for as long as they hold.
        """
        if route.link is not None:
            return None
        if skip is None or route.plan is None:
            route.plan = yield from plan_destination(route.request)
            self._tell(route.plan)
        failure = from_no_route(route.plan.failure) if route.plan.failure is not None else None
        if failure is None:
            opened = yield from self._opener.open(route.plan, skip or set())
            if isinstance(opened, Link):
                route.link, route.failure = opened, None
                return None
            failure = opened
        route.failure = failure if failure.level is Level.HOST else None
        return failure

    def deliver(
        self, route: Route, message: Message, ledger: Ledger, *, idle: float = 0.0
    ) -> Generator[Any, Any, None]:
        """Deliver to every recipient that ``ledger`` has open; ``idle`` is for how many seconds the link has rested."""
        skip: set[Endpoint] | None = None
        last: Verdict | None = None
        while ledger.unsettled:
            reused = route.link is not None
            if last is not None and route.plan is not None and route.plan.exhausted(skip or set()):
                ledger.settle_all(ledger.unsettled, last)
                return
            failure = yield from self.open(route, skip)
            if failure is not None or route.link is None:
                assert failure is not None
                # A candidate that broke off before did not refuse for good, whatever the remaining ones say.
                final = last if last is not None and failure.fate is Fate.FAILED else failure
                ledger.settle_all(ledger.unsettled, final)
                return
            link = route.link
            broken = yield from self._over(route, link, message, ledger, idle if reused else 0.0)
            if broken is None:
                continue
            yield from self._drop(route, str(broken.lost.error))
            last = broken.verdict
            stale = reused and broken.untouched and not isinstance(broken.lost.error, (Interrupted, ContentError))
            if not (stale or next_candidate_may_help(broken.lost.error)):
                ledger.settle_all(ledger.unsettled, last)
                return
            if not reused:
                skip = (skip or set()) | {link.peer.endpoint}

    def deliver_on_link(self, route: Route, message: Message, ledger: Ledger) -> Generator[Any, Any, None]:
        """Deliver over the link that is open, and over no other: whom it leaves undecided is deferred."""
        if route.link is not None:
            broken = yield from self._over(route, route.link, message, ledger, 0.0)
            if broken is not None:
                yield from self._drop(route, str(broken.lost.error))
                ledger.settle_all(ledger.unsettled, broken.verdict)
        gone = ConnectionLost("the connection that serves this destination is gone")
        ledger.settle_all(ledger.unsettled, from_loss(gone, "", None))

    def close(self, route: Route, reason: str) -> Generator[Any, Any, None]:
        """End the route's session with QUIT, if there is one. Nothing that happens now changes a verdict."""
        link = route.link
        if link is None:
            return
        if link.session.lost is None:
            link.session.command(Phase.QUIT, command.QUIT)
            while link.session.lost is None and (yield Exchange(link.stream, link.session)) is not None:
                pass
        yield from self._drop(route, reason)

    def keep_alive(self, route: Route) -> Generator[Any, Any, None]:
        """Send NOOP on an idle link, and drop the link quietly if that fails."""
        link = route.link
        if link is not None and (yield from self._ask(link, Phase.NOOP, command.NOOP)) is not None:
            yield from self._drop(route, "no answer to NOOP")

    # ------------------------------------------------------------ on one link

    def _over(
        self, route: Route, link: Link, message: Message, ledger: Ledger, idle: float
    ) -> Generator[Any, Any, _Broken | None]:
        """Run transactions until all are settled, the link breaks, or the link has done what it may."""
        try:
            content = message.content_for(link.capabilities)
        except ContentError as error:
            verdict = from_loss(error, "", None, level=Level.MESSAGE)
            ledger.settle_all(ledger.unsettled, verdict)
            return None
        self._refuse_here(link, message, content, ledger)
        if idle > IDLE_LIMIT:
            link.needs_reset = True
        pending = ledger.unsettled
        while pending:
            if link.capabilities.mail_max and link.transactions >= link.capabilities.mail_max:
                yield from self.close(route, "LIMITS MAILMAX reached")
                return None
            if link.needs_reset:
                lost = yield from self._ask(link, Phase.RSET, command.RSET)
                if lost is not None:
                    return _Broken(lost, from_loss(lost.error, "", link.peer), untouched=True)
                link.needs_reset = False
            recipients = message.envelope.recipients
            batch = pending[: capacity([recipients[i] for i in pending], link.capabilities)]
            outcome = yield from self._transaction(link, message, content, batch, ledger)
            if isinstance(outcome, _Broken):
                return outcome
            pending = outcome + pending[len(batch) :]
        return None

    def _transaction(
        self, link: Link, message: Message, content: ContentForm, batch: list[int], ledger: Ledger
    ) -> Generator[Any, Any, _Broken | list[int]]:
        """One transaction for the recipients ``batch``; those to be sent in another one are returned."""
        envelope = message.envelope
        envelope = replace(envelope, recipients=tuple(envelope.recipients[i] for i in batch))
        try:
            transaction = plan_transaction(envelope, content, link.capabilities)
        except CommandError as error:  # a DSN wish or another parameter that must not reach the wire
            refusal = Refusal(EnhancedStatus(5, 5, 4), str(error))
            ledger.settle_all(batch, from_refusal(refusal, link.peer, level=Level.MESSAGE))
            return []
        book = TransactionBook(transaction, batch, ledger, link.peer, link.capabilities)
        link.transactions += 1
        link.session.transact(transaction)
        while True:
            event = yield Exchange(link.stream, link.session)
            if isinstance(event, Answer):
                book.answered(event)
            elif isinstance(event, Lost):
                book.lost(event)
                return _Broken(event, book.loss_verdict(event.error), untouched=not book.any_reply)
            else:
                link.needs_reset = not event.completed
                return book.again

    def _ask(self, link: Link, phase: Phase, wire: bytes) -> Generator[Any, Any, Lost | None]:
        """Send one command; None if it was answered well, else what to take for the end of the session."""
        link.session.command(phase, wire)
        event = yield Exchange(link.stream, link.session)
        if isinstance(event, Lost):
            return event
        if event.result is not Result.SUCCESS:
            return Lost(ConnectionLost(f"{phase.value} was refused: {event.reply}"))
        return None

    def _refuse_here(self, link: Link, message: Message, content: ContentForm, ledger: Ledger) -> None:
        """Settle what needs no word from the server: bad addresses, a message over the server's size limit."""
        capabilities = link.capabilities
        refusal = sender_refusal(message.envelope, capabilities) or size_refusal(content, capabilities)
        if refusal is not None:
            ledger.settle_all(ledger.unsettled, from_refusal(refusal, link.peer, level=Level.MESSAGE))
            return
        for index in ledger.unsettled:
            refusal = recipient_refusal(message.envelope.recipients[index], capabilities)
            if refusal is not None:
                ledger.settle(index, from_refusal(refusal, link.peer))

    def _drop(self, route: Route, reason: str) -> Generator[Any, Any, None]:
        link, route.link = route.link, None
        if link is not None:
            yield Close(link.stream)
            self._observe(Closed(reason))

    def _tell(self, plan: Plan) -> None:
        for answer in plan.lookups:
            records = ", ".join(str(record) for record in answer.records[:20])
            self._observe(Detail(f"DNS {answer.query.name} {answer.query.type.value}: {answer.status.value} {records}"))
        for note in plan.notes:
            self._observe(Detail(note))
        if plan.failure is not None:
            self._observe(Remark(plan.failure.text))
