"""``zsmtp receive``: a receiver on this machine that shows received messages, to try out programs that send mail.

It speaks SMTP, or LMTP, with the extensions of ``zsmtp.server``, accepts every message and shows its envelope and
header; with ``--folder`` it keeps each as a file. ``--refuse`` and ``--defer`` refuse recipients. It delivers nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import re
import signal
import sys
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from pathlib import Path

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.server.intake import IncomingMessage, OpenIntake, Outcome, ReceivedEnvelope, SessionInfo
from zsmtp.server.listener import Listener, ListenerSettings

PORT = 2526
MAX_SIZE = 64 << 20  # octets of a message
SHOWN_FIELDS = (b"from", b"to", b"cc", b"subject", b"date", b"message-id")
_EPILOG = """\
It accepts every message and delivers none; only this machine can reach it,
unless --listen names another address.

exit status: 0 ended by a signal or --count; 71 the address cannot be listened
on; 73 the folder cannot be written."""


def run(arguments: list[str]) -> int:
    """Run the command."""
    options = make_parser().parse_args(arguments)
    if options.folder is not None and not options.folder.is_dir():
        raise CommandFailed(Exit.CANNOT_CREATE, f"{escape(str(options.folder))}: not a folder")
    return asyncio.run(_receive(options))


def make_parser() -> Parser:
    """The options of the command."""
    parser = command_parser("receive", "Receive mail on this machine and show it.", epilog=_EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_address,
        default=("127.0.0.1", PORT),
        help=f"where; PORT alone is one of 127.0.0.1, port 0 any that is free (127.0.0.1:{PORT})",
    )
    parser.add_argument("--lmtp", action="store_true", help="speak LMTP (RFC 2033)")
    parser.add_argument("--full", action="store_true", help="show whole messages, not only their envelope and header")
    parser.add_argument("--folder", metavar="DIR", type=Path, help="keep each message as a file in this folder")
    parser.add_argument("--count", metavar="NUMBER", type=_number, default=0, help="end after this number of messages")
    parser.add_argument(
        "--refuse",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="refuse this recipient with 550; * and ? are wildcards",
    )
    parser.add_argument("--defer", metavar="ADDRESS", action="append", default=[], help="the same with 450")
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535 or (colon and not host):
        raise argparse.ArgumentTypeError(f"not HOST:PORT: {escape(text[:80])}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= 10**9:
        raise argparse.ArgumentTypeError(f"not a number from 1 on: {escape(text[:80])}")
    return int(text)


async def _receive(options: argparse.Namespace) -> int:
    done = asyncio.Event()
    intake = ShowingIntake(options, done)
    settings = ServerSettings(name=b"localhost", lmtp=options.lmtp, max_size=MAX_SIZE)
    listener = Listener(intake, ListenerSettings(settings))
    host, port = options.listen
    try:
        await listener.listen_tcp(host, port)
    except OSError as error:
        taken = "another process listens there; choose another port with --listen"
        reason = taken if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise CommandFailed(Exit.OS, f"{escape(host)} port {port}: {reason}") from None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    found = listener.sockets[0].getsockname()
    protocol = "LMTP" if options.lmtp else "SMTP"
    print(f"receiving {protocol} on {found[0]} port {found[1]}; ^C ends it", flush=True)
    await done.wait()
    await listener.close(grace=5.0)
    if intake.gone is not None:
        raise intake.gone
    if intake.problem:
        raise CommandFailed(Exit.CANNOT_CREATE, intake.problem)
    return int(Exit.OK)


class ShowingIntake(OpenIntake):
    """Accepts and prints mail. ``done`` is set after the requested number of messages, or on a ``problem``."""

    def __init__(self, options: argparse.Namespace, done: asyncio.Event) -> None:
        self.options = options
        self.done = done
        self.problem = ""
        self.gone: BrokenPipeError | None = None
        self._count = 0
        self._file = 0

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        address = recipient.address.decode("utf-8", "replace")
        if _fits(address, self.options.refuse):
            return Reply(550, (b"5.1.1 refused, as requested",))
        if _fits(address, self.options.defer):
            return Reply(450, (b"4.2.0 deferred, as requested",))
        return None

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        return _Shown(self, session, envelope)

    def take(self, session: SessionInfo, envelope: ReceivedEnvelope, content: bytes) -> Reply:
        """Show a message, and write it to the folder if there is one."""
        self._count += 1
        number = self._count
        where = ""
        if self.options.folder is not None:
            try:
                where = f", {escape(str(self._keep(content)))}"
            except OSError as error:
                self.problem = f"{escape(str(self.options.folder))}: {error.strerror}"
                self.done.set()
                return Reply(452, (b"4.3.1 the message cannot be kept",))
        try:
            sys.stdout.write(_picture(number, session, envelope, content, full=self.options.full, where=where))
            sys.stdout.flush()
        except BrokenPipeError as error:  # the reader of the output has gone: end the command as others do
            self.gone = error
            self.done.set()
            return Reply(452, (b"4.3.1 the output of the receiver is closed",))
        if number == self.options.count:
            self.done.set()
        return Reply(250, (b"2.0.0 taken as number %d" % number,))

    def _keep(self, content: bytes) -> Path:
        """Write a message into the folder, with a name after the present ones. Raises OSError."""
        while True:
            self._file += 1
            path: Path = self.options.folder / f"{self._file:06}.eml"
            try:
                with open(path, "xb") as file:
                    file.write(content)
            except FileExistsError:
                continue
            return path


class _Shown:
    """A message during its transfer."""

    def __init__(self, intake: ShowingIntake, session: SessionInfo, envelope: ReceivedEnvelope) -> None:
        self._intake = intake
        self._session = session
        self._envelope = envelope
        self._content = bytearray()

    def write(self, data: bytes) -> Awaitable[object] | None:
        self._content += data
        return None

    def commit(self) -> Outcome | Awaitable[Outcome]:
        reply = self._intake.take(self._session, self._envelope, bytes(self._content))
        return [reply] * len(self._envelope.recipients) if self._intake.options.lmtp else reply

    def abort(self, reason: Abort) -> None:
        self._content.clear()


def _picture(
    number: int, session: SessionInfo, envelope: ReceivedEnvelope, content: bytes, *, full: bool, where: str
) -> str:
    peer = session.peer.address or "a UNIX socket"
    tls = f", {session.tls}" if session.tls else ""
    lines = [
        f"--- {number}: {len(content)} octets from {peer} by {session.protocol}{tls}{where}",
        f"MAIL FROM:<{_text(envelope.sender)}>",
        *(f"RCPT TO:<{_text(one.address)}>" for one in envelope.recipients),
    ]
    head, _, _ = content.partition(b"\r\n\r\n")
    shown = content if full else b"\r\n".join(_fields(head))
    lines += ["  " + _text(line) for line in shown.rstrip(b"\r\n").split(b"\r\n")]
    return "\n".join(lines) + "\n"


def _fields(head: bytes) -> list[bytes]:
    """The lines of the fields that are shown."""
    found: list[bytes] = []
    wanted = False
    for line in head.split(b"\r\n"):
        if not line.startswith((b" ", b"\t")):
            wanted = line.partition(b":")[0].strip().lower() in SHOWN_FIELDS
        if wanted:
            found.append(line)
    return found


def _text(octets: bytes) -> str:
    return escape(octets.decode("utf-8", "backslashreplace"))


def _fits(address: str, patterns: Sequence[str]) -> bool:
    return any(_pattern(pattern).fullmatch(address) for pattern in patterns)


@lru_cache(256)
def _pattern(pattern: str) -> re.Pattern[str]:
    parts = ("." if char == "?" else re.escape(char) for char in re.sub(r"\*+", "*", pattern))
    return re.compile("".join(parts).replace(r"\*", ".*"), re.IGNORECASE | re.DOTALL)
