"""The record of what a scripted server saw: segments, command lines, transactions with content and verdicts.

All values are filled in by the thread of the connection while the test looks on; ask through
:meth:`~tests.support.sink.Sink.wait_for` while a connection is alive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Way(Enum):
    """What a record of the wire is."""

    OPEN = "open"  # the connection was accepted
    CLIENT = "C"  # octets from the client
    SERVER = "S"  # octets to the client
    CLIENT_CLOSED = "client closed"
    CLIENT_RESET = "client reset"
    SERVER_CLOSED = "server closed"  # also by a reset, and by the end of the test
    TLS = "tls"  # the handshake is done


@dataclass(frozen=True, slots=True)
class Segment:
    """One event on the wire, at ``at`` seconds of ``time.monotonic``."""

    way: Way
    data: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Command:
    """One command line without CRLF; ``followed`` tells that more octets had come with it (PIPELINING)."""

    line: bytes
    followed: bool

    @property
    def verb(self) -> str:
        return self.line.split(b" ", 1)[0].decode("latin-1").upper()


@dataclass(slots=True)
class Transaction:
    """One MAIL and what followed. ``content`` is as on the wire, without the final dot (empty if not kept)."""

    mail: bytes
    rcpts: list[bytes] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)
    content: bytes = b""
    octets: int = 0
    sha256: str = ""
    complete: bool = False
    answers: list[bytes] = field(default_factory=list)

    @property
    def recipients(self) -> list[bytes]:
        """The accepted forward-paths without their brackets."""
        return [path(line) for line in self.accepted]

    @property
    def delivered(self) -> list[bytes]:
        """The forward-paths for which the server said 2xx to the end of the content."""
        answers = self.answers
        if len(answers) == 1:
            answers = answers * len(self.accepted)
        return [to for to, answer in zip(self.recipients, answers, strict=False) if answer[:1] == b"2"]


def path(line: bytes) -> bytes:
    """The path of a MAIL or RCPT line, without its angle brackets."""
    return line[line.index(b"<") + 1 : line.rindex(b">")]


class Connection:
    """The record of one connection."""

    def __init__(self, number: int, peer: str) -> None:
        self.number = number
        self.peer = peer
        self.wire: list[Segment] = []
        self.commands: list[Command] = []
        self.transactions: list[Transaction] = []
        self.silent = False  # the server says nothing more, or nothing more that leads anywhere
        self.finished = False

    @property
    def lines(self) -> list[bytes]:
        """The command lines, in order."""
        return [command.line for command in self.commands]

    @property
    def verbs(self) -> list[str]:
        """The names of the commands, in order."""
        return [command.verb for command in self.commands]

    def octets(self, way: Way) -> bytes:
        """Everything that went one way, in one piece."""
        return b"".join(segment.data for segment in self.wire if segment.way is way)
