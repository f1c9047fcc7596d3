"""Lookups on event loops against name servers on loopback: side by side, shared, bounded, and closed in time."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype
import pytest
from tests.dns.loopback_nameserver import reply, serving, stream
from tests.support.loop import Run
from tests.support.patience import LIMIT

from zsmtp.dns import transport
from zsmtp.dns.answer import Answer, AskAhead, Query, RecordType, Status
from zsmtp.dns.destination import DestinationRequest, plan_destination
from zsmtp.dns.dnspython import DnspythonResolver
from zsmtp.dns.hosts import HostsResolver
from zsmtp.dns.nameserver import AskServer, Heard, parse_nameserver
from zsmtp.dns.static import StaticResolver
from zsmtp.net import aio, lookups
from zsmtp.net.aio import AsyncDriver, Stop
from zsmtp.net.lookups import ServerExchanges

A = Query("example.com", RecordType.A)
GOOD = "example.com. 60 IN A 192.0.2.1"


async def perform(effect: Any) -> Any:
    return await effect


class Questions:
    """A name server that answers when it is told to. ``asked`` are the questions that came, with how often."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.asked: Counter[tuple[str, str]] = Counter()
        self._unanswered: list[tuple[dns.message.Message, tuple[str, int]]] = []
        self.address = "{}:{}".format(*server.getsockname())

    async def until(self, count: int) -> None:
        """Wait for that many questions that are not answered yet."""
        loop = asyncio.get_running_loop()
        while len(self._unanswered) < count:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._server, lambda ready=ready: ready.done() or ready.set_result(None))
            try:
                await asyncio.wait_for(ready, LIMIT)
            finally:
                loop.remove_reader(self._server)
            self._read()

    def _read(self) -> None:
        while True:
            try:
                wire, client = self._server.recvfrom(512)
            except BlockingIOError:
                return
            query = dns.message.from_wire(wire)
            (question,) = query.question
            self.asked[question.name.to_text(True), dns.rdatatype.to_text(question.rdtype)] += 1
            self._unanswered.append((query, client))

    def count(self) -> int:
        """How many questions wait for their answers."""
        self._read()
        return len(self._unanswered)

    def names(self) -> list[str]:
        """The names in the questions that wait for their answers."""
        self._read()
        return sorted(query.question[0].name.to_text(True) for query, _ in self._unanswered)

    def forget(self) -> None:
        """Leave what came without an answer."""
        self._unanswered.clear()

    def answer(self, zone: dict[tuple[str, str], str] | None = None) -> None:
        """Answer all that came: with the records of the zone, or none; without a zone with an address."""
        for query, client in self._unanswered:
            (question,) = query.question
            name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
            data = "192.0.2.1" if zone is None else zone.get((name.removesuffix("."), kind))
            records = [] if data is None else [f"{name} 60 IN {kind} {data}"]
            self._server.sendto(reply(query, *records).to_wire(), client)
        self._unanswered.clear()


@contextmanager
def questions() -> Iterator[Questions]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        yield Questions(server)


def asking(server: Questions) -> AsyncDriver:
    return AsyncDriver(lambda: DnspythonResolver(server.address, rounds=(LIMIT,) * 3))


# --------------------------------------------------------------- side by side


@pytest.mark.parametrize(
    ("files", "most"), [(1024, 128), (20_000, 500), (3, 1), (resource.RLIM_INFINITY, 500)], ids=str
)
def test_connections_are_left_files_to_open(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    assert lookups.most_sockets() == most


def test_a_thousand_slow_zones_begin_together_within_the_limit_of_sockets(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "SHARE", 1)

    async def main(server: Questions) -> None:
        driver = asking(server)
        queries = [Query(f"d{number}.example.com", RecordType.A) for number in range(1000)]
        runs = [asyncio.create_task(driver.run(perform(query))) for query in queries]
        await server.until(lookups.MAX_SOCKETS)
        for _ in range(5):
            await asyncio.sleep(0)
            assert server.count() == lookups.MAX_SOCKETS  # the others wait for their turn
        server.answer()
        await server.until(1000 - lookups.MAX_SOCKETS)
        server.answer()
        answers = await asyncio.gather(*runs)
        assert {answer.status for answer in answers} == {Status.OK}
        assert [answer.query for answer in answers] == queries
        assert set(server.asked.values()) == {1}
        await driver.aclose()

    with questions() as server:
        run(main(server))


def test_those_who_have_no_turn_by_their_deadline_are_told(run: Run[Any]) -> None:
    async def main(server: Questions) -> None:
        exchanges = ServerExchanges(1)
        query = dns.message.make_query("example.com", "A").to_wire()
        where, now = parse_nameserver(server.address), lookups.time.monotonic()
        first = asyncio.create_task(exchanges.ask(AskServer(where, query, False, LIMIT, now + LIMIT)))
        await server.until(1)
        late = await exchanges.ask(AskServer(where, query, False, LIMIT, now))
        assert late.problem == "too many questions were under way to ask it in time"
        assert not late.silent
        server.answer()
        assert (await first).reply
        assert server.asked.total() == 1

    with questions() as server:
        run(main(server))


def test_questions_that_met_silence_before_leave_room_for_others(run: Run[Any]) -> None:
    async def main(server: Questions) -> None:
        exchanges = ServerExchanges(2)

        def ask(name: str, *, again: bool) -> asyncio.Task[Heard]:
            query = dns.message.make_query(name, "A").to_wire()
            where = parse_nameserver(server.address)
            effect = AskServer(where, query, False, LIMIT, lookups.time.monotonic() + LIMIT, again)
            return asyncio.create_task(exchanges.ask(effect))

        tasks = [ask("a.example", again=False), ask("b.example", again=False)]
        await server.until(2)
        tasks += [ask(f"again{number}.example", again=True) for number in (1, 2)]
        tasks += [ask(name, again=False) for name in ("c.example", "d.example")]
        for expected in (["a", "b"], ["c", "d"], ["again1"], ["again2"]):
            await server.until(len(expected))
            for _ in range(5):
                await asyncio.sleep(0)
            assert server.names() == [f"{name}.example" for name in expected]
            server.answer()
        assert all(heard.reply for heard in await asyncio.gather(*tasks))

    with questions() as server:
        run(main(server))


ZONE = {
    ("example.org", "MX"): "10 mx.example.org.",
    ("mx.example.org", "A"): "192.0.2.1",
    ("mx.example.org", "AAAA"): "2001:db8::1",
}


def plan(name: str) -> Any:
    return plan_destination(DestinationRequest(destination=name, shuffle=list.sort))


def test_the_addresses_of_a_destination_are_asked_side_by_side_and_once(run: Run[Any]) -> None:
    async def main(server: Questions) -> None:
        driver = asking(server)
        made = asyncio.create_task(driver.run(plan("example.org")))
        await server.until(1)
        assert set(server.asked) == {("example.org", "MX")}
        server.answer(ZONE)
        await server.until(2)
        server.answer(ZONE)
        found = await made
        assert [one.endpoint.address for one in found.candidates] == ["192.0.2.1", "2001:db8::1"]
        assert [answer.query.type.value for answer in found.lookups] == ["MX", "A", "AAAA"]
        assert server.asked == Counter(ZONE.keys())  # no question more than one by one
        await driver.run(plan("example.org"))  # from the cache
        assert server.asked.total() == 3
        await driver.aclose()

    with questions() as server:
        run(main(server))


def test_what_was_asked_ahead_counts_even_if_it_may_not_be_kept(run: Run[Any]) -> None:
    resolver = StaticResolver("example.org 0 A 192.0.2.1\nexample.org 0 AAAA 2001:db8::1")
    both = Query("example.org", RecordType.A), Query("example.org", RecordType.AAAA)

    async def work() -> list[Answer]:
        await AskAhead(both)
        return [await both[0], await both[1], await both[0]]

    async def main() -> None:
        driver = AsyncDriver(lambda: resolver)
        answers = await driver.run(work())
        assert {answer.status for answer in answers} == {Status.OK}
        assert resolver.queries == [*both, both[0]]  # the last is a question of its own
        await driver.aclose()

    run(main())


def test_nothing_is_asked_ahead_after_a_stop(run: Run[Any]) -> None:
    resolver = StaticResolver("")

    async def main() -> None:
        driver = AsyncDriver(lambda: resolver)
        stop = Stop()
        stop.request("enough")
        await driver.run(perform(AskAhead((A,))), stop=stop)
        assert resolver.queries == []
        await driver.aclose()

    run(main())


# -------------------------------------------------------------- hostile, large


def test_a_truncated_answer_comes_by_tcp(run: Run[Any]) -> None:
    records = [f"example.com. 60 IN A 192.0.2.{number}" for number in range(1, 201)]

    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        if transport == "tcp":
            return [stream(reply(query, *records))]
        return [reply(query, records[0], flags=dns.flags.TC).to_wire()]

    async def main(address: str) -> Answer:
        driver = AsyncDriver(lambda: DnspythonResolver(address))
        try:
            return await driver.run(perform(A))
        finally:
            await driver.aclose()

    with serving(script) as server:
        assert len(run(main(server.address)).records) == 200
        assert server.transports == ["udp", "tcp"]


def test_a_flood_of_guesses_is_answered_by_tcp(run: Run[Any]) -> None:
    def script(query: dns.message.Message, used: str) -> Iterable[bytes]:
        if used == "tcp":
            return [stream(reply(query, GOOD))]
        guess = reply(query, "example.com. 60 IN A 192.0.2.66").to_wire()
        wrong = (((query.id + number) % 65536).to_bytes(2, "big") for number in range(1, transport.MAX_STRAYS + 2))
        return [identifier + guess[2:] for identifier in wrong]

    async def main(address: str) -> Answer:
        driver = AsyncDriver(lambda: DnspythonResolver(address, rounds=(LIMIT,)))
        try:
            return await driver.run(perform(A))
        finally:
            await driver.aclose()

    with serving(script) as server:
        assert run(main(server.address)).records == ("192.0.2.1",)
        assert server.transports == ["udp", "tcp"]


# ---------------------------------------------------------------------- ending


def test_closing_ends_lookups_and_those_who_wait_for_their_turn(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MAX_SOCKETS", 10)

    async def main(server: Questions) -> None:
        driver = asking(server)
        runs = [
            asyncio.create_task(driver.run(perform(Query(f"d{number}.example.com", RecordType.A))))
            for number in range(30)
        ]
        await server.until(10)
        await driver.aclose()
        assert {answer.status for answer in await asyncio.gather(*runs)} == {Status.TIMEOUT}
        assert server.asked.total() == 10

    with questions() as server:
        run(main(server))


def test_a_resolver_that_hangs_in_a_thread_is_left_to_itself(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "GRACE", 0.01)
    begun, released, ended = threading.Event(), threading.Event(), threading.Event()

    class Hanging:
        def lookup(self, query: Query, deadline: float) -> Answer:
            begun.set()
            released.wait()
            ended.set()
            return Answer(query, Status.NODATA)

    async def main() -> None:
        driver = AsyncDriver(Hanging)
        task = asyncio.create_task(driver.run(perform(A)))
        await asyncio.to_thread(begun.wait)
        await driver.aclose()
        assert not ended.is_set()
        answer = await task
        assert (answer.status, answer.problem) == (Status.TIMEOUT, "lookups have ended")
        released.set()
        await asyncio.to_thread(ended.wait)
        await asyncio.get_running_loop().shutdown_default_executor()

    try:
        run(main())
    finally:
        released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("zsmtp"):
            thread.join(LIMIT)


def test_a_loop_that_ends_with_lookups_under_way_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a program is interrupted: nobody closes the driver, all tasks are cancelled."""
    monkeypatch.setattr(lookups, "MAX_SOCKETS", 10)
    before = set(os.listdir("/proc/self/fd"))

    async def main(server: Questions) -> None:
        driver = asking(server)
        for number in range(30):
            driver.find(Query(f"d{number}.example.com", RecordType.A), lookups.time.monotonic() + LIMIT)
        await server.until(10)

    with questions() as server:
        asyncio.run(main(server))
    assert set(os.listdir("/proc/self/fd")) <= before


def test_whoever_is_cancelled_leaves_the_place_to_others(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MAX_SOCKETS", 1)

    async def main(server: Questions) -> None:
        driver = asking(server)
        now = lookups.time.monotonic()
        tasks = [driver.find(Query(f"d{number}.example.com", RecordType.A), now + LIMIT) for number in range(4)]
        assert all(isinstance(task, asyncio.Task) for task in tasks)
        await server.until(1)
        tasks[0].cancel()  # type: ignore[union-attr]
        tasks[2].cancel()  # type: ignore[union-attr]
        server.forget()
        for expected in ("d1.example.com", "d3.example.com"):
            await server.until(1)
            assert (expected, "A") in server.asked
            server.answer()
        assert (await tasks[3]).status is Status.OK  # type: ignore[misc]
        assert server.asked.total() == 3
        await driver.aclose()

    with questions() as server:
        run(main(server))


def test_whoever_gets_no_descriptor_waits_for_one(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[socket.socket] = []
    tries = Counter[str]()
    real = transport._socket

    def scarce(server: Any, kind: Any) -> Any:
        tries["all"] += 1
        if first and first[0].fileno() >= 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made = real(server, kind)
        first[:] = [made[0]]
        return made

    monkeypatch.setattr(transport, "_socket", scarce)

    async def main(server: Questions) -> None:
        driver = asking(server)
        queries = [Query(f"d{number}.example.com", RecordType.A) for number in range(3)]
        runs = [asyncio.create_task(driver.run(perform(query))) for query in queries]
        for number in range(len(queries)):
            await server.until(1)
            for _ in range(20):
                await asyncio.sleep(0)
            assert tries["all"] == len(queries) + number  # each is tried again when one is closed, and not before
            server.answer()
        assert {answer.status for answer in await asyncio.gather(*runs)} == {Status.OK}
        await driver.aclose()

    with questions() as server:
        run(main(server))


def test_no_descriptor_at_all_is_a_lookup_that_failed(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(server: Any, kind: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(transport, "_socket", none)

    async def main() -> Answer:
        driver = AsyncDriver(lambda: DnspythonResolver("127.0.0.1"))
        try:
            return await driver.run(perform(A))
        finally:
            await driver.aclose()

    answer = run(main())
    assert answer.status is Status.TIMEOUT
    assert "Too many open files" in answer.problem


# ------------------------------------------------------------------- resolvers


def test_the_hosts_file_comes_before_a_resolver_that_is_called(run: Run[Any]) -> None:
    called: list[tuple[Query, str]] = []

    class Plain:
        def lookup(self, query: Query, deadline: float) -> Answer:
            called.append((query, threading.current_thread().name))
            return Answer(query, Status.NODATA)

    async def main() -> None:
        driver = AsyncDriver(lambda: HostsResolver({"example.com": ("192.0.2.1",)}, Plain()))
        assert (await driver.run(perform(A))).records == ("192.0.2.1",)
        assert (await driver.run(perform(Query("example.net", RecordType.A)))).status is Status.NODATA
        await driver.aclose()

    run(main())
    ((query, thread),) = called
    assert query.name == "example.net"
    assert thread != threading.current_thread().name


def test_what_a_resolver_raises_is_raised_where_it_is_awaited(run: Run[Any]) -> None:
    class Broken:
        def lookup(self, query: Query, deadline: float) -> Answer:
            raise RuntimeError("broken")

    async def main() -> None:
        driver = AsyncDriver(Broken)
        for effect in (A, A):
            with pytest.raises(RuntimeError, match="broken"):
                await driver.run(perform(effect))
        await driver.run(perform(AskAhead((A,))))  # and nowhere else
        await driver.aclose()

    run(main())


def test_lookups_can_be_asked_from_threads_as_well(run: Run[Any]) -> None:
    """The same resolver serves a program that blocks."""
    with serving(lambda query, transport: [reply(query, GOOD).to_wire()]) as server, ThreadPoolExecutor(4) as threads:
        resolver = DnspythonResolver(server.address)
        deadline = lookups.time.monotonic() + LIMIT
        answers = list(threads.map(lambda _: resolver.lookup(A, deadline), range(8)))
    assert {answer.status for answer in answers} == {Status.OK}
