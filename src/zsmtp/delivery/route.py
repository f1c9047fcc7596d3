"""Delivers over a route that is kept between messages, after checking the backoff of its destination.

The agent and the library deliver with :class:`RouteDeliverer`. A destination in backoff is not tried again for each
message (``zsmtp.delivery.backoff``): its mail is deferred at once, with the same events for observers as for every
other delivery, and the reason as a decision. The clock is an effect, so that the same rule applies in virtual time::

    deliverer = RouteDeliverer(courier, HostBackoff(), observer)
    driver.run(deliverer.deliver(route, delivery, more))
"""

from __future__ import annotations

from collections.abc import Hashable

from zsmtp.delivery.announce import announce
from zsmtp.delivery.attempt import Courier, Returns, no_more, settle
from zsmtp.delivery.backoff import HostBackoff
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import Verdict, from_backoff
from zsmtp.delivery.pipeline import More
from zsmtp.delivery.pool import Route
from zsmtp.effects import ReadClock
from zsmtp.events import About, Decision, Observer, ignore, is_observed


class RouteDeliverer:
    """Delivers by ``courier``, and keeps the backoff of destinations in ``resting``.

    ``observer`` is the courier's. Several deliverers may share ``resting``.
    """

    def __init__(self, courier: Courier, resting: HostBackoff, observer: Observer = ignore) -> None:
        self._courier = courier
        self._resting = resting
        self._observe = observer

    async def deliver(
        self,
        route: Route,
        delivery: Delivery,
        more: More = no_more,
        *,
        place: Hashable = None,
        returns: Returns = settle,
        asks: bool = False,
    ) -> None:
        """Deliver as :meth:`Courier.deliver` does, unless the destination is in backoff.

        ``place`` is the destination's key in the backoff (None: the route's); the other arguments are the courier's.
        """
        name = route.request.destination if place is None else place
        now = await ReadClock()
        if route.link is None:
            rest = self._resting.get(name, now, delivery.message.envelope.wish)
            if rest is not None:
                self._put_off(route, delivery, *rest)
                return
        route.failure = None
        await self._courier.deliver(route, delivery, more, idle=now - route.last_use, returns=returns, asks=asks)
        route.last_use = await ReadClock()
        self._resting.remember(name, route.failure, route.last_use)

    def _put_off(self, route: Route, delivery: Delivery, seconds: float, failure: Verdict) -> None:
        """Defer a delivery without an attempt: the destination's backoff lasts ``seconds`` more."""
        route.failure = failure
        destination = route.request.destination
        if is_observed(self._observe):
            announce(self._observe, delivery, destination)
            text = f"{destination} failed recently: not tried for another {seconds:.0f} s"
            self._observe(Decision(About.ROUTE, text, delivery))
        delivery.ledger.settle_all(delivery.ledger.unsettled, from_backoff(failure, seconds))
