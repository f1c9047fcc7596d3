"""Sends TLS reports: by mail (RFC 8460 5.3) and by HTTPS (5.4), to each address once.

Mail goes through the client, by its configuration: a relay or the mail exchangers, signed with DKIM if the
configuration has a key for the sender's domain. An ``https:`` address gets one POST. A report that an address accepted
or permanently refused is a line of ``FILE.DAY.sent`` beside the results, on the disk before the next one is sent:
repeat the command until nothing is left; an address gets a report twice only if a reply was lost.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import zsmtp
from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.client.report import Fate, Result
from zsmtp.dns.answer import Query, RecordType
from zsmtp.dns.literal import domain_problem
from zsmtp.dns.resolver import Resolver, carry_out
from zsmtp.effects import Operation
from zsmtp.escape import escape
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.tls.context import WebContextOptions
from zsmtp.tls.https import HTTPS_PORT, WebPlace, post
from zsmtp.tls.mtasts import MAX_ADDRESSES
from zsmtp.tls.tlsrpt import ReportingOrganization, TLSReport, mail_addresses, report_mail

REPORT_TYPE = "application/tlsrpt+gzip"
POST_TIME = 60.0  # seconds for the lookups and the POST of one report, without --timeout


class ReportSending(NamedTuple):
    """The result of sending a report to an address: ``fate`` as a word, and the text of the server or of this side."""

    domain: str
    address: str
    fate: Fate
    words: str


_STATUS = {
    Fate.DELIVERED: Exit.OK,
    Fate.DEFERRED: Exit.TEMPORARY,
    Fate.IN_DOUBT: Exit.TEMPORARY,
    Fate.FAILED: Exit.UNAVAILABLE,
}
_FINAL = {Fate.DELIVERED: "sent", Fate.FAILED: "refused"}


def status_of_sending(sending: ReportSending) -> Exit:
    """The exit status for it."""
    return _STATUS[sending.fate]


class SentReports:
    """The addresses that have the report of a day, in a file that only this process writes until it is closed."""

    def __init__(self, path: str) -> None:
        """Open or make the file. Raises CommandFailed, also if another process sends these reports now."""
        self._path = path
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 - closed in __exit__
        except OSError as error:
            raise CommandFailed(Exit.CANNOT_CREATE, f"{escape(path)}: {reason(error)}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise CommandFailed(Exit.TEMPORARY, f"{escape(path)}: another process sends these reports") from None
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        self._known = {tuple(line.split(b"\t")[1:3]) for line in lines if line.count(b"\t") >= 2}
        if lines[-1]:  # cut off when its writer was killed: send that report again
            self._file.write(b"\n")

    def knows(self, domain: str, address: str) -> bool:
        """Whether this address is finished."""
        return _key(domain, address) in self._known

    def add(self, sending: ReportSending) -> None:
        """Write a final result; it is on the disk on return. Raises CommandFailed."""
        word = _FINAL.get(sending.fate)
        if word is None:
            return
        key = _key(sending.domain, sending.address)
        self._known.add(key)
        try:
            self._file.write(b"\t".join((word.encode(), *key)) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CommandFailed(Exit.IO, f"{escape(self._path)}: {reason(error)}") from error

    def __enter__(self) -> SentReports:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _key(domain: str, address: str) -> tuple[bytes, bytes]:
    return escape(domain).encode(), escape(address).encode()


@dataclass(frozen=True, slots=True)
class ReportSender:
    """Sends reports.

    ``sender`` is the From address of the mail, ``seconds`` the total time for a POST; ``stop`` stops one.
    """

    config: Config
    reporter: ReportingOrganization
    sender: str
    sent: SentReports
    seconds: float = POST_TIME
    stop: Stop = field(default_factory=Stop)

    def send(self, report: TLSReport) -> Iterator[ReportSending]:
        """Send a report to its addresses that have not had it. Raises ValueError if it cannot be a mail."""
        left = [one for one in report.addresses if not self.sent.knows(report.domain, one)]
        for address in left:
            if address.lower().startswith("https:"):
                yield self._keep(ReportSending(report.domain, address, *self._post(report, address)))
        mailboxes = {mailbox: address for address in left for mailbox in mail_addresses([address])}
        if mailboxes:
            for result in self._mail(report, tuple(mailboxes)):
                address = mailboxes[result.recipient]
                yield self._keep(ReportSending(report.domain, address, result.fate, result.reason))

    def _keep(self, sending: ReportSending) -> ReportSending:
        self.sent.add(sending)
        return sending

    def _mail(self, report: TLSReport, mailboxes: tuple[str, ...]) -> list[Result]:
        mail = report_mail(report, self.reporter, sender=self.sender, recipients=mailboxes, now=time.time())
        return list(zsmtp.deliver(mail, sender=self.sender, recipients=mailboxes, config=self.config))

    def _post(self, report: TLSReport, address: str) -> tuple[Fate, str]:
        """The result of posting a report, with the reason."""
        place = web_place(address)
        if place is None:
            return Fate.FAILED, "not an address that can be posted to"
        deadline = time.monotonic() + self.seconds
        destinations = Destinations(self.config)
        try:
            addresses, problem = _addresses(destinations.resolver(), place.host, deadline)
        finally:
            destinations.close()
        if not addresses:
            return Fate.DEFERRED, f"{place.host} has no address{f': {problem}' if problem else ''}"
        tls = self.config.direct.tls
        trust = WebContextOptions(tls.ca_file, tls.ca_path)
        seconds = max(deadline - time.monotonic(), 0.0)
        work = post(place._replace(addresses=addresses), REPORT_TYPE, report.body, trust, seconds=seconds)
        answer = BlockingDriver(destinations.resolver, self.stop).run(work)
        if answer.taken:
            return Fate.DELIVERED, answer.text
        return Fate.FAILED if answer.refused else Fate.DEFERRED, answer.text


def web_place(address: str) -> WebPlace | None:
    """The place of an ``https:`` URL, without the addresses of its host; None for a URL that cannot be posted to."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fit = target.isascii() and target.isprintable() and " " not in target
    if parts.scheme != "https" or not host or domain_problem(host) or not fit or "@" in parts.netloc or port == 0:
        return None
    return WebPlace(host, (), port or HTTPS_PORT, target)


def _addresses(resolver: Resolver, host: str, deadline: float) -> tuple[tuple[str, ...], str]:
    """The addresses of a host, or the reason why a lookup failed."""

    async def looked_up() -> tuple[tuple[str, ...], str]:
        answers = [await Query(host, kind) for kind in (RecordType.A, RecordType.AAAA)]
        found = [str(record) for answer in answers for record in answer.records[: MAX_ADDRESSES // 2]]
        failed = next((answer for answer in answers if answer.temporary), None)
        return tuple(found), "" if failed is None else escape(failed.problem or failed.status.value)

    work: Operation[tuple[tuple[str, ...], str]] = looked_up()
    return carry_out(work, resolver, deadline=deadline, own_addresses=frozenset)
