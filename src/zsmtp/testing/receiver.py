"""The receiver: a listener on loopback with scripted replies, and the messages it accepted."""

from __future__ import annotations

import email
import email.policy
import re
import threading
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from email.message import EmailMessage
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Literal

from zsmtp.client.config import Config, Direct, Relay, STSUse
from zsmtp.errors import ConfigError, LocalError
from zsmtp.net.loopthread import LoopThread
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_replies import OK
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.server.intake import IncomingMessage, OpenIntake, Outcome, ReceivedEnvelope, SessionInfo
from zsmtp.server.listener import Listener, ListenerSettings
from zsmtp.testing.world import HOST, ClosedWorld

Moment = Literal["connect", "MAIL", "RCPT", "content"]
"""The event that is replied to: the connection, MAIL, RCPT, the content of a message."""

_REPLY = re.compile(r"([2345]\d\d)[ -](.*)", re.DOTALL)


@dataclass(frozen=True)
class ReceivedMail:
    """An accepted message: its envelope, and its content as received (lines end with CRLF)."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    protocol: str = "ESMTP"
    user: str = ""

    @cached_property
    def message(self) -> EmailMessage:
        """The content, parsed."""
        return email.message_from_bytes(self.content, policy=email.policy.default)

    @property
    def text(self) -> str:
        """The body for a person to read: its plain text, or else its HTML; lines end with LF. "" if there is none."""
        body = self.message.get_body(("plain", "html"))
        return "" if body is None else str(body.get_content()).replace("\r\n", "\n")


@dataclass
class _Answer:
    """A scripted reply; ``left`` is the number of times it is still given (None: always)."""

    moment: Moment
    pattern: str
    reply: Reply
    left: int | None = field(default=None)


class MailReceiver:
    """A receiver that runs until :meth:`close`, or until the end of its ``with`` block.

    ``lmtp`` speaks LMTP instead of SMTP. Any thread may script replies and read the outbox.
    """

    def __init__(self, *, lmtp: bool = False) -> None:
        self.outbox: list[ReceivedMail] = []
        """The accepted messages, the oldest first."""
        self.domains = ClosedWorld()
        """The DNS data of :attr:`config`."""
        self.lmtp = lmtp
        self._answers: list[_Answer] = []
        self._changed = threading.Condition()
        self._listener: Listener | None = None
        self._thread = LoopThread("receiver", LocalError, self._begin)

    async def _begin(self) -> None:
        settings = ServerSettings(name=b"localhost", lmtp=self.lmtp)
        listener = Listener(_ScriptedIntake(self), ListenerSettings(settings))
        await listener.listen_tcp(HOST, 0)
        self._listener = listener
        self.port: int = listener.sockets[0].getsockname()[1]

    def __enter__(self) -> MailReceiver:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more mail. Idempotent."""
        assert self._listener is not None
        self._thread.close(partial(self._listener.close, grace=0.5))

    # -------------------------------------------------------------- reaching it

    @property
    def config(self) -> Config:
        """The configuration of a client whose mail for any domain goes to this receiver, and nowhere else."""
        if self.lmtp:
            return self._config(relay=Relay(host=HOST, port=self.port, lmtp=True))
        return self._config()

    def _config(self, relay: Relay | None = None) -> Config:
        direct = Direct(resolver=self.domains, port=self.port, dane=False, mta_sts=STSUse.OFF)
        # A socket bound to loopback reaches nothing else, for any recipient address.
        return Config(relay=relay, direct=direct, helo_name="localhost", local_address=f"[{HOST}]")

    @property
    def url(self) -> str:
        """Its URL as a relay, for programs that take a URL or a host and a port."""
        return f"{'lmtp' if self.lmtp else 'smtp'}://{HOST}:{self.port}"

    # ------------------------------------------------------------------ answers

    def answer(self, moment: Moment, reply: str, *, address: str = "*", times: int | None = None) -> None:
        """From now on send ``reply``, such as ``451 4.7.1 Greylisted``, at this ``moment``.

        ``address`` is a pattern (``*@example.org``) for the sender at MAIL, for the recipient at RCPT, and for any of
        the recipients at the content. ``times`` is how often (None: always); replies scripted first are given first. A
        reply of 421 closes the connection after it. Raises ConfigError for a reply that is no refusal.
        """
        match = _REPLY.fullmatch(reply)
        if match is None or match[1][0] not in "45":
            raise ConfigError(f"{reply[:80]!r} is no refusal: a code from 400 to 599 with a text is expected")
        if times is not None and times < 1:
            raise ConfigError(f"times: {times} is less than 1")
        lines = tuple(line.encode("utf-8") for line in match[2].split("\n"))
        with self._changed:
            self._answers.append(_Answer(moment, address.lower(), Reply(int(match[1]), lines), times))

    def refuse(self, address: str, reply: str = "550 5.1.1 No such user", *, times: int | None = None) -> None:
        """Refuse a recipient permanently."""
        self.answer("RCPT", reply, address=address, times=times)

    def defer(self, address: str, reply: str = "450 4.2.1 Try again later", *, times: int | None = None) -> None:
        """Defer a recipient; with ``times`` it is accepted after so many tries."""
        self.answer("RCPT", reply, address=address, times=times)

    def reset(self) -> None:
        """Remove all messages and scripted replies."""
        with self._changed:
            self.outbox.clear()
            self._answers.clear()

    def wait_for(self, count: int = 1, timeout: float = 10.0) -> list[ReceivedMail]:
        """The outbox, once it has ``count`` messages. Raises TimeoutError, with the outbox, if they do not arrive."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(self.outbox) < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{len(self.outbox)} of {count} messages came in {timeout:g} s")
                self._changed.wait(left)
            return list(self.outbox)

    # ------------------------------------------------------------ for the intake

    def scripted(self, moment: Moment, *addresses: bytes) -> Reply | None:
        """The next reply for one of these addresses, if any; it is counted."""
        texts = [address.decode("utf-8", "replace").lower() for address in addresses]
        with self._changed:
            for one in self._answers:
                if one.moment == moment and any(fnmatchcase(text, one.pattern) for text in texts):
                    if one.left is not None:
                        one.left -= 1
                        if not one.left:
                            self._answers.remove(one)
                    return one.reply
        return None

    def take(self, mail: ReceivedMail) -> None:
        """Add a message to the outbox."""
        with self._changed:
            self.outbox.append(mail)
            self._changed.notify_all()


class _ScriptedIntake(OpenIntake):
    """Gives the scripted replies."""

    def __init__(self, receiver: MailReceiver) -> None:
        self._receiver = receiver

    def connected(self, session: SessionInfo) -> Reply | None:
        return self._receiver.scripted("connect", b"")

    def sender(self, session: SessionInfo, envelope: ReceivedEnvelope) -> Reply | None:
        return self._receiver.scripted("MAIL", envelope.sender)

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        return self._receiver.scripted("RCPT", recipient.address)

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        return _ComingMail(self._receiver, session, envelope)


class _ComingMail:
    """A message during its transfer."""

    def __init__(self, receiver: MailReceiver, session: SessionInfo, envelope: ReceivedEnvelope) -> None:
        self._receiver = receiver
        self._session = session
        self._envelope = envelope
        self._content = bytearray()

    def write(self, data: bytes) -> Awaitable[object] | None:
        self._content += data
        return None

    def commit(self) -> Outcome | Awaitable[Outcome]:
        addresses = [one.address for one in self._envelope.recipients]
        if not self._receiver.lmtp:
            reply = self._receiver.scripted("content", *addresses)
            if reply is None:
                self._take(addresses)
            return reply or OK
        replies = [self._receiver.scripted("content", address) for address in addresses]
        taken = [address for address, reply in zip(addresses, replies, strict=True) if reply is None]
        if taken:
            self._take(taken)
        return [reply or OK for reply in replies]

    def _take(self, addresses: list[bytes]) -> None:
        mail = ReceivedMail(
            self._envelope.sender.decode("utf-8", "replace"),
            tuple(address.decode("utf-8", "replace") for address in addresses),
            bytes(self._content),
            self._session.protocol,
            (self._session.user or b"").decode("utf-8", "replace"),
        )
        self._receiver.take(mail)

    def abort(self, reason: Abort) -> None:
        self._content.clear()
