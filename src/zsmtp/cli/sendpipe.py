"""The pipe between ``zsmtp send --jobs`` and a process that sends for it: what is said over it, and how.

A pipe is a pair of sockets; both ends are this program. What is said is values of the classes here, several at a time:
a frame is a length of four octets and the pickled values. The end of the octets is the end of the other process. What
the sending process is given is bounded by what it has taken (:class:`WorkTaken`), and each end reads whenever something
comes, so that neither waits for the other in vain.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from zsmtp.client.config import Config
from zsmtp.client.dsn import DSN
from zsmtp.client.report import Result
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.errors import LocalError
from zsmtp.proto.mailoptions import MailOptions

MAX_FRAME = 256 << 20  # octets
WINDOW = 512  # messages that a sending process is given beyond those it has taken to hand
_LENGTH = struct.Struct("!I")
_READ = 1 << 20  # octets read ahead

# ------------------------------------------------ to the process that sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The first word: how everything is sent that follows."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a :class:`~zsmtp.client.config.Config`, see :func:`config_values`."""
    plans: tuple[DeliveryPlan, ...] = ()
    retry_for: float = 0.0
    trace: str | None = None
    """Where traces are kept."""
    hash_addresses: bool = False
    marks: int = -1
    """The descriptor of a file with an octet for each recipient of the share: not zero once it may have its message.

    It is mapped into the memory of both processes, so it is known what was begun by a process that has been killed.
    """
    asks: bool = False
    """Whether messages are completed only when :class:`Allowed` says so: somebody writes them down first."""
    octets: bool = False
    """Whether :class:`OctetsSent` is wanted."""


class FilePlace(NamedTuple):
    """The octets ``[start, end)`` of a file that the process has inherited by its descriptor."""

    descriptor: int
    start: int
    end: int


class Work(NamedTuple):
    """A message for some of its recipients: its number in the share, and the place of their marks."""

    number: int
    name: str
    source: str | FilePlace
    sender: str
    recipients: tuple[str, ...]
    mark: int
    dsn: DSN | None
    options: MailOptions


class NoMore(NamedTuple):
    """There is no more work."""


class Allowed(NamedTuple):
    """The answer to :class:`LeaveAsked`: whether those messages may be completed."""

    question: int
    allowed: bool


class StopSending(NamedTuple):
    """End what is under way; ``reason`` stands in the results of whoever is undecided."""

    reason: str


# ---------------------------------------------- from the process that sends


class Ready(NamedTuple):
    """The process has come up, and can do what it was ordered to."""


class Unable(NamedTuple):
    """It cannot: the configuration cannot be used."""

    problem: str


class WorkTaken(NamedTuple):
    """It has taken so many messages more to hand."""

    messages: int


class LeaveAsked(NamedTuple):
    """Recipients are about to have their message: numbers of messages, and addresses. :class:`Allowed` answers."""

    question: int
    about: tuple[tuple[int, tuple[str, ...]], ...]


class FinalResult(NamedTuple):
    """A final result for a recipient of a message."""

    number: int
    result: Result


class PutOff(NamedTuple):
    """A recipient was deferred, and is tried again in so many seconds."""

    number: int
    result: Result
    seconds: float


class OctetsSent(NamedTuple):
    """So many octets of content more were sent."""

    octets: int


class Warned(NamedTuple):
    """The library has warned of something (the logger ``zsmtp``)."""

    text: str


class Complained(NamedTuple):
    """Something is to be said on standard error."""

    text: str


class AllSettled(NamedTuple):
    """Everything it has taken to hand has its results, and nothing more comes."""


# ------------------------------------------------------------------- the pipe


class ProcessPipe:
    """One end. What is said in :meth:`say` leaves with :meth:`flush`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unsaid: list[Any] = []

    @classmethod
    async def over(cls, end: socket.socket) -> ProcessPipe:
        """The pipe over a socket, which belongs to it from now on."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_READ)
        writer.transport.set_write_buffer_limits(0)
        return cls(reader, writer)

    def say(self, value: Any) -> None:
        """Put a value behind those that leave next."""
        self._unsaid.append(value)

    def flush(self) -> None:
        """Give what was said to the system, as far as it takes it now. An end that is gone hears nothing."""
        if not self._unsaid or self._writer.is_closing():
            self._unsaid.clear()
            return
        octets = pickle.dumps(self._unsaid, pickle.HIGHEST_PROTOCOL)
        self._unsaid.clear()
        if len(octets) > MAX_FRAME:
            raise LocalError(f"{len(octets)} octets at once for another process")
        self._writer.write(_LENGTH.pack(len(octets)) + octets)

    @property
    def is_behind(self) -> bool:
        """Whether the system has not taken everything."""
        return self._writer.transport.get_write_buffer_size() > 0

    async def drain(self) -> None:
        """Wait until the system has taken everything, or the other end is gone."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def hear(self) -> Sequence[Any] | None:
        """The next values; None if the other process has ended, and in the middle of a frame, too."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            octets = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        said: list[Any] = pickle.loads(octets)  # noqa: S301 - the other end is this program, started by this one
        return said

    async def aclose(self) -> None:
        """Hang up: the other end hears it once it has read what was flushed."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def config_values(config: Config) -> dict[str, Any]:
    """The fields of a configuration as values that can be pickled; ``Config(**values)`` is equal to it."""
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    return values | {"routes": dict(config.routes), "sender_routes": dict(config.sender_routes)}
