"""What the scheduler is told of a recipient, in which words, and in which order with the marks.

A verdict becomes a report line ``id/offset<TAB>notary<TAB>status message`` on standard output, a mark in the control
file, and sometimes a ``d`` record there. Notary data are the fields of a delivery status notification (RFC 3464 2.3)
joined by the octet 0x01: final recipient, action, status, diagnostic code, remote MTA, reporting program.

:class:`Reporter` does the three in the one order that loses neither fact nor bounce, wherever a crash may fall:

==============  ====================================  ========================================
verdict         default words                         extended words (``-O ta-diagnostics``)
==============  ====================================  ========================================
delivered       mark ``+``, then ``ok``               mark ``+``, then ``ok3``
... DSN wanted  mark ``+``, then ``ok`` with notary   ``d`` record, mark ``+``, then ``ok2``
failed          ``error``, then mark ``-``            ``d`` record, mark ``-``, then ``error2``
deferred        report, then blank the lock           report, then blank the lock
==============  ====================================  ========================================

Whoever reads a report must learn from it nothing but what stands in it: peers choose parts of the text, so every field
is cleaned of TAB, LF, 0x01 and all else that is no printable text, and cut to a length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from zsmtp.delivery.outcome import Fate, Level, Peer, Verdict, dsn_action
from zsmtp.dns.plan import Family
from zsmtp.errors import SpoolError
from zsmtp.escape import escape
from zsmtp.records import NamedTuple
from zsmtp.zmailer.locks import Mark
from zsmtp.zmailer.logs import socket_name

if TYPE_CHECKING:
    from zsmtp.zmailer.control import ControlFile, Recipient

MESSAGE_LIMIT = 2000  # octets of a report's message
DIAGNOSTIC_LIMIT = 500  # octets of the diagnostic code
_FIELD_LIMIT = 1000  # octets of any other field
_SEPARATOR = b"\x01"
_DELIVERED, _DEFERRED = Fate.DELIVERED, Fate.DEFERRED  # asked of the class they cost more
_MOST_HELD = 16  # lines: the scheduler is to see its jobs done bit by bit


class OpenControl(Protocol):
    """A control file that can be written to, as ``locks.OpenControl`` is; both verbs raise SpoolError.

    ``release`` tells whether the lock was still this process's, and so the mark was written.
    """

    @property
    def control(self) -> ControlFile: ...
    def release(self, recipient: Recipient, mark: Mark) -> bool: ...
    def append(self, record: bytes) -> None: ...


class Report(NamedTuple):
    """What was told about one recipient, for the logs.

    ``word`` is the status as reported (``ok``, ``retryat +60``), ``notary`` all six fields even where the scheduler
    gets none, ``remote`` the remote MTA field, ``message`` the text for people.
    """

    id: bytes
    recipient: Recipient
    word: str
    notary: bytes
    remote: str
    message: bytes
    peer: Peer | None = None


def remote_mta(peer: Peer | None) -> str:
    """The remote MTA (RFC 3464 2.3.5) with both ends of the connection; "" where there was no peer.

    ``dns; mx.example.org (192.0.2.1|25|198.51.100.2|40123)``, or ``X-IP-addr; [192.0.2.1] (...)`` if a literal led
    there; ``ipv6 2001:db8::1`` for IPv6. A UNIX socket has no name: `` (UNIX:/path|UNKNOWN-LOCAL-ADDRESS)``.
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


def success_requested(recipient: Recipient) -> bool:
    """Whether the sender wants to hear of a success (RFC 3461 4.1)."""
    notify = recipient.dsn.notify
    return notify is not None and b"SUCCESS" in notify.split(b",")


def action(verdict: Verdict, *, success_requested: bool, lmtp: bool) -> str:
    """The DSN action (RFC 3464 2.3.3), ``-`` where a success needs no notification."""
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
    """Notary data of a report line: as :func:`notary_fields`, or empty for a success nobody waits to hear of."""
    what = action(verdict, success_requested=success_requested, lmtp=lmtp)
    return b"" if what == "-" else notary_fields(recipient_address, verdict, pid=pid, action=what)


def status_word(verdict: Verdict, *, extended: bool, action: str, lmtp: bool) -> str:
    """The status of a report line; ``retryat`` comes with its interval, ``retryat +60``.

    Default: ``ok``, ``error``, ``deferred``, and ``retryat`` where a whole host is to be left alone. Extended: ``ok3``
    (``ok2`` if a success is to be notified), ``error2``, ``deferall`` if no connection came about (nothing queued for
    this host has better chances), ``deferback`` if the end of the content was refused for now or remained unanswered
    (let others go first; an LMTP reply there speaks of one mailbox only, so it is ``deferred``), ``retryat``,
    ``deferred``.
    """
    if verdict.fate is _DELIVERED:
        if not extended:
            return "ok"
        return "ok3" if action == "-" else "ok2"
    if verdict.fate is Fate.FAILED:
        return "error2" if extended else "error"
    never_connected = verdict.peer is None or verdict.peer.local is None
    if extended and verdict.at_final_dot and (verdict.in_doubt or not lmtp):
        return "deferback"
    if extended and verdict.level is Level.HOST and never_connected:
        return "deferall"
    if verdict.level is Level.HOST and verdict.retry_after > 0:
        return f"retryat +{verdict.retry_after}"
    return "deferred"


def report_message(text: str) -> bytes:
    """The message of a report: lines separated by CR, the last ones kept if there are too many.

    A dialogue ends with what matters, a line begins with it: so whole lines are dropped from the front, and one that
    is too long by itself loses its end.
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
    """One line for the scheduler. ``notary`` and ``message`` are as the functions above make them."""
    name = id if id.isdigit() and len(id) <= _FIELD_LIMIT else _field(id)
    return b"%b/%d\t%b\t%b %b\n" % (name, offset, notary, word.encode("ascii"), message)


def diagnostic_record(recipient: Recipient, header_offset: int, epoch: int, notary: bytes, message: bytes) -> bytes:
    """The ``d`` record of the control file: ``d offset:headeroffset:dsnoffset::epoch<TAB>notary<TAB>message``.

    The offsets are those of the recipient record, of the first octet of its header, and of its ``N`` record (-1
    without one); ``epoch`` counts seconds since 1970.
    """
    places = f"d {recipient.offset}:{header_offset}:{recipient.dsn_offset}::{epoch}"
    return b"%b\t%b\t%b\n" % (places.encode("ascii"), notary, message)


def _clean(text: bytes | str) -> bytes:
    return escape(text).encode("utf-8")


def _cut(data: bytes, limit: int) -> bytes:
    """At most ``limit`` octets of UTF-8, no character halved; a cut is shown."""
    if len(data) <= limit:
        return data
    return data[: limit - 3].decode("utf-8", "ignore").encode("utf-8") + b"..."


def _field(text: bytes | str, limit: int = _FIELD_LIMIT) -> bytes:
    return _cut(_clean(text), limit)


class Reporter:
    """The report channel, with the order of marks and reports.

    ``write`` takes whole lines and has them on their way when it returns (flushed), or raises OSError. When it did,
    standard output counts as closed: ``stdout_closed`` is true, later reports are skipped, and what a report would
    have told, and would be lost otherwise, goes into the control file as a ``d`` record. ``pid`` is that of this
    process; ``extended`` stands for ``-O ta-diagnostics``. With ``logged`` a :class:`Report` has all its fields; else
    those are left empty that only logs would show.

    With ``gather`` what nobody is harmed by when it comes late, ``#hungry`` and successes already marked, is held
    until the next line of another kind or until :meth:`flush`, which is to be called before every wait of more than a
    moment and when :attr:`full`: so one write tells of all messages whose replies came close together.
    """

    def __init__(
        self, write: Callable[[bytes], object], *, pid: int, extended: bool, gather: bool = False, logged: bool = True
    ) -> None:
        self.stdout_closed = False
        self.logged = logged
        self._gather = gather
        self._held: list[bytes] = []
        self._write = write
        self.pid = pid
        self._extended = extended

    def hungry(self) -> None:
        """Ask for the next job line."""
        if self._gather:
            self._held.append(b"#hungry\n")
        else:
            self._send(b"#hungry\n")

    @property
    def full(self) -> bool:
        """Whether so many lines are held that they should leave."""
        return len(self._held) >= _MOST_HELD

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self._send(b"")

    def resync(self, path: bytes) -> None:
        """Have the scheduler forget the control file ``path`` (as its job line wrote it) and look at it again."""
        # Octets above 0x7f go back as they came: the scheduler compares.
        self._send(b"#resync " + b"".join(_PATH_OCTETS[octet] for octet in path) + b"\n")

    def comment(self, text: str) -> None:
        """Lines for the scheduler's log."""
        for line in text.splitlines() or [""]:
            self._send(b"# " + _clean(line) + b"\n")

    def settle(
        self, open_control: OpenControl, recipient: Recipient, verdict: Verdict, *, epoch: int, lmtp: bool
    ) -> Report:
        """Mark and report one recipient whose lock this process holds; returns what was told, for the logs.

        ``epoch`` is the time in seconds since 1970. A control file that cannot be written to (SpoolError) keeps no
        report from going out; the trouble is told as a comment.
        """
        wanted = action(verdict, success_requested=success_requested(recipient), lmtp=lmtp)
        show = self.logged or wanted != "-"
        full = notary_fields(recipient.user, verdict, pid=self.pid, action=wanted) if show else b""
        told = Report(
            id=open_control.control.id,
            recipient=recipient,
            word=status_word(verdict, extended=self._extended, action=wanted, lmtp=lmtp),
            notary=full,
            remote=remote_mta(verdict.peer) if self.logged else "",
            message=report_message(verdict.text),
            peer=verdict.peer,
        )
        if self._extended and wanted in _RECORDED:
            if self._record(open_control, told, epoch):
                self._release(open_control, told, _MARKS[verdict.fate])
                self._report(told, b"")
                return told
            # The scheduler will have to write the record, so it is told in the words that make it do so.
            told = told._replace(word=status_word(verdict, extended=False, action=wanted, lmtp=lmtp))
        self._settle_by_report(open_control, told, verdict, wanted=wanted, epoch=epoch)
        return told

    def _settle_by_report(
        self, open_control: OpenControl, told: Report, verdict: Verdict, *, wanted: str, epoch: int
    ) -> None:
        """The orders in which the scheduler writes the ``d`` record, or none is due."""
        notary = b"" if wanted == "-" else told.notary
        if verdict.fate is _DELIVERED:
            self._release(open_control, told, Mark.DELIVERED)
            if self._gather and not notary:
                self._held.append(_line_of(told, notary))
            elif not self._report(told, notary) and wanted in _RECORDED:
                self._record(open_control, told, epoch)
            return
        heard = self._report(told, notary)
        if verdict.fate is Fate.FAILED and not heard and not self._record(open_control, told, epoch):
            # Nobody knows of the failure: left to do, it will be found again and bounce then.
            self._release(open_control, told, Mark.TODO)
            return
        self._release(open_control, told, _MARKS[verdict.fate])

    def _release(self, open_control: OpenControl, told: Report, mark: Mark) -> None:
        try:
            if not open_control.release(told.recipient, mark):
                self.comment(f"smtp: no mark for {told.recipient.offset}: the lock is another process's now")
        except SpoolError as error:
            self.comment(f"smtp: no mark for {told.recipient.offset}: {error}")

    def _record(self, open_control: OpenControl, told: Report, epoch: int) -> bool:
        headers = open_control.control.headers
        index = told.recipient.header
        header_offset = headers[index].offset if 0 <= index < len(headers) else -1
        try:
            open_control.append(diagnostic_record(told.recipient, header_offset, epoch, told.notary, told.message))
        except SpoolError as error:
            self.comment(f"smtp: no diagnostic record for {told.recipient.offset}: {error}")
            return False
        return True

    def _report(self, told: Report, notary: bytes) -> bool:
        return self._send(_line_of(told, notary))

    def _send(self, line: bytes) -> bool:
        """Whether ``line`` is on its way."""
        if self._held:
            line = b"".join((*self._held, line))
            self._held.clear()
        if self.stdout_closed:
            return False
        try:
            self._write(line)
        except (OSError, ValueError):  # ValueError: what a closed file object raises
            self.stdout_closed = True
            return False
        return True


def _line_of(told: Report, notary: bytes) -> bytes:
    return report_line(told.id, told.recipient.offset, notary, told.word, told.message)


# Actions that a delivery status notification is made of; for "delayed" the scheduler decides when it is time.
_RECORDED = frozenset({"failed", "delivered", "relayed"})

_MARKS = {Fate.DELIVERED: Mark.DELIVERED, Fate.FAILED: Mark.FAILED, Fate.DEFERRED: Mark.TODO}

_PATH_OCTETS = [
    bytes([octet]) if octet > 0x7F or 0x20 <= octet < 0x7F else escape(bytes([octet])).encode("ascii")
    for octet in range(256)
]
