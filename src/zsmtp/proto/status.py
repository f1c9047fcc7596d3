"""Enhanced mail system status codes (RFC 3463, RFC 5248, RFC 2034), and what to say when the server gives none.

A code in a reply's text counts only if the server offered ENHANCEDSTATUSCODES; if its class contradicts the reply
code, the reply code wins. Where there is no code, :func:`default_status` knows the nearest one for the reply code.
"""

from __future__ import annotations

from zsmtp.patterns import pattern
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

_DEFAULTS = {
    421: EnhancedStatus(4, 3, 2),
    450: EnhancedStatus(4, 2, 1),
    451: EnhancedStatus(4, 3, 0),
    452: EnhancedStatus(4, 3, 1),
    455: EnhancedStatus(4, 5, 4),
    500: EnhancedStatus(5, 5, 1),
    501: EnhancedStatus(5, 5, 2),
    502: EnhancedStatus(5, 5, 1),
    503: EnhancedStatus(5, 5, 0),
    504: EnhancedStatus(5, 5, 4),
    550: EnhancedStatus(5, 1, 1),
    551: EnhancedStatus(5, 1, 6),
    552: EnhancedStatus(5, 2, 3),
    553: EnhancedStatus(5, 1, 3),
    554: EnhancedStatus(5, 0, 0),
    555: EnhancedStatus(5, 5, 4),
    571: EnhancedStatus(5, 7, 1),
}


def default_status(code: int) -> EnhancedStatus:
    """The status code for a reply code that came without one."""
    return _DEFAULTS.get(code) or EnhancedStatus(code // 100 if code >= 400 else 2, 0, 0)


def given_status(code: int, text: bytes) -> EnhancedStatus | None:
    """The status code at the start of a reply's text, or None if there is none of the reply code's class."""
    match = _STATUS.match(text)
    if match is None or int(match[1]) != code // 100:
        return None
    return EnhancedStatus(int(match[1]), int(match[2]), int(match[3]))
