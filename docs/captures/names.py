"""The name server of the recordings, on this machine: a validating resolver for a world where example.org is signed."""

from __future__ import annotations

import socket
import struct
import threading

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SIGNED = [dns.name.from_text(name) for name in ("example.org", "example.net", "2.0.192.in-addr.arpa", ".")]
UNSIGNED = [dns.name.from_text(name) for name in ("example.com", "example")]
ZONE = """
example.org MX 10 mx1.example.org.
example.org MX 20 mx2.example.org.
mx1.example.org A 192.0.2.25
mx1.example.org AAAA 2001:db8::25
mx2.example.org A 192.0.2.26
example.com MX 10 mail.example.com.
mail.example.com A 198.51.100.25
_mta-sts.example.com TXT "v=STSv1; id=20261126T1200"
mta-sts.example.com A 198.51.100.80
_smtp._tls.example.com TXT "v=TLSRPTv1; rua=mailto:tls-reports@example.com"
quiet.example MX 0 .
brisbane._domainkey.football.example.com TXT "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
relay.example.net A 192.0.2.30
mailbox.example.net A 192.0.2.40
out.example.net A 203.0.113.10
out.example.net AAAA 2001:db8:1::10
10.113.0.203.in-addr.arpa PTR out.example.net.
0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR out.example.net.
"""


class NameServer:
    """Answers on port 53 of 127.0.0.1, over UDP and TCP. ``more`` are further lines of the zone."""

    def __init__(self, more: str) -> None:
        self._sets: dict[tuple[dns.name.Name, str], list[str]] = {}
        for line in (ZONE + more).strip().splitlines():
            name, kind, text = line.split(None, 2)
            self._sets.setdefault((dns.name.from_text(name), kind), []).append(text)
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        for one in (udp, tcp):
            one.bind(("127.0.0.1", 53))
        tcp.listen()
        threading.Thread(target=self._serve_udp, args=(udp,), daemon=True).start()
        threading.Thread(target=self._serve_tcp, args=(tcp,), daemon=True).start()

    def _serve_udp(self, udp: socket.socket) -> None:
        while True:
            data, peer = udp.recvfrom(65535)
            udp.sendto(self._answer(data), peer)

    def _serve_tcp(self, tcp: socket.socket) -> None:
        while True:
            one, _ = tcp.accept()
            with one:
                (length,) = struct.unpack("!H", one.recv(2, socket.MSG_WAITALL))
                answer = self._answer(one.recv(length, socket.MSG_WAITALL))
                one.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query, recursion_available=True)
        name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
        texts = self._sets.get((name, kind))
        if texts:
            response.answer.append(dns.rrset.from_text(name, 3600, "IN", kind, *texts))
        else:
            if not any(known.is_subdomain(name) for known, _ in self._sets):
                response.set_rcode(dns.rcode.NXDOMAIN)
            soa = "ns.example.net. hostmaster.example.net. 1 3600 600 86400 60"
            response.authority.append(dns.rrset.from_text(dns.name.root, 60, "IN", "SOA", soa))
        if not any(name.is_subdomain(zone) for zone in UNSIGNED):
            response.flags |= dns.flags.AD
        return response.to_wire()
