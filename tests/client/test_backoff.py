"""Mail for a destination that failed a moment ago: nothing is tried for it, and everybody is told so."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import prometheus_client
import pytest
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

import zsmtp
from zsmtp import events
from zsmtp.aio import Client
from zsmtp.observers.prometheus import Metrics

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"
TO = "x@d0.example.com"


async def deliver(client: Client, times: int) -> list[zsmtp.Result]:
    return [(await client.deliver(MESSAGE, recipients=TO)).results[0] for _ in range(times)]


def test_the_result_says_that_nothing_was_tried_and_when_something_will_be() -> None:
    async def main(port: int) -> list[zsmtp.Result]:
        async with Client(relay=f"smtp://127.0.0.1:{port}") as client:
            return await deliver(client, 3)

    with refusing_port() as port:
        first, *others = asyncio.run(main(port))
    assert (first.attempted, [one.problem for one in first.attempts]) == (True, ["Connection refused"])
    assert first.retry_after == 60.0
    for one in others:
        assert (one.fate, one.attempted, one.attempts, one.server) == (zsmtp.Fate.DEFERRED, False, (), None)
        assert 0.0 < one.retry_after <= 60.0
        reason, told = one.text.split("\n")
        assert "Connection refused" in reason
        assert told.startswith("not tried: ")
        assert f"in {one.retry_after:.0f} s" in told
        assert json.loads(json.dumps(one.as_dict()))["attempted"] is False


def test_what_a_server_said_to_another_message_is_no_reply_to_this_one() -> None:
    async def main(port: int) -> list[zsmtp.Result]:
        async with Client(relay=f"smtp://127.0.0.1:{port}") as client:
            return await deliver(client, 2)

    with Sink(Script(banner=Step("421 4.3.2 later", Then.CLOSE))) as sink:
        first, second = asyncio.run(main(sink.port))
    assert (first.code, second.code, second.reply) == (421, 0, "")
    assert "later" in second.text
    assert len(sink.connections) == 1


def test_what_was_delivered_names_no_time() -> None:
    with Sink() as sink:
        report = zsmtp.deliver(MESSAGE, recipients=TO, relay=f"smtp://127.0.0.1:{sink.port}")
    assert [(one.attempted, one.retry_after) for one in report] == [(True, 0.0)]


def test_observers_hear_of_each_delivery() -> None:
    heard: list[events.Event] = []

    async def main(port: int) -> None:
        async with Client(relay=f"smtp://127.0.0.1:{port}", observe=lambda name: heard.append) as client:
            await deliver(client, 3)

    with refusing_port() as port:
        asyncio.run(main(port))
    kinds = Counter(type(event) for event in heard)
    assert (kinds[events.DeliveryStarted], kinds[events.Settled], kinds[events.Connecting]) == (3, 3, 1)
    decisions = [event for event in heard if isinstance(event, events.Decision) and event.delivery is not None]
    started = [event.delivery for event in heard if isinstance(event, events.DeliveryStarted)]
    assert [event.delivery for event in decisions] == started[1:]
    assert all("failed recently: not tried for another " in event.text for event in decisions)
    assert {event.about for event in decisions} == {events.About.ROUTE}
    order = [type(event) for event in heard[-3:]]
    assert order == [events.DeliveryStarted, events.Decision, events.Settled]


def test_metrics_and_traces_count_them(tmp_path: Path) -> None:
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry)
    traces = tmp_path / "traces"
    traces.mkdir()

    async def main(port: int) -> None:
        async with Client(relay=f"smtp://127.0.0.1:{port}", observe=metrics.observer, trace=traces) as client:
            await deliver(client, 3)

    with refusing_port() as port:
        asyncio.run(main(port))
    assert registry.get_sample_value("zsmtp_recipients_total", {"fate": "deferred"}) == 3.0
    assert registry.get_sample_value("zsmtp_messages_total", {"fate": "deferred"}) == 3.0
    assert registry.get_sample_value("zsmtp_deliveries_in_progress") == 0.0
    files = sorted(traces.iterdir())
    assert len(files) == 3
    told = [("not tried for another" in file.read_text(), "Connection refused" in file.read_text()) for file in files]
    assert sorted(told) == [(False, True), (True, True), (True, True)]


def test_a_delivery_that_is_taken_back_is_counted_once(tmp_path: Path) -> None:
    """It was refused beside a connection that stands, and went over that."""
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry)
    traces = tmp_path / "traces"
    traces.mkdir()
    slow = Script(replies={"MAIL": (Step("250 ok", delay=0.01),)})

    async def main(port: int) -> list[zsmtp.Result]:
        async with Client(relay=f"smtp://127.0.0.1:{port}", observe=metrics.observer, trace=traces) as client:
            many = (zsmtp.Submission(message=MESSAGE, recipients=TO, name=str(n)) for n in range(60))
            return [result async for result in client.stream(many)]

    with Sink(slow, Script(banner=Step("421 too many", Then.CLOSE))) as sink:
        results = asyncio.run(main(sink.port))
    assert all(result.ok for result in results)
    assert len(sink.connections) > 1
    assert registry.get_sample_value("zsmtp_recipients_total", {"fate": "delivered"}) == 60.0
    assert registry.get_sample_value("zsmtp_recipients_total", {"fate": "deferred"}) is None
    assert registry.get_sample_value("zsmtp_deliveries_in_progress") == 0.0
    assert len(list(traces.iterdir())) == 60


# ----------------------------------------------------------------- content, told


@pytest.mark.parametrize(
    ("body", "caps", "words"),
    [
        (b"Gr\xfc\xdfe\rx\n", (), "CR"),
        (b"Gr\xfc\xdfe\n", ("8BITMIME",), ""),
    ],
)
def test_the_library_tells_what_becomes_of_content(body: bytes, caps: tuple[str, ...], words: str) -> None:
    heard: list[events.Event] = []

    async def main(port: int) -> None:
        async with Client(relay=f"smtp://127.0.0.1:{port}", observe=lambda name: heard.append) as client:
            report = await client.deliver(MESSAGE + body, recipients=TO)
            assert report.ok

    with Sink(Script(caps=caps)) as sink:
        asyncio.run(main(sink.port))
    remarks = [one for one in heard if isinstance(one, events.Remark) and one.about is events.About.CONTENT]
    assert bool(remarks) is bool(words), remarks
    for one in remarks:
        assert words in one.text
        assert one.envelope is not None
        assert one.envelope.recipients[0].address == TO.encode()
