"""Receivers of a fleet's mail: many ports in one process, each with a ledger, that fail in the ways of servers.

They know as much SMTP as a client needs, and note what they have before they answer: what is in the ledger may have
been answered in a way that never arrived.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

REFUSED = 0.03  # of transactions, with 451
BROKEN = 0.01  # of connections are broken off after the final dot, without an answer


class Receivers:
    """Listeners on ports of the loopback interface; ``ledger`` counts how often each recipient's mail came whole."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.ledger: Counter[str] = Counter()
        self.ports: list[int] = []
        self.failing = True
        self.slow: dict[int, float] = {}
        """Seconds that a port takes to answer a message."""
        self._servers: dict[int, asyncio.Server] = {}
        self._open: dict[int, set[asyncio.StreamWriter]] = {}

    async def start(self, number: int) -> None:
        """Open so many."""
        for _ in range(number):
            port = await self._listen(0)
            self.ports.append(port)

    async def _listen(self, port: int) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        port = int(server.sockets[0].getsockname()[1])
        self._servers[port] = server
        self._open[port] = set()
        return port

    async def vanish(self, port: int, seconds: float) -> None:
        """Let one break its connections off, and be away for a while."""
        server = self._servers.pop(port, None)
        if server is None:
            return
        server.close()
        for writer in tuple(self._open[port]):
            writer.transport.abort()
        await asyncio.sleep(seconds)
        await self._listen(port)

    async def stop(self) -> None:
        """Close all."""
        for port, server in self._servers.items():
            server.close()
            for writer in tuple(self._open[port]):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        self._open[port].add(writer)
        try:
            await self._talk(reader, writer, self.slow.get(port, 0.0))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:  # the run is over
            pass
        finally:
            self._open[port].discard(writer)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: float) -> None:
        writer.write(b"220 receiver.example ESMTP\r\n")
        recipients: list[str] = []
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-receiver.example\r\n250-8BITMIME\r\n250 PIPELINING\r\n")
            elif verb == b"RCPT":
                recipients.append(line.partition(b"<")[2].partition(b">")[0].decode())
                writer.write(b"250 2.1.5 OK\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                await asyncio.sleep(slow)
                if not self._answer(writer, recipients):
                    return
                recipients = []
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            else:
                if verb in (b"MAIL", b"RSET"):
                    recipients = []
                writer.write(b"250 2.0.0 OK\r\n")

    def _answer(self, writer: asyncio.StreamWriter, recipients: list[str]) -> bool:
        """Take a message or refuse it; False: the connection is broken off."""
        if self.failing and self.chance.random() < REFUSED:
            writer.write(b"451 4.3.0 later\r\n")
            return True
        self.ledger.update(recipients)
        if self.failing and self.chance.random() < BROKEN:
            writer.transport.abort()
            return False
        writer.write(b"250 2.0.0 taken\r\n")
        return True
