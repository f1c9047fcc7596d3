"""What it means for a recipient that nothing was tried for it."""

from __future__ import annotations

from tests.queue.harness import NOON, MemoryHarness, attempts, claim, ended, in_doubt, lease_of, new, play, rows

from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.proto.reply import Reply
from zsmtp.proto.status import EnhancedStatus
from zsmtp.queue import settlement
from zsmtp.queue.schedule import RetryPolicy
from zsmtp.queue.settlement import RecipientWork
from zsmtp.queue.states import MAX_REASON


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


def test_a_reason_that_is_too_long_is_marked_where_it_ends() -> None:
    """Whichever way it comes: a server's words, this side's, what was said before an expiry."""

    async def scenario(queue: MemoryHarness) -> None:
        store = queue.store
        await store.submit([new()])
        ((recipient, message, _),) = await rows(store)
        expired = settlement.expiry(RecipientWork.of(recipient, message), recipient.expires, held_back="x" * 600)
        assert expired is not None
        deferred = EnhancedStatus(4, 4, 1)
        reply = Reply(451, (b"y" * 600,))
        said = Verdict(Disposition.DEFERRED, deferred, "smtp; 451", "y" * 600, reply=reply)
        lost = Verdict(Disposition.DEFERRED, deferred, "local; 450", "z" * 600)
        for words in (expired.entry.reason, settlement.words_of(said)[0], settlement.words_of(lost)[0]):
            assert (len(words), words[-4:-3], words[-3:]) == (MAX_REASON, words[-5], "...")

    play(MemoryHarness(), scenario)
