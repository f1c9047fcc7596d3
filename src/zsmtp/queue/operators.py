"""The values of operators' queries and changes: rows, changes, rules, statuses, groups to count by.

The methods of ``zsmtp.queue.store`` for operators take and return them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

from zsmtp.queue.slots import ALL, has
from zsmtp.queue.states import QueuedMessage, QueuedRecipient, State
from zsmtp.records import dataclass, replace

AGES = (("<5m", 300), ("<10m", 600), ("<20m", 1200), ("<40m", 2400), ("<80m", 4800), ("<3h", 10800), ("<6h", 21600))
"""The groups of ``count(by="age")`` with their limits in seconds; older ones are in :data:`OLDEST`."""
OLDEST = ">6h"
GROUPS = ("", "key", "site", "tenant", "state", "age", "reason")
"""The groupings of :meth:`QueueStore.count`."""
MOST_GROUPS = 50_000
"""The most groups of a count, the largest ones; the rest is counted together as :data:`OTHERS`."""
OTHERS = "(others)"
RECENT = 60.0
"""Seconds for which a periodic report is valid."""


def age_group(age: int) -> str:
    """The group of an age in milliseconds."""
    return next((label for label, limit in AGES if age < limit * 1000), OLDEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A standing rule: it applies to queued and future mail until it ends."""

    number: int = 0
    """Given by the store."""
    action: str
    """``hold``, ``suspend``, ``fail``, ``drop``, ``reroute``."""
    filter: str
    """In the filter language, as text."""
    argument: str = ""
    """For ``reroute``: the key. For ``fail``: the text for the notice."""
    until: float | None = None
    """When it ends; None: when it is deleted."""
    by: str = ""
    reason: str = ""
    created: float = 0.0


class Row(NamedTuple):
    """One recipient as operators see it, with its message and its state."""

    recipient: QueuedRecipient
    message: QueuedMessage
    state: State


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a command to the recipients it selects; exactly one of the first seven fields is given.

    ``due``: tried at this time (``now``, ``at``). ``hold``: held by this rule (0: released). ``key``: moved to this
    queue key. ``rank``: another priority. ``expires``: another expiry time. ``end``: ended, with the entry's reason,
    and with the notice that the sender is owed if ``notify``. ``move``: set apart for another queue, in this move.
    """

    due: float | None = None
    hold: int | None = None
    key: str | None = None
    rank: int | None = None
    expires: float | None = None
    end: str | None = None
    """``failed`` or ``dropped``."""
    move: int | None = None
    """Set apart in the move of this number (``zsmtp.queue.moves``)."""
    status: str = ""
    reason: str = ""
    by: str = ""
    notify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """The status of a site at its node, for ``why`` and the lists of sites. Times are in seconds since 1970."""

    site: str
    node: str
    updated: float
    window: int = 0
    """The connections it may have now; 0 while it is dead."""
    slots: int = ALL
    """The slots of the site that this node serves, as a mask (``zsmtp.queue.slots``); other nodes serve the others."""
    busy: int = 0
    """Connections in use."""
    ready: int = 0
    """Recipients read and not begun."""
    dead_until: float = 0.0
    """When a dead site is probed next; 0.0 if the site is not dead."""
    dead_reason: str = ""
    rate_until: float = 0.0
    """When the binding rate permits the next message; 0.0 if no rate holds it back."""
    rate: str = ""
    """The binding rate (``14/s``)."""
    no_slot: bool = False
    """Whether it waits for a connection because the limit of all connections is reached."""
    no_route: str = ""
    """Why the configuration of the node has no route for its mail; "" if it has one. It is reported periodically."""

    @property
    def problem_rank(self) -> int:
        """The greater, the more it keeps mail back: a lost route, a dead site, a rate, the limit of all connections."""
        problems = self.no_slot, self.rate_until > 0, self.dead_until > 0, bool(self.no_route)
        return max((rank for rank, there in enumerate(problems, 1) if there), default=0)

    def lost_route(self, now: float) -> str:
        """Why there is no route for its mail now; "" if there is one, or if the report is too old."""
        return self.no_route if now - self.updated < RECENT else ""


def of_message(statuses: Sequence[SiteStatus], message: int) -> SiteStatus | None:
    """That of a site's statuses whose node serves the slot of a message, the latest one; else the latest of all."""
    ranked = sorted(statuses, key=lambda one: (has(one.slots, message), one.updated))
    return ranked[-1] if ranked else None


def combined(statuses: Sequence[SiteStatus]) -> SiteStatus:
    """The statuses of the parts of a site as one: connections and recipients add up, and a problem of any is shown."""
    first = max(statuses, key=lambda one: (one.problem_rank, one.updated))
    return replace(
        first,
        node=", ".join(sorted({one.node for one in statuses})),
        window=sum(one.window for one in statuses),
        slots=reduce(or_, [one.slots for one in statuses]),
        busy=sum(one.busy for one in statuses),
        ready=sum(one.ready for one in statuses),
    )


class NodeStatus(NamedTuple):
    """A process that delivers."""

    node: str
    since: float
    host: str
    pid: int
    alive: bool
    """Whether its heartbeat is valid (by the clock of the database)."""
    draining: bool
    sites: int
    """The leases it holds, of sites and of parts of sites."""


class Health(NamedTuple):
    """The health of the store."""

    problem: str
    """The error of the last try to read or write it, "" if there was none."""
    free_octets: int
    """Octets left for content on the disk of the store, and in its folder of large bodies; -1 if unknown."""
