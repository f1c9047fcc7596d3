"""The route to one destination, kept between messages: its plan, its open session, and its last failure."""

from __future__ import annotations

from dataclasses import dataclass

from zsmtp.delivery.opening import Link
from zsmtp.delivery.outcome import Verdict
from zsmtp.dns.destination import DestinationRequest
from zsmtp.dns.plan import Plan


@dataclass(slots=True, eq=False)
class Route:
    """What is known of one destination.

    ``plan`` is the plan the present or last link was opened by. ``failure`` is the verdict of the last try to open a
    session if that concerned the host as a whole; whoever sees it decides how long to leave the host alone
    (``Verdict.retry_after``).
    """

    request: DestinationRequest
    plan: Plan | None = None
    link: Link | None = None
    failure: Verdict | None = None
