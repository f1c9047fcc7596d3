"""The events of a client session: the values that ``Session.next_event`` returns, in the order they happened."""

from __future__ import annotations

from zsmtp.errors import ZsmtpError
from zsmtp.proto.phase import ReplyMeaning
from zsmtp.proto.plan import Step, Transaction
from zsmtp.proto.reply import Reply
from zsmtp.records import NamedTuple


class StepAnswered(NamedTuple):
    """A step was answered; ``result`` is SUCCESS, TRANSIENT or PERMANENT. ``recipient`` is an index (-1: none).

    ``early``: the content was refused before all of it was sent.
    """

    step: Step
    reply: Reply
    result: ReplyMeaning
    transaction: Transaction | None = None
    recipient: int = -1
    early: bool = False


class Finished(NamedTuple):
    """All steps of a transaction are answered, or need not be sent any more.

    ``completed``: the server has no transaction open any more, so the next MAIL needs no RSET before it.
    """

    transaction: Transaction
    completed: bool


class CompletionDue(NamedTuple):
    """The next octets may complete these transactions at the peer; they wait for ``Session.allow_completion``."""

    transactions: tuple[Transaction, ...]


class Lost(NamedTuple):
    """The session is over.

    ``step`` is the step that awaited its reply, ``transaction`` the active transaction (or the one whose content could
    not be read), ``in_doubt`` the transactions without a final reply that may have been delivered. ``in_step`` is False
    if replies can no longer be matched to commands: there was a surplus reply, or RSET was refused. ``unfinished`` is
    the escaped text of an incomplete reply ("" if there was none).
    """

    error: ZsmtpError
    step: Step | None = None
    in_doubt: tuple[Transaction, ...] = ()
    transaction: Transaction | None = None
    in_step: bool = True
    unfinished: str = ""


SessionEvent = StepAnswered | Finished | CompletionDue | Lost
