"""The command line filters of ``zsmtp queue``, and its times.

Every field of the filter language (``zsmtp.queue.filter``) is an option, ``--age '>2h'``; terms, ids, addresses and
domains may also be given as words, and a word may be a whole expression, ``'domain=example.com age>2h'``. A recipient
must match all of them. :func:`add_options` adds them to a parser, :func:`filter_of` reads them.
"""

from __future__ import annotations

import argparse
import calendar
import re
import time
from collections.abc import Collection

from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import QueueError
from zsmtp.escape import escape
from zsmtp.queue.filter import FIELDS, Field, Filter, Operator, Term, ValueKind, duration, term
from zsmtp.queue.ids import from_text

_HELP = {
    Field.ID: ("ID", "the message of this id"),
    Field.FROM: ("ADDRESS", "the sender; <> for none"),
    Field.TO: ("ADDRESS", "the recipient"),
    Field.DOMAIN: ("DOMAIN", "the domain of the recipient"),
    Field.KEY: ("KEY", "the queue key: a domain, or relay:NAME"),
    Field.SITE: ("SITE", "the site that the queue key belongs to"),
    Field.TENANT: ("TENANT", "whose mail it is"),
    Field.STATE: ("STATE", "due, leased (in hand) or held"),
    Field.END: ("END", "delivered, failed, expired or dropped"),
    Field.AGE: ("DURATION", "the time since it was accepted: '>2h'"),
    Field.DUE: ("DURATION", "the time until it is tried: '<10m'"),
    Field.ATTEMPTS: ("NUMBER", "the attempts made: '>=3'"),
    Field.STATUS: ("STATUS", "the enhanced status of the last attempt: '4.7.*'"),
    Field.REASON: ("TEXT", "a text anywhere in the reason"),
    Field.PRIORITY: ("NUMBER", "the priority: '>0'"),
    Field.SIZE: ("OCTETS", "the size of the message: '>1000000'"),
    Field.RULE: ("NUMBER", "the rule that holds it"),
    Field.NAME: ("TEXT", "the Message-ID"),
    Field.ORIGIN: ("TEXT", "how it came in"),
}
FIELDS_OF_RECIPIENTS = frozenset(Field) - {Field.END}
"""Fields of a recipient in the queue."""
FIELDS_OF_RULES = FIELDS_OF_RECIPIENTS - {Field.STATE, Field.RULE, Field.DUE, Field.SITE}
"""Fields of a standing rule: it is applied to recipients that are due and not held, by their queue keys."""

_FIELD = "|".join(FIELDS)
_TERM = re.compile(r"([a-z]+)(?:!=|<=|>=|=|<|>)")
_EXPRESSION = re.compile(  # a second term, or a quoted value that the shell left
    rf"(?:{_FIELD})(?:!=|[<>]=?|=)(?:[\"']|.* (?:{_FIELD})(?:!=|[<>=]))", re.DOTALL
)


def add_options(parser: argparse.ArgumentParser, fields: Collection[Field] = FIELDS_OF_RECIPIENTS) -> None:
    """Add filter options for these fields to a parser."""
    parser.add_argument(
        "words",
        metavar="FILTER",
        nargs="*",
        help="an id, an address, a domain, or terms of the filter language: 'age>2h'",
    )
    group = parser.add_argument_group(
        "which recipients",
        "All of them must match; * and ? match characters, a comma separates alternatives.",
    )
    for field in Field:
        if field in fields:
            metavar, text = _HELP[field]
            group.add_argument(
                f"--{field.word}", metavar=metavar, action="append", default=[], dest=f"by_{field.word}", help=text
            )


def filter_of(options: argparse.Namespace, fields: Collection[Field] = FIELDS_OF_RECIPIENTS) -> Filter:
    """The filter of the options. Raises CommandFailed for an invalid one, or one with another field."""
    terms: list[Term] = []
    try:
        for field in Field:
            terms += [term(field, _compared(field, text)) for text in getattr(options, f"by_{field.word}", ())]
        for word in options.words:
            terms += _terms(word)
        wanted = Filter.parse(" ".join(map(str, terms)))  # checks their number, too
        for one in wanted.terms:
            if one.field not in fields:
                raise QueueError(f"filter {str(one)[:80]!r}: {one.field.word} cannot be asked here")
    except QueueError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error
    return wanted


def numbers_of(options: argparse.Namespace) -> frozenset[int] | None:
    """The shards of the messages that a command line names, None if it names none. Raises CommandFailed."""
    if (message := getattr(options, "message", None)) is not None:
        return frozenset((message_of(message)[1],))
    if not hasattr(options, "words"):
        return None
    found: frozenset[int] | None = None
    for one in filter_of(options, frozenset(Field)).terms:
        if one.field is Field.ID and one.operator is Operator.EQUAL:
            here = frozenset(from_text(str(value))[1] for value in one.values)
            found = here if found is None else found & here
    return found


def message_of(text: str) -> tuple[int, int]:
    """The message and shard of an id. Raises CommandFailed for an invalid id."""
    try:
        return from_text(text)
    except QueueError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error


def _compared(field: Field, text: str) -> str:
    """The value of an option with its operator: ``<>`` and ``<1@example.net>`` have none."""
    ordered = field.kind in (ValueKind.NUMBER, ValueKind.DURATION)
    return text if ordered or text.startswith(("=", "!=")) else f"={text}"


def _terms(word: str) -> tuple[Term, ...]:
    """The terms in a word of the command line."""
    if _EXPRESSION.match(word):
        return Filter.parse(word).terms
    match = _TERM.match(word)
    if match is not None and (match[1] in FIELDS or "@" not in word):
        return Filter.of([word]).terms
    if "@" in word:
        return (term(Field.TO, f"={_literal(word)}"),)
    if _is_id(word):
        return (term(Field.ID, f"={word}"),)
    if "." in word or word.startswith("["):
        return (term(Field.DOMAIN, f"={word}"),)
    raise QueueError(f"{word[:80]!r} is no id, address, domain or term such as age>2h")


def _literal(address: str) -> str:
    return re.sub(r"(?<!\\),", "\\\\,", address)


def _is_id(word: str) -> bool:
    try:
        from_text(word)
    except QueueError:
        return False
    return True


def moment(text: str, now: float) -> float:
    """A time in seconds since 1970 from a command line: ``+2h``, ``14:30``, ``2026-11-30`` or ``2026-11-30T14:30``.

    Times of day are local, and mean the next such time; raises argparse.ArgumentTypeError.
    """
    try:
        if text.startswith("+"):
            return now + duration(text[1:])
        if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", text):
            return _time_of_day(text, now)
        return _date(text)
    except (QueueError, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"not a time: {escape(text[:80])} (wanted: +2h, 14:30, 2026-11-30 or '2026-11-30 14:30')"
        ) from None


def _time_of_day(text: str, now: float) -> float:
    clock = time.strptime(text, "%H:%M:%S" if text.count(":") == 2 else "%H:%M")
    today = time.localtime(now)
    for day in (0, 1):
        at = time.mktime((*today[:2], today.tm_mday + day, *clock[3:6], 0, 0, -1))
        if at > now:
            return at
    raise ValueError(text)


def _date(text: str) -> float:
    plain = text.removesuffix("Z")
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
        try:
            parsed = time.strptime(plain, form)
        except ValueError:
            continue
        return float(calendar.timegm(parsed)) if plain != text else time.mktime(parsed)
    raise ValueError(text)


def lasting(text: str) -> float:
    """A duration from a command line, more than zero; raises argparse.ArgumentTypeError."""
    try:
        seconds = duration(text)
    except QueueError as error:
        raise argparse.ArgumentTypeError(escape(str(error))) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"not a duration that passes: {escape(text[:80])}")
    return seconds
