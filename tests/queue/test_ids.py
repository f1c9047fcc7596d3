"""Message ids and their text form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import QueueError
from zsmtp.queue.ids import EPOCH, MAX_SHARD, first_id, from_text, time_of, to_text


@given(st.integers(0, 2**63 - 1), st.integers(0, MAX_SHARD))
def test_there_and_back(message: int, shard: int) -> None:
    text = to_text(message, shard)
    assert len(text) == 15
    assert from_text(text) == from_text(text.upper()) == (message, shard)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_texts_sort_as_ids_do(one: int, other: int) -> None:
    assert (to_text(one) < to_text(other)) == (one < other)


def test_an_id_tells_its_time() -> None:
    now = 1_800_000_000.123
    assert time_of(first_id(now)) == pytest.approx(now, abs=0.001)
    assert first_id(now + 0.01) > first_id(now)
    assert first_id(EPOCH - 5) == 0


@pytest.mark.parametrize("text", ["", "abc", "0" * 14, "0" * 16, "u" * 15, "00" + "z" * 13, "0" * 14 + "é"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(QueueError, match="no message id"):
        from_text(text)


def test_letters_that_look_like_digits_are_read_as_such() -> None:
    assert from_text("oo00000000000IL") == (33, 0)
