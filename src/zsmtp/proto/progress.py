"""The state of the steps and transactions of a client session, and which of them are in doubt when it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from zsmtp.errors import ContentError, ZsmtpError
from zsmtp.proto.events import Lost, StepAnswered
from zsmtp.proto.phase import CONTENT, DATA, FINAL_PHASES, LAST, MAIL, RCPT, RSET, SUCCESS, Phase, ReplyMeaning, judge
from zsmtp.proto.plan import Step, Transaction
from zsmtp.proto.reply import Reply
from zsmtp.records import dataclass, field


@dataclass(slots=True, eq=False)
class TransactionProgress:
    """The state of one transaction.

    ``held`` are the replies that count once the RSET behind the content has its reply; None without such a RSET.
    """

    transaction: Transaction
    unanswered: int  # steps without a reply that were not dropped
    rcpt_unanswered: int
    held: list[StepAnswered] | None = None
    started: float = 0.0
    content_started: float = 0.0
    content_position: int = 0
    content_begun: bool = False
    completion_asked: bool = False
    completion_allowed: bool = False
    mail: ReplyMeaning | None = None
    accepted: list[int] = field(default_factory=list)
    go_ahead: bool = False
    completed: bool = False
    concluded: bool = False
    contradicted: bool = False

    @property
    def may_deliver(self) -> bool:
        """Whether a recipient is accepted, or may be once all replies are in; a lone dot carries no message."""
        undecided = self.mail is None or (self.mail is SUCCESS and self.rcpt_unanswered > 0)
        return bool(self.accepted) or undecided or self.contradicted


UNKNOWN = 1 << 62  # the end of a step that is not fully given out yet


class Sent:
    """A step whose octets were given out; ``end`` is the position of its last octet in the stream."""

    __slots__ = ("end", "progress", "replies", "step")

    def __init__(self, step: Step, end: int, progress: TransactionProgress | None) -> None:
        self.step = step
        self.end = end
        self.progress = progress
        self.replies = 1

    def began(self, written: int) -> bool:
        """Whether an octet of the content that follows this step is written."""
        return self.progress is not None and written > self.progress.content_position > 0


def loss(
    error: ZsmtpError,
    begun: Sequence[Sent],
    leaving: Sequence[Sent],
    written: int,
    *,
    in_step: bool,
    unread: bool,
    lmtp: bool,
) -> Lost:
    """The end of a session where ``begun`` are the steps without an answer, and the first one that was not sent.

    The content being read is that of the last step in ``leaving``. With ``unread`` the peer accepted nothing of what it
    did not read, except a content that has some of its replies (RFC 2033 4.2: one for each recipient).
    """
    first = begun[0] if begun else None
    step = first.step if first is not None and first.end <= written else None
    at_work = leaving[-1:] if isinstance(error, ContentError) and leaving else begun
    struck = next((sent.progress.transaction for sent in at_work if sent.progress is not None), None)
    read = begun
    if unread:
        read = [first] if lmtp and first is not None and first.replies else []
    return Lost(error, step, in_doubt(read, written, in_step=in_step), struck, in_step)


def in_doubt(begun: Iterable[Sent], written: int, *, in_step: bool = True) -> tuple[Transaction, ...]:
    """The transactions that may have delivered: their last octet is written, and their final reply is missing.

    If replies are not ``in_step``, those held back do not count, neither final replies nor refusals.
    """
    found: dict[Transaction, None] = {}
    for sent in begun:
        progress, final = sent.progress, sent.step.phase in FINAL_PHASES and sent.end <= written
        if progress is None:
            continue
        if progress.held and not in_step:
            doubtful = final or any(answer.step.phase in FINAL_PHASES for answer in progress.held)
        else:
            doubtful = final and progress.may_deliver
        if doubtful:
            found[progress.transaction] = None
    return tuple(found)


def too_many(replies: Sequence[Reply], awaited: deque[Sent], written: int, *, lmtp: bool) -> bool:
    """Whether ``replies``, read together in a transaction, are more than were due. A 421 may come at any time.

    Where none was due, one refusal may still be a reply: to content that the peer refuses before its end. A command
    outside transactions is sent alone, so the first reply is its reply.
    """
    if awaited and awaited[0].progress is None:
        return False
    count = next((i for i, reply in enumerate(replies) if reply.code == 421), len(replies))
    if not awaited or awaited[0].end > written:
        return any(reply.code < 400 for reply in replies[:count])
    if lmtp:
        return count > _due_in_lmtp(replies, awaited, written)
    return count > len(awaited) or (count > 0 and awaited[count - 1].end > written)


def _due_in_lmtp(replies: Sequence[Reply], awaited: Iterable[Sent], written: int) -> int:
    """The number of replies due: one for each recipient accepted, perhaps by ``replies``, to content (RFC 2033 4.2)."""
    due = 0
    accepted: dict[TransactionProgress, int] = {}
    for sent in awaited:
        if sent.end > written or due >= len(replies):
            break
        progress, phase = sent.progress, sent.step.phase
        if progress is not None and phase in FINAL_PHASES:
            due += sent.replies or max(len(progress.accepted) + accepted.get(progress, 0), 1)
            continue
        if progress is not None and phase is RCPT and judge(phase, replies[due].code) is SUCCESS:
            accepted[progress] = accepted.get(progress, 0) + 1
        due += 1
    return due


def drop_pointless(
    unsent: deque[tuple[Step, TransactionProgress | None]], progress: TransactionProgress, *, undecided: bool
) -> None:
    """Take the unsent steps of a transaction out of the queue once they can no longer lead to a delivery.

    ``undecided``: commands of the transaction have no reply yet.
    """
    while unsent and unsent[0][1] is progress and _pointless(progress, unsent[0][0].phase, undecided=undecided):
        unsent.popleft()
        progress.unanswered -= 1


def _pointless(progress: TransactionProgress, phase: Phase, *, undecided: bool) -> bool:
    """Whether the next unsent step of a transaction can no longer lead to a delivery."""
    if phase is CONTENT:
        return not undecided and not progress.go_ahead
    if phase is RSET:
        return not progress.content_begun
    if progress.mail is not None and progress.mail is not SUCCESS:
        return True  # MAIL was refused and nothing more was sent
    if phase is DATA or phase is LAST:
        return not (undecided or progress.mail is None or progress.accepted)
    return False


def note(progress: TransactionProgress, step: Step, result: ReplyMeaning) -> None:
    """Update the state of a transaction with the reply to one of its steps."""
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
    elif phase is RSET and progress.content_begun:
        progress.completed = True
