"""Escapes untrusted text from peers, files and job lines for terminals, logs and reports.

Everything unprintable becomes an escape: control and format characters, line ends, octets that are not UTF-8. This
module imports nothing, because the agent needs it before its first output.
"""

from __future__ import annotations

_NAMED_ESCAPES = {"\r": "\\r", "\n": "\\n", "\t": "\\t"}


def escape(data: bytes | str) -> str:
    """Printable text: control and format characters, line ends and octets that are not UTF-8 become escapes."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def shortened(text: str, limit: int) -> str:
    """A text of at most ``limit`` characters; a shortened one ends with ``...``."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def described(error: Exception) -> str:
    """An exception of foreign code, in at most 300 characters: its class, and its message if it has one."""
    try:
        words = str(error)
    except Exception:  # making the message runs foreign code, too
        words = ""
    return escape(shortened(f"{type(error).__name__}: {words}", 300) if words else type(error).__name__)


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _NAMED_ESCAPES:
        return _NAMED_ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:  # an octet that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
