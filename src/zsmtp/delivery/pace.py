"""How far ahead of the answers one peer may be served, learned from how it behaves.

With PIPELINING the next message's envelope rides behind the content of the one before (RFC 2920 3.1): two messages are
under way. With CHUNKING content needs no go-ahead (RFC 3030), so that whole messages can be under way: one at first,
one more with each that went well, half as many after a temporary refusal of a message, and never more than 32 or 4 MiB.

Content leaves before its recipients are taken, blind, on two conditions. Each session has to earn it by a message whose
content waited for the answers to its envelope, all of them in step. And a server has to discard a chunk that it refuses
(RFC 3030 4.2): one that reads it as commands does what the author of the message wrote there. So content in which a
command could be read goes by BDAT only to peers that have shown that they discard: they refused a chunk, and the next
reply was the one to the command behind it. To others it goes by DATA, which costs it the round trip that blind content
saves. With LMTP only a message to one recipient goes blind: several final replies cannot be told apart.

A peer that got out of step once is served strictly from then on, one command group after the other and by DATA; one
that cannot take a command group in one segment, one command after the other.

Whole messages that are under way when a session breaks are in doubt, though nobody read them. Many servers take so many
messages over one connection and then close it, some of them one: so no more are under way than the session that broke
had answered, until one has answered as many as there may be; and where that was one, none is sent whole any more before
its recipients are taken.
"""

from __future__ import annotations

from zsmtp.errors import ContentError
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.command import is_field, may_be_read_as_commands
from zsmtp.proto.plan import ContentForm, Flow
from zsmtp.records import NamedTuple

MAX_MESSAGES = 32
MAX_OCTETS = 4 << 20  # of content under way
BLIND_OCTETS = 256 << 10  # content over this waits until it is known that somebody wants it, and is not looked through


class SessionStanding(NamedTuple):
    """What a session is, as far as blind content goes: ``earned`` once its answers were in step, ``lmtp`` or SMTP."""

    earned: bool = False
    lmtp: bool = False


class Course(NamedTuple):
    """How a transaction is to be planned: the content as it was looked through, what to use, how far to run ahead."""

    content: ContentForm
    capabilities: Capabilities
    flow: Flow


class PeerPace:
    """The pace for one peer.

    ``strict`` once it got out of step, ``one_by_one`` if that was within one command group; ``discards`` once it has
    shown that it discards a chunk that it refuses.
    """

    def __init__(self) -> None:
        self.strict = False
        self.one_by_one = False
        self.discards = False
        self._window = 1
        self._ceiling = MAX_MESSAGES  # of the window

    def usable(self, offered: Capabilities) -> Capabilities:
        """What of the capabilities is to be used with this peer."""
        return offered.without("pipelining") if self.one_by_one and offered.pipelining else offered

    def course(
        self, content: ContentForm, capabilities: Capabilities, recipients: int, standing: SessionStanding
    ) -> Course:
        """How the next transaction goes, with so many recipients, in a session of this standing."""
        flow = Flow.STEPWISE if self.strict or not capabilities.pipelining else Flow.RIDING
        if not capabilities.chunking:
            return Course(content, capabilities, flow)
        binary, small = content.body == b"BINARYMIME", content.size <= BLIND_OCTETS
        known = self.discards
        if not binary and not known and small and not self.strict:
            content, known = _looked_through(content)
        if not binary and (self.strict or (small and not known)):
            return Course(content, capabilities.without("chunking"), flow)
        if flow is Flow.RIDING and small and known and self._may_go_blind(recipients, standing):
            flow = Flow.BLIND
        return Course(content, capabilities, flow)

    def _may_go_blind(self, recipients: int, standing: SessionStanding) -> bool:
        return standing.earned and self._ceiling > 1 and (recipients == 1 or not standing.lmtp)

    def room(self, capabilities: Capabilities, messages: int, octets: int, *, earned: bool) -> bool:
        """Whether another transaction may start beside ``messages`` with ``octets`` of content under way.

        ``earned`` is that of the session's :class:`SessionStanding`.
        """
        if messages == 0:
            return True
        if self.strict or not capabilities.pipelining:
            return False
        window = (self._window if earned else 1) if capabilities.chunking else 2
        return messages < window and octets < MAX_OCTETS

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

    def refused_chunk(self, content: ContentForm) -> None:
        """The peer refused a chunk that held ``content``, and the next reply was the one to the command behind it.

        A server that reads the chunk as commands answers its first line with a refusal, if that is a header field.
        """
        if not self.discards:
            try:
                self.discards = is_field(next(iter(content.chunk()), b""))
            except ContentError:
                return

    def got_out_of_step(self, *, within_group: bool = False) -> None:
        """The peer did not keep commands and answers in order when they ran ahead, perhaps only ``within_group``."""
        self.one_by_one = self.one_by_one or within_group
        self.strict = True
        self._window = 1


def _looked_through(content: ContentForm) -> tuple[ContentForm, bool]:
    """The same content, from memory, and whether it holds nothing that could be read as a command."""
    try:
        octets = b"".join(content.chunk())
    except ContentError:
        return content, False  # whoever sends it meets that again
    return content._replace(chunk=lambda: iter((octets,))), not may_be_read_as_commands(octets)
