"""Caches TLS sessions for resumption, so that further connections to a host need no new key exchange (RFC 8446 2.2).

A resumed handshake sends no certificates: the peer's knowledge of the earlier session's secret proves only that it is
the same peer. So a session is kept with the chain of its full handshake, which is judged again each time: an expired
certificate, or a name that no longer matches, is detected as in a full handshake. A session is kept only after a
positive judgement, and used only for the same server, name, context and requirement. It is resumed any number of times,
until it expires or the server declines it. RFC 8446 C.4 warns that a reused ticket identifies the client; a mail
server's identity is no secret. Nothing is kept on disk, and time is an argument (any clock, in seconds)::

    place = Resumption(SessionCache(lifetime=3600), key)
    kept = place.find(now)                                   # or None: a full handshake
    place.keep(ResumableSession(session, chain, since=now))  # after a full handshake with a positive judgement
    place.forget()                                           # the handshake failed
"""

from __future__ import annotations

from collections import OrderedDict

from zsmtp.records import dataclass, field
from zsmtp.tls.context import ContextOptions
from zsmtp.tls.policy import Requirement

DEFAULT_LIFETIME = 3600.0
"""Seconds a session is kept."""

MAX_SESSIONS = 256
MAX_CHAIN = 64 * 1024
"""Octets of certificates kept with a session: the cap keeps peers from filling this side's memory."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The conditions for resuming a session, which must be equal: server, name sent (SNI), context, and requirement."""

    address: str
    port: int
    server_name: str
    options: ContextOptions
    requirement: Requirement


@dataclass(frozen=True, slots=True)
class ResumableSession:
    """A session with its peer's certificates. ``session`` is OpenSSL's (``ssl.SSLSession``), opaque here.

    ``chain`` are the peer's certificates in DER, leaf first. ``since`` is the time of the full handshake: resuming a
    session does not renew it.
    """

    session: object = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    since: float


class SessionCache:
    """Keeps the latest session of each key, ``max_entries`` of them, for ``lifetime`` seconds from its handshake."""

    def __init__(self, *, lifetime: float = DEFAULT_LIFETIME, max_entries: int = MAX_SESSIONS) -> None:
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._entries: OrderedDict[SessionKey, ResumableSession] = OrderedDict()

    def put(self, key: SessionKey, session: ResumableSession) -> None:
        """Store a session, replacing an earlier one; a session with an oversized chain is not stored."""
        self._entries.pop(key, None)
        if sum(map(len, session.chain)) > MAX_CHAIN:
            return
        self._entries[key] = session
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def get(self, key: SessionKey, now: float) -> ResumableSession | None:
        """The session stored for ``key``; None if there is none, or it has expired."""
        session = self._entries.get(key)
        if session is not None and now >= session.since + self._lifetime:
            del self._entries[key]
            return None
        return session

    def forget(self, key: SessionKey) -> None:
        """Remove the session of ``key``: the server declined it, or the peer was not the right one."""
        self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True, slots=True)
class Resumption:
    """One entry of a cache: where a handshake gets its session from, and stores the new one."""

    cache: SessionCache
    key: SessionKey

    def find(self, now: float) -> ResumableSession | None:
        """The session to resume, if there is one."""
        return self.cache.get(self.key, now)

    def keep(self, session: ResumableSession) -> None:
        """Store a session after a positive judgement."""
        self.cache.put(self.key, session)

    def forget(self) -> None:
        """Remove the session that was to be resumed."""
        self.cache.forget(self.key)
