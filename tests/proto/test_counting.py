"""Replies and commands that do not belong together any more: what is seen of that, and what counts then.

A dialogue ``[...]`` is what is read in one piece, behind everything that the client has to say by then.
"""

from __future__ import annotations

import pytest
from tests.support.network import content_form
from tests.support.talk import CHUNKING, ONE_BY_ONE, PIPELINING, Talk, answers, lost

from zsmtp.errors import ConnectionLost, ContentError, Interrupted, ReplyError, ServiceClosing, WaitTimeout
from zsmtp.events import LineReceived
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import Flow
from zsmtp.proto.session import Finished, SessionEvent, StepAnswered

STEPWISE, RIDING, BLIND = Flow.STEPWISE, Flow.RIDING, Flow.BLIND
ONLY_CHUNKING = Capabilities(chunking=True)
OK = b"250 ok\r\n"
CHUNK = b"BDAT 21 LAST\r\nSubject: x\r\n\r\nhello\r\nRSET\r\n"


def say(talk: Talk, *pieces: bytes) -> list[SessionEvent]:
    """What happens as the server says one piece after the other, and the client whatever it may between them."""
    events: list[SessionEvent] = []
    for piece in pieces:
        talk.client()
        events += talk.server(piece)
    return events


# --------------------------------------------------------------- one reply more than was due


@pytest.mark.parametrize("recipients", [1, 3])
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("end", [b"450 later\r\n", b"550 no\r\n", OK])
@pytest.mark.parametrize("position", range(3))
def test_none_of_the_replies_to_a_flight_counts_if_there_is_one_too_many(
    position: int, end: bytes, lmtp: bool, recipients: int
) -> None:
    """Content that went blind: whichever command had two replies, nobody can tell which one is which."""
    talk = Talk(lmtp=lmtp)
    transaction = talk.transact(CHUNKING, recipients, flow=BLIND)
    replies = [OK] * (1 + recipients) + [end] * (recipients if lmtp else 1) + [OK]
    replies.insert(position, OK)
    (loss,) = say(talk, b"".join(replies))
    assert lost([loss]) is loss
    assert isinstance(loss.error, ReplyError)
    assert not loss.in_step
    assert loss.in_doubt == (transaction,)
    assert [event.line for event in talk.heard if isinstance(event, LineReceived)][-1] == b"250 ok", "it is in the log"


@pytest.mark.parametrize("capabilities", [ONE_BY_ONE, ONLY_CHUNKING, PIPELINING, CHUNKING])
@pytest.mark.parametrize("lmtp", [False, True])
def test_before_the_content_nothing_is_in_doubt(lmtp: bool, capabilities: Capabilities) -> None:
    talk = Talk(lmtp=lmtp)
    talk.transact(capabilities, 1, flow=RIDING)
    due = 3 if capabilities is PIPELINING else 2 if capabilities.pipelining else 1
    (loss,) = say(talk, OK * (due + 1))
    assert lost([loss]) is loss
    assert (loss.in_doubt, loss.in_step) == ((), False)
    assert talk.client() == b"", "nothing of the message goes to such a peer"


@pytest.mark.parametrize("surplus", [OK, b"450 later\r\n", b"550 no\r\n", b"354 what\r\n"])
def test_behind_a_354_the_first_reply_is_the_one_to_the_content(surplus: bytes) -> None:
    talk = Talk()
    transaction = talk.to_the_dot()
    events = talk.server(OK + surplus)
    assert answers(events) == [("end of data", 250)]
    assert events[1] == Finished(transaction, completed=True)
    assert lost(events).in_doubt == ()


def test_the_replies_to_what_rode_behind_the_content_do_not_count_then() -> None:
    """The server refused the second MAIL, and one of the three replies behind the first content is from nowhere."""
    talk = Talk()
    first = talk.transact(recipients=1, flow=RIDING)
    say(talk, OK + OK + b"354 go\r\n")
    talk.transact(recipients=1, flow=RIDING)
    events = say(talk, OK + OK + b"550 no\r\n" + b"503 no\r\n" + b"503 no\r\n")
    assert answers(events) == [("end of data", 250)]
    assert events[1] == Finished(first, completed=True)
    assert lost(events).in_doubt == ()


def test_without_a_354_not_even_the_first_reply_counts() -> None:
    """Chunks without PIPELINING: a reply to RCPT that comes too late passes for the one to the chunk."""
    talk = Talk()
    transaction = talk.transact(ONLY_CHUNKING, 1)
    say(talk, OK, OK)
    (loss,) = say(talk, OK + b"450 later\r\n")
    assert lost([loss]) is loss
    assert loss.in_doubt == (transaction,)


@pytest.mark.parametrize("ends", [(OK, OK, OK), (OK, b"450 later\r\n", b"550 no\r\n")])
def test_of_several_final_replies_only_the_first_is_sure(ends: tuple[bytes, ...]) -> None:
    """LMTP with two recipients, one of whom is answered twice."""
    talk = Talk(lmtp=True)
    transaction = talk.to_the_dot()
    events = talk.server(b"".join(ends))
    assert [event.recipient for event in events if isinstance(event, StepAnswered)] == [0]
    assert lost(events).in_doubt == (transaction,)


@pytest.mark.parametrize("accepted", range(4))
def test_lmtp_has_as_many_final_replies_as_recipients_were_accepted(accepted: int) -> None:
    """Also if they come with the answers that accept them: that is no surplus."""
    talk = Talk(lmtp=True)
    transaction = talk.transact(CHUNKING, 3, flow=BLIND)
    replies = [OK, *[OK] * accepted, *[b"550 no\r\n"] * (3 - accepted), *[OK] * accepted]
    replies += [OK] if accepted else [b"503 nobody\r\n", OK]  # RSET
    events = say(talk, b"".join(replies))
    assert events[-1] == Finished(transaction, completed=True)
    finals = [
        event.recipient for event in events if isinstance(event, StepAnswered) and event.step.phase.value == "BDAT LAST"
    ]
    assert finals == list(range(accepted)) or (not accepted and finals == [-1])


def test_a_421_may_come_unasked_behind_the_last_reply() -> None:
    talk = Talk()
    transaction = talk.transact(CHUNKING, 1, flow=BLIND)
    events = say(talk, OK * 4 + b"421 idle for too long\r\n")
    assert answers(events) == [("MAIL", 250), ("RCPT", 250), ("BDAT LAST", 250), ("RSET", 250)]
    assert events[-2] == Finished(transaction, completed=True)
    assert isinstance(lost(events).error, ServiceClosing)
    assert lost(events).in_doubt == ()


# ------------------------------------------------------------------------ confirmed by RSET


@pytest.mark.parametrize("flow", [RIDING, BLIND])
def test_chunks_are_followed_by_rset(flow: Flow) -> None:
    talk = Talk()
    talk.transact(CHUNKING, 1, flow=flow)
    envelope = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<r0@example.org>\r\n"
    if flow is BLIND:
        assert talk.client() == envelope + CHUNK
        return
    assert talk.client() == envelope
    talk.server(OK * 2)
    assert talk.client() == CHUNK


@pytest.mark.parametrize("flow", [RIDING, BLIND])
@pytest.mark.parametrize("lmtp", [False, True])
def test_nothing_counts_before_rset_is_answered(lmtp: bool, flow: Flow) -> None:
    talk = Talk(lmtp=lmtp)
    transaction = talk.transact(CHUNKING, 2, flow=flow)
    assert say(talk, OK, OK, b"550 no\r\n", OK) == []
    events = say(talk, OK)
    assert answers(events) == [("MAIL", 250), ("RCPT", 250), ("RCPT", 550), ("BDAT LAST", 250), ("RSET", 250)]
    assert events[-1] == Finished(transaction, completed=True)
    assert talk.session.idle


@pytest.mark.parametrize("refusal", [b"450 later\r\n", b"550 no\r\n", b"503 what\r\n", b"354 go\r\n", b"nonsense\r\n"])
@pytest.mark.parametrize("flow", [RIDING, BLIND])
@pytest.mark.parametrize("lmtp", [False, True])
def test_nothing_counts_if_rset_is_refused(lmtp: bool, flow: Flow, refusal: bytes) -> None:
    """MAIL has two replies, which come apart: the reply to RCPT passes for that to the content, and RSET gets that."""
    talk = Talk(lmtp=lmtp)
    transaction = talk.transact(CHUNKING, 1, flow=flow)
    (loss,) = say(talk, OK, OK, OK, refusal)
    assert lost([loss]) is loss
    assert loss.in_doubt == (transaction,)
    assert not loss.in_step


def test_nothing_counts_if_rset_is_not_answered() -> None:
    talk = Talk()
    transaction = talk.transact(CHUNKING, 1, flow=BLIND)
    assert say(talk, OK * 3) == []
    talk.now += 50
    talk.session.handle_timer(talk.now)
    (loss,) = talk.events()
    assert lost([loss]) is loss
    assert isinstance(loss.error, WaitTimeout)
    assert loss.in_doubt == (transaction,)


@pytest.mark.parametrize("error", [ConnectionLost("gone"), Interrupted("stop"), ContentError("another message's")])
@pytest.mark.parametrize(("end", "code"), [(OK, 250), (b"450 later\r\n", 450), (b"550 no\r\n", 550)])
def test_a_peer_that_goes_instead_of_answering_rset_has_answered_the_content(
    end: bytes, code: int, error: ConnectionLost | Interrupted | ContentError
) -> None:
    """Many servers close after so many messages: what they took is not in doubt for that."""
    talk = Talk()
    talk.transact(CHUNKING, 1, flow=BLIND)
    assert say(talk, OK * 2 + end) == []
    talk.session.fail(error)
    events = talk.events()
    assert answers(events) == [("MAIL", 250), ("RCPT", 250), ("BDAT LAST", code)]
    assert lost(events).in_doubt == ()


def test_a_421_to_rset_is_no_doubt_about_the_content() -> None:
    talk = Talk()
    talk.transact(CHUNKING, 1, flow=BLIND)
    events = say(talk, OK * 3 + b"421 enough for one connection\r\n")
    assert answers(events) == [("MAIL", 250), ("RCPT", 250), ("BDAT LAST", 250), ("RSET", 421)]
    assert lost(events).in_doubt == ()


def test_no_rset_goes_between_messages_that_had_theirs() -> None:
    talk = Talk()
    for _ in range(3):
        talk.transact(CHUNKING, 1, flow=BLIND)
    assert talk.client().count(b"RSET") == 3
    assert len([e for e in talk.server(OK * 12) if isinstance(e, Finished)]) == 3


def test_no_rset_is_sent_behind_content_that_nobody_is_to_get() -> None:
    talk = Talk()
    transaction = talk.transact(CHUNKING, 2, flow=RIDING)
    talk.client()
    events = talk.server(OK + b"550 no\r\n" * 2)
    assert answers(events) == [("MAIL", 250), ("RCPT", 550), ("RCPT", 550)]
    assert events[-1] == Finished(transaction, completed=False)
    assert talk.client() == b""


def test_content_taken_although_nobody_was_accepted_leaves_in_doubt_who_was_not_refused() -> None:
    talk = Talk()
    transaction = talk.transact(CHUNKING, 2, flow=BLIND)
    events = say(talk, OK + b"550 no\r\n" * 2 + OK)
    assert answers(events) == [("MAIL", 250), ("RCPT", 550), ("RCPT", 550)]
    assert isinstance(lost(events).error, ReplyError)
    assert "no recipient was accepted" in str(lost(events).error)
    assert lost(events).in_doubt == (transaction,)


# ------------------------------------------------------------------------- what 421 proves


@pytest.mark.parametrize("position", range(4))
def test_what_was_sent_behind_a_command_with_421_was_not_read(position: int) -> None:
    """Three messages are out to their end; the server answers one command of the first one, and closes."""
    talk = Talk()
    for _ in range(3):
        talk.transact(CHUNKING, 1, flow=BLIND)
    events = say(talk, OK * position + b"421 closing\r\n")
    assert answers(events)[-1][1] == 421
    loss = lost(events)
    assert isinstance(loss.error, ServiceClosing)
    assert loss.in_doubt == ()


def test_a_421_to_the_last_recipient_proves_it_for_the_first() -> None:
    talk = Talk()
    talk.transact(CHUNKING, 2, flow=BLIND)
    assert lost(say(talk, OK * 2 + b"421 closing\r\n")).in_doubt == ()


def test_a_421_to_one_of_several_recipients_is_not_one_to_the_others() -> None:
    """LMTP: the content was read, and the second recipient may have it; the message behind it was not."""
    talk = Talk(lmtp=True)
    first = talk.transact(CHUNKING, 2, flow=BLIND)
    talk.transact(CHUNKING, 1, flow=BLIND)
    loss = lost(say(talk, OK * 3 + b"421 closing\r\n"))
    assert loss.in_doubt == (first,)


@pytest.mark.parametrize("recipients", [1, 3])
def test_a_421_to_rcpt_in_lmtp_leaves_nothing_in_doubt(recipients: int) -> None:
    talk = Talk(lmtp=True)
    talk.transact(CHUNKING, recipients, flow=BLIND)
    assert lost(say(talk, OK * recipients + b"421 closing\r\n")).in_doubt == ()


def test_a_closed_connection_proves_nothing() -> None:
    talk = Talk()
    transactions = [talk.transact(CHUNKING, 1, flow=BLIND) for _ in range(3)]
    talk.client()
    talk.session.receive_eof(talk.now)
    assert list(lost(talk.events()).in_doubt) == transactions


# ------------------------------------------------------------- refused before it is sent whole


@pytest.mark.parametrize("refusal", [b"552 too large\r\n", b"450 no room\r\n", b"554-spam\r\n554 no\r\n"])
@pytest.mark.parametrize("behind", [b"", b"421 closing\r\n", b"500 what\r\n" * 3])
@pytest.mark.parametrize(
    ("capabilities", "flow"), [(PIPELINING, RIDING), (CHUNKING, RIDING), (ONLY_CHUNKING, STEPWISE)]
)
@pytest.mark.parametrize("lmtp", [False, True])
def test_a_refusal_in_the_middle_of_the_content_is_the_answer_to_it(
    lmtp: bool, capabilities: Capabilities, flow: Flow, behind: bytes, refusal: bytes
) -> None:
    talk = Talk(lmtp=lmtp)
    talk.transact(capabilities, 1, content=content_form(b"x" * 998 + b"\r\n", block=100), flow=flow)
    steps = [OK, OK] if capabilities is not PIPELINING else [OK + OK + b"354 go\r\n"]
    say(talk, *steps)
    talk.client(limit=300)
    events = talk.server(refusal + behind)
    (answer,) = [event for event in events if isinstance(event, StepAnswered) and event.early]
    assert answer.reply.code == int(refusal[:3])
    assert answer.recipient == -1, "also in LMTP it is about the content"
    assert lost(events).in_doubt == ()
    assert talk.client() == b"", "nothing of the rest goes to a server that may read it as commands"


@pytest.mark.parametrize("said", [OK, b"354 go\r\n", b"552 too large\r\n250 ok\r\n", b"552 too large\r\n354 go\r\n"])
def test_no_other_reply_in_the_middle_of_the_content_counts(said: bytes) -> None:
    talk = Talk()
    talk.transact(content=content_form(b"x" * 998 + b"\r\n", block=100))
    say(talk, OK * 3 + b"354 go\r\n")
    talk.client(limit=300)
    (loss,) = talk.server(said)
    assert lost([loss]) is loss
    assert isinstance(loss.error, ReplyError)


def test_a_refusal_before_the_first_octet_of_the_content_was_asked_for_by_nothing() -> None:
    talk = Talk()
    talk.transact()
    (_, _, _, _, loss) = say(talk, OK * 3 + b"354 go\r\n") + talk.server(b"552 too large\r\n")
    assert isinstance(lost([loss]).error, ReplyError)


def test_a_refused_envelope_is_not_a_refused_content() -> None:
    """Blind content on its way, and MAIL is refused: that is the answer to MAIL."""
    talk = Talk()
    talk.transact(CHUNKING, 1, content=content_form(b"x" * 998 + b"\r\n"), flow=BLIND)
    talk.client(limit=300)
    assert talk.server(b"550 no\r\n") == []
    talk.session.fail(ConnectionLost("gone"))
    assert answers(talk.events()) == [("MAIL", 550)]


# ------------------------------------------------------------------------------ the last words


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", ""),
        (b"554-no service", "554-no service"),
        (b"554-no service\r\n554-for you", "554-no service / 554-for you"),
        (b"554-a\r\n" * 20, " / ".join(["554-a"] * 8)),
        (b"\x1b[2J", r"\x1b[2J"),
    ],
)
def test_the_words_of_a_reply_without_an_end_are_told(said: bytes, told: str) -> None:
    talk = Talk(greeted=False)
    talk.server(said)
    talk.session.receive_eof(talk.now)
    assert lost(talk.events()).unfinished == told


def test_half_a_secret_is_not_told() -> None:
    talk = Talk()
    talk.session.hide([b"sesame"])
    talk.server(b"535-no sesame\r\n535-open sesa")
    talk.session.receive_eof(talk.now)
    assert lost(talk.events()).unfinished == "535-no ***secret***"


def test_the_words_of_lines_that_do_not_go_together_are_told() -> None:
    (loss,) = Talk(greeted=False).server(b"220-hello\r\n521 go away\r\n")
    assert str(lost([loss]).error) == "lines of one reply have the codes 220 and 521: 220-hello / 521 go away"
