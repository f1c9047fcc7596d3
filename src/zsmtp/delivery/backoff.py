"""Backoff of destinations and addresses: a destination whose host failed is not tried again for a while.

During ``Verdict.retry_after`` further mail for it gets the same verdict at once, so that a dead host delays one
message, not each. While other exchangers of the destination work, a dead one is tried after them for a while
(:class:`AddressBackoff`). Time is an argument, in seconds on any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from zsmtp.delivery.outcome import ConnectFailure, Verdict
from zsmtp.dns.candidates import Endpoint
from zsmtp.proto.plan import TLSDemand

MAX_RESTING = 1000  # destinations remembered
ADDRESS_REST = 60  # seconds for which an address is tried last after a failed connection
MAX_UNREACHED = 1000  # addresses remembered


class HostBackoff:
    """The destinations in backoff, by any hashable name."""

    def __init__(self) -> None:
        self._until: dict[Hashable, tuple[float, Verdict]] = {}  # the oldest first

    def remember(self, destination: Hashable, failure: Verdict | None, now: float) -> None:
        """Begin the backoff that the last failure of a destination asks for (``Route.failure``; None: no failure)."""
        if failure is None or not failure.retry_after:
            return
        self._until.pop(destination, None)
        while len(self._until) >= MAX_RESTING:
            del self._until[next(iter(self._until))]
        self._until[destination] = (now + failure.retry_after, failure)

    def forget(self, destination: Hashable) -> None:
        """End the backoff of a destination."""
        self._until.pop(destination, None)

    def get(self, destination: Hashable, now: float, wish: TLSDemand = TLSDemand.NONE) -> tuple[float, Verdict] | None:
        """The remaining seconds of a destination's backoff, and the verdict on its mail; None if it may be tried.

        Mail with ``TLS-Required: No`` bypasses a backoff that was caused by a TLS requirement.
        """
        rest = self._until.get(destination)
        if rest is None:
            return None
        until, verdict = rest
        if now >= until:
            del self._until[destination]
            return None
        if wish is TLSDemand.TLS_OPTIONAL and verdict.tls_decided:
            return None
        return until - now, verdict


class AddressBackoff:
    """The addresses to which connecting failed within the last ``ADDRESS_REST`` seconds, with the reasons.

    An address counts once, under all exchangers' names.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[str, int], tuple[float, ConnectFailure]] = {}  # the oldest first

    def remember(self, failure: ConnectFailure, now: float) -> None:
        """Note that connecting to an address failed now."""
        self.forget(failure.endpoint)
        while len(self._failures) >= MAX_UNREACHED:
            del self._failures[next(iter(self._failures))]
        self._failures[failure.endpoint.place] = (now, failure)

    def forget(self, endpoint: Endpoint) -> None:
        """Note that the address works."""
        self._failures.pop(endpoint.place, None)

    def knows_any(self, endpoints: Iterable[Endpoint]) -> bool:
        """Whether any of these is remembered: if not, the caller need not read the clock."""
        return bool(self._failures) and any(endpoint.place in self._failures for endpoint in endpoints)

    def get(self, endpoint: Endpoint, now: float) -> tuple[float, ConnectFailure] | None:
        """How many seconds ago connecting failed, and why; None if it did not, or long ago."""
        found = self._failures.get(endpoint.place)
        if found is None:
            return None
        since, failure = found
        if now - since < ADDRESS_REST:
            return now - since, failure
        self.forget(endpoint)
        return None
