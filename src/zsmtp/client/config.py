"""What a program wants of its deliveries, as one frozen value; also read from TOML (``zsmtp.client.configfile``).

Without anything said, mail goes straight to the mail exchangers of each recipient's domain, by TLS where it is to be
had, with DANE. A fixed relay takes all of it instead, and ``routes`` makes exceptions by domain::

    Config(relay=Relay.from_url("smtp://user@mail.example.org", password_env="MAIL_PASSWORD"))
    Config(helo_name="out.example.org", routes={"example.com": Relay.from_url("lmtp:///run/dovecot/lmtp")})

Times are in seconds. Whatever cannot be used is a :class:`~zsmtp.errors.ConfigError` that begins with the path of the
key: ``relay.port: 70000 is not 1 to 65535``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import unquote, urlsplit

from zsmtp.body.target import NonMime8Bit, Signed8Bit
from zsmtp.dns.destination import SMTP_PORT, SUBMISSIONS_PORT
from zsmtp.dns.ip import canonical_ip
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.dns.nameserver import parse_nameserver
from zsmtp.dns.plan import Family, NoRoute
from zsmtp.dns.resolver import Resolver
from zsmtp.errors import CommandError, ConfigError
from zsmtp.escape import escape
from zsmtp.net.identity import parse_identity
from zsmtp.proto.command import hello
from zsmtp.proto.phase import Timeouts
from zsmtp.tls.policy import Level, STSUse, parse_fingerprint

MAX_SECRET = 16 * 1024  # octets of a password file
LONGEST = 1e7  # seconds; beyond it somebody meant something else
SMTP, SUBMISSION, SUBMISSIONS, LMTP = SMTP_PORT, 587, SUBMISSIONS_PORT, 24
_SCHEMES = {"smtp": (False, False), "smtps": (True, False), "submissions": (True, False), "lmtp": (False, True)}


def _require(good: bool, key: str, problem: str) -> None:
    if not good:
        raise ConfigError(f"{key}: {problem}")


@cache
def _kinds(owner: type) -> dict[str, tuple[type, ...]]:
    """What the value of each field may be, as isinstance() wants it; a protocol may be anything."""
    found: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(owner).items():
        parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kinds = tuple(get_origin(part) or part for part in parts)
        if Resolver not in kinds:
            found[name] = (*kinds, int) if float in kinds else kinds
    return found


def _typed(owner: Any) -> None:
    """A value of a wrong type is found here and not when mail is on its way: ``"verify"`` is no ``Level.VERIFY``."""
    for name, kinds in _kinds(owner.__class__).items():
        value = getattr(owner, name)
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
        _require(isinstance(value, kinds), name, f"{wanted} is wanted, not {type(value).__name__}")


def _in(key: str, parse: Any, text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who logs in at a relay (RFC 4954). Exactly one of the three ways to the secret is given.

    Without that login the relay gets no mail, whether it refuses it or does not offer AUTH.

    ``password_file`` holds nothing but the secret (one line end behind it is no part of it); ``password_env`` names an
    environment variable. Both are read for each login, so that a new secret counts from then on. ``bearer``: the secret
    is an OAuth 2.0 token.
    """

    user: str
    password: str = field(default="", repr=False)
    password_file: str = ""
    password_env: str = ""
    bearer: bool = False

    def __post_init__(self) -> None:
        _typed(self)
        _require(bool(self.user), "user", "nobody is named")
        given = [name for name in ("password", "password_file", "password_env") if getattr(self, name)]
        _require(len(given) == 1, "password", f"one of password, password_file, password_env; not {len(given)} of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How safe sessions must be.

    ``level`` None leaves it to where mail goes: ``may`` for mail exchangers and for relays without a login, ``verify``
    for a relay that is told a password and is not this machine. ``names`` are the names a certificate may speak for
    instead of the server's own, ``fingerprints`` (SHA-256 or SHA-512, hexadecimal) are for level ``fingerprint``.
    ``ca_file`` and ``ca_path`` replace the system's trust anchors. ``certificate_file`` and ``key_file`` are shown to
    servers that ask.
    """

    level: Level | None = None
    names: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    ca_file: str = ""
    ca_path: str = ""
    certificate_file: str = ""
    key_file: str = ""
    min_protocol: str = "TLSv1.2"
    ciphers: str = ""

    def __post_init__(self) -> None:
        _typed(self)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """One server that takes all mail sent its way. No MX records are asked for it.

    ``host`` is a name, an address or the path of a UNIX socket. ``port`` None is 24 for LMTP,
    465 with ``implicit`` TLS (RFC 8314), 587 with a login, and 25. ``lmtp`` speaks LMTP (RFC 2033).
    """

    host: str
    port: int | None = None
    login: Login | None = None
    tls: TLS = TLS()
    implicit: bool = False
    lmtp: bool = False

    def __post_init__(self) -> None:
        _typed(self)
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
            host, port = parts.hostname or "", parts.port
        except ValueError:  # its words may hold a part of a password
            raise ConfigError(f"relay: not a host and a port: {shown}") from None
        if parts.scheme not in _SCHEMES or "://" not in url:
            raise ConfigError(f"relay: a URL is wanted, smtp://, smtps:// or lmtp:// with a host: {shown}")
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
        """The host as the destination rules read it."""
        if self.is_unix:
            return f"UNIX:{self.host}"
        return f"[{self.host}]" if canonical_ip(self.host) is not None else self.host

    @property
    def is_unix(self) -> bool:
        """Whether it is a socket of this machine."""
        return self.host.startswith("/")

    @property
    def real_port(self) -> int:
        """The port to connect to; 0 for UNIX sockets."""
        if self.is_unix:
            return 0
        usual = LMTP if self.lmtp else SUBMISSIONS if self.implicit else SUBMISSION if self.login is not None else SMTP
        return self.port or usual

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.real_port}" if ":" in self.host else f"{self.host}:{self.real_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """Delivery to mail exchangers.

    ``nameserver`` is an address with or without port, "" for the system's; ``trusted`` tells whether its word on DNSSEC
    counts (None: if it is on this machine). ``resolver`` answers instead of any name server. ``mta_sts_cache`` names a
    file that keeps MTA-STS policies beyond the life of the client. ``tls_report_file`` is where results of sessions go,
    for domains that ask for TLS reports (RFC 8460): a file for each day, this name and the day behind it, of which
    ``zsmtp tlsrpt`` makes reports, or the UNIX datagram socket of a report collector. ``port`` is where exchangers
    listen, for closed networks and tests.
    """

    nameserver: str = ""
    trusted: bool | None = None
    resolver: Resolver | None = field(default=None, metadata={"python only": True})
    dane: bool = True
    mta_sts: STSUse = STSUse.ON
    mta_sts_cache: str = ""
    tls_report_file: str = ""
    prefer_ipv6: bool = False
    port: int = SMTP
    tls: TLS = TLS()

    def __post_init__(self) -> None:
        _typed(self)
        if self.nameserver:
            _in("nameserver", parse_nameserver, self.nameserver)
        _require("\0" not in self.tls_report_file, "tls_report_file", "no file name")
        _require(1 <= self.port <= 65535, "port", f"{self.port} is not 1 to 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much at a time.

    ``connections`` in all and ``per_destination``; a connection without work is kept for ``idle`` seconds. ``waiting``
    is how many messages a stream takes in before their results are out.
    """

    connections: int = 100
    per_destination: int = 5
    idle: float = 5.0
    waiting: int = 1000

    def __post_init__(self) -> None:
        _typed(self)
        for name in ("connections", "per_destination", "waiting"):
            _require(getattr(self, name) >= 1, name, f"{getattr(self, name)} is less than 1")
        _require(0 <= self.idle <= LONGEST, "idle", f"{self.idle} is not 0 to {LONGEST:.0f} seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What may be done to messages on their way.

    ``add_missing`` adds Date and Message-ID where a message has none (RFC 6409 8). The others say how content goes to a
    server that cannot take it as it is; see :class:`zsmtp.body.target.Target`.
    """

    add_missing: bool = False
    seven_bit: bool = False
    convert_headers: bool = True
    default_charset: str = "UNKNOWN-8BIT"
    signed_8bit: Signed8Bit = Signed8Bit.AS_IS
    nonmime_8bit: NonMime8Bit = NonMime8Bit.CONVERT

    def __post_init__(self) -> None:
        _typed(self)
        known = self.default_charset.isascii() and self.default_charset.replace("-", "").replace("_", "").isalnum()
        _require(known, "default_charset", f"{self.default_charset!r} is no name of a charset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a client is to know. See the module for how its parts go together.

    ``helo_name`` is what this side greets with ("": its own name, by the DNS); ``local_address`` where connections come
    from, as ``zsmtp.net.identity`` reads it; ``address_family`` the only one to connect in, IPv4 or IPv6 (None: both).
    ``message_timeout`` bounds everything that is done for one message: then whoever is undecided is deferred, or in
    doubt. ``timeouts`` are those of single waits.
    """

    relay: Relay | None = None
    direct: Direct = Direct()
    routes: Mapping[str, Relay] = field(default_factory=dict)
    helo_name: str = ""
    local_address: str = ""
    address_family: Family | None = None
    pipelining: bool = True
    message_timeout: float = 900.0
    timeouts: Timeouts = Timeouts(connect=30.0, final=600.0, quit=5.0)  # noqa: RUF009 - frozen
    limits: Limits = Limits()
    content: Content = Content()

    def __post_init__(self) -> None:
        _typed(self)
        if self.local_address:
            _in("local_address", parse_identity, self.local_address)
        _require(self.address_family is not Family.UNIX, "address_family", "UNIX is none of IPv4, IPv6")
        waits = {f"timeouts.{wait.name}": getattr(self.timeouts, wait.name) for wait in fields(self.timeouts)}
        for key, seconds in {"message_timeout": self.message_timeout, **waits}.items():
            _require(0 < seconds <= LONGEST, key, f"{seconds} is not more than 0 and at most {LONGEST:.0f} seconds")
        try:
            hello(b"EHLO", (self.helo_name or "x").encode("utf-8", "surrogateescape"))
        except CommandError as error:
            raise ConfigError(f"helo_name: {error}") from error
        routes = {}
        for domain, relay in self.routes.items():
            parsed = parse_destination(domain)
            _require(isinstance(parsed, Name), f"routes.{escape(domain)}", "not a domain")
            _require(
                isinstance(relay, Relay), f"routes.{escape(domain)}", f"Relay is wanted, not {type(relay).__name__}"
            )
            routes[parsed.domain if isinstance(parsed, Name) else ""] = relay
        object.__setattr__(self, "routes", MappingProxyType(routes))

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Read a file; raises ConfigError naming the file and the key's path, OSError if it cannot be read."""
        from zsmtp.client.configfile import read_file

        return read_file(path)


__all__ = [
    "TLS",
    "Config",
    "Content",
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
