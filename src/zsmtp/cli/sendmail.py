"""``zsmtp-sendmail``: a replacement of ``/usr/sbin/sendmail`` for programs, with the queue of this machine.

The message on standard input is written into the queue of ``ZSMTP_QUEUE`` (``/var/lib/zsmtp/queue.db``), and status 0
means that it is on the disk. Another process delivers that queue. If it cannot be written now, nothing is kept, the
status is 75, and standard error has the reason; statuses are those of sysexits(3). ``ZSMTP_CONFIG`` names the
configuration of a client, or of the service that delivers the queue: its routes decide the queue key of a recipient,
and for a service its rules for addresses and its quotas of tenants apply, too.

As ``mailq`` and with ``-bp`` it lists the messages of the present user (root: all), with ``-q`` it has them tried now.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO, NamedTuple

from zsmtp.cli.failure import CommandFailed, reading, reason
from zsmtp.cli.sendmailinput import Given, blind_removed, completed, read_message
from zsmtp.cli.sendmailoptions import HELP, SendmailMode, SendmailOptions, UsageProblem, read_options
from zsmtp.cli.sysexits import Exit
from zsmtp.client.addresslist import read_address, read_addresses
from zsmtp.client.config import Config
from zsmtp.client.dsn import NO_WISHES, wishes
from zsmtp.client.header import envelope_in
from zsmtp.errors import ConfigError, ContentError, QueueError, QueueFull, QueueUnavailable, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import time_of, to_text
from zsmtp.queue.ingest import Ingest, QueueSubmission
from zsmtp.queue.location import VARIABLE, Location, making, usual_location
from zsmtp.queue.operators import Change
from zsmtp.queue.queue import Queue

CONFIG_VARIABLE = "ZSMTP_CONFIG"
_MAILNAME = "/etc/mailname"  # Debian keeps the domain of this machine's addresses here
_NOTHING_KEPT = "the message was not kept: send it again later"


class User:
    """The user of the process: ``uid``, login name and full name, and the user's address on this machine."""

    def __init__(self, uid: int, domain: str) -> None:
        self.uid = uid
        self.domain = domain
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            self.login, self.full_name = f"uid-{uid}", ""
        else:
            self.login = entry.pw_name
            self.full_name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())

    @property
    def origin(self) -> str:
        """The mark of the user's messages in the queue."""
        return f"sendmail uid {self.uid}"

    def qualified(self, address: str | bytes) -> str:
        """An address, with the domain of this machine if it has none."""
        text = address.decode("utf-8", "surrogateescape") if isinstance(address, bytes) else address
        bare = text.strip()
        if bare in ("", "<>") or (
            "@" in bare and not bare.removesuffix(">").endswith('"')
        ):  # a quoted @ begins no domain
            return text
        if bare.endswith(">"):
            return f"{bare[:-1]}@{self.domain}>"
        return f"{bare}@{self.domain}"


def own_domain() -> str:
    """The domain for addresses without one."""
    with suppress(OSError, UnicodeDecodeError), open(_MAILNAME, encoding="utf-8") as file:
        name = file.readline(300).strip()
        if name:
            return name
    return os.uname().nodename


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit status."""
    name = os.path.basename(sys.argv[0]) if argv is None else "sendmail"
    arguments = sys.argv[1:] if argv is None else argv
    try:
        status = run(arguments, name=name)
        sys.stdout.flush()
    except CommandFailed as error:
        status, text = error.status, str(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    else:
        return status
    sys.stderr.write(f"sendmail: {text}\n")
    return status


def run(arguments: Sequence[str], *, name: str = "sendmail") -> Exit:
    """Carry out the command line. Raises CommandFailed."""
    try:
        options = read_options(name, arguments)
    except UsageProblem as error:
        raise CommandFailed(Exit.USAGE, str(error)) from None
    if options.show_help:
        sys.stdout.write(HELP)
        return Exit.OK
    if options.mode is SendmailMode.ALIASES:
        sys.stdout.write("there are no aliases in this queue: nothing to rebuild\n")
        return Exit.OK
    user = User(os.getuid(), own_domain())
    try:
        if options.mode is SendmailMode.SUBMIT:
            _submit(options, user)
        else:
            where = _queue_there()
            asyncio.run(_list(where, user) if options.mode is SendmailMode.LIST else _flush(where, user))
    except (QueueUnavailable, QueueFull) as error:
        kept = f"; {_NOTHING_KEPT}" if options.mode is SendmailMode.SUBMIT else ""
        raise CommandFailed(Exit.TEMPORARY, f"{escape(str(error))}{kept}") from None
    except ConfigError as error:
        raise CommandFailed(Exit.CONFIG, escape(str(error))) from None
    except (SubmissionError, ContentError, QueueError) as error:
        raise CommandFailed(Exit.DATA, escape(str(error))) from None
    except OSError as error:
        raise CommandFailed(Exit.IO, escape(reason(error))) from None
    return Exit.OK


def _queue_there() -> Location:
    """The queue, which must exist: no process would deliver one that is made here."""
    where = usual_location()
    if where.in_memory:
        raise ConfigError(f"{VARIABLE}: a queue in memory ends with this program")
    if where.url:
        return where
    try:
        os.stat(where.path)
    except FileNotFoundError as error:
        raise QueueUnavailable(f"queue {where.path}: {reason(error)}; {making(where.path)}") from None
    except OSError as error:
        raise QueueUnavailable(f"queue {where.path}: {reason(error)}") from None
    return where


class _Configuration(NamedTuple):
    """The settings for queueing: routes, rules and tenant."""

    delivery: Config = Config()
    queue: QueueConfig = QueueConfig()
    tenant: str = ""


def _configuration(user: User) -> _Configuration:
    """The configuration without its keys: a user may write any From here, and cannot read key files.

    The file is that of a client, or of the service that delivers the queue: then its rules for addresses and its quotas
    apply, and the tenant is that of the user at its UNIX sockets.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        return _Configuration()
    with reading(path):
        try:
            return _Configuration(replace(Config.from_toml(path), dkim=()))
        except ConfigError:
            from zsmtp.server.serviceconfig import is_of_service

            if not is_of_service(path):
                raise
        from zsmtp.server.access import Access
        from zsmtp.server.intake import PeerInfo
        from zsmtp.server.serviceconfig import read_service

        service = read_service(path)
    rights = Access(clients=service.clients).rights_of(None, PeerInfo("", uid=user.uid))
    tenant = rights.tenant if rights is not None else ""
    return _Configuration(replace(service.delivery, dkim=()), service.queue, tenant)


# -------------------------------------------------------------------- submitting


def _submit(options: SendmailOptions, user: User) -> None:
    """Queue a message. It is checked completely before anything is written."""
    try:
        dsn = options.dsn()
    except UsageProblem as error:
        raise CommandFailed(Exit.USAGE, str(error)) from None
    sender = _sender(options, user)
    config = _configuration(user)
    where = _queue_there()
    if sys.stdin is None:  # closed before the start
        raise CommandFailed(Exit.IO, f"there is no standard input; {_NOTHING_KEPT}")
    given = _message(sys.stdin.buffer, options)
    with given.file:
        header = blind_removed(given) if options.from_header else given.header
        recipients = _recipients(options, given, user)
        asked = NO_WISHES if dsn is None else wishes(dsn, recipients)
        envelope = Envelope(
            sender,
            tuple([EnvelopeRecipient(path, asked.notify, asked.originals.get(path)) for path in recipients]),
            asked.ret,
            asked.envid,
        )
        header = completed(
            header,
            sender=sender,
            author=_author(user),
            full_name=user.full_name if options.full_name is None else options.full_name,
            trace=f"by {os.uname().nodename} (zsmtp-sendmail, from uid {user.uid})",
        )
        submission = QueueSubmission(message=b"", tenant=config.tenant)
        ingested = Ingest(config.delivery, config.queue).assemble(
            envelope, header, given.body, submission=submission, origin=user.origin
        )

        async def put() -> None:
            async with Queue.open(where.given, config=config.delivery, queue=config.queue) as queue:
                await queue.put(ingested)
                queue.wake()

        asyncio.run(put())


def _message(stream: IO[bytes], options: SendmailOptions) -> Given:
    try:
        return read_message(stream, dots=options.dots)
    except OSError as error:
        raise CommandFailed(Exit.IO, f"the message cannot be read: {escape(reason(error))}; {_NOTHING_KEPT}") from None


def _sender(options: SendmailOptions, user: User) -> bytes:
    if options.sender is None:
        return _author(user)
    try:
        return read_address(user.qualified(options.sender), "sender")
    except SubmissionError as error:
        raise CommandFailed(Exit.USAGE, f"-f: {error}") from None


def _author(user: User) -> bytes:
    """The user's own address."""
    try:
        return read_address(f"{user.login}@{user.domain}", "sender")
    except SubmissionError as error:
        raise CommandFailed(Exit.CONFIG, f"the user's own address: {error}; give one by -f") from None


def _recipients(options: SendmailOptions, given: Given, user: User) -> tuple[bytes, ...]:
    """The recipients on the command line, with -t also those of the header."""
    named: list[str | bytes] = list(options.recipients)
    if options.from_header:
        _, addressed = envelope_in(given.header, sender=False)
        named += addressed or ()
    if not named:
        where = "in To, Cc or Bcc" if options.from_header else "on the command line; -t takes them from the header"
        raise CommandFailed(Exit.USAGE, f"there are no recipients {where}")
    try:
        return read_addresses([user.qualified(one) for one in _split_addresses(named)], "recipient")
    except SubmissionError as error:
        raise CommandFailed(Exit.NO_USER, str(error)) from None


def _split_addresses(named: Sequence[str | bytes]) -> list[str | bytes]:
    """Split words of the command line at commas: each may hold several addresses, as in a header."""
    found: list[str | bytes] = []
    for one in named:
        if isinstance(one, str) and "," in one:
            _, addressed = envelope_in(b"To: %b\n" % one.encode("utf-8", "surrogateescape"), sender=False)
            found += addressed or ()
        else:
            found.append(one)
    return found


# --------------------------------------------------------------------- operating


def _visible(user: User) -> Filter:
    """The messages that a user may see: root all, others their own."""
    return Filter() if user.uid == 0 else Filter.parse(f'origin="{user.origin}"')


async def _list(where: Location, user: User) -> None:
    async with Queue.open(where.given) as queue:
        message = 0
        async for row in queue.store.select(_visible(user)):
            if row.message.id != message:
                message = row.message.id
                sender = escape(row.message.sender) or "<>"
                _print_line(f"{to_text(message, queue.store.shard)} {row.message.size:>9} {_time(message)}  {sender}")
            why = f" ({escape(row.recipient.reason)})" if row.recipient.reason else ""
            _print_line(f"{'':15} {row.state.value:>9} {'':19}  {escape(row.recipient.address)}{why}")
        if not message:
            _print_line("Mail queue is empty")


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line.rstrip()}\n")


def _time(message: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(time_of(message)).strftime("%Y-%m-%d %H:%M:%S")


async def _flush(where: Location, user: User) -> None:
    from time import time

    async with Queue.open(where.given) as queue:
        async for _ in queue.store.change(_visible(user), Change(due=time(), by=user.origin)):
            pass
        queue.wake()
