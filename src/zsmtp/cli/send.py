"""``zsmtp send``: delivers messages now, and prints the result for each recipient in one line.

The client (``zsmtp.client``) delivers; this module writes its results as they come. ``--dry-run`` shows the plan of
every destination and the commands for each kind of server, without a connection. ``--journal`` records which recipients
have which message, and a later run leaves these out (``zsmtp.cli.sendjournal``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from zsmtp.cli.configuration import read_configuration
from zsmtp.cli.explainjson import read_plans
from zsmtp.cli.failure import CommandFailed, read_file, warnings_printed
from zsmtp.cli.journalfile import JournalFile, JournalWriter, read_state
from zsmtp.cli.openfiles import allow_open_files
from zsmtp.cli.outgoing import MessageCopies, Outgoing, read_all, refuse_unusable
from zsmtp.cli.progress import ProgressDisplay, progress_for
from zsmtp.cli.remaining import RemainingWork, resume
from zsmtp.cli.results import result_json, result_line, results_document, status_of, summary, untold, unusable_json
from zsmtp.cli.retrynotice import RetryNotice
from zsmtp.cli.sendjournal import result_line_of, sending_line
from zsmtp.cli.sendoptions import check_options, make_parser, read_dsn, read_options
from zsmtp.cli.sendshares import Share, place_of, share_out
from zsmtp.cli.sendsources import UnusableMessage, named_files
from zsmtp.cli.sysexits import Exit, worst
from zsmtp.cli.terminal import is_terminal, look_of
from zsmtp.client.client import Client, Submission
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destination, Destinations, load_signing, try_logins
from zsmtp.client.report import Completing, Fate, Result
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.valuejson import MAX_DOCUMENT
from zsmtp.errors import ConfigError, LocalError
from zsmtp.escape import escape
from zsmtp.events import Observer, combine, ignore
from zsmtp.observers.files import Tracing
from zsmtp.text.lines import painted, wrap
from zsmtp.text.look import Look

if TYPE_CHECKING:
    from zsmtp.cli.sendprocesses import SendingProcesses


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(arguments)
    config = read_configuration(options)
    with warnings_printed("zsmtp send") as printed:
        try_logins(config)
    check_options(options)
    if options.rate is not None:
        config = replace(config, limits=replace(config.limits, message_rate=options.rate))
    if not options.no_add:
        config = replace(config, content=replace(config.content, add_missing=True))
    plans = _read_plans(options.plan) if options.plan is not None else None
    dsn, asked = read_dsn(options), read_options(options)
    with ExitStack() as opened:
        files = named_files(options.files, options.files_from)
        read = read_all(files, options.sender, options.to, opened, dsn=dsn, options=asked)
        if not options.keep_going:
            refuse_unusable(read.unusable, len(read.messages) + len(read.unusable), keep_going=False)
        journal = None
        if options.journal is not None and not options.dry_run:
            journal = opened.enter_context(closing(JournalFile(options.journal)))
        left = _left(read.messages, options, journal)
        unusable = (*read.unusable, *left.changed)
        refuse_unusable(unusable, len(read.messages) + len(read.unusable), keep_going=options.keep_going)
        if options.dry_run:
            from zsmtp.cli.dryrun import dry_run

            return worst([Exit(dry_run(left.messages, config, options)), *(one.status for one in unusable)])
        several = len(read.messages) + len(read.unusable) > 1
        sending = _Sending(left, unusable, config, plans, options, journal, several=several)
        if options.jobs > 1:
            sending.share_out(options.jobs, opened, printed)
        return sending.run()


def _left(
    messages: Sequence[Outgoing], options: argparse.Namespace, journal: JournalFile | None = None
) -> RemainingWork:
    """The remaining work, by the journal if there is one. Raises CommandFailed."""
    if options.journal is None:
        return RemainingWork(messages)
    state = journal.state if journal is not None else read_state(options.journal)
    return resume(messages, state, resend_in_doubt=options.resend_in_doubt, send_changed=options.send_changed)


def _read_plans(path: str) -> dict[str, DeliveryPlan]:
    """The plans in a file, by destination. Raises CommandFailed."""
    try:
        plans = read_plans(read_file(path, MAX_DOCUMENT))
    except ConfigError as error:
        raise CommandFailed(Exit.DATA, f"{escape(path)}: {escape(str(error))}") from error
    return {plan.route.destination: plan for plan in plans}


def _traces(path: str | None, deliveries: int, *, hashed: bool) -> Tracing | None:
    """The traces at ``path``, if given. Raises CommandFailed if they cannot be written there."""
    if path is None:
        return None
    if deliveries > 1 and not os.path.isdir(path):
        raise CommandFailed(Exit.USAGE, f"--trace: {deliveries} deliveries need a directory")
    try:
        return Tracing(path, hashed=hashed, complain=_print_error)
    except ConfigError as error:
        raise CommandFailed(Exit.CANNOT_CREATE, str(error)) from error


def _print_error(text: str) -> None:
    sys.stderr.write(f"zsmtp send: {text}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OutgoingSubmission(Submission):
    """The submission of a message."""

    outgoing: Outgoing


def _outgoing(result: Result | Completing) -> Outgoing:
    assert isinstance(result.submission, _OutgoingSubmission)
    return result.submission.outgoing


class _Sending:
    """One run of the command; ``journal`` records messages and their recipients, if given."""

    def __init__(
        self,
        left: RemainingWork,
        unusable: Sequence[UnusableMessage],
        config: Config,
        plans: dict[str, DeliveryPlan] | None,
        options: argparse.Namespace,
        journal: JournalFile | None,
        *,
        several: bool,
    ) -> None:
        self._left = left
        self._unusable = unusable
        self._journal = journal
        self._writer: JournalWriter | None = None
        self._messages = left.messages
        self._several = several
        self._config = config
        self._plans = plans
        self._json = options.json
        self._lines = options.jsonl
        self._look = look_of(sys.stdout, options.color)
        self._results: list[Result] = []
        self._taken: Counter[tuple[str, str]] = Counter()  # numbers of results, of messages of this run
        self._destinations = Destinations(config)
        deliveries = self._deliveries()
        self._progress = self._make_progress(sum(deliveries), look_of(sys.stderr, options.color))
        self._traces = _traces(options.trace, len(deliveries), hashed=options.hash_addresses)
        self._options = options
        self._processes: SendingProcesses | None = None
        self._notice = RetryNotice(_print_error)
        self._stopped = False
        self._why_stopped = ""
        self._unwritable: OSError | None = None  # why nothing more is written to standard output
        self._end: Callable[[str], None] | None = None
        self._end_at_once: Callable[[], None] | None = None

    def _destination(self, recipient: str, sender: str) -> Destination:
        return self._destinations.of(recipient.encode("utf-8"), sender.encode("utf-8"))

    def _deliveries(self) -> list[int]:
        """The octets of each delivery: a message is sent once to every destination of its recipients."""
        found = []
        for one in self._messages:
            for where in {self._destination(to, one.sender) for to in one.recipients}:
                if self._plans is not None and where.request.destination not in self._plans:
                    raise CommandFailed(Exit.DATA, f"--plan: there is no plan for {escape(where.name)}")
                found.append(one.size)
        return found

    def _make_progress(self, octets: int, look: Look) -> ProgressDisplay | None:
        return progress_for(octets, sum(len(one.recipients) for one in self._messages), colour=look.colour)

    def share_out(self, jobs: int, opened: ExitStack, printed: list[str]) -> None:
        """Start ``jobs`` processes that send, or fewer if there is less work; files are closed with ``opened``.

        ``printed`` are the warnings that were already printed. Raises CommandFailed.
        """
        shares = share_out(
            self._messages, lambda to, sender: place_of(self._destination(to, sender)), jobs, self._config.limits
        )
        if len(shares) == 1:
            return
        with warnings_printed("zsmtp send") as more:
            signing = load_signing(self._config, self._destinations.target(), time.time)
        prepared = partial(Outgoing.letter, signing=signing, add_missing=self._config.content.add_missing)
        copies = MessageCopies(opened, prepared)
        times = Counter(part.number for share in shares for part in share.parts)
        self._messages = [copies.of(one) if times[number] > 1 else one for number, one in enumerate(self._messages)]
        self._processes = opened.enter_context(closing(self._started(shares, (*printed, *more))))

    def _started(self, shares: Sequence[Share], printed: Sequence[str]) -> SendingProcesses:
        from zsmtp.cli.sendmessages import Order  # imported only if used
        from zsmtp.cli.sendprocesses import SendingProcesses

        order = Order(
            plans=tuple((self._plans or {}).values()),
            retry_for=self._options.retry_for,
            trace=self._options.trace,
            hash_addresses=self._options.hash_addresses,
            asks=self._journal is not None,
            octets=self._progress is not None,
        )
        return SendingProcesses(shares, self._messages, self._config, order, self, printed)

    def run(self) -> int:
        """Send everything; return the exit status."""
        allow_open_files()
        with warnings_printed("zsmtp send"), self._progress or nullcontext():
            if self._lines:
                sys.stdout.writelines(map(unusable_json, self._unusable))
            for result in self._left.in_doubt:
                self._add_result(result)
            if self._messages:
                asyncio.run(self._send())
        if self._unwritable is not None:
            raise self._unwritable
        ended = status_of(self._results, refused=self._left.failed > 0)
        status = Exit.INTERRUPTED if self._stopped else worst([ended, *(one.status for one in self._unusable)])
        self._print_summary(status)
        if self._writer is not None and self._writer.problem:
            raise CommandFailed(Exit.IO, f"--journal: {self._writer.problem}")
        return status

    def _print_summary(self, status: Exit) -> None:
        """Print a summary of all results."""
        if self._json:
            json.dump(results_document(self._results, status, self._left, self._unusable), sys.stdout, indent=2)
            sys.stdout.write("\n")
        if self._json or self._lines:
            return
        others = {"unusable": len(self._unusable)}
        earlier = {"delivered": self._left.delivered, "refused": self._left.failed}
        if len(self._results) > 1 or any(earlier.values()) or any(others.values()):
            text = summary(self._results, others, earlier)
            lines = wrap(text, self._look.width, self._look.width, self._look)
            sys.stdout.write("\n".join(painted(one, self._look) for one in lines))
            sys.stdout.write("\n")

    async def _send(self) -> None:
        if self._journal is not None:
            self._writer = JournalWriter(self._journal, lambda: self._stop("the journal cannot be written"))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            if (processes := self._processes) is not None:
                self._end, self._end_at_once = processes.stop, processes.kill
                await processes.run()
            else:
                await self._send_here()
        finally:
            if self._writer is not None:
                await self._writer.aclose()
        if self._why_stopped:
            self._settle_rest()

    async def _send_here(self) -> None:
        client = Client(
            self._config,
            observe=self._observer if self._progress is not None or self._traces is not None else None,
            plans=(self._plans or {}).values(),
            before_completion=self._before_completion if self._writer is not None else None,
        )
        ending: list[asyncio.Future[None]] = []

        def end(reason: str, *, polite: bool = True) -> None:
            ending.append(asyncio.ensure_future(client.aclose(polite=polite, reason=reason)))

        self._end, self._end_at_once = end, lambda: end("interrupted", polite=False)
        async with client:
            try:
                submissions = map(self._submission, self._messages)
                async for result in client.stream(
                    submissions, retry_for=self._options.retry_for, on_retry=self._put_off_here
                ):
                    self.settled(_outgoing(result), result)
            except LocalError:
                if not ending:
                    raise
        if ending:
            await asyncio.gather(*ending)

    async def _before_completion(self, completing: Sequence[Completing]) -> bool:
        return await self.may_begin([(_outgoing(one), one.recipients) for one in completing])

    def _put_off_here(self, result: Result, seconds: float) -> None:
        self.put_off(_outgoing(result), result, seconds)

    async def may_begin(self, begun: Sequence[tuple[Outgoing, tuple[str, ...]]]) -> bool:
        """Write down that these may have their message from now on; False if that cannot be done."""
        assert self._writer is not None
        now = time.time()
        return await self._writer.write_durably(
            sending_line(message.keys[recipient], message.path or message.name, now)
            for message, recipients in begun
            for recipient in recipients
        )

    def _submission(self, one: Outgoing) -> Submission:
        return _OutgoingSubmission(
            outgoing=one,
            message=one.from_start(),
            sender=one.sender,
            recipients=one.recipients,
            name=one.name,
            dsn=one.dsn,
            **one.options.given(),
        )

    def _settle_rest(self) -> None:
        """Give results for messages that were not begun before the interrupt."""
        ended = self._taken
        for one in self._messages:
            for to in one.recipients:
                if ended[one.name, to]:
                    ended[one.name, to] -= 1
                else:
                    text = f"{self._why_stopped} before it was tried"
                    self._add_result(untold(one, to, Fate.DEFERRED, "4.3.2", text))

    def _observer(self, destination: str) -> Observer:
        """The observer of one connection."""
        return combine(
            self._progress.observer() if self._progress is not None else ignore,
            self._traces.observer() if self._traces is not None else ignore,
        )

    def _interrupt(self) -> None:
        """Handle SIGINT or SIGTERM: the first stops the deliveries, another one ends the program at once."""
        if self._stopped and self._end_at_once is not None:
            self._end_at_once()
        self._stopped = True
        self._stop("interrupted")

    def _stop(self, reason: str) -> None:
        """Stop the deliveries: every undecided recipient still gets a result."""
        if not self._why_stopped and self._end is not None:
            self._why_stopped = reason
            self._end(reason)

    def put_off(self, message: Outgoing, result: Result, seconds: float) -> None:
        """Note a recipient that was deferred, and is tried again."""
        self._record(message, result)
        if self._lines:
            self._write(result_json(result, seconds))
        self._notice.add(result, seconds)

    def settled(self, message: Outgoing, result: Result) -> None:
        """Note a final result of a recipient."""
        self._taken[result.message, result.recipient] += 1
        self._record(message, result)
        self._add_result(result)

    def sent(self, octets: int) -> None:
        """Count octets of content sent by a process."""
        if self._progress is not None:
            self._progress.add_sent(octets)

    def warned(self, text: str) -> None:
        """Print a warning of the library in a process."""
        logging.getLogger("zsmtp").warning("%s", text)

    def complain(self, text: str) -> None:
        """Print a line on standard error."""
        _print_error(text)

    def _record(self, message: Outgoing, result: Result) -> None:
        """Write a result into the journal, if there is one."""
        was_read = result.attempted or result.fate is not Fate.FAILED  # else the next run may find it corrected
        if self._writer is not None and was_read:
            key = message.keys[result.recipient]
            self._writer.write(result_line_of(key, message.path or message.name, time.time(), result))

    def _add_result(self, result: Result) -> None:
        self._results.append(result)
        if self._progress is not None:
            self._progress.settle()
        if self._json:
            return
        if self._lines:
            self._write(result_json(result))
            return
        fold = is_terminal(sys.stdout)
        file = result.message if self._several else ""
        self._write(result_line(result, file=file, look=self._look, fold=fold) + "\n")

    def _write(self, text: str) -> None:
        """Write results; if that cannot be done, end what is under way as an interrupt does: the journal has the rest.

        Raises OSError while nothing is sent.
        """
        if self._unwritable is not None:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            if self._end is None:
                raise
            self._unwritable = error
            self._stop("results cannot be written")
