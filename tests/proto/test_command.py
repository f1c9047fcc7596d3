import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples

from zsmtp.errors import CommandError
from zsmtp.proto import command


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (command.hello(b"EHLO", b"client.example"), b"EHLO client.example\r\n"),
        (command.hello(b"LHLO", b"[IPv6:2001:db8::1]"), b"LHLO [IPv6:2001:db8::1]\r\n"),
        (command.mail(b""), b"MAIL FROM:<>\r\n"),
        (
            command.mail(b"a@b", size=5, body=b"8BITMIME", ret=b"HDRS", envid=b"x+20y", by=b"120;R", smtputf8=True),
            b"MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME ENVID=x+20y RET=HDRS BY=120;R SMTPUTF8\r\n",
        ),
        (command.mail(b"a@b", smtputf8=True, require_tls=True), b"MAIL FROM:<a@b> SMTPUTF8 REQUIRETLS\r\n"),
        (command.rcpt(b"a@b"), b"RCPT TO:<a@b>\r\n"),
        (
            command.rcpt(b"a@b", notify=b"SUCCESS,DELAY", orcpt=b"rfc822;c@d"),
            b"RCPT TO:<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@d\r\n",
        ),
        (command.rcpt(b"a@b", notify=b"NEVER"), b"RCPT TO:<a@b> NOTIFY=NEVER\r\n"),
        (command.bdat(86, last=True), b"BDAT 86 LAST\r\n"),
        (command.bdat(0, last=False), b"BDAT 0\r\n"),
    ],
)
def test_commands_as_they_go_on_the_wire(wire: bytes, expected: bytes) -> None:
    assert wire == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: command.hello(b"EHLO", b""),
        lambda: command.hello(b"EHLO", b"a b"),
        lambda: command.hello(b"EHLO", b"a\r\nMAIL"),
        lambda: command.hello(b"EHLO x\r\nRSET\r\nEHLO", b"a"),
        lambda: command.mail(b"a@b> SIZE=1"),
        lambda: command.mail(b"a@b", body=b"8BITMIME\r\n"),
        lambda: command.mail(b"a@b", ret=b"ALL"),
        lambda: command.mail(b"a@b", envid=b""),
        lambda: command.mail(b"a@b", envid=b"a b"),
        lambda: command.mail(b"a@b", envid=b"x" * 101),
        lambda: command.mail(b"a@b", by=b"1;X"),
        lambda: command.mail(b"a@b", by=b"1;R\n"),
        lambda: command.rcpt(b""),
        lambda: command.rcpt(b"a@b\r\nDATA"),
        lambda: command.rcpt(b"a@b", notify=b"NEVER,SUCCESS"),
        lambda: command.rcpt(b"a@b", notify=b""),
        lambda: command.rcpt(b"a@b", notify=b"SUCCESS\n"),
        lambda: command.rcpt(b"a@b", orcpt=b"rfc822;a b"),
        lambda: command.rcpt(b"a@b", orcpt=b"rfc822;"),
        lambda: command.rcpt(b"a@b", orcpt=b";x"),
        lambda: command.rcpt(b"a@b", orcpt=b"rfc822;" + b"x" * 500),
        lambda: command.bdat(-1, last=True),
    ],
)
def test_what_must_not_reach_the_wire_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(CommandError):
        make()


NASTY = st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b">", b"<", b" ", b'"', b"\\", b";", b"=", b"+", b"@"])
WORD = st.sampled_from([b"EHLO", b"NEVER", b"SUCCESS", b"FULL", b"8BITMIME", b"rfc822;", b"1;R", b"a", b"example.org"])
VALUE = st.lists(NASTY | WORD | st.binary(max_size=3), max_size=6).map(b"".join) | st.binary(max_size=30)


def assert_one_line(make: Callable[[], bytes]) -> None:
    try:
        wire = make()
    except CommandError:
        return
    assert wire.endswith(b"\r\n")
    assert not re.search(rb"[\x00-\x1f\x7f]", wire[:-2])
    assert len(wire) <= command.MAX_COMMAND


@settings(deadline=None, max_examples=examples(300))
@given(VALUE, VALUE, st.none() | VALUE, st.none() | VALUE, st.none() | VALUE)
def test_any_values_make_one_line_or_none(
    first: bytes, second: bytes, third: bytes | None, fourth: bytes | None, fifth: bytes | None
) -> None:
    assert_one_line(lambda: command.hello(first, second))
    assert_one_line(lambda: command.hello(b"EHLO", second))
    assert_one_line(lambda: command.mail(first, body=third, ret=fourth, envid=fifth))
    assert_one_line(lambda: command.mail(first, by=third))
    assert_one_line(lambda: command.rcpt(first, notify=third, orcpt=fourth))
    assert_one_line(lambda: command.rcpt(b"a@b", notify=third, orcpt=fourth))


COMMANDS = [
    b"MAIL FROM:<evil@example.org>",
    b"mail from:<evil@example.org>",
    b"MaIl\tFROM:<evil@example.org>",
    b"MAILFROM:<evil@example.org>",
    b"RCPT TO:<victim@example.org>",
    b"rcptto:<victim@example.org>",
    b"DATA",
    b"data ",
    b"BDAT 5 LAST",
    b"BURL imap://x LAST",
    b"SEND FROM:<x>",
    b"SOML FROM:<x>",
    b"SAML FROM:<x>",
    b"AUTH PLAIN AHVzZXIAcGFzcw==",
    b"STARTTLS",
    b"TURN",
    b"ATRN example.org",
    b"ETRN example.org",
    b"XCLIENT ADDR=192.0.2.1",
    b"XFORWARD NAME=mail.example.org",
    b"xexch50 100 2",
]


@pytest.mark.parametrize("line", COMMANDS, ids=repr)
@pytest.mark.parametrize("blanks", [b"", b" ", b"\t  ", b"\0", b" " * 5000])
def test_content_that_a_server_could_read_as_commands_is_known(line: bytes, blanks: bytes) -> None:
    for end in (b"\r\n", b"\n", b""):
        assert command.may_be_read_as_commands(b"Subject: x\r\n\r\n" + blanks + line + end)
    assert command.may_be_read_as_commands(blanks[:9] + line + b"\r\nand more\r\n"), "also in the first line"


@pytest.mark.parametrize(
    "line",
    [
        b"Mailing-List: announce",
        b"Mail-Followup-To: a@example.org",
        b"Authentication-Results: mx.example.org; spf=pass",
        b"Sender: a@example.org",
        b"Received: from a by b with ESMTP; rcpt to <c@example.org>",
        b"Data1 is not data",
        b"> RCPT TO:<victim@example.org>",
        b"(MAIL FROM:<a@example.org>)",
        b"QUIT",
        b"RSET",
        b"NOOP",
        b"",
    ],
    ids=repr,
)
def test_ordinary_lines_are_no_commands(line: bytes) -> None:
    assert not command.may_be_read_as_commands(line + b"\r\n" + line + b"\r\n")


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(COMMANDS), st.binary(max_size=200))
def test_a_command_is_found_wherever_its_line_stands(before: bytes, line: bytes, behind: bytes) -> None:
    assert command.may_be_read_as_commands(before + b"\n" + line + b"\r\n" + behind)


@pytest.mark.parametrize("piece", [b"\r\n", b" ", b"\n \r\n", b"\0", b"MAI", b"\nRCP", b"A" * 76 + b"\r\n"], ids=repr)
def test_no_content_takes_long_to_be_looked_through(piece: bytes) -> None:
    """256 KiB at most are: a pattern that went over them again and again would hang here."""
    assert not command.may_be_read_as_commands(piece * (262_144 // len(piece)))


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"Received: from a", True),
        (b"X:y", True),
        (b"From: x", True),
        (b"noop: x", False),
        (b"Help-Wanted: x", False),
        (b"NOOP : x", False),
        (b"NOOP\r\n", False),
        (b" x: y", False),
        (b"", False),
    ],
)
def test_what_starts_with_a_field_starts_with_no_command(content: bytes, field: bool) -> None:
    assert command.is_field(content) is field
