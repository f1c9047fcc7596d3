"""The agent's loop over job lines: one ``#hungry`` for each line received, in their order.

A line is a control file with or without the host of the wanted recipients, ``#idle``, or empty, which ends the work
like the end of the feed. Further jobs for the same host in the feed may be pipelined while earlier ones wait for their
replies; each is marked, reported and answered when its own replies are in. While there are no jobs, NOOP tests an open
connection every three minutes. A signal ends the work: all messages in progress are given up, except those whose final
reply is due.

When the scheduler is gone no further job is begun, even if lines are left; jobs in progress are finished and marked.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from zsmtp.delivery.content import Targets
from zsmtp.delivery.envelope import Delivery
from zsmtp.errors import ConfigError, SpoolError
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.zmailer import environment, zenv
from zsmtp.zmailer.descriptors import Descriptors
from zsmtp.zmailer.dispatch import Dispatcher
from zsmtp.zmailer.feed import JobFeed, Presence, ReportChannel
from zsmtp.zmailer.jobs import ControlFileJob, JobContext, LegacyRules, matching, other_hosts
from zsmtp.zmailer.journal import Journal
from zsmtp.zmailer.locks import OpenControl, SystemTrouble, open_control, read_control
from zsmtp.zmailer.options import AgentOptions
from zsmtp.zmailer.reporter import ReportWriter

EX_OK = 0
EX_NOINPUT = 66
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_CONFIG = 78

YOUNG_OBJECTS = 10_000  # allocated between two searches for garbage cycles; this program makes hardly any

KEPT_OCTETS = 1 << 20  # the largest blocks for messages, and some reserve

MOST_JOBS = 1000  # in progress at a time; fewer if descriptors are scarce

NOOP_INTERVAL = 180.0  # seconds between two NOOPs on an idle connection

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def _settle_memory() -> None:
    """Tune the collector and the allocator: there is little garbage, and blocks of the same sizes repeat."""
    gc.freeze()  # loaded modules stay, so the collector need not scan them
    gc.enable()
    gc.set_threshold(YOUNG_OBJECTS)
    # The C library returns memory of this size to the system at once, so that the next message has page faults, until
    # such a block was freed once: then it keeps that much memory.
    bytes(KEPT_OCTETS)


class Loop:
    """The agent's main loop. The caller has written the first ``#hungry``."""

    def __init__(self, options: AgentOptions, warn: Callable[[str], None]) -> None:
        self._options = options
        self._warn = warn
        self._feed = JobFeed()
        self._channel = ReportChannel()
        self._presence = Presence(self._feed)
        self._stop = Stop()
        self._zenv = zenv.load(os.environ)
        asked = options.ta_diagnostics
        extended = self._zenv.flag("TA_DIAGNOSTICS", default=True) if asked is None else asked
        self._reporter = ReportWriter(self._channel.write, pid=os.getpid(), extended=extended, gather=True)
        self._journal = Journal(options, self._zenv, self._debug, warn)
        self._begun: deque[ControlFileJob] = deque()  # jobs without their #hungry, in the order of their lines
        self._named, self._named_host = b"", options.host  # the host in the previous line, as written and decoded
        self._channel_name = os.fsencode(options.channel)
        self._most_jobs = MOST_JOBS
        self._next: bytes | None = None  # a line taken from the feed that could not be pipelined

    def _debug(self, line: bytes) -> None:
        if not self._reporter.stdout_closed:
            self._reporter.comment(line.decode("utf-8", "replace").removeprefix("# ").rstrip("\n"))

    # ------------------------------------------------------------------ loop

    def run(self) -> int:
        """Work until the feed ends or a signal comes; returns the exit status."""
        _settle_memory()
        self._descriptors = Descriptors()
        for remark in self._zenv.remarks:
            self._warn(remark)
        self._handle_signals()
        try:
            self._driver: BlockingDriver = environment.driver(
                self._options, self._zenv, self._stop, self._journal, self._warn
            )
            security = environment.security(self._options, self._zenv, self._driver, self._warn)
        except ConfigError as error:
            self._warn(str(error))
            return EX_CONFIG
        except OSError as error:
            self._warn(f"{error.filename}: {error.strerror}")
            return EX_NOINPUT
        self._driver.before_wait = self._reporter.flush
        self._driver.may_linger = self._may_linger
        self._dispatcher = Dispatcher(self._options, self._driver, self._journal, security)
        self._context = JobContext(
            self._options,
            LegacyRules.of(self._zenv),
            Targets(environment.content_target(self._options, self._zenv, self._warn)),
            self._reporter,
            self._journal,
            self._warn,
            self._journal.report,
            self._dispatcher.run,
        )
        try:
            return self._work()
        finally:
            self._dispatcher.end("final close")
            self._reporter.flush()
            self._journal.close()
            if self._driver.policies is not None:
                self._driver.policies.close()

    def _may_linger(self) -> bool:
        """Whether reports can be held back: not while the scheduler may wait for them before giving more work."""
        busy = self._next is not None or self._feed.holds_line
        return busy and not self._reporter.full and not self._stop.requested

    def _work(self) -> int:
        while not self._reporter.stdout_closed and self._next_line_done():
            pass
        if self._feed.broken is not None:
            self._warn(f"the job feed broke off: {self._feed.broken.strerror}")
            return EX_TEMPFAIL
        if self._reporter.stdout_closed:
            self._warn("standard output is closed: no more reports are read")
            return EX_IOERR
        return EX_OK

    def _abandoned(self) -> bool:
        """Whether the scheduler is gone, so that no further job is begun."""
        if not self._presence.reports_are_read():
            self._reporter.stdout_closed = True
        return self._reporter.stdout_closed or self._feed.broken is not None

    def _handle_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self._channel.stopping = True
            self._stop.request()

        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _next_line_done(self) -> bool:
        """Process one line, and those pipelined with it; returns False when there is no more work."""
        line = self._next_line()
        if line is None or self._stop.requested:
            return False
        if line == b"#idle":
            self._dispatcher.idle()
            self._most_jobs = MOST_JOBS  # descriptors may be available again
            self._hungry()
            self._journal.state("#idle")
            return True
        if line.strip() and self._abandoned():
            return False
        self._journal.jobspec(line)
        if not line.strip():
            return False
        path, host = self._parse(line)
        if host is None:
            self._reporter.comment("smtp needs defined host!")
            self._hungry()
        else:
            self._job(line, path, host)
            self._journal.state("#hungry")
        return not self._stop.requested

    def _parse(self, line: bytes) -> tuple[bytes, str | None]:
        """The control file and the host of a job line."""
        path, _, named = line.partition(b"\t")
        if named != self._named:  # most lines have the same host as the previous one
            self._named, self._named_host = named, os.fsdecode(named.strip()) or self._options.host
        return path, self._named_host

    def _next_line(self) -> bytes | None:
        """The next line of the feed, waiting for it; None at its end and on a stop."""
        held, self._next = self._next, None
        if held is not None:
            return held
        while True:
            line = self._feed.take()
            if line is not None or self._feed.ended or self._stop.requested:
                return line
            self._reporter.flush()
            if self._reporter.stdout_closed:
                return None
            link = self._dispatcher.link
            deadline = None if link is None else time.monotonic() + NOOP_INTERVAL
            stream = None if link is None else link.stream
            if self._driver.wait_for_input(self._feed.fileno(), deadline, stream):
                self._feed.fill()
            elif link is not None and not self._stop.requested:
                self._dispatcher.keep_alive()

    def _hungry(self) -> None:
        """Ask for another line, unless a stop is requested."""
        if not self._stop.requested:
            self._reporter.hungry()

    # ------------------------------------------------------------------ jobs

    def _job(self, line: bytes, path: bytes, host: str) -> None:
        """Process one control file, and those that can be pipelined with it."""
        self._dispatcher.choose(self._options.force_destination or host)
        self._host, self._host_name = host, os.fsencode(host)
        try:
            self._begin(line, path, self._open(path))
            while (delivery := self._next_delivery()) is not None:
                self._dispatcher.deliver(delivery, self._next_delivery)
            if self._options.mx_match and self._begun and not self._stop.requested:
                self._serve_other_hosts(self._begun[0])
        finally:
            for job in list(self._begun):
                job.give_up()
            self._answer_done()

    def _begin(self, line: bytes, path: bytes, opened: OpenControl | SpoolError) -> None:
        """Lock the recipients of a control file; for one that could not be opened the job is empty."""
        self._dispatcher.begin(self._host, line)
        control = opened if isinstance(opened, OpenControl) else None
        job = ControlFileJob(self._context, control, self._answer_done, lambda: self._resync(path))
        self._begun.append(job)
        self._reporter.logged = job.has_own_log or self._journal.logs_reports
        if isinstance(opened, OpenControl):
            self._journal.begin(opened.control, self._warn)
            job.take(matching(opened.control, self._channel_name, self._host_name))
            return
        self._warn(str(opened))
        if isinstance(opened, SystemTrouble):
            self._put_off(job, path, opened)

    def _open(self, path: bytes) -> OpenControl | SpoolError:
        try:
            return open_control(os.fsdecode(path))
        except SpoolError as error:
            return error

    def _put_off(self, job: ControlFileJob, path: bytes, trouble: SystemTrouble) -> None:
        """Report the recipients of a job whose control file could not be opened, if it can be read now."""
        job.leave()
        try:
            with self._descriptors.spare():
                control = read_control(os.fsdecode(path))
        except SpoolError:
            return
        job.put_off(control.id, matching(control, self._channel_name, self._host_name), trouble)

    def _next_delivery(self) -> Delivery | None:
        """The next message of the jobs begun, or of another job that can be pipelined; None if there is none now."""
        while self._begun and not self._stop.requested:
            delivery = self._begun[-1].next_delivery()
            if delivery is not None:
                return delivery
            self._answer_done()
            if not self._begin_next():
                break
        return None

    def _begin_next(self) -> bool:
        """Begin the next job if its line is already in the feed and it is for the same host."""
        options = self._options
        logging = bool(self._begun) and self._begun[-1].has_own_log
        alone = options.one_message or options.mx_match or logging
        if alone or self._next is not None or len(self._begun) >= self._most_jobs or self._abandoned():
            return False
        if (line := self._feed.take()) is None:
            if self._feed.ended or not self._driver.is_readable(self._feed.fileno()):
                return False
            self._feed.fill()
            if self._feed.broken is not None or (line := self._feed.take()) is None:
                return False
        path, host = self._parse(line)
        elsewhere = host != self._host and (host is None or host.lower() != self._host.lower())
        if elsewhere or line == b"#idle" or not line.strip():
            self._next = line
            return False
        opened = self._open(path)
        if self._must_wait(opened):
            if isinstance(opened, OpenControl):
                opened.close()
            self._next = line
            return False
        self._journal.jobspec(line)
        self._begin(line, path, opened)
        return True

    def _must_wait(self, opened: OpenControl | SpoolError) -> bool:
        """Whether a job cannot be in progress beside the present ones: it comes after them, and alone."""
        if isinstance(opened, OpenControl):
            if opened.control.verbose_log is not None:
                return True  # its sender's log must contain this message's dialogue only
            short = not self._descriptors.has_room(opened.descriptor)
        else:
            short = isinstance(opened, SystemTrouble)
        if short:
            self._most_jobs = max(len(self._begun), 1)
        return short

    def _answer_done(self) -> None:
        """Answer the jobs that are done, in the order of their lines."""
        begun = self._begun
        while begun and begun[0].done and not (self._options.mx_match and self._wants_other_hosts(begun[0])):
            job = begun.popleft()
            job.close()
            if job.opened is not None:
                self._journal.end()
            self._hungry()

    def _resync(self, path: bytes) -> None:
        self._journal.remark(f"c='{self._options.channel}' h='{self._host}' #resync {os.fsdecode(path)}")
        self._reporter.resync(path)

    # -------------------------------------------------- -e: other hosts' mail

    def _wants_other_hosts(self, job: ControlFileJob) -> bool:
        return not job.looked_further and not self._stop.requested

    def _serve_other_hosts(self, job: ControlFileJob) -> None:
        """Deliver to recipients at other hosts whose mail exchangers include the host now connected to."""
        job.looked_further = True
        if job.opened is None:
            return
        hosts = other_hosts(job.opened.control, self._channel_name, self._host_name)
        served = self._dispatcher.served_here(list(hosts))
        job.take_along([recipient for name in hosts if name in served for recipient in hosts[name]])
        while (delivery := job.next_delivery()) is not None and not self._stop.requested:
            self._dispatcher.deliver_on_link(delivery)
