"""Messages as programs have them, and the addresses in their headers: what is taken, and what is refused and why."""

from __future__ import annotations

import email.message
import email.policy
import gc
import io
import os
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.letters import sent

from zsmtp.client import addresslist
from zsmtp.client.addresslist import read_address, read_addresses
from zsmtp.client.dsn import DSN
from zsmtp.client.message import MAX_HEADER, Letter
from zsmtp.errors import ContentError, SubmissionError

STRANGER = DSN(original={"eve@example.net": "a@b.example"})

PLAIN = b"From: a@example.org\nTo: b@example.net\n\nbody\n"


# ------------------------------------------------------------------- envelopes


@pytest.mark.parametrize(
    ("header", "sender", "recipients"),
    [
        ("From: Ann <a@example.org>\nTo: b@example.net", "a@example.org", ["b@example.net"]),
        ("From: a@x.org, c@x.org\nSender: s@x.org\nTo: b@x.net", "s@x.org", ["b@x.net"]),
        ("From: a@x.org, c@x.org\nTo: b@x.net", "a@x.org", ["b@x.net"]),
        (
            'From: a@x.org\nTo: "B, the first" <b@x.net>, Group: c@x.net, d@x.net;\nCc: e@x.net\nBcc: f@x.net',
            "a@x.org",
            ["b@x.net", "c@x.net", "d@x.net", "e@x.net", "f@x.net"],
        ),
        ("From: a@x.org\nTo: b@x.net, B@x.net,\n b@X.NET", "a@x.org", ["b@x.net", "B@x.net"]),
        (
            "From: a@x.org\nTo: b@x.net\nResent-Date: Thu, 1 Jan 2026 00:00:00 +0000\nResent-From: r@x.org\n"
            "Resent-To: q@x.net",
            "r@x.org",
            ["q@x.net"],
        ),
        ("From: =?utf-8?q?Gr=C3=BC=C3=9Fe?= <a@x.org>\nTo: =?utf-8?q?B=2C?= <b@x.net>", "a@x.org", ["b@x.net"]),
        ("From: ann@bücher.example\nTo: jörg@x.net", "ann@bücher.example", ["jörg@x.net"]),
        ('From: "odd name"@x.org\nTo: b@[192.0.2.1]', '"odd name"@x.org', ["b@[192.0.2.1]"]),
    ],
)
def test_the_header_says_who_writes_to_whom(header: str, sender: str, recipients: list[str]) -> None:
    letter = Letter(f"{header}\n\nbody\n".encode())
    assert letter.sender.decode() == sender
    assert [one.decode() for one in letter.recipients] == recipients


def test_what_is_given_counts_more() -> None:
    letter = Letter(PLAIN, sender="", recipients=["X <x@example.com>", b"y@example.com"])
    assert letter.sender == b""
    assert letter.recipients == (b"x@example.com", b"y@example.com")
    assert Letter(PLAIN, sender="<>", recipients="x@example.com").sender == b""


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"", "the message is empty"),
        (b"\n\n", "the message is empty"),
        (b"\nbody", "does not begin with a header field"),
        (b"From a@x.org Thu Jan 1 00:00:00 2026\nFrom: a@x.org\n\n", "begins with the From line of a mailbox"),
        (b"To: b@x.net\n\n", "no sender: neither given nor named"),
        (b"From: a@x.org\n\n", "no recipient: neither given nor named"),
        (b"From: a@x.org\nTo: undisclosed-recipients:;\n\n", "no recipient"),
        (b"From: a@x.org\nTo: b\n\n", "recipient b: no @ and domain"),
        (b"From: a@x.org\nResent-Date: x\nResent-Date: y\n\n", "resent more than once"),
    ],
)
def test_messages_that_cannot_be_taken(octets: bytes, problem: str) -> None:
    with pytest.raises(SubmissionError, match=problem):
        Letter(octets)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "empty address"),
        ("b@x.net\r\nDATA", "control character"),
        ("b@x.net> NOTIFY=NEVER", "blank, angle bracket"),
        ("b", "no @ and domain"),
        ("a@x.net,b@y.net", "a comma; each address is to be given by itself"),
        ("b@", "nothing after the @"),
        ("@x.net", "nothing before the @"),
        ("b@x..net", "not a valid host name"),
        ("b@x.net.", "a dot at the end of the domain"),
        ("b@x.net\u3002", "a dot at the end of the domain"),
        ("b@\u2603.example", "not valid under IDNA 2008"),
        ("a@x.net, Bob <b@y.net>", "a comma; each address is to be given by itself"),
        ("<a@x.net> <b@y.net>", "'<' where a comma or the end belongs (octet 11)"),
        ("a@x.net <b@y.net>", "'<' where a comma or the end belongs"),
        ("M\u00fcller, Hans <b@x.net>", "a comma; each address is to be given by itself"),
        ("b@-x.net", ""),
        ("b@1.2.3.4", "belongs in brackets"),
        ("b@[1.2.3]", ""),
        ("b" * 300 + "@x.net", "are the limit"),
        ("b@" + "x" * 64 + ".net", ""),
        (b"\xff@x.net", "neither ASCII nor UTF-8"),
    ],
)
def test_addresses_that_cannot_be_sent(address: str | bytes, problem: str) -> None:
    with pytest.raises(SubmissionError) as error:
        read_address(address, "recipient")
    assert str(error.value).startswith("recipient")
    assert problem in str(error.value)
    assert str(error.value).isprintable()


def test_addresses_that_can() -> None:
    assert read_address("postmaster", "recipient") == b"postmaster"
    assert read_address(" Ann (x) <ann@example.org> ", "recipient") == b"ann@example.org"
    assert read_address('"a>b" <ann@example.org>', "recipient") == b"ann@example.org"
    assert read_address('"a, b" <ann@example.org>', "recipient") == b"ann@example.org"
    assert read_address("ann@example.org (Ann)", "recipient") == b"ann@example.org"
    assert read_address("ann@\uff25xample\u3002org", "recipient") == b"ann@example.org"
    assert read_address("ann@B\u00dcCHER.example", "recipient") == "ann@b\u00fccher.example".encode()
    assert read_address("jo\u0308rg@example.org", "recipient") == "j\u00f6rg@example.org".encode()
    assert read_addresses(["a@x.org", "A@x.org", "a@X.org"], "recipient") == (b"a@x.org", b"A@x.org")


@given(st.text() | st.binary())
def test_any_text_is_an_address_or_refused(text: str | bytes) -> None:
    try:
        path = read_address(text, "recipient")
    except SubmissionError as error:
        assert str(error).isprintable()  # noqa: PT017 - it need not raise
    else:
        assert b"\r" not in path
        assert b"\n" not in path
        path.decode()


@given(st.binary(max_size=300))
def test_any_octets_are_a_message_or_refused(octets: bytes) -> None:
    for given_octets in (octets, b"X: " + octets, PLAIN[:-6] + octets):
        try:
            letter = Letter(given_octets, sender="a@x.org", recipients="b@x.net")
        except SubmissionError:
            continue
        assert sent(letter).endswith(b"\r\n")


@given(st.binary(max_size=200) | st.text(alphabet='<>()[]@,;:."\\ a\n').map(str.encode))
def test_any_header_names_people_or_is_refused(value: bytes) -> None:
    try:
        letter = Letter(b"From: " + value + b"\nTo: b@x.net, " + value + b"\n\nbody\n")
    except SubmissionError as error:
        assert str(error).isprintable()  # noqa: PT017 - it need not raise
    else:
        assert letter.recipients


def test_a_header_that_beats_the_parser() -> None:
    with pytest.raises(
        SubmissionError, match="the field To cannot be read at octet 1 of its value: a comment without end"
    ):
        Letter(b"From: a@x.org\nTo: " + b"(" * 5000 + b"\n\n")


# --------------------------------------------------------------------- headers


def test_blind_copies_are_taken_out_and_nothing_else() -> None:
    octets = (
        b"Bcc: x@x.net,\n y@x.net\nFrom: a@x.org\nX-Bcc: stays\nResent-BCC : z@x.net\nSubject: Bcc: stays\n"
        b" bcc: folded\nbcc:\n\nBcc: body\n"
    )
    letter = Letter(octets, sender="a@x.org", recipients="b@x.net")
    assert sent(letter) == (
        b"From: a@x.org\r\nX-Bcc: stays\r\nSubject: Bcc: stays\r\n bcc: folded\r\n\r\nBcc: body\r\n"
    )


def test_date_and_message_id_are_added_where_they_are_missing_and_wanted() -> None:
    assert b"Date" not in sent(Letter(PLAIN))
    letter = Letter(PLAIN, add_missing=True)
    added = email.message_from_bytes(sent(letter), policy=email.policy.default)
    assert added["date"] is not None
    assert letter.name == added["message-id"]
    assert letter.name.endswith("@example.org>")
    whole = b"Date: x\nMESSAGE-ID: <1@x>\n" + PLAIN
    assert sent(Letter(whole, add_missing=True)).count(b"x\r\n") == 1
    assert Letter(whole).name == "<1@x>"


def test_a_hostile_message_id_is_made_fit_for_people() -> None:
    assert Letter(b"Message-ID: <\x1b[2J\xff@x>\n" + PLAIN).name.isprintable()


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_line_ends_of_either_kind(ending: bytes) -> None:
    assert sent(Letter(PLAIN.replace(b"\n", ending))) == PLAIN.replace(b"\n", b"\r\n")


def test_an_empty_line_of_one_kind_ends_a_header_of_the_other() -> None:
    assert sent(Letter(b"From: a@x.org\r\nTo: b@x.net\r\n\nb\r\n\r\nc\n")).endswith(b"net\r\n\r\nb\r\n\r\nc\r\n")
    assert sent(Letter(b"From: a@x.org\nTo: b@x.net\n\r\nb\n\nc\n")).endswith(b"net\r\n\r\nb\r\n\r\nc\r\n")


# ---------------------------------------------------------- kinds of messages


def test_an_email_message_with_what_only_unicode_can_say() -> None:
    message = EmailMessage()
    message["From"] = "Jörg <jörg@bücher.example>"
    message["To"] = "b@example.net"
    message["Subject"] = "Grüße"
    message.set_content("x\n")
    octets = sent(Letter(message))
    assert "jörg@bücher.example".encode() in octets
    assert "Subject: Grüße".encode() in octets


def test_an_email_message_that_can_do_without_is_ascii_in_its_header() -> None:
    message = EmailMessage()
    message["From"] = "Jörg <j@example.org>"
    message["To"] = "b@example.net"
    message.set_content("From here on\n.\n")
    octets = sent(Letter(message))
    assert octets.isascii()
    assert octets.endswith(b"\r\n\r\nFrom here on\r\n.\r\n")


def test_a_message_of_the_older_kind() -> None:
    message = email.message.Message()
    message["From"] = "a@example.org"
    message["To"] = "b@example.net"
    message.set_payload("body\n")
    assert sent(Letter(message)) == b"From: a@example.org\r\nTo: b@example.net\r\n\r\nbody\r\n"


def test_what_cannot_be_made_octets_is_refused() -> None:
    message = EmailMessage()
    message["From"] = "a@example.org"
    message["To"] = "b@example.net"
    message.set_payload(object())  # type: ignore[arg-type]
    with pytest.raises(SubmissionError):
        Letter(message)


@pytest.mark.parametrize("wrong", [3, None, ["x"]])
def test_what_is_no_message(wrong: object) -> None:
    with pytest.raises(SubmissionError, match="not a message"):
        Letter(wrong)  # type: ignore[arg-type]


def test_a_text_file_is_none() -> None:
    with pytest.raises(SubmissionError, match="binary"):
        Letter(io.StringIO("From: a@x.org\n\n"))  # type: ignore[arg-type]


def test_a_header_without_end_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.write_bytes(b"X: " + b"y" * (MAX_HEADER + 10))
    for message in (path, path.read_bytes()):
        with pytest.raises(SubmissionError, match="header block of more than"):
            Letter(message)


def test_a_file_is_open_only_while_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "m.eml"
    path.write_bytes(PLAIN + b"x" * 300_000)
    letter = Letter(path)
    assert sent(letter).endswith(b"x\r\n")
    letter.close()
    path.write_bytes(PLAIN)
    with pytest.raises(ContentError, match="has changed"):
        letter.stored()
    letter.close()
    path.unlink()
    with pytest.raises(ContentError, match="No such file"):
        letter.stored()


def test_a_path_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Letter(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):
        Letter(tmp_path)


def test_a_text_is_no_path() -> None:
    with pytest.raises(SubmissionError, match="a str is the path of a file"):
        Letter("From: a@x.org\nTo: b@x.org\n\nhello\n")


@pytest.mark.parametrize("words", [{"recipients": []}, {"sender": "nobody"}, {"dsn": STRANGER}, {"dsn": "success"}])
def test_of_a_message_that_is_refused_no_copy_is_left_open(words: dict[str, Any]) -> None:
    """A pipe is copied to a temporary file; one that is forgotten open is a warning, and warnings are errors here."""
    read, write = os.pipe()
    with open(write, "wb") as full:
        full.write(b"From: a@example.org\nTo: b@example.net\n\nhello\n")
    with open(read, "rb") as pipe, pytest.raises(SubmissionError):
        Letter(pipe, **words)
    gc.collect()


@pytest.mark.parametrize("text", ["x" * 10**7 + "@example.net", b"x" * 10**7, "x" * 10**7 + " <bob@example.net>"])
def test_a_text_that_is_far_too_long_is_refused_without_a_look_at_it(
    text: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(plain: str, what: str) -> bytes:
        raise AssertionError("it was looked at")

    monkeypatch.setattr(addresslist, "_read", look)
    with pytest.raises(SubmissionError, match=r"^recipient: a text of \d+ characters; 10000 are the limit$"):
        read_address(text, "recipient")


def test_the_email_package_is_loaded_by_those_who_use_it() -> None:
    program = (
        "import sys; from zsmtp.client.message import Letter;"
        "letter = Letter(b'From: a@x.org\\nTo: B <b@x.net>\\n\\nx\\n'); assert letter.recipients;"
        "sys.exit('email.message' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
