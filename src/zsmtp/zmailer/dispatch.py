"""Where deliveries go: one route at a time, kept open between jobs, and hosts left alone after a failure."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from zsmtp.delivery.announce import announce
from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.flight import More
from zsmtp.delivery.opening import Link
from zsmtp.delivery.plan import may_share
from zsmtp.delivery.pool import Route
from zsmtp.delivery.rest import Resting
from zsmtp.dns.destination import exchanger_names
from zsmtp.errors import ConfigError
from zsmtp.events import About, Decision, Observer, ignore
from zsmtp.net.blocking import BlockingDriver
from zsmtp.zmailer import environment
from zsmtp.zmailer.options import Options

if TYPE_CHECKING:
    from zsmtp.delivery.security import Security

MAX_OTHER_HOSTS = 100  # destinations looked up for one job under -e

T = TypeVar("T")


class Dispatcher:
    """Brings deliveries to the destination chosen last, over ``driver``."""

    def __init__(
        self, options: Options, driver: BlockingDriver, observer: Observer, security: Security | None = None
    ) -> None:
        self._options = options
        self._driver = driver
        self._security = security
        self._courier = Courier(environment.session_settings(options, security), observer)
        self._observe = observer
        self._route: Route | None = None
        self._resting = Resting()
        self._last_use = 0.0

    @property
    def link(self) -> Link | None:
        """The open session, if there is one."""
        return self._route.link if self._route is not None else None

    def run(self, work: Generator[Any, Any, T]) -> T:
        """Carry out the effects of ``work``."""
        return self._driver.run(work)

    def choose(self, destination: str) -> None:
        """Have the route to ``destination``; a route to another one is ended first."""
        if self._route is not None and self._route.request.destination == destination:
            return
        self.end("new host")
        self._route = Route(environment.destination_request(self._options, destination))

    def end(self, reason: str) -> None:
        """Say good-bye to the host, if a session is open, and forget the route."""
        if self._route is not None:
            self._driver.run(self._courier.close(self._route, reason))
        self._route = None

    def keep_alive(self) -> None:
        """Ask an idle session whether it still lives; it is dropped quietly if not."""
        if self._route is not None:
            self._driver.run(self._courier.keep_alive(self._route))

    def deliver(self, delivery: Delivery, more: More) -> None:
        """Settle every recipient of ``delivery``, and of what ``more`` gives meanwhile (see ``Courier.deliver``).

        A host that failed as a whole is left alone for as long as its verdict says: its mail is put off at once.
        """
        route = self._route
        assert route is not None
        destination = route.request.destination
        wish = delivery.message.envelope.wish
        rest = self._resting.get(destination, time.monotonic(), wish) if route.link is None else None
        if rest is not None:
            seconds, verdict = rest
            if self._observe is not ignore:
                announce(self._observe, delivery, destination)
                text = f"{destination} failed a moment ago: left alone for another {seconds:.0f} s"
                self._observe(Decision(About.ROUTE, text, delivery))
            delivery.ledger.settle_all(delivery.ledger.unsettled, verdict)
            return
        route.failure = None
        idle = time.monotonic() - self._last_use
        self._driver.run(self._courier.deliver(route, delivery, more, idle=idle))
        self._last_use = time.monotonic()
        self._resting.remember(destination, route.failure, self._last_use)
        if self._options.one_message:
            self._driver.run(self._courier.close(route, "one message per connection"))

    def deliver_on_link(self, delivery: Delivery) -> None:
        """As :meth:`deliver`, but over the link that is open now or not at all."""
        assert self._route is not None
        self._driver.run(self._courier.deliver_on_link(self._route, delivery))
        self._last_use = time.monotonic()

    def served_here(self, hosts: list[bytes]) -> set[bytes]:
        """Those of ``hosts`` whose mail exchangers include the host now connected to; connects if need be (``-e``)."""
        route = self._route
        if route is None or not hosts:
            return set()
        if route.link is None and self._driver.run(self._courier.open(route)) is not None:
            return set()
        assert route.link is not None
        here = route.link.peer.endpoint.host.lower()
        requests = {
            name: environment.destination_request(self._options, os.fsdecode(name)) for name in hosts[:MAX_OTHER_HOSTS]
        }
        served = {name for name, request in requests.items() if here in self._driver.run(exchanger_names(request))}
        security, link = self._security, route.link
        if security is None:
            return served
        standing, peer = route.request.destination, link.peer
        return {
            name
            for name in served
            if _same_login(security, peer.endpoint.host, standing, requests[name].destination)
            and self._driver.run(may_share(requests[name], security, peer, link.wish))
        }


def _same_login(security: Security, server: str, one: str, other: str) -> bool:
    """Whether the same user logs in at ``server`` for mail to two destinations, or nobody for both."""
    try:
        return security.credentials_for(server, one) == security.credentials_for(server, other)
    except ConfigError:  # whose login cannot be used now has to wait, and not to go out without one
        return False
