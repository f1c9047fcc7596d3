"""How far ahead of the answers one peer may be served, learned from how it behaves.

With PIPELINING the next message's envelope rides behind the content of the one before (RFC 2920 3.1): two messages are
under way. With CHUNKING content needs no go-ahead (RFC 3030), so that whole messages can be under way: one at first,
one more with each that went well, half as many after a temporary refusal of a message, and never more than 32 or 4 MiB.
A peer that got out of step once is served strictly from then on, one command group after the other.

Whole messages that are under way when a session breaks are in doubt, though nobody read them. Many servers take so many
messages over one connection and then close it, some of them one: so no more are under way than the session that broke
had answered, until one has answered as many as there may be; and where that was one, none is sent whole any more before
its recipients are taken.
"""

from __future__ import annotations

from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import Flow

MAX_MESSAGES = 32
MAX_OCTETS = 4 << 20  # of content under way
BLIND_OCTETS = 256 << 10  # content over this waits until it is known that somebody wants it


class Pace:
    """The pace for one peer. ``strict`` once it got out of step."""

    def __init__(self) -> None:
        self.strict = False
        self._window = 1
        self._ceiling = MAX_MESSAGES  # of the window

    def flow(self, capabilities: Capabilities, octets: int) -> Flow:
        """How the next transaction runs ahead, whose content has so many octets."""
        if self.strict or not capabilities.pipelining:
            return Flow.STEPWISE
        if capabilities.chunking and octets <= BLIND_OCTETS and self._ceiling > 1:
            return Flow.BLIND
        return Flow.RIDING

    def room(self, capabilities: Capabilities, messages: int, octets: int) -> bool:
        """Whether another transaction may start beside ``messages`` with ``octets`` of content under way."""
        if messages == 0:
            return True
        if self.strict or not capabilities.pipelining:
            return False
        return messages < (self._window if capabilities.chunking else 2) and octets < MAX_OCTETS

    def went_well(self, answered: int = 0) -> None:
        """A message was taken; its session had ``answered`` so many before."""
        if answered >= MAX_MESSAGES:
            self._ceiling = MAX_MESSAGES
        self._window = min(self._window + 1, self._ceiling)

    def was_put_off(self) -> None:
        """A message got a temporary refusal to its end."""
        self._window = max(self._window // 2, 1)

    def broke_off(self, answered: int) -> None:
        """A session ended that had ``answered`` so many messages, while others were under way."""
        self._ceiling = min(self._ceiling, max(answered, 1))
        self._window = min(self._window, self._ceiling)

    def got_out_of_step(self) -> None:
        """The peer did not keep commands and answers in order when they ran ahead."""
        self.strict = True
        self._window = 1
