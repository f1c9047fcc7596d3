"""What ends is freed at once: the cyclic collector would hold the loop the longer, the more connections there were."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.receiver import receiving

import zsmtp
from zsmtp.aio import Client

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"


@pytest.fixture
def collected() -> Iterator[list[object]]:
    """The objects that only the collector frees, once it has run."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("reachable", [True, False])
def test_connections_that_end_leave_no_cycles(collected: list[object], reachable: bool) -> None:
    async def main(port: int) -> None:
        relay = zsmtp.Relay(host="127.0.0.1", port=port, tls=zsmtp.TLS(level=zsmtp.Level.NONE))
        async with Client(zsmtp.Config(relay=relay, limits=zsmtp.Limits(idle=0.0))) as client:
            for number in range(12):
                report = await client.deliver(MESSAGE, sender="a@example.org", recipients="b@example.org")
                assert report.ok is reachable
                if number == 1:
                    gc.collect()  # what the first ones made once for all
                    collected.clear()
            del report
            gc.collect()
            ours = [type(one) for one in collected if type(one).__module__.startswith("zsmtp")]
            assert ours == []

    with receiving() as receiver:
        asyncio.run(main(receiver.port if reachable else 1))


def test_delivered_messages_of_a_queue_leave_no_cycles(collected: list[object], tmp_path: Path) -> None:
    async def main(port: int) -> None:
        config = zsmtp.Config(relay=zsmtp.Relay(host="127.0.0.1", port=port))
        async with zsmtp.aio.Queue.open(tmp_path / "mail.db", config=config, deliver=True) as queue:
            for number in range(20):
                message = await queue.submit(MESSAGE, sender="a@example.org", recipients="b@example.org")
                assert await queue.wait(message)
                if number == 1:
                    gc.collect()
                    collected.clear()
            gc.collect()
            ours = Counter(type(one).__qualname__ for one in collected if type(one).__module__.startswith("zsmtp"))
            assert {name: number for name, number in ours.items() if number >= 10} == {}, "one of each message"

    with receiving() as receiver:
        asyncio.run(main(receiver.port))
