"""A listener: sockets for SMTP or LMTP on one asyncio loop; TCP, UNIX, or already bound ones.

All sockets of a :class:`Listener` have the same settings and the same intake; a process has one listener for each kind
of service (submission, relay, LMTP), which may share one :class:`ConnectionCount`::

    listener = Listener(intake, ListenerSettings(ServerSettings(name=b"mx.example.org")))
    await listener.listen_tcp("127.0.0.1", 2525)
    ...
    await listener.close(grace=10)

Connections over the limits get the reply 421. ``close`` accepts no new connections, waits for messages that are being
received or committed, sends 421 to idle clients, and aborts the rest after the grace period.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_passwords import Passwords
from zsmtp.proto.server_replies import TOO_MANY_CONNECTIONS, make_reply
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.server.connection import ServerConnection
from zsmtp.server.intake import Intake, PeerInfo
from zsmtp.server.tls import ServerTLS

BACKLOG = 512
BUFFER = 128 * 1024  # octets read from a connection at once
CHECK_THREADS = 2  # passwords checked at a time
_TURNS = 3  # iterations of the loop until an accepted connection appears
LINGER_AT_STOP = 1.0  # seconds for clients to take their last replies, and to close


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """The settings of a listener: those of the protocol (``protocol``), and others. Times are in seconds."""

    protocol: ServerSettings
    handshake: float = 60.0  # for a TLS handshake
    login_delay: float = 2.0  # before the reply to a failed login; longer by this with each further one of the session


class ConnectionCount:
    """Counts the connections of one or several listeners. ``total`` bounds them all, ``per_address`` those of a client.

    A client is an IPv4 address or an IPv6 network of 64 bits. Clients on UNIX sockets count in the total only.
    """

    def __init__(self, *, total: int = 1000, per_address: int = 100) -> None:
        self.total = total
        self.per_address = per_address
        self.open = 0
        self._by_client: Counter[str] = Counter()

    def take(self, peer: PeerInfo) -> bool:
        """Count a connection; returns whether it is within the limits. In both cases call :meth:`give_back` for it."""
        self.open += 1
        if not peer.address:
            return self.open <= self.total
        client = _client(peer.address)
        self._by_client[client] += 1
        return self.open <= self.total and self._by_client[client] <= self.per_address

    def give_back(self, peer: PeerInfo) -> None:
        """Uncount a closed connection."""
        self.open -= 1
        client = _client(peer.address)
        if peer.address:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]


class Listener:
    """Sockets, and the connections accepted on them. Make and use it within one running loop.

    ``passwords`` are the logins. ``tls`` is required for STARTTLS (``protocol.starttls``) and with ``implicit_tls``,
    which has TLS from the first octet; it may be replaced at any time. Raises ConfigError if it is missing.
    """

    def __init__(
        self,
        intake: Intake,
        settings: ListenerSettings,
        *,
        passwords: Passwords | None = None,
        tls: ServerTLS | None = None,
        implicit_tls: bool = False,
        count: ConnectionCount | None = None,
    ) -> None:
        if tls is None and (implicit_tls or settings.protocol.starttls):
            raise ConfigError("TLS is configured, and there is no certificate for it")
        self.intake = intake
        self.settings = settings
        self.passwords = passwords
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(BUFFER))  # for the input of all connections, one after the other
        self.connections: set[ServerConnection] = set()
        protocol = settings.protocol
        kind = "LMTP" if protocol.lmtp else "ESMTP"
        self.greeting = make_reply(220, "", f"{protocol.name.decode()} {kind} {protocol.banner}".rstrip())
        self._count = count or ConnectionCount()
        self._servers: list[asyncio.Server] = []
        self._paths: list[tuple[str, int, int]] = []  # with device and inode, so that only our own sockets are removed
        self._threads: ThreadPoolExecutor | None = None
        self._number = 0
        self._closing = False
        self._at_work: set[ServerConnection] = set()  # connections whose session has not ended
        self._changed = asyncio.Event()  # set when a connection has ended, or is closed

    # ----------------------------------------------------------------- sockets

    async def listen_tcp(self, host: str, port: int) -> None:
        """Listen on all addresses of ``host`` ("": every address of this system); port 0 takes a free one.

        Raises OSError if that is not possible.
        """
        self._servers.append(await self.loop.create_server(self._accepted, host or None, port, backlog=BACKLOG))

    async def listen_unix(self, path: str, *, mode: int = 0o666) -> None:
        """Listen on a UNIX socket. A stale one, on which no process listens, is replaced.

        Raises ConfigError if a process listens there, or if there is a file of another kind; OSError if it cannot be
        made.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise ConfigError(f"{escape(path)}: exists, and is not a socket")
            if _is_alive(path):
                raise ConfigError(f"{escape(path)}: another process listens there")
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            os.chmod(path, mode)
            made = os.lstat(path)
            self._servers.append(await self.loop.create_unix_server(self._accepted, sock=sock, backlog=BACKLOG))
        except BaseException:
            sock.close()
            raise
        self._paths.append((path, made.st_dev, made.st_ino))

    async def listen_socket(self, sock: socket.socket) -> None:
        """Listen on a stream socket that is bound already, as systemd passes it. Its file is not removed."""
        sock.setblocking(False)
        create = self.loop.create_unix_server if sock.family == socket.AF_UNIX else self.loop.create_server
        self._servers.append(await create(self._accepted, sock=sock, backlog=BACKLOG))

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets listened on; ``getsockname()`` of one gives its port."""
        return [sock for server in self._servers for sock in server.sockets]

    async def close(self, *, grace: float = 30.0) -> None:
        """Stop, within ``grace`` seconds; no message with a success reply is lost."""
        self._closing = True
        for sock in self.sockets:
            with contextlib.suppress(RuntimeError):  # uvloop has readers of its own
                self.loop.remove_reader(sock.fileno())
        for _ in range(_TURNS):  # asyncio loses an accepted connection of a server that is closed meanwhile
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        for path, device, inode in self._paths:
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == (device, inode):
                    os.unlink(path)
        self._servers.clear()
        self._paths.clear()
        for connection in tuple(self._at_work):
            connection.shutdown()
        await self._wait_for(self._at_work, grace)
        await self._wait_for(self.connections, LINGER_AT_STOP)
        for connection in tuple(self.connections):
            connection.abort()
        await self._wait_for(self.connections, LINGER_AT_STOP)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait_for(self, connections: set[ServerConnection], seconds: float) -> None:
        """Wait until none of these are left, ``seconds`` at most."""
        deadline = self.loop.time() + seconds
        while connections and (left := deadline - self.loop.time()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    # --------------------------------------------------------- for connections

    def _accepted(self) -> ServerConnection:
        return ServerConnection(self)

    def admit(self, connection: ServerConnection) -> Reply | None:
        """Count a connection; returns the reply that refuses it, None if it is served."""
        self.connections.add(connection)
        self._at_work.add(connection)
        return None if self._count.take(connection.peer) and not self._closing else TOO_MANY_CONNECTIONS

    def ended(self, connection: ServerConnection) -> None:
        """Record the end of a connection's session; its last replies may still be in transmission."""
        self._at_work.discard(connection)
        self._changed.set()

    def forget(self, connection: ServerConnection) -> None:
        """Remove a counted connection that is closed."""
        self.ended(connection)
        if connection in self.connections:
            self.connections.discard(connection)
            self._count.give_back(connection.peer)

    def next_number(self) -> int:
        """A number for the next session."""
        self._number += 1
        return self._number

    def utc(self) -> float:
        """The POSIX time."""
        return time.time()

    def threads(self) -> ThreadPoolExecutor:
        """The threads that check passwords."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="zsmtp passwords")
        return self._threads


def _client(address: str) -> str:
    """The address, or the IPv6 network, that counts as one client."""
    if ":" not in address:
        return address
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8].hex()


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True
