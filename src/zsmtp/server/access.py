"""Access rights of a listener's clients: permission to send, sender addresses, and rates. Rules without a clock.

A client may send if it has logged in, connects over a UNIX socket (the mode of the socket decides who can), or has an
address in one of the ``networks``, by default those of this machine: there is no open relay by default. The first
matching :class:`ClientRights` has the sender addresses of a client; a client without a match may use any address,
unless ``others`` restricts it::

    access = Access(
        networks=(ip_network("127.0.0.0/8"),),
        clients=(ClientRights(login="shop", senders=("*@shop.example",), tenant="shop"),),
    )
    rights = access.rights_of(b"shop", PeerInfo("192.0.2.1"))
    rights.may_send_as(b"orders@shop.example")      # True

:class:`Allowance` counts messages by client: a bounded table of token buckets (``zsmtp.queue.shaping``).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from zsmtp.errors import ConfigError
from zsmtp.idn import to_ascii
from zsmtp.queue.filter import glob
from zsmtp.queue.shaping import Buckets, Rate
from zsmtp.server.intake import PeerInfo

IPNetwork = IPv4Network | IPv6Network

LOOPBACK: tuple[IPNetwork, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
EVERYBODY = ("*",)
MAX_CLIENTS = 10_000  # counted at a time; beyond that the least recent sender is dropped


def read_network(text: str) -> IPNetwork:
    """``192.0.2.0/24``, ``2001:db8::/32`` or an address; raises ConfigError, also for bits after the prefix."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{error}; 192.0.2.0/24 or 2001:db8::/32 is expected") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRights:
    """The rights of some clients. Exactly one of ``login``, ``network`` and ``uid`` selects them; "*" as login: all.

    Raises ConfigError for several of them, and for none.
    """

    login: str = ""
    """A user name, or a pattern of them (``*``, ``?``)."""
    network: str = ""
    """The network of clients without a login."""
    uid: int | None = None
    """The user id of a process at a UNIX socket."""
    senders: tuple[str, ...] = EVERYBODY
    """Patterns of addresses for MAIL FROM and the field From; the null reverse-path is always allowed."""
    tenant: str = ""
    """The tenant of their mail in the queue."""
    override_suppression: bool = False
    """Whether all their mail also goes to suppressed addresses, for instance requested password resets."""
    _range: IPNetwork | None = field(default=None, init=False, repr=False)
    _patterns: tuple[re.Pattern[str], ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        given = sum((bool(self.login), bool(self.network), self.uid is not None))
        if given != 1:
            raise ConfigError(f"login: one of login, network, uid; not {given} of them")
        if self.network:
            try:
                object.__setattr__(self, "_range", read_network(self.network))
            except ConfigError as error:
                raise ConfigError(f"network: {error}") from None
        object.__setattr__(self, "_patterns", sender_patterns(self.senders))

    def is_about(self, user: bytes | None, peer: PeerInfo) -> bool:
        """Whether these rights apply to a client."""
        if user is not None:
            return bool(self.login) and glob(self.login).fullmatch(user.decode("utf-8", "replace")) is not None
        if self.uid is not None:
            return not peer.address and peer.uid == self.uid
        return self._range is not None and bool(peer.address) and is_in(peer.address, (self._range,))

    @property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The senders as expressions."""
        return self._patterns


def sender_patterns(senders: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Patterns of addresses as expressions; none if all addresses are allowed. Raises ConfigError."""
    for number, text in enumerate(senders):
        if text != "*" and "@" not in text:
            raise ConfigError(f"senders[{number}]: {text[:80]!r} is no address and no pattern of some (*@example.org)")
    return () if "*" in senders else tuple(glob(text.lower()) for text in senders)


def granted_domains(senders: tuple[str, ...], domains: Iterable[str], default_domain: str) -> frozenset[str]:
    """Those of ``domains`` (lower case, A-labels) whose DKIM keys a client with these senders may sign with.

    They are the domains in its senders. A client that may use any address names none, so that only its mail from
    ``default_domain`` is signed.
    """
    named = [to_ascii(text.rpartition("@")[2]) or text.rpartition("@")[2].lower() for text in senders if text != "*"]
    patterns = [glob(name) for name in named or [to_ascii(default_domain) or ""]]
    return frozenset(domain for domain in domains if any(pattern.fullmatch(domain) for pattern in patterns))


class Rights(NamedTuple):
    """The rights of one client; ``patterns`` None: it may use any address. ``senders`` are the patterns as text."""

    patterns: tuple[re.Pattern[str], ...] | None
    tenant: str
    senders: tuple[str, ...] = EVERYBODY
    override_suppression: bool = False

    def may_send_as(self, address: bytes) -> bool:
        """Whether it may send with an address; the null reverse-path is allowed for all clients."""
        if self.patterns is None or not address:
            return True
        text = address.decode("utf-8", "replace").lower()
        return any(pattern.fullmatch(text) for pattern in self.patterns)


_UNKNOWN = object()


class Access:
    """Finds the rights of clients. ``others`` are the senders of clients without a match in ``clients``."""

    def __init__(
        self,
        *,
        networks: tuple[IPNetwork, ...] = LOOPBACK,
        clients: tuple[ClientRights, ...] = (),
        others: tuple[str, ...] = EVERYBODY,
    ) -> None:
        self._networks = networks
        self._clients = clients
        self._others = Rights(None if "*" in others else sender_patterns(others), "", others)
        self._known: dict[tuple[bytes | None, str, int], Rights | None] = {}

    def rights_of(self, user: bytes | None, peer: PeerInfo) -> Rights | None:
        """The rights of a client; ``user`` is its login. None: it may not send."""
        key = (user, peer.address, peer.uid)
        found = self._known.get(key, _UNKNOWN)
        if found is _UNKNOWN:
            if len(self._known) >= MAX_CLIENTS:
                self._known.clear()
            found = self._known[key] = self._find(user, peer)
        assert found is None or isinstance(found, Rights)
        return found

    def _find(self, user: bytes | None, peer: PeerInfo) -> Rights | None:
        if user is None and peer.address and not is_in(peer.address, self._networks):
            return None
        for client in self._clients:
            if client.is_about(user, peer):
                patterns = None if "*" in client.senders else client.patterns
                return Rights(patterns, client.tenant, client.senders, client.override_suppression)
        return self._others


def is_in(address: str, networks: tuple[IPNetwork, ...]) -> bool:
    """Whether an address is in one of some networks; the zone of a link-local one is ignored."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in networks)


class Allowance:
    """Counts by client against rates. ``rates`` empty: no counting."""

    def __init__(self, rates: tuple[Rate, ...]) -> None:
        self._rates = rates
        self._buckets: OrderedDict[Hashable, Buckets] = OrderedDict()

    def wait(self, client: Hashable, now: float, wanted: int = 1) -> float:
        """Seconds until a client may have ``wanted`` more; 0.0 for now."""
        if not self._rates:
            return 0.0
        buckets = self._buckets.get(client)
        return 0.0 if buckets is None else buckets.wait(now, wanted)[0]

    def take(self, client: Hashable, now: float, taken: int = 1) -> None:
        """Count ``taken`` for a client."""
        if not self._rates:
            return
        buckets = self._buckets.get(client)
        if buckets is None:
            buckets = self._buckets[client] = Buckets(self._rates)
            if len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        buckets.take(now, taken)
