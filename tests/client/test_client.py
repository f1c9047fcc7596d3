"""The client under load: connections shared and kept, limits held, ends of all kinds, one result per recipient."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.support.loop import Loop, Run, has_content, pass_time, running, until
from tests.support.patience import LIMIT
from tests.support.receiver import receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port
from tests.support.wire import Connection

import zsmtp
from zsmtp.aio import Client, Submission
from zsmtp.client import pool
from zsmtp.client.tracker import DestinationJob, MessageTracker
from zsmtp.dns.static import StaticResolver
from zsmtp.errors import LocalError
from zsmtp.net import aio
from zsmtp.tls.policy import Level

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run[Any]]:
    """Run a coroutine on a ``Loop``; nothing is left of it: no task, descriptor, thread or file."""
    monkeypatch.setattr(aio, "GRACE", LIMIT)  # threads are waited for, however busy the machine is
    with running(Loop) as runs:
        yield runs
        gc.collect()


def routes(ports: list[int]) -> dict[str, zsmtp.Relay]:
    return {f"d{number}.example.com": zsmtp.Relay(host="127.0.0.1", port=port) for number, port in enumerate(ports)}


def through(*sinks: Sink, **options: Any) -> zsmtp.Config:
    return zsmtp.Config(routes=routes([sink.port for sink in sinks]), helo_name="client.example", **options)


def submissions(count: int, destinations: int) -> Iterator[Submission]:
    for number in range(count):
        to = f"r{number}@d{number % destinations}.example.com"
        yield Submission(message=MESSAGE, sender="a@example.org", recipients=to, name=str(number))


async def all_of(client: Client, many: Any) -> list[zsmtp.Result]:
    return [result async for result in client.stream(many)]


@pytest.fixture(autouse=True)
def _no_connection_because_of_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that waits for a second has a connection made for it, although the one there is does what it can."""
    monkeypatch.setattr(pool, "PATIENCE", 100.0)


# -------------------------------------------------------------------- in bulk


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_500_messages_to_20_destinations(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with receiving(20) as receiver:
        config = zsmtp.Config(routes=routes(receiver.ports), helo_name="client.example")

        async def main() -> list[zsmtp.Result]:
            async with Client(config) as client:
                return await all_of(client, submissions(500, 20))

        with asyncio.Runner(loop_factory=loop) as runner:
            results = runner.run(main())
        assert {result.fate for result in results} == {zsmtp.Fate.DELIVERED}
        assert Counter(result.message for result in results) == Counter(str(number) for number in range(500))
        assert Counter(to for got in receiver.messages for to in got.rcpt_tos) == Counter(
            result.recipient for result in results
        )
        assert receiver.connections == Counter(receiver.ports)  # one for each destination
        assert sum(result.attempts[0].reused for result in results) == 480


def test_straight_to_the_exchangers_of_20_domains(run: Run[Any]) -> None:
    hosts = [f"127.0.0.{number}" for number in range(2, 22)]
    table = "\n".join(
        f"d{number}.example.com MX 10 mx{number}.example.net\nmx{number}.example.net A {host}"
        for number, host in enumerate(hosts)
    )
    with receiving(hosts=hosts[:1]) as first, receiving(hosts=hosts[1:], port=first.port) as rest:
        resolver = StaticResolver(table)
        direct = zsmtp.Direct(resolver=resolver, port=first.port)

        async def main() -> list[zsmtp.Result]:
            async with Client(zsmtp.Config(direct=direct, helo_name="client.example")) as client:
                return await all_of(client, submissions(100, 20))

        results = run(main())
        assert all(result.ok for result in results)
        assert {(one.server.host, one.server.address) for one in results if one.server is not None} == {
            (f"mx{number}.example.net", host) for number, host in enumerate(hosts)
        }
        assert first.connections.total() + rest.connections.total() == 20
        asked = Counter((query.name, query.type) for query in resolver.queries)
        assert set(asked.values()) == {1}


def test_a_message_to_many_domains_is_one_transaction_for_each(run: Run[Any]) -> None:
    with receiving(3) as receiver:
        config = zsmtp.Config(routes=routes(receiver.ports), helo_name="client.example")
        recipients = [f"{name}@d{number}.example.com" for name in "abc" for number in range(3)]

        async def main() -> zsmtp.Report:
            async with Client(config) as client:
                return await client.deliver(MESSAGE, recipients=[*recipients, "a@D0.example.com"])

        report = run(main())
        assert [result.recipient for result in report] == recipients
        assert sorted(got.rcpt_tos for got in receiver.messages) == [
            [f"{name}@d{number}.example.com" for name in "abc"] for number in range(3)
        ]


@pytest.mark.parametrize(("octets", "most"), [(0, 20), (50_000, 2)], ids=["small ones", "large ones"])
def test_messages_are_taken_in_as_results_come_out(run: Run[Any], octets: int, most: int) -> None:
    """Their memory counts, not their number: what a message takes besides its content is about 5 KB."""
    taken = 0

    def counted(count: int) -> Iterator[Submission]:
        nonlocal taken
        for one in submissions(count, 1):
            taken += 1
            yield replace(one, message=MESSAGE + b"x" * octets)

    async def main(sink: Sink) -> int:
        done = kept = 0
        async with Client(through(sink, limits=zsmtp.Limits(waiting=100_000))) as client:
            async for _ in client.stream(counted(600)):
                done += 1
                assert taken - done <= most
                if done % 100 == 0:
                    kept = max(kept, sum(isinstance(one, MessageTracker | DestinationJob) for one in gc.get_objects()))
        return kept

    with Sink(Script(caps=("PIPELINING", "CHUNKING")), keep_content=False) as sink:
        assert run(main(sink)) <= 2 * most + 2
    assert taken == 600


def test_messages_in_files_are_not_counted_by_their_size(run: Run[Any], tmp_path: Path) -> None:
    path = tmp_path / "large.eml"
    path.write_bytes(MESSAGE + b"x\n" * (1 << 20))
    taken = 0

    def counted() -> Iterator[Submission]:
        nonlocal taken
        for number in range(10):
            taken += 1
            yield Submission(message=path, recipients="x@d0.example.com", name=str(number))

    async def main(sink: Sink) -> int:
        async with Client(through(sink, limits=zsmtp.Limits(waiting=100_000))) as client:
            stream = client.stream(counted())
            await anext(stream)
            seen = taken
            await stream.aclose()
        return seen

    with Sink(keep_content=False) as sink:
        assert run(main(sink)) == 10


def test_a_large_file_is_streamed(run: Run[Any], tmp_path: Path) -> None:
    path = tmp_path / "large.eml"
    with open(path, "wb") as file:
        file.write(MESSAGE)
        for _ in range(48):
            file.write(b"0123456789abcdef0123456789abcde\n" * (1 << 15))

    async def main(sink: Sink) -> int:
        async with Client(through(sink)) as client:
            await client.deliver(MESSAGE, recipients="warm@d0.example.com")
            tracemalloc.start()
            try:
                assert (await client.deliver(path, recipients=["x@d0.example.com", "y@d0.example.com"])).ok
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    with Sink(keep_content=False) as sink:
        assert run(main(sink)) < 6 << 20


# --------------------------------------------------------------------- limits


@pytest.mark.parametrize(("limits", "most"), [({"per_destination": 2}, 2), ({"connections": 3}, 3)])
def test_no_more_connections_than_allowed(
    limits: dict[str, int], most: int, run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes no mail before all that are allowed are open."""
    monkeypatch.setattr("zsmtp.client.slots.TICK", 3600.0)  # a server that is held up is not taken for a slow one
    gate = threading.Event()
    destinations = 1 if "per_destination" in limits else 6

    async def main(sink: Sink) -> list[zsmtp.Result]:
        config = zsmtp.Config(routes=routes([sink.port] * 6), helo_name="c.example", limits=zsmtp.Limits(**limits))
        async with Client(config) as client:
            return await all_of(client, submissions(200, destinations))

    with Sink(Script(replies={"MAIL": (Step("250 ok", delay=0.001, gate=gate),)}), keep_content=False) as sink:
        together = 0

        def is_open(one: Connection) -> bool:
            return not one.commands or one.commands[-1].verb != "QUIT"  # the client closes when that is answered

        def watch(sink: Sink) -> bool:
            nonlocal together
            together = max(together, sum(map(is_open, sink.connections)))
            if together >= most:
                gate.set()
            return False

        done = threading.Event()
        watcher = threading.Thread(target=lambda: sink.wait_for(lambda s: watch(s) or done.is_set(), 10 * LIMIT))
        watcher.start()
        try:
            results = run(main(sink))
        finally:
            done.set()
            with sink.changed:
                sink.changed.notify_all()
            watcher.join()
    assert all(result.ok for result in results)
    assert len(results) == 200
    assert together == most


def test_a_job_that_waits_for_long_gets_a_connection_of_its_own(run: Run[Any]) -> None:
    async def main(sink: Sink) -> zsmtp.Report:
        async with Client(through(sink)) as client:
            stuck = asyncio.create_task(client.deliver(MESSAGE, recipients="a@d0.example.com"))
            await until(sink.wait_for_command, "MAIL")
            waiting = asyncio.create_task(client.deliver(MESSAGE, recipients="b@d0.example.com"))
            for _ in range(2):  # the timer that runs was set for the first job
                await asyncio.sleep(0.01)
                pass_time(pool.PATIENCE)
            report = await waiting
            stuck.cancel()
            return report

    with Sink(Script(replies={"MAIL": (Step(None, Then.HANG),)}), Script()) as sink:
        assert run(main(sink)).ok
    assert sink.deliveries() == {b"b@d0.example.com": 1}


def test_destinations_take_turns_when_connections_are_few(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second destination does not wait for all that the first one has."""
    monkeypatch.setattr("zsmtp.client.slots.TICK", 3600.0)  # a server that is held up is not taken for a slow one

    async def main(busy: Sink, other: Sink) -> list[str]:
        order: list[str] = []
        limits = zsmtp.Limits(connections=1)
        async with Client(through(busy, other, limits=limits)) as client:

            async def flood() -> None:
                many = (Submission(message=MESSAGE, recipients="x@d0.example.com") for _ in range(600))
                async for _ in client.stream(many):
                    order.append("busy")  # noqa: PERF401 - one by one, as they come

            flooding = asyncio.create_task(flood())
            while not order:
                await asyncio.sleep(0)
            assert (await client.deliver(MESSAGE, recipients="y@d1.example.com")).ok
            order.append("other")
            await flooding
        return order

    script = Script(caps=("PIPELINING",), replies={"MAIL": (Step("250 ok", delay=0.001),)})
    with Sink(script, keep_content=False) as busy, Sink(keep_content=False) as other:
        order = run(main(busy, other))
    assert len(order) == 601
    assert order.index("other") < 150


@pytest.mark.parametrize("phase", ["greeting", "MAIL", "DOT"])
def test_mail_does_not_wait_for_slow_servers_of_others(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """One connection may be at work, and three servers keep theirs waiting: they use none after a while."""
    monkeypatch.setattr("zsmtp.client.slots.TICK", 0.01)
    silent = Step(None, Then.HANG)
    slow = Script(banner=silent) if phase == "greeting" else Script(replies={phase: (silent,)})

    async def main(*sinks: Sink) -> None:
        async with Client(through(*sinks, limits=zsmtp.Limits(connections=1))) as client:
            waiting = [
                asyncio.create_task(client.deliver(MESSAGE, recipients=f"x@d{number}.example.com"))
                for number in range(3)
            ]
            await asyncio.sleep(0)
            assert (await client.deliver(MESSAGE, recipients="y@d3.example.com")).ok
            assert not any(task.done() for task in waiting)
            assert len(client.slots) == 4
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    with Sink(slow) as one, Sink(slow) as two, Sink(slow) as three, Sink() as fast:
        run(main(one, two, three, fast))


def test_connections_have_a_limit_however_slow_they_are(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.client.slots.TICK", 0.01)

    async def main(*sinks: Sink) -> None:
        limits = zsmtp.Limits(connections=1, slow_connections=1)
        async with Client(through(*sinks, limits=limits)) as client:
            waiting = [
                asyncio.create_task(client.deliver(MESSAGE, recipients=f"x@d{number}.example.com"))
                for number in range(3)
            ]
            while len(client.slots) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)  # time to open one too many
            assert len(client.slots) == 2
            waiting[0].cancel()
            await until(sinks[2].wait_for, lambda sink: bool(sink.connections))
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    slow = Script(replies={"MAIL": (Step(None, Then.HANG),)})
    with Sink(slow) as one, Sink(slow) as two, Sink(slow) as three:
        run(main(one, two, three))


@pytest.mark.parametrize(
    ("files", "limits", "expected"),
    [
        (1 << 20, {}, (2000, 4000)),
        (1 << 20, {"connections": 10, "slow_connections": 0}, (10, 10)),
        (1024, {}, (480, 960)),
        (1024, {"connections": 10}, (10, 960)),
        (1024, {"connections": 10, "slow_connections": 20}, (10, 30)),
        (1024, {"connections": 1000, "slow_connections": 60}, (900, 960)),
        (1024, {"connections": 1000, "slow_connections": 0}, (960, 960)),
        (32, {}, (1, 1)),
        (resource.RLIM_INFINITY, {"connections": 7}, (7, 2007)),
    ],
)
def test_no_more_connections_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, files: int, limits: dict[str, int], expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    slots = Client(zsmtp.Config(limits=zsmtp.Limits(**limits))).slots
    assert (slots._count, slots._most) == expected


# ------------------------------------------------------------- rest and its end


def test_a_connection_is_kept_for_the_next_message_and_then_closed(run: Run[Any]) -> None:
    async def main(sink: Sink) -> None:
        async with Client(through(sink, limits=zsmtp.Limits(idle=600.0))) as client:
            for _ in range(3):
                assert (await client.deliver(MESSAGE, recipients="x@d0.example.com")).ok
            pass_time(600.0)
            await until(sink.wait_until_finished)
            assert (await client.deliver(MESSAGE, recipients="x@d0.example.com")).ok

    with Sink() as sink:
        run(main(sink))
        sink.wait_until_finished(2)
    assert [one.verbs.count("MAIL") for one in sink.connections] == [3, 1]
    assert [one.verbs[-1] for one in sink.connections] == ["QUIT", "QUIT"]


def test_a_peer_that_closes_an_idle_connection_costs_nobody_anything(run: Run[Any]) -> None:
    async def main(sink: Sink) -> None:
        async with Client(through(sink)) as client:
            for count in range(1, 4):
                assert (await client.deliver(MESSAGE, recipients="x@d0.example.com")).ok
                await until(sink.wait_until_finished, count)

    with Sink(Script(replies={"DOT": (Step("250 ok\r\n421 bye", Then.CLOSE),)})) as sink:
        run(main(sink))
    assert len(sink.connections) == 3


def test_a_dead_host_is_waited_for_once(run: Run[Any]) -> None:
    async def main(port: int) -> list[zsmtp.Result]:
        async with Client(relay=f"smtp://127.0.0.1:{port}") as client:
            return await all_of(client, submissions(50, 5))

    with refusing_port() as port:
        results = run(main(port))
    assert {result.fate for result in results} == {zsmtp.Fate.DEFERRED}
    assert len(results) == 50
    assert 1 <= sum(bool(result.attempts) for result in results) <= 2  # more than one connection was tried for them


@pytest.mark.parametrize("observe", [None, lambda name: lambda event: None], ids=["unheard", "observed"])
def test_a_dead_exchanger_is_known_to_all_connections_and_domains(run: Run[Any], observe: Any) -> None:
    table = "\n".join(f"{name} MX 10 dead.example\n{name} MX 20 live.example" for name in ("a.example", "b.example"))
    table += "\ndead.example A 127.0.0.1\nlive.example A 127.0.0.2"
    bye = Script(replies={"DOT": (Step("250 ok\r\n421 that is enough", Then.CLOSE),)})

    async def main(port: int) -> list[list[str]]:
        direct = zsmtp.Direct(resolver=StaticResolver(table), port=port)
        async with Client(zsmtp.Config(direct=direct, helo_name="client.example"), observe=observe) as client:
            reports = [await client.deliver(MESSAGE, recipients=f"x@{domain}.example") for domain in "aaba"]
        return [[attempt.host for attempt in result.attempts] for report in reports for result in report if result.ok]

    with Sink(bye, host="127.0.0.2") as sink:
        tried = run(main(sink.port))
    assert tried[0] == ["dead.example", "live.example"]
    # The next message may go over the connection that is about to close, and then again over another one.
    assert {host for hosts in tried[1:] for host in hosts} == {"live.example"}


@pytest.mark.parametrize(
    ("first", "level", "tried"),
    [
        (Script(banner=Step("421 later", Then.CLOSE)), Level.MAY, [True, False, False]),
        (Script(), Level.ENCRYPT, [True, False, True]),
    ],
    ids=["it refused to talk", "it had no TLS"],
)
def test_when_a_host_that_rests_is_tried_for_mail_that_would_rather_arrive(
    run: Run[Any], first: Script, level: Level, *, tried: list[bool]
) -> None:
    """TLS-Required: No (RFC 8689 5): it may be just a policy of the destination that failed a moment ago."""

    async def main(sink: Sink) -> list[bool]:
        relay = zsmtp.Relay(host="127.0.0.1", port=sink.port, tls=zsmtp.TLS(level=level))
        async with Client(relay=relay) as client:
            messages = [MESSAGE, MESSAGE, b"TLS-Required: No\n" + MESSAGE]
            results = [await client.deliver(message, recipients="a@d0.example.com") for message in messages]
            return [bool(result.attempts) for report in results for result in report]

    with Sink(first, Script()) as sink:
        assert run(main(sink)) == tried


# ------------------------------------------------------------------- the ends


def test_leaving_a_stream_early_leaves_nothing(run: Run[Any]) -> None:
    async def main(sink: Sink) -> list[zsmtp.Result]:
        seen = []
        async with Client(through(sink)) as client:
            stream = client.stream(submissions(500, 1))
            async for result in stream:
                seen.append(result)
                if len(seen) == 10:
                    break
            await stream.aclose()
        return seen

    with Sink(Script(caps=("PIPELINING",)), keep_content=False) as sink:
        assert len(run(main(sink))) == 10
        sink.wait_until_finished()


def test_cancelling_midway_leaves_nothing(run: Run[Any], tmp_path: Path) -> None:
    path = tmp_path / "m.eml"
    path.write_bytes(MESSAGE + b"x" * 70 + b"\n" + b"y\n" * 300_000)

    async def work(client: Client, seen: list[zsmtp.Result]) -> None:
        many = (Submission(message=path, recipients=f"r{n}@d{n % 3}.example.com") for n in range(200))
        async for result in client.stream(many):
            seen.append(result)  # noqa: PERF401 - one by one, until cancelled

    async def main(*sinks: Sink) -> None:
        seen: list[zsmtp.Result] = []
        async with Client(through(*sinks)) as client:
            task = asyncio.create_task(work(client, seen))
            while len(seen) < 5:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 5 <= len(seen) < 200
            gate.set()

    gate = threading.Event()  # each server takes two messages, and thinks about the next one until it is too late
    script = Script(caps=("PIPELINING",), replies={"DOT": (Step("250 ok"), Step("250 ok"), Step("250 ok", gate=gate))})
    with Sink(script, keep_content=False) as one, Sink(script, keep_content=False) as two, Sink(script) as three:
        run(main(one, two, three))
        for sink in (one, two, three):
            sink.wait_until_finished()


def test_a_cancelled_delivery_harms_no_other_on_its_connection(run: Run[Any]) -> None:
    """Two ride together; the one in front is given up while the server thinks about it."""

    async def main(sink: Sink) -> zsmtp.Report:
        async with Client(through(sink)) as client:
            first = asyncio.create_task(client.deliver(MESSAGE, recipients="slow@d0.example.com"))
            await until(sink.wait_for_command, "RCPT")
            second = asyncio.create_task(client.deliver(MESSAGE, recipients="other@d0.example.com"))
            await asyncio.sleep(0.01)
            first.cancel()
            report = await second
            assert first.cancelled()
        return report

    slow = Script(replies={"RCPT": (Step(None),)})
    with Sink(slow, Script()) as sink:
        report = run(main(sink))
    assert report.ok
    assert sink.deliveries() == {b"other@d0.example.com": 1}


@pytest.mark.parametrize("close", [False, True])
def test_a_cancelled_delivery_leaves_nobody_else_in_doubt(run: Run[Any], *, close: bool) -> None:
    """The first is past its last octet; who rides behind it is given up, and then perhaps everything."""
    gate = threading.Event()

    async def main(sink: Sink) -> zsmtp.Report:
        client = Client(through(sink))
        first = asyncio.create_task(client.deliver(MESSAGE, recipients="first@d0.example.com"))
        second = asyncio.create_task(client.deliver(MESSAGE, recipients="second@d0.example.com"))
        await until(sink.wait_for, has_content)
        [riding] = [
            job for tracker in client._trackers for job in tracker._jobs if b"second" in tracker.letter.recipients[0]
        ]
        while riding._worker is None:
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        if close:
            await client.aclose()
        else:
            gate.set()
        report = await first
        assert second.cancelled()
        await client.aclose()
        return report

    slow = Script(caps=("PIPELINING",), replies={"DOT": (Step("250 ok", gate=gate),)})
    with Sink(slow) as sink:
        report = run(main(sink))
    [result] = report
    assert result.fate is (zsmtp.Fate.IN_DOUBT if close else zsmtp.Fate.DELIVERED)
    assert set(sink.deliveries()) <= {b"first@d0.example.com"}


@pytest.mark.parametrize("polite", [True, False])
def test_what_nobody_waits_for_holds_up_no_end(run: Run[Any], *, polite: bool) -> None:
    """All are cancelled, one of them past its last octet: nothing is waited for."""

    async def main(sink: Sink) -> None:
        client = Client(through(sink))
        tasks = [asyncio.create_task(client.deliver(MESSAGE, recipients=f"r{n}@d0.example.com")) for n in range(3)]
        await until(sink.wait_for, has_content)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.wait_for(client.aclose(polite=polite), 60)

    with Sink(Script(caps=("PIPELINING",), replies={"DOT": (Step(None, Then.HANG),)})) as sink:
        run(main(sink))


def test_a_message_whose_time_is_over_is_settled_and_the_others_go_on(run: Run[Any]) -> None:
    async def main(sink: Sink) -> tuple[zsmtp.Report, list[zsmtp.Report]]:
        async with Client(through(sink, limits=zsmtp.Limits(per_destination=1))) as client:
            first = client.deliver(MESSAGE, recipients="slow@d0.example.com", timeout=60.0)
            others = [client.deliver(MESSAGE, recipients=f"r{n}@d0.example.com") for n in range(20)]
            everybody = asyncio.gather(first, *others)
            await until(sink.wait_for_command, "MAIL")
            pass_time(60.0)
            late, *rest = await everybody
        return late, rest

    hanging = Script(caps=("PIPELINING",), replies={"MAIL": (Step(None, Then.HANG),)})
    with Sink(hanging, Script(caps=("PIPELINING",))) as sink:
        late, rest = run(main(sink))
    assert late.results[0].fate is zsmtp.Fate.DEFERRED
    assert all(report.ok for report in rest)
    assert set(sink.deliveries().values()) == {1}


def test_what_is_past_its_last_octet_when_its_time_is_over_is_in_doubt(run: Run[Any]) -> None:
    async def main(sink: Sink) -> zsmtp.Report:
        async with Client(through(sink)) as client:
            delivery = asyncio.create_task(client.deliver(MESSAGE, recipients="x@d0.example.com", timeout=60.0))
            await until(sink.wait_for, has_content)
            pass_time(60.0)
            return await delivery

    with Sink(Script(replies={"DOT": (Step(None),)})) as sink:
        report = run(main(sink))
    assert report.results[0].fate is zsmtp.Fate.IN_DOUBT


def test_closing_the_client_settles_everybody(run: Run[Any]) -> None:
    async def main(sink: Sink) -> list[zsmtp.Report]:
        client = Client(through(sink))
        tasks = [asyncio.create_task(client.deliver(MESSAGE, recipients=f"r{n}@d0.example.com")) for n in range(5)]
        await until(sink.wait_for_command, "MAIL")
        await client.aclose()
        await client.aclose()
        with pytest.raises(LocalError, match="closed"):
            await client.deliver(MESSAGE, recipients="x@d0.example.com")
        return await asyncio.gather(*tasks)

    with Sink(Script(replies={"MAIL": (Step(None),)})) as sink:
        reports = run(main(sink))
    assert {report.results[0].fate for report in reports} == {zsmtp.Fate.DEFERRED}
    assert "the client is closed" in reports[0].results[0].text


@pytest.mark.parametrize("polite", [True, False])
def test_closing_leaves_no_connection_to_be_waited_for(run: Run[Any], *, polite: bool) -> None:
    """Those that wait behind others, at one destination and at several, get no connection any more."""

    async def main(*sinks: Sink) -> list[zsmtp.Report]:
        client = Client(through(*sinks, limits=zsmtp.Limits(connections=1, per_destination=1)))
        tasks = [
            asyncio.create_task(client.deliver(MESSAGE, recipients=f"r{number}@d{number % 2}.example.com"))
            for number in range(60)
        ]
        await asyncio.sleep(0.1)
        await client.aclose(polite=polite)
        assert not asyncio.all_tasks() - {asyncio.current_task(), *tasks}
        return await asyncio.gather(*tasks)

    silent = Script(replies={"MAIL": (Step(None, Then.HANG),)})
    with Sink(silent) as one, Sink(silent) as two:
        reports = run(main(one, two))
    assert [result.fate for report in reports for result in report] == [zsmtp.Fate.DEFERRED] * 60


def test_leaving_because_of_an_error_does_not_wait_for_servers(run: Run[Any]) -> None:
    """The server never answers QUIT; an error that leaves the block is not held up by it."""

    async def main(sink: Sink) -> None:
        config = through(sink, timeouts=zsmtp.Timeouts(quit=60.0))
        async with Client(config) as client:
            assert (await client.deliver(MESSAGE, recipients="x@d0.example.com")).ok
            raise KeyError("the caller's own")

    with Sink(Script(replies={"QUIT": (Step(None),)})) as sink, pytest.raises(KeyError):
        run(asyncio.wait_for(main(sink), 50))  # less than the time for QUIT


def test_a_client_that_nobody_closed_closes_its_connections_with_the_loop(run: Run[Any]) -> None:
    async def main(sink: Sink) -> None:
        client = Client(through(sink))
        assert (await client.deliver(MESSAGE, recipients="x@d0.example.com")).ok

    with Sink() as sink:
        asyncio.run(main(sink))
        sink.wait_until_finished()


def test_a_client_lives_on_one_loop() -> None:
    with Sink() as sink:
        client = Client(through(sink))
        assert asyncio.run(client.deliver(MESSAGE, recipients="x@d0.example.com")).ok
        with pytest.raises(LocalError, match="another event loop"):
            asyncio.run(client.deliver(MESSAGE, recipients="x@d0.example.com"))


# ------------------------------------------------------------ odd submissions


def test_a_stream_goes_past_what_cannot_be_sent(run: Run[Any], tmp_path: Path) -> None:
    async def several(good: bytes) -> AsyncIterator[Submission | bytes]:
        yield Submission(message=tmp_path / "missing", recipients=["a@d0.example.com", "b@d0.example.com"], name="1")
        yield b"no header at all"
        yield Submission(message=good, recipients="not an address", name="3")
        yield Submission(message=good, recipients="c@d0.example.com", name="4")

    async def main(sink: Sink) -> list[zsmtp.Result]:
        async with Client(through(sink)) as client:
            return await all_of(client, several(MESSAGE))

    with Sink() as sink:
        results = run(main(sink))
    fates = sorted((one.message, one.recipient, one.fate.value) for one in results)
    assert fates == [
        ("", "", "failed"),
        ("1", "a@d0.example.com", "failed"),
        ("1", "b@d0.example.com", "failed"),
        ("3", "not an address", "failed"),
        ("4", "c@d0.example.com", "delivered"),
    ]
    assert any("No such file" in one.text for one in results)


def test_every_recipient_given_is_named_and_nothing_ends_a_stream(run: Run[Any], tmp_path: Path) -> None:
    closed, text = open(__file__, "rb"), os.fdopen(os.open(os.devnull, os.O_RDONLY))  # noqa: SIM115 - that is the point
    closed.close()
    to = "c@d0.example.com"
    odd: list[Any] = [
        Submission(message=b"no header", recipients=(f"{one}@d0.example.com" for one in "ab"), name="1"),
        Submission(message=MESSAGE, recipients=["a@d0.example.com", None], name="2"),  # type: ignore[list-item]
        Submission(message=MESSAGE, recipients=5, name="3"),  # type: ignore[arg-type]
        Submission(message=closed, recipients=to, name="4"),
        Submission(message=text, recipients=to, name="5"),  # type: ignore[arg-type]
        Submission(message=MESSAGE, recipients=(one for one in [to]), name="6"),
    ]

    async def main(sink: Sink) -> list[zsmtp.Result]:
        async with Client(through(sink)) as client:
            return await all_of(client, odd)

    with Sink() as sink, text:
        results = run(main(sink))
    found = [(one.message, one.recipient, one.fate.value) for one in results]
    assert found[:6] + sorted(found[6:]) == [
        ("1", "a@d0.example.com", "failed"),
        ("1", "b@d0.example.com", "failed"),
        ("2", "None", "failed"),
        ("3", "5", "failed"),
        ("4", to, "failed"),
        ("5", to, "failed"),
        ("2", "a@d0.example.com", "delivered"),
        ("6", to, "delivered"),
    ]


def test_a_message_that_the_callers_own_code_stops_is_not_kept(run: Run[Any]) -> None:
    def observe(destination: str) -> Any:
        raise KeyError(destination)

    async def main(sink: Sink) -> None:
        async with Client(through(sink), observe=observe) as client:
            for _ in range(3):
                with pytest.raises(KeyError):
                    await client.deliver(MESSAGE, recipients="a@d0.example.com")
            assert not client._trackers
            with pytest.raises(KeyError):
                await all_of(client, submissions(3, 1))
            assert not client._trackers

    with Sink() as sink:
        run(main(sink))


def test_what_the_callers_iterator_raises_comes_out_behind_the_results(run: Run[Any]) -> None:
    def broken() -> Iterator[Submission]:
        yield from submissions(3, 1)
        raise KeyError("the caller's own")

    async def main(sink: Sink) -> list[zsmtp.Result]:
        seen: list[zsmtp.Result] = []

        async def look(client: Client) -> None:
            async for result in client.stream(broken()):
                seen.append(result)  # noqa: PERF401 - one by one, until it raises

        async with Client(through(sink)) as client:
            with pytest.raises(KeyError):
                await look(client)
        return seen

    with Sink() as sink:
        assert len(run(main(sink))) == 3


def test_a_file_that_changed_meanwhile_is_deferred(run: Run[Any], tmp_path: Path) -> None:
    path = tmp_path / "m.eml"
    path.write_bytes(MESSAGE)

    async def main(sink: Sink) -> zsmtp.Report:
        async with Client(through(sink)) as client:
            task = asyncio.create_task(client.deliver(path, recipients="x@d0.example.com"))
            await asyncio.sleep(0)
            path.write_bytes(MESSAGE + b"more\n")
            return await task

    with Sink() as sink:
        report = run(main(sink))
    assert report.results[0].fate is zsmtp.Fate.DEFERRED
    assert "has changed since it was given" in report.results[0].text


def test_a_bug_in_the_engine_costs_nobody_a_result(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, Any]] = []

    async def main(sink: Sink) -> list[zsmtp.Result]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
        async with Client(through(sink)) as client:
            return await all_of(client, submissions(3, 1))

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("zsmtp.delivery.pipeline.plan_transaction", broken)
    with Sink() as sink:
        results = run(main(sink))
        sink.wait_until_finished()
    assert len(results) == 3
    assert {result.ok for result in results} == {False}
    assert all("a bug" in result.text for result in results)
    assert isinstance(heard[0]["exception"], ZeroDivisionError)


def test_a_resolver_that_breaks_defers(run: Run[Any]) -> None:
    class Broken:
        def lookup(self, query: object, deadline: float) -> Any:
            raise ZeroDivisionError("a bug of the caller's")

    async def main() -> list[zsmtp.Result]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with Client(zsmtp.Config(direct=zsmtp.Direct(resolver=Broken()))) as client:
            return await all_of(client, submissions(3, 2))

    results = run(main())
    assert len(results) == 3
    assert {result.fate for result in results} == {zsmtp.Fate.DEFERRED}


@pytest.mark.parametrize(
    ("table", "fate", "status"),
    [
        ("", "failed", "5.1.2"),
        ("d0.example.com MX 0 .", "failed", "5.1.10"),
        ("d0.example.com FAIL SERVFAIL", "deferred", "4.4.3"),
        ("d0.example.com MX 10 mx.example.com\nmx.example.com A 127.0.0.1", "failed", "5.4.6"),
    ],
)
def test_domains_that_take_no_mail(table: str, fate: str, status: str, run: Run[Any]) -> None:
    async def main() -> zsmtp.Report:
        async with Client(zsmtp.Config(direct=zsmtp.Direct(resolver=StaticResolver(table)))) as client:
            return await client.deliver(MESSAGE, recipients="x@d0.example.com")

    (result,) = run(main())
    assert (result.fate.value, result.status) == (fate, status)
    assert result.server is None
    assert result.attempts == ()


def test_observers_hear_of_each_connection(run: Run[Any]) -> None:
    heard: dict[str, list[str]] = {}

    def observer_for(destination: str) -> Callable[[object], None]:
        events = heard.setdefault(destination, [])
        return lambda event: events.append(type(event).__name__)

    async def main(*sinks: Sink) -> None:
        async with Client(through(*sinks), observe=observer_for) as client:
            assert all(one.ok for one in await all_of(client, submissions(4, 2)))

    with Sink() as one, Sink() as two:
        run(main(one, two))
        assert set(heard) == {f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"}
    for events in heard.values():
        assert events.count("Connected") == 1
        assert events.count("Settled") == 2
