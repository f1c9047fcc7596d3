"""Replies in the order of their commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import LocalError
from zsmtp.proto.server_slots import ReplySlots


def test_what_is_filled_waits_for_what_was_before() -> None:
    slots = ReplySlots()
    first, second = slots.open(), slots.open()
    slots.add(b"c", 1.0)
    slots.fill(second, b"b", 2.0)
    assert slots.take() == b""
    assert (slots.waiting, slots.count) == (3, 3)
    slots.fill(first, b"a", 3.0)
    assert (slots.waiting, slots.count, slots.octets, slots.since) == (0, 3, 3, 3.0)
    assert slots.take() == b"abc"
    assert (slots.count, slots.octets) == (0, 0)


@given(st.lists(st.booleans(), max_size=30), st.randoms(use_true_random=False))
def test_any_order_of_answers(said_at_once: list[bool], random: object) -> None:
    slots = ReplySlots()
    open_slots = []
    for number, at_once in enumerate(said_at_once):
        if at_once:
            slots.add(b"%d " % number, 0.0)
        else:
            assert slots.open() == number
            open_slots.append(number)
    random.shuffle(open_slots)  # type: ignore[attr-defined]
    out = slots.take()
    for number in open_slots:
        slots.fill(number, b"%d " % number, 0.0)
        out += slots.take()
    assert out == b"".join(b"%d " % number for number in range(len(said_at_once)))
    assert slots.count == 0


def test_a_slot_is_filled_once() -> None:
    slots = ReplySlots()
    one, two = slots.open(), slots.open()
    slots.fill(two, b"x", 0.0)
    for bad in (two, two + 1, -1):
        with pytest.raises(LocalError):
            slots.fill(bad, b"y", 0.0)
    slots.fill(one, b"x", 0.0)
    with pytest.raises(LocalError):
        slots.fill(one, b"y", 0.0)


def test_dropped_slots_leave_nothing() -> None:
    slots = ReplySlots()
    slots.add(b"a", 0.0)
    slots.open()
    slots.add(b"b", 0.0)
    slots.drop()
    assert (slots.take(), slots.count, slots.waiting) == (b"a", 0, 0)
    assert slots.open() == 3
