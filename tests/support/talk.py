"""A dialogue with a bare session: what the server says is fed, what the client says comes out."""

from __future__ import annotations

from tests.support.network import content_form

from zsmtp.events import Event
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, Flow, Transaction, plan_transaction
from zsmtp.proto.session import Lost, Session, SessionEvent, StepAnswered

TIMEOUTS = Timeouts(write=10, command=20, data=30, final=40, short=50, quit=60)
PIPELINING = Capabilities(pipelining=True)
CHUNKING = Capabilities(pipelining=True, chunking=True)
ONE_BY_ONE = Capabilities()
BODY = b"Subject: x\r\n\r\nhello\r\n.\r\n"


class Talk:
    """A session and the two ways to push it: what the server says, and how much of what the client says goes out."""

    def __init__(self, *, lmtp: bool = False, greeted: bool = True) -> None:
        self.heard: list[Event] = []
        self.session = Session(timeouts=TIMEOUTS, lmtp=lmtp, observer=self.heard.append)
        self.now = 100.0
        if greeted:
            self.server(b"220 hi\r\n")

    def server(self, octets: bytes) -> list[SessionEvent]:
        """What happens when the server says this."""
        self.session.data_to_send(self.now)  # as every driver does before it reads
        self.session.receive_data(octets, self.now)
        return self.events()

    def client(self, *, limit: int = 1 << 30) -> bytes:
        """What the client says now, at most so many octets of it."""
        said = b""
        while len(said) < limit and (out := self.session.data_to_send(self.now)):
            count = min(len(out), limit - len(said))
            said += bytes(out[:count])
            self.session.data_written(count, self.now)
        return said

    def events(self) -> list[SessionEvent]:
        return list(iter(self.session.next_event, None))

    def transact(
        self,
        capabilities: Capabilities = PIPELINING,
        recipients: int = 2,
        content: ContentForm | None = None,
        flow: Flow = Flow.STEPWISE,
    ) -> Transaction:
        envelope = Envelope(
            b"a@example.net", tuple(EnvelopeRecipient(b"r%d@example.org" % i) for i in range(recipients))
        )
        transaction = plan_transaction(envelope, content or content_form(), capabilities, flow)
        self.session.transact(transaction)
        return transaction

    def to_the_dot(self, *, lmtp_recipients: int = 2) -> Transaction:
        """A pipelined transaction whose content is out and whose final reply is due."""
        transaction = self.transact(recipients=lmtp_recipients)
        self.client()
        self.server(b"250 ok\r\n" + b"250 ok\r\n" * lmtp_recipients + b"354 go\r\n")
        assert self.client() == BODY
        return transaction


def answers(events: list[SessionEvent]) -> list[tuple[str, int]]:
    return [(e.step.phase.value, e.reply.code) for e in events if isinstance(e, StepAnswered)]


def lost(events: list[SessionEvent]) -> Lost:
    """The loss that ends ``events``."""
    assert isinstance(events[-1], Lost)
    assert not any(isinstance(event, Lost) for event in events[:-1])
    return events[-1]
