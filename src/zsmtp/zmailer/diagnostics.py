"""Formats the reports to the scheduler about a recipient.

A verdict becomes a report line ``id/offset<TAB>notary<TAB>status message`` on standard output, a mark in the control
file, and sometimes a ``d`` record there; ``zsmtp.zmailer.reporter`` writes these in order. Notary data are the fields
of a delivery status notification (RFC 3464 2.3) joined by the octet 0x01: final recipient, action, status, diagnostic
code, remote MTA, reporting program.

The notary data of a deferral say ``failed``, with a status of class 4: the scheduler keeps the last ones that it
received, and makes the notice from them when the message expires.

Peers choose parts of the text, so every field is cleaned of TAB, LF, 0x01 and all other unprintable characters, and cut
to a length: a text cannot forge another field or line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsmtp.delivery.outcome import Disposition, Peer, Scope, Verdict, dsn_action
from zsmtp.dns.candidates import Family
from zsmtp.escape import escape
from zsmtp.records import NamedTuple
from zsmtp.zmailer.logs import socket_name

if TYPE_CHECKING:
    from zsmtp.zmailer.control import ControlRecipient, FinalRecord

MESSAGE_LIMIT = 2000  # octets of a report's message
DIAGNOSTIC_LIMIT = 500  # octets of the diagnostic code
_FIELD_LIMIT = 1000  # octets of any other field
_SEPARATOR = b"\x01"
_DELIVERED = Disposition.DELIVERED  # an enum's attribute is read more slowly


class RecipientReport(NamedTuple):
    """The report about one recipient, for the logs.

    ``word`` is the status as reported (``ok``, ``retryat +60``), ``notary`` all six fields even if the scheduler gets
    none, ``remote`` the remote MTA field, ``message`` the text for people.
    """

    id: bytes
    recipient: ControlRecipient
    word: str
    notary: bytes
    remote: str
    message: bytes


def remote_mta(peer: Peer | None) -> str:
    """The remote MTA (RFC 3464 2.3.5) with both ends of the connection; "" without a peer.

    ``dns; mx.example.org (192.0.2.1|25|198.51.100.2|40123)``, or ``X-IP-addr; [192.0.2.1] (...)`` for a literal; ``ipv6
    2001:db8::1`` for IPv6. A UNIX socket has no name: `` (UNIX:/path|UNKNOWN-LOCAL-ADDRESS)``.
    """
    if peer is None:
        return ""
    endpoint = peer.endpoint
    if endpoint.family is Family.UNIX:
        return f" ({socket_name(endpoint)}|UNKNOWN-LOCAL-ADDRESS)"
    if endpoint.literal:
        prefix = "IPv6:" if endpoint.family is Family.INET6 else ""
        name = f"X-IP-addr; [{prefix}{endpoint.address}]"
    else:
        name = f"dns; {endpoint.host}"
    here = f"|{peer.local[0]}|{peer.local[1]}" if peer.local else ""
    return f"{name} ({socket_name(endpoint)}{here})"


def success_requested(recipient: ControlRecipient) -> bool:
    """Whether the sender requested notification of success (RFC 3461 4.1)."""
    notify = recipient.dsn.notify
    return notify is not None and b"SUCCESS" in notify.split(b",")


def settles(record: FinalRecord, recipient: ControlRecipient) -> bool:
    """Whether the ``d`` record at the offset of a recipient is the end of its delivery.

    A success must name the recipient: the scheduler makes records of its own from the last notary data that it
    received, of any recipient. A failure is reported to the sender in any case.
    """
    return record.action == b"failed" or record.address == _field(recipient.user)


def action(verdict: Verdict, *, success_requested: bool, lmtp: bool) -> str:
    """The DSN action (RFC 3464 2.3.3), ``-`` for a success without a notification.

    A deferral has ``failed``: the scheduler uses it for the message once it has expired.
    """
    if verdict.fate is not _DELIVERED:
        return "failed"
    return dsn_action(verdict, success_requested=success_requested, lmtp=lmtp) or "-"


def notary_fields(recipient_address: bytes, verdict: Verdict, *, pid: int, action: str) -> bytes:
    """The six fields: recipient, action, status with its comment, diagnostic, remote MTA, ``smtp[PID]``."""
    status = f"{verdict.status} ({verdict.comment})" if verdict.comment else str(verdict.status)
    fields = (
        _field(recipient_address),
        _field(action),
        _field(status),
        _field(verdict.diagnostic, DIAGNOSTIC_LIMIT),
        _field(remote_mta(verdict.peer)),
        _field(f"smtp[{pid}]"),
    )
    return _SEPARATOR.join(fields)


def notary(recipient_address: bytes, verdict: Verdict, *, pid: int, success_requested: bool, lmtp: bool) -> bytes:
    """Notary data of a report line: as :func:`notary_fields`, or empty for a success without a notification."""
    what = action(verdict, success_requested=success_requested, lmtp=lmtp)
    return b"" if what == "-" else notary_fields(recipient_address, verdict, pid=pid, action=what)


def status_word(verdict: Verdict, *, extended: bool, action: str, lmtp: bool) -> str:
    """The status of a report line; ``retryat`` comes with its interval, ``retryat +60``.

    ``extended`` words: ``ok3`` (``ok2`` if a success is to be notified), ``error2``, ``deferall`` if no connection
    could be made (other mail for this host would fail as well), ``deferback`` if the end of the content was refused
    temporarily or got no reply (other mail goes first; an LMTP reply there concerns one mailbox only, so it is
    ``deferred``), ``retryat`` for a backoff of a whole host, ``deferred``. Without: ``ok``, ``error``, ``retryat``,
    ``deferred``.
    """
    if verdict.fate is _DELIVERED:
        if not extended:
            return "ok"
        return "ok3" if action == "-" else "ok2"
    if verdict.fate is Disposition.FAILED:
        return "error2" if extended else "error"
    never_connected = verdict.peer is None or verdict.peer.local is None
    if extended and verdict.at_final_dot and (verdict.in_doubt or not lmtp):
        return "deferback"
    if extended and verdict.level is Scope.HOST and never_connected:
        return "deferall"
    if verdict.level is Scope.HOST and verdict.retry_after > 0:
        return f"retryat +{verdict.retry_after}"
    return "deferred"


def report_message(text: str) -> bytes:
    """The message of a report: lines separated by CR, the last ones kept if there are too many.

    The important part of a dialogue is its end, that of a line its beginning: so whole lines are dropped from the
    front, and a line that is too long by itself loses its end.
    """
    plain = text.replace("\r", "")
    if plain.isascii() and plain.isprintable() and len(text) <= MESSAGE_LIMIT:
        return text.encode("ascii")
    lines = [_clean(line) for line in text.replace("\r\n", "\r").replace("\n", "\r").split("\r")]
    if sum(len(line) + 1 for line in lines) - 1 <= MESSAGE_LIMIT:
        return b"\r".join(lines)
    kept = [_cut(lines.pop(), MESSAGE_LIMIT - 4)]
    room = MESSAGE_LIMIT - 4 - len(kept[0])
    while lines and len(lines[-1]) < room:
        room -= len(lines[-1]) + 1
        kept.append(lines.pop())
    return b"...\r" + b"\r".join(reversed(kept)) if lines else b"\r".join(reversed(kept))


def report_line(id: bytes, offset: int, notary: bytes, word: str, message: bytes) -> bytes:
    """One line for the scheduler. ``notary`` and ``message`` come from the functions above."""
    name = id if id.isdigit() and len(id) <= _FIELD_LIMIT else _field(id)
    return b"%b/%d\t%b\t%b %b\n" % (name, offset, notary, word.encode("ascii"), message)


def resync_line(path: bytes) -> bytes:
    """The line that makes the scheduler read the control file ``path`` (as in its job line) again."""
    # Octets above 0x7f are returned unchanged: the scheduler compares.
    return b"#resync " + b"".join(_PATH_OCTETS[octet] for octet in path) + b"\n"


def comment_line(text: str) -> bytes:
    """A line for the scheduler's log."""
    return b"# " + _clean(text) + b"\n"


def diagnostic_record(
    recipient: ControlRecipient, header_offset: int, epoch: int, notary: bytes, message: bytes
) -> bytes:
    """The ``d`` record of the control file: ``d offset:headeroffset:dsnoffset::epoch<TAB>notary<TAB>message``.

    The offsets are those of the recipient record, of the first octet of its header, and of its ``N`` record (-1
    without one); ``epoch`` counts seconds since 1970.
    """
    places = f"d {recipient.offset}:{header_offset}:{recipient.dsn_offset}::{epoch}"
    return b"%b\t%b\t%b\n" % (places.encode("ascii"), notary, message)


def _clean(text: bytes | str) -> bytes:
    return escape(text).encode("utf-8")


def _cut(data: bytes, limit: int) -> bytes:
    """At most ``limit`` octets of UTF-8, cut between characters; a cut is marked."""
    if len(data) <= limit:
        return data
    return data[: limit - 3].decode("utf-8", "ignore").encode("utf-8") + b"..."


def _field(text: bytes | str, limit: int = _FIELD_LIMIT) -> bytes:
    return _cut(_clean(text), limit)


_PATH_OCTETS = [
    bytes([octet]) if octet > 0x7F or 0x20 <= octet < 0x7F else escape(bytes([octet])).encode("ascii")
    for octet in range(256)
]
