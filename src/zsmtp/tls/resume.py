"""Sessions to take up again, so that a second connection to a host costs no second key exchange (RFC 8446 2.2).

A resumed handshake shows no certificates: that the peer knows the secret of the earlier session proves that it is the
same peer, and who that was is only known from then. So a session is never kept without the chain of its first
handshake and the verdict on it. The verdict counts again only for the very same requirement; for any other the chain
is judged anew. Entries are found by where the connection goes, the name asked for and the options of the context;
nothing is kept on disk, and time is an argument (any clock, in seconds)::

    cache = SessionCache(lifetime=3600)
    cache.put(key, ResumableSession(session, chain, requirement, judgement, since=now))
    kept = cache.get(key, now)
    cache.put(key, replace(kept, session=newer))       # after it was resumed: the server may have sent a new ticket
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from zsmtp.tls.context import ContextOptions
from zsmtp.tls.judgement import Judgement
from zsmtp.tls.policy import Requirement

DEFAULT_LIFETIME = 3600.0
"""Seconds a session is kept."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What must be the same for a session to be taken up: server, name asked for (SNI), and context."""

    address: str
    port: int
    server_name: str
    options: ContextOptions


@dataclass(frozen=True, slots=True)
class ResumableSession:
    """A session with what is known of its peer. ``session`` is OpenSSL's (``ssl.SSLSession``), not looked into here.

    ``chain`` are the peer's certificates in DER, leaf first; ``judgement`` is the verdict under ``requirement``.
    ``since`` is the time of the handshake that showed them: resuming does not make the verdict any younger.
    """

    session: object = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    requirement: Requirement
    judgement: Judgement
    since: float

    def verdict_for(self, requirement: Requirement) -> Judgement | None:
        """The verdict, if it was on this very requirement and let mail through; None: judge the chain again."""
        return self.judgement if self.judgement.ok and self.requirement == requirement else None


class SessionCache:
    """Keeps the latest session of each key, ``max_entries`` of them, for ``lifetime`` seconds from its handshake."""

    def __init__(self, *, lifetime: float = DEFAULT_LIFETIME, max_entries: int = 256) -> None:
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._entries: OrderedDict[SessionKey, ResumableSession] = OrderedDict()

    def put(self, key: SessionKey, session: ResumableSession) -> None:
        """Keep a session, in the place of an earlier one."""
        self._entries.pop(key, None)
        self._entries[key] = session
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def get(self, key: SessionKey, now: float) -> ResumableSession | None:
        """The session kept for ``key``; None if there is none, or its time is over."""
        session = self._entries.get(key)
        if session is not None and now >= session.since + self._lifetime:
            del self._entries[key]
            return None
        return session

    def forget(self, key: SessionKey) -> None:
        """Drop what is kept for ``key``: the server did not like it, or the peer was not the right one."""
        self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)
