"""The work of one queue key in memory: nothing that is learned of is forgotten, whatever is being read meanwhile."""

from __future__ import annotations

from zsmtp.queue.site import KeyQueue
from zsmtp.queue.states import START, Position, QueuedMessage, QueuedRecipient, SubQueue
from zsmtp.queue.store import Claimed
from zsmtp.records import replace

SUB = SubQueue("example.org", "", 0)


def claimed(number: int, due: float) -> Claimed:
    """A message with one recipient, read from the store."""
    message = QueuedMessage(id=number, sender=b"a@example.net", submitted=due, size=1, recipients=1)
    recipient = QueuedRecipient(
        message=number, number=0, address=b"b@example.org", key="example.org", due=due, expires=due + 100
    )
    return Claimed(recipient, message, b"x")


def test_work_that_comes_while_the_store_is_read_is_read_next() -> None:
    """The read began before the second message was there, and says that nothing is left."""
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    assert queue.to_read(11.0) == [(SUB, START)]
    queue.learn(SUB, 10.5)
    queue.add(SUB, [claimed(1, 10.0)], None, queue.generation)
    assert queue.next_due == 10.5
    assert queue.to_read(11.0) == [(SUB, Position(10.0, 1, 0))]
    queue.add(SUB, [claimed(2, 10.5)], None, queue.generation)
    assert queue.next_due is None
    assert queue.to_read(11.0) == []
    assert queue.ready == 2


def test_earlier_work_that_comes_while_the_store_is_read_rewinds() -> None:
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    queue.to_read(11.0)
    queue.learn(SUB, 9.0)
    queue.add(SUB, [claimed(2, 10.0)], None, queue.generation)
    assert queue.to_read(11.0) == [(SUB, START)]
    queue.add(SUB, [claimed(1, 9.0), claimed(2, 10.0)], None, queue.generation)
    assert queue.ready == 2  # what is in hand is not taken twice


def test_a_read_from_before_says_nothing_of_the_one_that_counts() -> None:
    """It began before all was forgotten. A second read beside the current one could return what ends meanwhile."""
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    queue.to_read(11.0)
    before = queue.generation
    queue.forget()
    assert queue.to_read(11.0) == [(SUB, START)]
    assert not queue.add(SUB, [claimed(1, 10.0)], None, before)
    assert queue.reading
    assert queue.to_read(11.0) == []
    queue.failed_to_read(SUB, before)
    assert queue.to_read(11.0) == []
    queue.failed_to_read(SUB, queue.generation)
    assert queue.to_read(11.0) == [(SUB, START)]


def test_what_was_read_and_not_begun_can_be_taken_out_again() -> None:
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    queue.to_read(11.0)
    two = claimed(2, 10.0)
    pair = [two, two._replace(recipient=replace(two.recipient, number=1))]
    queue.add(SUB, [claimed(1, 10.0), *pair, claimed(3, 10.0)], None, queue.generation)
    begun = queue.next()
    assert begun is not None
    assert not queue.withdraw(1, 0), "it is under way"
    assert not queue.withdraw(9, 0)
    assert queue.withdraw(2, 0)
    assert not queue.holds(2, 0)
    assert (queue.ready, [len(group.recipients) for group in queue.buffered()]) == (2, [1, 1])
    assert queue.withdraw(2, 1)
    assert queue.withdraw(3, 0)
    assert (queue.ready, queue.next()) == (0, None)
    queue.add(SUB, [claimed(4, 12.0)], None, queue.generation)
    left = queue.next()
    assert left is not None
    assert left.message.id == 4


def test_a_key_of_which_nothing_is_left_waits_for_news() -> None:
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    queue.forget()
    queue.nothing_left()
    assert queue.next_due is None
    queue.learn(SUB, 20.0)
    assert queue.next_due == 20.0


def test_an_empty_read_forgets_nothing_either() -> None:
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    queue.to_read(11.0)
    queue.learn(SUB, 10.0)
    queue.add(SUB, [], 50.0, queue.generation)
    assert queue.next_due == 10.0


def test_what_is_done_with_while_the_store_is_read_is_not_taken_again() -> None:
    """The read began before the result was written, and shows the recipient as it was."""
    queue = KeyQueue("example.org")
    queue.learn(SUB, 10.0)
    queue.to_read(11.0)
    queue.add(SUB, [claimed(1, 10.0)], None, queue.generation)
    assert queue.next() is not None
    queue.learn(SUB, 9.0)
    assert queue.to_read(11.0) == [(SUB, START)]
    queue.done(1, 0)
    queue.add(SUB, [claimed(1, 10.0), claimed(2, 10.0)], None, queue.generation)
    taken = queue.next()
    assert taken is not None
    assert taken.message.id == 2
    assert queue.next() is None
    queue.learn(SUB, 9.0)
    queue.to_read(11.0)
    queue.add(SUB, [claimed(1, 10.0)], None, queue.generation)  # a read that began later shows what is there
    assert queue.ready == 1
