"""What is known of a sender whose mail a configuration sends: its keys, the addresses it comes from, its greeting.

Receivers judge by these (``zsmtp.sender``). ``zsmtp check``, ``zsmtp explain`` and the service ask for them here::

    sender = driver.run(own_sender(config, "ann@example.org", now=time.time()))
    findings = driver.run(check_sender(sender))

The driver is one for mail exchangers: :func:`direct_only` is the configuration to make it by.
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
"""Endpoints that the default routes lead to (RFC 5737, RFC 3849); nothing is sent to them."""
_SOMEWHERE = b"somebody@somewhere.invalid"
"""A recipient that no route is about (RFC 6761 6.4)."""


def direct_only(config: Config) -> Config:
    """The configuration by which the DNS is asked about senders: no relay, and MTA-STS policies are fetched."""
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
    """What is known of the sender ``address``, its domain in A-labels; awaits lookups.

    ``author`` is the domain in From if it is another. ``reverse_path`` is what mail is sent with, if it is not
    ``address``. ``seen`` are the addresses that receivers see, where that is known; ``address_problem`` says why it is
    not. Without either they are those that connections leave from, as far as that can be told on this machine. Raises
    ConfigError for a key file that cannot be used.
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
    """The addresses that mail to most places comes from, or why they are not known."""
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
    """The relay that mail of a sender goes by to most places, "" if there is none."""
    relay = Destinations(config).of(_SOMEWHERE, sender.encode()).relay
    return "" if relay is None else str(relay)


def seen_of_relay(relay: str) -> str:
    """Why nothing is known of the addresses of mail by a relay."""
    return f"receivers see the address of the relay {relay}, which is not known here: zsmtp check --ip judges by it"


def seen_addresses(found: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Those of the addresses which connections leave from that receivers see, too; where there are none, why."""
    addresses = tuple(dict.fromkeys([unmapped(one.partition("%")[0]) for one in found]))
    public = tuple([one for one in addresses if ip_address(one).is_global])
    if public:
        return public, ""
    if addresses:
        local = ", ".join(addresses)
        return (), f"{local} is no public address, and receivers see another: zsmtp check --ip judges by it"
    return (), "this machine has no address that reaches the Internet: zsmtp check --ip judges by one"
