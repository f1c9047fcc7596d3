"""``zsmtp tlsrpt``: the TLS reports of a day, ready to be mailed or posted (RFC 8460 5).

The agent keeps the results of sessions in a file for each day (``tls-report-file``), the library too
(``direct.tls_report_file``). Once a day is over this command counts them, and for each domain that asks for reports
makes the JSON, compressed, under the name that 5.1 gives it, and for ``mailto:`` addresses the mail that carries it.
One line for each address says where the report is to go and which file holds it. Running it again makes the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

from zsmtp.cli.arguments import command_parser
from zsmtp.cli.failure import CommandFailed, reading, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape
from zsmtp.tls.tlsrpt import (
    MAX_LINE,
    ReportingOrganization,
    TLSReport,
    build_reports,
    is_plain_mailbox,
    mail_addresses,
    report_mail,
)

DAY = 86400  # seconds

_EPILOG = """
output: one line for each address, fields separated by TABs: the domain, the address, the file. A mail is to be sent
from --sender to the address, with a DKIM signature of the sender's domain; a file for an https: address is to be
posted there as application/tlsrpt+gzip.
"""


def run(arguments: list[str]) -> int:
    """Make the reports; the exit status."""
    options = _parse(arguments)
    reporter = ReportingOrganization(options.organization or options.domain, options.contact, options.domain)
    path = f"{options.results}.{options.day}"
    with reading(path), open(path, "rb") as file:
        made = build_reports(_lines(file), options.day, reporter, _unique(path))
    if made.skipped:
        lines = "1 line is no result" if made.skipped == 1 else f"{made.skipped} lines are no results"
        sys.stderr.write(f"zsmtp tlsrpt: {escape(path)}: {lines} of that day\n")
    status = Exit.OK
    for report in made.reports:
        try:
            _write_report(report, reporter, options)
        except ValueError as error:
            sys.stderr.write(f"zsmtp tlsrpt: no report for {escape(report.domain)}: {escape(str(error))}\n")
            status = Exit.DATA
    return status


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("tlsrpt", "Make the TLS reports of a day (RFC 8460).", epilog=_EPILOG)
    parser.add_argument("results", metavar="FILE", help="what tls-report-file or tls_report_file says, without the day")
    parser.add_argument("--domain", required=True, type=_domain, help="the domain that reports, and sends the mail")
    parser.add_argument("--day", type=_day, default=_yesterday(), help="2026-01-31, in UTC; without it, yesterday")
    parser.add_argument("--organization", default="", help="the name of who reports; without it, the domain")
    parser.add_argument("--contact", type=_address, help="an address for questions; without it, postmaster@ the domain")
    parser.add_argument("--sender", type=_address, help="who the mail comes from; without it, the contact")
    parser.add_argument("--output", metavar="DIRECTORY", default=".", help="where the files go; without it, here")
    options = parser.parse_args(arguments)
    options.contact = options.contact or f"postmaster@{options.domain}"
    options.sender = options.sender or options.contact
    return options


def _yesterday() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() - DAY))


def _day(text: str) -> str:
    """A day that is over: a report tells of all of it."""
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
    """The lines of a file that many processes wrote to; one without end is taken in pieces, which are no results."""
    while line := file.readline(MAX_LINE + 1):
        yield line


def _unique(path: str) -> str:
    """What tells this machine's reports from those of others: the same whenever it is asked."""
    return hashlib.sha256(f"{os.uname().nodename}\0{os.path.abspath(path)}".encode()).hexdigest()[:12]


def _write_report(report: TLSReport, reporter: ReportingOrganization, options: argparse.Namespace) -> None:
    posted = [address for address in report.addresses if address.lower().startswith("https:")]
    mailed = mail_addresses(report.addresses)
    if posted:
        name = _write(options.output, report.filename, report.body)
        for address in posted:
            _tell(report, address, name)
    if mailed:
        mail = report_mail(report, reporter, sender=options.sender, recipients=mailed, now=time.time())
        name = _write(options.output, f"{report.filename.removesuffix('.json.gz')}.eml", mail)
        for address in mailed:
            _tell(report, f"mailto:{address}", name)


def _tell(report: TLSReport, address: str, path: str) -> None:
    sys.stdout.write(f"{escape(report.domain)}\t{escape(address)}\t{escape(path)}\n")


def _write(directory: str, name: str, octets: bytes) -> str:
    """Make a file, whole or not at all; its path."""
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
