"""What the owner of a queue and its workers tell each other, as values.

The owner has the store, the rules and the :class:`~zsmtp.queue.runner.Runner`; a worker has connections. A connection
is known to both by a number. The owner hands messages over, each under a number; one *run* of a connection is one call
of its ``deliver``, to which it may be given more while it goes on. All that is decided is decided by the owner: a
worker asks before a message may be complete at its server, reports each verdict, and gives back what it did not begin.

The order of what one side says is kept, so an answer finds what it is about. What crosses on its way is told apart by
the number of the run: what comes for a run that is over is dropped, and its owner has taken it back already.
"""

from __future__ import annotations

from typing import NamedTuple

from zsmtp.client.config import Config
from zsmtp.delivery.outcome import Peer, Verdict
from zsmtp.queue.connections import OutgoingMessage

# ------------------------------------------------------------------------------------------- from the owner


class ConfigureWorker(NamedTuple):
    """How connections are made from now on; the first word, and again on reload, when only routes and relays count."""

    config: Config
    log_level: int
    """The least that a log line must matter."""


class Handover(NamedTuple):
    """A message to deliver. The first of a run begins it, and the first for a connection makes it."""

    connection: int
    key: str
    """The queue key that the connection is for."""
    run: int
    """Counted up for each run of the connection."""
    number: int
    """What the delivery is called from now on."""
    message: OutgoingMessage
    in_file: bool
    """Whether the content is in a file, whose descriptor comes with this; ``content`` is empty then."""


class CompletionAnswer(NamedTuple):
    """Whether the messages that were asked about may be complete at their server."""

    connection: int
    allowed: bool


class StopConnection(NamedTuple):
    """Begin nothing more; what may be complete already is waited for, unless ``at_once``."""

    connection: int
    reason: str
    at_once: bool


class CloseConnection(NamedTuple):
    """End the session with QUIT, and forget the connection."""

    connection: int


class AbandonConnection(NamedTuple):
    """Close the session as it is, and forget the connection: nobody waits for it any more."""

    connection: int


class EndWorker(NamedTuple):
    """Let go of everything and end."""


# ------------------------------------------------------------------------------------------- from a worker


class WorkerReady(NamedTuple):
    """It is configured, and takes messages."""


class Heartbeat(NamedTuple):
    """Its loop turns; said every second."""


class SessionStands(NamedTuple):
    """A session was opened; nothing was sent over it yet."""

    connection: int


class HandoversBegun(NamedTuple):
    """So many of the messages that were handed over for a run and waited have been begun, in their order."""

    connection: int
    begun: int
    starved: bool
    """Whether there was none at hand when another one could have begun."""


class PeerMet(NamedTuple):
    """Who the verdicts from now on are about, where they say ``of_peer``: most come from the same."""

    connection: int
    peer: Peer


class RecipientSettled(NamedTuple):
    """The verdict on one recipient, an index into the recipients of the message."""

    connection: int
    number: int
    recipient: int
    verdict: Verdict
    of_peer: bool


class CompletionQuestion(NamedTuple):
    """These messages may be complete at their server, once this is allowed: numbers with indexes of recipients."""

    connection: int
    asked: tuple[tuple[int, tuple[int, ...]], ...]


class HandoverReturned(NamedTuple):
    """No server decided about the recipients without a verdict; this is the one they get unless they go back."""

    connection: int
    number: int
    verdict: Verdict
    of_peer: bool
    is_open: bool
    """Whether a session stands."""


class HandoversNotBegun(NamedTuple):
    """These were not begun: they waited for too long, or the connection was stopped."""

    connection: int
    numbers: tuple[int, ...]


class RunEnded(NamedTuple):
    """A run is over; what has no verdict was not sent, or was reported before. ``problem``: a fault, "" if none."""

    connection: int
    run: int
    is_open: bool
    problem: str


class SessionStirred(NamedTuple):
    """The peer of a session at rest said something, or closed it."""

    connection: int


class ConnectionClosed(NamedTuple):
    """What :class:`CloseConnection` asked for is done."""

    connection: int


class LogLine(NamedTuple):
    """A line for the log, of the logger ``name``."""

    name: str
    level: int
    text: str
    exception: str
    """A traceback, "" if there is none."""
    created: float
    """When, in seconds since 1970."""
