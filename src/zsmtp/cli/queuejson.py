"""The JSON output of ``zsmtp queue`` with ``--json``: rows, entries of history, rules, explanations.

Times are in seconds since 1970, octets are text in UTF-8. A list is one object a line, everything else one document
that names its schema (``zsmtp.queue-why/1``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zsmtp.queue.ids import to_text
from zsmtp.queue.operators import NodeStatus, Row, Rule, SiteStatus, combined
from zsmtp.queue.slots import count
from zsmtp.queue.states import HistoryEntry, QueuedMessage
from zsmtp.queue.suppression import Suppression

if TYPE_CHECKING:
    from zsmtp.queue.explanation import QueueExplanation

Document = dict[str, Any]


def json_line(document: Mapping[str, object]) -> str:
    """An object on one line."""
    return json.dumps(document) + "\n"


def json_document(verb: str, document: Mapping[str, object]) -> str:
    """A whole document with its schema."""
    return json.dumps({"schema": f"zsmtp.queue-{verb}/1", **document}, indent=2) + "\n"


def _text(octets: bytes | None) -> str | None:
    return None if octets is None else octets.decode("utf-8", "backslashreplace")


def row_document(row: Row, shard: int) -> Document:
    """A recipient in the queue."""
    recipient, message = row.recipient, row.message
    return {
        "id": to_text(message.id, shard),
        "number": recipient.number,
        "recipient": _text(recipient.address),
        "sender": _text(message.sender),
        "key": recipient.key,
        "tenant": recipient.tenant,
        "state": row.state.value,
        "priority": -recipient.rank,
        "submitted": message.submitted,
        "due": recipient.due,
        "expires": recipient.expires,
        "attempts": recipient.attempts,
        "hold": recipient.hold,
        "warned": recipient.warned,
        "doubtful": recipient.doubtful,
        "status": recipient.status,
        "reason": recipient.reason,
        "size": message.size,
        "name": message.name,
        "origin": message.origin,
    }


def message_document(message: QueuedMessage, shard: int) -> Document:
    """A message."""
    return {
        "id": to_text(message.id, shard),
        "sender": _text(message.sender),
        "tenant": message.tenant,
        "submitted": message.submitted,
        "size": message.size,
        "recipients": message.recipients,
        "priority": message.priority,
        "ret": _text(message.ret),
        "envid": _text(message.envid),
        "name": message.name,
        "origin": message.origin,
        "options": dict(message.options or {}),
    }


def entry_document(entry: HistoryEntry, shard: int) -> Document:
    """An entry of the history."""
    return {
        "at": entry.at,
        "id": to_text(entry.message, shard),
        "number": entry.number,
        "attempt": entry.attempt,
        "outcome": entry.outcome.value,
        "recipient": _text(entry.address),
        "sender": _text(entry.sender),
        "key": entry.key,
        "tenant": entry.tenant,
        "seconds": entry.seconds,
        "status": entry.status,
        "code": entry.code,
        "reason": entry.reason,
        "server": entry.server,
        "tls": entry.tls,
        "node": entry.node,
        "by": entry.by,
    }


def rule_document(rule: Rule, shard: int | None = None) -> Document:
    """A standing rule, and the shard of its queue; None: it is not added yet."""
    return {
        "shard": shard,
        "number": rule.number,
        "action": rule.action,
        "filter": rule.filter,
        "argument": rule.argument,
        "until": rule.until,
        "by": rule.by,
        "reason": rule.reason,
        "created": rule.created,
    }


def suppression_document(one: Suppression) -> Document:
    """An address on the suppression list."""
    return {
        "tenant": one.tenant,
        "address": _text(one.address),
        "reason": one.reason,
        "source": one.source,
        "at": one.at,
        "until": one.until,
    }


def statuses_document(statuses: Sequence[SiteStatus]) -> Document:
    """The state of a site, and that of each of its parts if several nodes serve it."""
    return {
        "status": site_document(combined(statuses)) if statuses else None,
        "parts": [site_document(one) for one in statuses] if len(statuses) > 1 else [],
    }


def site_document(status: SiteStatus) -> Document:
    """The state of a site, or of a part of it."""
    return {
        "site": status.site,
        "node": status.node,
        "slots": count(status.slots),
        "updated": status.updated,
        "window": status.window,
        "busy": status.busy,
        "ready": status.ready,
        "dead_until": status.dead_until,
        "dead_reason": status.dead_reason,
        "no_route": status.no_route,
        "rate": status.rate,
        "rate_until": status.rate_until,
        "no_slot": status.no_slot,
    }


def node_document(node: NodeStatus, shard: int) -> Document:
    """A process that delivers, and its shard."""
    return {**node._asdict(), "shard": shard}


def explanation_document(found: QueueExplanation, shard: int) -> Document:
    """Why a recipient is in its present state."""
    return {
        "constraint": found.constraint.value,
        "summary": found.summary,
        "until": found.until,
        "details": list(found.details),
        "others": [one.value for one in found.others],
        "next": list(found.next),
        "attempts": [entry_document(entry, shard) for entry in found.attempts],
        "route": found.route or None,
    }
