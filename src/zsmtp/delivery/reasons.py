"""Formats the reasons of a verdict for people: as sentences, as one line, or with the end of the dialogue.

A :class:`~zsmtp.delivery.outcome.Verdict` holds the end of the dialogue in the form of ZMailer's reports
(``zsmtp.proto.transcript``). This module converts it for all other readers::

    reasons_of(verdict)     # ("mx1.example.org [192.0.2.1]:25: 554 5.7.1 listed", "connect to ...: Connection refused")
    reason_of(verdict)      # the same in one line, joined by "; "
    account_of(verdict)     # "C: RCPT TO:<a@example.org>\\nS: 550 5.1.1 no such user"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsmtp.proto.transcript import is_dialogue, shown_line

if TYPE_CHECKING:
    from zsmtp.delivery.outcome import Verdict

MAX_NAMED = 3  # hosts with the same words that are named; the others are counted


def reasons_of(verdict: Verdict) -> tuple[str, ...]:
    """The reasons of a verdict: the reply that decided, and the remarks of this side."""
    if verdict.reasons:
        return verdict.reasons
    own = tuple(line for line in verdict.text.split("\r") if line and not is_dialogue(line))
    if verdict.reply is None:
        return own
    reply = str(verdict.reply)
    return (reply, *(line for line in own if line != reply))


def reason_of(verdict: Verdict) -> str:
    """The reasons of a verdict in one line."""
    return "; ".join(reasons_of(verdict))


def account_of(verdict: Verdict) -> str:
    """The end of the dialogue, ``C:`` before commands and ``S:`` before replies, and the reasons.

    Lines are separated by LF. A reply in the dialogue is not repeated.
    """
    lines = [line for line in verdict.text.split("\r") if line]
    if verdict.reasons:
        lines = [line for line in lines if is_dialogue(line)] + list(verdict.reasons)
    return "\n".join(shown for line in lines if (shown := shown_line(line)))


def gathered(reasons: list[tuple[str, str]]) -> tuple[str, ...]:
    """Pairs of host and text, in order, as sentences; hosts with the same text share one sentence.

    ``[("a [192.0.2.1]:25", "421 busy"), ("b [192.0.2.2]:25", "421 busy")]`` is
    ``("a [192.0.2.1]:25, b [192.0.2.2]:25: 421 busy",)``.
    """
    by_words: dict[str, list[str]] = {}
    for host, words in reasons:
        by_words.setdefault(words, []).append(host)
    return tuple(f"{_named(names)}: {words}" if any(names) else words for words, names in by_words.items())


def _named(names: list[str]) -> str:
    known = list(dict.fromkeys(filter(None, names)))
    more = f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
    return ", ".join(known[:MAX_NAMED]) + more
