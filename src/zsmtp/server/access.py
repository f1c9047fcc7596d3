"""Who may send through a listener, as whom, and how much: rules and counts without a clock.

A client may send if it has logged in, comes by a UNIX socket (the mode of the socket decides who can), or has an
address in one of the ``networks``, which are those of this machine unless others are named: there is no open relay by
default. What it may send as is said by the first of the :class:`ClientRights` that is about it; a client that none is
about may send as anybody, unless it is said otherwise (``others``)::

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
MAX_CLIENTS = 10_000  # counted at a time; of more the one that sent longest ago is forgotten


def read_network(text: str) -> IPNetwork:
    """``192.0.2.0/24``, ``2001:db8::/32`` or an address; raises ConfigError, also for bits behind the prefix."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{error}; 192.0.2.0/24 or 2001:db8::/32 is wanted") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRights:
    """What some clients may do. Exactly one of ``login``, ``network`` and ``uid`` says which clients; "*" as login all.

    Raises ConfigError for several of them, and for none.
    """

    login: str = ""
    """A user name, or a pattern of them (``*``, ``?``)."""
    network: str = ""
    """Where clients without a login come from."""
    uid: int | None = None
    """The user of a process at a UNIX socket, of this number."""
    senders: tuple[str, ...] = EVERYBODY
    """Patterns of addresses for MAIL FROM and the field From; the null reverse-path is always allowed."""
    tenant: str = ""
    """Whose mail it is in the queue."""
    override_suppression: bool = False
    """Whether all mail of theirs goes to suppressed addresses, too: for a password that was asked for, say."""
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
        """Whether a client is one of those."""
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
    """Patterns of addresses as expressions, none for everybody. Raises ConfigError."""
    for number, text in enumerate(senders):
        if text != "*" and "@" not in text:
            raise ConfigError(f"senders[{number}]: {text[:80]!r} is no address and no pattern of some (*@example.org)")
    return () if "*" in senders else tuple(glob(text.lower()) for text in senders)


def granted_domains(senders: tuple[str, ...], domains: Iterable[str], default_domain: str) -> frozenset[str]:
    """Those of ``domains`` (lower case, A-labels) whose DKIM keys a client with these senders may sign with.

    They are the ones that its senders name. A client that may send as anybody has none named for it, so that only mail
    of ``default_domain`` is signed for it.
    """
    named = [to_ascii(text.rpartition("@")[2]) or text.rpartition("@")[2].lower() for text in senders if text != "*"]
    patterns = [glob(name) for name in named or [to_ascii(default_domain) or ""]]
    return frozenset(domain for domain in domains if any(pattern.fullmatch(domain) for pattern in patterns))


class Rights(NamedTuple):
    """What one client may do; ``patterns`` None: it may send as anybody. ``senders`` are the patterns as text."""

    patterns: tuple[re.Pattern[str], ...] | None
    tenant: str
    senders: tuple[str, ...] = EVERYBODY
    override_suppression: bool = False

    def may_send_as(self, address: bytes) -> bool:
        """Whether it may send with an address; the null reverse-path is everybody's."""
        if self.patterns is None or not address:
            return True
        text = address.decode("utf-8", "replace").lower()
        return any(pattern.fullmatch(text) for pattern in self.patterns)


_UNKNOWN = object()


class Access:
    """Finds what clients may do. ``others`` are the senders of those whom none of ``clients`` is about."""

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
        """The rights of a client; ``user`` is who it has logged in as. None: it may not send."""
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
    """Whether an address is in one of some networks; the zone of a link-local one does not count."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in networks)


class Allowance:
    """Counts by client against rates. ``rates`` empty: nothing is counted."""

    def __init__(self, rates: tuple[Rate, ...]) -> None:
        self._rates = rates
        self._buckets: OrderedDict[Hashable, Buckets] = OrderedDict()

    def wait(self, client: Hashable, now: float, wanted: int = 1) -> float:
        """Seconds until a client may have so many; 0.0 if it may now."""
        if not self._rates:
            return 0.0
        buckets = self._buckets.get(client)
        return 0.0 if buckets is None else buckets.wait(now, wanted)[0]

    def take(self, client: Hashable, now: float, taken: int = 1) -> None:
        """Count so many for a client."""
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
