"""Connection windows, probes of dead sites, and rates."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import ConfigError
from zsmtp.queue.shaping import MOST, PROBES, START, Buckets, ConnectionWindow, ProbeTimes, Rate, TokenBucket, rates


def test_a_server_that_takes_five_connections_of_twenty_defers_a_sixth() -> None:
    window = ConnectionWindow()
    sent = deferred = 0
    for _ in range(2000):  # rounds: as many connections at a time as allowed, the server takes five of them
        busy = window.size
        for number in range(busy):
            sent += 1
            if number < 5:
                window.good(busy)
            else:
                deferred += 1
                window.bad()
    assert not window.dead
    assert deferred / sent <= 1 / 6


def test_three_failures_in_a_row_do_not_kill_a_window_of_five() -> None:
    window = ConnectionWindow()
    for _ in range(3):
        window.bad()
    assert not window.dead
    window.good(4)
    for _ in range(5):
        window.bad()
    assert not window.dead
    window.bad()
    assert window.dead
    assert window.size == 0


def test_one_bad_server_of_four_does_not_kill_the_site() -> None:
    window, chance = ConnectionWindow(), random.Random(4)
    sizes = []
    for _ in range(5000):
        window.bad() if chance.random() < 0.25 else window.good(window.size)
        sizes.append(window.size)
    assert 0 not in sizes
    assert sum(sizes) / len(sizes) > START


def test_a_window_that_is_not_used_does_not_grow() -> None:
    window = ConnectionWindow()
    for _ in range(100):
        window.good(1)
    assert window.size == START
    for _ in range(1000):
        window.good(window.size)
    assert window.size == MOST


def test_the_first_good_result_brings_a_dead_site_back() -> None:
    window = ConnectionWindow(start=2, most=9)
    for _ in range(20):
        window.bad()
    assert window.dead
    window.good(1)
    assert (window.dead, window.size) == (False, 2)


def test_what_the_server_shows_is_a_limit() -> None:
    window = ConnectionWindow(start=10)
    window.limit(2)
    assert window.size == 2
    for _ in range(2):
        window.good(2)
    assert window.size == 3  # it grows again, slowly
    window.limit(0)
    assert window.size == 1


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 30), st.integers(1, 30))
def test_a_window_stays_within_its_bounds(results: list[bool], start: int, most: int) -> None:
    window = ConnectionWindow(start, most)
    for good in results:
        window.good(window.size) if good else window.bad()
        assert 0 <= window.size <= most
        assert window.dead == (window.size == 0)


def test_probes_come_at_growing_intervals() -> None:
    probes, now = ProbeTimes(), 1000.0
    intervals = []
    for _ in range(8):
        probes.failed(now, 0.5)
        intervals.append(probes.at - now)
        now = probes.at
    assert intervals == pytest.approx([*PROBES, 900, 900, 900])
    probes.succeeded()
    probes.failed(now, 1.0)
    assert probes.at - now == pytest.approx(66)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("14/s", (14, 1)),
        ("100/min", (100, 60)),
        ("500 / 2h", (500, 7200)),
        ("1/day", (1, 86400)),
        ("3/90s", (3, 90)),
        ("7/1234567s", (7, 1234567)),
    ],
)
def test_rates_are_read(text: str, rate: tuple[int, float]) -> None:
    assert Rate.parse(text) == rate
    assert Rate.parse(str(Rate.parse(text))) == rate


@pytest.mark.parametrize("text", ["", "14", "0/s", "5/0s", "5/week", "-1/s", "5/s/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no rate"):
        Rate.parse(text)


def test_several_rates_all_hold() -> None:
    buckets = Buckets(rates(["2/s", "3/min"]))
    for _ in range(2):
        assert buckets.wait(0.0) == (0.0, None)
        buckets.take(0.0)
    assert buckets.wait(0.0) == (pytest.approx(0.5), Rate(2, 1))
    buckets.take(0.5)
    assert buckets.wait(1.0) == (pytest.approx(19.0), Rate(3, 60))


@given(st.integers(1, 50), st.floats(0.1, 1e5), st.integers(0, 2**32))
def test_no_stretch_of_time_has_more_than_the_rate_and_a_burst(allowed: int, seconds: float, seed: int) -> None:
    bucket, chance, now = TokenBucket(Rate(allowed, seconds)), random.Random(seed), 0.0
    taken: deque[float] = deque()
    for _ in range(300):
        now += chance.expovariate(2 * allowed / seconds)
        if bucket.wait(now) == 0.0:
            bucket.take(now)
            taken.append(now)
    for first, start in enumerate(taken):
        within = sum(start <= one < start + seconds for one in list(taken)[first:])
        assert within <= 2 * allowed + 1  # a full bucket, and what ran in meanwhile


def test_a_bucket_goes_on_with_another_rate() -> None:
    bucket = TokenBucket(Rate(10, 10.0))
    bucket.take(0.0, 8)
    bucket.change(Rate(5, 10.0), 1.0)  # three are there
    assert bucket.wait(1.0, 3) == 0
    assert bucket.wait(1.0, 4) == pytest.approx(2.0)
    bucket.change(Rate(20, 10.0), 1.0)
    assert bucket.wait(1.0, 4) == pytest.approx(0.5), "it gains nothing at once"
    full = TokenBucket(Rate(10, 10.0))
    full.change(Rate(4, 10.0), 0.0)
    full.take(0.0, 4)
    assert full.wait(0.0) == pytest.approx(2.5)


def test_buckets_of_a_part_begin_empty() -> None:
    buckets = Buckets([Rate(10, 1.0), Rate(100, 60.0)])
    buckets.empty(50.0)
    assert buckets.wait(50.0) == (pytest.approx(0.6), Rate(100, 60.0))
    buckets.change([Rate(5, 1.0), Rate(50, 60.0)], 50.0)
    assert buckets.wait(50.0) == (pytest.approx(1.2), Rate(50, 60.0))
    Buckets([]).empty(0.0)


def test_a_window_goes_on_with_a_share() -> None:
    window = ConnectionWindow(5, 20)
    for _ in range(500):
        window.good(20)
    window.change(2, 4)
    assert (window.size, window.most) == (4, 4)
    for _ in range(50):
        window.good(4)
    assert window.size == 4
    window.change(5, 20)
    for _ in range(50):
        window.good(window.size)
    assert 4 < window.size <= 20
    for _ in range(40):
        window.bad()
    assert window.dead
    window.change(2, 4)
    assert window.size == 0
    window.good(0)
    assert window.size == 2
