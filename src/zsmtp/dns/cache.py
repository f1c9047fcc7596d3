"""A bounded cache of DNS answers (RFC 1035 3.2.1, RFC 2308).

Answers are kept for their TTL, a day at most; "no such domain" and "no data" for the TTL of their SOA record, or for
half a minute without one. A temporary failure is kept for a few seconds only: long enough that the other recipients of
a message do not query a dead server again, short enough not to delay a recovery. A new entry evicts the least recently
used one. Time is an argument, in seconds on any monotonic clock::

    cache.put(answer, now)
    cache.get(query, now)      # the answer with the rest of its TTL, or None
"""

from __future__ import annotations

from collections import OrderedDict

from zsmtp.dns.answer import Answer, Query, Status
from zsmtp.records import replace

MAX_ENTRIES = 1000
MAX_TTL = 86400.0
NEGATIVE_TTL = 30.0
"""Seconds to keep a negative answer that came without a TTL of its own."""
FAILURE_TTL = 5.0
"""Seconds to keep a temporary failure."""


class AnswerCache:
    """Answers by query, each until it expires."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        if max_entries < 1:
            raise ValueError("a cache needs room for one entry at least")
        self._max_entries = max_entries
        self._entries: OrderedDict[Query, tuple[float, Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, query: Query, now: float) -> Answer | None:
        """The cached answer to a query, with its remaining ``ttl`` in whole seconds; None if there is none."""
        key = _key(query)
        entry = self._entries.get(key)
        if entry is None:
            return None
        expiry, answer = entry
        if now >= expiry:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return replace(answer, query=query, ttl=int(expiry - now), source="cache")

    def put(self, answer: Answer, now: float) -> None:
        """Store an answer, replacing one to the same query. An answer with a lifetime of zero is not stored."""
        key = _key(answer.query)
        self._entries.pop(key, None)
        lifetime = _lifetime(answer)
        if lifetime <= 0:
            return
        self._entries[key] = (now + lifetime, answer)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


def _key(query: Query) -> Query:
    """The key of a query: names compare without regard to case (RFC 4343)."""
    return query if query.name.islower() else replace(query, name=query.name.lower())


def _lifetime(answer: Answer) -> float:
    if answer.temporary:
        return FAILURE_TTL
    if answer.status is Status.OK or answer.ttl > 0:
        return min(float(answer.ttl), MAX_TTL)
    return NEGATIVE_TTL
