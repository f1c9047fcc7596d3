"""Formats times, durations and replies for sentences about the queue."""

from __future__ import annotations

from datetime import UTC, datetime

from zsmtp.durations import duration_text
from zsmtp.queue.states import HistoryEntry


def utc(at: float) -> str:
    """A time as ``2026-11-29 14:05:12Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    """A duration in two units at most: ``42s``, ``3m10s``, ``2h5m``, ``4d3h``."""
    whole = max(round(seconds), 0)
    unit = 3600 if whole >= 86400 else 60 if whole >= 3600 else 1
    return duration_text(round(whole / unit) * unit)


def reply_words(entry: HistoryEntry) -> str:
    """A server's reply, ``451 4.7.1 come back later``, or the reason as text; "" if neither is known."""
    words = entry.reason or entry.status
    code = str(entry.code) if entry.code else ""
    return words if words.startswith(code) else f"{code} {words}".rstrip()
