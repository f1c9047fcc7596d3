"""Chooses the name for EHLO, HELO and LHLO, and checks one (RFC 5321 4.1.1.1 and 4.1.3).

A receiver may compare the name with the address of the client, so the best name is the one that the DNS has for that
address, in both directions. :func:`helo_name` chooses: the configured name; else the name of the local address of this
connection, if its reverse lookup is confirmed by a forward one; else the host's own name if it is qualified; else the
address as a literal, which is always true. It awaits lookups like the destination rules; after a failed lookup it takes
the next choice, and the driver bounds the time of the lookups. :func:`check_helo` makes the receiver's check, for a
test beforehand.
"""

from __future__ import annotations

from zsmtp.dns.answer import Query, RecordType
from zsmtp.dns.candidates import Family
from zsmtp.dns.ip import canonical_ip, ip_family, is_link_local, is_loopback, is_unspecified, reverse_name, unmapped
from zsmtp.dns.literal import domain_problem
from zsmtp.idn import to_ascii
from zsmtp.records import dataclass

_MAX_POINTERS = 3  # names checked for an address that has more


async def helo_name(local_address: str | None, *, configured: str | None, host_name: str) -> str:
    """The name to greet with; never empty.

    ``local_address`` is the numeric address of this side of the connection, None on a UNIX socket. ``configured`` is
    the value of ``-h`` and used unchanged. ``host_name`` is the system's host name, qualified or not.
    """
    if configured:
        return configured
    own = _domain(host_name)
    address = None if local_address is None else canonical_ip(local_address.partition("%")[0])
    if address is None:
        return own or "localhost"
    address = unmapped(address)
    if not (is_loopback(address) or is_unspecified(address) or is_link_local(address)):
        confirmed = await _confirmed_name(address)
        if confirmed is not None:
            return confirmed
    if own is not None and _is_qualified(own):
        return own
    return "localhost" if is_unspecified(address) else address_literal(address)


@dataclass(frozen=True, slots=True)
class HeloCheck:
    """A receiver's view of a greeting: ``name`` compared with the client's ``address``.

    ``reverse`` are the names that the DNS has for the address; ``named``: ``name`` is one of them; ``confirmed``: the
    address is one of the name's. ``problem`` is the reason of a failed lookup, "" if none failed.
    """

    name: str
    address: str
    reverse: tuple[str, ...] = ()
    named: bool = False
    confirmed: bool = False
    problem: str = ""


async def check_helo(name: str, address: str) -> HeloCheck:
    """Check a greeting as a receiver may: reverse lookup of the address, forward lookup of the name.

    An address literal needs no forward lookup.
    """
    address = unmapped(canonical_ip(address.partition("%")[0]) or address)
    if is_loopback(address) or is_link_local(address):
        return HeloCheck(name, address, problem="an address that only this machine or link knows")
    answer = await Query(reverse_name(address), RecordType.PTR)
    found = (_domain(record) for record in answer.records if isinstance(record, str))
    reverse = tuple(dict.fromkeys(one for one in found if one is not None))
    problem = f"reverse lookup: {answer.status.value}" if answer.temporary else ""
    own = _domain(name)
    if own is None:
        return HeloCheck(name, address, reverse, confirmed=name == address_literal(address), problem=problem)
    forward = RecordType.AAAA if ip_family(address) is Family.INET6 else RecordType.A
    answer = await Query(own, forward)
    confirmed = any(isinstance(record, str) and canonical_ip(record) == address for record in answer.records)
    if answer.temporary:
        problem = "; ".join(filter(None, (problem, f"lookup of {own}: {answer.status.value}")))
    return HeloCheck(name, address, reverse, own in reverse, confirmed, problem)


def address_literal(address: str) -> str:
    """An address in the place of a name in SMTP: ``[192.0.2.1]``, ``[IPv6:2001:db8::1]`` (RFC 5321 4.1.3)."""
    return f"[IPv6:{address}]" if ip_family(address) is Family.INET6 else f"[{address}]"


async def _confirmed_name(address: str) -> str | None:
    """A name of the address whose forward lookup gives the address."""
    forward = RecordType.AAAA if ip_family(address) is Family.INET6 else RecordType.A
    answer = await Query(reverse_name(address), RecordType.PTR)
    names = [_domain(record) for record in answer.records[:_MAX_POINTERS] if isinstance(record, str)]
    for name in names:
        if name is None or not _is_qualified(name):
            continue
        answer = await Query(name, forward)
        if any(isinstance(record, str) and canonical_ip(record) == address for record in answer.records):
            return name
    return None


def _domain(text: str) -> str | None:
    """A text as a host name in A-labels; None if it is no host name."""
    name = to_ascii(text)
    return name if name is not None and domain_problem(name) is None else None


def _is_qualified(name: str) -> bool:
    """Whether a host name has a domain besides the machine's name; the installers' default domain does not count."""
    return "." in name and not name.endswith(".localdomain")
