"""Dialogues with a bare session: what the server says, and what must come of it."""

import gc
import weakref
from collections.abc import Iterator

import pytest
from tests.support.network import content_form
from tests.support.talk import BODY, CHUNKING, ONE_BY_ONE, PIPELINING, Talk, answers, lost

from zsmtp.errors import ConnectionLost, ContentError, Interrupted, ReplyError, ServiceClosing, WaitTimeout
from zsmtp.events import ContentProgress, ContentSent, LineReceived, LineSent, Remark
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, ReplyMeaning
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, Flow, plan_transaction
from zsmtp.proto.session import WRITE_UNIT, Finished, SessionEvent, StepAnswered

ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<r0@example.org>\r\nRCPT TO:<r1@example.org>\r\nDATA\r\n"


def test_a_pipelined_transaction() -> None:
    talk = Talk()
    transaction = talk.transact()
    assert talk.client() == ENVELOPE
    events = talk.server(b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n")
    assert answers(events) == [("MAIL", 250), ("RCPT", 250), ("RCPT", 550), ("DATA", 354)]
    assert talk.client() == BODY
    events = talk.server(b"250 taken\r\n")
    assert answers(events) == [("end of data", 250)]
    assert events[-1] == Finished(transaction, completed=True)
    assert talk.session.idle


@pytest.mark.parametrize("capabilities", [PIPELINING, CHUNKING], ids=["DATA", "BDAT"])
def test_a_session_without_work_keeps_no_content(capabilities: Capabilities) -> None:
    talk = Talk()
    content = content_form()
    kept = weakref.ref(content.data)
    talk.transact(capabilities, recipients=1, content=content)
    talk.client()
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n" if capabilities is PIPELINING else b"", b"250 taken\r\n"):
        talk.server(reply)
        talk.client()
    assert talk.session.idle
    del content
    talk.heard.clear()
    gc.collect()
    assert kept() is None


def test_without_pipelining_one_command_at_a_time() -> None:
    talk = Talk()
    talk.transact(ONE_BY_ONE)
    for line in ENVELOPE.splitlines(keepends=True)[:-1]:
        assert talk.client() == line
        assert talk.client() == b""
        talk.server(b"250 ok\r\n")
    assert talk.client() == b"DATA\r\n"
    talk.server(b"354 go\r\n")
    assert talk.client() == BODY


def test_nothing_leaves_before_the_greeting() -> None:
    talk = Talk(greeted=False)
    talk.session.command(Phase.EHLO, command.hello(b"EHLO", b"client.example"))
    assert talk.client() == b""
    talk.server(b"220 hi\r\n")
    assert talk.client() == b"EHLO client.example\r\n"


# ---------------------------------------------------- replies that were not asked for


def test_a_reply_before_the_last_octet_of_its_command_counts_for_nothing() -> None:
    talk = Talk()
    talk.transact()
    talk.client(limit=len(b"MAIL FROM:<a@example.net>\r"))
    loss = lost(talk.server(b"250 ok\r\n"))
    assert isinstance(loss.error, ReplyError)
    assert loss.step is None


def test_a_reply_right_after_it_counts_although_the_group_is_not_out() -> None:
    talk = Talk()
    talk.transact()
    talk.client(limit=len(b"MAIL FROM:<a@example.net>\r\nR"))
    assert answers(talk.server(b"250 ok\r\n")) == [("MAIL", 250)]
    assert isinstance(lost(talk.server(b"250 ok\r\n")).error, ReplyError)


def test_a_final_reply_before_the_final_dot_is_out_counts_for_nothing() -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    talk.client(limit=len(BODY) - 1)
    assert talk.events() == []
    loss = lost(talk.server(b"250 taken\r\n"))
    assert isinstance(loss.error, ReplyError)
    assert loss.in_doubt == ()


@pytest.mark.parametrize("early", [b"250 taken\r\n", b"552 too much\r\n", b"450 later\r\n"])
def test_a_final_reply_in_the_same_segment_as_the_354_counts_for_nothing(early: bytes) -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    loss = lost(talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" + early))
    assert isinstance(loss.error, ReplyError)
    assert loss.in_doubt == ()
    assert talk.client() == b"", "nothing of the message goes to such a peer"


def test_a_reply_too_many_ends_the_session_after_the_success_it_follows() -> None:
    talk = Talk()
    talk.to_the_dot()
    events = talk.server(b"250 taken\r\n250 again\r\n")
    assert answers(events) == [("end of data", 250)]
    assert isinstance(events[1], Finished)
    assert lost(events).in_doubt == ()


# ------------------------------------------------------------- sets of expected codes


@pytest.mark.parametrize("said", [b"250 ok\r\n", b"251 x\r\n", b"200 x\r\n", b"299 x\r\n"])
def test_no_reply_but_a_3xx_opens_the_content(said: bytes) -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    loss = lost(talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n" + said))
    assert isinstance(loss.error, ReplyError)
    assert loss.step is not None
    assert loss.step.phase is Phase.DATA
    assert talk.client() == b""


@pytest.mark.parametrize("said", [b"354 go\r\n", b"300 go\r\n", b"334 go\r\n", b"399 go\r\n"])
def test_any_3xx_opens_it(said: bytes) -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n" + said)
    assert talk.client() == BODY


@pytest.mark.parametrize(
    "said",
    [
        b"354 go on\r\n",
        b"334 x\r\n",
        b"what\r\n",
        b"250-a\r\n251 b\r\n",
        b"2500 x\r\n",
        b"200 x\r\n",
        b"220 x\r\n",
        b"221 bye\r\n",
        b"249 x\r\n",
        b"260 x\r\n",
        b"299 x\r\n",
    ],
)
def test_a_disorder_after_the_dot_leaves_the_message_in_doubt(said: bytes) -> None:
    talk = Talk()
    transaction = talk.to_the_dot()
    loss = lost(talk.server(said))
    assert isinstance(loss.error, ReplyError)
    assert loss.in_doubt == (transaction,)


@pytest.mark.parametrize("code", range(250, 260))
def test_25x_takes_the_message(code: int) -> None:
    talk = Talk()
    talk.to_the_dot()
    assert talk.server(b"%d odd\r\n" % code)[0].result is ReplyMeaning.SUCCESS  # type: ignore[union-attr]


@pytest.mark.parametrize("said", [b"220 hi\r\n", b"200 hi\r\n", b"250 hi\r\n", b"221 hi\r\n", b"299 hi\r\n"])
def test_any_2xx_greets(said: bytes) -> None:
    assert [event.result for event in Talk(greeted=False).server(said)] == [ReplyMeaning.SUCCESS]  # type: ignore[union-attr]


@pytest.mark.parametrize("said", [b"354 x\r\n", b"334 x\r\n", b"300 x\r\n"])
def test_a_3xx_does_not_greet(said: bytes) -> None:
    assert isinstance(lost(Talk(greeted=False).server(said)).error, ReplyError)


# --------------------------------------------------------------------------- refusals


def test_a_refused_mail_without_pipelining_saves_the_rest() -> None:
    talk = Talk()
    transaction = talk.transact(ONE_BY_ONE)
    talk.client()
    events = talk.server(b"550 no\r\n")
    assert events[-1] == Finished(transaction, completed=False)
    assert talk.client() == b""


def test_no_accepted_recipient_without_pipelining_saves_data() -> None:
    talk = Talk()
    transaction = talk.transact(ONE_BY_ONE)
    for said in (b"250 ok\r\n", b"550 no\r\n"):
        talk.client()
        talk.server(said)
    assert talk.client() == b"RCPT TO:<r1@example.org>\r\n"
    assert talk.server(b"450 no\r\n")[-1] == Finished(transaction, completed=False)
    assert talk.client() == b""


@pytest.mark.parametrize("mail", [b"250 ok\r\n550 no\r\n550 no\r\n", b"550 no\r\n503 no\r\n503 no\r\n"])
def test_354_without_a_recipient_is_answered_by_a_lone_dot(mail: bytes) -> None:
    talk = Talk()
    transaction = talk.transact()
    talk.client()
    talk.server(mail + b"354 go\r\n")
    assert talk.client() == b".\r\n"
    assert talk.server(b"554 nobody\r\n")[-1] == Finished(transaction, completed=True)


def test_a_lone_dot_leaves_nothing_in_doubt() -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    talk.server(b"250 ok\r\n550 no\r\n550 no\r\n354 go\r\n")
    talk.client()
    talk.session.receive_eof(talk.now)
    assert lost(talk.events()).in_doubt == ()


def test_354_without_a_recipient_ends_an_lmtp_session() -> None:
    talk = Talk(lmtp=True)
    talk.transact()
    talk.client()
    talk.server(b"250 ok\r\n550 no\r\n550 no\r\n354 go\r\n")
    assert talk.client() == b""
    assert isinstance(lost(talk.events()).error, ReplyError)


def test_a_recipient_accepted_after_a_refused_mail_gets_nothing() -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    talk.server(b"450 no\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert talk.client() == b".\r\n"


def test_a_mail_refused_while_recipients_are_still_to_leave_ends_with_the_last_answer() -> None:
    talk = Talk()
    talk.transact(recipients=WRITE_UNIT // 20)
    block = bytes(talk.session.data_to_send(talk.now))
    talk.session.data_written(len(block), talk.now)
    asked = block.count(b"\r\n")
    talk.session.receive_data(b"550 no\r\n" + b"250 ok\r\n" * (asked - 1), talk.now)
    events = talk.events()
    assert len(answers(events)) == asked
    assert isinstance(events[-1], Finished)
    assert talk.session.idle
    assert talk.client() == b""


@pytest.mark.parametrize("capabilities", [ONE_BY_ONE, CHUNKING])
def test_without_recipients_no_content_is_offered(capabilities: Capabilities) -> None:
    talk = Talk()
    talk.transact(capabilities, recipients=0)
    assert talk.client() == b"MAIL FROM:<a@example.net>\r\n"
    assert isinstance(talk.server(b"250 ok\r\n")[-1], Finished)
    assert talk.client() == b""


def test_refused_data_ends_the_transaction() -> None:
    talk = Talk()
    transaction = talk.transact()
    talk.client()
    assert talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n451 no\r\n")[-1] == Finished(transaction, completed=False)
    assert talk.client() == b""


@pytest.mark.parametrize("capabilities", [PIPELINING, ONE_BY_ONE, CHUNKING])
@pytest.mark.parametrize("position", range(4))
def test_421_answers_its_command_and_loses_the_transaction(capabilities: Capabilities, position: int) -> None:
    talk = Talk()
    talk.transact(capabilities)
    said = [b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]
    if capabilities is CHUNKING:
        said[3] = b"250 taken\r\n"
    said[position] = b"421 closing\r\n"
    events: list[SessionEvent] = []
    for reply in said[: position + 1]:
        talk.client()
        events += talk.server(reply)
    assert answers(events)[-1][1] == 421
    loss = lost(events)
    assert isinstance(loss.error, ServiceClosing)
    assert loss.in_doubt == ()
    assert not any(isinstance(event, Finished) for event in events)
    assert talk.client() == b""


def test_421_nobody_asked_for_is_what_it_says() -> None:
    talk = Talk()
    loss = lost(talk.server(b"421 going down\r\n"))
    assert isinstance(loss.error, ServiceClosing)


# ------------------------------------------------------------------------ LMTP and BDAT


def test_lmtp_has_one_final_reply_for_each_accepted_recipient_in_order() -> None:
    talk = Talk(lmtp=True)
    transaction = talk.transact(recipients=3)
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    talk.client()
    first = talk.server(b"250 taken\r\n")
    assert [event.recipient for event in first if isinstance(event, StepAnswered)] == [0]
    assert not talk.session.idle
    events = talk.server(b"452 full\r\n")
    assert isinstance(events[0], StepAnswered)
    assert (events[0].recipient, events[0].result) == (2, ReplyMeaning.TRANSIENT)
    assert events[-1] == Finished(transaction, completed=True)


def test_lmtp_that_breaks_after_k_replies_has_the_others_in_doubt() -> None:
    talk = Talk(lmtp=True)
    transaction = talk.to_the_dot(lmtp_recipients=3)
    assert answers(talk.server(b"250 taken\r\n")) == [("end of data", 250)]
    talk.session.receive_eof(talk.now)
    loss = lost(talk.events())
    assert loss.in_doubt == (transaction,)


def test_lmtp_421_to_one_recipient_leaves_the_next_ones_in_doubt() -> None:
    talk = Talk(lmtp=True)
    transaction = talk.to_the_dot()
    events = talk.server(b"421 closing\r\n")
    assert answers(events) == [("end of data", 421)]
    assert lost(events).in_doubt == (transaction,)


def test_bdat_sends_the_content_behind_its_command() -> None:
    talk = Talk()
    talk.transact(CHUNKING)
    assert b"DATA" not in talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n550 no\r\n")
    assert talk.client() == b"BDAT 21 LAST\r\nSubject: x\r\n\r\nhello\r\n"
    assert answers(talk.server(b"250 taken\r\n")) == [("BDAT LAST", 250)]


def test_bdat_is_not_sent_without_a_recipient() -> None:
    talk = Talk()
    transaction = talk.transact(CHUNKING)
    talk.client()
    assert talk.server(b"250 ok\r\n550 no\r\n550 no\r\n")[-1] == Finished(transaction, completed=False)
    assert talk.client() == b""


def test_an_empty_chunk() -> None:
    talk = Talk()
    talk.transact(CHUNKING, content=content_form(b""))
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n")
    assert talk.client() == b"BDAT 0 LAST\r\n"
    assert talk.session.final_reply_due


# ----------------------------------------------------------------------------- content


def test_an_empty_block_is_not_the_end_of_the_content() -> None:
    blocks = [b"", b"one\r\n", b"", b"", b"two\r\n", b".\r\n", b""]
    talk = Talk()
    talk.transact(content=ContentForm(10, 0, None, lambda: iter(blocks), lambda: iter(blocks)))
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert talk.client() == b"one\r\ntwo\r\n.\r\n"


def test_content_that_cannot_be_read_ends_the_session_before_its_last_octet() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"one\r\n"
        yield b"two\r\n"
        raise ContentError("gone")

    talk = Talk()
    talk.transact(content=ContentForm(100, 0, None, blocks, blocks))
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    with pytest.raises(ContentError) as raised:
        talk.client()
    talk.session.fail(raised.value)
    loss = lost(talk.events())
    assert loss.in_doubt == ()
    assert talk.client() == b""


def test_the_content_is_given_out_block_by_block() -> None:
    talk = Talk()
    talk.transact(content=content_form(b"x" * 249_998 + b"\r\n", block=100_000))
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    sizes = []
    while out := talk.session.data_to_send(talk.now):
        sizes.append(len(out))
        talk.session.data_written(len(out), talk.now)
    assert sizes == [100_000, 100_000, 50_003]


# ------------------------------------------------------------------ what is in doubt


@pytest.mark.parametrize("missing", [0, 1, 5, len(BODY)])
def test_a_message_is_in_doubt_once_its_last_octet_is_out(missing: int) -> None:
    talk = Talk()
    transaction = talk.transact()
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    talk.client(limit=len(BODY) - missing)
    assert talk.session.final_reply_due is (missing == 0)
    talk.session.fail(ConnectionLost("reset"))
    assert lost(talk.events()).in_doubt == (() if missing else (transaction,))


def test_only_the_first_loss_counts_and_nothing_comes_after_it() -> None:
    talk = Talk()
    talk.transact()
    talk.client(limit=5)
    talk.session.fail(Interrupted("stop"))
    talk.session.fail(ConnectionLost("reset"))
    talk.session.receive_eof(talk.now)
    assert isinstance(lost(talk.events()).error, Interrupted)
    assert talk.server(b"250 ok\r\n") == []
    assert talk.client() == b""
    assert talk.session.deadline() is None
    talk.session.transact(plan_transaction(Envelope(b"", (EnvelopeRecipient(b"r@s"),)), content_form(), PIPELINING))
    assert talk.client() == b""


@pytest.mark.parametrize(("said", "words"), [(b"", "closed the connection"), (b"250-x\r\n25", "middle of a reply")])
def test_the_end_of_the_stream(said: bytes, words: str) -> None:
    talk = Talk()
    talk.session.command(Phase.NOOP, command.NOOP)
    talk.client()
    talk.server(said)
    talk.session.receive_eof(talk.now)
    loss = lost(talk.events())
    assert isinstance(loss.error, ConnectionLost)
    assert words in str(loss.error)
    assert loss.step is not None
    assert loss.step.phase is Phase.NOOP


# ------------------------------------------------------------------------------ waits


@pytest.mark.parametrize(
    ("phase", "wire", "seconds"),
    [(Phase.EHLO, b"EHLO x\r\n", 20), (Phase.RSET, b"RSET\r\n", 50), (Phase.QUIT, b"QUIT\r\n", 60)],
)
def test_each_wait_has_its_time_and_dripping_does_not_extend_it(phase: Phase, wire: bytes, seconds: int) -> None:
    talk = Talk()
    talk.session.command(phase, wire)
    assert talk.client() == wire
    start = talk.now
    for octet in b"250-hello\r\n" * 3:
        talk.now += 0.5
        assert talk.server(bytes([octet])) == []
        talk.session.handle_timer(talk.now)
        assert talk.session.deadline() == start + seconds
    talk.session.handle_timer(start + seconds - 0.001)
    assert talk.events() == []
    talk.session.handle_timer(start + seconds)
    assert isinstance(lost(talk.events()).error, WaitTimeout)


def test_the_greeting_is_waited_for_from_the_first_look_on() -> None:
    talk = Talk(greeted=False)
    assert talk.session.deadline() is None
    talk.session.data_to_send(talk.now)
    assert talk.session.deadline() == talk.now + 20


def test_each_reply_of_a_group_has_a_time_of_its_own() -> None:
    talk = Talk()
    talk.transact()
    talk.client()
    talk.now += 19
    talk.server(b"250 ok\r\n")
    assert talk.session.deadline() == talk.now + 20
    talk.server(b"250 ok\r\n250 ok\r\n")
    assert talk.session.deadline() == talk.now + 30, "354 has the time of DATA"
    talk.server(b"354 go\r\n")
    talk.client()
    assert talk.session.deadline() == talk.now + 40


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    talk = Talk()
    talk.transact()
    assert talk.session.data_to_send(talk.now)
    assert talk.session.deadline() == talk.now + 10
    talk.now += 9
    talk.client(limit=1)
    assert talk.session.deadline() == 110.0, "one octet is no progress worth waiting for"
    talk.session.handle_timer(110.0)
    assert isinstance(lost(talk.events()).error, WaitTimeout)


def test_a_peer_that_takes_a_large_block_slowly_is_not() -> None:
    talk = Talk()
    talk.transact(content=content_form(b"x" * 300_000 + b"\r\n"))
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    for _ in range(5):
        talk.now += 9
        talk.client(limit=65_536)
        talk.session.handle_timer(talk.now)
    assert talk.session.lost is None
    assert talk.session.final_reply_due


def test_the_reply_timer_runs_while_a_group_is_still_being_written() -> None:
    talk = Talk()
    talk.transact()
    talk.client(limit=len(b"MAIL FROM:<a@example.net>\r\n"))
    assert talk.session.deadline() == talk.now + 10
    talk.session.handle_timer(talk.now + 5)
    assert talk.session.lost is None


def test_a_timer_that_is_called_too_early_or_for_nothing_does_nothing() -> None:
    talk = Talk()
    talk.session.handle_timer(1e9)
    assert talk.events() == []
    assert talk.session.idle


# --------------------------------------------------------------------------- observers


def test_what_an_observer_hears() -> None:
    talk = Talk()
    talk.to_the_dot()
    talk.server(b"250 taken\n")
    sent = [event.line for event in talk.heard if isinstance(event, LineSent)]
    assert sent == [*ENVELOPE.split(b"\r\n")[:-1], b"."]
    assert [event.line for event in talk.heard if isinstance(event, LineReceived)][-1] == b"250 taken"
    assert [event for event in talk.heard if isinstance(event, ContentSent)] == [ContentSent(21, 0, 2, 0.0, 0.0)]
    assert any(isinstance(event, Remark) and "bare LF" in event.text for event in talk.heard)


def test_content_that_runs_ahead_is_told_to_be_for_all_who_are_not_refused() -> None:
    talk = Talk()
    envelope = Envelope(b"a@example.net", (EnvelopeRecipient(b"r0@example.org"), EnvelopeRecipient(b"r1@example.org")))
    capabilities = Capabilities(pipelining=True, chunking=True)
    talk.session.transact(plan_transaction(envelope, content_form(), capabilities, Flow.BLIND))
    talk.client()
    assert [event.recipients for event in talk.heard if isinstance(event, ContentSent)] == [2]


def test_progress_never_passes_the_total() -> None:
    talk = Talk()
    talk.transact(content=content_form(b"x" * 99 + b"\r\n", block=10))
    talk.client()
    talk.server(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    while talk.client(limit=10):
        pass
    octets = [event.octets for event in talk.heard if isinstance(event, ContentProgress)]
    assert octets == sorted(octets)
    assert max(octets) <= 101
