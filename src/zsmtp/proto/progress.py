"""Where the steps and transactions of a session stand: the books of the session's two cursors."""

from __future__ import annotations

from collections.abc import Iterable

from zsmtp.proto.phase import CONTENT, DATA, FINAL_PHASES, LAST, MAIL, RCPT, SUCCESS, Phase, Result
from zsmtp.proto.plan import Step, Transaction
from zsmtp.records import dataclass, field


@dataclass(slots=True, eq=False)
class Progress:
    """Where a transaction stands."""

    transaction: Transaction
    unanswered: int  # steps not yet answered nor dropped
    rcpt_unanswered: int
    started: float = 0.0
    content_started: float = 0.0
    content_position: int = 0
    mail: Result | None = None
    accepted: list[int] = field(default_factory=list)
    go_ahead: bool = False
    completed: bool = False
    concluded: bool = False
    contradicted: bool = False

    @property
    def may_deliver(self) -> bool:
        """Whether somebody is accepted, or may be once the answers are in: a lone dot carries no message."""
        undecided = self.mail is None or (self.mail is SUCCESS and self.rcpt_unanswered > 0)
        return bool(self.accepted) or undecided or self.contradicted


class Sent:
    """A step whose octets were given out; ``end`` is the position of its last octet in the stream."""

    __slots__ = ("end", "progress", "replies", "step")

    def __init__(self, step: Step, end: int, progress: Progress | None) -> None:
        self.step = step
        self.end = end
        self.progress = progress
        self.replies = 1


def in_doubt(awaited: Iterable[Sent], written: int) -> tuple[Transaction, ...]:
    """The transactions that may have delivered: their last octet is written, and their final reply is missing."""
    return tuple(
        sent.progress.transaction
        for sent in awaited
        if sent.progress is not None
        and sent.progress.may_deliver
        and sent.step.phase in FINAL_PHASES
        and sent.end <= written
    )


def pointless(progress: Progress, phase: Phase, *, undecided: bool) -> bool:
    """Whether the next step of a transaction, not sent yet, can no longer lead to a delivery.

    ``undecided`` tells that commands of the transaction are not answered yet.
    """
    if phase is CONTENT:
        return not undecided and not progress.go_ahead
    if progress.mail is not None and progress.mail is not SUCCESS:
        return True  # MAIL was refused and nothing more has left
    if phase is DATA or phase is LAST:
        return not (undecided or progress.mail is None or progress.accepted)
    return False


def note(progress: Progress, step: Step, result: Result) -> None:
    """Write down what the answer to a step says about its transaction."""
    phase = step.phase
    if phase is RCPT:
        progress.rcpt_unanswered -= 1
        if result is SUCCESS and progress.mail is SUCCESS:
            progress.accepted.append(step.recipient)
    elif phase is MAIL:
        progress.mail = result
    elif phase is DATA:
        progress.go_ahead = result is SUCCESS
    elif phase in FINAL_PHASES:
        progress.completed = phase is CONTENT or result is SUCCESS or bool(progress.accepted)
