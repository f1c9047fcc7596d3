"""A hundred queued messages for a real server: riding on one another, all there, octet for octet."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.interop.exchange import Exchange, Message
from tests.interop.servers import LISTENERS, Listener

pytestmark = pytest.mark.interop

EVERY_LISTENER = pytest.mark.parametrize("listener", LISTENERS, ids=lambda listener: listener.name)


def hundred(exchange: Exchange) -> list[Message]:
    return [
        exchange.post([f"user{n:03}"], b"Message %d\n.\n..dots\nMAIL FROM:<x@example.net>\n" % n * (1 + n % 40))
        for n in range(100)
    ]


@EVERY_LISTENER
def test_a_hundred_messages_on_one_connection(exchange: Exchange) -> None:
    messages = hundred(exchange)
    result = exchange.deliver(messages)
    exchange.assert_stored({f"user{n:03}": [message] for n, message in enumerate(messages)})
    assert exchange.connections() == 1
    assert [report.id for report in result.reports] == [message.job.id for message in messages]


@EVERY_LISTENER
def test_refusals_among_a_hundred(exchange: Exchange) -> None:
    """A message that nobody is to get, every tenth time: nobody else's goes astray, and none in another's name."""
    messages = [
        exchange.post(
            ["nobody" if n % 10 == 5 else f"user{n:03}"], b"Message %d\n" % n, sender=f"smtp x s{n}@example.org 99"
        )
        for n in range(100)
    ]
    result = exchange.run(messages)
    fates = [result.fates[message.job.id, message.job.offsets[0]] for message in messages]
    assert fates == ["error" if n % 10 == 5 else "ok" for n in range(100)]
    exchange.assert_stored({f"user{n:03}": [m] for n, m in enumerate(messages) if n % 10 != 5})
    for n in range(100):
        for stored in exchange.server.stored(f"user{n:03}"):
            assert f"Return-Path: <s{n}@example.org>".encode().lower() in stored.lower() or b"Return-Path" not in stored
    assert exchange.connections() == 1


@pytest.mark.parametrize("listener", [one for one in LISTENERS if one.pipelining], ids=lambda listener: listener.name)
def test_the_messages_did_ride(exchange: Exchange, listener: Listener) -> None:
    """The commands left in flights: the log shows MAIL before the answer to the content ahead of it."""
    exchange.deliver(hundred(exchange))
    log = exchange.office.log.read_bytes()
    lines = [line for line in log.split(b"\n") if b"\t" in line and line.split(b"\t")[0][-1:] in (b"r", b"w")]
    sent = [line.split(b"\t", 1) for line in lines]
    kinds = [(head[-1:], text[:4]) for head, text in sent]
    behind = sum(one[0] == other[0] == b"w" and other[1] in (b"MAIL", b"RSET") for one, other in pairwise(kinds))
    assert behind >= 50
