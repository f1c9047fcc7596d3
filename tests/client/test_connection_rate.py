"""A rate of connections: what the library begins, and what it does while a connection waits for its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp
from zsmtp import events
from zsmtp.aio import Client, Submission
from zsmtp.delivery import gate

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"
ONE_EACH = Script(replies={"DOT": (Step("250 ok", Then.CLOSE),)})
"""A server that closes each connection behind its first message."""


def through(*sinks: Sink, **limits: Any) -> zsmtp.Config:
    routes = {
        f"d{number}.example.com": zsmtp.Relay.from_url(f"smtp://127.0.0.1:{sink.port}")
        for number, sink in enumerate(sinks)
    }
    return zsmtp.Config(routes=routes, helo_name="client.example", limits=zsmtp.Limits(**limits))


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets every clock forward that does not go back: that of loops, and that of drivers, by which gates open."""
    monotonic, ahead = time.monotonic, 0.0

    def set_forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead)
    return set_forward


async def sleeps(client: Client) -> None:
    """Wait until one of the client's connections waits for its time."""
    while not client.slots._asleep:
        await asyncio.sleep(0.001)


async def fill(client: Client, number: int = 0) -> None:
    """Use up what may be begun to a destination in this period."""
    assert (await client.deliver(MESSAGE, recipients=f"first@d{number}.example.com")).ok


def test_connections_are_begun_as_often_as_is_allowed(pass_time: Callable[[float], None]) -> None:
    begun = [0]  # in each period

    async def main(sink: Sink) -> None:
        def observe(event: events.Event) -> None:
            begun[-1] += isinstance(event, events.Connecting)

        async def deliver(client: Client) -> list[zsmtp.Result]:
            many = (Submission(message=MESSAGE, recipients=f"r{i}@d0.example.com") for i in range(6))
            return [result async for result in client.stream(many)]

        config = through(sink, connections_per_minute=2)
        async with Client(config, observe=lambda destination: observe) as client:
            delivering = asyncio.create_task(deliver(client))
            while not delivering.done():
                if client.slots._asleep:
                    begun.append(0)
                    pass_time(gate.PERIOD)
                    while client.slots._asleep:
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0.001)
        assert [result.ok for result in delivering.result()] == [True] * 6

    with Sink(ONE_EACH) as sink:
        asyncio.run(main(sink))
    assert sum(begun) >= 6, "it takes one for each message"
    assert max(begun) <= 2


def test_many_messages_need_no_second_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rate allows no connection beside the one that stands, mail goes over that one and none waits."""
    monkeypatch.setattr(gate, "PERIOD", 3600.0)  # it does not end meanwhile

    async def main(sink: Sink) -> list[zsmtp.Result]:
        async with Client(through(sink, connections_per_minute=1)) as client:
            many = (Submission(message=MESSAGE, recipients=f"r{i}@d0.example.com") for i in range(300))
            return [result async for result in client.stream(many)]

    with Sink(Script(replies={"MAIL": (Step("250 ok", delay=0.001),)})) as sink:
        results = asyncio.run(main(sink))
    assert sum(result.ok for result in results) == 300
    assert len(sink.connections) == 1


def test_what_waits_for_its_time_holds_no_connection_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.client.slots.TICK", 3600.0)  # nor does it count as slow before

    async def main(one: Sink, other: Sink) -> None:
        config = through(one, other, connections=1, slow_connections=0, connections_per_minute=1, idle=0.0)
        async with Client(config) as client:
            await fill(client)
            waits = asyncio.create_task(client.deliver(MESSAGE, recipients="second@d0.example.com"))
            await sleeps(client)
            assert (await client.deliver(MESSAGE, recipients="x@d1.example.com")).ok
            assert not waits.done()
            waits.cancel()
            with suppress(asyncio.CancelledError):
                await waits

    with Sink(ONE_EACH) as one, Sink() as other:
        asyncio.run(main(one, other))
    assert len(one.connections) == 1


def test_when_its_time_comes_it_takes_its_turn(pass_time: Callable[[float], None]) -> None:
    """Only one connection may be at work: the one that slept waits until the other one is through."""

    async def main(one: Sink, other: Sink) -> None:
        at_work: list[int] = []
        config = through(one, other, connections=1, slow_connections=0, connections_per_minute=1, idle=5.0)
        async with Client(config) as client:

            def observe() -> None:
                at_work.append(len(client.slots._at_work))

            await fill(client)
            waits = asyncio.create_task(client.deliver(MESSAGE, recipients="second@d0.example.com"))
            await sleeps(client)
            busy = [asyncio.create_task(client.deliver(MESSAGE, recipients=f"r{i}@d1.example.com")) for i in range(20)]
            while not client.slots._at_work:
                await asyncio.sleep(0.001)
            pass_time(gate.PERIOD)
            while not all(task.done() for task in (waits, *busy)):
                observe()
                await asyncio.sleep(0.001)
            assert all(task.result().ok for task in (waits, *busy))
        assert max(at_work) == 1

    with Sink(ONE_EACH) as one, Sink(Script(replies={"MAIL": (Step("250 ok", delay=0.005),)})) as other:
        asyncio.run(main(one, other))
    assert len(one.connections) == 2


@pytest.mark.parametrize("way", ["cancelled", "its time is over", "closed"])
def test_waiting_for_a_connection_can_be_ended(way: str, pass_time: Callable[[float], None]) -> None:
    async def main(sink: Sink) -> None:
        client = Client(through(sink, connections_per_minute=1))
        await fill(client)
        timeout = gate.PERIOD / 2 if way == "its time is over" else None
        waits = asyncio.create_task(client.deliver(MESSAGE, recipients="second@d0.example.com", timeout=timeout))
        await sleeps(client)
        if way == "cancelled":
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
        elif way == "its time is over":
            pass_time(gate.PERIOD / 2)
            report = await waits
            assert "the time for this message" in report.results[0].text
        else:
            await client.aclose()
            assert "the client is closed" in (await waits).results[0].text
        await client.aclose()
        assert len(client.slots) == 0
        assert client.resting._until == {}, "it is held against nobody"

    with Sink(ONE_EACH) as sink:
        asyncio.run(main(sink))
    assert len(sink.connections) == 1


def test_it_is_configured_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "zsmtp.toml"
    file.write_text("[limits]\nconnections_per_minute = 30\n")
    assert zsmtp.Config.from_toml(file).limits.connections_per_minute == 30
    file.write_text("[limits]\nconnections_per_minute = -1\n")
    with pytest.raises(zsmtp.ConfigError, match=r"limits\.connections_per_minute: -1 is less than 0"):
        zsmtp.Config.from_toml(file)
