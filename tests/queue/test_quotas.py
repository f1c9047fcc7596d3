"""Quotas of tenants: which one binds, when there is room again, and what is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import ConfigError, QuotaExceeded, SubmissionError
from zsmtp.queue import quotas
from zsmtp.queue.quotas import HOUR, NOTHING, SLOT, Amount, TenantLimits, excess

NOON = 1_764_331_200.0
ONE = Amount(1, 100, 2)


def exceeded(limits: TenantLimits, wanted: Amount = ONE, **known: object) -> QuotaExceeded | None:
    given: dict[str, object] = {"used": {}, "queued": NOTHING, "now": NOON, **known}
    return excess(limits, "shop", wanted, **given)  # type: ignore[arg-type]


def test_without_quotas_everything_is_taken() -> None:
    assert exceeded(TenantLimits(), Amount(10**6, 10**12, 10**6)) is None


@pytest.mark.parametrize(
    ("quota", "there"),
    [("messages_per_hour", 9), ("octets_per_hour", 900), ("recipients_per_hour", 18)],
)
def test_a_quota_of_an_hour_is_used_up_and_frees_by_slots(quota: str, there: int) -> None:
    limits = TenantLimits(**{quota: there + {"m": 1, "o": 100, "r": 2}[quota[0]]})
    early, late = int(NOON) - 3000, int(NOON) - 300
    used = {early: Amount(4, 400, 8), late: Amount(5, 500, 10)}
    assert exceeded(limits, used=used) is None
    found = exceeded(limits, used={**used, int(NOON): ONE})
    assert found is not None
    assert (found.tenant, found.quota, found.limit) == ("shop", quota, getattr(limits, quota))
    assert found.frees == early + SLOT + HOUR
    assert str(found).startswith(f"the quota {quota} = {found.limit} of tenant 'shop' is used up (")
    assert str(found).endswith("); try again in 900 s")


def test_room_for_more_comes_when_enough_slots_have_passed() -> None:
    used = {int(NOON) - SLOT * n: Amount(2, 0, 0) for n in range(5)}
    found = exceeded(TenantLimits(messages_per_hour=10), Amount(5, 0, 0), used=used)
    assert found is not None
    assert found.frees == int(NOON) - SLOT * 2 + SLOT + HOUR


def test_the_quota_that_is_free_last_binds() -> None:
    used = {int(NOON) - 3000: Amount(1, 1000, 1), int(NOON): Amount(1, 1, 5)}
    found = exceeded(TenantLimits(octets_per_hour=1000, recipients_per_hour=5), used=used)
    assert found is not None
    assert found.quota == "recipients_per_hour"


@pytest.mark.parametrize(("quota", "limit"), [("queued_messages", 3), ("queued_octets", 300)])
def test_a_quota_of_the_queue_frees_when_mail_leaves(quota: str, limit: int) -> None:
    limits = TenantLimits(**{quota: limit})
    assert exceeded(limits, queued=Amount(2, 200)) is None
    found = exceeded(limits, queued=Amount(3, 300))
    assert found is not None
    assert (found.quota, found.limit, found.used, found.frees) == (quota, limit, limit, None)
    assert str(found).endswith("try again when mail of it has left the queue")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            TenantLimits(octets_per_hour=99),
            "100 octets at a time are more than the whole quota of tenant shop: octets_",
        ),
        (TenantLimits(recipients_per_hour=1), "2 recipients at a time"),
        (TenantLimits(queued_octets=99), "100 octets at a time .*: queued_octets = 99"),
    ],
)
def test_what_is_more_than_a_quota_by_itself_is_no_matter_of_time(limits: TenantLimits, words: str) -> None:
    with pytest.raises(SubmissionError, match=f"^{words}"):
        exceeded(limits)


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"messages_per_hour": -1}, {"queued_octets": -5}])
def test_limits_that_are_none(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}: "):
        TenantLimits(**wrong)  # type: ignore[arg-type]


@given(
    times=st.lists(st.floats(0, 3 * HOUR), max_size=30).map(sorted),
    limit=st.integers(1, 10),
)
def test_no_hour_sees_more_than_the_quota(times: list[float], limit: int) -> None:
    """Whatever comes when: who goes by the counters never passes the quota in any hour, and the room comes back."""
    limits = TenantLimits(messages_per_hour=limit)
    counters: dict[str, int] = {}
    taken: list[float] = []
    for at in (NOON + time for time in times):
        used = quotas.used_by_slot(counters, "a/b", at)
        found = exceeded(limits, Amount(1, 1, 1), used=used, now=at)
        if found is None:
            taken.append(at)
            for name, number in quotas.counted([("a/b", Amount(1, 1, 1))], at).items():
                counters[name] = counters.get(name, 0) + number
        else:
            assert found.frees is not None
            assert at < found.frees <= at + HOUR + SLOT
            later = quotas.used_by_slot(counters, "a/b", found.frees)
            assert exceeded(limits, Amount(1, 1, 1), used=later, now=found.frees) is None
        assert sum(at - HOUR < one <= at for one in taken) <= limit
        assert set(quotas.names_within_hour("a/b", at)) >= {one for one in counters if not quotas.is_over(one, at)}
