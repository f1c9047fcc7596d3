"""Delivers messages over a route: opens sessions, and continues after one of them breaks.

:meth:`Courier.deliver` awaits effects. It follows the plan: opens a session unless the route has one, sends the
messages over it (``zsmtp.delivery.pipeline``), and after a 421 or a lost connection tries the next candidate at once
with the undecided recipients. It returns when every recipient of every ledger is settled, after any failure, too.

RFC 5321 3.3 is the transaction, 4.5.3.1.10 the second one for surplus recipients, 5.1 the next candidate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsmtp.delivery.announce import announce, announcing, with_fetch_events
from zsmtp.delivery.backoff import AddressBackoff
from zsmtp.delivery.deliveryplan import DeliveryPlan, plan_delivery, plan_protection
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import (
    Disposition,
    Scope,
    Verdict,
    from_loss,
    from_no_route,
    next_candidate_may_help,
)
from zsmtp.delivery.pace import PeerPace
from zsmtp.delivery.pipeline import More, PendingDelivery, Pipeline, SessionBroken
from zsmtp.delivery.pool import Route
from zsmtp.delivery.reasons import reason_of
from zsmtp.delivery.sessionopener import OpenSession, SessionOpener, next_reply, say_quit
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.candidates import Endpoint
from zsmtp.effects import Close, Operation, ReadStop
from zsmtp.errors import ConnectionLost, ContentError, Interrupted
from zsmtp.events import (
    About,
    Closed,
    Decision,
    DeliveryReturned,
    Detail,
    Observer,
    PlanMade,
    Remark,
    ignore,
    is_observed,
)
from zsmtp.proto import command
from zsmtp.proto.phase import Phase, ReplyMeaning
from zsmtp.proto.plan import TLSDemand
from zsmtp.proto.session import Lost

if TYPE_CHECKING:
    from zsmtp.delivery.gate import ConnectionGate

IDLE_LIMIT = 20.0  # seconds of idleness after which RSET tests whether a connection is still open
MAX_PACES = 1000  # peers whose pace is remembered


Returns = Callable[[Delivery, Verdict], bool]
"""Called before the undecided recipients of a delivery get a verdict without a server's reply: no session could be
opened, or a stop was requested. The verdict is the one they would get, with the level of that failure. True takes the
delivery back: its ledger stays open, and the caller sends it again."""


def no_more() -> Delivery | None:
    """Default for ``more``: there are no further deliveries."""
    return None


def settle(delivery: Delivery, verdict: Verdict) -> bool:
    """Default for ``returns``: every delivery is settled."""
    return False


def _settle_all(works: deque[PendingDelivery], verdict: Verdict) -> None:
    for work in works:
        work.delivery.ledger.settle_all(work.delivery.ledger.unsettled, verdict)


def _settle_lost(works: deque[PendingDelivery], broken: SessionBroken) -> None:
    for work in works:
        work.delivery.ledger.settle_all(work.delivery.ledger.unsettled, broken.verdict_for(work))


def _start_over(works: deque[PendingDelivery]) -> None:
    """Discard the content made for the ended session: the next server may have other capabilities."""
    for work in works:
        work.start_over()


def _why_again(broken: SessionBroken, *, reused: bool) -> str:
    if broken.out_of_step:
        return "replies do not match the pipelined commands: undecided recipients are sent again, step by step"
    if reused and broken.untouched:
        return "the kept connection no longer worked: sent again on a new one"
    return f"undecided recipients are sent again at once on another session: {broken.lost.error}"


class Courier:
    """Delivers messages over routes, with ``settings``. Its methods await effects.

    ``unreached`` remembers addresses that did not answer; several couriers may share it. They may also share a
    ``gate``, which decides before each connection (``zsmtp.delivery.gate``); without one no connection waits.
    """

    def __init__(
        self,
        settings: SessionSettings,
        observer: Observer = ignore,
        unreached: AddressBackoff | None = None,
        gate: ConnectionGate | None = None,
    ) -> None:
        self._security = settings.security
        self._opener = SessionOpener(settings, observer, unreached, gate)
        self._observe = observer
        self._paces: dict[Endpoint, PeerPace] = {}

    async def open(
        self, route: Route, skip: set[Endpoint] | None = None, wish: TLSDemand = TLSDemand.NONE
    ) -> Verdict | None:
        """Open a session of ``route`` unless it has one; returns a verdict if that fails.

        ``skip`` are endpoints not to try, ``wish`` is the sender's TLS demand. A route without a link is planned again,
        unless it was given its plan: the resolver caches answers for their TTL.
        """
        if route.link is not None:
            return None
        before = route.plan if skip is not None else None
        plan = before or await self._plan(route, wish)
        route.plan = plan.for_wish(wish)
        if route.plan is not before and self._observe is not ignore:
            self._report_plan(route.plan)
        no_route = route.plan.route.failure
        failure = from_no_route(no_route) if no_route is not None else None
        if failure is None:
            place = (route.request.destination, route.request.port)
            opened = await self._opener.open(route.plan, skip or set(), place)
            if isinstance(opened, OpenSession):
                route.link, route.failure = opened, None
                route.opened()
                return None
            failure = opened
        if failure.fate is Disposition.DEFERRED:
            stopped = await ReadStop()
            if stopped and (failure.level is Scope.HOST or stopped not in failure.text):
                failure = from_loss(Interrupted(stopped), failure.text, failure.peer)  # no failure of the host
        route.failure = failure if failure.level is Scope.HOST else None
        return failure

    async def deliver(
        self,
        route: Route,
        delivery: Delivery,
        more: More = no_more,
        *,
        idle: float = 0.0,
        returns: Returns = settle,
        asks: bool = False,
    ) -> None:
        """Deliver to every open recipient of the delivery's ledger, and the further deliveries of ``more``.

        ``more`` is called for further deliveries to the same destination as long as they can be pipelined; it returns
        None when there is none now. ``idle`` is for how many seconds the route's link was idle. ``returns`` may take
        undecided deliveries back. With ``asks``, ``AllowCompletion`` is awaited before a message may be complete.
        """
        if is_observed(self._observe):
            more = announcing(self._observe, more, route.request.destination)
            announce(self._observe, delivery, route.request.destination)
        works = deque([PendingDelivery(delivery)])
        skip: set[Endpoint] | None = None
        last: SessionBroken | None = None
        while works:
            envelope = works[0].delivery.message.envelope
            if route.link is not None and not route.link.is_fit_for(envelope):
                await self.close(route, "the next message asks for more of a session")
            link = route.link
            reused = link is not None
            if last is not None and route.plan is not None and not route.plan.route.left(skip or set()):
                _settle_lost(self._not_returned(deque([works.popleft()]), last.verdict_for, returns), last)
                skip = last = None  # the other endpoints were not tried yet
                continue
            failure = await self.open(route, skip, envelope.wish)
            link = route.link
            if failure is not None or link is None:
                assert failure is not None
                works = self._without_session(route, works, failure, last, returns)
                skip = last = None
                continue
            first = works[0]
            broken = await self._over(link, works, more, idle if reused else 0.0, asks=asks)
            while works and works[0].done:
                works.popleft()
            if works and works[0] is not first:
                skip = last = None  # failures of one message do not count for the next
            if broken is None:
                if works:
                    await self.close(route, "to go on with a new session")
                _start_over(works)
                continue
            fresh = not reused and link.finished == 0 and not first.done
            await self._drop(route, str(broken.lost.error))
            if not self._try_again(works, broken, link, returns, reused=not fresh):
                return
            last = broken
            if fresh and next_candidate_may_help(broken.lost.error):
                skip = (skip or set()) | {link.peer.endpoint}
            if self._observe is not ignore:
                self._observe(Decision(About.DELIVERY, _why_again(broken, reused=not fresh)))
            _start_over(works)

    async def deliver_on_link(self, route: Route, delivery: Delivery) -> None:
        """Deliver over the open link only: recipients that it leaves undecided are deferred."""
        if is_observed(self._observe):
            announce(self._observe, delivery, route.request.destination)
        works = deque([PendingDelivery(delivery)])
        if route.link is not None:
            broken = await self._over(route.link, works, no_more, 0.0)
            if broken is not None:
                _settle_lost(works, broken)
                await self._drop(route, str(broken.lost.error))
        gone = ConnectionLost("the connection that serves this destination is lost")
        _settle_all(works, from_loss(gone, "", None))

    async def close(self, route: Route, reason: str) -> None:
        """End the route's session with QUIT, if there is one. Failures no longer change a verdict."""
        link = route.link
        if link is None:
            return
        if link.session.lost is None:
            await say_quit(link.stream, link.session)
        await self._drop(route, reason)

    async def keep_alive(self, route: Route) -> None:
        """Send NOOP on an idle link, and close the link silently if that fails."""
        link = route.link
        if link is not None and await self._ask(link, Phase.NOOP, command.NOOP) is not None:
            await self._drop(route, "no answer to NOOP")

    # ------------------------------------------------------------ on one link

    async def _over(
        self, link: OpenSession, works: deque[PendingDelivery], more: More, idle: float, *, asks: bool = False
    ) -> SessionBroken | None:
        """Send the works over the link; test a link first that was idle for long."""
        if idle > IDLE_LIMIT:
            lost = await self._ask(link, Phase.RSET, command.RSET)
            if lost is not None:
                return SessionBroken(
                    lost, from_loss(lost.error, "", link.peer), works[0], untouched=True, out_of_step=False
                )
        observer = self._observe if is_observed(self._observe) else ignore
        return await Pipeline(link, self._pace(link.peer.endpoint), works, more, observer, asks).run()

    def _try_again(
        self, works: deque[PendingDelivery], broken: SessionBroken, link: OpenSession, returns: Returns, *, reused: bool
    ) -> bool:
        """Handle the recipients that a broken session left undecided; returns False if all are settled now.

        Recipients that did not cause the failure are sent again at once, on another session: if the session was stale,
        if its replies got out of step with pipelined messages (then without pipelining), if the peer closed it.
        """
        error = broken.lost.error
        if isinstance(error, Interrupted):
            _settle_lost(self._not_returned(works, broken.verdict_for, returns), broken)
            return False
        if broken.out_of_step:
            return bool(works)
        stale = reused and broken.untouched and not isinstance(error, ContentError)
        if not (stale or next_candidate_may_help(error)) and broken.culprit is not None:
            ledger = broken.culprit.delivery.ledger
            ledger.settle_all(ledger.unsettled, broken.verdict)
            while works and works[0].done:
                works.popleft()
        return bool(works)

    def _without_session(
        self,
        route: Route,
        works: deque[PendingDelivery],
        failure: Verdict,
        last: SessionBroken | None,
        returns: Returns,
    ) -> deque[PendingDelivery]:
        """Settle the works that needed the session which could not be opened; works for other sessions stay."""
        wish = works[0].delivery.message.envelope.wish
        alike = deque(work for work in works if work.delivery.message.envelope.wish is wish)
        others = [work for work in works if work.delivery.message.envelope.wish is not wish]
        # A candidate that broke off earlier did not refuse permanently, even if the remaining ones did.
        before = last if failure.fate is Disposition.FAILED else None

        def verdict_for(work: PendingDelivery) -> Verdict:
            return failure if before is None else before.verdict_for(work)._replace(level=failure.level)

        left = self._not_returned(alike, verdict_for, returns)
        if len(left) < len(alike):
            route.failure = None  # the caller that takes mail back delivers it otherwise
        if before is not None:
            _settle_lost(left, before)
        else:
            _settle_all(left, failure)
        return deque(work for work in others if not work.done)

    def _not_returned(
        self, works: deque[PendingDelivery], verdict_for: Callable[[PendingDelivery], Verdict], returns: Returns
    ) -> deque[PendingDelivery]:
        """The works that are not taken back."""
        left: deque[PendingDelivery] = deque()
        for work in works:
            if work.done or not returns(work.delivery, verdict := verdict_for(work)):
                left.append(work)
            elif is_observed(self._observe):
                self._observe(DeliveryReturned(work.delivery, reason_of(verdict)))
        return left

    async def _ask(self, link: OpenSession, phase: Phase, wire: bytes) -> Lost | None:
        """Send one command; returns None after a positive reply, else the loss to assume for the session."""
        link.session.command(phase, wire)
        event = await next_reply(link.stream, link.session)
        if isinstance(event, Lost):
            return event
        if event.result is not ReplyMeaning.SUCCESS:
            return Lost(ConnectionLost(f"{phase.value} was refused: {event.reply}"))
        return None

    def _pace(self, endpoint: Endpoint) -> PeerPace:
        pace = self._paces.get(endpoint)
        if pace is None:
            while len(self._paces) >= MAX_PACES:
                del self._paces[next(iter(self._paces))]
            pace = self._paces[endpoint] = PeerPace()
        return pace

    async def _drop(self, route: Route, reason: str) -> None:
        link, route.link = route.link, None
        if link is not None:
            await Close(link.stream)
            if self._observe is not ignore:
                self._observe(Closed(reason))

    def _plan(self, route: Route, wish: TLSDemand) -> Operation[DeliveryPlan]:
        if route.given is not None:  # executed unchanged, except for missing security
            planning = plan_protection(route.given, route.request, self._security)
        else:
            planning = plan_delivery(route.request, self._security, wish)
        if self._security is None or not is_observed(self._observe):
            return planning
        return with_fetch_events(self._observe, planning)

    def _report_plan(self, made: DeliveryPlan) -> None:
        self._observe(PlanMade(made))
        plan = made.route
        for answer in plan.lookups:
            records = ", ".join(str(record) for record in answer.records[:20])
            text = f"DNS {answer.query.name} {answer.query.type.value}: {answer.status.value} {records}"
            self._observe(Detail(text, About.ROUTE))
        for note in (*plan.notes, *made.notes):
            self._observe(Detail(note, About.ROUTE))
        if plan.failure is not None:
            self._observe(Remark(plan.failure.text, About.ROUTE))
        if made.sts is not None:
            self._observe(Detail(made.sts.note, About.SECURITY))
