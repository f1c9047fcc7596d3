"""Header lines that are too long for SMTP: where they are folded, what is encoded, and what has no form."""

from __future__ import annotations

import email
import re
from email.policy import compat32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.body.receiver import text

from zsmtp.body.fields import split_fields
from zsmtp.body.fold import fold_long_lines
from zsmtp.body.mailboxes import read_mailboxes

NAMES = [
    "",
    "Ann ",
    '"Reader, the one (of many)" ',
    "=?utf-8?q?J=C3=B6rg=2C?= ",
    "=?utf-8?Q?a,b;c?= ",
    "J\u00f6rg ",
    '"a \\" b" ',
]


def value_of(block: bytes) -> bytes:
    (field,) = split_fields(block)
    return block[field.value : field.end]


def assert_fits(block: bytes) -> None:
    for line in block.rstrip(b"\n").split(b"\n"):
        assert len(line) <= 998
        assert line.strip(), "a line of blanks would end the header for some"


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 60)), min_size=30, max_size=90), st.sampled_from(",;"))
def test_addresses_are_never_torn(boxes: list[tuple[str, int]], mark: str) -> None:
    listed = [f"{name}<{'x' * size}.reader.{number}@example.org>" for number, (name, size) in enumerate(boxes)]
    block = ("To: " + ", ".join(listed) + "\n").encode()
    folded = fold_long_lines(block)
    assert not folded.left
    assert_fits(folded.block)
    assert folded.block.replace(b"\n ", b" ") == block, "every fold stands before a blank that was there"
    assert all(line.endswith(b",") for line in folded.block.rstrip(b"\n").split(b"\n")[:-1]), "and behind a comma"
    assert read_mailboxes(value_of(folded.block)) == read_mailboxes(value_of(block))


def test_a_blank_that_is_put_behind_a_comma_counts() -> None:
    """The second line would have 998 octets without it."""
    lengths = (990, 500, 498, 20)
    listed = [b"x" * (length - len(b"@x.example,")) + b"@x.example" for length in lengths]
    folded = fold_long_lines(b"To: " + b",".join(listed) + b"\n")
    assert not folded.left
    assert_fits(folded.block)
    assert read_mailboxes(value_of(folded.block)) == tuple(listed)


def test_commas_without_a_blank() -> None:
    block = b"Cc: " + b",".join(b"reader.number.%d@example.org" % n for n in range(100)) + b"\n"
    folded = fold_long_lines(block)
    assert_fits(folded.block)
    assert folded.block.replace(b"\n ", b"") == block
    assert read_mailboxes(value_of(folded.block)) == read_mailboxes(value_of(block))


@pytest.mark.parametrize("between", [b" ", b"", b"\t"])
def test_message_identifiers_are_never_torn(between: bytes) -> None:
    identifiers = [b"<%d.abc@mail.example.org>" % n for n in range(120)]
    folded = fold_long_lines(b"References: " + between.join(identifiers) + b"\n")
    assert not folded.left
    assert_fits(folded.block)
    assert re.findall(rb"<[^>\s]*>", folded.block) == identifiers


@pytest.mark.parametrize("blank", [b" ", b"\t", b"  "])
def test_text_is_folded_between_words_only(blank: bytes) -> None:
    for name in (b"X-Report", b"Subject", b"Received", b"DKIM-Signature"):
        block = name + b": " + blank.join([b'{"y":' + b"y" * 90 + b"},"] * 30) + b"\n"
        folded = fold_long_lines(block)
        assert_fits(folded.block)
        assert folded.block.replace(b"\n" + blank, blank) == block


def test_lines_that_fit_and_other_fields_stay() -> None:
    block = b"A: " + b"x" * 995 + b"\nno field\nB: y\n " + b"z" * 997 + b"\n"
    assert fold_long_lines(block) == (block, ())
    long = b"C: " + b"w " * 600 + b"w\n"
    folded = fold_long_lines(block + long)
    assert folded.block.startswith(block)
    assert_fits(folded.block)


def test_only_the_long_line_of_a_field_is_folded() -> None:
    first, last = b"Received: from a\n\tby b;\n", b"\tfor c\n"
    folded = fold_long_lines(first + b"\t" + b"word " * 300 + b"end\n" + last)
    assert folded.block.startswith(first)
    assert folded.block.endswith(b"end\n" + last)
    assert_fits(folded.block)


def test_a_word_of_text_that_is_too_long_is_encoded() -> None:
    word = "y" * 2500
    folded = fold_long_lines(f"X: a {word} b {word}, {word}\n".encode())
    assert not folded.left
    assert_fits(folded.block)
    ((_, raw),) = email.message_from_bytes(folded.block + b"\n").raw_items()
    assert text(raw) == f"a {word} b {word}, {word}"


@pytest.mark.parametrize("name", ["y" * 2500, '"' + "y y, " * 500 + '"'])
def test_a_name_that_is_too_long_is_encoded(name: str) -> None:
    folded = fold_long_lines(f"From: {name} <a@example.org>, b@example.org\n".encode())
    assert not folded.left
    assert_fits(folded.block)
    assert read_mailboxes(value_of(folded.block)) == (b"a@example.org", b"b@example.org")
    ((_, raw),) = email.message_from_bytes(folded.block + b"\n").raw_items()
    assert text(raw).startswith(name.strip('"'))


def test_a_parameter_that_is_too_long_is_written_in_sections() -> None:
    name = "a long file name " * 100 + ".txt"
    folded = fold_long_lines(f'Content-Disposition: attachment; filename="{name}"; size=5\n'.encode())
    assert not folded.left
    assert_fits(folded.block)
    assert email.message_from_bytes(folded.block + b"\n", policy=compat32).get_filename() == name


@pytest.mark.parametrize(
    ("block", "name"),
    [
        (b"To: <" + b"a" * 1000 + b"@example.org>\n", b"To"),
        (b"Message-ID : <" + b"a" * 1000 + b"@example.org>\n", b"Message-ID"),
        (b"References: <a@b> <" + b"a" * 1000 + b"@b> <c@d>\n", b"References"),
        (b"List-Unsubscribe: <https://x.example/?" + b"a" * 1000 + b">, <mailto:a@b>\n", b"List-Unsubscribe"),
        (b"DKIM-Signature: v=1; b=" + b"a" * 1000 + b"\n", b"DKIM-Signature"),
        (b'Content-Type: multipart/mixed; boundary="' + b"a" * 1000 + b'"\n', b"Content-Type"),
    ],
)
def test_what_has_no_place_for_a_fold_is_named(block: bytes, name: bytes) -> None:
    folded = fold_long_lines(b"A: b\n" + block + b"X: " + b"w " * 600 + b"w\n")
    assert folded.left == (name,)
    assert block in folded.block
    assert max(map(len, folded.block.replace(block, b"").split(b"\n"))) <= 998


def test_nul_becomes_a_blank() -> None:
    assert fold_long_lines(b"X: a\0b\n") == (b"X: a b\n", ())


@given(
    st.sampled_from([b"To", b"Subject", b"References", b"Content-Type", b"X"]),
    st.lists(
        st.sampled_from([b"a" * 300, b" ", b",", b";", b"<", b">", b'"', b"(", b"\n ", b"a@b", b"\xe4"]), max_size=40
    ),
)
def test_whatever_a_field_holds_it_fits_or_is_named(name: bytes, pieces: list[bytes]) -> None:
    block = name + b": " + b"".join(pieces) + b"\nY: z\n"
    folded = fold_long_lines(block)
    assert folded.left or max(map(len, folded.block.split(b"\n"))) <= 998
    assert [field.name for field in split_fields(folded.block)] == [name.lower(), b"y"]
    assert folded.left or len(re.sub(rb"\s", b"", folded.block)) >= len(re.sub(rb"\s", b"", block))


@pytest.mark.parametrize("piece", [b"a ", b"<", b'"', b", ", b"a,", b"(", b"<a>", b" \n ", b"\t", b"a" * 999 + b" "])
@pytest.mark.parametrize("name", [b"To", b"Subject"])
@pytest.mark.timeout(60)
def test_hostile_fields_cost_no_more_than_others(name: bytes, piece: bytes) -> None:
    fold_long_lines(name + b": " + piece * (300_000 // len(piece)) + b"\n")
