"""Good replies told together: the same as each of them told by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.network import content_form
from tests.support.talk import CHUNKING, ONE_BY_ONE, PIPELINING, Talk

from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Peer, Verdict
from zsmtp.delivery.transaction import TransactionBook
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import CONTENT, DATA, RSET, SUCCESS
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, Flow, Transaction, plan_transaction
from zsmtp.proto.reply import Reply
from zsmtp.proto.session import Finished, SessionEvent, StepAnswered

COURSES = [
    (ONE_BY_ONE, Flow.STEPWISE),
    (PIPELINING, Flow.STEPWISE),
    (PIPELINING, Flow.RIDING),
    (CHUNKING, Flow.STEPWISE),
    (CHUNKING, Flow.RIDING),
    (CHUNKING, Flow.BLIND),
]
BAD = [b"450 later", b"550 no", b"503 order", b"421 bye", b"250 surplus\r\n250 ok", b"nonsense", b"354 go", b""]


def planned(capabilities: Capabilities, flow: Flow, recipients: int) -> Transaction:
    names = tuple(EnvelopeRecipient(b"r%d@example.org" % number) for number in range(recipients))
    return plan_transaction(Envelope(b"a@example.net", names), content_form(), capabilities, flow)


def good_replies(transaction: Transaction) -> list[bytes]:
    return [
        b"354 go" if step.phase is DATA else b"250 2.0.0 %b" % step.phase.value.encode() for step in transaction.steps
    ]


def told(
    transactions: list[Transaction], segments: list[bytes], *, together: bool, lmtp: bool, eof: bool
) -> list[SessionEvent]:
    """The events of a session that hears these segments, each after the client has said what it may."""
    talk = Talk(lmtp=lmtp)
    for transaction in transactions:
        talk.session.transact(transaction, together=together)
    events: list[SessionEvent] = []
    for segment in segments:
        talk.client()
        events += talk.server(segment)
    if eof:
        talk.session.receive_eof(talk.now)
    return events + talk.events()


def apart(events: list[SessionEvent]) -> list[SessionEvent]:
    """The same with each reply as an event."""
    found: list[SessionEvent] = []
    for event in events:
        if isinstance(event, Finished):
            transaction = event.transaction
            for step, reply in zip(transaction.steps, event.replies, strict=False):
                found.append(StepAnswered(step, reply, SUCCESS, transaction, step.recipient))
            event = event._replace(replies=())
        found.append(event)
    return found


def without_good_rset(events: list[SessionEvent]) -> list[SessionEvent]:
    return [e for e in events if not (isinstance(e, StepAnswered) and e.step.phase is RSET and e.result is SUCCESS)]


@settings(deadline=None, max_examples=examples(200))
@given(st.data())
def test_the_events_are_those_of_each_reply_by_itself(data: st.DataObject) -> None:
    capabilities, flow = data.draw(st.sampled_from(COURSES))
    transactions = [
        planned(capabilities, flow, data.draw(st.integers(1, 3))) for _ in range(data.draw(st.integers(1, 2)))
    ]
    replies = [reply for transaction in transactions for reply in good_replies(transaction)]
    for _ in range(data.draw(st.integers(0, 2))):
        replies[data.draw(st.integers(0, len(replies) - 1))] = data.draw(st.sampled_from(BAD))
    segments = [b""]
    for reply in replies:
        if data.draw(st.booleans()):
            segments.append(b"")
        segments[-1] += reply + b"\r\n" if reply else b""
    lmtp = data.draw(st.sampled_from([False, False, True]))
    single = told(transactions, segments, together=False, lmtp=lmtp, eof=True)
    joint = told(transactions, segments, together=True, lmtp=lmtp, eof=True)
    assert [str(e) for e in without_good_rset(apart(joint))] == [str(e) for e in without_good_rset(single)]


@pytest.mark.parametrize(("capabilities", "flow"), COURSES)
def test_a_transaction_that_goes_well_is_one_event(capabilities: Capabilities, flow: Flow) -> None:
    transaction = planned(capabilities, flow, 2)
    replies = good_replies(transaction)
    (event,) = told([transaction], [reply + b"\r\n" for reply in replies], together=True, lmtp=False, eof=False)
    assert isinstance(event, Finished)
    assert event.completed
    count = sum(step.phase is not RSET for step in transaction.steps)
    assert [reply.code for reply in event.replies] == [int(reply[:3]) for reply in replies[:count]]


def test_over_lmtp_each_reply_is_told_by_itself() -> None:
    transaction = planned(PIPELINING, Flow.STEPWISE, 2)
    segments = [b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", b"250 ok\r\n250 ok\r\n"]
    events = told([transaction], segments, together=True, lmtp=True, eof=False)
    assert [e.recipient for e in events if isinstance(e, StepAnswered) and e.step.phase is CONTENT] == [0, 1]
    assert events[-1] == Finished(transaction, completed=True)


@pytest.mark.parametrize("recipients", [1, 3])
@pytest.mark.parametrize(("capabilities", "flow"), COURSES)
def test_the_verdicts_are_those_of_each_reply_by_itself(
    capabilities: Capabilities, flow: Flow, recipients: int
) -> None:
    transaction = planned(capabilities, flow, recipients)
    replies = [
        Reply(354 if step.phase is DATA else 250, (b"2.1.%d ok" % number,))
        for number, step in enumerate(transaction.steps)
        if step.phase is not RSET
    ]
    peer = Peer(Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET))
    verdicts: list[list[tuple[int, Verdict]]] = [[], []]
    books = [
        TransactionBook(
            transaction,
            list(range(10, 10 + recipients)),
            Ledger(20, lambda number, verdict, found=found: found.append((number, verdict))),  # type: ignore[misc]
            peer,
            capabilities,
        )
        for found in verdicts
    ]
    for step, reply in zip(transaction.steps, replies, strict=False):
        books[0].answered(StepAnswered(step, reply, SUCCESS, transaction, step.recipient))
    books[1].all_good(replies)
    assert verdicts[0] == verdicts[1]
    assert len(verdicts[0]) == recipients
    for name in ("replies", "taken", "put_off", "content_answered", "cut_short", "out_of_step"):
        assert getattr(books[0], name) == getattr(books[1], name), name
