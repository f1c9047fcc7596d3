"""How a big site is divided among nodes: when its owner gives up slots, which ones, and what goes with them.

A node that serves a site with more work than it can begin gives up the slots (``zsmtp.queue.slots``) beyond its fair
share; other nodes ask for the site as long as it has work, and get them. Connections and rates of a site go with its
slots: :func:`limits_of` gives each lease its share, and the shares of disjoint sets of slots add up to the limits of
the site. So a site is only divided as far as each part gets at least one connection, and one message of each rate.

Rules and a state without a clock: times are arguments, in seconds on a clock that does not go back.
"""

from __future__ import annotations

from dataclasses import replace

from zsmtp.queue.shaping import Rate, SiteLimits
from zsmtp.queue.slots import ALL, SLOTS, count, each_of

FEW = 4
"""The most sites with more work than it can begin of which a node gives up slots.

With more of them the nodes share whole sites: each has enough to do, and a message finds an open connection more often.
"""
PRESSED = 5.0
"""Seconds for which a site has had more due work than its owner could begin, before it gives up slots."""
YIELDED = 2.0
"""Seconds before a node requests a lost or yielded site, or the slots that it gave up, again."""
UNWANTED = 10.0
"""Seconds after which slots that come back have been another node's."""
ALONE = 300.0
"""Seconds without a further division after one that no other node wanted, or that was not completed."""
LEAVING = 30.0
"""Seconds that slots to be given up wait for what is under way; then they are kept."""
ASK = 1.0
"""Seconds between two requests of a node for free slots, if it has less than its fair share; else :data:`YIELDED`."""


def share(total: int, slots: int) -> int:
    """The share of a number that goes with slots: those of disjoint sets add up to the share of all of them."""
    return sum((slot + 1) * total // SLOTS - slot * total // SLOTS for slot in each_of(slots))


def fair_share(nodes: int) -> int:
    """How many slots of a site a node has if ``nodes`` share it evenly."""
    return -(-SLOTS // max(nodes, 1))


def limits_of(limits: SiteLimits, slots: int) -> SiteLimits:
    """The limits of a lease with some slots of a site; of each at least one."""
    if slots == ALL:
        return limits
    most = max(share(limits.most, slots), 1)
    return replace(
        limits,
        start=min(max(share(limits.start, slots), 1), most),
        most=most,
        messages=_rates(limits.messages, slots),
        recipients=_rates(limits.recipients, slots),
        connections=_rates(limits.connections, slots),
    )


def _rates(rates: tuple[Rate, ...], slots: int) -> tuple[Rate, ...]:
    return tuple(Rate(max(share(rate.allowed, slots), 1), rate.seconds) for rate in rates)


def is_viable(limits: SiteLimits, slots: int) -> bool:
    """Whether a lease of these slots has a connection, and one of each rate, by its share alone."""
    rates = (*limits.messages, *limits.recipients, *limits.connections)
    return all(share(number, slots) > 0 for number in (limits.most, *(rate.allowed for rate in rates)))


def beyond_share(held: int, nodes: int, limits: SiteLimits) -> int:
    """The slots that a node with ``held`` gives up for others: as many as it has beyond its share and limits allow."""
    slots = list(each_of(held))
    for kept in range(fair_share(nodes), len(slots)):
        given = sum(1 << slot for slot in slots[kept:])
        if is_viable(limits, held & ~given) and is_viable(limits, given):
            return given
    return 0


class Division:
    """The division of a site, as one of its owners sees it. ``limits`` are those of the whole site."""

    __slots__ = ("_alone_until", "_asks_at", "_given", "_given_at", "_leaving_at", "_pressed_at", "leaving", "limits")

    def __init__(self, limits: SiteLimits) -> None:
        self.limits = limits
        self.leaving = 0
        """The slots that it is about to give up: it begins nothing of them any more."""
        self._leaving_at = 0.0
        self._pressed_at: float | None = None
        self._given = 0
        self._given_at = 0.0
        self._alone_until = 0.0
        self._asks_at = 0.0

    def look(self, held: int, nodes: int, now: float, *, pressed: bool) -> int:
        """The slots to give up from now on; 0 for none. ``pressed``: it has more work than it can begin now."""
        if not pressed:
            self._pressed_at = None
        elif self._pressed_at is None:
            self._pressed_at = now
        if self.leaving or self._pressed_at is None or now < max(self._pressed_at + PRESSED, self._alone_until):
            return 0
        self.leaving = beyond_share(held, nodes, self.limits)
        self._leaving_at = now
        self._pressed_at = None
        return self.leaving

    def is_overdue(self, now: float) -> bool:
        """Whether slots have been leaving for too long: nobody begins their mail meanwhile."""
        return self.leaving != 0 and now >= self._leaving_at + LEAVING

    def keep(self, now: float, *, alone: bool) -> None:
        """Give up nothing now; ``alone``: nor for the next minutes."""
        self.leaving = 0
        if alone:
            self._alone_until = now + ALONE

    def ready(self, busy: int) -> int:
        """Those of the leaving slots to give up now: none that is ``busy`` with recipients in hand.

        Another node may take these alone, so they get the least that a part needs, and so do those that are left.
        """
        free = self.leaving & ~busy
        rest = self.leaving & busy
        return free if is_viable(self.limits, free) and (not rest or is_viable(self.limits, rest)) else 0

    def gave(self, slots: int, now: float) -> None:
        """Record that the store has taken slots back."""
        self.leaving &= ~slots
        self._given = slots if now > self._given_at + UNWANTED else self._given | slots
        self._given_at = now
        self._asks_at = now + YIELDED

    def got(self, slots: int, now: float) -> None:
        """Record that slots were added."""
        if self._given and not self._given & ~slots and now < self._given_at + UNWANTED:  # nobody else asked for them
            self._alone_until = now + ALONE

    def asks(self, held: int, nodes: int, now: float) -> bool:
        """Whether to ask for free slots of the site now."""
        if held == ALL or self.leaving or now < self._asks_at:
            return False
        self._asks_at = now + (ASK if count(held) < fair_share(nodes) else YIELDED)
        return True
