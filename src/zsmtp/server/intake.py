"""The interface between a listener and the application that keeps the messages.

A listener (``zsmtp.server.listener``) leads the dialogue; an :class:`Intake` decides on policy and takes the content.
Its decisions are synchronous and must be quick, as all connections of a loop wait for them. Content is written to an
:class:`IncomingMessage`, which may ask for a pause; its ``commit`` answers when the message is safe, and may take as
long as that takes: meanwhile the connection reads on, so the messages of one connection, or of many, can be committed
together. :class:`MemoryIntake` keeps messages in memory and :class:`DiscardingIntake` counts them: for tests and
figures.

An exception from any of these is a fault of the application: the client gets 451, and the loop's exception handler is
called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort, Ending, MailParameters
from zsmtp.proto.server_replies import OK

Outcome = Reply | Sequence[Reply]
"""What became of a message: one reply for all its recipients, or (LMTP) one for each in their order."""


class PeerInfo(NamedTuple):
    """Who connected.

    Over TCP ``address`` and ``port`` are the client's. Over a UNIX socket ``address`` is "", and ``uid``, ``gid`` and
    ``pid`` are those of the client's process (-1: unknown).
    """

    address: str
    port: int = 0
    local_address: str = ""
    local_port: int = 0
    uid: int = -1
    gid: int = -1
    pid: int = -1


class SessionInfo:
    """What is known of one session; a listener fills it in as it goes.

    ``number`` distinguishes the sessions of one listener. ``helo`` is the name the client gave itself (b"" before),
    ``protocol`` is that of the Received field (RFC 3848). ``user`` is who is logged in. ``tls`` is the protocol and
    cipher, or "".
    """

    __slots__ = ("helo", "number", "peer", "protocol", "tls", "user")

    def __init__(self, number: int, peer: PeerInfo) -> None:
        self.number = number
        self.peer = peer
        self.helo = b""
        self.protocol = "SMTP"
        self.user: bytes | None = None
        self.tls = ""

    def __repr__(self) -> str:
        return f"SessionInfo({self.number}, {self.peer!r}, helo={self.helo!r}, user={self.user!r}, tls={self.tls!r})"


class ReceivedEnvelope:
    """The envelope of one message: reverse-path, parameters of MAIL, and the recipients accepted so far."""

    __slots__ = ("parameters", "recipients", "sender")

    def __init__(self, sender: bytes, parameters: MailParameters) -> None:
        self.sender = sender
        self.parameters = parameters
        self.recipients: list[EnvelopeRecipient] = []

    def __repr__(self) -> str:
        return f"ReceivedEnvelope({self.sender!r}, {self.parameters!r}, {self.recipients!r})"


class IncomingMessage(Protocol):
    """A message whose content is coming. After :meth:`commit` or :meth:`abort` nothing more is asked of it."""

    def write(self, data: bytes) -> Awaitable[object] | None:
        """Take the next octets of the content. An awaitable asks for a pause: no more comes until it is done.

        What it raises then refuses the message, which is aborted.
        """

    def commit(self) -> Outcome | Awaitable[Outcome]:
        """The content is complete. Take the message for good: once the reply is 2xx, it is this side's.

        The awaitable is best a :class:`asyncio.Future`; it is waited for even if the client is gone.
        """

    def abort(self, reason: Abort) -> None:
        """There will be no message. Forget what was written."""


class Intake(Protocol):
    """Policy and storage. A method returns None to accept, or a reply: one of 4xx or 5xx refuses, 421 also closes."""

    def connected(self, session: SessionInfo) -> Reply | None:
        """A client connected; with implicit TLS, after the handshake."""

    def logged_in(self, session: SessionInfo) -> Reply | None:
        """``session.user`` has proved itself."""

    def login_failed(self, session: SessionInfo, mechanism: str, user: bytes) -> None:
        """A login as ``user`` failed."""

    def sender(self, session: SessionInfo, envelope: ReceivedEnvelope) -> Reply | None:
        """MAIL; there are no recipients yet."""

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        """RCPT; ``recipient`` is added to the envelope's if it is accepted."""

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        """Content is about to come. The envelope is not changed any more."""

    def disconnected(self, session: SessionInfo, reason: Ending) -> None:
        """The session is over. Messages may still be committed."""


class OpenIntake:
    """Accepts everything; a base for intakes with a policy on part of it."""

    def connected(self, session: SessionInfo) -> Reply | None:
        return None

    def logged_in(self, session: SessionInfo) -> Reply | None:
        return None

    def login_failed(self, session: SessionInfo, mechanism: str, user: bytes) -> None:
        return None

    def sender(self, session: SessionInfo, envelope: ReceivedEnvelope) -> Reply | None:
        return None

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        return None

    def disconnected(self, session: SessionInfo, reason: Ending) -> None:
        return None


@dataclass(slots=True)
class KeptMessage:
    """A message of :class:`MemoryIntake`."""

    session: SessionInfo
    envelope: ReceivedEnvelope
    content: bytearray = field(default_factory=bytearray)


class MemoryIntake(OpenIntake):
    """Keeps messages in memory; ``aborted`` and ``endings`` are the reasons of messages and sessions that ended."""

    def __init__(self) -> None:
        self.messages: list[KeptMessage] = []
        self.aborted: list[Abort] = []
        self.endings: list[Ending] = []

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        return _MemoryMessage(self, KeptMessage(session, envelope))

    def disconnected(self, session: SessionInfo, reason: Ending) -> None:
        self.endings.append(reason)


class _MemoryMessage:
    """A message on its way into a :class:`MemoryIntake`."""

    __slots__ = ("_intake", "_message")

    def __init__(self, intake: MemoryIntake, message: KeptMessage) -> None:
        self._intake = intake
        self._message = message

    def write(self, data: bytes) -> Awaitable[object] | None:
        self._message.content += data
        return None

    def commit(self) -> Outcome | Awaitable[Outcome]:
        self._intake.messages.append(self._message)
        return OK

    def abort(self, reason: Abort) -> None:
        self._intake.aborted.append(reason)


class DiscardingIntake(OpenIntake):
    """Counts messages and octets, and keeps nothing."""

    def __init__(self) -> None:
        self.messages = 0
        self.octets = 0

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        return _DiscardedMessage(self)


class _DiscardedMessage:
    """A message that is counted by a :class:`DiscardingIntake`."""

    __slots__ = ("_intake", "_octets")

    def __init__(self, intake: DiscardingIntake) -> None:
        self._intake = intake
        self._octets = 0

    def write(self, data: bytes) -> Awaitable[object] | None:
        self._octets += len(data)
        return None

    def commit(self) -> Outcome | Awaitable[Outcome]:
        self._intake.messages += 1
        self._intake.octets += self._octets
        return OK

    def abort(self, reason: Abort) -> None:
        return None
