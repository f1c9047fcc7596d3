"""The settings of sessions, as a value."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Timeouts
from zsmtp.records import dataclass, field

if TYPE_CHECKING:
    from zsmtp.delivery.security import Security


class Greeting(Enum):
    """The greeting command that opens a session."""

    EHLO = "EHLO"
    IF_ANNOUNCED = "EHLO if the greeting says ESMTP, else HELO"
    HELO = "HELO"
    LHLO = "LHLO"  # LMTP (RFC 2033)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings for every session.

    ``helo_name`` is used unchanged, if given; else ``host_name`` is the last choice before an address literal.
    ``pipelining`` and ``eight_bit`` allow the use of PIPELINING and 8BITMIME where they are offered. ``security``
    configures TLS and logins; None for neither.
    """

    greeting: Greeting = Greeting.EHLO
    helo_name: str | None = None
    host_name: str = "localhost"
    pipelining: bool = True
    eight_bit: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    security: Security | None = None

    @property
    def lmtp(self) -> bool:
        """Whether the protocol is LMTP."""
        return self.greeting is Greeting.LHLO

    def usable(self, offered: Capabilities) -> Capabilities:
        """The offered capabilities to use."""
        unwanted = [] if self.pipelining else ["pipelining"]
        if not self.eight_bit:
            unwanted += ["eight_bit_mime", "binary_mime"]
        return offered.without(*unwanted) if unwanted else offered
