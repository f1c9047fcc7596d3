"""IP addresses as text: one canonical spelling for each, and the few properties that mail rules need.

Addresses travel through this package as canonical text: dotted quad for IPv4 (RFC 6943 3.1.1, no leading zeros), the
form of RFC 5952 for IPv6 (lower case, longest run of zeros as ``::``, IPv4-mapped addresses with a dotted tail). Two
addresses are the same if and only if their canonical texts are equal, on which the loop detection of
``zsmtp.dns.destination`` and the forward confirmation of ``zsmtp.dns.heloname`` rely.

``ipaddress`` of the standard library does all of this and more, but takes a fifth of the agent's start-up time; a
delivery to an address literal needs only the functions below::

    canonical_ip("2001:DB8:0:0::1")   # '2001:db8::1'
    reverse_name("192.0.2.1")         # '1.2.0.192.in-addr.arpa'
"""

from __future__ import annotations

from zsmtp.dns.candidates import Family

_MAPPED = bytes(10) + b"\xff\xff"
_HEX = frozenset("0123456789abcdefABCDEF")
_MAX_ZONE = 15  # octets of the name of an interface (IFNAMSIZ) without its final NUL
_ZONE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 6874 2, not encoded


def parse_ip(text: str) -> bytes | None:
    """The 4 or 16 octets of an address in network order, or None if ``text`` is not an IP address.

    No scope (``%eth0``), no port, no leading zeros in IPv4, no surrounding blanks.
    """
    return _parse_ipv6(text) if ":" in text else _parse_ipv4(text)


def _parse_ipv4(text: str) -> bytes | None:
    if len(text) > 15:
        return None
    parts = text.split(".")
    if len(parts) != 4 or not all(1 <= len(part) <= 3 and part.isascii() and part.isdigit() for part in parts):
        return None
    if any(len(part) > 1 and part[0] == "0" for part in parts):
        return None  # some parsers take a leading zero for octal: such an address is ambiguous
    numbers = [int(part) for part in parts]
    return bytes(numbers) if max(numbers) <= 255 else None


def _parse_ipv6(text: str) -> bytes | None:
    if len(text) > 45:
        return None
    tail = b""
    if "." in text:
        text, _, dotted = text.rpartition(":")
        quad = _parse_ipv4(dotted)
        if quad is None:
            return None
        tail = quad
        if text.endswith(":") or not text:
            text += ":"  # '::1.2.3.4' lost one of its two colons to the split
    head, gap, rest = text.partition("::")
    if not gap:
        groups = _groups(text)
        return groups + tail if groups is not None and len(groups) + len(tail) == 16 else None
    left, right = _groups(head), _groups(rest)
    if left is None or right is None:
        return None
    missing = 16 - len(left) - len(right) - len(tail)
    return left + bytes(missing) + right + tail if missing >= 2 else None


def _groups(text: str) -> bytes | None:
    """The octets of colon-separated groups of one to four hexadecimal digits; an empty text has none."""
    if not text:
        return b""
    packed = bytearray()
    for group in text.split(":"):
        if not 1 <= len(group) <= 4 or not _HEX.issuperset(group):
            return None
        packed += int(group, 16).to_bytes(2, "big")
    return bytes(packed)


def format_ip(packed: bytes) -> str:
    """The canonical text of 4 or 16 octets (RFC 5952 4 and 5). Raises ValueError for any other length."""
    if len(packed) == 4:
        return ".".join(map(str, packed))
    if len(packed) != 16:
        raise ValueError(f"an IP address has 4 or 16 octets, not {len(packed)}")
    if packed[:12] == _MAPPED:
        return "::ffff:" + format_ip(packed[12:])
    groups = [int.from_bytes(packed[i : i + 2], "big") for i in range(0, 16, 2)]
    start, length = _longest_zeros(groups)
    words = [f"{group:x}" for group in groups]
    if length < 2:
        return ":".join(words)
    return ":".join(words[:start]) + "::" + ":".join(words[start + length :])


def _longest_zeros(groups: list[int]) -> tuple[int, int]:
    """First index and length of the longest run of zero groups; the leftmost wins (RFC 5952 4.2.3)."""
    best = (0, 0)
    start = 0
    for index, group in enumerate([*groups, 1]):
        if group:
            if index - start > best[1]:
                best = (start, index - start)
            start = index + 1
    return best


def canonical_ip(text: str) -> str | None:
    """The canonical text of an address, or None if ``text`` is not one."""
    packed = parse_ip(text)
    return None if packed is None else format_ip(packed)


def canonical_scoped_ip(text: str) -> str | None:
    """Like :func:`canonical_ip`; a link-local IPv6 address may have a zone (RFC 4007 11): ``fe80::1%eth0``.

    The zone, an interface by name or number, is valid on this machine only. Its spelling is kept.
    """
    bare, mark, zone = text.partition("%")
    address = canonical_ip(bare)
    if address is None or not mark:
        return address
    fits = 1 <= len(zone) <= _MAX_ZONE and _ZONE.issuperset(zone)
    return f"{address}%{zone}" if fits and ":" in address and is_link_local(address) else None


def without_zone(address: str) -> str:
    """An address without its zone, as other hosts use it."""
    return address.partition("%")[0]


def ip_family(address: str) -> Family:
    """The family of an address in text form."""
    return Family.INET6 if ":" in address else Family.INET


def unmapped(address: str) -> str:
    """The IPv4 address inside an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2), any other address unchanged.

    The kernel connects ``::ffff:127.0.0.1`` to the same place as ``127.0.0.1``, so comparisons must treat them as
    equal.
    """
    return address.removeprefix("::ffff:") if address.startswith("::ffff:") and "." in address else address


def is_loopback(address: str) -> bool:
    """Whether a canonical address is 127.0.0.0/8, ``::1`` or one of these in mapped form."""
    address = unmapped(address)
    return address.startswith("127.") or address == "::1"


def is_unspecified(address: str) -> bool:
    """Whether a canonical address is ``0.0.0.0`` or ``::``; connecting to it reaches this machine."""
    return unmapped(address) in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def is_link_local(address: str) -> bool:
    """Whether a canonical address is 169.254.0.0/16 or fe80::/10: it is valid on its link only."""
    packed = parse_ip(without_zone(address))
    if packed is None:
        return False
    return packed[:2] == b"\xa9\xfe" if len(packed) == 4 else packed[0] == 0xFE and packed[1] & 0xC0 == 0x80


def reverse_name(address: str) -> str:
    """The domain name whose PTR records name an address (RFC 1035 3.5, RFC 3596 2.5).

    Raises ValueError if ``address`` is not one.
    """
    packed = parse_ip(address)
    if packed is None:
        raise ValueError(f"not an IP address: {address!r}")
    if len(packed) == 4:
        return ".".join(map(str, reversed(packed))) + ".in-addr.arpa"
    return ".".join(reversed(packed.hex())) + ".ip6.arpa"
