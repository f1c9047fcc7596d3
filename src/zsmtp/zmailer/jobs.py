"""One job: from a control file and a host to settled recipients.

A job opens its control file, takes the locks of the recipients meant for its channel and host, groups them into
messages (same sender, same header block, same DSN wishes; VERP recipients alone) and has each delivered. Every
recipient taken is marked and reported the moment its verdict is known; whatever happens on the way, none stays locked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from zsmtp.body.source import Source
from zsmtp.body.stored import Stored, prepare
from zsmtp.body.target import Conversion as BodyConversion
from zsmtp.body.target import Refusal as ContentRefusal
from zsmtp.body.tlsrequired import tls_is_optional
from zsmtp.delivery.content import Targets, content_form
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.outcome import Fate, Level, Verdict, from_loss
from zsmtp.delivery.report import Ledger
from zsmtp.dns.answer import Query, RecordType, Status
from zsmtp.errors import Interrupted, SpoolError
from zsmtp.events import About, Observer, Remark
from zsmtp.proto.address import domain_of
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, Refusal, SenderWish
from zsmtp.proto.plan import Recipient as Forward
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import NamedTuple, dataclass
from zsmtp.zmailer.control import By, ControlFile, Recipient
from zsmtp.zmailer.diagnostics import Report, Reporter
from zsmtp.zmailer.locks import MessageFile, MessageMissing, OpenControl, open_message
from zsmtp.zmailer.logs import Attempt, Conversion
from zsmtp.zmailer.options import Options
from zsmtp.zmailer.paths import message_path
from zsmtp.zmailer.spoolid import spool_id, verp
from zsmtp.zmailer.zenv import Zenv


class Habits(NamedTuple):
    """Old habits that ZENV asks for: TABs in headers made blanks, a ``for`` clause, canonical recipient domains."""

    expand_tabs: bool = False
    for_clause: bool = False
    canonize: bool = False

    @classmethod
    def of(cls, zenv: Zenv) -> Habits:
        """What a ZENV file says."""
        return cls(
            not zenv.flag("RFC822TABS", default=True), zenv.flag("RECEIVED_FOR_CLAUSE"), zenv.flag("CANONIZE_RCPT")
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a process share.

    ``told`` hears each report for the logs, with the attempt for syslog; ``run`` carries out the effects of a lookup.
    """

    options: Options
    habits: Habits
    targets: Targets
    reporter: Reporter
    observer: Observer
    complain: Callable[[str], None]
    told: Callable[[Report, Attempt], None]
    run: Callable[[Generator[Any, Any, bytes]], bytes]


class Job:
    """The work on one control file, which is None if it cannot be worked on.

    ``control`` is the parsed file, if there is one.
    ``has_own_log``: the sender asked for a log, in which nobody else's dialogue may stand.
    ``settled`` is called whenever the last recipient taken has its verdict; ``nobody`` tells the scheduler that there
    was nobody to be taken.
    """

    control: ControlFile

    def __init__(
        self,
        surroundings: Surroundings,
        opened: OpenControl | None,
        settled: Callable[[], None],
        nobody: Callable[[], None],
    ) -> None:
        self.opened = opened
        if opened is not None:
            self.control = opened.control
        self.looked_further = opened is None
        self.has_own_log = opened is not None and opened.control.verbose_log is not None
        self._all = surroundings
        self._settled = settled
        self._nobody = nobody
        self._message: MessageFile | None = None
        self._groups: deque[list[Recipient]] = deque()
        self._unsettled: dict[int, Recipient] = {}
        self._conversions: dict[int, Conversion] = {}  # by offset of the recipient
        self._taken = 0
        self._started = time.time()

    @property
    def done(self) -> bool:
        """Whether everybody taken has a verdict."""
        return not self._unsettled

    def take(self, wanted: Sequence[Recipient]) -> None:
        """Lock those of ``wanted`` that nobody else has, and make messages for them."""
        assert self.opened is not None
        taken = self.opened.take_all(wanted, pid=self._all.reporter.pid)
        for recipient in taken:
            self._unsettled[recipient.offset] = recipient
        self._taken += len(taken)
        if taken and (self._message is not None or self._open_message(taken)):
            self._groups += group_recipients(taken, alone=not self._all.options.ignore_ezmlm)

    def next_delivery(self) -> Delivery | None:
        """The next message, None if there is no further one."""
        if self._groups:
            return self._delivery(self._groups.popleft())
        return None

    def give_up(self) -> None:
        """Put off everybody who has no verdict yet: nothing stays locked."""
        self._groups.clear()
        verdict = from_loss(Interrupted("told to stop"), "", None)
        for recipient in list(self._unsettled.values()):
            self._settle(recipient, verdict)

    def close(self) -> None:
        """The work is done: let go of the files."""
        if self._message is not None:
            self._message.close()
        if self.opened is not None:
            self.opened.close()
        if not self._taken:
            self._nobody()

    def _open_message(self, taken: list[Recipient]) -> bool:
        """Open the message file; if that fails everyone is settled, and it is False."""
        control = self.control
        path = message_path(control.path, control.message_name)
        try:
            self._message = open_message(path, control.body_offset)
        except MessageMissing as error:
            self._all.complain(str(error))
            text = "message file is missing"
            status = EnhancedStatus(5, 3, 0)
            verdict = Verdict(Fate.FAILED, status, f"local; 550 ({text})", text, level=Level.MESSAGE)
        except SpoolError as error:
            self._all.complain(str(error))
            status = EnhancedStatus(4, 3, 0)
            verdict = Verdict(
                Fate.DEFERRED, status, f"local; 450 ({error.problem})", error.problem, level=Level.MESSAGE
            )
        else:
            return True
        for recipient in taken:
            self._settle(recipient, verdict)
        return False

    def _delivery(self, group: list[Recipient]) -> Delivery:
        envelope = self._envelope(group)

        def settle(index: int, verdict: Verdict) -> None:
            self._settle(group[index], verdict)

        name = self._spool_id() if self._all.options.trace is not None else ""
        return Delivery(Message(envelope, self._content_for(group, envelope)), Ledger(len(group), settle), name)

    def _settle(self, recipient: Recipient, verdict: Verdict) -> None:
        del self._unsettled[recipient.offset]
        now = time.time()
        reporter = self._all.reporter
        assert self.opened is not None
        report = reporter.settle(self.opened, recipient, verdict, epoch=int(now), lmtp=self._all.options.lmtp)
        if reporter.logged:
            self._all.told(report, self._attempt(recipient, verdict, now))
        if not self._unsettled:
            self._settled()

    def _attempt(self, recipient: Recipient, verdict: Verdict, now: float) -> Attempt:
        """What syslog is told of the attempt besides the report."""
        if self._message is None:
            name = self.control.id.decode("ascii")
            return Attempt(name, now - self._started, now - self._started, Conversion.UNKNOWN)
        done = self._conversions.get(recipient.offset, Conversion.NONE)
        conversion = done if verdict.at_final_dot else Conversion.UNKNOWN
        age = now - self._message.mtime_ns / 1e9
        return Attempt(self._spool_id(), age, now - self._started, conversion)

    def _spool_id(self) -> str:
        assert self._message is not None
        return spool_id(self._message.inode, self._message.mtime_ns)

    # -------------------------------------------------------------- envelope

    def _envelope(self, group: list[Recipient]) -> Envelope:
        first = group[0]
        sender = self.control.senders[first.sender]
        reverse = b"" if sender.null else sender.user
        if first.dsn.ezmlm is not None and not self._all.options.ignore_ezmlm:
            reverse = verp(reverse, first.dsn.ezmlm, self._spool_id())
        forwards = [self._forward(recipient) for recipient in group]
        return Envelope(reverse, tuple(forwards), first.ret, first.envid, self._wish(first))

    def _wish(self, recipient: Recipient) -> SenderWish:
        """What the sender asks of sessions; the word in the control file goes before the header field (RFC 8689 5)."""
        if recipient.dsn.requiretls:
            return SenderWish.REQUIRETLS
        optional = tls_is_optional(self.control.headers[recipient.header].data)
        return SenderWish.TLS_OPTIONAL if optional else SenderWish.NONE

    def _forward(self, recipient: Recipient) -> Forward:
        address, dsn = recipient.user, recipient.dsn
        if self._all.habits.canonize:
            address = self._all.run(canonical_address(address))
        return Forward(address, dsn.notify, dsn.orcpt, None if dsn.by is None else self._deliver_by(dsn.by))

    def _deliver_by(self, by: By) -> tuple[int, bytes] | None:
        """The time that is left of DELIVERBY, which counts from the arrival of the message (RFC 2852 4)."""
        if self._message is None:
            return None
        return int(by.seconds - (time.time() - self._message.mtime_ns / 1e9)), by.flags

    # --------------------------------------------------------------- content

    def _content_for(
        self, group: list[Recipient], envelope: Envelope
    ) -> Callable[[Capabilities], ContentForm | Refusal]:
        """The content for these recipients; looked through when the first server asks for it, and then kept."""
        kept: list[Stored] = []
        internationalised = envelope.internationalised

        def content_for(capabilities: Capabilities) -> ContentForm | Refusal:
            if not kept:
                kept.append(self._prepare(group))
            content = kept[0].content(self._all.targets.of(capabilities, internationalised=internationalised))
            if isinstance(content, ContentRefusal):
                return content_form(content)
            for text in content.remarks:
                self._all.observer(Remark(text, About.CONTENT, envelope))
            if content.conversion is not BodyConversion.NONE:
                self._conversions.update((r.offset, Conversion(content.conversion.value)) for r in group)
            return content_form(content)

        return content_for

    def _prepare(self, group: list[Recipient]) -> Stored:
        assert self._message is not None
        habits = self._all.habits
        control = self.control
        header = control.headers[group[0].header].data
        if habits.expand_tabs or habits.for_clause:
            from zsmtp.body.headers import add_for_clause, expand_tabs  # they cost only those who have them

            header = expand_tabs(header) if habits.expand_tabs else header
            header = add_for_clause(header, group[0].user) if habits.for_clause and len(group) == 1 else header
        return prepare(header, Source(self._message, control.body_offset, self._message.size))


def group_recipients(recipients: list[Recipient], *, alone: bool) -> list[list[Recipient]]:
    """Those who can share a transaction, in file order; ``alone`` keeps VERP recipients by themselves."""
    if len(recipients) == 1:
        return [recipients]
    groups: dict[object, list[Recipient]] = {}
    for r in recipients:
        key: object = (r.sender, r.header, r.envid, r.ret, r.dsn.requiretls)
        if alone and r.dsn.ezmlm is not None:
            key = r.offset
        groups.setdefault(key, []).append(r)
    return list(groups.values())


def canonical_address(address: bytes) -> Generator[Query, Any, bytes]:
    """``address`` with its domain replaced by the canonical name if it is an alias (ZENV ``CANONIZE_RCPT``).

    A rule of RFC 974's time that RFC 5321 5.1 does not have any more; a failed lookup leaves the address alone.
    """
    domain = domain_of(address)
    if not domain.isascii() or not domain or domain.startswith(b"["):
        return address
    name = domain.decode("ascii").rstrip(".")
    answer = yield Query(name, RecordType.MX)
    if answer.status not in (Status.OK, Status.NODATA) or not answer.canonical:
        return address
    if answer.canonical.lower() == name.lower():
        return address
    canonical: bytes = answer.canonical.encode("ascii", "ignore")
    return address[: len(address) - len(domain)] + canonical


def matching(control: ControlFile, channel: bytes, host: bytes) -> list[Recipient]:
    """The recipients still to do for this channel and host; hosts are compared without case."""
    wanted = host.lower()
    return [r for r in control.recipients if r.state == b" " and r.channel == channel and r.host.lower() == wanted]


def other_hosts(control: ControlFile, channel: bytes, host: bytes) -> dict[bytes, list[Recipient]]:
    """The recipients still to do for this channel at other hosts, by host in lower case."""
    found: dict[bytes, list[Recipient]] = {}
    for r in control.recipients:
        if r.state == b" " and r.channel == channel and r.host.lower() != host.lower():
            found.setdefault(r.host.lower(), []).append(r)
    return found
