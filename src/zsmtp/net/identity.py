"""The addresses of this machine, and the source address of connections (``-L``, ``BINDADDR``, ``-r``).

A local identity is written as one of::

    any                any address of this machine, as the kernel chooses
    any6               the same, IPv6 only
    iface:eth0         the addresses of an interface; iface:v4:eth0 and iface:v6:eth0 one family of them
    [192.0.2.1]        this address; IPv6 as [IPv6:2001:db8::1], [ipv6.2001:db8::1], [IPv6 2001:db8::1], [fe80::1%eth0]
    mail.example.org   the addresses of this name

:func:`parse_identity` reads it, :meth:`LocalIdentity.resolve` finds the address for each family now, or the reason why
there is none, and :func:`bind_socket` binds a socket to it. Another address is never used silently: if binding fails, a
ConnectError excludes the address family for this connection. The interfaces are read at each call, from the kernel
(netdevice(7) of Linux: SIOCGIFCONF, /proc/net/if_inet6).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable

from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.ip import format_ip, ip_family, is_link_local
from zsmtp.dns.literal import Literal, Name, parse_destination, shown
from zsmtp.errors import ConfigError, ConnectError
from zsmtp.net.transport import socket_address
from zsmtp.records import dataclass

RESERVED_PORTS = range(1023, 511, -1)
"""Source ports of ``-r``, in the order tried."""

_SIOCGIFCONF = 0x8912
_MAX_IFCONF = 1 << 20  # octets of the interface list; tens of thousands of addresses
_MAX_IF_INET6 = 1 << 22  # characters
_IF_INET6 = "/proc/net/if_inet6"
_NAME_SIZE = 16  # IFNAMSIZ
_TENTATIVE_OR_WORSE = 0x40 | 0x20 | 0x08  # IFA_F_TENTATIVE, IFA_F_DEPRECATED, IFA_F_DADFAILED

AddressLookup = Callable[[str], Iterable[str]]
"""The addresses of a host name as canonical texts; empty if there are none or the lookup failed."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one interface; ``usable`` is false while it is tentative, deprecated or a duplicate (RFC 4862)."""

    interface: str
    address: str
    usable: bool = True


def interface_addresses() -> tuple[InterfaceAddress, ...]:
    """The addresses of all interfaces that are up, IPv4 first; empty if the kernel does not list them."""
    return (*_ipv4_addresses(), *_parse_if_inet6(_read(_IF_INET6)))


def own_addresses() -> frozenset[str]:
    """The canonical texts of all addresses of this machine."""
    return frozenset(found.address for found in interface_addresses())


def _ipv4_addresses() -> list[InterfaceAddress]:
    if sys.platform != "linux":  # the request below exists on Linux only
        return []
    import array
    import fcntl

    entry_size = _NAME_SIZE + (24 if struct.calcsize("P") == 8 else 16)
    size = 64 * entry_size
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            while True:
                buffer = array.array("B", bytes(size))
                request = struct.pack("iP", size, buffer.buffer_info()[0])
                filled = struct.unpack("iP", fcntl.ioctl(probe, _SIOCGIFCONF, request))[0]
                # A list that fills its buffer may be incomplete: retry with a larger one.
                if filled + entry_size <= size or size >= _MAX_IFCONF:
                    return _parse_ifconf(buffer.tobytes()[:filled], entry_size)
                size *= 2
    except OSError:
        return []


def _parse_ifconf(entries: bytes, entry_size: int) -> list[InterfaceAddress]:
    """The list of ``struct ifreq``: a name of 16 octets, then a ``struct sockaddr_in``."""
    found = []
    for start in range(0, len(entries) - entry_size + 1, entry_size):
        name = entries[start : start + _NAME_SIZE].partition(b"\0")[0]
        address = entries[start + _NAME_SIZE + 4 : start + _NAME_SIZE + 8]
        found.append(InterfaceAddress(os.fsdecode(name), format_ip(address)))
    return found


def _parse_if_inet6(text: str) -> list[InterfaceAddress]:
    """Lines of: 32 hexadecimal digits, interface number, prefix length, scope, flags (all hexadecimal), name."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 6 and len(fields[0]) == 32:
            try:
                address = format_ip(bytes.fromhex(fields[0]))
                usable = not int(fields[4], 16) & _TENTATIVE_OR_WORSE
            except ValueError:
                continue
            found.append(InterfaceAddress(fields[5], address, usable))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="surrogateescape") as file:
            return file.read(_MAX_IF_INET6)
    except OSError:  # a kernel without IPv6 has no such file
        return ""


@dataclass(frozen=True, slots=True)
class SocketBinding:
    """The address to bind to in one address family.

    ``address`` None leaves the choice to the kernel. ``problem`` is the reason if the identity has no address in this
    family, else "".
    """

    address: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedIdentity:
    """A resolved local identity: a binding for each family. ``text`` is its configuration."""

    text: str
    inet: SocketBinding
    inet6: SocketBinding

    def binding(self, family: Family) -> SocketBinding:
        """The binding of a family; a UNIX socket has no local address to choose."""
        if family is Family.UNIX:
            return SocketBinding()
        return self.inet6 if family is Family.INET6 else self.inet


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """A local identity as configured; see the module for its forms.

    One of ``interface``, ``address`` and ``name`` is set, or none (``any``). ``families`` are those it applies to.
    """

    text: str
    families: frozenset[Family]
    interface: str = ""
    address: str = ""
    name: str = ""

    def resolve(
        self,
        lookup: AddressLookup,
        interfaces: Callable[[], Iterable[InterfaceAddress]] = interface_addresses,
    ) -> ResolvedIdentity:
        """Find the addresses of this identity now. Raises nothing: a failure is the ``problem`` of a binding."""
        if self.interface:
            found, problem = self._of_interface(tuple(interfaces()))
        elif self.name:
            found, problem = self._of_name(lookup, interfaces)
        elif self.address:
            found, problem = (self.address,), ""
        else:
            return ResolvedIdentity(
                self.text, self._chosen_by_kernel(Family.INET), self._chosen_by_kernel(Family.INET6)
            )
        return ResolvedIdentity(self.text, *(self._pick(family, found, problem) for family in _IP_FAMILIES))

    def _chosen_by_kernel(self, family: Family) -> SocketBinding:
        return SocketBinding() if family in self.families else self._excluded(family)

    def _excluded(self, family: Family) -> SocketBinding:
        return SocketBinding(problem=f"local identity {self.text} is not for {family.value}")

    def _pick(self, family: Family, found: Iterable[str], problem: str) -> SocketBinding:
        if family not in self.families:
            return self._excluded(family)
        for address in found:
            if ip_family(address) is family:
                return SocketBinding(address)
        return SocketBinding(problem=problem or f"local identity {self.text} has no {family.value} address")

    def _of_interface(self, known: tuple[InterfaceAddress, ...]) -> tuple[tuple[str, ...], str]:
        mine = [one for one in known if one.interface == self.interface]
        if not mine:
            return (), f"local identity {self.text}: there is no such interface, or it has no address"
        # A link-local address needs its zone, and a tentative one cannot be bound yet.
        usable = tuple(
            one.address for one in mine if one.usable and not (":" in one.address and is_link_local(one.address))
        )
        return usable, ""

    def _of_name(
        self, lookup: AddressLookup, interfaces: Callable[[], Iterable[InterfaceAddress]]
    ) -> tuple[tuple[str, ...], str]:
        found = tuple(lookup(self.name))
        if not found:
            return (), f"local identity {self.text}: the name has no address now"
        own = {one.address for one in interfaces()}
        # A name shared by several machines: the addresses of this one first.
        return tuple(sorted(found, key=lambda address: address not in own)), ""


_IP_FAMILIES = (Family.INET, Family.INET6)
_BOTH = frozenset(_IP_FAMILIES)
_KEYWORDS = {"any": _BOTH, "any6": frozenset({Family.INET6})}
_PREFIXES = {"v4:": frozenset({Family.INET}), "v6:": frozenset({Family.INET6})}


def parse_identity(text: str) -> LocalIdentity:
    """Parse a local identity. Raises ConfigError for other forms than those above."""
    bare = text.strip()
    keyword = _KEYWORDS.get(bare.lower())
    if keyword is not None:
        return LocalIdentity(bare, keyword)
    if bare[:6].lower() == "iface:":
        return _parse_interface(bare)
    parsed = parse_destination(bare, allow_unix=True)
    if isinstance(parsed, Literal) and parsed.port is None and parsed.family is not Family.UNIX:
        return LocalIdentity(bare, frozenset({parsed.family}), address=parsed.address)
    if isinstance(parsed, Name):
        return LocalIdentity(bare, _BOTH, name=parsed.domain)
    raise ConfigError(f"not a local identity: {shown(text)}")


def _parse_interface(text: str) -> LocalIdentity:
    name = text[6:]
    families = _PREFIXES.get(name[:3].lower(), _BOTH)
    if families is not _BOTH:
        name = name[3:]
    octets = len(os.fsencode(name)) if name.isprintable() else 0
    if not 1 <= octets < _NAME_SIZE or "/" in name or " " in name:
        raise ConfigError(f"not the name of an interface: {shown(text)}")
    return LocalIdentity(text, families, interface=name)


def bind_socket(
    connection: socket.socket, identity: ResolvedIdentity | None, family: Family, *, reserved_port: bool = False
) -> None:
    """Bind a socket to the identity's address in ``family``, or leave it unbound if the kernel chooses.

    With ``reserved_port`` (-r) the source port is the first free one from 1023 down to 512. Raises ConnectError with
    the reason if binding fails; do not use the socket then.
    """
    if family is Family.UNIX:
        return
    binding = SocketBinding() if identity is None else identity.binding(family)
    if binding.problem:
        raise ConnectError(binding.problem)
    wildcard = "::" if family is Family.INET6 else "0.0.0.0"  # noqa: S104 - the source of a connection, not a listener
    address = binding.address or wildcard
    if reserved_port:
        _bind_reserved(connection, address)
    elif binding.address is not None:
        try:
            connection.bind(socket_address(address, 0))
        except OSError as error:
            raise ConnectError(f"cannot bind to the local address {address}: {error.strerror or error}") from error


def source_address(endpoint: Endpoint, identity: ResolvedIdentity | None) -> str:
    """The source address of a connection to ``endpoint``, by this machine's present routes.

    Nothing is sent: connecting a datagram socket sets its address. Raises :class:`~zsmtp.errors.ConnectError` if there
    is no route. A UNIX socket has no address: "".
    """
    if endpoint.family is Family.UNIX:
        return ""
    family = socket.AF_INET6 if endpoint.family is Family.INET6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            bind_socket(probe, identity, endpoint.family, reserved_port=False)
            probe.connect(socket_address(endpoint.address, endpoint.port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConnectError(f"no way to {endpoint.address}: {error.strerror or error}") from error


def _bind_reserved(connection: socket.socket, address: str) -> None:
    for port in RESERVED_PORTS:
        try:
            connection.bind(socket_address(address, port))
        except PermissionError as error:
            raise ConnectError(f"source port {port} (-r) needs the privilege to use ports below 1024") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or str(error)
                raise ConnectError(f"cannot bind to the local address {address}: {reason}") from error
        else:
            return
    raise ConnectError("all source ports from 1023 down to 512 (-r) are in use")
