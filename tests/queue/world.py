"""A world for nodes of a queue, in virtual time: sites that live and die, refuse and forget, and what they were sent.

:class:`SimulatedConnections` takes the place of the engine: it knows the point before which leave must be asked for,
and that a connection may break behind it. Each site keeps a ledger of all copies it has, which no node can see.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zsmtp.delivery.attempt import Returns
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Peer, Scope, Verdict
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, LocalRefusal
from zsmtp.proto.reply import Reply
from zsmtp.proto.status import EnhancedStatus
from zsmtp.queue.connections import Allow, ConnectionGone, IdlingConnection, OnVerdict
from zsmtp.queue.site import Group
from zsmtp.queue.states import QueuedRecipient
from zsmtp.queue.store import QueueStore

PEER = Peer(Endpoint("mx.example", "192.0.2.1", 25, Family.INET))
HOUR = 3600.0


def answer(fate: Disposition, code: int, status: str, **values: object) -> Verdict:
    """What a server's reply makes."""
    reply = Reply(code, (f"{status} said".encode(),))
    made = Verdict(fate, EnhancedStatus.parse(status), f"smtp; {code} ({status} said)", "said", peer=PEER, reply=reply)
    return made._replace(**values)  # type: ignore[arg-type]


UNREACHED = Verdict(
    Disposition.DEFERRED,
    EnhancedStatus(4, 4, 1),
    "local; 450 (no answer)",
    "no answer",
    level=Scope.HOST,
    retry_after=60,
)
NO_DOMAIN = Verdict(
    Disposition.FAILED, EnhancedStatus(5, 1, 2), "smtp; 500 (no such domain)", "no such domain", level=Scope.HOST
)
LOST = Verdict(
    Disposition.DEFERRED, EnhancedStatus(4, 4, 2), "local; 450 (connection lost)", "connection lost", peer=PEER
)


@dataclass
class SimulatedSite:
    """A site. ``dead`` are the times in which it does not answer, on the world's clock."""

    dead: tuple[tuple[float, float], ...] = ()
    most: int = 1000
    """Connections it takes."""
    exists: bool = True
    """Whether there is such a domain; if not, nothing can be connected to."""
    latency: float = 0.05
    greylists: bool = False
    refuses: float = 0.0
    """The share of recipients that it refuses for good."""
    defers: float = 0.0
    """The share of attempts that it puts off."""
    breaks: float = 0.0
    """The share of messages whose reply is lost."""
    closes: float = 0.0
    """The share of messages at which it closes the connection before their content."""
    unasked: float = 0.0
    """The share of messages at which what carries a connection out dies, before it asked for leave."""
    unheard: float = 0.0
    """The share at which it dies when the message was sent."""
    copies: Counter[tuple[int, int]] = field(default_factory=Counter)
    connections: int = 0
    most_seen: int = 0
    asked: int = 0
    """Connections that were asked for in all."""
    tried: int = 0
    """Connections that were asked for while it was dead."""
    seen: set[tuple[int, int]] = field(default_factory=set)

    def lives(self, now: float) -> bool:
        return not any(start <= now < end for start, end in self.dead)


class World:
    """All sites by queue key; others come into being when they are asked for."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self.chance = random.Random(seed)
        self.clock = clock
        self.sites: dict[str, SimulatedSite] = {}
        self.problems: dict[str, str] = {}
        """Why mail can go nowhere by the configuration, by queue key."""
        self.delivered: list[tuple[float, str, int, int]] = []

    def site(self, key: str) -> SimulatedSite:
        return self.sites.setdefault(key, SimulatedSite())

    def copies(self, message: int, number: int) -> int:
        return sum(site.copies[message, number] for site in self.sites.values())


class SimulatedConnections:
    """The network of one node."""

    def __init__(self, world: World) -> None:
        self.world = world

    def problem(self, key: str) -> str:
        return self.world.problems.get(key, "")

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> SimulatedConnection:
        return SimulatedConnection(self.world, key, allow)

    async def load(self, store: QueueStore, group: Group) -> None:
        group.content = b"".join([chunk async for chunk in store.content(group.message.id, group.message.size)])

    def is_lmtp(self, key: str) -> bool:
        return False

    async def aclose(self) -> None:
        pass


class SimulatedConnection(IdlingConnection):
    """One connection."""

    def __init__(self, world: World, key: str, allow: Allow) -> None:
        self._world = world
        self._key = key
        self._site = world.site(key)
        self._allow = allow
        self._stopped = False
        self.is_open = False
        self.groups: dict[Ledger, Group] = {}

    def delivery(self, group: Group, on_verdict: OnVerdict) -> Delivery:
        assert group.content is not None
        envelope = Envelope(group.message.sender, tuple(EnvelopeRecipient(one.address) for one in group.recipients))
        ledger = Ledger(len(group.recipients), on_verdict)
        self.groups[ledger] = group
        return Delivery(Message(envelope, _no_content), ledger)

    async def deliver(
        self,
        first: Delivery,
        more: Callable[[], Delivery | None],
        returns: Returns,
        put_back: Callable[[Delivery], None],
    ) -> None:
        site, world = self._site, self._world
        if not self.is_open:
            site.asked += 1
            await asyncio.sleep(site.latency)
            if not site.exists:
                self._undecided(first, NO_DOMAIN, returns)
                return
            if not site.lives(world.clock()) or site.connections >= site.most:
                site.tried += 1
                self._undecided(first, UNREACHED, returns)
                return
            self._opened()
        delivery: Delivery | None = first
        while delivery is not None:
            if not await self._one(delivery, returns):
                await self.close()
                return
            delivery = None if self._stopped else more()

    def _opened(self) -> None:
        self.is_open = True
        self._site.connections += 1
        self._site.most_seen = max(self._site.most_seen, self._site.connections)

    def _sent(self, recipients: Sequence[QueuedRecipient]) -> None:
        for recipient in recipients:
            self._site.copies[recipient.message, recipient.number] += 1
            self._world.delivered.append((self._world.clock(), self._key, recipient.message, recipient.number))

    def _undecided(self, delivery: Delivery, verdict: Verdict, returns: Returns) -> None:
        if not returns(delivery, verdict):
            delivery.ledger.settle_all(delivery.ledger.unsettled, verdict)

    async def _one(self, delivery: Delivery, returns: Returns) -> bool:
        site, world = self._site, self._world
        ledger, group = delivery.ledger, self.groups[delivery.ledger]
        await asyncio.sleep(site.latency)
        if not site.lives(world.clock()):
            self._undecided(delivery, LOST, returns)
            return False
        for index in ledger.unsettled:
            path = group.recipients[index].message, group.recipients[index].number
            if site.greylists and path not in site.seen:
                site.seen.add(path)
                ledger.settle(index, answer(Disposition.DEFERRED, 450, "4.7.1"))
            elif world.chance.random() < site.defers:
                ledger.settle(index, answer(Disposition.DEFERRED, 451, "4.3.0"))
            elif hash(path) % 1000 < 1000 * site.refuses:
                ledger.settle(index, answer(Disposition.FAILED, 550, "5.1.1"))
        accepted = tuple(ledger.unsettled)
        if not accepted:
            return True
        self._may_die(site.unasked)
        if not await self._allow([(delivery, accepted)]):
            self._undecided(delivery, LOST, returns)
            return False
        if site.closes and world.chance.random() < site.closes:
            self._undecided(delivery, LOST, returns)
            return False
        self._sent([group.recipients[index] for index in accepted])
        self._may_die(site.unheard)
        broken = world.chance.random() < site.breaks
        await asyncio.sleep(site.latency)
        broken = broken or not site.lives(world.clock())
        verdict = (
            LOST._replace(in_doubt=True, at_final_dot=True) if broken else answer(Disposition.DELIVERED, 250, "2.0.0")
        )
        ledger.settle_all(accepted, verdict)
        return not broken

    def _may_die(self, share: float) -> None:
        if share and self._world.chance.random() < share:
            self.hang_up()
            raise ConnectionGone("its process was killed")

    async def idle(self, seconds: float) -> bool:
        return await self._stay_idle(seconds)

    def stop(self, reason: str, *, at_once: bool) -> None:
        self._stopped = True
        self.leave()

    async def close(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """The connection is gone."""
        if self.is_open:
            self.is_open = False
            self._site.connections -= 1


def _no_content(capabilities: Capabilities) -> ContentForm | LocalRefusal:
    raise AssertionError("no content is asked for")
