"""The possible results of securing a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsmtp.delivery.outcome import Verdict
from zsmtp.effects import Stream
from zsmtp.records import dataclass

if TYPE_CHECKING:
    from zsmtp.tls.facts import TLSFacts
    from zsmtp.tls.judgement import Judgement
    from zsmtp.tls.policy import Requirement


@dataclass(frozen=True, slots=True)
class Protection:
    """The TLS of a session: the requirement, the facts of the handshake, and the verdict on them."""

    requirement: Requirement
    facts: TLSFacts
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class SecuredStream:
    """A handshake with a positive judgement; use ``stream`` from now on."""

    stream: Stream
    protection: Protection


@dataclass(frozen=True, slots=True)
class InClear:
    """No TLS, and none was required. ``broken``: clear text needs another connection.

    ``unanswered`` describes a timeout of the peer, "" without one.
    """

    reason: str
    broken: bool = False
    unanswered: str = ""


@dataclass(frozen=True, slots=True)
class ResumptionFailed:
    """Session resumption failed: another connection is needed for a full handshake."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotSecured:
    """The session cannot meet its requirement, or a stop was requested.

    ``in_order``: the dialogue with the peer is intact, so it ends with QUIT (RFC 5321 4.1.1.10).
    ``unanswered`` describes a timeout of the peer, "" without one.
    """

    verdict: Verdict
    interrupted: bool = False
    in_order: bool = False
    unanswered: str = ""
