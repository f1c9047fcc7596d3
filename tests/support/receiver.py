"""aiosmtpd as the receiver: an SMTP server by other people, in a thread of its own, on as many ports as are wanted."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class Receiver:
    """What came: messages in order, connections by port. ``refuse`` are recipients that get a 550.

    ``most`` connections are served at a time, others closed at once; an answer to RCPT takes ``delay`` seconds.
    """

    ports: list[int] = field(default_factory=list)
    messages: list[Envelope] = field(default_factory=list)
    connections: Counter[int] = field(default_factory=Counter)
    refuse: set[str] = field(default_factory=set)
    most: int = 1 << 30
    delay: float = 0.0

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[0]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        await asyncio.sleep(self.delay)
        if address in self.refuse:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.messages.append(envelope)
        return f"250 2.0.0 taken as {len(self.messages)}"


@contextmanager
def receiving(
    ports: int = 1,
    *,
    hosts: list[str] | None = None,
    port: int = 0,
    implicit_tls: ssl.SSLContext | None = None,
    most: int = 1 << 30,
    delay: float = 0.0,
    **options: object,
) -> Iterator[Receiver]:
    """Servers on so many ports of 127.0.0.1, or on one port of each of ``hosts``, until the block is left.

    With ``implicit_tls`` they speak TLS from the first octet; ``most`` and ``delay`` are as for :class:`Receiver`,
    ``options`` are aiosmtpd's.
    """
    receiver = Receiver(most=most, delay=delay)
    loop = asyncio.new_event_loop()
    servers: list[asyncio.Server] = []
    connections: set[SMTP] = set()

    async def start() -> None:
        for host in hosts or ["127.0.0.1"] * ports:
            server = await loop.create_server(
                lambda: _counted(receiver, connections, loop, options), host, port, ssl=implicit_tls
            )
            servers.append(server)
            receiver.ports.append(server.sockets[0].getsockname()[1])

    async def stop() -> None:
        for server in servers:
            server.close()
        for one in connections:
            if one.transport is not None:
                with suppress(AttributeError):  # Python 3.11.2, where TLS is closed already
                    one.transport.abort()
        await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        yield receiver
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def _counted(
    receiver: Receiver, connections: set[SMTP], loop: asyncio.AbstractEventLoop, options: dict[str, object]
) -> SMTP:
    class Counted(SMTP):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if len(connections) >= receiver.most:
                transport.abort()  # type: ignore[attr-defined]
                return
            receiver.connections[transport.get_extra_info("sockname")[1]] += 1
            connections.add(self)
            super().connection_made(transport)

        def connection_lost(self, error: Exception | None) -> None:
            if self in connections:
                connections.discard(self)
                super().connection_lost(error)

    return Counted(receiver, loop=loop, hostname="receiver.example", **options)  # type: ignore[arg-type]
