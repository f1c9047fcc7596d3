"""The resolver that asks name servers: those of the system, or one that was named (resolv.conf(5), RFC 1035 7).

Questions go out by UDP with EDNS and the DO bit, and by TCP after a truncated answer. A server that keeps silent is
asked again, each round more patiently; one that fails is left for the next. Whichever answered last is asked first the
next time, so that a dead server is paid for once. The deadline of a lookup bounds all of it. dnspython, which reads
and writes the messages, is imported with the first lookup and not before.

An answer is ``secure`` only if the server says so (AD bit) and is trusted: it runs on this machine, or the caller
vouches for it and for the way to it (RFC 4035 4.9.3)::

    resolver = DnspythonResolver("127.0.0.1:5353")
    resolver.lookup(Query("example.com", RecordType.MX), time.monotonic() + 30)
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from zsmtp.dns.answer import Answer, Query, Status
from zsmtp.dns.nameserver import Clock, NameServer, ask_tcp, ask_udp, parse_nameserver, parse_resolv_conf

ROUNDS = (3.0, 5.0, 8.0)
"""Seconds to wait for each server, round by round."""

_MAX_RESOLV_CONF = 1 << 16  # characters
_TRUNCATED = 0x02  # TC, in the third octet of the header
_NO_EDNS = frozenset({1, 4})  # FORMERR, NOTIMP: what a server that never heard of EDNS says (RFC 6891 7)
_FINAL = frozenset({Status.OK, Status.NODATA, Status.NXDOMAIN, Status.BOGUS})


class DnspythonResolver:
    """Asks name servers. Lookups may run in several threads at once."""

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

        ``trusted`` tells whether their AD bit counts; None leaves that to where they are: on this machine, or not.
        Raises ConfigError if ``nameserver`` is not ``address``, ``address:port`` or ``[address]:port``.
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
        failure = Answer(query, Status.TIMEOUT, canonical=query.name, problem="no time was left to ask")
        servers = self._current_servers()
        for seconds in self._rounds:
            silent: list[NameServer] = []
            for server in servers:
                if self._closed or self._clock() >= deadline:
                    return failure
                answer = self._ask(server, query, seconds, deadline, silent)
                if answer.status in _FINAL:
                    self._remember(server)
                    return answer
                if failure.status is Status.TIMEOUT:  # what a server said tells more than that another said nothing
                    failure = answer
            servers = tuple(silent)
        return failure

    def close(self) -> None:
        """End the lookups under way in other threads within a moment; none is made any more."""
        self._closed = True

    def _over(self) -> bool:
        return self._closed

    def _ask(
        self, server: NameServer, query: Query, seconds: float, deadline: float, silent: list[NameServer]
    ) -> Answer:
        """One server's answer; a server that keeps silent is added to ``silent``."""
        try:
            return self._exchange(server, query, seconds, deadline)
        except TimeoutError:
            silent.append(server)
            problem = f"name server {server} does not answer"
        except OSError as error:
            problem = f"name server {server}: {error.strerror or error}"
        except ImportError as error:
            problem = f"the DNS library cannot be loaded: {error}"
        except ValueError as error:
            return Answer(query, Status.SERVFAIL, canonical=query.name, problem=str(error))
        return Answer(query, Status.TIMEOUT, canonical=query.name, problem=problem)

    def _exchange(self, server: NameServer, query: Query, seconds: float, deadline: float) -> Answer:
        from zsmtp.dns.wire import Question

        def limit() -> float:
            return min(deadline, self._clock() + seconds)

        question = Question(query)
        reply = ask_udp(server, question.wire, limit(), self._clock, self._over)
        if reply[3] & 0x0F in _NO_EDNS:
            question = Question(query, edns=False)
            reply = ask_udp(server, question.wire, limit(), self._clock, self._over)
        if reply[2] & _TRUNCATED:
            reply = ask_tcp(server, question.wire, limit(), self._clock, self._over)
        answer = question.read(reply, trusted=server.is_local if self._trusted is None else self._trusted)
        return replace(answer, source=f"name server {server}")

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
            self._servers = parse_resolv_conf("")  # resolv.conf(5): without the file, the server on this machine
            self._stamp = None
        return self._servers

    def _remember(self, server: NameServer) -> None:
        """Ask this server first from now on."""
        servers = self._servers
        if server in servers and servers[0] != server:
            self._servers = (server, *(other for other in servers if other != server))
