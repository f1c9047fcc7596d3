"""One message, many servers: sizes are exact, nothing is lost, memory is flat, work is done once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.body.receiver import fields, is_wire_clean, leaves, same_leaves

from zsmtp.body.encode import KEEP_LIMIT, MessageContent
from zsmtp.body.source import Source
from zsmtp.body.stored import prepare
from zsmtp.body.target import ContentRefusal, Conversion, Signed8Bit, Target
from zsmtp.errors import ContentError

TARGETS = st.builds(
    Target,
    eight_bit_mime=st.booleans(),
    binary_mime=st.booleans(),
    smtputf8=st.booleans(),
    seven_bit=st.booleans(),
    send_eight_bit=st.booleans(),
    convert_headers=st.booleans(),
    default_charset=st.sampled_from([b"UNKNOWN-8BIT", b"ISO-8859-1"]),
    internationalised=st.booleans(),
)
WORDS = [
    "päivää",
    "hello",
    "From you",
    ".",
    "..",
    "=",
    "=E4",
    "--b1",
    "--b10",
    "--b1--",
    "日本語",
    "trailing ",
    "\tx",
    "x" * 1200,
    "y" * 76,
]
LINES = st.lists(st.sampled_from(WORDS), max_size=6).map("\n".join)
FIELD_TEXT = st.lists(st.sampled_from(["größer", "plain", "日本語", "(x)", "ab" * 30, "é"]), min_size=1, max_size=8)
CHARSETS = [
    ("utf-8", "utf-8"),
    ("iso-8859-1", "latin-1"),
    ('"KOI8-R"', "koi8-r"),
    ("gb18030", "gb18030"),
    ("windows-1252", "cp1252"),
]


@st.composite
def text_parts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    charset, codec = draw(st.sampled_from(CHARSETS))
    kind = draw(st.sampled_from(["text/plain", "text/html", "application/x-lines"]))
    label = draw(
        st.sampled_from(["", "Content-Transfer-Encoding: 8bit\n", "content-transfer-encoding:\n\t7BIT (so)\n"])
    )
    header = f"Content-Type: {kind};\n charset={charset}\n{label}"
    return header.encode(), draw(LINES).encode(codec, "replace")


@st.composite
def octet_parts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    header = b"Content-Type: image/png\nContent-Transfer-Encoding: binary\n"
    # A part that is binary by name alone is not looked for in a 7-bit body: RFC 2045 6.4 wants the message to say so.
    return header, b"\x89" + draw(st.binary(max_size=400))


BARE_PARTS = LINES.map(lambda text: (b"", text.encode()))
QP_PARTS = st.sampled_from([b"caf=C3=A9 so=\nft\n", b"raw \xc3\xa9 = x\n", b"=3D" * 500 + b"\n"]).map(
    lambda body: (b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n", body)
)
BASE64_PARTS = st.sampled_from([b"QUJD\n", b"QUJD" * 400, b"QU\xffJD\n"]).map(
    lambda body: (b"Content-Type: application/zip\nContent-Transfer-Encoding: base64\n", body)
)
LEAVES = st.one_of(text_parts(), octet_parts(), BARE_PARTS, QP_PARTS, BASE64_PARTS)


def wrapped(children: st.SearchStrategy[tuple[bytes, bytes]]) -> st.SearchStrategy[tuple[bytes, bytes]]:
    return st.one_of(multiparts(children), messages(children))


@st.composite
def multiparts(draw: st.DrawFn, children: st.SearchStrategy[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    parts = draw(st.lists(children, min_size=1, max_size=3))
    label = draw(st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\n", b"Content-Transfer-Encoding: binary\n"]))
    inside = b"".join(header + b"\n" + body + b"\n" for header, body in parts)
    # A boundary that nothing inside has as a line of its own, and may begin one that is inside.
    boundary = next(
        name
        for name in (b"b1", b"b10", b"b100", b"b1000", b"b10000")
        if b"--%s\n" % name not in inside and b"=" + name not in inside and b"--%s--" % name not in inside
    )
    body = draw(st.sampled_from([b"", b"for old readers: \xe4\n"]))
    for header, content in parts:
        body += b"--" + boundary + b"\n" + header + b"\n" + content + b"\n"
    body += b"--" + boundary + b"--\n" + draw(st.sampled_from([b"", b"epilogue \xe4\n"]))
    return b"Content-Type: multipart/mixed; boundary=" + boundary + b"\n" + label, body


@st.composite
def messages(draw: st.DrawFn, children: st.SearchStrategy[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    header, body = draw(children)
    subject = " ".join(draw(FIELD_TEXT)).encode()
    return b"Content-Type: message/rfc822\n", b"Subject: " + subject + b"\n" + header + b"\n" + body


@st.composite
def whole(draw: st.DrawFn) -> tuple[bytes, bytes]:
    header, body = draw(st.recursive(LEAVES, wrapped, max_leaves=5))
    subject, name = draw(FIELD_TEXT), draw(FIELD_TEXT)
    top = "Received: by a.example; Sun, 1 Jan 2023 12:00:00 +0000\n"
    top += f'From: {" ".join(name).replace("(x)", "x")} <a@example.org>\nTo: "{" ".join(name)}" <b@example.net>\n'
    top += f"Subject: {' '.join(subject)}\nMIME-Version: 1.0\n"
    return top.encode() + header, body


@given(whole(), TARGETS)
def test_a_receiver_gets_what_is_stored(message: tuple[bytes, bytes], target: Target) -> None:
    header, body = message
    stored = header + b"\n" + body
    content = prepare(header, Source.from_bytes(body)).content(target)
    assert isinstance(content, MessageContent)
    sent = b"".join(content.chunk_blocks())
    assert len(sent) == content.size
    assert sent.index(b"\r\n\r\n") + 4 == content.header_size
    assert same_leaves(stored, sent), (leaves(stored), leaves(sent))
    assert fields(stored) == fields(sent)
    able = target.send_eight_bit or (target.eight_bit_mime and not target.seven_bit)
    if content.body_parameter == b"BINARYMIME":
        assert target.binary_mime
        assert not target.seven_bit
        return
    assert is_wire_clean(sent)
    assert content.body_parameter == (b"8BITMIME" if not sent.isascii() and able and target.eight_bit_mime else None)
    if not able:
        assert sent[content.header_size :].isascii()
        assert sent.isascii() or not target.convert_headers or (target.smtputf8 and target.internationalised)


@given(whole(), TARGETS)
def test_a_signed_message_is_never_touched(message: tuple[bytes, bytes], target: Target) -> None:
    header = b"DKIM-Signature: v=1; d=example.org; s=s; h=from; bh=; b=\n" + message[0]
    content = prepare(header, Source.from_bytes(message[1])).content(target)
    assert isinstance(content, MessageContent)
    sent = b"".join(content.chunk_blocks())
    if content.body_parameter == b"BINARYMIME":
        assert sent[: content.header_size] == header.replace(b"\n", b"\r\n") + b"\r\n"
    else:
        canonical = (header + b"\n" + message[1]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        assert sent == (canonical if canonical.endswith(b"\n") else canonical + b"\n").replace(b"\n", b"\r\n")


@given(whole(), TARGETS)
def test_the_same_from_a_file_too_large_to_be_kept(message: tuple[bytes, bytes], target: Target) -> None:
    header, body = message
    if b"multipart" not in header:
        return
    padded = body + (b"z" * 77 + b"\n") * (KEEP_LIMIT // 78 + 1)  # an epilogue, nobody's content
    content = prepare(header, Source.from_bytes(padded)).content(target)
    assert isinstance(content, MessageContent)
    once, twice = (b"".join(content.chunk_blocks()) for _ in range(2))
    assert once == twice
    assert len(once) == content.size
    assert same_leaves(header + b"\n" + body, once)


def test_results_are_kept() -> None:
    stored = prepare(b"MIME-Version: 1.0\n", Source.from_bytes(b"\xe4\n"))
    assert stored.content(Target()) is stored.content(Target())
    refused = prepare(b"DKIM-Signature: x\n", Source.from_bytes(b"\xe4\n"))
    target = Target(signed_8bit=Signed8Bit.BOUNCE)
    assert isinstance(refused.content(target), ContentRefusal)
    assert refused.content(target) is refused.content(target)


class CountedFile(BytesIO):
    """Counts the octets read."""

    octets = 0

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        self.octets += len(block)
        return block


def test_targets_that_want_the_same_form_share_the_counting() -> None:
    body = b"\xe4" * 70 + b"\n"
    file = CountedFile(body * 5000)
    stored = prepare(
        b"Content-Type: text/plain; charset=iso-8859-1\nMIME-Version: 1.0\n", Source(file, 0, len(body) * 5000)
    )
    stored.content(Target())
    before = file.octets
    stored.content(Target(smtputf8=True))
    stored.content(Target(binary_mime=True))
    assert file.octets == before


def test_small_messages_are_read_once_whatever_becomes_of_them() -> None:
    file = CountedFile(b"\xe4\n")
    stored = prepare(b"Subject: \xe4\n", Source(file, 0, 2))
    for target in (Target(), Target(eight_bit_mime=True)):
        content = stored.content(target)
        assert isinstance(content, MessageContent)
        assert len(list(content.chunk_blocks())) == 1
    assert file.octets == 2


def test_content_for_binarymime_does_not_go_with_data() -> None:
    content = prepare(b"", Source.from_bytes(b"\0")).content(Target(binary_mime=True))
    assert isinstance(content, MessageContent)
    with pytest.raises(ContentError, match="BINARYMIME"):
        list(content.data_blocks())


def collect(blocks: Iterator[bytes], sent: bytearray) -> None:
    for block in blocks:
        sent += block


LATIN1 = b"Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: %s\nMIME-Version: 1.0\n"


@pytest.mark.parametrize(
    ("offset", "octets"), [(0, b"\n" * 300_000), (300_000, b"aaaaaaa"), (639_999, b"x")], ids=["lines", "fewer", "open"]
)
def test_a_file_that_changes_never_goes_out_whole(offset: int, octets: bytes) -> None:
    file = BytesIO(b"\xe4 letters\n" * 64_000)
    content = prepare(LATIN1 % b"8bit", Source(file, 0, 640_000)).content(Target())
    assert isinstance(content, MessageContent)
    assert content.conversion is Conversion.QP
    file.seek(offset)
    file.write(octets)
    sent = bytearray()
    with pytest.raises(ContentError):
        collect(content.chunk_blocks(), sent)
    assert len(sent) < content.size


class GeneratedFile:
    """A large file that is nowhere: the same page again and again, behind a first line of another kind."""

    def __init__(self, page: bytes, first: bytes = b"") -> None:
        self.page = page
        self.first = first
        self.offset = 0

    def seek(self, offset: int, /) -> int:
        self.offset = offset
        return offset

    def read(self, size: int, /) -> bytes:
        if self.offset < len(self.first):
            return self.first[self.offset : self.offset + size]
        skip = (self.offset - len(self.first)) % len(self.page)
        return (self.page * (size // len(self.page) + 2))[skip : skip + size]


PARTS = b"Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n"


@pytest.mark.parametrize(
    ("header", "first", "page", "target"),
    [
        (LATIN1 % b"8bit", b"", b"p\xe4iv\xe4\xe4 and plain text \n" * 500, Target()),
        (LATIN1 % b"quoted-printable", b"", b"p=E4iv=E4=E4 and plain text\n" * 500, Target(send_eight_bit=True)),
        (LATIN1 % b"8bit", b"", b"\xe4" * 9973, Target()),
        (PARTS, b"--b\nContent-Type: image/x\nContent-Transfer-Encoding: binary\n\n", bytes(range(256)) * 40, Target()),
        (PARTS, b"\n--b\n\n", (b"--\n--c\xe4\n-- \n--b\xe4\n" + b"text\n" * 99) * 100, Target()),
        (b"", b"", b"\xe4\r" * 5000, Target()),
    ],
    ids=["qp", "decoded", "one line", "base64", "many hyphens", "bare CRs"],
)
def test_memory_does_not_grow_with_the_message(header: bytes, first: bytes, page: bytes, target: Target) -> None:
    size = 5 * 1024 * 1024
    prepare(header, Source.from_bytes(first + page)).content(target)  # what is imported on first use is not meant
    tracemalloc.start()
    try:
        content = prepare(header, Source(GeneratedFile(page, first), 0, size)).content(target)
        assert isinstance(content, MessageContent)
        octets = sum(map(len, content.chunk_blocks()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert octets == content.size
    assert content.conversion is not Conversion.NONE
    assert peak < 4 * 1024 * 1024


def test_every_offset_of_a_block_border() -> None:
    """What is larger than one block is read in pieces; no cut may show in the result."""
    part = b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + "größer .\r\n".encode() * 3
    sizes = []
    for shift in range(60):
        body = (
            b"p" * shift
            + b"\r\n"
            + part
            + b"--b\r\nContent-Type: text/x\r\n\r\n"
            + b"f\r\n" * 87_350
            + part * 9
            + b"--b--\r\n"
        )
        content = prepare(PARTS, Source.from_bytes(body)).content(Target())
        assert isinstance(content, MessageContent)
        sizes.append(content.size)
        if shift % 10 == 0:
            assert same_leaves(PARTS + b"\n" + body, b"".join(content.chunk_blocks()))
    assert all(later == earlier + 1 for earlier, later in pairwise(sizes))
