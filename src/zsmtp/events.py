"""What every layer can report, and the observer that hears it.

Each layer that has something to tell calls an :data:`Observer` with one of the small values below; logs, metrics,
traces and progress displays are adapters that turn them into lines. An observer must not raise and must not block.
:func:`ignore` is the observer of those who do not want to hear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsmtp.dns.plan import Endpoint


@dataclass(frozen=True, slots=True)
class Event:
    """Base of everything that can be observed."""


@dataclass(frozen=True, slots=True)
class Remark(Event):
    """A decision with its reason, or an oddity worth a line in a log."""

    text: str


@dataclass(frozen=True, slots=True)
class Detail(Event):
    """As :class:`Remark`, for those who asked for more (verbose and debug logs)."""

    text: str


@dataclass(frozen=True, slots=True)
class LineSent(Event):
    """One command line, without its line end; secrets are already replaced."""

    line: bytes


@dataclass(frozen=True, slots=True)
class LineReceived(Event):
    """One line of a reply, without its line end, as it came: not fit for a terminal before it is escaped."""

    line: bytes


@dataclass(frozen=True, slots=True)
class ContentProgress(Event):
    """Message content on its way: octets handed to the transport so far, of ``total``."""

    octets: int
    total: int


@dataclass(frozen=True, slots=True)
class ContentSent(Event):
    """The content of one message is on the wire to its last octet."""

    octets: int
    header_octets: int
    recipients: int
    envelope_seconds: float
    content_seconds: float


@dataclass(frozen=True, slots=True)
class Connecting(Event):
    """A connection attempt starts."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ConnectFailed(Event):
    """A connection attempt ended without a connection."""

    endpoint: Endpoint
    reason: str


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A connection stands. ``local`` is this side's ``(address, port)``, or None (UNIX sockets)."""

    endpoint: Endpoint
    local: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """The connection was given up by this side or lost; ``reason`` says which and why."""

    reason: str


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that hears nothing."""
