"""Asyncio drivers and couriers that the destinations of one configuration share; each is made at its first use.

There is one driver for relays and one for exchangers. All couriers share the addresses that did not answer; the other
facts about peers are shared between couriers without an observer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from zsmtp.client.destinations import Destination, Destinations
from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.backoff import AddressBackoff
from zsmtp.delivery.gate import ConnectionGate
from zsmtp.events import Observer, ignore
from zsmtp.net.aio import AsyncDriver
from zsmtp.net.identity import parse_identity
from zsmtp.net.operations import LocalBinding


class Drivers:
    """Drivers for ``destinations``; connections leave from ``local_address`` ("": the system chooses)."""

    def __init__(self, destinations: Destinations, local_address: str) -> None:
        self._destinations = destinations
        self._local_address = local_address
        self._made: dict[bool, AsyncDriver] = {}

    def of(self, destination: Destination) -> AsyncDriver:
        """The driver: names of relays are also looked up in the hosts file, those of exchangers are not."""
        relayed = destination.relay is not None
        driver = self._made.get(relayed)
        if driver is None:
            driver = self._made[relayed] = AsyncDriver(
                self._destinations.relay_resolver if relayed else self._destinations.resolver,
                LocalBinding(parse_identity(self._local_address) if self._local_address else None),
                None if relayed else self._destinations.policies(),
            )
        return driver

    async def aclose(self) -> None:
        """End running lookups and threads."""
        self._destinations.close()
        for driver in self._made.values():
            await driver.aclose()


class Couriers:
    """Couriers for ``destinations``; ``observe`` returns the observer of a connection to the destination of that name.

    Their connections pass ``gate``, if there is one.
    """

    def __init__(
        self,
        destinations: Destinations,
        observe: Callable[[str], Observer] | None,
        gate: ConnectionGate | None = None,
    ) -> None:
        self._gate = gate
        self._destinations = destinations
        self._observe = observe
        self._unreached = AddressBackoff()
        self._shared: dict[Hashable, Courier] = {}  # by relay

    def of(self, destination: Destination) -> tuple[Courier, Observer]:
        """The courier for a new connection to this destination, and its observer."""
        settings = self._destinations.settings_for(destination.relay)
        observer = ignore if self._observe is None else self._observe(destination.name)
        if observer is not ignore:
            return Courier(settings, observer, self._unreached, self._gate), observer
        courier = self._shared.get(destination.relay)
        if courier is None:
            courier = self._shared[destination.relay] = Courier(settings, unreached=self._unreached, gate=self._gate)
        return courier, ignore
