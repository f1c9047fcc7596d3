"""The answer cache, its clock a plain number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.cache import FAILURE_TTL, MAX_TTL, NEGATIVE_TTL, AnswerCache

QUERY = Query("mx.example", RecordType.A)


def answer(ttl: int, status: Status = Status.OK, query: Query = QUERY) -> Answer:
    return Answer(query, status, ("192.0.2.1",) if status is Status.OK else (), query.name, ttl)


def kept_for(one: Answer) -> float:
    """Seconds until the cache forgets an answer, found by asking."""
    cache = AnswerCache()
    cache.put(one, 1000.0)
    for seconds in (FAILURE_TTL, NEGATIVE_TTL, 60.0, MAX_TTL):
        if cache.get(one.query, 1000.0 + seconds - 0.5) is not None and cache.get(one.query, 1000.0 + seconds) is None:
            return seconds
    return 0.0


@pytest.mark.parametrize(
    ("one", "seconds"),
    [
        (answer(60), 60.0),
        (answer(0), 0.0),
        (answer(10**9), MAX_TTL),
        (answer(60, Status.NXDOMAIN), 60.0),
        (answer(0, Status.NXDOMAIN), NEGATIVE_TTL),
        (answer(0, Status.NODATA), NEGATIVE_TTL),
        (answer(0, Status.SERVFAIL), FAILURE_TTL),
        (answer(60, Status.TIMEOUT), FAILURE_TTL),
        (answer(0, Status.BOGUS), FAILURE_TTL),
    ],
)
def test_life_time(one: Answer, seconds: float) -> None:
    assert kept_for(one) == seconds


def test_the_rest_of_the_ttl_is_told() -> None:
    cache = AnswerCache()
    cache.put(answer(60), 0.0)
    found = cache.get(QUERY, 20.5)
    assert found is not None
    assert (found.ttl, found.records) == (39, ("192.0.2.1",))


def test_names_differ_in_more_than_case() -> None:
    cache = AnswerCache()
    cache.put(answer(60), 0.0)
    shouted = Query("MX.Example", RecordType.A)
    found = cache.get(shouted, 1.0)
    assert found is not None
    assert found.query == shouted
    assert cache.get(Query("mx.example", RecordType.AAAA), 1.0) is None
    assert cache.get(Query("mx2.example", RecordType.A), 1.0) is None


def test_a_new_answer_takes_the_place_of_the_old() -> None:
    cache = AnswerCache()
    cache.put(answer(60), 0.0)
    cache.put(answer(0), 1.0)
    assert cache.get(QUERY, 1.0) is None
    assert len(cache) == 0


def test_the_least_recently_used_makes_room() -> None:
    cache = AnswerCache(max_entries=2)
    first, second, third = (Query(f"{name}.example", RecordType.A) for name in "abc")
    cache.put(answer(60, query=first), 0.0)
    cache.put(answer(60, query=second), 0.0)
    assert cache.get(first, 1.0) is not None
    cache.put(answer(60, query=third), 1.0)
    assert [cache.get(query, 1.0) is not None for query in (first, second, third)] == [True, False, True]


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room"):
        AnswerCache(max_entries=0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100), st.integers(0, 20)), max_size=60))
def test_never_too_large_never_stale(steps: list[tuple[int, int, int]]) -> None:
    cache = AnswerCache(max_entries=4)
    now = 0.0
    good_until: dict[Query, float] = {}
    for number, ttl, pause in steps:
        query = Query(f"n{number}.example", RecordType.A)
        cache.put(answer(ttl, query=query), now)
        good_until[query] = now + ttl
        now += pause
        assert len(cache) <= 4
        for known, end in good_until.items():
            found = cache.get(known, now)
            assert found is None or now < end


def test_what_comes_from_memory_says_so() -> None:
    cache = AnswerCache()
    cache.put(answer(60), 0.0)
    found = cache.get(QUERY, 1.0)
    assert found is not None
    assert found.source == "cache"
