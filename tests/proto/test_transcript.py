from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.proto.reply import Reply
from zsmtp.proto.transcript import CONNECTING, MAX_LINES, MAX_TEXT, exchange, is_dialogue, join, shown_line


def test_a_command_and_its_reply() -> None:
    reply = Reply(550, (b"5.1.1 no", b"5.1.1 such user"))
    assert exchange(b"RCPT TO:<a@b>", reply) == "\r<<- RCPT TO:<a@b>\r->> 550-5.1.1 no\r->> 550 5.1.1 such user"


def test_a_command_without_a_reply() -> None:
    assert exchange(b"DATA", None) == "\r<<- DATA"


def test_of_a_long_reply_the_first_lines_and_the_last_one_stay() -> None:
    text = exchange(b"EHLO x", Reply(250, tuple(b"%d" % i for i in range(100))))
    assert text.count("\r->> ") == MAX_LINES
    assert text.endswith("\r->> 250 99")


def test_the_end_of_a_long_dialogue_stays_and_starts_at_a_line() -> None:
    text = join([exchange(b"RCPT TO:<r%d@example.org>" % i, Reply(250, (b"ok",))) for i in range(100)])
    assert len(text) <= MAX_TEXT
    assert text.startswith(("\r<<- ", "\r->> "))
    assert text.endswith("\r->> 250 ok")


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=400), st.lists(st.binary(max_size=400), min_size=1, max_size=12))))
def test_no_hostile_octet_passes(dialogue: list[tuple[bytes, list[bytes]]]) -> None:
    text = join(exchange(line, Reply(250, tuple(texts))) for line, texts in dialogue)
    assert text.replace("\r", "").isprintable()
    assert len(text) <= MAX_TEXT


def test_lines_as_people_know_them() -> None:
    text = join([exchange(CONNECTING, Reply(220, (b"hi",))), exchange(b"RCPT TO:<a@b>", Reply(550, (b"no",)))])
    lines = [line for line in f"{text}\rgone".split("\r") if line]
    assert [shown_line(line) for line in lines] == ["", "S: 220 hi", "C: RCPT TO:<a@b>", "S: 550 no", "gone"]
    assert [is_dialogue(line) for line in lines] == [True] * 4 + [False]
