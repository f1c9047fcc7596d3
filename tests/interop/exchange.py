"""One test's dealings with one server: post messages, run the agent on them, and look at what the server has stored.

The agent is run as the scheduler runs it (``tests.support``); recipients are mailboxes of ``servers.MAILBOXES``. What a
server stored must be, octet for octet, the header block of the control file, an empty line and the body, below the
trace headers the server has put on top; with LF for CRLF, as a Maildir has it. Whether it came over TLS is what these
trace headers say. At listeners with TLS the agent verifies the chain and the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.servers import DOMAIN, TLS, Listener, Server
from tests.support.agent import Agent, Result
from tests.support.postoffice import Job, PostOffice, Rcpt, wire_content

SENDER = "sender@example.org"

_PATIENCE = 100.0
# how the header block of every message posted here begins; what stands above it in a mailbox are trace headers
_FIRST_LINE = "Received: from submit.example.org by spool.example.org id "
_SECURED = re.compile(
    rb"\bwith \S*(?:SMTP|LMTP)S\b", re.IGNORECASE
)  # the protocol that a server says it was (RFC 3848)
_TRANSACTION = re.compile(rb"^\s*(?:by .*? with .*? )?id (\S+?);?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Message:
    """A message in the spool, and what a server must have stored of it if it needs no conversion."""

    job: Job
    stored: bytes
    original: bytes


class Exchange:
    """A post office on this side, a listener of a running server on the other."""

    def __init__(self, office: PostOffice, listener: Listener, server: Server) -> None:
        self.office = office
        self.listener = listener
        self.server = server
        self._destination = DOMAIN
        self._posted = 0
        server.await_rest()
        server.clear()
        self.log_position = server.log_size()

    def route_to(self, destination: str, resolver: str) -> None:
        """From now on mail goes where the DNS says, to the port of the listener, instead of straight there."""
        self._destination = destination
        self.office.write_zenv(RESOLVER=resolver)

    def post(
        self,
        mailboxes: Iterable[str],
        body: bytes,
        *,
        sender: str = f"smtp example.org {SENDER} 99",
        mime: str = "",
        words: str = "",
        extra: str = "",
    ) -> Message:
        """Spool one message. ``mime`` are further header lines, ``words`` those of each recipient's ``N`` record."""
        header = (
            f"From: Sender <{SENDER}>\nTo: undisclosed-recipients:;\nSubject: message {self._posted + 1}\n"
            f"Date: Sun, 1 Jan 2023 12:00:00 +0000\nMessage-Id: <{self._posted + 1}@example.org>\n{mime}"
        )
        return self.post_message(mailboxes, header.encode(), body, sender=sender, words=words, extra=extra)

    def post_message(
        self,
        mailboxes: Iterable[str],
        own_header: bytes,
        body: bytes,
        *,
        sender: str = f"smtp example.org {SENDER} 99",
        words: str = "",
        extra: str = "",
    ) -> Message:
        """Spool a message with this header, under a line by which it is known again."""
        self._posted += 1
        first = f"{_FIRST_LINE}{self._posted:06};\n\tSun, 1 Jan 2023 12:00:00 +0000\n"
        header = (first.encode() + own_header).decode("latin-1")
        job = self.office.post(
            [Rcpt(f"{mailbox}@{DOMAIN}", host=self._destination, words=words) for mailbox in mailboxes],
            name=str(1000 + self._posted),
            sender=sender,
            header=header,
            body=body,
            extra=extra,
        )
        stored = wire_content(header, body, stuffed=False).replace(b"\r\n", b"\n")
        return Message(job, stored, header.encode("latin-1") + b"\n" + body)

    def run(self, messages: Sequence[Message], *flags: str, environment: Mapping[str, str] | None = None) -> Result:
        """Have the agent deliver them, all fed at once; it must end well and report every recipient once."""
        if self.listener.port is not None:
            straight = ["-F", "[127.0.0.1]"] if self._destination == DOMAIN else []
            target = [*straight, "-p", str(self.listener.port)]
        else:
            target = ["-F", f"UNIX:{self.server.root / (self.listener.path or '')}"]
        if self.listener.tls is not TLS.NONE and "-S" not in flags:
            target += ["-S", str(self.tls_file("verify"))]
        lmtp = ["-M"] if self.listener.lmtp else []
        usual = ("-h", "client.interop.test", "-l", str(self.office.log))
        with Agent(self.office, *lmtp, *target, *usual, *flags, environment=environment) as agent:
            agent.feed(*(message.job.line(self._destination) for message in messages))
            result = agent.finish(_PATIENCE)
        assert result.status == 0, result
        assert result.fates.keys() == {(m.job.id, offset) for m in messages for offset in m.job.offsets}
        return result

    def tls_file(self, level: str, *more: str) -> Path:
        """A file for -S: this level, the authority of the farm, TLS as the listener has it, and ``more`` lines."""
        implicit = "on" if self.listener.tls is TLS.IMPLICIT else "off"
        lines = [f"tls-level {level}", f"tls-CAfile {self.server.authority.file}", f"tls-implicit {implicit}", *more]
        path = self.office.root / "tls.conf"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def deliver(self, messages: Sequence[Message], *flags: str) -> Result:
        """As :meth:`run`; every recipient must be reported ``ok`` and marked as delivered."""
        result = self.run(messages, *flags)
        assert set(result.fates.values()) == {"ok"}, result.reports
        for message in messages:
            assert self.office.marks(message.job) == "+" * len(message.job.offsets)
        return result

    def assert_stored(self, expected: dict[str, Sequence[Message]]) -> None:
        """These mailboxes hold exactly these messages, octet for octet, and no other holds any."""
        self.server.await_stored(sum(len(messages) for messages in expected.values()))
        for mailbox, messages in expected.items():
            stored = sorted(without_trace(octets) for octets in self.server.stored(mailbox))
            secured = {bool(_SECURED.search(trace(octets))) for octets in self.server.stored(mailbox)}
            assert secured <= {self.listener.tls is not TLS.NONE}, f"mailbox {mailbox}: TLS, or none, against the plan"
            assert stored == sorted(message.stored for message in messages), f"mailbox {mailbox}"
        assert self.server.count() == sum(len(messages) for messages in expected.values())

    def transactions(self, mailboxes: Iterable[str]) -> dict[bytes, int]:
        """The server's identities of the transactions in which these mailboxes' messages came, and how many each."""
        found: dict[bytes, int] = {}
        for mailbox in mailboxes:
            for octets in self.server.stored(mailbox):
                match = _TRANSACTION.search(trace(octets))
                assert match is not None, f"no identity in {trace(octets)!r}"
                found[match[1]] = found.get(match[1], 0) + 1
        return found

    def connections(self) -> int:
        """How many connections the server has seen since this exchange began."""
        return self.server.connections_since(self.log_position)

    def await_log(self, pattern: str, *, count: int = 1) -> list[re.Match[str]]:
        """What the server has logged since this exchange began: waits for ``count`` matches."""
        return self.server.await_log(self.log_position, pattern, count=count)

    def commands(self) -> list[bytes]:
        """The command lines the agent has sent, from its dialogue log."""
        return re.findall(rb"^\d{5}[0-9A-F]{4}-\d{4}-\d{4}w\t(.*)$", self.office.log.read_bytes(), re.MULTILINE)


def without_trace(octets: bytes) -> bytes:
    """A stored message from its first own header line on."""
    start = octets.find(_FIRST_LINE.encode())
    assert start >= 0, f"not a message of ours: {octets[:2000]!r}"
    return octets[start:]


def trace(octets: bytes) -> bytes:
    """The trace headers that the server has put on top of a stored message."""
    return octets.removesuffix(without_trace(octets))
