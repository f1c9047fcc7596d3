"""The messages between the owner of a queue and its workers, as values.

The owner has the store, the rules and the :class:`~zsmtp.queue.runner.Runner`; a worker has connections. Both processes
know a connection by its number. The owner hands over mail, each delivery under a number. One *run* of a connection is
one call of its ``deliver``; the owner may hand over more deliveries during a run. The owner makes all decisions: a
worker asks before a message may be complete at its server, reports each verdict, and returns what it did not begin.

Each side receives messages in the order in which the other one sent them, so an answer needs no number. The number of
the run separates messages that cross: the worker discards what arrives for a run that is over, and the owner has taken
it back.
"""

from __future__ import annotations

from typing import NamedTuple

from zsmtp.client.config import Config
from zsmtp.delivery.outcome import Peer, Verdict
from zsmtp.queue.connections import OutgoingMessage

# ------------------------------------------------------------------------------------------- from the owner


class ConfigureWorker(NamedTuple):
    """How to connect from now on. It is the first message; after a reload only its routes and relays apply."""

    config: Config
    log_level: int
    """The lowest level of log lines that the worker sends."""


class Handover(NamedTuple):
    """A message to deliver. The first of a run begins the run, and the first of a connection creates the connection."""

    connection: int
    key: str
    """The queue key of the connection."""
    run: int
    """The number of the run, greater than those of earlier runs of the connection."""
    number: int
    """The number of the delivery."""
    message: OutgoingMessage
    in_file: bool
    """Whether the content is in a file, whose descriptor comes with this message; ``content`` is empty then."""


class CompletionAnswer(NamedTuple):
    """The answer to :class:`CompletionQuestion`."""

    connection: int
    allowed: bool


class StopConnection(NamedTuple):
    """Begin no more deliveries. Those that may be complete at the server are finished, unless ``at_once``."""

    connection: int
    reason: str
    at_once: bool


class CloseConnection(NamedTuple):
    """End the session with QUIT, and forget the connection."""

    connection: int


class AbandonConnection(NamedTuple):
    """Close the session without QUIT, and forget the connection: its results are not used."""

    connection: int


class EndWorker(NamedTuple):
    """Close all connections and end."""


# ------------------------------------------------------------------------------------------- from a worker


class WorkerReady(NamedTuple):
    """The worker is configured, and takes messages."""


class Heartbeat(NamedTuple):
    """Sent every second: the event loop of the worker runs."""


class SessionReady(NamedTuple):
    """A session was opened; no message was sent over it yet."""

    connection: int


class HandoversBegun(NamedTuple):
    """The worker has begun deliveries that waited for room at the connection, in their order."""

    connection: int
    begun: int
    """How many."""
    starved: bool
    """Whether another delivery could have been begun, but none was waiting."""


class VerdictPeer(NamedTuple):
    """The peer of all verdicts that follow with ``of_peer``: most have the same peer, which is sent once."""

    connection: int
    peer: Peer


class RecipientSettled(NamedTuple):
    """The verdict on one recipient."""

    connection: int
    number: int
    recipient: int
    """An index into the recipients of the message."""
    verdict: Verdict
    of_peer: bool


class CompletionQuestion(NamedTuple):
    """May these messages become complete at their server? :class:`CompletionAnswer` answers."""

    connection: int
    asked: tuple[tuple[int, tuple[int, ...]], ...]
    """Numbers of deliveries, each with indexes of recipients."""


class HandoverReturned(NamedTuple):
    """No server decided about the recipients without a verdict. The owner queues them again, or gives them this one."""

    connection: int
    number: int
    verdict: Verdict
    of_peer: bool
    is_open: bool
    """Whether a session is open."""


class HandoversNotBegun(NamedTuple):
    """These deliveries were not begun: they waited for too long, or the connection was stopped."""

    connection: int
    numbers: tuple[int, ...]


class RunEnded(NamedTuple):
    """A run is over. Recipients without a verdict were not sent to, or were reported before."""

    connection: int
    run: int
    is_open: bool
    problem: str
    """A fault of the program that ended the run, "" if there is none."""


class IdleSessionEnded(NamedTuple):
    """The server of an idle session sent data or closed the connection: the session is not used again."""

    connection: int


class ConnectionClosed(NamedTuple):
    """The answer to :class:`CloseConnection` and :class:`AbandonConnection`: the connection is closed."""

    connection: int


class LogLine(NamedTuple):
    """A log line of the logger ``name``."""

    name: str
    level: int
    text: str
    exception: str
    """A traceback, "" if there is none."""
    created: float
    """The time of the line, in seconds since 1970."""
