"""A rate of messages: as many as are allowed in a stretch of time, whatever they go by, and none too late for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.loop import Loop, pass_time
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client, Submission

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"


def through(*sinks: Sink, rate: str, **more: Any) -> zsmtp.Config:
    routes = {
        f"d{number}.example.com": zsmtp.Relay.from_url(f"smtp://127.0.0.1:{sink.port}")
        for number, sink in enumerate(sinks)
    }
    return zsmtp.Config(routes=routes, helo_name="c.example", limits=zsmtp.Limits(message_rate=rate), **more)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


async def settled(results: list[zsmtp.Result], count: int) -> int:
    """How many results there are a while after there were so many."""
    while len(results) < count:
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    return len(results)


@pytest.mark.parametrize("destinations", [1, 3])
def test_a_stream_keeps_it(destinations: int) -> None:
    """Over kept connections, and over all destinations together."""

    async def main() -> None:
        results: list[zsmtp.Result] = []
        async with Client(through(*sinks, rate="10/min")) as client:
            many = (
                Submission(message=MESSAGE, recipients=f"r{number}@d{number % destinations}.example.com")
                for number in range(25)
            )
            task = asyncio.create_task(_drained(client, many, results.append))
            assert await settled(results, 10) == 10
            pass_time(40.0)
            assert await settled(results, 10) == 10
            pass_time(21.0)
            assert await settled(results, 20) == 20
            pass_time(61.0)
            await task
        assert [result.ok for result in results] == [True] * 25

    with ExitStack() as stack:
        sinks = [stack.enter_context(Sink()) for _ in range(destinations)]
        run(main)
    assert sum(len(sink.transactions) for sink in sinks) == 25


def test_messages_are_not_taken_in_before_they_can_be_sent_in_time() -> None:
    """A stream of a thousand at four a minute: their time would be over before their turn."""

    async def main() -> None:
        taken = 0
        results: list[zsmtp.Result] = []

        def many() -> Iterator[Submission]:
            nonlocal taken
            for number in range(1000):
                taken += 1
                yield Submission(message=MESSAGE, recipients=f"r{number}@d0.example.com")

        async with Client(through(sink, rate="4/min", message_timeout=240.0)) as client:
            task = asyncio.create_task(_drained(client, many(), results.append))
            for minute in range(1, 13):
                assert await settled(results, 4 * minute) == 4 * minute
                assert taken <= 4 * minute + 5
                pass_time(60.1)
            task.cancel()
            await asyncio.wait([task])
        assert all(result.ok for result in results[:48])

    with Sink() as sink:
        run(main)


async def _drained(client: Client, many: Iterator[Submission], keep: Callable[[zsmtp.Result], None]) -> None:
    async for result in client.stream(many):
        keep(result)


def test_deliveries_asked_for_one_by_one_keep_it_and_may_be_given_up() -> None:
    async def main() -> None:
        async with Client(through(sink, rate="2/min")) as client:
            tasks = [
                asyncio.create_task(client.deliver(MESSAGE, recipients=f"r{number}@d0.example.com", timeout=100.0))
                for number in range(5)
            ]
            while sum(task.done() for task in tasks) < 2:
                await asyncio.sleep(0.002)
            pass_time(61.0)
            while sum(task.done() for task in tasks) < 4:
                await asyncio.sleep(0.002)
            pass_time(40.0)
            await asyncio.wait(tasks)
            reports = [task.result() for task in tasks]
        assert sorted(report.ok for report in reports) == [False, True, True, True, True]
        late = next(report for report in reports if not report.ok)
        assert late.results[0].fate is zsmtp.Fate.DEFERRED
        assert "the time for this message (100 s) is over" in late.results[0].text

    with Sink() as sink:
        run(main)


def test_a_client_that_is_closed_waits_for_no_rate() -> None:
    async def main() -> None:
        client = Client(through(sink, rate="1/h"))
        tasks = [asyncio.create_task(client.deliver(MESSAGE, recipients=f"r{n}@d0.example.com")) for n in range(3)]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.002)
        await client.aclose()
        await asyncio.wait(tasks)
        assert sorted(task.result().ok for task in tasks) == [False, False, True]

    with Sink() as sink:
        run(main)


@pytest.mark.parametrize("rate", ["14", "x/s", "0/s", "1/s, 2/s"])
def test_what_is_no_rate(rate: str, tmp_path: Path) -> None:
    with pytest.raises(zsmtp.ConfigError, match=r"^message_rate: .* is no rate \(14/s"):
        zsmtp.Limits(message_rate=rate)
    path = tmp_path / "config.toml"
    path.write_text(f'[limits]\nmessage_rate = "{rate}"\n')
    with pytest.raises(zsmtp.ConfigError, match=r"limits\.message_rate: "):
        zsmtp.Config.from_toml(path)


def test_several_rates_are_read() -> None:
    assert [str(one) for one in zsmtp.Limits(message_rate="14/s 50000/day").message_rates] == ["14/s", "50000/d"]
