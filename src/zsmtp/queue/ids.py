"""Message ids: 63 bits that grow with time, and their text form with the shard.

An id is ``milliseconds since 2020-01-01 UTC << 22 | low bits``, so rows that are inserted together lie together, ids
sort by age, and the age of a message can be read off its id. The low 22 bits keep ids of one millisecond apart; the
store draws them (a counter under its write lock, or a database sequence), never the caller.

People, logs, VERP addresses and file names use the text form: the shard (two characters) and the id (thirteen), in
Crockford's base 32, in lower case: ``00`` + ``c1x8mz3k0a4te``. It has no letters that look alike, survives case
folding, and is at most 15 characters long.
"""

from __future__ import annotations

from zsmtp.errors import QueueError, QueueUnavailable

EPOCH = 1_577_836_800  # 2020-01-01T00:00:00Z, seconds since 1970
LOW_BITS = 22  # of an id: they distinguish messages of one millisecond
MAX_SHARD = 32 * 32 - 1
LARGEST = (1 << 63) - 1

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {**{digit: value for value, digit in enumerate(_DIGITS)}, "o": 0, "i": 1, "l": 1}
_LENGTH = 13  # digits of 63 bits


def first_id(now: float) -> int:
    """The lowest id of a message submitted at ``now`` (seconds since 1970)."""
    return max(int((now - EPOCH) * 1000), 0) << LOW_BITS


def next_id(last: int, now: float) -> int:
    """The id of a message submitted at ``now``, greater than ``last`` even if the clock was set back.

    Raises :class:`~zsmtp.errors.QueueUnavailable` if there is none: the clock is beyond 2089.
    """
    drawn = max(last + 1, first_id(now))
    if drawn > LARGEST:
        raise QueueUnavailable(
            f"no message id can be given: the clock of the machine says {now:.0f} seconds since 1970; set it"
        )
    return drawn


def time_of(message: int) -> float:
    """When the message of this id was submitted, in seconds since 1970 (whole milliseconds)."""
    return EPOCH + (message >> LOW_BITS) / 1000


def to_text(message: int, shard: int = 0) -> str:
    """The text form of an id."""
    return digits(shard, 2) + digits(message, _LENGTH)


def from_text(text: str) -> tuple[int, int]:
    """The id and the shard of a text form; raises :class:`~zsmtp.errors.QueueError` if it is no id.

    Upper case, and the letters O, I and L in place of digits, are accepted.
    """
    folded = text.strip().lower()
    if len(folded) != 2 + _LENGTH or any(digit not in _VALUES for digit in folded):
        raise QueueError(f"{text[:40]!r} is no message id (15 characters, as 'zsmtp queue list' shows them)")
    message = number(folded[2:])
    if message >> 63:
        raise QueueError(f"{text[:40]!r} is no message id")
    return message, number(folded[:2])


def digits(value: int, length: int) -> str:
    """The last ``length`` digits of a number in base 32."""
    found = []
    for _ in range(length):
        found.append(_DIGITS[value & 31])
        value >>= 5
    return "".join(reversed(found))


def number(text: str) -> int:
    """The value of digits of base 32 in lower case."""
    value = 0
    for digit in text:
        value = value << 5 | _VALUES[digit]
    return value
