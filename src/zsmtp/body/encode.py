"""The content of a message as it goes on the wire: header block, empty line, body (RFC 5321 2.3.1).

:func:`examine` looks at the whole message once and tells what must be known before the first command is sent: the
exact size for ``SIZE`` (RFC 1870), whether ``BODY=8BITMIME`` is needed (RFC 6152), and what a strict server could
object to. The :class:`MessageContent` made of that can then be sent any number of times, in either form: dot-stuffed
for ``DATA``, or as it is for ``BDAT`` (RFC 3030).

Small messages are read once and kept; of large ones only a few blocks are in memory at any time, and they are read
again for every sending. If the file has changed by then, nothing that contradicts what was announced goes out whole:
an iteration raises before its last block::

    content = as_stored(examine(header, source), source)
    mail_from = b"MAIL FROM:<a@example.org> SIZE=%d" % content.size
    for block in content.data_blocks():
        send(block)

Nothing is converted here; :mod:`zsmtp.body.stored` chooses among all forms a message can have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zsmtp.body.dots import DotStuffer, stuffed
from zsmtp.body.lines import (
    CRLF,
    MAX_LINE,
    LineConverter,
    LineSurvey,
    canonical,
    canonical_blocks,
    canonical_header,
    has_long_line,
)
from zsmtp.body.source import BLOCK_SIZE, Source
from zsmtp.body.target import Conversion
from zsmtp.effects import GiveWay, at_once
from zsmtp.errors import ContentError
from zsmtp.records import NamedTuple

KEEP_LIMIT = BLOCK_SIZE
"""Bodies of at most so many octets are kept in memory from the first reading on."""


class Facts(NamedTuple):
    """What there is in a message, header and body together, that decides in which form a server can take it."""

    eight_bit: bool
    """Octets above 127 (RFC 6152)."""
    nul: bool
    """NUL octets; only BINARYMIME allows them (RFC 3030)."""
    long_lines: bool
    """A line of over 998 octets without its line end (RFC 5321 4.5.3.1.6)."""
    bare_cr: int
    """CRs that no LF followed; none of them is in what is sent (RFC 5321 2.3.8)."""


_UNREMARKABLE = Facts(eight_bit=False, nul=False, long_lines=False, bare_cr=0)


class Examination(NamedTuple):
    """What one look at a message gave: its canonical header, and facts about header and body apart.

    ``kept`` is the whole canonical body of a message small enough to be kept, ``stored`` its body as it was read.
    """

    head: bytes
    header: Facts
    body: Facts
    size: int
    kept: bytes | None
    stored: bytes | None

    @property
    def facts(self) -> Facts:
        """About header and body together."""
        return combined(self.header, self.body)


def combined(a: Facts, b: Facts) -> Facts:
    """The facts about two stretches of a message taken together."""
    if a is b and not a.bare_cr:
        return a
    return Facts(a.eight_bit or b.eight_bit, a.nul or b.nul, a.long_lines or b.long_lines, a.bare_cr + b.bare_cr)


class MessageContent:
    """One message's content, ready to be sent. Made by :func:`prepare` and by ``Stored.content``.

    ``size`` is in octets as SIZE counts them (RFC 1870 3): every line with its CRLF, without dot-stuffing and the
    final dot. ``header_size`` is the part of it before the body, with the empty line. ``facts`` and ``remarks`` are of
    what is sent; remarks say in words what was changed and what a server could object to.

    ``body_parameter`` is what ``MAIL`` must say in BODY= (``8BITMIME``, ``BINARYMIME``, or None); content that needs
    BINARYMIME can go with BDAT only. ``needs_smtputf8``: header or envelope do. ``conversion`` is the word for logs,
    ``body_changed`` tells that the body is not the stored one, line ends apart.
    """

    __slots__ = (
        "_body",
        "_head",
        "_kept",
        "body_changed",
        "body_parameter",
        "conversion",
        "facts",
        "header_size",
        "needs_smtputf8",
        "remarks",
        "size",
    )

    def __init__(
        self,
        head: bytes,
        body: Callable[[], Iterator[bytes]],
        kept: bytes | None,
        *,
        size: int,
        facts: Facts,
        remarks: tuple[str, ...],
        conversion: Conversion = Conversion.NONE,
        body_changed: bool = False,
    ) -> None:
        self.size = size
        self.header_size = len(head)
        self.facts = facts
        self.remarks = remarks
        self.body_parameter: bytes | None = None
        self.needs_smtputf8 = False
        self.conversion = conversion
        self.body_changed = body_changed
        self._head = head  # canonical, with the empty line
        self._body = body
        self._kept = kept  # the whole canonical body, if small

    def announced(self, *, body: bytes | None, smtputf8: bool, remarks: tuple[str, ...]) -> MessageContent:
        """The same content with what is said about it to one server."""
        same = MessageContent(
            self._head,
            self._body,
            self._kept,
            size=self.size,
            facts=self.facts,
            remarks=remarks,
            conversion=self.conversion,
            body_changed=self.body_changed,
        )
        same.body_parameter = body
        same.needs_smtputf8 = smtputf8
        return same

    def data_blocks(self) -> Iterator[bytes]:
        """All octets that follow the 354: the content, dot-stuffed, and the final dot.

        Raises :class:`~zsmtp.errors.ContentError` if the file cannot be read to its end or has changed, always
        before the final dot: the server cannot take what it has for a message.
        """
        if self.body_parameter == b"BINARYMIME":
            raise ContentError("BINARYMIME content cannot go with DATA")  # RFC 3030 3
        if self._kept is not None:
            return iter((stuffed(self._head, self._kept),))
        return self._stuffed_blocks()

    def _stuffed_blocks(self) -> Iterator[bytes]:
        dots = DotStuffer()
        waiting = b""
        for block in self.chunk_blocks():
            if waiting:
                yield waiting
            waiting = dots.stuff(block)
        yield waiting + dots.terminator()

    @property
    def head(self) -> bytes:
        """The header block with the empty line behind it, every line ended by CRLF."""
        return self._head

    def body_blocks(self) -> Iterator[bytes]:
        """What follows the header in :meth:`chunk_blocks`; raises as that does if it is not what was announced."""
        if self._kept is not None:
            yield self._kept
            return
        sent = self.header_size
        for block in self._body():
            sent += len(block)
            self._check(sent, block)
            yield block
        if sent != self.size:
            raise ContentError(f"the message changed while it was read: {sent} octets, {self.size} were announced")

    def chunk_blocks(self) -> Iterator[bytes]:
        """The content for BDAT: exactly :attr:`size` octets in blocks.

        Raises :class:`~zsmtp.errors.ContentError` if the file cannot be read to its end or has changed, always
        before the last block: the server is left waiting for the octets it was promised.
        """
        if self._kept is not None:
            return iter((self._head + self._kept,))
        return self._blocks_as_announced()

    def _blocks_as_announced(self) -> Iterator[bytes]:
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
        body = self._body()
        yield self._head + next(body, b"")
        yield from body

    def _check(self, sent: int, block: bytes) -> None:
        """Compare with what was announced; the caller has not let ``block`` out yet."""
        if sent > self.size:
            raise ContentError(f"the message changed while it was sent: over the {self.size} octets announced")
        if not self.facts.eight_bit and not block.isascii():
            raise ContentError("the message changed while it was sent: 8-bit octets, none were announced")


def examine(header: bytes, source: Source) -> Examination:
    """Look at a message once.

    ``header`` is the block as stored (lines ended by LF, no empty line at its end), ``source`` the body, which may be
    empty. Raises :class:`~zsmtp.errors.ContentError` if the body cannot be read to its end.
    """
    if source.size > KEEP_LIMIT:
        return at_once(examine_in_pieces(header, source))
    head, header_facts = _examined_header(header)
    stored = source.read()
    body, bare_cr = canonical(stored)
    body_facts = _facts(stored, body, bare_cr)
    return Examination(head, header_facts, body_facts, len(head) + len(body), body, stored)


async def examine_in_pieces(header: bytes, source: Source) -> Examination:
    """As :func:`examine`; gives way to others between the blocks of a large message."""
    if source.size <= KEEP_LIMIT:
        return examine(header, source)
    head, header_facts = _examined_header(header)
    survey = LineSurvey()
    eight_bit = nul = False
    seen = 0
    await GiveWay(source.ahead(seen))
    for block in source.blocks():
        survey.feed(block)
        eight_bit = eight_bit or not block.isascii()
        nul = nul or 0 in block
        seen += len(block)
        await GiveWay(source.ahead(seen))
    survey.finish()
    body_facts = Facts(eight_bit, nul, survey.long_lines, survey.bare_cr)
    return Examination(head, header_facts, body_facts, len(head) + survey.octets, None, None)


def with_header(seen: Examination, header: bytes) -> Examination:
    """The same body behind another header block, which alone is looked at."""
    head, facts = _examined_header(header)
    return seen._replace(head=head, header=facts, size=seen.size - len(seen.head) + len(head))


def _examined_header(header: bytes) -> tuple[bytes, Facts]:
    """The canonical header of a stored block, with the empty line, and the facts about it."""
    field_lines, bare_cr = canonical_header(header)
    head = field_lines + CRLF
    return head, _facts(head, field_lines, bare_cr)


def _facts(octets: bytes, lines: bytes, bare_cr: int) -> Facts:
    """What there is in a whole text; ``lines`` is its canonical form, which has the same lines and octets."""
    long_lines = len(lines) > MAX_LINE and has_long_line(lines)
    if octets.isascii() and 0 not in octets and not (long_lines or bare_cr):
        return _UNREMARKABLE
    return Facts(not octets.isascii(), 0 in octets, long_lines, bare_cr)


def as_stored(seen: Examination, source: Source) -> MessageContent:
    """The content of an examined message as it is."""
    return MessageContent(
        seen.head,
        lambda: canonical_blocks(source.blocks(), LineConverter()),
        seen.kept,
        size=seen.size,
        facts=seen.facts,
        remarks=remarks(seen.header, seen.body),
    )


def remarks(header: Facts, body: Facts, *, binary: bool = False, smtputf8: bool = False) -> tuple[str, ...]:
    """What to say about a header block and a body that go out with these facts.

    ``binary``: with BINARYMIME, so that NULs and long lines in the body are nothing to remark on; ``smtputf8``: with
    SMTPUTF8, and then UTF-8 in the header is not.
    """
    if header is body is _UNREMARKABLE:
        return ()
    said = []
    if header.bare_cr:
        said.append(f"bare CRs in the header block made blanks: {header.bare_cr}")
    if body.bare_cr:
        said.append(f"bare CRs in the body made line ends: {body.bare_cr}")
    if header.eight_bit and not smtputf8:
        said.append("8-bit octets in the header block go as they are")
    if header.nul or (body.nul and not binary):
        said.append("NUL octets go as they are")
    if header.long_lines or (body.long_lines and not binary):
        said.append("lines of over 998 octets go as they are")
    return tuple(said)
