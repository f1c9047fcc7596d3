"""Replies that are not what RFC 5321 4.2 allows: the session ends, what is undecided is deferred.

Malformed, half, contradictory, early, unexpected and unasked-for replies, each from a server of its own, with and
without PIPELINING. A success that was given before stands, whatever follows.
"""

from __future__ import annotations

import pytest
from tests.support.player import Player, assert_over_after, at, sink_for
from tests.support.script import Drip, Script, Step, Then

# Complete, well formed, one code

MALFORMED = [
    b"25 ok\r\n",
    b"2500 ok\r\n",
    b"abc ok\r\n",
    b"650 ok\r\n",
    b"150 ok\r\n",
    b"050 ok\r\n",
    b"250.ok\r\n",
    b"250_ok\r\n",
    b" 250 ok\r\n",
    b"\r\n",
    b"\n",
    b"-\r\n",
    b"\x00\x00\x00\r\n",
    b"\xb2\xb5\xb0 ok\r\n",
    b"2\x0050 ok\r\n",
    b"250-one\r\n251 two\r\n",
    b"250-one\r\n550 two\r\n",
    b"250-one\r\nnonsense\r\n250 three\r\n",
    b"250-one\r\n\r\n250 three\r\n",
]
PHASES = ["MAIL", "RCPT", "DATA", "DOT"]


@pytest.mark.parametrize("reply", MALFORMED, ids=repr)
@pytest.mark.parametrize("phase", PHASES)
def test_a_malformed_reply_ends_the_session(player: Player, phase: str, reply: bytes, caps: tuple[str, ...]) -> None:
    reply = reply.replace(b"250", b"354") if phase == "DATA" else reply
    with sink_for(Script(caps=caps, replies=at(phase, reply))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert_over_after(sink, phase)


@pytest.mark.parametrize("reply", MALFORMED, ids=repr)
def test_a_malformed_answer_to_ehlo(player: Player, reply: bytes) -> None:
    with sink_for(Script(replies=at("EHLO", reply))) as sink:
        assert player.deliver(sink).fates == "DD"
    assert sink.transactions == []


@pytest.mark.parametrize("reply", [b"250 half", b"250-half\r\n", b"250-half\r\n250", b"2", b"250\r"], ids=repr)
@pytest.mark.parametrize("phase", PHASES)
def test_half_a_reply_is_none(player: Player, phase: str, reply: bytes, caps: tuple[str, ...]) -> None:
    reply = reply.replace(b"2", b"3", 1).replace(b"50", b"54") if phase == "DATA" else reply
    with sink_for(Script(caps=caps, replies=at(phase, Step(reply, Then.CLOSE)))) as sink:
        assert player.deliver(sink).fates == "DD"


@pytest.mark.parametrize(
    "reply", [b"250\r\n", b"250 \r\n", b"250 ok\n", b"250-\r\n250 ok\r\n", b"250-a\n250-b\r\n250\r\n"], ids=repr
)
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DOT"])
def test_what_is_unusual_but_well_formed_counts(
    player: Player, phase: str, reply: bytes, caps: tuple[str, ...]
) -> None:
    with sink_for(Script(caps=caps, replies=at(phase, reply))) as sink:
        assert player.deliver(sink).fates == "OO"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_replies_in_pieces(player: Player, size: int, caps: tuple[str, ...]) -> None:
    replies = at("RCPT", "250-a\r\n250 b", "550-5.1.1 no\r\n550 5.1.1 user") | at("DOT", "250-x\r\n250-\r\n250 y")
    with sink_for(Script(caps=caps, replies=replies, drip=Drip(size))) as sink:
        assert player.deliver(sink).fates == "OE"


def test_a_reply_before_the_last_octet_of_the_content_is_no_reply(player: Player, caps: tuple[str, ...]) -> None:
    script = Script(caps=caps, in_content=(100, Step("250 2.0.0 accepted, whatever you send")), read_pause=0.002)
    with sink_for(script) as sink:
        outcome = player.deliver(sink, body="a line that is one of many\n" * 1_000_000)
    assert outcome.fates == "DD"
    assert not sink.transactions[0].complete


# The codes each command may get


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("EHLO", "354 go"),
        ("EHLO", "334 go"),
        ("MAIL", "354 go"),
        ("MAIL", "334 go"),
        ("RCPT", "354 go"),
        ("DATA", "250 ok"),
        ("DATA", "220 ok"),
        ("DOT", "354 go on"),
        ("DOT", "334 go on"),
        ("DOT", "300 go on"),
        ("DOT", "200 ok"),
        ("DOT", "220 hello"),
        ("DOT", "221 bye"),
        ("DOT", "299 ok"),
    ],
)
def test_an_unexpected_code_is_never_a_success(player: Player, phase: str, reply: str, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at(phase, reply))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert_over_after(sink, phase)


@pytest.mark.parametrize("banner", ["354 hello", "334 hello", "300 hello"])
def test_a_greeting_is_no_3xx(player: Player, banner: str) -> None:
    with sink_for(Script(banner=Step(banner))) as sink:
        assert player.deliver(sink).fates == "DD"
    assert sink.transactions == []


@pytest.mark.parametrize("banner", ["200 hello", "250 hello", "299 hello"])
def test_a_greeting_counts_by_its_first_digit(player: Player, banner: str) -> None:
    with sink_for(Script(banner=Step(banner))) as sink:
        assert player.deliver(sink).fates == "OO"


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("EHLO", "254 hello"),
        ("RCPT", "251 will forward"),
        ("RCPT", "252 will try"),
        ("RCPT", "254 ok"),
        ("RCPT", "220 hello"),
        ("RCPT", "299 ok"),
        ("MAIL", "251 ok"),
        ("MAIL", "299 ok"),
        ("DATA", "334 go"),
        ("DATA", "355 go"),
        ("DOT", "251 ok"),
        ("DOT", "259 ok"),
    ],
)
def test_the_other_codes_of_success(player: Player, phase: str, reply: str, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at(phase, reply))) as sink:
        assert player.deliver(sink).fates == "OO"


# Unasked-for replies, and what was decided before


def test_an_unasked_for_reply_shifts_nothing(player: Player, caps: tuple[str, ...]) -> None:
    """With pipelining the surplus reply would make a 250 of a recipient the answer to DATA."""
    with sink_for(Script(caps=caps, replies=at("MAIL", b"250 ok\r\n250 surplus\r\n"))) as sink:
        assert player.deliver(sink).fates == "DD"
    assert sink.deliveries() == {}


@pytest.mark.parametrize("surplus", [b"550 5.0.0 no\r\n", b"250 ok\r\n", b"junk\r\n", b"junk"], ids=repr)
def test_what_follows_a_success_cannot_take_it_back(player: Player, surplus: bytes, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at("DOT", b"250 taken\r\n" + surplus))) as sink:
        assert player.deliver(sink).fates == "OO"
        assert player.deliver(sink).fates == "OO"


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_quit_may_go_unanswered(player: Player, then: Then, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at("QUIT", Step(None, then)))) as sink, sink_for() as other:
        assert player.deliver(sink).fates == "OO"
        assert player.deliver(other).fates == "OO"


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_the_connection_breaks_after_the_success(player: Player, then: Then, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at("DOT", Step("250 ok", then)))) as sink:
        assert [player.deliver(sink).fates for _ in range(3)] == ["OO"] * 3
    assert len(sink.connections) == 3


def test_a_surplus_reply_before_the_next_message(player: Player, caps: tuple[str, ...]) -> None:
    """The surplus must not become the answer to the next MAIL."""
    replies = at("DOT", b"250 taken\r\n250 surplus\r\n") | at("MAIL", "250 ok", "550 5.7.1 not you")
    with sink_for(Script(caps=caps, replies=replies)) as sink:
        assert [player.deliver(sink).fates for _ in range(2)] == ["OO", "OO"]
    assert len(sink.connections) == 2
