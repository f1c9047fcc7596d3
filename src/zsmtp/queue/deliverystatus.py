"""The machine-readable part of a notice: message/delivery-status (RFC 3464 2) and its UTF-8 form (RFC 6533 4).

The first group of fields is about the message, each further group about one recipient. Fields with unknown values are
left out. :func:`needs_utf8` tells whether addresses need message/global-delivery-status; in message/delivery-status an
internationalised address has an ASCII form: with A-labels, or ``utf-8;\\x{E4}...`` (RFC 6533 3).

No value is trusted: addresses, envelope ids and replies are written without line ends and control characters and in
limited lengths, so that no value can add a field. Lines end with LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

from zsmtp.escape import escape
from zsmtp.proto.address import decode_xtext, downgrade, typed_address
from zsmtp.proto.phase import Phase
from zsmtp.proto.status import EnhancedStatus, default_status
from zsmtp.queue.states import MAX_REASON, NoticeKind, OwedNotice, QueuedMessage

MAX_COLUMNS = 76
MAX_ADDRESS = 600  # characters of a displayed address; a valid one has 254 octets (RFC 5321 4.5.3.1.3)
MAX_TYPED = 900  # characters of an address with its type, in any form

_LINE_ENDS = re.compile(r"[\r\n]+")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{1,6})\}")
_TYPE = re.compile(r"[A-Za-z0-9-]{1,40}")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_MAX_WORD = 200  # characters; longer ones are folded in their middle
_CLASSES = {NoticeKind.FAILED: (5, 4), NoticeKind.DELAYED: (4,)}


def needs_utf8(owed: Iterable[OwedNotice]) -> bool:
    """Whether a recipient has no ASCII address; the sender's system supports RFC 6533 then."""
    return any(downgrade(one.address) is None for one in owed)


def delivery_status(
    message: QueuedMessage, owed: Sequence[OwedNotice], *, host: str, queue_id: str, utf8: bool
) -> bytes:
    """The content of the part. ``host`` is the reporting MTA, ``queue_id`` the id of the message in its queue."""
    charset = "utf-8" if utf8 else "ascii"
    groups = [_message_fields(message, host, queue_id), *(_recipient_fields(one, utf8=utf8) for one in owed)]
    text = "\n".join("".join(field + "\n" for field in group) for group in groups)
    return text.encode(charset, "backslashreplace")


def status_of(owed: OwedNotice) -> EnhancedStatus:
    """The status that is consistent with the action: of class 5 or 4 for a failure, 4 for a delay, else 2."""
    allowed = _CLASSES.get(owed.kind, (2,))
    try:
        status = EnhancedStatus.parse(owed.status)
    except ValueError:
        status = default_status(owed.code, Phase.RCPT) if owed.code else EnhancedStatus(allowed[0], 0, 0)
    return status if status.cls in allowed else status._replace(cls=allowed[0])


def reply_of(owed: OwedNotice) -> str:
    """The decisive reply, in one printable line; "" if there was none."""
    if not owed.code:
        return ""
    text = one_line(owed.reason)
    return text if text.startswith(str(owed.code)) else f"{owed.code} {text}".rstrip()


def one_line(text: str) -> str:
    """Untrusted text in one line: printable, and of at most 500 characters."""
    lines = [line.strip() for line in _LINE_ENDS.split(text[: 4 * MAX_REASON].strip())]
    shown = escape(" / ".join(lines))
    return shown if len(shown) <= MAX_REASON else shown[: MAX_REASON - 3] + "..."


def server_name(owed: OwedNotice) -> str:
    """The name of the server with the decisive reply, without address and port; "" if there is none."""
    name = owed.server.split(" ", 1)[0]
    return name if _HOST.fullmatch(name) else ""


def shown_address(address: bytes) -> str:
    """An address for display; never empty."""
    return escape(address[:MAX_ADDRESS])[:MAX_ADDRESS] or "<>"


def original_address(orcpt: bytes | None) -> tuple[str, str] | None:
    """Type and address of an ORCPT value, decoded (RFC 3461 4.2, RFC 6533 3); None if it cannot be shown."""
    kind, semicolon, value = (orcpt or b"").decode("utf-8", "replace").partition(";")
    if not semicolon or not value or len(value) > MAX_ADDRESS or _TYPE.fullmatch(kind) is None:
        return None
    plain = decode_xtext(value.encode()).decode("utf-8", "replace")
    if kind.lower() == "utf-8":
        plain = _EMBEDDED.sub(lambda match: _character(match[1]), plain)
    return (kind, plain) if plain.isprintable() and plain.strip() else None


def _character(code: str) -> str:
    number = int(code, 16)
    return chr(number) if number < 0xD800 or 0xE000 <= number < 0x110000 else "\N{REPLACEMENT CHARACTER}"


def date_text(time: float) -> str:
    """A time in the format of header fields, in UTC (RFC 5322 3.3); "" if it is out of range."""
    try:
        return format_datetime(datetime.fromtimestamp(time, UTC))
    except (ValueError, OverflowError, OSError):
        return ""


# ---------------------------------------------------------------------- fields


def _message_fields(message: QueuedMessage, host: str, queue_id: str) -> list[str]:
    fields = [folded("Reporting-MTA", f"dns; {host}")]
    envid = _envelope_id(message.envid or b"")
    if envid:
        fields.append(folded("Original-Envelope-Id", envid))
    fields.append(folded("X-Queue-Id", queue_id))
    return fields + _date("Arrival-Date", message.submitted)


def _envelope_id(xtext: bytes) -> str:
    """ENVID decoded (RFC 3461 4.4), or undecoded if no field can hold the result."""
    plain = decode_xtext(xtext[:MAX_ADDRESS]).decode("ascii", "replace")
    fit = plain.isascii() and plain.isprintable() and plain.strip()
    return plain if fit else one_line(xtext.decode("ascii", "replace"))


def _recipient_fields(owed: OwedNotice, *, utf8: bool) -> list[str]:
    fields = []
    original = original_address(owed.orcpt)
    if original is not None and len(typed := _typed(*original, utf8=utf8)) <= MAX_TYPED:
        fields.append(f"Original-Recipient: {typed}")
    address = owed.address if utf8 else downgrade(owed.address) or owed.address
    kind = "rfc822" if address.isascii() else "utf-8"
    fields.append(f"Final-Recipient: {_typed(kind, shown_address(address), utf8=utf8)}")
    fields.append(folded("Action", owed.kind.value))
    fields.append(folded("Status", str(status_of(owed))))
    server = server_name(owed)
    if server:
        fields.append(folded("Remote-MTA", f"dns; {server}"))
    if owed.code:
        fields.append(folded("Diagnostic-Code", f"smtp; {reply_of(owed)}"))
    elif owed.reason.strip():
        fields.append(folded("Diagnostic-Code", f"x-zsmtp; {one_line(owed.reason)}"))
    fields += _date("Last-Attempt-Date", owed.last_attempt)
    return fields + (_date("Will-Retry-Until", owed.expires) if owed.kind is NoticeKind.DELAYED else [])


def _date(name: str, time: float) -> list[str]:
    """The field of a time; none if the time is 0 or out of range."""
    text = date_text(time) if time else ""
    return [f"{name}: {text}"] if text else []


def _typed(kind: str, address: str, *, utf8: bool) -> str:
    """``type; address``; in an ASCII part, other addresses have their ASCII form."""
    if utf8 or address.isascii():
        return f"{kind}; {address}"
    encoded = typed_address(address.encode("utf-8", "replace")).partition(b";")[2].decode("ascii")
    return f"utf-8; {encoded}"


def folded(name: str, value: str) -> str:
    """A field, folded at blanks; a word that is too long for a line is folded in its middle."""
    lines = [f"{name}:"]
    for word in value.split():
        pieces = [word[at : at + _MAX_WORD] for at in range(0, len(word), _MAX_WORD)]
        for piece in pieces:
            if len(lines[-1]) + 1 + len(piece) <= MAX_COLUMNS or lines[-1] == f"{name}:":
                lines[-1] += f" {piece}"
            else:
                lines.append(f"    {piece}")
    return "\n".join(lines)
