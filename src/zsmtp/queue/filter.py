"""The filter language, which selects the recipients for a command, a rule or a query.

A filter is a list of terms, all of which must hold::

    domain=example.com age>2h status=4.7.*
    from=*@shop.example to=bob@example.net,ann@example.net reason="mailbox full"

A term is a field, an operator and a value. ``=`` and ``!=`` compare text without regard to the case of ASCII letters,
``*`` and ``?`` stand for any characters and any one; a comma separates alternatives; quotes keep blanks and commas
together. ``<``, ``<=``, ``>``, ``>=`` compare numbers and durations (``90``, ``10m``, ``2h30m``, ``3d``). ``reason``
finds a text anywhere in the reason, ``site`` compares the site of the queue key. A filter without terms matches
everything; commands that change recipients require ``--all`` then.

:class:`Filter` is a value. :meth:`Filter.matches` decides for a recipient without an end, :meth:`Filter.matches_end`
for an ended one; stores translate the terms into their own queries (``zsmtp.queue.conditions``), and a test verifies
that both give the same results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from zsmtp.durations import duration_text, read_duration
from zsmtp.errors import ConfigError, QueueError
from zsmtp.idn import to_ascii
from zsmtp.proto.address import domain_of
from zsmtp.queue.ids import EPOCH, LOW_BITS, from_text, to_text
from zsmtp.queue.states import HistoryEntry, QueuedMessage, QueuedRecipient, State, milliseconds

MAX_TERMS = 50
MAX_VALUES = 1000  # alternatives of one term
MAX_TEXT = 1000  # characters of one value


class ValueKind(Enum):
    """How the values of a field are written and compared."""

    TEXT = "text"
    SUBSTRING = "a part of the text"
    ID = "message id"
    NUMBER = "number"
    DURATION = "duration"
    STATE = "state"


class Field(Enum):
    """The fields of a recipient: the name in the language, and how values are compared."""

    ID = ("id", ValueKind.ID)
    FROM = ("from", ValueKind.TEXT)
    TO = ("to", ValueKind.TEXT)
    DOMAIN = ("domain", ValueKind.TEXT)
    KEY = ("key", ValueKind.TEXT)
    SITE = ("site", ValueKind.TEXT)
    TENANT = ("tenant", ValueKind.TEXT)
    STATE = ("state", ValueKind.STATE)
    END = ("end", ValueKind.TEXT)
    AGE = ("age", ValueKind.DURATION)
    DUE = ("due", ValueKind.DURATION)
    ATTEMPTS = ("attempts", ValueKind.NUMBER)
    STATUS = ("status", ValueKind.TEXT)
    REASON = ("reason", ValueKind.SUBSTRING)
    PRIORITY = ("priority", ValueKind.NUMBER)
    SIZE = ("size", ValueKind.NUMBER)
    RULE = ("rule", ValueKind.NUMBER)
    NAME = ("name", ValueKind.TEXT)
    ORIGIN = ("origin", ValueKind.TEXT)

    def __init__(self, word: str, kind: ValueKind) -> None:
        self.word = word
        self.kind = kind


FIELDS = {field.word: field for field in Field}
"""The fields by their names, which are the options of every command."""

_NOT_OF_ENDS = ["state", "due", "priority", "size", "rule", "name", "origin"]
FIELDS_OF_ENDS = frozenset(field for field in Field if field.word not in _NOT_OF_ENDS)
"""The fields that are still known for an ended recipient."""


class Operator(Enum):
    """How a value is compared."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


_ORDERED = (ValueKind.NUMBER, ValueKind.DURATION)
_TERM = re.compile(r"([a-z]+)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_OPERATORS = {operator.value: operator for operator in Operator}
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")  # exact in a float


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. ``values`` are texts in lower case, numbers (seconds for durations), ids or states."""

    field: Field
    operator: Operator
    values: tuple[str | float | State, ...]

    def __str__(self) -> str:
        shown = ",".join(_shown(self.field, value) for value in self.values)
        return f"{self.field.word}{self.operator.value}{shown}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Terms that must all hold; none at all matches everything."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read a filter; raises :class:`~zsmtp.errors.QueueError` that names the term and what is wrong with it."""
        return cls._of(_words(text))

    @classmethod
    def of(cls, words: Iterable[str]) -> Filter:
        """Read a filter from terms, one a word, as a shell passes them; ``\\,`` is a comma. Raises QueueError."""
        return cls._of([_checked(word).replace("\\,", _COMMA) for word in words])

    @classmethod
    def _of(cls, words: list[str]) -> Filter:
        terms = tuple(_term(word) for word in words)
        if len(terms) > MAX_TERMS:
            raise QueueError(f"filter: {len(terms)} terms; {MAX_TERMS} are the limit")
        return cls(terms)

    @property
    def everything(self) -> bool:
        """Whether it matches all recipients."""
        return not self.terms

    def matches(
        self,
        recipient: QueuedRecipient,
        message: QueuedMessage,
        state: State,
        now: float,
        *,
        site: str = "",
        shard: int = 0,
    ) -> bool:
        """Whether the filter matches a recipient.

        ``now`` is in seconds since 1970, ``site`` the site of the recipient's key ("": the key is its own site),
        ``shard`` that of the store.
        """
        return all(
            _holds(one, _found(one.field, recipient, message, state, now, site or recipient.key), shard)
            for one in self.terms
        )

    def matches_end(self, entry: HistoryEntry, now: float, *, site: str = "", shard: int = 0) -> bool:
        """Whether the filter matches an end; raises :class:`~zsmtp.errors.QueueError` as :meth:`check_for_ends`."""
        self.check_for_ends()
        return all(_holds(one, _found_of_end(one.field, entry, now, site or entry.key), shard) for one in self.terms)

    def check_for_ends(self) -> None:
        """Raise QueueError if a term has a field that is not known any more for an ended recipient."""
        for one in self.terms:
            if one.field not in FIELDS_OF_ENDS:
                raise QueueError(f"filter {str(one)[:80]!r}: {one.field.word} is not kept with an end")

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))


def term(field: Field, text: str) -> Term:
    """The term of ``--FIELD TEXT``: ``TEXT`` may begin with an operator. Raises QueueError."""
    text = _checked(text).replace("\\,", _COMMA)
    for sign in ("<=", ">=", "!=", "<", ">", "="):
        if text.startswith(sign):
            return _term(f"{field.word}{text}")
    return _term(f"{field.word}={text}")


def duration(text: str) -> float:
    """Seconds of ``90``, ``10m``, ``2h30m``, ``-5m``; raises QueueError."""
    try:
        return read_duration(text)
    except ConfigError as error:
        raise QueueError(str(error)) from None


def domain_key(address: bytes) -> str:
    """The domain of a forward-path as ``domain=`` compares it."""
    return fold(domain_of(address).decode("utf-8", "replace"))


_COMMA, _BLANK = "\0", "\1"  # stand for a literal comma and a literal blank; both are refused in input
_PLAIN = re.compile(r"[^ ,\"'\\]*")
_REFUSED = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_PIECE = re.compile(
    r"""(?P<blank> +)|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>[^']*)'|\\(?P<one>.)|(?P<bare>[^ "'\\]+)"""
)


def _checked(text: str) -> str:
    if _REFUSED.search(text):
        raise QueueError(f"filter {text[:80]!r}: control characters cannot be asked for")
    return text


def _words(text: str) -> list[str]:
    """The words of a text, by the quoting rules of a shell."""
    words: list[str] = []
    pieces: list[str] | None = None
    at = 0
    _checked(text)
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise QueueError(f"filter {text[:80]!r}: a quote that does not end, or a backslash with nothing behind it")
        at = match.end()
        if match["blank"]:
            words.extend(["".join(pieces)] if pieces is not None else [])
            pieces = None
            continue
        pieces = pieces or []
        if match["bare"]:
            pieces.append(match["bare"])
            continue
        quoted = re.sub(r"\\(.)", r"\1", match["double"]) if match["double"] else match["single"] or match["one"] or ""
        pieces.append(quoted.replace(",", _COMMA).replace(" ", _BLANK))
    return words + (["".join(pieces)] if pieces is not None else [])


def _term(word: str) -> Term:
    shown = _unprotected(word)[:80]
    match = _TERM.fullmatch(word)
    if match is None:
        raise QueueError(f"filter {shown!r}: a term is expected, such as domain=example.com or age>2h")
    name, sign, text = match.groups()
    field = FIELDS.get(name)
    if field is None:
        raise QueueError(f"filter {shown!r}: {name!r} is no field; known: {', '.join(FIELDS)}")
    operator = _OPERATORS[sign]
    if operator not in (Operator.EQUAL, Operator.UNEQUAL) and field.kind not in _ORDERED:
        raise QueueError(f"filter {shown!r}: {field.word} is compared by = and !=")
    texts = _alternatives(text)
    if len(texts) > MAX_VALUES:
        raise QueueError(f"filter {shown!r}: {len(texts)} alternatives; {MAX_VALUES} are the limit")
    if any(len(one) > MAX_TEXT for one in texts):
        raise QueueError(f"filter {shown!r}: a value is longer than {MAX_TEXT} characters")
    if len(texts) > 1 and operator not in (Operator.EQUAL, Operator.UNEQUAL):
        raise QueueError(f"filter {shown!r}: one value is expected behind {sign}")
    try:
        return Term(field, operator, tuple(_value(field, one) for one in texts))
    except QueueError as error:
        raise QueueError(f"filter {shown!r}: {error}") from None


def _alternatives(text: str) -> list[str]:
    if "," not in text:
        return [_unprotected(text)]
    parts = [_unprotected(part.strip()) for part in text.split(",")]
    return [part for part in parts if part] or [""]


def _unprotected(text: str) -> str:
    return text.replace(_COMMA, ",").replace(_BLANK, " ")


def _value(field: Field, text: str) -> str | float | State:
    kind = field.kind
    if kind is ValueKind.ID:
        message, shard = from_text(text)
        return to_text(message, shard)
    if kind is ValueKind.DURATION:
        return duration(text)
    if kind is ValueKind.NUMBER:
        if not _WHOLE.fullmatch(text):
            raise QueueError(f"{text[:40]!r} is no whole number of at most 15 digits")
        return float(text)
    if kind is ValueKind.STATE:
        known = {state.value: state for state in State if state is not State.ENDED}
        if text.lower() not in known:
            raise QueueError(f"{text[:40]!r} is no state; known: {', '.join(known)}")
        return known[text.lower()]
    if field is Field.FROM and text == "<>":
        return ""
    return fold(text)


def _shown(field: Field, value: str | float | State) -> str:
    if isinstance(value, State):
        return value.value
    if isinstance(value, float):
        return duration_text(value) if field.kind is ValueKind.DURATION else f"{value:.0f}"
    if _PLAIN.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_CASE = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def fold(text: str) -> str:
    """``text`` with its ASCII letters in lower case, as all databases can do it."""
    return text.lower() if text.isascii() else text.translate(_CASE)


def age(message: int, now: float) -> int:
    """Milliseconds since a message was submitted."""
    return milliseconds(now) - EPOCH * 1000 - (message >> LOW_BITS)


_Value = str | int | State | None


def _holds(one: Term, found: _Value, shard: int) -> bool:
    if one.operator is Operator.EQUAL:
        return any(_equal(one.field, found, value, shard) for value in one.values)
    if one.operator is Operator.UNEQUAL:
        return not any(_equal(one.field, found, value, shard) for value in one.values)
    assert isinstance(found, int)
    limit = number(one.field, one.values[0])
    if one.operator is Operator.LESS:
        return found < limit
    if one.operator is Operator.AT_MOST:
        return found <= limit
    return found > limit if one.operator is Operator.MORE else found >= limit


def number(field: Field, value: str | float | State) -> float:
    """A number as it is compared: durations in milliseconds."""
    assert isinstance(value, float)
    return round(value * 1000) if field.kind is ValueKind.DURATION else value


def _found(
    field: Field, recipient: QueuedRecipient, message: QueuedMessage, state: State, now: float, site: str
) -> _Value:
    match field:
        case Field.ID:
            return recipient.message
        case Field.FROM:
            return message.sender.decode("utf-8", "replace")
        case Field.TO:
            return recipient.address.decode("utf-8", "replace")
        case Field.DOMAIN:
            return domain_key(recipient.address)
        case Field.KEY:
            return recipient.key
        case Field.SITE:
            return site
        case Field.TENANT:
            return recipient.tenant
        case Field.STATE:
            return state
        case Field.END:
            return ""
        case Field.AGE:
            return age(recipient.message, now)
        case Field.DUE:
            return milliseconds(recipient.due) - milliseconds(now)
        case Field.ATTEMPTS:
            return recipient.attempts
        case Field.STATUS:
            return recipient.status
        case Field.REASON:
            return recipient.reason
        case Field.PRIORITY:
            return -recipient.rank
        case Field.SIZE:
            return message.size
        case Field.RULE:
            return recipient.hold
        case Field.NAME:
            return message.name
        case Field.ORIGIN:
            return message.origin


def _found_of_end(field: Field, entry: HistoryEntry, now: float, site: str) -> _Value:
    match field:
        case Field.ID:
            return entry.message
        case Field.FROM:
            return entry.sender.decode("utf-8", "replace")
        case Field.TO:
            return entry.address.decode("utf-8", "replace")
        case Field.DOMAIN:
            return domain_key(entry.address)
        case Field.KEY:
            return entry.key
        case Field.SITE:
            return site
        case Field.TENANT:
            return entry.tenant
        case Field.END:
            return entry.outcome.value
        case Field.AGE:
            return age(entry.message, now)
        case Field.ATTEMPTS:
            return entry.attempt
        case Field.STATUS:
            return entry.status
        case Field.REASON:
            return entry.reason
    raise AssertionError(field)  # check_for_ends refused it


def _equal(field: Field, found: _Value, value: str | float | State, shard: int) -> bool:
    if field.kind is ValueKind.ID:
        assert isinstance(value, str)
        return (found, shard) == from_text(value)
    if isinstance(found, str) and isinstance(value, str):
        if field.kind is ValueKind.SUBSTRING:
            return value in fold(found)
        return text_matches(value, found)
    if isinstance(value, float):
        return found == number(field, value)
    return found is value


def key_matches(pattern: str, key: str) -> bool:
    """Whether a pattern of a configuration matches a queue key or a site; its labels may be Unicode."""
    if not pattern.isascii():
        pattern = ".".join(to_ascii(label) or label for label in pattern.split("."))
    return name_matches(pattern, key)


def name_matches(pattern: str, name: str) -> bool:
    """Whether a pattern of a configuration matches a name, without regard to case."""
    return text_matches(fold(pattern), name)


def text_matches(pattern: str, text: str) -> bool:
    """Whether a pattern with ``*`` and ``?``, in lower case, matches a text."""
    return glob(pattern).fullmatch(fold(text)) is not None


@lru_cache(512)
def glob(pattern: str) -> re.Pattern[str]:
    """A pattern of ``*`` and ``?`` as an expression that backtracks to the last star only.

    So its time is bounded by both lengths.
    """
    first, *others = [
        "".join("." if c == "?" else re.escape(c) for c in part) for part in re.sub(r"\*+", "*", pattern).split("*")
    ]
    if not others:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in others[:-1])
    return re.compile(f"{first}{middle}.*{others[-1]}", re.DOTALL)
