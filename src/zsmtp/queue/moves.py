"""Moves of mail from one queue to another: the records that both stores keep, so that no crash loses a recipient.

Mail moves from the *source* to the *target*. A recipient moves in four steps, each a transaction of one store
(``zsmtp.queue.moving`` takes them):

1. the source sets it *apart*: it is not claimed, marked, settled or changed from then on;
2. the target takes it in, with all its state, and notes its origin: the target delivers it from then on;
3. the source ends it, as moved;
4. the target notes that this was done, and deletes the note a week later.

To continue with a recipient that is set apart, a move reads in the target's notes whether the second step was taken.
So each recipient is delivered by one queue: until the first step by the source, from the second one by the target.

The hold of a recipient that is set apart encodes the number of the move, and the hold before. A move is one run of a
command to one target; its number is never used again, so that a note always identifies one move.
"""

from __future__ import annotations

from typing import NamedTuple

from zsmtp.queue.states import QueuedMessage, QueuedRecipient
from zsmtp.records import dataclass

APART = -(1 << 44)
"""Recipients whose hold is lower are set apart."""
_STEP = 1 << 33  # more than there are other holds, on both sides of 0

MOVED_FROM = "moved_from"
"""The option of a message with its origin: ``ID in QUEUE``."""


class Elsewhere(NamedTuple):
    """Another queue: its uid, and its name for display."""

    uid: str
    name: str


class Move(NamedTuple):
    """A move that began, as stored in its source."""

    number: int
    to: Elsewhere
    by: str
    """The operator who began it."""
    begun: float
    """When, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The state of a recipient in the source; times are in seconds since 1970."""

    number: int
    """Its index among the recipients of the message there."""
    rank: int
    due: float
    expires: float
    attempts: int
    warned: bool
    doubtful: bool
    status: str
    reason: str

    @classmethod
    def of(cls, recipient: QueuedRecipient) -> Standing:
        """The state of a recipient."""
        return cls(
            number=recipient.number,
            rank=recipient.rank,
            due=recipient.due,
            expires=recipient.expires,
            attempts=recipient.attempts,
            warned=recipient.warned,
            doubtful=recipient.doubtful,
            status=recipient.status,
            reason=recipient.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The origin of a message that moves here."""

    queue: str
    """The uid of the source."""
    move: int
    """The number of the move there."""
    message: int
    """Its id there. It keeps the id, unless another message has it; then it gets the next free one."""
    numbers: tuple[int, ...]
    """Its moving recipients, by their numbers there, in their order."""
    submitted: float
    """When it was accepted, in seconds since 1970."""
    idempotency_key: str = ""
    """The key it was submitted with, unless deleted; another message with this key here keeps it."""
    digest: bytes = b""
    """The digest that a second submission with this key must have."""


class ApartRecipient(NamedTuple):
    """A recipient that is set apart; its ``hold`` is the one before, 0 for a rule that does not exist any more."""

    recipient: QueuedRecipient
    message: QueuedMessage
    key: tuple[str, bytes] | None
    """The idempotency key of the message and its digest, None if it has none."""


class TakenIn(NamedTuple):
    """A note of the target: recipients (by their numbers) of a message of the source are in a message here."""

    move: int
    message: int
    numbers: tuple[int, ...]
    here: int


class Departure(NamedTuple):
    """The end of a recipient that is in another queue now; ``to`` describes where."""

    move: int
    message: int
    number: int
    to: str


def apart(move: int, hold: int) -> int:
    """The hold of a recipient that is set apart in the move of a number (from 1); ``hold`` is the one before."""
    return APART - move * _STEP + hold


def is_apart(hold: int) -> bool:
    """Whether a recipient with this hold is set apart."""
    return hold < APART


def holds_apart(move: int) -> tuple[int, int]:
    """The least and the greatest hold of recipients that are set apart in a move."""
    return apart(move, 1 - _STEP // 2), apart(move, _STEP // 2 - 1)


def move_of(hold: int) -> int:
    """The number of the move that a recipient is set apart in."""
    return (APART - hold + _STEP // 2) // _STEP


def held_before(hold: int) -> int:
    """The hold of a recipient before it was set apart."""
    return hold - apart(move_of(hold), 0)
