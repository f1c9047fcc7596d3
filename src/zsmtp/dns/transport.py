"""One exchange of octets with a name server, on sockets that never block (RFC 1035 4.2, RFC 5452 9, RFC 7766).

:func:`exchange` carries out an :class:`~zsmtp.dns.nameserver.AskServer`, and awaits a :class:`SocketWait` for each
wait; an event loop carries that out, or :class:`BlockingWaits` with ``poll``. Each query has a socket of its own, with
a random port chosen by the kernel. It is connected, so that the kernel drops datagrams from other addresses and reports
a closed port at once. A datagram counts as the reply only if it has the identifier and the question of the query;
others are ignored, up to :data:`MAX_STRAYS` of them, and never beyond the deadline::

    result = carry_out(exchange(effect, time.monotonic), waits.wait)
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Generator
from functools import lru_cache

from zsmtp.dns.nameserver import AskServer, Heard, NameServer, is_reply
from zsmtp.records import NamedTuple

MAX_STRAYS = 100
"""So many datagrams that are no reply to the query make the query go by TCP."""
GLANCE = 0.2
"""Seconds between two checks of ``over`` while ``poll`` waits."""

READABLE = select.POLLIN
WRITABLE = select.POLLOUT

_MAX_MESSAGE = 65535
_AT_A_TIME = 16  # datagrams that are read before other work gets a turn
_STARVED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Clock = Callable[[], float]
Over = Callable[[], bool]
"""Returns True once no caller waits for the reply any more."""


class SocketWait(NamedTuple):
    """Wait until ``socket`` is ready for ``interest`` (bits of poll(2)), or failed, or until ``deadline``.

    A wait may end early and spuriously: the caller checks again. Its result is whether a reply is still wanted.
    """

    socket: socket.socket
    interest: int
    deadline: float

    def __await__(self) -> Generator[SocketWait, bool, bool]:
        """Whether a reply is still wanted."""
        return (yield self)


async def exchange(effect: AskServer, clock: Clock) -> Heard:
    """Send the query, and wait for the reply. Awaits ``SocketWait``."""
    deadline = min(effect.deadline, clock() + effect.seconds)
    try:
        ask = _ask_tcp if effect.tcp else _ask_udp
        return await ask(effect.server, effect.query, deadline, clock)
    except TimeoutError:
        return Heard()
    except OSError as error:
        return Heard(problem=error.strerror or str(error), starved=error.errno in _STARVED)


class BlockingWaits:
    """Waits with ``poll``, until the ``clock`` shows the deadline, or soon after it is ``over``."""

    def __init__(self, clock: Clock, over: Over) -> None:
        self._clock = clock
        self._over = over

    def wait(self, wait: SocketWait) -> bool:
        """Carry out one wait."""
        poll = select.poll()
        poll.register(wait.socket, wait.interest)
        while (left := wait.deadline - self._clock()) > 0:
            if poll.poll(min(left, GLANCE) * 1000):
                break
            if self._over():
                return False
        return True


_Address = tuple[str, int] | tuple[str, int, int, int]


def _socket(server: NameServer, kind: socket.SocketKind) -> tuple[socket.socket, _Address]:
    """A socket for the server and the address to connect it to."""
    family, address = _address(server) if "%" in server.address else _known_address(server)
    return socket.socket(family, kind | socket.SOCK_NONBLOCK), address


def _address(server: NameServer) -> tuple[socket.AddressFamily, _Address]:
    """The socket address; getaddrinfo turns a scope into the interface's number, which may change."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        found = socket.getaddrinfo(server.address, server.port, type=socket.SOCK_DGRAM, flags=flags)
    except socket.gaierror as error:
        raise OSError(f"address cannot be used: {error.strerror}") from error
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]


_known_address = lru_cache(16)(_address)


async def _ready(sock: socket.socket, interest: int, deadline: float, clock: Clock) -> None:
    if clock() >= deadline or not await SocketWait(sock, interest, deadline):
        raise TimeoutError


async def _ask_udp(server: NameServer, query: bytes, deadline: float, clock: Clock) -> Heard:
    if clock() >= deadline:
        raise TimeoutError
    connection, address = _socket(server, socket.SOCK_DGRAM)
    with connection:
        connection.connect(address)
        await _send(connection, query, deadline, clock)
        strays = 0
        while strays <= MAX_STRAYS:
            await _ready(connection, READABLE, deadline, clock)
            try:
                for _ in range(_AT_A_TIME):
                    reply = connection.recv(_MAX_MESSAGE)
                    if is_reply(query, reply):
                        return Heard(reply)
                    strays += 1
            except BlockingIOError:
                pass
    return Heard(flooded=True)


async def _ask_tcp(server: NameServer, query: bytes, deadline: float, clock: Clock) -> Heard:
    if clock() >= deadline:
        raise TimeoutError
    connection, address = _socket(server, socket.SOCK_STREAM)
    with connection:
        try:
            connection.connect(address)
        except BlockingIOError:
            await _ready(connection, WRITABLE, deadline, clock)
        # A socket that is not connected has no peer: sending then reports the error, or that connecting takes time.
        await _send(connection, len(query).to_bytes(2, "big") + query, deadline, clock)
        length = int.from_bytes(await _receive(connection, 2, deadline, clock), "big")
        reply = await _receive(connection, length, deadline, clock)
    if not is_reply(query, reply):
        raise ConnectionError("the answer belongs to another question")
    return Heard(reply)


async def _send(connection: socket.socket, octets: bytes, deadline: float, clock: Clock) -> None:
    while octets:
        try:
            octets = octets[connection.send(octets) :]
        except BlockingIOError:
            await _ready(connection, WRITABLE, deadline, clock)


async def _receive(connection: socket.socket, size: int, deadline: float, clock: Clock) -> bytes:
    """Receive exactly ``size`` octets by the deadline."""
    received = bytearray()
    while len(received) < size:
        await _ready(connection, READABLE, deadline, clock)
        try:
            block = connection.recv(size - len(received))
        except BlockingIOError:
            continue
        if not block:
            raise ConnectionError("the connection was closed before the answer was complete")
        received += block
    return bytes(received)
