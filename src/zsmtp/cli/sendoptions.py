"""The command line of ``zsmtp send``, and the options of messages made from it."""

from __future__ import annotations

import argparse
import os
import time

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.configuration import add_options
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.sysexits import Exit
from zsmtp.client.dsn import DSN
from zsmtp.delivery.gate import Rate
from zsmtp.errors import ConfigError, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.mailoptions import MailOptions, checked

MAX_JOBS = 64  # processes

_DESCRIPTION = "Deliver messages now: straight to the mail exchangers of each recipient's domain, or through a relay."
_EPILOG = """\
Without --from and --to, sender and recipients are those of the header (Sender or From; To, Cc, Bcc). Exit status: 0
all recipients were delivered to; 69 one was permanently refused; 75 none was, but one is deferred or in doubt, or the
journal is in use; 64 wrong usage, 65 a message that cannot be sent, 66 or 77 a file that cannot be read, 73 or 74 a
file that cannot be written, 78 a bad configuration. With --dry-run: as zsmtp explain."""


def make_parser() -> Parser:
    """The command line."""
    parser = command_parser("send", _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a message as it is stored, a mbox, a Maildir, or a folder of .eml files; - is standard input",
    )
    parser.add_argument(
        "--files-from",
        metavar="LIST",
        action="append",
        default=[],
        help="a file with the names of messages, one a line or separated by NULs; - is standard input",
    )
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="the sender; <> for none")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="a recipient; may be given again")
    parser.add_argument(
        "--keep-going", action="store_true", help="if messages cannot be sent, name them and send the others"
    )
    parser.add_argument("--no-add", action="store_true", help="do not add a missing Date or Message-ID")
    parser.add_argument("--dry-run", action="store_true", help="show the deliveries without connecting to any server")
    parser.add_argument(
        "--plan", metavar="FILE", help="execute the plans in FILE, from zsmtp explain --json, unchanged"
    )
    parser.add_argument(
        "--rate", metavar="N/s|N/m", type=_rate, help="begin at most this many messages in any second or minute"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_jobs,
        default=1,
        help="send by this number of processes, to use several processors; auto: one for each processor",
    )
    parser.add_argument(
        "--retry-for",
        metavar="TIME",
        type=_duration,
        default=0.0,
        help="try deferred recipients again for so long: 90, 15m, 2h, 1d",
    )
    _add_journal(parser)
    _add_transport(parser)
    _add_output(parser)
    add_options(parser)
    return parser


def _add_journal(parser: Parser) -> None:
    group = parser.add_argument_group("sending once, in several runs")
    group.add_argument(
        "--journal",
        metavar="FILE",
        help="record which recipients have which message (zsmtp.journal/1); a run with the same FILE sends the rest",
    )
    group.add_argument(
        "--resend-in-doubt",
        action="store_true",
        help="with --journal: send also to recipients in doubt, who may get the message twice",
    )
    group.add_argument(
        "--send-changed",
        action="store_true",
        help="with --journal: send files that have changed since they were sent, as new messages",
    )


def _add_transport(parser: Parser) -> None:
    group = parser.add_argument_group("requests to servers")
    group.add_argument("--require-tls", action="store_true", help="authenticated TLS on every hop, or no delivery")
    group.add_argument(
        "--mt-priority", metavar="N", type=int, help="the priority of the message, 4 or =-4: -9 to 9 (MT-PRIORITY)"
    )
    held = group.add_mutually_exclusive_group()
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
        help="have it held until 14:30, or 2026-12-24T18:00 (with a final Z: UTC)",
    )
    group.add_argument(
        "--notify", metavar="WHEN", help="ask for delivery notifications: success, failure, delay with commas; or never"
    )
    group.add_argument(
        "--ret", metavar="WHAT", help="the part of the message in a notification of failure: full or headers"
    )
    group.add_argument("--envid", metavar="ID", help="an identifier of the message that notifications repeat")


def _add_output(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON (zsmtp.send/1) at the end")
    form.add_argument(
        "--jsonl", action="store_true", help="print each result when it comes, as a line (zsmtp.send-result/1)"
    )
    group.add_argument(
        "--trace", metavar="PATH", help="keep a trace of each delivery: a directory, or a file if there is only one"
    )
    group.add_argument("--hash-addresses", action="store_true", help="hide mail addresses in traces")


def check_options(options: argparse.Namespace) -> None:
    """Raise CommandFailed for options that exclude each other."""
    if not options.files and not options.files_from:
        raise CommandFailed(Exit.USAGE, "a FILE is required, or --files-from; try zsmtp send --help")
    if options.plan is not None and options.dry_run:
        raise CommandFailed(Exit.USAGE, "--plan: the plan of a dry run is always a new one")
    if options.jsonl and options.dry_run:
        raise CommandFailed(Exit.USAGE, "--jsonl: a dry run has no results; --json prints its plans")
    if options.journal is None:
        for name in ("resend_in_doubt", "send_changed"):
            if getattr(options, name):
                raise CommandFailed(Exit.USAGE, f"--{name.replace('_', '-')} goes with --journal")


def read_dsn(options: argparse.Namespace) -> DSN | None:
    """The notifications that the sender wants. Raises CommandFailed."""
    given = {name: value for name in ("notify", "ret", "envid") if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if not value:
            raise CommandFailed(Exit.USAGE, f"--{name}: there is nothing in it")
    try:
        return DSN(**given) if given else None
    except SubmissionError as error:
        raise CommandFailed(Exit.USAGE, f"--{error}") from error


def read_options(options: argparse.Namespace) -> MailOptions:
    """The options of the transport. Raises CommandFailed."""
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


def _rate(text: str) -> str:
    """A rate as ``14/s`` or ``100/min``."""
    try:
        return str(Rate.parse(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(escape(str(error))) from None


def _jobs(text: str) -> int:
    """A number of processes."""
    if text == "auto":
        return min(_processors(), MAX_JOBS)
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= number <= MAX_JOBS:
        raise argparse.ArgumentTypeError(f"not auto or a number from 1 to {MAX_JOBS}: {escape(text[:80])}")
    return number


def _processors() -> int:
    """The number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _duration(text: str) -> float:
    """A duration as ``90``, ``10m`` or ``2h30m``."""
    from zsmtp.cli.queuefilter import lasting  # imported only if used

    return lasting(text)


def _moment(text: str) -> float:
    """A time of day or a date."""
    from zsmtp.cli.queuefilter import moment

    return moment(text, time.time())
