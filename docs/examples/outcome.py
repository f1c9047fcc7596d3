"""What becomes of one message at a server that follows a script, without a network and without waiting."""

from __future__ import annotations

from collections.abc import Iterator

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.report import Ledger
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.net.script import Script
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.plan import ContentForm, Envelope, Recipient

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"


def outcome(*servers: Script, recipients: int = 1) -> tuple[list[Verdict], ScriptedNetwork]:
    """Deliver to example.org, whose exchangers follow ``servers``; the verdicts by recipient, and the network."""
    hosts = {f"192.0.2.{number}": [script] for number, script in enumerate(servers, 1)}
    names = [f"example.org MX {number}0 mx{number}.example.org" for number in range(1, len(servers) + 1)]
    names += [f"mx{number}.example.org A 192.0.2.{number}" for number in range(1, len(servers) + 1)]
    network = ScriptedNetwork(hosts, dns="\n".join(names))

    def data() -> Iterator[bytes]:
        yield CONTENT + b".\r\n"

    def chunk() -> Iterator[bytes]:
        yield CONTENT

    paths = tuple(Recipient(b"user%d@example.org" % number) for number in range(1, recipients + 1))
    content = ContentForm(len(CONTENT), 16, None, data, chunk)
    message = Message(Envelope(b"sender@example.net", paths), lambda capabilities: content)
    verdicts: dict[int, Verdict] = {}
    ledger = Ledger(recipients, verdicts.__setitem__)
    courier = Courier(SessionSettings(helo_name="client.example.net"))
    route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))
    network.run(courier.deliver(route, Delivery(message, ledger)))
    network.run(courier.close(route, "done"))
    return [verdicts[number] for number in range(recipients)], network
