"""The options about routes and security, and the client's configuration made from them.

``explain`` and ``send`` share them, so that the explanation is of what is sent: first a TOML file
(``zsmtp.client.configfile``), then the options of the command line. Secrets come from a file or from the environment;
the command line, which all users of the machine can read, only names these.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from zsmtp.cli.arguments import port, seconds
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.client.config import SUBMISSIONS, TLS, Config, Login, Relay
from zsmtp.dns.candidates import Family
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.proto.phase import Timeouts
from zsmtp.tls.policy import Level

if TYPE_CHECKING:
    from zsmtp.queue.returnpath import BounceConfig

DEFAULT_PASSWORD_ENV = "ZSMTP_PASSWORD"  # noqa: S105 - the name of a variable
_LEVELS = tuple(level.value for level in Level if level is not Level.FINGERPRINT)  # fingerprints need a file
CLIENT_OPTIONS = (
    "config", "relay", "port", "lmtp", "resolver", "family", "tls", "ca_file", "user", "password_file", "password_env",
    "helo",
)  # fmt: skip
"""The options of :func:`add_options` that a client's configuration is made from."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    where = parser.add_argument_group("routes")
    where.add_argument("--config", metavar="FILE", help="configuration of the client, TOML; options override it")
    where.add_argument(
        "--relay",
        metavar="HOST[:PORT]",
        help="one server for all mail: a host, [address], /path/of/socket, or a URL (smtp://, smtps://, lmtp://)",
    )
    where.add_argument("--port", type=port, help="the port of mail exchangers, or of the relay (25)")
    where.add_argument("--lmtp", action="store_true", help="speak LMTP to the relay")
    where.add_argument("--resolver", metavar="ADDR[:PORT]", help="the name server to ask instead of the system's")
    family = where.add_mutually_exclusive_group()
    family.add_argument("-4", dest="family", action="store_const", const=Family.INET, help="IPv4 only")
    family.add_argument("-6", dest="family", action="store_const", const=Family.INET6, help="IPv6 only")
    how = parser.add_argument_group("security")
    how.add_argument("--tls", metavar="LEVEL", choices=_LEVELS, help=f"the least protection: {', '.join(_LEVELS)}")
    how.add_argument("--ca-file", metavar="FILE", help="certificates of authorities to trust instead of the system's")
    how.add_argument("--user", metavar="NAME", help="log in at the relay; the secret comes from one of the next two")
    how.add_argument("--password-file", metavar="FILE", help="a file that holds the secret and nothing else")
    how.add_argument("--password-env", metavar="NAME", help="the environment variable that holds it (ZSMTP_PASSWORD)")
    how.add_argument("--helo", metavar="NAME", help="the name to greet with")
    how.add_argument("--timeout", type=seconds, metavar="SECONDS", help="the longest wait for the peer")


_ELSEWHERE = {
    "resolver": ": the agent's name server is RESOLVER in the ZENV file",
    "ca_file": ": the agent has that in the file of -S",
    "tls": ": the agent has that in the file of -S",
    "helo": ": the agent has -h for that",
}


def refuse_options(options: argparse.Namespace, instead: str) -> None:
    """Raise CommandFailed for a given option that ``instead`` replaces."""
    for name in CLIENT_OPTIONS:
        if getattr(options, name):
            flag = {"family": "-4 or -6"}.get(name, f"--{name.replace('_', '-')}")
            hint = _ELSEWHERE.get(name, "") if instead == "--agent" else ""
            raise CommandFailed(Exit.USAGE, f"{flag} does not go with {instead}{hint}")


_OPTIONS = {"helo_name": "--helo", "nameserver": "--resolver"}  # the options for these keys of a Config


def read_configuration(options: argparse.Namespace) -> Config:
    """Make the configuration. Raises CommandFailed, and ConfigError for an invalid file."""
    config = Config()
    if options.config is not None:
        with reading(options.config):
            config = Config.from_toml(options.config)
    return _complete(config, options)


def _complete(config: Config, options: argparse.Namespace) -> Config:
    """The file's configuration with the options applied; its files can be read. Raises CommandFailed."""
    try:
        config = _with_options(config, options)
    except ConfigError as error:  # the file itself was valid, so the options are wrong
        key, colon, problem = str(error).partition(": ")
        text = f"{_OPTIONS.get(key, key)}{colon}{problem}"
        raise CommandFailed(Exit.USAGE, escape(text)) from error
    for tls in {config.direct.tls, *(relay.tls for relay in config.relays)}:
        try_files(tls)
    return config


def try_files(tls: TLS) -> None:
    """Read the certificates now instead of during delivery. Raises ConfigError."""
    if not (tls.ca_file or tls.ca_path or tls.certificate_file):
        return
    from zsmtp.tls.context import ClientCertificate, ContextOptions, client_context, trust_anchors

    if tls.ca_file or tls.ca_path:
        trust_anchors(tls.ca_file, tls.ca_path)
    if tls.certificate_file:
        client_context(ContextOptions(certificates=(ClientCertificate(tls.certificate_file, tls.key_file),)))


@dataclass(frozen=True, slots=True)
class Sending:
    """How mail is sent, by the configuration of a client or of a service."""

    config: Config
    bounces: BounceConfig
    """Its return paths."""
    adds_missing: bool
    """Whether missing Date and Message-ID are added."""


def read_sending(options: argparse.Namespace) -> Sending:
    """As :func:`read_configuration`; the file may also be that of the service."""
    from zsmtp.queue.returnpath import BounceConfig

    path = options.config
    if path is not None:
        from zsmtp.server.serviceconfig import is_of_service, read_service

        with reading(path):
            if is_of_service(path):
                service = read_service(path)
                adds = all(one.add_missing for one in service.listen.values())
                return Sending(_complete(service.delivery, options), service.queue.bounces, adds)
    config = read_configuration(options)
    return Sending(config, BounceConfig(), config.content.add_missing)


def _with_options(config: Config, options: argparse.Namespace) -> Config:
    changes: dict[str, Any] = {}
    if options.relay is not None:
        config = replace(config, relay=parse_relay(options.relay), routes={}, sender_routes={})
    if options.helo is not None:
        changes["helo_name"] = options.helo
    if options.family is not None:
        changes["address_family"] = options.family
    if options.timeout is not None:
        changes["timeouts"] = within(config.timeouts, options.timeout)
    direct: dict[str, Any] = {}
    if config.relay is not None:
        changes["relay"] = _relay(config.relay, options)
    else:
        for name in ("lmtp", "user", "password_file", "password_env"):
            if getattr(options, name):
                raise CommandFailed(Exit.USAGE, f"--{name.replace('_', '-')} goes with --relay")
        direct["tls"] = _tls(config.direct.tls, options)
    if options.port is not None:
        direct["port"] = options.port
    if options.resolver is not None:
        direct["nameserver"] = options.resolver
    changes["direct"] = replace(config.direct, **direct)
    return replace(config, **changes)


def within(timeouts: Timeouts, longest: float) -> Timeouts:
    """The same timeouts, each at most ``longest`` seconds."""
    return Timeouts(**{one.name: min(getattr(timeouts, one.name), longest) for one in fields(timeouts)})


def parse_relay(text: str) -> Relay:
    """``host``, ``host:port``, ``[address]:port``, ``/path/of/socket`` or a URL. Raises ConfigError.

    Without a scheme, port 465 implies TLS from the first octet (RFC 8314 7.3): it sends no greeting in clear.
    """
    if "://" in text:
        return _from_url(text)
    if text[:5].lower() == "unix:":
        text = text[5:]
        if not text.startswith("/"):
            raise ConfigError(f"relay: not the path of a socket: {escape(text[:100])}")
    if text.startswith("/"):
        return Relay(host=text)
    host, colon, number = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        host, number = text, ""
    if ":" in host and not host.startswith("["):
        raise ConfigError(f"relay: an IPv6 address belongs in brackets: {escape(text[:100])}")
    if colon and host != text and not (number.isascii() and number.isdigit() and len(number) <= 5):
        raise ConfigError(f"relay: not a port: {escape(number[:20])}")
    try:
        port = int(number) if number else None
        return Relay(host=host, port=port, implicit=port == SUBMISSIONS)
    except ConfigError as error:
        raise ConfigError(f"relay: {error}") from error


def _from_url(text: str) -> Relay:
    """The relay of a URL, which may contain a user name but no password."""
    who, at, _ = text.partition("://")[2].partition("/")[0].rpartition("@")
    if ":" in who:
        raise ConfigError(
            "relay: no secret is allowed here, where other users can read it; --password-file names its file"
        )
    return Relay.from_url(text, password_env=DEFAULT_PASSWORD_ENV if at else "")


def _relay(relay: Relay, options: argparse.Namespace) -> Relay:
    """The relay with the options of the command line applied."""
    login = relay.login
    user = options.user
    if user is None and login is not None and (options.password_file or options.password_env):
        user = login.user
    if user is not None:
        if options.password_file is not None and options.password_env is not None:
            raise CommandFailed(Exit.USAGE, "--password-file and --password-env: one of them")
        env = options.password_env or ("" if options.password_file else DEFAULT_PASSWORD_ENV)
        file = options.password_file or ""
        if login is not None and login.user == user:
            login = replace(login, password="", password_file=file, password_env=env)
        else:
            login = Login(user=user, password_file=file, password_env=env)
    elif options.password_file or options.password_env:
        raise CommandFailed(Exit.USAGE, "a password without --user")
    return replace(
        relay,
        port=relay.port if relay.port is not None else options.port,
        lmtp=relay.lmtp or options.lmtp,
        login=login,
        tls=_tls(relay.tls, options),
    )


def _tls(tls: TLS, options: argparse.Namespace) -> TLS:
    changes: dict[str, Any] = {}
    if options.tls is not None:
        changes |= {"level": Level(options.tls), "fingerprints": ()}
    if options.ca_file is not None:
        changes |= {"ca_file": options.ca_file, "ca_path": ""}
    return replace(tls, **changes)
