"""What a session tells whoever drives it: the values that ``Session.next_event`` gives, in the order it happened."""

from __future__ import annotations

from zsmtp.errors import ZsmtpError
from zsmtp.proto.phase import Result
from zsmtp.proto.plan import Step, Transaction
from zsmtp.proto.reply import Reply
from zsmtp.records import NamedTuple


class Answer(NamedTuple):
    """A step was answered; ``result`` is SUCCESS, TRANSIENT or PERMANENT. ``recipient`` is an index (-1: none)."""

    step: Step
    reply: Reply
    result: Result
    transaction: Transaction | None = None
    recipient: int = -1


class Finished(NamedTuple):
    """All steps of a transaction are answered, or need not be sent any more.

    ``completed`` tells that the server has no transaction open any more: the next MAIL needs no RSET before it.
    """

    transaction: Transaction
    completed: bool


class Lost(NamedTuple):
    """The session is over.

    ``step`` is what was waited for, ``transaction`` the one at work then (or the one whose content failed this side),
    ``in_doubt`` the transactions whose fate nobody told.
    """

    error: ZsmtpError
    step: Step | None = None
    in_doubt: tuple[Transaction, ...] = ()
    transaction: Transaction | None = None


SessionEvent = Answer | Finished | Lost
