"""The network between the nodes of a fleet and its receivers.

It is that of ``tests.queue.world``, where each node is on its own: its connections end when it is killed. What a
receiver got is kept by attempt, so that it can be told whose a second copy is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.queue.world import SimulatedConnection, SimulatedConnections, World

from zsmtp.queue.connections import Allow
from zsmtp.queue.states import AttemptKey, QueuedRecipient

BIG = "big.example"
"""The site that has more work than one node begins."""


class ReceivedCopy(NamedTuple):
    """That a receiver got a message, when and from whom."""

    at: float
    node: str


class FleetWorld(World):
    """All receivers, with a ledger of what they got by attempt."""

    def __init__(self, seed: int, clock: object) -> None:
        super().__init__(seed, clock)  # type: ignore[arg-type]
        self.received: dict[AttemptKey, list[ReceivedCopy]] = {}


class FleetConnections(SimulatedConnections):
    """The network of one node, until it is dead."""

    def __init__(self, world: FleetWorld, node: str) -> None:
        super().__init__(world)
        self.fleet = world
        self.node = node
        self.dead = False
        self.open: set[FleetConnection] = set()

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> FleetConnection:
        return FleetConnection(self, key, allow)

    def kill(self) -> None:
        """The node is dead: its connections are closed, and nothing is sent any more."""
        self.dead = True
        for connection in tuple(self.open):
            connection.hang_up()


class FleetConnection(SimulatedConnection):
    """One connection of a node."""

    def __init__(self, network: FleetConnections, key: str, allow: Allow) -> None:
        super().__init__(network.fleet, key, allow)
        self._network = network

    def _opened(self) -> None:
        super()._opened()
        self._network.open.add(self)

    def _sent(self, recipients: Sequence[QueuedRecipient]) -> None:
        assert not self._network.dead, "the dead send no mail"
        super()._sent(recipients)
        fleet = self._network.fleet
        for recipient in recipients:
            copies = fleet.received.setdefault(recipient.next_attempt, [])
            copies.append(ReceivedCopy(fleet.clock(), self._network.node))

    def hang_up(self) -> None:
        super().hang_up()
        self._network.open.discard(self)
