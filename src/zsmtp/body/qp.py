"""Quoted-printable encoder, decoder and repair, in blocks (RFC 2045 6.7).

The encoder takes text with LF line ends and gives canonical lines: at most 76 octets, escapes in upper case and never
split, no blank or tab before a line end. A dot or ``From `` at the start of a line is escaped too, since some relays
change such lines, and so are two hyphens inside a multipart: no encoded line can be taken for a boundary. ``binascii``
does most of the work but does not follow all of these rules; lines that break one are found in its result. Where an
escape does not fit in, such a line is encoded again by itself, with its critical octets replaced by others that the
line does not contain: ``binascii`` escapes those with the right line lengths, and the escapes are corrected afterwards.

The result does not depend on how the octets are cut into blocks::

    encoder = QuotedPrintableEncoder(in_multipart=False)
    wire = b"".join(map(encoder.feed, blocks)) + encoder.finish()

The decoder follows the robust rules of RFC 2045 6.7: soft breaks join, blanks before a line end are removed, malformed
escapes pass through. :class:`QuotedPrintableMender` corrects content that is labelled as encoded but breaks the rules.
"""

from __future__ import annotations

import re
from binascii import a2b_qp, b2a_qp

SEGMENT = 65_536
"""Lines are encoded in pieces of at most so many octets, which bounds the buffer for an endless line."""

MAX_ENCODED_LINE = 76

# Searched for in the result of b2a_qp, always at line ends. No line may start so, not even after a soft break; and
# b2a_qp makes lines too long when it escapes a blank at their end: from 76 octets on a marker is used instead. Whether
# it is a blank, and not =00 or =29, is checked when such a line is corrected.
_LONG_END = rb"(?<==[02][09]\r\n)(?<=[^\n]{77}\n)"
_PLACE = re.compile(rb"\n(?:" + _LONG_END + rb"|\.|From )")
_PLACE_IN_MULTIPART = re.compile(rb"\n(?:" + _LONG_END + rb"|\.|From |--)")
_START = re.compile(rb"\n(?:\.|From )")
_START_IN_MULTIPART = re.compile(rb"\n(?:\.|From |--)")
_SHORT_LINE = 72
"""A line of at most so many octets can take a longer escape without another break by b2a_qp."""

_MANY = 8
"""From so many lines to correct in one piece on, dots at line starts are replaced by a marker beforehand."""

_DOT_LINE = re.compile(rb"\n\.")
_LINE = re.compile(rb"[^\n]*+\n|[^\n]++")
_UNSAFE = re.compile(rb"[^\t\n\x20-\x3c\x3e-\x7e]|[\t ](?=\n)")
_MARKERS = (*range(1, 9), 11, 12, *range(14, 32), *range(127, 256))  # b2a_qp escapes these anywhere
_KINDS = 6  # of octets that can need a marker
_ILLEGAL = re.compile(rb"[^\t\n\x20-\x7e]++")
_ESCAPES = tuple(b"=%02X" % octet for octet in range(256))
_LONG_LINE = re.compile(rb"[^\n]{77,}+")
_DOUBLE_EQUALS = re.compile(rb"=(?==)")
_TRAILING_BLANKS = re.compile(rb"(?<![ \t])[ \t]++(?=\n)")
_LINE_END_CODE = re.compile(rb"=0[aAdD0]")


class QuotedPrintableEncoder:
    """Encodes one text. ``in_multipart`` also keeps encoded lines from looking like boundaries."""

    __slots__ = ("_dotted", "_in_multipart", "_pending", "_place", "_start")

    def __init__(self, *, in_multipart: bool) -> None:
        self._in_multipart = in_multipart
        self._dotted = False  # dots start many lines: replacing them beforehand costs less
        self._place = _PLACE_IN_MULTIPART if in_multipart else _PLACE
        self._start = _START_IN_MULTIPART if in_multipart else _START
        self._pending = b""  # the line that has begun

    def feed(self, block: bytes) -> bytes:
        """The next octets of the text, LF line ends (a CR is data), encoded as far as lines are complete."""
        data = self._pending + block
        view = memoryview(data)
        done: list[bytes | memoryview] = []
        start = 0
        while len(data) - start > SEGMENT:
            end = data.rfind(b"\n", start, start + SEGMENT + 1) + 1
            if end:
                done.append(self._encode(view[start:end]))
            else:
                end = start + SEGMENT
                done.append(_end_softly(bytes(self._encode(view[start:end]))))
            start = end
        end = data.rfind(b"\n", start) + 1
        if end:
            done.append(self._encode(view[start:end]))
            start = end
        self._pending = data[start:]
        return b"".join(done)

    def finish(self) -> bytes:
        """The last line if it has no end; it gets none here either."""
        data, self._pending = self._pending, b""
        # With a line end the last octets follow the rules for the end of a line.
        return bytes(self._encode(data + b"\n")[:-2]) if data else b""

    def _encode(self, data: bytes | memoryview) -> bytes | memoryview:
        """Whole lines, or the first stretch of one that is too long."""
        # b2a_qp writes all line ends like the first one, which also makes the first line of data like the others.
        text = b"".join((b"\r\n", data))
        if text.find(b"\r", 1) >= 0:
            return self._encode_lines(text[2:])
        if self._dotted and b"\1" not in text:
            encoded = b2a_qp(_DOT_LINE.sub(b"\n\1", text)).replace(b"=01", b"=2E")
        else:
            encoded = b2a_qp(text)
        places = [match.start() for match in self._place.finditer(encoded)]
        if not places:
            return memoryview(encoded)[2:]
        self._dotted = self._dotted or len(places) > _MANY
        return self._correct(encoded, places)

    def _correct(self, encoded: bytes, places: list[int]) -> bytes:
        """Correct the result of b2a_qp at ``places``: LFs that end a too long line, or precede a forbidden line start.

        A start is escaped where its line has room. Otherwise that line is encoded again, with markers.
        """
        done: list[bytes] = []
        at = 2  # octets before this are in done, or are the line end added in front
        for place in places:
            if place + 1 < at:
                continue  # inside a line that was encoded again
            start = self._start.match(encoded, place)
            if place >= at:  # it may end a too long line
                blank = encoded.startswith((b"=20", b"=09"), place - 4)
                if blank and place - encoded.rfind(b"\n", 0, place) > MAX_ENCODED_LINE:
                    at = self._encode_anew(encoded, at, place - 1, done)
            if start is None:
                continue
            end = encoded.find(b"\r\n", place)
            if (len(encoded) if end < 0 else end) - place - 1 <= _SHORT_LINE:
                done += [encoded[at : place + 1], b"=%02X" % encoded[place + 1]]
                at = place + 2
            else:
                at = self._encode_anew(encoded, at, place + 1, done)
        return b"".join([*done, encoded[at:]])

    def _encode_anew(self, encoded: bytes, at: int, place: int, done: list[bytes]) -> int:
        """Add to ``done`` the octets from ``at`` to the end of the text line around ``place``; returns that end."""
        before = encoded.rfind(b"\n", 0, place)
        while encoded[before - 2] == 0x3D:  # a soft break
            before = encoded.rfind(b"\n", 0, before)
        end = encoded.find(b"\r\n", place)
        while end >= 0 and encoded[end - 1] == 0x3D:
            end = encoded.find(b"\r\n", end + 2)
        end = len(encoded) if end < 0 else end + 2
        text = a2b_qp(encoded[before + 1 : end].replace(b"\r", b""))
        done += [encoded[at : before + 1], self._encode_lines(text)]
        return end

    def _encode_lines(self, data: bytes) -> bytes:
        """Encode each line by itself, with critical octets replaced by markers."""
        done = []
        for line in _LINE.findall(data):
            markers = _free_markers(line)
            if markers is None:
                done.append(self._encode_slowly(line))
                continue
            encoded = self._encode_marked(line, markers, start=b"\n")
            places = [match.start() for match in self._start.finditer(encoded)]  # soft breaks have made these
            if places and places[0] + _SHORT_LINE + 1 < len(encoded.removesuffix(b"\r\n")):
                encoded, places = self._encode_marked(line, markers, start=b""), []
            done.append(self._correct(encoded, places))
        return b"".join(done)

    def _encode_marked(self, line: bytes, markers: bytes, *, start: bytes) -> bytes:
        """Encode a line with a line end in front. A forbidden line start is escaped wherever ``start`` precedes it."""
        blank, tab, cr, dot, letter, hyphen = (markers[n : n + 1] for n in range(_KINDS))
        text = b"\r\n" + line.replace(b"\r", cr)
        text = text.replace(b" \n", blank + b"\n").replace(b"\t\n", tab + b"\n")
        text = text.replace(start + b".", start + dot).replace(start + b"From ", start + letter + b"rom ")
        if self._in_multipart:
            text = text.replace(start + b"--", start + hyphen + b"-")
        encoded = b2a_qp(text)
        for marker, octet in zip(markers, b" \t\r.F-", strict=True):
            encoded = encoded.replace(b"=%02X" % marker, b"=%02X" % octet)
        return encoded

    def _encode_slowly(self, line: bytes) -> bytes:
        """Encode a line that contains nearly every octet, so that no marker is free."""
        text = _UNSAFE.sub(_escape, line)
        if text.startswith((b".", b"From ")) or (text.startswith(b"--") and self._in_multipart):
            text = b"=%02X" % text[0] + text[1:]
        folded = _fold(text.removesuffix(b"\n")) + (b"\n" if text.endswith(b"\n") else b"")
        return folded.replace(b"\n", b"\r\n")


class QuotedPrintableDecoder:
    """Decodes one text. Once ``unfit`` is true the result cannot be sent, and no more octets are returned.

    Unfit are encoded NULs, CRs and LFs, which lines cannot represent, and encoded lines over 65,536 octets.
    """

    __slots__ = ("_pending", "unfit")

    def __init__(self) -> None:
        self.unfit = False
        self._pending = b""

    def feed(self, block: bytes) -> bytes:
        """The next octets of the encoded text, LF line ends; decoded text with LF line ends."""
        data = self._pending + block
        end = data.rfind(b"\n") + 1
        self._pending = data[end:]
        if len(self._pending) > SEGMENT:
            self.unfit = True
        return self._decode(data[:end])

    def finish(self) -> bytes:
        """The last line if it has no end."""
        data, self._pending = self._pending, b""
        return self._decode(data)

    def _decode(self, data: bytes) -> bytes:
        if b"=0" in data and _LINE_END_CODE.search(data):
            self.unfit = True
        if self.unfit:
            self._pending = b""
            return b""
        if b" \n" in data or (b"\t" in data and b"\t\n" in data):
            data = _TRAILING_BLANKS.sub(b"", data)
        if b"==" in data:
            data = _DOUBLE_EQUALS.sub(b"=3D", data)  # a2b_qp would drop one
        return a2b_qp(data)


class QuotedPrintableMender:
    """Corrects a text that is labelled quoted-printable: escapes raw octets, breaks long lines.

    The decoded text stays the same: escapes, also malformed ones, are not changed.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, block: bytes) -> bytes:
        """The next octets of the text, LF line ends; CRLF comes out."""
        data = self._pending + block
        done: list[bytes] = []
        end = data.rfind(b"\n") + 1
        if end:
            done.append(self._mend(data[:end]))
        start = end
        while len(data) - start > SEGMENT:
            end = _before_escape(data, start + SEGMENT)
            done.append(self._mend(data[start:end]) + b"=\r\n")
            start = end
        self._pending = data[start:]
        return b"".join(done)

    def finish(self) -> bytes:
        """The last line if it has no end; it gets none here either."""
        data, self._pending = self._pending, b""
        return self._mend(data)

    def _mend(self, data: bytes) -> bytes:
        text = _LONG_LINE.sub(lambda line: _fold(line[0]), _ILLEGAL.sub(_escape_raw, data))
        return text.replace(b"\n", b"\r\n")


def _free_markers(data: bytes) -> bytes | None:
    """Octets that b2a_qp escapes and ``data`` does not contain, as many as may be needed, or None."""
    found = bytearray()
    for octet in _MARKERS:
        if octet not in data:
            found.append(octet)
            if len(found) == _KINDS:
                return bytes(found)
    return None


def _escape(match: re.Match[bytes]) -> bytes:
    return b"=%02X" % match[0][0]


def _escape_raw(match: re.Match[bytes]) -> bytes:
    """Escapes for octets that should have had some; an equals sign that stands before the first gets one too.

    Otherwise the two would read as ``==``, which decoders take for one sign or for two.
    """
    escapes = b"".join([_ESCAPES[octet] for octet in match[0]])
    start = match.start()
    if not start or match.string[start - 1] != 0x3D:
        return escapes
    before = match.string[max(start - 1000, 0) : start]
    odd = (len(before) - len(before.rstrip(b"="))) % 2
    return b"3D" + escapes if odd else escapes


def _before_escape(text: bytes, end: int) -> int:
    """``end``, or less where it would split an escape, or a run of malformed ones."""
    least = end - 60
    return least + len(text[least : end - 2 if text[end - 2] == 0x3D else end].rstrip(b"="))


def _end_softly(encoded: bytes) -> bytes:
    """``encoded`` with a soft break at its end; its last line may be full."""
    if len(encoded) - encoded.rfind(b"\n") - 1 < MAX_ENCODED_LINE:
        return encoded + b"=\r\n"
    return encoded[:-1] + b"=\r\n" + encoded[-1:] + b"=\r\n"


def _fold(line: bytes) -> bytes:
    """An encoded line without its end, in lines of at most 76 octets; no new line starts like a boundary."""
    pieces = []
    start = 0
    room = MAX_ENCODED_LINE
    while len(line) - start > room:
        end = _before_escape(line, start + room - 1)
        pieces.append(line[start:end] + b"=\n")
        start = end
        room = MAX_ENCODED_LINE
        if line.startswith((b"--", b"From ", b"."), start):
            pieces.append(b"=%02X" % line[start])
            start += 1
            room -= 3
    return b"".join([*pieces, line[start:]])
