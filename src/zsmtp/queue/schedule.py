"""The retry policy: when a recipient is tried again, when it is given up, and when its sender is warned of the delay.

RFC 5321 4.5.4.1 recommends a first retry after 30 minutes at the latest, longer intervals later, and four to five days
until a message is given up. Every failure has a class, every class a schedule (``zsmtp.delivery.retry``; this module
re-exports its names), and sites and tenants may have their own schedules (:class:`RetryOverride`)::

    policy = RetryPolicy().for_recipient(site="example.com", tenant="")
    failure = classify("4.7.1", 450, "4.7.1 Greylisted", Scope.RECIPIENT, attempts=1)
    due = next_attempt(policy, failure, attempts=1, now=now, expires=expires, chance=uniform())

Time and chance are arguments: ``now`` is in seconds since 1970 (UTC), ``chance`` a random number in [0, 1). A due time
is computed from the end of the last attempt only, so setting the clock moves no recipient further than the clock.
Delays of this side (a hold, a suspension, a rate, no free connection) are no attempts and have no class:
:func:`after_suspension` gives the due times of their backlog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zsmtp.delivery.outcome import Scope as Scope
from zsmtp.delivery.retry import DAY as DAY
from zsmtp.delivery.retry import HOUR as HOUR
from zsmtp.delivery.retry import MAX_STEP as MAX_STEP
from zsmtp.delivery.retry import MIN_STEP as MIN_STEP
from zsmtp.delivery.retry import SCHEDULES as SCHEDULES
from zsmtp.delivery.retry import FailureClass as FailureClass
from zsmtp.delivery.retry import Schedule as Schedule
from zsmtp.delivery.retry import classify as classify
from zsmtp.durations import duration_text
from zsmtp.errors import ConfigError
from zsmtp.queue.filter import key_matches, name_matches
from zsmtp.queue.states import QueuedRecipient

MAX_EXPIRE = 366 * DAY
MAX_SPREAD = 4 * HOUR
"""The longest time over which a backlog is spread; after it the site's rate alone limits the mail."""


# ---------------------------------------------------------------------- policy


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOverride:
    """Exceptions from the policy for recipients whose site and tenant match."""

    site: str = "*"
    """A pattern of queue keys (``*``, ``?``)."""
    tenant: str = "*"
    """A pattern of tenants."""
    schedule: Schedule | None = None
    """The schedule for all classes of failures; None leaves them as they are."""
    schedules: Mapping[FailureClass, Schedule] = field(default_factory=dict)
    """Schedules for single classes."""
    expire: float | None = None
    """As of the policy; None leaves it as it is."""
    expire_null: float | None = None
    """As of the policy."""
    warn_after: float | None = None
    """As of the policy."""

    def __post_init__(self) -> None:
        _check_times(self.expire, self.expire_null, self.warn_after)

    def applies(self, site: str, tenant: str) -> bool:
        """Whether it applies to recipients of this site and tenant."""
        return key_matches(self.site, site) and name_matches(self.tenant, tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When recipients are tried again, given up, and warned of. Times are in seconds."""

    schedules: Mapping[FailureClass, Schedule] = field(default_factory=lambda: SCHEDULES)
    """Schedules by class; an absent class has the schedule of ``OTHER``, or the default one."""
    expire: float = 5 * DAY
    """After this time a recipient is given up (RFC 5321 4.5.4.1)."""
    expire_null: float = 2 * DAY
    """The same for messages from ``<>``, which are mostly notices."""
    warn_after: float = 4 * HOUR
    """After this time the sender is warned, once; 0: never."""
    overrides: tuple[RetryOverride, ...] = ()
    """Exceptions; all that apply are used, later ones over earlier ones."""

    def __post_init__(self) -> None:
        _check_times(self.expire, self.expire_null, self.warn_after)

    def for_recipient(self, site: str, tenant: str) -> RetryPolicy:
        """The policy for the recipients of a site and a tenant, with the overrides applied."""
        policy = replace(self, overrides=())
        for override in self.overrides:
            if override.applies(site, tenant):
                policy = _overridden(policy, override)
        return policy

    def schedule(self, failure: FailureClass) -> Schedule:
        """The schedule of a class."""
        return self.schedules.get(failure) or self.schedules.get(FailureClass.OTHER) or _DEFAULT

    def expires(self, since: float, *, null_sender: bool) -> float:
        """When a recipient is given up that could first be tried at ``since``."""
        return since + (self.expire_null if null_sender else self.expire)


_DEFAULT = Schedule()


def _check_times(expire: float | None, expire_null: float | None, warn_after: float | None) -> None:
    for name, seconds in (("expire", expire), ("expire_null", expire_null)):
        if seconds is not None and not 0 < seconds <= MAX_EXPIRE:
            raise ConfigError(f"{name}: {seconds:g} s is not between 0 and {duration_text(MAX_EXPIRE)}")
    if warn_after is not None and not warn_after >= 0:
        raise ConfigError(f"warn_after: {warn_after:g} s; 0 is for no warning")


def _overridden(policy: RetryPolicy, override: RetryOverride) -> RetryPolicy:
    schedules = dict.fromkeys(FailureClass, override.schedule) if override.schedule is not None else policy.schedules
    return RetryPolicy(
        schedules={**schedules, **override.schedules},
        expire=policy.expire if override.expire is None else override.expire,
        expire_null=policy.expire_null if override.expire_null is None else override.expire_null,
        warn_after=policy.warn_after if override.warn_after is None else override.warn_after,
    )


# ----------------------------------------------------------------------- times


def next_attempt(
    policy: RetryPolicy, failure: FailureClass, attempts: int, now: float, expires: float, chance: float
) -> float:
    """When a recipient is due again after its attempt number ``attempts`` failed at ``now``.

    Never later than ``expires``: a recipient due then is found expired. Never earlier than ``now``, so that it does not
    come before recipients that were read already.
    """
    due = now + policy.schedule(failure).wait(attempts, chance)
    return max(min(due, expires), now)


def after_doubt(policy: RetryPolicy, now: float, expires: float, chance: float) -> float:
    """When a recipient is due whose attempt was lost with the process or machine that made it.

    That is after the first wait of the schedule, for any number of attempts, and not at once: until then a late result
    can still settle it. An attempt in doubt because its connection broke waits by its number instead
    (:func:`next_attempt`): otherwise a server that takes a message and breaks each time would get it again and again.
    """
    return next_attempt(policy, FailureClass.IN_DOUBT, 1, now, expires, chance)


def after_suspension(end: float, backlog: int, rate: float, chance: float) -> float:
    """When a recipient is due after the end of a suspension, or of any other delay of this side.

    The ``backlog`` of recipients is spread evenly over the time in which the site can take it at ``rate`` recipients a
    second (0: unknown, 1 is assumed), :data:`MAX_SPREAD` at most, so that it does not become due all at once.
    """
    seconds = backlog / rate if rate > 0 else float(backlog)
    return end + min(max(seconds, 0.0), MAX_SPREAD) * chance


def expired(recipient: QueuedRecipient, now: float) -> bool:
    """Whether the time of a recipient is over. A held one does not expire."""
    return not recipient.hold and now >= recipient.expires


def warning_due(policy: RetryPolicy, recipient: QueuedRecipient, since: float, now: float) -> bool:
    """Whether a delay warning to the sender is due now.

    ``since`` is when the recipient could first be tried: when the message was submitted, or the later time it was
    submitted for. There is no warning for a recipient that is given up now.
    """
    late = policy.warn_after > 0 and now - since >= policy.warn_after
    return late and not recipient.warned and now < recipient.expires
