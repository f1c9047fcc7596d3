"""When to retry a failed attempt: classes of failures and their schedules.

RFC 5321 4.5.4.1 asks for a first retry after 30 minutes at the latest, and for longer intervals later. Every failure
has a class (:class:`FailureClass`), every class a :class:`Schedule`::

    failure = classify("4.7.1", 450, "4.7.1 Greylisted", Scope.RECIPIENT, attempts=1)
    wait = SCHEDULES[failure].wait(1, chance=uniform())

The queue adds schedules by site, expiry and warnings (``zsmtp.queue.schedule``). A client that retries while it runs
calls :func:`next_try`. Time and randomness are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from zsmtp.delivery.outcome import Scope
from zsmtp.durations import duration_text, read_duration
from zsmtp.errors import ConfigError
from zsmtp.proto.status import EnhancedStatus

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
MAX_STEPS = 100
MIN_STEP = 1.0  # seconds; a schedule without waits would be a loop
MAX_STEP = 30 * DAY
LEAST_LEFT = 0.1  # seconds; with less time left there is no other try


class FailureClass(Enum):
    """The class of a failure. The value is its name in the configuration."""

    CONNECTION = "connection"
    """No session was opened: no connection to any of the site's hosts, or no greeting."""
    GREYLISTING = "greylisting"
    """The site accepts mail from an unknown sender only at the second try: its text says so, or the reply to the first
    try was 450 or 451 and 4.7.1."""
    MAILBOX_FULL = "mailbox-full"
    """The recipient's quota is used up (4.2.2)."""
    TOO_FAST = "too-fast"
    """The site asks for fewer messages or connections (421 with 4.7.x, 4.4.5, 4.7.28, or words like "rate")."""
    DNS = "dns"
    """Name servers gave no answer, to this side (4.4.3) or to the site (4.1.2, 4.1.8)."""
    TLS = "tls"
    """No session met its TLS requirement (4.7.5, 4.7.10), or the site's TLS fails (454)."""
    IN_DOUBT = "in-doubt"
    """The connection broke after the last octet of the message: the server may have it."""
    OTHER = "other"
    """Everything else."""


# ------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True)
class Schedule:
    """Waits between attempts, in seconds: ``steps`` after the first, second ... attempt, then ``then``.

    Each wait is lengthened, never shortened, by up to ``jitter`` of itself. Raises ConfigError for waits that are not
    between 1 second and 30 days.
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
            raise ConfigError(f"schedule {text[:80]!r}: waits are expected, as in '5m 10m 1h then 4h jitter 10%'")
        try:
            steps = tuple(read_duration(word) for word in match["steps"].split())
            then = read_duration(match["then"]) if match["then"] else steps[-1]
            return cls(steps, then, float(match["jitter"] or 10) / 100)
        except ConfigError as error:
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
"""The schedules by default. A site that does not answer costs one attempt at a time, so it is retried more often; a
mailbox is emptied by a person; a site that limits mail gets the widest spread."""


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
_MAX_TEXT = 1000  # characters that are searched
_TLS_DETAILS = {(7, 3), (7, 4), (7, 5), (7, 10)}
_DNS_DETAILS = {(4, 3), (4, 4), (1, 2), (1, 8)}


def classify(status: str, code: int, text: str, scope: Scope, attempts: int, *, in_doubt: bool = False) -> FailureClass:
    """The class of a failed attempt that will be retried.

    ``status`` is its enhanced status ("" if there is none), ``code`` the reply code that decided (0 if no reply did),
    ``text`` the reply or the reason in words, ``scope`` the scope of the failure, ``attempts`` the number of attempts
    including this one.
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
    """The class of a failure on this side, without a server's reply."""
    if meaning == (4, 1) or (meaning == (4, 2) and scope is Scope.HOST):
        return FailureClass.CONNECTION
    if meaning in _DNS_DETAILS:
        return FailureClass.DNS
    return FailureClass.TLS if meaning in _TLS_DETAILS else FailureClass.OTHER


# ------------------------------------------------------------------ tried while a program runs


def next_try(
    failure: FailureClass, attempts: int, now: float, until: float, chance: float, rest: float
) -> float | None:
    """The time of the next try for a recipient deferred at ``now`` after ``attempts`` attempts; None: no more.

    It follows the schedule of the failure, but not within the destination's backoff of ``rest`` seconds. If the
    schedule gives a later time than ``until``, the last try is made at ``until``.
    """
    if until - now < LEAST_LEFT:
        return None
    wait = SCHEDULES[failure].wait(attempts, chance)
    return min(now + max(wait, rest), until)
