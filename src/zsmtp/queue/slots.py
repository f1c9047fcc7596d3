"""The slots of a site: its messages in sixteen shares, so that several nodes can serve one site.

A message belongs to one slot, by a function of its id alone; all its recipients have the slot of the message. A lease
has a set of slots, as a bit mask, and the sets of the leases of a site are disjoint (``zsmtp.queue.leases``). A
recipient stands in no column with its slot: :func:`slot_of` and the expression of :func:`in_slots` compute it, which
give the same for every id.

Ids of one millisecond differ in their low bits, by one; those of different milliseconds often have low bits of zero
(``zsmtp.queue.ids``). So the sum of both parts is spread, by Fibonacci hashing (Knuth, The Art of Computer Programming,
6.4): consecutive values go to different slots. No intermediate result exceeds 63 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from zsmtp.queue.ids import LOW_BITS

SLOTS = 16
"""The number of slots of a site."""
ALL = (1 << SLOTS) - 1
"""The mask of all slots."""
_LOW = (1 << LOW_BITS) - 1
_WORD = (1 << 31) - 1
_FACTOR = 1_327_217_885  # 2**31 divided by the golden ratio, odd
_SHIFT = 27  # leaves the upper four of 31 bits


def slot_of(message: int) -> int:
    """The slot of a message, from 0 to 15."""
    return (((message >> LOW_BITS & _WORD) + (message & _LOW)) * _FACTOR & _WORD) >> _SHIFT


def in_slots(column: str) -> str:
    """A condition in SQL, with a parameter for a mask: whether the message of a column is in these slots.

    It is for SQLite and PostgreSQL; the placeholder of the parameter is ``{}``. PostgreSQL expects few rows to meet an
    ``=``, and would rather sort them than walk an index in order; of ``<>`` it expects many.
    """
    spread = f"((({column} >> {LOW_BITS}) & {_WORD}) + ({column} & {_LOW})) * {_FACTOR}"
    return f"(CAST({{}} AS integer) >> CAST((({spread}) & {_WORD}) >> {_SHIFT} AS integer)) & 1 <> 0"


def of_slots(column: str, slots: int) -> str:
    """What :func:`in_slots` adds to a condition; nothing for all slots, so that the usual statement is the same."""
    return "" if slots == ALL else f"AND {in_slots(column).format(slots)}"


def has(slots: int, message: int) -> bool:
    """Whether a set of slots has that of a message."""
    return slots == ALL or slots >> slot_of(message) & 1 == 1


def count(slots: int) -> int:
    """The number of slots in a set."""
    return slots.bit_count()


def each_of(slots: int) -> Iterator[int]:
    """The slots in a set, in order."""
    return (slot for slot in range(SLOTS) if slots >> slot & 1)


class SitePart(NamedTuple):
    """The queue keys and the slots of a lease: it has the recipients of these keys whose message is in the slots."""

    keys: Collection[str]
    slots: int

    def has(self, key: str, message: int) -> bool:
        """Whether the lease has the recipients of a message with a key."""
        return key in self.keys and has(self.slots, message)


NO_PART = SitePart((), 0)
"""That of a lease which is over."""
