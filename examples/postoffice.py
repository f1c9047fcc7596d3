"""A post office in a temporary folder: messages queued as ZMailer's router leaves them, delivered by the agent.

Run it with ``make run-agent``, or ``python examples/postoffice.py``; it shows a person every step. The parts are those
of a real mail system, small: a control file and a message file for each message, a scheduler that tells the agent what
to do and hears what became of it (all over one socket pair on descriptors 0, 1 and 2), and a receiver that speaks
SMTP (aiosmtpd, not part of this project) on the loopback interface. Nothing leaves this machine.

With ``--message FILE --to ADDRESS`` (``make run-agent MSG=FILE TO=ADDRESS``) it delivers that message instead of its
own three. Exit status: 0 if all went as expected, 1 if not, 2 for a usage error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, localtime
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "src"
PATIENCE = 60.0  # seconds for the whole run of the agent

SENDER = "alice@example.org"
HELO_NAME = "postoffice.example.org"
REFUSED = "nobody@example.net"  # the receiver answers 550
BUSY = "busy@example.net"  # the receiver answers 450

MARK_WORDS = {" ": "to do", "~": "locked", "+": "delivered", "-": "failed for good"}
EXPECTED_MARKS = {REFUSED: "-", BUSY: " "}
NOTARY_FIELDS = ("recipient", "action", "status", "diagnostic", "remote MTA", "agent")


class PostOfficeError(Exception):
    """Something that ends the show; the text is for people."""


@dataclass
class Message:
    """One message to be queued. ``words`` stand in the ``N`` record of each recipient."""

    title: str
    header: bytes
    body: bytes
    recipients: list[str]
    words: str = ""
    number: int = 0
    marks_before: str = ""

    @property
    def wire(self) -> bytes:
        """What the receiver must get: the lines of header, empty line and body, each ended by CRLF."""
        return b"".join(line + b"\r\n" for line in [*self.header.splitlines(), b"", *self.body.splitlines()])


def own_messages() -> list[Message]:
    """A text, a MIME message with 8-bit text and an attachment, and one whose recipients fare differently."""
    text = EmailMessage()
    text.set_content("Hello,\n\na lone dot on a line must arrive as it is:\n.\n..and so must two.\n")
    mime = EmailMessage()
    mime.set_content("Grüße aus dem Postamt. Päivää!\n", cte="8bit")
    mime.add_attachment(bytes(range(256)) * 8, maintype="application", subtype="octet-stream", filename="octets.bin")
    many = EmailMessage()
    many.set_content("One of three gets this today.\n")
    return [
        addressed("a text; its sender wants to hear of success", text, ["bob@example.net"], "NOTIFY=SUCCESS,FAILURE"),
        addressed("8-bit text and an attachment", mime, ["carol@example.net"]),
        addressed("three recipients: one refused, one busy", many, ["dave@example.net", REFUSED, BUSY]),
    ]


def addressed(title: str, email: EmailMessage, recipients: list[str], words: str = "") -> Message:
    email["From"] = f"Alice <{SENDER}>"
    email["To"] = ", ".join(recipients)
    email["Subject"] = title.capitalize()
    email["Date"] = format_datetime(localtime())
    header, _, body = email.as_bytes().partition(b"\n\n")
    return Message(title, header + b"\n", body, recipients, words)


def message_from_file(path: Path, recipients: list[str]) -> Message:
    """The person's own message. Raises PostOfficeError if it cannot be read or has no header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PostOfficeError(f"{path}: {error.strerror}") from None
    if not re.match(rb"[!-9;-~]+[ \t]*:", data):
        raise PostOfficeError(f"{path}: does not start with a header field such as 'From: ...'")
    separator = re.search(rb"\r?\n\r?\n", data)
    header = data[: separator.start()] if separator else data.rstrip(b"\r\n")
    body = data[separator.end() :] if separator else b""
    return Message(str(path), header.replace(b"\r\n", b"\n") + b"\n", body, recipients)


# ---- the post office


@dataclass
class PostOffice:
    """``$POSTOFFICE`` in ``folder``: ``transport/`` for control files, ``queue/`` for message files."""

    folder: Path
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("transport", "queue", "received"):
            (self.folder / name).mkdir()
        # ZMailer's settings file. SYSLOGFLG without T: this is a show, the system's mail log need not hear of it.
        (self.folder / "zmailer.conf").write_text(f"POSTOFFICE={self.folder}\nSYSLOGFLG=none\n")

    @property
    def log(self) -> Path:
        return self.folder / "smtp.log"

    def control_path(self, message: Message) -> Path:
        return self.folder / "transport" / str(message.number)

    def queue(self, message: Message) -> None:
        """Write the message file, then the control file: it is complete when a scheduler sees it."""
        message.number = 1001 + len(self.messages)
        envelope = f"from <{SENDER}>\n".encode() + b"".join(b"to <%b>\n" % to.encode() for to in message.recipients)
        head = envelope + b"env-end\n" + message.header + b"\n"
        (self.folder / "queue" / str(message.number)).write_bytes(head + message.body)
        self.control_path(message).write_bytes(self.control_file(message, body_offset=len(head)))
        self.messages.append(message)
        message.marks_before = "".join(mark for _, _, mark in self.recipients(message))

    def control_file(self, message: Message, *, body_offset: int) -> bytes:
        """The control file: records of one line, the first octet tells which; LF ends every line."""
        lines = [
            "@ 0x00000007",  # format: recipients have a lock and a delay field
            f"i {message.number}",  # the message file in ../queue
            f"o {body_offset}",  # where the body starts in it
            f"l <{message.number}@{HELO_NAME}>",  # identity for logs
            f"e {SENDER}",  # where bounces go
            f"s local - {SENDER} 99",  # sender: channel, host, user, privilege
        ]
        for address in message.recipients:
            # State (blank: to do), 6 octets lock, 4 octets delay, then as for the sender.
            lines.append("r" + " " + " " * 6 + " " * 4 + f"smtp [127.0.0.1] {address} 99")
            if message.words:
                lines.append(f"N {message.words}")
        # The rewritten header to send, ended by an empty line; the one in the message file stays where it is.
        return "\n".join([*lines, "m", ""]).encode() + message.header + b"\n"

    def recipients(self, message: Message) -> Iterator[tuple[int, str, str]]:
        """Of each recipient record: its offset in the control file, the address, and the mark it bears now."""
        data = self.control_path(message).read_bytes().decode("utf-8", "replace")
        records = re.finditer(r"^r(.).{10}\S+ \S+ (\S+)", data.partition("\nm\n")[0], re.MULTILINE)
        for record in records:
            yield len(data[: record.start()].encode()), record[2], record[1]


# ---- the receiver


class Receiver:
    """aiosmtpd's handler: takes mail for all but two addresses and keeps it in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received: list[tuple[list[str], bytes]] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address == REFUSED:
            return "550 5.1.1 <nobody@example.net> no such user"
        if address == BUSY:
            return "450 4.2.1 <busy@example.net> mailbox busy, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.received.append((list(envelope.rcpt_tos), envelope.content))
        path = self.folder / f"{len(self.received)}.eml"
        path.write_bytes(envelope.content)
        recipients = "".join(f"RCPT TO:<{address}>\n" for address in envelope.rcpt_tos)
        path.with_suffix(".envelope").write_text(f"MAIL FROM:<{envelope.mail_from}>\n{recipients}")
        return f"250 2.6.0 kept as {path.name}"


def start_receiver(receiver: Receiver) -> Any:
    """Start aiosmtpd on a free port of the loopback interface; the object has ``port`` and ``stop()``."""
    try:
        from aiosmtpd.controller import Controller
    except ImportError:
        raise PostOfficeError("this example needs aiosmtpd (pip install aiosmtpd)") from None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(receiver, hostname="127.0.0.1", port=port, server_hostname="receiver.example.net")
    controller.start()
    return controller


# ---- the scheduler


class Agent:
    """The agent as a child process, as a scheduler has it: one end of a socket pair is its descriptors 0, 1 and 2."""

    def __init__(self, office: PostOffice, arguments: list[str]) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "ZCONFIG": str(office.folder / "zmailer.conf")}
        if SOURCE.is_dir():
            environment["PYTHONPATH"] = str(SOURCE)
        self.feed, child_end = socket.socketpair()
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zsmtp.zmailer.agent", *arguments],
                cwd=office.folder / "transport",
                env=environment,
                stdin=child_end.fileno(),
                stdout=child_end.fileno(),
                stderr=child_end.fileno(),
            )
        self.deadline = time.monotonic() + PATIENCE
        self.unread = b""

    def tell(self, line: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the agent is gone: what it said last is still to be read
            self.feed.sendall(line)

    def lines(self) -> Iterator[str]:
        """The agent's lines without line end, until it closes its end. Raises PostOfficeError if it takes too long."""
        while True:
            line, end, rest = self.unread.partition(b"\n")
            if end:
                self.unread = rest
                yield line.decode("utf-8", "replace")
                continue
            self.feed.settimeout(max(self.deadline - time.monotonic(), 0.001))
            try:
                octets = self.feed.recv(65536)
            except TimeoutError:
                raise PostOfficeError(f"the agent did not finish within {PATIENCE:.0f} s") from None
            except ConnectionError:
                octets = b""
            if not octets:
                return
            self.unread += octets

    def close(self) -> int:
        """Wait for the end of the process; its exit status."""
        self.feed.close()
        try:
            return self.process.wait(max(self.deadline - time.monotonic(), 1.0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def run_agent(office: PostOffice, port: int, show: Show) -> int:
    """Feed the agent one job line for each ``#hungry`` and show what it says; its exit status."""
    arguments = ["-p", str(port), "-l", str(office.log), "-h", HELO_NAME]
    show.heading("2. The agent, as its scheduler runs it")
    show.line(f"$ cd {office.folder}/transport; smtp {' '.join(arguments)}")
    agent = Agent(office, arguments)
    jobs = [f"{message.number}\t[127.0.0.1]" for message in office.messages]
    hungry = 0
    last_words = ""
    try:
        for line in agent.lines():
            if line == "#hungry":
                show.said(line)
                if hungry <= len(jobs):
                    job = jobs[hungry] if hungry < len(jobs) else ""
                    agent.tell(job.encode() + b"\n")
                    show.told(job or "(an empty line: no more work)")
                hungry += 1
            else:
                show.report(line, office)
                last_words = line
    finally:
        status = agent.close()
    if not hungry:
        raise PostOfficeError(f"the agent did not start (exit status {status}): {last_words}")
    show.line(f"exit status {status}")
    return status


# ---- what a person sees


class Show:
    """Prints; in colours if standard output is a terminal that can and NO_COLOR is not set."""

    def __init__(self) -> None:
        self.colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def _paint(self, code: str, text: str) -> str:
        text = printable(text)
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    def heading(self, text: str) -> None:
        print("\n" + self._paint("1", text))

    def line(self, text: str) -> None:
        print("  " + printable(text))

    def said(self, text: str) -> None:
        print("  " + self._paint("36", "agent     > " + text))

    def told(self, text: str) -> None:
        print("  " + self._paint("33", "scheduler > " + text.replace("\t", " <TAB> ")))

    def verdict(self, text: str, *, good: bool) -> None:
        print("  " + self._paint("32" if good else "31", text))

    def report(self, line: str, office: PostOffice) -> None:
        """One line of the agent that is not ``#hungry``: a report taken apart, or a remark."""
        report = re.fullmatch(r"(\d+)/(\d+)\t([^\t]*)\t(\w+) ?(.*)", line, re.DOTALL)
        if report is None:
            self.said(line)
            return
        number, offset, notary, word, text = report.groups()
        message = next((each for each in office.messages if str(each.number) == number), None)
        addresses = {at: address for at, address, _ in office.recipients(message)} if message else {}
        self.said(f"{number}/{offset} {word}: recipient record at octet {offset}, {addresses.get(int(offset), '?')}")
        if notary:
            for name, value in zip(NOTARY_FIELDS, notary.split("\x01"), strict=False):
                self.line(f"              {name:11} {value}")
        else:
            self.line("              (no notary data: no report of success was requested)")
        # The text is the dialogue so far, lines parted by CR; what was said last says it all.
        for label, part in zip(("last words", ""), text.split("\r")[-2:], strict=False):
            self.line(f"              {label:11} {part}")

    def dialogue(self, log: Path) -> None:
        """The agent's log: r is what it read, w what it wrote, # a remark."""
        for line in log.read_text(errors="replace").splitlines():
            stamp, _, text = line.partition("\t")
            if stamp[-1:] == "w":
                print("  " + self._paint("33", "C: " + text))
            elif stamp[-1:] == "r":
                print("  " + self._paint("36", "S: " + text))


def printable(text: str) -> str:
    """``text`` without anything that could move a terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def judge(office: PostOffice, receiver: Receiver, status: int, show: Show) -> bool:
    """Show marks and received messages; whether all is as it must be."""
    good = status == 0
    show.heading("4. The marks in the control files, before and after")
    for message in office.messages:
        for (_, address, after), before in zip(office.recipients(message), message.marks_before, strict=True):
            right = after == EXPECTED_MARKS.get(address, "+")
            good = good and right
            change = f"{message.number}  {address:24} [{before}] {MARK_WORDS[before]} -> [{after}] {MARK_WORDS[after]}"
            show.verdict(change if right else f"{change}   (not as expected)", good=right)

    show.heading("5. What the receiver has")
    if not receiver.received:
        show.line("(nothing)")
    for message in office.messages:
        wanted = [address for address in message.recipients if address not in EXPECTED_MARKS]
        copies = [n for n, (to, octets) in enumerate(receiver.received, 1) if to == wanted and octets == message.wire]
        right = len(copies) == bool(wanted)
        good = good and right
        if copies:
            name = f"received/{copies[0]}.eml"
            show.verdict(f"{name}  {len(message.wire)} octets, as queued, for {', '.join(wanted)}", good=right)
        elif not right:
            show.verdict(f"message {message.number} has not arrived as it was queued", good=False)
    return good and len(receiver.received) == sum(
        any(address not in EXPECTED_MARKS for address in message.recipients) for message in office.messages
    )


def perform(messages: list[Message]) -> bool:
    """Queue, deliver, show; whether all went as expected."""
    show = Show()
    office = PostOffice(Path(tempfile.mkdtemp(prefix="zsmtp-postoffice-")))
    receiver = Receiver(office.folder / "received")
    controller = start_receiver(receiver)
    try:
        show.line(f"Post office  {office.folder} (kept: look around, remove it when done)")
        show.line(f"Receiver     127.0.0.1 port {controller.port}; refuses {REFUSED}, has no time for {BUSY}")
        show.heading("1. Messages in the queue")
        for message in messages:
            office.queue(message)
            show.line(f"transport/{message.number}  {message.title} -> {', '.join(message.recipients)}")
        status = run_agent(office, controller.port, show)
    finally:
        controller.stop()
    show.heading(f"3. The dialogue, from the agent's log {office.log.name} (S: the receiver, C: the agent)")
    show.dialogue(office.log)
    good = judge(office, receiver, status, show)
    print()
    show.verdict("All as expected." if good else "Not as expected.", good=good)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Deliver mail through a post office in a temporary folder.")
    parser.add_argument("--message", type=Path, metavar="FILE", help="a message of your own: header, empty line, body")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="its recipient (may be repeated)")
    options = parser.parse_args()
    if bool(options.message) != bool(options.to):
        parser.error("--message and --to belong together")
    for address in options.to or ():
        if not re.fullmatch(r"[^\s<>]+@[^\s<>@]+", address):
            parser.error(f"not an address of the form user@domain: {printable(address)}")
    try:
        messages = [message_from_file(options.message, options.to)] if options.message else own_messages()
        return 0 if perform(messages) else 1
    except (PostOfficeError, OSError) as error:
        print(f"postoffice: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
