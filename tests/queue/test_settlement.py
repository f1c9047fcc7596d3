"""What it means for a recipient that nothing was tried for it."""

from __future__ import annotations

from tests.queue.harness import NOON, MemoryHarness, attempts, claim, ended, in_doubt, lease_of, new, play, rows

from zsmtp.queue import settlement
from zsmtp.queue.schedule import RetryPolicy
from zsmtp.queue.settlement import RecipientWork


def test_what_was_not_tried_stays_as_it_was_with_its_doubt() -> None:
    """The attempt before it is in doubt, and its result still counts when it comes."""

    async def scenario(queue: MemoryHarness) -> None:
        store = queue.store
        await store.submit([new()])
        await store.join("node")
        lease = await lease_of(store)
        (claimed,) = await claim(store, lease, NOON)
        assert await store.mark(lease, attempts([claimed]))
        assert await store.settle(lease, [in_doubt(claimed.recipient, NOON, NOON + 300)], []) == []
        ((before, message, _),) = await rows(store)
        assert before.doubtful
        assert await store.settle(lease, [settlement.unchanged(before)], []) == []
        ((after, _, _),) = await rows(store)
        assert after == before
        warning = settlement.warning(RecipientWork.of(before, message), RetryPolicy(warn_after=1.0), NOON + 60)
        assert warning is not None
        assert await store.settle(lease, [warning], []) == []
        ((after, _, _),) = await rows(store)
        assert after.warned
        assert await store.settle(lease, [ended(claimed.recipient, NOON + 70)], []) == []
        assert await rows(store) == []

    play(MemoryHarness(), scenario)
