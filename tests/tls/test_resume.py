"""Sessions that are kept, and who finds them again."""

from __future__ import annotations

from dataclasses import replace

from zsmtp.dns.answer import TLSA
from zsmtp.tls.context import ContextOptions, Strength
from zsmtp.tls.policy import Level, Requirement
from zsmtp.tls.resume import MAX_CHAIN, ResumableSession, Resumption, SessionCache, SessionKey

VERIFY = Requirement(level=Level.VERIFY, reason="test", names=("mx.example.org",))
KEY = SessionKey("192.0.2.1", 25, "mx.example.org", ContextOptions(), VERIFY)
SESSION = ResumableSession("ticket", (b"leaf",), since=100.0)


def test_only_the_same_place_name_context_and_requirement_find_a_session() -> None:
    cache = SessionCache()
    cache.put(KEY, SESSION)
    assert cache.get(KEY, 101.0) is SESSION
    for other in (
        replace(KEY, address="192.0.2.2"),
        replace(KEY, port=26),
        replace(KEY, server_name=""),
        replace(KEY, options=ContextOptions(strength=Strength.MANDATORY)),
        replace(KEY, requirement=replace(VERIFY, level=Level.MAY)),
        replace(KEY, requirement=replace(VERIFY, names=("mx.example.net",))),
        replace(KEY, requirement=replace(VERIFY, tlsa=(TLSA(3, 1, 1, b"x"),))),
        replace(KEY, requirement=replace(VERIFY, trial=VERIFY)),
    ):
        assert cache.get(other, 101.0) is None


def test_time_counts_from_the_first_handshake() -> None:
    cache = SessionCache(lifetime=60.0)
    cache.put(KEY, SESSION)
    resumed = replace(SESSION, session="newer ticket")
    cache.put(KEY, resumed)
    assert cache.get(KEY, 159.9) is resumed
    assert cache.get(KEY, 160.0) is None
    assert len(cache) == 0


def test_the_oldest_make_room() -> None:
    cache = SessionCache(max_entries=2)
    keys = [replace(KEY, port=port) for port in (1, 2, 3)]
    cache.put(keys[0], SESSION)
    cache.put(keys[1], SESSION)
    cache.put(keys[0], SESSION)
    cache.put(keys[2], SESSION)
    assert [cache.get(key, 101.0) is not None for key in keys] == [True, False, True]


def test_a_chain_that_is_too_large_is_not_kept() -> None:
    cache = SessionCache()
    cache.put(KEY, SESSION)
    cache.put(KEY, replace(SESSION, chain=(b"x" * MAX_CHAIN, b"y")))
    assert len(cache) == 0


def test_forgetting() -> None:
    cache = SessionCache()
    cache.forget(KEY)
    cache.put(KEY, SESSION)
    cache.forget(KEY)
    assert cache.get(KEY, 101.0) is None


def test_a_place_in_the_cache() -> None:
    place = Resumption(SessionCache(), KEY)
    assert place.find(101.0) is None
    place.keep(SESSION)
    assert place.find(101.0) is SESSION
    place.forget()
    assert place.find(101.0) is None
