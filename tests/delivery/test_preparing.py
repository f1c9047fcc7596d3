"""Content that takes long to be made: its message waits for it, in its place, and a failure is that message's alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.network import World, content_form, message, world

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.effects import Connect, Effect, Exchange, GiveWay, Operation, observed
from zsmtp.errors import ContentError
from zsmtp.net.script import Script
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, LocalRefusal
from zsmtp.proto.status import EnhancedStatus

D, F, L = Disposition.DELIVERED, Disposition.FAILED, Disposition.DEFERRED
PIPELINING = ("PIPELINING",)

Content = ContentForm | LocalRefusal
ContentFor = Callable[[Capabilities], Content | Operation[Content]]


def long_work(end: Content | Exception, pieces: int = 3) -> ContentFor:
    """Content that is made in so many pieces, or cannot be."""

    async def make() -> Content:
        for _ in range(pieces):
            await GiveWay()
        if isinstance(end, Exception):
            raise end
        return end

    return lambda capabilities: make()


def at_hand(capabilities: Capabilities) -> Content:
    return content_form()


def deliver(there: World, *contents: ContentFor) -> tuple[list[list[Verdict]], list[type[Effect[object]]]]:
    """Deliver a message for each content, all at hand from the start; the verdicts, and the effects by their types."""
    found: list[list[Verdict]] = [[] for _ in contents]
    waiting = []
    for number, content_for in enumerate(contents):
        one = message(b"r%d@example.org" % number, sender=b"s%d@example.net" % number)
        own = found[number]
        ledger = Ledger(1, lambda _, verdict, own=own: own.append(verdict))  # type: ignore[misc]
        waiting.append(Delivery(one._replace(content_for=content_for), ledger))
    asked: list[type[Effect[object]]] = []
    while waiting:
        work = there.courier.deliver(there.route, waiting.pop(0), lambda: waiting.pop(0) if waiting else None)
        there.network.run(observed(work, lambda *_: None, lambda effect: asked.append(type(effect))))
    assert all(len(own) == 1 for own in found)
    return found, asked


def senders(there: World, connection: int = 0) -> list[str]:
    return [line.split(":")[1] for line in there.lines(connection) if line.startswith("MAIL")]


@pytest.mark.parametrize("keywords", [(), PIPELINING, ("PIPELINING", "CHUNKING")], ids=["plain", "groups", "chunks"])
def test_messages_keep_their_place_behind_one_that_is_made(keywords: tuple[str, ...]) -> None:
    there = world(Script(keywords=keywords))
    verdicts, asked = deliver(there, at_hand, long_work(content_form()), at_hand, long_work(content_form()), at_hand)
    assert [own[0].fate for own in verdicts] == [D] * 5
    assert [line.split()[0] for line in senders(there)] == [f"<s{number}@example.net>" for number in range(5)]
    assert asked.count(GiveWay) == 6
    assert asked.count(Connect) == 1


def test_the_first_of_a_session_may_be_made_too() -> None:
    there = world(Script())
    verdicts, asked = deliver(there, long_work(content_form(), pieces=50))
    assert verdicts[0][0].fate is D
    assert asked.count(GiveWay) == 50


def test_what_is_at_hand_gives_way_to_nobody() -> None:
    _, asked = deliver(world(Script(keywords=PIPELINING)), *[at_hand] * 10)
    assert GiveWay not in asked
    assert Exchange in asked


def test_content_that_cannot_be_read_defers_its_message_only() -> None:
    there = world(Script(keywords=PIPELINING))
    verdicts, _ = deliver(there, at_hand, long_work(ContentError("the disk is gone")), at_hand)
    assert [own[0].fate for own in verdicts] == [D, L, D]
    assert "the disk is gone" in verdicts[1][0].text
    assert [line.split()[0] for line in senders(there)] == ["<s0@example.net>", "<s2@example.net>"]


def test_a_refusal_found_on_this_side_is_its_messages_only() -> None:
    there = world(Script(keywords=PIPELINING))
    refusal = LocalRefusal(EnhancedStatus(5, 6, 3), "it cannot be converted")
    verdicts, _ = deliver(there, long_work(refusal), long_work(content_form()))
    assert [own[0].fate for own in verdicts] == [F, D]
    assert "it cannot be converted" in verdicts[0][0].text


def test_work_that_is_broken_off_is_closed() -> None:
    closed = []

    async def make() -> Content:
        try:
            await GiveWay()
        finally:
            closed.append(True)
        return content_form()

    there = world(Script())
    one = message()._replace(content_for=lambda capabilities: make())
    verdicts: list[Verdict] = []
    work = there.courier.deliver(there.route, Delivery(one, Ledger(1, lambda _, verdict: verdicts.append(verdict))))
    answer: object = None
    while not isinstance(effect := work.send(answer), GiveWay):
        answer = there.network._perform(effect)
    work.close()
    assert closed == [True]
    assert verdicts == []
