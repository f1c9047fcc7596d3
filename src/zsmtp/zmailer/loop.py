"""The loop over job lines: one ``#hungry`` for each line received, one route kept open between jobs.

A line is a control file with or without the host whose recipients are wanted, ``#idle``, or nothing, which ends the
work as the end of the feed does. While nothing is there to do, an open connection is asked every three minutes whether
it still lives. A signal ends the work: what is under way is given up, except a message whose final reply is due.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Message
from zsmtp.delivery.opening import Link
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.report import Ledger
from zsmtp.dns.destination import exchanger_names
from zsmtp.errors import ConfigError, SpoolError
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.zmailer import environment, zenv
from zsmtp.zmailer.control import Recipient
from zsmtp.zmailer.diagnostics import Reporter
from zsmtp.zmailer.feed import JobFeed, ReportChannel
from zsmtp.zmailer.jobs import Job, Surroundings, matching, other_hosts
from zsmtp.zmailer.journal import Journal
from zsmtp.zmailer.locks import open_control
from zsmtp.zmailer.options import Options

EX_OK = 0
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_CONFIG = 78

NOOP_INTERVAL = 180.0  # seconds between two signs of life on an idle connection
MAX_RESTING = 1000  # destinations remembered as failing
MAX_OTHER_HOSTS = 100  # destinations looked up for one job under -e

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Loop:
    """The agent at work. The first ``#hungry`` was said before it is made."""

    def __init__(self, options: Options, complain: Callable[[str], None]) -> None:
        self._options = options
        self._complain = complain
        self._feed = JobFeed()
        self._channel = ReportChannel()
        self._stop = Stop()
        self._zenv = zenv.load(os.environ)
        self._reporter = Reporter(self._channel.write, pid=os.getpid(), extended=self._extended())
        self._journal = Journal(options, self._zenv, self._debug, complain)
        self._courier = Courier(environment.session_settings(options), self._journal)
        self._driver: BlockingDriver | None = None
        self._route: Route | None = None
        self._resting: dict[str, tuple[float, Verdict]] = {}
        self._last_use = 0.0
        self._surroundings = Surroundings(
            options, self._zenv, self._reporter, self._journal, complain, self._journal.report
        )

    def _extended(self) -> bool:
        return self._options.ta_diagnostics or self._zenv.flag("TA_DIAGNOSTICS")

    def _debug(self, line: bytes) -> None:
        if not self._reporter.stdout_closed:
            self._reporter.comment(line.decode("utf-8", "replace").removeprefix("# ").rstrip("\n"))

    # ------------------------------------------------------------------ loop

    def run(self) -> int:
        """Work until the feed ends or a signal comes; the exit status."""
        for remark in self._zenv.remarks:
            self._complain(remark)
        self._heed_signals()
        try:
            self._driver = environment.driver(self._options, self._zenv, self._stop, self._journal, self._complain)
        except ConfigError as error:
            self._complain(str(error))
            return EX_CONFIG
        status = EX_OK
        try:
            while self._next_job() and not self._stop.requested:
                self._reporter.hungry()
                if self._reporter.stdout_closed:
                    self._complain("standard output is closed: nobody hears the reports")
                    status = EX_IOERR
                    break
        except OSError as error:
            self._complain(f"the job feed broke off: {error.strerror}")
            status = EX_TEMPFAIL
        finally:
            self._end_route("final close")
        return status

    def _heed_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self._channel.stopping = True
            self._stop.request()

        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _next_job(self) -> bool:
        """Deal with one line; False when there is no more to do."""
        line = self._next_line()
        if line is None or self._stop.requested:
            return False
        if not line.strip():
            self._journal.jobspec(line)
            return False
        if line == b"#idle":
            self._journal.state("#idle")
            return True
        self._journal.jobspec(line)
        path, _, named = line.partition(b"\t")
        host = os.fsdecode(named.strip()) or self._options.host
        if host is None:
            self._reporter.comment("smtp needs defined host!")
            return True
        self._job(path, host)
        if self._options.one_message:
            self._end_route("one message per connection")
        self._journal.state("#hungry")
        return True

    def _next_line(self) -> bytes | None:
        """The next line of the feed, waiting for it; None at its end and on a stop."""
        while True:
            line = self._feed.take()
            if line is not None or self._feed.ended or self._stop.requested:
                return line
            link = self._link
            deadline = None if link is None else time.monotonic() + NOOP_INTERVAL
            stream = None if link is None else link.stream
            if self._driving.wait_for_input(self._feed.fileno(), deadline, stream):
                self._feed.fill()
            elif link is not None and self._route is not None and not self._stop.requested:
                self._driving.run(self._courier.keep_alive(self._route))

    # ------------------------------------------------------------------- job

    def _job(self, path: bytes, host: str) -> None:
        """Deal with one control file; whatever is wrong with it ends in a comment, never in an exception."""
        try:
            opened = open_control(os.fsdecode(path))
        except SpoolError as error:
            self._complain(str(error))
            self._resync(path, host)
            return
        with opened:
            control = opened.control
            self._journal.begin(control, self._complain)
            try:
                job = Job(self._surroundings, opened)
                taken = job.take(matching(control, self._channel_name, os.fsencode(host)))
                if not taken and not (self._options.mx_match and other_hosts(control, self._channel_name, b"")):
                    self._resync(path, host)
                    return
                self._deliver_job(job, taken, path, host)
            except SpoolError as error:
                self._complain(str(error))
            finally:
                self._journal.end()

    def _deliver_job(self, job: Job, taken: list[Recipient], path: bytes, host: str) -> None:
        destination = self._options.force_destination or host
        self._choose_route(destination)
        if taken:
            job.deliver(taken, self)
        if not self._options.mx_match or self._stop.requested:
            return
        others = self._served_here(job, host)
        also = job.take(others) if others else []
        if also:
            job.deliver(also, _OnThisLink(self))
        elif not taken:
            self._resync(path, host)

    def _resync(self, path: bytes, host: str) -> None:
        self._journal.remark(f"c='{self._options.channel}' h='{host}' #resync {os.fsdecode(path)}")
        self._reporter.resync(path)

    @property
    def _channel_name(self) -> bytes:
        return os.fsencode(self._options.channel)

    # -------------------------------------------------- what a job asks for

    @property
    def stopping(self) -> bool:
        """Whether no new message is to be started."""
        return self._stop.requested

    def run_effects(self, work: Generator[Any, Any, bytes]) -> bytes:
        """Carry out the effects of ``work``."""
        return self._driving.run(work)

    def deliver(self, message: Message, ledger: Ledger) -> None:
        """Deliver over the route of the present job, unless its host is to be left alone for now."""
        route = self._route
        assert route is not None
        destination = route.request.destination
        rest = self._resting.get(destination)
        if rest is not None and route.link is None:
            if time.monotonic() < rest[0]:
                ledger.settle_all(ledger.unsettled, rest[1])
                return
            del self._resting[destination]
        route.failure = None
        idle = time.monotonic() - self._last_use
        self._driving.run(self._courier.deliver(route, message, ledger, idle=idle))
        self._last_use = time.monotonic()
        self._remember_failure(destination, route.failure)
        if self._options.one_message:
            self._driving.run(self._courier.close(route, "one message per connection"))

    def deliver_on_link(self, message: Message, ledger: Ledger) -> None:
        """As :meth:`deliver`, but over the link that is open now or not at all."""
        assert self._route is not None
        self._driving.run(self._courier.deliver_on_link(self._route, message, ledger))
        self._last_use = time.monotonic()

    def _remember_failure(self, destination: str, failure: Verdict | None) -> None:
        if failure is None or not failure.retry_after:
            return
        while len(self._resting) >= MAX_RESTING:
            del self._resting[next(iter(self._resting))]
        self._resting[destination] = (time.monotonic() + failure.retry_after, failure)

    # ----------------------------------------------------------------- route

    @property
    def _driving(self) -> BlockingDriver:
        assert self._driver is not None
        return self._driver

    @property
    def _link(self) -> Link | None:
        return self._route.link if self._route is not None else None

    def _choose_route(self, destination: str) -> None:
        """Have the route to ``destination``; a route to another one is ended first."""
        if self._route is not None and self._route.request.destination == destination:
            return
        self._end_route("new host")
        self._route = Route(environment.destination_request(self._options, destination))

    def _end_route(self, reason: str) -> None:
        if self._route is not None and self._driver is not None:
            self._driver.run(self._courier.close(self._route, reason))
        self._route = None

    def _served_here(self, job: Job, host: str) -> list[Recipient]:
        """Under -e: the recipients at other hosts whose mail exchangers include the host now connected to."""
        route = self._route
        hosts = other_hosts(job.control, self._channel_name, os.fsencode(host))
        if route is None or not hosts:
            return []
        if route.link is None:
            failure = self._driving.run(self._courier.open(route))
            if failure is not None:
                return []
        assert route.link is not None
        here = route.link.peer.endpoint.host.lower()
        served: list[Recipient] = []
        for name, recipients in list(hosts.items())[:MAX_OTHER_HOSTS]:
            request = environment.destination_request(self._options, os.fsdecode(name))
            if here in self._driving.run(exchanger_names(request)):
                served += recipients
        return served


class _OnThisLink:
    """Delivers over the link that is open and over no other: these recipients are served by that host only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    @property
    def stopping(self) -> bool:
        """Whether no new message is to be started."""
        return self._loop.stopping

    def run_effects(self, work: Generator[Any, Any, bytes]) -> bytes:
        """Carry out the effects of ``work``."""
        return self._loop.run_effects(work)

    def deliver(self, message: Message, ledger: Ledger) -> None:
        """Settle every recipient of ``ledger``."""
        self._loop.deliver_on_link(message, ledger)
