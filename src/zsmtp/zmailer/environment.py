"""Makes the engine's settings from the options and the ZENV file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from zsmtp.body.target import NonMime8Bit, Signed8Bit, Target
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.dns.resolver import CachingResolver, Resolver
from zsmtp.errors import ConfigError
from zsmtp.events import Observer
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.net.identity import parse_identity
from zsmtp.proto.phase import Timeouts
from zsmtp.zmailer.options import AgentOptions
from zsmtp.zmailer.zenv import Zenv

if TYPE_CHECKING:
    from zsmtp.delivery.security import Security

HOSTS_FILE = "/etc/hosts"
POLICY_SWITCHES = ("TLS_DANE", "TLS_MTA_STS")  # ZENV: switches for policies of destinations, also without -S
MAX_HOSTS_FILE = 1 << 20  # characters

C = TypeVar("C", bound=Enum)


def security(options: AgentOptions, zenv: Zenv, driver: BlockingDriver, warn: Callable[[str], None]) -> Security | None:
    """The configuration of TLS and logins from ``-S``, ``-A`` and ZENV; None without any. Prepares ``driver`` for it.

    Raises OSError or :class:`~zsmtp.errors.ConfigError` for invalid files.
    """
    if options.tls_conf is None and options.auth_file is None and not any(name in zenv for name in POLICY_SWITCHES):
        return None
    from zsmtp.zmailer.security import equip, read_security

    asked = read_security(options, zenv, warn)
    equip(driver, asked, warn)
    return asked.security


def session_settings(options: AgentOptions, security: Security | None = None) -> SessionSettings:
    """The settings of sessions."""
    if options.lmtp:
        greeting = Greeting.LHLO
    elif options.seven_bit == 2:
        greeting = Greeting.HELO
    elif options.esmtp_if_announced:
        greeting = Greeting.IF_ANNOUNCED
    else:
        greeting = Greeting.EHLO
    return SessionSettings(
        greeting=greeting,
        helo_name=options.helo_name,
        host_name=os.uname().nodename,
        pipelining=options.pipelining,
        eight_bit=options.seven_bit == 0,
        timeouts=Timeouts(
            connect=options.connect_timeout,
            write=options.write_timeout,
            command=options.command_timeout,
            data=options.data_timeout,
            final=options.dot_timeout,
            short=min(30.0, options.command_timeout),
            quit=min(10.0, options.command_timeout),
        ),
        security=security,
    )


def content_target(options: AgentOptions, zenv: Zenv, warn: Callable[[str], None]) -> Target:
    """The target of content from options and ZENV; the server's capabilities are added later."""
    return Target(
        seven_bit=options.seven_bit > 0,
        send_eight_bit=options.eight_bit,
        convert_headers=options.convert_headers,
        default_charset=zenv.get("DEFCHARSET", "UNKNOWN-8BIT").encode("ascii", "replace"),
        signed_8bit=_choice(zenv, "SIGNED_8BIT", Signed8Bit.AS_IS, warn),
        nonmime_8bit=_choice(zenv, "NONMIME_8BIT", NonMime8Bit.CONVERT, warn),
    )


def _choice(zenv: Zenv, name: str, default: C, warn: Callable[[str], None]) -> C:
    """The member of an enum that ZENV names by its value; ``default`` if it names none."""
    word = zenv.get(name).lower().replace("-", "_")
    for member in type(default):
        if member.value == word:
            return member
    if word:
        warn(f"{zenv.name}: {name}={word!r} is none of {', '.join(str(m.value) for m in type(default))}")
    return default


def destination_request(options: AgentOptions, destination: str) -> DestinationRequest:
    """The request to the destination rules for ``destination``."""
    names = (options.helo_name, os.uname().nodename)
    return DestinationRequest(
        destination=destination,
        shuffle=_shuffle,
        port=options.port or 25,
        use_mx=options.mx_lookup,
        allow_self=options.allow_self,
        prefer_ipv6=options.prefer_ipv6,
        check_wks=options.check_wks,
        own_names=frozenset(name.lower() for name in names if name),
        loops_wait=True,
        allow_unix=destination == options.force_destination,
    )


def _shuffle(items: list[Any]) -> None:
    import random  # only names with several exchangers need it

    random.SystemRandom().shuffle(items)


def driver(
    options: AgentOptions, zenv: Zenv, stop: Stop, observer: Observer, warn: Callable[[str], None]
) -> BlockingDriver:
    """The driver, with the configured resolver and local identity.

    Raises :class:`~zsmtp.errors.ConfigError` for an invalid local identity or resolver address.
    """
    text = options.local_identity or zenv.get("BINDADDR")
    make_resolver = _resolver_maker(options, zenv, warn)
    return BlockingDriver(
        make_resolver,
        stop,
        identity=parse_identity(text) if text else None,
        reserved_port=options.reserved_port,
        send_buffer=options.send_buffer,
        observer=observer,
    )


def _resolver_maker(options: AgentOptions, zenv: Zenv, warn: Callable[[str], None]) -> Callable[[], Resolver]:
    nameserver = zenv.get("RESOLVER") or None
    trusted = zenv.flag("RESOLVER_TRUSTED") if "RESOLVER_TRUSTED" in zenv else None

    def make() -> Resolver:
        from zsmtp.dns.dnspython import DnspythonResolver

        try:
            resolver: Resolver = DnspythonResolver(nameserver, trusted=trusted)
        except ConfigError as error:
            warn(f"RESOLVER: {error}; the system's name servers are asked instead")
            resolver = DnspythonResolver()
        resolver = CachingResolver(resolver, time.monotonic)
        return resolver if options.mx_lookup else _with_hosts_file(resolver)

    return make


def _with_hosts_file(resolver: Resolver) -> Resolver:
    """A resolver that also uses the hosts file, for -x (no MX lookups)."""
    from zsmtp.dns.hosts import HostsResolver, parse_hosts

    try:
        with open(HOSTS_FILE, encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_HOSTS_FILE)
    except OSError:
        return resolver
    return HostsResolver(parse_hosts(text), resolver)
