"""The control file parser: real files of ZMailer's router, files cut off at every byte, and files out of nowhere."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.errors import SpoolError
from zsmtp.zmailer import control
from zsmtp.zmailer.control import By, ControlFile, ControlRecipient, DsnWords, parse
from zsmtp.zmailer.paths import file_id, message_path

HEADER = (
    b"Received: from submit.example.org ([192.0.2.7]) by ta.example.org with ESMTP\n"
    b"\tid S1001AbC; Sun, 1 Jan 2023 12:00:00 +0000\n"
    b"From: Sender <sender@example.org>\nTo: Rcpt <rcpt1@example.com>\nSubject: oracle test\n"
    b"Date: Sun, 1 Jan 2023 12:00:00 +0000\nMessage-Id: <m1@example.org>\n"
)
TOP = b"@ 0x00000007\ni 1001\no 359\nl <m1@example.org>\ne <sender@example.org>\ns local - sender@example.org 99\n"
TAIL = b"m\n" + HEADER + b"\n"
DSN = (
    TOP + b"r           smtp [127.0.0.1] r1@example.com 99\n"
    b"N NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;orig+2B1@example.com\nR FULL\nn env+2Bid\n"
    b"r           smtp [127.0.0.1] r2@example.com 99\nN NOTIFY=NEVER\nR FULL\nn env+2Bid\n"
    b"r           smtp [127.0.0.1] r+x=y@example.com 99\nR FULL\nn env+2Bid\n"
    b"r           smtp [127.0.0.1] r5@example.com 99\nN ORCPT=rfc822;o5@example.com INRCPT=i5 BY=120;N\n"
    b"R FULL\nn env+2Bid\n" + TAIL
)
QUOTED = (
    b'@ 0x00000007\ni 1001\no 358\nl <m1@example.org>\ne <"a b"@example.org>\ns local - "a b"@example.org 99\n'
    b'r           smtp [127.0.0.1] "c d"@example.com 99\n'
    b"r           smtp [127.0.0.1] e\\ f@example.com 99\n"
    b"r           smtp [127.0.0.1] @r1.example,@r2.example:g@example.com 99\n" + TAIL
)
OLD_FORMAT = (
    b"i 1001\no 359\nl <m1@example.org>\ns local - s@example.org 99\n"
    b"r       smtp [127.0.0.1] rcpt1@example.com 99\nm\nSubject: x\n\n"
)
TWO_SENDERS = (
    b"@ 0x7\ni 7-1\no 10\ns smtp - a@example.org 1\nr           smtp h1 b@example.net 1\n"
    b"M\nmime: structure\n\nm\nTo: b\n\ns error - x 1\nr           smtp h2 c@example.net 1\n"
    b"r+          smtp h2 d@example.net 1\nm\nTo: c\n\nd 30:60:-1::1700000000\t\tsome text\n"
)


ONE = b"r           smtp h u@example.net 1\n"


def head(recipients: bytes) -> bytes:
    """A file with these records where the recipients stand."""
    return b"@ 0x7\ni 1-2\no 5\ns smtp - a@example.org 1\n" + recipients + b"m\nSubject: x\n\n"


def only(data: bytes) -> ControlRecipient:
    (found,) = parse("1-2", data).recipients
    return found


def attempt(data: bytes) -> ControlFile | SpoolError:
    try:
        return parse("1", data)
    except SpoolError as problem:
        return problem


def refusal(data: bytes, path: str = "1-2") -> SpoolError:
    with pytest.raises(SpoolError) as caught:
        parse(path, data)
    return caught.value


class TestRealFiles:
    @pytest.mark.parametrize(
        ("line", "host", "user", "header_offset"),
        [
            (b"smtp [127.0.0.1] rcpt1@example.com 99", b"[127.0.0.1]", b"rcpt1@example.com", 152),
            (b"smtp [IPv6:::1] rcpt1@example.com 99", b"[IPv6:::1]", b"rcpt1@example.com", 151),
            (b"smtp [127.0.0.1]:2526 rcpt1@example.com 99", b"[127.0.0.1]:2526", b"rcpt1@example.com", 157),
            (b'smtp "[127.0.0.1]" rcpt1@example.com 99', b'"[127.0.0.1]"', b"rcpt1@example.com", 154),
            (b"smtp multimx.example rcpt1@example.com 99", b"multimx.example", b"rcpt1@example.com", 156),
            (b"smtp nx.example u@nx.example 99", b"nx.example", b"u@nx.example", 146),
        ],
    )
    def test_one_recipient(self, line: bytes, host: bytes, user: bytes, header_offset: int) -> None:
        found = parse("1001", TOP + b"r           " + line + b"\n" + TAIL)
        (sender,) = found.senders
        assert (sender.offset, sender.channel, sender.host, sender.user) == (68, b"local", b"-", b"sender@example.org")
        assert not sender.null
        assert found.recipients == (ControlRecipient(100, b" ", b"smtp", host, user, b"99", 0, 0),)
        assert found.headers == (control.HeaderBlock(header_offset, HEADER),)
        assert (found.id, found.message_name, found.body_offset) == (b"1001", b"1001", 359)
        assert (found.log_identity, found.verbose_log, found.format_flags) == (b"<m1@example.org>", None, 7)
        assert found.remarks == ()

    def test_dsn_words_and_the_records_beside_them(self) -> None:
        found = parse("1001", DSN)
        assert found.remarks == ()
        assert [(r.offset, r.dsn_offset, r.envid, r.ret) for r in found.recipients] == [
            (100, 147, b"env+2Bid", b"FULL"),
            (230, 277, b"env+2Bid", b"FULL"),
            (310, -1, b"env+2Bid", b"FULL"),
            (378, 425, b"env+2Bid", b"FULL"),
        ]
        assert [r.dsn for r in found.recipients] == [
            DsnWords(notify=b"SUCCESS,FAILURE,DELAY", orcpt=b"rfc822;orig+2B1@example.com"),
            DsnWords(notify=b"NEVER"),
            DsnWords(),
            DsnWords(orcpt=b"rfc822;o5@example.com", inrcpt=b"i5", by=By(120, b"N")),
        ]

    def test_quoted_addresses(self) -> None:
        found = parse("1001", QUOTED)
        assert found.senders[0].user == b'"a b"@example.org'
        assert [(r.offset, r.user, r.privilege) for r in found.recipients] == [
            (98, b'"c d"@example.com', b"99"),
            (148, b"e\\ f@example.com", b"99"),
            (197, b"@r1.example,@r2.example:g@example.com", b"99"),
        ]

    def test_the_format_without_flags_and_delay_field(self) -> None:
        found = parse("1001", OLD_FORMAT)
        assert found.recipients == (
            ControlRecipient(59, b" ", b"smtp", b"[127.0.0.1]", b"rcpt1@example.com", b"99", 0, 0, lock_field=True),
        )

    def test_a_recipient_locked_by_another_process(self) -> None:
        found = only(TOP + b"r~ 12345    smtp [127.0.0.1] rcpt1@example.com 99\n" + TAIL)
        assert (found.state, found.user) == (b"~", b"rcpt1@example.com")

    def test_the_null_sender(self) -> None:
        (sender,) = parse("1001", TOP.replace(b"s local", b"s error") + ONE + TAIL).senders
        assert sender.null
        assert parse("1", head(ONE).replace(b"a@example.org", b"<>")).senders[0].null

    def test_recipients_of_other_channels_and_hosts(self) -> None:
        lines = (
            b"r           smtp [127.0.0.1] a@example.com 99\nr           smtp [127.0.0.2] b@example.net 99\n"
            b"r           local [127.0.0.1] c@example.com 99\n"
        )
        found = parse("1001", TOP + lines + TAIL)
        assert [(r.offset, r.channel, r.host) for r in found.recipients] == [
            (100, b"smtp", b"[127.0.0.1]"),
            (146, b"smtp", b"[127.0.0.2]"),
            (192, b"local", b"[127.0.0.1]"),
        ]

    def test_a_verbose_log(self) -> None:
        assert parse("1", head(b"v /home/a/verbose\n" + ONE)).verbose_log == b"/home/a/verbose"

    def test_diagnostics_after_the_header(self) -> None:
        record = b"d 100:152:-1::1795364840\t\x01failed\x01\x01\x01\x01smtp[22112]\tmessage file is missing(!)\n"
        data = TOP + b"r-          smtp [127.0.0.1] rcpt1@example.com 99\n" + TAIL + record * 2
        assert only(data).state == b"-"
        assert parse("1", data).remarks == ()

    def test_several_senders_and_header_blocks(self) -> None:
        found = parse("A/B/7-1", TWO_SENDERS)
        assert [(r.user, r.state, r.sender, r.header) for r in found.recipients] == [
            (b"b@example.net", b" ", 0, 0),
            (b"c@example.net", b" ", 1, 1),
            (b"d@example.net", b"+", 1, 1),
        ]
        assert [block.data for block in found.headers] == [b"To: b\n", b"To: c\n"]
        assert all(TWO_SENDERS.startswith(block.data, block.offset) for block in found.headers)
        assert all(TWO_SENDERS.startswith(b"r" + r.state, r.offset) for r in found.recipients)


class TestFields:
    @pytest.mark.parametrize(
        ("written", "user"),
        [
            (b'"a \\" b"@example.net', b'"a \\" b"@example.net'),
            (b"a\\\\@example.net", b"a\\\\@example.net"),
            (b"<u v@example.net>", b"u v@example.net"),
            (b'<"u> v"@example.net>', b'<"u> v"@example.net>'),
            (b"u@[IPv6:2001:db8::1]", b"u@[IPv6:2001:db8::1]"),
            (b"a<b@example.net", b"a<b@example.net"),
            (b"gr\xc3\xbc\xc3\x9fe@example.net", b"gr\xc3\xbc\xc3\x9fe@example.net"),
            (b"u\x0bv@example.net", b"u\x0bv@example.net"),
        ],
    )
    def test_what_belongs_to_an_address(self, written: bytes, user: bytes) -> None:
        assert only(head(ONE.replace(b"u@example.net", written))).user == user

    @pytest.mark.parametrize(
        "written",
        [b'"a b@example.net', b"u@example.net\\", b"John Smith@example.net", b"u@example.net 1 2", b""],
        ids=["open quote", "backslash at the end", "bare blank", "five fields", "three fields"],
    )
    def test_no_address_is_shortened(self, written: bytes) -> None:
        data = head(b"r           smtp h " + written + b" 1\n")
        if written.endswith(b"\\"):
            data = data.replace(b"\\ 1\n", b" 1\\\n")
        assert refusal(data).offset == data.index(b"\nr") + 1

    @pytest.mark.parametrize("written", [b'"a b@example.org 1', b"a@example.org", b"a b@example.org 1", b"", b'"'])
    def test_no_sender_is_shortened(self, written: bytes) -> None:
        data = head(ONE).replace(b"a@example.org 1", written)
        assert refusal(data).offset == data.index(b"\ns ") + 1

    @pytest.mark.parametrize("part", [b"[", b"<", b'<"', b"<a ", b"[ ", b"\\<", b'"<" <'])
    def test_brackets_never_closed_cost_no_more_than_others(self, part: bytes) -> None:
        """Were each looked for to the end of its line, this would take minutes."""
        line = b"r           " + part * (60_000 // len(part)) + b"\n"
        assert refusal(head(line * 20)).offset == head(line).index(line)

    def test_tabs_separate_too(self) -> None:
        found = only(head(b"r          \tsmtp\th \t u@example.net\t1 \n"))
        assert (found.channel, found.host, found.user, found.privilege) == (b"smtp", b"h", b"u@example.net", b"1")

    def test_a_null_sender_needs_no_other_fields(self) -> None:
        (sender,) = parse("1", head(ONE).replace(b"smtp - a@example.org 1", b"error")).senders
        assert sender.null
        assert sender.user == b""

    @pytest.mark.parametrize(("flags", "line", "lock_field"), [
        (b"0", b"r smtp h u@example.net 1\n", False),
        (b"2", b"r     smtp h u@example.net 1\n", False),
        (b"0", b"r       smtp h u@example.net 1\n", True),
        (b"0", b"r~123456smtp h u@example.net 1\n", True),
        (b"0", b"r        120smtp h u@example.net 1\n", True),
        (b"1", b"r       smtp h u@example.net 1\n", True),
        (b"0x3", b"r           smtp h u@example.net 1\n", True),
        (b"0x3", b"r       +1h smtp h u@example.net 1\n", True),
    ])  # fmt: skip
    def test_where_the_fields_begin(self, flags: bytes, line: bytes, lock_field: bool) -> None:
        found = only(head(line).replace(b"0x7", flags))
        assert (found.channel, found.host, found.user) == (b"smtp", b"h", b"u@example.net")
        assert found.lock_field is lock_field

    def test_a_lock_field_that_the_flags_promise_and_the_record_lacks(self) -> None:
        assert "lock field" in refusal(head(b"r smtp h u@example.net 1\n")).problem

    @pytest.mark.parametrize("number", [b"@7", b"@ 7", b"@ 07", b"@ 0x00000007", b"@0X7 "])
    def test_numbers_as_in_c(self, number: bytes) -> None:
        assert parse("1", head(ONE).replace(b"@ 0x7", number)).format_flags == 7

    @pytest.mark.parametrize("number", [b"@ 8", b"@ 0x17", b"@ 010", b"@", b"@ seven", b"@ -1", b"@ 0x", b"@ 7 7"])
    def test_unknown_flags_refuse_the_file(self, number: bytes) -> None:
        assert refusal(head(ONE).replace(b"@ 0x7", number)).offset == 0


class TestDsnRecords:
    def test_defaults_for_the_whole_file_stand_before_the_recipients(self) -> None:
        found = parse("1", head(b"n all\nR hdrs\n" + ONE + b"n one\n" + ONE))
        assert [(r.envid, r.ret) for r in found.recipients] == [(b"one", b"HDRS"), (b"all", b"HDRS")]

    def test_what_is_malformed_is_left_out_and_remarked(self) -> None:
        records = b"N NOTIFY=SOMETIMES EZMLM=-x\nn " + b"e" * 101 + b"\nR SOME\nN\n"
        found = parse("1", head(ONE + records))
        (one,) = found.recipients
        assert (one.dsn, one.envid, one.ret) == (DsnWords(ezmlm=b"-x"), None, None)
        assert len(found.remarks) == 4
        assert "NOTIFY" in found.remarks[0]

    def test_two_records_of_one_recipient_add_up(self) -> None:
        data = head(ONE + b"N NOTIFY=NEVER\nN EZMLM=-x NOTIFY=SUCCESS\n")
        found = only(data)
        assert found.dsn == DsnWords(notify=b"NEVER", ezmlm=b"-x")
        assert found.dsn_offset == data.index(b"N NOTIFY=NEVER")

    def test_words_without_a_recipient_above(self) -> None:
        found = parse("1", head(b"N NOTIFY=NEVER\n" + ONE))
        assert found.recipients[0].dsn == DsnWords()
        assert len(found.remarks) == 1


class TestOtherRecords:
    def test_unknown_records_are_skipped_with_a_remark(self) -> None:
        found = parse("1", head(b"#\n?what\x1b[2J\n\n" + ONE))
        assert len(found.recipients) == 1
        assert len(found.remarks) == 2
        assert all(remark.isascii() and remark.isprintable() for remark in found.remarks)

    def test_remarks_have_an_end(self) -> None:
        found = parse("1", head(b"#\n" * 5000 + ONE))
        assert len(found.remarks) == control.REMARK_LIMIT + 1

    def test_unused_records(self) -> None:
        found = parse("1", head(b"x 12\nb 13\n" + ONE + b"X           smtp h v@example.net 1\nN NOTIFY=NEVER\n"))
        (one,) = found.recipients
        assert one.dsn == DsnWords()
        assert len(found.remarks) == 2

    @pytest.mark.parametrize("line", [b"v\n", b"v \n", b"v/var/log/x\n"])
    def test_a_verbose_log_without_name(self, line: bytes) -> None:
        found = parse("1", head(line + ONE))
        assert found.verbose_log is None
        assert len(found.remarks) == 1

    def test_record_like_lines_within_a_header(self) -> None:
        data = head(ONE).replace(b"Subject: x\n", b"r           smtp h evil@example.net 1\nSubject: x\n")
        found = parse("1", data)
        assert [r.user for r in found.recipients] == [b"u@example.net"]
        assert found.headers[0].data == b"r           smtp h evil@example.net 1\nSubject: x\n"

    def test_an_empty_header(self) -> None:
        data = head(ONE).replace(b"Subject: x\n", b"")
        (block,) = parse("1", data).headers
        assert (block.data, block.offset) == (b"", len(data) - 1)

    def test_a_turn_request_is_no_message(self) -> None:
        found = parse("1", b"T example.net\n")
        assert found.turn_request
        assert (found.recipients, found.message_name) == ((), b"")


class TestRefused:
    @pytest.mark.parametrize(("line", "problem"), [
        (b"i 1-2\n", "i record"), (b"o 5\n", "o record"), (b"s smtp - a@example.org 1\n", "s record"),
        (b"m\nSubject: x\n\n", "m record"),
    ])  # fmt: skip
    def test_a_missing_record(self, line: bytes, problem: str) -> None:
        data = head(ONE)
        assert line in data
        assert problem in refusal(data.replace(line, b"")).problem

    @pytest.mark.parametrize("number", [b"-5", b"0x5", b"5 5", b"", b"99999999999999999999"])
    def test_a_body_offset_that_is_no_number(self, number: bytes) -> None:
        data = head(ONE).replace(b"o 5", b"o " + number)
        assert refusal(data).offset == data.index(b"\no ") + 1

    @pytest.mark.parametrize("name", [b"../1", b"/etc/passwd", b"A/1", b"..", b".", b""])
    def test_message_names_that_climb(self, name: bytes) -> None:
        assert "plain file name" in refusal(head(ONE).replace(b"i 1-2", b"i " + name)).problem

    @pytest.mark.parametrize(
        "line", [b"i1001\n", b"o359\n", b"ssmtp - a b 1\n", b"i\n", b"o\n", b"s\n", b"r\n", b"r \n"]
    )
    def test_a_record_without_its_state_tag(self, line: bytes) -> None:
        data = head(line + ONE)
        assert refusal(data).offset == data.index(b"\n" + line) + 1

    @pytest.mark.parametrize("line", [b"i 3-4\n", b"o 6\n"])
    def test_contradictions(self, line: bytes) -> None:
        assert "second" in refusal(head(line + ONE)).problem

    def test_text_beside_the_header_tag(self) -> None:
        """What a header that ends too early leaves behind looks so: ``Message-Id: ...`` as a record."""
        assert refusal(head(ONE) + b"Message-Id: <x@example.org>\n").problem.startswith("characters after")

    @pytest.mark.parametrize("at", [0, 10, 60, -3])
    def test_nul_bytes(self, at: int) -> None:
        data = bytearray(head(ONE))
        data[at] = 0
        assert refusal(bytes(data)).offset == at % len(data)

    def test_line_lengths(self) -> None:
        longest = b"l " + b"x" * (control.LINE_LIMIT - 2)
        assert len(parse("1", head(longest + b"\n" + ONE)).log_identity) == control.LINE_LIMIT - 2
        assert "a line of more" in refusal(head(longest + b"x\n" + ONE)).problem
        diagnostic = b"d " + b"x" * 2 * control.LINE_LIMIT + b"\n"
        assert parse("1", head(ONE) + diagnostic).remarks == ()

    def test_header_sizes(self) -> None:
        line = b"X: " + b"x" * 1020 + b"\n"
        fits = line * (control.HEADER_LIMIT // 1024)
        assert len(parse("1", head(ONE).replace(b"Subject: x\n", fits)).headers[0].data) == len(fits)
        assert "more than" in refusal(head(ONE).replace(b"Subject: x\n", fits + b"X: y\n")).problem

    def test_record_and_file_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control, "RECORD_LIMIT", 3)
        assert len(parse("1", head(ONE * 3)).recipients) == 3
        assert "more than 3 recipients" in refusal(head(ONE * 2 + b"m\n\n" + ONE * 2)).problem
        assert "more than 3 senders" in refusal(head(b"s error\n" * 3 + ONE)).problem
        assert "more than 3 header blocks" in refusal(head(ONE + b"m\n\n" * 3)).problem
        monkeypatch.setattr(control, "FILE_LIMIT", 100)
        assert refusal(head(ONE * 2)).offset == 100

    @pytest.mark.parametrize("path", ["", "A/B/", "control", "A/x1001", "-1", "1001/"])
    def test_names_without_a_number(self, path: str) -> None:
        assert refusal(head(ONE), path).offset is None


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("12345-6789", "../queue/m"),
            ("A/12345-6789", "../queue/A/m"),
            ("A/B/12345-6789", "../queue/A/B/m"),
            ("./1", "../queue/./m"),
        ],
    )
    def test_hash_directories(self, path: str, expected: str) -> None:
        assert message_path(path, b"m") == expected

    def test_names_of_any_bytes(self) -> None:
        assert message_path("1", b"m\xff").encode("utf-8", "surrogateescape") == b"../queue/m\xff"

    @pytest.mark.parametrize("path", ["/A/1", "../1", "A/../../1"])
    def test_paths_outside_the_spool(self, path: str) -> None:
        with pytest.raises(SpoolError):
            message_path(path, b"m")

    @pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
    def test_names_that_are_none(self, name: bytes) -> None:
        with pytest.raises(SpoolError):
            message_path("1", name)

    @pytest.mark.parametrize(("path", "number"), [("12345-6789", b"12345"), ("A/B/7", b"7"), ("12x", b"12")])
    def test_the_number_of_a_file(self, path: str, number: bytes) -> None:
        assert file_id(path) == number
        assert parse(path, head(ONE)).id == number


def complete(found: ControlFile, whole: ControlFile) -> bool:
    """Whether everything that would be sent for ``found`` is a fact of the whole file."""
    return (
        all(one in whole.recipients for one in found.recipients)
        and found.senders == whole.senders[: len(found.senders)]
        and found.headers == whole.headers[: len(found.headers)]
        and (not found.recipients or (found.message_name, found.body_offset) == (whole.message_name, whole.body_offset))
    )


@pytest.mark.parametrize("data", [DSN, QUOTED, OLD_FORMAT, TWO_SENDERS], ids=["dsn", "quoted", "old", "two senders"])
def test_a_file_cut_off_anywhere_never_yields_half_a_fact(data: bytes) -> None:
    whole = parse("1", data)
    refused = 0
    for length in range(len(data)):
        found = attempt(data[:length])
        if isinstance(found, SpoolError):
            refused += 1
            assert found.offset is not None
            assert 0 <= found.offset <= length
        else:
            assert complete(found, whole)
    assert refused > len(data) // 2


NOTARY = b"a@example.org\x01%s\x015.1.1\x01smtp; 550 (no)\x01dns; mx (192.0.2.1|25)\x01smtp[1]"


@pytest.mark.parametrize("action", [b"failed", b"delivered", b"relayed", b"expanded"])
@pytest.mark.parametrize("tag", [b" ", b"+"])
def test_a_record_that_ends_a_delivery(action: bytes, tag: bytes) -> None:
    """The scheduler makes the notice from it, or has done so and set the tag ``+``."""
    record = b"d%s150:220:-1::1700000000\t%s\ttext\n" % (tag, NOTARY % action)
    assert parse("1", TOP + ONE + TAIL + record).recorded == ((150, action, b"a@example.org"),)
    assert parse("1", TOP + ONE + TAIL + record * 2).recorded == ((150, action, b"a@example.org"),) * 2


@pytest.mark.parametrize(
    "record",
    [
        b"d 150:220:-1::1700000000\t%s\ttext\n" % (NOTARY % b"delayed"),
        b"d 150:220:-1::1700000000\t%s\ttext\n" % (NOTARY % b"_delayed"),
        b"d 150:220:-1::1700000000\t\ttext\n",
        b"d 150:220:-1::1700000000\ta@example.org\x01failed\n",  # cut off, and ended by whoever wrote next
        b"d 150:220:-1::1700000000\t%s\n" % (NOTARY % b"failed"),
        b"d-150:220:-1::1700000000\t%s\ttext\n" % (NOTARY % b"failed"),  # taken back
        b"d~150:220:-1::1700000000\t%s\ttext\n" % (NOTARY % b"failed"),
        b"d 150:220:-1::1700000000\t%s\ttext" % (NOTARY % b"failed"),
        b"d x\t%s\ttext\n" % (NOTARY % b"failed"),
        b"d -1:220:-1::1700000000\t%s\ttext\n" % (NOTARY % b"failed"),
    ],
)
def test_records_that_end_nothing(record: bytes) -> None:
    found = parse("1", TOP + ONE + TAIL + record)
    assert found.recorded == ()
    assert found.remarks == ()


def test_a_diagnostic_that_is_being_appended_does_no_harm() -> None:
    whole = parse("1001", TWO_SENDERS)
    start = TWO_SENDERS.index(b"\nd 30") + 1
    for length in range(start, len(TWO_SENDERS)):
        assert parse("1001", TWO_SENDERS[:length]) == whole


RECORDS = st.sampled_from(
    [*re.findall(rb"[^\n]*\n", DSN + TWO_SENDERS), b"\n", b"r\n", b"m\n", b"T\n", b"r       ", b"@3\n"]
)


@settings(deadline=None)
@given(
    st.one_of(st.binary(), st.lists(RECORDS).map(b"".join), st.tuples(st.just(TWO_SENDERS), st.binary()).map(b"".join))
)
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    found = attempt(data)
    if isinstance(found, SpoolError):
        assert found.offset is not None
        return
    for one in found.recipients:
        assert data[one.offset : one.offset + 2] == b"r" + one.state
        line = data[one.offset : data.index(b"\n", one.offset)]
        assert one.user in line
        assert one.host in line
        assert found.senders[one.sender].offset < one.offset < found.headers[one.header].offset
    for block in found.headers:
        assert data[block.offset - 2 : block.offset] == b"m\n"
        assert data.startswith(block.data + b"\n", block.offset)
        assert b"\n\n" not in b"\n" + block.data


@settings(deadline=None)
@given(st.binary(max_size=3), st.integers(min_value=0, max_value=len(QUOTED) - 1), st.integers(0, 3))
def test_damage_to_a_good_file_is_parsed_or_refused(damage: bytes, at: int, gap: int) -> None:
    found = attempt(QUOTED[:at] + damage + QUOTED[at + gap :])
    if isinstance(found, SpoolError):
        assert found.problem
    else:
        assert all(len(one.state) == 1 and one.channel and one.host for one in found.recipients)


def test_many_recipients_keep_their_order() -> None:
    lines = b"".join(b"r           smtp h u%d@example.net 1\n" % number for number in range(20_000))
    found = parse("1", head(lines))
    assert [r.user for r in found.recipients] == [b"u%d@example.net" % number for number in range(20_000)]


USUAL = TOP + b"r           smtp [127.0.0.1] rcpt1@example.com 99\n" + TAIL
PIECES = [
    *(bytes([octet]) for octet in b'\n \t<>[]"\\\0\rrsm7380x+~/.'),
    *(b"\n\n", b"m\n", b"e x\n", b"X\n", b"..", b"error", b"\xff", b"0123456789", b"s a b c d\n", b"N NOTIFY=NEVER\n"),
    *(b"r           smtp h u 1\n", b"d 1:2:3::4\tx\n", b"r+", b"r123456    ", b"[::1]", b"<a@example.org>"),
]


def test_a_file_with_one_sender_and_recipient_is_read_in_one_match(monkeypatch: pytest.MonkeyPatch) -> None:
    by_records = parse("A/1001-7", USUAL + b"\n")
    monkeypatch.delattr(control, "_Parser")
    assert parse("A/1001-7", USUAL) == by_records
    assert parse("A/1001-7", USUAL.replace(b"e <sender@example.org>\n", b"")).message_name == b"1001"


def test_what_is_read_in_one_match_is_what_its_records_say() -> None:
    """An empty line at the end, which means nothing, makes a file one that is read record by record."""
    chance = random.Random(20261129)  # the same files in every run
    alike = 0
    for _ in range(6000):
        data = bytearray(chance.choice((USUAL, USUAL.replace(b"e <sender@example.org>\n", b""))))
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            at, gap = chance.randrange(len(data)), chance.choice((0, 0, 1, 1, 2, 5, 20))
            data[at : at + gap] = chance.choice(PIECES)
        data += b"\n\n" if not data.endswith(b"\n\n") else b""
        found, by_records = attempt(bytes(data)), attempt(bytes(data) + b"\n")
        if isinstance(found, SpoolError):
            assert isinstance(by_records, SpoolError)
            assert found.problem == by_records.problem
        else:
            assert found == by_records
            alike += 1
    assert alike > 2000
