"""Serves one leased site: reads due recipients, opens connections within its window and rates, handles verdicts.

:class:`SiteRunner` has the limits of a site (``zsmtp.queue.shaping``) and the work of its keys (``zsmtp.queue.site``);
:meth:`SiteRunner.pump` does all that is possible now, and is called after every change. Its connections are tasks of
their own (``zsmtp.queue.siteworker``). If other nodes serve parts of the site (``zsmtp.queue.dividing``), it has the
work of some slots, and a share of the limits.

Mail without a route in the configuration (:meth:`~zsmtp.queue.connections.Connections.problem`) waits: it is read only
for expiry and warnings, until the configuration changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zsmtp.delivery.outcome import Disposition, Scope, Verdict, from_loss, in_doubt
from zsmtp.errors import ContentError, LocalError, QueueError
from zsmtp.queue import settlement
from zsmtp.queue.dividing import Division, limits_of
from zsmtp.queue.results import recipient_of
from zsmtp.queue.settlement import RecipientWork
from zsmtp.queue.shaping import Buckets, ConnectionWindow, ProbeTimes
from zsmtp.queue.site import LOW_WATER, Group, KeyQueue
from zsmtp.queue.siteworker import ActiveDelivery, SiteWorker
from zsmtp.queue.slots import ALL, count, has
from zsmtp.queue.states import AttemptKey, Position, SubQueue
from zsmtp.queue.store import Claimed, Deferred, Head, Lease, Settlement, SiteStatus

if TYPE_CHECKING:
    from zsmtp.queue.runner import Runner

log = logging.getLogger("zsmtp.queue")

POLL = 1.0  # seconds between polls for changes without an event
REVIEW = 300.0  # seconds between two reviews of a site that gets no mail
REVIEW_PAGE = 500  # recipients reviewed at a time
LONGEST_WAIT = 60.0  # seconds until the next pump at the latest
CLAIM_OCTETS = 8 << 20  # of content read at a time
PATIENCE = 2.0  # seconds that deliveries wait for busy connections before another one is opened
CONTENT_WAIT = 60.0  # seconds until a content that could not be read is read again, up to twice as many
SHARE = 30  # deliveries waiting for each connection before another one is opened beside it


class SiteRunner:
    """A site of one node, or its part of a site, for the duration of the lease."""

    def __init__(self, runner: Runner, lease: Lease) -> None:
        self._runner = runner
        self.lease = lease
        self.division = Division(runner.config.limits_for(lease.site))
        self.limits = limits_of(self.division.limits, lease.slots)
        self.window = ConnectionWindow(self.limits.start, self.limits.most)
        self.probes = ProbeTimes()
        self.dead_reason = ""
        self.messages = Buckets(self.limits.messages)
        self.recipients = Buckets(self.limits.recipients)
        self.opening = Buckets(self.limits.connections)
        if lease.slots != ALL:  # other nodes have used up the rates of the site, perhaps
            for buckets in self._buckets:
                buckets.empty(runner.loop.time())
        self.keys: dict[str, KeyQueue] = {}
        self.workers: set[SiteWorker] = set()
        self.waits_for_slot = False
        self.problems: dict[str, str] = {}
        """Why mail can go nowhere by the configuration, by queue key."""
        self.lost = False  # another node has the lease
        self.changed = True  # since the last report
        self._taken: dict[str, float] = {}  # when a delivery was taken last, by key
        self._wake: asyncio.TimerHandle | None = None
        self._paused_until = 0.0
        self._next_review = runner.loop.time() + REVIEW
        self._reviewing = False
        self._routed: set[str] = set()  # keys that are known to have no problem
        self._came: set[str] = set()  # keys that got work since the last review began
        self._waiting: dict[str, float] = {}  # by key: since when ready deliveries wait without one that begins
        for key in lease.keys:
            self.key_queue(key)

    def key_queue(self, key: str) -> KeyQueue:
        """The work of a queue key."""
        found = self.keys.get(key)
        if found is None:
            found = self.keys[key] = KeyQueue(key, self._runner.config.weight_of, self._runner.alone)
        return found

    def in_hand(self) -> Iterable[AttemptKey]:
        """The attempts of recipients that were read and have no result in the store."""
        for key in self.keys.values():
            for recipient in key.in_hand:
                yield recipient.next_attempt

    @property
    def ready(self) -> int:
        """Deliveries that could begin."""
        return sum(key.ready for key in self.keys.values())

    @property
    def next_due(self) -> float | None:
        """The due time of the next recipient that was not read."""
        return min((due for key in self.keys.values() if (due := key.next_due) is not None), default=None)

    @property
    def at_rest(self) -> bool:
        """Whether no recipient is in hand, and no connection or read is active."""
        return not self.workers and not any(key.in_hand or key.reading for key in self.keys.values())

    @property
    def sessions(self) -> int:
        """The number of open sessions."""
        return sum(worker.connection.is_open for worker in self.workers)

    # ------------------------------------------------------------------- reading

    def learn(self, head: Head) -> None:
        """Record work in one of its sub-queues."""
        self._came.add(head.sub_queue.key)
        self.key_queue(head.sub_queue.key).learn(head.sub_queue, head.due)

    async def _read(self, key: KeyQueue, sub_queue: SubQueue, after: Position, generation: int) -> None:
        runner = self._runner
        try:
            claimed, due = await runner.store.claim(
                self._claims, sub_queue, after, runner.wall(), limit=runner.config.claim, octets=CLAIM_OCTETS
            )
        except Exception as error:
            key.failed_to_read(sub_queue, generation)
            self._wake_in(POLL)
            if not isinstance(error, QueueError):
                raise
            runner.unavailable(error)
            return
        if key.add(sub_queue, claimed, due, generation, lambda one: self._usable(key, one)):
            self.changed = True
        self.pump()

    def _usable(self, key: KeyQueue, claimed: Claimed) -> bool:
        """Whether to deliver a recipient that was read; if not, its settlement has begun, or its slot is given up."""
        runner = self._runner
        if not has(self._slots, claimed.recipient.message):  # the read began before they were given up
            return False
        now = runner.wall()
        work = RecipientWork.of(claimed.recipient, claimed.message)
        result: Settlement | None = settlement.expiry(work, now, runner.node)
        if result is None:
            applied = runner.rules.apply(work, now)
            if applied is None:
                return True
            result = applied.settlement
            if result is None:  # it stays, and its sender is warned as of any other delay
                policy = runner.policy(work.recipient.key, work.recipient.tenant)
                result = settlement.warning(work, policy.retry, now)
        if result is not None:
            key.hold_back(claimed.recipient)
            runner.results.add(self, key, result)
        return False

    def forget(self) -> None:
        """Read everything again, because rows or rules changed."""
        for key in self.keys.values():
            key.forget()
        self.pump()

    async def review(self) -> None:
        """Review all recipients for expiry and delay warnings. One review at a time."""
        self._reviewing = True
        try:
            await self._review()
        finally:
            self._reviewing = False
            self._next_review = self._runner.loop.time() + REVIEW

    async def _review(self) -> None:
        runner = self._runner
        after = (0, -1)
        found: set[str] = set()
        self._came.clear()
        while not self.lost and not runner.stopping:
            page = await runner.store.review(self._claims, after, limit=REVIEW_PAGE)
            now = runner.wall()
            for recipient, message, _ in page:
                after = (recipient.message, recipient.number)
                if not has(self._slots, recipient.message):
                    continue
                key = self.key_queue(recipient.key)
                found.add(key.key)
                work = RecipientWork.of(recipient, message)
                policy = runner.policy(recipient.key, recipient.tenant)
                why = self.problems.get(key.key, "")
                result = settlement.expiry(work, now, runner.node, why) or settlement.warning(work, policy.retry, now)
                if result is not None and (not key.holds(*after) or key.withdraw(*after)):
                    key.hold_back(recipient)
                    runner.results.add(self, key, result)
            if len(page) < REVIEW_PAGE:
                break
            await asyncio.sleep(0)
        for name in self.problems.keys() - found - self._came:
            self.keys[name].nothing_left()  # it is not read otherwise, so only the review can detect that

    # ------------------------------------------------------------------ dividing

    @property
    def _slots(self) -> int:
        """The slots of which it begins deliveries: those of the lease that it is not about to give up."""
        return self.lease.slots & ~self.division.leaving

    @property
    def _claims(self) -> Lease:
        """The lease with these slots alone."""
        return replace(self.lease, slots=self._slots) if self.division.leaving else self.lease

    @property
    def _buckets(self) -> tuple[Buckets, Buckets, Buckets]:
        return self.messages, self.recipients, self.opening

    def to_shed(self, nodes: int, *, pressed: bool) -> int:
        """The slots to give up now, for the nodes that share all sites; 0 for none. ``pressed``: begin, if it is time.

        Nothing is begun of slots that are to be given up, and no connection stays open beyond the share of the others.
        Then those without a recipient in hand are given up; those of a delivery that takes very long are kept.
        """
        division, now = self.division, self._runner.loop.time()
        if leaving := division.look(self.lease.slots, nodes, now, pressed=pressed):
            log.info("%s has much work: other nodes are to have %d of its slots", self.lease.site, count(leaving))
            for key in self.keys.values():
                key.release(leaving)
            self._apply_limits()
        if division.leaving and (nodes < 2 or division.is_overdue(now)):
            self.keep_slots(alone=nodes > 1)
        if not division.leaving or len(self.workers) > self.window.most:
            return 0
        busy = 0
        for key in self.keys.values():
            busy |= key.busy_slots
        return division.ready(busy)

    def keep_slots(self, *, alone: bool) -> None:
        """Serve the slots again that were to be given up; ``alone``: and give up none for the next minutes."""
        self.division.keep(self._runner.loop.time(), alone=alone)
        self._apply_limits()
        self.forget()

    def is_pressed(self, now: float) -> bool:
        """Whether it has more due work than it can begin, for a reason that is not the site's.

        There is more than was read, or no connection for what was. A site that has one session accepts no more,
        perhaps: another node would get none.
        """
        if self.window.dead or self._blocked_for(now) > 0 or self.sessions < 2:
            return False
        wall = self._runner.wall()
        dues = (key.next_due for key in self.keys.values() if key.key not in self.problems)
        full = self.waits_for_slot or len(self.workers) >= self.window.size
        return any(due is not None and due <= wall for due in dues) or (full and self.ready >= LOW_WATER)

    def wants_slots(self, nodes: int) -> bool:
        """Whether to ask for the free slots of the site now."""
        return not self.lost and self.division.asks(self.lease.slots, nodes, self._runner.loop.time())

    def changed_lease(self, lease: Lease) -> None:
        """Go on with the keys and slots that the lease has now."""
        before, self.lease = self.lease.slots, lease
        if lease.slots == before:
            return
        now = self._runner.loop.time()
        if gone := before & ~lease.slots:
            self.division.gave(gone, now)
        if got := lease.slots & ~before:
            self.division.got(got, now)
            for key in self.keys.values():
                key.forget()  # its positions are behind recipients of these slots
        self._apply_limits()
        self.changed = True
        self.pump()

    def _apply_limits(self) -> None:
        """Limit connections and rates to the share of its slots."""
        now = self._runner.loop.time()
        self.limits = limits = limits_of(self.division.limits, self._slots)
        self.window.change(limits.start, limits.most)
        for buckets, rates in zip(self._buckets, (limits.messages, limits.recipients, limits.connections), strict=True):
            buckets.change(rates, now)

    @property
    def crowded(self) -> bool:
        """Whether it has more connections than its window allows."""
        return len(self.workers) > max(self.window.size, 1)

    # ---------------------------------------------------------------- connecting

    def pump(self) -> None:
        """Do all that is possible now: read more, open connections; or set a timer for the next possible work."""
        runner = self._runner
        if self.lost or runner.stopping:
            return
        wall, now = runner.wall(), runner.loop.time()
        blocked = self._blocked_for(now)
        routed = [key for key in self.keys.values() if self._is_routed(key)]
        if blocked <= 0:
            for key in routed:
                for sub_queue, after in key.to_read(wall):
                    runner.spawn(self._read(key, sub_queue, after, key.generation))
            if not runner.results.problem:
                self._open_connections(now)
        if self._is_to_be_reviewed(blocked, now):
            self._reviewing = True
            if blocked > 0:
                for key in self.keys.values():
                    key.forget()
            runner.spawn(self.review())
        if runner.results.problem:
            blocked = max(blocked, POLL)
        due = min((due for key in routed if (due := key.next_due) is not None), default=None)
        if self._waiting or self.problems:
            self._wake_in(LONGEST_WAIT)
        if blocked > 0:
            self._wake_in(min(blocked, LONGEST_WAIT))
        elif due is not None and due > wall:
            self._wake_in(min(due - wall, LONGEST_WAIT))

    def _is_to_be_reviewed(self, blocked: float, now: float) -> bool:
        """Whether to review recipients that are not read, or that wait for their turn for long."""
        waiting = max([self._waits(key, now) for key in self.keys.values()], default=0.0) >= REVIEW
        if self._reviewing or now < self._next_review:
            return False
        return blocked > 0 or waiting or bool(self.problems or self._runner.rules)

    def _waits(self, key: KeyQueue, now: float) -> float:
        """How long deliveries of a key have been waiting without one that began."""
        if not key.ready:
            self._waiting.pop(key.key, None)
            return 0.0
        return now - self._waiting.setdefault(key.key, now)

    def _is_routed(self, key: KeyQueue) -> bool:
        """Whether there is a route for mail of a key. Otherwise it waits, not in hand, so that it may expire."""
        if key.key in self._routed:
            return True
        problem = self._runner.connections.problem(key.key)
        if problem:
            if self.problems.get(key.key) != problem:
                log.warning("mail to %s waits: %s", key.key, problem)
                self.changed = True
                key.forget()
            self.problems[key.key] = problem
            return False
        if self.problems.pop(key.key, None):
            log.info("mail to %s continues", key.key)
            self.changed = True
        self._routed.add(key.key)
        return True

    def reroute(self) -> None:
        """Apply changed relays and routes."""
        self._routed.clear()
        self.pump()

    def _blocked_for(self, now: float) -> float:
        """Seconds for which no delivery may begin here; 0.0 if one may."""
        paused = max(self._paused_until - now, 0.0)
        if self.window.dead:
            return POLL if self.workers else max(self.probes.at - now, paused)  # one probe at a time
        return max(self.messages.wait(now)[0], self.recipients.wait(now)[0], paused)

    def pause(self) -> None:
        """Begin no delivery for a moment, because the store failed."""
        self._paused_until = self._runner.loop.time() + POLL

    def _open_connections(self, now: float) -> None:
        for worker in [worker for worker in self.workers if worker.idles and worker.key.ready]:
            worker.connection.wake()
        allowed = 1 if self.window.dead else self.window.size
        keys = [one for one in self.keys.values() if one.ready and one.key not in self.problems]
        for key in sorted(keys, key=lambda one: -one.ready):
            mine = sum(worker.key is key for worker in self.workers)
            # A connection takes messages one after the other. Another is opened for deliveries beyond its share, or if
            # the open ones have taken none for a while.
            impatient = mine > 0 and key.ready > 0 and self._is_slow(key, now)
            while len(self.workers) < allowed and (key.ready > mine * SHARE or impatient):
                wait, _ = self.opening.wait(now)
                if wait > 0:
                    self._wake_in(wait)
                    return
                if not self._runner.acquire_slot(self):
                    return
                worker = SiteWorker(self._runner, self, key)
                self.opening.take(now)
                self.workers.add(worker)
                mine += 1
                impatient = False
                self._taken[key.key] = now
            if key.ready:
                self._wake_in(PATIENCE)

    def _is_slow(self, key: KeyQueue, now: float) -> bool:
        """Whether the connections of a key are open and have taken no delivery for a while."""
        if now - self._taken.get(key.key, now) < PATIENCE:
            return False
        return all(worker.connection.is_open for worker in self.workers if worker.key is key)

    def _wake_in(self, seconds: float) -> None:
        loop = self._runner.loop
        when = loop.time() + max(seconds, 0.001)
        if self._wake is not None:
            if self._wake.when() <= when:
                return
            self._wake.cancel()
        self._wake = loop.call_at(when, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.pump()

    def lose(self, why: str) -> None:
        """Begin no more deliveries, because the lease is lost, or is about to be."""
        self.lost = True
        self.end()
        for key in self.keys.values():
            key.forget()
        for worker in self.workers:
            worker.connection.stop(why, at_once=False)

    def end(self) -> None:
        """Cancel the timer."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    # ------------------------------------------------------------------ delivering

    def take(self, key: KeyQueue, *, riding: bool = False) -> Group | None:
        """The next group for a connection of this key; None if none may begin now.

        ``riding``: pipelined beside others, so only one with a loaded content.
        """
        runner = self._runner
        if runner.stopping or runner.results.problem or self.lost or key.key in self.problems:
            return None
        now = runner.loop.time()
        if self._paused_until > now or self.messages.wait(now)[0] > 0 or self.recipients.wait(now)[0] > 0:
            return None
        group = key.next()
        if group is None:
            return None
        if riding and group.content is None:
            key.put_back(group)
            return None
        self._taken[key.key] = now
        self._waiting.pop(key.key, None)
        self.messages.take(now)
        self.recipients.take(now, len(group.recipients))
        if key.wants_reading(runner.wall()):
            runner.loop.call_soon(self.pump)
        return group

    def decided(self, job: ActiveDelivery, index: int, verdict: Verdict) -> None:
        """Settle a recipient of a delivery by its verdict."""
        runner, key = self._runner, job.key
        recipient = job.group.recipients[index]
        job.open.discard(index)
        refused = _refuses(verdict)
        if refused not in job.counted and (refused or verdict.peer is not None):
            job.counted.add(refused)
            self._count_result(verdict, refused=refused)
        result = settlement.after_attempt(
            RecipientWork.of(recipient, job.group.message),
            verdict,
            runner.policy(recipient.key, recipient.tenant),
            started=job.started,
            now=runner.wall(),
            chance=runner.chance(),
            node=runner.node,
            lmtp=runner.connections.is_lmtp(key.key),
        )
        runner.results.add(self, key, result)

    def _settle_all(self, job: ActiveDelivery, verdict: Verdict) -> None:
        for index in sorted(job.open):
            self.decided(job, index, verdict)
        job.close()

    def broke(self, job: ActiveDelivery, error: Exception) -> None:
        """Settle a delivery after a fault of this program: recipients that may have the message are in doubt."""
        verdict = from_loss(LocalError(f"this program failed: {type(error).__name__}: {error}"), "", None)
        for index in sorted(job.open):
            self.decided(job, index, in_doubt(verdict) if index in job.marked else verdict)
        job.close()

    def died(self, job: ActiveDelivery) -> None:
        """Settle a delivery whose process died: recipients that may have the message are in doubt, others go back."""
        for index in sorted(job.open & job.marked):
            result = self._runner.lost(job.group.recipients[index], job.group.message, machine=False)
            self._runner.results.add(self, job.key, result)
        job.open -= job.marked
        self.put_back(job)

    def unreadable(self, job: ActiveDelivery, error: QueueError) -> None:
        """Settle a delivery whose content cannot be read."""
        self._settle_all(job, from_loss(ContentError(str(error)), "", None, level=Scope.MESSAGE))

    def put_off(self, job: ActiveDelivery, reason: str) -> None:
        """Put recipients off without an attempt, because the content cannot be read now and others can."""
        runner = self._runner
        due = runner.wall() + CONTENT_WAIT * (1 + runner.chance())
        for index in sorted(job.open):
            runner.results.add(self, job.key, settlement.put_off(job.group.recipients[index], due, reason))
        job.close()

    def put_back(self, job: ActiveDelivery) -> None:
        """Put recipients without a verdict back unchanged: no attempt was made for them."""
        recipients = [job.group.recipients[index] for index in sorted(job.open)]
        job.open.clear()
        if not recipients:
            job.close()
        elif job.mark_requested:  # a remaining mark would mean that it may have been sent
            for recipient in recipients:
                self._runner.results.add(self, job.key, settlement.unchanged(recipient))
            job.close()
        elif self.lost or job.generation != job.key.generation or not has(self._slots, job.group.message.id):
            # rows may have changed, or are another node's: they are read again
            for recipient in recipients:
                job.key.done(recipient.message, recipient.number)
            job.close()
        else:
            job.key.put_back(Group(job.group.message, recipients, job.group.content))

    def _count_result(self, verdict: Verdict, *, refused: bool) -> None:
        """Update window and probes of the site by a verdict."""
        was_dead = self.window.dead
        if not refused:
            self.window.good(0 if self.division.leaving else len(self.workers))  # others are to have the rest
            if was_dead:
                self.probes.succeeded()
                self.dead_reason = ""
                log.info("%s answers again", self.lease.site)
        else:
            self.window.bad()
            if self.window.dead:
                self.dead_reason = settlement.words_of(verdict)[0]
                self.probes.failed(self._runner.loop.time(), self._runner.chance())
                for key in self.keys.values():
                    key.forget()  # no recipient is in hand while none can begin: it may expire
                if not was_dead:
                    log.warning("%s does not answer, one probe at a time: %s", self.lease.site, self.dead_reason)
        self.changed = self.changed or was_dead != self.window.dead

    def written(self, results: Sequence[tuple[KeyQueue, Settlement]]) -> None:
        """Called when these results are in the store."""
        for key, result in results:
            recipient = key.done(*recipient_of(result))
            if recipient is None or not isinstance(result, Deferred):
                continue
            if result.hold:
                if not self._runner.rules.stands(result.hold):  # deleted meanwhile: the store has no hold by it
                    key.forget()
            elif result.key is None:
                key.learn(recipient.sub_queue, result.due)
            else:
                self._runner.note(result.key, result.due)
        self.pump()

    def status(self, now: float, wall: float) -> SiteStatus:
        """The status of the site, for other processes."""
        wait, rate = self.messages.wait(now)
        other, other_rate = self.recipients.wait(now)
        if other > wait:
            wait, rate = other, other_rate
        return SiteStatus(
            site=self.lease.site,
            node=self._runner.node,
            updated=wall,
            window=self.window.size,
            slots=self.lease.slots,
            busy=len(self.workers),
            ready=self.ready,
            dead_until=wall + max(self.probes.at - now, 0.0) if self.window.dead else 0.0,
            dead_reason=self.dead_reason if self.window.dead else "",
            rate_until=wall + wait if wait > 0 else 0.0,
            rate=str(rate) if rate is not None else "",
            no_slot=self.waits_for_slot,
            no_route="; ".join(self.problems.values()),
        )


def _refuses(verdict: Verdict) -> bool:
    """Whether a verdict shows that a site accepts no mail now, or gets too much at a time.

    A domain that does not exist, or never accepts mail, needs no protection: all its mail fails at once.
    """
    if verdict.fate is Disposition.FAILED and verdict.peer is None:
        return False
    return verdict.level is Scope.HOST or (verdict.reply is not None and verdict.reply.code == 421)
