"""Trees on a terminal: guides, alignment, and lines that fit."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from zsmtp.text.lines import Piece, cut, line, padded, painted, width_of, wrap
from zsmtp.text.look import Look, Style
from zsmtp.text.tree import Node, draw


def wrapped(text: Iterable[Piece], first: int, later: int, look: Look) -> list[str]:
    return [painted(one, look) for one in wrap(text, first, later, look)]


def tree() -> Node:
    root = Node(line("example.org", Style.STRONG)).fact("MX", line("secure")).fact("notes", line("one two three"))
    first = root.add(line("10 mx1"))
    first.add(line("192.0.2.1")).fact("TLS", line("dane"), line(", required")).fact("from", line("192.0.2.7"))
    first.add(line("2001:db8::1"))
    root.add(line("20 mx2"))
    return root


def test_a_tree() -> None:
    assert draw(tree(), Look(40)) == [
        "example.org",
        "│  MX     secure",
        "│  notes  one two three",
        "├─ 10 mx1",
        "│  ├─ 192.0.2.1",
        "│  │     TLS   dane, required",
        "│  │     from  192.0.2.7",
        "│  └─ 2001:db8::1",
        "└─ 20 mx2",
    ]


def test_the_same_in_ascii() -> None:
    assert draw(tree(), Look(40, unicode=False))[3:] == [
        "|- 10 mx1",
        "|  |- 192.0.2.1",
        "|  |     TLS   dane, required",
        "|  |     from  192.0.2.7",
        "|  `- 2001:db8::1",
        "`- 20 mx2",
    ]


def test_long_facts_go_on_under_their_text() -> None:
    root = Node(line("a"))
    root.add(line("b")).fact("reason", line("the name is not among those of the certificate"))
    assert draw(root, Look(40)) == [
        "a",
        "└─ b",
        "      reason  the name is not among",
        "                those of the certificate",
    ]


def test_a_number_and_its_unit_stay_together() -> None:
    assert wrapped(line("it took 12\u00a0ms"), 10, 10, Look()) == ["it took", "12 ms"]


def test_a_word_longer_than_the_line_is_cut() -> None:
    assert wrapped(line("x" * 25), 10, 10, Look()) == ["x" * 10, "x" * 10, "x" * 5]
    assert wrapped(line("ab " + "x" * 12), 10, 10, Look()) == ["ab", "x" * 10, "xx"]


def test_colours_take_no_room() -> None:
    plain, coloured = draw(tree(), Look(40)), draw(tree(), Look(40, colour=True))
    assert [re.sub(r"\x1b\[[0-9]*m", "", one) for one in coloured] == plain
    assert coloured[0] == "\x1b[1mexample.org\x1b[0m"


def test_words_of_one_style_are_painted_together() -> None:
    text = line("one two", Style.GOOD) + line(" three four ") + line("five", Style.BAD)
    assert wrapped(text, 80, 80, Look(colour=True)) == ["\x1b[32mone two\x1b[0m three four \x1b[31mfive\x1b[0m"]


def test_wide_characters_take_two_columns() -> None:
    assert width_of("日本") == 4
    assert width_of("e\u0301") == 1
    assert wrapped(line("日本日本"), 5, 5, Look()) == ["日本", "日本"]


def test_what_follows_without_a_blank_stays_with_its_word() -> None:
    text = line("mx.example.net ") + line("insecure", Style.WARN) + line(", TTL 60 s")
    assert wrapped(text, 23, 23, Look()) == ["mx.example.net", "insecure, TTL 60 s"]


def test_marks_that_combine_take_no_column() -> None:
    assert width_of("\u0e01\u0e31") == 1
    assert padded("\u0e01\u0e31", 3) == "\u0e01\u0e31  "
    assert cut("\u0e01\u0e31" * 5, 5, "…") == "\u0e01\u0e31" * 5


def test_a_text_is_cut_with_a_mark() -> None:
    assert cut("abcdef", 4, "…") == "abc…"
    assert cut("日本日本", 4, "…") == "日…"
    assert cut("abc", 1, "...") == "."


pieces = st.lists(
    st.builds(Piece, st.text(st.sampled_from("ab 日é"), max_size=30), st.sampled_from(Style)), max_size=5
).map(tuple)


@given(pieces, st.integers(4, 30))
def test_no_line_is_longer_than_the_room_and_no_letter_is_lost(text: tuple[Piece, ...], room: int) -> None:
    lines = wrapped(text, room, room, Look())
    assert all(width_of(one) <= room for one in lines)
    letters = "".join(piece.text for piece in text).replace(" ", "")
    assert "".join(lines).replace(" ", "") == letters
