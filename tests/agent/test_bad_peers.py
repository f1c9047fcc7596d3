"""Servers that misbehave otherwise: endless replies, 421 and breaks at any moment, odd keywords, control characters.

Time is bounded too: see ``test_slow_peers``.
"""

from __future__ import annotations

import re

import pytest
from tests.support.player import Player, assert_over_after, at, sink_for
from tests.support.script import Script, Step, Then

PHASES = ["MAIL", "RCPT", "DATA", "DOT"]


# Every buffer is bounded


@pytest.mark.parametrize(
    "reply",
    [
        b"250 " + b"x" * 70_000 + b"\r\n",
        b"x" * 3_000_000,
        b"250-x\r\n" * 100_000 + b"250 x\r\n",
        b"250-\r\n" * 1_000_000,
        b"\n" * 300_000,
    ],
    ids=["long line", "no line end", "long reply", "longer reply", "line ends"],
)
@pytest.mark.parametrize("phase", ["EHLO", "MAIL", "DOT"])
def test_endless_replies_end(player: Player, phase: str, reply: bytes) -> None:
    with sink_for(Script(replies=at(phase, reply))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert all(len(report.message) < 10_000 for report in outcome.reports)


def test_an_endless_greeting_ends(player: Player) -> None:
    with sink_for(Script(banner=Step(b"220-x\r\n" * 100_000))) as sink:
        assert player.deliver(sink).fates == "DD"


def test_long_but_legal_replies_count(player: Player, caps: tuple[str, ...]) -> None:
    replies = at("MAIL", b"250-x\r\n" * 5000 + b"250 x\r\n") | at("RCPT", b"250 " + b"y" * 60_000 + b"\r\n")
    with sink_for(Script(caps=caps, replies=replies)) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "OO"
    assert all(len(report.message) < 10_000 for report in outcome.reports)


@pytest.mark.parametrize("keywords", [1001, 5000])
def test_more_keywords_than_anybody_needs(player: Player, keywords: int) -> None:
    caps = ("PIPELINING", *(f"X-{n}" for n in range(keywords)))
    with sink_for(Script(caps=caps)) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates in {"OO", "DD"}
    assert sum(sink.deliveries().values()) == outcome.fates.count("O")


def test_replies_and_chunks_that_cross_do_not_deadlock(player: Player) -> None:
    """The server reads nothing while its replies, more than all buffers hold, are not read."""
    recipients = tuple(f"u{n}@example.com" for n in range(60))
    replies = at("RCPT", b"250-%s\r\n" % (b"x" * 60_000) * 3 + b"250 ok\r\n")
    with sink_for(Script(caps=("PIPELINING", "CHUNKING"), replies=replies)) as sink:
        outcome = player.deliver(sink, recipients, body="a line that is one of many\n" * 500_000)
    assert outcome.fates == "O" * 60


# 421, and connections that break


@pytest.mark.parametrize("then", [Then.GO_ON, Then.CLOSE, Then.RESET])
@pytest.mark.parametrize("phase", ["EHLO", *PHASES])
def test_421_answers_its_command_and_is_the_end(player: Player, phase: str, then: Then, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at(phase, Step("421 4.3.2 closing", then)))) as sink:
        assert player.deliver(sink).fates == "DD"
    assert sink.deliveries() == {}
    assert_over_after(sink, phase)


def test_421_to_the_second_recipient(player: Player, caps: tuple[str, ...]) -> None:
    with sink_for(Script(caps=caps, replies=at("RCPT", "250 ok", Step("421 4.3.2 closing", Then.CLOSE)))) as sink:
        assert player.deliver(sink).fates == "DD"
    assert sink.deliveries() == {}


def test_a_refusal_before_the_421_stands(player: Player, caps: tuple[str, ...]) -> None:
    steps = ("550 5.1.1 no", Step("421 4.3.2 closing", Then.CLOSE))
    with sink_for(Script(caps=caps, replies=at("RCPT", *steps))) as sink:
        assert player.deliver(sink).fates == "ED"


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize("phase", ["banner", "HELO", *PHASES])
def test_the_connection_breaks(player: Player, phase: str, then: Then, caps: tuple[str, ...]) -> None:
    broken = Step(None, then)
    if phase == "banner":
        script = Script(banner=broken)
    elif phase == "HELO":
        script = Script(replies=at("EHLO", broken) | at("HELO", broken))
    else:
        script = Script(caps=caps, replies=at(phase, broken))
    with sink_for(script) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "DD"
    assert sink.deliveries() == {}


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_the_connection_breaks_in_the_content(player: Player, then: Then, caps: tuple[str, ...]) -> None:
    script = Script(caps=caps, in_content=(50_000, Step(None, then)), read_pause=0.001)
    with sink_for(script) as sink:
        assert player.deliver(sink, body="a line that is one of many\n" * 500_000).fates == "DD"
    assert not sink.transactions[0].complete


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_ehlo_breaks_and_helo_works(player: Player, then: Then) -> None:
    with sink_for(Script(replies=at("EHLO", Step(None, then)))) as sink:
        assert player.deliver(sink).fates == "OO"
    assert [connection.verbs[0] for connection in sink.connections] == ["EHLO", "HELO"]


# Parameters and characters


@pytest.mark.parametrize(
    "cap",
    [
        "SIZE abc",
        "SIZE -1",
        "SIZE 0",
        "SIZE 1 2",
        "SIZE 1\x00",
        "SIZE +1",
        "SIZE 0x1",
        "SIZE \xb2",
        "SIZE 99999999999999999999999999",
        "SIZE=1",
        "LIMITS RCPTMAX=0",
        "LIMITS RCPTMAX=x",
        "X-RCPTLIMIT 0",
        "X-RCPTLIMIT -5",
        "X-RCPTLIMIT many",
        "DELIVERBY 99999999999999999999999",
        "AUTH",
        "",
        "-",
        "\x1b[2J",
        "PIPELINING" + "x" * 2000,
    ],
    ids=repr,
)
def test_a_broken_keyword_is_ignored(player: Player, cap: str) -> None:
    with sink_for(Script(caps=("8BITMIME", cap, "DSN"))) as sink:
        assert player.deliver(sink).fates == "OO"


@pytest.mark.parametrize(
    "text",
    [
        b"\x1b[2J\x1b]0;title\x07",
        b"a\x01b\tc",
        b"a\rb",
        b"\x00\x00",
        b"\xff\xfe \x80\x9b",
        b"\x7f\x08\x08",
        "é".encode(),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("phase", "fates"), [("RCPT", "EE"), ("DOT", "EE"), ("DOT", "OO")])
def test_control_characters_reach_neither_report_nor_log(
    player: Player, phase: str, fates: str, text: bytes, caps: tuple[str, ...]
) -> None:
    code = b"550 5.1.1 " if fates == "EE" else b"250 2.0.0 "
    with sink_for(Script(caps=caps, replies=at(phase, code + text + b" end\r\n"))) as sink:
        outcome = player.deliver(sink)  # Report.parse refuses control characters
    assert outcome.fates == fates
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f\x9b]", outcome.log.replace(b"\xc3\xa9", b""))
    assert all(line.count(b"\t") == 1 for line in outcome.log.splitlines() if b"\tjobspec: " not in line)
