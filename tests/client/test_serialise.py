"""Message objects as octets: what was parsed comes out as it went in, what was made holds what the object holds."""

from __future__ import annotations

import email
import email.message
import email.policy
import random
from email.header import Header
from email.headerregistry import Address, Group
from email.message import EmailMessage, Message
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import Policy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.client.letters import sent

from zsmtp.body.fields import end_of_header, split_fields
from zsmtp.body.lines import unified_header
from zsmtp.client import serialise
from zsmtp.client.message import Letter
from zsmtp.client.serialise import octets_of
from zsmtp.errors import SubmissionError

# The parser does not tell how the header of an empty part ended.
CORPUS = [
    path for path in sorted((Path(__file__).parent.parent / "body/corpus").glob("*")) if path.stem != "empty-parts"
]
POLICIES = {
    "compat32": email.policy.compat32,
    "default": email.policy.default,
    "SMTP": email.policy.SMTP,
    "SMTPUTF8": email.policy.SMTPUTF8,
    "strings": email.policy.default.clone(refold_source="all", cte_type="7bit", max_line_length=40),
}
LONG = {
    "DKIM-Signature": "v=1; a=rsa-sha256; d=example.org; s=x; h=from; bh=abc; b=" + "A" * 344,
    "ARC-Seal": "i=1; a=rsa-sha256; cv=none; d=example.org; s=x; b=" + "B" * 344,
    "Authentication-Results": "mx.example.org; dkim=pass header.i=@example.org; spf=pass smtp.mailfrom=" + "c" * 90,
    "List-Unsubscribe": "<https://example.org/?" + "u" * 200 + ">, <mailto:leave@example.org>",
    "References": " ".join(f"<{number}.{'r' * 70}@example.org>" for number in range(5)),
    "X-SMTPAPI": '{"to": ["a@x.org"], "category": "' + "j" * 200 + '"}',
    "Subject": "one two " * 20 + "end",
}


def envelope_given(message: Any) -> bytes:
    return sent(Letter(message, sender="a@x.example", recipients="b@x.example"))


def block_of(octets: bytes) -> bytes:
    """The header block of a serialised message."""
    ends = end_of_header(octets)
    assert ends is not None
    return unified_header(octets[: ends[0]])[0]


def values_of(octets: bytes) -> list[tuple[bytes, bytes]]:
    block = block_of(octets)
    return [(block[f.start : f.value].rstrip(b": "), block[f.value : f.end].strip()) for f in split_fields(block)]


# ------------------------------------------------------------------- what was parsed


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_goes_out_octet_for_octet(path: Path, policy: Policy[Any]) -> None:
    octets = path.read_bytes()
    assert envelope_given(email.message_from_bytes(octets, policy=policy)) == envelope_given(octets)


LINES = [b"Subject: x", b"X-Long: " + b"word " * 30, "Subject: Gr\u00fc\u00dfe".encode(), b"X: =?utf-8?q?a=0ABcc:_z?="]
LINES += [b"DKIM-Signature: v=1; b=" + b"a" * 200, b"To: b@x.example,\n c@x.example", b"X-Empty: ", b"X: a  b \t"]
LINES += [b"References:\n <a@b>\n <c@d>", b"Subject: \xff", b"X: a\n \n b", b"X-Json: {" + b"j" * 400 + b"}"]
STRAY = [b"no field", b">From x", b"Y : z", "Gr\u00fc: x".encode()]
TEXTS = [b"text\n", b"a\nb\n", b"\xe4\xf6\n", b"no end", b"x\n\n", b"--x\n", b"\n\nx\n", b"a\nFrom b\n"]


def random_message(chance: random.Random, depth: int = 0) -> bytes:
    """Octets of a message or part, with errors that mail has: lines that are no fields, a last boundary missing."""
    lines = chance.choices(LINES, k=chance.randint(0, 4))
    kind = chance.random() if depth < 3 else 0.0
    boundary = b"b%d" % chance.randint(0, 99_999)
    if kind < 0.4:
        content = chance.choice(TEXTS)
        lines += chance.choice([[], [b"Content-Type: text/plain; charset=utf-8"]])
    elif kind < 0.5:
        content = random_message(chance, depth + 1)
        lines.append(b"Content-Type: message/rfc822")
    elif kind < 0.55:
        blocks = [b"".join(line + b"\n" for line in chance.choices(LINES, k=2)) for _ in range(chance.randint(1, 3))]
        content = b"\n".join(blocks)
        lines.append(b"Content-Type: message/delivery-status")
    else:
        mark = chance.choice([b"", b'"'])
        subtype = chance.choice([b"mixed", b"signed", b"digest"])
        lines.append(b"Content-Type: multipart/" + subtype + b"; boundary=" + mark + boundary + mark)
        content = chance.choice([b"", b"preamble\n", b"\n", b"a\n\nb\n"])
        for _ in range(chance.randint(1, 3)):
            content += b"--" + boundary + b"\n" + random_message(chance, depth + 1) + b"\n"
        if chance.random() < 0.9:
            content += b"--" + boundary + b"--" + chance.choice([b"\n", b"\n", b"", b"\nepilogue\n", b"\n\n", b"\n\nx"])
    chance.shuffle(lines)
    if lines and chance.random() < 0.1:
        lines.insert(chance.randint(1, len(lines)), chance.choice(STRAY))
    return b"".join(line + b"\n" for line in lines) + b"\n" + content


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_how_texts_are_cut_makes_no_difference(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    octets = path.read_bytes()
    monkeypatch.setattr(serialise, "BLOCK_SIZE", 3)
    assert envelope_given(email.message_from_bytes(octets)) == envelope_given(octets)


@pytest.mark.parametrize("seed", range(10))
def test_what_was_parsed_goes_out_octet_for_octet(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(6):
        octets = b"From: first@example.org\n" + random_message(chance)
        if chance.random() < 0.3:
            octets = octets.replace(b"\n", b"\r\n")
        expected = envelope_given(octets)
        for name, policy in POLICIES.items():
            assert envelope_given(email.message_from_bytes(octets, policy=policy)) == expected, name


def test_nobody_behind_a_line_that_ended_the_header_for_the_parser_is_left_out() -> None:
    octets = b"From: a@x.org\nTo: b@x.net\n%s\nBcc: d@x.net\nCc: c@x.net\n\nbody\n"
    for policy in POLICIES.values():
        letter = Letter(email.message_from_bytes(octets % b"X-Foo : y", policy=policy))
        assert letter.recipients == (b"b@x.net", b"c@x.net", b"d@x.net")
        assert b"Bcc" not in sent(letter)
        with pytest.raises(SubmissionError, match="line 3 of the header is no field: 'no field'"):
            Letter(email.message_from_bytes(octets % b"no field", policy=policy))


def test_content_that_was_exchanged_after_such_a_parsing_is_no_header() -> None:
    octets = b"From: a@x.org\nTo: b@x.net\nno field\n\nbody\n"
    newer = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(newer, EmailMessage)
    newer.set_content("new\n")
    older = email.message_from_bytes(octets)
    older.set_payload("New: as it looks\n")
    for message in (newer, older):
        start, _, body = sent(Letter(message)).partition(b"\r\n\r\n")
        assert b"ew" not in start
        assert b"no field" not in start
        assert body.lower().startswith(b"new")


def test_a_byte_order_mark_is_taken_off() -> None:
    octets = b"\xef\xbb\xbfFrom: a@x.org\nTo: b@x.net\n\nbody\n"
    assert sent(Letter(octets)) == b"From: a@x.org\r\nTo: b@x.net\r\n\r\nbody\r\n"
    for policy in POLICIES.values():
        assert sent(Letter(email.message_from_bytes(octets, policy=policy))) == sent(Letter(octets))


# ------------------------------------------------------------------- what was made


@pytest.mark.parametrize("kind", [EmailMessage, Message])
def test_long_values_are_neither_folded_nor_encoded(kind: type[Message]) -> None:
    message = kind()
    given = {"From": "a@x.org", "To": "b@x.net"} | LONG
    for name, value in given.items():
        message[name] = value
    message.set_payload("body\n")
    assert values_of(octets_of(message)) == [(name.encode(), value.encode()) for name, value in given.items()]
    for name, value in LONG.items():
        assert f"{name}: {value}\r\n".encode() in sent(Letter(message))


def test_values_that_are_too_long_for_a_line_are_folded_at_their_seams() -> None:
    message = EmailMessage()
    message["To"] = ", ".join(f"Reader Number {number} <reader.number.{number}@example.org>" for number in range(200))
    message["References"] = " ".join(f"<{number}@example.org>" for number in range(200))
    message["ARC-Seal"] = "b=" + " ".join(["c" * 76] * 30)
    octets = octets_of(message)
    assert max(map(len, octets.split(b"\n"))) <= 998
    for name, value in values_of(octets):
        assert value.replace(b"\n ", b" ").decode() == message[name.decode()]


def test_a_plain_message_is_what_the_email_package_writes() -> None:
    message = EmailMessage()
    message["From"] = "Ann <a@x.org>"
    message["To"] = "b@x.net, Cy <c@x.net>"
    message["Subject"] = "Hello"
    message.set_content("Gr\u00fc\u00dfe\n")
    message.add_alternative("<p>Hello</p>\n", subtype="html")
    message.add_attachment(b"\0\1", maintype="application", subtype="octet-stream", filename="a b.bin")
    message.add_attachment(email.message_from_bytes(b"Subject: x\n\ny\n", policy=email.policy.default))
    message.as_bytes()  # sets the boundaries
    assert octets_of(message) == message.as_bytes(policy=message.policy.clone(max_line_length=0))


def test_a_message_is_not_changed_by_being_sent() -> None:
    message = EmailMessage()
    message["From"], message["To"] = "a@x.org", "b@x.net"
    message.set_content("x\n")
    message.add_attachment("y\n")
    before = message.items()
    octets = sent(Letter(message))
    assert message.items() == before
    found = email.message_from_bytes(octets, policy=email.policy.default)
    assert [part.get_content() for part in found.iter_parts()] == ["x\r\n", "y\r\n"]


def test_text_beyond_ascii_is_read_back() -> None:
    message = EmailMessage()
    message["Subject"] = "Gr\u00fc\u00dfe, an alle " * 8
    message["X-Note"] = "\u65e5\u672c\u8a9e" * 40
    message["From"] = "a@x.org"
    message["To"] = '"K\u00e4ufer, Nr. 1" <b@x.net> (\u00e4)'
    message.set_content("x\n")
    message.add_attachment(b"x", maintype="a", subtype="b", filename="\u00dcbersicht " * 9 + ".pdf")
    octets = octets_of(message)
    assert octets.isascii()
    assert max(map(len, block_of(octets).split(b"\n"))) <= 78
    found = email.message_from_bytes(octets, policy=email.policy.default)
    assert found["Subject"] == message["Subject"].rstrip()
    assert found["X-Note"] == message["X-Note"]
    assert found["To"].addresses[0].display_name == "K\u00e4ufer, Nr. 1"
    assert next(found.iter_attachments()).get_filename() == "\u00dcbersicht " * 9 + ".pdf"


# ------------------------------------------------------------------- addresses are the object's

NAME = st.text(st.sampled_from('aB \u00e4\u00df\u65e5,;:<>@."()\\=?_'), max_size=12) | st.text(max_size=20)
LOCAL = st.text(st.sampled_from('ab.+-_ "@'), min_size=1, max_size=6)


@given(st.lists(st.tuples(NAME, LOCAL), min_size=1, max_size=40), st.booleans())
@example([("evil@x.net, B", "b")], False)
@example([("=?utf-8?q?evil=40x=2Enet=2C?=", "b")], True)
@settings(max_examples=60, deadline=None)
def test_every_name_is_written_so_that_the_addresses_stay(people: list[tuple[str, str]], grouped: bool) -> None:
    message = EmailMessage()
    message["From"] = "a@x.org"
    try:
        listed = [Address(name, local, f"x{n}.example") for n, (name, local) in enumerate(people)]
        message["To"] = [Group("Team, \u00e4", tuple(listed))] if grouped else listed
    except Exception:
        return  # it takes no line ends, and no empty local parts
    try:
        letter = Letter(message)
    except SubmissionError as error:
        assert "recipient" in str(error) or "cannot be" in str(error)  # noqa: PT017 - it need not raise
        return
    assert [one.rpartition(b"@")[2] for one in letter.recipients] == [b"x%d.example" % n for n in range(len(people))]
    assert sent(letter).count(b"\r\nTo: ") == 1


@pytest.mark.parametrize(
    ("value", "recipients", "written"),
    [
        ("b@x.net (Bob)", ["b@x.net"], "b@x.net (Bob)"),
        ("Bob <@r.example:b@x.net>,, c@x.net", ["b@x.net", "c@x.net"], "Bob <@r.example:b@x.net>,, c@x.net"),
        ("=?utf-8?q?B=2C_C?= <b@x.net>", ["b@x.net"], '"B, C" <b@x.net>'),
        ("=?utf-8?q?M=C3=BCller=2C_C?= <b@x.net>", ["b@x.net"], "=?UTF-8?Q?M=C3=BCller=2C_C?= <b@x.net>"),
        ("=?utf-8?q?a=40evil.example=2C_C?= <b@x.net>", ["b@x.net"], '"a@evil.example, C" <b@x.net>'),
        ('"M\u00fcller, Hans" <b@x.net>', ["b@x.net"], "=?UTF-8?Q?M=C3=BCller=2C_Hans?= <b@x.net>"),
        ("Team: b@x.net, c@x.net;", ["b@x.net", "c@x.net"], "Team: b@x.net, c@x.net;"),
        ("ann@x.net <ann@x.net>", ["ann@x.net"], "ann@x.net <ann@x.net>"),
        ("b@\uff58\u3002net", ["b@x.net"], "b@x.net"),
        ("J\u00f6rg <j\u00f6rg@x.net>", ["j\u00f6rg@x.net"], "J\u00f6rg <j\u00f6rg@x.net>"),
    ],
)
def test_what_a_program_gave_is_what_is_written(value: str, recipients: list[str], written: str) -> None:
    message = EmailMessage()
    message["From"] = "a@x.org"
    message["To"] = value
    letter = Letter(message)
    assert [one.decode() for one in letter.recipients] == recipients
    assert f"\r\nTo: {written}\r\n" in sent(letter).decode()


@pytest.mark.parametrize("kind", [EmailMessage, Message])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("b@x.net; c@x.net", "at octet 8 of its value: ';' where a comma or the end belongs"),
        ("b@x.net c@x.net", "at octet 9 of its value: 'c' where a comma or the end belongs"),
        ("<b@x.net> <c@x.net>", "at octet 11 of its value: '<' where a comma or the end belongs"),
        ("b@x.net / c@x.net", "at octet 9 of its value: '/' where"),
        ("=?utf-8?q?B=2C?= <b@x.net>; c@x.net", "cannot be read at octet"),
        ("M\u00fcller, Hans <b@x.net>", "recipient M\u00fcller: no @ and domain"),
        ("b@x.net.", "recipient b@x.net.: a dot at the end of the domain"),
    ],
)
def test_a_list_in_an_object_that_cannot_be_read_whole_is_refused(
    kind: type[Message], value: str, problem: str
) -> None:
    message = kind()
    message["From"] = "a@x.org"
    message["To"] = value
    with pytest.raises(SubmissionError) as refused:
        Letter(message)
    assert problem in str(refused.value)


def test_an_object_whose_lists_are_not_asked_is_sent_with_them() -> None:
    for kind in (EmailMessage, Message):
        message = kind()
        message["From"] = "a@x.org; J\u00f6rg" if kind is Message else "a@x.org; J"
        message["To"] = "undisclosed recipients"
        message["Reply-To"] = "b@x.net; c@x.net"
        wire = envelope_given(message)
        assert b"To: undisclosed recipients\r\nReply-To: b@x.net; c@x.net\r\n" in wire


def test_header_objects_of_the_older_kind() -> None:
    message = Message()
    message["From"] = Header("J\u00f6rg <a@x.org>", "utf-8")
    by_pieces = Header("M\u00fcller, Hans", "iso-8859-1")
    by_pieces.append("<b@x.net>", "us-ascii")
    message["To"] = by_pieces
    message["Subject"] = Header("Gr\u00fc\u00dfe", "iso-8859-1")
    letter = Letter(message)
    assert (letter.sender, letter.recipients) == (b"a@x.org", (b"b@x.net",))
    assert values_of(octets_of(message)) == [
        (b"From", b"=?UTF-8?Q?J=C3=B6rg?= <a@x.org>"),
        (b"To", b"=?iso-8859-1?q?M=FCller=2C_Hans?= <b@x.net>"),
        (b"Subject", b"=?iso-8859-1?q?Gr=FC=DFe?="),
    ]


# ------------------------------------------------------------------- no fields of somebody else's choice

INJECTIONS = [
    ("X: y\nX-Evil", "z"),
    ("X: y\r\nX-Evil", "z"),
    ("X\nX-Evil", "z"),
    ("X Y", "z"),
    ("X ", "z"),
    ("", "z"),
    ("X-\u00c4", "z"),
    ("X", "y\nX-Evil: z"),
    ("X", "y\r\nX-Evil: z"),
    ("X", "y\rX-Evil: z"),
    ("X", "y\n\nbody"),
    ("X", "y\n\r\nbody"),
    ("X", "y\n\n"),
    ("X", "=?utf-8?q?y=0AX-Evil:_z?="),
    ("X", "=?utf-8?q?y=0D?= z"),
    ("To", "=?utf-8?q?y=0AX-Evil:_z?= <b@x.net>"),
]


@pytest.mark.parametrize("kind", [EmailMessage, Message])
@pytest.mark.parametrize("in_part", [False, True])
@pytest.mark.parametrize(("name", "value"), INJECTIONS)
def test_nothing_becomes_more_fields_than_the_object_has(
    kind: type[Message], in_part: bool, name: str, value: str
) -> None:
    outer, inner = kind(), kind()
    for message in (outer, inner):
        message["Subject"] = "x"
    outer["Content-Type"] = "multipart/mixed; boundary=b"
    inner.set_payload("text\n")
    try:
        (inner if in_part else outer)[name] = value
    except ValueError:
        return  # the policy refuses it
    outer.set_payload([inner])
    try:
        octets = octets_of(outer)
    except SubmissionError as error:
        assert str(error).isprintable()  # noqa: PT017 - an encoded word is written as it was given
    else:
        assert "=?utf-8?q?" in value
        assert b"\nX-Evil" not in octets
        assert f"{name}: {value}\n".encode() in octets


@given(
    st.lists(st.tuples(st.text(max_size=12), st.text(max_size=30)), max_size=4),
    st.sampled_from([EmailMessage, Message]),
)
@settings(deadline=None)
def test_whatever_fields_an_object_has_are_written_or_refused(
    fields: list[tuple[str, str]], kind: type[Message]
) -> None:
    message = kind()
    message["Subject"] = "x"
    for name, value in fields:
        try:
            message[name] = value
        except Exception:
            return
    try:
        octets = octets_of(message)
    except SubmissionError as error:
        assert str(error).isprintable()  # noqa: PT017 - it need not raise
    else:
        block = block_of(octets + b"\n")
        assert [f.name.decode() for f in split_fields(block)] == [name.lower() for name in message]
        assert b"".join(block[f.start : f.end] for f in split_fields(block)) == block


def test_a_line_end_at_the_end_of_a_value_is_the_end_of_the_field() -> None:
    for kind in (EmailMessage, Message):
        message = kind()
        message["Subject"] = "read from a file\n"
        assert octets_of(message) == b"Subject: read from a file\n\n"


# ------------------------------------------------------------------- signed


def signed_by_part(part: Message, kind: str = "PGP") -> tuple[Message, bytes]:
    """A multipart/signed as programs make it, and the octets that were signed."""
    octets = part.as_bytes()
    outer = MIMEMultipart("signed", protocol="application/pgp-signature")
    outer["From"], outer["To"] = "a@x.org", "b@x.net"
    outer.attach(part)
    outer.attach(MIMEApplication(b"signature", "pgp-signature"))
    return outer, octets


def made_parts() -> list[Message]:
    newer = EmailMessage()
    newer.set_content("Gr\u00fc\u00dfe\n" * 3)
    newer["Content-Description"] = "one two three " * 12
    newer.add_attachment(b"x", maintype="a", subtype="b", filename="\u00dcbersicht " * 9 + ".pdf")
    older = MIMEMultipart()
    older.attach(MIMEText("Gr\u00fc\u00dfe\n", "plain", "utf-8"))
    older.attach(MIMEText("<p>", "html"))
    older["Content-Description"] = "one two three " * 12
    nested = MIMEMultipart()
    nested.attach(older)
    nested.attach(MIMEText("z\n"))
    return [newer, older, nested]


@pytest.mark.parametrize("number", range(3))
def test_a_part_that_was_signed_is_written_as_it_was(number: int) -> None:
    outer, octets = signed_by_part(made_parts()[number])
    assert b"\n" + octets + b"\n--" in octets_of(outer)
    written = octets_of(outer)
    assert octets_of(email.message_from_bytes(written)) == written


def relaxed(octets: bytes) -> list[bytes]:
    """Header fields as DKIM canonicalizes them (RFC 6376 3.4.2)."""
    return [name.lower() + b":" + b" ".join(value.split()) for name, value in values_of(octets)]


@pytest.mark.parametrize("kind", [EmailMessage, Message])
def test_a_message_that_was_signed_keeps_what_was_signed(kind: type[Message]) -> None:
    message = kind()
    message["From"] = (
        "J\u00f6rg M\u00fcller <a@x.org>"
        if kind is EmailMessage
        else Header("J\u00f6rg", "utf-8").encode() + " <a@x.org>"
    )
    message["To"] = "b@x.net"
    message["Subject"] = "Gr\u00fc\u00dfe an alle, die hier " * 5
    if isinstance(message, EmailMessage):
        message.set_content("Gr\u00fc\u00dfe\n")
        message.add_attachment(b"x", maintype="a", subtype="b", filename="\u00dcbersicht " * 9 + ".pdf")
    signed = message.as_bytes()
    del message["DKIM-Signature"]
    message["DKIM-Signature"] = LONG["DKIM-Signature"]
    octets = octets_of(message)
    assert relaxed(octets)[:-1] == relaxed(signed)
    assert f"\nDKIM-Signature: {LONG['DKIM-Signature']}\n".encode() in octets
    start, body = signed.find(b"\n\n"), octets.find(b"\n\n")
    assert octets[body:] == signed[start:]


# ------------------------------------------------------------------- what cannot be written


def nested(depth: int, kind: type[Message]) -> Message:
    message = kind()
    message["Content-Type"] = "text/plain"
    message.set_payload("innermost\n")
    for _ in range(depth):
        outer = kind()
        outer["Content-Type"] = "message/rfc822"
        outer.set_payload([message])
        message = outer
    message["From"], message["To"] = "a@x.org", "b@x.net"
    return message


@pytest.mark.parametrize("kind", [EmailMessage, Message])
def test_no_nesting_is_too_deep(kind: type[Message]) -> None:
    octets = sent(Letter(nested(1500, kind)))
    assert octets.count(b"message/rfc822") == 1500
    assert octets.endswith(b"innermost\r\n")


def in_itself() -> Message:
    message = MIMEMultipart()
    middle = MIMEMultipart()
    middle.attach(message)
    message.attach(middle)
    return message


def many_times() -> Message:
    message: Message = MIMEText("x")
    for _ in range(40):
        outer = MIMEMultipart()
        outer.attach(message)
        outer.attach(message)
        message = outer
    return message


def holding(payload: object, kind: str = "multipart/mixed") -> Message:
    message = Message()
    message["Content-Type"] = kind
    message.set_payload(payload)  # type: ignore[arg-type]
    return message


class Raising(Message):
    """Whatever it is asked."""

    def raw_items(self) -> Any:
        raise LookupError("x\n\x1b[2J")


def test_one_part_any_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialise, "MAX_PARTS", 500)
    with pytest.raises(SubmissionError, match="more than 500 parts"):
        Letter(many_times(), sender="a@x.org", recipients="b@x.net")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (in_itself(), "a part of the message contains itself"),
        (holding([MIMEText("x")], "text/plain"), "a part of type text/plain holds a list of 1 parts"),
        (holding([MIMEText("x"), MIMEText("y")], "message/rfc822"), "a part of type message/rfc822 holds a list of 2"),
        (holding(["x"]), "something else than parts"),
        (holding(object(), "text/plain"), "holds object in place of a text"),
        (holding("\u00e4", "text/plain"), "text beyond ASCII that was never encoded"),
        (Raising(), r"cannot be written: LookupError: x\n\x1b[2J"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written_is_a_submission_error(message: Message, problem: str) -> None:
    with pytest.raises(SubmissionError) as refused:
        Letter(message, sender="a@x.org", recipients="b@x.net")
    assert problem in str(refused.value)
    assert str(refused.value).isprintable()
