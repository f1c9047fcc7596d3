"""The log of a service: one line for each event, as text or as JSON, with the id of the message it is about.

A message has one id from its acceptance to its ends: ``accepted`` (``zsmtp.server.queueintake``), then an ``attempt``
for each attempt at a recipient, whose ``outcome`` shows whether it was its end. JSON is that of
``zsmtp.observers.logging.JSONFormatter``, with the fields that code passes as ``extra={"queue": {...}}``. Untrusted
text is made printable.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from zsmtp.escape import escape
from zsmtp.observers.logging import JSONFormatter, rfc3339
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


class ServiceFormatter(logging.Formatter):
    """Lines of text; ``stamps``: with the time and the level in front (journald adds its own)."""

    def __init__(self, *, stamps: bool = True) -> None:
        super().__init__()
        self._stamps = stamps

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        text = escape(record.getMessage())
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            text = f"{text}: {escape(record.exc_text)}"
        if not self._stamps:
            return f"<{_SYSLOG.get(record.levelno, 6)}>{text}"
        return f"{rfc3339(record.created)} {record.levelname.lower()} {text}"


_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class ServiceLog:
    """The handler of the logger ``zsmtp`` while a service runs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._handler = logging.StreamHandler(stream or sys.stderr)
        self._logger = logging.getLogger("zsmtp")
        self._before = self._logger.level

    def configure(self, *, as_json: bool, level: str, journal: bool = False) -> None:
        """Set the format of lines, and the lowest level; ``journal``: the reader of the lines adds time and level."""
        self._handler.setFormatter(JSONFormatter() if as_json else ServiceFormatter(stamps=not journal))
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
