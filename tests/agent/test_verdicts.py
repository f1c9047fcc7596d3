"""Where verdicts come from (RFC 5321 4.2.1, RFC 2033, RFC 3463): which reply decides about whom.

"Delivered" comes only from a 2xx to the end of the content (LMTP: one for each recipient), "failed" only from a 5xx.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.player import TWO, Player, at, sink_for
from tests.support.script import Script, Step, Then

BY_REPLY = {
    "MAIL 450": (at("MAIL", "450 4.7.1 later"), "DD"),
    "MAIL 550": (at("MAIL", "550 5.7.1 no"), "EE"),
    "RCPT 450 250": (at("RCPT", "450 4.2.1 later", "250 ok"), "DO"),
    "RCPT 550 250": (at("RCPT", "550 5.1.1 no", "250 ok"), "EO"),
    "RCPT 550": (at("RCPT", "550 5.1.1 no"), "EE"),
    "RCPT 450": (at("RCPT", "450 4.2.1 later"), "DD"),
    "RCPT 550 450": (at("RCPT", "550 5.1.1 no", "450 4.2.1 later"), "ED"),
    "RCPT 503": (at("RCPT", "503 5.5.1 sequence"), "DD"),
    "DATA 450": (at("DATA", "450 4.3.0 no"), "DD"),
    "DATA 554": (at("DATA", "554 5.5.1 no"), "EE"),
    "dot 451": (at("DOT", "451 4.3.0 no"), "DD"),
    "dot 554": (at("DOT", "554 5.6.0 no"), "EE"),
    "RCPT 250 550, dot 451": (at("RCPT", "250 ok", "550 5.1.1 no") | at("DOT", "451 4.3.0 no"), "DE"),
    "RCPT 450 250, dot 554": (at("RCPT", "450 4.2.1 later", "250 ok") | at("DOT", "554 5.6.0 no"), "DE"),
    "EHLO 500": (at("EHLO", "500 what"), "OO"),
    "EHLO 450": (at("EHLO", "450 not now"), "OO"),
    "EHLO 550, HELO 550": (at("EHLO", "550 no") | at("HELO", "550 no"), "EE"),
    "EHLO 500, HELO 450": (at("EHLO", "500 what") | at("HELO", "450 not now"), "DD"),
}


@pytest.mark.parametrize("case", BY_REPLY)
def test_verdicts_by_reply(player: Player, case: str, caps: tuple[str, ...]) -> None:
    replies, fates = BY_REPLY[case]
    with sink_for(Script(caps=caps, replies=replies)) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == fates
    assert len(sink.connections) == 1


@pytest.mark.parametrize(("banner", "fates"), [("554 no service", "EE"), ("450 not now", "DD"), ("500 no", "EE")])
def test_greetings_that_refuse(player: Player, banner: str, fates: str) -> None:
    with sink_for(Script(banner=Step(banner, Then.CLOSE))) as sink:
        assert player.deliver(sink).fates == fates


@pytest.mark.parametrize("refusal", ["452 4.5.3 too many recipients", "552 too many recipients"])
def test_too_many_recipients_goes_on_in_a_new_transaction(player: Player, refusal: str, caps: tuple[str, ...]) -> None:
    recipients = tuple(f"u{n}@example.com" for n in range(5))
    steps = ("250 ok", "250 ok", refusal, refusal, refusal, "250 ok", "250 ok", refusal, "250 ok")
    with sink_for(Script(caps=caps, replies=at("RCPT", *steps))) as sink:
        assert player.deliver(sink, recipients).fates == "OOOOO"
    assert [len(t.delivered) for t in sink.transactions] == [2, 2, 1]
    assert sink.deliveries() == {to.encode(): 1 for to in recipients}


def test_all_refused_and_354_nevertheless(player: Player, caps: tuple[str, ...]) -> None:
    """RFC 2920: at most a lone dot may follow, never the message."""
    with sink_for(Script(caps=caps, replies=at("RCPT", "550 no") | at("DATA", "354 go"))) as sink:
        assert player.deliver(sink).fates == "EE"
    assert all(transaction.content == b"" for transaction in sink.transactions)


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize(
    ("reply", "for_a_mailbox", "for_the_message"),
    [
        ("550 5.7.1 denied", b"5.7.1", b"5.7.1"),
        ("550 4.2.1 contradictory", b"5.1.1", b"5.0.0"),
        ("550 no 5.7.1", b"5.1.1", b"5.0.0"),
        ("553 no", b"5.1.3", b"5.0.0"),
        ("554 5.999.999 far", b"5.999.999", b"5.999.999"),
        ("554 5.1.1.1 more", b"5.0.0", b"5.0.0"),
    ],
)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DOT"])
def test_the_code_of_a_refusal_counts_offered_or_not_and_else_blames_no_mailbox_for_a_message(
    player: Player, verb: str, offered: bool, reply: str, for_a_mailbox: bytes, for_the_message: bytes
) -> None:
    caps = ("ENHANCEDSTATUSCODES",) if offered else ()
    with sink_for(Script(caps=caps, replies=at(verb, reply))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "EE"
    status = player.office.notary(outcome.reports[0])[2].split(b" ")[0]
    assert status == (for_a_mailbox if verb == "RCPT" else for_the_message)


@pytest.mark.parametrize("refusal", ["552 5.5.3 too many recipients", "552 too many recipients", "452 4.5.3 too many"])
def test_too_many_recipients_with_nobody_accepted_waits(player: Player, refusal: str, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at("RCPT", refusal))) as sink:
        assert player.deliver(sink).fates == "DD"


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_a_server_that_wants_tls_makes_mail_wait_and_the_report_says_why(
    player: Player, verb: str, caps: tuple[str, ...]
) -> None:
    must = "530 5.7.0 Must issue a STARTTLS command first"
    with sink_for(Script(caps=caps, replies=at(verb, must))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert must.encode() in outcome.reports[0].message
    assert outcome.reports[0].message.endswith(b"in clear: no TLS is configured")


@pytest.mark.parametrize("end", ["450 4.3.1 later", "550 5.7.1 no", Step("421 4.3.2 bye", Then.CLOSE)], ids=str)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING")], ids="-".join)
def test_a_reply_too_many_before_a_refused_content(
    player: Player, extensions: tuple[str, ...], verb: str, end: str | Step
) -> None:
    """Counted one by one, the reply to the last RCPT would be the receipt for the message."""
    replies = at(verb, "250 ok\r\n250 again", "250 ok") | at("BDAT", end) | at("DOT", end)
    with sink_for(Script(caps=extensions, replies=replies)) as sink:
        assert player.deliver(sink).fates == "DD"


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING")], ids="-".join)
@pytest.mark.parametrize(("reply", "fates"), [("552 5.3.4 too large", "EE"), ("452 4.3.1 no room", "DD")])
def test_a_refusal_in_the_middle_of_the_content_is_the_answer_to_it(
    player: Player, reply: str, fates: str, extensions: tuple[str, ...], then: Then
) -> None:
    script = Script(caps=extensions, in_content=(50_000, Step(reply, then)), read_pause=0.001)
    with sink_for(script) as sink:
        outcome = player.deliver(sink, body="a line that is one of many\n" * 300_000)
    assert outcome.fates == fates
    assert outcome.reports[0].message.endswith(reply.encode())
    assert len(sink.connections) == 1


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_the_words_of_a_refused_greeting_are_in_the_report(player: Player, then: Then) -> None:
    replies = at("EHLO", "550 5.7.1 no reverse name") | at("HELO", Step(None, then))
    with sink_for(Script(replies=replies)) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert b"550 5.7.1 no reverse name" in outcome.reports[0].message
    with sink_for(Script(banner=Step("220-hello\r\n521 5.3.2 you are listed", Then.CLOSE))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert b"521 5.3.2 you are listed" in outcome.reports[0].message


@pytest.mark.parametrize("reply", ["503 5.5.1 bad sequence", "500 Pipelining not supported"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_a_server_that_minds_pipelining_is_served_one_by_one(player: Player, verb: str, reply: str) -> None:
    with sink_for(Script(caps=("PIPELINING",), replies=at(verb, reply, "250 ok"))) as sink:
        assert player.deliver(sink).fates == "OO"
        assert player.deliver(sink).fates == "OO"
    assert set(sink.deliveries().values()) == {2}
    assert not any(c.followed for one in sink.connections for c in one.commands[5:] if c.verb in ("MAIL", "RCPT"))


# LMTP: one reply for each accepted recipient


@pytest.fixture(scope="module")
def lmtp_player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    player = Player(tmp_path_factory.mktemp("lmtp"), "-M", "-p", "24")
    yield player
    player.close()


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize(
    ("steps", "fates"),
    [
        (("250 d1", "250 d2", "250 d3"), "OOO"),
        (("250 d1", "550 5.2.2 full", "450 4.2.2 full"), "OED"),
        (("250 d1", Step(None, Then.CLOSE)), "ODD"),
        (("250 d1", Step(None, Then.RESET)), "ODD"),
        (("250 d1", "550 no", Step(None, Then.CLOSE)), "OED"),
        (("250 d1", Step("421 closing", Then.CLOSE)), "ODD"),
        (("250 d1", "354 what", "250 d3"), "ODD"),
        (("250 d1", b"nonsense\r\n", "250 d3"), "ODD"),
        ((Step(None, Then.CLOSE),), "DDD"),
        (("250 d1", "250 d2", Step(b"250 d3", Then.CLOSE)), "OOD"),
    ],
    ids=str,
)
def test_lmtp_answers_stand_each_for_itself(
    lmtp_player: Player, steps: tuple[str | bytes | Step, ...], fates: str, chunking: bool, caps: tuple[str, ...]
) -> None:
    verb = "BDAT" if chunking else "DOT"
    caps = (*caps, "CHUNKING") if chunking else caps
    with sink_for(Script(lmtp=True, caps=caps, replies=at(verb, *steps))) as sink:
        assert lmtp_player.deliver(sink, (*TWO, "c@example.com")).fates == fates


def test_lmtp_has_no_fallback(lmtp_player: Player) -> None:
    with sink_for(Script()) as sink:
        assert lmtp_player.deliver(sink).fates in {"DD", "EE"}
    assert [verb for verb in sink.connections[0].verbs if verb != "QUIT"] == ["LHLO"]
