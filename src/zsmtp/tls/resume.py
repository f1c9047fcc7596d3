"""Sessions to take up again, so that a second connection to a host costs no second key exchange (RFC 8446 2.2).

A resumed handshake shows no certificates: that the peer knows the secret of the earlier session proves that it is the
same peer, and who that was is only known from then. So a session is never kept without the chain of its first
handshake, which is judged anew each time: a certificate that has expired since, or a name that counts no more, is found
out as by a full handshake. A session is kept only after it was judged good, and found again only by who connects to the
same place, asks for the same name with the same context, and requires the very same. It is taken up any number of
times, until its time is over or the server declines it. RFC 8446 C.4 fears that a ticket used twice tells who connects;
of a mail server that is no secret. Nothing is kept on disk, and time is an argument (any clock, in seconds)::

    place = Resumption(SessionCache(lifetime=3600), key)
    kept = place.find(now)                                   # or None: a full handshake
    place.keep(ResumableSession(session, chain, since=now))  # of a full handshake that was judged good
    place.forget()                                           # the handshake failed
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from zsmtp.tls.context import ContextOptions
from zsmtp.tls.policy import Requirement

DEFAULT_LIFETIME = 3600.0
"""Seconds a session is kept."""

MAX_SESSIONS = 256
MAX_CHAIN = 64 * 1024
"""Octets of certificates a session may be kept with: peers must not fill the memory of who talks to many of them."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What must be the same for a session to be taken up: server, name asked for (SNI), context, and requirement."""

    address: str
    port: int
    server_name: str
    options: ContextOptions
    requirement: Requirement


@dataclass(frozen=True, slots=True)
class ResumableSession:
    """A session with what is known of its peer. ``session`` is OpenSSL's (``ssl.SSLSession``), not looked into here.

    ``chain`` are the peer's certificates in DER, leaf first. ``since`` is the time of the handshake that showed them:
    resuming does not make a session any younger.
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
        """Keep a session, in the place of an earlier one; one with an oversized chain is not kept."""
        self._entries.pop(key, None)
        if sum(map(len, session.chain)) > MAX_CHAIN:
            return
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


@dataclass(frozen=True, slots=True)
class Resumption:
    """One place in a cache: what a handshake is given, and where its session goes afterwards."""

    cache: SessionCache
    key: SessionKey

    def find(self, now: float) -> ResumableSession | None:
        """The session to take up, if there is one."""
        return self.cache.get(self.key, now)

    def keep(self, session: ResumableSession) -> None:
        """Keep a session that was judged good."""
        self.cache.put(self.key, session)

    def forget(self) -> None:
        """Drop the session that was to be taken up."""
        self.cache.forget(self.key)
