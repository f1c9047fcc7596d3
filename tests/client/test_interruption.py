"""A delivery that is given up, for whatever reason and in whatever phase, is held against nobody who comes after it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
from tests.support.loop import Loop, has_content, pass_time, until
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client
from zsmtp.dns.answer import MX, Answer, Query, RecordType, Status

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"
SILENT = Step(None, Then.HANG)
GO = Step("220 go", Then.TLS)
WELCOME = Step("235 welcome")
TO = "x@d0.example.com"

PHASES: dict[str, Script] = {
    "greeting": Script(banner=SILENT),
    "EHLO": Script(replies={"EHLO": (SILENT,)}),
    "STARTTLS": Script(caps=("STARTTLS",), replies={"STARTTLS": (SILENT,)}),
    "handshake": Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.DRIP),)}),
    "AUTH": Script(caps=("AUTH PLAIN",), replies={"AUTH": (SILENT,)}),
    "MAIL": Script(replies={"MAIL": (SILENT,)}),
    "RCPT": Script(replies={"RCPT": (SILENT,)}),
    "DATA": Script(replies={"DATA": (SILENT,)}),
    "DOT": Script(replies={"DOT": (SILENT,)}),
}


@pytest.fixture(scope="module")
def server(server_context: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext:
    return server_context("localhost")


async def cancel(client: Client, reached: Awaitable[object]) -> None:
    task = asyncio.create_task(client.deliver(MESSAGE, recipients=TO))
    await reached
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def wait_no_longer(client: Client, reached: Awaitable[object]) -> None:
    task = asyncio.create_task(asyncio.wait_for(client.deliver(MESSAGE, recipients=TO), 60.0))
    await reached
    pass_time(60.0)
    with pytest.raises(TimeoutError):
        await task


async def let_its_time_pass(client: Client, reached: Awaitable[object]) -> None:
    task = asyncio.create_task(client.deliver(MESSAGE, recipients=TO, timeout=60.0))
    await reached
    pass_time(60.0)
    report = await task
    assert not report.ok
    assert "the time for this message" in report.results[0].text


async def leave_the_stream(client: Client, reached: Awaitable[object]) -> None:
    stream = client.stream([zsmtp.Submission(message=MESSAGE, recipients=TO)])
    task = asyncio.ensure_future(anext(stream))
    await reached
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await stream.aclose()


WAYS = [cancel, wait_no_longer, let_its_time_pass, leave_the_stream]


async def silence(sink: Sink, phase: str) -> None:
    """Wait until nothing more comes from the server."""
    verb = {"greeting": "", "handshake": "STARTTLS", "DOT": ""}.get(phase, phase)
    if verb:
        await until(sink.wait_for_command, verb)
    elif phase == "DOT":
        await until(sink.wait_for, has_content)
    else:
        await until(sink.wait_for, lambda sink: len(sink.connections) > 0)
    await asyncio.sleep(0.02)


def relay(phase: str, port: int) -> zsmtp.Relay:
    login = zsmtp.Login(user="me", password="secret") if phase == "AUTH" else None
    return zsmtp.Relay(host="127.0.0.1", port=port, login=login)


def state(client: Client) -> tuple[object, ...]:
    paces = [pace for courier in client._couriers._shared.values() for pace in courier._paces.values()]
    slow = [pace for pace in paces if (pace.strict, pace._ceiling) != (False, 32)]
    return client.resting._until, client._couriers._unreached._failures, slow


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
@pytest.mark.parametrize("phase", PHASES)
def test_the_next_message_goes_at_once(
    phase: str, way: Callable[[Client, Awaitable[object]], Awaitable[None]], server: ssl.SSLContext
) -> None:
    """So does one that waited beside it."""
    good = Script(caps=("AUTH PLAIN",), replies={"AUTH": (WELCOME,)})

    async def main(sink: Sink) -> None:
        config = zsmtp.Config(limits=zsmtp.Limits(per_destination=1))
        async with Client(config, relay=relay(phase, sink.port)) as client:
            beside: list[asyncio.Task[zsmtp.Report]] = []

            async def reached() -> None:
                await silence(sink, phase)
                beside.append(asyncio.create_task(client.deliver(MESSAGE, recipients="beside@d0.example.com")))
                await asyncio.sleep(0.02)

            await way(client, reached())
            report = await client.deliver(MESSAGE, recipients="next@d0.example.com")
            assert report.ok, report
            assert (await beside[0]).ok
            assert state(client) == ({}, {}, [])

    with Sink(PHASES[phase], good, tls=server) as sink, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main(sink))
    assert set(sink.deliveries()) == {b"beside@d0.example.com", b"next@d0.example.com"}


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("phase", PHASES)
def test_closing_the_client_is_held_against_nobody(phase: str, server: ssl.SSLContext, *, polite: bool) -> None:
    async def main(sink: Sink) -> None:
        client = Client(relay=relay(phase, sink.port))
        task = asyncio.create_task(client.deliver(MESSAGE, recipients=TO))
        await silence(sink, phase)
        await client.aclose(polite=polite)
        (result,) = await task
        assert result.fate in (zsmtp.Fate.DEFERRED, zsmtp.Fate.IN_DOUBT)
        assert (result.fate is zsmtp.Fate.IN_DOUBT) is (phase == "DOT")
        assert "the client is closed" in result.text
        assert state(client) == ({}, {}, [])

    with Sink(PHASES[phase], tls=server) as sink:
        asyncio.run(main(sink))


@pytest.fixture
def full_backlog() -> Iterator[tuple[int, Callable[[], None]]]:
    """A port where connecting hangs, and how to end that: from then on it refuses."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    yield listener.getsockname()[1], listener.close
    for sock in (listener, *fillers):
        sock.close()


def test_a_connection_that_was_not_waited_for_is_tried_again(
    full_backlog: tuple[int, Callable[[], None]],
) -> None:
    port, refuse = full_backlog

    async def main() -> None:
        async with Client(relay=f"smtp://127.0.0.1:{port}") as client:
            late = await client.deliver(MESSAGE, recipients=TO, timeout=0.2)
            assert "the time for this message" in late.results[0].text
            assert state(client) == ({}, {}, [])
            refuse()
            after = await client.deliver(MESSAGE, recipients=TO, timeout=60.0)
            assert [attempt.problem for attempt in after.results[0].attempts] == ["Connection refused"]

    asyncio.run(main())


def test_a_lookup_that_was_not_waited_for_is_made_again() -> None:
    released = threading.Event()
    asked = threading.Event()

    class Slow:
        def lookup(self, query: Query, deadline: float) -> Answer:
            asked.set()
            released.wait(60)
            if query.type is RecordType.MX:
                return Answer(query, Status.OK, (MX(10, "mx.example.com"),), canonical=query.name, ttl=60)
            records = ("127.0.0.2",) if query.type is RecordType.A else ()
            return Answer(query, Status.OK if records else Status.NODATA, records, canonical=query.name, ttl=60)

    async def main(sink: Sink) -> None:
        direct = zsmtp.Direct(resolver=Slow(), port=sink.port, dane=False, mta_sts=zsmtp.STSUse.OFF)
        async with Client(zsmtp.Config(direct=direct, helo_name="client.example")) as client:
            task = asyncio.create_task(client.deliver(MESSAGE, recipients=TO))
            await until(asked.wait, 60)
            late = await client.deliver(MESSAGE, recipients="y@d0.example.com", timeout=0.1)
            assert not late.ok
            task.cancel()
            await asyncio.wait([task])
            assert state(client) == ({}, {}, [])
            released.set()
            assert (await client.deliver(MESSAGE, recipients=TO)).ok

    with Sink(host="127.0.0.2") as sink:
        asyncio.run(main(sink))
