import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zsmtp.errors import ReplyError
from zsmtp.proto.reply import MAX_LINE, MAX_REPLY, Reply, ReplyParser, printable


def parse(*pieces: bytes, **caps: int) -> tuple[list[Reply], str | None]:
    """All replies, and the text of the error that ended the reading."""
    parser = ReplyParser(**caps)
    replies: list[Reply] = []
    for piece in pieces:
        parser.receive_data(piece)
        try:
            while (reply := parser.next_reply()) is not None:
                replies.append(reply)
        except ReplyError as error:
            return replies, str(error)
    return replies, None


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 ok\r\n", Reply(250, (b"ok",))),
        (b"250\r\n", Reply(250, (b"",))),
        (b"250 \r\n", Reply(250, (b"",))),
        (b"250-a\r\n250-b\r\n250 c\r\n", Reply(250, (b"a", b"b", b"c"))),
        (b"250-\r\n250\r\n", Reply(250, (b"", b""))),
        (b"599 \x1b[2J\x00\r\n", Reply(599, (b"\x1b[2J\x00",))),
        (b"220 a\rb\r\n", Reply(220, (b"a\rb",))),
        (b"354 go\n", Reply(354, (b"go",), bare_lf=True)),
        (b"250-a\n250 b\r\n", Reply(250, (b"a", b"b"), bare_lf=True)),
    ],
)
def test_a_reply(octets: bytes, reply: Reply) -> None:
    assert parse(octets) == ([reply], None)


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"25\r\n",
        b"2500 ok\r\n",
        b"250+ok\r\n",
        b"250\tok\r\n",
        b"199 too low\r\n",
        b"600 too high\r\n",
        b"2x0 ok\r\n",
        b" 250 ok\r\n",
        b"\xb2\xb5\xb0 ok\r\n",
        b"hello\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\nb\r\n",
    ],
)
def test_what_is_no_reply(octets: bytes) -> None:
    replies, error = parse(octets)
    assert replies == []
    assert error is not None


@pytest.mark.parametrize("octets", [b"", b"2", b"250 ok", b"250 ok\r", b"250-ok\r\n", b"250-ok\r\n250 ok"])
def test_an_unfinished_reply_is_none_yet(octets: bytes) -> None:
    parser = ReplyParser()
    parser.receive_data(octets)
    assert parser.next_reply() is None
    assert parser.pending is bool(octets)


def test_a_reply_before_the_error_is_given_and_nothing_after_it() -> None:
    replies, error = parse(b"250 ok\r\nwhat?\r\n250 later\r\n")
    assert replies == [Reply(250, (b"ok",))]
    assert error is not None
    assert "what?" in error


def test_bare_lf_is_noted_of_its_own_reply_only() -> None:
    replies, _ = parse(b"250 a\n250 b\r\n")
    assert [reply.bare_lf for reply in replies] == [True, False]


def test_a_line_of_the_limit_passes_and_one_octet_more_does_not() -> None:
    text = b"x" * (MAX_LINE - 5)
    assert parse(b"250 " + text + b"\r\n")[1] is None
    assert parse(b"250 " + text + b"xx\r\n") == ([], f"reply line of more than {MAX_LINE} octets")
    assert parse(b"250 " + text + b"xx") == ([], f"reply line of more than {MAX_LINE} octets")


def test_continuation_lines_without_end_are_cut_off() -> None:
    lines = b"250-x\r\n" * (MAX_REPLY // 7)
    assert parse(lines) == ([], None)
    assert parse(lines, b"250-x\r\n") == ([], f"reply of more than {MAX_REPLY} octets")
    assert len(parse((b"250 x\r\n" * 1000) * 40)[0]) == 40_000, "the limit is for one reply"


def test_raw_lines_are_the_lines_as_they_came() -> None:
    octets = b"250-a\r\n250-\r\n250 c\r\n"
    assert list(parse(octets)[0][0].raw_lines) == octets.split(b"\r\n")[:-1]


WIRE = st.lists(
    st.sampled_from([b"250", b"-", b" ", b"ok", b"\r\n", b"\n", b"\r", b"550", b"25", b"x" * 40, b"\x00", b"\xff"])
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)


@settings(deadline=None)
@given(WIRE, st.data())
@example(b"250-a\n250 b\r\n250", None)
def test_any_segmentation_of_any_octets_reads_the_same(octets: bytes, data: st.DataObject | None) -> None:
    whole = parse(octets, max_line=60, max_reply=200)
    cuts = (
        sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
        if data is not None
        else list(range(len(octets)))
    )
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert parse(*pieces, max_line=60, max_reply=200) == whole
    assert parse(*(octets[i : i + 1] for i in range(len(octets))), max_line=60, max_reply=200) == whole


@settings(deadline=None)
@given(WIRE)
def test_what_is_kept_stays_under_the_caps(octets: bytes) -> None:
    parser = ReplyParser(max_line=60, max_reply=200)
    held = 0
    for octet in octets * 40:
        parser.receive_data(bytes([octet]))
        held += 1
        try:
            while (reply := parser.next_reply()) is not None:
                size = sum(len(line) for line in reply.lines)
                assert size <= 200
                held = 0
        except ReplyError:
            return
        assert held <= 200 + 60 + 2


@settings(deadline=None)
@given(st.integers(200, 599), st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_a_reply_survives_the_round_trip(code: int, texts: list[bytes]) -> None:
    lines = tuple(text.replace(b"\n", b"").rstrip(b"\r") for text in texts)
    wire = b"\r\n".join(Reply(code, lines).raw_lines) + b"\r\n"
    assert parse(wire) == ([Reply(code, lines)], None)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(10, 60))
def test_printable_text_is_printable_and_short(octets: bytes, limit: int) -> None:
    text = printable(octets, limit)
    assert text.isprintable()
    assert len(text) <= limit


@pytest.mark.parametrize("text", ["x" * 61, "\U00010348" * 61, "\x01" * 60, "x" * 1000])
def test_printable_text_that_was_cut_ends_with_a_mark(text: str) -> None:
    found = printable(text.encode(), 60)
    assert (len(found), found[-3:]) == (60, "...")
    assert printable(text[:15].encode(), 60)[-3:] != "..."


def test_a_reply_for_people_has_no_control_characters() -> None:
    assert str(Reply(550, (b"a\x1b[1m", b"b\xe2\x80\xaec"))) == "550 a\\x1b[1m / b\\u202ec"
