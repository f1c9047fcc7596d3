"""A stored message and the forms it can go out in.

:func:`prepare` looks at the message once. What a server can take is known later, and may differ from one server to the
next: :meth:`Stored.content` gives the content for each, with the exact size of that form (RFC 1870), or the reason why
there is none. Results are kept, so that many transactions cost one decision and one counting::

    stored = prepare(header, source)
    content = stored.content(Target(eight_bit_mime=True))
    if isinstance(content, Refusal): ...
    mail_from = b"MAIL FROM:<a@example.org> SIZE=%d" % content.size

Most messages need nothing, and for those nothing more is read or imported than for sending them as they are. The rules
are in :mod:`zsmtp.body.choose`. A form that is not the stored one is made while it is sent; for its size it is made
once before, and counted. The file must stay open as long as any content is in use.

To read or to count a large message takes long. :func:`preparation` and :meth:`Stored.content_in_pieces` are operations
that give way to others between blocks (:class:`~zsmtp.effects.GiveWay`); what has no others does it at once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zsmtp.body.encode import (
    KEEP_LIMIT,
    Examination,
    Facts,
    MessageContent,
    as_stored,
    combined,
    examine,
    examine_in_pieces,
    remarks,
)
from zsmtp.body.lines import CRLF, LineSurvey
from zsmtp.body.source import Source
from zsmtp.body.target import ContentRefusal, Conversion, Target
from zsmtp.effects import GiveWay, Operation, SharedWork, at_once
from zsmtp.patterns import pattern
from zsmtp.records import NamedTuple

if TYPE_CHECKING:
    from zsmtp.body.choose import ConversionPlan, MessageFacts
    from zsmtp.body.mime import Structure

AT_ONCE = 16_384
"""Bodies of at most so many octets are converted without giving way to anybody."""

# Only with one of these can a message of clean 7-bit lines go out in another form than the stored one.
_MATTERS = pattern(rb"^content-transfer-encoding[ \t]*+:", re.MULTILINE)  # in lower case


def prepare(header: bytes, source: Source) -> Stored:
    """Look at a message once, so that its content can be asked for.

    ``header`` is the block as stored (lines ended by LF, no empty line at its end), ``source`` the body, which may be
    empty. Raises :class:`~zsmtp.errors.ContentError` if the body cannot be read to its end.
    """
    return Stored(examine(header, source), source)


def preparation(header: bytes, source: Source) -> Stored | Operation[Stored]:
    """As :func:`prepare`; of a message that is not small, the work that gives way to others between blocks."""
    return prepare(header, source) if source.size <= KEEP_LIMIT else prepare_in_pieces(header, source)


async def prepare_in_pieces(header: bytes, source: Source) -> Stored:
    """As :func:`prepare`, giving way to others between the blocks of a large message."""
    return Stored(await examine_in_pieces(header, source), source)


class _Made(NamedTuple):
    """A content with the facts about its header and body apart."""

    content: MessageContent
    header: Facts
    body: Facts


class Stored:
    """One stored message. ``facts`` are about it as it is."""

    __slots__ = (
        "_contents",
        "_made",
        "_message",
        "_seen",
        "_simple",
        "_source",
        "_structure",
        "_unchanged",
        "_work",
        "facts",
    )

    def __init__(self, seen: Examination, source: Source) -> None:
        self._unchanged = as_stored(seen, source)
        self.facts = facts = self._unchanged.facts
        clean = not (facts.eight_bit or facts.nul or facts.long_lines)
        head = seen.head.lower()
        self._simple = clean and not (head.find(b"content-transfer-encoding") >= 0 and _MATTERS.search(head))
        self._contents: dict[Target, MessageContent | ContentRefusal] = {}
        if not self._simple:
            self._prepare_choice(seen, source)

    def _prepare_choice(self, seen: Examination, source: Source) -> None:
        """Keep what is needed to choose among forms, and to make them."""
        # A small body is not read from the file again.
        self._source = source if seen.stored is None else Source.from_bytes(seen.stored)
        self._seen = seen._replace(stored=None)
        self._made: dict[ConversionPlan | None, _Made] = {None: _Made(self._unchanged, seen.header, seen.body)}
        self._message: MessageFacts | None = None
        self._structure: Structure | None = None
        self._work: SharedWork[MessageContent | ContentRefusal] | None = None  # under way for one target

    def content(self, target: Target) -> MessageContent | ContentRefusal:
        """The content for ``target``, or why there is none.

        Raises :class:`~zsmtp.errors.ContentError` if the body cannot be read to its end.
        """
        known = self.known(target)
        return at_once(self.content_in_pieces(target)) if known is None else known

    def known(self, target: Target) -> MessageContent | ContentRefusal | None:
        """The content for ``target``, or why there is none, if that takes no long work; else None.

        Raises as :meth:`content` does.
        """
        if self._simple and not target.internationalised:
            return self._unchanged
        content = self._contents.get(target)
        if content is None:
            if self._simple:
                content = self._contents[target] = self._simple_content(target)
            elif self._source.size <= AT_ONCE and self._work is None:
                content = at_once(self._choose(target))
        return content

    async def content_in_pieces(self, target: Target) -> MessageContent | ContentRefusal:
        """As :meth:`content`; gives way to others between blocks. What several ask for is made once."""
        while (content := self.known(target)) is None:
            if self._work is None:
                self._work = SharedWork(self._choose(target))
            work = self._work
            try:
                await work.result()
            finally:
                if work.over and self._work is work:
                    self._work = None
        return content

    def _simple_content(self, target: Target) -> MessageContent:
        content = self._unchanged
        if target.smtputf8:
            return content.announced(body=None, smtputf8=True, remarks=content.remarks)
        return content

    async def _choose(self, target: Target) -> MessageContent | ContentRefusal:
        content = self._contents[target] = await self._chosen(target)
        return content

    async def _chosen(self, target: Target) -> MessageContent | ContentRefusal:
        from zsmtp.body.choose import choose

        plan = await choose(self._described(), target, decode=True)
        made = None if isinstance(plan, ContentRefusal) else await self._make(plan)
        if made is None:  # decoded, it could not be sent as lines
            plan = await choose(self._described(), target, decode=False)
            made = None if isinstance(plan, ContentRefusal) else await self._make(plan)
        if isinstance(plan, ContentRefusal) or made is None:
            assert isinstance(plan, ContentRefusal)
            return plan
        offered = target.eight_bit_mime and (target.send_eight_bit or not target.seven_bit)
        body: bytes | None = None
        said = remarks(made.header, made.body, binary=plan.binary, smtputf8=plan.smtputf8) + plan.said
        if plan.binary:
            body = b"BINARYMIME"
        elif made.content.facts.eight_bit and offered:
            body = b"8BITMIME"
        elif made.content.facts.eight_bit:
            said += ("8-bit content goes as it is to a server that does not offer 8BITMIME",)
        return made.content.announced(body=body, smtputf8=plan.smtputf8, remarks=said)

    def _described(self) -> MessageFacts:
        """What the rules ask about the message; made when they are asked first."""
        if self._message is None:
            from zsmtp.body.choose import MessageFacts
            from zsmtp.body.fields import describe

            header = self._seen.head.removesuffix(CRLF).replace(CRLF, b"\n")
            self._message = MessageFacts(
                header,
                describe(header),
                self._seen.header,
                self._seen.body,
                self._source.size,
                self._scanned,
                self._source.blocks,
            )
        return self._message

    async def _scanned(self) -> Structure:
        if self._structure is None:
            from zsmtp.body.mime import StructureScan

            scan = StructureScan(self._described().header)
            for block in self._source.blocks():
                scan.feed(block)
                await GiveWay()
            self._structure = scan.finish()
        return self._structure

    # ---------------------------------------------------------------- making

    async def _make(self, plan: ConversionPlan) -> _Made | None:
        """The content of a plan, counted; None if it is one for decoding and that cannot be."""
        key = None if plan.header is None and not plan.segments else plan
        made = self._made.get(key)
        if made is None:
            made = await self._make_body(plan) if plan.segments else self._make_header(plan)
            if made is not None:
                self._made[key] = made
        return made

    def _make_header(self, plan: ConversionPlan) -> _Made:
        """Another header before the same body, which need not be counted again."""
        head, header = self._head(plan)
        seen = self._seen
        content = as_stored(
            seen._replace(
                head=head,
                header=header,
                size=seen.size - len(seen.head) + len(head),
                kept=seen.kept,
            ),
            self._source,
        )
        return _Made(content, header, seen.body)

    async def _make_body(self, plan: ConversionPlan) -> _Made | None:
        from zsmtp.body.convert import ConvertedBody

        source, segments = self._source, plan.segments
        head, header = self._head(plan)
        converted = ConvertedBody(source, segments)
        survey = LineSurvey()
        size = len(head)
        eight_bit = nul = False
        kept: list[bytes] | None = []
        for block in converted.blocks():
            survey.feed(block)
            size += len(block)
            eight_bit = eight_bit or not block.isascii()
            nul = nul or 0 in block
            if kept is not None:
                kept.append(block)
                kept = kept if size <= KEEP_LIMIT else None
            await GiveWay()
        if converted.unfit or (plan.conversion is Conversion.EIGHT_BIT and survey.long_lines):
            return None
        body = Facts(eight_bit, nul, survey.long_lines, converted.bare_cr)
        content = MessageContent(
            head,
            lambda: ConvertedBody(source, segments).blocks(),
            None if kept is None else b"".join(kept),
            size=size,
            facts=combined(header, body),
            remarks=(),
            conversion=plan.conversion,
            body_changed=True,
        )
        return _Made(content, header, body)

    def _head(self, plan: ConversionPlan) -> tuple[bytes, Facts]:
        """The canonical header of a plan, with the empty line, and the facts about it."""
        if plan.header is None:
            return self._seen.head, self._seen.header
        head = plan.header.replace(b"\n", CRLF) + CRLF
        survey = LineSurvey()
        survey.feed(head)
        return head, Facts(not head.isascii(), 0 in head, survey.long_lines, self._seen.header.bare_cr)
