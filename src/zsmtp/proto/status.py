"""Enhanced mail system status codes (RFC 3463, RFC 5248, RFC 2034), and defaults for replies without one.

A code stands at the start of a reply's text. If its class contradicts the reply code, the reply code wins. Without one,
:func:`default_status` gives the nearest one for the reply code: a mailbox status for RCPT, whose reply concerns a
mailbox, otherwise a general one, since the reply may concern anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from zsmtp.patterns import pattern
from zsmtp.proto.phase import RCPT, Phase
from zsmtp.records import NamedTuple


class EnhancedStatus(NamedTuple):
    """``class.subject.detail`` of RFC 3463 section 2."""

    cls: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.cls}.{self.subject}.{self.detail}"

    @classmethod
    def parse(cls, text: str) -> EnhancedStatus:
        """Read ``5.1.2``; raises ValueError for anything else."""
        match = _STATUS.fullmatch(text.encode("ascii", "replace"))
        if match is None:
            raise ValueError(f"not an enhanced status code: {text!r}")
        return cls(int(match[1]), int(match[2]), int(match[3]))


_STATUS = pattern(rb"([245])\.(\d{1,3})\.(\d{1,3})(?= |$)")

_MAILBOX = {
    450: EnhancedStatus(4, 2, 1),
    550: EnhancedStatus(5, 1, 1),
    551: EnhancedStatus(5, 1, 6),
    552: EnhancedStatus(5, 2, 3),
    553: EnhancedStatus(5, 1, 3),
    556: EnhancedStatus(5, 1, 10),  # RFC 7504 3
}
_DEFAULTS = {
    421: EnhancedStatus(4, 3, 2),
    451: EnhancedStatus(4, 3, 0),
    452: EnhancedStatus(4, 3, 1),
    455: EnhancedStatus(4, 5, 4),
    500: EnhancedStatus(5, 5, 1),
    501: EnhancedStatus(5, 5, 2),
    502: EnhancedStatus(5, 5, 1),
    503: EnhancedStatus(5, 5, 0),
    504: EnhancedStatus(5, 5, 4),
    521: EnhancedStatus(5, 3, 2),  # RFC 7504 2
    530: EnhancedStatus(5, 7, 0),
    552: EnhancedStatus(5, 3, 4),  # RFC 1870 6.1: the message is too large
    554: EnhancedStatus(5, 0, 0),
    555: EnhancedStatus(5, 5, 4),
    571: EnhancedStatus(5, 7, 1),
}


def default_status(code: int, phase: Phase) -> EnhancedStatus:
    """The default status code for a reply without one in ``phase``."""
    found = _MAILBOX.get(code) if phase is RCPT else None
    return found or _DEFAULTS.get(code) or EnhancedStatus(code // 100 if code >= 400 else 2, 0, 0)


def given_status(code: int, lines: Sequence[bytes]) -> EnhancedStatus | None:
    """The status code at the start of a reply's last line, or of its first one; None without one of its class."""
    for text in lines if len(lines) == 1 else (lines[-1], lines[0]):
        match = _STATUS.match(text)
        if match is not None and int(match[1]) == code // 100:
            return EnhancedStatus(int(match[1]), int(match[2]), int(match[3]))
    return None


def without_status(text: bytes) -> bytes:
    """A line of a reply's text without its status code, if it starts with one."""
    match = _STATUS.match(text)
    return text if match is None else text[match.end() :].lstrip()
