"""The state of one destination, kept between messages: its plan, its open session, and its last failure."""

from __future__ import annotations

from collections.abc import Callable

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.sessionopener import OpenSession
from zsmtp.dns.destination import DestinationRequest
from zsmtp.records import dataclass


def _do_nothing() -> None:
    """Default of ``Route.opened``."""


@dataclass(slots=True, eq=False)
class Route:
    """The state of one destination.

    ``given`` is a plan that was made beforehand: it is executed unchanged, and no other plan is made. ``plan`` is the
    plan of the present or last link. ``failure`` is the verdict of the last try to open a session if that concerned the
    host as a whole; the caller decides on the backoff (``Verdict.retry_after``). ``opened`` is called whenever a
    session is open, before anything is sent over it. ``last_use`` is when the last delivery ended, on the driver's
    clock.
    """

    request: DestinationRequest
    given: DeliveryPlan | None = None
    plan: DeliveryPlan | None = None
    link: OpenSession | None = None
    failure: Verdict | None = None
    opened: Callable[[], None] = _do_nothing
    last_use: float = 0.0
