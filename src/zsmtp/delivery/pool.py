"""The route to one destination, kept between messages: its plan, its open session, and its last failure."""

from __future__ import annotations

from zsmtp.delivery.opening import Link
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.plan import DeliveryPlan
from zsmtp.dns.destination import DestinationRequest
from zsmtp.records import dataclass


@dataclass(slots=True, eq=False)
class Route:
    """What is known of one destination.

    ``given`` is a plan that was made beforehand: it is executed as it is, and nothing is planned anew. ``plan`` is the
    plan the present or last link was opened by. ``failure`` is the verdict of the last try to open a
    session if that concerned the host as a whole; whoever sees it decides how long to leave the host alone
    (``Verdict.retry_after``).
    """

    request: DestinationRequest
    given: DeliveryPlan | None = None
    plan: DeliveryPlan | None = None
    link: Link | None = None
    failure: Verdict | None = None
