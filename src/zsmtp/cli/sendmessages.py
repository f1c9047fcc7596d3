"""The messages between ``zsmtp send --jobs`` and its sending processes, over a :class:`~zsmtp.net.channel.Channel`.

The command sends an :class:`Order`, then :class:`Work`: at most :data:`WINDOW` messages more than the process has taken
(:class:`WorkTaken`), and :class:`EndOfWork`. The process sends results, and :class:`AllSettled` when it has sent all of
them. Both ends read whenever data arrives, so that neither can block the other.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zsmtp.client.config import Config
from zsmtp.client.dsn import DSN
from zsmtp.client.report import Result
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.net.channel import Channel
from zsmtp.proto.mailoptions import MailOptions

WINDOW = 512  # messages that are sent to a process beyond those it has taken

# -------------------------------------------------- to the sending process


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The first message: how the process sends."""

    config: Config = field(default_factory=Config)
    """The configuration, with the limits of this process."""
    plans: tuple[DeliveryPlan, ...] = ()
    """The plans to deliver by."""
    retry_for: float = 0.0
    """The seconds for which deferred recipients are tried again."""
    trace: str | None = None
    """The path of traces, None for no traces."""
    hash_addresses: bool = False
    """Whether traces have hashes instead of addresses."""
    marks: int = -1
    """The descriptor of a file with an octet for each recipient of the share: not zero if it may have its message.

    Both processes map the file into memory, so the command can read the marks of a process that was killed.
    """
    asks: bool = False
    """Whether a message may be completed only after :class:`CompletionReply`: the command records it first."""
    octets: bool = False
    """Whether the process sends :class:`OctetsSent`."""


class FilePlace(NamedTuple):
    """The octets ``[start, end)`` of a file, whose descriptor the process inherits."""

    descriptor: int
    start: int
    end: int


class Work(NamedTuple):
    """A message for some of its recipients."""

    number: int
    """Its number in the share."""
    name: str
    source: str | FilePlace
    """A path, or octets of a file."""
    sender: str
    recipients: tuple[str, ...]
    mark: int
    """The index of the mark of the first recipient; the others follow."""
    dsn: DSN | None
    options: MailOptions


class EndOfWork(NamedTuple):
    """No more messages follow."""


class CompletionReply(NamedTuple):
    """The reply to a :class:`CompletionRequest`: whether those messages may be completed."""

    request: int
    allowed: bool


class StopSending(NamedTuple):
    """Stop all deliveries; recipients without a result get one with this reason."""

    reason: str


# ------------------------------------------------ from the sending process


class Ready(NamedTuple):
    """The process has started, and can use the configuration."""


class ConfigRejected(NamedTuple):
    """The process ends: it cannot use the configuration."""

    problem: str


class WorkTaken(NamedTuple):
    """The process has taken so many more messages."""

    messages: int


class CompletionRequest(NamedTuple):
    """May these messages be completed? :class:`CompletionReply` replies."""

    request: int
    """The number of the request."""
    messages: tuple[tuple[int, tuple[str, ...]], ...]
    """Numbers of messages, each with addresses of recipients."""


class FinalResult(NamedTuple):
    """The final result of a recipient."""

    number: int
    result: Result


class RetryScheduled(NamedTuple):
    """A recipient was deferred, and is tried again in so many seconds."""

    number: int
    result: Result
    seconds: float


class OctetsSent(NamedTuple):
    """The process has sent so many more octets of content."""

    octets: int


class LibraryWarning(NamedTuple):
    """A warning of the library (the logger ``zsmtp``)."""

    text: str


class ErrorLine(NamedTuple):
    """A line for standard error."""

    text: str


class AllSettled(NamedTuple):
    """The last message: all messages that the process has taken have their results."""


# ---------------------------------------------------------------- the channel


class SendChannel(Channel):
    """One end of the channel; :meth:`receive` waits for its messages."""

    def __init__(self, sock: socket.socket, *, gather: float = 0.0) -> None:
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        super().__init__(sock, self._received.put_nowait, self._end_received, gather=gather)

    def _end_received(self, reason: str) -> None:
        self._received.put_nowait(None)

    async def receive(self) -> Any:
        """The next message, None once the channel is closed; :attr:`problem` is the fault then, if it was one."""
        if not self.is_open and self._received.empty():
            return None
        return await self._received.get()
