"""The subject and the human-readable text of a notice: what happened, for which recipient, why, and what comes next.

The phrases come from :mod:`zsmtp.queue.phrases`; this module fills in the known values. The recipients are in groups:
those that failed, then those that wait, then the others. Times are shown in the time zone of the original's ``Date``
field, which is the sender's own. A status code is explained only if the server's reply has one::

    text = NoticeText(message, notices, header, phrases, host="mail.example.org", contact="postmaster@example.org")
    text.subject(), text.body("original whole")
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import mktime_tz, parsedate_tz

from zsmtp.body.fields import split_fields
from zsmtp.escape import escape
from zsmtp.proto.status import EnhancedStatus
from zsmtp.queue.deliverystatus import one_line, original_address, reply_of, server_name, shown_address, status_of
from zsmtp.queue.phrases import Phrases
from zsmtp.queue.states import NoticeKind, OwedNotice, QueuedMessage

MAX_SUBJECT = 150  # characters of the original's subject that are shown

_ORDER = (NoticeKind.FAILED, NoticeKind.DELAYED, NoticeKind.DELIVERED, NoticeKind.RELAYED, NoticeKind.EXPANDED)
_VAGUE = {(0, 0), (7, 0), (7, 1)}  # statuses without information unless a server sent them
_ENHANCED = re.compile(r"(?<!\S)[245]\.\d{1,3}\.\d{1,3}(?!\S)")


class NoticeText:
    """The subject and the text of one notice."""

    def __init__(
        self,
        message: QueuedMessage,
        notices: Sequence[OwedNotice],
        header: bytes,
        words: Phrases,
        *,
        host: str,
        contact: str,
    ) -> None:
        self._words = words
        self._notices = notices
        self._kinds = [kind for kind in _ORDER if any(one.kind is kind for one in notices)]
        self._message = message
        written, self._zone = _date(field_value(header, b"date"))
        self._values = {
            "host": host,
            "contact": contact,
            "sender": shown_address(message.sender),
            "recipient": shown_address(notices[0].address),
            "subject": _decoded(field_value(header, b"subject")),
            "date": self._moment(message.submitted if written is None else written),
        }

    def subject(self) -> str:
        """The subject, in one line."""
        return self._words.subject(self._kinds, self._values)

    def body(self, original: str) -> str:
        """The text; ``original`` names the section that mentions the third part."""
        blocks = [self._words.text("opening", self._values)]
        for kind in self._kinds:
            blocks.append(self._words.text(kind.value, self._values))
            blocks += [
                self._words.text(f"{kind.value} recipient", self._values | self._about(one))
                for one in self._notices
                if one.kind is kind
            ]
            blocks.append(self._words.text(f"{kind.value} end", self._values))
        if original:
            blocks.append(self._words.text(original, self._values))
        blocks.append(self._words.text("closing", self._values))
        return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"

    def _about(self, one: OwedNotice) -> dict[str, str]:
        """The values of one recipient."""
        status = status_of(one)
        reply, server = reply_of(one), server_name(one)
        problem = reply or one_line(one.reason)
        original = original_address(one.orcpt)
        address = shown_address(one.address)
        values = {
            "recipient": address,
            "original": original[1] if original is not None and original[1].lower() != address.lower() else "",
            "status": str(status),
            "server": server,
            "reply": reply if server else "",
            "problem": "" if reply and server else problem,
            "until": self._moment(one.expires) if one.expires else "",
        }
        values["explanation"] = self._explanation(one, status, reply or problem)
        if one.kind is NoticeKind.FAILED and status.cls == 4:
            values["tried"] = self._moment(self._message.submitted)
            values["last"] = self._moment(one.last_attempt or one.at)
        return values

    def _explanation(self, one: OwedNotice, status: EnhancedStatus, words: str) -> str:
        """The meaning of the status; "" for one that was only derived from the reply code (550 may be anything)."""
        if one.code:
            return self._words.reason(str(status) if _ENHANCED.search(words) else f"{status.cls}.0.0")
        return "" if words and (status.subject, status.detail) in _VAGUE else self._words.reason(str(status))

    def _moment(self, time: float) -> str:
        """A time in the sender's own zone if that is known; "" if it is out of range."""
        try:
            found = datetime.fromtimestamp(time, self._zone)
        except (ValueError, OverflowError, OSError):
            return ""
        return f"{found:%Y-%m-%d %H:%M} {found:%z}" if self._zone.utcoffset(None) else f"{found:%Y-%m-%d %H:%M} UTC"


def field_value(header: bytes, name: bytes) -> bytes:
    """The value of the first field of this name, unfolded."""
    for field in split_fields(header):
        if field.name == name:
            return header[field.value : field.end].replace(b"\n", b"").strip()
    return b""


def _date(value: bytes) -> tuple[float | None, timezone]:
    """Time and time zone of a Date field; None and UTC if it cannot be read."""
    with suppress(ValueError, IndexError, TypeError, OverflowError):
        found = parsedate_tz(value[:100].decode("ascii", "replace"))
        if found is not None:
            offset = found[9] or 0
            return float(mktime_tz(found)), timezone(timedelta(seconds=offset if abs(offset) <= 14 * 3600 else 0))
    return None, UTC


def _decoded(value: bytes) -> str:
    """An unstructured field for display: encoded words decoded (RFC 2047), in one printable line."""
    text = value[:2000].decode("utf-8", "replace")
    with suppress(HeaderParseError, LookupError, ValueError):
        text = str(make_header(decode_header(text)))
    text = escape(" ".join(text.split()))
    return text if len(text) <= MAX_SUBJECT else text[: MAX_SUBJECT - 3] + "..."
