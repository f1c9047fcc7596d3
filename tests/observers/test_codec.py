"""Traces as JSON: nothing is lost on the way there and back, nothing foreign gets in."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import message, numbered
from tests.support.traces import TracedWorld, traces

from zsmtp.delivery.valuejson import MAX_DOCUMENT
from zsmtp.errors import ConfigError
from zsmtp.net.script import Reaction, Script
from zsmtp.observers.codec import load_trace, parse_trace, read_trace, trace_document, trace_text
from zsmtp.observers.document import SCHEMA, ExchangeItem, Fates, Trace, TracedRecipient


def recorded() -> Trace:
    return TracedWorld(Script(replies={"RCPT": [Reaction("550 no")]})).deliver(message(*numbered(2)))[0]


@given(traces)
def test_a_trace_read_back_equals_the_trace_written(trace: Trace) -> None:
    assert parse_trace(trace_text(trace)) == trace
    assert json.loads(trace_text(trace)) == trace_document(trace)


def test_a_recorded_trace_too_with_its_plan() -> None:
    trace = recorded()
    assert trace.plan is not None
    assert parse_trace(trace_text(trace)) == trace


def test_one_item_stands_on_one_line() -> None:
    lines = trace_text(recorded()).splitlines()
    assert lines[1] == f'  "schema": "{SCHEMA}",'
    assert sum('"phase": "RCPT"' in line for line in lines) == 2


Path_ = tuple[str | int, ...]


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("schema",), "zsmtp.trace/2", "not a trace of zsmtp.trace/1: schema 'zsmtp.trace/2'"),
        (("seconds",), "1", "seconds: a string is not valid here"),
        (("seconds",), -1, "the document: a negative duration"),
        (("surprise",), 1, "surprise: nothing known to a Trace"),
        (("addresses",), "visible", "addresses: none of clear, hashed"),
        (("items", 0, "type"), "Surprise", "items[0].type: none of Lookup, Fetch, Connect"),
        (("items", 0, "end"), -5, "items[0]: the end comes before the start"),
        (("items", 0, "connection"), 7, "the document: an item names a connection that does not exist"),
        (("items", 0, "start"), 1e300, "items[0]: "),
        (("connections", 0, "number"), 2, "the document: connections are not numbered in order"),
        (("recipients", 0, "fate"), "lost", "recipients[0]: the fate is none of"),
        (("fates", "delivered"), 5, "fates: the counts make no sense"),
        (("plan", "schema"), "zsmtp.plan/9", "plan: not a plan of zsmtp.plan/1"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(place: Path_, value: object, complaint: str) -> None:
    document: Any = json.loads(trace_text(recorded()))
    spot = document
    for step in place[:-1]:
        spot = spot[step]
    spot[place[-1]] = value
    with pytest.raises(ConfigError) as caught:
        read_trace(document)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", "[" * 100_000, '{"schema": "\\u001b[2J"}'])
def test_what_is_no_trace_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_trace(text)
    assert str(caught.value).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values, st.data())
def test_any_value_in_any_place_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    document: Any = json.loads(trace_text(recorded()))
    spot: Any = document
    for _ in range(4):
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(spot[key], dict | list) or data.draw(st.booleans()):
            spot[key] = value
            break
        spot = spot[key]
    with suppress(ConfigError):
        trace = read_trace(document)
        assert read_trace(trace_document(trace)) == trace


def test_texts_of_a_file_are_made_printable() -> None:
    document = json.loads(trace_text(recorded()))
    document["items"][0]["name"] = "\x1b]0;title\x07\u202egnp.exe"
    document["recipients"][0]["text"] = "one\ntwo\x1b[2J"
    trace = read_trace(document)
    assert "\x1b" not in repr(trace).replace("\\x1b", "")
    assert trace.recipients[0].text == "one\ntwo\\x1b[2J"


def test_a_file_that_is_too_long_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b" " * (9 << 20))
    with pytest.raises(ConfigError, match="longer than"):
        load_trace(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_trace(path)


def test_what_is_written_can_be_read_however_long_its_texts() -> None:
    long = "\\" * 1000
    items = tuple(
        ExchangeItem(start=0.0, end=1.0, connection=0, phase="RCPT", sent=long, reply=(long,) * 20) for _ in range(1000)
    )
    recipients = tuple(TracedRecipient(address=long, text="\n".join([long] * 8)) for _ in range(1000))
    before = replace(recorded(), items=items, recipients=recipients, fates=Fates(recipients=1000))
    text = trace_text(before)
    assert len(text) <= MAX_DOCUMENT
    trace = parse_trace(text)
    assert len(trace.recipients) == 1000
    assert 0 < len(trace.items) == 1000 - trace.left_out
