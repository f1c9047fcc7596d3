"""When a big site is divided, which slots are given up, and what of its limits goes with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.queue.dividing import (
    ALONE,
    ASK,
    LEAVING,
    PRESSED,
    UNWANTED,
    YIELDED,
    Division,
    beyond_share,
    fair_share,
    is_viable,
    limits_of,
    share,
)
from zsmtp.queue.shaping import Rate, SiteLimits
from zsmtp.queue.slots import ALL, count

LIMITS = SiteLimits(start=5, most=20)


@given(st.integers(0, 5000), st.lists(st.integers(0, 4), min_size=16, max_size=16))
def test_shares_of_disjoint_slots_add_up(total: int, owners: list[int]) -> None:
    parts = [sum(1 << slot for slot in range(16) if owners[slot] == owner) for owner in range(5)]
    assert sum(share(total, part) for part in parts) == total
    for part in parts:
        assert abs(share(total, part) - total * count(part) / 16) < count(part) + 1


@pytest.mark.parametrize(("nodes", "slots"), [(0, 16), (1, 16), (2, 8), (3, 6), (5, 4), (16, 1), (100, 1)])
def test_the_fair_share(nodes: int, slots: int) -> None:
    assert fair_share(nodes) == slots


def test_limits_go_with_slots() -> None:
    limits = SiteLimits(
        start=5,
        most=20,
        messages=(Rate(100, 60.0), Rate(2, 1.0)),
        recipients=(Rate(16, 1.0),),
        connections=(Rate(3, 1.0),),
        per_connection=7,
    )
    assert limits_of(limits, ALL) is limits
    half = limits_of(limits, 0x00FF)
    assert (half.start, half.most, half.per_connection) == (2, 10, 7)
    assert half.messages == (Rate(50, 60.0), Rate(1, 1.0))
    assert (half.recipients, half.connections) == ((Rate(8, 1.0),), (Rate(1, 1.0),))
    least = limits_of(limits, 1)
    assert (least.start, least.most, least.connections) == (1, 1, (Rate(1, 1.0),))


@pytest.mark.parametrize(
    ("held", "nodes", "limits", "given"),
    [
        (ALL, 1, LIMITS, 0),
        (ALL, 2, LIMITS, 0xFF00),
        (ALL, 3, LIMITS, 0xFFC0),
        (0xFFC0, 3, LIMITS, 0xF000),
        (0x00FF, 2, LIMITS, 0),
        (0x5555, 4, LIMITS, 0x5500),
        (ALL, 100, LIMITS, 0xFFFE),
        (ALL, 2, SiteLimits(start=1, most=1), 0),
        (ALL, 2, SiteLimits(start=1, most=2), 0xFF00),
        (ALL, 16, SiteLimits(start=1, most=4), 0xFFF0),  # as far as there is a connection for each part
        (0xFFF0, 16, SiteLimits(start=1, most=4), 0xFF00),
        (0xF000, 16, SiteLimits(start=1, most=4), 0),
        (ALL, 2, SiteLimits(messages=(Rate(1, 10.0),)), 0),
        (ALL, 2, SiteLimits(recipients=(Rate(100, 1.0), Rate(2, 60.0))), 0xFF00),
    ],
)
def test_slots_beyond_the_share_are_given_up(held: int, nodes: int, limits: SiteLimits, given: int) -> None:
    assert beyond_share(held, nodes, limits) == given


@given(st.integers(2, 40), st.integers(1, 30), st.integers(1, 40))
def test_however_often_it_is_divided_the_limits_of_all_parts_are_those_of_the_site(
    nodes: int, most: int, allowed: int
) -> None:
    limits = SiteLimits(start=1, most=most, messages=(Rate(allowed, 1.0),))
    parts = [ALL]
    for _ in range(40):
        for held in parts:
            if given_up := beyond_share(held, nodes, limits):
                parts.remove(held)
                parts += [held & ~given_up, given_up]
                break
    assert sum(parts) == ALL
    shares = [limits_of(limits, part) for part in parts]
    assert sum(one.most for one in shares) == most
    assert sum(one.messages[0].allowed for one in shares) == allowed
    assert len(parts) <= nodes or nodes > 16


def test_a_site_is_divided_after_some_seconds_of_pressure() -> None:
    division = Division(LIMITS)
    assert division.look(ALL, 2, 100.0, pressed=True) == 0
    assert division.look(ALL, 2, 100.0 + PRESSED - 0.1, pressed=True) == 0
    assert division.look(ALL, 2, 103.0, pressed=False) == 0
    assert division.look(ALL, 2, 104.0, pressed=True) == 0
    assert division.look(ALL, 2, 104.0 + PRESSED, pressed=True) == 0xFF00
    assert division.leaving == 0xFF00
    assert division.look(ALL, 2, 200.0, pressed=True) == 0, "it is under way"


def test_slots_in_use_are_given_up_later() -> None:
    division = Division(LIMITS)
    division.look(ALL, 2, 0.0, pressed=True)
    division.look(ALL, 2, PRESSED, pressed=True)
    assert division.ready(ALL) == 0
    assert division.ready(0xF000) == 0x0F00
    division.gave(0x0F00, 6.0)
    assert division.leaving == 0xF000
    assert division.ready(0x00FF) == 0xF000
    division.gave(0xF000, 7.0)
    assert division.leaving == division.ready(0) == 0


def test_slots_in_use_for_long_are_kept() -> None:
    division = Division(LIMITS)
    division.look(ALL, 2, 0.0, pressed=True)
    assert division.look(ALL, 2, 10.0, pressed=True) == 0xFF00
    division.gave(0x0F00, 12.0)
    assert not division.is_overdue(10.0 + LEAVING - 0.1)
    assert division.is_overdue(10.0 + LEAVING)
    division.keep(50.0, alone=True)
    assert division.leaving == 0
    assert not division.is_overdue(1000.0)
    division.look(0xF0FF, 2, 51.0, pressed=True)
    assert division.look(0xF0FF, 2, 49.9 + ALONE, pressed=True) == 0
    assert division.look(0xF0FF, 2, 50.0 + ALONE, pressed=True) == 0xF000


def test_slots_kept_because_no_other_node_is_left_may_be_given_up_again() -> None:
    division = Division(LIMITS)
    division.look(ALL, 2, 0.0, pressed=True)
    assert division.look(ALL, 2, PRESSED, pressed=True) == 0xFF00
    division.keep(6.0, alone=False)
    division.look(ALL, 2, 7.0, pressed=True)
    assert division.look(ALL, 2, 7.0 + PRESSED, pressed=True) == 0xFF00


def test_nothing_is_given_up_that_no_node_could_use() -> None:
    """With two connections one slot of the upper half has one: it does not stay behind, and does not go alone."""
    division = Division(SiteLimits(start=1, most=2))
    division.look(ALL, 2, 0.0, pressed=True)
    assert division.look(ALL, 2, PRESSED, pressed=True) == 0xFF00
    assert not is_viable(division.limits, 0x7F00)
    assert division.ready(0x8000) == 0
    assert division.ready(0x0100) == 0
    assert division.ready(0) == 0xFF00


def test_slots_that_nobody_wants_are_not_given_up_again_soon() -> None:
    division = Division(LIMITS)
    division.gave(0xFF00, 100.0)
    assert not division.asks(0x00FF, 2, 101.9)
    assert division.asks(0x00FF, 2, 100.0 + YIELDED)
    division.got(0xFF00, 102.5)
    division.look(ALL, 2, 103.0, pressed=True)
    assert division.look(ALL, 2, 102.4 + ALONE, pressed=True) == 0
    assert division.look(ALL, 2, 102.5 + ALONE, pressed=True) == 0xFF00


def test_slots_that_another_node_took_some_of_were_wanted() -> None:
    division = Division(LIMITS)
    division.gave(0xFF00, 100.0)
    division.got(0xF000, 104.0)
    division.look(0xF0FF, 2, 105.0, pressed=True)
    assert division.look(0xF0FF, 2, 105.0 + PRESSED, pressed=True) == 0xF000


def test_slots_that_come_back_from_a_dead_node_are_given_up_again() -> None:
    division = Division(LIMITS)
    division.gave(0xFF00, 100.0)
    division.got(0xFF00, 100.0 + UNWANTED)
    division.look(ALL, 2, 120.0, pressed=True)
    assert division.look(ALL, 2, 120.0 + PRESSED, pressed=True) == 0xFF00


def test_free_slots_are_asked_for_more_often_by_who_has_few() -> None:
    division = Division(LIMITS)
    assert not division.asks(ALL, 2, 50.0)
    assert division.asks(0x000F, 2, 50.0)
    assert not division.asks(0x000F, 2, 50.0 + ASK - 0.1)
    assert division.asks(0x000F, 2, 50.0 + ASK)
    assert division.asks(0x00FF, 2, 60.0)
    assert not division.asks(0x00FF, 2, 60.0 + YIELDED - 0.1)
    assert division.asks(0x00FF, 2, 60.0 + YIELDED)
    division.leaving = 1
    assert not division.asks(0x00FF, 2, 70.0)
