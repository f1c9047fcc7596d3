"""The drawing in a terminal: what it looks like, and that nothing bursts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.network import content_form, message, numbered
from tests.support.traces import TracedWorld, traces

from zsmtp.net.script import Reaction, Script
from zsmtp.net.scripted import Unreachable
from zsmtp.observers.chart import duration_words, sections, size_words, summary
from zsmtp.observers.document import Addresses, BrokenItem, Fates, Trace
from zsmtp.observers.waterfall import draw
from zsmtp.text.lines import plain, width_of
from zsmtp.text.look import Style

GOLDEN = Path(__file__).parent / "golden"


def slow(say: str, milliseconds: int) -> Reaction:
    return Reaction(say, delay=milliseconds / 1000)


def eventful() -> Trace:
    """A dead exchanger, one that refuses and then is gone, one that breaks off, one that takes two of three."""
    world = TracedWorld(
        Unreachable("No route to host", after=0.3),
        [
            Script(greeting=slow("554 5.7.1 go away, listed at bl.example", 40), connect_time=0.02),
            Unreachable("Connection refused", after=0.1),
        ],
        [Script(replies={"MAIL": [slow("421 4.3.2 too busy", 10)]}, connect_time=0.03)],
        Script(
            connect_time=0.025,
            greeting=slow("220 mx3.example.org ESMTP", 30),
            keywords=("PIPELINING", "SIZE 30000000", "ENHANCEDSTATUSCODES"),
            replies={
                "MAIL": [slow("250 2.1.0 ok", 40)],
                "RCPT": [
                    slow("250 2.1.5 ok", 50),
                    slow("550 5.1.1 <r1@example.org>: no such user in the virtual mailbox table", 20),
                    slow("250 2.1.5 ok", 20),
                ],
                "DOT": [slow("250 2.0.0 queued as 4RKx1Q6zT9z9vNX", 170)],
                "QUIT": [slow("221 bye", 15)],
            },
        ),
    )
    return world.deliver(message(*numbered(3), content=content_form(b"x" * 70 + b"\r\n")))[0]


@pytest.mark.parametrize(
    ("name", "width", "unicode"), [("80", 80, True), ("140", 140, True), ("ascii", 80, False), ("narrow", 50, True)]
)
def test_it_looks_as_it_should(name: str, width: int, unicode: bool) -> None:
    drawn = "\n".join(plain(line) for line in draw(eventful(), width=width, unicode=unicode)) + "\n"
    path = GOLDEN / f"waterfall-{name}.txt"
    assert drawn == path.read_text(), f"if this is an improvement, write it to {path}"


LONG_WORD = Trace(
    program="",
    started="",
    seconds=0.0,
    name="",
    destination="",
    sender="",
    addresses=Addresses.CLEAR,
    fates=Fates(recipients=1, delivered=0, failed=0),
    recipients=(),
    connections=(),
    items=(BrokenItem(start=0.0, end=0.0, reason="0123456789", phase="0¡¡¡¡¡Ā𐀀"),),
)
"""In ASCII its phase has more columns than a line, and comes behind a word that leaves none."""


@given(traces, st.integers(1, 200), st.booleans())
@example(LONG_WORD, 1, False)
def test_no_line_is_wider_than_asked_or_holds_what_is_not_printable(trace: Trace, width: int, unicode: bool) -> None:
    for line in draw(trace, width=width, unicode=unicode):
        text = plain(line)
        assert width_of(text) <= max(width, 40)
        assert text.isprintable()
        assert unicode or text.isascii()


def test_hostile_texts_stay_within_their_column() -> None:
    replies = [Reaction(f"250 {text}".encode() + b"\r\n") for text in ("日本語" * 100, "z\u0300" * 300, "W" * 500)]
    trace = TracedWorld(Script(replies={"RCPT": replies, "DOT": replies})).deliver(message(*numbered(3)))[0]
    for width in (40, 72, 80, 140):
        assert all(width_of(plain(line)) <= width for line in draw(trace, width=width))


def test_many_recipients_have_one_row_for_the_rest() -> None:
    replies = {"RCPT": [Reaction("250 ok")] * 20 + [Reaction("550 no")]}
    trace = TracedWorld(Script(keywords=("PIPELINING",), replies=replies)).deliver(message(*numbered(200)))[0]
    lines = [plain(line) for line in draw(trace)]
    assert [line for line in lines if "RCPT, 92 more" in line and "12 × 250, 80 × 550" in line]
    assert len(lines) < 100
    assert "  and 150 more" in lines


def test_what_went_before_has_no_bar() -> None:
    world = TracedWorld(Script())
    world.deliver(close=False)
    world.network.now += 15.0
    lines = [plain(line) for line in draw(world.deliver(message(b"x@example.org"), idle=15.0)[-1])]
    assert [line for line in lines if "greeting" in line and "◂ 15.00 s befor" in line]
    assert [line for line in lines if "shared by 2 deliveries" in line]


def test_nothing_is_told_by_colour_alone() -> None:
    tones = {piece.style for line in draw(eventful()) for piece in line}
    assert {Style.GOOD, Style.BAD, Style.WARN} <= tones
    text = "\n".join(plain(line) for line in draw(eventful()))
    assert "failed" in text
    assert "✗" in text
    assert "▒" in text


def test_what_was_left_out_is_said() -> None:
    lines = [plain(line) for line in draw(replace(eventful(), left_out=7))]
    assert lines[-1] == "7 more items are not in the trace"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 ms"),
        (0.00042, "0.4 ms"),
        (0.00999, "10 ms"),
        (0.0124, "12 ms"),
        (0.9999, "1.00 s"),
        (59.999, "1 m 00 s"),
        (123, "2 m 03 s"),
        (3720, "1 h 02 m"),
        (200_000, "2 d 07 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


@pytest.mark.parametrize(
    ("octets", "words"),
    [(0, "0 octets"), (999, "999 octets"), (1000, "1 kB"), (34_567, "34.6 kB"), (999_600, "1 MB"), (5e13, "50000 GB")],
)
def test_sizes_in_words(octets: float, words: str) -> None:
    assert size_words(octets) == words


@given(traces)
def test_every_item_is_in_a_section(trace: Trace) -> None:
    shown = sections(trace, most_recipients=100)
    assert sum(len(section.rows) for section in shown) == len(trace.items)
    assert str(trace.fates.recipients) in summary(trace)
