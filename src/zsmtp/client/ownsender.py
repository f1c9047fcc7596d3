"""Collects the facts about a sender of a configuration: its keys, the addresses its mail comes from, its HELO name.

Receivers judge by these (``zsmtp.sender``). ``zsmtp check``, ``zsmtp explain`` and the service collect them here::

    sender = driver.run(own_sender(config, "ann@example.org", now=time.time()))
    findings = driver.run(check_sender(sender))

The driver is one for mail exchangers: make it from the configuration of :func:`direct_only`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address

from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.heloname import helo_name
from zsmtp.dns.ip import unmapped
from zsmtp.errors import ConnectError
from zsmtp.net.identity import parse_identity, source_address
from zsmtp.net.operations import resolve_identity
from zsmtp.records import replace
from zsmtp.sender.findings import SenderFacts
from zsmtp.sender.ownkeys import own_keys
from zsmtp.tls.policy import Level, STSUse

_EVERYWHERE = (Endpoint("", "192.0.2.1", 25, Family.INET), Endpoint("", "2001:db8::1", 25, Family.INET6))
"""Endpoints on the default routes (RFC 5737, RFC 3849); nothing is sent to them."""
_SOMEWHERE = b"somebody@somewhere.invalid"
"""A recipient that matches no route of its own (RFC 6761 6.4)."""


def direct_only(config: Config) -> Config:
    """The configuration for DNS lookups about senders: no relay, and MTA-STS policies are fetched."""
    direct = replace(config.direct, mta_sts=STSUse.ON, mta_sts_cache="", dane=True)
    return replace(config, relay=None, routes={}, sender_routes={}, direct=direct)


async def own_sender(
    config: Config,
    address: str,
    *,
    now: float,
    author: str = "",
    reverse_path: str = "",
    seen: tuple[str, ...] = (),
    address_problem: str = "",
) -> SenderFacts:
    """The facts about the sender ``address``, its domain in A-labels; awaits lookups.

    ``author`` is the domain in From if it is another. ``reverse_path`` is that of the mail, if it is not ``address``.
    ``seen`` are the addresses that receivers see, if known; ``address_problem`` is the reason why they are unknown.
    Without either they are the local addresses of connections, as far as this machine knows them. Raises ConfigError
    for an invalid key file.
    """
    author = (author or address.rpartition("@")[2]).lower()
    keys = own_keys(config.dkim, author, now)
    if not seen and not address_problem:
        seen, address_problem = await _addresses(config, address)
    greeting = await helo_name(
        seen[0] if seen else None, configured=config.helo_name or None, host_name=os.uname().nodename
    )
    return SenderFacts(
        address=reverse_path or address,
        addresses=seen,
        helo=greeting,
        author=author,
        keys=keys.keys,
        next_keys=keys.next_keys,
        unsigned=keys.unsigned,
        now=now,
        uses_tls=bool(relay_of(config, address)) or config.direct.tls.level is not Level.NONE,
        problems={"addresses": address_problem} if address_problem else {},
    )


async def _addresses(config: Config, sender: str) -> tuple[tuple[str, ...], str]:
    """The source addresses of mail to most destinations, or the reason why they are unknown."""
    if relay := relay_of(config, sender):
        return (), seen_of_relay(relay)
    identity = parse_identity(config.local_address) if config.local_address else None
    bound = None if identity is None else await resolve_identity(identity)
    found = []
    for endpoint in _EVERYWHERE:
        if config.address_family in (None, endpoint.family):
            try:
                found.append(source_address(endpoint, bound))
            except ConnectError:
                continue
    return seen_addresses(found)


def relay_of(config: Config, sender: str) -> str:
    """The relay for mail of a sender to most destinations, "" if there is none."""
    relay = Destinations(config).of(_SOMEWHERE, sender.encode()).relay
    return "" if relay is None else str(relay)


def seen_of_relay(relay: str) -> str:
    """The reason why the source addresses of mail by a relay are unknown."""
    return f"receivers see the address of the relay {relay}, which is not known here: zsmtp check --ip judges by it"


def seen_addresses(found: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Those of the local addresses that receivers see, too; without any, the reason."""
    addresses = tuple(dict.fromkeys([unmapped(one.partition("%")[0]) for one in found]))
    public = tuple([one for one in addresses if ip_address(one).is_global])
    if public:
        return public, ""
    if addresses:
        local = ", ".join(addresses)
        return (), f"{local} is no public address, and receivers see another: zsmtp check --ip judges by it"
    return (), "this machine has no address that reaches the Internet: zsmtp check --ip judges by one"
