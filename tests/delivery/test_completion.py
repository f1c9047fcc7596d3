"""Leave is asked for before a message may be complete at the peer: never afterwards, and once for each transaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import address, content_form, table

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.effects import AllowCompletion
from zsmtp.net.script import Reaction, Script
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.plan import Envelope, EnvelopeRecipient

SMALL = b"Subject: x\r\n\r\nhello\r\n"
KEYWORDS = [(), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING")]


class Scene:
    """Messages for one server, and what was asked before they were completed."""

    def __init__(self, script: Script, *, deny_from: int = 1 << 30) -> None:
        self.network = ScriptedNetwork({address(0): [script] * 20}, dns=table(1))
        self.network.allow_completion = self._asked
        self.asked: list[tuple[str, int]] = []
        self.returned: list[str] = []
        self.verdicts: dict[tuple[str, int], Verdict] = {}
        self._deny_from = deny_from

    def _asked(self, effect: AllowCompletion) -> bool:
        complete = {path for c in self.network.connections for path in (one.path for one in c.acceptances)}
        for delivery, recipients in effect.transactions:
            paths = [delivery.message.envelope.recipients[index].address for index in recipients]
            assert not complete.intersection(paths), "asked too late"
            self.asked += [(delivery.name, index) for index in recipients]
        return len(self.asked) < self._deny_from

    def deliver(self, count: int, *, recipients: int = 1, content: bytes = SMALL, lmtp: bool = False) -> None:
        def delivery(number: int) -> Delivery:
            paths = tuple(EnvelopeRecipient(b"m%dr%d@example.org" % (number, i)) for i in range(recipients))
            one = Message(Envelope(b"s@example.net", paths), lambda _: content_form(content, block=10))
            name = f"m{number}"
            ledger = Ledger(recipients, lambda i, verdict: self.verdicts.update({(name, i): verdict}))
            return Delivery(one, ledger, name)

        rest = iter([delivery(number) for number in range(count)])
        settings = SessionSettings(helo_name="c.example", greeting=Greeting.LHLO if lmtp else Greeting.EHLO)
        courier = Courier(settings)
        route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))

        def returns(delivery: Delivery, verdict: Verdict) -> bool:
            self.returned.append(delivery.name)
            return True

        while (first := next(rest, None)) is not None:
            work = courier.deliver(route, first, lambda: next(rest, None), returns=returns, asks=True)
            self.network.run(work)

    @property
    def complete(self) -> set[bytes]:
        return {one.path for c in self.network.connections for one in c.acceptances}


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("keywords", KEYWORDS)
def test_each_recipient_is_asked_for_once_and_before(keywords: tuple[str, ...], lmtp: bool) -> None:
    scene = Scene(Script(keywords=keywords, lmtp=lmtp))
    scene.deliver(12, recipients=3, lmtp=lmtp)
    everybody = [(f"m{number}", index) for number in range(12) for index in range(3)]
    assert sorted(scene.asked) == sorted(everybody)
    assert len(scene.complete) == 36
    assert all(verdict.fate.value == "delivered" for verdict in scene.verdicts.values())


@pytest.mark.parametrize("keywords", KEYWORDS)
def test_messages_that_ride_are_asked_for_together_only_if_they_wait_for_no_answer(keywords: tuple[str, ...]) -> None:
    scene = Scene(Script(keywords=keywords))
    scene.deliver(30)
    sizes = {len(effect.transactions) for effect in scene.network.completions}
    assert (max(sizes) > 1) == ("CHUNKING" in keywords and "PIPELINING" in keywords)


@pytest.mark.parametrize("keywords", KEYWORDS)
@pytest.mark.parametrize("deny_from", [1, 2, 5, 9])
def test_without_leave_nothing_is_completed_and_everybody_else_is_given_back(
    keywords: tuple[str, ...], deny_from: int
) -> None:
    scene = Scene(Script(keywords=keywords), deny_from=deny_from)
    scene.deliver(12)
    allowed = {path.split(b"r")[0].decode() for path in scene.complete}
    assert len(allowed) < deny_from
    decided = {name for name, _ in scene.verdicts}
    assert decided >= allowed
    assert decided.isdisjoint(scene.returned)
    assert not any(verdict.in_doubt for verdict in scene.verdicts.values())
    assert decided | set(scene.returned) == {f"m{number}" for number in range(12)}


def test_whoever_is_refused_before_is_not_asked_for() -> None:
    replies = {"RCPT": [Reaction("250 ok"), Reaction("550 5.1.1 no"), Reaction("250 ok")]}
    scene = Scene(Script(keywords=("PIPELINING",), replies=replies))
    scene.deliver(1, recipients=3)
    assert scene.asked == [("m0", 0), ("m0", 2)]


def test_a_message_that_everybody_is_refused_of_is_not_asked_for() -> None:
    scene = Scene(Script(keywords=("PIPELINING",), replies={"RCPT": [Reaction("550 5.1.1 no")] * 2}))
    scene.deliver(1, recipients=2)
    assert scene.asked == []


@given(st.integers(1, 200), st.sampled_from(KEYWORDS), st.integers(1, 4))
def test_contents_of_any_size(size: int, keywords: tuple[str, ...], messages: int) -> None:
    scene = Scene(Script(keywords=keywords))
    scene.deliver(messages, content=SMALL + b"x" * size + b"\r\n")
    assert len(scene.asked) == messages == len(scene.complete)
