"""A queue in memory: the plainest implementation of ``zsmtp.queue.store``, for tests and documentation.

It is the reference for the other stores. Several stores may share one queue, as nodes share a database
(:meth:`MemoryStore.another`). :meth:`MemoryStore.crash` returns a store with the data that survives the death of the
process or of the machine; :meth:`MemoryStore.restart` is a restart of the store's machine while its nodes live;
:meth:`MemoryStore.fail` makes an operation fail, as a full disk would::

    store = MemoryStore()
    await store.submit([message])
    store.fail("settle", QueueUnavailable("the disk is full"))
    after = store.crash(machine=True)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from zsmtp.queue import quotas
from zsmtp.queue.filter import age as age_of
from zsmtp.queue.limits import (
    KEYS_KEPT,
    MOVES_KEPT,
    NOTICE_RECIPIENTS,
    NOTICE_WAIT,
    UPLOAD_WAIT,
)
from zsmtp.queue.memory.base import Shared
from zsmtp.queue.memory.delivery import MemoryDelivery
from zsmtp.queue.memory.intake import MemoryStoreIntake
from zsmtp.queue.memory.moving import MemoryMoving
from zsmtp.queue.memory.operating import MemoryOperating
from zsmtp.queue.moves import is_apart, move_of
from zsmtp.queue.operators import (
    Health,
)
from zsmtp.queue.states import (
    OwedNotice,
    QueuedMessage,
    milliseconds,
)
from zsmtp.queue.store import (
    Accepted,
    NewMessage,
)
from zsmtp.queue.suppression import holds


class MemoryStore(MemoryStoreIntake, MemoryDelivery, MemoryOperating, MemoryMoving):
    """A ``QueueStore`` in memory. ``clock`` gives seconds since 1970, ``monotonic`` the seconds for leases."""

    # ------------------------------------------------------------- for tests

    def another(self) -> MemoryStore:
        """A store on the same queue for another process."""
        twin = MemoryStore(
            clock=self._clock,
            monotonic=self._monotonic,
            free_space=self._free_space,
            notice_rule=self._notice_rule,
            history_kept=self._history_kept,
        )
        twin._shared = self._shared
        return twin

    def crash(self, *, machine: bool = False) -> MemoryStore:
        """A store with the data that survives if all processes that use the queue die now, or the machine does."""
        twin = self.another()
        twin._shared = Shared(self._data.after_death(machine=machine))
        return twin

    def restart(self) -> None:
        """Simulate a restart of the store's machine, as of a database whose nodes keep running.

        Leases and durable data remain. Other marks are lost until their node writes them again, with its next
        :meth:`beat` or :meth:`mark`; if it dies before, all that it had in hand is in doubt.
        """
        self._shared.restart()

    def fail(self, operation: str, error: Exception, *, times: int = 1) -> None:
        """Make the next calls of a method raise ``error``, without effect."""
        self._faults[operation].extend([error] * times)

    async def close(self) -> None:
        """Give the leases back; marks stay."""
        for holding in self._shared.leases.leave(self._node):
            self._shared.drop(holding)
        self._shared.news.pop(self._node, None)

    # ----------------------------------------------------------------- notices

    async def owed(self, now: float, *, limit: int) -> list[tuple[QueuedMessage, list[OwedNotice]]]:
        """Messages with owed notices."""
        self._begin("owed")
        busy = {attempt.message for hands in self._data.in_hand.values() for attempt in hands}
        by_message: dict[int, list[OwedNotice]] = {}
        for key in sorted(self._data.owed, key=lambda key: (key[0], key[1], key[2].value)):
            by_message.setdefault(key[0], []).append(self._data.owed[key])
        found = []
        for message, notices in by_message.items():
            if message not in busy or min(one.at for one in notices) <= now - NOTICE_WAIT:
                found.append((self._data.messages[message], notices[:NOTICE_RECIPIENTS]))
        return found[:limit]

    async def notify(self, owed: Sequence[OwedNotice], notice: NewMessage | None) -> Accepted | None:
        """Replace owed notices by a message."""
        self._begin("notify")
        keys = [(one.message, one.number, one.kind) for one in owed]
        if any(key not in self._data.owed for key in keys):
            return None
        accepted = None
        if notice is not None:
            (accepted,) = await self.submit([notice])
            self._data.counters["notices"] += 1
        for key in keys:
            del self._data.owed[key]
        for message in {key[0] for key in keys}:
            self._data.forget(message)
        return accepted

    # ------------------------------------------------------------------- sweep

    async def sweep(self, now: float) -> int:
        """Do the housekeeping."""
        self._begin("sweep")
        data = self._data
        done = 0
        for number, pending in list(data.uploads.items()):
            if pending.touched <= now - UPLOAD_WAIT:
                del data.uploads[number]
                done += 1
        for number, entry in list(data.history.items()):
            if entry.at <= now - self._history_kept and number != data.last_entry:
                del data.history[number]
                done += 1
        done += self._sweep_idempotency(now)
        for key in [key for key, one in data.suppressions.items() if not holds(one, now)]:
            del data.suppressions[key]
            done += 1
        for name in [name for name in data.counters if quotas.is_over(name, now)]:
            del data.counters[name]
            done += 1
        done += self._sweep_moves(now)
        for rule in list(data.rules.values()):
            if rule.until is not None and rule.until <= now:
                done += 1
                await self.delete_rule(rule.number)
        return done

    def _sweep_moves(self, now: float) -> int:
        data, before = self._data, now - MOVES_KEPT
        old = [key for key, departed in data.taken_in.items() if departed is not None and departed <= before]
        for key in old:
            del data.taken_in[key]
        busy = {move_of(one.hold) for one in data.recipients.values() if is_apart(one.hold)}
        over = [move.number for move in data.moves.values() if move.begun <= before and move.number not in busy]
        for number in over:
            del data.moves[number]
        return len(old) + len(over)

    def _sweep_idempotency(self, now: float) -> int:
        data = self._data
        done = 0
        for key, (_, message) in list(data.idempotency.items()):
            if message in data.of_message:
                continue
            ends = [entry.at for entry in data.history.values() if entry.message == message]
            if all(at <= now - KEYS_KEPT for at in ends) and age_of(message, now) >= milliseconds(KEYS_KEPT):
                del data.idempotency[key]
                done += 1
        return done

    # ------------------------------------------------------------------- state

    async def health(self) -> Health:
        """Always healthy."""
        return Health("", self._free_space())

    async def check(self) -> AsyncIterator[str]:
        """Look for inconsistencies; yields one sentence for each."""
        self._begin("check")
        for finding in self._data.findings():
            yield finding
        for lease in self._data.in_hand:
            if self._shared.leases.get(lease) is None:
                yield f"recipients are in hand under lease {lease}, which does not exist"
