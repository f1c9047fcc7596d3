"""Notices as others read them: Python's parser, an independent bounce parser, and people (the files in ``notices``)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from typing import Any

import pytest
from flufl.bounce import all_failures  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from tests.support.queuenotices import (
    DAY,
    EXPIRES,
    HOUR,
    KEPT,
    MINUTE,
    NONCE,
    ORIGINAL,
    PHRASES,
    SCENES,
    SUBMITTED,
    composed,
    composer,
    message,
    notice,
    to,
)

from zsmtp.body.source import Source
from zsmtp.body.stored import prepare
from zsmtp.body.target import ContentRefusal, Target
from zsmtp.errors import ConfigError
from zsmtp.queue.composer import MAX_HEADER, MAX_RECIPIENTS, ComposedNotice, Composer, NoticeSettings
from zsmtp.queue.states import NoticeKind, OwedNotice

FAILED, DELAYED = NoticeKind.FAILED, NoticeKind.DELAYED


def parsed(octets: bytes) -> EmailMessage:
    """The notice as Python's parser sees it: three parts at most, and nothing wrong with them or with the header."""
    found = message_from_bytes(octets, policy=policy.default)
    assert isinstance(found, EmailMessage)
    for part in (found, *parts_of(found)):
        assert not part.defects
        names = [name for name in part if part is not found or name != "To" or part[name].isascii()]
        assert not any(getattr(part[name], "defects", ()) for name in names)  # of UTF-8 in To it knows nothing
    return found


def parts_of(notice: Message) -> list[EmailMessage]:
    return [part for part in notice.get_payload() if isinstance(part, EmailMessage)]


def text_of(octets: bytes) -> str:
    return str(parts_of(parsed(octets))[0].get_content())


def groups_of(octets: bytes) -> list[list[tuple[str, str]]]:
    """The fields of the status part: those of the message, then those of each recipient."""
    part = octets.replace(b"\r\n", b"\n").split(b"\n--=_")[2].partition(b"\n\n")[2].decode()
    groups = [group for group in part.strip("\n").split("\n\n") if group]
    unfolded = [re.sub(r"\n {4}", " ", group).split("\n") for group in groups]
    pairs = [[line.partition(": ") for line in lines] for lines in unfolded]
    return [[(name, value) for name, _, value in group] for group in pairs]


# ---------------------------------------------------------------- for people


@pytest.mark.parametrize("name", SCENES)
def test_the_notices_that_are_kept_for_reading(name: str) -> None:
    """``python -m tests.support.queuenotices`` writes them anew."""
    assert SCENES[name]() == (KEPT / f"{name}.eml").read_bytes()


@pytest.mark.parametrize("name", SCENES)
def test_lines_are_short_enough_to_be_read(name: str) -> None:
    text = text_of(SCENES[name]())
    assert max(len(line) for line in text.splitlines()) <= 76
    assert "\n\n\n" not in text


def test_a_status_that_was_guessed_from_the_reply_code_explains_nothing() -> None:
    guessed = text_of(composed([notice(status="5.1.1", code=550, reason="550 go away", server="mx.example.com")]))
    assert "no such mailbox" not in guessed
    assert "gave the reason only as text" in guessed
    assert "mx.example.com said: 550 go away" in guessed
    said = text_of(composed([notice(status="5.1.1", code=550, reason="5.1.1 go away", server="mx.example.com")]))
    assert "There is no such mailbox." in said


def test_what_an_operator_says_stands_for_itself() -> None:
    text = text_of(composed([notice(status="5.7.1", reason="the domain was sold")]))
    assert "    bob@example.com\n        Reason: the domain was sold\n" in text


def test_all_kinds_in_one_notice() -> None:
    kinds = [notice(kind, b"%s@example.com" % kind.value.encode()) for kind in reversed(NoticeKind)]
    made = composed(kinds)
    assert parsed(made)["subject"] == "Delivery report: Lunch on Friday"
    text = text_of(made)
    places = [text.index(f"{kind.value}@example.com") for kind in NoticeKind]
    assert places == sorted(places)
    assert [dict(group)["Action"] for group in groups_of(made)[1:]] == [kind.value for kind in reversed(NoticeKind)]


def test_the_language_of_the_settings_goes_before_that_of_the_original() -> None:
    content = ORIGINAL.replace(b"Subject:", b"Accept-Language: de\nSubject:")
    assert parsed(composed([notice()], content))["subject"].startswith("Nicht zugestellt")
    assert parsed(composed([notice()], content, settings={"language": "EN"}))["subject"].startswith("Not delivered")
    assert parsed(composed([notice()], settings={"default_language": "de"}))["subject"].startswith("Nicht zugestellt")


# -------------------------------------------------------------- for machines


@given(
    st.lists(
        st.tuples(st.sampled_from(list(NoticeKind)), st.sampled_from(["4.2.2", "5.1.1", "2.0.0", ""])),
        min_size=1,
        max_size=12,
    )
)
def test_an_independent_parser_finds_everybody(kinds: list[tuple[NoticeKind, str]]) -> None:
    notices = [
        notice(kind, b"user%d@example.com" % number, number=number, status=status)
        for number, (kind, status) in enumerate(kinds)
    ]
    temporary, permanent = all_failures(message_from_bytes(composed(notices)))
    assert permanent == {one.address for one in notices if one.kind is FAILED}
    assert temporary == {one.address for one in notices if one.kind is DELAYED}


def test_a_notice_has_as_many_recipients_as_are_allowed() -> None:
    notices = [notice(address=b"user%d@example.com" % n, number=n) for n in range(MAX_RECIPIENTS + 1)]
    _, permanent = all_failures(message_from_bytes(composed(notices[:-1])))
    assert len(permanent) == MAX_RECIPIENTS
    for wrong in (notices, []):
        with pytest.raises(ValueError, match="recipients in one notice"):
            composed(wrong)


def test_every_field_that_is_known_is_there() -> None:
    made = composed(
        [
            notice(
                DELAYED,
                status="4.2.2",
                code=452,
                reason="4.2.2 full",
                server="mx1.example.com [192.0.2.25]:25",
                orcpt=b"rfc822;team+2Bx@example.com",
                last_attempt=SUBMITTED + HOUR,
            )
        ],
        envid=b"QQ+2B17",
    )
    assert groups_of(made) == [
        [
            ("Reporting-MTA", "dns; mail.example.org"),
            ("Original-Envelope-Id", "QQ+17"),
            ("X-Queue-Id", "000pnzt2s300007"),
            ("Arrival-Date", "Thu, 05 Mar 2026 14:03:11 +0000"),
        ],
        [
            ("Original-Recipient", "rfc822; team+x@example.com"),
            ("Final-Recipient", "rfc822; bob@example.com"),
            ("Action", "delayed"),
            ("Status", "4.2.2"),
            ("Remote-MTA", "dns; mx1.example.com"),
            ("Diagnostic-Code", "smtp; 452 4.2.2 full"),
            ("Last-Attempt-Date", "Thu, 05 Mar 2026 15:03:11 +0000"),
            ("Will-Retry-Until", "Tue, 10 Mar 2026 14:03:11 +0000"),
        ],
    ]
    header = parsed(made)
    assert (header["from"], header["to"]) == (
        "Mail Delivery System <mailer-daemon@mail.example.org>",
        "ann@example.org",
    )
    assert (header["auto-submitted"], header["in-reply-to"]) == ("auto-replied", "<lunch-17@example.org>")
    assert header["references"] == "<lunch-17@example.org>"
    assert header.get_content_type() == "multipart/report"
    assert header.get_param("report-type") == "delivery-status"


@pytest.mark.parametrize(
    ("kind", "status", "code", "expected"),
    [
        (FAILED, "5.1.1", 0, "5.1.1"),
        (FAILED, "4.4.7", 0, "4.4.7"),
        (FAILED, "2.0.0", 0, "5.0.0"),
        (FAILED, "", 552, "5.2.3"),
        (FAILED, "", 0, "5.0.0"),
        (DELAYED, "5.1.1", 0, "4.1.1"),
        (DELAYED, "nonsense", 0, "4.0.0"),
        (NoticeKind.RELAYED, "2.6.0", 250, "2.6.0"),
        (NoticeKind.DELIVERED, "", 250, "2.0.0"),
        (NoticeKind.EXPANDED, "5.1.1", 0, "2.1.1"),
    ],
)
def test_the_status_fits_the_action(kind: NoticeKind, status: str, code: int, expected: str) -> None:
    made = composed([notice(kind, status=status, code=code)])
    assert dict(groups_of(made)[1])["Status"] == expected


# ------------------------------------------------------ internationalised mail

ORCPT_UTF8 = b"utf-8;\\x{674E}@old.example"


@pytest.mark.parametrize(
    ("address", "orcpt", "kind", "final", "original"),
    [
        ("bob@example.com", None, "message/delivery-status", "rfc822; bob@example.com", None),
        ("bob@bücher.example", None, "message/delivery-status", "rfc822; bob@xn--bcher-kva.example", None),
        (
            "bob@example.com",
            ORCPT_UTF8,
            "message/delivery-status",
            "rfc822; bob@example.com",
            "utf-8; \\x{674E}@old.example",
        ),
        (
            "李@bücher.example",
            ORCPT_UTF8,
            "message/global-delivery-status",
            "utf-8; 李@bücher.example",
            "utf-8; 李@old.example",
        ),
        (
            "李@例え.example",
            "utf-8;李@例え.example".encode(),
            "message/global-delivery-status",
            "utf-8; 李@例え.example",
            "utf-8; 李@例え.example",
        ),
    ],
)
def test_types_and_addresses_of_internationalised_mail(
    address: str, orcpt: bytes | None, kind: str, final: str, original: str | None
) -> None:
    made = composed([notice(address=address.encode(), orcpt=orcpt, reason="é")])
    assert parts_of(parsed(made))[1].get_content_type() == kind
    fields = dict(groups_of(made)[1])
    assert fields["Final-Recipient"] == final
    assert fields.get("Original-Recipient") == original
    assert fields["Diagnostic-Code"] == ("x-zsmtp; é" if "global" in kind else "x-zsmtp; \\xe9")
    assert address in text_of(made)


@pytest.mark.parametrize("name", ["failure", "expired-german", "delay", "success", "hostile"])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_every_server_can_take_it(name: str, eight_bit: bool) -> None:
    header, _, body = SCENES[name]().replace(b"\r\n", b"\n").partition(b"\n\n")
    content = prepare(header + b"\n", Source.from_bytes(body)).content(Target(eight_bit_mime=eight_bit))
    assert not isinstance(content, ContentRefusal)
    octets = b"".join(content.chunk_blocks())
    assert eight_bit or octets.isascii()
    assert [part.get_content_type() for part in parts_of(parsed(octets))] == [
        part.get_content_type() for part in parts_of(parsed(SCENES[name]()))
    ]


# ------------------------------------------------------------------ the original


@pytest.mark.parametrize(
    ("kind", "ret", "limit", "expected"),
    [
        (FAILED, None, 10_000, "message/rfc822"),
        (FAILED, b"FULL", 10_000, "message/rfc822"),
        (FAILED, b"HDRS", 10_000, "text/rfc822-headers"),
        (FAILED, b"hdrs", 10_000, "text/rfc822-headers"),
        (FAILED, None, 100, "text/rfc822-headers"),
        (FAILED, b"FULL", 100, "text/rfc822-headers"),
        (DELAYED, b"FULL", 10_000, "text/rfc822-headers"),
        (NoticeKind.DELIVERED, None, 10_000, "text/rfc822-headers"),
    ],
)
def test_how_much_of_the_original_comes_back(kind: NoticeKind, ret: bytes | None, limit: int, expected: str) -> None:
    made = composed([notice(kind)], ret=ret, settings={"return_limit": limit})
    original = made.split(b"\n--=_")[3].partition(b"\n\n")[2]
    assert parts_of(parsed(made))[2].get_content_type() == expected
    assert original == (ORIGINAL if expected == "message/rfc822" else ORIGINAL.partition(b"\n\n")[0] + b"\n")


def test_a_notice_without_the_original_where_it_is_gone() -> None:
    made = composer().compose(
        message(), [notice()], b"", recipients=to("k"), now=SUBMITTED, expires=EXPIRES, nonce=NONCE
    )
    assert made is not None
    assert len(parts_of(parsed(made.message.content))) == 2
    assert "attached" not in text_of(made.message.content)


@pytest.mark.parametrize(
    ("content", "kind", "eight_bit"),
    [
        (ORIGINAL, "message/rfc822", False),
        (ORIGINAL + b"Gr\xc3\xbc\xc3\x9fe\n", "message/rfc822", True),
        (b"Subject: Gr\xc3\xbc\xc3\x9fe\n" + ORIGINAL, "message/global", True),
        (b"Subject: Gr\xfc\xdfe\n" + ORIGINAL, "message/rfc822", True),
        (ORIGINAL.replace(b"\n", b"\r\n"), "message/rfc822", False),
        (ORIGINAL.removesuffix(b"\n"), "message/rfc822", False),
        (b"no header at all", "message/rfc822", False),
        (b"\nonly a body\n", "message/rfc822", False),
    ],
)
def test_the_original_comes_back_octet_for_octet(content: bytes, kind: str, eight_bit: bool) -> None:
    made = composed([notice()], content)
    part = parts_of(parsed(made))[2]
    assert part.get_content_type() == kind
    assert (part["content-transfer-encoding"] == "8bit") is eight_bit
    assert (parsed(made)["content-transfer-encoding"] == "8bit") is eight_bit
    newline = b"\r\n" if b"\r\n" in content else b"\n"
    assert made.endswith(newline * 2 + content + newline + b"--=_" + NONCE.hex().encode() + b"--" + newline)
    assert made.count(b"\n") == made.count(newline)


def test_a_header_of_unknown_octets_is_made_ascii() -> None:
    made = composed([notice()], b"Subject: Gr\xfc\xdfe\nX: a\xff\n" + ORIGINAL, ret=b"HDRS")
    assert made.isascii()
    assert b"Subject: =?UNKNOWN-8BIT?Q?Gr=FC=DFe?=\n" in made


def test_a_header_that_is_too_long_is_cut_at_a_line() -> None:
    content = ORIGINAL.partition(b"\n\n")[0] + b"\n" + b"X: y\n" * MAX_HEADER + b"\nbody\n"
    original = composed([notice()], content, ret=b"HDRS").split(b"\n--=_")[3]
    assert MAX_HEADER - 100 < len(original) < MAX_HEADER + 200
    assert original.endswith(b"X: y\n")


# ---------------------------------------------------------------- large originals


def streamed(size: int, beginning: bytes, notices: list[OwedNotice] | None = None) -> ComposedNotice:
    made = composer(return_limit=10**12).compose(
        message(size=size),
        notices or [notice()],
        beginning,
        recipients=to("k"),
        now=SUBMITTED,
        expires=EXPIRES,
        nonce=NONCE,
    )
    assert made is not None
    return made


def test_a_large_original_is_streamed() -> None:
    chunks = [ORIGINAL, *[b"all work and no play\n" * 1000] * 50]
    whole = b"".join(chunks)
    made = streamed(len(whole), chunks[0])
    assert (made.streamed, made.message.content) == (True, b"")
    assert len(made.before) + len(made.after) < 10_000
    octets = b"".join(made.chunks(iter(chunks)))
    assert octets == made.before + whole + made.after
    assert parts_of(parsed(octets))[2].get_payload(0)["subject"] == "Lunch on Friday"  # type: ignore[union-attr, index]

    async def awaited() -> bytes:
        async def content() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return b"".join([chunk async for chunk in made.stream(content())])

    assert asyncio.run(awaited()) == octets


def test_what_is_streamed_is_taken_once() -> None:
    size = 10**9
    first, again = streamed(size, ORIGINAL), streamed(size, ORIGINAL)
    other = streamed(size, ORIGINAL, [notice(number=1)])
    assert first.message.idempotency_key == again.message.idempotency_key != other.message.idempotency_key
    assert first.message.digest == again.message.digest
    assert first.message.idempotency_key
    whole = streamed(len(ORIGINAL), ORIGINAL)
    assert (whole.streamed, whole.message.idempotency_key) == (False, "")


# ------------------------------------------------------------------- the envelope


def test_the_envelope_of_a_notice() -> None:
    mail = message(tenant="shop", priority=5, options={"require_tls": True, "deliver_by": 7})
    made = composer().compose(
        mail, [notice()], ORIGINAL, recipients=to("example.org"), now=SUBMITTED, expires=EXPIRES, nonce=NONCE
    )
    assert made is not None
    new = made.message
    assert (new.sender, new.origin, new.tenant, new.priority) == (b"", "notice", "shop", 0)
    assert [(one.address, one.key, one.notify) for one in new.recipients] == [
        (b"ann@example.org", "example.org", b"NEVER")
    ]
    assert (new.due, new.expires, new.name) == (SUBMITTED, EXPIRES, parsed(new.content)["message-id"])
    assert new.options == {"automatic": "auto-replied", "require_tls": True}


@pytest.mark.parametrize("priority", [-3, 0, 9])
def test_a_notice_is_no_more_urgent_than_its_message(priority: int) -> None:
    made = composer().compose(
        message(priority=priority),
        [notice()],
        ORIGINAL,
        recipients=to("k"),
        now=SUBMITTED,
        expires=EXPIRES,
        nonce=NONCE,
    )
    assert made is not None
    assert made.message.priority == min(priority, 0)


@pytest.mark.parametrize(
    ("sender", "to"),
    [
        (b"ann@example.org", "<ann@example.org>"),
        (b"@relay.example,@b.example:ann@example.org", "<ann@example.org>"),
        (b'"a b"@example.org', '<"a b"@example.org>'),
        (b"a,b;c@example.org", '<"a,b;c"@example.org>'),
        (b"a\\ b@example.org", '<"a\\\\ b"@example.org>'),
        (b"postmaster", "<postmaster>"),
        (b"ann@example.org>, <all@example.net", '<"ann@example.org>, <all"@example.net>'),
        (b"ann@example.org,all", "<ann@example.org?all>"),
        ("ann@bücher.example".encode(), "<ann@xn--bcher-kva.example>"),
        ("jürgen@bücher.example".encode(), "<jürgen@bücher.example>"),
    ],
)
def test_the_sender_as_it_stands_in_the_header(sender: bytes, to: str) -> None:
    assert f"\nTo: {to}\n".encode() in composed([notice()], sender=sender)


# --------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"host": "mail example"}, "host: 'mail example' is not a valid host name"),
        ({"host": ""}, "host"),
        ({"sender_name": "a\nBcc: b"}, "sender_name"),
        ({"sender_name": "x" * 121}, "sender_name"),
        ({"sender_address": "a>\r\nBcc: b@c"}, "sender_address"),
        ({"sender_address": "daemon"}, "sender_address"),
        ({"contact": "jürgen@example.org"}, "contact"),
        ({"return_limit": -1}, "return_limit"),
        ({"language": "tlh"}, "language: there are no notices in 'tlh', only in de, en"),
        ({"default_language": ""}, "default_language"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        composer(**settings)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Mail Delivery System", b"From: Mail Delivery System <mailer-daemon@mail.example.org>\n"),
        ("", b"From: mailer-daemon@mail.example.org\n"),
        ('Post, "Office"', b'From: "Post, \\"Office\\"" <mailer-daemon@mail.example.org>\n'),
        ("Poststelle Köln", b"From: Poststelle =?UTF-8?Q?K=C3=B6ln?= <mailer-daemon@mail.example.org>\n"),
    ],
)
def test_the_name_of_the_sender(name: str, header: bytes) -> None:
    assert composed([notice()], settings={"sender_name": name}).startswith(header)


def test_addresses_of_ones_own() -> None:
    made = composed([notice()], settings={"sender_address": "post@example.org", "contact": "help@example.org"})
    assert parsed(made)["from"].addresses[0].addr_spec == "post@example.org"
    assert "write to help@example.org." in text_of(made)


# ------------------------------------------------------------- hostile content

NAMES = {
    "Reporting-MTA", "Original-Envelope-Id", "X-Queue-Id", "Arrival-Date", "Original-Recipient", "Final-Recipient",
    "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date", "Will-Retry-Until",
}  # fmt: skip
FIELDS = [
    "From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "MIME-Version",
    "Content-Type", "Content-Transfer-Encoding",
]  # fmt: skip
odd = st.text(st.sampled_from('a@.:;,<>"\\ \r\n\t\0\x1b=?_-{}/[]é李\ud800\u202e'), max_size=80)
texts = st.one_of(st.text(max_size=700), odd)
octets = st.one_of(st.binary(max_size=700), odd.map(lambda text: text.encode("utf-8", "surrogatepass")))
hostile = st.builds(
    notice,
    st.sampled_from(list(NoticeKind)),
    octets,
    status=texts,
    code=st.sampled_from([0, 250, 450, 550, 999]),
    reason=texts,
    server=texts,
    orcpt=st.none()
    | octets
    | octets.map(lambda value: b"rfc822;" + value)
    | octets.map(lambda value: b"utf-8;" + value),
    expires=st.sampled_from([0.0, EXPIRES, 1e300, float("inf")]),
    last_attempt=st.sampled_from([0.0, SUBMITTED, -1e300, float("nan")]),
)
header_lines = st.builds(
    lambda name, value: name + b": " + value + b"\n",
    st.sampled_from([b"Subject", b"Date", b"Message-ID", b"Accept-Language", b"Content-Type", b"X"]),
    st.one_of(octets, odd.map(lambda text: b"=?utf-8?q?" + text.encode("utf-8", "replace") + b"?=")),
)


@given(
    st.lists(hostile, min_size=1, max_size=4),
    st.lists(header_lines, max_size=5).map(b"".join),
    octets,
    octets.filter(bool),
    st.none() | octets,
    st.sampled_from([None, b"HDRS", b"FULL"]),
    st.sampled_from(["en", "de"]),
)
def test_foreign_text_becomes_neither_a_field_nor_a_part(
    notices: list[OwedNotice],
    header: bytes,
    body: bytes,
    sender: bytes,
    envid: bytes | None,
    ret: bytes | None,
    language: str,
) -> None:
    content = header + b"\n" + body
    mail = message(content, sender=sender, envid=envid, ret=ret)
    made = composer(language=language).compose(
        mail, notices, content, recipients=to("k"), now=SUBMITTED + MINUTE, expires=SUBMITTED + DAY, nonce=NONCE
    )
    if made is None:  # the header has made itself one of a notice
        return
    whole = made.message.content.replace(b"\r\n", b"\n")
    head, _, rest = whole.partition(b"\n\n")
    names = [line.partition(":")[0] for line in head.decode().split("\n") if not line[0].isspace()]
    assert names == [name for name in FIELDS if name in names]
    boundary = b"--=_" + NONCE.hex().encode()
    pieces = b"\n" + rest.removesuffix(b"\n")
    assert [piece[:1] for piece in pieces.split(b"\n" + boundary)] == [b"", b"\n", b"\n", b"\n", b"-"]
    machine = pieces.split(b"\n" + boundary)[2]
    assert all(name in NAMES for group in groups_of(made.message.content) for name, _ in group)
    assert [dict(group).get("Action") for group in groups_of(made.message.content)[1:]] == [
        one.kind.value for one in notices
    ]
    mine = whole[: whole.rindex(b"\n" + boundary + b"\n")]
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", mine)
    assert max(len(line) for line in mine.split(b"\n")) <= 998
    assert b"global" in machine or machine.isascii()
    if not made.streamed and ret == b"HDRS":
        assert max(len(line) for line in whole.split(b"\n")) <= 998


def test_a_language_without_phrases_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match="default_language"):
        Composer(NoticeSettings(host="mail.example.org"), {"de": PHRASES["de"]})
