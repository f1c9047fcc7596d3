"""The two deliverers that can be explained: the client (``zsmtp send``, the library) and the transport agent.

Both use the same values, made from different configurations: a :class:`Backend` holds them for one destination. They
are made by the functions that the client and the agent themselves call, so that the explanation is of their behaviour.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.events import Observer, ignore
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.net.identity import LocalIdentity, parse_identity

if TYPE_CHECKING:
    from zsmtp.net.stspolicies import PolicyKeeper


@dataclass(frozen=True, slots=True)
class Backend:
    """The route to one destination and its settings.

    ``via`` names the relay for it, "" without one; ``reason`` is the rule that chose it. ``driver`` makes a driver.
    """

    request: DestinationRequest
    settings: SessionSettings
    via: str
    driver: Callable[[Observer], BlockingDriver]
    reason: str = ""


class Backends(Protocol):
    """The backends for all destinations, under one configuration.

    ``identity`` is the local address to connect from, None for any; ``stop`` stops all the drivers.
    """

    identity: LocalIdentity | None
    stop: Stop

    def to(self, destination: str, sender: bytes = b"") -> Backend:
        """The backend for a domain, a literal, or any other destination of the configuration.

        It is that for mail from ``sender``, empty for the null reverse-path.
        """

    def close(self) -> None:
        """Release what is cached about destinations."""


class ClientBackends:
    """The backends of the client."""

    def __init__(self, config: Config) -> None:
        self.identity = parse_identity(config.local_address) if config.local_address else None
        self.stop = Stop()
        self._destinations = Destinations(config)
        self._policies = self._destinations.policies()

    def to(self, destination: str, sender: bytes = b"") -> Backend:
        """The backend for a domain or a literal."""
        where = self._destinations.of(f"x@{destination}".encode("utf-8", "replace"), sender)
        relay = where.relay
        resolver = self._destinations.resolver if relay is None else self._destinations.relay_resolver

        def driver(observer: Observer) -> BlockingDriver:
            made = BlockingDriver(resolver, self.stop, identity=self.identity, observer=observer)
            made.policies = self._policies
            return made

        via = "" if relay is None else f"{relay}{', LMTP' if relay.lmtp else ''}"
        settings = quiet(self._destinations.settings_for(relay))
        return Backend(where.request, settings, via, driver, where.reason.value)

    def asking(self, observer: Observer) -> BlockingDriver:
        """A driver for lookups that other hosts make, too: by name servers, never by the hosts file."""
        return BlockingDriver(self._destinations.resolver, self.stop, identity=self.identity, observer=observer)

    def close(self) -> None:
        """Release what is cached about destinations."""
        if self._policies is not None:
            self._policies.close()


class AgentBackends:
    """The backends of the agent, by its flags and the ZENV file."""

    def __init__(self, flags: str) -> None:
        """Raises CommandFailed and ConfigError for invalid flags or files."""
        from zsmtp.zmailer import environment, zenv
        from zsmtp.zmailer.options import parse

        try:
            words = shlex.split(flags)
        except ValueError as error:
            raise CommandFailed(Exit.USAGE, f"--agent: {error}") from error
        if words and not words[0].startswith("-"):  # a command in scheduler.conf begins with the program
            del words[0]
        try:
            self._options = parse(words)
        except ConfigError as error:
            raise CommandFailed(Exit.USAGE, f"--agent: {escape(str(error))}") from error
        self._zenv = zenv.load(os.environ)
        self.stop = Stop()
        self._policies: PolicyKeeper | None = None
        for remark in self._zenv.remarks:
            _warn(remark)
        text = self._options.local_identity or self._zenv.get("BINDADDR")
        self.identity = parse_identity(text) if text else None
        first = self._driver(ignore)
        with reading("the files of -S and -A"):
            security = environment.security(self._options, self._zenv, first, _warn)
        self._policies = first.policies
        self._settings = quiet(environment.session_settings(self._options, security))

    def to(self, destination: str, sender: bytes = b"") -> Backend:
        """The backend for the host of a job line, which the scheduler chose; the sender makes no difference."""
        from zsmtp.zmailer import environment

        destination = self._options.force_destination or destination
        request = environment.destination_request(self._options, destination)
        return Backend(request, self._settings, self._options.force_destination or "", self._driver)

    def close(self) -> None:
        """Release what is cached about destinations."""
        if self._policies is not None:
            self._policies.close()

    def _driver(self, observer: Observer) -> BlockingDriver:
        from zsmtp.zmailer import environment

        made = environment.driver(self._options, self._zenv, self.stop, observer, _warn)
        made.policies = self._policies
        return made


def quiet(settings: SessionSettings) -> SessionSettings:
    """The same settings without warnings: the plan contains their facts."""
    if settings.security is None:
        return settings
    return replace(settings, security=replace(settings.security, warn=_discard))


def _discard(text: str) -> None:
    """Ignore a warning whose facts are shown elsewhere."""


def _warn(text: str) -> None:
    sys.stderr.write(f"zsmtp explain: {escape(text)}\n")
