"""Where the steps and transactions of a session stand: the books of the session's two cursors."""

from __future__ import annotations

from dataclasses import dataclass, field

from zsmtp.proto.phase import FINAL_PHASES, Phase, Result
from zsmtp.proto.plan import Step, Transaction


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
        undecided = self.mail is None or (self.mail is Result.SUCCESS and self.rcpt_unanswered > 0)
        return bool(self.accepted) or undecided or self.contradicted


class Sent:
    """A step whose octets were given out; ``end`` is the position of its last octet in the stream."""

    __slots__ = ("end", "progress", "replies", "step")

    def __init__(self, step: Step, end: int, progress: Progress | None) -> None:
        self.step = step
        self.end = end
        self.progress = progress
        self.replies = 1


def note(progress: Progress, step: Step, result: Result) -> None:
    """Write down what the answer to a step says about its transaction."""
    phase, good = step.phase, result is Result.SUCCESS
    if phase is Phase.RCPT:
        progress.rcpt_unanswered -= 1
        if good and progress.mail is Result.SUCCESS:
            progress.accepted.append(step.recipient)
    elif phase is Phase.MAIL:
        progress.mail = result
    elif phase is Phase.DATA:
        progress.go_ahead = good
    elif phase in FINAL_PHASES:
        progress.completed = good or bool(progress.accepted) or phase is Phase.CONTENT
