"""Times as parameters of commands and keywords have them: RFC 3339 5.6, to a second.

RFC 4865 writes the time of release so, in UTC or with an offset. Times are seconds since 1970 here.
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
    """The time that is written; None if it is none: the 31st of February, the year 0."""
    from datetime import datetime

    if not _DATE_TIME.fullmatch(octets):
        return None
    try:
        return datetime.fromisoformat(octets.decode("ascii").upper()).timestamp()
    except (ValueError, OverflowError):
        return None
