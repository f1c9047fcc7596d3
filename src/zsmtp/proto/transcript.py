"""Formats the last commands and replies of a session for reports and bounces.

``\\r<<- RCPT TO:<a@example.org>\\r->> 550 5.1.1 no such user``: commands sent follow ``<<-``, replies ``->>``, and each
line starts with a CR, which stands for a line break in reports. Replies are untrusted text and are escaped; the length
is bounded, the oldest lines are dropped. :func:`shown_line` formats a line as is usual outside ZMailer: ``C: RCPT
TO:<a@example.org>``, ``S: 550 5.1.1 no such user``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from zsmtp.proto.events import Lost
from zsmtp.proto.reply import Reply, printable

CONNECTING = b"(connecting)"  # in place of a command: the greeting is its reply
MAX_LINES = 8  # of one reply
MAX_TEXT = 1500  # characters of the whole


def exchange(line: bytes, reply: Reply | None) -> str:
    """One command line, as sent or masked, and its reply (None: no reply came). An empty line: the final dot."""
    if reply is None:
        return _sent(line)
    lines = reply.lines
    if len(line) < 100 and len(lines) == 1 and len(lines[0]) < 300:
        return _short_exchange(line, reply)
    return _sent(line) + _answer(reply)


def unfinished(lost: Lost) -> str:
    """The part of a reply that came before the session ended; "" if there was none."""
    return f"\r->> {lost.unfinished} (cut off)" if lost.unfinished else ""


def is_dialogue(line: str) -> bool:
    """Whether a line of a report quotes the dialogue, and is not a text of this side."""
    return line.startswith((_OUT, _IN))


def shown_line(line: str) -> str:
    """A line of a report with ``C:`` or ``S:`` in front, texts of this side unchanged; "" for :data:`CONNECTING`."""
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
    """A cached :func:`exchange` for the few that repeat: DATA and the final dot with their usual replies."""
    return _sent(line) + _answer(reply)


def join(exchanges: Iterable[str]) -> str:
    """The exchanges in order, cut to the last 1500 characters, which explain the outcome."""
    text = "".join(exchanges)
    if len(text) <= MAX_TEXT:
        return text
    cut = text.find("\r", len(text) - MAX_TEXT)
    return text[cut:] if cut >= 0 else text[-MAX_TEXT:]
