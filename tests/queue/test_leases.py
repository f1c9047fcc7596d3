"""The table of leases: who owns which site, and until when."""

from __future__ import annotations

import pytest

from zsmtp.queue.leases import MARGIN, VALID, LeaseTable


def table() -> LeaseTable:
    leases = LeaseTable(base=100)
    for node in ("first", "second"):
        leases.join(node, 0.0)
    return leases


def test_numbers_grow_behind_their_base() -> None:
    leases = table()
    assert [leases.take(site, [site], "first").number for site in "abc"] == [101, 102, 103]
    leases.drop([103])
    assert leases.take("c", ["c"], "second").number == 104


@pytest.mark.parametrize(
    ("silent", "may_mark", "lives"),
    [(0, True, True), (VALID - MARGIN - 0.1, True, True), (VALID - MARGIN, False, True), (VALID, False, False)],
)
def test_a_silent_node_marks_nothing_and_then_loses_its_leases(silent: float, may_mark: bool, lives: bool) -> None:
    leases = table()
    holding = leases.take("site", ["a", "b"], "first")
    leases.beat("first", 50.0)
    leases.beat("second", 50.0 + silent)
    other = leases.take("other", ["c"], "second")
    now = 50.0 + silent
    assert leases.may_mark(holding.number, now) is may_mark
    assert leases.may_mark(other.number, now)
    assert leases.lives("first", now) is lives
    assert [one.site for one in leases.lapse(now)] == ([] if lives else ["site"])
    assert (leases.of_key("a") is holding) is lives


def test_a_key_belongs_to_one_lease() -> None:
    leases = table()
    first = leases.take("one", ["a"], "first")
    second = leases.take("two", ["a", "b"], "second")
    assert (first.keys, second.keys) == ({"a"}, {"b"})
    assert not leases.extend(second, ["a", "b"])
    assert leases.extend(second, ["a", "c"])
    assert leases.of_key("c") is second
    assert leases.drop([first.number, 7]) == [first]
    assert leases.of_key("a") is None
    assert leases.extend(second, ["a"])


def test_a_node_that_leaves_gives_everything_back() -> None:
    leases = table()
    mine = leases.take("one", ["a"], "first")
    theirs = leases.take("two", ["b"], "second")
    assert leases.leave("first") == [mine]
    assert list(leases) == [theirs]
    assert leases.of_site("one") is None
    leases.beat("first", 1.0)  # of a node that is not there, nothing is remembered
    assert not leases.lives("first", 1.0)
    assert not leases.may_mark(mine.number, 1.0)
