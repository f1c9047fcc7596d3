"""Chooses the form of a message for one server: which parts are converted, by which rule.

The rules, in the order in which they are applied:

1. A signed or encrypted message is never changed (RFC 6376, RFC 1847), unless the operator configures conversion.
2. 8-bit leaves are encoded for a server without 8BITMIME (RFC 6152 3); parts with NULs, with lines over 998 octets or
   labelled binary, for one without BINARYMIME (RFC 3030). A leaf is encoded whole; all others stay octet for octet.
3. 8-bit text without MIME fields gets them (RFC 1428 appendix A), or is stripped if the operator configures that.
4. Text without 8-bit octets is not labelled 8bit in its MIME fields; quoted-printable text is decoded with ``-8``.
5. 8-bit header fields become encoded words (RFC 2047), unless SMTPUTF8 (RFC 6531) is in use. Octets that no encoded
   word can represent, as in a field's name, become ``=XX`` for a server that takes seven bits only.

:func:`choose` returns a :class:`ConversionPlan`, a value that :mod:`zsmtp.body.convert` executes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from zsmtp.body import edit
from zsmtp.body.convert import Segment, SegmentForm
from zsmtp.body.encode import Facts
from zsmtp.body.fields import Description, TransferEncoding, field_values, outside_quotes
from zsmtp.body.fold import fold_long_lines
from zsmtp.body.headers import add_convert_clause, is_signed
from zsmtp.body.lines import CRLF, MAX_LINE
from zsmtp.body.mime import Part, PartKind, Structure
from zsmtp.body.target import ContentRefusal, Conversion, NonMime8Bit, Signed8Bit, Target
from zsmtp.body.words import charset_of, encode_header, encode_whole_header
from zsmtp.effects import GiveWay, Operation
from zsmtp.escape import escape
from zsmtp.records import NamedTuple

_ASCII_SUPERSET = re.compile(rb"iso-8859-.*|koi8.*|utf-8")
_TOKEN = re.compile(rb"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]{1,40}")
_CHANGED_ENCODINGS = (TransferEncoding.EIGHT_BIT, TransferEncoding.BINARY)
_ENCODING_WORDS = {
    SegmentForm.QP: b"QUOTED-PRINTABLE",
    SegmentForm.QP_IN_MULTIPART: b"QUOTED-PRINTABLE",
    SegmentForm.BASE64_OCTETS: b"BASE64",
    SegmentForm.BASE64_LINES: b"BASE64",
    SegmentForm.DECODE_QP: b"8BIT",
}


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """The facts about a stored message that the rules need.

    ``header``: its block with LF line ends; ``size``: octets of the stored body. ``structure`` and ``blocks`` read the
    body when they are called.
    """

    header: bytes
    description: Description
    header_facts: Facts
    body_facts: Facts
    size: int
    structure: Callable[[], Operation[Structure]]
    blocks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """The form in which a message is sent. ``header`` is None and ``segments`` are empty where nothing changes.

    ``binary``: BINARYMIME is needed. ``smtputf8``: it is in use. ``said`` are the remarks about it.
    """

    header: bytes | None = None
    segments: tuple[Segment, ...] = ()
    conversion: Conversion = Conversion.NONE
    binary: bool = False
    smtputf8: bool = False
    said: tuple[str, ...] = ()


class _Needs(NamedTuple):
    """The properties that the server does not accept: 8-bit octets; NULs, long lines and binary parts."""

    seven: bool
    lines: bool


async def choose(message: MessageFacts, target: Target, *, decode: bool) -> ConversionPlan | ContentRefusal:
    """The form of ``message`` for ``target``, or why it cannot be sent there.

    ``decode`` false: quoted-printable text stays, although the target wants it decoded. Where the body is read for
    that, it gives way between blocks (:class:`~zsmtp.effects.GiveWay`).
    """
    forced = not target.send_eight_bit and _forced_qp(message.header)
    seven_bit = (target.seven_bit and not target.send_eight_bit) or forced
    able = target.send_eight_bit or (target.eight_bit_mime and not seven_bit)
    binary_able = target.binary_mime and not target.seven_bit and not forced
    header, body = message.header_facts, message.body_facts
    utf8_header = header.eight_bit and charset_of(message.header, b"") == b"UTF-8"
    smtputf8 = target.smtputf8 and (target.internationalised or (utf8_header and able))
    binary = body.nul or body.long_lines or await _called_binary(message)
    # BINARYMIME takes 8-bit octets as well, whether or not 8BITMIME is offered beside it.
    needs = _Needs(seven=body.eight_bit and not able and not (binary and binary_able), lines=binary and not binary_able)
    binary = binary and binary_able
    plain = ConversionPlan(smtputf8=smtputf8)
    header_needs = header.eight_bit or header.nul or header.long_lines
    touched = needs.seven or needs.lines or (header.eight_bit and not able)
    if is_signed(message.header) and not (touched and target.signed_8bit is Signed8Bit.CONVERT):
        return await _sealed(message, target, plain, needs, binary=binary)
    block = message.header
    if header_needs:
        edited = _header_for(message, target, smtputf8=smtputf8, able=able)
        if isinstance(edited, ContentRefusal):
            return edited
        block = edited
    plain = plain if block == message.header else replace(plain, header=block)
    if needs.seven or needs.lines:
        return await _body_plan(message, target, plain, needs, binary=binary)
    if binary:
        return await _binary(message, plain)
    return _text_plan(message, target, plain, decode=decode)


async def _called_binary(message: MessageFacts) -> bool:
    """Whether the message or a part is labelled binary; a multipart should be if a part is, but need not be."""
    if message.description.encoding is TransferEncoding.BINARY:
        return True
    may_have_parts = message.description.maintype in (b"multipart", b"message")
    if not (may_have_parts and message.body_facts.eight_bit):
        return False
    return any(part.raw for part in (await message.structure()).parts())


def default_charset(target: Target) -> bytes:
    """The charset that the operator set, or the RFC 1428 name for an unknown one."""
    named = target.default_charset
    return named if _TOKEN.fullmatch(named) else b"UNKNOWN-8BIT"


def _forced_qp(header: bytes) -> bool:
    return any(
        name.lower() == b"content-conversion" and outside_quotes(value).strip().lower() == b"forced-qp"
        for name, value in field_values(header)
    )


def _header_for(message: MessageFacts, target: Target, *, smtputf8: bool, able: bool) -> bytes | ContentRefusal:
    block = message.header
    if message.header_facts.eight_bit and target.convert_headers:
        charset = default_charset(target)
        if able or smtputf8:
            encoded = encode_header(block, default_charset=charset, keep_utf8=smtputf8)
        else:
            encoded = encode_whole_header(block, default_charset=charset)
        if encoded.needs_smtputf8:
            return ContentRefusal("5.6.7", "an address in the header needs SMTPUTF8, which the server does not offer")
        block = encoded.block
        if not (able or smtputf8):
            return _folded(block)
    if message.header_facts.nul or message.header_facts.long_lines:
        return _folded(block)
    return block


def _folded(block: bytes) -> bytes | ContentRefusal:
    """``block`` with all lines short enough to send, or the refusal if that is impossible."""
    folded = fold_long_lines(block)
    if folded.left:
        name = escape(folded.left[0])
        return ContentRefusal(
            "5.6.0", f"the header field {name} has a line of over {MAX_LINE} octets that cannot be folded"
        )
    return folded.block


async def _sealed(
    message: MessageFacts, target: Target, plain: ConversionPlan, needs: _Needs, *, binary: bool
) -> ConversionPlan | ContentRefusal:
    """The plan for a signed or encrypted message: unchanged for every server."""
    if needs.seven and target.signed_8bit is Signed8Bit.BOUNCE:
        return ContentRefusal(
            "5.6.3", "a signed or encrypted message has 8-bit content, which the server does not take"
        )
    if binary:
        return await _binary(message, plain)
    said = ("signed or encrypted content is not converted",) if needs.seven or needs.lines else ()
    return replace(plain, said=said)


async def _binary(message: MessageFacts, plain: ConversionPlan) -> ConversionPlan:
    """The plan for sending a message unchanged with BINARYMIME."""
    structure = await message.structure()
    raw = (part for part in structure.parts() if part.raw and part.size) if structure.whole else iter(())
    return replace(
        plain, segments=tuple(Segment(part.body_start, part.body_end, SegmentForm.OCTETS) for part in raw), binary=True
    )


# ---------------------------------------------------------------------------- bodies


async def _body_plan(
    message: MessageFacts, target: Target, plain: ConversionPlan, needs: _Needs, *, binary: bool
) -> ConversionPlan | ContentRefusal:
    """The plan for a body that the server does not accept unchanged."""
    if not message.description.is_mime:
        return await _without_mime(message, target, plain, needs)
    structure = await message.structure()
    if structure.sealed and target.signed_8bit is not Signed8Bit.CONVERT:
        return await _sealed(message, target, replace(plain, header=None), needs, binary=binary)
    if not structure.whole:
        return replace(plain, said=("content is too intricate to be converted",))
    block = message.header if plain.header is None else plain.header
    return _converted(structure, plain, needs, block, eight_bit=message.body_facts.eight_bit)


def _text_plan(message: MessageFacts, target: Target, plain: ConversionPlan, *, decode: bool) -> ConversionPlan:
    """The plan for a body that any server accepts: its labels may be corrected, or it may be decoded."""
    description = message.description
    block = message.header if plain.header is None else plain.header
    if not (description.is_mime and description.is_text):
        return plain
    if description.encoding is TransferEncoding.EIGHT_BIT and not message.body_facts.eight_bit:
        if _ASCII_SUPERSET.fullmatch(description.charset) is None:
            return plain
        block = edit.with_encoding(block, b"7BIT")
        return replace(plain, header=edit.with_charset_ascii(block) if description.subtype == b"plain" else block)
    is_plain_qp = description.subtype == b"plain" and description.encoding is TransferEncoding.QUOTED_PRINTABLE
    if not (decode and is_plain_qp and target.send_eight_bit):
        return plain
    return replace(
        plain,
        header=add_convert_clause(edit.with_encoding(block, b"8BIT"), b"8bit"),
        segments=(Segment(0, message.size, SegmentForm.DECODE_QP),),
        conversion=Conversion.EIGHT_BIT,
    )


async def _without_mime(message: MessageFacts, target: Target, plain: ConversionPlan, needs: _Needs) -> ConversionPlan:
    facts = message.body_facts
    block = message.header if plain.header is None else plain.header
    if needs.seven and not needs.lines and target.nonmime_8bit is NonMime8Bit.STRIP:
        said = ("8-bit octets without MIME fields were stripped to seven bits",)
        return replace(plain, segments=(Segment(0, message.size, SegmentForm.STRIP),), said=said)
    if not facts.eight_bit:
        charset = b"US-ASCII"
    elif await _is_utf8(message.blocks()):
        charset = b"UTF-8"
    else:
        charset = default_charset(target)
    guessed = charset not in (b"UTF-8", b"US-ASCII")
    block = edit.with_new_mime_fields(block, charset, warn=needs.seven, guessed=guessed)
    return replace(plain, header=block, segments=(Segment(0, message.size, SegmentForm.QP),), conversion=Conversion.QP)


async def _is_utf8(blocks: Iterator[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks:
            decoder.decode(block)
            await GiveWay()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


# ---------------------------------------------------------------------------- parts


def _converted(
    structure: Structure, plain: ConversionPlan, needs: _Needs, block: bytes, *, eight_bit: bool
) -> ConversionPlan | ContentRefusal:
    """The plan for a MIME message with parts that must be encoded."""
    segments = []
    done = set()
    for part in structure.parts():
        form = _leaf_form(part, needs)
        word = _ENCODING_WORDS.get(form) if form else _relabelled(part, needs, eight_bit=eight_bit)
        header = _part_header(block if part.parent is None else part.header, part, needs, word)
        if isinstance(header, ContentRefusal):
            return header
        if part.parent is None:
            block = header
        elif header != part.header:
            literal = header.replace(b"\n", CRLF) + CRLF
            segments.append(Segment(part.header_start, part.body_start, SegmentForm.LITERAL, literal))
        if form:
            segments.append(Segment(part.body_start, part.body_end, form))
            done.add(word)
    segments += [
        Segment(filler.start, filler.end, SegmentForm.QP_IN_MULTIPART)
        for filler in structure.fillers
        if (needs.seven and filler.tally.high) or (needs.lines and (filler.tally.nul or filler.tally.long_lines))
    ]
    if needs.lines:
        segments += [Segment(start, end, SegmentForm.LITERAL) for start, end in structure.loose]
    if not structure.root.description.has_version:
        block = edit.with_version(block)
    if done - {None}:
        what = b"quoted-printable" if b"QUOTED-PRINTABLE" in done else b"base64"
        block = add_convert_clause(block, what)
    return replace(
        plain,
        header=block,
        segments=tuple(sorted(segments, key=lambda segment: segment[:2])),
        conversion=Conversion.QP if structure.root.kind is PartKind.LEAF else Conversion.MULTIPART_QP,
    )


def _leaf_form(part: Part, needs: _Needs) -> SegmentForm | None:
    """The form for a part's content, or None if it stays unchanged."""
    tally = part.tally
    encoding = part.description.encoding
    for_lines = tally.nul or tally.long_lines or encoding is TransferEncoding.BINARY
    if part.kind is not PartKind.LEAF or not ((needs.seven and tally.high) or (needs.lines and for_lines)):
        return None
    if encoding is TransferEncoding.QUOTED_PRINTABLE:
        return SegmentForm.MEND_QP
    if encoding is TransferEncoding.BASE64:
        return SegmentForm.WRAP_BASE64
    if part.raw:
        return SegmentForm.BASE64_OCTETS
    if not part.description.is_text and (tally.nul or tally.high * 6 > part.size):
        return SegmentForm.BASE64_LINES
    return SegmentForm.QP_IN_MULTIPART if part.in_multipart else SegmentForm.QP


def _relabelled(part: Part, needs: _Needs, *, eight_bit: bool) -> bytes | None:
    """The transfer encoding for the label of content that stays, if the label must change."""
    encoding = part.description.encoding
    if encoding not in _CHANGED_ENCODINGS:
        return None
    if not eight_bit or needs.seven:
        return b"7BIT"
    return b"8BIT" if needs.lines and encoding is TransferEncoding.BINARY else None


def _part_header(block: bytes, part: Part, needs: _Needs, word: bytes | None) -> bytes | ContentRefusal:
    if word is not None:
        block = edit.with_encoding(block, word)
    if part.parent is None:
        return block
    if word in _ENCODING_WORDS.values() and part.parent.kind is PartKind.MESSAGE and not part.description.has_version:
        block = edit.with_version(block)
    if needs.seven and not block.isascii():
        return _folded(encode_whole_header(block, default_charset=b"UNKNOWN-8BIT").block)
    if needs.lines and (b"\0" in block or any(len(line) > MAX_LINE for line in block.split(b"\n"))):
        return _folded(block)
    return block
