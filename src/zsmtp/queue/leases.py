"""Who owns which site: the leases of nodes, as one table in memory.

A *node* says again and again that its event loop turns (:meth:`LeaseTable.beat`). While that is less than
:data:`VALID` seconds ago its leases are good; marks ask for :data:`MARGIN` seconds more, so that what follows a mark
is done before anybody else may own the site. Leases of a node that was silent for longer are taken from it.

The table is a value without a clock: the time of every question is an argument. Stores that have one process for
deliveries keep the only table; a database keeps the same as rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

VALID = 20.0
"""Seconds after its last beat until a node's leases may be taken by others."""
MARGIN = 10.0
"""Seconds that a lease must be good for when a mark is made."""


class Holding:
    """A lease as the table knows it."""

    __slots__ = ("keys", "node", "number", "site")

    def __init__(self, number: int, site: str, node: str, keys: set[str]) -> None:
        self.number = number
        self.site = site
        self.node = node
        self.keys = keys


class LeaseTable:
    """The leases of all nodes. ``base`` is what their numbers begin behind."""

    def __init__(self, base: int = 0) -> None:
        self._last = base
        self._beats: dict[str, float] = {}
        self._by_number: dict[int, Holding] = {}
        self._by_site: dict[str, Holding] = {}
        self._by_key: dict[str, Holding] = {}

    def join(self, node: str, now: float) -> None:
        """A node is there."""
        self._beats[node] = now

    def beat(self, node: str, now: float) -> None:
        """Its event loop turns."""
        if node in self._beats:
            self._beats[node] = now

    def leave(self, node: str) -> list[Holding]:
        """A node goes, or died; returns the leases it had."""
        self._beats.pop(node, None)
        return self.drop([one.number for one in self._by_number.values() if one.node == node])

    def lives(self, node: str, now: float) -> bool:
        """Whether the leases of a node are good."""
        beat = self._beats.get(node)
        return beat is not None and now - beat < VALID

    def lapse(self, now: float) -> list[Holding]:
        """Take away the leases of nodes that have been silent for too long, and return them."""
        silent = {one.node for one in self._by_number.values() if not self.lives(one.node, now)}
        return self.drop([one.number for one in self._by_number.values() if one.node in silent])

    def get(self, number: int) -> Holding | None:
        """The lease of a number, None if it was given back or taken away."""
        return self._by_number.get(number)

    def may_mark(self, number: int, now: float) -> bool:
        """Whether a lease is good for :data:`MARGIN` more."""
        holding = self._by_number.get(number)
        beat = None if holding is None else self._beats.get(holding.node)
        return beat is not None and now - beat < VALID - MARGIN

    def of_site(self, site: str) -> Holding | None:
        """The lease of a site, None if it has no owner."""
        return self._by_site.get(site)

    def of_key(self, key: str) -> Holding | None:
        """The lease that a queue key belongs to."""
        return self._by_key.get(key)

    def take(self, site: str, keys: Iterable[str], node: str) -> Holding:
        """Give a site without owner to a node, with its keys; keys that belong to another lease stay there."""
        assert site not in self._by_site
        self._last += 1
        holding = Holding(self._last, site, node, set())
        self._by_number[holding.number] = self._by_site[site] = holding
        self.extend(holding, keys)
        return holding

    def extend(self, holding: Holding, keys: Iterable[str]) -> bool:
        """Add keys that no lease has; False if there was none."""
        new = [key for key in keys if key not in self._by_key]
        for key in new:
            self._by_key[key] = holding
        holding.keys.update(new)
        return bool(new)

    def drop(self, numbers: Collection[int]) -> list[Holding]:
        """End leases; returns those that there were."""
        dropped = []
        for number in numbers:
            holding = self._by_number.pop(number, None)
            if holding is not None:
                del self._by_site[holding.site]
                for key in holding.keys:
                    del self._by_key[key]
                dropped.append(holding)
        return dropped

    def __iter__(self) -> Iterator[Holding]:
        return iter(list(self._by_number.values()))
