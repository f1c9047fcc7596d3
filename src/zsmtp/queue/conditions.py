"""Translates filters into SQL conditions, for the stores in databases.

A filter becomes a condition over the tables ``r`` (recipients) and ``m`` (messages), or ``h`` (history), with ``?`` for
each value (:func:`condition`, :func:`condition_of_ends`); a :class:`Dialect` has the expressions that differ between
databases. Tests compare conditions with :meth:`zsmtp.queue.filter.Filter.matches`::

    where = condition(wanted, SQLITE, now=now, shard=0)
    execute(f"SELECT count(*) FROM ... WHERE {where.sql}", where.values)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from zsmtp.queue.filter import Field, Filter, Operator, Term, ValueKind, number, text_matches
from zsmtp.queue.ids import EPOCH, LARGEST, LOW_BITS, from_text
from zsmtp.queue.operators import AGES, MOST_GROUPS, OLDEST, OTHERS
from zsmtp.queue.sql import ARRIVING
from zsmtp.queue.states import State, milliseconds

HELD = f"r.hold NOT IN (0, {ARRIVING})"
NOT_HELD = f"r.hold IN (0, {ARRIVING})"


class Dialect(NamedTuple):
    """The expressions that differ between databases; ``{}`` stands for an expression, ``?`` for a value."""

    equal: str
    """Equality of texts without regard to the case of ASCII letters; the value is in lower case."""
    like: str
    """A pattern with ``%`` and ``_``, likewise; a backslash escapes them."""
    contains: str
    """Whether a text has another one in it, likewise."""
    domain: str
    """The part of an address after its last ``@``, "" if there is none."""
    sites: str
    """The table of learned sites, with the columns ``key`` and ``site``."""


class Condition(NamedTuple):
    """A condition, the values in it, and whether it uses columns of the message."""

    sql: str
    values: tuple[object, ...]
    message: bool


_QUEUED: Mapping[Field, str] = {
    Field.FROM: "m.sender",
    Field.TO: "r.address",
    Field.KEY: "r.key",
    Field.TENANT: "r.tenant",
    Field.STATUS: "r.status",
    Field.REASON: "r.reason",
    Field.NAME: "m.name",
    Field.ORIGIN: "m.origin",
    Field.ATTEMPTS: "r.attempts",
    Field.PRIORITY: "(-r.rank)",
    Field.SIZE: "m.size",
    Field.RULE: f"CASE r.hold WHEN {ARRIVING} THEN 0 ELSE r.hold END",
}
_ENDS: Mapping[Field, str] = {
    Field.FROM: "h.sender",
    Field.TO: "h.address",
    Field.KEY: "h.key",
    Field.TENANT: "h.tenant",
    Field.STATUS: "h.status",
    Field.REASON: "h.reason",
    Field.END: "h.outcome",
    Field.ATTEMPTS: "h.attempt",
}
_OF_MESSAGES = {Field.FROM, Field.NAME, Field.ORIGIN, Field.SIZE}


class _Compiler:
    """Makes conditions from terms, and collects their values."""

    def __init__(
        self,
        table: str,
        known: Mapping[Field, str],
        dialect: Dialect,
        now: float,
        shard: int,
        in_hand: Callable[[], tuple[str, tuple[object, ...]]] | None,
    ) -> None:
        self.table = table
        self.known = known
        self.dialect = dialect
        self.now = milliseconds(now)
        self.shard = shard
        self.in_hand = in_hand
        self.values: list[object] = []

    def all(self, wanted: Filter) -> Condition:
        parts = [self.term(one) for one in wanted.terms]
        message = any(one.field in _OF_MESSAGES for one in wanted.terms) and self.table == "r"
        return Condition(" AND ".join(f"({part})" for part in parts) or "1 = 1", tuple(self.values), message)

    def term(self, one: Term) -> str:
        if one.operator in (Operator.EQUAL, Operator.UNEQUAL):
            either = " OR ".join(self.equality(one.field, value) for value in one.values)
            return either if one.operator is Operator.EQUAL else f"NOT ({either})"
        limit = int(number(one.field, one.values[0]))
        if one.field is Field.AGE:
            return self.age(one.operator, limit)
        self.values.append(limit + self.now if one.field is Field.DUE else limit)
        return f"{self.number_of(one.field)} {one.operator.value} ?"

    def number_of(self, field: Field) -> str:
        return "r.due" if field is Field.DUE else self.known[field]

    def equality(self, field: Field, value: str | float | State) -> str:
        if isinstance(value, State):
            return self.state(value)
        if isinstance(value, float):
            limit = int(number(field, value))
            if field is Field.AGE:
                return f"{self.age(Operator.AT_LEAST, limit)} AND {self.age(Operator.AT_MOST, limit)}"
            self.values.append(limit + self.now if field is Field.DUE else limit)
            return f"{self.number_of(field)} = ?"
        if field.kind is ValueKind.ID:
            message, shard = from_text(value)
            self.values.append(message if shard == self.shard else -1)
            return f"{self.table}.message = ?"
        if field.kind is ValueKind.SUBSTRING:
            self.values.append(value)
            return self.dialect.contains.format(self.known[field])
        if field is Field.DOMAIN:
            return self.domain(value)
        if field is Field.SITE:
            return self.site(value)
        if field not in self.known:  # of a recipient that is there: it has no end
            return "1 = 1" if text_matches(value, "") else "1 = 0"
        return self.text(self.known[field], value)

    def text(self, expression: str, value: str) -> str:
        if "*" not in value and "?" not in value:
            self.values.append(value)
            return self.dialect.equal.format(expression)
        for character, other in (("\\", "\\\\"), ("%", "\\%"), ("_", "\\_"), ("*", "%"), ("?", "_")):
            value = value.replace(character, other)
        self.values.append(value)
        return self.dialect.like.format(expression)

    def domain(self, value: str) -> str:
        if "@" in value:
            return "1 = 0"
        address = self.known[Field.TO]
        found = self.text(address, f"*@{value}")
        if "*" in value or "?" in value:  # which could stand for another @, too; hardly any address has two
            found += (
                f" AND (NOT {self.text(address, '*@*@*')} OR {self.text(self.dialect.domain.format(address), value)})"
            )
        if text_matches(value, ""):
            found = f"{found} OR NOT {self.text(address, '*@*')}"
        return found

    def site(self, value: str) -> str:
        key = self.known[Field.KEY]
        learned = self.text("site", value)
        own = self.text(key, value)
        return (
            f"{key} IN (SELECT key FROM {self.dialect.sites} WHERE {learned}) "
            f"OR ({own} AND {key} NOT IN (SELECT key FROM {self.dialect.sites}))"
        )

    def state(self, state: State) -> str:
        if state is State.HELD:
            return HELD
        if state is State.ENDED or self.in_hand is None:
            return "1 = 0"
        leased, values = self.in_hand()
        self.values += values
        return f"{NOT_HELD} AND {leased}" if state is State.LEASED else f"{NOT_HELD} AND NOT {leased}"

    def age(self, operator: Operator, limit: int) -> str:
        """The ids of an age: they grow with the time of submission."""
        start = self.now - EPOCH * 1000 - limit
        if operator in (Operator.MORE, Operator.AT_LEAST):
            self.values.append(_id(start if operator is Operator.MORE else start + 1))
            return f"{self.table}.message < ?"
        self.values.append(_id(start if operator is Operator.AT_MOST else start + 1))
        return f"{self.table}.message >= ?"


def _id(time: int) -> int:
    """The first id of a time in milliseconds since ids began."""
    return min(max(time, 0) << LOW_BITS, LARGEST)


def condition(
    wanted: Filter,
    dialect: Dialect,
    *,
    now: float,
    shard: int,
    in_hand: Callable[[], tuple[str, tuple[object, ...]]] | None = None,
) -> Condition:
    """The condition on a recipient ``r`` and its message ``m``.

    ``in_hand`` returns the condition that a node has ``r`` in hand, with its values; without it no recipient counts as
    in hand.
    """
    return _Compiler("r", _QUEUED, dialect, now, shard, in_hand).all(wanted)


def condition_of_ends(wanted: Filter, dialect: Dialect, *, now: float, shard: int) -> Condition:
    """The condition on an end in the history ``h``; raises QueueError for a field that ends do not have."""
    wanted.check_for_ends()
    return _Compiler("h", _ENDS, dialect, now, shard, None).all(wanted)


def grouping(
    by: str, now: float, in_hand: Callable[[], tuple[str, tuple[object, ...]]]
) -> tuple[str, tuple[object, ...]]:
    """The expression over ``r`` that groups recipients for counting, with its values; ``site`` is grouped by key.

    ``in_hand`` as for :func:`condition`.
    """
    if by == "state":
        leased, values = in_hand()
        return f"CASE WHEN {HELD} THEN 'held' WHEN {leased} THEN 'leased' ELSE 'due' END", values
    if by == "age":
        start = milliseconds(now) - EPOCH * 1000
        cases = " ".join(f"WHEN r.message >= ? THEN '{label}'" for label, _ in AGES)
        return f"CASE {cases} ELSE '{OLDEST}' END", tuple(_id(start - limit * 1000 + 1) for _, limit in AGES)
    return {"key": "r.key", "site": "r.key", "tenant": "r.tenant", "reason": "r.reason"}[by], ()


def largest(counted: Mapping[str, int], total: int) -> dict[str, int]:
    """The largest groups, and the rest of the total as one group."""
    found = dict(counted)
    if len(found) > MOST_GROUPS:
        found = dict(sorted(found.items(), key=lambda one: -one[1])[:MOST_GROUPS])
    rest = total - sum(found.values())
    return found | ({OTHERS: rest} if rest else {})


def messages_between(wanted: Filter, *, now: float, shard: int) -> tuple[int, int]:
    """The lowest and the highest id of messages that a filter can match: by id, or by age."""
    first, last = 0, LARGEST
    for one in wanted.terms:
        low, high = _between(one, milliseconds(now) - EPOCH * 1000, shard)
        first, last = max(first, low), min(last, high)
    return first, last


def _between(one: Term, now: int, shard: int) -> tuple[int, int]:
    if one.field is Field.ID and one.operator is Operator.EQUAL:
        found = [from_text(str(value)) for value in one.values]
        ids = [message for message, where in found if where == shard] or [-1]
        return min(ids), max(ids)
    if one.field is Field.AGE and one.operator is not Operator.UNEQUAL:
        ages = [int(number(one.field, value)) for value in one.values]
        youngest = _id(now - min(ages) + 1) - 1  # the last id of that millisecond
        oldest = _id(now - max(ages))
        match one.operator:
            case Operator.EQUAL:
                return oldest, youngest
            case Operator.LESS | Operator.AT_MOST:
                return oldest, LARGEST
            case _:
                return 0, youngest
    return 0, LARGEST


def tables(where: Condition, recipients: str, messages: str) -> str:
    """The tables that a condition needs."""
    return f"{recipients} r JOIN {messages} m ON m.id = r.message" if where.message else f"{recipients} r"
