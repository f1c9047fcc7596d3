"""Converts traces to JSON and back: ``zsmtp.trace/1``, by the rules of ``zsmtp.delivery.valuejson``.

::

    text = trace_text(trace)
    assert parse_trace(text) == trace

The plan has the form that ``zsmtp explain --json`` prints (``zsmtp.plan/1``). Reading is strict and capped;
:class:`~zsmtp.errors.ConfigError` names the place of an error. A file is untrusted and may hold any text, so texts are
made printable on reading, too, as the recorder does on writing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.planjson import plan_document, read_plan
from zsmtp.delivery.valuejson import MAX_DOCUMENT, Schema, parse_json
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.observers.document import (
    MAX_ITEMS,
    MAX_RECIPIENTS,
    SCHEMA,
    ExchangeItem,
    Fates,
    Item,
    Trace,
    TracedConnection,
    TracedRecipient,
)

MAX_PLAN = 1 << 20
"""Characters of a plan's JSON; a larger one is left out of the trace."""
MAX_SECONDS = 1e9


def trace_document(trace: Trace) -> dict[str, Any]:
    """The trace as a JSON object."""
    document = _SCHEMA.document(replace(trace, plan=None))
    if trace.plan is not None:
        plan = plan_document(trace.plan)
        if len(json.dumps(plan)) <= MAX_PLAN:
            document["plan"] = plan
    return document


def trace_text(trace: Trace) -> str:
    """The trace as JSON text, one item a line, so that it can be read and compared with ordinary tools.

    It never exceeds the limit of reading: from a trace with very long texts the plan, the dialogues of the verdicts,
    and the last items are left out.
    """
    text = _text(trace)
    while len(text) > MAX_DOCUMENT and (trace.items or trace.plan is not None):
        half = len(trace.items) // 2
        recipients = tuple(replace(recipient, text="") for recipient in trace.recipients)
        left_out = trace.left_out + len(trace.items) - half
        trace = replace(trace, plan=None, recipients=recipients, items=trace.items[:half], left_out=left_out)
        text = _text(trace)
    return text


def _text(trace: Trace) -> str:
    document = trace_document(trace)
    members = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            lines = ",\n    ".join(_dumps(one) for one in value)
            members.append(f"  {_dumps(name)}: [\n    {lines}\n  ]")
        else:
            members.append(f"  {_dumps(name)}: {_dumps(value)}")
    return "{\n" + ",\n".join(members) + "\n}\n"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def read_trace(document: object) -> Trace:
    """The trace in a JSON object. Raises ConfigError if it is invalid."""
    plan = None
    if isinstance(document, dict) and document.get("schema") == SCHEMA:
        plan = document.get("plan")
        document = {name: value for name, value in document.items() if name != "plan"}
    trace = _SCHEMA.read(_printable(document))
    assert isinstance(trace, Trace)
    if plan is None:
        return trace
    try:
        return replace(trace, plan=read_plan(plan))
    except ConfigError as error:
        raise ConfigError(f"not a trace of {SCHEMA}: plan: {error}") from None


def parse_trace(text: str | bytes) -> Trace:
    """The trace in a JSON text. Raises ConfigError if it is invalid."""
    return read_trace(parse_json(text))


def load_trace(path: str | Path) -> Trace:
    """The trace in a file. Raises OSError if it cannot be read, ConfigError if it is no trace."""
    with open(path, "rb") as file:
        data = file.read(4 * MAX_DOCUMENT + 1)
    try:
        return parse_trace(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError("not JSON: not UTF-8") from None


def _printable(value: Any, depth: int = 0) -> Any:
    """The value with every text made printable; line breaks stay."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(escape(line) for line in value.split("\n"))
    if depth > 20:
        raise ConfigError(f"not a trace of {SCHEMA}: nested too deeply")
    if isinstance(value, list):
        return [_printable(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {name: _printable(one, depth + 1) for name, one in value.items()}
    return value


# -------------------------------------------------- what must hold of a value


def _time_problem(*moments: float | None) -> str | None:
    return "a time beyond all reason" if any(m is not None and abs(m) > MAX_SECONDS for m in moments) else None


def _item_problem(item: Item) -> str | None:
    if item.connection < 0:
        return "connections are numbered from 1"
    if item.end is not None and item.end < item.start:
        return "the end comes before the start"
    if isinstance(item, ExchangeItem) and not (item.code == 0 or 200 <= item.code <= 599):
        return f"{item.code} is no reply code"
    return _time_problem(item.start, item.end)


def _connection_problem(connection: TracedConnection) -> str | None:
    if connection.number < 1 or connection.deliveries < 1:
        return "connections and their deliveries are numbered from 1"
    return _time_problem(connection.opened, connection.closed)


def _recipient_problem(recipient: TracedRecipient) -> str | None:
    if recipient.fate not in ("", "delivered", "failed", "deferred"):
        return "the fate is none of delivered, failed, deferred"
    return _time_problem(recipient.at)


def _fates_problem(fates: Fates) -> str | None:
    counts = (fates.recipients, fates.delivered, fates.failed, fates.deferred, fates.in_doubt)
    if min(counts) < 0 or fates.delivered + fates.failed + fates.deferred > fates.recipients:
        return "the counts make no sense"
    return None


def _trace_problem(trace: Trace) -> str | None:
    if len(trace.items) > MAX_ITEMS or len(trace.recipients) > MAX_RECIPIENTS:
        return f"more than {MAX_ITEMS} items or {MAX_RECIPIENTS} recipients"
    numbers = [connection.number for connection in trace.connections]
    if numbers != list(range(1, len(numbers) + 1)):
        return "connections are not numbered in order"
    if any(item.connection > len(numbers) for item in trace.items):
        return "an item names a connection that does not exist"
    if any(isinstance(item, ExchangeItem) and item.recipient >= trace.fates.recipients for item in trace.items):
        return "an item names a recipient that does not exist"
    if trace.seconds < 0:
        return "a negative duration"
    return _time_problem(trace.seconds)


_SCHEMA = Schema(
    SCHEMA,
    Trace,
    "a trace",
    names={Trace: {"DeliveryPlan": DeliveryPlan}},
    tags={kind: kind.__name__.removesuffix("Item") for kind in Item.__subclasses__()},
    checks={
        **dict.fromkeys(Item.__subclasses__(), _item_problem),
        TracedConnection: _connection_problem,
        TracedRecipient: _recipient_problem,
        Fates: _fates_problem,
        Trace: _trace_problem,
    },
)
