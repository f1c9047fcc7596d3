"""Slots: every message has one, the same in Python and in both dialects of SQL, and they fill evenly."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue.harness import NOON
from tests.support.postgres import cluster, needs_postgres

from zsmtp.queue.ids import LARGEST, first_id, next_id
from zsmtp.queue.slots import ALL, NO_PART, SLOTS, SitePart, count, each_of, has, in_slots, slot_of

SOME = [0, 1, LARGEST, LARGEST - 1, *(first_id(NOON + n) + n for n in range(50)), *(1 << n for n in range(63))]


def batches(sizes: Iterable[int], seconds: float) -> list[int]:
    """The ids of batches of messages, one batch after the other."""
    ids: list[int] = []
    for number, size in enumerate(sizes):
        for _ in range(size):
            ids.append(next_id(ids[-1] if ids else 0, NOON + number * seconds))
    return ids


@given(st.integers(0, LARGEST), st.integers(0, ALL))
def test_a_message_is_in_one_slot(message: int, slots: int) -> None:
    assert 0 <= slot_of(message) < SLOTS
    assert [slot for slot in range(SLOTS) if has(1 << slot, message)] == [slot_of(message)]
    assert has(slots, message) == (slot_of(message) in each_of(slots))
    assert count(slots) == len(list(each_of(slots)))
    assert SitePart({"a"}, slots).has("a", message) == has(slots, message)
    assert not SitePart({"b"}, slots).has("a", message)
    assert not NO_PART.has("a", message)


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [([1] * 1600, 0.001), ([1] * 1600, 0.1), ([1] * 1600, 0.25), ([1600], 1), ([100] * 16, 0.02), ([3] * 600, 1.0)],
)
def test_slots_fill_evenly(sizes: list[int], seconds: float) -> None:
    ids = batches(sizes, seconds)
    counted = Counter(map(slot_of, ids))
    share = len(ids) / SLOTS
    assert all(0.7 * share < counted[slot] < 1.3 * share for slot in range(SLOTS)), counted


def test_sqlite_computes_the_same_slots() -> None:
    with sqlite3.connect(":memory:") as db:
        for mask in (1, 0x8000, 0x00FF, 0x1248, ALL):
            sql = f"SELECT {in_slots('w.id').format('?')} FROM (SELECT ? AS id) AS w"
            found = [db.execute(sql, (mask, message)).fetchone()[0] for message in SOME]
            assert list(map(bool, found)) == [has(mask, message) for message in SOME]


@needs_postgres
def test_postgresql_computes_the_same_slots() -> None:
    with psycopg.connect(cluster().database()) as db:
        for mask in (1, 0x8000, 0x00FF, 0x1248, ALL):
            condition = in_slots("w.id").format("%s")
            sql = f"SELECT {condition} FROM unnest(%s::bigint[]) WITH ORDINALITY AS w (id, place) ORDER BY place"
            found = [found for (found,) in db.execute(sql.encode(), (mask, SOME)).fetchall()]
            assert found == [has(mask, message) for message in SOME]
