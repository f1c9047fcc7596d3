"""What is left to be done of messages when a journal knows of earlier runs.

The rules are those of :mod:`zsmtp.cli.sendjournal`; here they are applied to messages that were read from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.sendjournal import JournalledMessage, JournalState, changed, choose
from zsmtp.cli.sysexits import Exit
from zsmtp.client.dsn import due
from zsmtp.client.report import Fate, Result
from zsmtp.escape import escape

_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The messages with the recipients that are sent them now; of the others, how they ended before.

    ``in_doubt`` are the results of those who may have their message, and are not sent it again.
    """

    messages: Sequence[Outgoing]
    delivered: int = 0
    failed: int = 0
    in_doubt: tuple[Result, ...] = ()


def digest_of(message: Outgoing) -> str:
    """The digest of a message's octets. Raises CommandFailed if they cannot be read."""
    state = blake2b(digest_size=16)
    with reading(message.name), message.opened() as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def resume(
    messages: Sequence[Outgoing], state: JournalState, *, resend_in_doubt: bool, send_changed: bool
) -> RemainingWork:
    """What is left to be done. Raises CommandFailed for files that have changed, unless they are to be sent."""
    about = [JournalledMessage(one.path, digest_of(one), one.sender, one.recipients) for one in messages]
    other = [] if send_changed else changed(state, about)
    if other:
        more = f", and {len(other) - 1} more files" if len(other) > 1 else ""
        raise CommandFailed(
            Exit.DATA,
            f"{escape(other[0])}{more}: changed since it was sent, as the journal says; nothing is sent. "
            "--send-changed sends it as a new message, to everybody",
        )
    left: list[Outgoing] = []
    in_doubt: list[Result] = []
    delivered = failed = 0
    for message, choice in zip(messages, choose(state, about, resend=resend_in_doubt), strict=True):
        delivered += choice.delivered
        failed += choice.failed
        in_doubt += [_still_in_doubt(message, recipient, time) for recipient, time in choice.in_doubt]
        if choice.send:
            left.append(replace(message, recipients=tuple(choice.send), keys=choice.send))
    return RemainingWork(left, delivered, failed, tuple(in_doubt))


def _still_in_doubt(message: Outgoing, recipient: str, time: str) -> Result:
    return Result(
        message=message.name,
        recipient=recipient,
        fate=Fate.IN_DOUBT,
        status="4.4.2",
        text=f"sent at {time}, and no word came of it: not sent again without --resend-in-doubt",
        attempted=False,
        dsn_action=due(message.dsn, "delayed", null_sender=not message.sender),
    )
