"""How sessions are to be led: the choices a user makes once, as a value."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Timeouts
from zsmtp.records import dataclass, field

if TYPE_CHECKING:
    from zsmtp.delivery.security import Security


class Greeting(Enum):
    """Which greeting command opens a session."""

    EHLO = "EHLO"
    IF_ANNOUNCED = "EHLO if the greeting says ESMTP, else HELO"
    HELO = "HELO"
    LHLO = "LHLO"  # LMTP (RFC 2033)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The choices for every session.

    ``helo_name`` is used as it is, if given; else ``host_name`` is the last resort before an address literal.
    ``pipelining`` and ``eight_bit`` allow the use of PIPELINING and 8BITMIME where they are offered. ``security`` is
    what is asked in the way of TLS and login; None for neither.
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
        """Whether LMTP is spoken."""
        return self.greeting is Greeting.LHLO

    def usable(self, offered: Capabilities) -> Capabilities:
        """What of the offered capabilities is to be used."""
        unwanted = [] if self.pipelining else ["pipelining"]
        if not self.eight_bit:
            unwanted += ["eight_bit_mime", "binary_mime"]
        return offered.without(*unwanted) if unwanted else offered
