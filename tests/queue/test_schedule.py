"""Retry policy: classes as a table, schedules as text, and times as properties."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.delivery.outcome import Scope as Scope
from zsmtp.durations import duration_text
from zsmtp.errors import ConfigError
from zsmtp.queue.filter import duration
from zsmtp.queue.schedule import (
    DAY,
    HOUR,
    MAX_SPREAD,
    MAX_STEP,
    MIN_STEP,
    SCHEDULES,
    FailureClass,
    RetryOverride,
    RetryPolicy,
    Schedule,
    after_doubt,
    after_suspension,
    classify,
    expired,
    next_attempt,
    warning_due,
)
from zsmtp.queue.states import QueuedRecipient

NOW = 1_772_719_391.0
ALMOST_ONE = 1 - 2**-53

chances = st.floats(0, 1, exclude_max=True)
waits = st.floats(MIN_STEP, MAX_STEP)
schedules = st.builds(Schedule, st.lists(waits, max_size=9).map(tuple), waits, st.floats(0, 1))


def recipient(*, expires: float = NOW + 5 * DAY, hold: int = 0, warned: bool = False) -> QueuedRecipient:
    return QueuedRecipient(
        message=1, number=0, address=b"bob@example.net", key="example.net", due=NOW, expires=expires, hold=hold,
        warned=warned,
    )  # fmt: skip


# --------------------------------------------------------------------- classes

R, M, H, S = Scope.RECIPIENT, Scope.MESSAGE, Scope.HOST, Scope.SESSION
CLASSES = [
    # status, code, text, scope, attempts: class
    ("4.4.1", 0, "connect to mx.example.net [192.0.2.1|25]: connection refused", H, 1, FailureClass.CONNECTION),
    ("4.4.2", 0, "greeting: nothing came in 300 s", H, 1, FailureClass.CONNECTION),
    ("4.4.2", 0, "connection reset by peer", S, 1, FailureClass.OTHER),
    ("4.3.2", 0, "stopped", S, 1, FailureClass.OTHER),
    ("4.7.1", 450, "4.7.1 try again later", R, 1, FailureClass.GREYLISTING),
    ("4.7.1", 451, "4.7.1 try again later", R, 1, FailureClass.GREYLISTING),
    ("4.7.1", 451, "4.7.1 try again later", M, 1, FailureClass.GREYLISTING),
    ("4.7.1", 451, "4.7.1 try again later", R, 2, FailureClass.OTHER),
    ("4.7.1", 451, "4.7.1 go away", H, 1, FailureClass.OTHER),
    ("4.7.0", 450, "4.7.0 <bob@example.net>: Recipient address rejected: Greylisted", R, 3, FailureClass.GREYLISTING),
    ("4.2.0", 450, "4.2.0 Graylisting in action", R, 1, FailureClass.GREYLISTING),
    ("4.2.2", 452, "4.2.2 mailbox full", R, 1, FailureClass.MAILBOX_FULL),
    ("4.2.2", 450, "4.2.2 user is over quota", R, 4, FailureClass.MAILBOX_FULL),
    ("4.3.1", 452, "mailbox is full", R, 1, FailureClass.MAILBOX_FULL),
    ("4.3.1", 452, "4.3.1 insufficient system storage", M, 1, FailureClass.OTHER),
    ("4.7.0", 421, "4.7.0 try again later, closing connection", H, 1, FailureClass.TOO_FAST),
    ("4.7.28", 421, "4.7.28 unusual rate of mail", H, 1, FailureClass.TOO_FAST),
    ("4.7.28", 450, "4.7.28 unusual rate of mail", R, 1, FailureClass.TOO_FAST),
    ("4.7.1", 450, "4.7.1 rate limit exceeded", R, 1, FailureClass.TOO_FAST),
    ("4.7.650", 451, "4.7.650 the mail server has been temporarily rate limited", M, 1, FailureClass.TOO_FAST),
    ("4.7.500", 451, "4.7.500 Server busy. Please try again later", M, 1, FailureClass.TOO_FAST),
    ("4.3.2", 421, "too many connections from your address", H, 1, FailureClass.TOO_FAST),
    ("4.4.5", 451, "4.4.5 mail system congestion", M, 1, FailureClass.TOO_FAST),
    ("4.3.2", 421, "4.3.2 service shutting down", H, 1, FailureClass.OTHER),
    ("4.4.3", 0, "no answer from the name servers of example.net", H, 1, FailureClass.DNS),
    ("4.4.3", 451, "4.4.3 temporary server error", R, 1, FailureClass.DNS),
    ("4.1.8", 450, "4.1.8 Sender address rejected: Domain not found", M, 1, FailureClass.DNS),
    ("4.1.2", 450, "4.1.2 Recipient address rejected: Domain not found", R, 1, FailureClass.DNS),
    ("4.7.5", 0, "certificate of mx.example.net is not valid", H, 1, FailureClass.TLS),
    ("4.7.10", 0, "REQUIRETLS was requested, and no TLS is configured", M, 1, FailureClass.TLS),
    ("4.7.0", 454, "4.7.0 TLS not available due to local problem", H, 1, FailureClass.TLS),
    ("4.7.0", 454, "4.7.0 temporary authentication failure", H, 1, FailureClass.OTHER),
    ("4.7.8", 0, "the login was refused", H, 1, FailureClass.OTHER),
    ("4.3.0", 451, "local error in processing", M, 1, FailureClass.OTHER),
    ("", 451, "?", M, 1, FailureClass.OTHER),
    ("no status", 0, "?", M, 1, FailureClass.OTHER),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "text", "scope", "attempts", "expected"), CLASSES)
def test_a_failure_has_a_class(
    status: str, code: int, text: str, scope: Scope, attempts: int, expected: FailureClass
) -> None:
    assert classify(status, code, text, scope, attempts) is expected


@pytest.mark.parametrize(("status", "code", "text", "scope", "attempts", "expected"), CLASSES)
def test_doubt_goes_before_every_other_class(
    status: str, code: int, text: str, scope: Scope, attempts: int, expected: FailureClass
) -> None:
    assert classify(status, code, text, scope, attempts, in_doubt=True) is FailureClass.IN_DOUBT


@given(st.text(), st.integers(0, 599), st.text(max_size=600), st.sampled_from(Scope), st.integers(0, 10**6))
def test_whatever_was_said_has_a_class(status: str, code: int, text: str, scope: Scope, attempts: int) -> None:
    assert isinstance(classify(status, code, text, scope, attempts), FailureClass)


def test_every_class_has_a_row_and_a_schedule() -> None:
    assert {row[-1] for row in CLASSES} | {FailureClass.IN_DOUBT} == set(FailureClass) == set(SCHEDULES)


# ------------------------------------------------------------------- schedules


def test_the_default_schedule() -> None:
    assert str(Schedule()) == "5m 10m 20m 40m 1h 2h 3h then 4h jitter 10%"
    assert [Schedule().wait(attempts, 0.0) for attempts in (1, 2, 7, 8, 1000)] == [300, 600, 10800, 14400, 14400]


def test_greylisting_takes_five_to_six_minutes() -> None:
    schedule = RetryPolicy().schedule(FailureClass.GREYLISTING)
    assert schedule.wait(1, 0.0) == 300
    assert 359 < schedule.wait(1, ALMOST_ONE) <= 360


@pytest.mark.parametrize(
    ("text", "steps", "then", "jitter"),
    [
        ("5m 10m 20m 1h then 4h", (300, 600, 1200, 3600), 14400, 0.1),
        ("5m 1h30m", (300, 5400), 5400, 0.1),
        ("then 1d", (), 86400, 0.1),
        ("  90   THEN 2h  JITTER 0%", (90,), 7200, 0.0),
        ("5m jitter 12.5%", (300,), 300, 0.125),
    ],
)
def test_a_schedule_is_read_from_text(text: str, steps: tuple[float, ...], then: float, jitter: float) -> None:
    assert Schedule.parse(text) == Schedule(steps, then, jitter)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "waits are expected"),
        ("jitter 10%", "waits are expected"),
        ("then", "waits are expected"),
        ("5m then", "waits are expected"),
        ("5m then 1h then 2h", "waits are expected"),
        ("5m jitter 10", "waits are expected"),
        ("5m jitter 10% 1h", "waits are expected"),
        ("5m soon", "'soon' is no duration"),
        ("5m jitter 101%", "jitter of 101%"),
        ("0s", "0 s is not between 1s and 30d"),
        ("5m -1h", "-3600 s is not between"),
        ("5m then 31d", "not between 1s and 30d"),
        ("1m " * 101, "101 steps"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Schedule.parse(text)


@given(schedules)
def test_a_schedule_is_printed_as_it_is_read(schedule: Schedule) -> None:
    again = Schedule.parse(str(schedule))
    assert again.steps == pytest.approx(schedule.steps, abs=1e-6)
    assert again.then == pytest.approx(schedule.then, abs=1e-6)
    assert again.jitter == pytest.approx(schedule.jitter, abs=1e-6)


@given(st.floats(-1e7, 1e7))
def test_a_duration_is_printed_as_it_is_read(seconds: float) -> None:
    assert duration(duration_text(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (90, "1m30s"), (7200, "2h"), (-300, "-5m"), (0.5, "0.5s"), (93784, "1d2h3m4s")]
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(schedules, st.integers(1, 10**9), chances)
def test_a_wait_is_lengthened_and_never_shortened(schedule: Schedule, attempts: int, chance: float) -> None:
    step = schedule.wait(attempts, 0.0)
    assert step in (*schedule.steps, schedule.then)
    assert step <= schedule.wait(attempts, chance) <= step * (1 + schedule.jitter)


# -------------------------------------------------------------------- policies

SLOW, FAST = Schedule((HOUR,), HOUR), Schedule((60.0,), 60.0)


def test_overrides_by_site_and_tenant() -> None:
    policy = RetryPolicy(
        overrides=(
            RetryOverride(site="*.example.com", schedule=SLOW, expire=DAY),
            RetryOverride(tenant="shop?", schedules={FailureClass.TOO_FAST: FAST}, warn_after=0.0),
            RetryOverride(site="mx.example.com", tenant="shop1", expire=2 * DAY, expire_null=HOUR),
        )
    )
    plain = policy.for_recipient("example.com", "")
    assert plain.schedule(FailureClass.OTHER) == Schedule()
    assert plain.expires(NOW, null_sender=False) == NOW + 5 * DAY
    assert plain.expires(NOW, null_sender=True) == NOW + 2 * DAY
    site = policy.for_recipient("MX.Example.COM", "")
    assert {site.schedule(failure) for failure in FailureClass} == {SLOW}
    assert (site.expire, site.expire_null, site.warn_after) == (DAY, 2 * DAY, 4 * HOUR)
    both = policy.for_recipient("mx.example.com", "shop1")
    assert (both.schedule(FailureClass.TOO_FAST), both.schedule(FailureClass.OTHER)) == (FAST, SLOW)
    assert (both.expire, both.expire_null, both.warn_after) == (2 * DAY, HOUR, 0.0)


def test_a_class_without_a_schedule_has_that_of_the_others() -> None:
    assert RetryPolicy(schedules={FailureClass.OTHER: SLOW}).schedule(FailureClass.DNS) == SLOW
    assert RetryPolicy(schedules={}).schedule(FailureClass.DNS) == Schedule()


def test_a_domain_literal_is_no_set_of_characters() -> None:
    policy = RetryPolicy(overrides=(RetryOverride(site="[192.0.2.1]", schedule=SLOW),))
    assert policy.for_recipient("[192.0.2.1]", "").schedule(FailureClass.OTHER) == SLOW
    assert policy.for_recipient("1", "").schedule(FailureClass.OTHER) == Schedule()


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryPolicy(expire=0),
        lambda: RetryPolicy(expire_null=-1),
        lambda: RetryPolicy(warn_after=-1),
        lambda: RetryOverride(expire=0),
        lambda: RetryOverride(warn_after=float("nan")),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


# ----------------------------------------------------------------------- times


@given(st.sampled_from(FailureClass), st.integers(1, 10**6), st.floats(0, 4e9), st.floats(-DAY, 40 * DAY), chances)
def test_the_next_attempt_is_neither_past_nor_beyond_expiry(
    failure: FailureClass, attempts: int, now: float, left: float, chance: float
) -> None:
    policy = RetryPolicy()
    expires = now + left
    due = next_attempt(policy, failure, attempts, now, expires, chance)
    wait = policy.schedule(failure).wait(attempts, chance)
    assert now <= due <= max(expires, now)
    assert due == pytest.approx(min(now + wait, max(expires, now)))


def attempts_in(seconds: float, schedule: Schedule, jump: float, at: float, seed: int) -> list[float]:
    """The attempts of a recipient in real time, while the clock is set by ``jump`` after ``at`` seconds."""
    policy = RetryPolicy(schedules={FailureClass.OTHER: schedule})
    draw = random.Random(seed)
    real, due, made = 0.0, NOW, []
    while real < seconds:
        clock = NOW + real + (jump if real >= at else 0.0)
        if clock < due:
            step = due - clock
            real = at if real < at < real + step else real + step
            continue
        made.append(real)
        due = next_attempt(policy, FailureClass.OTHER, len(made), clock, NOW + 99 * DAY, draw.random())
    return made


@given(st.sampled_from([-HOUR, HOUR]), st.floats(0, DAY), st.integers(0, 1000))
def test_a_clock_that_is_set_by_an_hour_moves_one_attempt_by_an_hour(jump: float, at: float, seed: int) -> None:
    made = attempts_in(3 * DAY, Schedule(), jump, at, seed)
    gaps = [after - before for before, after in itertools.pairwise(made)]
    moved = 0
    for number, gap in enumerate(gaps, 1):
        least, most = Schedule().wait(number, 0.0), Schedule().wait(number, 1.0)
        if least - 1e-3 <= gap <= most + 1e-3:
            continue
        moved += 1
        assert max(least - HOUR, 0) - 1e-3 <= gap <= most + HOUR + 1e-3
    assert moved <= 1
    assert len(gaps) >= 7


def test_a_clock_set_forward_brings_back_only_what_was_due_in_that_hour() -> None:
    at = 2 * DAY
    after = [attempts_in(3 * DAY, Schedule(), HOUR, at, seed) for seed in range(300)]
    at_once = sum(any(at <= one < at + 60 for one in made) for made in after)
    assert 0 < at_once < 300 * 0.5


def test_what_was_lost_with_a_process_comes_back_after_the_first_wait() -> None:
    policy = RetryPolicy(schedules={FailureClass.IN_DOUBT: SLOW, FailureClass.OTHER: FAST})
    assert after_doubt(policy, NOW, NOW + DAY, 0.0) == NOW + HOUR
    assert after_doubt(policy, NOW, NOW + 60, 0.0) == NOW + 60
    assert next_attempt(RetryPolicy(), FailureClass.IN_DOUBT, 7, NOW, NOW + DAY, 0.0) == NOW + 3 * HOUR


@given(st.integers(0, 10**7), st.floats(0, 10**4), chances)
def test_a_backlog_comes_back_within_the_time_it_needs(backlog: int, rate: float, chance: float) -> None:
    due = after_suspension(NOW, backlog, rate, chance)
    assert NOW <= due <= NOW + min(MAX_SPREAD, backlog / rate if rate else backlog) + 1e-3


def test_a_backlog_comes_back_evenly() -> None:
    draw = random.Random(7)
    dues = sorted(after_suspension(NOW, 6000, 10.0, draw.random()) - NOW for _ in range(6000))
    assert dues[-1] <= 600
    per_minute = [sum(minute * 60 <= due < minute * 60 + 60 for due in dues) for minute in range(10)]
    assert min(per_minute) > 500
    assert max(per_minute) < 700


def test_expiry() -> None:
    assert not expired(recipient(expires=NOW + 1), NOW)
    assert expired(recipient(expires=NOW), NOW)
    assert not expired(recipient(expires=NOW - 1, hold=3), NOW)


@pytest.mark.parametrize(
    ("age", "warned", "left", "expected"),
    [
        (4 * HOUR - 1, False, DAY, False),
        (4 * HOUR, False, DAY, True),
        (3 * DAY, False, DAY, True),
        (4 * HOUR, True, DAY, False),
        (4 * HOUR, False, 0, False),
    ],
)
def test_the_sender_is_warned_once(age: float, warned: bool, left: float, expected: bool) -> None:
    one = recipient(warned=warned, expires=NOW + left)
    assert warning_due(RetryPolicy(), one, NOW - age, NOW) is expected
    assert not warning_due(RetryPolicy(warn_after=0), one, NOW - age, NOW)
