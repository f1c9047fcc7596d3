"""Routes mail by a configuration: the destinations of a message, and the engine's settings for each.

:class:`Destinations` groups the recipients of a message: one :class:`Destination` for each relay, one for each domain
with direct delivery. Destinations are equal if their mail can share connections.
"""

from __future__ import annotations

import base64
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from zsmtp.body.target import Target
from zsmtp.client.config import MAX_SECRET, TLS, Config, Login, Relay
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.candidates import Family
from zsmtp.dns.destination import DestinationRequest
from zsmtp.dns.ip import is_loopback
from zsmtp.dns.literal import Literal, Name, parse_destination
from zsmtp.dns.resolver import Resolver
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.proto.address import domain_of
from zsmtp.records import dataclass, field, replace
from zsmtp.tls.policy import Level, STSUse, TLSPolicy

if TYPE_CHECKING:
    from zsmtp.delivery.deliveryplan import DeliveryPlan
    from zsmtp.delivery.security import Security
    from zsmtp.dns.dnspython import DnspythonResolver
    from zsmtp.net.stspolicies import PolicyKeeper
    from zsmtp.proto.sasl import Credentials
    from zsmtp.signing.finalform import MessageSigning
    from zsmtp.tls.tlsrpt import SessionResult

HOSTS_FILE = "/etc/hosts"
SESSION_LIFETIME = 3600.0  # seconds for which a TLS session may be resumed


def _shuffle(hosts: list[Any]) -> None:
    """Shuffle hosts of the same preference."""
    import random  # mail by relays does not need it

    random.SystemRandom().shuffle(hosts)


def _warn(text: str) -> None:
    """Log an operator-facing warning on the ``zsmtp`` logger."""
    import logging

    logging.getLogger("zsmtp").warning("%s", text)


@lru_cache(64)
def _warn_once(text: str) -> None:
    """The same, once for each text: a process may make a client for each message."""
    _warn(text)


class RouteReason(Enum):
    """The rule that decides the destination, the strongest first. The value is its name for people and in JSON."""

    RECIPIENT = "route of the recipient's domain"
    SENDER_ADDRESS = "route of the sender's address"
    SENDER_DOMAIN = "route of the sender's domain"
    RELAY = "relay for all mail"
    DIRECT = "mail exchangers of the recipient's domain"


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination of mail: ``name`` for people, ``relay``, or None for the exchangers of the domain ``name``.

    ``given`` is a plan made beforehand, which is executed unchanged.
    """

    name: str
    relay: Relay | None
    request: DestinationRequest = field(compare=False)
    given: DeliveryPlan | None = field(default=None, compare=False)
    reason: RouteReason = field(default=RouteReason.DIRECT, compare=False)
    """The rule that decided on it."""


class Destinations:
    """The destinations of one client's mail. ``settings_for`` returns the settings of sessions there.

    ``plans`` were made beforehand; each is executed for its own destination.
    """

    def __init__(self, config: Config, plans: Iterable[DeliveryPlan] = ()) -> None:
        self._config = config
        self._plans = {plan.route.destination: plan for plan in plans}
        self._known: dict[tuple[str, str], Destination] = {}  # by domain and route of the sender
        self._asking: list[DnspythonResolver] = []
        self.settings_for: Callable[[Relay | None], SessionSettings] = cache(self._settings)

    def of(self, recipient: bytes, sender: bytes = b"") -> Destination:
        """The destination of mail to an address from ``sender``, empty for the null reverse-path.

        Both are valid (``zsmtp.client.addresslist``).
        """
        domain = domain_of(recipient).decode("utf-8", "replace").lower()
        route = self._sender_route(sender) if sender and self._config.sender_routes else ""
        found = self._known.get((domain, route))
        if found is None:
            if len(self._known) >= 10_000:  # a long-running client meets many domains
                self._known.clear()
            found = self._known[domain, route] = self._find(domain, route)
        return found

    def _sender_route(self, sender: bytes) -> str:
        """The key of the sender's route, "" without one."""
        local, _, domain = sender.decode("utf-8", "replace").lower().rpartition("@")
        parsed = parse_destination(domain)
        name = parsed.domain if isinstance(parsed, Name) else domain
        return next((key for key in (f"{local}@{name}", name) if key in self._config.sender_routes), "")

    def _find(self, domain: str, sender_route: str) -> Destination:
        config = self._config
        parsed = parse_destination(domain)
        name = parsed.domain if isinstance(parsed, Name) else domain
        if name in config.routes:
            return self._behind(config.routes[name], RouteReason.RECIPIENT)
        if sender_route:
            reason = RouteReason.SENDER_ADDRESS if "@" in sender_route else RouteReason.SENDER_DOMAIN
            return self._behind(config.sender_routes[sender_route], reason)
        if config.relay is not None:
            return self._behind(config.relay)
        direct = self._config.direct
        request = DestinationRequest(
            destination=name,
            shuffle=_shuffle,
            port=direct.port,
            prefer_ipv6=direct.prefer_ipv6,
            families=self._families,
            own_names=self._own_names,
        )
        return Destination(name, None, request, self._plans.get(name))

    @cached_property
    def _own_names(self) -> frozenset[str]:
        return frozenset(one.lower() for one in (self._config.helo_name, os.uname().nodename) if one)

    @cached_property
    def _families(self) -> frozenset[Family]:
        family = self._config.address_family
        return frozenset(Family if family is None else {family, Family.UNIX})

    @cached_property
    def relay_keys(self) -> Mapping[Relay, str]:
        """The name of each relay of the configuration in a queue: its key, if unique.

        Otherwise a hash of its settings follows the key, so that mail never uses the settings of another relay.
        """
        relays = self._config.relays
        different = {(relay.key, relay.settings) for relay in relays}
        alone = {key for key, number in Counter(key for key, _ in different).items() if number == 1}
        return {relay: relay.key if relay.key in alone else _hashed_key(relay) for relay in relays}

    def check_relays(self) -> None:
        """Raise ConfigError for relays that differ in the secret alone, which a queue does not store."""
        passwords: dict[str, set[str]] = {}
        for relay, key in self.relay_keys.items():
            if relay.login is not None:
                passwords.setdefault(key, set()).add(relay.login.password)
        for key, given in passwords.items():
            if len(given) > 1:
                raise ConfigError(
                    f"relay {escape(key)}: {len(given)} passwords are given, which a queue cannot tell apart; "
                    "name all but one by password_file or password_env"
                )

    def relayed(self, name: str) -> Destination | None:
        """The relay with this name in a queue, None if the configuration has none. Raises ConfigError.

        A relay with a unique key is also found by the name with its hash, by which mail may have been queued. A key
        without a hash that several relays have is ambiguous: ConfigError. A key without a user, as an operator may
        write it, is that of the first relay with this host and port.
        """
        relays = self._config.relays
        found = [relay for relay, key in self.relay_keys.items() if name in (key, _hashed_key(relay))]
        if not found and (several := [relay for relay in relays if relay.key == name]):
            names = " or ".join(sorted({escape(self.relay_keys[relay]) for relay in several}))
            raise ConfigError(
                f"relay {escape(name)} is one of several by now, with different settings: {names}; "
                "zsmtp queue reroute moves its mail to one of them"
            )
        found = found or [relay for relay in relays if str(relay) == name]
        return self._behind(found[0]) if found else None

    def _behind(self, relay: Relay, reason: RouteReason = RouteReason.RELAY) -> Destination:
        request = DestinationRequest(
            destination=relay.destination,
            shuffle=_shuffle,
            port=relay.real_port or 25,
            use_mx=False,
            allow_self=True,
            is_relay=True,
            prefer_ipv6=self._config.direct.prefer_ipv6,
            families=self._families,
            allow_unix=True,
        )
        return Destination(str(relay), relay, request, self._plans.get(request.destination), reason)

    def _settings(self, relay: Relay | None) -> SessionSettings:
        config = self._config
        return SessionSettings(
            greeting=Greeting.LHLO if relay is not None and relay.lmtp else Greeting.EHLO,
            helo_name=config.helo_name or None,
            host_name=os.uname().nodename,
            pipelining=config.pipelining,
            eight_bit=not config.content.seven_bit,
            timeouts=config.timeouts,
            security=relay_security(relay) if relay is not None else _direct_security(config),
        )

    def target(self) -> Target:
        """The form of content that the configuration allows, without the server's extensions."""
        content = self._config.content
        return Target(
            seven_bit=content.seven_bit,
            convert_headers=content.convert_headers,
            default_charset=content.default_charset.encode("ascii"),
            signed_8bit=content.signed_8bit,
            nonmime_8bit=content.nonmime_8bit,
        )

    # ---------------------------------------------------------------- lookups

    def resolver(self) -> Resolver:
        """The resolver for domains with direct delivery. Raises ConfigError."""
        direct = self._config.direct
        if direct.resolver is not None:
            return direct.resolver
        from zsmtp.dns.dnspython import DnspythonResolver

        resolver = DnspythonResolver(direct.nameserver or None, trusted=direct.trusted)
        self._asking.append(resolver)
        return resolver

    def policies(self) -> PolicyKeeper | None:
        """The cache of MTA-STS policies, None if they are not used."""
        direct = self._config.direct
        if direct.mta_sts is STSUse.OFF:
            return None
        from zsmtp.net.stspolicies import PolicyKeeper

        return PolicyKeeper(direct.mta_sts_cache, _warn, ca_file=direct.tls.ca_file, ca_path=direct.tls.ca_path)

    def close(self) -> None:
        """End running lookups."""
        for resolver in self._asking:
            resolver.close()

    def relay_resolver(self) -> Resolver:
        """The resolver for the names of relays: the hosts file first."""
        from zsmtp.dns.hosts import MAX_SIZE, HostsResolver, parse_hosts

        try:
            with open(HOSTS_FILE, encoding="utf-8", errors="replace") as file:
                text = file.read(MAX_SIZE)
        except OSError:
            text = ""
        return HostsResolver(parse_hosts(text), self.resolver())


def _hashed_key(relay: Relay) -> str:
    """The key of a relay with a hash of its settings."""
    from hashlib import blake2b  # seldom used

    return f"{relay.key}~{blake2b(relay.settings.encode(), digest_size=4).hexdigest()}"


# -------------------------------------------------------------------- security


def relay_security(relay: Relay) -> Security | None:
    """The requirements for sessions with a relay; None without any."""
    level = relay.tls.level
    if level is None:
        wants_tls = relay.implicit or relay.login is not None
        level = Level.VERIFY if wants_tls and not _is_here(relay) else Level.NONE if relay.is_unix else Level.MAY
    if level is Level.NONE and relay.login is None and not relay.implicit:
        return None
    login = relay.login

    def credentials_for(server: str, destination: str) -> Credentials | None:
        return read_login(login) if login is not None else None

    return _security(relay.tls, TLSPolicy(level=level), credentials_for, implicit=relay.implicit)


def _is_here(relay: Relay) -> bool:
    """Whether a relay is on this machine, so that the connection cannot be intercepted."""
    parsed = parse_destination(relay.destination, allow_unix=True)
    if isinstance(parsed, Literal):
        return relay.is_unix or is_loopback(parsed.address)
    return isinstance(parsed, Name) and parsed.domain == "localhost"


def _direct_security(config: Config) -> Security | None:
    direct = config.direct
    level = direct.tls.level or Level.MAY
    if level is Level.NONE and not direct.dane and direct.mta_sts is STSUse.OFF:
        return None
    policy = TLSPolicy(level=level, dane=direct.dane)
    return _security(direct.tls, policy, _no_credentials, mta_sts=direct.mta_sts, report_file=direct.tls_report_file)


def _no_credentials(server: str, destination: str) -> None:
    """Credentials for no login."""


@cache  # one for each file, so that its problem is reported once
def _report_to(path: str) -> Callable[[SessionResult], None]:
    """The function that records results of sessions."""
    from zsmtp.net.reportsink import report_to

    return report_to(path, _warn)


def _security(
    tls: TLS,
    policy: TLSPolicy,
    credentials_for: Callable[[str, str], Credentials | None],
    *,
    implicit: bool = False,
    mta_sts: STSUse = STSUse.OFF,
    report_file: str = "",
) -> Security:
    from zsmtp.delivery.security import Security
    from zsmtp.tls.context import ClientCertificate, ContextOptions
    from zsmtp.tls.policy import parse_fingerprint

    shown = (ClientCertificate(tls.certificate_file, tls.key_file),) if tls.certificate_file else ()
    policy = replace(policy, match=tls.names, fingerprints=tuple(map(parse_fingerprint, tls.fingerprints)))
    return Security(
        policy_for=lambda destination: policy,
        credentials_for=credentials_for,
        nonce=lambda: base64.b64encode(os.urandom(24)),
        context=ContextOptions(min_protocol=tls.min_protocol, ciphers=tls.ciphers, certificates=shown),
        ca_file=tls.ca_file,
        ca_path=tls.ca_path,
        mta_sts=mta_sts,
        session_lifetime=SESSION_LIFETIME,
        warn=_warn_once,
        implicit=implicit,
        login_required=True,
        report=_report_to(report_file) if report_file else None,
    )


def load_signing(config: Config, wanted: Target, clock: Callable[[], float]) -> MessageSigning | None:
    """The signer of a configuration, None without keys; reads their files. Raises ConfigError."""
    if not config.dkim:
        return None
    from zsmtp.signing.finalform import MessageSigning
    from zsmtp.signing.keys import load_keyring

    return MessageSigning(load_keyring(config.dkim, _warn_once), wanted, clock)


def try_logins(config: Config) -> None:
    """Check now that secrets can be read, instead of for each message. Raises ConfigError."""
    for relay in config.relays:
        if relay.login is not None:
            read_login(relay.login)


def read_login(login: Login) -> Credentials:
    """Read the user and the secret; warn once about a file that every user can read.

    Raises ConfigError if there is no readable secret.
    """
    from zsmtp.proto.sasl import Credentials, Secret, SecretKind

    if login.password_file:
        try:
            with open(login.password_file, "rb") as file:
                octets = file.read(MAX_SECRET + 1)
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise ConfigError(f"the secret for {login.user} in {login.password_file}: {error.strerror}") from error
        if len(octets) > MAX_SECRET:
            raise ConfigError(f"the secret for {login.user} in {login.password_file}: more than {MAX_SECRET} octets")
        if stat.S_ISREG(mode) and mode & stat.S_IROTH:
            _warn_once(f"{login.password_file}: every user of this machine can read this secret; use chmod 0600")
        octets = octets.removesuffix(b"\n").removesuffix(b"\r")
    elif login.password_env:
        octets = os.environb.get(os.fsencode(login.password_env), b"")
    else:
        octets = login.password.encode()
    if not octets:
        source = login.password_file or f"the environment variable {login.password_env}"
        raise ConfigError(f"the secret for {login.user}: {source} is empty")
    kind = SecretKind.BEARER if login.bearer else SecretKind.SHARED
    return Credentials(login.user.encode(), Secret(octets), kind, login.mechanisms)
