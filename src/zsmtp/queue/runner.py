"""The runner: one node that delivers the mail of a queue. It takes leases of sites and gives them back.

A :class:`~zsmtp.queue.siterunner.SiteRunner` serves each leased site: it opens connections, writes marks, and passes
results to :class:`~zsmtp.queue.results.ResultWriter`; this module decides which sites are served, and how many
connections there are in all, and starts and stops everything.

The guarantees, and where they are kept:

- *Before the point of no return* the engine awaits ``SiteWorker._allow``: a mark is committed, or no message completes.
- *A result that cannot be written stops delivery* (``ResultWriter.problem``).
- *A dead site costs one probe at a time*; its waiting recipients are not tried, only reviewed from time to time for
  expiry and delay warnings (``SiteRunner.review``).
- *Delays of this side are no attempts*: a delivery that could not begin is put back unchanged.

The network is behind ``zsmtp.queue.connections``, clock and chance are arguments: nodes can run in virtual time.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue import settlement
from zsmtp.queue.config import Deliver, QueueConfig
from zsmtp.queue.connections import Connections
from zsmtp.queue.dividing import FEW, YIELDED
from zsmtp.queue.operators import Rule
from zsmtp.queue.results import GATHER, ResultWriter
from zsmtp.queue.returnpath import ReturnPath
from zsmtp.queue.rules import Rules
from zsmtp.queue.settlement import RecipientWork, SettlementPolicy
from zsmtp.queue.siterunner import POLL, SiteRunner
from zsmtp.queue.siteworker import SiteWorker
from zsmtp.queue.states import HistoryEntry, QueuedMessage, QueuedRecipient
from zsmtp.queue.store import Arrivals, Lease, QueueStore, Settlement
from zsmtp.queue.submission import RELAY_KEY

log = logging.getLogger("zsmtp.queue")

HORIZON = 60.0  # seconds a site without work is kept for mail that is due soon
AGENDA = 300.0  # seconds between two readings of the whole agenda
OVER = 10.0  # seconds without an error until the store counts as healthy again
REPORT = 2.0  # seconds between two reports of the status of sites
ORPHANS = 5.0  # seconds between two polls for sites whose owner is gone
TAKEN_AT_ONCE = 200  # sites leased by one call
CONFIGURATION = "configuration"  # the owner of the rule for ``deliver = "none"``
STOPPED_AT_ONCE = 5.0  # seconds that connections have to end when their time is over


class Runner:
    """One node: delivers the mail of a queue until it is stopped.

    ``store`` is joined under the name ``node``; ``clock`` is the wall clock (seconds since 1970), ``chance`` a random
    number from 0 to 1. ``on_entry`` is called with each history entry that was written, for logs and metrics.
    """

    def __init__(
        self,
        store: QueueStore,
        connections: Connections,
        config: QueueConfig,
        *,
        node: str,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        on_entry: Callable[[HistoryEntry], None] | None = None,
        return_path: ReturnPath | None = None,
    ) -> None:
        self.store = store
        self.connections = connections
        self.config = config
        self.return_path = return_path
        self.node = node
        self.wall = clock
        self.chance = chance
        self.results = ResultWriter(store, on_entry)
        self.rules = Rules()
        self._rules_read = False
        self.stopping = False
        self.drained = False
        """Whether it stops because an operator asked this node to leave."""
        self.joined = asyncio.Event()
        """Set when this process is the one that delivers."""
        self.loop: asyncio.AbstractEventLoop
        self._sites: dict[str, SiteRunner] = {}
        self._site_of: dict[str, SiteRunner] = {}  # by queue key
        self._former: set[SiteRunner] = set()  # that this node serves under a new lease; what is under way ends
        self._agenda: dict[str, float] = {}  # when keys without a lease here have work
        self._lost_routes: dict[str, str] = {}  # reasons for keys in the agenda whose relay is gone
        self._unlearned: dict[str, float] = {}  # earliest new work of keys, not read yet
        self._rules_changed = True  # since they were read
        self._order: list[tuple[float, str]] = []  # the same, as a heap; entries may be out of date
        self._slots = config.connections
        self._slot_waiters: deque[SiteRunner] = deque()
        self._giving_slots = False
        self._returning: list[Lease] = []  # to give back: the store could not be written so far
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rules_end: asyncio.TimerHandle | None = None
        self._next_orphans = 0.0
        self._nodes = 1  # that share the sites
        self._next_division = 0.0
        self._policies: dict[tuple[str, str], SettlementPolicy] = {}
        self._trouble = ""
        self._trouble_seen = 0.0  # time of the last error

    # -------------------------------------------------------------------- running

    async def run(self) -> None:
        """Join the store and deliver until :meth:`stop`; raises QueueBusy where another process delivers already."""
        self.loop = asyncio.get_running_loop()
        try:
            await self.store.join(self.node)
        except BaseException:
            await self.connections.aclose()
            raise
        self.joined.set()
        writing = self.loop.create_task(self.results.write(), name="zsmtp queue results")
        try:
            await self._serve(writing)
            await self._drain()
        finally:
            self.stopping = True
            if self._rules_end is not None:
                self._rules_end.cancel()
            for site in self._sites.values():
                site.end()
            workers = [worker.task for worker in self._workers]
            ending = [writing, *self._tasks, *workers]  # attempts with a mark and no result will be in doubt
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await self.connections.aclose()

    async def _serve(self, writing: asyncio.Task[None]) -> None:
        next_agenda = next_report = 0.0
        while not self.stopping:
            self.store.beat()
            if writing.done():
                await writing  # a fault of this program: delivery needs results
            try:
                if not self._rules_read:
                    await self._begin_rules()
                now = self.loop.time()
                if now >= next_agenda:
                    for key, due in (await self.store.agenda()).items():
                        self.note(key, due)
                    self._look_for_lost_routes()
                    next_agenda = now + AGENDA
                await self._divide()
                await self._take_due()
                if now >= next_report:
                    await self._report()
                    next_report = now + REPORT
                await self._look(await self.store.arrivals(self._patience()))
                if self._trouble and self.loop.time() - self._trouble_seen > OVER:
                    log.warning("the queue's store can be used again")
                    self._trouble = ""
            except QueueUnavailable as error:
                self.unavailable(error)
                await asyncio.sleep(POLL)

    def stop(self) -> None:
        """Begin no more attempts; :meth:`run` returns when the current ones have ended, or their time is over."""
        self.stopping = True
        for worker in self._workers:
            worker.connection.stop("the queue is being stopped", at_once=False)
        self.store.wake()

    @property
    def _workers(self) -> list[SiteWorker]:
        """All connections, with those under leases that are over."""
        return [worker for site in (*self._sites.values(), *self._former) for worker in site.workers]

    async def _drain(self) -> None:
        """Wait for the current attempts; write all results; give the leases back."""
        for seconds, at_once in ((self.config.shutdown, False), (STOPPED_AT_ONCE, True)):
            workers = self._workers
            for worker in workers:
                worker.connection.stop("the queue is being stopped", at_once=at_once)
            if workers:
                await self._beating(asyncio.wait([worker.task for worker in workers], timeout=seconds))
        deadline = self.loop.time() + STOPPED_AT_ONCE
        while not self.results.all_written and self.loop.time() < deadline:
            self.store.beat()
            await asyncio.sleep(GATHER)
        if not self.results.all_written:
            log.error("results could not be written before the end: their recipients will be in doubt")
            return
        for leases in self._to_give_back(self._sites.values()):
            try:
                await self.store.give_back(leases)
            except QueueError as error:  # the caller closes the store, which ends the leases
                self.unavailable(error)

    async def _beating(self, work: Coroutine[Any, Any, Any]) -> None:
        """Await ``work``, and send heartbeats meanwhile."""
        task = self.loop.create_task(work)
        while not task.done():
            self.store.beat()
            await asyncio.wait([task], timeout=POLL)

    def _patience(self) -> float:
        """Seconds until the next work that no event announces."""
        if self._order and len(self._sites) < self.config.leases:
            return min(max(self._order[0][0] - self.wall(), 0.0), POLL)
        return POLL

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` as a task; a failure of the store ends it, and is logged."""
        task = self.loop.create_task(self._guarded(work))
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            work.close()  # one that was cancelled before it began was never awaited

        task.add_done_callback(done)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except QueueUnavailable as error:
            self.unavailable(error)
        except Exception:
            log.exception("the queue's runner: a fault of this program")

    def unavailable(self, error: Exception) -> None:
        """Record that the store cannot be read or written; logged once, until it works for a while."""
        self._trouble_seen = self.loop.time()
        if str(error) != self._trouble:
            log.error("the queue's store: %s", error)
            self._trouble = str(error)

    def reconfigure(self, config: QueueConfig) -> None:
        """Use another configuration from now on; the numbers of all connections and leases stay.

        Limits of a site apply when its lease is taken next.
        """
        self.config = replace(config, connections=self.config.connections, leases=self.config.leases)
        self._policies.clear()
        self._rules_read = False
        if self.joined.is_set():
            self.store.wake()

    def reroute(self) -> None:
        """Use the relays and routes of the network from now on: mail for a restored relay continues at once."""
        for site in tuple(self._sites.values()):
            site.reroute()
        self._look_for_lost_routes()

    def _look_for_lost_routes(self) -> None:
        """Find relays that are gone among the keys with later work, or of another node, to log them beforehand."""
        relayed = [key for key in self._agenda if key.startswith(RELAY_KEY)]
        found = {key: why for key in relayed if (why := self.connections.problem(key))}
        for key in sorted(found.keys() - self._lost_routes.keys()):
            log.warning("mail to %s waits: %s", key, found[key])
        self._lost_routes = found

    @property
    def problems(self) -> list[str]:
        """The reasons for mail without a route in the configuration, a sentence for each queue key."""
        found = {key: why for key, why in self._lost_routes.items() if key in self._agenda}
        for site in self._sites.values():
            found |= site.problems
        return [f"mail to {key} waits: {why}" for key, why in sorted(found.items())]

    def alone(self, message: QueuedMessage) -> bool:
        """Whether a message goes to one recipient at a time."""
        return self.return_path is not None and self.return_path.is_of_one(message)

    def policy(self, key: str, tenant: str) -> SettlementPolicy:
        """The settlement policy for a key and a tenant."""
        found = self._policies.get((key, tenant))
        if found is None:
            if len(self._policies) >= 10_000:
                self._policies.clear()
            found = self._policies[key, tenant] = self.config.settlement_for(key, tenant)
        return found

    # ---------------------------------------------------------------------- leases

    def note(self, key: str, due: float) -> None:
        """Record that a key has work at a time."""
        if key in self._site_of:
            return
        known = self._agenda.get(key)
        if known is None or due < known:
            self._agenda[key] = due
            heapq.heappush(self._order, (due, key))

    async def _take_due(self) -> None:
        """Take leases of the sites that have work now."""
        now = self.wall()
        self._retire(now)
        room = self.config.leases - len(self._sites)
        keys: list[str] = []
        while self._order and self._order[0][0] <= now and len(keys) < min(room, TAKEN_AT_ONCE):
            due, key = heapq.heappop(self._order)
            if self._agenda.get(key) == due:
                del self._agenda[key]
                keys.append(key)
        growing = [site.lease.keys[0] for site in self._sites.values() if site.wants_slots(self._nodes)]
        if not keys and not growing and self.loop.time() < self._next_orphans:
            return
        self._next_orphans = self.loop.time() + ORPHANS
        try:
            leases = await self.store.take([*keys, *growing], limit=min(max(room, 0), TAKEN_AT_ONCE))
        except QueueUnavailable:
            for key in keys:
                self.note(key, now)
            raise
        taken = {key for lease in leases for key in lease.keys}
        for key in keys:
            if key not in taken:
                self.note(key, now + POLL)  # another node has it, or it has no work any more: try again
        await self._learn([self._begin_site(lease) for lease in leases])

    async def _learn(self, sites: list[SiteRunner], came: Mapping[str, float] = MappingProxyType({})) -> None:
        """Read the work of sites, and let them begin; ``came``: the earliest due time of new work, by key.

        The head of a sub-queue may be a recipient in hand: counted as new, it would cause a complete second read.
        """
        if not sites:
            return
        try:
            heads = await self.store.heads([site.lease for site in sites])
        except QueueUnavailable:
            for key in [key for site in sites for key in site.keys]:
                self._remember(key, came.get(key, 0.0))
            raise
        for head in heads:
            key = head.sub_queue.key
            found = self._site_of.get(key)
            if found is not None:
                found.learn(head._replace(due=max(head.due, came.get(key, head.due))))
        for site in sites:
            site.pump()

    def _begin_site(self, lease: Lease) -> SiteRunner:
        site = self._sites.get(lease.site)
        if site is not None and site.lease.number == lease.number:
            site.changed_lease(lease)
        else:
            if site is not None:
                self.lose(site)
                self._former.add(site)
            site = self._sites[lease.site] = SiteRunner(self, lease)
        for key in lease.keys:
            site.key_queue(key)
            self._site_of[key] = site
            self._agenda.pop(key, None)
        for doubt in lease.doubts:
            key_queue = site.key_queue(doubt.recipient.key)
            if key_queue.holds(doubt.recipient.message, doubt.recipient.number):
                continue
            key_queue.hold_back(doubt.recipient)
            self.results.add(site, key_queue, self.lost(doubt.recipient, doubt.message, machine=doubt.machine))
        return site

    def lost(self, recipient: QueuedRecipient, message: QueuedMessage, *, machine: bool) -> Settlement:
        """The settlement of a recipient that was marked, or in hand, when its process died."""
        work, policy = RecipientWork.of(recipient, message), self.policy(recipient.key, recipient.tenant)
        return settlement.after_loss(
            work, policy, machine=machine, now=self.wall(), chance=self.chance(), node=self.node
        )

    def lose(self, site: SiteRunner) -> None:
        """Stop serving a site whose lease this node has lost, or soon loses."""
        if site.lost:
            return
        log.warning("the lease of %s is lost: its mail is another node's, or is taken again", site.lease.site)
        site.lose("the lease of this site is lost")

    def _retire(self, now: float) -> None:
        """Give back sites without work, and drop lost ones."""
        self._former = {site for site in self._former if not site.at_rest}
        gone = [site for site in self._sites.values() if site.at_rest and self._is_idle(site, now)]
        for site in gone:
            site.end()
            del self._sites[site.lease.site]
            for key, queue in site.keys.items():
                if self._site_of.get(key) is site:
                    del self._site_of[key]
                due = now + YIELDED if site.lost else queue.next_due
                if due is not None:
                    self.note(key, due)
        for leases in self._to_give_back(gone):
            self.spawn(self._give_back(leases))

    def _to_give_back(self, gone: Collection[SiteRunner]) -> list[list[Lease]]:
        """The leases of retired sites, and those that could not be given back so far, in groups.

        The store may still assign a lost one to this node: then no other node could take it.
        """
        kept = [*self._returning, *(site.lease for site in gone if not site.lost)]
        self._returning = []
        return [leases for leases in (kept, *([site.lease] for site in gone if site.lost)) if leases]

    async def _give_back(self, leases: list[Lease]) -> None:
        """Give leases back, or retry at the next look: no other node can serve a site leased to this one."""
        try:
            await self.store.give_back(leases)
        except QueueUnavailable:
            self._returning += leases
            raise

    @staticmethod
    def _is_idle(site: SiteRunner, now: float) -> bool:
        due = site.next_due
        return site.lost or due is None or due > now + HORIZON

    async def _divide(self) -> None:
        """Give up slots of big sites, for other nodes."""
        now = self.loop.time()
        if now < self._next_division:
            return
        self._next_division = now + POLL
        sites = [site for site in self._sites.values() if not site.lost]
        pressed = {site for site in sites if site.is_pressed(now)} if self._nodes > 1 else set()
        if len(pressed) > FEW:
            pressed.clear()  # a division that has begun goes on
        for site in sites:
            if slots := site.to_shed(self._nodes, pressed=site in pressed):
                await self._shed(site, slots)

    async def _shed(self, site: SiteRunner, slots: int) -> None:
        try:
            left = await self.store.shed(site.lease, slots)
        except QueueUnavailable:
            raise  # it may be done: it is repeated
        except QueueError as error:
            log.error("%s keeps slots that were to be given up: %s", site.lease.site, error)
            site.keep_slots(alone=True)
            return
        if left is None:
            self.lose(site)
        else:
            site.changed_lease(left)

    def _yield(self, surplus: int) -> None:
        """Yield some sites to other nodes: those with the fewest attempts, which run to their end."""
        sites = sorted((site for site in self._sites.values() if not site.lost), key=lambda site: len(site.workers))
        for site in sites[:surplus]:
            site.lose("another node is to have this site")

    async def _look(self, arrivals: Arrivals) -> None:
        """Process changes of the store."""
        if arrivals.drain and not self.drained:
            log.info("this node was asked to leave: it ends what is under way and gives its sites back")
            self.drained = True
            self.stop()
            return
        self._nodes = arrivals.nodes
        self._yield(arrivals.surplus)
        self._rules_changed = self._rules_changed or arrivals.rules
        for key in arrivals.poked:
            site = self._site_of.get(key)
            if site is not None:
                site.forget()
        for key, due in arrivals.keys.items():
            self._remember(key, due)
        if self._rules_changed:
            await self._read_rules()
        came, self._unlearned = self._unlearned, {}
        known: dict[SiteRunner, None] = {}
        for key, due in came.items():
            site = self._site_of.get(key)
            if site is None:
                self.note(key, due)
            else:
                known[site] = None
        await self._learn(list(known), came)

    def _remember(self, key: str, due: float) -> None:
        """Record new work of a key until it is read, so that no error in between loses it."""
        self._unlearned[key] = min(self._unlearned.get(key, due), due)

    async def _begin_rules(self) -> None:
        """Set and read the rules for the configuration; retried after an error, and if it changes meanwhile."""
        self._rules_read = True
        try:
            await self._hold_all_or_nothing()
            await self._read_rules()
        except BaseException:
            self._rules_read = False
            raise

    async def _hold_all_or_nothing(self) -> None:
        """Keep a hold rule as long as the configuration has ``deliver = "none"``."""
        standing = [rule for rule in await self.store.rules() if rule.by == CONFIGURATION]
        if self.config.deliver is Deliver.NONE and not standing:
            reason = 'mail is kept and not delivered (deliver = "none")'
            await self.store.add_rule(Rule(action="hold", filter="", by=CONFIGURATION, reason=reason))
        elif self.config.deliver is not Deliver.NONE:
            for rule in standing:
                await self.store.delete_rule(rule.number)

    async def _read_rules(self) -> None:
        self.rules = Rules(await self.store.rules())
        self._rules_changed = False
        if self._rules_end is not None:
            self._rules_end.cancel()
            self._rules_end = None
        end = self.rules.next_end(self.wall())
        if end is not None:
            self._rules_end = self.loop.call_later(min(end - self.wall(), AGENDA), self._rules_ended)
        for site in tuple(self._sites.values()):
            site.forget()

    def _rules_ended(self) -> None:
        self._rules_changed = True
        self.spawn(self._read_rules())

    # ----------------------------------------------------------------------- slots

    def acquire_slot(self, site: SiteRunner) -> bool:
        """Take one of all connections; False if there is none: the site is pumped when one is free."""
        if self._slots > 0:
            self._slots -= 1
            site.waits_for_slot = False
            return True
        if not site.waits_for_slot:
            site.waits_for_slot = True
            self._slot_waiters.append(site)
            self._free_an_idle_one()
        return False

    def release_slot(self) -> None:
        """Give one back, for the waiting sites, in order of their waits.

        A site may not need it any more, so all of them are pumped until no connection is left, before any other site.
        """
        self._slots += 1
        if self._giving_slots:  # called from the pump of such a site: the loop below continues
            return
        self._giving_slots = True
        try:
            while self._slots > 0 and self._slot_waiters:
                site = self._slot_waiters.popleft()
                if site.waits_for_slot:
                    site.waits_for_slot = False
                    site.pump()
        finally:
            self._giving_slots = False

    def slot_wanted(self, site: SiteRunner) -> bool:
        """Whether another site waits for a connection."""
        return any(other is not site and other.waits_for_slot for other in self._slot_waiters)

    def _free_an_idle_one(self) -> None:
        for site in self._sites.values():
            for worker in site.workers:
                if worker.idles:
                    worker.connection.leave()
                    return

    # ---------------------------------------------------------------------- report

    async def _report(self) -> None:
        """Report the status of sites that changed, are dead, or have problems."""
        now, wall = self.loop.time(), self.wall()
        reported = [site for site in self._sites.values() if site.changed or site.window.dead or site.problems]
        for site in reported:
            site.changed = False
        if reported:
            await self.store.report([site.status(now, wall) for site in reported])

    @property
    def state(self) -> Mapping[str, int]:
        """Numbers of current work, for health and metrics."""
        return {
            "sites": len(self._sites),
            "dead_sites": sum(site.window.dead for site in self._sites.values()),
            "connections": self.config.connections - self._slots,
            "ready": sum(site.ready for site in self._sites.values()),
        }
