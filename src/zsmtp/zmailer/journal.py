"""Combines all logs of one agent in one observer: ``-l``, ``-d``, ``-s``, a sender's ``v``, traces, syslog, metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsmtp.errors import ConfigError
from zsmtp.events import Event, Observer, combine, is_observed
from zsmtp.zmailer.control import ControlFile
from zsmtp.zmailer.diagnostics import RecipientReport
from zsmtp.zmailer.logs import DialogueLog, LoggedAttempt, ProcessTitle, Syslog, VerboseLog, debug_observer
from zsmtp.zmailer.options import AgentOptions
from zsmtp.zmailer.zenv import Zenv

if TYPE_CHECKING:
    from zsmtp.observers.trace import TraceRecorder
    from zsmtp.zmailer.textfile import MetricsFile


def _recorder(options: AgentOptions, warn: Callable[[str], None]) -> TraceRecorder | None:
    """The trace recorder; its modules are imported only if it is used."""
    from zsmtp.observers.files import TraceDirectory
    from zsmtp.observers.trace import TraceRecorder

    assert options.trace is not None
    try:
        keep = TraceDirectory(options.trace, os.getpid(), warn)
    except ConfigError as error:
        warn(str(error))
        return None
    return TraceRecorder(keep, hashed=options.hash_addresses, complain=warn)


def _metrics(path: str, warn: Callable[[str], None]) -> MetricsFile | None:
    """The metrics file, if it is configured; its module is imported only then."""
    if not path:
        return None
    from zsmtp.zmailer.textfile import MetricsFile

    return MetricsFile(path, time.monotonic, warn)


class Journal:
    """Passes every event to the configured logs.

    ``debug`` takes the lines of ``-d``; ``warn`` is called with the reason if a log cannot be written. ``listening``:
    some log uses events now (see ``zsmtp.events.heard``).
    """

    def __init__(
        self, options: AgentOptions, zenv: Zenv, debug: Callable[[bytes], None], warn: Callable[[str], None]
    ) -> None:
        clock = time.time
        self._clock = clock
        self._dialogue = None
        if options.log_file is not None:
            self._dialogue = DialogueLog(
                options.log_file, os.getpid(), clock(), clock=clock, warn=warn, verbose=options.verbose
            )
        self._title = ProcessTitle() if options.show_progress else None
        self._syslog = Syslog(zenv.get("SYSLOGFLG", "T"))
        self._verbose: VerboseLog | None = None
        standing: list[Observer] = [one for one in (self._dialogue, self._title) if one is not None]
        self._debug = debug if options.debug else None
        if options.debug:
            standing.append(debug_observer(debug, clock=clock))
        self._traces = _recorder(options, warn) if options.trace is not None else None
        if self._traces is not None:
            standing.append(self._traces)
        self._metrics = _metrics(zenv.get("METRICS_FILE", ""), warn)
        if self._metrics is not None:
            standing.append(self._metrics)
        self._standing = combine(*standing)
        self._set_observer(self._standing)

    def _set_observer(self, observer: Observer) -> None:
        self._observe = observer
        self.listening = is_observed(observer)

    def __call__(self, event: Event) -> None:
        self._observe(event)

    def close(self) -> None:
        """Write the pending data of all logs at the end."""
        if self._traces is not None:
            self._traces.close()
        if self._metrics is not None:
            self._metrics.write()

    def begin(self, control: ControlFile, warn: Callable[[str], None]) -> None:
        """Begin the work on a control file; its sender may have requested a log of his own."""
        if control.verbose_log is not None:
            self._verbose = VerboseLog(control.verbose_log, clock=self._clock, warn=warn)
            self._set_observer(combine(self._standing, self._verbose))
        if self._dialogue is not None:
            self._dialogue.message(control.id, control.log_identity)
            for remark in control.remarks:
                self._dialogue.remark(remark)

    def end(self) -> None:
        """End the work on a control file."""
        if self._verbose is not None:
            self._set_observer(self._standing)
            self._verbose.close()
            self._verbose = None
        if self._metrics is not None:
            self._metrics.end_of_file()

    @property
    def logs_reports(self) -> bool:
        """Whether a permanent log records reports; a sender's own log does not count."""
        return self._dialogue is not None or self._syslog.enabled

    def report(self, report: RecipientReport, attempt: LoggedAttempt) -> None:
        """Log a report to the scheduler."""
        if self._dialogue is not None:
            self._dialogue.diag(report)
        if self._verbose is not None:
            self._verbose.diag(report)
        self._syslog.report(report, attempt)

    def jobspec(self, line: bytes) -> None:
        """Log a job line."""
        if self._dialogue is not None:
            self._dialogue.jobspec(line)

    def remark(self, text: str) -> None:
        """Write a line without an event to the dialogue log and to ``-d``."""
        if self._dialogue is not None:
            self._dialogue.remark(text)
        if self._debug is not None:
            self._debug(f"# {text}\n".encode("utf-8", "backslashreplace"))

    def state(self, text: str) -> None:
        """Show the state of the process between jobs, for ps(1)."""
        if self._title is not None:
            self._title.state(text)
