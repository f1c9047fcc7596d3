"""The content of a message as it goes on the wire: header block, empty line, body (RFC 5321 2.3.1).

:func:`prepare` looks at the whole message once and tells what must be known before the first command is sent: the
exact size for ``SIZE`` (RFC 1870), whether ``BODY=8BITMIME`` is needed (RFC 6152), and what a strict server could
object to. The :class:`Content` it gives can then be sent any number of times, in either form: dot-stuffed for
``DATA``, or as it is for ``BDAT`` (RFC 3030).

Small messages are read once and kept; of large ones only a few blocks are in memory at any time, and they are read
again for every sending. If the file has changed by then, nothing that contradicts what was announced goes out whole:
an iteration raises before its last block::

    content = prepare(header, source)
    mail_from = b"MAIL FROM:<a@example.org> SIZE=%d" % content.size
    for block in content.data_blocks():
        send(block)

Nothing is converted here: content that would need it goes as it is, and :meth:`Content.remarks_for` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zsmtp.body.dots import DotStuffer
from zsmtp.body.lines import CRLF, LineConverter, LineSurvey, canonical_blocks, canonical_header
from zsmtp.body.source import BLOCK_SIZE, Source
from zsmtp.errors import ContentError

KEEP_LIMIT = BLOCK_SIZE
"""Bodies of at most so many octets are kept in memory from the first reading on."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is in a message, header and body together, that decides in which form a server can take it."""

    eight_bit: bool
    """Octets above 127 (RFC 6152)."""
    nul: bool
    """NUL octets; only BINARYMIME allows them (RFC 3030)."""
    long_lines: bool
    """A line of over 998 octets without its line end (RFC 5321 4.5.3.1.6)."""
    bare_cr: int
    """CRs that no LF followed; none of them is in what is sent (RFC 5321 2.3.8)."""


class Content:
    """One message's content, ready to be sent. Made by :func:`prepare`.

    ``size`` is in octets as SIZE counts them (RFC 1870 3): every line with its CRLF, without dot-stuffing and the
    final dot. ``header_size`` is the part of it before the body, with the empty line. ``remarks`` say in words what
    was changed (bare CRs) and what would need conversion for any server and goes as it is.
    """

    __slots__ = ("_head", "_kept", "_source", "facts", "header_size", "remarks", "size")

    def __init__(
        self, head: bytes, source: Source, kept: bytes | None, *, size: int, facts: Facts, remarks: tuple[str, ...]
    ) -> None:
        self.size = size
        self.header_size = len(head)
        self.facts = facts
        self.remarks = remarks
        self._head = head  # canonical, with the empty line
        self._source = source
        self._kept = kept  # the whole canonical content, if small

    def remarks_for(self, *, offers_8bitmime: bool) -> tuple[str, ...]:
        """:attr:`remarks`, and the one that depends on what the server offers."""
        if self.facts.eight_bit and not offers_8bitmime:
            return (*self.remarks, "8-bit content goes as it is to a server that does not offer 8BITMIME")
        return self.remarks

    def data_blocks(self) -> Iterator[bytes]:
        """All octets that follow the 354: the content, dot-stuffed, and the final dot.

        Raises :class:`~zsmtp.errors.ContentError` if the file cannot be read to its end or has changed, always
        before the final dot: the server cannot take what it has for a message.
        """
        dots = DotStuffer()
        waiting = b""
        for block in self.chunk_blocks():
            if waiting:
                yield waiting
            waiting = dots.stuff(block)
        yield waiting + dots.terminator()

    def chunk_blocks(self) -> Iterator[bytes]:
        """The content for BDAT: exactly :attr:`size` octets in blocks.

        Raises :class:`~zsmtp.errors.ContentError` if the file cannot be read to its end or has changed, always
        before the last block: the server is left waiting for the octets it was promised.
        """
        if self._kept is not None:
            yield self._kept
            return
        sent = 0
        waiting = b""
        for block in self._stored_blocks():
            sent += len(block)
            self._check(sent, block)
            if waiting:
                yield waiting
            waiting = block
        if sent != self.size:
            raise ContentError(f"the message changed while it was sent: {sent} octets, {self.size} were announced")
        yield waiting

    def _stored_blocks(self) -> Iterator[bytes]:
        """The content read anew; the header rides with the first block, so that it needs no write of its own."""
        body = canonical_blocks(self._source.blocks(), LineConverter())
        yield self._head + next(body, b"")
        yield from body

    def _check(self, sent: int, block: bytes) -> None:
        """Compare with what was announced; the caller has not let ``block`` out yet."""
        if sent > self.size:
            raise ContentError(f"the message changed while it was sent: over the {self.size} octets announced")
        if not self.facts.eight_bit and not block.isascii():
            raise ContentError("the message changed while it was sent: 8-bit octets, none were announced")


def prepare(header: bytes, source: Source) -> Content:
    """Look at a message once and make it ready to be sent.

    ``header`` is the block as stored (lines ended by LF, no empty line at its end), ``source`` the body, which may be
    empty. Raises :class:`~zsmtp.errors.ContentError` if the body cannot be read to its end.
    """
    field_lines, header_bare_cr = canonical_header(header)
    head = field_lines + CRLF
    survey = LineSurvey()
    survey.feed(field_lines)
    eight_bit = header_eight_bit = not head.isascii()
    nul = b"\0" in head
    kept: bytes | None = None
    if source.size <= KEEP_LIMIT:
        body = b"".join(source.blocks())
        survey.feed(body)
        eight_bit = eight_bit or not body.isascii()
        nul = nul or b"\0" in body
        kept = b"".join((head, *canonical_blocks((body,), LineConverter())))
    else:
        for block in source.blocks():
            survey.feed(block)
            eight_bit = eight_bit or not block.isascii()
            nul = nul or b"\0" in block
    survey.finish()
    return Content(
        head,
        source,
        kept,
        size=survey.octets + len(CRLF),
        facts=Facts(eight_bit, nul, survey.long_lines, header_bare_cr + survey.bare_cr),
        remarks=_remarks(
            header_eight_bit=header_eight_bit,
            nul=nul,
            long_lines=survey.long_lines,
            header_bare_cr=header_bare_cr,
            body_bare_cr=survey.bare_cr,
        ),
    )


def _remarks(
    *, header_eight_bit: bool, nul: bool, long_lines: bool, header_bare_cr: int, body_bare_cr: int
) -> tuple[str, ...]:
    remarks = []
    if header_bare_cr:
        remarks.append(f"bare CRs in the header block made blanks: {header_bare_cr}")
    if body_bare_cr:
        remarks.append(f"bare CRs in the body made line ends: {body_bare_cr}")
    if header_eight_bit:
        remarks.append("8-bit octets in the header block go as they are")
    if nul:
        remarks.append("NUL octets go as they are")
    if long_lines:
        remarks.append("lines of over 998 octets go as they are")
    return tuple(remarks)
