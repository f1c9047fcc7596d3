"""A server session driven in memory: what a client sends, what comes back, and what the application holds then.

:class:`ServerTalk` is the application as well: it answers every event at once, unless a test takes events away from it
(``manual``) or answers otherwise (``answers``, by the type of the event).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.sasl import ChannelBinding
from zsmtp.proto.server import ServerSession
from zsmtp.proto.server_events import (
    Ending,
    LoginAttempt,
    MailFrom,
    MessageData,
    MessageEnd,
    MessageStart,
    Opened,
    RcptTo,
    ServerEvent,
    SessionEnded,
    TransactionAborted,
)
from zsmtp.proto.server_passwords import Passwords
from zsmtp.proto.server_replies import GO_AHEAD, LOGIN_OK, LOGIN_REFUSED, OK, RECIPIENT_OK, SENDER_OK, make_reply
from zsmtp.proto.server_settings import ServerSettings

NAME = b"mx.example.org"
GREETING = make_reply(220, "", "mx.example.org ESMTP")
SETTINGS = ServerSettings(name=NAME)
LMTP = ServerSettings(name=NAME, lmtp=True)

Answers = dict[type, Callable[..., Reply | Sequence[Reply] | None]]


@dataclass
class Held:
    """A message as the application holds it; ``answered`` once its reply was given."""

    mail: MailFrom
    recipients: list[EnvelopeRecipient] = field(default_factory=list)
    content: bytes = b""
    complete: bool = False


class ServerTalk:
    """A session and its application. ``answers`` gives replies by event type; None from one leaves the event open."""

    def __init__(
        self,
        settings: ServerSettings = SETTINGS,
        *,
        answers: Answers | None = None,
        passwords: Passwords | None = None,
        bindings: tuple[ChannelBinding, ...] | None = None,
        now: float = 1000.0,
    ) -> None:
        self.now = now
        self.session = ServerSession(
            settings, now=now, utc=1_700_000_000.0, passwords=passwords, seed=b"s" * 32, bindings=bindings
        )
        self.answers = answers or {}
        self.events: list[ServerEvent] = []
        self.held: list[Held] = []
        self.current: Held | None = None
        self.open: list[ServerEvent] = []  # events with a slot that were left open
        self.out = b""
        self.pump()

    def send(self, data: bytes) -> bytes:
        """What the server says to these octets."""
        self.session.receive_data(data, self.now)
        return self.pump()

    def eof(self) -> bytes:
        """What the server says when the client has closed its side."""
        self.session.receive_eof(self.now)
        return self.pump()

    def greet(self) -> ServerTalk:
        """Greet the server, and forget what it said."""
        self.send(b"LHLO client.example\r\n" if self.session._settings.lmtp else b"EHLO client.example\r\n")
        self.events.clear()
        self.out = b""
        return self

    def pump(self) -> bytes:
        """Take events until there are none; what the server says meanwhile."""
        said = b""
        while True:
            while (event := self.session.next_event()) is not None:
                self.events.append(event)
                self.take(event)
            out = self.session.data_to_send()
            if not out:
                break
            said += out
        self.out += said
        return said

    def take(self, event: ServerEvent) -> None:
        """Do what the application does."""
        if isinstance(event, MessageData):
            assert event.data
            assert self.current is not None
            self.current.content += event.data
        elif isinstance(event, TransactionAborted):
            assert self.current is not None
            self.current = None
        elif not isinstance(event, Opened | MailFrom | RcptTo | MessageStart | MessageEnd | LoginAttempt):
            return
        else:
            answer = self.answers.get(type(event), _agree)(event)
            if isinstance(event, MessageEnd):
                self._complete(event)
            if answer is None:
                self.open.append(event)
            else:
                self.answer(event, answer)

    def _complete(self, event: MessageEnd) -> None:
        assert self.current is not None
        assert len(self.current.content) == event.octets
        self.held.append(self.current)
        self.current = None

    def answer(self, event: ServerEvent, answer: Reply | Sequence[Reply] = OK) -> None:
        """Answer an event, with one reply for all its slots or one for each."""
        assert not isinstance(event, MessageData | TransactionAborted | SessionEnded)
        slot: int = event.slot  # type: ignore[union-attr]
        if isinstance(event, MessageEnd):
            replies = [answer] * event.replies if isinstance(answer, Reply) else answer
            for number, reply in enumerate(replies):
                self.session.answer(slot + number, reply, self.now)
            return
        assert isinstance(answer, Reply)
        self.session.answer(slot, answer, self.now)
        if isinstance(event, MailFrom) and answer.code < 300:
            assert self.current is None
            self.current = Held(event)
        elif isinstance(event, RcptTo) and answer.code < 300:
            assert self.current is not None
            self.current.recipients.append(event.recipient)

    def at(self, now: float) -> bytes:
        """What the server says when that time has come, the timer having been called whenever it was due."""
        said = b""
        while (deadline := self.session.deadline()) is not None and deadline <= now:
            self.now = max(self.now, deadline)
            self.session.handle_timer(self.now)
            said += self.pump()
        self.now = now
        return said + self.pump()

    @property
    def ending(self) -> Ending | None:
        """Why the session is over; None while it is not."""
        last = self.events[-1] if self.events else None
        return last.reason if isinstance(last, SessionEnded) else None

    def of(self, kind: type) -> list[ServerEvent]:
        """The events of one type so far."""
        return [event for event in self.events if isinstance(event, kind)]


def _agree(event: ServerEvent) -> Reply:
    if isinstance(event, LoginAttempt):
        return LOGIN_OK if event.check() else LOGIN_REFUSED
    for kind, reply in ((Opened, GREETING), (MailFrom, SENDER_OK), (RcptTo, RECIPIENT_OK), (MessageStart, GO_AHEAD)):
        if isinstance(event, kind):
            return reply
    return OK


def codes(said: bytes) -> list[int]:
    """The codes of the replies in some octets, which must be whole replies."""
    assert said == b"" or said.endswith(b"\r\n")
    return [int(line[:3]) for line in said.split(b"\r\n")[:-1] if line[3:4] != b"-"]
