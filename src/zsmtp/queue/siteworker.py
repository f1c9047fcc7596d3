"""One connection of a leased site: it takes deliveries, and further ones while messages are in transmission.

A :class:`SiteWorker` is the task of a connection. Which delivery is next, and what becomes of a verdict, is decided by
its :class:`~zsmtp.queue.siterunner.SiteRunner`.

If a session fails while others of the site are open, its delivery, and those in line behind it, are put back without a
counted attempt. If none is open, the first delivery of the connection counts as tried, and its failure is one of the
site: after as many failures in a row as the window is wide, the site gets one probe at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Scope, Verdict
from zsmtp.errors import ContentUnavailable, QueueError, QueueUnavailable
from zsmtp.queue.connections import Connection, ConnectionGone, Entrusted
from zsmtp.queue.site import Group, KeyQueue

if TYPE_CHECKING:
    from zsmtp.queue.runner import Runner
    from zsmtp.queue.siterunner import SiteRunner

log = logging.getLogger("zsmtp.queue")


class ActiveDelivery:
    """One running delivery: its group, and its recipients without a verdict."""

    __slots__ = ("counted", "generation", "group", "key", "ledger", "mark_requested", "marked", "open", "started")

    def __init__(self, key: KeyQueue, group: Group, started: float) -> None:
        self.key = key
        self.group = group
        self.started = started
        self.generation = key.generation
        self.open = set(range(len(group.recipients)))
        self.marked: set[int] = set()  # recipients whose message may be complete at the server
        self.mark_requested = False  # the store may have a mark
        self.counted: set[bool] = set()  # the results it counted for the site: refused or not
        self.ledger: Ledger | None = None  # of the delivery; the two name each other

    def close(self) -> None:
        """Close the file of a content, and let go of the ledger."""
        self.ledger = None
        content = self.group.content
        if content is not None and not isinstance(content, bytes):
            content.close()


class SiteWorker:
    """The task of one connection of a site."""

    def __init__(self, runner: Runner, site: SiteRunner, key: KeyQueue) -> None:
        self.site = site
        self.key = key
        self.idles = False
        self._runner = runner
        self._jobs: dict[Ledger, ActiveDelivery] = {}
        self._first: Ledger | None = None
        self._sent = 0
        self._leaving = False
        self._denied = False  # the permission to complete a message
        self.connection: Connection[Any] = runner.connections.connection(
            key.key, self._allow, site=site.lease.site, in_turn=bool(site.limits.messages or site.limits.recipients)
        )
        self.task = runner.loop.create_task(self._work(), name=f"zsmtp queue to {key.key}")

    async def _work(self) -> None:
        runner, site = self._runner, self.site
        try:
            while not self._leaving:
                group = site.take(self.key)
                if group is None:
                    if not await self._idle():
                        break
                    continue
                delivery = await self._begin_loaded(group)
                if delivery is None:
                    continue
                self._first = delivery.ledger
                await self.connection.deliver(delivery, self._more, self._returns, self._not_begun)
                self._put_back_open()
                if site.window.dead or site.crowded or runner.slot_wanted(site):
                    break
        except ConnectionGone as error:
            log.debug("a connection to %s is lost: %s", self.key.key, error)
            jobs, self._jobs = self._jobs, {}
            for job in jobs.values():
                site.died(job)
        except Exception as error:
            log.exception("a connection to %s ended by a fault of this program", self.key.key)
            for job in tuple(self._jobs.values()):
                site.broke(job, error)
        finally:
            self._put_back_open()
            site.workers.discard(self)
            with suppress(Exception):
                await self.connection.close()
            runner.release_slot()
            site.changed = True
            site.pump()

    def _put_back_open(self) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            self.site.put_back(job)

    async def _begin_loaded(self, group: Group) -> Entrusted | None:
        """A delivery for a group, after loading a content that was too large for the claim."""
        if group.content is None:
            job = ActiveDelivery(self.key, group, self._runner.wall())
            try:
                await self._runner.connections.load(self._runner.store, group)
            except ContentUnavailable as error:
                self.site.put_off(job, str(error))
                return None
            except QueueUnavailable as error:
                self._runner.unavailable(error)
                self.site.pause()
                self.site.put_back(job)
                self._leaving = True
                return None
            except QueueError as error:
                self.site.unreadable(job, error)
                return None
            except Exception as error:
                self.site.broke(job, error)
                raise
        return self._begin(group)

    def _begin(self, group: Group) -> Entrusted:
        job = ActiveDelivery(self.key, group, self._runner.wall())

        def on_verdict(index: int, verdict: Verdict) -> None:
            self.site.decided(job, index, verdict)
            if not job.open:
                if job.ledger is not None:
                    self._jobs.pop(job.ledger, None)
                job.close()

        if (returns := self._runner.return_path) is not None:
            group.sender = returns.sender_of(group.message, group.recipients, job.started)
        try:
            delivery: Entrusted = self.connection.delivery(group, on_verdict)
        except Exception as error:
            self.site.broke(job, error)
            raise
        job.ledger = delivery.ledger
        self._jobs[delivery.ledger] = job
        self._sent += 1
        most = self.site.limits.per_connection
        if most and self._sent >= most:
            self._leaving = True
        return delivery

    def _more(self) -> Entrusted | None:
        """Another delivery for the engine, beside the running ones."""
        if self._leaving or self.site.crowded or self._runner.slot_wanted(self.site):
            return None
        group = self.site.take(self.key, riding=True)
        return None if group is None else self._begin(group)

    def _not_begun(self, delivery: Entrusted) -> None:
        """Put back a delivery that the connection took and could not begin."""
        job = self._jobs.pop(delivery.ledger, None)
        if job is not None:
            self.site.put_back(job)
            self.site.pump()

    def _returns(self, delivery: Entrusted, verdict: Verdict) -> bool:
        """Whether a delivery without a server's decision goes back."""
        site = self.site
        if verdict.in_doubt:
            return False
        if self._runner.stopping or site.lost or self._denied:
            self._leaving = True
            return True
        if verdict.level is not Scope.HOST:
            return False
        others = site.sessions - self.connection.is_open
        if others:
            site.window.limit(others)  # the server accepts no more connections than these
        elif delivery.ledger is self._first:
            return False  # it was tried, and the failure is one of the site
        self._leaving = True
        return True

    async def _allow(self, requested: Sequence[tuple[Entrusted, tuple[int, ...]]]) -> bool:
        """Commit marks: these may be complete at the server from now on."""
        runner, site = self._runner, self.site
        jobs = [(self._jobs[delivery.ledger], indexes) for delivery, indexes in requested]
        attempts = [job.group.recipients[index].next_attempt for job, indexes in jobs for index in indexes]
        self._denied = True
        if runner.results.problem or site.lost:
            return False
        before = [job.mark_requested for job, _ in jobs]
        for job, _ in jobs:
            job.mark_requested = True  # set first: the mark may be written even if the wait fails
        try:
            allowed = await runner.store.mark(site.lease, attempts)
        except QueueUnavailable as error:  # it was not written, or will be written again
            for (job, _), was in zip(jobs, before, strict=True):
                job.mark_requested = was
            runner.unavailable(error)
            site.pause()
            return False
        if not allowed:
            for (job, _), was in zip(jobs, before, strict=True):
                job.mark_requested = was
            runner.lose(site)
            return False
        self._denied = False
        for job, indexes in jobs:
            job.marked.update(indexes)
        return True

    async def _idle(self) -> bool:
        """Keep the session open for a while; returns whether there may be work again."""
        if not self.connection.is_open or self._runner.stopping or self._runner.slot_wanted(self.site):
            return False
        self.idles = True
        try:
            return await self.connection.idle(self._runner.config.idle)
        finally:
            self.idles = False
