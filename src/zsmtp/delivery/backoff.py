"""Hosts left alone: a destination whose host failed as a whole is not tried again for as long as its verdict says.

Mail that comes for it meanwhile gets the same verdict at once (``Verdict.retry_after``): a dead host is waited for
once, not once per message. While others of its exchangers live, a dead one is tried after them for a while
(:class:`AddressBackoff`). Time is an argument, in seconds on any clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from zsmtp.delivery.outcome import ConnectFailure, Verdict
from zsmtp.dns.candidates import Endpoint
from zsmtp.proto.plan import TLSDemand

MAX_RESTING = 1000  # destinations remembered
ADDRESS_REST = 60  # seconds an address is tried after all others once no connection to it came about
MAX_UNREACHED = 1000  # addresses remembered


class HostBackoff:
    """The destinations left alone now, by whatever names them."""

    def __init__(self) -> None:
        self._until: dict[Hashable, tuple[float, Verdict]] = {}  # the oldest first

    def remember(self, destination: Hashable, failure: Verdict | None, now: float) -> None:
        """Leave a destination alone if its last failure says so (``Route.failure``; None if there was none)."""
        if failure is None or not failure.retry_after:
            return
        self._until.pop(destination, None)
        while len(self._until) >= MAX_RESTING:
            del self._until[next(iter(self._until))]
        self._until[destination] = (now + failure.retry_after, failure)

    def forget(self, destination: Hashable) -> None:
        """A destination may be tried now, whatever its last failure said."""
        self._until.pop(destination, None)

    def get(self, destination: Hashable, now: float, wish: TLSDemand = TLSDemand.NONE) -> tuple[float, Verdict] | None:
        """For how many seconds a destination rests, and the verdict on its mail; None if it may be tried.

        Mail with ``TLS-Required: No`` may be tried where protection was among the reasons: for it, there may be none.
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
    """The addresses where no connection came about within the last ``ADDRESS_REST`` seconds, and why.

    An address is one whichever exchanger's name led to it.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[str, int], tuple[float, ConnectFailure]] = {}  # the oldest first

    def remember(self, failure: ConnectFailure, now: float) -> None:
        """No connection to an address came about now."""
        self.forget(failure.endpoint)
        while len(self._failures) >= MAX_UNREACHED:
            del self._failures[next(iter(self._failures))]
        self._failures[failure.endpoint.place] = (now, failure)

    def forget(self, endpoint: Endpoint) -> None:
        """The address works."""
        self._failures.pop(endpoint.place, None)

    def knows_any(self, endpoints: Iterable[Endpoint]) -> bool:
        """Whether anything is to be asked of any of these: if not, nobody need look at a clock."""
        return bool(self._failures) and any(endpoint.place in self._failures for endpoint in endpoints)

    def get(self, endpoint: Endpoint, now: float) -> tuple[float, ConnectFailure] | None:
        """How many seconds ago no connection came about, and why; None if none failed, or long ago."""
        found = self._failures.get(endpoint.place)
        if found is None:
            return None
        since, failure = found
        if now - since < ADDRESS_REST:
            return now - since, failure
        self.forget(endpoint)
        return None
