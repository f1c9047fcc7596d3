"""Decides how far to pipeline with one peer, from its past behaviour.

With PIPELINING the next message's envelope is sent behind the content of the previous one (RFC 2920 3.1): two messages
are in progress. With CHUNKING content needs no go-ahead (RFC 3030), so that whole messages can be in progress: one at
first, one more after each success, half as many after a temporary refusal of a message, and never more than 32 or 4
MiB.

Content is sent blind, before its recipients are accepted, on two conditions. First, the session has delivered a message
whose content waited for the replies to its envelope, with all replies in step. Second, the server discards a chunk that
it refuses (RFC 3030 4.2): a server that parses it as commands executes what the author of the message wrote there. So
content that could be parsed as a command goes by BDAT only to peers that have proved to discard: they refused a chunk,
and the next reply was the one to the command behind it. To others it goes by DATA, which costs the round trip that
blind content saves. With LMTP only a message to one recipient is sent blind: several final replies cannot be
distinguished.

A peer that got out of step once gets strict treatment from then on: one command group after the other, and DATA; a peer
that cannot take a command group in one segment gets one command after the other.

Whole messages in progress when a session breaks are in doubt, even if the server read none of them. Many servers close
a connection after a fixed number of messages, some after one: so after a broken session no more messages are in
progress than it had answered, until a session has answered the maximum; if it had answered one, content is no longer
sent blind.
"""

from __future__ import annotations

from zsmtp.errors import ContentError
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.command import is_field, may_be_read_as_commands
from zsmtp.proto.plan import ContentForm, Flow
from zsmtp.records import NamedTuple

MAX_MESSAGES = 32
MAX_OCTETS = 4 << 20  # of content in progress
BLIND_OCTETS = 256 << 10  # larger content waits until a recipient is accepted, and is not searched for commands


class SessionStanding(NamedTuple):
    """The state of a session for blind content: ``earned`` once its replies were in step, ``lmtp`` or SMTP."""

    earned: bool = False
    lmtp: bool = False


class Course(NamedTuple):
    """How to plan a transaction: the content as searched, the capabilities to use, how far to run ahead."""

    content: ContentForm
    capabilities: Capabilities
    flow: Flow


class PeerPace:
    """The pace for one peer.

    ``strict`` once it got out of step, ``one_by_one`` if that was within one command group; ``discards`` once it has
    proved to discard a refused chunk.
    """

    def __init__(self) -> None:
        self.strict = False
        self.one_by_one = False
        self.discards = False
        self._window = 1
        self._ceiling = MAX_MESSAGES  # of the window

    def usable(self, offered: Capabilities) -> Capabilities:
        """The capabilities to use with this peer."""
        return offered.without("pipelining") if self.one_by_one and offered.pipelining else offered

    def course(
        self, content: ContentForm, capabilities: Capabilities, recipients: int, standing: SessionStanding
    ) -> Course:
        """The course of the next transaction, with so many recipients, in a session of this standing."""
        flow = Flow.STEPWISE if self.strict or not capabilities.pipelining else Flow.RIDING
        if not capabilities.chunking:
            return Course(content, capabilities, flow)
        binary, small = content.body == b"BINARYMIME", content.size <= BLIND_OCTETS
        known = self.discards
        if not binary and not known and small and not self.strict:
            content, known = _searched(content)
        if not binary and (self.strict or (small and not known)):
            return Course(content, capabilities.without("chunking"), flow)
        if flow is Flow.RIDING and small and known and self._may_go_blind(recipients, standing):
            flow = Flow.BLIND
        return Course(content, capabilities, flow)

    def _may_go_blind(self, recipients: int, standing: SessionStanding) -> bool:
        return standing.earned and self._ceiling > 1 and (recipients == 1 or not standing.lmtp)

    def room(self, capabilities: Capabilities, messages: int, octets: int, *, earned: bool) -> bool:
        """Whether another transaction may start beside ``messages`` with ``octets`` of content in progress.

        ``earned`` comes from the session's :class:`SessionStanding`.
        """
        if messages == 0:
            return True
        if self.strict or not capabilities.pipelining:
            return False
        window = (self._window if earned else 1) if capabilities.chunking else 2
        return messages < window and octets < MAX_OCTETS

    def went_well(self, answered: int = 0) -> None:
        """Note that a message was accepted; its session had ``answered`` so many before."""
        if answered >= MAX_MESSAGES:
            self._ceiling = MAX_MESSAGES
        self._window = min(self._window + 1, self._ceiling)

    def was_put_off(self) -> None:
        """Note that a message got a temporary refusal after its content."""
        self._window = max(self._window // 2, 1)

    def broke_off(self, answered: int) -> None:
        """Note that a session which had ``answered`` so many messages ended while others were in progress."""
        self._ceiling = min(self._ceiling, max(answered, 1))
        self._window = min(self._window, self._ceiling)

    def refused_chunk(self, content: ContentForm) -> None:
        """Note that the peer refused a chunk of ``content``, and the next reply was the one to the command behind it.

        A server that parses the chunk as commands refuses its first line, if that is a header field.
        """
        if not self.discards:
            try:
                self.discards = is_field(next(iter(content.chunk()), b""))
            except ContentError:
                return

    def got_out_of_step(self, *, within_group: bool = False) -> None:
        """Note that the peer confused pipelined commands and replies, perhaps only ``within_group``."""
        self.one_by_one = self.one_by_one or within_group
        self.strict = True
        self._window = 1


def _searched(content: ContentForm) -> tuple[ContentForm, bool]:
    """The same content, from memory, and whether no line of it could be parsed as a command."""
    try:
        octets = b"".join(content.chunk())
    except ContentError:
        return content, False  # sending it raises the error again
    return content._replace(chunk=lambda: iter((octets,))), not may_be_read_as_commands(octets)
