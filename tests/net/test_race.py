from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.net.race import OTHER_HOST, SAME_HOST, Race


def endpoint(host: str, number: int) -> Endpoint:
    return Endpoint(host, f"192.0.2.{number}", 25, Family.INET)


A1, A2, B1 = endpoint("a", 1), endpoint("a", 2), endpoint("b", 3)


def test_another_address_of_the_host_starts_early_and_another_host_later() -> None:
    race = Race([A1, A2, B1], 60.0, 100.0)
    assert race.start(100.0) == A1
    assert race.start(100.0) is None
    assert race.deadline() == 100.0 + SAME_HOST
    assert race.start(100.0 + SAME_HOST) == A2
    assert race.deadline() == 100.0 + SAME_HOST + OTHER_HOST
    assert race.start(race.deadline() or 0.0) == B1
    assert race.deadline() == 160.0


def test_a_failure_lets_the_next_one_start_at_once() -> None:
    race = Race([A1, B1], 60.0, 100.0)
    race.start(100.0)
    race.failed(A1)
    assert race.start(100.0) == B1
    race.failed(B1)
    assert race.over


def test_an_attempt_expires_after_its_own_time() -> None:
    race = Race([A1, A2], 60.0, 100.0)
    race.start(100.0)
    race.start(101.0)
    assert race.expired(159.9) == []
    assert race.expired(160.0) == [A1]
    assert not race.over
    assert race.expired(161.0) == [A2]
    assert race.over


def test_who_had_a_start_and_still_hangs_when_another_wins_is_overtaken() -> None:
    race = Race([A1, A2, B1], 60.0, 100.0)
    race.start(100.0)
    race.start(100.25)
    race.start(102.25)
    assert race.overtaken(A2, 103.0) == ((A1, 3.0),)
    assert race.overtaken(A1, 103.0) == ()
    race.failed(A1)
    assert race.overtaken(B1, 103.0) == ((A2, 2.75),)


def test_the_end_of_a_race_is_the_end_of_every_attempt() -> None:
    race = Race([A1, A2, B1], 60.0, 100.0, 101.0)
    race.start(100.0)
    race.start(100.25)
    assert race.deadline() == 101.0
    assert race.expired(100.9) == []
    assert race.start(101.0) is None
    assert race.expired(101.0) == [A1, A2]
    assert race.over


def test_nobody_starts_once_a_race_has_ended() -> None:
    race = Race([A1], 60.0, 100.0, 100.0)
    assert race.start(100.0) is None
    assert race.expired(100.0) == []
    assert race.over


def test_a_race_of_nobody_is_over() -> None:
    race = Race([], 60.0, 100.0)
    assert race.over
    assert race.start(100.0) is None
    assert race.deadline() is None


@settings(deadline=None)
@given(st.integers(1, 20), st.lists(st.booleans(), max_size=20))
def test_everybody_is_started_once_and_the_race_ends(count: int, failing: list[bool]) -> None:
    endpoints = [endpoint("ab"[i % 2], i) for i in range(count)]
    race, now, started = Race(endpoints, 30.0, 0.0), 0.0, []
    for _ in range(200):
        if race.over:
            break
        while (found := race.start(now)) is not None:
            started.append(found)
            if failing and failing.pop():
                race.failed(found)
        race.expired(now)
        now = max(now, race.deadline() or now)
    assert race.over
    assert started == endpoints
    assert now <= count * OTHER_HOST + 30.0
