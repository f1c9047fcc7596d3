"""A name server on loopback whose every answer is written by the test: UDP and TCP, one thread each.

A script is called with the query and the transport and returns the octets to send: for UDP a list of datagrams, for TCP
a list of pieces of the stream (two octets of length included), each sent on its own. A piece of None waits for the
client to go away. :func:`reply` makes a proper answer to start from.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Transport = Literal["udp", "tcp"]
Script = Callable[[dns.message.Message, Transport], Iterable[bytes | None]]


def reply(
    query: dns.message.Message,
    *records: str,
    authority: Iterable[str] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = 0,
) -> dns.message.Message:
    """An answer; records are written as ``name ttl IN type data``."""
    message = dns.message.make_response(query, recursion_available=True)
    message.set_rcode(rcode)
    message.flags |= flags
    for section, lines in ((message.answer, records), (message.authority, authority)):
        for line in lines:
            name, ttl, rdclass, rdtype, data = line.split(None, 4)
            section.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))
    return message


def stream(message: dns.message.Message) -> bytes:
    """A message as it goes over TCP."""
    wire: bytes = message.to_wire(max_size=65535)
    return len(wire).to_bytes(2, "big") + wire


@dataclass
class LoopbackNameServer:
    """The running server: where it listens (``127.0.0.1:port``) and which queries came, by transport."""

    address: str
    queries: list[tuple[Transport, dns.message.Message]] = field(default_factory=list)

    @property
    def transports(self) -> list[Transport]:
        """The transports of the queries, in order."""
        return [transport for transport, _ in self.queries]


@contextmanager
def serving(script: Script) -> Iterator[LoopbackNameServer]:
    """Run a server with a script until the end of the block."""
    with ExitStack() as sockets:
        udp, tcp = map(sockets.enter_context, _bound_to_one_port())
        tcp.listen(5)
        server = LoopbackNameServer(f"127.0.0.1:{udp.getsockname()[1]}")
        stop = threading.Event()
        threads = [
            threading.Thread(target=_serve_udp, args=(udp, script, server, stop)),
            threading.Thread(target=_serve_tcp, args=(tcp, script, server, stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield server
        finally:
            stop.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knock:
                knock.sendto(b"", udp.getsockname())
            socket.create_connection(tcp.getsockname()).close()
            for thread in threads:
                thread.join()


def _bound_to_one_port() -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP with the same free port."""
    for _ in range(20):
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.bind(("127.0.0.1", 0))
            udp.bind(tcp.getsockname())
        except OSError:  # a bound socket cannot be bound again
            udp.close()
            tcp.close()
            continue
        return udp, tcp
    raise OSError("no port is free for UDP and TCP")


def _serve_udp(udp: socket.socket, script: Script, server: LoopbackNameServer, stop: threading.Event) -> None:
    while True:
        wire, client = udp.recvfrom(65535)
        if stop.is_set():
            return
        query = dns.message.from_wire(wire)
        server.queries.append(("udp", query))
        for datagram in script(query, "udp"):
            if datagram is not None:
                udp.sendto(datagram, client)


def _serve_tcp(tcp: socket.socket, script: Script, server: LoopbackNameServer, stop: threading.Event) -> None:
    while True:
        connection, _ = tcp.accept()
        with connection:
            if stop.is_set():
                return
            connection.settimeout(30)
            try:
                with connection.makefile("rb") as octets:
                    wire = octets.read(int.from_bytes(octets.read(2), "big"))
                if not wire:
                    continue  # the client did not wait for its connection
                query = dns.message.from_wire(wire)
                server.queries.append(("tcp", query))
                for piece in script(query, "tcp"):
                    if piece is None:
                        connection.recv(1)
                    else:
                        connection.sendall(piece)
            except OSError:
                pass  # the client had enough
