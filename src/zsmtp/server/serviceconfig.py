"""The configuration of ``zsmtp serve``, as one frozen value read from TOML. All keys have defaults.

::

    name = "out.example.org"

    [queue]
    path = "/var/lib/zsmtp/queue.db"

    [queue.retry]
    expire = "3d"

    [listen.submission]
    addresses = ["0.0.0.0:587"]
    tls = "required"
    certificate_file = "/etc/zsmtp/cert.pem"
    passwords_file = "/etc/zsmtp/passwords"

    [delivery]
    relay = "smtp://relay.example.org"

``[queue]`` has the fields of :class:`~zsmtp.queue.config.QueueConfig`, ``[delivery]`` those of
:class:`~zsmtp.client.config.Config`. Times are numbers of seconds or durations (``"90s"``, ``"4h"``, ``"5d"``), rates
are texts (``"14/s"``) or lists of them. An invalid value is a :class:`~zsmtp.errors.ConfigError` that names the file
and the full path of the key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zsmtp.client.config import Config
from zsmtp.client.configfile import Readers, read_dataclass, read_toml
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError, QueueError
from zsmtp.escape import escape
from zsmtp.fieldtypes import check_least
from zsmtp.proto.server_settings import PROMISED_RECIPIENTS, ServerBounds, ServerSettings, ServerTimeouts
from zsmtp.queue.composer import NoticeSettings
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.filter import duration
from zsmtp.queue.housekeeping import reporting_name
from zsmtp.queue.location import DEFAULT, locate
from zsmtp.queue.schedule import SCHEDULES, FailureClass, RetryOverride, Schedule
from zsmtp.queue.shaping import Rate, rates
from zsmtp.server.access import EVERYBODY, ClientRights, IPNetwork, read_network, sender_patterns

DEFAULT_ADDRESS = "127.0.0.1:2525"
DAY = 86400.0
MAX_WORKERS = 64
MECHANISMS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")


class Protocol(Enum):
    """The protocol of a listener."""

    SMTP = "smtp"
    LMTP = "lmtp"  # RFC 2033: one reply for each recipient


class ListenTLS(Enum):
    """Whether a listener has TLS."""

    NONE = "none"
    OFFERED = "offered"  # STARTTLS may be used (RFC 3207)
    REQUIRED = "required"  # STARTTLS comes before logins and mail
    IMPLICIT = "implicit"  # TLS from the first octet (RFC 8314)


class LogFormat(Enum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"  # one object a line


class LogLevel(Enum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAddress:
    """An address to listen on: ``host`` and ``port``, or ``path`` of a UNIX socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """Read ``127.0.0.1:25``, ``[::1]:25``, ``localhost:25``, ``*:25`` or ``/path``; raises ConfigError."""
        if text.startswith("/"):
            if len(os.fsencode(text)) > 107 or "\0" in text:
                raise ConfigError(f"{escape(text[:120])}: no path that a socket can have (107 octets at most)")
            return cls(path=text)
        host, colon, number = text.rpartition(":")
        if not colon or not (number.isascii() and number.isdigit() and int(number[:6]) <= 65535):
            raise ConfigError(f"'{escape(text[:80])}': host:port, [address]:port or /path is expected")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ConfigError(f"'{escape(text[:80])}': an IPv6 address belongs in brackets")
        if not host:
            raise ConfigError(f"'{escape(text[:80])}': no host; *:{number} is every address of this machine")
        return cls(host="" if host == "*" else host, port=int(number))

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """One listener: its addresses, access rules and limits."""

    addresses: tuple[str, ...] = ()
    """``host:port``, ``[address]:port``, ``*:port`` or ``/path``; sockets passed by systemd replace them."""
    protocol: Protocol = Protocol.SMTP
    """The protocol."""
    mode: str = "0666"
    """The mode of UNIX sockets, octal: users that can open them may send."""
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """The networks whose clients may send without a login."""
    senders: tuple[str, ...] = EVERYBODY
    """The sender addresses of clients without a match in ``[[clients]]``."""
    tls: ListenTLS = ListenTLS.NONE
    """Whether there is TLS; it requires a certificate."""
    certificate_file: str = ""
    """PEM: the certificate with its chain."""
    key_file: str = ""
    """PEM; "": in the same file."""
    passwords_file: str = ""
    """The users that can log in; a line for each (``zsmtp serve --password-line``)."""
    login_required: bool = False
    """Whether clients in all networks need a login to send."""
    mechanisms: tuple[str, ...] = MECHANISMS
    """SASL mechanisms, best first; those that send the password itself are offered under TLS only."""
    default_domain: str = ""
    """The domain of addresses without one; "": the name of this server."""
    add_missing: bool = True
    """Add Date and Message-ID if they are missing."""
    max_size: int = 64 << 20
    """Octets of a message at most."""
    max_recipients: int = 1000
    """Recipients of a message at most."""
    max_hold: float = 30 * DAY
    """The longest hold that a client may request for a message (FUTURERELEASE); 0: not offered."""
    priority: bool = True
    """Whether clients may give messages a priority (MT-PRIORITY)."""
    bounces: bool = False
    """Whether mail to return paths, and complaints, are accepted from all clients (``[queue.bounces]``)."""
    connections: int = 1000
    """Connections at a time."""
    connections_per_address: int = 100
    """Connections of one client address at a time."""
    rates_by_user: tuple[Rate, ...] = ()
    """Rates of messages from one login, or one user at a UNIX socket."""
    rates_by_address: tuple[Rate, ...] = ()
    """Rates of messages from one client address."""
    failed_logins: tuple[Rate, ...] = (Rate(20, 3600.0),)
    """Rates of failed logins from one client address, beyond which it gets 421."""
    login_delay: float = 2.0
    """Seconds before the reply to a failed login; longer by this with each further one."""
    timeouts: ServerTimeouts = field(default_factory=ServerTimeouts)
    """How long to wait for clients."""

    def __post_init__(self) -> None:
        for number, text in enumerate(self.addresses):
            _in(f"addresses[{number}]", SocketAddress.parse, text)
        for number, text in enumerate(self.networks):
            _in(f"networks[{number}]", read_network, text)
        sender_patterns(self.senders)
        if not (
            self.mode.isdigit() and self.mode.isascii() and set(self.mode) <= set("01234567") and len(self.mode) < 5
        ):
            raise ConfigError(f"mode: '{escape(self.mode[:20])}' is no octal mode, as 0660 is")
        if self.tls is not ListenTLS.NONE and not self.certificate_file:
            raise ConfigError("certificate_file: is missing, and tls needs it")
        if self.tls is ListenTLS.NONE and self.certificate_file:
            raise ConfigError('certificate_file: a certificate, and tls is "none"; is "offered" meant?')
        if self.bounces and (self.login_required or self.protocol is Protocol.LMTP):
            raise ConfigError('bounces: any server sends them; not with login_required, nor with protocol = "lmtp"')
        if self.login_required and not self.passwords_file:
            raise ConfigError("login_required: no client can log in without a passwords_file")
        if self.passwords_file and self.tls is ListenTLS.NONE and not set(self.mechanisms) & _WITHOUT_TLS:
            raise ConfigError("passwords_file: no login is possible: these mechanisms need TLS, and there is none")
        for number, name in enumerate(self.mechanisms):
            if name not in MECHANISMS:
                raise ConfigError(f"mechanisms[{number}]: {escape(name[:40])} is none of {', '.join(MECHANISMS)}")
        check_least(self, connections=1, connections_per_address=1, max_hold=0, login_delay=0)
        check_least(self, max_recipients=PROMISED_RECIPIENTS)
        self.protocol_settings("name.example")

    @property
    def sockets(self) -> tuple[SocketAddress, ...]:
        """The parsed addresses."""
        return tuple(SocketAddress.parse(text) for text in self.addresses)

    @property
    def trusted_networks(self) -> tuple[IPNetwork, ...]:
        """The parsed networks."""
        return () if self.login_required else tuple(read_network(text) for text in self.networks)

    def protocol_settings(self, name: str) -> ServerSettings:
        """The settings of the protocol, with the name of this server. Raises ConfigError."""
        logins = bool(self.passwords_file)
        return ServerSettings(
            name=name.encode(),
            lmtp=self.protocol is Protocol.LMTP,
            max_size=self.max_size,
            starttls=self.tls in (ListenTLS.OFFERED, ListenTLS.REQUIRED),
            tls_required=self.tls is ListenTLS.REQUIRED,
            mechanisms=self.mechanisms if logins else (),
            login_required=self.login_required,
            priority=self.priority,
            max_hold=int(self.max_hold) or None,
            timeouts=self.timeouts,
            bounds=ServerBounds(recipients=self.max_recipients),
        )


_WITHOUT_TLS = frozenset({"SCRAM-SHA-256"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The log, which goes to standard error."""

    format: LogFormat = LogFormat.TEXT
    """The format of lines."""
    level: LogLevel = LogLevel.INFO
    """The lowest level of lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The address of health and metrics."""

    address: str = ""
    """The address to listen on for HTTP: one of this machine, or a ``/path``; "": none."""

    def __post_init__(self) -> None:
        if not self.address:
            return
        where = _in("address", SocketAddress.parse, self.address)
        if where.host not in ("127.0.0.1", "::1", "localhost") and not where.path:
            raise ConfigError(
                f"address: {where} can be reached from elsewhere; 127.0.0.1, [::1] or a /path is possible"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The settings of ``zsmtp serve``."""

    name: str
    """The host name of this server, for its greeting, Received and notices."""
    path: str = DEFAULT
    """The queue: a file, or the URL of a file or a database."""
    shards: tuple[str, ...] = ()
    """All queues of a fleet, including ``path``, for ``zsmtp queue``; empty if it is the only one."""
    workers: int = 0
    """Processes besides this one that deliver; 0: it delivers itself."""
    queue: QueueConfig = field(default_factory=QueueConfig)
    listen: Mapping[str, ListenConfig] = field(default_factory=lambda: MappingProxyType({}))
    """Listeners by name."""
    clients: tuple[ClientRights, ...] = ()
    """The rights of clients; the first match counts."""
    delivery: Config = field(default_factory=Config)
    notices: NoticeSettings
    templates: str = ""
    """A folder with your own texts of notices."""
    log: LogConfig = field(default_factory=LogConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    check_senders: bool = True
    """Check at start the domains of signing keys and default domains for faults that make receivers refuse mail, and
    warn of them."""


def _in(key: str, read: Any, text: Any) -> Any:
    try:
        return read(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


# ------------------------------------------------------------------ the reader


def read_service(path: str | Path, *, queue: str = "", usual: str = "") -> ServiceConfig:
    """Read a file. ``queue`` is a path that overrides that of the file, ``usual`` the default path.

    Raises ConfigError and OSError.
    """
    return read_toml(path, lambda table: service_config(table, queue=queue, usual=usual))


def is_of_service(path: str | Path) -> bool:
    """Whether a file has a table that only the configuration of a service has. Raises OSError."""
    try:
        return bool(read_toml(path, lambda table: table.keys() & {"queue", "listen", "clients", "delivery"}))
    except ConfigError:
        return False


def service_config(table: Mapping[str, Any], *, queue: str = "", usual: str = "") -> ServiceConfig:
    """The configuration from a table; ``queue`` and ``usual`` as in :func:`read_service`.

    Raises ConfigError that begins with the path of the key.
    """
    rest = dict(table)
    name = rest.pop("name", "") or reporting_name()
    if not isinstance(name, str) or (problem := domain_problem(name)) is not None:
        reason = "a string is expected" if not isinstance(name, str) else f"'{escape(name[:120])}' {problem}"
        raise ConfigError(f"name: {reason}; the host name of this server is meant")
    path, shards, queue_config = _queue(_table(rest, "queue"), name)
    notices = _table(rest, "notices")
    templates = _text(notices.pop("templates", ""), "notices.templates")
    where = queue or path or usual or DEFAULT
    _refuse_unused(rest.get("delivery"))
    for key in rest.keys() & {one.name for one in fields(Config)}:
        raise ConfigError(f"{key}: there is no such key; is delivery.{key} meant?")
    made = read_dataclass(_Rest, rest, "", _READERS)
    for listener, one in made.listen.items():
        if one.bounces and not queue_config.bounces.return_path:
            raise ConfigError(f"listen.{escape(listener)}.bounces: queue.bounces.return_path says which mail that is")
    return ServiceConfig(
        name=name,
        path=where,
        shards=shards,
        workers=worker_count(made.workers),
        queue=queue_config,
        listen=MappingProxyType(dict(made.listen) or _usual_listeners(where)),
        clients=made.clients,
        delivery=made.delivery,
        notices=read_dataclass(NoticeSettings, {"host": name, **notices}, "notices.", _READERS),
        templates=templates,
        log=made.log,
        health=made.health,
        check_senders=made.check_senders,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """The tables without conversions, and the keys before them."""

    workers: int = 0
    listen: Mapping[str, ListenConfig] = field(default_factory=dict)
    clients: tuple[ClientRights, ...] = ()
    delivery: Config = field(default_factory=Config)
    log: LogConfig = field(default_factory=LogConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    check_senders: bool = True


def worker_count(count: int) -> int:
    """A valid number of workers. Raises ConfigError."""
    if not 0 <= count <= MAX_WORKERS:
        raise ConfigError(f"workers: {count} is not 0 to {MAX_WORKERS}")
    return count


def _refuse_unused(delivery: object) -> None:
    """Raise ConfigError for keys of ``[delivery]`` that a queue does not use, naming the key to use instead."""
    if not isinstance(delivery, dict):
        return
    content = delivery.get("content")
    for key, given, instead in (
        ("limits", "limits" in delivery, "queue.connections and queue.sites say how much is sent at a time"),
        (
            "message_timeout",
            "message_timeout" in delivery,
            "delivery.timeouts bound each wait, queue.retry all of them",
        ),
        (
            "content.add_missing",
            isinstance(content, dict) and "add_missing" in content,
            "listeners add fields: listen.NAME.add_missing",
        ),
    ):
        if given:
            raise ConfigError(f"delivery.{key}: is not for a queue; {instead}")


def _usual_listeners(queue: str) -> dict[str, ListenConfig]:
    """The default listeners: a port of the loopback interface, and a socket beside the file of the queue, if any."""
    path = locate(queue).path
    if not path:
        return {"local": ListenConfig(addresses=(DEFAULT_ADDRESS,))}
    socket_path = f"{os.path.abspath(path)}.sock"
    fits = len(os.fsencode(socket_path)) <= 107
    return {"local": ListenConfig(addresses=(DEFAULT_ADDRESS, *([socket_path] if fits else [])))}


def _queue(table: dict[str, Any], name: str) -> tuple[str, tuple[str, ...], QueueConfig]:
    """The path, all shards, and the configuration; aliases without a domain are addresses of the server ``name``."""
    path = _text(table.pop("path", ""), "queue.path")
    url = _text(table.pop("url", ""), "queue.url")
    if path and url:
        raise ConfigError("queue.url: queue.path is set, too; a queue has one place")
    shards = _shards(table.pop("shards", []), path or url)
    addresses = _table(table, "addresses")
    table["addresses"] = {"domains": [name], **addresses}
    config = read_dataclass(QueueConfig, table, "queue.", _READERS)
    config = replace(config, retry=replace(config.retry, schedules={**SCHEDULES, **config.retry.schedules}))
    return path or url, shards, config


def _shards(value: object, own: str) -> tuple[str, ...]:
    """The queues of a fleet, including the one of this service."""
    key = "queue.shards"
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{key}: a list of URLs is expected")
    places = [_in(f"{key}[{number}]", locate, url) for number, url in enumerate(value)]
    if len(set(places)) < len(places):
        raise ConfigError(f"{key}: a queue is named twice")
    if value and (not own or _in("queue.url", locate, own) not in places):
        raise ConfigError(f"{key}: queue.url is to be one of them: the queue that this service delivers")
    return tuple(value)


def _table(rest: dict[str, Any], key: str) -> dict[str, Any]:
    table = rest.pop(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key}: a table is expected")
    return dict(table)


def _text(value: object, path: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"{path}: a string is expected")
    return value


def _seconds(value: object, path: str) -> float:
    """A number, or a duration as text."""
    if isinstance(value, str):
        try:
            value = duration(value)
        except QueueError as error:
            raise ConfigError(f"{path}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{path}: a number of seconds or a duration is expected (90, '10m', '4h', '5d')")
    if not 0 <= value <= 1e10:
        raise ConfigError(f"{path}: {value:g} is no time that can be waited for")
    return float(value)


def _rates(value: object, path: str) -> tuple[Rate, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{path}: a rate ('14/s') or a list of rates is expected")
    return tuple(_in(path, rates, texts))


def _schedule(value: object, path: str) -> Schedule:
    schedule: Schedule = _in(path, Schedule.parse, _text(value, path))
    return schedule


def _schedules(value: object, path: str) -> Mapping[FailureClass, Schedule]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a table of schedules is expected")
    known = {one.value: one for one in FailureClass}
    found = {}
    for key, text in value.items():
        one = known.get(key.replace("_", "-"))
        if one is None:
            raise ConfigError(f"{path}.{escape(key)}: is no class of failures; there are {', '.join(known)}")
        found[one] = _schedule(text, f"{path}.{key}")
    return found


def _overrides(value: object, path: str) -> tuple[RetryOverride, ...]:
    return tuple(read_dataclass(RetryOverride, one, f"{where}.", _READERS) for one, where in _tables(value, path))


def _clients(value: object, path: str) -> tuple[ClientRights, ...]:
    return tuple(read_dataclass(ClientRights, one, f"{where}.", _READERS) for one, where in _tables(value, path))


def _tables(value: object, path: str) -> list[tuple[dict[str, Any], str]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ConfigError(f"{path}: tables are expected: [[{path}]]")
    return [(one, f"{path}[{number}]") for number, one in enumerate(value)]


def _aliases(value: object, path: str) -> Mapping[str, tuple[str, ...]]:
    """Addresses by alias; a single text is a list of one."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a table of addresses is expected")
    found = {}
    for alias, given in value.items():
        targets = [given] if isinstance(given, str) else given
        if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
            raise ConfigError(f"{path}.{escape(alias[:120])}: an address or a list of addresses is expected")
        found[alias] = tuple(targets)
    return MappingProxyType(found)


_READERS: Readers = {
    float: _seconds,
    float | None: _seconds,
    Mapping[str, tuple[str, ...]]: _aliases,
    tuple[Rate, ...]: _rates,
    Schedule: _schedule,
    Schedule | None: _schedule,
    Mapping[FailureClass, Schedule]: _schedules,
    tuple[RetryOverride, ...]: _overrides,
    tuple[ClientRights, ...]: _clients,
}
