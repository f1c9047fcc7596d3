"""MTA-STS policies on disk: kept, shared, bounded, and never a reason to stop."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from zsmtp.net import policycache
from zsmtp.net.policycache import PolicyCache
from zsmtp.tls.mtasts import MAX_AGE, CachedPolicy

NOW = 1_800_000_000.0
ENTRY = CachedPolicy("example.org", "1", b"version: STSv1\n", NOW - 5, "2", NOW - 1)


class Place:
    """A database in a folder, with caches that are closed in the end and what they complained of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complaints: list[str] = []
        self._caches: list[PolicyCache] = []

    def cache(self, max_domains: int = 100) -> PolicyCache:
        self._caches.append(PolicyCache(str(self.path), self.complaints.append, max_domains=max_domains))
        return self._caches[-1]

    def close(self) -> None:
        for cache in self._caches:
            cache.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "mta-sts.db")
    yield place
    place.close()


def test_what_is_put_is_there_for_every_process(place: Place) -> None:
    first, second = place.cache(), place.cache()
    assert first.get("example.org") is None
    first.put(ENTRY, NOW)
    assert second.get("Example.ORG") == ENTRY
    assert place.cache().get("example.org") == ENTRY
    assert second.get("example.com") is None
    assert place.complaints == []
    assert place.path.stat().st_mode & 0o007 == 0


def test_the_last_entry_counts(place: Place) -> None:
    cache = place.cache()
    cache.put(ENTRY, NOW)
    cache.put(CachedPolicy("EXAMPLE.org", "3", b"", 0.0, "", 0.0), NOW)
    found = cache.get("example.org")
    assert found is not None
    assert (found.id, found.text) == ("3", b"")


def test_a_closed_cache_opens_again(place: Place) -> None:
    cache = place.cache()
    cache.put(ENTRY, NOW)
    cache.close()
    assert cache.get("example.org") == ENTRY


def test_old_entries_go(place: Place) -> None:
    cache = place.cache()
    cache.put(ENTRY, NOW)
    cache.put(CachedPolicy("other.example"), NOW + MAX_AGE + 1)
    other = place.cache()
    assert other.get("example.org") is None
    assert other.get("other.example") is not None


def test_there_is_room_for_so_many_domains(place: Place) -> None:
    cache = place.cache(max_domains=3)
    for number in range(5):
        cache.put(CachedPolicy(f"d{number}.example", "1"), NOW + number)
    other = place.cache()
    assert [other.get(f"d{number}.example") is not None for number in range(5)] == [False, False, True, True, True]


def test_a_file_that_is_no_database_is_moved_aside(place: Place) -> None:
    place.path.write_bytes(b"this is not a database" * 100)
    cache = place.cache()
    cache.put(ENTRY, NOW)
    assert place.cache().get("example.org") == ENTRY
    assert Path(f"{place.path}.damaged").read_bytes().startswith(b"this is not")
    assert len(place.complaints) == 1


@pytest.mark.parametrize("where", ["none/mta-sts.db", "."])
def test_a_place_that_cannot_be_used(tmp_path: Path, where: str) -> None:
    place = Place(tmp_path / where)
    cache = place.cache()
    assert cache.get("example.org") is None
    cache.put(ENTRY, NOW)
    cache.put(CachedPolicy("other.example"), NOW)
    assert cache.get("example.org") == ENTRY
    assert len(place.complaints) == 1
    assert "not kept beyond this process" in place.complaints[0]


def test_memory_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policycache, "MAX_IN_MEMORY", 2 * policycache.ENTRY_SIZE + 100)
    cache = Place(tmp_path / "none" / "x.db").cache()

    def remembered() -> list[bool]:
        return [cache.get(f"d{number}.example") is not None for number in range(4)]

    for number in range(3):
        cache.put(CachedPolicy(f"d{number}.example"), NOW)
    assert remembered() == [False, True, True, False]
    for _ in range(3):
        cache.put(CachedPolicy("d1.example", "1", b"x" * 100), NOW)
    assert remembered() == [False, True, True, False]
    cache.put(CachedPolicy("d3.example"), NOW)
    assert remembered() == [False, True, False, True]
    cache.put(CachedPolicy("d3.example", "1", b"x" * 1000), NOW)
    assert remembered() == [False, False, False, False]


def test_a_thousand_policies_are_remembered_without_a_file() -> None:
    cache = PolicyCache("", print)
    entries = [CachedPolicy(f"d{number}.example", "1", b"v" * 1000, NOW) for number in range(1000)]
    cache.put_all(entries, NOW)
    assert [cache.get(entry.domain) for entry in entries] == entries


def test_another_process_that_writes_does_not_stop_this_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policycache, "BUSY_TIME", 0.01)
    cache = place.cache()
    cache.put(CachedPolicy("first.example"), NOW)
    cache.close()
    with closing(sqlite3.connect(place.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache.put(ENTRY, NOW)
        assert cache.get("example.org") == ENTRY  # remembered all the same
        other.rollback()
    assert cache.get("first.example") is not None
    cache.put(ENTRY, NOW)
    assert place.cache().get("example.org") == ENTRY
    assert place.complaints == []


def test_the_latest_news_count_wherever_they_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policycache, "BUSY_TIME", 0.01)
    cache, newer = place.cache(), replace(ENTRY, id="9", fetched=NOW + 10)
    cache.put(ENTRY, NOW)
    with closing(sqlite3.connect(place.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache.put(newer, NOW)  # cannot be written now
        other.rollback()
    assert cache.get("example.org") == newer
    newest = replace(ENTRY, id="10", fetched=NOW + 20)
    place.cache().put(newest, NOW)
    assert cache.get("example.org") == newest


def test_a_database_that_is_deleted_takes_nothing_away(place: Place) -> None:
    cache = place.cache()
    cache.put(ENTRY, NOW)
    cache.close()
    place.path.unlink()
    assert cache.get("example.org") == ENTRY


def test_a_full_disk_takes_nothing_away(place: Place) -> None:
    """In a process of its own, whose files may not grow: what was written is read, and news are remembered."""
    program = f"""
import resource
from zsmtp.net.policycache import PolicyCache
from zsmtp.tls.mtasts import CachedPolicy
complaints = []
cache = PolicyCache({str(place.path)!r}, complaints.append)
cache.put(CachedPolicy("first.example", "1", b"v"), 1e9)
resource.setrlimit(resource.RLIMIT_FSIZE, (20480, 20480))
for number in range(12):
    cache.put(CachedPolicy(f"d{{number}}.example", "1", b"v" * 4000), 1e9)
assert cache.get("first.example").text == b"v"
assert cache.get("d11.example").text == b"v" * 4000
assert len(complaints) == 1, complaints
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert place.cache().get("first.example") is not None


def test_rows_of_other_hands_are_no_entries(place: Place) -> None:
    cache = place.cache()
    cache.put(ENTRY, NOW)
    with closing(sqlite3.connect(place.path)) as other, other:
        other.execute("UPDATE policies SET text = 'a text'")
    assert place.cache().get("example.org") is None
    assert cache.get("example.org") == ENTRY, "who has learned it before knows better"


def test_a_table_of_another_shape_is_not_used(place: Place) -> None:
    with closing(sqlite3.connect(place.path)) as other, other:
        other.execute("CREATE TABLE policies (x)")
    cache = place.cache()
    cache.put(ENTRY, NOW)
    assert cache.get("example.org") == ENTRY
    assert len(place.complaints) == 1
