"""``zsmtp send``: deliver messages now, and tell of each recipient in one line what became of it.

The client (``zsmtp.client``) delivers; here its results are written as they come. ``--dry-run`` shows the plan of every
destination and the commands each kind of server would be given, and connects to nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress

from zsmtp.cli.arguments import command_parser
from zsmtp.cli.configuration import add_options, read_configuration, try_logins
from zsmtp.cli.explainjson import read_plans
from zsmtp.cli.failure import CommandFailed, read_file, warnings_told
from zsmtp.cli.outgoing import Outgoing, read_all
from zsmtp.cli.progress import ProgressDisplay, progress_for
from zsmtp.cli.results import result_line, results_document, status_of, summary
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import is_terminal, look_of
from zsmtp.client.client import Client, Submission
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.client.dsn import DSN, due
from zsmtp.client.report import Fate, Result
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.valuejson import MAX_DOCUMENT
from zsmtp.errors import ConfigError, LocalError, SubmissionError
from zsmtp.escape import escape
from zsmtp.events import Observer, combine, ignore
from zsmtp.observers.files import Tracing
from zsmtp.proto.mailoptions import MailOptions, checked
from zsmtp.text.lines import painted, wrap
from zsmtp.text.look import Look

_DESCRIPTION = "Deliver messages now: straight to the mail exchangers of each recipient's domain, or through a relay."
_EPILOG = """\
Without --from and --to, sender and recipients are those of the header (Sender or From; To, Cc, Bcc). Exit status: 0
everybody was delivered to; 69 somebody was refused for good; 75 nobody was, but somebody has to wait or is in doubt; 64
wrong usage, 65 a message that cannot be sent, 66 or 77 a file that cannot be read, 78 a bad configuration. With
--dry-run: as zsmtp explain."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("send", _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a message as it is stored; - is standard input")
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="the sender; <> for none")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="a recipient; may be given again")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and connect to nobody")
    parser.add_argument(
        "--plan", metavar="FILE", help="execute the plans in FILE, which zsmtp explain --json printed, as they are"
    )
    parser.add_argument("--require-tls", action="store_true", help="authenticated TLS on every hop, or no delivery")
    parser.add_argument(
        "--mt-priority", metavar="N", type=int, help="the priority of the message, 4 or =-4: -9 to 9 (MT-PRIORITY)"
    )
    held = parser.add_mutually_exclusive_group()
    held.add_argument(
        "--hold-for",
        metavar="TIME",
        type=_duration,
        help="have the server hold the message back: 90, 15m, 2h, 1d (FUTURERELEASE)",
    )
    held.add_argument(
        "--hold-until",
        metavar="TIME",
        type=_moment,
        help="have it hold it until 14:30, or 2026-12-24T18:00 (Z behind it: UTC)",
    )
    parser.add_argument(
        "--notify", metavar="WHEN", help="ask for delivery notifications: success, failure, delay with commas; or never"
    )
    parser.add_argument("--ret", metavar="WHAT", help="what a notification of failure brings back: full or headers")
    parser.add_argument("--envid", metavar="ID", help="what notifications repeat, to tell what they are about")
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.send/1) when all is over")
    parser.add_argument(
        "--trace", metavar="PATH", help="keep a trace of each delivery: a directory, or a file if there is only one"
    )
    parser.add_argument("--hash-addresses", action="store_true", help="hide mail addresses in traces")
    add_options(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Run the command; the exit status."""
    options = make_parser().parse_args(arguments)
    config = read_configuration(options)
    with warnings_told("zsmtp send"):
        try_logins(config)
    plans = _read_plans(options.plan) if options.plan is not None else None
    if plans is not None and options.dry_run:
        raise CommandFailed(Exit.USAGE, "--plan: the plan of a dry run is always a new one")
    dsn, asked = _read_dsn(options), _read_options(options)
    with ExitStack() as opened:
        messages = read_all(options.files, options.sender, options.to, opened, dsn=dsn, options=asked)
        if options.dry_run:
            from zsmtp.cli.dryrun import dry_run

            return dry_run(messages, config, options)
        return _Sending(messages, config, plans, options).run()


def _read_dsn(options: argparse.Namespace) -> DSN | None:
    """What the sender wants to be notified of. Raises CommandFailed."""
    given = {name: value for name in ("notify", "ret", "envid") if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if not value:
            raise CommandFailed(Exit.USAGE, f"--{name}: there is nothing in it")
    try:
        return DSN(**given) if given else None
    except SubmissionError as error:
        raise CommandFailed(Exit.USAGE, f"--{error}") from error


def _read_options(options: argparse.Namespace) -> MailOptions:
    """What is asked of the transport. Raises CommandFailed."""
    try:
        return checked(
            MailOptions(
                require_tls=options.require_tls,
                priority=options.mt_priority,
                hold_for=options.hold_for,
                hold_until=options.hold_until,
            )
        )
    except SubmissionError as error:
        raise CommandFailed(Exit.USAGE, str(error)) from error


def _duration(text: str) -> float:
    """A time as ``90``, ``10m`` or ``2h30m``."""
    from zsmtp.cli.queuefilter import lasting  # what it imports costs only those who use it

    return lasting(text)


def _moment(text: str) -> float:
    """A time of day or a date."""
    from zsmtp.cli.queuefilter import moment

    return moment(text, time.time())


def _read_plans(path: str) -> dict[str, DeliveryPlan]:
    """The plans in a file by destination. Raises CommandFailed."""
    try:
        plans = read_plans(read_file(path, MAX_DOCUMENT))
    except ConfigError as error:
        raise CommandFailed(Exit.DATA, f"{escape(path)}: {escape(str(error))}") from error
    return {plan.route.destination: plan for plan in plans}


def _traces(path: str | None, deliveries: int, *, hashed: bool) -> Tracing | None:
    """The traces at ``path``, if one is given. Raises CommandFailed if they cannot be kept there."""
    if path is None:
        return None
    if deliveries > 1 and not os.path.isdir(path):
        raise CommandFailed(Exit.USAGE, f"--trace: {deliveries} deliveries need a directory")
    try:
        return Tracing(path, hashed=hashed, complain=_complain)
    except ConfigError as error:
        raise CommandFailed(Exit.CANNOT_CREATE, str(error)) from error


def _allow_open_files() -> None:
    """Let this process have as many files open as it may: each connection is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _complain(text: str) -> None:
    sys.stderr.write(f"zsmtp send: {text}\n")


class _Sending:
    """One run of the command."""

    def __init__(
        self,
        messages: Sequence[Outgoing],
        config: Config,
        plans: dict[str, DeliveryPlan] | None,
        options: argparse.Namespace,
    ) -> None:
        self._messages = messages
        self._config = config
        self._plans = plans
        self._json = options.json
        self._look = look_of(sys.stdout, options.color)
        self._results: list[Result] = []
        self._progress = self._make_progress(look_of(sys.stderr, options.color))
        self._traces = _traces(options.trace, len(self._deliveries()), hashed=options.hash_addresses)
        self._stopped = False
        self._ending: asyncio.Future[None] | None = None

    def _deliveries(self) -> list[int]:
        """The octets of each delivery: a message goes once to every destination of its recipients."""
        destinations = Destinations(self._config)
        found = []
        for one in self._messages:
            for where in {destinations.of(to.encode("utf-8")) for to in one.recipients}:
                if self._plans is not None and where.request.destination not in self._plans:
                    raise CommandFailed(Exit.DATA, f"--plan: there is no plan for {escape(where.name)}")
                found.append(one.size)
        return found

    def _make_progress(self, look: Look) -> ProgressDisplay | None:
        octets = sum(self._deliveries())
        return progress_for(octets, sum(len(one.recipients) for one in self._messages), colour=look.colour)

    def run(self) -> int:
        """Send everything; the exit status."""
        _allow_open_files()
        with warnings_told("zsmtp send"), self._progress or nullcontext():
            asyncio.run(self._send())
        if self._json:
            json.dump(results_document(self._results), sys.stdout, indent=2)
            sys.stdout.write("\n")
        elif len(self._results) > 1:
            lines = wrap(summary(self._results), self._look.width, self._look.width, self._look)
            sys.stdout.write("\n".join(painted(one, self._look) for one in lines))
            sys.stdout.write("\n")
        return Exit.INTERRUPTED if self._stopped else status_of(self._results)

    async def _send(self) -> None:
        observe = self._observer if self._progress is not None or self._traces is not None else None
        plans = self._plans.values() if self._plans is not None else ()
        async with Client(self._config, observe=observe, plans=plans) as client:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stop, client)
            try:
                async for result in client.stream(map(self._submission, self._messages)):
                    self._tell(result)
            except LocalError:
                if not self._stopped:
                    raise
        if self._stopped:
            self._tell_of_the_rest()

    def _submission(self, one: Outgoing) -> Submission:
        return Submission(
            message=one.from_start(),
            sender=one.sender,
            recipients=one.recipients,
            name=one.name,
            dsn=one.dsn,
            **one.options.given(),
        )

    def _tell_of_the_rest(self) -> None:
        """Messages that were not taken to hand before the interrupt."""
        told = Counter((result.message, result.recipient) for result in self._results)
        for one in self._messages:
            for to in one.recipients:
                if told[one.name, to]:
                    told[one.name, to] -= 1
                else:
                    text = "interrupted before it was tried"
                    self._tell(
                        Result(
                            message=one.name,
                            recipient=to,
                            fate=Fate.DEFERRED,
                            status="4.3.2",
                            text=text,
                            attempted=False,
                            dsn_action=due(one.dsn, "delayed", null_sender=not one.sender),
                        )
                    )

    def _observer(self, destination: str) -> Observer:
        """Who hears of one connection."""
        return combine(
            self._progress.observer() if self._progress is not None else ignore,
            self._traces.observer() if self._traces is not None else ignore,
        )

    def _stop(self, client: Client) -> None:
        """End what is under way: everybody who is undecided is told of."""
        if not self._stopped:
            self._stopped = True
            self._ending = asyncio.ensure_future(client.aclose(reason="interrupted"))

    def _tell(self, result: Result) -> None:
        self._results.append(result)
        if self._progress is not None:
            self._progress.settle()
        if self._json:
            return
        several = len(self._messages) > 1
        fold = is_terminal(sys.stdout)
        file = result.message if several else ""
        sys.stdout.write(result_line(result, file=file, look=self._look, fold=fold) + "\n")
        sys.stdout.flush()
