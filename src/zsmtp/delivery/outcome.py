"""All failure policy in one place. (The rules follow below the values.)"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from zsmtp.dns.plan import Endpoint
from zsmtp.proto.status import EnhancedStatus


class Fate(Enum):
    """What became of a recipient."""

    DELIVERED = "delivered"  # the server's final word was 2xx
    FAILED = "failed"  # for good
    DEFERRED = "deferred"  # to be tried again


class Level(Enum):
    """How much of the work a failure concerns."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who was talked to: the endpoint, and this side's ``(address, port)`` (None for UNIX sockets and no connection)."""

    endpoint: Endpoint
    local: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The one final word on a recipient of this attempt.

    ``status`` is the enhanced status code, ``comment`` a remark on it for people ("" if none). ``diagnostic`` is what
    a delivery status notification shows: ``smtp; 550 (5.1.1 no such user)``. ``text`` is for people: the end of the
    dialogue or the reason, lines separated by CR, free of other control characters. ``level`` tells whether more than
    this recipient is concerned; with HOST, ``retry_after`` seconds is how long to leave the host alone (0: no wish).
    ``at_final_dot`` tells that the content was out when the verdict fell; ``in_doubt`` that the server may have taken
    the message although no reply said so. ``passed_on`` tells that a DSN request travelled on with the message.
    """

    fate: Fate
    status: EnhancedStatus
    diagnostic: str
    text: str
    comment: str = ""
    level: Level = Level.RECIPIENT
    retry_after: int = 0
    at_final_dot: bool = False
    in_doubt: bool = False
    passed_on: bool = False
    peer: Peer | None = None
