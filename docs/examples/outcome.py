"""The results of messages at a server that follows a script, without a network and without waiting."""

from __future__ import annotations

from collections.abc import Iterator

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.net.script import Script
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"


def outcome(*servers: Script, recipients: int = 1, messages: int = 1) -> tuple[list[Verdict], ScriptedNetwork]:
    """Deliver to example.org, whose exchangers follow ``servers``; the verdicts by recipient, and the network.

    With several messages, each to the same recipients, the verdicts on the last one are returned.
    """
    hosts = {f"192.0.2.{number}": [script] for number, script in enumerate(servers, 1)}
    names = [f"example.org MX {number}0 mx{number}.example.org" for number in range(1, len(servers) + 1)]
    names += [f"mx{number}.example.org A 192.0.2.{number}" for number in range(1, len(servers) + 1)]
    network = ScriptedNetwork(hosts, dns="\n".join(names))

    def data() -> Iterator[bytes]:
        yield CONTENT + b".\r\n"

    def chunk() -> Iterator[bytes]:
        yield CONTENT

    paths = tuple(EnvelopeRecipient(b"user%d@example.org" % number) for number in range(1, recipients + 1))
    content = ContentForm(len(CONTENT), 16, None, data, chunk)
    message = Message(Envelope(b"sender@example.net", paths), lambda capabilities: content)
    verdicts: dict[int, Verdict] = {}
    queue = iter([Delivery(message, Ledger(recipients, verdicts.__setitem__)) for _ in range(messages)])
    courier = Courier(SessionSettings(helo_name="client.example.net"))
    route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))
    while (first := next(queue, None)) is not None:
        network.run(courier.deliver(route, first, lambda: next(queue, None)))
    network.run(courier.close(route, "done"))
    return [verdicts[number] for number in range(recipients)], network
