"""Reads the content of a message for a server: removes dot-stuffing, finds the end and forbidden octets.

DATA ends at CRLF.CRLF and nowhere else (RFC 5321 4.1.1.4). A bare CR or LF, which other systems take for a line end,
never ends a line here: the message is read to its real end and refused, naming the position of the first one, so that
no second message can be hidden in it (SMTP smuggling; RFC 5321 2.3.8). NUL octets are refused likewise, and lines and
messages over the limits. :class:`DataReader` reads DATA, :class:`ChunkReader` the chunks of BDAT, which are octets and
need no unstuffing (RFC 3030); without BODY=BINARYMIME they are text and the same rules apply.

All work is done on blocks with the search and replace of ``bytes``, never line by line, and the result does not depend
on how the octets are cut into blocks.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from zsmtp.patterns import pattern
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_replies import TOO_LARGE, make_reply

MAX_BLOCK = 256 * 1024  # octets processed at once, hence the largest MessageData

_CRLF = b"\r\n"
_END = b"\r\n.\r\n"
_STUFFED = b"\r\n."
_DOT_LINE = pattern(rb"\n\.")  # a pattern takes two thirds of the time of find
_ALONE = pattern(rb"\r(?!\n)|(?<!\r)\n")
_CR, _LF, _DOT = 0x0D, 0x0A, 0x2E
_PARTS_OF_END = ((b"\r\n.\r", 4), (b"\r\n.", 3), (_CRLF, 2), (b"\r", 1))


class Fault(NamedTuple):
    """The reason why content is refused, and the reply."""

    reason: Abort
    reply: Reply


class _ContentReader:
    """The base of both readers: the count of octets, and the search for the first fault.

    ``octets`` counts the content so far. ``fault`` is set as soon as one is found; no content is given out then.
    """

    _cuts_line_ends: ClassVar[bool]  # whether a block may end between the two octets of a CRLF

    __slots__ = ("_after_cr", "_max_line", "_max_size", "_open_octets", "_place", "fault", "octets")

    def __init__(self, *, max_size: int, max_line: int) -> None:
        self.octets = 0
        self.fault: Fault | None = None
        self._max_size = max_size
        self._max_line = max_line
        self._place = 1  # of the next octet, as the client counts what it sends
        self._open_octets = 0  # octets of the line that has begun and not ended
        self._after_cr = False  # the last octet was a CR, whose LF may come

    def refuse(self, reply: Reply) -> None:
        """Discard all further octets, and refuse the message with ``reply``."""
        self._note(Abort.REFUSED, reply)

    def _note(self, reason: Abort, reply: Reply) -> None:
        if self.fault is None:
            self.fault = Fault(reason, reply)

    def _is_good(self, block: bytes) -> bool:
        """Whether ``block``, not empty and at position ``_place``, has no fault; notes the first one."""
        size = len(block)
        clean = block.replace(b"\r", b"").replace(b"\n", _CRLF) == block and not self._after_cr
        fits = self.octets + size <= self._max_size and self._open_octets + size <= self._max_line
        if clean and fits and 0 not in block:
            last = block.rfind(b"\n")
            self._open_octets = size - last - 1 if last >= 0 else self._open_octets + size
            return True
        places = [(self._too_large_at(block), Abort.TOO_LARGE), (self._long_at(block), Abort.LONG_LINE)]
        if not clean:
            places += self._alone(block)
        if 0 in block:
            places.append((block.index(0), Abort.NUL))
        place, reason = min(places, key=lambda found: found[0])
        if place < size:
            self._refuse_for(reason, self._place + place)
        return place >= size

    def _alone(self, block: bytes) -> list[tuple[int, Abort]]:
        """The position of the first bare CR or LF in the block, if there is one."""
        first = 0
        if self._after_cr:
            if block[0] != _LF:
                return [(-1, Abort.BARE_CR)]
            first = 1
        self._after_cr = self._cuts_line_ends and block[-1] == _CR
        match = _ALONE.search(block, first, len(block) - self._after_cr)
        if match is None:
            return []
        return [(match.start(), Abort.BARE_CR if block[match.start()] == _CR else Abort.BARE_LF)]

    def _too_large_at(self, block: bytes) -> int:
        """The position in the block of the first octet over the size limit."""
        return self._max_size - self.octets

    def _long_at(self, block: bytes) -> int:
        """The position in the block of the first octet over the line limit; the block's end if there is none.

        Jumps from the start of a line to the last line start within reach, however short the lines are.
        """
        end, limit = len(block), self._max_line
        start = -self._open_octets  # where the line began, seen from this block
        while end - start > limit:
            last = block.rfind(b"\n", max(start, 0), max(start + limit, 0))
            if last < 0:
                return start + limit
            start = last + 1
        last = block.rfind(b"\n", max(start, 0))
        self._open_octets = end - start if last < 0 else end - last - 1
        return end

    def _end_of_text(self) -> None:
        """No more text follows."""
        if self._after_cr:
            self._refuse_for(Abort.BARE_CR, self._place - 1)

    def _refuse_for(self, reason: Abort, place: int) -> None:
        if reason is Abort.TOO_LARGE:
            self._note(reason, TOO_LARGE)
            return
        what = {
            Abort.BARE_CR: "a CR without LF",
            Abort.BARE_LF: "a LF without CR",
            Abort.NUL: "a NUL",
            Abort.LONG_LINE: f"a line of more than {self._max_line} octets",
        }[reason]
        self._note(reason, make_reply(554, "5.6.0", f"{what}, at octet {place} of the content"))


class DataReader(_ContentReader):
    """Reads the content of one DATA command. ``ended`` is true once the line of one dot was read, fault or not."""

    _cuts_line_ends = False

    __slots__ = ("_at_start", "ended")

    def __init__(self, *, max_size: int, max_line: int) -> None:
        super().__init__(max_size=max_size, max_line=max_line)
        self.ended = False
        self._at_start = True  # the line end of DATA counts as one before the dot

    def read(self, buffer: bytes, start: int) -> tuple[bytes, int]:
        """The next octets of content, and the index in ``buffer`` where the rest begins.

        Call again until nothing is taken: then only a possible beginning of the end is left.
        """
        first = start
        if self._at_start:
            head = buffer[start : start + 3]
            if head == _END[2:]:
                self.ended = True
                return b"", start + 3
            if _END[2:].startswith(head):
                return b"", start
            self._at_start = False
            if head[0] == _DOT:
                first += 1
                self._place += 1
        stop = min(len(buffer), start + MAX_BLOCK)
        dot = _DOT_LINE.search(buffer, first, stop)
        end = buffer.find(_END, max(dot.start() - 1, first), stop) if dot is not None else -1
        if end >= 0:
            self.ended = True
            content_end = end + 2
            rest = end + 5
        else:
            content_end = rest = stop - _part_of_end(buffer, first, stop)
        if self.fault is not None or content_end == first:
            return b"", rest
        block = buffer[first:content_end]
        if not self._is_good(block):
            return b"", rest
        self._place += rest - first
        if dot is not None and dot.start() < content_end:
            block = block.replace(_STUFFED, _CRLF)
        self.octets += len(block)
        return block, rest

    def _too_large_at(self, block: bytes) -> int:
        """As in the base class, but stuffed dots do not count."""
        room = self._max_size - self.octets
        at, seen = room, -1
        while at != seen:
            seen = at
            at = room + block.count(_STUFFED, 0, at)
        return at


def _part_of_end(buffer: bytes, start: int, stop: int) -> int:
    """The number of octets before ``stop`` that may be the beginning of the end."""
    if stop > start and buffer[stop - 1] in _END:
        for part, length in _PARTS_OF_END:
            if buffer.endswith(part, start, stop):
                return length
    return 0


class ChunkReader(_ContentReader):
    """Reads the content of one message from chunks; call :meth:`begin` before each. ``left``: its octets still to come.

    The last chunk's reply reports a fault in text, as in DATA; a message that is too large is refused before its
    octets.
    """

    _cuts_line_ends = True

    __slots__ = ("_binary", "left")

    def __init__(self, *, max_size: int, max_line: int, binary: bool) -> None:
        super().__init__(max_size=max_size, max_line=max_line)
        self.left = 0
        self._binary = binary

    def begin(self, octets: int) -> None:
        """A chunk of so many octets follows."""
        self.left = octets
        if self.octets + octets > self._max_size:
            self._note(Abort.TOO_LARGE, TOO_LARGE)

    def read(self, buffer: bytes, start: int) -> tuple[bytes, int]:
        """The next octets of content, never beyond the chunk, and the index in ``buffer`` where the rest begins."""
        rest = min(len(buffer), start + self.left, start + MAX_BLOCK)
        taken = rest - start
        self.left -= taken
        if self.fault is not None or not taken:
            return b"", rest
        block = buffer[start:rest]
        if not (self._binary or self._is_good(block)):
            return b"", rest
        self._place += taken
        self.octets += taken
        return block, rest

    def finish(self) -> None:
        """The last chunk is complete."""
        if not self._binary:
            self._end_of_text()
