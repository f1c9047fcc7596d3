"""The spool id of a message, and the sender addresses made from it.

A spool id names one message for good, also after its inode is used again: ``S``, the inode of the message file in
decimal, then the time of its last change (UTC): year in three characters, month, day, hour, minute and second in one
each and, unless they are zero, the nanoseconds in five; 6 bits a character. It appears in the logs, and in the sender
addresses of mailing lists that use a separate one for each recipient (VERP, variable envelope return path), so that a
bounce identifies its recipient: ``list-return@example.org`` with the tag ``-x`` is
``list-return-x-SPOOLID@example.org``.
"""

from __future__ import annotations

import re
import time

from zsmtp.patterns import pattern

# Not an unambiguous code ("0" is both 26 and 62, 63 is "-"), but the traditional one of spool ids.
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123abcdefghijklmnopqrstuvwxyz4567890-="
_ATEXT = rb"[0-9A-Za-z!#$%&'*+/=?^_`{|}~\x80-\xff-]++"
_DOT_ATOMS = pattern(rb"(?:\.?" + _ATEXT + rb")*+")
_QUOTED = pattern(rb'(?:@[^":]*+:)?"(?:[^"\\]|\\.)*+"', re.DOTALL)


def _encoded(value: int, characters: int) -> str:
    """The last ``6 * characters`` bits of ``value``, most significant first."""
    return "".join(_ALPHABET[value >> shift & 63] for shift in range(6 * (characters - 1), -1, -6))


def spool_id(inode: int, mtime_ns: int) -> str:
    """The spool id of a message file with this inode and time of last change (nanoseconds since 1970).

    Month and day are counted from 0. An invalid time counts as the beginning of 1970.
    """
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    try:
        when = time.gmtime(seconds)
    except (ValueError, OverflowError, OSError):
        when, nanoseconds = time.gmtime(0), 0
    parts = (when.tm_mon - 1, when.tm_mday - 1, when.tm_hour, when.tm_min, when.tm_sec)
    text = f"S{inode}" + _encoded(when.tm_year, 3) + "".join(_ALPHABET[part] for part in parts)
    return text + _encoded(nanoseconds, 5) if nanoseconds else text


def verp(sender: bytes, tag: bytes, spoolid: str) -> bytes:
    """The address ``sender`` with ``tag-spoolid`` appended to its local part (the whole of it if it has no domain).

    A quoted local part stays quoted; an unquoted one is quoted if the tag requires it (RFC 5321 4.1.2). A null sender
    stays null: a bounce must never cause another.
    """
    if not sender:
        return sender
    local, domain = _parted(sender)
    suffix = tag + b"-" + spoolid.encode("ascii")
    if _QUOTED.fullmatch(local):
        return local[:-1] + _escaped(suffix) + b'"' + domain
    if _DOT_ATOMS.fullmatch(tag):
        return local + suffix + domain
    route, colon, mailbox = local.rpartition(b":") if local.startswith(b"@") else (b"", b"", local)
    return route + colon + b'"' + mailbox + _escaped(suffix) + b'"' + domain


def _parted(sender: bytes) -> tuple[bytes, bytes]:
    """Local part (with any source route before it) and domain (with its ``@``, empty if there is none)."""
    at = sender.rfind(b"@")
    if at < 0 or _QUOTED.fullmatch(sender):
        return sender, b""
    return sender[:at], sender[at:]


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
