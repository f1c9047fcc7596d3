"""The leases of nodes on sites, as one table in memory.

A *node* sends heartbeats while its event loop runs (:meth:`LeaseTable.beat`). Its leases are valid for :data:`VALID`
seconds after the last one; a mark requires :data:`MARGIN` seconds more, so that the completion after a mark is over
before another node may own the site. A node without heartbeats for longer loses its leases.

Several nodes may serve one site: each has a lease with some of its slots (``zsmtp.queue.slots``). For as long as a site
has a lease its queue keys belong to it, whatever is learned meanwhile, and the slots of its leases are disjoint: so
each recipient has one owner at most, the lease of its key's site that has its slot, and all that holds for the lease of
a whole site holds for a part. Slots are added only while no other lease has them. They are taken away in two ways: with
the whole lease, whose marks are in doubt then for the next owner of their slots; or by their owner
(:meth:`~LeaseTable.shed`), once no attempt of them has a mark, so there is nothing that the next owner would have to
know.

The table has no clock: the time is an argument. Stores with one delivering process have the only table; a database has
the same as rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from zsmtp.errors import QueueError
from zsmtp.queue.slots import ALL, SitePart, has, slot_of
from zsmtp.queue.states import AttemptKey

VALID = 20.0
"""Seconds from the last heartbeat of a node until others may take its leases."""
MARGIN = 10.0
"""Seconds for which a lease must remain valid when a mark is made."""


def check_shed(held: int, slots: int, marked: Iterable[AttemptKey]) -> None:
    """Raise QueueError if a lease may not give up slots; ``marked`` are its attempts with a mark, without a result."""
    if not held & ~slots:
        raise QueueError("a lease keeps one of its slots at least: give it back instead")
    if any(slots >> slot_of(attempt.message) & 1 for attempt in marked):
        raise QueueError("slots with marked attempts cannot be given up: settle them first")


class Holding:
    """A lease in the table: ``keys`` are those that its node knows of, ``slots`` a mask."""

    __slots__ = ("keys", "node", "number", "site", "slots")

    def __init__(self, number: int, site: str, node: str, slots: int) -> None:
        self.number = number
        self.site = site
        self.node = node
        self.keys: set[str] = set()
        self.slots = slots

    @property
    def part(self) -> SitePart:
        """Its keys and slots."""
        return SitePart(self.keys, self.slots)


class _LeasedSite:
    """The leases and the queue keys of a site that has leases."""

    __slots__ = ("holdings", "keys")

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.holdings: list[Holding] = []


class LeaseTable:
    """The leases of all nodes. Their numbers begin after ``base``."""

    def __init__(self, base: int = 0) -> None:
        self._last = base
        self._beats: dict[str, float] = {}
        self._by_number: dict[int, Holding] = {}
        self._sites: dict[str, _LeasedSite] = {}
        self._site_of: dict[str, str] = {}  # by key, of sites with leases

    def join(self, node: str, now: float) -> None:
        """Add a node."""
        self._beats[node] = now

    def beat(self, node: str, now: float) -> None:
        """Record a heartbeat of a node."""
        if node in self._beats:
            self._beats[node] = now

    def leave(self, node: str) -> list[Holding]:
        """Remove a node that leaves or died; returns the leases it had."""
        self._beats.pop(node, None)
        return self.drop([one.number for one in self._by_number.values() if one.node == node])

    def lives(self, node: str, now: float) -> bool:
        """Whether the leases of a node are valid."""
        beat = self._beats.get(node)
        return beat is not None and now - beat < VALID

    def lapse(self, now: float) -> list[Holding]:
        """End the leases of nodes without recent heartbeats, and return them."""
        silent = {one.node for one in self._by_number.values() if not self.lives(one.node, now)}
        return self.drop([one.number for one in self._by_number.values() if one.node in silent])

    def get(self, number: int) -> Holding | None:
        """The lease with a number, None if it ended."""
        return self._by_number.get(number)

    def may_mark(self, number: int, now: float) -> bool:
        """Whether a lease is valid for :data:`MARGIN` more."""
        holding = self._by_number.get(number)
        beat = None if holding is None else self._beats.get(holding.node)
        return beat is not None and now - beat < VALID - MARGIN

    def site_of(self, key: str) -> str | None:
        """The leased site that a queue key belongs to, None if it belongs to none."""
        return self._site_of.get(key)

    def owner(self, key: str, message: int) -> Holding | None:
        """The lease that has the recipients of a message with a queue key."""
        site = self._sites.get(self._site_of.get(key, ""))
        if site is None:
            return None
        return next((one for one in site.holdings if has(one.slots, message)), None)

    def of_node(self, site: str, node: str) -> Holding | None:
        """The lease that a node has of a site."""
        leased = self._sites.get(site)
        return None if leased is None else next((one for one in leased.holdings if one.node == node), None)

    def free(self, site: str) -> int:
        """The slots of a site that no lease has."""
        leased = self._sites.get(site)
        return ALL if leased is None else ALL & ~sum(one.slots for one in leased.holdings)

    def take(self, site: str, keys: Iterable[str], node: str) -> Holding:
        """Lease the free slots of a site to a node without a lease of it; keys of other sites stay there."""
        slots = self.free(site)
        assert slots
        assert self.of_node(site, node) is None
        self._last += 1
        holding = Holding(self._last, site, node, slots)
        self._by_number[holding.number] = holding
        leased = self._sites.setdefault(site, _LeasedSite())
        leased.holdings.append(holding)
        self.extend(holding, keys)
        holding.keys |= leased.keys
        return holding

    def extend(self, holding: Holding, keys: Iterable[str]) -> bool:
        """Add those keys that no other site has; False if the lease had all of them."""
        mine = {key for key in keys if self._site_of.setdefault(key, holding.site) == holding.site}
        if mine <= holding.keys:
            return False
        leased = self._sites[holding.site]
        leased.keys |= mine
        holding.keys |= leased.keys
        return True

    def grow(self, holding: Holding) -> bool:
        """Add the free slots of its site to a lease; False if there are none."""
        free = self.free(holding.site)
        holding.slots |= free
        return free != 0

    def shed(self, holding: Holding, slots: int) -> None:
        """Take slots away from a lease; it keeps at least one."""
        assert holding.slots & ~slots
        holding.slots &= ~slots

    def drop(self, numbers: Collection[int]) -> list[Holding]:
        """End leases; returns those that existed."""
        dropped = []
        for number in numbers:
            holding = self._by_number.pop(number, None)
            if holding is not None:
                leased = self._sites[holding.site]
                leased.holdings.remove(holding)
                if not leased.holdings:
                    del self._sites[holding.site]
                    for key in leased.keys:
                        del self._site_of[key]
                dropped.append(holding)
        return dropped

    def __iter__(self) -> Iterator[Holding]:
        return iter(list(self._by_number.values()))
