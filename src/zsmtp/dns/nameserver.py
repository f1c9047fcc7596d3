"""Name servers: their addresses, and one query to one of them (RFC 1035 4.2, RFC 7766, resolv.conf(5)).

:class:`AskServer` is an effect: one query as octets to one server, by UDP or TCP; its result is a :class:`Heard`.
``zsmtp.dns.questioning`` decides on queries, servers and retries, ``zsmtp.dns.wire`` interprets replies, and
``zsmtp.dns.transport`` carries the effect out.
"""

from __future__ import annotations

import re

from zsmtp.dns.ip import canonical_scoped_ip, is_loopback
from zsmtp.dns.literal import shown
from zsmtp.effects import Effect
from zsmtp.errors import ConfigError
from zsmtp.patterns import pattern
from zsmtp.records import NamedTuple, dataclass

DNS_PORT = 53
HEADER_SIZE = 12
"""Octets of a message before its question."""
MAX_SERVERS = 3
"""Name servers of resolv.conf that are used (MAXNS of the C library)."""

_RESPONSE_BIT = 0x80  # QR, in the third octet of the header
_OPCODE = 0x78
_QUESTION_LEFT_OUT = frozenset({1, 2, 4, 5})  # FORMERR, SERVFAIL, NOTIMP, REFUSED may come without the question
_WITH_PORT = pattern(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class NameServer:
    """The address of a name server: numeric, with a scope (``%eth0``) if it is link-local, and a port."""

    address: str
    port: int = DNS_PORT

    @property
    def is_local(self) -> bool:
        """Whether its address is on the loopback interface, so that no attacker on the path can change its answers."""
        return is_loopback(self.address)

    def __str__(self) -> str:
        return self.address if self.port == DNS_PORT else f"{self.address} port {self.port}"


def parse_nameserver(text: str) -> NameServer:
    """Read ``192.0.2.53``, ``192.0.2.53:5353``, ``2001:db8::53``, ``[2001:db8::53]`` or ``[2001:db8::53]:5353``.

    Raises ConfigError for anything else; a name cannot be resolved before there is a resolver.
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
    """The name servers of a resolver configuration; without any, the one on this machine, as in resolv.conf(5).

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


class Heard(NamedTuple):
    """The result of one query to one server: its reply, or the reason why there is none."""

    reply: bytes = b""
    """The whole message, with the identifier and the question of the query; b"" if there is none."""
    problem: str = ""
    """The reason why there is no reply; "" if there is one, and for a server that did not reply in time."""
    flooded: bool = False
    """So many messages came that are no reply to this query that an attacker may be guessing its identifier."""
    starved: bool = False
    """No socket was available, for instance because too many files are open; a later query may succeed."""

    @property
    def silent(self) -> bool:
        """Whether nothing came in time."""
        return not self.reply and not self.problem and not self.flooded


@dataclass(frozen=True, slots=True)
class AskServer(Effect[Heard]):
    """Send ``query`` to ``server``, once, and wait for the reply."""

    server: NameServer
    query: bytes
    """A message with one question."""
    tcp: bool
    """Whether to use TCP instead of UDP."""
    seconds: float
    """How long to wait for the reply after sending the query."""
    deadline: float
    """The latest end of the wait, on the clock of :class:`~zsmtp.effects.ReadClock`."""
    again: bool = False
    """Whether the server did not reply to this query before: other queries are more likely to get a reply."""


def is_reply(query: bytes, reply: bytes) -> bool:
    """Whether a message answers the query: same identifier, a reply, same question in any case (RFC 5452 9.1).

    A server that reports an error may omit the question.
    """
    if len(reply) < HEADER_SIZE or reply[:2] != query[:2] or not reply[2] & _RESPONSE_BIT:
        return False
    if (reply[2] ^ query[2]) & _OPCODE:
        return False
    questions = int.from_bytes(reply[4:6], "big")
    if not questions:
        return reply[3] & 0x0F in _QUESTION_LEFT_OUT
    end = HEADER_SIZE
    while query[end]:
        end += query[end] + 1
    name, kind = slice(HEADER_SIZE, end + 1), slice(end + 1, end + 5)
    return questions == 1 and reply[name].lower() == query[name].lower() and reply[kind] == query[kind]
