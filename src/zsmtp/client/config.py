"""The configuration of deliveries as one frozen value; also read from TOML (``zsmtp.client.configfile``).

By default, mail goes to the mail exchangers of each recipient's domain, by TLS if a server offers it, with DANE. A
fixed relay receives all of it instead; ``routes`` makes exceptions by domain of the recipient, and ``sender_routes`` by
sender, for recipients without a route::

    Config(relay=Relay.from_url("smtp://user@mail.example.org", password_env="MAIL_PASSWORD"))
    Config(helo_name="out.example.org", routes={"example.com": Relay.from_url("lmtp:///run/dovecot/lmtp")})

Times are in seconds. An invalid value raises a :class:`~zsmtp.errors.ConfigError` that begins with the path of the key:
``relay.port: 70000 is not 1 to 65535``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from zsmtp.body.target import NonMime8Bit, Signed8Bit
from zsmtp.delivery.gate import Rate
from zsmtp.dns.candidates import Family, NoRoute
from zsmtp.dns.destination import SMTP_PORT, SUBMISSIONS_PORT
from zsmtp.dns.ip import canonical_scoped_ip
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.dns.nameserver import parse_nameserver
from zsmtp.dns.resolver import Resolver
from zsmtp.errors import CommandError, ConfigError
from zsmtp.escape import escape
from zsmtp.fieldtypes import check_least, check_types
from zsmtp.net.identity import parse_identity
from zsmtp.proto.command import hello
from zsmtp.proto.phase import Timeouts
from zsmtp.records import dataclass, field, field_names
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.tls.policy import Level, STSUse, parse_fingerprint

if TYPE_CHECKING:
    from pathlib import Path

MAX_SECRET = 16 * 1024  # octets of a password file
LONGEST = 1e7  # seconds; a larger value is a mistake
SMTP, SUBMISSION, SUBMISSIONS, LMTP = SMTP_PORT, 587, SUBMISSIONS_PORT, 24
_PLAIN = "!$&'()+,;=@"  # unquoted characters of user names, beside letters, digits and _.-~
_SCHEMES = {"smtp": (False, False), "smtps": (True, False), "submissions": (True, False), "lmtp": (False, True)}


def _require(good: bool, key: str, problem: str) -> None:
    if not good:
        raise ConfigError(f"{key}: {problem}")


def _changed(owner: Any, *without: str) -> dict[str, object]:
    """The fields without their default values, as JSON has them."""
    from dataclasses import fields

    found = {one.name: getattr(owner, one.name) for one in fields(owner) if one.name not in without}
    default = {one.name: one.default for one in fields(owner)}
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in found.items()
        if value != default[name]
    }


def _in(key: str, parse: Any, text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The login at a relay (RFC 4954). Exactly one of the three sources of the secret is given.

    The relay gets no mail without it, whether it refuses the login or does not offer AUTH.
    """

    user: str
    """The user name (RFC 4616 authentication identity)."""
    password: str = field(default="", repr=False)
    """The secret itself; for programs: a configuration file names its source instead."""
    password_file: str = ""
    """A file with the secret; one line end after it is not part of it.

    It is read for each login, so that a new secret is used from then on.
    """
    password_env: str = ""
    """The environment variable with the secret; read for each login, too."""
    bearer: bool = False
    """Whether the secret is an OAuth 2.0 token (RFC 7628)."""
    mechanisms: tuple[str, ...] = ()
    """The only SASL mechanisms to use, in this order.

    Empty: all that zsmtp has for this kind of secret, the strongest first.
    """

    def __post_init__(self) -> None:
        check_types(self)
        _require(bool(self.user), "user", "no user is named")
        if self.mechanisms:
            from zsmtp.proto.sasl import SecretKind, serving

            kind = SecretKind.BEARER if self.bearer else SecretKind.SHARED
            for number, name in enumerate(self.mechanisms):
                problem = f"{name!r} is no mechanism for a {kind.value}: {', '.join(serving(kind))}"
                _require(name in serving(kind), f"mechanisms[{number}]", problem)
        given = [name for name in ("password", "password_file", "password_env") if getattr(self, name)]
        found = f"{' and '.join(given)} are" if given else "none is"
        wanted = "one of password, password_file and password_env is expected"
        _require(len(given) == 1, "password", f"{wanted}, and {found} given")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The protection that sessions must have."""

    level: Level | None = None
    """The least protection; None: by the destination.

    That is ``may`` for mail exchangers and for relays without a login, ``verify`` for a relay that gets a password and
    is not this machine.
    """
    names: tuple[str, ...] = ()
    """The names to accept in a certificate, instead of the server's own."""
    fingerprints: tuple[str, ...] = ()
    """SHA-256 or SHA-512 of the certificate or its key, hexadecimal; for level ``fingerprint``."""
    ca_file: str = ""
    """A PEM file of trust anchors instead of the system's."""
    ca_path: str = ""
    """A folder of them, as ``openssl rehash`` makes it."""
    certificate_file: str = ""
    """PEM: the client certificate for servers that request one, with its chain."""
    key_file: str = ""
    """PEM: its private key; "" if it is in the same file."""
    min_protocol: str = "TLSv1.2"
    """The oldest protocol: ``TLSv1.2`` or ``TLSv1.3``; older ones if OpenSSL still has them."""
    ciphers: str = ""
    """The cipher list of TLS 1.2, in OpenSSL's syntax; "" is the system's."""

    def __post_init__(self) -> None:
        check_types(self)
        for number, text in enumerate(self.fingerprints):
            try:
                parse_fingerprint(text)
            except ValueError as error:
                raise ConfigError(f"fingerprints[{number}]: {error}") from error
        wanted = self.level is Level.FINGERPRINT
        _require(wanted == bool(self.fingerprints), "fingerprints", "they go with level fingerprint, and it with them")
        _require(not self.key_file or bool(self.certificate_file), "key_file", "a key without a certificate_file")
        if self.min_protocol != "TLSv1.2":
            from zsmtp.tls.context import MIN_PROTOCOLS

            known = ", ".join(MIN_PROTOCOLS)
            _require(self.min_protocol in MIN_PROTOCOLS, "min_protocol", f"{self.min_protocol!r} is none of {known}")


def _without_url_zone(host: str) -> str:
    """The host of a URL: the zone of an address begins with ``%25`` there (RFC 6874 2), often written as ``%``."""
    address, mark, zone = host.partition("%")
    return f"{address}%{unquote(zone[2:])}" if mark and zone[:2] == "25" and zone[2:] else host


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A server that receives all mail routed to it. Its MX records are not looked up."""

    host: str
    """A name, an address or the path of a UNIX socket.

    A link-local address has its zone after it (``fe80::1%eth0``, in a URL ``[fe80::1%25eth0]``: RFC 6874).
    """
    port: int | None = None
    """None is 24 for LMTP, 465 with ``implicit`` TLS (RFC 8314), 587 with a login, and 25."""
    login: Login | None = None
    """The login there; None: no login."""
    tls: TLS = TLS()
    """The protection that its sessions must have."""
    implicit: bool = False
    """Whether TLS starts with the first octet (RFC 8314)."""
    lmtp: bool = False
    """Whether its protocol is LMTP (RFC 2033)."""

    def __post_init__(self) -> None:
        check_types(self)
        parsed = parse_destination(self.destination, allow_unix=True)
        _require(not isinstance(parsed, NoRoute), "host", getattr(parsed, "text", ""))
        _require(self.port is None or 1 <= self.port <= 65535, "port", f"{self.port} is not 1 to 65535")

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        password_file: str = "",
        password_env: str = "",
        bearer: bool = False,
        tls: TLS | None = None,
    ) -> Relay:
        """``smtp://``, ``smtps://`` or ``lmtp://`` with ``[user[:password]@]host[:port]``, or ``lmtp:///path``.

        The other arguments are as for :class:`Login` and :class:`Relay`. Raises ConfigError.
        """
        shown = escape(url.rpartition("@")[2][:100])
        try:
            parts = urlsplit(url)
            host, port = _without_url_zone(parts.hostname or ""), parts.port
        except ValueError:  # the error's text may contain a part of a password
            raise ConfigError(f"relay: not a host and a port: {shown}") from None
        if parts.scheme not in _SCHEMES or "://" not in url:
            raise ConfigError(f"relay: a URL is expected, smtp://, smtps:// or lmtp:// with a host: {shown}")
        implicit, lmtp = _SCHEMES[parts.scheme]
        if not host and parts.path:
            host = unquote(parts.path)
        elif parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError(f"relay: nothing may follow the host in {escape(host)}")
        login = None
        if parts.username:
            login = Login(
                user=unquote(parts.username),
                password=unquote(parts.password or ""),
                password_file=password_file,
                password_env=password_env,
                bearer=bearer,
            )
        elif password_file or password_env:
            raise ConfigError("relay: a password without a user")
        return cls(host=host, port=port, login=login, tls=tls or TLS(), implicit=implicit, lmtp=lmtp)

    @property
    def destination(self) -> str:
        """The host in the syntax of the destination rules."""
        if self.is_unix:
            return f"UNIX:{self.host}"
        return f"[{self.host}]" if canonical_scoped_ip(self.host) is not None else self.host

    @property
    def is_unix(self) -> bool:
        """Whether it is a UNIX socket."""
        return self.host.startswith("/")

    @property
    def real_port(self) -> int:
        """The port to connect to; 0 for UNIX sockets."""
        if self.is_unix:
            return 0
        usual = LMTP if self.lmtp else SUBMISSIONS if self.implicit else SUBMISSION if self.login is not None else SMTP
        return self.port or usual

    @property
    def key(self) -> str:
        """Its name in a queue: host and port, with the user before them if it logs in.

        Relays of one configuration with equal keys differ in their ``settings``.
        """
        return str(self) if self.login is None else f"{quote(self.login.user, safe=_PLAIN)}@{self}"

    @property
    def settings(self) -> str:
        """The settings of its sessions as JSON: values that are not the default, without the secret itself.

        A new secret, in its file or its variable or here, leaves them unchanged.
        """
        import json  # few ask

        values = _changed(self, "host", "port", "tls", "login") | {"tls": _changed(self.tls)}
        if self.login is not None:
            values["login"] = _changed(self.login, "password")
        return json.dumps(values, sort_keys=True)

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        bare = ":" in self.host and not self.host.startswith("[")
        return f"[{self.host}]:{self.real_port}" if bare else f"{self.host}:{self.real_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """Delivery to mail exchangers."""

    nameserver: str = ""
    """The name server to query: an address with or without port; "": the system's."""
    trusted: bool | None = None
    """Whether its DNSSEC validation is trusted; None: if it is on this machine."""
    resolver: Resolver | None = field(default=None, metadata={"python only": True})
    """Replaces name servers; called in threads, unless it has ``resolve``: ``zsmtp.dns.resolver``."""
    dane: bool = True
    """Whether TLSA records are looked up (RFC 7672)."""
    mta_sts: STSUse = STSUse.ON
    """Whether MTA-STS policies are fetched (RFC 8461)."""
    mta_sts_cache: str = ""
    """A file that keeps these policies beyond the life of the client; "": in memory only."""
    tls_report_file: str = ""
    """The destination of session results, for domains that ask for TLS reports (RFC 8460); "": none.

    It is a file for each day, named by this name and the day, from which ``zsmtp tlsrpt`` makes reports; or the UNIX
    datagram socket of a report collector.
    """
    prefer_ipv6: bool = False
    """Whether IPv6 addresses of a host are tried first; without it they alternate with IPv4."""
    port: int = SMTP
    """The port of exchangers, for closed networks and tests."""
    tls: TLS = TLS()
    """The protection that sessions with exchangers must have, beside DANE and MTA-STS."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.nameserver:
            _in("nameserver", parse_nameserver, self.nameserver)
        _require("\0" not in self.tls_report_file, "tls_report_file", "no file name")
        _require(1 <= self.port <= 65535, "port", f"{self.port} is not 1 to 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on concurrency, rates and memory."""

    connections: int = 2000
    """Connections at work, to all destinations together.

    One that has waited for its server for about two seconds does not count. There are fewer if this process may not
    open so many files.
    """
    slow_connections: int = 2000
    """Further connections that wait for their servers; 0: the first limit includes these."""
    per_destination: int = 5
    """Connections to one destination."""
    connections_per_minute: int = 0
    """Connections begun to one destination in any 60 seconds, for any purpose; 0: no limit.

    A connection that waits for this limit does not count for the other limits. A queue has rates by site instead.
    """
    message_rate: str = ""
    """Messages begun in all: ``14/s``, ``100/min``, or several rates with a blank between; "": no limit.

    Each rate holds for any period of its length. A message to several destinations counts once for each. A queue has
    rates by site instead.
    """
    idle: float = 5.0
    """Seconds until an unused connection is closed."""
    waiting: int = 64 << 20
    """Octets of memory for the messages of a stream without all results.

    A further message is read as long as they take less.
    """

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, connections=1, per_destination=1, waiting=1, slow_connections=0, connections_per_minute=0)
        _require(0 <= self.idle <= LONGEST, "idle", f"{self.idle} is not 0 to {LONGEST:.0f} seconds")
        _in("message_rate", lambda _: self.message_rates, self.message_rate)

    @property
    def message_rates(self) -> tuple[Rate, ...]:
        """The rates in ``message_rate``."""
        return tuple(Rate.parse(text) for text in self.message_rate.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The allowed changes to messages.

    All but ``add_missing`` are conversions for servers that cannot accept the content as it is; see
    :class:`zsmtp.body.target.Target`.
    """

    add_missing: bool = False
    """Add Date and Message-ID to a message without them (RFC 6409 8)."""
    seven_bit: bool = False
    """Send 7-bit content only, for all extensions of a server."""
    convert_headers: bool = True
    """Encode non-ASCII header fields (RFC 2047) if a server cannot accept them."""
    default_charset: str = "UNKNOWN-8BIT"
    """The charset label for text of unknown charset (RFC 1428)."""
    signed_8bit: Signed8Bit = Signed8Bit.AS_IS
    """The treatment of a signed message that would have to be changed."""
    nonmime_8bit: NonMime8Bit = NonMime8Bit.CONVERT
    """The treatment of 8-bit text without MIME fields."""

    def __post_init__(self) -> None:
        check_types(self)
        known = self.default_charset.isascii() and self.default_charset.replace("-", "").replace("_", "").isalnum()
        _require(known, "default_charset", f"{self.default_charset!r} is no name of a charset")


def _route_domain(key: str, domain: str, problem: str) -> str:
    """The domain of a route, in the form of destinations."""
    parsed = parse_destination(domain)
    _require(isinstance(parsed, Name), key, problem)
    return parsed.domain if isinstance(parsed, Name) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration of a client. See the module for how its parts work together."""

    relay: Relay | None = None
    """The server for all mail without a route; None: mail exchangers."""
    direct: Direct = Direct()
    """The delivery to mail exchangers."""
    routes: Mapping[str, Relay] = field(default_factory=dict)
    """Relays by domain of the recipient."""
    sender_routes: Mapping[str, Relay] = field(default_factory=dict)
    """Relays by sender of the envelope, for all recipients without a route: an address, or a domain.

    The route of an address has priority over that of its domain. Mail from ``<>``, such as notices, matches none.
    """
    helo_name: str = ""
    """The HELO name of this side; "": its own name, by the DNS."""
    local_address: str = ""
    """The source address of connections, in the syntax of ``zsmtp.net.identity``; "": the system's choice."""
    address_family: Family | None = None
    """The only address family of connections, IPv4 or IPv6; None: both."""
    pipelining: bool = True
    """Whether commands may be sent before replies (RFC 2920), and content before replies to commands (RFC 3030)."""
    message_timeout: float = 900.0
    """Seconds for the whole delivery of one message.

    After them undecided recipients are deferred, or in doubt.
    """
    timeouts: Timeouts = Timeouts()
    """Timeouts of single waits in seconds (RFC 5321 4.5.3.2)."""
    limits: Limits = Limits()
    """Limits on concurrency, rates and memory."""
    content: Content = Content()
    """The allowed changes to messages."""
    dkim: tuple[DKIMKey, ...] = ()
    """Keys to sign with (RFC 6376).

    Mail whose From is in one of their domains is signed, in a form that no server converts, with Date and Message-ID
    added if missing. The files are read when a client or a queue is made; an invalid key is a ConfigError then.
    """

    def __post_init__(self) -> None:
        check_types(self)
        for number, one in enumerate(self.dkim):
            _require(isinstance(one, DKIMKey), f"dkim[{number}]", f"DKIMKey is expected, not {type(one).__name__}")
        if self.local_address:
            _in("local_address", parse_identity, self.local_address)
        _require(self.address_family is not Family.UNIX, "address_family", "UNIX is none of IPv4, IPv6")
        waits = {f"timeouts.{wait}": getattr(self.timeouts, wait) for wait in field_names(Timeouts)}
        for key, seconds in {"message_timeout": self.message_timeout, **waits}.items():
            _require(0 < seconds <= LONGEST, key, f"{seconds} is not more than 0 and at most {LONGEST:.0f} seconds")
        try:
            hello(b"EHLO", (self.helo_name or "x").encode("utf-8", "surrogateescape"))
        except CommandError as error:
            raise ConfigError(f"helo_name: {error}") from error
        routes, sender_routes = {}, {}
        for domain, relay in self.routes.items():
            key = f"routes.{escape(domain)}"
            _require(isinstance(relay, Relay), key, f"Relay is expected, not {type(relay).__name__}")
            routes[_route_domain(key, domain, "not a domain")] = relay
        for sender, relay in self.sender_routes.items():
            key = f"sender_routes.{escape(sender)}"
            _require(isinstance(relay, Relay), key, f"Relay is expected, not {type(relay).__name__}")
            local, at, domain = sender.rpartition("@")
            _require(bool(local) or not at, key, "neither an address nor a domain")
            domain = _route_domain(key, domain, "neither an address nor a domain")
            sender_routes[f"{local.lower()}@{domain}" if at else domain] = relay
        object.__setattr__(self, "routes", MappingProxyType(routes))
        object.__setattr__(self, "sender_routes", MappingProxyType(sender_routes))

    @property
    def relays(self) -> tuple[Relay, ...]:
        """All relays, each once: the one for all mail first, then those of routes."""
        first = () if self.relay is None else (self.relay,)
        return tuple(dict.fromkeys((*first, *self.routes.values(), *self.sender_routes.values())))

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Read a file; raises ConfigError naming the file and the key's path, OSError if it cannot be read."""
        from zsmtp.client.configfile import read_file

        return read_file(path)


__all__ = [
    "TLS",
    "Config",
    "Content",
    "DKIMKey",
    "Direct",
    "Family",
    "Level",
    "Limits",
    "Login",
    "NonMime8Bit",
    "Relay",
    "STSUse",
    "Signed8Bit",
    "Timeouts",
]
