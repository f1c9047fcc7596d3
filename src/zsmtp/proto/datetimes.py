"""Dates and times in command parameters and keywords: RFC 3339 5.6, with a precision of one second.

RFC 4865 uses this format for the time of release, in UTC or with an offset. Times here are seconds since 1970.
"""

from __future__ import annotations

import re

from zsmtp.patterns import pattern

_DATE_TIME = pattern(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})", re.IGNORECASE
)


def date_time(utc: float) -> bytes:
    """A time in whole seconds of UTC: ``2026-01-31T08:00:00Z``."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(utc, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def parse_date_time(octets: bytes) -> float | None:
    """The time in seconds since 1970; None if ``octets`` is no valid time (the 31st of February, the year 0)."""
    from datetime import datetime

    if not _DATE_TIME.fullmatch(octets):
        return None
    try:
        return datetime.fromisoformat(octets.decode("ascii").upper()).timestamp()
    except (ValueError, OverflowError):
        return None
