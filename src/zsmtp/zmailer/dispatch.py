"""Sends deliveries over one route at a time, kept open between jobs, with a backoff of failed hosts."""

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

MAX_OTHER_HOSTS = 100  # destinations looked up for one job with -e
MAX_BEGUN = 10_000  # jobs remembered per destination

T = TypeVar("T")


class _Begun(NamedTuple):
    """The threads begun for a destination, each with the number of its last run, and the jobs."""

    threads: dict[str, int]
    jobs: set[bytes]


class Dispatcher:
    """Delivers to the destination chosen last, over ``driver``."""

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
        self._begun: dict[str, _Begun] = {}  # by destination, since its last session
        self._thread: str | None = None
        self._run = 0  # number of the scheduler's thread run, counted by this agent

    @property
    def link(self) -> OpenSession | None:
        """The open session, if there is one."""
        return self._route.link if self._route is not None else None

    def run(self, work: Operation[T]) -> T:
        """Carry out the effects of ``work``."""
        return self._driver.run(work)

    def choose(self, destination: str) -> None:
        """Choose the route to ``destination``; ends a route to another one first."""
        if self._route is not None and self._route.request.destination == destination:
            return
        self.end("new host")
        self._route = Route(environment.destination_request(self._options, destination))

    def begin(self, host: str, job: bytes) -> None:
        """A job of the scheduler's thread for ``host`` begins; its line names it. The destination is chosen.

        After a failure of the host, jobs that were read ahead are deferred. The scheduler then waits, too: when it
        begins the same thread or the same job again, its interval is over, and the host is tried.
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
        """Note that the scheduler has no work now: it has finished its thread."""
        self._thread = None

    def end(self, reason: str) -> None:
        """End the session, if one is open, and drop the route."""
        if self._route is not None:
            self._driver.run(self._courier.close(self._route, reason))
        self._route = None

    def keep_alive(self) -> None:
        """Test whether an idle session is still open; if not, close it silently."""
        if self._route is not None:
            self._driver.run(self._courier.keep_alive(self._route))

    def deliver(self, delivery: Delivery, more: More) -> None:
        """Settle every recipient of ``delivery``, and of the deliveries of ``more`` (see ``Courier.deliver``).

        A host that failed is in backoff for the time in its verdict, or until the scheduler begins the same thread
        again (:meth:`begin`): its mail is deferred at once.
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
        """Like :meth:`deliver`, but over the open link only."""
        assert self._route is not None
        self._driver.run(self._courier.deliver_on_link(self._route, delivery))
        self._route.last_use = time.monotonic()

    def served_here(self, hosts: list[bytes]) -> set[bytes]:
        """Those of ``hosts`` whose mail exchangers include the host now connected to; connects if necessary (``-e``).

        A host with several names is recognised by its address.
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
        """Whether mail for another destination, with the exchanger ``server``, may use ``link`` to the same host."""
        if self._security is None:
            return True
        assert self._route is not None
        here = link.peer.endpoint.host, self._route.request.destination
        return _same_login(self._security, here, (server, request.destination)) and self._driver.run(
            may_share(request, self._security, link.peer, link.wish)
        )


async def _exchanger_at(request: DestinationRequest, peer: Endpoint) -> str | None:
    """The name under which ``peer`` is a mail exchanger of a destination; None if it is none. Awaits lookups.

    Addresses are looked up only if no name is the peer's.
    """
    if peer.host.lower() in await exchanger_names(request):
        return peer.host
    plan = await plan_destination(request)
    return next((one.endpoint.host for one in plan.candidates if one.endpoint.place == peer.place), None)


def _same_login(security: Security, one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two pairs of a server's name and a destination have the same credentials, or both have none."""
    try:
        return security.credentials_for(*one) == security.credentials_for(*other)
    except ConfigError:  # mail whose login is invalid must wait, and not be sent without one
        return False
