"""``zsmtp tlsrpt``: sends the TLS reports of a day, or writes them as files to mail or post (RFC 8460 5).

The agent keeps the results of sessions in a file for each day (``tls-report-file``), the library too
(``direct.tls_report_file``). Once a day is over this command counts them. For each domain that asks for reports it
makes the compressed JSON, under the name of 5.1, and for ``mailto:`` addresses the mail that carries it. One line for
each address names the destination of the report and its file. Running it again makes the same files. With ``--send``
the reports are sent (``zsmtp.cli.tlsrptsend``), and a line gives the result for each address.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.configuration import CLIENT_OPTIONS, add_options
from zsmtp.cli.failure import CommandFailed, reading, reason, warnings_printed
from zsmtp.cli.sysexits import Exit, worst
from zsmtp.escape import escape
from zsmtp.tls.tlsrpt import (
    MAX_LINE,
    DayReports,
    ReportingOrganization,
    TLSReport,
    build_reports,
    is_plain_mailbox,
    mail_addresses,
    report_mail,
)

if TYPE_CHECKING:
    from zsmtp.client.config import Config

DAY = 86400  # seconds

_EPILOG = """
output: one line for each address, fields separated by TABs: the domain, the address, the file. Send a mail
from --sender to the address, with a DKIM signature of the sender's domain; post a file for an https: address there as
application/tlsrpt+gzip. With --send: the domain, the address, the result (delivered, deferred, in doubt, failed), and
the reason; addresses that had their report in an earlier run are left out. Exit status with --send: 75 if a report is
deferred, so run it again; 69 if one was permanently refused. A day without results has no output and the status 0.
"""


def run(arguments: list[str]) -> int:
    """Make the reports; return the exit status."""
    options = _parse(arguments)
    reporter = ReportingOrganization(options.organization or options.domain, options.contact, options.domain)
    if options.output is not None and not os.path.isdir(options.output):
        raise CommandFailed(Exit.CANNOT_CREATE, f"--output {escape(options.output)}: there is no such folder")
    path = f"{options.results}.{options.day}"
    if _quiet(options.results, path):
        return Exit.OK
    with reading(path), open(path, "rb") as file:
        made = build_reports(_lines(file), options.day, reporter, _unique(path))
    if made.skipped:
        lines = "1 line is no result" if made.skipped == 1 else f"{made.skipped} lines are no results"
        sys.stderr.write(f"zsmtp tlsrpt: {escape(path)}: {lines} of that day\n")
    if options.output is None and not options.send:
        options.output = "."
    return worst([_write_all(made, reporter, options), _send_all(made, reporter, options, f"{path}.sent")])


def _quiet(results: str, path: str) -> bool:
    """Whether there was no session with a domain that wants reports that day. A wrong name is reported."""
    if os.path.lexists(path):
        return False
    folder, name = os.path.split(results)
    with reading(folder or "."):
        others = any(one.startswith(f"{name}.") for one in os.listdir(folder or "."))
    if not others:
        sys.stderr.write(f"zsmtp tlsrpt: {escape(results)}: there are no results of any day yet\n")
    return True


def _write_all(made: DayReports, reporter: ReportingOrganization, options: argparse.Namespace) -> Exit:
    """Write the files, if there are any."""
    if options.output is None:
        return Exit.OK
    return worst([_guarded(report, lambda one: _write_report(one, reporter, options)) for report in made.reports])


def _send_all(made: DayReports, reporter: ReportingOrganization, options: argparse.Namespace, sent: str) -> Exit:
    """Send the reports, if that is requested."""
    if not options.send or not made.reports:
        return Exit.OK
    from zsmtp.cli.configuration import read_configuration
    from zsmtp.cli.tlsrptsend import POST_TIME, ReportSender, SentReports, status_of_sending

    config = read_configuration(options)
    _warn_unsigned(config, options.sender)
    statuses: list[Exit] = []
    with warnings_printed("zsmtp tlsrpt"), SentReports(sent) as known:
        sender = ReportSender(config, reporter, options.sender, known, options.timeout or POST_TIME)

        def send(report: TLSReport) -> None:
            for one in sender.send(report):
                statuses.append(status_of_sending(one))
                _print_line(report, one.address, one.fate.value, one.words)

        return worst([*(_guarded(report, send) for report in made.reports), *statuses])


def _guarded(report: TLSReport, work: Callable[[TLSReport], None]) -> Exit:
    """Call ``work``; print an error for a report that cannot be a mail."""
    try:
        work(report)
    except ValueError as error:
        sys.stderr.write(f"zsmtp tlsrpt: no report for {escape(report.domain)}: {escape(str(error))}\n")
        return Exit.DATA
    return Exit.OK


def _warn_unsigned(config: Config, sender: str) -> None:
    """Warn that receivers will not trust unsigned mail; a relay may sign it."""
    domain = sender.rpartition("@")[2].lower()
    if config.relay is None and not any(key.domain_ascii.lower() == domain for key in config.dkim):
        sys.stderr.write(
            f"zsmtp tlsrpt: no DKIM key for {escape(domain)} is configured: mailed reports are not signed, and"
            " receivers may throw them away (RFC 8460 5.3)\n"
        )


def make_parser() -> Parser:
    """The command line."""
    parser = command_parser("tlsrpt", "Make the TLS reports of a day (RFC 8460), and send them.", epilog=_EPILOG)
    parser.add_argument(
        "results", metavar="FILE", help="the name in tls-report-file or tls_report_file, without the day"
    )
    parser.add_argument("--domain", required=True, type=_domain, help="the domain that reports, and sends the mail")
    parser.add_argument("--day", type=_day, default=_yesterday(), help="2026-01-31, in UTC; without it, yesterday")
    parser.add_argument(
        "--organization", default="", help="the name of the reporting organization; without it, the domain"
    )
    parser.add_argument("--contact", type=_address, help="an address for questions; without it, postmaster@ the domain")
    parser.add_argument("--sender", type=_address, help="the sender of the mail; without it, the contact")
    parser.add_argument(
        "--output", metavar="DIRECTORY", help="the folder for the files; without it, this one, and with --send none"
    )
    parser.add_argument(
        "--send", action="store_true", help="mail and post the reports; the options below are for that alone"
    )
    add_options(parser)
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not options.send:
        for name in (*CLIENT_OPTIONS, "timeout"):
            if getattr(options, name):
                flag = {"family": "-4 or -6"}.get(name, f"--{name.replace('_', '-')}")
                parser.error(f"{flag} goes with --send")
    options.contact = options.contact or f"postmaster@{options.domain}"
    options.sender = options.sender or options.contact
    return options


def _yesterday() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() - DAY))


def _day(text: str) -> str:
    """A day that is over: a report covers all of it."""
    try:
        day = time.strftime("%Y-%m-%d", time.strptime(text, "%Y-%m-%d"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a day: {escape(text[:80])}") from None
    if day > _yesterday():
        raise argparse.ArgumentTypeError(f"{day} is not over yet (in UTC)")
    return day


def _domain(text: str) -> str:
    from zsmtp.dns.literal import domain_problem
    from zsmtp.idn import to_ascii

    name = to_ascii(text)
    if name is None or domain_problem(name) is not None:
        raise argparse.ArgumentTypeError(f"not a domain: {escape(text[:80])}")
    return name


def _address(text: str) -> str:
    if not is_plain_mailbox(text):
        raise argparse.ArgumentTypeError(f"not an address: {escape(text[:80])}")
    return text


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file written by many processes; one without end is read in pieces, which are no results."""
    while line := file.readline(MAX_LINE + 1):
        yield line


def _unique(path: str) -> str:
    """An identifier of this machine's reports: the same each time."""
    return hashlib.sha256(f"{os.uname().nodename}\0{os.path.abspath(path)}".encode()).hexdigest()[:12]


def _write_report(report: TLSReport, reporter: ReportingOrganization, options: argparse.Namespace) -> None:
    posted = [address for address in report.addresses if address.lower().startswith("https:")]
    mailed = mail_addresses(report.addresses)
    if posted:
        name = _write(options.output, report.filename, report.body)
        for address in posted:
            _print_line(report, address, name)
    if mailed:
        mail = report_mail(report, reporter, sender=options.sender, recipients=mailed, now=time.time())
        name = _write(options.output, f"{report.filename.removesuffix('.json.gz')}.eml", mail)
        for address in mailed:
            _print_line(report, f"mailto:{address}", name)


def _print_line(report: TLSReport, address: str, *words: str) -> None:
    sys.stdout.write("\t".join(map(escape, (report.domain, address, *words))) + "\n")
    sys.stdout.flush()


def _write(directory: str, name: str, octets: bytes) -> str:
    """Write a file atomically; return its path."""
    path = os.path.join(directory, name)
    unfinished = f"{path}.tmp"
    try:
        with open(unfinished, "wb") as file:
            file.write(octets)
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise CommandFailed(Exit.CANNOT_CREATE, f"{escape(path)}: {reason(error)}") from error
    return path
