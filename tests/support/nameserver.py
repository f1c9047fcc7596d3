"""A small name server over UDP and TCP, answering from a zone (RFC 1035, RFC 2308).

It behaves as the resolver of a machine: it chases CNAMEs inside its zone, says NXDOMAIN for names it does not know
and sends an SOA with negative answers. A zone maps names to :class:`Records`; the failures of real life are values
of :class:`Failure`. Every question is kept in :attr:`NameServer.queries`::

    with NameServer(REFERENCE_ZONE) as dns:
        office.write_zenv(RESOLVER=dns.address)
        ...
    assert ("example.com", "MX") in dns.queries
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


class Failure(Enum):
    """What a name can get instead of an answer."""

    NXDOMAIN = "there is no such name"
    SERVFAIL = "the server failed"
    BOGUS = "the server failed to validate: with the CD bit it says that there is nothing"
    REFUSED = "the server does not want to"
    SILENCE = "no answer at all"


Records = Mapping[str, tuple[str, ...]]
"""The records of one name: mnemonic of the type to the texts of the records (names in them end in a dot)."""

Zone = Mapping[str, Records | Failure]

REFERENCE_ZONE: Zone = {
    "example.com": {"MX": ("10 mx.example.com.",)},
    "mx.example.com": {"A": ("127.0.0.1",)},
    "multimx.example": {"MX": ("10 dead.example.", "20 mx1.example.", "20 mx2.example.")},
    "dead.example": {"A": ("127.0.0.9",)},
    "mx1.example": {"A": ("127.0.0.1",)},
    "mx2.example": {"A": ("127.0.0.1",)},
    "nx.example": Failure.NXDOMAIN,
    "servfail.example": Failure.SERVFAIL,
}

_TTL = 300
_SOA = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 60"
_RCODES = {
    Failure.NXDOMAIN: dns.rcode.NXDOMAIN,
    Failure.SERVFAIL: dns.rcode.SERVFAIL,
    Failure.BOGUS: dns.rcode.SERVFAIL,
    Failure.REFUSED: dns.rcode.REFUSED,
}


class NameServer:
    """The server; ``address`` is what a configuration wants: ``127.0.0.1:port``.

    ``validated`` sets the AD bit on answers that are no failures, as a resolver does that validates, in a world where
    all zones are signed.
    """

    def __init__(self, zone: Zone, *, host: str = "127.0.0.1", validated: bool = False) -> None:
        self._validated = validated
        self._zone = {dns.name.from_text(name): records for name, records in zone.items()}
        self.queries: list[tuple[str, str]] = []
        self._udp, self._tcp = _bind(host)
        self.port: int = self._udp.getsockname()[1]
        self.address = f"{host}:{self.port}"
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._serve_udp, self._serve_tcp)]

    def __enter__(self) -> NameServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        # a datagram is what ends recvfrom(): shutdown() does not on an unconnected UDP socket
        self._udp.sendto(b"", self._udp.getsockname())
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread of the name server would not end"
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while not self._stopping.is_set():
            data, peer = self._udp.recvfrom(65535)
            answer = self._answer(data)
            if answer is not None:
                with suppress(OSError):
                    self._udp.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            with sock, suppress(OSError, struct.error):
                sock.settimeout(30)
                with sock.makefile("rb") as octets:
                    (length,) = struct.unpack("!H", octets.read(2))
                    answer = self._answer(octets.read(length))
                if answer is not None:
                    sock.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, data: bytes) -> bytes | None:
        try:
            query = dns.message.from_wire(data)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.queries.append((question.name.to_text(omit_final_dot=True).lower(), rdtype))
        response = dns.message.make_response(query, recursion_available=True)
        name = question.name
        for _ in range(10):
            records = self._zone.get(name, Failure.NXDOMAIN)
            if records is Failure.SILENCE:
                return None
            if records is Failure.BOGUS and query.flags & dns.flags.CD:
                break
            if isinstance(records, Failure):
                response.set_rcode(_RCODES[records])
                break
            if rdtype in records:
                response.answer.append(dns.rrset.from_text(name, _TTL, "IN", rdtype, *records[rdtype]))
                break
            if "CNAME" not in records:
                break
            alias = dns.rrset.from_text(name, _TTL, "IN", "CNAME", *records["CNAME"])
            response.answer.append(alias)
            name = alias[0].target
        if not response.answer and response.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
            response.authority.append(dns.rrset.from_text(dns.name.root, 60, "IN", "SOA", _SOA))
        if self._validated and response.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
            response.flags |= dns.flags.AD
        return response.to_wire()


def _bind(host: str) -> tuple[socket.socket, socket.socket]:
    """One port for both transports."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((host, 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(udp.getsockname())
            tcp.listen(16)
        except OSError:
            udp.close()
            tcp.close()
            continue
        return udp, tcp
