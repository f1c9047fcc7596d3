"""The envelope that a header makes: nobody is left out in silence, and what is read is what goes on the wire."""

from __future__ import annotations

import email.policy
import os
import random
import re
from email.errors import ObsoleteHeaderDefect
from email.parser import HeaderParser

import pytest
from tests.client.letters import sent

from zsmtp.body.fields import field_values
from zsmtp.body.lines import unified_header
from zsmtp.body.mailboxes import Unreadable, read_any
from zsmtp.client.header import envelope_in
from zsmtp.client.message import Letter
from zsmtp.errors import SubmissionError

MUTATIONS = int(os.environ.get("ZSMTP_MUTATIONS", "3000"))
COMPARED = MUTATIONS // 4  # with the email package, which takes a millisecond for each

NO_FIELDS = [
    b"no field at all",
    b">From ann@example.org Thu Jan  1 00:00:00 2026",
    "Gr\u00f6\u00dfe: 5".encode(),
    b": x",
]
NO_FIELDS += [b"From ann@example.org Thu Jan  1 00:00:00 2026", b"X Y: z", b"\xa0Cc: x@x.net", b"Bcc"]


# ------------------------------------------------------------------ refused with its place


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (
            "From: a@x.org\nTo: b@x.net; c@x.net",
            "the field To cannot be read at octet 8 of its value: ';' where a comma or the end belongs"
            " (line 2 of the header)",
        ),
        (
            "From: a@x.org\nSubject: x\n y\nCc: b@x.net,\n c@x.net\n d@x.net\nTo: e@x.net",
            "the field Cc cannot be read at octet 20 of its value: 'd' where a comma or the end belongs"
            " (line 4 of the header)",
        ),
        (
            "From: a@x.org\nTo: b@x.net\nTO :(x) b@x.net c@x.net",
            "the field TO cannot be read at octet 13 of its value: 'c' where a comma or the end belongs"
            " (line 3 of the header)",
        ),
        ("From: a@x.org; b@x.org\nTo: b@x.net", "the field From cannot be read at octet 8"),
        ("From: a@x.org\nSender: <a@x.org> b\nTo: b@x.net", "the field Sender cannot be read at octet 11"),
        ("From: a@x.org\nTo: b@x.net\nBcc: b@x.net / c@x.net", "the field Bcc cannot be read at octet 9"),
        ("From: a@x.org\nTo: M\u00fcller, Hans <b@x.net>", "recipient M\u00fcller: no @ and domain"),
        ("From: a@x.org.\nTo: b@x.net", "sender a@x.org.: a dot at the end of the domain"),
        ("From: a@x.org\nTo: b@x.net\u3002", "recipient b@x.net\u3002: a dot at the end of the domain"),
        ("From: a@x.org\nTo: b@\u2603.example", "recipient b@\u2603.example: domain is not valid under IDNA 2008"),
        ("From: a@x.org\nTo: b@x.net\nResent-To: c@x.net", "has recipients in Resent- fields and no Resent-Date"),
        (
            "From: a@x.org\nResent-Date: x\nResent-To: c@x.net\nResent-From: r@x.net\nResent-From: s@x.net",
            "more than once",
        ),
    ],
)
def test_what_cannot_be_read_whole_is_refused_with_its_place(header: str, problem: str) -> None:
    with pytest.raises(SubmissionError) as refused:
        Letter(f"{header}\n\nbody\n".encode())
    assert problem in str(refused.value)
    assert str(refused.value).isprintable()


def test_only_what_is_asked_has_to_be_readable() -> None:
    header = b"From: a@x.org\nTo: b@x.net; c@x.net\n\n"
    assert Letter(header, recipients="d@x.net").sender == b"a@x.org"
    header = b"From: a@x.org; b@x.org\nTo: b@x.net\n\n"
    assert Letter(header, sender="").recipients == (b"b@x.net",)


def test_domains_are_mapped_before_they_are_sent() -> None:
    header = (
        "From: a@\uff58\uff0e\uff4f\uff52\uff47\nTo: b@B\u00dcCHER\u3002example, j\u00f6rg@\uff42\u00fccher.example\n\n"
    )
    letter = Letter(header.encode())
    assert letter.sender == b"a@x.org"
    assert letter.recipients == ("b@b\u00fccher.example".encode(), "j\u00f6rg@b\u00fccher.example".encode())


def test_one_address_in_two_forms_is_served_once() -> None:
    header = (
        'From: a@x.org\nTo: b@b\u00fccher.example, b@xn--bcher-kva.example, "b"@B\u00dcCHER.example, "b b"@x.net\n\n'
    )
    assert len(Letter(header.encode()).recipients) == 2


# -------------------------------------------------------------------- lines that are no fields


@pytest.mark.parametrize("stray", NO_FIELDS)
@pytest.mark.parametrize("name", ["To", "Cc", "Bcc", "Bcc "])
def test_nobody_behind_a_line_that_is_no_field_is_left_out(stray: bytes, name: str) -> None:
    octets = b"From: a@x.org\nTo: b@x.net\n" + stray + f"\n{name}: c@x.net\nSubject: x\n\nbody\n".encode()
    with pytest.raises(
        SubmissionError, match=r"line 3 of the header is no field: '.*'; some systems end the header there"
    ):
        Letter(octets)
    with pytest.raises(SubmissionError, match="line 3"):
        Letter(octets, sender="a@x.org")
    given = Letter(octets, sender="a@x.org", recipients="d@x.net")
    wire = sent(given).replace(b"\r\n", b"\n")
    assert wire == octets.replace(
        f"{name}: c@x.net\n".encode(), b"" if name.startswith("B") else f"{name}: c@x.net\n".encode()
    )


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t "])
def test_blanks_before_a_colon_make_no_difference(blank: bytes) -> None:
    octets = b"From%s: a@x.org\nX-Foo%s: y\nTo%s: b@x.net\nCc%s: c@x.net\nBcc%s: d@x.net\n\nbody\n".replace(
        b"%s", blank
    )
    letter = Letter(octets)
    assert letter.sender == b"a@x.org"
    assert letter.recipients == (b"b@x.net", b"c@x.net", b"d@x.net")
    assert sent(letter).replace(b"\r\n", b"\n") == octets.replace(b"Bcc%s: d@x.net\n".replace(b"%s", blank), b"")


def test_nobody_behind_a_carriage_return_is_left_out() -> None:
    octets = b"From: a@x.org\r\nTo: b@x.net\rCc: c@x.net\r\nSubject: x\ry\r\n\r\nbody\r\n"
    problem = "line 2 of the header has a CR without an LF, where some systems begin a new field"
    with pytest.raises(SubmissionError, match=problem):
        Letter(octets)
    with pytest.raises(SubmissionError, match=problem):
        Letter(octets, recipients="d@x.net")
    given = Letter(octets, sender="a@x.org", recipients="d@x.net")
    assert sent(given) == octets.replace(b"\rC", b" C").replace(b"\ry", b" y")
    for name in (b"Bcc", b"resent-BCC \t"):
        with pytest.raises(SubmissionError, match=problem):
            Letter(octets.replace(b"Cc", name), sender="a@x.org", recipients="d@x.net")


@pytest.mark.parametrize("stray", NO_FIELDS)
def test_date_and_message_id_are_never_there_twice(stray: bytes) -> None:
    fields = b"Date: Thu, 1 Jan 2026 00:00:00 +0000\nMessage-ID : <1@x.org>\n"
    octets = b"Subject: x\n" + stray + b"\n" + fields + b"\nbody\n"
    letter = Letter(octets, sender="a@x.org", recipients="d@x.net", add_missing=True)
    assert sent(letter).replace(b"\r\n", b"\n") == octets
    assert letter.name == "<1@x.org>"


def test_what_is_added_stands_where_no_system_has_ended_the_header() -> None:
    octets = b"Subject: x\nno field\n y\nX: z\n\nbody\n"
    wire = sent(Letter(octets, sender="a@x.org", recipients="d@x.net", add_missing=True))
    assert re.fullmatch(rb"Subject: x\r\nDate: .*\r\nMessage-ID: .*\r\nno field\r\n y\r\nX: z\r\n\r\nbody\r\n", wire)


@pytest.mark.parametrize("line", [b"To: b@x.net\n", b"Bcc: b@x.net\n", b"x\n", b"X: y\n", b"To: b@x.net,\n c@x.net\n"])
@pytest.mark.timeout(60)
def test_a_header_of_many_lines_costs_no_more_than_its_length(line: bytes) -> None:
    octets = b"From: a@x.org\nTo: b@x.net\n" + line * (200_000 // len(line)) + b"\n"
    try:
        assert len(Letter(octets).recipients) <= 2
    except SubmissionError as error:
        assert "is no field" in str(error)  # noqa: PT017 - only one of them


# -------------------------------------------------------------- the same as other readings

BOXES = ["a@x.example", "Ann <a@x.example>", '"B, R" <b@y.example>', "=?utf-8?q?J=C3=B6rg=2C?= <j@x.example>"]
BOXES += ["J\u00f6rg <j@x.example>", "c@z.example (Carl)", "G: d@x.example, e@x.example;", "undisclosed-recipients:;"]
BOXES += ['"odd name"@x.example', "f@[192.0.2.1]", "<@r.example:g@x.example>", "Joe Q. Public <joe@x.example>"]
BOXES += ["h @ x . example", "j\u00f6rg@b\u00fccher.example"]
NAMES = ["From", "To", "Cc", "Bcc", "Sender", "Resent-To", "Resent-From", "Resent-Date", "Subject", "X", "Reply-To"]
NAMES_ASKED = ("sender", "from", "to", "cc", "bcc")
INSERTED = [bytes([n]) for n in b',; \n:<>"()\\@.\r[]\0\t\xff'] + [b"\n ", b"=?", b"?=", b",,"]


def mutated_header(chance: random.Random) -> bytes:
    """A block of fields with addresses, mostly with an error or two in it."""
    lines = []
    for name in ["From", "To", *chance.choices(NAMES, k=chance.randint(0, 5))]:
        count = 1 if name in ("From", "Sender") else chance.randint(1, 3)
        value = chance.choice([", ", ",\n ", ","]).join(chance.choices(BOXES, k=count))
        lines.append(f"{name}: {value if name not in ('Subject', 'X', 'Resent-Date') else 'something, else'}\n")
    chance.shuffle(lines)
    octets = bytearray("".join(lines).encode())
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        at = chance.randrange(len(octets))
        cut = chance.choice([0, 0, 1, 1, 3])
        from_elsewhere = chance.randrange(len(octets))
        copied = bytes(octets[from_elsewhere : from_elsewhere + chance.randint(1, 30)])
        octets[at : at + cut] = chance.choice([b"", chance.choice(INSERTED), chance.choice(INSERTED), copied])
    return unified_header(bytes(octets))[0]


Reading = tuple[list[bytes], list[bytes]]
"""The sender, if there is one, and the recipients."""


def our_reading(block: bytes) -> Reading | None:
    try:
        recipients = envelope_in(block, sender=False)[1]
        sender = envelope_in(block, recipients=False)[0]
    except SubmissionError as error:
        if not str(error).startswith("no sender"):
            return None
        sender = None
    return [] if sender is None else [sender], list(recipients or ())


def made_of(lists: dict[str, list[bytes]]) -> Reading:
    """The same of the addresses in each field."""
    senders = lists["sender"] if len(lists["sender"]) == 1 else lists["from"][:1]
    return senders, lists["to"] + lists["cc"] + lists["bcc"]


def test_the_envelope_is_that_of_the_whole_grammar() -> None:
    """``ZSMTP_MUTATIONS`` in the environment asks for more than a few seconds' worth."""
    chance = random.Random(60)
    read = 0
    for _ in range(MUTATIONS):
        block = mutated_header(chance)
        found = our_reading(block)
        if found is None:
            continue
        read += 1
        pairs = [(name.lower(), value) for name, value in field_values(block)]
        prefix = "resent-" if b"resent-date" in dict(pairs) else ""
        lists: dict[str, list[bytes]] = {}
        for name in NAMES_ASKED:
            values = [read_any(value) for spelled, value in pairs if spelled.decode() == prefix + name]
            lists[name] = [one for value in values if not isinstance(value, Unreadable) for one in value]
        assert found == made_of(lists), block
    assert read > MUTATIONS / 4


def their_reading(block: bytes) -> Reading | None:
    """What the ``email`` package reads; None if it is not sure."""
    try:
        message = HeaderParser(policy=email.policy.SMTPUTF8).parsestr(block.decode("utf-8", "surrogateescape"))
        prefix = "resent-" if "resent-date" in message else ""
        values = {name: message.get_all(prefix + name, []) for name in NAMES_ASKED}
    except Exception:
        return None
    if message.defects or message.get_payload():
        return None
    for value in (value for several in values.values() for value in several):
        if any(not isinstance(one, ObsoleteHeaderDefect) and "non-ASCII" not in str(one) for one in value.defects):
            return None
    return made_of(
        {
            name: [one.addr_spec.encode("utf-8", "surrogateescape") for value in several for one in value.addresses]
            for name, several in values.items()
        }
    )


def without_quotes(addresses: list[bytes]) -> list[bytes]:
    return [re.sub(rb"[\\\"]", b"", address) for address in addresses]


def test_the_email_package_reads_the_same_where_it_is_sure() -> None:
    chance = random.Random(61)
    compared = 0
    for _ in range(COMPARED):
        block = mutated_header(chance)
        ours, theirs = our_reading(block), their_reading(block)
        if ours is None or theirs is None or re.search(rb"^[!-9;-~]+[ \t]+:", block, re.MULTILINE):
            continue  # blanks before a colon end the header for it
        compared += 1
        assert [*map(without_quotes, ours)] == [*map(without_quotes, theirs)], block
    assert compared > COMPARED / 5


def test_the_sender_is_the_one_in_sender_else_the_first_in_from() -> None:
    for header, sender in [
        (b"From: a@x.org, b@x.org\nSender: s@x.org\n", b"s@x.org"),
        (b"From: a@x.org, b@x.org\n", b"a@x.org"),
        (b"From: a@x.org\nSender: s@x.org, t@x.org\n", b"a@x.org"),
        (b"From: a@x.org\nSender:\n", b"a@x.org"),
        (b"Sender: s@x.org\n", b"s@x.org"),
    ]:
        assert envelope_in(header, recipients=False) == (sender, None)
