"""Records, marks and reports of recipients, in the one order that loses neither fact nor bounce.

:class:`ReportWriter` settles a recipient in steps. A crash may fall between any two of them:

==============  ====================================  ==========================================
verdict         as a rule                             the old words (``-O no-ta-diagnostics``)
==============  ====================================  ==========================================
delivered       mark ``+``, then ``ok3``              mark ``+``, then ``ok``
... DSN wanted  ``d`` record, mark ``+``, ``ok2``     mark ``+``, then ``ok`` with notary
failed          ``d`` record, mark ``-``, ``error2``  ``error``, then mark ``-``
deferred        report, then blank the lock           report, then blank the lock
==============  ====================================  ==========================================

The scheduler writes the record for the old words, if it lives to read them, and with the DSN wishes of the first
recipient that the control file has for this host; so agents write it. A recipient that has a record and no mark was
left by an agent that died between the two: it is marked, not tried again (:meth:`ReportWriter.settle_recorded`).

What is said in a record and a report is the business of ``zsmtp.zmailer.diagnostics``.
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

_DELIVERED, _DEFERRED = Disposition.DELIVERED, Disposition.DEFERRED  # asked of the class they cost more
_MOST_HELD = 16  # lines: the scheduler is to see its jobs done bit by bit


class ControlWriter(Protocol):
    """A control file that can be written to, as ``locks.OpenControl`` is; its methods raise SpoolError.

    ``release`` returns whether the lock was still this process's, and so the mark was written.
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

    ``write`` takes whole lines and has them on their way when it returns (flushed), or raises OSError. When it did,
    standard output counts as closed: ``stdout_closed`` is true, later reports are skipped, and what a report would
    have told, and would be lost otherwise, goes into the control file as a ``d`` record. ``pid`` is that of this
    process; ``extended`` stands for ``-O ta-diagnostics``. With ``logged`` a :class:`RecipientReport` has all its
    fields; else those are left empty that only logs would show.

    With ``gather`` what does no harm when it comes late is held until the next line of another kind, until
    :meth:`flush`, which is to be called before every wait of more than a moment and when :attr:`full`, or until
    :meth:`finish`: ``#hungry``, successes already marked, and whatever has its record in the control file. So one write
    tells of all messages whose replies came close together, and one wait for the disk serves all records of a file.
    """

    def __init__(
        self, write: Callable[[bytes], object], *, pid: int, extended: bool, gather: bool = False, logged: bool = True
    ) -> None:
        self.stdout_closed = False
        self.logged = logged
        self._gather = gather
        self._held: list[bytes | _Recorded] = []
        self._unmarked = 0  # how many of the held are recipients still to be marked
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

    def finish(self, open_control: ControlWriter) -> None:
        """Mark whoever is still to be marked in a control file, before it is closed. The reports stay held."""
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
        """Have the scheduler forget the control file ``path`` (as its job line wrote it) and look at it again."""
        self._send(resync_line(path))

    def comment(self, text: str) -> None:
        """Lines for the scheduler's log."""
        for line in text.splitlines() or [""]:
            self._send(comment_line(line))

    def settle(
        self, open_control: ControlWriter, recipient: ControlRecipient, verdict: Verdict, *, epoch: int, lmtp: bool
    ) -> RecipientReport:
        """Mark and report one recipient whose lock this process holds; returns what was told, for the logs.

        ``epoch`` is the time in seconds since 1970. A failure that cannot be recorded, because the control file cannot
        be written to, is reported as a deferral; other such trouble is told as a comment and keeps no report from going
        out.
        """
        told, wanted = self._report_of(open_control.control.id, recipient, verdict, lmtp=lmtp)
        if self._extended and (verdict.fate is Disposition.FAILED or wanted in _SUCCESSES):
            problem = _record(open_control, told, epoch)
            if problem is None:
                self._held.append(_Recorded(open_control, told, verdict))
                self._unmarked += 1
                if not self._gather:
                    self.flush()
                return told
            self.comment(f"smtp: no diagnostic record for {recipient.offset}: {problem}")
            if verdict.fate is Disposition.FAILED:
                verdict = _unrecorded(verdict, problem)
                told, wanted = self._report_of(open_control.control.id, recipient, verdict, lmtp=lmtp)
            else:  # the scheduler may have more luck
                told = told._replace(word="ok")
        self._settle_by_report(open_control, told, verdict, wanted=wanted, epoch=epoch)
        return told

    def settle_recorded(
        self, open_control: ControlWriter, recipient: ControlRecipient, record: FinalRecord
    ) -> RecipientReport:
        """Mark and report a recipient, locked by this process, whose ``d`` record says that it was settled before.

        The agent that appended the record did not live to mark it, or the scheduler did when the message expired: the
        sender is told by it. These words are the extended ones in any case: for others the scheduler would append a
        second record.
        """
        failed = record.action == b"failed"
        text = f"settled before: the control file has its record ({record.action.decode('ascii')})"
        word = "error2" if failed else "ok2"
        told = RecipientReport(open_control.control.id, recipient, word, b"", "", report_message(text))
        self._release(open_control, told, StateTag.FAILED if failed else StateTag.DELIVERED)
        self._send(_line_of(told, b""))
        return told

    def defer_untaken(self, id: bytes, recipient: ControlRecipient, verdict: Verdict, *, lmtp: bool) -> RecipientReport:
        """Report a deferral of a recipient that could not be locked; returns what was told, for the logs.

        ``id`` is the number of the control file.
        """
        told, _ = self._report_of(id, recipient, verdict, lmtp=lmtp)
        self._send(_line_of(told, told.notary))
        return told

    def _report_of(
        self, id: bytes, recipient: ControlRecipient, verdict: Verdict, *, lmtp: bool
    ) -> tuple[RecipientReport, str]:
        """What is told of one recipient, and the DSN action."""
        wanted = action(verdict, success_requested=success_requested(recipient), lmtp=lmtp)
        show = self.logged or wanted != "-"
        told = RecipientReport(
            id=id,
            recipient=recipient,
            word=status_word(verdict, extended=self._extended, action=wanted, lmtp=lmtp),
            notary=notary_fields(recipient.user, verdict, pid=self.pid, action=wanted) if show else b"",
            remote=remote_mta(verdict.peer) if self.logged else "",
            message=report_message(verdict.text),
        )
        return told, wanted

    def _settle_by_report(
        self, open_control: ControlWriter, told: RecipientReport, verdict: Verdict, *, wanted: str, epoch: int
    ) -> None:
        """The orders in which the scheduler writes the ``d`` record, or none is due."""
        notary = b"" if wanted == "-" else told.notary
        if verdict.fate is _DELIVERED:
            self._release(open_control, told, StateTag.DELIVERED)
            if self._gather and not notary:
                self._held.append(_line_of(told, notary))
            elif not self._send(_line_of(told, notary)) and wanted in _SUCCESSES:
                self._record_unheard(open_control, told, epoch)
            return
        heard = self._send(_line_of(told, notary))
        if verdict.fate is Disposition.FAILED and not heard and not self._record_unheard(open_control, told, epoch):
            # Nobody knows of the failure: left to do, it will be found again and bounce then.
            self._release(open_control, told, StateTag.TODO)
            return
        self._release(open_control, told, _MARKS[verdict.fate])

    def _record_unheard(self, open_control: ControlWriter, told: RecipientReport, epoch: int) -> bool:
        """Write into the control file what could not be reported; whether that is on the disk."""
        problem = _record(open_control, told, epoch) or _sync(open_control)
        if problem is not None:
            self.comment(f"smtp: no diagnostic record for {told.recipient.offset}: {problem}")
        return problem is None

    def _release(self, open_control: ControlWriter, told: RecipientReport, mark: StateTag) -> None:
        problem = _mark(open_control, told, mark)
        if problem:
            self._send(problem)

    def _conclude(self, one: _Recorded, problem: SpoolError | None) -> bytes:
        """Mark a recipient whose record was waited for, unless that failed (``problem``); the lines that tell of it."""
        open_control, told, verdict = one
        if problem is None:
            return _mark(open_control, told, _MARKS[verdict.fate]) + _line_of(told, b"")
        comment = comment_line(f"smtp: no diagnostic record for {told.recipient.offset}: {problem}")
        if verdict.fate is _DELIVERED:
            return (
                comment
                + _mark(open_control, told, StateTag.DELIVERED)
                + _line_of(told._replace(word="ok"), told.notary)
            )
        told, _ = self._report_of(told.id, told.recipient, _unrecorded(verdict, problem), lmtp=False)
        return comment + _line_of(told, told.notary) + _mark(open_control, told, StateTag.TODO)

    def _send(self, line: bytes) -> bool:
        """Whether ``line`` is on its way, behind all that is held."""
        if self._held:
            held, self._held = self._held, []
            line = b"".join((*self._marked(held), line))
        if self.stdout_closed:
            return False
        try:
            self._write(line)
        except (OSError, ValueError):  # ValueError: what a closed file object raises
            self.stdout_closed = True
            return False
        return True

    def _marked(self, held: list[bytes | _Recorded]) -> Iterable[bytes]:
        """What was held as lines, after whoever has a record was marked: one wait for the disk for each file."""
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


def _record(open_control: ControlWriter, told: RecipientReport, epoch: int) -> SpoolError | None:
    """Append the ``d`` record of a recipient; what went wrong, None if nothing did."""
    headers = open_control.control.headers
    index = told.recipient.header
    header_offset = headers[index].offset if 0 <= index < len(headers) else -1
    try:
        open_control.append(diagnostic_record(told.recipient, header_offset, epoch, told.notary, told.message))
    except SpoolError as error:
        return error
    return None


def _sync(open_control: ControlWriter) -> SpoolError | None:
    """Wait for the disk; what went wrong, None if nothing did."""
    try:
        open_control.sync()
    except SpoolError as error:
        return error
    return None


def _mark(open_control: ControlWriter, told: RecipientReport, mark: StateTag) -> bytes:
    """Mark a recipient; a comment line about what went wrong, empty if nothing did."""
    try:
        if open_control.release(told.recipient, mark):
            return b""
        problem = "the lock is another process's now"
    except SpoolError as error:
        problem = str(error)
    return comment_line(f"smtp: no mark for {told.recipient.offset}: {problem}")


def _unrecorded(verdict: Verdict, problem: SpoolError) -> Verdict:
    """The verdict on a recipient whose failure cannot be recorded for the sender: it waits until it can be."""
    text = f"{verdict.text}\rput off, since this cannot be recorded: {problem.problem}"
    status = EnhancedStatus(4, 3, 0)
    diagnostic = f"local; 450 ({problem.problem})"
    return Verdict(_DEFERRED, status, diagnostic, text, level=Scope.MESSAGE, peer=verdict.peer)


def _line_of(told: RecipientReport, notary: bytes) -> bytes:
    return report_line(told.id, told.recipient.offset, notary, told.word, told.message)


_SUCCESSES = frozenset({"delivered", "relayed"})  # actions of successes that somebody waits to hear of

_MARKS = {
    Disposition.DELIVERED: StateTag.DELIVERED,
    Disposition.FAILED: StateTag.FAILED,
    Disposition.DEFERRED: StateTag.TODO,
}
