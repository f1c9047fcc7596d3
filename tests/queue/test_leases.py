"""The table of leases: who owns which site, and until when."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.support.effort import examples

from zsmtp.errors import QueueError
from zsmtp.queue.leases import MARGIN, VALID, Holding, LeaseTable, check_shed
from zsmtp.queue.slots import ALL, each_of, slot_of
from zsmtp.queue.states import AttemptKey


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
    assert (leases.owner("a", 1) is holding) is lives


def test_a_key_belongs_to_one_site() -> None:
    leases = table()
    first = leases.take("one", ["a"], "first")
    second = leases.take("two", ["a", "b"], "second")
    assert (first.keys, second.keys) == ({"a"}, {"b"})
    assert not leases.extend(second, ["a", "b"])
    assert leases.extend(second, ["a", "c"])
    assert leases.owner("c", 1) is second
    assert leases.drop([first.number, 7]) == [first]
    assert leases.owner("a", 1) is None
    assert leases.extend(second, ["a"])


def test_a_node_that_leaves_gives_everything_back() -> None:
    leases = table()
    mine = leases.take("one", ["a"], "first")
    theirs = leases.take("two", ["b"], "second")
    assert leases.leave("first") == [mine]
    assert list(leases) == [theirs]
    assert leases.of_node("one", "first") is None
    leases.beat("first", 1.0)  # of a node that is not there, nothing is remembered
    assert not leases.lives("first", 1.0)
    assert not leases.may_mark(mine.number, 1.0)


def test_slots_that_are_shed_are_another_nodes() -> None:
    leases = table()
    first = leases.take("one", ["a", "b"], "first")
    assert leases.free("one") == 0
    leases.shed(first, 0xFF00)
    assert leases.free("one") == 0xFF00
    second = leases.take("one", ["c"], "second")
    assert (first.slots, second.slots) == (0xFF, 0xFF00)
    assert second.keys == {"a", "b", "c"}
    assert not leases.grow(second)
    assert {leases.owner("c", message) for message in range(100)} == {first, second}
    leases.drop([first.number])
    assert leases.site_of("a") == "one", "as long as the site has a lease"
    assert leases.grow(second)
    assert (second.slots, second.number) == (ALL, 102)


@pytest.mark.parametrize("slots", [ALL, 0xFF, 0x1FF])
def test_a_lease_keeps_a_slot(slots: int) -> None:
    with pytest.raises(QueueError, match="give it back"):
        check_shed(0xFF, slots, ())
    check_shed(0xFF, slots & ~1, ())


def test_slots_with_marks_are_not_shed() -> None:
    attempt = AttemptKey(5, 0, 1)
    with pytest.raises(QueueError, match="settle them first"):
        check_shed(ALL, 1 << slot_of(5), [attempt])
    check_shed(ALL, ALL & ~(1 << slot_of(5)), [attempt])


NODES = ("one", "two", "three")
KEYS = ("a", "b", "c", "d")
SITES = ("a", "b", "c", "d", "provider")


class Leasing(RuleBasedStateMachine):
    """Nodes take, shed and give back parts of sites, die and come back, while sites of keys are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = LeaseTable()
        self.sites = {key: key for key in KEYS}
        self.now = 0.0
        for node in NODES:
            self.leases.join(node, 0.0)

    @rule(node=st.sampled_from(NODES), keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3))
    def take(self, node: str, keys: list[str]) -> None:
        """As stores do."""
        self.leases.lapse(self.now)
        for key in keys:
            site = self.leases.site_of(key) or self.sites[key]
            mine = self.leases.of_node(site, node)
            if mine is not None:
                if key in mine.keys:
                    self.leases.grow(mine)
                self.leases.extend(mine, [key])
            elif self.leases.lives(node, self.now) and self.leases.free(site):
                self.leases.take(site, [key], node)

    @rule(place=st.integers(0, 20), slots=st.integers(0, ALL))
    def shed(self, place: int, slots: int) -> None:
        if (holding := self.some(place)) is not None and holding.slots & ~slots:
            self.leases.shed(holding, slots)

    @rule(place=st.integers(0, 20))
    def give_back(self, place: int) -> None:
        if (holding := self.some(place)) is not None:
            self.leases.drop([holding.number])

    def some(self, place: int) -> Holding | None:
        there = list(self.leases)
        return there[place % len(there)] if there else None

    @rule(node=st.sampled_from(NODES))
    def leave(self, node: str) -> None:
        self.leases.leave(node)
        self.leases.join(node, self.now)

    @rule(beating=st.sets(st.sampled_from(NODES)), seconds=st.floats(1, 30))
    def wait(self, beating: set[str], seconds: float) -> None:
        self.now += seconds
        for node in beating:
            self.leases.beat(node, self.now)

    @rule(key=st.sampled_from(KEYS), site=st.sampled_from(SITES))
    def learn(self, key: str, site: str) -> None:
        self.sites[key] = site

    @invariant()
    def each_recipient_has_one_owner_at_most(self) -> None:
        owners: dict[tuple[str, int], int] = {}
        for holding in self.leases:
            assert holding.slots
            for key in holding.keys:
                for slot in each_of(holding.slots):
                    assert owners.setdefault((key, slot), holding.number) == holding.number
        for message in range(40):
            for key in KEYS:
                owner = self.leases.owner(key, message)
                knows = owners.get((key, slot_of(message)))
                assert knows is None or (owner is not None and owner.number == knows)

    @invariant()
    def the_leases_of_a_site_have_all_slots_that_are_not_free(self) -> None:
        for site in {one.site for one in self.leases}:
            slots = [one.slots for one in self.leases if one.site == site]
            assert sum(slots) + self.leases.free(site) == ALL
            assert len({one.node for one in self.leases if one.site == site}) == len(slots)


TestLeasing = Leasing.TestCase
TestLeasing.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
