"""Name servers: where they are, and one exchange of octets with one of them (RFC 1035 4.2, RFC 7766, resolv.conf(5)).

:func:`ask_udp` and :func:`ask_tcp` send a query and bring back a reply before a deadline, however slowly a server drips
and whatever else arrives. The UDP socket is connected, so that the kernel drops what comes from elsewhere and reports a
closed port at once; a datagram that is not a reply with the identifier of the query is waited past (RFC 5452 9.1). What
a reply means is not decided here; see ``zsmtp.dns.wire``. Time is seconds on the clock handed in.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

from zsmtp.dns.ip import canonical_scoped_ip, is_loopback
from zsmtp.dns.literal import shown
from zsmtp.errors import ConfigError

DNS_PORT = 53
MAX_SERVERS = 3
"""Name servers of resolv.conf that are used (MAXNS of the C library)."""
HEADER_SIZE = 12
GLANCE = 0.2
"""Seconds between two looks at whether a reply is still wanted."""

_MAX_MESSAGE = 65535
_WITH_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", re.ASCII)
_RESPONSE_BIT = 0x80  # QR, in the third octet of the header

Clock = Callable[[], float]
Over = Callable[[], bool]
"""Whether nobody wants a reply any more."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class NameServer:
    """Where a name server listens: a numeric address, with a scope (``%eth0``) where it is link-local, and a port."""

    address: str
    port: int = DNS_PORT

    @property
    def is_local(self) -> bool:
        """Whether it is reached by the loopback interface, so that nobody can change its answers on the way."""
        return is_loopback(self.address)

    def __str__(self) -> str:
        return self.address if self.port == DNS_PORT else f"{self.address} port {self.port}"


def parse_nameserver(text: str) -> NameServer:
    """Read ``192.0.2.53``, ``192.0.2.53:5353``, ``2001:db8::53``, ``[2001:db8::53]`` or ``[2001:db8::53]:5353``.

    Raises ConfigError for anything else; a name is of no use before there is a resolver.
    """
    bare = text.strip()
    address = canonical_scoped_ip(bare)
    if address is not None:
        return NameServer(address)
    match = _WITH_PORT.fullmatch(bare)
    if match is not None:
        address = canonical_scoped_ip(match[1] or match[2])
        port = DNS_PORT if match[3] is None else int(match[3])
        if address is not None and (":" in address) == (match[1] is not None) and 1 <= port <= 65535:
            return NameServer(address, port)
    raise ConfigError(f"not the address of a name server: {shown(text)}")


def parse_resolv_conf(text: str) -> tuple[NameServer, ...]:
    """The name servers of a resolver configuration; without any, the one on this machine, as resolv.conf(5) has it.

    Search lists and options are not read: names in mail are complete (RFC 5321 2.3.5).
    """
    servers: list[NameServer] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] == "nameserver":
            address = canonical_scoped_ip(fields[1])
            if address is not None and NameServer(address) not in servers:
                servers.append(NameServer(address))
    return tuple(servers[:MAX_SERVERS]) or (NameServer("127.0.0.1"),)


def _socket(
    server: NameServer, kind: socket.SocketKind
) -> tuple[socket.socket, tuple[str, int] | tuple[str, int, int, int]]:
    """A socket for the server and the address to connect it to (getaddrinfo turns a scope into its number)."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        family, _, protocol, _, address = socket.getaddrinfo(server.address, server.port, 0, kind, 0, flags)[0]
    except socket.gaierror as error:
        raise OSError(f"address cannot be used: {error.strerror}") from error
    return socket.socket(family, kind, protocol), address  # type: ignore[return-value]


def _remaining(deadline: float, clock: Clock) -> float:
    left = deadline - clock()
    if left <= 0:
        raise TimeoutError
    return left


def _receive_some(connection: socket.socket, size: int, deadline: float, clock: Clock, over: Over) -> bytes:
    """What comes next, ``size`` octets at most. Raises TimeoutError at the deadline or soon after it is all over."""
    while True:
        connection.settimeout(min(_remaining(deadline, clock), GLANCE))
        try:
            return connection.recv(size)
        except TimeoutError:
            if over():
                raise


def ask_udp(server: NameServer, query: bytes, deadline: float, clock: Clock, over: Over = _never) -> bytes:
    """The reply datagram to a query, a whole header at least.

    Raises TimeoutError at the deadline or soon after it is ``over``, any other OSError as the system gives it.
    """
    connection, address = _socket(server, socket.SOCK_DGRAM)
    with connection:
        connection.settimeout(_remaining(deadline, clock))
        connection.connect(address)
        connection.send(query)
        while True:
            reply = _receive_some(connection, _MAX_MESSAGE, deadline, clock, over)
            if is_reply(query, reply):
                return reply


def is_reply(query: bytes, reply: bytes) -> bool:
    """Whether a message is a response with the identifier of the query."""
    return len(reply) >= HEADER_SIZE and reply[:2] == query[:2] and bool(reply[2] & _RESPONSE_BIT)


def ask_tcp(server: NameServer, query: bytes, deadline: float, clock: Clock, over: Over = _never) -> bytes:
    """The reply to a query over a connection of its own.

    Raises TimeoutError at the deadline or soon after it is ``over``, ConnectionError for an answer that is cut short or
    not to this query, any other OSError as the system gives it.
    """
    connection, address = _socket(server, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(_remaining(deadline, clock))
        connection.connect(address)
        connection.settimeout(_remaining(deadline, clock))
        connection.sendall(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(_receive(connection, 2, deadline, clock, over), "big")
        reply = _receive(connection, length, deadline, clock, over)
    if not is_reply(query, reply):
        raise ConnectionError("the answer belongs to another question")
    return reply


def _receive(connection: socket.socket, size: int, deadline: float, clock: Clock, over: Over) -> bytes:
    """Exactly ``size`` octets; the deadline is for all of them together."""
    received = bytearray()
    while len(received) < size:
        block = _receive_some(connection, size - len(received), deadline, clock, over)
        if not block:
            raise ConnectionError("the connection was closed before the answer was complete")
        received += block
    return bytes(received)
