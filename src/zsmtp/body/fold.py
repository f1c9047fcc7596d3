"""Folding of header lines that are longer than SMTP allows (RFC 5322 2.1.1 and 2.2.3, RFC 5321 4.5.3.1.6).

A line of a header has at most 998 octets. A longer one is folded behind a comma or semicolon of a structured field,
else between words; never inside an address, a message identifier, a quoted string or an encoded word, and never where
it would add a blank to text that programs may parse. Unfolding restores the value. Where there is no place to fold, a
word of text or of a name becomes encoded words (RFC 2047), a parameter is split into sections (RFC 2231), and any other
field stays unchanged and is named in the result::

    folded = fold_long_lines(block)
    if folded.left: ...  # names of fields that no server would accept
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from zsmtp.body.fields import HeaderField, split_fields, stray_lines
from zsmtp.body.lines import MAX_LINE
from zsmtp.body.words import encode_long_words, is_text
from zsmtp.records import NamedTuple

_MAX_ENCODED = 65_536  # octets of the longest field that is encoded

_LONG = re.compile(rb"[^\n]{999}")
_BLANKS = re.compile(rb"[ \t]++")
# In structured fields quoted strings, encoded words and text in angle brackets are never split.
_PLACES = re.compile(
    rb"\"(?:[^\"\\]|\\[\s\S])*+\"?|<[^<>]*+>(?P<between>(?=<))?|(?P<blank>[ \t]++)|(?P<comma>[,;])"
    rb"|=\?[^?\s]++\?[BbQq]\?[^?\s]*+\?=|[^\"<,; \t(]++|[<(]"
)


class FoldedHeader(NamedTuple):
    """A block without lines of over 998 octets, except in the fields named in ``left``, as they are spelled."""

    block: bytes
    left: tuple[bytes, ...]


def fold_long_lines(block: bytes) -> FoldedHeader:
    """``block`` with its lines of over 998 octets folded, or encoded where they cannot be; NULs become blanks."""
    block = block.replace(b"\0", b" ")
    pieces = []
    left = []
    done = 0
    for field in _lines(block):
        octets = block[field.start : field.end]
        if not _LONG.search(octets):
            continue
        folded = fold_field(octets)
        if _LONG.search(folded) and len(octets) <= _MAX_ENCODED:
            folded = fold_field(encode_long_words(octets))
        if _LONG.search(folded):
            left.append(block[field.start : field.value].rstrip(b": \t")[:100])
            continue
        pieces += [block[done : field.start], folded]
        done = field.end
    return FoldedHeader(b"".join([*pieces, block[done:]]), tuple(left))


def _lines(block: bytes) -> list[HeaderField]:
    """The fields of a block and, as fields without name, its stray lines."""
    strays = [HeaderField(b"", stray.start, stray.start, stray.end) for stray in stray_lines(block)]
    return sorted([*split_fields(block), *strays], key=lambda field: field.start)


def fold_field(octets: bytes) -> bytes:
    """One field, with its lines of over 998 octets folded where possible."""
    fields = split_fields(octets)
    commas, blanks = _places(octets, text=not fields or is_text(fields[0].name))
    pieces = []
    start = 0  # of the current line
    room = MAX_LINE  # for it
    end = len(octets.rstrip(b"\n"))
    while end - start > room:
        line_end = octets.find(b"\n", start, start + room + 1)
        if line_end >= 0:
            pieces.append(octets[start : line_end + 1])
            start, room = line_end + 1, MAX_LINE
            continue
        place = _place(octets, start, start + room, commas, blanks)
        if place is None:
            break
        fold = b"\n" if octets[place] in b" \t" else b"\n "
        pieces += [octets[start:place], fold]
        start, room = place, MAX_LINE + 1 - len(fold)
    return b"".join([*pieces, octets[start:]])


def _places(octets: bytes, *, text: bool) -> tuple[list[int], list[int]]:
    """The positions where the field may be folded, behind commas and between words; a fold precedes that octet."""
    if text:
        return [], [match.start() for match in _BLANKS.finditer(octets)]
    commas, blanks = [], []
    for match in _PLACES.finditer(octets):
        kind = match.lastgroup
        if kind == "comma":
            commas.append(match.end())
        elif kind == "between":
            blanks.append(match.end())
        elif kind == "blank":
            blanks.append(match.start())
    return commas, blanks


def _place(octets: bytes, start: int, reach: int, commas: list[int], blanks: list[int]) -> int | None:
    """The last place to fold the line that begins at ``start``; if there is none up to ``reach``, the first behind."""
    for places in (commas, blanks):
        number = bisect_right(places, reach) - 1
        while number >= 0 and places[number] > start:
            if _parts(octets, start, places[number]):
                return places[number]
            number -= 1
    behind = []
    for places in (commas, blanks):
        number = bisect_left(places, reach)
        behind += [place for place in places[number : number + 2] if _parts(octets, start, place)]
    return min(behind, default=None)


def _parts(octets: bytes, start: int, place: int) -> bool:
    """Whether a fold there leaves text on both lines: some systems end the header at a line of blanks."""
    rest = octets[place : place + MAX_LINE + 1].partition(b"\n")[0]
    return bool(octets[start:place].strip()) and bool(rest.strip())
