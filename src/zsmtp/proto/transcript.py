"""The end of the dialogue, as people read it in reports and bounces.

``\\r<<- RCPT TO:<a@example.org>\\r->> 550 5.1.1 no such user``: what was sent behind ``<<-``, what came back behind
``->>``, each line started by a CR, which stands for a line break in reports. Replies are hostile text and are escaped;
the whole is bounded, the oldest lines give way. :func:`shown_line` shows a line as people know it outside of ZMailer:
``C: RCPT TO:<a@example.org>``, ``S: 550 5.1.1 no such user``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from zsmtp.proto.events import Lost
from zsmtp.proto.reply import Reply, printable

CONNECTING = b"(connecting)"  # stands in the place of a command: the greeting is its reply
MAX_LINES = 8  # of one reply
MAX_TEXT = 1500  # characters of the whole


def exchange(line: bytes, reply: Reply | None) -> str:
    """One command line, as it was sent or may be shown, and its reply (None: no reply came). No line: the final dot."""
    if reply is None:
        return _sent(line)
    lines = reply.lines
    if len(line) < 100 and len(lines) == 1 and len(lines[0]) < 300:
        return _short_exchange(line, reply)
    return _sent(line) + _answer(reply)


def unfinished(lost: Lost) -> str:
    """What was said of a reply that the end of the session cut off, "" if nothing was."""
    return f"\r->> {lost.unfinished} (cut off)" if lost.unfinished else ""


def is_dialogue(line: str) -> bool:
    """Whether a line of a report is one of the dialogue, and not this side's own words."""
    return line.startswith((_OUT, _IN))


def shown_line(line: str) -> str:
    """A line of a report with ``C:`` or ``S:`` in front, own words as they are; "" for what was no command."""
    if line.startswith(_OUT):
        sent = line.removeprefix(_OUT)
        return "" if sent == CONNECTING.decode() else f"C: {sent}"
    return f"S: {line.removeprefix(_IN)}" if line.startswith(_IN) else line


_OUT, _IN = "<<- ", "->> "


def _sent(line: bytes) -> str:
    return "\r<<- " + printable(line.removesuffix(b"\r\n") or b".", 300)


def _answer(reply: Reply) -> str:
    lines = reply.raw_lines
    if len(lines) > MAX_LINES:
        lines = (*lines[: MAX_LINES - 1], lines[-1])
    return "".join("\r->> " + printable(line, 300) for line in lines)


@lru_cache(128)
def _short_exchange(line: bytes, reply: Reply) -> str:
    """The same few things are said over and over: DATA and the final dot, and what a server says to them."""
    return _sent(line) + _answer(reply)


def join(exchanges: Iterable[str]) -> str:
    """The exchanges in order, at most 1500 characters: the end of a dialogue is what tells."""
    text = "".join(exchanges)
    if len(text) <= MAX_TEXT:
        return text
    cut = text.find("\r", len(text) - MAX_TEXT)
    return text[cut:] if cut >= 0 else text[-MAX_TEXT:]
