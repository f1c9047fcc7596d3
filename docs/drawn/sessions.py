"""Sessions led by the engine against scripted servers, and the order of the commands in them.

:func:`orders` delivers a few messages to servers of every kind and gives the pairs of phases that followed one another
on the wire. The picture of a session is made of them, so an arrow is there because the engine went that way.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.pool import Route
from zsmtp.delivery.security import Security
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.events import Answered, Connected, Event, LineSent
from zsmtp.net.script import Reaction, Script
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.phase import Phase
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient
from zsmtp.proto.sasl import Credentials, Secret
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.policy import TLSPolicy

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


@dataclass(eq=False)
class Order:
    """Listens to one session: which phase came after which, and whether before the answer to it.

    ``waited`` and ``ran_ahead`` are the pairs (before, after).
    """

    waited: set[tuple[Phase, Phase]] = field(default_factory=set)
    ran_ahead: set[tuple[Phase, Phase]] = field(default_factory=set)
    _last: Phase | None = None
    _due: int = 0

    def hear(self, event: Event) -> None:
        """One event of the session."""
        if isinstance(event, Connected):
            self._last, self._due = Phase.GREETING, 1
        elif isinstance(event, Answered):
            self._due -= 1
        elif isinstance(event, LineSent) and event.phase is not None:
            if event.phase is Phase.CONTENT and event.line not in (b".",):
                return
            if self._last is not None:
                (self.ran_ahead if self._due > 0 else self.waited).add((self._last, event.phase))
            self._last, self._due = event.phase, max(self._due, 0) + 1


def _content() -> ContentForm:
    return ContentForm(len(CONTENT), 16, None, lambda: iter((CONTENT + b".\r\n",)), lambda: iter((CONTENT,)))


def _message(recipients: int) -> Message:
    paths = tuple(EnvelopeRecipient(b"user%d@example.org" % number) for number in range(recipients))
    return Message(Envelope(b"sender@example.net", paths), lambda capabilities: _content())


def _deliveries(sizes: Sequence[int]) -> Iterator[Delivery]:
    for recipients in sizes:
        yield Delivery(_message(recipients), Ledger(recipients, lambda number, verdict: None))


def lead(script: Script, settings: SessionSettings, sizes: Sequence[int] = (2, 1, 1), *, idle: float = 0.0) -> Order:
    """Deliver messages to ``sizes`` recipients each over one session with the server of ``script``.

    With ``idle`` the session rests for so many seconds before each message but the first, and is kept alive meanwhile.
    """
    order = Order()
    network = ScriptedNetwork({"192.0.2.1": [script]}, dns="example.org A 192.0.2.1")
    courier = Courier(settings, order.hear)
    route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))
    waiting = _deliveries(sizes)
    for delivery in waiting:
        if idle:
            network.run(courier.keep_alive(route))
            network.run(courier.deliver(route, delivery, idle=idle))
        else:
            network.run(courier.deliver(route, delivery, lambda: next(waiting, None)))
    network.run(courier.close(route, "done"))
    return order


def orders() -> Order:
    """The orders of all sessions together. What ran ahead at one server may have waited at another: it is in both."""
    login = Security(
        policy_for=lambda destination: TLSPolicy(),
        credentials_for=lambda server, destination: Credentials(b"user", Secret(b"open sesame")),
        nonce=lambda: b"0123456789",
    )
    clear = Security(policy_for=lambda d: TLSPolicy(), credentials_for=lambda s, d: None, nonce=lambda: b"0")
    tls = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
    plain = SessionSettings(helo_name="client.example")
    refusing = {"RCPT": [Reaction("550 5.1.1 no such user")]}
    challenge = {
        "AUTH": [Reaction("334 VXNlcm5hbWU6")],
        b64encode(b"user").decode().upper(): [Reaction("334 UGFzc3dvcmQ6")],
        b64encode(b"open sesame").decode().upper(): [Reaction("235 2.7.0 welcome")],
    }
    sessions = [
        lead(Script(), plain),
        lead(Script(), plain, idle=60.0),
        lead(Script(replies=refusing), plain),
        lead(Script(keywords=("PIPELINING",)), plain),
        lead(Script(keywords=("CHUNKING",)), plain),
        lead(Script(keywords=("PIPELINING", "CHUNKING")), plain, (1,) * 8),
        lead(Script(replies={"EHLO": [Reaction("502 5.5.1 what?")]}), plain),
        lead(Script(replies={"MAIL": [Reaction("450 4.7.1 later")]}), plain),
        lead(Script(replies={"DATA": [Reaction("451 4.3.0 later")]}), plain),
        lead(Script(greeting=Reaction("554 5.3.2 no mail here")), plain),
        lead(
            Script(keywords=("PIPELINING",), lmtp=True), SessionSettings(helo_name="c.example", greeting=Greeting.LHLO)
        ),
        lead(Script(keywords=("STARTTLS",), tls=tls), SessionSettings(helo_name="c.example", security=clear)),
        lead(
            Script(keywords=("STARTTLS", "AUTH LOGIN"), tls=tls, replies=challenge),
            SessionSettings(helo_name="c.example", security=login),
        ),
        lead(Script(), SessionSettings(helo_name="c.example", security=login)),
    ]
    return Order(
        set().union(*(session.waited for session in sessions)),
        set().union(*(session.ran_ahead for session in sessions)),
    )
