"""Decides whether a tenant's mail may be queued now: quotas, compared with recent counts.

The rules are in ``zsmtp.queue.quotas``; this module reads the counts they need from the store and caches them, so that
a submission sometimes waits for a count, and never for another submission. Mail that this process accepts is added at
once; mail that other processes accept, and mail that left the queue, is seen with the next count. That comes after 5
seconds, or after 20 times the duration of the count before: counting queued mail reads all messages, about a second and
a half for a million in a file. So other processes may exceed a quota by the mail they accept between two counts; one
process alone never does::

    admission = Admission(store, config.tenants)
    with await admission.reserve("shop", Amount(1, size, 3)) as reservation:   # raises QuotaExceeded
        (accepted,) = await store.submit([new])
        reservation.done([accepted])

Mail that turns out to be queued already (by its idempotency key), or is not queued after all, does not count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType

from zsmtp.errors import QuotaExceeded
from zsmtp.queue import quotas
from zsmtp.queue.quotas import NOTHING, Amount, TenantLimits
from zsmtp.queue.store import Accepted, NewMessage, QueueStore

FRESH = 5.0  # seconds that a count is good for
SHARE = 20.0  # a count is good for so many times as long as it took


def amount_of(new: NewMessage, size: int) -> Amount:
    """The amount that a message of ``size`` octets counts as."""
    return Amount(1, size, len(new.recipients))


class _Counted:
    """A count read from the store, and the amounts added here since. Times are monotonic."""

    __slots__ = ("_during", "added", "good_until", "lock")

    def __init__(self) -> None:
        self.good_until = float("-inf")
        self.added: dict[str, Amount] = {}
        self.lock = asyncio.Lock()
        self._during: dict[str, Amount] | None = None  # added since a read began, which may have missed it

    def add(self, tenant: str, amount: Amount) -> None:
        for sums in (self.added, self._during):
            if sums is not None:
                sums[tenant] = sums.get(tenant, NOTHING).plus(amount)

    def begin(self) -> None:
        self._during = {}

    def end(self, *, good_until: float) -> None:
        self.added, self._during = self._during or {}, None
        self.good_until = good_until

    def failed(self) -> None:
        self._during = None


class Admission:
    """Checks submissions to one store against the quotas of their tenants. Use it on the event loop of the store.

    ``clock`` is the wall clock in seconds since 1970, ``monotonic`` one that never goes back.
    """

    def __init__(
        self,
        store: QueueStore,
        tenants: Mapping[str, TenantLimits],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._limits = tenants
        self._clock = clock
        self._monotonic = monotonic
        self._pending: dict[str, Amount] = {}
        self._queued: Mapping[str, Amount] = {}
        self._queued_count = _Counted()
        self._accepted: dict[str, Mapping[int, Amount]] = {}
        self._accepted_counts: dict[str, _Counted] = {}

    def reconfigure(self, tenants: Mapping[str, TenantLimits]) -> None:
        """Use other quotas from now on."""
        self._limits = tenants

    def has_quota(self, tenant: str) -> bool:
        """Whether a tenant has a quota."""
        limits = self._limits.get(tenant)
        return limits is not None and (limits.by_hour or limits.of_queue)

    async def reserve(self, tenant: str, wanted: Amount) -> Reservation:
        """Reserve room. Raises QuotaExceeded; SubmissionError for more than a whole quota; QueueUnavailable."""
        limits = self._limits.get(tenant)
        if limits is None or not (limits.by_hour or limits.of_queue):
            return Reservation(self, "", NOTHING)
        quotas.check_alone(limits, tenant, wanted)
        if limits.by_hour:
            count = self._accepted_counts.setdefault(tenant, _Counted())
            await self._refresh(count, partial(self._count_accepted, tenant))
        if limits.of_queue:
            await self._refresh(self._queued_count, self._count_queued)
        exceeded = self._excess(limits, tenant, wanted)
        if exceeded is not None:
            raise exceeded
        self._pending[tenant] = self._pending.get(tenant, NOTHING).plus(wanted)
        return Reservation(self, tenant, wanted)

    async def reserve_all(self, messages: Iterable[tuple[NewMessage, int]]) -> Reservation:
        """Reserve room for several messages, given with their sizes, of any tenants; all or none."""
        wanted: dict[str, Amount] = {}
        for new, size in messages:
            wanted[new.tenant] = wanted.get(new.tenant, NOTHING).plus(amount_of(new, size))
        made = Reservation(self, "", NOTHING)
        try:
            for tenant, amount in wanted.items():
                made.parts.append(await self.reserve(tenant, amount))
        except BaseException:
            made.cancel()
            raise
        return made

    def refusal(self, tenant: str, wanted: Amount) -> QuotaExceeded | None:
        """Why mail cannot be queued now, by the cached counts only.

        Raises SubmissionError for more than a whole quota.
        """
        limits = self._limits.get(tenant)
        if limits is None:
            return None
        quotas.check_alone(limits, tenant, wanted)
        if not self._known(limits, tenant):
            return None
        return self._excess(limits, tenant, wanted)

    # -------------------------------------------------------------------- figures

    def _known(self, limits: TenantLimits, tenant: str) -> bool:
        """Whether all counts that matter are recent enough."""
        now = self._monotonic()
        needed = [self._queued_count] if limits.of_queue else []
        if limits.by_hour:
            needed.append(self._accepted_counts.setdefault(tenant, _Counted()))
        return bool(needed) and all(now < one.good_until for one in needed)

    def _excess(self, limits: TenantLimits, tenant: str, wanted: Amount) -> QuotaExceeded | None:
        now = self._clock()
        pending = self._pending.get(tenant, NOTHING)
        used = dict(self._accepted.get(tenant, {}))
        if limits.by_hour:
            slot = quotas.slot_of(now)
            here = self._accepted_counts[tenant].added.get(tenant, NOTHING).plus(pending)
            used[slot] = used.get(slot, NOTHING).plus(here)
        added = self._queued_count.added.get(tenant, NOTHING)
        queued = self._queued.get(tenant, NOTHING).plus(added).plus(pending)
        return quotas.excess(limits, tenant, wanted, used=used, queued=queued, now=now)

    async def _count_accepted(self, tenant: str) -> None:
        self._accepted[tenant] = await self._store.accepted_by(tenant)

    async def _count_queued(self) -> None:
        self._queued = await self._store.queued_by_tenant()

    async def _refresh(self, count: _Counted, read: Callable[[], Awaitable[None]]) -> None:
        """Read a count again if it is too old; concurrent callers wait for the same read."""
        async with count.lock:
            began = self._monotonic()
            if began < count.good_until:
                return
            count.begin()
            try:
                await read()
            except BaseException:
                count.failed()
                raise
            ended = self._monotonic()
            count.end(good_until=ended + max(FRESH, SHARE * (ended - began)))

    def _settled(self, tenant: str, reserved: Amount, kept: Amount) -> None:
        """Replace a reservation by the amount that was queued, ``kept``."""
        self._pending[tenant] = self._pending[tenant].minus(reserved)
        if self._pending[tenant] == NOTHING:
            del self._pending[tenant]
        if any(kept):
            self._queued_count.add(tenant, kept)
            if tenant in self._accepted_counts:
                self._accepted_counts[tenant].add(tenant, kept)


class Reservation:
    """Room that is reserved, until it is :meth:`done` or given back at the end of its ``with`` block."""

    __slots__ = ("_admission", "_amount", "_tenant", "parts")

    def __init__(self, admission: Admission, tenant: str, amount: Amount) -> None:
        self._admission = admission
        self._tenant = tenant
        self._amount = amount
        self.parts: list[Reservation] = []
        """Others that go with it."""

    def done(self, accepted: Sequence[Accepted] = ()) -> None:
        """Record that the mail is queued; mail that was queued before does not count. May be called again."""
        self._settle(NOTHING if accepted and all(one.existed for one in accepted) else self._amount)
        for part in self.parts:
            part.done(accepted)

    def cancel(self) -> None:
        """Record that nothing was queued. After :meth:`done` this has no effect."""
        self._settle(NOTHING)
        for part in self.parts:
            part.cancel()

    def _settle(self, kept: Amount) -> None:
        reserved, self._amount = self._amount, NOTHING
        if any(reserved):
            self._admission._settled(self._tenant, reserved, kept)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
