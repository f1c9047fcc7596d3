"""The resolver that queries name servers: the system's, or a configured one (resolv.conf(5), RFC 1035 7).

``zsmtp.dns.questioning`` has the rules of querying; this module finds the servers and puts the one that answered last
first, so that a dead server delays one lookup only. An event loop can await any number of
:meth:`DnspythonResolver.resolve`; :meth:`DnspythonResolver.lookup` does the same and blocks.

An answer is ``secure`` only if the server sets the AD bit and is trusted: it runs on this machine, or the caller trusts
it and the path to it (RFC 4035 4.9.3)::

    resolver = DnspythonResolver("127.0.0.1:5353")
    resolver.lookup(Query("example.com", RecordType.MX), time.monotonic() + 30)
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from zsmtp.dns.answer import Answer, Query
from zsmtp.dns.nameserver import AskServer, NameServer, parse_nameserver, parse_resolv_conf
from zsmtp.dns.questioning import ROUNDS, put_question
from zsmtp.dns.transport import BlockingWaits, Clock, exchange
from zsmtp.effects import Effect, ReadClock, carry_out, unknown_effect

_MAX_RESOLV_CONF = 1 << 16  # characters


class DnspythonResolver:
    """Queries name servers. Lookups may run in several threads at once."""

    def __init__(
        self,
        nameserver: str | None = None,
        *,
        trusted: bool | None = None,
        resolv_conf: str = "/etc/resolv.conf",
        rounds: Sequence[float] = ROUNDS,
        clock: Clock = time.monotonic,
    ) -> None:
        """Without ``nameserver`` the servers are those of ``resolv_conf``, read again when the file changes.

        ``trusted``: whether their AD bit counts; None: it counts for servers on this machine.
        ``clock`` is that of :meth:`lookup`. Raises ConfigError if ``nameserver`` is not ``address``, ``address:port``
        or ``[address]:port``.
        """
        self._named = None if nameserver is None else parse_nameserver(nameserver)
        self._trusted = trusted
        self._resolv_conf = resolv_conf
        self._rounds = tuple(rounds)
        self._clock = clock
        self._closed = False
        self._stamp: tuple[int, int] | None = None
        self._servers: tuple[NameServer, ...] = ()

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The answer to one question by ``deadline``; see ``zsmtp.dns.resolver.Resolver``."""
        waits = BlockingWaits(self._clock, self._over)

        def perform(effect: Effect[Any]) -> object:
            if isinstance(effect, AskServer):
                return carry_out(exchange(effect, self._clock), waits.wait)
            if isinstance(effect, ReadClock):
                return self._clock()
            raise unknown_effect(effect)

        return carry_out(self.resolve(query, deadline), perform)

    async def resolve(self, query: Query, deadline: float) -> Answer:
        """The same as an operation; see ``zsmtp.dns.resolver.AwaitingResolver``."""
        found = await put_question(
            query,
            self._current_servers(),
            deadline=deadline,
            rounds=self._rounds,
            trusts=self._trusts,
            over=self._over,
        )
        if found.server is not None:
            self._remember(found.server)
        return found.answer

    def close(self) -> None:
        """End the running lookups of other threads within a moment; start no more."""
        self._closed = True

    def _over(self) -> bool:
        return self._closed

    def _trusts(self, server: NameServer) -> bool:
        return server.is_local if self._trusted is None else self._trusted

    def _current_servers(self) -> tuple[NameServer, ...]:
        """The servers to ask, in the order to ask them."""
        if self._named is not None:
            return (self._named,)
        try:
            found = os.stat(self._resolv_conf)
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                with open(self._resolv_conf, encoding="utf-8", errors="replace") as file:
                    self._servers = parse_resolv_conf(file.read(_MAX_RESOLV_CONF))
                self._stamp = stamp
        except OSError:
            self._servers = parse_resolv_conf("")  # resolv.conf(5): the server on this machine if there is no file
            self._stamp = None
        return self._servers

    def _remember(self, server: NameServer) -> None:
        """Ask this server first from now on."""
        servers = self._servers
        if server in servers and servers[0] != server:
            self._servers = (server, *(other for other in servers if other != server))
