"""The tree of parts, against the standard library's parser and however the body is cut into blocks."""

from __future__ import annotations

import email
from email.message import Message
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.body.mime import MAX_DEPTH, MAX_HEADERS, MAX_PARTS, Part, PartKind, Structure, StructureScan

MIXED = b"Content-Type: multipart/mixed; boundary=a\n"
INNER = b"Content-Type: multipart/alternative; boundary=ab\n\n"
LEAF = b"\n--a\nContent-Type: text/plain\n\n"
BITS = [b"\n", b"\r\n", b" ", b"hello\n", b"x: y\n", b"--", b"--b\n", b"x" * 1200, b"\xe4", b"\0", b"\r", LEAF, LEAF]
BITS += [b"\n--a\n" + INNER, b"\n--ab\n\nin", b"\n--ab--\n", b"\n--a\nContent-Type: message/rfc822\n\nSubject: x\n"]


def scan(header: bytes, body: bytes, *sizes: int) -> Structure:
    structure_scan = StructureScan(header)
    at = 0
    for size in chain(sizes, repeat(1_000_000)):
        if at >= len(body):
            break
        structure_scan.feed(body[at : at + size])
        at += size
    return structure_scan.finish()


def leaves(structure: Structure, body: bytes) -> list[bytes]:
    return [body[part.body_start : part.body_end] for part in structure.parts() if part.kind is PartKind.LEAF]


def tree(part: Part) -> object:
    return (part.kind, part.body_start, part.body_end, part.header, [tree(child) for child in part.children])


def email_leaves(message: Message) -> list[bytes]:
    found = []
    for part in message.walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            found.append(payload)
    return found


def lines(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")


@given(st.lists(st.sampled_from(BITS), max_size=20).map(b"".join), st.lists(st.integers(1, 50), max_size=60))
def test_as_the_standard_library_sees_it(body: bytes, sizes: list[int]) -> None:
    body = LEAF + body + b"\n--a--\nend\n"
    structure = scan(MIXED, body)
    assert [lines(leaf) for leaf in leaves(structure, body)] == [
        lines(leaf) for leaf in email_leaves(email.message_from_bytes(MIXED + b"\n" + body))
    ]
    cut = scan(MIXED, body, *sizes)
    assert tree(cut.root) == tree(structure.root)
    assert [(f.start, f.end) for f in cut.fillers] == [(f.start, f.end) for f in structure.fillers]


@given(st.lists(st.sampled_from(BITS), max_size=12).map(b"".join))
def test_facts_about_leaves(body: bytes) -> None:
    body = LEAF + body
    for part in scan(MIXED, body).parts():
        if part.kind is PartKind.LEAF:
            content = body[part.body_start : part.body_end]
            assert bool(part.tally.high) == (not content.isascii())
            assert part.tally.nul == (b"\0" in content)
            assert part.tally.long_lines == any(len(line) > 998 for line in lines(content).split(b"\n"))


def test_octets_are_counted_where_it_matters() -> None:
    header = b"Content-Type: image/png\n"
    assert scan(header, b"\xe4a\xe4\n" * 1000, 7, 7, 7).root.tally.high == 2000


BOUNDARY_IS_A_PREFIX = b"--a\n" + INNER + b"--ab\n\none\n--abc\n--ab--\n--a\n\ntwo\n--a--\n"


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        (MIXED, b"--a\n\none\n--a\n\ntwo\n--a--\n", [b"one", b"two"]),
        (MIXED, b"--a\r\n\r\none\r\n--a \t\r\n\r\ntwo\r\n--a--\r\n", [b"one", b"two"]),
        (MIXED, b"--a\n\none\n--a\n\ntwo\n", [b"one", b"two\n"]),
        (MIXED, b"preamble\n--a\n\none\n--a--\nepilogue\n--a\n\nno part\n", [b"one"]),
        (MIXED, BOUNDARY_IS_A_PREFIX, [b"one\n--abc", b"two"]),
        (MIXED, b"--a\n" + INNER + b"--ab\n\none\n--a\n\ntwo\n--a--\n", [b"one", b"two"]),
        (MIXED, b"--a\n\n--a\nSubject: x\n--a\n--a--\n", [b"", b"", b""]),
        (MIXED, b"--a\nno header, no empty line\n--a--\n", [b"no header, no empty line"]),
        (MIXED, b"no delimiter\n", [b"no delimiter\n"]),
        (MIXED, b"", [b""]),
        (b"Content-Type: multipart/mixed\n", b"--a\n\none\n", [b"--a\n\none\n"]),
        (b"content-type: Multipart/DIGEST; Boundary*0=a\n", b"--a\n\nSubject: x\n\none\n--a--", [b"one"]),
        (b"Content-Type: message/rfc822\n", b"Subject: x\n\n--a\n", [b"--a\n"]),
        (b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n", b"QUJD\n", [b"QUJD\n"]),
        (b"", b"--a\n", [b"--a\n"]),
    ],
)
def test_bodies(header: bytes, body: bytes, expected: list[bytes]) -> None:
    structure = scan(header, body)
    assert structure.whole
    assert leaves(structure, body) == expected
    assert leaves(scan(header, body, *([1] * len(body))), body) == expected


def test_text_around_the_parts() -> None:
    body = b"pr\xe4\n--a\n\none\n--a--\n\0\n"
    structure = scan(MIXED, body)
    assert [body[filler.start : filler.end] for filler in structure.fillers] == [b"pr\xe4", b"\0\n"]
    assert scan(MIXED, b"plain\n--a\n\none\n--a--\nplain\n").fillers == []


def test_delimiter_with_many_blanks() -> None:
    body = b"--a\n\none\n--a--" + b" " * 1000 + b"\n"
    structure = scan(MIXED, body)
    assert leaves(structure, body) == [b"one"]
    assert structure.loose == [(len(body) - 1001, len(body) - 1)]


@pytest.mark.parametrize(
    "kind", [b"multipart/signed; boundary=s", b"application/pkcs7-mime", b"application/pgp-encrypted"]
)
def test_signed_parts(kind: bytes) -> None:
    assert scan(MIXED, b"--a\nContent-Type: " + kind + b"\n\nx\n--a--\n").sealed
    assert not scan(MIXED, b"--a\nX-Content-Type: " + kind + b"\nDKIM-Signature: x\n\nx\n--a--\n").sealed


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (MIXED, b"--a\n\n" * (MAX_PARTS + 1)),
        (b"Content-Type: message/rfc822\n", b"Content-Type: message/rfc822\n\n" * MAX_DEPTH),
        (MIXED, b"--a\n" + b"X: y\n" * (MAX_HEADERS // 5 + 1)),
        (MIXED, b"--a\nX" + b"y" * (MAX_HEADERS + 300_000)),
        (MIXED, b"--a" + b" " * (MAX_HEADERS + 300_000)),
        (b'Content-Type: multipart/mixed; boundary="\xe4"\n', b""),
    ],
    ids=["parts", "depth", "fields", "a field", "a delimiter", "an 8-bit boundary"],
)
@pytest.mark.timeout(60)
def test_limits(header: bytes, body: bytes) -> None:
    assert not scan(header, body, *([262_144] * (len(body) // 262_144 + 1))).whole
