"""Which of the limits and rules by pattern count for a queue key."""

from __future__ import annotations

import pytest

from zsmtp.queue.config import QueueConfig
from zsmtp.queue.schedule import DAY, RetryOverride, RetryPolicy
from zsmtp.queue.settlement import InDoubt
from zsmtp.queue.shaping import SiteLimits

SLOW = SiteLimits(most=9)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("example.com", "example.com"),
        ("*.Example.COM", "mx.example.com"),
        ("relay:Ann@mx.example:587", "relay:Ann@mx.example:587"),
        ("relay:ann@*", "relay:Ann@MX.example:587"),
        ("relay:/run/LMTP", "relay:/run/LMTP"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.example", "mx.xn--bcher-kva.example"),
        ("*", "[192.0.2.1]"),
    ],
)
def test_a_pattern_is_compared_in_one_way_whatever_it_decides(pattern: str, key: str) -> None:
    config = QueueConfig(
        sites={pattern: SLOW},
        in_doubt_by_site={pattern: InDoubt.HOLD},
        retry=RetryPolicy(overrides=(RetryOverride(site=pattern, expire=DAY),)),
    )
    assert config.limits_for(key) == SLOW
    policy = config.settlement_for(key, "")
    assert (policy.in_doubt, policy.retry.expire) == (InDoubt.HOLD, DAY)
    assert config.limits_for("other.example.org") == (SLOW if pattern == "*" else SiteLimits())


def test_the_first_pattern_that_matches_counts() -> None:
    config = QueueConfig(sites={"a.*": SLOW, "*": SiteLimits(most=15)})
    assert [config.limits_for(key).most for key in ("a.example", "b.example")] == [9, 15]


def test_a_tenant_is_no_domain() -> None:
    policy = RetryPolicy(overrides=(RetryOverride(tenant="Bücher", expire=DAY),))
    assert policy.for_recipient("a.example", "bücher").expire == DAY
    assert policy.for_recipient("a.example", "xn--bcher-kva").expire != DAY
