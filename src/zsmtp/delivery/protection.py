"""What came of making a session secure: the ways it can end."""

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
    """The TLS of a session: what was required, the facts of the handshake, and the verdict on them."""

    requirement: Requirement
    facts: TLSFacts
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class SecuredStream:
    """A handshake that was judged good enough; ``stream`` is to be used from now on."""

    stream: Stream
    protection: Protection


@dataclass(frozen=True, slots=True)
class InClear:
    """No TLS, and none was required. ``broken`` tells that clear text needs another connection.

    ``unanswered`` says in words that the peer did not do its part in time, "" if it did.
    """

    reason: str
    broken: bool = False
    unanswered: str = ""


@dataclass(frozen=True, slots=True)
class ResumptionFailed:
    """The handshake failed that was to take up an earlier session: another connection is needed for a full one."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotSecured:
    """The session cannot be as secure as it must be, or somebody told this program to stop.

    ``in_order`` tells that the dialogue with the peer is, so that it is to be ended with QUIT (RFC 5321 4.1.1.10).
    ``unanswered`` says in words that the peer did not do its part in time, "" if it did.
    """

    verdict: Verdict
    interrupted: bool = False
    in_order: bool = False
    unanswered: str = ""
