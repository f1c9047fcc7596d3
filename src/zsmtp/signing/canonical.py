"""The canonical forms of header fields and bodies, and the hash of a body in one of them (RFC 6376 3.4).

A signature covers a message in one of two forms: *simple* takes every octet unchanged, *relaxed* tolerates changes
of blanks and of folding. Neither counts empty lines at the end of a body. :class:`BodyHash` takes a body in blocks cut
anywhere and buffers two octets of it at most, so one pass over a message gives the hashes for any number of signatures;
the work is done by the search and replace of ``bytes``. :class:`HeaderFields` has the fields of a header block in both
forms::

    digest = BodyHash(Canonicalization.RELAXED)
    for block in content.chunk_blocks():
        digest.feed(block)
    digest.finish()

Bodies must be in the form of the wire, every line ended by CRLF: the engine sends them so, and :func:`wire_blocks`
makes them so and keeps lone CRs, which messages from elsewhere may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from zsmtp.body.fields import split_fields
from zsmtp.patterns import pattern
from zsmtp.signing.tags import is_utf8

CRLF = b"\r\n"

_LONE_LF = pattern(rb"\n(?<!\r\n)")
_NO_FIELD = pattern(rb"\n[^ \t:\n][^:\n]*+\n[ \t]")  # a line without a colon, and one that continues it
_LF, _CR, _TAB, _BLANK = 0x0A, 0x0D, 0x09, 0x20  # ``in`` finds a number in a fifth of the time of an octet string
_RUN = b" " * 16
_EMPTY_LINES = 4096  # of those held back, how many are given to the hash at a time


class Canonicalization(Enum):
    """The two forms; the value is the word of ``c=``."""

    SIMPLE = "simple"
    RELAXED = "relaxed"

    __hash__ = object.__hash__  # members are compared by identity; Enum's own hash is a slower Python function


def single_blanks(text: bytes) -> bytes:
    """``text`` with every run of blanks and tabs made one blank."""
    if _TAB in text:
        text = text.replace(b"\t", b" ")
    if _BLANK in text and text.rfind(b"  ") >= 0:  # rfind takes half the time of find where blanks are common
        while _RUN in text:  # long runs in few passes
            text = text.replace(_RUN, b" ")
        while text.rfind(b"  ") >= 0:
            text = text.replace(b"  ", b" ")
    return text


class BodyHash:
    """SHA-256 over one body in a canonical form, fed block by block.

    With ``limit`` only so many octets of the canonical form are hashed (``l=``); ``octets`` counts all of them. Both
    are final after :meth:`finish`.
    """

    __slots__ = ("_empty_lines", "_hash", "_held", "_left", "_relaxed", "octets")

    def __init__(self, form: Canonicalization, limit: int | None = None) -> None:
        from hashlib import sha256  # configurations without keys do without

        self.octets = 0
        self._relaxed = form is Canonicalization.RELAXED
        self._hash = sha256()
        self._left = limit
        self._held = b""  # the last octets, if the next ones decide on them: a blank, a CR, or both
        self._empty_lines = 0  # trailing line ends, which count only if text follows

    def feed(self, block: bytes) -> None:
        """Take the next octets of the body, in the form of the wire."""
        if self._held:
            block = self._held + block
            self._held = b""
        if self._relaxed:
            block = single_blanks(block)
        last = block[-1:]
        if last == b"\r" or (last == b" " and self._relaxed):
            size = len(block) - (2 if self._relaxed and block[-2:] == b" \r" else 1)
            self._held = block[size:]
            block = block[:size]
        if self._relaxed and _BLANK in block:
            block = block.replace(b" \r\n", CRLF)
        text = block.rstrip(CRLF)
        ends = block[len(text) :]
        if ends != CRLF * (len(ends) // 2):
            text, ends = _split_ends(block, len(text))
        if text:
            self._take_text(text)
        self._empty_lines += len(ends) // 2

    def finish(self) -> bytes:
        """The hash of the body; call it once."""
        rest = self._held.strip(b" ") if self._relaxed else self._held
        if rest:
            self._take_text(self._held)
        if self.octets or not self._relaxed:  # an empty body is one line end in simple form, nothing in relaxed form
            self._put(CRLF)
        return self._hash.digest()

    def _take_text(self, text: bytes) -> None:
        """Hash what does not end with a line end, behind the line ends that were held back."""
        lines = self._empty_lines
        while lines > 0:
            self._put(CRLF * min(lines, _EMPTY_LINES))
            lines -= _EMPTY_LINES
        self._empty_lines = 0
        self._put(text)

    def _put(self, octets: bytes) -> None:
        self.octets += len(octets)
        if self._left is None:
            self._hash.update(octets)
        elif self._left > 0:
            self._hash.update(octets[: self._left])
            self._left -= len(octets)


def _split_ends(block: bytes, start: int) -> tuple[bytes, bytes]:
    """Cut off the CRLFs that end ``block``; from ``start`` on there are only CRs and LFs, some of them alone."""
    ends = block[start:]
    place = max(ends.rfind(b"\r\r"), ends.rfind(b"\n\n")) + 1  # from there on CR and LF alternate
    if ends[place : place + 1] == b"\n":
        place += 1
    if ends[-1:] == b"\r":  # a lone CR: the CR of a line end is held back until its LF comes
        place = len(ends)
    return block[: start + place], ends[place:]


def wire_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks of one body with each LF made a CRLF and the last line ended; a CR that no LF follows stays.

    For messages from other systems, as stored in files. ``zsmtp.body.lines`` makes the form that the engine sends,
    without lone CRs.
    """
    held = b""
    line_open = False
    for block in blocks:
        if held:
            block = held + block
            held = b""
        if block[-1:] == b"\r":
            held = b"\r"
            block = block[:-1]
        if block:
            line_open = block[-1] != _LF
            yield with_crlf(block)
    if held:
        line_open = True
        yield held
    if line_open:
        yield CRLF


def with_crlf(text: bytes) -> bytes:
    """``text`` with each LF that no CR precedes made a CRLF."""
    if _CR not in text:
        return text.replace(b"\n", CRLF)
    if _LONE_LF.search(text) is None:
        return text
    return text.replace(CRLF, b"\n").replace(b"\n", CRLF)


class HeaderFields:
    """The fields of one header block by name, in both forms; each form is made at its first use.

    ``block`` has lines ended by LF and no empty line. Signatures do not cover lines that are no fields.
    ``internationalised``: it contains UTF-8 (RFC 6532).
    """

    __slots__ = ("_block", "_relaxed", "_simple", "internationalised")

    def __init__(self, block: bytes) -> None:
        self._block = block
        self.internationalised = not block.isascii() and is_utf8(block)
        self._simple: dict[bytes, list[bytes]] | None = None
        self._relaxed: dict[bytes, list[bytes]] | None = None

    def form(self, form: Canonicalization) -> dict[bytes, list[bytes]]:
        """Names in lower case, each with its fields from the top to the bottom, in canonical form with their CRLF."""
        if form is Canonicalization.RELAXED:
            if self._relaxed is None:
                self._relaxed = _relaxed_fields(self._block)
            return self._relaxed
        if self._simple is None:
            self._simple = _simple_fields(self._block)
        return self._simple

    def stored(self, name: bytes) -> list[bytes]:
        """The fields of that name (in lower case), unchanged."""
        if not self.count(name):
            return []
        return [self._block[start:end] for found, start, _, end in split_fields(self._block) if found == name]

    def count(self, name: bytes) -> int:
        """How many fields of that name (in lower case) there are."""
        return len(self.form(Canonicalization.RELAXED).get(name, ()))


def canonical_field(field: bytes, form: Canonicalization) -> bytes:
    """One field with LF line ends in a canonical form, without the line end behind it, as for the signature's own."""
    if form is Canonicalization.SIMPLE:
        return field.removesuffix(b"\n").replace(b"\n", CRLF)
    ((relaxed,),) = _relaxed_fields(field).values()
    return relaxed.removesuffix(CRLF)


def _simple_fields(block: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, start, _, end in split_fields(block):
        found.setdefault(name, []).append(block[start:end].removesuffix(b"\n").replace(b"\n", CRLF) + CRLF)
    return found


def _relaxed_fields(block: bytes) -> dict[bytes, list[bytes]]:
    """All fields relaxed, by work on the whole block (3.4.2).

    A line that is no field gets a name with a blank in it, which no field has.
    """
    if _NO_FIELD.search(b"\n" + block):  # unfolded, it could be taken for a field
        block = b"".join(block[start:end] for _, start, _, end in split_fields(block))
    if _TAB in block:
        block = block.replace(b"\t", b" ")
    block = single_blanks(block.replace(b"\n ", b" ")).replace(b" \n", b"\n").rstrip(b"\n ")
    found: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\n"):
        name, colon, value = line.partition(b":")
        name = name.lower().rstrip(b" ") if colon else line + b" "
        if value[:1] == b" ":
            value = value[1:]
        field = b"%b:%b\r\n" % (name, value)
        if name in found:
            found[name].append(field)
        else:
            found[name] = [field]
    return found
