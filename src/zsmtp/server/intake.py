"""The interface between a listener and the application that keeps the messages.

A listener (``zsmtp.server.listener``) conducts the dialogue; an :class:`Intake` decides on policy and stores the
content. Its decisions are synchronous and must be quick, because all connections of a loop wait for them. Content is
written to an :class:`IncomingMessage`, which may request a pause; its ``commit`` finishes when the message is safe,
however long that takes: meanwhile the connection continues to read, so the messages of one connection, or of many, can
be committed together. :class:`MemoryIntake` keeps messages in memory and :class:`DiscardingIntake` counts them: for
tests and measurements.

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
"""The outcome of a message: one reply for all its recipients, or (LMTP) one for each in their order."""


class PeerInfo(NamedTuple):
    """The client of a connection.

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
    """The state of one session, which the listener updates.

    ``number`` distinguishes the sessions of one listener. ``helo`` is the name from EHLO, HELO or LHLO (b"" before),
    ``protocol`` is that of the Received field (RFC 3848). ``user`` is the login. ``tls`` is the protocol and cipher, or
    "".
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
    """A message whose content is being received. After :meth:`commit` or :meth:`abort` no method is called."""

    def write(self, data: bytes) -> Awaitable[object] | None:
        """Take the next octets of the content. An awaitable requests a pause: no more content comes until it is done.

        If it raises, the message is refused and aborted.
        """

    def commit(self) -> Outcome | Awaitable[Outcome]:
        """Accept the message with its complete content: a 2xx reply takes responsibility for it (RFC 5321 4.2.5).

        The awaitable is best an :class:`asyncio.Future`; it runs to its end even if the client is gone.
        """

    def abort(self, reason: Abort) -> None:
        """Discard the message and its content."""


class Intake(Protocol):
    """Policy and storage. A method returns None to accept, or a reply: one of 4xx or 5xx refuses, 421 also closes."""

    def connected(self, session: SessionInfo) -> Reply | None:
        """Called for a new connection; with implicit TLS, after the handshake."""

    def logged_in(self, session: SessionInfo) -> Reply | None:
        """Called after a successful login as ``session.user``."""

    def login_failed(self, session: SessionInfo, mechanism: str, user: bytes) -> None:
        """Called after a failed login as ``user``."""

    def sender(self, session: SessionInfo, envelope: ReceivedEnvelope) -> Reply | None:
        """Called for MAIL; there are no recipients yet."""

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        """Called for RCPT; ``recipient`` is added to the envelope if it is accepted."""

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        """Called before the content. The envelope is final."""

    def disconnected(self, session: SessionInfo, reason: Ending) -> None:
        """Called after the end of the session. Commits of messages may still run."""


class OpenIntake:
    """Accepts everything; a base class for intakes that restrict some of it."""

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
    """A message that a :class:`MemoryIntake` is receiving."""

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
    """A message that a :class:`DiscardingIntake` counts."""

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
