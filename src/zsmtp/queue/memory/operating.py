"""Queries and changes of operators on a queue in memory."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from zsmtp.errors import QueueError
from zsmtp.queue import quotas, settling
from zsmtp.queue.filter import Filter
from zsmtp.queue.filter import age as age_of
from zsmtp.queue.intake import kept_suppression
from zsmtp.queue.limits import (
    MAX_RULES,
)
from zsmtp.queue.memory.base import MemoryBase
from zsmtp.queue.moves import apart
from zsmtp.queue.operators import (
    GROUPS,
    Change,
    NodeStatus,
    Row,
    Rule,
    SiteStatus,
    age_group,
)
from zsmtp.queue.quotas import NOTHING, Amount
from zsmtp.queue.states import (
    HistoryEntry,
    Position,
    QueuedMessage,
    QueuedRecipient,
    State,
    milliseconds,
    seconds,
)
from zsmtp.queue.suppression import Suppression, folded, holds
from zsmtp.records import replace

PIECE = 1000  # recipients changed at a time


class MemoryOperating(MemoryBase):
    """The operations of a store for operators."""

    def _state(self, one: QueuedRecipient) -> State:
        if one.hold:
            return State.HELD
        under = {lease for lease, hands in self._data.in_hand.items() if one.next_attempt in hands}
        if one.next_attempt in self._data.marks:
            under.add(self._data.marks[one.next_attempt].lease)
        return State.LEASED if any(map(self._lives, under)) else State.DUE

    def _lives(self, lease: int) -> bool:
        holding = self._shared.leases.get(lease)
        return holding is not None and self._shared.leases.lives(holding.node, self._monotonic())

    def _matching(self, wanted: Filter) -> list[Row]:
        return list(self._data.matching(wanted, self._data.rows(self._state), self._clock()))

    async def select(
        self, wanted: Filter, *, after: Position | None = None, limit: int | None = None
    ) -> AsyncIterator[Row]:
        """The matching recipients, in order of their ids."""
        self._begin("select")
        rows = self._matching(wanted)
        if after is not None:
            rows = [row for row in rows if (row.recipient.message, row.recipient.number) > after[1:]]
        for row in rows[:limit]:
            yield row

    async def count(self, wanted: Filter, *, by: str = "") -> dict[str, int]:
        """Count the matching recipients."""
        self._begin("count")
        now = self._clock()
        groups: Mapping[str, Callable[[Row], str]] = {
            "": lambda row: "",
            "key": lambda row: row.recipient.key,
            "site": lambda row: self._data.site_of(row.recipient.key),
            "tenant": lambda row: row.recipient.tenant,
            "state": lambda row: row.state.value,
            "age": lambda row: age_group(age_of(row.message.id, now)),
            "reason": lambda row: row.recipient.reason,
        }
        if by not in GROUPS:
            raise QueueError(f"{by!r} is nothing to count by; known: {', '.join(GROUPS[1:])}")
        counted = Counter(map(groups[by], self._matching(wanted)))
        return dict(counted) if by else {"": counted[""]}

    async def change(self, wanted: Filter, change: Change) -> AsyncIterator[int]:
        """Change the matching recipients, in pieces."""
        self._begin("change")
        settling.check_change(change)
        if change.hold is not None and self._data.hold(change.hold) != change.hold:
            raise QueueError(f"there is no rule {change.hold}")
        if change.move is not None and change.move not in self._data.moves:
            raise QueueError(f"there is no move {change.move}")
        rows = self._matching(wanted)
        for start in range(0, len(rows), PIECE):
            yield sum(self._change(row, change) for row in rows[start : start + PIECE])

    def _change(self, row: Row, change: Change) -> bool:
        one = self._data.recipients.get((row.recipient.message, row.recipient.number))
        now = self._clock()
        if one is None or not settling.may_change(change, one, perhaps_sent=self._perhaps_sent(one), now=now):
            return False
        self._tell(poked=[one.key])
        if change.end is not None:
            self._settle(settling.ended(change, one, row.message, self._clock(), self._notice_rule), one)
            return True
        if change.move is not None:
            self._data.put(replace(one, hold=apart(change.move, one.hold)))
            return True
        after = settling.changed(change, one)
        after = replace(after, due=seconds(milliseconds(after.due)), expires=seconds(milliseconds(after.expires)))
        self._data.put(after)
        self._tell_due(after)
        return True

    def _perhaps_sent(self, one: QueuedRecipient) -> bool:
        """Whether an attempt without a result has a mark, or may have had one that was lost with the machine."""
        attempt, shared = one.next_attempt, self._shared
        if self._data.marked(one) or attempt in self._data.lost or attempt in shared.unwritten:
            return True
        under = [lease for lease, hands in self._data.in_hand.items() if attempt in hands]
        nodes = [holding.node for lease in under if (holding := shared.leases.get(lease)) is not None]
        return any(shared.seen.get(node, 0) != shared.restarts for node in nodes)

    async def message(self, message: int) -> QueuedMessage | None:
        """A queued message."""
        self._begin("message")
        return self._data.messages.get(message) if self._data.present(message) else None

    async def history(self, message: int, *, number: int | None = None) -> list[HistoryEntry]:
        """The history of a message, or of one of its recipients, oldest first."""
        self._begin("history")
        entries = [entry for entry in self._data.history.values() if entry.message == message]
        return [entry for entry in entries if number in (None, entry.number)]

    async def ended(self, message: int, *, after: int = -1, limit: int) -> list[tuple[int, bytes]]:
        """Numbers and addresses of the ended recipients of a message, in order of number, after ``after``."""
        self._begin("ended")
        entries = [entry for entry in self._data.history.values() if entry.message == message]
        ends = {(entry.number, entry.address) for entry in entries if entry.outcome.end is not None}
        return sorted(one for one in ends if one[0] > after)[:limit]

    async def ends(self, wanted: Filter, *, limit: int | None = None) -> AsyncIterator[HistoryEntry]:
        """Matching ends, youngest first."""
        self._begin("ends")
        wanted.check_for_ends()
        now = self._clock()
        found = [
            entry
            for entry in reversed(self._data.history.values())
            if entry.outcome.end is not None
            and wanted.matches_end(entry, now, site=self._data.site_of(entry.key), shard=self.shard)
        ]
        for entry in found[:limit]:
            yield entry

    async def events(self, cursor: str, *, limit: int) -> tuple[str, list[HistoryEntry]]:
        """History after a cursor, and the next cursor."""
        self._begin("events")
        if cursor and not cursor.isdecimal():
            raise QueueError(f"{cursor[:40]!r} is no cursor of events")
        last = int(cursor or 0)
        found = [number for number in self._data.history if number > last][:limit]
        return str(found[-1] if found else last), [self._data.history[number] for number in found]

    async def sites(self, names: Collection[str] = ()) -> list[SiteStatus]:
        """The reported status of sites."""
        self._begin("sites")
        statuses = self._shared.statuses
        return [statuses[place] for place in sorted(statuses) if place[0] in names or not names]

    async def nodes(self) -> list[NodeStatus]:
        """The nodes, alive or not."""
        self._begin("nodes")
        leases = list(self._shared.leases)
        return [
            NodeStatus(
                node=node,
                since=since,
                host=socket.gethostname(),
                pid=os.getpid(),
                alive=self._shared.leases.lives(node, self._monotonic()),
                draining=node in self._shared.draining,
                sites=sum(holding.node == node for holding in leases),
            )
            for node, since in self._shared.nodes.items()
        ]

    async def drain(self, node: str) -> int:
        """Ask a node to leave."""
        self._begin("drain")
        if node not in self._shared.news:
            return 0
        self._shared.draining.add(node)
        self._shared.news[node].there.set()
        return 1

    async def suppress(self, suppressions: Sequence[Suppression]) -> int:
        """Suppress addresses from now on; returns how many were not on the list."""
        self._begin("suppress")
        kept = {(one.tenant, one.address): one for one in map(kept_suppression, suppressions)}
        known = self._data.suppressions
        added = len(kept.keys() - known.keys())
        known.update(kept)
        return added

    async def unsuppress(self, tenant: str, addresses: Collection[bytes]) -> int:
        """Remove a tenant's addresses from the list; returns how many were there."""
        self._begin("unsuppress")
        wanted = {(tenant, folded(address)) for address in addresses}
        return sum(self._data.suppressions.pop(key, None) is not None for key in wanted)

    async def suppressions(
        self, tenant: str | None = None, addresses: Collection[bytes] = ()
    ) -> AsyncIterator[Suppression]:
        """The list, in order of tenant and address."""
        self._begin("suppressions")
        wanted = {folded(address) for address in addresses}
        for _, one in sorted(self._data.suppressions.items()):
            mine = tenant in (None, one.tenant) and (not wanted or one.address in wanted)
            if mine and holds(one, self._clock()):
                yield one

    async def record(self, event: HistoryEntry) -> bool:
        """Write an event of an ended recipient, once."""
        self._begin("record")
        place = event.message, event.number
        mine = {one.outcome for one in self._data.history.values() if (one.message, one.number) == place}
        if event.outcome in mine or not any(outcome.end for outcome in mine):
            return False
        self._data.write(event)
        return True

    async def rules(self) -> list[Rule]:
        """The standing rules, oldest first."""
        self._begin("rules")
        return list(self._data.rules.values())

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a rule."""
        self._begin("add_rule")
        if len(self._data.rules) >= MAX_RULES:
            raise QueueError(f"{MAX_RULES} rules are the limit")
        self._data.last_rule += 1
        created = seconds(milliseconds(self._clock()))
        until = None if rule.until is None else seconds(milliseconds(rule.until))
        rule = replace(rule, number=self._data.last_rule, created=created, until=until)
        self._data.rules[rule.number] = rule
        self._tell(rules=True)
        return rule

    async def delete_rule(self, number: int) -> bool:
        """Delete a rule, and release the recipients that it holds."""
        self._begin("delete_rule")
        if self._data.rules.pop(number, None) is None:
            return False
        for one in tuple(self._data.recipients.values()):
            if one.hold == number:
                released = replace(one, hold=0)
                self._data.put(released)
                self._tell_due(released)
                self._tell(poked=[one.key])
        self._tell(rules=True)
        return True

    async def accepted_by(self, tenant: str) -> dict[int, Amount]:
        """The amounts accepted from a tenant, by slot."""
        self._begin("accepted_by")
        return quotas.used_by_slot(self._data.counters, tenant, self._clock())

    async def queued_by_tenant(self) -> dict[str, Amount]:
        """Messages and octets in the queue, by tenant."""
        self._begin("queued_by_tenant")
        found: dict[str, Amount] = {}
        for one in self._data.messages.values():
            found[one.tenant] = found.get(one.tenant, NOTHING).plus(Amount(1, one.size))
        return found

    async def counters(self) -> Mapping[str, int]:
        """Totals since the queue was made."""
        self._begin("counters")
        return {name: value for name, value in self._data.counters.items() if not quotas.is_of_tenant(name)}
