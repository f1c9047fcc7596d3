"""The words of N records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.zmailer.dsnwords import By, DsnWords, DsnWordsReader, valid_envid


def read(*records: bytes) -> tuple[DsnWords, list[str]]:
    reader = DsnWordsReader()
    for record in records:
        reader.read(record)
    return reader.words, reader.remarks


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"", DsnWords()),
        (b"NOTIFY=never", DsnWords(notify=b"NEVER")),
        (b"notify=Success,DELAY,FAILURE", DsnWords(notify=b"SUCCESS,DELAY,FAILURE")),
        (b"ORCPT=utf-8;gr\xc3\xbc\xc3\x9fe@x", DsnWords(orcpt=b"utf-8;gr\xc3\xbc\xc3\x9fe@x")),
        (b"ORCPT=x400;/S+3Dx/", DsnWords(orcpt=b"x400;/S+3Dx/")),
        (b"BY=-120;rt", DsnWords(by=By(-120, b"RT"))),
        (b"BY=000999999;N", DsnWords(by=By(999999, b"N"))),
        (b"INRCPT=list@x\tINFROM=b=c", DsnWords(inrcpt=b"list@x", infrom=b"b=c")),
        (b"REQUIRETLS", DsnWords(requiretls=True)),
        (b"REQUIRETLS=yes", DsnWords(requiretls=True)),
        (b"  EZMLM=-x  UNKNOWN=1 ALSO ", DsnWords(ezmlm=b"-x")),
    ],
)
def test_good_words(record: bytes, words: DsnWords) -> None:
    assert read(record) == (words, [])


@pytest.mark.parametrize(
    "record",
    [
        b"NOTIFY=", b"NOTIFY", b"NOTIFY=NEVER,SUCCESS", b"NOTIFY=SUCCESS,", b"NOTIFY=SUCCESS;FAILURE",
        b"ORCPT=", b"ORCPT=a@b", b"ORCPT=;a@b", b"ORCPT=rfc822;", b"ORCPT=rfc822;a=b@c", b"ORCPT=rfc822;a+2b@c",
        b"ORCPT=rfc822;a+@c", b"ORCPT=rfc822;a\r\nRSET", b"ORCPT=rfc822;" + b"a" * 501,
        b"BY=", b"BY=120", b"BY=120;", b"BY=120;X", b"BY=1234567890;N", b"BY=;N", b"BY=1.5;N",
        b"INRCPT=", b"INFROM=a\x1bb", b"EZMLM=", b"EZMLM=a\x7f",
    ],
)  # fmt: skip
def test_malformed_words_are_left_out(record: bytes) -> None:
    words, remarks = read(record)
    assert words == DsnWords()
    assert len(remarks) == 1
    assert remarks[0].isprintable()


def test_of_a_word_given_twice_the_first_counts() -> None:
    words, remarks = read(b"NOTIFY=NEVER BY=1;N NOTIFY=SUCCESS", b"BY=2;N NOTIFY=DELAY EZMLM=a")
    assert words == DsnWords(notify=b"NEVER", by=By(1, b"N"), ezmlm=b"a")
    assert len(remarks) == 3


@pytest.mark.parametrize(("value", "good"), [
    (b"env+2Bid", True), (b"e" * 100, True), (b"", False), (b"e" * 101, False), (b"a b", False), (b"a=b", False),
    (b"a+zz", False), (b"a\r", False),
])  # fmt: skip
def test_envelope_ids(value: bytes, good: bool) -> None:
    assert valid_envid(value) is good


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(), st.sampled_from([b"NOTIFY=", b"ORCPT=rfc822;", b"BY=1;", b"EZMLM=", b" "]))))
def test_no_value_can_break_a_command_line(parts: list[bytes]) -> None:
    words, _ = read(b"".join(parts))
    for value in (words.notify, words.orcpt, words.inrcpt, words.infrom, words.ezmlm):
        assert value is None or not any(octet <= 0x20 or octet == 0x7F for octet in value)
