"""The filter language: what a text means, which recipients that matches, and that SQL says the same."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.errors import QueueError
from zsmtp.queue.conditions import (
    condition,
    condition_of_ends,
    messages_between,
)
from zsmtp.queue.filter import (
    FIELDS_OF_ENDS,
    MAX_TERMS,
    MAX_TEXT,
    MAX_VALUES,
    Field,
    Filter,
    Operator,
    Term,
    ValueKind,
    duration,
    fold,
    term,
)
from zsmtp.queue.ids import first_id, to_text
from zsmtp.queue.sql import (
    HISTORY,
    MESSAGE,
    RECIPIENT,
    entry_values,
)
from zsmtp.queue.sqlite.listing import SQLITE
from zsmtp.queue.states import HistoryEntry, Outcome, QueuedMessage, QueuedRecipient, State, milliseconds

NOW = 1_764_331_200.0
ID = first_id(NOW - 7200) + 5
MESSAGE_OF = QueuedMessage(
    id=ID, sender=b"Ann@Shop.example", submitted=NOW - 7200, size=2000, recipients=1, name="<1@x>", origin="library"
)
RECIPIENT_OF = QueuedRecipient(
    message=ID,
    number=0,
    address=b"Bob@Example.NET",
    key="example.net",
    tenant="Shop",
    rank=-3,
    due=NOW + 600,
    expires=NOW + 9000,
    attempts=2,
    status="4.7.1",
    reason="451 Mailbox full, try later",
    hold=0,
)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("from=ann@shop.example", True),
        ("from=<>", False),
        ("to=bob@example.net,x", True),
        ("to=b?b@*", True),
        ("to=bob", False),
        ("to!=bob@*", False),
        ("domain=EXAMPLE.net", True),
        ("domain=*.net domain!=*.org", True),
        ("domain=net", False),
        ("key=example.net site=provider", True),
        ("site=example.net", False),
        ("tenant=shop", True),
        ("state=due,held", True),
        ("state!=due", False),
        ("end=''", True),
        ("end=failed", False),
        ("age>2h", False),
        ("age>=2h age<=120m age=7200", True),
        ("age<1h", False),
        ("due<10m", False),
        ("due<=10m due>9m59s", True),
        ("due>-5m", True),
        ("attempts=2 attempts>1 attempts!=3", True),
        ("status=4.7.*", True),
        ('reason="mailbox full"', True),
        ('reason="full, try"', True),
        ("reason=full\\,\\ try", True),
        ("reason=full\\,\\ \\ try", False),
        ("reason='full, try'", True),
        ("reason=nothing,later", True),
        ("priority=3 priority>=-1", True),
        ("size>1999 size<=2000", True),
        ("rule=0", True),
        ("name=<*@x> origin=lib*", True),
        (f"id={to_text(ID, 3)}", True),
        (f"id={to_text(ID, 3).upper()}", True),
        (f"id={to_text(ID, 4)}", False),
        (f"id={to_text(ID + 1, 3)},{to_text(ID, 3)}", True),
    ],
)
def test_what_a_filter_matches(text: str, matches: bool) -> None:
    wanted = Filter.parse(text)
    assert wanted.matches(RECIPIENT_OF, MESSAGE_OF, State.DUE, NOW, site="provider", shard=3) is matches
    assert wanted.everything is (not text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour=red", "'colour' is no field"),
        ("example.com", "a term is expected"),
        ("to>b", "to is compared by = and !="),
        ("age>1h,2h", "one value is expected"),
        ("age>soon", "'soon' is no duration"),
        ("age>9999999999999d", "longer than any duration"),
        ("attempts=x", "no whole number"),
        ("attempts=1234567890123456", "no whole number"),
        ("state=ended", "no state; known: due, leased, held"),
        ("id=12", "no message id"),
        ('to="bob', "a quote that does not end"),
        ("to=bob\\", "a backslash with nothing behind it"),
        ("to=a\0b", "control characters"),
        ("to=\ud800", "control characters"),
        ("to=" + "x" * (MAX_TEXT + 1), "longer than"),
        ("to=" + "x," * MAX_VALUES + "x", "alternatives"),
        ("to=x " * (MAX_TERMS + 1), "terms"),
    ],
)
def test_what_a_filter_is_refused_for(text: str, says: str) -> None:
    with pytest.raises(QueueError, match="filter") as refused:
        Filter.parse(text)
    assert says in str(refused.value)


def test_a_term_of_an_option_may_begin_with_an_operator() -> None:
    assert str(term(Field.AGE, ">=2h")) == "age>=2h"
    assert str(term(Field.TO, "bob@*,ann@*")) == "to=bob@*,ann@*"
    assert str(term(Field.REASON, "!=full\\, later")) == 'reason!="full, later"'
    assert Filter.of(["domain=a.example,b.example", 'reason=it\\, "so"']) == Filter(
        (
            Term(Field.DOMAIN, Operator.EQUAL, ("a.example", "b.example")),
            Term(Field.REASON, Operator.EQUAL, ('it, "so"',)),
        )
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("10m", 600), ("2h30m", 9000), ("-5m", -300), ("3d", 259200), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_case_is_that_of_ascii_letters() -> None:
    assert fold("AÄ\u0130\u212a") == "aÄ\u0130\u212a"  # the last two would become ASCII letters otherwise
    assert not Filter.parse("tenant=k").matches(
        QueuedRecipient(message=1, number=0, address=b"", key="", tenant="\u212a", due=0, expires=0),
        MESSAGE_OF,
        State.DUE,
        0,
    )


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    wanted = Filter.parse("to=" + "a*" * 100 + "b")
    many = QueuedRecipient(message=1, number=0, address=b"a" * 5000, key="", due=0, expires=0)
    start = time.process_time()
    assert not wanted.matches(many, MESSAGE_OF, State.DUE, 0)
    assert time.process_time() - start < 5  # exponential otherwise


# ----------------------------------------------------------------- properties

ALPHABET = "aAbB@.%_*?\\'\" é,\u0130\u212a-"
texts = st.text(ALPHABET, max_size=8)
numbers = st.integers(-3, 3)


def values_of(field: Field) -> st.SearchStrategy[Any]:
    """Values of a term as parsing gives them."""
    if field.kind is ValueKind.ID:
        return st.builds(to_text, st.integers(ID - 1, ID + 1), st.integers(0, 1))
    if field.kind is ValueKind.NUMBER:
        return numbers.map(float)
    if field.kind is ValueKind.DURATION:
        return st.integers(-3, 3).map(lambda n: n / 1000) | numbers.map(lambda n: 7200.0 + n / 1000)
    if field.kind is ValueKind.STATE:
        return st.sampled_from([State.DUE, State.LEASED, State.HELD])
    return texts.map(fold)


@st.composite
def terms(draw: st.DrawFn, fields: list[Field]) -> Term:
    field = draw(st.sampled_from(fields))
    ordered = field.kind in (ValueKind.NUMBER, ValueKind.DURATION)
    operator = draw(st.sampled_from(list(Operator) if ordered else [Operator.EQUAL, Operator.UNEQUAL]))
    most = 3 if operator in (Operator.EQUAL, Operator.UNEQUAL) else 1
    return Term(field, operator, tuple(draw(st.lists(values_of(field), min_size=1, max_size=most))))


recipients = st.builds(
    QueuedRecipient,
    message=st.integers(ID - 1, ID + 1),
    number=st.integers(0, 2),
    address=texts.map(str.encode),
    key=texts,
    tenant=texts,
    rank=numbers,
    due=numbers.map(lambda n: NOW + n / 1000) | numbers.map(lambda n: NOW + 7200 + n / 1000),
    expires=st.just(NOW),
    attempts=numbers.map(abs),
    hold=numbers.map(abs),
    status=texts,
    reason=texts,
)
messages = st.builds(
    QueuedMessage,
    id=st.just(0),
    sender=texts.map(str.encode),
    submitted=st.just(NOW),
    size=numbers.map(abs),
    recipients=st.just(1),
    name=texts,
    origin=texts,
)


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE zsmtp_recipient ({', '.join(RECIPIENT)})")
        connection.execute(f"CREATE TABLE zsmtp_message ({', '.join(MESSAGE)})")
        connection.execute(f"CREATE TABLE zsmtp_history ({', '.join(HISTORY)})")
        connection.execute("CREATE TABLE zsmtp_site (key, site)")
        yield connection


def fill(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], values: dict[str, object]) -> None:
    given = {name: values.get(name, "") for name in columns}
    connection.execute(f"DELETE FROM {table}")
    connection.execute(
        f"INSERT INTO {table} ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})", list(given.values())
    )


@given(
    st.lists(terms(list(Field)), max_size=3),
    recipients,
    messages,
    texts,
    st.booleans(),
    st.sampled_from([NOW, NOW + 0.001, NOW + 7200]),
    st.integers(0, 1),
)
@example([Term(Field.DOMAIN, Operator.EQUAL, ("*",))], RECIPIENT_OF, MESSAGE_OF, "", False, NOW, 0)
def test_sql_says_what_the_filter_says(
    database: sqlite3.Connection,
    wanted: list[Term],
    recipient: QueuedRecipient,
    message: QueuedMessage,
    site: str,
    in_hand: bool,
    now: float,
    shard: int,
) -> None:
    state = State.HELD if recipient.hold else State.LEASED if in_hand else State.DUE
    question = Filter(tuple(wanted))
    expected = question.matches(recipient, message, state, now, site=site, shard=shard)
    values: dict[str, object] = {
        name: value.decode() if isinstance(value := getattr(recipient, name), bytes) else value for name in RECIPIENT
    }
    fill(database, "zsmtp_recipient", RECIPIENT, values | {"due": milliseconds(recipient.due)})
    fill(
        database,
        "zsmtp_message",
        MESSAGE,
        {
            "id": recipient.message,
            "sender": message.sender.decode(),
            "size": message.size,
            "name": message.name,
            "origin": message.origin,
        },
    )
    database.execute("DELETE FROM zsmtp_site")
    if site:
        database.execute("INSERT INTO zsmtp_site VALUES (?, ?)", (recipient.key, site))
    where = condition(question, SQLITE, now=now, shard=shard, in_hand=lambda: ("? = 1", (int(in_hand),)))
    tables = "zsmtp_recipient r" + (" JOIN zsmtp_message m ON m.id = r.message" if where.message else "")
    (found,) = database.execute(f"SELECT count(*) FROM {tables} WHERE {where.sql}", where.values).fetchone()
    assert found == expected, where
    first, last = messages_between(question, now=now, shard=shard)
    assert first <= recipient.message <= last or not expected


@given(
    st.lists(terms(sorted(FIELDS_OF_ENDS, key=lambda field: field.word)), max_size=3),
    recipients,
    messages,
    texts,
    st.sampled_from(list(Outcome)),
    st.integers(0, 1),
)
def test_sql_says_what_the_filter_says_of_ends(
    database: sqlite3.Connection,
    wanted: list[Term],
    recipient: QueuedRecipient,
    message: QueuedMessage,
    site: str,
    outcome: Outcome,
    shard: int,
) -> None:
    entry = HistoryEntry(
        at=NOW,
        message=recipient.message,
        number=0,
        attempt=recipient.attempts,
        outcome=outcome,
        address=recipient.address,
        sender=message.sender,
        key=recipient.key,
        tenant=recipient.tenant,
        status=recipient.status,
        reason=recipient.reason,
    )
    question = Filter(tuple(wanted))
    expected = question.matches_end(entry, NOW, site=site, shard=shard)
    fill(database, "zsmtp_history", HISTORY, dict(zip(HISTORY, entry_values(entry), strict=True)))
    database.execute("DELETE FROM zsmtp_site")
    if site:
        database.execute("INSERT INTO zsmtp_site VALUES (?, ?)", (entry.key, site))
    where = condition_of_ends(question, SQLITE, now=NOW, shard=shard)
    (found,) = database.execute(f"SELECT count(*) FROM zsmtp_history h WHERE {where.sql}", where.values).fetchone()
    assert found == expected, where


@given(st.lists(terms(list(Field)), max_size=4))
def test_a_filter_written_down_is_the_same_filter(wanted: list[Term]) -> None:
    question = Filter(tuple(wanted))
    if any(value == "" and len(one.values) > 1 for one in wanted for value in one.values):
        return  # an empty alternative among others is not written
    assert Filter.parse(str(question)) == question


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        question = Filter.parse(text)
    except QueueError:
        return
    assert Filter.parse(str(question)) == question
