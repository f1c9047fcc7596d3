"""Dialogues with a server session: what a client sends, what it hears, and what the application is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.servertalk import GREETING, LMTP, SETTINGS, ServerTalk, codes

from zsmtp.errors import LocalError
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import (
    Abort,
    Ending,
    Greeted,
    MailFrom,
    MailParameters,
    MessageData,
    MessageEnd,
    MessageStart,
    Opened,
    RcptTo,
    SessionEnded,
    TLSRequested,
    TransactionAborted,
)
from zsmtp.proto.server_replies import NO_ROOM, OK, TOO_MANY_CONNECTIONS, make_reply
from zsmtp.proto.server_settings import ServerBounds, ServerTimeouts

ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
TEXT = b"Subject: x\r\n\r\nhello\r\n"
NO_SUCH_USER = make_reply(550, "5.1.1", "no such user")
LATER = make_reply(451, "4.7.1", "later")


def bounded(**bounds: int) -> ServerTalk:
    return ServerTalk(replace(SETTINGS, bounds=ServerBounds(**bounds))).greet()


def nothing(event: object) -> None:
    """Leave an event open."""


# --------------------------------------------------------------------------------------------------- whole dialogues


def test_a_message() -> None:
    server = ServerTalk()
    assert server.out == b"220 mx.example.org ESMTP\r\n"
    assert server.send(b"EHLO client.example\r\n").startswith(b"250-mx.example.org\r\n250-PIPELINING\r\n")
    assert server.send(b"MAIL FROM:<a@example.net> SIZE=23\r\n") == b"250 2.1.0 sender ok\r\n"
    assert server.send(b"RCPT TO:<b@example.org> NOTIFY=NEVER\r\n") == b"250 2.1.5 recipient ok\r\n"
    assert codes(server.send(b"DATA\r\n")) == [354]
    assert codes(server.send(b"Subject: x\r\n\r\n..\r\nhi\r\n.\r\n")) == [250]
    assert codes(server.send(b"QUIT\r\n")) == [221]
    assert server.events == [
        Opened(0),
        Greeted(b"EHLO", b"client.example"),
        MailFrom(2, b"a@example.net", MailParameters(size=23)),
        RcptTo(3, EnvelopeRecipient(b"b@example.org", b"NEVER")),
        MessageStart(4, chunked=False),
        MessageData(b"Subject: x\r\n\r\n.\r\nhi\r\n"),
        MessageEnd(5, 1, 21),
        SessionEnded(Ending.QUIT),
    ]
    assert server.session.ended


def test_a_message_in_chunks() -> None:
    server = ServerTalk().greet()
    assert codes(server.send(ENVELOPE)) == [250, 250]
    assert server.send(b"BDAT 12\r\nSubject: x\r\n") == b"250 2.0.0 12 octets\r\n"
    assert server.send(b"BDAT 9 LAST\r\n\r\nhello\r\nNOOP\r\n") == b"250 2.0.0 ok\r\n250 2.0.0 ok\r\n"
    assert server.held[0].content == TEXT
    assert server.of(MessageStart) == [MessageStart(2 + 2, chunked=True)]


def test_an_empty_last_chunk() -> None:
    server = ServerTalk().greet()
    server.send(ENVELOPE)
    assert codes(server.send(b"BDAT %d\r\n" % len(TEXT) + TEXT + b"BDAT 0 LAST\r\n")) == [250, 250]
    assert server.held[0].content == TEXT


def test_everything_in_one_piece() -> None:
    """Two transactions pipelined, with chunks, as RFC 2920 and RFC 3030 allow."""
    server = ServerTalk().greet()
    chunk = b"BDAT %d LAST\r\n" % len(TEXT) + TEXT
    assert codes(server.send((ENVELOPE + chunk) * 2 + b"QUIT\r\n")) == [250] * 6 + [221]
    assert [held.content for held in server.held] == [TEXT, TEXT]


def test_lmtp_answers_for_each_recipient() -> None:
    refused = make_reply(552, "5.2.2", "mailbox is full")
    server = ServerTalk(
        LMTP,
        answers={
            RcptTo: lambda event: NO_SUCH_USER if event.recipient.address == b"x@b" else OK,
            MessageEnd: lambda event: [OK, refused],
        },
    )
    assert codes(server.send(b"EHLO me\r\n")) == [500]
    assert codes(server.send(b"HELO me\r\n")) == [500]
    assert codes(server.send(b"LHLO me\r\n")) == [250]
    assert codes(server.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")) == [250, 250]
    assert codes(server.send(b"RCPT TO:<x@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n")) == [550, 250, 354]
    assert codes(server.send(TEXT + b".\r\n")) == [250, 552]
    assert codes(server.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@b>\r\n")) == [250, 250, 250]
    assert codes(server.send(b"BDAT 3\r\nabcBDAT 2 LAST\r\n\r\n")) == [250, 250, 552]
    assert server.session.protocol == "LMTP"


def test_lmtp_without_recipients() -> None:
    server = ServerTalk(LMTP, answers={RcptTo: lambda event: NO_SUCH_USER}).greet()
    assert codes(server.send(ENVELOPE + b"DATA\r\n")) == [250, 550, 503]
    assert codes(server.send(b"BDAT 3 LAST\r\nabc")) == [503]
    assert codes(server.send(b"NOOP\r\n")) == [250]


def test_lmtp_refuses_for_each_recipient() -> None:
    server = ServerTalk(LMTP).greet()
    server.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n")
    assert codes(server.send(b"a\nb\r\n.\r\n")) == [554, 554]
    server.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@b>\r\n")
    assert codes(server.send(b"BDAT 3\r\na\nbBDAT 0 LAST\r\n")) == [250, 554, 554]


def test_helo_has_no_extensions() -> None:
    server = ServerTalk()
    assert server.send(b"HELO me\r\n") == b"250 mx.example.org\r\n"
    assert codes(server.send(b"MAIL FROM:<a@b> SIZE=1\r\n")) == [555]
    assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [250]
    assert codes(server.send(b"RCPT TO:<a@b> NOTIFY=NEVER\r\n")) == [555]
    assert server.session.protocol == "SMTP"


def test_commands_as_people_type_them() -> None:
    server = ServerTalk()
    assert codes(server.send(b"ehlo me \r\n")) == [250]
    assert codes(server.send(b"mail from: <a@b> \t \r\n")) == [250]
    assert codes(server.send(b"Rcpt To:<c@d>\r\n")) == [250]
    assert codes(server.send(b"rset \t\r\n")) == [250]
    assert codes(server.send(b"quit\r\n")) == [221]


# --------------------------------------------------------------------------------- every command in every state

LINES = {
    "EHLO": b"EHLO me\r\n",
    "HELO": b"HELO me\r\n",
    "LHLO": b"LHLO me\r\n",
    "MAIL": b"MAIL FROM:<a@b>\r\n",
    "RCPT": b"RCPT TO:<c@d>\r\n",
    "DATA": b"DATA\r\n",
    "BDAT": b"BDAT 3\r\nabc",
    "LAST": b"BDAT 3 LAST\r\nabc",
    "RSET": b"RSET\r\n",
    "NOOP": b"NOOP\r\n",
    "HELP": b"HELP mail\r\n",
    "VRFY": b"VRFY ann\r\n",
    "EXPN": b"EXPN list\r\n",
    "QUIT": b"QUIT\r\n",
    "STARTTLS": b"STARTTLS\r\n",
    "AUTH": b"AUTH PLAIN\r\n",
    "TURN": b"TURN\r\n",
    "": b"\r\n",
}
STATES: dict[str, list[bytes]] = {
    "opened": [],
    "greeted": [b"EHLO me\r\n"],
    "sender": [b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\n"],
    "recipients": [b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"],
    "chunks": [b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabc"],
    "failed": [b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", b"BDAT 100000\r\n" + b"x" * 100000],
}
#          opened greeted sender recipients chunks failed
TABLE = {
    "EHLO": (250, 250, 250, 250, 250, 250),
    "HELO": (250, 250, 250, 250, 250, 250),
    "LHLO": (500, 500, 500, 500, 500, 500),
    "MAIL": (503, 250, 503, 503, 503, 503),
    "RCPT": (503, 503, 250, 250, 503, 503),
    "DATA": (503, 503, 554, 354, 503, 503),
    "BDAT": (503, 503, 554, 250, 250, 503),
    "LAST": (503, 503, 554, 250, 250, 503),
    "RSET": (250, 250, 250, 250, 250, 250),
    "NOOP": (250, 250, 250, 250, 250, 250),
    "HELP": (214, 214, 214, 214, 214, 214),
    "VRFY": (252, 252, 252, 252, 252, 252),
    "EXPN": (502, 502, 502, 502, 502, 502),
    "QUIT": (221, 221, 221, 221, 221, 221),
    "STARTTLS": (503, 220, 503, 503, 503, 503),
    "AUTH": (502, 502, 502, 502, 502, 502),
    "TURN": (500, 500, 500, 500, 500, 500),
    "": (500, 500, 500, 500, 500, 500),
}
AFTER = {  # what a MAIL says behind it, where that tells more than the state before
    "EHLO": (250,) * 6,
    "HELO": (250,) * 6,
    "RSET": (503, 250, 250, 250, 250, 250),
    "LAST": (503, 250, 250, 250, 250, 250),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", LINES)
def test_every_command_in_every_state(state: str, verb: str) -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True, max_size=1 << 16))
    for step in STATES[state]:
        server.send(step)
    column = list(STATES).index(state)
    assert codes(server.send(LINES[verb])) == [TABLE[verb][column]]
    if verb in ("QUIT", "STARTTLS") or TABLE[verb][column] == 354:
        return
    after = AFTER.get(verb, TABLE["MAIL"] if verb != "MAIL" else (503,) * 6)[column]
    assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [after]


# ------------------------------------------------------------------------------------ what the application decides


def test_a_greeting_that_refuses_waits_for_quit() -> None:
    server = ServerTalk(answers={Opened: lambda event: make_reply(554, "5.7.1", "not you")})
    assert codes(server.out) == [554]
    assert codes(server.send(b"EHLO me\r\n")) == [503]
    assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [503]
    assert codes(server.send(b"QUIT\r\n")) == [221]


def test_a_greeting_of_421_closes() -> None:
    server = ServerTalk(answers={Opened: lambda event: TOO_MANY_CONNECTIONS})
    assert codes(server.out) == [421]
    assert server.ending is Ending.REFUSED


@pytest.mark.parametrize("kind", [MailFrom, RcptTo, MessageStart, MessageEnd])
def test_a_421_closes_from_anywhere(kind: type) -> None:
    server = ServerTalk(answers={kind: lambda event: TOO_MANY_CONNECTIONS}).greet()
    server.send(b"MAIL FROM:<a@b>\r\n")
    server.send(b"RCPT TO:<c@d>\r\n")
    server.send(b"DATA\r\n")
    server.send(TEXT + b".\r\n")
    assert codes(server.out)[-1] == 421
    assert server.ending is Ending.REFUSED
    assert server.current is None, "what was begun has had an end"


def test_refused_senders_and_recipients() -> None:
    server = ServerTalk(
        answers={
            MailFrom: lambda event: NO_SUCH_USER if event.path == b"bad@b" else OK,
            RcptTo: lambda event: LATER if event.recipient.address == b"late@b" else OK,
        }
    ).greet()
    assert codes(server.send(b"MAIL FROM:<bad@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")) == [550, 503, 503]
    assert codes(server.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<late@b>\r\n")) == [250, 451]
    assert codes(server.send(b"RCPT TO:<c@d>\r\nDATA\r\n")) == [250, 354]
    assert codes(server.send(TEXT + b".\r\n")) == [250]
    assert [recipient.address for recipient in server.held[0].recipients] == [b"c@d"]


def test_content_refused_before_it_comes() -> None:
    answers: dict[type, object] = {MessageStart: lambda event: NO_ROOM}
    server = ServerTalk(answers=answers).greet()  # type: ignore[arg-type]
    assert codes(server.send(ENVELOPE + b"DATA\r\n")) == [250, 250, 452]
    assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [503], "the transaction goes on"
    del answers[MessageStart]
    assert codes(server.send(b"DATA\r\n")) == [354]
    assert codes(server.send(TEXT + b".\r\n")) == [250]


def test_a_chunk_refused_before_it_comes_is_passed_over() -> None:
    server = ServerTalk(answers={MessageStart: lambda event: NO_ROOM}).greet()
    assert codes(server.send(ENVELOPE + b"BDAT 6\r\nQUIT\r\nBDAT 6\r\nRSET\r\nBDAT 3 LAST\r\nabcNOOP\r\n")) == [
        *[250, 250],
        *[452, 503, 503],
        250,
    ]
    assert server.of(TransactionAborted) == [TransactionAborted(Abort.REFUSED)]
    assert codes(server.send(ENVELOPE)) == [250, 250]


@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 100 LAST\r\n"])
def test_content_refused_while_it_comes(command: bytes) -> None:
    server = ServerTalk().greet()
    server.send(ENVELOPE + command)
    server.send(b"hello")
    server.session.refuse_message(NO_ROOM)
    rest = b"x" * 93 + b"\r\n" if command.startswith(b"BDAT") else b"x\r\n.\r\n"
    assert codes(server.send(rest)) == [452]
    assert server.of(MessageData) == [MessageData(b"hello")]
    assert server.of(TransactionAborted) == [TransactionAborted(Abort.REFUSED)]
    assert codes(server.send(ENVELOPE)) == [250, 250]


def test_what_is_not_there_cannot_be_refused() -> None:
    server = ServerTalk().greet()
    with pytest.raises(LocalError):
        server.session.refuse_message(NO_ROOM)


def test_answers_come_later_and_in_any_order() -> None:
    server = ServerTalk(answers={MessageEnd: nothing}).greet()
    chunk = b"BDAT %d LAST\r\n" % len(TEXT) + TEXT
    assert codes(server.send((ENVELOPE + chunk) * 3 + b"NOOP\r\n")) == [250, 250]
    first, second, third = server.open
    assert len(server.held) == 3, "all three may share one commit"
    server.answer(second, NO_ROOM)
    server.answer(third)
    assert server.pump() == b""
    server.answer(first)
    assert codes(server.pump()) == [250, 250, 250, 452, 250, 250, 250, 250]


def test_an_answer_that_nothing_waits_for() -> None:
    server = ServerTalk(answers={MessageEnd: nothing}).greet()
    server.send(ENVELOPE + b"BDAT 0 LAST\r\n")
    server.answer(server.open[0])
    with pytest.raises(LocalError):
        server.answer(server.open[0])
    server.send(b"QUIT\r\n")
    server.answer(server.open[0])  # once the session is over it does not matter


def test_quit_waits_for_the_answers_before_it() -> None:
    server = ServerTalk(answers={MessageEnd: nothing}).greet()
    assert codes(server.send(ENVELOPE + b"BDAT 0 LAST\r\nQUIT\r\n")) == [250, 250]
    assert not server.session.ended
    server.answer(server.open[0])
    assert codes(server.pump()) == [250, 221]
    assert server.ending is Ending.QUIT


# --------------------------------------------------------------------------------------------------- back pressure


def test_nothing_is_read_while_the_application_decides() -> None:
    server = ServerTalk(answers={RcptTo: nothing}).greet()
    assert codes(server.send(ENVELOPE + b"RCPT TO:<c@example.org>\r\n")) == [250]
    assert len(server.open) == 1
    assert not server.session.wants_data
    server.answer(server.open[0])
    assert codes(server.pump()) == [250]
    assert len(server.open) == 2


def test_open_replies_are_bounded() -> None:
    server = ServerTalk(replace(SETTINGS, bounds=ServerBounds(replies=12)), answers={MessageEnd: nothing}).greet()
    server.send((ENVELOPE + b"BDAT 0 LAST\r\n") * 20)
    assert not server.session.wants_data
    assert 3 <= len(server.open) <= 12 // 3 + 1
    for _ in range(20):
        server.answer(server.open.pop(0))
        server.pump()
    assert len(server.held) == 20
    assert server.session.wants_data


def test_unanswered_octets_are_bounded() -> None:
    server = ServerTalk(replace(SETTINGS, bounds=ServerBounds(unanswered=250)), answers={MessageEnd: nothing}).greet()
    server.send((ENVELOPE + b"BDAT 100 LAST\r\n" + b"x" * 98 + b"\r\n") * 5)
    assert len(server.held) == 3
    assert not server.session.wants_data
    server.answer(server.open[0])
    server.pump()
    assert len(server.held) == 4


def test_replies_that_nobody_takes_are_bounded() -> None:
    server = ServerTalk(replace(SETTINGS, bounds=ServerBounds(commands=100_000))).greet()
    session = server.session
    for _ in range(1000):
        if session.wants_data:
            session.receive_data(b"EHLO me\r\n", server.now)
        while session.next_event() is not None:
            pass
    assert not session.wants_data
    assert session._slots.octets < 300 * 1024
    assert session._slots.count <= 256
    assert session.data_to_send()
    assert session.wants_data


def test_long_replies_that_nobody_takes_are_bounded() -> None:
    long = Reply(250, (b"x" * 500,) * 100)
    server = ServerTalk(answers={RcptTo: lambda event: long}).greet()
    session = server.session
    session.receive_data(b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 100, server.now)
    while (event := session.next_event()) is not None:
        session.answer(event.slot, long, server.now)  # type: ignore[union-attr]
    assert session._slots.octets < 350 * 1024
    assert not session.wants_data
    session.data_to_send()
    assert isinstance(session.next_event(), RcptTo)


def test_a_pause_of_the_application() -> None:
    server = ServerTalk().greet()
    server.send(ENVELOPE + b"DATA\r\n")
    server.session.pause(server.now)
    assert server.send(TEXT + b".\r\n") == b""
    assert not server.session.wants_data
    server.session.resume(server.now)
    assert codes(server.pump()) == [250]


# ---------------------------------------------------------------------------------------------- what must not come


@pytest.mark.parametrize("verb", [b"EHLO me", b"HELO me", b"DATA"])
def test_nothing_follows_the_last_command_of_a_group(verb: bytes) -> None:
    server = ServerTalk().greet()
    server.send(ENVELOPE)
    assert codes(server.send(verb + b"\r\nNOOP\r\n")) == [554]
    assert server.ending is Ending.OUT_OF_STEP
    lenient = ServerTalk(replace(SETTINGS, strict_pipelining=False)).greet()
    lenient.send(ENVELOPE)
    said = codes(lenient.send(verb + b"\r\nNOOP\r\n.\r\n"))
    assert said == ([354, 250] if verb == b"DATA" else [250, 250, 500])


def test_a_client_speaks_second() -> None:
    server = ServerTalk(answers={Opened: nothing})
    server.send(b"EHLO me\r\n")
    server.answer(server.open[0], GREETING)
    assert codes(server.pump()) == [220, 554]
    assert server.ending is Ending.OUT_OF_STEP


@pytest.mark.parametrize("greeting", [b"HELO me\r\n", b"EHLO me\r\n"])
def test_pipelining_must_be_offered(greeting: bytes) -> None:
    server = ServerTalk(replace(SETTINGS, pipelining=False))
    server.send(greeting)
    assert codes(server.send(ENVELOPE)) == [554]
    chunk = ServerTalk(replace(SETTINGS, pipelining=False)).greet()
    chunk.send(b"MAIL FROM:<a@b>\r\n")
    chunk.send(b"RCPT TO:<a@b>\r\n")
    assert codes(chunk.send(b"BDAT 3 LAST\r\nabc")) == [250], "octets of a chunk are no command"


def test_plaintext_behind_starttls_is_never_read() -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True, strict_pipelining=False)).greet()
    assert codes(server.send(b"STARTTLS\r\nMAIL FROM:<evil@b>\r\n")) == [554]
    assert server.ending is Ending.OUT_OF_STEP
    assert not server.of(MailFrom)


def test_starttls() -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True))
    assert b"STARTTLS" in server.send(b"EHLO me\r\n")
    assert server.session.protocol == "ESMTP"
    assert codes(server.send(b"STARTTLS\r\n")) == [220]
    assert server.events[-1] == TLSRequested()
    assert not server.session.wants_data
    server.session.tls_started((), server.now)
    assert server.session.wants_data
    assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [503], "the client is not known any more"
    said = server.send(b"EHLO me\r\n")
    assert b"STARTTLS" not in said
    assert b"REQUIRETLS" in said
    assert codes(server.send(b"MAIL FROM:<a@b> REQUIRETLS\r\n")) == [250]
    assert codes(server.send(b"RSET\r\n")) == [250]
    assert codes(server.send(b"STARTTLS\r\n")) == [503]
    assert server.session.protocol == "ESMTPS"
    with pytest.raises(LocalError):
        server.session.tls_started((), server.now)


def test_starttls_waits_for_the_answers_before_it() -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True), answers={MessageEnd: nothing}).greet()
    server.send(ENVELOPE + b"BDAT 0 LAST\r\n")
    assert server.send(b"STARTTLS\r\n") == b""
    assert not server.of(TLSRequested)
    server.answer(server.open[0])
    assert codes(server.pump()) == [250, 220]
    assert server.of(TLSRequested)


def test_a_failed_handshake() -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True)).greet()
    server.send(b"STARTTLS\r\n")
    server.session.lose(Ending.TLS_FAILED)
    server.pump()
    assert server.ending is Ending.TLS_FAILED
    with pytest.raises(LocalError):
        server.session.tls_started((), server.now)


def test_tls_first() -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True, tls_required=True)).greet()
    assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [530]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"NOOP\n", 500),
        (b"NOOP\r\r\n", 500),
        (b"NOOP \0\r\n", 500),
        (b"N\0OP\r\n", 500),
        (b"NOOP \xc3\xa9\r\n", 500),
        (b"\xff\xfe\r\n", 500),
        (b"NOOP " + b"x" * 2048 + b"\r\n", 500),
        (b"XXXX " + b"x" * 2048 + b"\r\n", 500),
        (b"MAIL\r\n", 501),
        (b"MAILFROM:<a@b>\r\n", 500),
        (b"RSET now\r\n", 501),
        (b"DATA now\r\n", 501),
        (b"QUIT now\r\n", 501),
        (b"STARTTLS now\r\n", 501),
        (b"START\r\n", 500),
        (b"VRFY\r\n", 501),
        (b"VRFY a\rb\r\n", 500),
    ],
)
def test_lines_that_are_no_commands(line: bytes, code: int) -> None:
    server = ServerTalk(replace(SETTINGS, starttls=True)).greet()
    assert codes(server.send(line)) == [code]
    assert codes(server.send(b"NOOP\r\n")) == [250]


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: mx\r\n\r\nEHLO evil\r\nMAIL FROM:<a@b>\r\n",
        b"POST /x HTTP/1.1\r\n",
        b"CONNECT mx:25 HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \n\x00\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \r\n\x00",
        b"x" * 70_000,
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT x LAST\r\nQUIT\r\n",
        b"BDAT 5LAST\r\nQUIT\r\n",
    ],
)
def test_what_is_not_smtp_ends_the_session(octets: bytes) -> None:
    server = ServerTalk(replace(SETTINGS, strict_pipelining=False)).greet()
    assert codes(server.send(octets))[-1] in (500, 501, 554)
    assert server.ending is Ending.NOT_SMTP
    assert server.current is None


def test_chunks_where_none_are_offered_are_passed_over() -> None:
    server = ServerTalk(replace(SETTINGS, chunking=False)).greet()
    assert codes(server.send(ENVELOPE + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")) == [250, 250, 502, 250]


def test_binarymime() -> None:
    server = ServerTalk(replace(SETTINGS, binary_mime=True)).greet()
    octets = b"a\rb\nc\0\r"
    envelope = b"MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n"
    assert codes(server.send(envelope + b"DATA\r\n")) == [250, 250, 503]
    assert codes(server.send(b"BDAT %d LAST\r\n" % len(octets) + octets)) == [250]
    assert server.held[0].content == octets


@pytest.mark.parametrize(
    ("content", "reason", "code"),
    [
        (b"a\nb\r\n", Abort.BARE_LF, 554),
        (b"a\rb\r\n", Abort.BARE_CR, 554),
        (b"a\0b\r\n", Abort.NUL, 554),
        (b"x" * 1000 + b"\r\n", Abort.LONG_LINE, 554),
        (b"y\r\n" * 30_000, Abort.TOO_LARGE, 552),
    ],
)
def test_content_that_is_refused(content: bytes, reason: Abort, code: int) -> None:
    """The same in DATA and in chunks, of which all but a too large one are answered as if nothing were wrong."""
    settings = replace(SETTINGS, max_size=1 << 16, bounds=ServerBounds(line=1000))
    server = ServerTalk(settings).greet()
    server.send(ENVELOPE + b"DATA\r\n")
    assert codes(server.send(content + b".\r\n")) == [code]
    server.send(ENVELOPE)
    assert codes(server.send(b"BDAT %d LAST\r\n" % len(content) + content)) == [code]
    server.send(ENVELOPE)
    chunks = codes(server.send(b"BDAT %d\r\n" % len(content) + content + b"BDAT 2 LAST\r\n\r\n"))
    assert chunks == ([552, 503] if code == 552 else [250, 554])
    assert server.of(TransactionAborted) == [TransactionAborted(reason)] * 3
    assert not server.held
    assert codes(server.send(ENVELOPE)) == [250, 250]


def test_a_declared_size() -> None:
    server = ServerTalk(replace(SETTINGS, max_size=1 << 16)).greet()
    assert server.send(b"MAIL FROM:<a@b> SIZE=65537\r\n").startswith(b"552 5.3.4 ")
    assert codes(server.send(b"MAIL FROM:<a@b> SIZE=65536\r\n")) == [250]


def test_a_refused_message_that_does_not_end() -> None:
    server = ServerTalk(replace(SETTINGS, bounds=ServerBounds(discarded=10_000))).greet()
    server.send(ENVELOPE + b"DATA\r\n")
    server.send(b"a\nb\r\n")
    for _ in range(99):
        assert server.send(b"x" * 98 + b"\r\n") == b""
    assert codes(server.send(b"x" * 998 + b"\r\n")) == [421]
    assert server.ending is Ending.DISCARDED


# ----------------------------------------------------------------------------------------------------------- bounds


def test_too_many_recipients() -> None:
    server = bounded(recipients=100)
    server.send(b"MAIL FROM:<a@b>\r\n")
    said = codes(server.send(b"".join(b"RCPT TO:<r%d@b>\r\n" % i for i in range(2000))))
    assert said == [250] * 100 + [452] * 1900
    assert codes(server.send(b"DATA\r\n")) == [354], "those who fit get their message"


def test_too_many_errors() -> None:
    server = bounded(errors=3)
    assert codes(server.send(b"X\r\n" * 9)) == [500, 500, 500, 500, 421]
    assert server.ending is Ending.ERRORS


def test_a_message_makes_up_for_errors() -> None:
    server = bounded(errors=3)
    for _ in range(3):
        assert codes(server.send(b"X\r\n" * 3 + ENVELOPE + b"BDAT 0 LAST\r\n")) == [500] * 3 + [250] * 3


def test_consequences_of_a_refused_sender_are_no_errors() -> None:
    server = ServerTalk(
        replace(SETTINGS, bounds=ServerBounds(errors=3, refusals=250)), answers={MailFrom: lambda event: NO_SUCH_USER}
    ).greet()
    group = b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 100
    assert codes(server.send(group)) == [550] + [503] * 100
    assert codes(server.send(group)) == [550] + [503] * 100
    assert codes(server.send(group)) == [550] + [503] * 100, "never in the middle of a transaction"
    assert codes(server.send(group)) == [421]


def test_too_many_commands_without_a_message() -> None:
    server = bounded(commands=5)
    assert codes(server.send(b"NOOP\r\n" * 5)) == [250] * 4 + [421], "EHLO was one"
    assert server.ending is Ending.COMMANDS


def test_enough_messages() -> None:
    server = bounded(messages=2)
    message = ENVELOPE + b"BDAT 0 LAST\r\n"
    assert codes(server.send(message * 3)) == [250] * 6 + [421]
    assert server.ending is Ending.MESSAGES
    assert len(server.held) == 2


def test_a_flood_behind_the_end_is_not_kept() -> None:
    server = ServerTalk().greet()
    server.send(b"QUIT\r\n")
    for _ in range(100):
        assert server.send(b"x" * 10_000) == b""
    assert server.session._buffer == b""


# ------------------------------------------------------------------------------------------------------------ time

TIMES = ServerTimeouts(command=300, data=200, write=100, session=10_000, min_rate=10)


def timed(**answers: object) -> ServerTalk:
    return ServerTalk(replace(SETTINGS, timeouts=TIMES), answers=dict(answers)).greet()  # type: ignore[arg-type]


def test_a_silent_client() -> None:
    server = timed()
    assert server.at(1299.0) == b""
    assert codes(server.at(1300.0)) == [421]
    assert server.ending is Ending.COMMAND_TIMEOUT
    assert server.session.deadline() is None


def test_a_command_that_drips() -> None:
    server = timed()
    for octet in b"MAIL FROM:<aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":
        server.at(server.now + 10)
        server.send(bytes([octet]))
    assert server.ending is Ending.COMMAND_TIMEOUT
    assert server.now < 1500


def test_content_that_stops() -> None:
    server = timed()
    server.send(ENVELOPE + b"DATA\r\n")
    server.at(1100.0)
    server.send(b"x" * 5000 + b"\r\n")
    assert server.at(1299.0) == b""
    assert codes(server.at(1300.0)) == [421]
    assert server.ending is Ending.DATA_TIMEOUT
    assert server.current is None


@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 1000000 LAST\r\n"])
def test_content_that_drips(command: bytes) -> None:
    server = timed()
    server.send(ENVELOPE + command)
    for _ in range(1000):
        server.at(server.now + 1)
        server.send(b"x")
    assert server.ending is Ending.TOO_SLOW
    assert server.now == 2000.0
    fast = timed()
    fast.send(ENVELOPE + command)
    for _ in range(1000):
        fast.at(fast.now + 1)
        fast.send(b"x" * 11)
    assert fast.ending is None


def test_our_own_time_is_not_the_clients() -> None:
    """While the application decides, commits or pauses, the client is not waited for."""
    server = timed()
    server.answers = {RcptTo: nothing, MessageEnd: nothing}
    server.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
    assert server.at(2500.0) == b""
    server.answer(server.open.pop())
    server.pump()
    server.at(2799.0)
    assert codes(server.send(b"DATA\r\n")) == [354]
    server.send(b"x\r\n")
    server.session.pause(server.now)
    server.at(4500.0)
    server.session.resume(server.now)
    assert server.at(4699.0) == b""
    assert server.send(b"y\r\n.\r\n") == b""
    assert server.at(7000.0) == b""
    server.answer(server.open.pop())
    assert codes(server.pump()) == [250]
    assert server.at(7299.0) == b""
    assert codes(server.at(7300.0)) == [421]


def test_replies_that_are_not_read() -> None:
    server = timed()
    session = server.session
    session.receive_data(b"NOOP\r\n", 1000.0)
    assert session.next_event() is None
    assert session.deadline() == 1100.0
    session.handle_timer(1100.0)
    assert session.next_event() == SessionEnded(Ending.WRITE_TIMEOUT)


def test_a_session_that_lasts() -> None:
    server = timed()
    while server.ending is None:
        server.send(ENVELOPE + b"BDAT 0 LAST\r\n")
        server.at(server.now + 200)
    assert server.ending is Ending.SESSION_TIME
    assert codes(server.out)[-1] == 421
    assert server.now <= 11_200.0


def test_the_end_of_a_session_waits_for_answers_a_while() -> None:
    for answered in (True, False):
        server = timed()
        server.answers = {MessageEnd: nothing}
        server.send(ENVELOPE + b"BDAT 0 LAST\r\n")
        server.at(11_050.0)
        assert server.ending is None
        if answered:
            server.answer(server.open[0])
            assert codes(server.pump()) == [250, 421]
        server.at(11_200.0)
        assert server.ending is Ending.SESSION_TIME


def test_no_time_limits_a_handshake_but_the_session() -> None:
    server = ServerTalk(replace(SETTINGS, timeouts=TIMES, starttls=True)).greet()
    server.send(b"STARTTLS\r\n")
    assert server.session.deadline() == 11_000.0
    server.session.tls_started((), 1200.0)
    assert server.session.deadline() == 1500.0


# --------------------------------------------------------------------------------------------------------- the end


def test_eof() -> None:
    server = ServerTalk().greet()
    assert server.eof() == b""
    assert server.ending is Ending.EOF


def test_eof_in_a_message() -> None:
    for command in (b"DATA\r\n", b"BDAT 100 LAST\r\n"):
        server = ServerTalk().greet()
        server.send(ENVELOPE + command)
        server.send(b"hello\r\n")
        server.eof()
        assert server.events[-2:] == [TransactionAborted(Abort.ENDED), SessionEnded(Ending.EOF)]


def test_what_came_before_eof_is_answered() -> None:
    server = ServerTalk(answers={MessageEnd: nothing, RcptTo: nothing}).greet()
    server.send(ENVELOPE + b"BDAT 0 LAST\r\nNOOP\r\n")
    server.eof()
    assert server.ending is None
    server.answer(server.open.pop())
    server.pump()
    assert server.ending is None
    server.answer(server.open.pop())
    assert codes(server.pump()) == [250, 250]
    assert server.ending is Ending.EOF


@pytest.mark.parametrize("state", ["opened", "greeted", "sender", "recipients", "chunks"])
def test_a_connection_that_breaks(state: str) -> None:
    server = ServerTalk()
    for step in STATES[state]:
        server.send(step)
    server.session.lose()
    server.pump()
    assert server.ending is Ending.LOST
    assert server.current is None
    assert server.session.next_event() is None
    assert server.send(b"NOOP\r\n") == b""


class TestShutdown:
    """A server that stops says 421, but lets a message come to its end."""

    def test_idle(self) -> None:
        for server in (ServerTalk(), ServerTalk().greet()):
            server.session.shutdown(server.now)
            assert server.pump() == b"421 4.3.2 service shuts down; closing connection\r\n"
            assert server.ending is Ending.SHUTDOWN

    def test_before_the_greeting_is_decided(self) -> None:
        server = ServerTalk(answers={Opened: nothing})
        server.session.shutdown(server.now)
        server.answer(server.open[0], GREETING)
        assert codes(server.pump()) == [220, 421]

    @pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT %d LAST\r\n" % len(TEXT)])
    def test_in_a_message(self, command: bytes) -> None:
        server = ServerTalk(answers={MessageEnd: nothing}).greet()
        server.send(ENVELOPE + command)
        server.session.shutdown(server.now)
        assert server.pump() == b""
        server.send(TEXT + b".\r\n" if command == b"DATA\r\n" else TEXT)
        assert len(server.held) == 1
        assert server.ending is None
        server.answer(server.open[0])
        assert codes(server.pump()) == [250, 421]

    def test_between_commands_of_a_transaction(self) -> None:
        server = ServerTalk().greet()
        server.send(ENVELOPE)
        server.session.shutdown(server.now)
        assert codes(server.send(b"BDAT 0 LAST\r\n" + ENVELOPE)) == [250, 421]

    def test_rset_ends_it(self) -> None:
        server = ServerTalk().greet()
        server.send(ENVELOPE)
        server.session.shutdown(server.now)
        assert codes(server.send(b"RSET\r\n")) == [250, 421]

    def test_in_a_handshake(self) -> None:
        server = ServerTalk(replace(SETTINGS, starttls=True)).greet()
        server.send(b"STARTTLS\r\n")
        server.session.shutdown(server.now)
        assert server.pump() == b""
        server.session.tls_started((), server.now)
        assert codes(server.pump()) == [421]
