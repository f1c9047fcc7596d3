"""Deliveries over a scripted network: the shortest way from a script to verdicts.

:func:`run` delivers one message to the domain ``example.org``, whose mail exchangers are 192.0.2.1, 192.0.2.2, ... in
the order of preference, each with its scripts, and gives back everything that can be asked afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.events import Event, ignore
from zsmtp.net.script import NEVER
from zsmtp.net.scripted import Host, ScriptedNetwork
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, TLSDemand
from zsmtp.tls.chain import TrustAnchors

CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def address(number: int) -> str:
    """The address of the ``number``-th mail exchanger, from 0."""
    return f"192.0.2.{number + 1}"


def table(exchangers: int) -> str:
    """The DNS of example.org with so many mail exchangers."""
    lines = [f"example.org MX {10 * (i + 1)} mx{i}.example.org" for i in range(exchangers)]
    lines += [f"mx{i}.example.org A {address(i)}" for i in range(exchangers)]
    return "\n".join(lines)


def content_form(content: bytes = CONTENT, *, block: int = 1 << 20, eight_bit: bool = False) -> ContentForm:
    """``content`` (CRLF lines, no line that starts with a dot) in blocks of so many octets."""

    def blocks(octets: bytes) -> Iterator[bytes]:
        for start in range(0, len(octets), block):
            yield octets[start : start + block]

    return ContentForm(
        len(content), 0, b"8BITMIME" if eight_bit else None, lambda: blocks(content + b".\r\n"), lambda: blocks(content)
    )


def message(
    *recipients: bytes | EnvelopeRecipient,
    sender: bytes = b"a@example.net",
    content: ContentForm | None = None,
    content_for: Callable[[Capabilities], ContentForm] | None = None,
    wish: TLSDemand = TLSDemand.NONE,
) -> Message:
    """A message to ``recipients`` (r0@example.org without any)."""
    chosen = [
        r if isinstance(r, EnvelopeRecipient) else EnvelopeRecipient(r) for r in recipients or (b"r0@example.org",)
    ]
    form = content or content_form()
    return Message(Envelope(sender, tuple(chosen), wish=wish), content_for or (lambda capabilities: form))


def numbered(count: int) -> list[bytes]:
    """The forward-paths r0@example.org, r1@example.org, ..."""
    return [b"r%d@example.org" % i for i in range(count)]


@dataclass
class World:
    """A network with one route over it, and the verdicts of the messages delivered so far."""

    network: ScriptedNetwork
    courier: Courier
    route: Route
    heard: list[Event] = field(default_factory=list)
    verdicts: list[list[Verdict]] = field(default_factory=list)

    def deliver(self, one: Message, *, idle: float = 0.0, on_link: bool = False) -> list[Verdict]:
        """Deliver ``one``; the verdicts in the order of its recipients. Fails if any recipient has not exactly one."""
        found: dict[int, Verdict] = {}

        def settle(index: int, verdict: Verdict) -> None:
            assert index not in found
            found[index] = verdict

        ledger = Ledger(len(one.envelope.recipients), settle)
        if on_link:
            self.network.run(self.courier.deliver_on_link(self.route, Delivery(one, ledger)))
        else:
            self.network.run(self.courier.deliver(self.route, Delivery(one, ledger), idle=idle))
        assert not ledger.unsettled
        verdicts = [found[index] for index in range(len(one.envelope.recipients))]
        self.verdicts.append(verdicts)
        return verdicts

    def close(self) -> None:
        """End the session, if there is one."""
        self.network.run(self.courier.close(self.route, "done"))

    @property
    def fates(self) -> list[Disposition]:
        """What became of the recipients of the last message."""
        return [verdict.fate for verdict in self.verdicts[-1]]

    def lines(self, connection: int = 0) -> list[str]:
        """What the client wrote on a connection, line by line."""
        return self.network.connections[connection].lines


def world(
    *hosts: Host | Sequence[Host],
    settings: SessionSettings | None = None,
    stop_at: float = NEVER,
    dns: str | None = None,
    observed: bool = False,
    now: float = 1000.0,
    anchors: Sequence[bytes] = (),
    policies: Mapping[str, bytes] | None = None,
) -> World:
    """A network where the ``i``-th of ``hosts`` is the ``i``-th mail exchanger of example.org.

    ``anchors`` are the CA certificates trusted, in DER, ``policies`` the MTA-STS texts that policy hosts serve.
    """
    lives = {address(i): [host] if not isinstance(host, Sequence) else host for i, host in enumerate(hosts)}
    heard: list[Event] = []
    observer = heard.append if observed else ignore
    names = table(len(hosts)) if dns is None else dns
    network = ScriptedNetwork(
        lives,
        dns=names,
        now=now,
        stop_at=stop_at,
        observer=observer,
        anchors=lambda: TrustAnchors(anchors),
        policies=policies,
    )
    chosen = settings or SessionSettings(helo_name="client.example")
    courier = Courier(chosen, observer)
    request = DestinationRequest(destination="example.org", shuffle=lambda items: None)
    return World(network, courier, Route(request), heard)


def run(*hosts: Host | Sequence[Host], one: Message | None = None, settings: SessionSettings | None = None) -> World:
    """Deliver one message and end the session."""
    there = world(*hosts, settings=settings)
    there.deliver(one or message())
    there.close()
    return there
