"""Carrying out a conversion: a body as stretches, each with the form it goes out in.

What is to be done was decided before (:mod:`zsmtp.body.choose`) and is a tuple of :class:`Segment`; between segments
the body is copied with canonical line ends. Every iteration reads the stored body anew and gives the same octets, so a
first one may count them and a later one send them; only a few blocks are in memory at any time::

    body = ConvertedBody(source, segments)
    size = sum(map(len, body.blocks()))

Text is fed to the encoders with its line ends unified; what a bare CR becomes is the same as in content that is not
converted (:mod:`zsmtp.body.lines`). Binary parts are octets, and nothing is changed in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Protocol

from zsmtp.body.base64 import Base64Encoder, Base64Wrapper
from zsmtp.body.lines import CRLF, LineConverter, LineUnifier
from zsmtp.body.qp import QuotedPrintableDecoder, QuotedPrintableEncoder, QuotedPrintableMender
from zsmtp.body.source import Source
from zsmtp.records import NamedTuple

PIECE_SIZE = 65_536
"""Octets converted at a time."""

QP_PIECE_SIZE = 16_384
"""Octets made quoted-printable at a time: of the most unlucky text each of them takes half a microsecond."""

OUTPUT_SIZE = 32_768
"""Smaller pieces of output wait for one another."""

# The eighth bit goes; what would become a control character, a line end above all, is none that anybody wrote.
_STRIPPED = bytes(n if n < 128 else n - 128 if 0xA0 <= n < 0xFF else 0x3F for n in range(256))


class SegmentForm(Enum):
    """What becomes of a stretch of body."""

    LINES = "lines"  # canonical line ends
    OCTETS = "octets"  # nothing at all
    LITERAL = "literal"  # other octets stand in its place
    QP = "quoted-printable"  # encoded as text
    QP_IN_MULTIPART = "quoted-printable in a multipart"
    BASE64_OCTETS = "base64"  # of the octets as they are
    BASE64_LINES = "base64 of lines"  # of the text with canonical line ends
    MEND_QP = "quoted-printable mended"
    WRAP_BASE64 = "base64 in lines"
    DECODE_QP = "decoded"
    STRIP = "stripped to seven bits"


class Segment(NamedTuple):
    """The octets ``[start, end)`` of the stored body go out in ``form``; ``literal`` is for that form only."""

    start: int
    end: int
    form: SegmentForm
    literal: bytes = b""


class Transform(Protocol):
    """What turns one stretch into its form. ``bare_cr`` counts CRs that became line ends."""

    @property
    def bare_cr(self) -> int: ...

    def feed(self, block: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class _CanonicalLines:
    def __init__(self) -> None:
        self._lines = LineConverter()

    @property
    def bare_cr(self) -> int:
        return self._lines.bare_cr

    def feed(self, block: bytes) -> bytes:
        return self._lines.convert(block)

    def finish(self) -> bytes:
        return b""


class _Stripped(_CanonicalLines):
    def feed(self, block: bytes) -> bytes:
        return self._lines.convert(block.translate(_STRIPPED))


class _Octets:
    @property
    def bare_cr(self) -> int:
        return 0

    def feed(self, block: bytes) -> bytes:
        return block

    def finish(self) -> bytes:
        return b""


class _Encoded:
    """Text through a codec that reads LF line ends."""

    def __init__(self, codec: QuotedPrintableEncoder | QuotedPrintableMender | QuotedPrintableDecoder) -> None:
        self._lines = LineUnifier()
        self._codec = codec
        self._decodes = isinstance(codec, QuotedPrintableDecoder)

    @property
    def bare_cr(self) -> int:
        return self._lines.bare_cr

    @property
    def unfit(self) -> bool:
        return isinstance(self._codec, QuotedPrintableDecoder) and self._codec.unfit

    def feed(self, block: bytes) -> bytes:
        done = self._codec.feed(self._lines.unify(block))
        return done.replace(b"\n", CRLF) if self._decodes else done

    def finish(self) -> bytes:
        done = self._codec.finish()
        return done.replace(b"\n", CRLF) if self._decodes else done


class _Base64Octets:
    def __init__(self, codec: Base64Encoder | Base64Wrapper) -> None:
        self._codec = codec

    @property
    def bare_cr(self) -> int:
        return 0

    def feed(self, block: bytes) -> bytes:
        return self._codec.feed(block)

    def finish(self) -> bytes:
        return self._codec.finish()


class _Base64Lines(_Base64Octets):
    def __init__(self) -> None:
        super().__init__(Base64Encoder())
        self._lines = LineConverter()

    @property
    def bare_cr(self) -> int:
        return self._lines.bare_cr

    def feed(self, block: bytes) -> bytes:
        return self._codec.feed(self._lines.convert(block))


def _transform(form: SegmentForm) -> Transform:
    match form:
        case SegmentForm.LINES:
            return _CanonicalLines()
        case SegmentForm.QP | SegmentForm.QP_IN_MULTIPART:
            return _Encoded(QuotedPrintableEncoder(in_multipart=form is SegmentForm.QP_IN_MULTIPART))
        case SegmentForm.BASE64_OCTETS:
            return _Base64Octets(Base64Encoder())
        case SegmentForm.BASE64_LINES:
            return _Base64Lines()
        case SegmentForm.MEND_QP:
            return _Encoded(QuotedPrintableMender())
        case SegmentForm.WRAP_BASE64:
            return _Base64Octets(Base64Wrapper())
        case SegmentForm.DECODE_QP:
            return _Encoded(QuotedPrintableDecoder())
        case SegmentForm.STRIP:
            return _Stripped()
        case SegmentForm.OCTETS | SegmentForm.LITERAL:
            return _Octets()


class ConvertedBody:
    """A stored body in other forms. ``segments`` are in order and do not overlap.

    ``bare_cr`` (CRs that became line ends) and ``unfit`` (something could not be decoded, the result is not to be
    used) are about the last iteration, after its end.
    """

    __slots__ = ("_segments", "_source", "bare_cr", "unfit")

    def __init__(self, source: Source, segments: Sequence[Segment]) -> None:
        self.bare_cr = 0
        self.unfit = False
        self._source = source
        self._segments = segments

    def blocks(self) -> Iterator[bytes]:
        """The body as it goes out, in blocks. Raises :class:`~zsmtp.errors.ContentError` as the source does."""
        self.bare_cr = 0
        self.unfit = False
        waiting: list[bytes] = []
        size = 0
        last = b""
        for piece in self._pieces():
            if not piece:
                continue
            waiting.append(piece)
            size += len(piece)
            if size >= OUTPUT_SIZE:
                block = b"".join(waiting)
                yield block
                last = block[-1:]
                waiting.clear()
                size = 0
        last = waiting[-1][-1:] if waiting else last
        whole = (
            self._segments
            and self._segments[-1].form is SegmentForm.OCTETS
            and self._segments[-1].end == self._source.size
        )
        if last not in (b"", b"\n") and not whole:
            waiting.append(CRLF)
        if waiting:
            yield b"".join(waiting)

    def _pieces(self) -> Iterator[bytes]:
        done = 0
        for segment in self._segments:
            yield from self._stretch(Segment(done, segment.start, SegmentForm.LINES))
            yield from self._stretch(segment)
            done = segment.end
        yield from self._stretch(Segment(done, self._source.size, SegmentForm.LINES))

    def _stretch(self, segment: Segment) -> Iterator[bytes]:
        if segment.form is SegmentForm.LITERAL:
            yield segment.literal
            return
        if segment.start == segment.end:
            return
        transform = _transform(segment.form)
        size = QP_PIECE_SIZE if isinstance(transform, _Encoded) else PIECE_SIZE
        for block in self._source.part(segment.start, segment.end).blocks(size):
            yield transform.feed(block)
        yield transform.finish()
        self.bare_cr += transform.bare_cr
        if isinstance(transform, _Encoded):
            self.unfit |= transform.unfit
