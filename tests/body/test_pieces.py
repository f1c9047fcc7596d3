"""Long work on a message in pieces: it gives way between blocks, and what comes of it is the same as at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from typing import TypeVar

import pytest

from zsmtp.body import convert, encode, stored
from zsmtp.body.convert import OUTPUT_SIZE, ConvertedBody, Segment, SegmentForm
from zsmtp.body.encode import MessageContent
from zsmtp.body.qp import SEGMENT
from zsmtp.body.source import BLOCK_SIZE, Source
from zsmtp.body.stored import AT_ONCE, Stored, preparation, prepare, prepare_in_pieces
from zsmtp.body.target import ContentRefusal, Target
from zsmtp.effects import GiveWay, Operation, ReadClock, SharedWork, at_once
from zsmtp.errors import ContentError, LocalError

T = TypeVar("T")

SEVEN_BIT = Target()
EIGHT_BIT = Target(eight_bit_mime=True)
DECODED = Target(eight_bit_mime=True, send_eight_bit=True)
BINARY = Target(eight_bit_mime=True, binary_mime=True)

PIECES = [
    b"plain text",
    b"caf\xc3\xa9",
    b".",
    b"..dots",
    b"From here",
    b"--b",
    b"--b--",
    b"=3D",
    b"\xff" * 90,
    b"x" * 1100,
]
ENDS = [b"\n", b"\r\n", b" \n", b"\t\n", b"\r"]
HEADERS = [
    b"Subject: none of MIME\n",
    b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n",
    b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n",
    b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n",
    b"MIME-Version: 1.0\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n",
    b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 8bit\n",
]
PARTS = [
    b"\n--b\nContent-Type: text/plain\n\n",
    b"\n--b\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n\n\0",
    b"\n--b\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9",
]


def generated(seed: int, octets: int) -> tuple[bytes, bytes]:
    """A header and a body of about so many octets."""
    chance = random.Random(seed)
    header = HEADERS[seed % len(HEADERS)]
    words = chance.sample(PIECES, chance.randint(1, 6)) + [b"common"] * 4
    body = [chance.choice(PARTS)] if b"multipart" in header else []
    size = 0
    while size < octets:
        line = b" ".join(chance.choices(words, k=chance.randint(0, 8))) + chance.choices(ENDS, [20, 3, 1, 1, 1])[0]
        body.append(line)
        size += len(line)
        if b"multipart" in header and chance.random() < 0.01:
            body.append(chance.choice(PARTS))
    return header, b"".join(body)


def in_pieces(work: Operation[T]) -> tuple[T, int]:
    """The result of long work, and how often it gave way."""
    count = 0
    while True:
        try:
            assert type(work.send(None)) is GiveWay
        except StopIteration as end:
            return end.value, count
        count += 1


def described(content: MessageContent | ContentRefusal) -> object:
    """All that there is to a content."""
    if isinstance(content, ContentRefusal):
        return content
    wire = b"" if content.body_parameter == b"BINARYMIME" else b"".join(content.data_blocks())
    chunks = b"".join(content.chunk_blocks())
    assert len(chunks) == content.size
    return wire, chunks, content.facts, content.remarks, content.body_parameter, content.conversion, content.header_size


# --------------------------------------------------------------------- the same result


@pytest.mark.parametrize("target", [SEVEN_BIT, EIGHT_BIT, DECODED, BINARY], ids=["7bit", "8bit", "decoded", "binary"])
@pytest.mark.parametrize("seed", range(24))
def test_a_message_in_pieces_is_what_it_is_at_once(seed: int, target: Target) -> None:
    header, body = generated(seed, 300_000)
    whole = prepare(header, Source.from_bytes(body)).content(target)
    looked_at, looks = in_pieces(prepare_in_pieces(header, Source.from_bytes(body)))
    content, pieces = in_pieces(looked_at.content_in_pieces(target))
    assert described(content) == described(whole)
    assert looks >= len(body) // BLOCK_SIZE
    if not isinstance(content, ContentRefusal) and content.body_changed:
        assert pieces >= len(body) // (4 * OUTPUT_SIZE)


@pytest.mark.parametrize("seed", range(12))
def test_how_the_body_is_cut_makes_no_difference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    header, body = generated(seed, 50_000)
    before = described(prepare(header, Source.from_bytes(body)).content(SEVEN_BIT))
    monkeypatch.setattr(convert, "PIECE_SIZE", 977)
    monkeypatch.setattr(convert, "QP_PIECE_SIZE", 641)
    monkeypatch.setattr(convert, "OUTPUT_SIZE", 1)
    monkeypatch.setattr(encode, "KEEP_LIMIT", 0)
    monkeypatch.setattr(stored, "KEEP_LIMIT", 0)
    assert described(prepare(header, Source.from_bytes(body)).content(SEVEN_BIT)) == before


# -------------------------------------------------------------------------- its pieces


@pytest.mark.parametrize("form", [SegmentForm.QP, SegmentForm.QP_IN_MULTIPART, SegmentForm.MEND_QP])
@pytest.mark.parametrize(
    "text",
    [b"--\n", b".\n", b"From x\n", b"\xff", b"=", b"." + bytes(range(11, 256)) * 3 + b" \n", b"y" * 75 + b" \n"],
    ids=["hyphens", "dots", "From", "high", "equals", "everything", "blanks"],
)
def test_no_piece_of_a_conversion_reads_much(form: SegmentForm, text: bytes) -> None:
    """What text can cost at most is known for each octet, and so for each piece; a line without end is kept a while."""
    body = text * (1_000_000 // len(text))
    read = 0

    class Counted(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    source = Source(Counted(body), 0, len(body))
    before = 0
    for _ in ConvertedBody(source, [Segment(0, len(body), form)]).blocks():
        assert read - before <= (OUTPUT_SIZE if b"\n" in text else SEGMENT) + convert.QP_PIECE_SIZE
        before = read


def test_what_is_small_is_done_at_once() -> None:
    body = b"caf\xc3\xa9\n" * (AT_ONCE // 6)
    looked_at = preparation(HEADERS[1], Source.from_bytes(body))
    assert isinstance(looked_at, Stored)
    assert looked_at.known(SEVEN_BIT) is not None
    larger = preparation(HEADERS[1], Source.from_bytes(body * 2))
    assert isinstance(larger, Stored)
    assert larger.known(SEVEN_BIT) is None
    assert larger.known(EIGHT_BIT) is None  # what it is for others is not looked at
    content, _ = in_pieces(larger.content_in_pieces(SEVEN_BIT))
    assert larger.known(SEVEN_BIT) is content
    largest = preparation(HEADERS[1], Source.from_bytes(body * 100))
    assert not isinstance(largest, Stored)
    assert in_pieces(largest)[1] > 1


# ------------------------------------------------------------------------ shared work


def test_what_several_ask_for_is_made_once() -> None:
    header, body = generated(1, 400_000)
    made = []

    class Watched(BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            made.append(offset)
            return super().seek(offset, whence)

    one = prepare(header, Source(Watched(body), 0, len(body)))
    made.clear()
    in_pieces(one.content_in_pieces(SEVEN_BIT))
    alone = len(made)

    other = prepare(header, Source(Watched(body), 0, len(body)))
    made.clear()
    works = [other.content_in_pieces(SEVEN_BIT) for _ in range(3)]
    results = list(_by_turns(works))
    assert len(made) == alone
    assert len(results) == 3
    assert results[0] is results[1] is results[2]


def test_contents_for_two_servers_are_made_one_after_the_other() -> None:
    header, body = generated(5, 400_000)
    looked_at = prepare(header, Source.from_bytes(body))
    results = list(_by_turns([looked_at.content_in_pieces(SEVEN_BIT), looked_at.content_in_pieces(EIGHT_BIT)]))
    assert {id(one) for one in results} == {id(looked_at.known(SEVEN_BIT)), id(looked_at.known(EIGHT_BIT))}
    again = prepare(header, Source.from_bytes(body))
    for target in (SEVEN_BIT, EIGHT_BIT):
        known = looked_at.known(target)
        assert known is not None
        assert described(known) == described(again.content(target))


def _by_turns(works: list[Operation[T]]) -> Iterator[T]:
    """The results of works that take turns."""
    while works:
        work = works.pop(0)
        try:
            work.send(None)
        except StopIteration as end:
            yield end.value
        else:
            works.append(work)


def test_whoever_is_left_goes_on_with_the_work() -> None:
    async def pieces() -> str:
        for _ in range(5):
            await GiveWay()
        return "done"

    shared = SharedWork(pieces())
    gone = shared.result()
    gone.send(None)
    gone.close()
    assert not shared.over
    assert in_pieces(shared.result()) == ("done", 4)
    assert in_pieces(shared.result()) == ("done", 0)


def test_an_error_is_everybodys() -> None:
    async def broken() -> str:
        await GiveWay()
        raise ContentError("the disk is gone")

    shared = SharedWork(broken())
    first, second = shared.result(), shared.result()
    first.send(None)
    for one in (second, first, shared.result()):
        with pytest.raises(ContentError, match="the disk is gone"):
            one.send(None)
    assert shared.over


def test_work_that_nobody_waits_for_any_more_is_closed() -> None:
    closed = []

    async def pieces() -> str:
        try:
            await GiveWay()
        finally:
            closed.append(True)
        return "done"

    shared = SharedWork(pieces())
    waiting = shared.result()
    waiting.send(None)
    shared.close(ContentError("let go of"))
    assert closed == [True]
    with pytest.raises(ContentError, match="let go of"):
        waiting.send(None)
    shared.close(ContentError("once more"))


def test_at_once_there_is_nothing_to_wait_for() -> None:
    async def waits() -> float:
        return await ReadClock()

    with pytest.raises(LocalError, match="ReadClock"):
        at_once(waits())
    shared = SharedWork(waits()).result()
    with pytest.raises(LocalError, match="ReadClock"):
        shared.send(None)


def test_a_body_that_ends_early_is_an_error_in_pieces_too() -> None:
    header, body = generated(1, 400_000)
    file = BytesIO(body)
    looked_at = prepare(header, Source(file, 0, len(body)))
    work = looked_at.content_in_pieces(SEVEN_BIT)
    work.send(None)
    file.truncate(1000)
    with pytest.raises(ContentError, match="octets early"):
        in_pieces(work)
    file.seek(0)
    file.write(body)
    content, _ = in_pieces(looked_at.content_in_pieces(SEVEN_BIT))  # what failed is not remembered
    assert described(content) == described(prepare(header, Source.from_bytes(body)).content(SEVEN_BIT))
