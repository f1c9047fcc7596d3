"""The log of a service: one line for each event, as text or as JSON, with the id of the message it is about.

A message has one id from its acceptance to its ends: ``accepted`` (``zsmtp.server.queueintake``), then an ``attempt``
for each attempt at a recipient, whose ``outcome`` says whether it was its end. In JSON a record has ``time`` (RFC 3339,
UTC), ``level``, ``logger``, ``text``, and the fields of its event: what code gives as ``extra={"queue": {...}}``, or as
attributes whose names begin with ``smtp_``. Words of strangers are made printable.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from zsmtp.escape import escape
from zsmtp.queue.ids import to_text
from zsmtp.queue.states import HistoryEntry, Outcome

log = logging.getLogger("zsmtp.queue.delivery")

_LEVELS = {
    Outcome.DELIVERED: logging.INFO,
    Outcome.DROPPED: logging.INFO,
    Outcome.MOVED: logging.INFO,
    Outcome.DEFERRED: logging.INFO,
    Outcome.LATE: logging.INFO,
}
_PREFIX = "smtp_"


class ServiceFormatter(logging.Formatter):
    """Lines of text or of JSON; ``stamps``: text has the time and the level in front (journald adds its own)."""

    def __init__(self, *, as_json: bool, stamps: bool = True) -> None:
        super().__init__()
        self._as_json = as_json
        self._stamps = stamps

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        text = escape(record.getMessage())
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if self._as_json:
            return self._json(record, text)
        if record.exc_text:
            text = f"{text}: {escape(record.exc_text)}"
        if not self._stamps:
            return f"<{_SYSLOG.get(record.levelno, 6)}>{text}"
        return f"{_stamp(record.created)} {record.levelname.lower()} {text}"

    def _json(self, record: logging.LogRecord, text: str) -> str:
        line: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": text,
        }
        fields = record.__dict__.get("queue")
        if fields:
            line.update(fields)
        else:
            line.update({k.removeprefix(_PREFIX): v for k, v in record.__dict__.items() if k.startswith(_PREFIX)})
        if record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, default=str)


_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"


class ServiceLog:
    """The handler of the logger ``zsmtp`` while a service runs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._handler = logging.StreamHandler(stream or sys.stderr)
        self._logger = logging.getLogger("zsmtp")
        self._before = self._logger.level

    def configure(self, *, as_json: bool, level: str, journal: bool = False) -> None:
        """Say how lines look, and the least they must matter; ``journal``: who reads them adds time and level."""
        self._handler.setFormatter(ServiceFormatter(as_json=as_json, stamps=not journal))
        self._logger.setLevel(level.upper())

    def __enter__(self) -> ServiceLog:
        self._logger.addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._before)


def log_entry(entry: HistoryEntry, shard: int) -> None:
    """Log one entry of a recipient's history: an attempt, or an end without one."""
    level = _LEVELS.get(entry.outcome, logging.WARNING)
    if not log.isEnabledFor(level):
        return
    text = to_text(entry.message, shard)
    address, reason = escape(entry.address), escape(entry.reason)
    words = [
        f"{text}: to <{address}> {entry.outcome.value}",
        f"attempt {entry.attempt}" if entry.attempt else f"by {escape(entry.by)}" if entry.by else "no attempt",
        entry.status,
        f"{escape(entry.server)} said {entry.code} {reason}" if entry.server and entry.code else reason,
        entry.tls,
    ]
    log.log(
        level,
        "%s",
        ", ".join(word for word in words if word),
        extra={
            "queue": {
                "event": "attempt",
                "id": text,
                "recipient": address,
                "outcome": entry.outcome.value,
                "attempt": entry.attempt,
                "status": entry.status,
                "code": entry.code,
                "reason": reason,
                "server": escape(entry.server),
                "tls": entry.tls,
                "seconds": round(entry.seconds, 3),
                "site": entry.key,
                "tenant": entry.tenant,
                "by": escape(entry.by),
            }
        },
    )
