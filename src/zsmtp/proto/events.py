"""What a session tells whoever drives it: the values that ``Session.next_event`` gives, in the order it happened."""

from __future__ import annotations

from zsmtp.errors import ZsmtpError
from zsmtp.proto.phase import ReplyMeaning
from zsmtp.proto.plan import Step, Transaction
from zsmtp.proto.reply import Reply
from zsmtp.records import NamedTuple


class StepAnswered(NamedTuple):
    """A step was answered; ``result`` is SUCCESS, TRANSIENT or PERMANENT. ``recipient`` is an index (-1: none).

    ``early`` tells that the content was refused before it was sent to its end.
    """

    step: Step
    reply: Reply
    result: ReplyMeaning
    transaction: Transaction | None = None
    recipient: int = -1
    early: bool = False


class Finished(NamedTuple):
    """All steps of a transaction are answered, or need not be sent any more.

    ``completed`` tells that the server has no transaction open any more: the next MAIL needs no RSET before it.
    """

    transaction: Transaction
    completed: bool


class CompletionDue(NamedTuple):
    """What is sent next may complete these transactions at the peer; it waits for ``Session.allow_completion``."""

    transactions: tuple[Transaction, ...]


class Lost(NamedTuple):
    """The session is over.

    ``step`` is what was waited for, ``transaction`` the one at work then (or the one whose content failed this side),
    ``in_doubt`` the transactions whose fate nobody told. ``in_step`` is False if replies and commands did not belong
    together any more: there was a reply too many, or RSET was refused. ``unfinished`` is what a reply says that had no
    end yet, fit for people ("" if there was none).
    """

    error: ZsmtpError
    step: Step | None = None
    in_doubt: tuple[Transaction, ...] = ()
    transaction: Transaction | None = None
    in_step: bool = True
    unfinished: str = ""


SessionEvent = StepAnswered | Finished | CompletionDue | Lost
