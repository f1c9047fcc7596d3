"""Command lines as a server reads them, also those that the client's own commands make."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import CommandError
from zsmtp.proto import command
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_commands import (
    Chunk,
    MailCommand,
    decode_xtext,
    is_bare,
    parse_auth,
    parse_bdat,
    parse_hello,
    parse_mail,
    parse_rcpt,
)
from zsmtp.proto.server_events import MailParameters
from zsmtp.proto.server_settings import ServerSettings, offer

NOW = 1_700_000_000.0
EVERYTHING = offer(
    ServerSettings(name=b"mx", binary_mime=True, priority=True, max_hold=86400, mechanisms=("PLAIN",)),
    secure=True,
    mechanisms=("PLAIN",),
)
LITTLE = offer(
    ServerSettings(name=b"mx", dsn=False, smtputf8=False, eight_bit_mime=False),
    secure=False,
)


def mail(words: bytes, offered: object = EVERYTHING) -> tuple[bytes, MailParameters] | int:
    """What MAIL with these words means, or the code that refuses it."""
    found = parse_mail(b"MAIL FROM:" + words + b"\r\n", offered, NOW)  # type: ignore[arg-type]
    return found.code if isinstance(found, Reply) else tuple(found)


def rcpt(words: bytes, *, smtputf8: bool = False, offered: object = EVERYTHING) -> EnvelopeRecipient | int:
    """What RCPT with these words means, or the code that refuses it."""
    found = parse_rcpt(b"RCPT TO:" + words + b"\r\n", offered, smtputf8=smtputf8)  # type: ignore[arg-type]
    return found.code if isinstance(found, Reply) else found


@pytest.mark.parametrize(
    ("words", "path", "parameters"),
    [
        (b"<>", b"", {}),
        (b"<a@b>", b"a@b", {}),
        (b" <a@b>  ", b"a@b", {}),
        (b"<a@b> SIZE=10", b"a@b", {"size": 10}),
        (b"<a@b> SIZE=10 BODY=8BITMIME", b"a@b", {"size": 10, "body": b"8BITMIME"}),
        (b"<a@b>  body=8bitmime   size=7 ", b"a@b", {"size": 7, "body": b"8BITMIME"}),
        (b"<a@b> BODY=BINARYMIME", b"a@b", {"body": b"BINARYMIME"}),
        (b"<@one,@two:a@b>", b"a@b", {}),
        (b"<@one:a@b> SIZE=1", b"a@b", {"size": 1}),
        (b'<"a b"@c>', b'"a b"@c', {}),
        (b'<"a>b"@c> SIZE=1', b'"a>b"@c', {"size": 1}),
        (b'<"a\\"> b"@c>', b'"a\\"> b"@c', {}),
        ("<jürgen@b> SMTPUTF8".encode(), "jürgen@b".encode(), {"smtputf8": True}),
        (b"<a@b> RET=hdrs ENVID=QQ+2B1", b"a@b", {"ret": b"HDRS", "envid": b"QQ+2B1"}),
        (b"<a@b> AUTH=<>", b"a@b", {"submitter": b""}),
        (b"<a@b> AUTH=e+3Dmc2@example.com", b"a@b", {"submitter": b"e=mc2@example.com"}),
        (b"<a@b> REQUIRETLS", b"a@b", {"require_tls": True}),
        (b"<a@b> MT-PRIORITY=-9", b"a@b", {"priority": -9}),
        (b"<a@b> MT-PRIORITY=3", b"a@b", {"priority": 3}),
        (b"<a@b> HOLDFOR=86400", b"a@b", {"release": NOW + 86400, "release_request": b"for;86400"}),
        (
            b"<a@b> HOLDUNTIL=2023-11-15T00:13:20+02:00",
            b"a@b",
            {"release": NOW, "release_request": b"until;2023-11-14T22:13:20Z"},
        ),
        (
            b"<a@b> HOLDUNTIL=1999-01-01t00:00:00z",  # that time has come
            b"a@b",
            {"release": 915148800.0, "release_request": b"until;1999-01-01T00:00:00Z"},
        ),
    ],
)
def test_mail(words: bytes, path: bytes, parameters: dict[str, object]) -> None:
    assert mail(words) == (path, MailParameters(**parameters))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (b"", 501),
        (b"a@b", 501),
        (b"<a@b", 501),
        (b"<a@b>SIZE=1", 501),
        (b"<a@b> SIZE=", 501),
        (b"<a@b> SIZE", 501),
        (b"<a@b> SIZE=x", 501),
        (b"<a@b> SIZE=-1", 501),
        (b"<a@b> SIZE=99999999999999999999", 501),
        (b"<a@b> SIZE=1 SIZE=1", 501),
        (b"<a@b> SIZE=1 size=2", 501),
        (b"<a@b> BODY=9BIT", 501),
        (b"<a@b> BODY", 501),
        (b"<a@b> =1", 501),
        (b"<a@b> RET=BODY", 501),
        (b"<a@b> ENVID=a=b", 501),
        (b"<a@b> ENVID=+zz", 501),
        (b"<a@b> ENVID=" + b"x" * 101, 501),
        (b"<a@b> ENVID", 501),
        (b"<a@b> SMTPUTF8=1", 501),
        (b"<a@b> REQUIRETLS=yes", 501),
        (b"<a@b> AUTH=", 501),
        (b"<a@b> AUTH=a+0Ab", 501),
        (b"<a@b> AUTH=a+20b", 501),
        (b"<a@b> MT-PRIORITY=10", 501),
        (b"<a@b> MT-PRIORITY=+1", 501),
        (b"<a@b> HOLDFOR=86401", 501),
        (b"<a@b> HOLDFOR=1x", 501),
        (b"<a@b> HOLDUNTIL=2023-11-15T22:13:21Z", 501),
        (b"<a@b> HOLDUNTIL=2023-02-31T00:00:00Z", 501),
        (b"<a@b> HOLDUNTIL=0000-01-01T00:00:00Z", 501),
        (b"<a@b> HOLDUNTIL=0001-01-01T00:00:00+23:59", 501),
        (b"<a@b> HOLDUNTIL=9999-12-31T23:59:59-23:59", 501),
        (b"<a@b> HOLDUNTIL=tomorrow", 501),
        (b"<a@b> HOLDFOR=1 HOLDUNTIL=2023-11-14T22:13:21Z", 501),
        (b"<a@b> BY=10;R", 555),
        (b"<a@b> XTRA", 555),
        (b"<a@b> NOTIFY=NEVER", 555),
        (b"<a b@c>", 501),
        (b"<a<b@c>", 501),
        (b'<"a@b>', 501),
        (b"<" + b"a" * 251 + b"@b.c>", 501),
        ("<jürgen@b>".encode(), 553),
        ("<jürgen@b> SIZE=1".encode(), 553),
        (b"<a@\xff> SMTPUTF8", 501),
        (b"<a\r@b>", 501),
        (b"<a\0@b> SIZE=1", 501),
        (b"<a@b> SIZE=1\0", 500),
        (b"<a@b> \xe9", 500),
        (b"<a@b>\rSIZE=1", 500),
        (b"<a@b> ENVID=\x07", 500),
    ],
)
def test_mail_refused(words: bytes, code: int) -> None:
    assert mail(words) == code


@pytest.mark.parametrize(
    "words",
    [b"SIZE=1 BODY=8BITMIME", b"SMTPUTF8", b"RET=FULL", b"ENVID=x", b"AUTH=<>", b"REQUIRETLS", b"MT-PRIORITY=1"],
)
def test_what_is_not_offered_is_not_taken(words: bytes) -> None:
    assert mail(b"<a@b> " + words, LITTLE) == 555
    assert rcpt(b"<a@b> NOTIFY=NEVER", offered=LITTLE) == 555


def test_binarymime_needs_an_offer_of_its_own() -> None:
    assert mail(b"<a@b> BODY=BINARYMIME", replace(EVERYTHING, binary_mime=False)) == 501


@pytest.mark.parametrize(
    ("words", "recipient"),
    [
        (b"<a@b>", EnvelopeRecipient(b"a@b")),
        (b" <postmaster> ", EnvelopeRecipient(b"postmaster")),
        (b"<@x:a@b>", EnvelopeRecipient(b"a@b")),
        (b"<a@b> NOTIFY=never", EnvelopeRecipient(b"a@b", b"NEVER")),
        (b"<a@b> NOTIFY=SUCCESS,failure,DELAY", EnvelopeRecipient(b"a@b", b"SUCCESS,FAILURE,DELAY")),
        (b"<a@b> ORCPT=rfc822;A+40B@c", EnvelopeRecipient(b"a@b", None, b"rfc822;A+40B@c")),
        (
            b"<a@b> NOTIFY=DELAY ORCPT=x400;/c=us".replace(b"=us", b"+3Dus"),
            EnvelopeRecipient(b"a@b", b"DELAY", b"x400;/c+3Dus"),
        ),
    ],
)
def test_rcpt(words: bytes, recipient: EnvelopeRecipient) -> None:
    assert rcpt(words) == recipient


def test_rcpt_of_an_internationalised_transaction() -> None:
    assert rcpt("<jürgen@b>".encode()) == 553
    assert rcpt("<jürgen@b>".encode(), smtputf8=True) == EnvelopeRecipient("jürgen@b".encode())
    original = rcpt("<a@b> ORCPT=utf-8;jürgen@b".encode(), smtputf8=True)
    assert original == EnvelopeRecipient(b"a@b", None, b"utf-8;j\\x{FC}rgen@b")
    assert rcpt("<a@b> ORCPT=utf-8;jürgen@b".encode()) == 501
    assert rcpt("<a@b> ORCPT=rfc822;jürgen@b".encode(), smtputf8=True) == 501
    assert rcpt(b"<a@b> ORCPT=utf-8;\xff@b", smtputf8=True) == 501


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (b"<>", 501),
        (b"a@b", 501),
        (b"<@x:>", 501),
        (b"<a b>", 501),
        (b"<a@b> NOTIFY=", 501),
        (b"<a@b> NOTIFY=NEVER,DELAY", 501),
        (b"<a@b> NOTIFY=DELAY,DELAY", 501),
        (b"<a@b> NOTIFY=MAYBE", 501),
        (b"<a@b> ORCPT=rfc822", 501),
        (b"<a@b> ORCPT=rfc822;", 501),
        (b"<a@b> ORCPT=rfc822;a+4", 501),
        (b"<a@b> ORCPT=;a", 501),
        (b"<a@b> ORCPT=rfc822;" + b"x" * 500, 501),
        (b"<a@b> NOTIFY=DELAY NOTIFY=DELAY", 501),
        (b"<a@b> SIZE=1", 555),
        (b"<a@b>\0", 500),
    ],
)
def test_rcpt_refused(words: bytes, code: int) -> None:
    assert rcpt(words) == code


@pytest.mark.parametrize(
    ("line", "chunk"),
    [
        (b"BDAT 5\r\n", Chunk(5, last=False)),
        (b"bdat  0  last \r\n", Chunk(0, last=True)),
        (b"BDAT 9223372036854775807 LAST\r\n", Chunk(9223372036854775807, last=True)),
        (b"BDAT 9223372036854775808 LAST\r\n", None),
        (b"BDAT\r\n", None),
        (b"BDAT LAST\r\n", None),
        (b"BDAT -1\r\n", None),
        (b"BDAT 5 FIRST\r\n", None),
        (b"BDAT 5LAST\r\n", None),
        (b"BDAT 5\rLAST\r\n", None),
        (b"BDAT 0x5\r\n", None),
        ("BDAT ٣\r\n".encode(), None),
    ],
)
def test_bdat(line: bytes, chunk: Chunk | None) -> None:
    assert parse_bdat(line) == chunk


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"AUTH PLAIN\r\n", ("PLAIN", None)),
        (b"auth scram-sha-256  abc=  \r\n", ("SCRAM-SHA-256", b"abc=")),
        (b"AUTH LOGIN =\r\n", ("LOGIN", b"=")),
        (b"AUTH\r\n", 501),
        (b"AUTH PLAIN a b\r\n", 501),
        (b"AUTH PL.AIN\r\n", 501),
        (b"AUTH " + b"X" * 21 + b"\r\n", 501),
        (b"AUTH PLAIN a\0b\r\n", 500),
        (b"AUTH PLAIN \xff\r\n", 500),
    ],
)
def test_auth(line: bytes, found: tuple[str, bytes | None] | int) -> None:
    parsed = parse_auth(line)
    assert (parsed.code if isinstance(parsed, Reply) else parsed) == found


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"EHLO client.example\r\n", b"client.example"),
        (b"ehlo  [IPv6:2001:db8::1] \r\n", b"[IPv6:2001:db8::1]"),
        (b"HELO my_pc\r\n", b"my_pc"),
        (b"EHLO\r\n", 501),
        (b"EHLO a b\r\n", 501),
        (b"EHLO <x>\r\n", 501),
        (b"EHLO a\0\r\n", 501),
        (b"EHLO " + b"a" * 256 + b"\r\n", 501),
    ],
)
def test_hello(line: bytes, name: bytes | int) -> None:
    parsed = parse_hello(line)
    assert (parsed.code if isinstance(parsed, Reply) else parsed) == name


def test_a_bare_verb() -> None:
    assert is_bare(b"RSET\r\n", b"RSET")
    assert is_bare(b"RSET \t \r\n", b"RSET")
    assert not is_bare(b"RSET x\r\n", b"RSET")
    assert not is_bare(b"RSET\r\r\n", b"RSET")


@given(st.binary(max_size=40))
def test_xtext_comes_back(octets: bytes) -> None:
    from zsmtp.proto.address import encode_xtext

    assert decode_xtext(encode_xtext(octets)) == octets


@given(
    st.text(max_size=20).map(str.encode) | st.sampled_from([b"", b"a@b", b'"a>b"@c']),
    st.none() | st.integers(0, 1 << 60),
    st.sampled_from([None, b"7BIT", b"8BITMIME", b"BINARYMIME"]),
    st.sampled_from([None, b"FULL", b"HDRS"]),
    st.booleans(),
)
def test_what_the_client_sends_is_understood(
    address: bytes,
    size: int | None,
    body: bytes | None,
    ret: bytes | None,
    require_tls: bool,
) -> None:
    try:
        line = command.mail(address, size=size, body=body, ret=ret, smtputf8=True, require_tls=require_tls)
    except CommandError:
        return
    if address.startswith(b"@"):
        return  # a source route, as far as anybody can tell
    found = parse_mail(line, EVERYTHING, NOW)
    assert found == MailCommand(
        address, MailParameters(size=size, body=body, smtputf8=True, ret=ret, require_tls=require_tls)
    )


@given(st.binary(max_size=80), st.booleans())
def test_no_line_raises(octets: bytes, plausible: bool) -> None:
    line = octets.replace(b"\n", b"") + b"\r\n"
    for start in (b"MAIL FROM:<", b"RCPT TO:<", b"EHLO ", b"AUTH PLAIN ", b"BDAT 1"):
        whole = (start if plausible else start[:4]) + line
        for parse in (parse_hello, parse_bdat, parse_auth):
            parse(whole)
        found = parse_mail(whole, EVERYTHING, NOW)
        assert isinstance(found, Reply | MailCommand)
        assert isinstance(parse_rcpt(whole, EVERYTHING, smtputf8=True), Reply | EnvelopeRecipient)


@pytest.mark.parametrize("unit", [b'"', b'"a', b"\\", b"\\\\", b'"\\', b" ", b"<", b"@", b"a=b ", b'""'])
def test_no_line_takes_longer_than_its_length(unit: bytes) -> None:
    """64 KiB of what backtracks most; a quadratic search would take minutes."""
    before = time.process_time()
    long = unit * (65536 // len(unit))
    for line in (b"MAIL FROM:<" + long + b"\r\n", b"RCPT TO:<" + long + b">\r\n", b"MAIL FROM:<a@b> " + long + b"\r\n"):
        parse_mail(line, EVERYTHING, NOW)
        parse_rcpt(line, EVERYTHING, smtputf8=True)
    assert time.process_time() - before < 5
