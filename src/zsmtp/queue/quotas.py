"""Quotas of tenants: how much a tenant may submit in an hour, and how much of its mail may be queued at a time.

The rules are pure. Accepted mail is counted in slots of five minutes, by counters of the store with names from this
module (:func:`counted`): adding to a counter makes no submission wait for another one. A slot counts until an hour
after its end, so that no hour has more than the quota, and room becomes free up to five minutes late. Queued mail is
counted by the store (:meth:`~zsmtp.queue.store.QueueStore.queued_by_tenant`)::

    limits = TenantLimits(messages_per_hour=1000, queued_octets=10 << 30)
    exceeded = excess(limits, "shop", Amount(1, 4096, 1), used=slots, queued=queued, now=now)

``zsmtp.queue.admission`` calls the rules and decides how old the counts may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from zsmtp.errors import ConfigError, QuotaExceeded, SubmissionError
from zsmtp.escape import escape
from zsmtp.fieldtypes import check_least, check_types

SLOT = 300  # seconds that are counted together
HOUR = 3600
_PREFIX = "used/"
_SLOTS = HOUR // SLOT + 1  # slots that count at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """The limits of a tenant. A quota of 0 is none; quotas apply to all mail but notices."""

    weight: float = 1.0
    """Its share where tenants wait for the same site."""
    messages_per_hour: int = 0
    """Messages accepted from it in any hour."""
    recipients_per_hour: int = 0
    """Recipients of messages accepted from it in any hour."""
    octets_per_hour: int = 0
    """Octets of messages accepted from it in any hour."""
    queued_messages: int = 0
    """Its messages in the queue at a time, including notices to it."""
    queued_octets: int = 0
    """Octets of these messages."""

    def __post_init__(self) -> None:
        check_types(self)
        if not self.weight > 0:
            raise ConfigError(f"weight: {self.weight:g} is not more than 0")
        check_least(self, messages_per_hour=0, recipients_per_hour=0, octets_per_hour=0)
        check_least(self, queued_messages=0, queued_octets=0)

    @property
    def by_hour(self) -> bool:
        """Whether there is a quota on mail accepted in an hour."""
        return bool(self.messages_per_hour or self.recipients_per_hour or self.octets_per_hour)

    @property
    def of_queue(self) -> bool:
        """Whether there is a quota on mail queued at a time."""
        return bool(self.queued_messages or self.queued_octets)


class Amount(NamedTuple):
    """An amount of mail."""

    messages: int = 0
    octets: int = 0
    recipients: int = 0

    def plus(self, other: Amount) -> Amount:
        """The sum of two."""
        return Amount(self.messages + other.messages, self.octets + other.octets, self.recipients + other.recipients)

    def minus(self, other: Amount) -> Amount:
        """The difference of two."""
        return self.plus(Amount(-other.messages, -other.octets, -other.recipients))


NOTHING = Amount()


# -------------------------------------------------------------------- counters


def slot_of(at: float) -> int:
    """The slot of a time in seconds since 1970: the second in which it begins."""
    return int(at // SLOT) * SLOT


def counted(accepted: Iterable[tuple[str, Amount]], now: float) -> dict[str, int]:
    """The additions to counters for mail of tenants that is accepted now."""
    found: dict[str, int] = {}
    slot = slot_of(now)
    for tenant, amount in accepted:
        for name, number in zip(_names(tenant, slot), amount, strict=True):
            found[name] = found.get(name, 0) + number
    return found


def _names(tenant: str, slot: int) -> tuple[str, ...]:
    return tuple(f"{_PREFIX}{slot:012d}/{kind}/{tenant}" for kind in Amount._fields)


def names_within_hour(tenant: str, now: float) -> list[str]:
    """The names of all counters for a tenant's mail of the last hour."""
    last = slot_of(now)
    return [name for number in range(_SLOTS) for name in _names(tenant, last - number * SLOT)]


def used_by_slot(counters: Mapping[str, int], tenant: str, now: float) -> dict[int, Amount]:
    """The amounts accepted from a tenant, by slots that count now, from the values of counters."""
    found = {}
    for number in range(_SLOTS):
        slot = slot_of(now) - number * SLOT
        amount = Amount(*(counters.get(name, 0) for name in _names(tenant, slot)))
        if any(amount):
            found[slot] = amount
    return found


def is_of_tenant(counter: str) -> bool:
    """Whether a counter is a tenant's, and no total of the queue."""
    return counter.startswith(_PREFIX)


def names_of_old(now: float) -> tuple[str, str]:
    """The range of names, from the first and below the second, of counters whose slots do not count any more."""
    return _PREFIX, f"{_PREFIX}{slot_of(now) - (_SLOTS - 1) * SLOT:012d}"


def is_over(counter: str, now: float) -> bool:
    """Whether the slot of a counter does not count any more."""
    first, oldest = names_of_old(now)
    return first <= counter < oldest


# ---------------------------------------------------------------------- quotas


def excess(
    limits: TenantLimits, tenant: str, wanted: Amount, *, used: Mapping[int, Amount], queued: Amount, now: float
) -> QuotaExceeded | None:
    """The quota that a tenant would exceed with ``wanted``, None if none.

    ``used`` is the amount accepted by slot, ``queued`` the amount in the queue. Of several quotas the result is the one
    that has room last; one of the queue before those of an hour. Raises SubmissionError for more than a whole quota.
    """
    check_alone(limits, tenant, wanted)
    for name, limit, there, more in (
        ("queued_messages", limits.queued_messages, queued.messages, wanted.messages),
        ("queued_octets", limits.queued_octets, queued.octets, wanted.octets),
    ):
        if limit and there + more > limit:
            return QuotaExceeded(tenant, name, limit, there, None, now)
    found: QuotaExceeded | None = None
    for place, (name, limit, more) in enumerate(_hourly(limits, wanted)):
        there = sum(amount[place] for amount in used.values())
        if limit and there + more > limit:
            frees = _frees({slot: amount[place] for slot, amount in used.items()}, there + more - limit)
            if found is None or frees > (found.frees or 0):
                found = QuotaExceeded(tenant, name, limit, there, frees, now)
    return found


def check_alone(limits: TenantLimits, tenant: str, wanted: Amount) -> None:
    """Raise SubmissionError for an amount of more than a whole quota, which could never be accepted."""
    for name, limit, more in (
        *_hourly(limits, wanted),
        ("queued_messages", limits.queued_messages, wanted.messages),
        ("queued_octets", limits.queued_octets, wanted.octets),
    ):
        if limit and more > limit:
            what = name.partition("_")[2] if name.startswith("queued_") else name.partition("_")[0]
            whose = f"tenant {escape(tenant[:80])}" if tenant else "mail without a tenant"
            raise SubmissionError(f"{more} {what} at a time are more than the whole quota of {whose}: {name} = {limit}")


def _hourly(limits: TenantLimits, wanted: Amount) -> tuple[tuple[str, int, int], ...]:
    """The quotas of an hour, in the order of amounts: name, limit, wanted amount."""
    return tuple(
        (f"{kind}_per_hour", getattr(limits, f"{kind}_per_hour"), number)
        for kind, number in zip(Amount._fields, wanted, strict=True)
    )


def _frees(used: Mapping[int, int], missing: int) -> float:
    """When enough slots have passed that ``missing`` fit."""
    for slot in sorted(used):
        missing -= used[slot]
        if missing <= 0:
            return float(slot + SLOT + HOUR)
    return float(max(used, default=0) + SLOT + HOUR)
