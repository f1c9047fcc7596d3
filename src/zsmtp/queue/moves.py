"""Mail that moves from one queue to another: what both stores keep of it, so that no death in between loses any.

The queue it leaves is the *source*, the one it goes to the *target*. A recipient moves in four steps, each a
transaction of one store (``zsmtp.queue.moving`` takes them):

1. the source sets it *apart*: nobody claims, marks, settles or changes it from then on;
2. the target takes it in, with everything it carries, and notes whom it took from where: it delivers it from then on;
3. the source ends it, as moved;
4. the target notes that this was done, and forgets the note a week later.

Whoever finds a recipient set apart asks the target's notes whether the second step was taken, and goes on from there.
So each recipient is delivered by one queue: until the first step by the source, from the second one by the target.

A recipient that is set apart is held by a number that says in which move, and by what it was held before. A move is one
run of a command to one target; its number is never used again, so that a note can never be taken for another one.
"""

from __future__ import annotations

from typing import NamedTuple

from zsmtp.queue.states import QueuedMessage, QueuedRecipient
from zsmtp.records import dataclass

APART = -(1 << 44)
"""Holds below it are of recipients that are set apart."""
_STEP = 1 << 33  # more than there are other holds, on both sides of 0

MOVED_FROM = "moved_from"
"""The option of a message that says where it was: ``ID in QUEUE``."""


class Elsewhere(NamedTuple):
    """Another queue: its uid, and its name for people."""

    uid: str
    name: str


class Move(NamedTuple):
    """A move that began, as its source keeps it."""

    number: int
    to: Elsewhere
    by: str
    """Who began it."""
    begun: float
    """When, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a recipient stood in the queue it comes from; times are in seconds since 1970."""

    number: int
    """Its place among the recipients of the message there."""
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
        """How a recipient stands."""
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
    """Where a message comes from that moves here."""

    queue: str
    """The uid of the source."""
    move: int
    """The number of the move there."""
    message: int
    """Its id there. It keeps it, if no other message has it; else it gets the next one that is free."""
    numbers: tuple[int, ...]
    """Its recipients that come, by their numbers there, in their order."""
    submitted: float
    """When it was accepted, in seconds since 1970."""
    idempotency_key: str = ""
    """The key it was submitted with, if it is not forgotten; another message that has it here keeps it."""
    digest: bytes = b""
    """What a second submission with this key must equal."""


class ApartRecipient(NamedTuple):
    """A recipient that is set apart; its ``hold`` is what held it before, 0 for a rule that is gone."""

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
    """That a recipient is in another queue now; ``to`` says in words where."""

    move: int
    message: int
    number: int
    to: str


def apart(move: int, hold: int) -> int:
    """The hold of a recipient that is set apart in the move of a number (from 1); ``hold`` is what held it before."""
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
    """What held a recipient before it was set apart."""
    return hold - apart(move_of(hold), 0)
