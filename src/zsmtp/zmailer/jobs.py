"""Works on one job: settles the recipients of a control file for a host.

A job opens its control file, takes the locks of the recipients meant for its channel and host, groups them into
messages (same sender, same header block, same DSN parameters; VERP recipients alone) and has each delivered. Every
recipient taken is marked and reported as soon as its verdict is known; none stays locked, also after errors. A failure
of this machine (no descriptor, no space, an I/O error) is reported as a deferral with the reason.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from zsmtp.body.source import Source
from zsmtp.body.stored import Stored, prepare
from zsmtp.body.target import Conversion as BodyConversion
from zsmtp.body.tlsrequired import tls_is_optional
from zsmtp.delivery.content import ContentProvider, Targets
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Scope, Verdict, from_loss
from zsmtp.dns.answer import Query, RecordType, Status
from zsmtp.effects import Operation
from zsmtp.errors import INTERRUPTED, Interrupted, SpoolError
from zsmtp.events import Observer
from zsmtp.proto.address import domain_of
from zsmtp.proto.plan import Envelope, TLSDemand
from zsmtp.proto.plan import EnvelopeRecipient as Forward
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import NamedTuple, dataclass
from zsmtp.zmailer.control import By, ControlFile, ControlRecipient, FinalRecord
from zsmtp.zmailer.diagnostics import RecipientReport, settles
from zsmtp.zmailer.locks import OpenControl
from zsmtp.zmailer.logs import LoggedAttempt, LoggedConversion
from zsmtp.zmailer.messagefile import MessageFile, MessageMissing, open_message
from zsmtp.zmailer.options import AgentOptions
from zsmtp.zmailer.paths import message_path
from zsmtp.zmailer.reporter import ReportWriter
from zsmtp.zmailer.spoolid import spool_id, verp
from zsmtp.zmailer.zenv import Zenv


class LegacyRules(NamedTuple):
    """Legacy edits enabled by ZENV: TABs in headers made blanks, a ``for`` clause, canonical recipient domains."""

    expand_tabs: bool = False
    for_clause: bool = False
    canonize: bool = False

    @classmethod
    def of(cls, zenv: Zenv) -> LegacyRules:
        """The rules in a ZENV file."""
        return cls(
            not zenv.flag("RFC822TABS", default=True), zenv.flag("RECEIVED_FOR_CLAUSE"), zenv.flag("CANONIZE_RCPT")
        )


@dataclass(frozen=True, slots=True)
class JobContext:
    """The values that all jobs of a process share.

    ``on_report`` is called with each report for the logs, and the attempt for syslog; ``run`` carries out the effects
    of a lookup.
    """

    options: AgentOptions
    habits: LegacyRules
    targets: Targets
    reporter: ReportWriter
    observer: Observer
    warn: Callable[[str], None]
    on_report: Callable[[RecipientReport, LoggedAttempt], None]
    run: Callable[[Operation[bytes]], bytes]


class ControlFileJob:
    """The work on one control file; ``opened`` is None if it could not be opened.

    ``control`` is the parsed file, if there is one. ``has_own_log``: the sender requested a log, which must not contain
    the dialogue of other messages. ``settled`` is called whenever the last recipient taken has its verdict;
    ``without_reports`` when the job is closed and no recipient was reported.
    """

    control: ControlFile

    def __init__(
        self,
        context: JobContext,
        opened: OpenControl | None,
        settled: Callable[[], None],
        without_reports: Callable[[], None],
    ) -> None:
        self.opened = opened
        if opened is not None:
            self.control = opened.control
        self.looked_further = opened is None
        self.has_own_log = opened is not None and opened.control.verbose_log is not None
        self._all = context
        self._settled = settled
        self._without_reports = without_reports
        self._message: MessageFile | None = None
        self._groups: deque[list[ControlRecipient]] = deque()
        self._unsettled: dict[int, ControlRecipient] = {}
        self._conversions: dict[int, LoggedConversion] = {}  # by offset of the recipient
        self._answered = False  # a recipient was, or will be, reported
        self._started = time.time()

    @property
    def done(self) -> bool:
        """Whether every recipient taken has a verdict."""
        return not self._unsettled

    def take(self, wanted: Sequence[ControlRecipient]) -> None:
        """Lock those of ``wanted`` that no other process has locked, and make messages for them."""
        try:
            self._take(wanted)
        except SpoolError as error:
            self._all.warn(str(error))
            self.put_off(self.control.id, wanted, error)

    def take_along(self, others: Sequence[ControlRecipient]) -> None:
        """Like :meth:`take`, for recipients of another job, which keeps those that cannot be locked now."""
        try:
            self._take(others)
        except SpoolError as error:
            self._all.warn(str(error))

    def _take(self, wanted: Sequence[ControlRecipient]) -> None:
        assert self.opened is not None
        taken = self.opened.take_all(wanted, pid=self._all.reporter.pid)
        for recipient in taken:
            self._unsettled[recipient.offset] = recipient
        if not taken:
            return
        self._answered = True
        if self.control.recorded:
            taken = self._settle_recorded(taken)
        if taken and (self._message is not None or self._open_message(taken)):
            self._groups += group_recipients(taken, alone=not self._all.options.ignore_ezmlm)

    def put_off(self, id: bytes, wanted: Sequence[ControlRecipient], trouble: SpoolError) -> None:
        """Report a deferral of ``wanted``, which could not be locked because of a failure of this machine.

        ``id`` is the number of the control file.
        """
        all_jobs = self._all
        for recipient in wanted:
            self._answered = True
            verdict = _local_trouble(trouble)
            report = all_jobs.reporter.defer_untaken(id, recipient, verdict, lmtp=all_jobs.options.lmtp)
            if all_jobs.reporter.logged:
                now = time.time()
                passed = now - self._started
                all_jobs.on_report(report, LoggedAttempt(id.decode("ascii"), passed, passed, LoggedConversion.UNKNOWN))

    def leave(self) -> None:
        """Leave the job unchanged, to come again, because of a failure of this machine."""
        self._answered = True

    def _settle_recorded(self, taken: list[ControlRecipient]) -> list[ControlRecipient]:
        """Settle recipients that already have a record in the control file; returns the others."""
        assert self.opened is not None
        records: dict[int, list[FinalRecord]] = {}
        for one in self.control.recorded:
            records.setdefault(one.offset, []).append(one)
        for recipient in taken:
            found = records.get(recipient.offset, ())
            record = next((one for one in found if settles(one, recipient)), None)
            if record is not None:
                del self._unsettled[recipient.offset]
                report = self._all.reporter.settle_recorded(self.opened, recipient, record)
                if self._all.reporter.logged:
                    self._all.on_report(report, self._attempt(recipient, time.time()))
        return [recipient for recipient in taken if recipient.offset in self._unsettled]

    def next_delivery(self) -> Delivery | None:
        """The next message, None if there is no further one."""
        if self._groups:
            return self._delivery(self._groups.popleft())
        return None

    def give_up(self) -> None:
        """Defer all recipients without a verdict, so that none stays locked."""
        self._groups.clear()
        verdict = from_loss(Interrupted(INTERRUPTED), "", None)
        for recipient in list(self._unsettled.values()):
            self._settle(recipient, verdict)

    def close(self) -> None:
        """End the work: close the files."""
        if self._message is not None:
            self._message.close()
        if self.opened is not None:
            self._all.reporter.finish(self.opened)
            self.opened.close()
        if not self._answered:
            self._without_reports()

    def _open_message(self, taken: list[ControlRecipient]) -> bool:
        """Open the message file; if that fails, settle all recipients and return False."""
        control = self.control
        try:
            path = message_path(control.path, control.message_name)
            self._message = open_message(path, control.body_offset)
        except MessageMissing as error:
            self._all.warn(str(error))
            text = "message file is missing"
            status = EnhancedStatus(5, 3, 0)
            verdict = Verdict(Disposition.FAILED, status, f"local; 550 ({text})", text, level=Scope.MESSAGE)
        except SpoolError as error:
            self._all.warn(str(error))
            verdict = _local_trouble(error)
        else:
            return True
        for recipient in taken:
            self._settle(recipient, verdict)
        return False

    def _delivery(self, group: list[ControlRecipient]) -> Delivery:
        envelope = self._envelope(group)

        def settle(index: int, verdict: Verdict) -> None:
            self._settle(group[index], verdict)

        name = self._spool_id() if self._all.options.trace is not None else ""
        return Delivery(Message(envelope, self._content_for(group, envelope)), Ledger(len(group), settle), name)

    def _settle(self, recipient: ControlRecipient, verdict: Verdict) -> None:
        del self._unsettled[recipient.offset]
        now = time.time()
        reporter = self._all.reporter
        assert self.opened is not None
        report = reporter.settle(self.opened, recipient, verdict, epoch=int(now), lmtp=self._all.options.lmtp)
        if reporter.logged:
            self._all.on_report(report, self._attempt(recipient, now))
        if not self._unsettled:
            self._settled()

    def _attempt(self, recipient: ControlRecipient, now: float) -> LoggedAttempt:
        """The facts of the attempt for syslog besides the report."""
        if self._message is None:
            name = self.control.id.decode("ascii")
            return LoggedAttempt(name, now - self._started, now - self._started, LoggedConversion.UNKNOWN)
        conversion = self._conversions.get(recipient.offset, LoggedConversion.UNKNOWN)
        age = now - self._message.mtime_ns / 1e9
        return LoggedAttempt(self._spool_id(), age, now - self._started, conversion)

    def _spool_id(self) -> str:
        assert self._message is not None
        return spool_id(self._message.inode, self._message.mtime_ns)

    # -------------------------------------------------------------- envelope

    def _envelope(self, group: list[ControlRecipient]) -> Envelope:
        first = group[0]
        sender = self.control.senders[first.sender]
        reverse = b"" if sender.null else sender.user
        if first.dsn.ezmlm is not None and not self._all.options.ignore_ezmlm:
            reverse = verp(reverse, first.dsn.ezmlm, self._spool_id())
        forwards = [self._forward(recipient) for recipient in group]
        return Envelope(reverse, tuple(forwards), first.ret, first.envid, self._wish(first))

    def _wish(self, recipient: ControlRecipient) -> TLSDemand:
        """The sender's TLS demand; the word in the control file overrides the header field (RFC 8689 5)."""
        if recipient.dsn.requiretls:
            return TLSDemand.REQUIRETLS
        optional = tls_is_optional(self.control.headers[recipient.header].data)
        return TLSDemand.TLS_OPTIONAL if optional else TLSDemand.NONE

    def _forward(self, recipient: ControlRecipient) -> Forward:
        address, dsn = recipient.user, recipient.dsn
        if self._all.habits.canonize:
            address = self._all.run(canonical_address(address))
        return Forward(address, dsn.notify, dsn.orcpt, None if dsn.by is None else self._deliver_by(dsn.by))

    def _deliver_by(self, by: By) -> tuple[int, bytes] | None:
        """The remaining time of DELIVERBY, counted from the arrival of the message (RFC 2852 4)."""
        if self._message is None:
            return None
        return int(by.seconds - (time.time() - self._message.mtime_ns / 1e9)), by.flags

    # --------------------------------------------------------------- content

    def _content_for(self, group: list[ControlRecipient], envelope: Envelope) -> ContentProvider:
        """The content for these recipients; its conversion is recorded for syslog."""

        def converted(conversion: BodyConversion) -> None:
            done = LoggedConversion.NONE if conversion is BodyConversion.NONE else LoggedConversion(conversion.value)
            self._conversions.update(dict.fromkeys([r.offset for r in group], done))

        context = self._all
        return ContentProvider(lambda: self._prepare(group), context.targets, envelope, context.observer, converted)

    def _prepare(self, group: list[ControlRecipient]) -> Stored:
        assert self._message is not None
        habits = self._all.habits
        control = self.control
        header = control.headers[group[0].header].data
        if habits.expand_tabs or habits.for_clause:
            from zsmtp.body.headers import add_for_clause, expand_tabs  # imported only if used, to save start-up time

            header = expand_tabs(header) if habits.expand_tabs else header
            header = add_for_clause(header, group[0].user) if habits.for_clause and len(group) == 1 else header
        return prepare(header, Source(self._message, control.body_offset, self._message.size))


def _local_trouble(error: SpoolError) -> Verdict:
    """The verdict when this machine failed: the mail waits, without a backoff of its host."""
    text = f"local; 450 ({error.problem})"
    return Verdict(Disposition.DEFERRED, EnhancedStatus(4, 3, 0), text, error.problem, level=Scope.MESSAGE)


def group_recipients(recipients: list[ControlRecipient], *, alone: bool) -> list[list[ControlRecipient]]:
    """Groups of recipients that can share a transaction, in file order; with ``alone`` VERP recipients are single."""
    if len(recipients) == 1:
        return [recipients]
    groups: dict[object, list[ControlRecipient]] = {}
    for r in recipients:
        key: object = (r.sender, r.header, r.envid, r.ret, r.dsn.requiretls)
        if alone and r.dsn.ezmlm is not None:
            key = r.offset
        groups.setdefault(key, []).append(r)
    return list(groups.values())


async def canonical_address(address: bytes) -> bytes:
    """``address`` with its domain replaced by the canonical name if it is an alias (ZENV ``CANONIZE_RCPT``).

    RFC 974 had this rule, RFC 5321 5.1 has not; after a failed lookup the address stays unchanged.
    """
    domain = domain_of(address)
    if not domain.isascii() or not domain or domain.startswith(b"["):
        return address
    name = domain.decode("ascii").rstrip(".")
    answer = await Query(name, RecordType.MX)
    if answer.status not in (Status.OK, Status.NODATA) or not answer.canonical:
        return address
    if answer.canonical.lower() == name.lower():
        return address
    canonical: bytes = answer.canonical.encode("ascii", "ignore")
    return address[: len(address) - len(domain)] + canonical


def matching(control: ControlFile, channel: bytes, host: bytes) -> list[ControlRecipient]:
    """The remaining recipients for this channel and host; hosts are compared without case."""
    wanted = host.lower()
    return [r for r in control.recipients if r.state == b" " and r.channel == channel and r.host.lower() == wanted]


def other_hosts(control: ControlFile, channel: bytes, host: bytes) -> dict[bytes, list[ControlRecipient]]:
    """The remaining recipients for this channel at other hosts, by host in lower case."""
    found: dict[bytes, list[ControlRecipient]] = {}
    for r in control.recipients:
        if r.state == b" " and r.channel == channel and r.host.lower() != host.lower():
            found.setdefault(r.host.lower(), []).append(r)
    return found
