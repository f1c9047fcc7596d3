"""Where deliveries go: one route at a time, kept open between jobs, and hosts left alone after a failure."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.backoff import MAX_RESTING, HostBackoff
from zsmtp.delivery.deliveryplan import may_share
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.pipeline import More
from zsmtp.delivery.pool import Route
from zsmtp.delivery.route import RouteDeliverer
from zsmtp.delivery.sessionopener import OpenSession
from zsmtp.dns.candidates import Endpoint
from zsmtp.dns.destination import DestinationRequest, exchanger_names, plan_destination
from zsmtp.effects import Operation
from zsmtp.errors import ConfigError
from zsmtp.events import Observer
from zsmtp.net.blocking import BlockingDriver
from zsmtp.records import NamedTuple
from zsmtp.zmailer import environment
from zsmtp.zmailer.options import AgentOptions

if TYPE_CHECKING:
    from zsmtp.delivery.security import Security

MAX_OTHER_HOSTS = 100  # destinations looked up for one job under -e
MAX_BEGUN = 10_000  # jobs remembered by destination

T = TypeVar("T")


class _Begun(NamedTuple):
    """What was begun for a destination: its threads, each with the number of the last run, and jobs."""

    threads: dict[str, int]
    jobs: set[bytes]


class Dispatcher:
    """Brings deliveries to the destination chosen last, over ``driver``."""

    def __init__(
        self, options: AgentOptions, driver: BlockingDriver, observer: Observer, security: Security | None = None
    ) -> None:
        self._options = options
        self._driver = driver
        self._security = security
        self._courier = Courier(environment.session_settings(options, security), observer)
        self._route: Route | None = None
        self._resting = HostBackoff()
        self._deliverer = RouteDeliverer(self._courier, self._resting, observer)
        self._begun: dict[str, _Begun] = {}  # by destination, since a session with it stood
        self._thread: str | None = None
        self._run = 0  # of the scheduler's threads, counted as this agent sees them

    @property
    def link(self) -> OpenSession | None:
        """The open session, if there is one."""
        return self._route.link if self._route is not None else None

    def run(self, work: Operation[T]) -> T:
        """Carry out the effects of ``work``."""
        return self._driver.run(work)

    def choose(self, destination: str) -> None:
        """Have the route to ``destination``; a route to another one is ended first."""
        if self._route is not None and self._route.request.destination == destination:
            return
        self.end("new host")
        self._route = Route(environment.destination_request(self._options, destination))

    def begin(self, host: str, job: bytes) -> None:
        """A job of the scheduler's thread for ``host`` begins; its line names it. The destination is chosen.

        A host that failed is left alone for those that were read ahead. The scheduler leaves it alone, too, once it has
        heard of that: when it begins with the same thread or the same job again, its interval is over, and the host is
        tried.
        """
        assert self._route is not None
        if host != self._thread:
            self._thread, self._run = host, self._run + 1
        destination = self._route.request.destination
        begun = self._begun.get(destination)
        if begun is None:
            while len(self._begun) >= MAX_RESTING:
                del self._begun[next(iter(self._begun))]
            begun = self._begun[destination] = _Begun({}, set())
        elif begun.threads.get(host, self._run) != self._run or job in begun.jobs:
            self._resting.forget(destination)
            begun.threads.clear()
            begun.jobs.clear()
        if len(begun.jobs) < MAX_BEGUN:
            begun.threads[host] = self._run
            begun.jobs.add(job)

    def idle(self) -> None:
        """The scheduler has no work now: it is through with the thread that it gave jobs of."""
        self._thread = None

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

        A host that failed as a whole is left alone for as long as its verdict says, or until the scheduler gives the
        same thread again (:meth:`begin`): its mail is put off at once.
        """
        route = self._route
        assert route is not None
        self._driver.run(self._deliverer.deliver(route, delivery, more))
        destination = route.request.destination
        if route.failure is None and destination in self._begun:
            self._begun[destination].threads.clear()
            self._begun[destination].jobs.clear()
        if self._options.one_message:
            self._driver.run(self._courier.close(route, "one message per connection"))

    def deliver_on_link(self, delivery: Delivery) -> None:
        """As :meth:`deliver`, but over the link that is open now or not at all."""
        assert self._route is not None
        self._driver.run(self._courier.deliver_on_link(self._route, delivery))
        self._route.last_use = time.monotonic()

    def served_here(self, hosts: list[bytes]) -> set[bytes]:
        """Those of ``hosts`` whose mail exchangers include the host now connected to; connects if need be (``-e``).

        A host with several names is known by its address.
        """
        route = self._route
        if route is None or not hosts:
            return set()
        if route.link is None and self._driver.run(self._courier.open(route)) is not None:
            return set()
        assert route.link is not None
        link = route.link
        served = set()
        for name in hosts[:MAX_OTHER_HOSTS]:
            request = environment.destination_request(self._options, os.fsdecode(name))
            known_as = self._driver.run(_exchanger_at(request, link.peer.endpoint))
            if known_as is not None and self._may_share(request, known_as, link):
                served.add(name)
        return served

    def _may_share(self, request: DestinationRequest, server: str, link: OpenSession) -> bool:
        """Whether mail for another destination may go over ``link``, whose peer is ``server`` to it."""
        if self._security is None:
            return True
        assert self._route is not None
        here = link.peer.endpoint.host, self._route.request.destination
        return _same_login(self._security, here, (server, request.destination)) and self._driver.run(
            may_share(request, self._security, link.peer, link.wish)
        )


async def _exchanger_at(request: DestinationRequest, peer: Endpoint) -> str | None:
    """The name of the mail exchanger of a destination that ``peer`` is, None if it is none. Awaits lookups.

    Addresses are looked up only where no name is that of the peer.
    """
    if peer.host.lower() in await exchanger_names(request):
        return peer.host
    plan = await plan_destination(request)
    return next((one.endpoint.host for one in plan.candidates if one.endpoint.place == peer.place), None)


def _same_login(security: Security, one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether the same user logs in for two pairs of a server's name and a destination, or nobody for both."""
    try:
        return security.credentials_for(*one) == security.credentials_for(*other)
    except ConfigError:  # whose login cannot be used now has to wait, and not to go out without one
        return False
