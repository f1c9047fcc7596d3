"""The remaining work of a run with a journal of earlier runs.

The rules are those of :mod:`zsmtp.cli.sendjournal`; this module applies them to messages that were read from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from zsmtp.cli.failure import reading
from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.results import untold
from zsmtp.cli.sendjournal import JournalledMessage, JournalState, changed, choose
from zsmtp.cli.sendsources import UnusableMessage
from zsmtp.cli.sysexits import Exit
from zsmtp.client.report import Fate, Result

_BLOCK = 1 << 18
_CHANGED = "it has changed since it was sent, according to the journal; --send-changed sends it as a new message"


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The messages with the recipients to send to now; for the others, their earlier results.

    ``in_doubt`` are the results of recipients that may have their message, and are not sent to again; ``changed`` are
    files with another message than the one that was sent.
    """

    messages: Sequence[Outgoing]
    delivered: int = 0
    failed: int = 0
    in_doubt: tuple[Result, ...] = ()
    changed: tuple[UnusableMessage, ...] = ()


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
    """The remaining work, without changed files unless they are to be sent. Raises CommandFailed."""
    about = [JournalledMessage(one.path, digest_of(one), one.sender, one.recipients) for one in messages]
    other = set() if send_changed else set(changed(state, about))
    bad = [UnusableMessage(one.name, _CHANGED, Exit.DATA) for one in messages if one.path in other]
    if other:
        messages = [one for one in messages if one.path not in other]
        about = [one for one in about if one.file not in other]
    left: list[Outgoing] = []
    in_doubt: list[Result] = []
    delivered = failed = 0
    for message, choice in zip(messages, choose(state, about, resend=resend_in_doubt), strict=True):
        delivered += choice.delivered
        failed += choice.failed
        in_doubt += [_still_in_doubt(message, recipient, time) for recipient, time in choice.in_doubt]
        if choice.send:
            left.append(replace(message, recipients=tuple(choice.send), keys=choice.send))
    return RemainingWork(left, delivered, failed, tuple(in_doubt), tuple(bad))


def _still_in_doubt(message: Outgoing, recipient: str, time: str) -> Result:
    text = f"sent at {time}, without a reply: not sent again without --resend-in-doubt"
    return untold(message, recipient, Fate.IN_DOUBT, "4.4.2", text)
