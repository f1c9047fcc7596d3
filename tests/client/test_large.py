"""Large messages on a loop that others use as well: they give way at each block, and end like any other."""

from __future__ import annotations

import asyncio
import email
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from tests.support.patience import LIMIT
from tests.support.script import Script, Step
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client, Submission
from zsmtp.body import stored
from zsmtp.body.convert import OUTPUT_SIZE
from zsmtp.client import serialise
from zsmtp.effects import GiveWay
from zsmtp.net import aio, turns
from zsmtp.signing.keys import generate_key
from zsmtp.signing.signature import Algorithm

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

OCTETS = 2_000_000
HEADER = (
    b"From: a@example.org\nDate: Thu, 01 Jan 2026 00:00:00 +0000\nMessage-ID: <m@example.org>\nMIME-Version: 1.0\n"
    b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
)
LARGE = HEADER + "caf\u00e9 and so on, for a whole line of text\n".encode() * (OCTETS // 43)
CONVERTED_IN = 2 * (OCTETS // (2 * OUTPUT_SIZE))  # pieces, at least: it is counted, and then sent

uvloop.new_event_loop().close()  # the first one opens a pair of descriptors for the life of the process


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run[Any]]:
    """Run a coroutine on a loop whose turns are over whenever that is asked; nothing is left of it."""
    monkeypatch.setattr(aio, "GRACE", LIMIT)
    monkeypatch.setattr(turns, "SHARE", -1.0)
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    with asyncio.Runner(loop_factory=request.param) as runner:

        async def clean(main: Coroutine[Any, Any, T]) -> T:
            result = await main
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        yield lambda main: runner.run(clean(main))
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) <= before


class Ticker:
    """A task that has something to do in each turn of the loop; ``count`` tells in how many it had its turn."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1


def config(sink: Sink, **options: Any) -> zsmtp.Config:
    return zsmtp.Config(
        relay=zsmtp.Relay(host="127.0.0.1", port=sink.port),
        helo_name="client.example",
        content=zsmtp.Content(seven_bit=True),
        **options,
    )


def given(kind: str, folder: Path) -> Any:
    if kind == "octets":
        return LARGE
    if kind == "object":
        return email.message_from_bytes(LARGE)
    path = folder / "message"
    path.write_bytes(LARGE)
    return path if kind == "path" else open(path, "rb")


@pytest.mark.parametrize("kind", ["octets", "object", "path", "file"])
def test_a_conversion_gives_way_to_others(run: Run[Any], kind: str, tmp_path: Path) -> None:
    with Sink() as sink:
        message = given(kind, tmp_path)

        async def main() -> None:
            async with Client(config(sink)) as client, Ticker() as ticker:
                report = await client.deliver(message, sender="a@example.org", recipients="r@example.net")
                assert report.ok, report
                assert ticker.count >= CONVERTED_IN

        try:
            run(main())
        finally:
            if kind == "file":
                message.close()
        wire = sink.transactions[0].content
        assert wire.isascii()
        assert wire.count(b"caf=C3=A9 and so on") == OCTETS // 43


@pytest.mark.parametrize("many", [False, True], ids=["deliver", "stream"])
def test_a_message_object_is_written_in_turns(run: Run[Any], monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """Not before it has as many octets as are read of a file at once: a small one is written when it is given."""
    turns_at: list[int] = []
    encoded = serialise._encoded
    message = email.message_from_bytes(LARGE)

    async def main() -> None:
        async with Client(config(sink)) as client, Ticker() as ticker:

            def noted(text: str) -> bytes:
                turns_at.append(ticker.count)
                return encoded(text)

            monkeypatch.setattr(serialise, "_encoded", noted)
            one = Submission(message=message, sender="a@example.org", recipients="r@example.net")
            if many:
                assert [result.ok async for result in client.stream([one])] == [True]
            else:
                assert (await client.deliver(message, sender="a@example.org", recipients="r@example.net")).ok

    with Sink() as sink:
        run(main())
    assert len(turns_at) > 4
    assert turns_at[0] == turns_at[1]
    assert turns_at[1:] == sorted(set(turns_at))


def test_so_does_a_signature(run: Run[Any], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(generate_key(Algorithm.ED25519_SHA256).pem())
    key.chmod(0o600)
    signer = zsmtp.DKIMKey(domain="example.org", selector="s", key_file=str(key))
    with Sink() as sink:

        async def main() -> None:
            async with Client(config(sink, dkim=(signer,))) as client, Ticker() as ticker:
                report = await client.deliver(LARGE, sender="a@example.org", recipients="r@example.net")
                assert report.ok, report
                assert ticker.count >= 2 * CONVERTED_IN  # made for its size, for its hash, and for its file

        run(main())
        assert sink.transactions[0].content.startswith(b"DKIM-Signature:")


def test_others_are_delivered_meanwhile(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is being made for one destination holds up no other destination."""
    small_is_out = threading.Event()
    make = stored.Stored._make_body

    async def made_late(self: Any, plan: Any) -> Any:
        while not small_is_out.is_set():
            await GiveWay()
        return await make(self, plan)

    monkeypatch.setattr(stored.Stored, "_make_body", made_late)
    with Sink() as large, Sink() as small:
        relays = {
            name: zsmtp.Relay(host="127.0.0.1", port=sink.port)
            for name, sink in (("large.example", large), ("small.example", small))
        }
        one = zsmtp.Config(routes=relays, helo_name="client.example", content=zsmtp.Content(seven_bit=True))

        async def main() -> list[str]:
            order = []
            many = [
                Submission(message=LARGE, sender="a@example.org", recipients="r@large.example"),
                Submission(message=HEADER + b"short\n", sender="a@example.org", recipients="r@small.example"),
            ]
            async with Client(one) as client:
                async for result in client.stream(many):
                    assert result.ok, result
                    order.append(result.recipient)
                    small_is_out.set()
            return order

        assert run(main()) == ["r@small.example", "r@large.example"]


def test_a_message_for_many_destinations_is_looked_through_once(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    prepare = stored.prepare_in_pieces

    async def counted(header: bytes, source: Any) -> Any:
        looked.append(source.size)
        return await prepare(header, source)

    from zsmtp.client import message as messages

    monkeypatch.setattr(messages, "prepare_in_pieces", counted)
    with Sink() as sink:
        relay = zsmtp.Relay(host="127.0.0.1", port=sink.port)
        routes = {f"d{number}.example": relay for number in range(5)}
        one = zsmtp.Config(routes=routes, helo_name="client.example", content=zsmtp.Content(seven_bit=True))

        async def main() -> None:
            async with Client(one) as client:
                to = [f"r@d{number}.example" for number in range(5)]
                report = await client.deliver(LARGE, sender="a@example.org", recipients=to)
                assert report.ok, report

        run(main())
    assert len(looked) == 1


def test_a_message_whose_time_is_over_while_it_is_made(run: Run[Any]) -> None:
    with Sink() as sink:

        async def main() -> zsmtp.Report:
            async with Client(config(sink)) as client:
                return await client.deliver(LARGE, sender="a@example.org", recipients="r@example.net", timeout=0.0)

        report = run(main())
        assert [result.fate for result in report.results] == [zsmtp.Fate.DEFERRED]
        assert not sink.deliveries()


def test_a_delivery_that_is_cancelled_while_its_message_is_made(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Sink(Script(replies={"EHLO": (Step("250 sink.example"),)})) as sink:
        begun: list[asyncio.Task[Any]] = []
        make = stored.Stored._make_body

        async def cancelled(self: Any, plan: Any) -> Any:
            begun[0].cancel()
            return await make(self, plan)

        monkeypatch.setattr(stored.Stored, "_make_body", cancelled)

        async def main() -> None:
            async with Client(config(sink)) as client:
                begun.append(
                    asyncio.create_task(client.deliver(LARGE, sender="a@example.org", recipients="r@example.net"))
                )
                with pytest.raises(asyncio.CancelledError):
                    await begun[0]

        run(main())
        assert not sink.deliveries()
