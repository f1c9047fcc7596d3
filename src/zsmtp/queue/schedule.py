"""All retry policy: when a recipient is tried again, when it is given up, and when its sender is warned of the delay.

RFC 5321 4.5.4.1 asks for a first retry after 30 minutes at the latest, longer intervals later, and four to five days
until a message is given up. Here every failure has a class (:class:`FailureClass`), every class a schedule
(:class:`Schedule`), and sites and tenants may have schedules of their own (:class:`RetryOverride`)::

    policy = RetryPolicy().for_recipient(site="example.com", tenant="")
    failure = classify("4.7.1", 450, "4.7.1 Greylisted", Scope.RECIPIENT, attempts=1)
    due = next_attempt(policy, failure, attempts=1, now=now, expires=expires, chance=uniform())

Time and chance are arguments: ``now`` is in seconds since 1970 (UTC), ``chance`` a random number in [0, 1). A due time
is computed from the time at which an attempt ended and never from earlier ones, so a clock that is set moves no
recipient further than it was set itself. Delays of this side (a hold, a suspension, a rate, no free connection) are no
attempts and have no class: :func:`after_suspension` says when their backlog comes back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from zsmtp.delivery.outcome import Scope as Scope
from zsmtp.errors import ConfigError, QueueError
from zsmtp.proto.status import EnhancedStatus
from zsmtp.queue.filter import duration, duration_text, glob
from zsmtp.queue.states import QueuedRecipient

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
MAX_STEPS = 100
MIN_STEP = 1.0  # seconds; a schedule without waits would be a loop
MAX_STEP = 30 * DAY
MAX_EXPIRE = 366 * DAY
MAX_SPREAD = 4 * HOUR
"""The longest time over which a backlog is spread; what a site takes after that is decided by its rate."""


class FailureClass(Enum):
    """Why an attempt has to be made again. The value is its name in the configuration."""

    CONNECTION = "connection"
    """No session came about: no connection to any of the site's hosts, or no greeting."""
    GREYLISTING = "greylisting"
    """The site takes mail of an unknown sender at the second try only: its text says so, or the first try was
    answered with 450 or 451 and 4.7.1."""
    MAILBOX_FULL = "mailbox-full"
    """The recipient's quota is used up (4.2.2)."""
    TOO_FAST = "too-fast"
    """The site asks for fewer messages or connections (421 with 4.7.x, 4.4.5, 4.7.28, or words like "rate")."""
    DNS = "dns"
    """Name servers gave no answer, to this side (4.4.3) or to the site (4.1.2, 4.1.8)."""
    TLS = "tls"
    """No session was as secure as it must be (4.7.5, 4.7.10), or the site's TLS is out of order (454)."""
    IN_DOUBT = "in-doubt"
    """The connection broke after the last octet of the message: the server may have it."""
    OTHER = "other"
    """Everything else."""


# ------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True)
class Schedule:
    """Waits between attempts, in seconds: ``steps`` after the first, second ... attempt, then ``then``.

    Each wait is lengthened, never shortened, by up to ``jitter`` of itself. Raises ConfigError when made of waits that
    are not between 1 second and 30 days.
    """

    steps: tuple[float, ...] = (5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 40 * MINUTE, 1 * HOUR, 2 * HOUR, 3 * HOUR)
    then: float = 4 * HOUR
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if len(self.steps) > MAX_STEPS:
            raise ConfigError(f"schedule of {len(self.steps)} steps; {MAX_STEPS} are the limit")
        for wait in (*self.steps, self.then):
            if not MIN_STEP <= wait <= MAX_STEP:
                raise ConfigError(f"schedule: a wait of {wait:g} s is not between 1s and 30d")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"schedule: a jitter of {self.jitter:.0%} is not between 0% and 100%")

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read ``5m 10m 20m 1h then 4h jitter 20%``; raises :class:`~zsmtp.errors.ConfigError`.

        Without ``then`` the last step is repeated, without ``jitter`` it is 10%.
        """
        match = _SCHEDULE.fullmatch(text.strip().lower())
        if match is None or not (match["steps"].strip() or match["then"]):
            raise ConfigError(f"schedule {text[:80]!r}: waits are wanted, as in '5m 10m 1h then 4h jitter 10%'")
        try:
            steps = tuple(duration(word) for word in match["steps"].split())
            then = duration(match["then"]) if match["then"] else steps[-1]
            return cls(steps, then, float(match["jitter"] or 10) / 100)
        except (QueueError, ConfigError) as error:
            raise ConfigError(f"schedule {text[:80]!r}: {error}") from None

    def wait(self, attempts: int, chance: float) -> float:
        """Seconds until the next attempt when ``attempts`` were made."""
        step = self.steps[max(attempts, 1) - 1] if attempts <= len(self.steps) and self.steps else self.then
        return step * (1 + self.jitter * chance)

    def __str__(self) -> str:
        words = [duration_text(step) for step in self.steps]
        if not words or self.steps[-1] != self.then:
            words += ["then", duration_text(self.then)]
        return " ".join([*words, "jitter", f"{self.jitter * 100:.6f}".rstrip("0").rstrip(".") + "%"])


_SCHEDULE = re.compile(
    r"(?P<steps>(?:(?!then\b|jitter\b)\S+(?:\s+|$))*)"
    r"(?:then\s+(?P<then>\S+)(?:\s+|$))?"
    r"(?:jitter\s+(?P<jitter>\d{1,3}(?:\.\d{1,6})?)%)?"
)

SCHEDULES: Mapping[FailureClass, Schedule] = MappingProxyType(
    {
        FailureClass.CONNECTION: Schedule.parse("5m 10m 20m 30m 1h then 2h"),
        FailureClass.GREYLISTING: Schedule.parse("5m 5m 10m 20m 40m 1h 2h 3h then 4h jitter 20%"),
        FailureClass.MAILBOX_FULL: Schedule.parse("30m 1h 2h 4h then 8h"),
        FailureClass.TOO_FAST: Schedule.parse("5m 10m 20m 40m 1h then 2h jitter 50%"),
        FailureClass.DNS: Schedule.parse("5m 10m 20m 40m 1h then 2h"),
        FailureClass.TLS: Schedule.parse("10m 20m 40m 1h 2h then 4h"),
        FailureClass.IN_DOUBT: Schedule(),
        FailureClass.OTHER: Schedule(),
    }
)
"""The schedules by default. A site that does not answer costs one attempt at a time, so it may be asked more often; a
mailbox is emptied by a person; a site that wants less gets the widest spread."""


# ---------------------------------------------------------------------- policy


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOverride:
    """What is different for some recipients: those whose site and tenant match."""

    site: str = "*"
    """A pattern of queue keys (``*``, ``?``)."""
    tenant: str = "*"
    """A pattern of tenants."""
    schedule: Schedule | None = None
    """The schedule for all classes of failures; None leaves them as they are."""
    schedules: Mapping[FailureClass, Schedule] = field(default_factory=dict)
    """Schedules for some of them."""
    expire: float | None = None
    """As of the policy; None leaves it as it is."""
    expire_null: float | None = None
    """As of the policy."""
    warn_after: float | None = None
    """As of the policy."""

    def __post_init__(self) -> None:
        _check_times(self.expire, self.expire_null, self.warn_after)

    def applies(self, site: str, tenant: str) -> bool:
        """Whether it is about a recipient of this site and tenant."""
        return _matches(self.site, site) and _matches(self.tenant, tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When recipients are tried again, given up, and warned of. Times are in seconds."""

    schedules: Mapping[FailureClass, Schedule] = field(default_factory=lambda: SCHEDULES)
    """By class; one that is left out has the schedule of ``OTHER``, or the default one."""
    expire: float = 5 * DAY
    """After this time a recipient is given up (RFC 5321 4.5.4.1)."""
    expire_null: float = 2 * DAY
    """The same for messages from ``<>``, which are mostly notices."""
    warn_after: float = 4 * HOUR
    """After this time the sender is warned, once; 0: never."""
    overrides: tuple[RetryOverride, ...] = ()
    """All that apply are used, later ones over earlier ones."""

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
        """When a recipient is given up that may be tried since ``since``."""
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


def _matches(pattern: str, name: str) -> bool:
    return pattern == "*" or glob(pattern.lower()).fullmatch(name.lower()) is not None


# --------------------------------------------------------------------- classes

_GREYLISTED = ("greylist", "graylist", "grey list", "gray list")
_TOO_FAST = (
    *("rate limit", "ratelimit", "sending rate", "message rate", "connection rate", "mail rate", "unusual rate"),
    *("excessive rate", "throttl", "too fast", "too quick", "too often", "too many messages", "too many connections"),
    *("too many mails", "too many emails", "too many sessions", "too many concurrent", "too many simultaneous"),
    *("too many requests", "slow down", "server busy", "server is busy"),
    *("per second", "per minute", "per hour", "per day"),
)
_FULL = (
    *("mailbox full", "mailbox is full", "mailbox exceed", "over quota", "overquota", "quota exceeded"),
    *("quota is exceeded", "exceeds quota", "exceeded quota", "exceeds its quota", "exceeded its quota"),
    *("exceeded storage", "out of storage"),
)
_MAX_TEXT = 1000  # characters that are looked at
_TLS_DETAILS = {(7, 3), (7, 4), (7, 5), (7, 10)}
_DNS_DETAILS = {(4, 3), (4, 4), (1, 2), (1, 8)}


def classify(status: str, code: int, text: str, scope: Scope, attempts: int, *, in_doubt: bool = False) -> FailureClass:
    """The class of an attempt that is to be made again.

    ``status`` is its enhanced status ("" if there is none), ``code`` the reply code that decided (0 if no reply did),
    ``text`` the reply or the reason in words, ``scope`` how much of the work the failure concerns, ``attempts`` how
    many attempts were made with this one.
    """
    if in_doubt:
        return FailureClass.IN_DOUBT
    try:
        _, subject, detail = EnhancedStatus.parse(status)
    except ValueError:
        subject = detail = 0
    meaning = (subject, detail)
    if not code:
        return _without_reply(meaning, scope)
    said = text[:_MAX_TEXT].lower().replace("-", " ")
    if _names(_GREYLISTED, said):
        return FailureClass.GREYLISTING
    if meaning == (2, 2) or (subject in (0, 2, 3) and _names(_FULL, said)):
        return FailureClass.MAILBOX_FULL
    if meaning in ((4, 5), (7, 28)) or (subject == 7 and code == 421) or _names(_TOO_FAST, said):
        return FailureClass.TOO_FAST
    if meaning == (7, 1) and code in (450, 451) and attempts <= 1 and scope in (Scope.RECIPIENT, Scope.MESSAGE):
        return FailureClass.GREYLISTING
    if meaning in _TLS_DETAILS or (code == 454 and "tls" in said):
        return FailureClass.TLS
    return FailureClass.DNS if meaning in _DNS_DETAILS else FailureClass.OTHER


def _names(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)


def _without_reply(meaning: tuple[int, int], scope: Scope) -> FailureClass:
    """The class of a failure that this side found: no server said anything."""
    if meaning == (4, 1) or (meaning == (4, 2) and scope is Scope.HOST):
        return FailureClass.CONNECTION
    if meaning in _DNS_DETAILS:
        return FailureClass.DNS
    return FailureClass.TLS if meaning in _TLS_DETAILS else FailureClass.OTHER


# ----------------------------------------------------------------------- times


def next_attempt(
    policy: RetryPolicy, failure: FailureClass, attempts: int, now: float, expires: float, chance: float
) -> float:
    """When a recipient is due again after its attempt number ``attempts`` failed at ``now``.

    Never later than ``expires``: due at that time, it is found expired. Never earlier than ``now``, so that it is not
    put before what was read already.
    """
    due = now + policy.schedule(failure).wait(attempts, chance)
    return max(min(due, expires), now)


def after_doubt(policy: RetryPolicy, now: float, expires: float, chance: float) -> float:
    """When a recipient is due whose attempt was lost with the process or machine that made it.

    That is after the first wait, whatever the number of the attempt, and not at once: until then a late result can
    still settle it. An attempt that is in doubt since its connection broke waits by its number instead
    (:func:`next_attempt`), since a server that takes a message and breaks each time would get it again and again.
    """
    return next_attempt(policy, FailureClass.IN_DOUBT, 1, now, expires, chance)


def after_suspension(end: float, backlog: int, rate: float, chance: float) -> float:
    """When a recipient is due that waited for the end of a suspension, or of any other delay of this side.

    The ``backlog`` of recipients is spread evenly over the time in which the site can take it at ``rate`` recipients a
    second (0: unknown, it is taken to be 1), :data:`MAX_SPREAD` at most. It comes back as a stream, not as a wave.
    """
    seconds = backlog / rate if rate > 0 else float(backlog)
    return end + min(max(seconds, 0.0), MAX_SPREAD) * chance


def expired(recipient: QueuedRecipient, now: float) -> bool:
    """Whether a recipient is to be given up. One that is held is not."""
    return not recipient.hold and now >= recipient.expires


def warning_due(policy: RetryPolicy, recipient: QueuedRecipient, since: float, now: float) -> bool:
    """Whether the sender is to be warned now that the message is late.

    ``since`` is from when on the recipient could be tried: when the message was submitted, or the later time it was
    submitted for. A recipient that is given up now is not warned of.
    """
    late = policy.warn_after > 0 and now - since >= policy.warn_after
    return late and not recipient.warned and now < recipient.expires
