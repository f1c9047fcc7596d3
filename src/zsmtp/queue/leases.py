"""The leases of nodes on sites, as one table in memory.

A *node* sends heartbeats while its event loop runs (:meth:`LeaseTable.beat`). Its leases are valid for :data:`VALID`
seconds after the last one; a mark requires :data:`MARGIN` seconds more, so that the completion after a mark is over
before another node may own the site. A node without heartbeats for longer loses its leases.

The table has no clock: the time is an argument. Stores with one delivering process have the only table; a database has
the same as rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

VALID = 20.0
"""Seconds from the last heartbeat of a node until others may take its leases."""
MARGIN = 10.0
"""Seconds for which a lease must remain valid when a mark is made."""


class Holding:
    """A lease in the table."""

    __slots__ = ("keys", "node", "number", "site")

    def __init__(self, number: int, site: str, node: str, keys: set[str]) -> None:
        self.number = number
        self.site = site
        self.node = node
        self.keys = keys


class LeaseTable:
    """The leases of all nodes. Their numbers begin after ``base``."""

    def __init__(self, base: int = 0) -> None:
        self._last = base
        self._beats: dict[str, float] = {}
        self._by_number: dict[int, Holding] = {}
        self._by_site: dict[str, Holding] = {}
        self._by_key: dict[str, Holding] = {}

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

    def of_site(self, site: str) -> Holding | None:
        """The lease of a site, None if it has no owner."""
        return self._by_site.get(site)

    def of_key(self, key: str) -> Holding | None:
        """The lease of a queue key."""
        return self._by_key.get(key)

    def take(self, site: str, keys: Iterable[str], node: str) -> Holding:
        """Lease an unowned site and its keys to a node; keys of other leases stay there."""
        assert site not in self._by_site
        self._last += 1
        holding = Holding(self._last, site, node, set())
        self._by_number[holding.number] = self._by_site[site] = holding
        self.extend(holding, keys)
        return holding

    def extend(self, holding: Holding, keys: Iterable[str]) -> bool:
        """Add those keys that no lease has; False if there was none."""
        new = [key for key in keys if key not in self._by_key]
        for key in new:
            self._by_key[key] = holding
        holding.keys.update(new)
        return bool(new)

    def drop(self, numbers: Collection[int]) -> list[Holding]:
        """End leases; returns those that existed."""
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
