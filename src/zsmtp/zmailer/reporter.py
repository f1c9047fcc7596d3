"""Writes records, marks and reports of recipients, in the only order that loses no result and no bounce.

:class:`ReportWriter` settles a recipient in steps. A crash may fall between any two of them:

==============  ====================================  ==========================================
verdict         as a rule                             the old words (``-O no-ta-diagnostics``)
==============  ====================================  ==========================================
delivered       mark ``+``, then ``ok3``              mark ``+``, then ``ok``
... DSN wanted  ``d`` record, mark ``+``, ``ok2``     mark ``+``, then ``ok`` with notary
failed          ``d`` record, mark ``-``, ``error2``  ``error``, then mark ``-``
deferred        report, then blank the lock           report, then blank the lock
==============  ====================================  ==========================================

With the old words the scheduler writes the record, if it still runs, and uses the DSN parameters of the first recipient
for this host in the control file; so agents write it instead. A recipient that has a record and no mark is from an
agent that died between the two: it is marked, not tried again (:meth:`ReportWriter.settle_recorded`).

``zsmtp.zmailer.diagnostics`` formats records and reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, cast

from zsmtp.delivery.outcome import Disposition, Scope, Verdict
from zsmtp.errors import SpoolError
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import NamedTuple
from zsmtp.zmailer.diagnostics import (
    RecipientReport,
    action,
    comment_line,
    diagnostic_record,
    notary_fields,
    remote_mta,
    report_line,
    report_message,
    resync_line,
    status_word,
    success_requested,
)
from zsmtp.zmailer.locks import StateTag

if TYPE_CHECKING:
    from zsmtp.zmailer.control import ControlFile, ControlRecipient, FinalRecord

_DELIVERED, _DEFERRED = Disposition.DELIVERED, Disposition.DEFERRED  # an enum's attribute is read more slowly
_MOST_HELD = 16  # lines: the scheduler should see finished jobs continually


class ControlWriter(Protocol):
    """A writable control file, like ``locks.OpenControl``; its methods raise SpoolError.

    ``release`` returns whether the lock was still this process's, so that the mark was written.
    """

    @property
    def control(self) -> ControlFile: ...
    def release(self, recipient: ControlRecipient, mark: StateTag) -> bool: ...
    def append(self, record: bytes) -> None: ...
    def sync(self) -> None: ...


class _Recorded(NamedTuple):
    """A recipient whose ``d`` record is appended, and whose mark and report wait until it is on the disk."""

    open_control: ControlWriter
    report: RecipientReport
    verdict: Verdict


class ReportWriter:
    """The report channel, with the order of records, marks and reports.

    ``write`` takes whole lines and has flushed them when it returns, or raises OSError. After an error standard output
    counts as closed: ``stdout_closed`` is true, later reports are skipped, and a result that would be lost goes into
    the control file as a ``d`` record. ``pid`` is this process's; ``extended`` means ``-O ta-diagnostics``. With
    ``logged`` a :class:`RecipientReport` has all its fields; otherwise those for logs only are empty.

    With ``gather`` lines that may come late are held until the next line of another kind, until :meth:`flush`, which
    must be called before every longer wait and when :attr:`full`, or until :meth:`finish`: ``#hungry``, successes
    already marked, and results with a record in the control file. So one write reports all messages whose replies came
    close together, and one wait for the disk covers all records of a file.
    """

    def __init__(
        self, write: Callable[[bytes], object], *, pid: int, extended: bool, gather: bool = False, logged: bool = True
    ) -> None:
        self.stdout_closed = False
        self.logged = logged
        self._gather = gather
        self._held: list[bytes | _Recorded] = []
        self._unmarked = 0  # the number of held recipients that are not marked yet
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
        """Whether so many lines are held that they should be written."""
        return len(self._held) >= _MOST_HELD

    def flush(self) -> None:
        """Write the held lines."""
        if self._held:
            self._send(b"")

    def finish(self, open_control: ControlWriter) -> None:
        """Mark the held recipients of a control file, before it is closed. The reports stay held."""
        if not self._unmarked:
            return
        held, self._held, self._unmarked = self._held, [], 0
        problem: SpoolError | None = None
        synced = False
        for one in held:
            if isinstance(one, bytes):
                self._held.append(one)
            elif one.open_control is not open_control:
                self._held.append(one)
                self._unmarked += 1
            else:
                if not synced:
                    problem, synced = _sync(open_control), True
                self._held.append(self._conclude(one, problem))

    def resync(self, path: bytes) -> None:
        """Make the scheduler read the control file ``path`` (as in its job line) again."""
        self._send(resync_line(path))

    def comment(self, text: str) -> None:
        """Write lines for the scheduler's log."""
        for line in text.splitlines() or [""]:
            self._send(comment_line(line))

    def settle(
        self, open_control: ControlWriter, recipient: ControlRecipient, verdict: Verdict, *, epoch: int, lmtp: bool
    ) -> RecipientReport:
        """Mark and report one recipient whose lock this process holds; returns the report, for the logs.

        ``epoch`` is the time in seconds since 1970. A failure that cannot be recorded, because the control file is not
        writable, is reported as a deferral; other such errors are written as a comment and prevent no report.
        """
        report, wanted = self._report_of(open_control.control.id, recipient, verdict, lmtp=lmtp)
        if self._extended and (verdict.fate is Disposition.FAILED or wanted in _SUCCESSES):
            problem = _record(open_control, report, epoch)
            if problem is None:
                self._held.append(_Recorded(open_control, report, verdict))
                self._unmarked += 1
                if not self._gather:
                    self.flush()
                return report
            self.comment(f"smtp: no diagnostic record for {recipient.offset}: {problem}")
            if verdict.fate is Disposition.FAILED:
                verdict = _unrecorded(verdict, problem)
                report, wanted = self._report_of(open_control.control.id, recipient, verdict, lmtp=lmtp)
            else:  # the scheduler may be able to write it
                report = report._replace(word="ok")
        self._settle_by_report(open_control, report, verdict, wanted=wanted, epoch=epoch)
        return report

    def settle_recorded(
        self, open_control: ControlWriter, recipient: ControlRecipient, record: FinalRecord
    ) -> RecipientReport:
        """Mark and report a recipient, locked by this process, whose ``d`` record says that it was settled before.

        The agent that appended the record died before marking it, or the scheduler appended it when the message
        expired: it makes the sender's notification. The words are always the extended ones: for others the scheduler
        would append a second record.
        """
        failed = record.action == b"failed"
        text = f"settled before: the control file has its record ({record.action.decode('ascii')})"
        word = "error2" if failed else "ok2"
        report = RecipientReport(open_control.control.id, recipient, word, b"", "", report_message(text))
        self._release(open_control, report, StateTag.FAILED if failed else StateTag.DELIVERED)
        self._send(_line_of(report, b""))
        return report

    def defer_untaken(self, id: bytes, recipient: ControlRecipient, verdict: Verdict, *, lmtp: bool) -> RecipientReport:
        """Report a deferral of a recipient that could not be locked; returns the report, for the logs.

        ``id`` is the number of the control file.
        """
        report, _ = self._report_of(id, recipient, verdict, lmtp=lmtp)
        self._send(_line_of(report, report.notary))
        return report

    def _report_of(
        self, id: bytes, recipient: ControlRecipient, verdict: Verdict, *, lmtp: bool
    ) -> tuple[RecipientReport, str]:
        """The report about one recipient, and the DSN action."""
        wanted = action(verdict, success_requested=success_requested(recipient), lmtp=lmtp)
        show = self.logged or wanted != "-"
        report = RecipientReport(
            id=id,
            recipient=recipient,
            word=status_word(verdict, extended=self._extended, action=wanted, lmtp=lmtp),
            notary=notary_fields(recipient.user, verdict, pid=self.pid, action=wanted) if show else b"",
            remote=remote_mta(verdict.peer) if self.logged else "",
            message=report_message(verdict.text),
        )
        return report, wanted

    def _settle_by_report(
        self, open_control: ControlWriter, report: RecipientReport, verdict: Verdict, *, wanted: str, epoch: int
    ) -> None:
        """Settle a recipient in an order where the scheduler writes the ``d`` record, or none is due."""
        notary = b"" if wanted == "-" else report.notary
        if verdict.fate is _DELIVERED:
            self._release(open_control, report, StateTag.DELIVERED)
            if self._gather and not notary:
                self._held.append(_line_of(report, notary))
            elif not self._send(_line_of(report, notary)) and wanted in _SUCCESSES:
                self._record_unsent(open_control, report, epoch)
            return
        sent = self._send(_line_of(report, notary))
        if verdict.fate is Disposition.FAILED and not sent and not self._record_unsent(open_control, report, epoch):
            # The failure is not recorded anywhere: left to do, the recipient will be tried again and bounce then.
            self._release(open_control, report, StateTag.TODO)
            return
        self._release(open_control, report, _MARKS[verdict.fate])

    def _record_unsent(self, open_control: ControlWriter, report: RecipientReport, epoch: int) -> bool:
        """Record in the control file a result that could not be reported; returns whether it is on the disk."""
        problem = _record(open_control, report, epoch) or _sync(open_control)
        if problem is not None:
            self.comment(f"smtp: no diagnostic record for {report.recipient.offset}: {problem}")
        return problem is None

    def _release(self, open_control: ControlWriter, report: RecipientReport, mark: StateTag) -> None:
        problem = _mark(open_control, report, mark)
        if problem:
            self._send(problem)

    def _conclude(self, one: _Recorded, problem: SpoolError | None) -> bytes:
        """Mark a recipient whose record is on the disk, unless that failed (``problem``); returns its report lines."""
        open_control, report, verdict = one
        if problem is None:
            return _mark(open_control, report, _MARKS[verdict.fate]) + _line_of(report, b"")
        comment = comment_line(f"smtp: no diagnostic record for {report.recipient.offset}: {problem}")
        if verdict.fate is _DELIVERED:
            return (
                comment
                + _mark(open_control, report, StateTag.DELIVERED)
                + _line_of(report._replace(word="ok"), report.notary)
            )
        report, _ = self._report_of(report.id, report.recipient, _unrecorded(verdict, problem), lmtp=False)
        return comment + _line_of(report, report.notary) + _mark(open_control, report, StateTag.TODO)

    def _send(self, line: bytes) -> bool:
        """Write the held lines and ``line``; returns whether that succeeded."""
        if self._held:
            held, self._held = self._held, []
            line = b"".join((*self._marked(held), line))
        if self.stdout_closed:
            return False
        try:
            self._write(line)
        except (OSError, ValueError):  # a closed file object raises ValueError
            self.stdout_closed = True
            return False
        return True

    def _marked(self, held: list[bytes | _Recorded]) -> Iterable[bytes]:
        """The held lines, after marking recipients with records: one wait for the disk for each file."""
        if not self._unmarked:
            return cast(list[bytes], held)
        self._unmarked = 0
        synced: dict[int, SpoolError | None] = {}
        lines = []
        for one in held:
            if isinstance(one, bytes):
                lines.append(one)
                continue
            file = id(one.open_control)
            if file not in synced:
                synced[file] = _sync(one.open_control)
            lines.append(self._conclude(one, synced[file]))
        return lines


def _record(open_control: ControlWriter, report: RecipientReport, epoch: int) -> SpoolError | None:
    """Append the ``d`` record of a recipient; returns the error, None if there was none."""
    headers = open_control.control.headers
    index = report.recipient.header
    header_offset = headers[index].offset if 0 <= index < len(headers) else -1
    try:
        open_control.append(diagnostic_record(report.recipient, header_offset, epoch, report.notary, report.message))
    except SpoolError as error:
        return error
    return None


def _sync(open_control: ControlWriter) -> SpoolError | None:
    """Wait for the disk; returns the error, None if there was none."""
    try:
        open_control.sync()
    except SpoolError as error:
        return error
    return None


def _mark(open_control: ControlWriter, report: RecipientReport, mark: StateTag) -> bytes:
    """Mark a recipient; returns a comment line with the error, empty if there was none."""
    try:
        if open_control.release(report.recipient, mark):
            return b""
        problem = "the lock is another process's now"
    except SpoolError as error:
        problem = str(error)
    return comment_line(f"smtp: no mark for {report.recipient.offset}: {problem}")


def _unrecorded(verdict: Verdict, problem: SpoolError) -> Verdict:
    """The verdict on a recipient whose failure cannot be recorded for the sender: it is deferred until it can."""
    text = f"{verdict.text}\rput off, since this cannot be recorded: {problem.problem}"
    status = EnhancedStatus(4, 3, 0)
    diagnostic = f"local; 450 ({problem.problem})"
    return Verdict(_DEFERRED, status, diagnostic, text, level=Scope.MESSAGE, peer=verdict.peer)


def _line_of(report: RecipientReport, notary: bytes) -> bytes:
    return report_line(report.id, report.recipient.offset, notary, report.word, report.message)


_SUCCESSES = frozenset({"delivered", "relayed"})  # actions of successes with a requested notification

_MARKS = {
    Disposition.DELIVERED: StateTag.DELIVERED,
    Disposition.FAILED: StateTag.FAILED,
    Disposition.DEFERRED: StateTag.TODO,
}
