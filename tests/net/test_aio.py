"""The asyncio driver on real sockets of the loopback interface, on asyncio's own loop and on uvloop's."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import ssl
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme
from tests.support.loop import Run
from tests.support.network import content_form
from tests.support.patience import LIMIT
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.dnspython import DnspythonResolver
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import (
    Close,
    Connect,
    ConnectResult,
    Exchange,
    FetchPolicy,
    KeepPolicy,
    OwnAddresses,
    ReadClock,
    RecallPolicy,
    StartTLS,
    Stream,
)
from zsmtp.errors import Interrupted, LocalError, WaitTimeout
from zsmtp.events import Event, LookupDone, LookupStarted
from zsmtp.net import aio, operations, policycache
from zsmtp.net.aio import AsyncDriver, Stop
from zsmtp.net.identity import parse_identity
from zsmtp.net.policies import most_fetches
from zsmtp.net.stspolicies import PolicyKeeper
from zsmtp.net.transport import SocketStream
from zsmtp.net.watch import DescriptorWatch
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, Timeouts
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, plan_transaction
from zsmtp.proto.session import Lost, Session, SessionEvent
from zsmtp.proto.session import StepAnswered as Heard
from zsmtp.tls.context import ContextOptions
from zsmtp.tls.mtasts import CachedPolicy, FetchedPolicy, RecalledPolicy
from zsmtp.tls.problem import TLSProblem


def inet(port: int, host: str = "mx.example.org") -> Endpoint:
    return Endpoint(host, "127.0.0.1", port, Family.INET)


async def perform(effect: Any) -> Any:
    return await effect


async def talk(stream: Stream, session: Session) -> list[SessionEvent]:
    """All events until the session has nothing left to do."""
    events: list[SessionEvent] = []
    exchange: Exchange[SessionEvent] = Exchange(stream, session)
    while (event := await exchange) is not None:
        events.append(event)
    return events


async def connect(driver: AsyncDriver, *endpoints: Endpoint, stop: Stop | None = None) -> ConnectResult:
    return await driver.run(perform(Connect(endpoints, 20.0)), stop=stop)


def new_driver(table: str = "mx.example.org A 192.0.2.1") -> AsyncDriver:
    return AsyncDriver(lambda: StaticResolver(table))


def test_the_clock_is_the_drivers(run: Run[Any]) -> None:
    async def main() -> None:
        before = time.monotonic()
        assert before <= await new_driver().run(perform(ReadClock())) <= time.monotonic()

    run(main())


def test_a_dialogue(run: Run[Any]) -> None:
    async def main(port: int, refusing: int) -> None:
        driver = new_driver()
        result = await connect(driver, inet(refusing), inet(port))
        assert result.failures == ((inet(refusing), "Connection refused"),)
        assert result.stream is not None
        assert result.stream.local is not None
        session = Session(timeouts=Timeouts())
        session.command(Phase.EHLO, command.hello(b"EHLO", b"client.example"))
        events = await driver.run(talk(result.stream, session))
        assert [event.reply.code for event in events if isinstance(event, Heard)] == [220, 250]
        await driver.run(perform(Close(result.stream)))
        await driver.aclose()

    with Sink() as sink, refusing_port() as refusing:
        run(main(sink.port, refusing))
        sink.wait_until_finished()
        assert sink.connections[0].lines == [b"EHLO client.example"]


def test_a_peer_that_stops_reading_until_its_replies_are_read_does_not_lock_up(run: Run[Any]) -> None:
    count = 20_000
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)

    def serve() -> None:
        theirs.sendall(b"220 hi\r\n")
        with theirs.makefile("rb") as lines:
            for line in lines:
                if line == b"DATA\r\n":
                    return
                theirs.sendall(b"250 " + b"x" * 60 + b"\r\n")

    server = threading.Thread(target=serve)
    server.start()
    session = Session(timeouts=Timeouts(write=60, command=60))
    recipients = tuple(EnvelopeRecipient(b"r%d@example.org" % i) for i in range(count))
    session.transact(plan_transaction(Envelope(b"", recipients), content_form(), Capabilities(pipelining=True)))
    stream = SocketStream(ours, Family.UNIX)

    async def work() -> int:
        answered = 0
        while answered < count + 1:
            event = await Exchange(stream, session)
            assert isinstance(event, Heard)
            answered += event.step.phase in (Phase.MAIL, Phase.RCPT)
        await Close(stream)
        return answered

    async def main() -> int:
        return await new_driver().run(work())

    assert run(main()) == count + 1
    theirs.shutdown(socket.SHUT_RDWR)
    server.join(60)
    theirs.close()


def test_a_peer_that_takes_all_does_not_keep_others_waiting(run: Run[Any]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = SocketStream(ours, Family.UNIX)
    turns = 0

    def swallow() -> None:
        theirs.sendall(b"220 a\r\n")
        for reply in (b"250 b\r\n", b"250 c\r\n", b"354 d\r\n"):
            theirs.recv(100)
            theirs.sendall(reply)
        end = b""
        while not end.endswith(b"\n.\r\n"):
            end = (end + theirs.recv(1 << 20))[-4:]
        theirs.sendall(b"250 e\r\n")

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        other = asyncio.create_task(count())
        session = Session(timeouts=Timeouts())
        blocks = [b"x" * 998 + b"\r\n"] * 4000
        form = ContentForm(4_000_000, 0, None, lambda: iter([*blocks, b".\r\n"]), lambda: iter(blocks))
        session.transact(plan_transaction(Envelope(b"", (EnvelopeRecipient(b"r@example.org"),)), form, Capabilities()))
        driver = new_driver()
        events = await driver.run(talk(stream, session))
        assert not any(isinstance(event, Lost) for event in events)
        driver.close_stream(stream)
        other.cancel()
        await asyncio.wait([other])

    thread = threading.Thread(target=swallow)
    thread.start()
    run(main())
    thread.join(60)
    theirs.close()
    assert turns > 3


def test_a_silent_peer_is_given_up_at_the_sessions_deadline(run: Run[Any]) -> None:
    async def main(port: int) -> None:
        driver = new_driver()
        result = await connect(driver, inet(port))
        assert result.stream is not None
        (lost,) = await driver.run(talk(result.stream, Session(timeouts=Timeouts(command=0.05))))
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, WaitTimeout)
        await driver.run(perform(Close(result.stream)))

    with Sink(Script(banner=Step(None))) as sink:
        run(main(sink.port))


def silent_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting never ends, as behind a firewall that drops packets."""

    def begin(sock: socket.socket, endpoint: Endpoint) -> bool:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)  # it never becomes writable
        return False

    monkeypatch.setattr(operations, "begin_connect", begin)


def test_a_stop_ends_connecting(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    silent_connect(monkeypatch)

    async def main() -> ConnectResult:
        stop = Stop()
        asyncio.get_running_loop().call_later(0.02, stop.request, "enough")
        return await connect(new_driver(), inet(25), inet(26), stop=stop)

    result = run(main())
    assert (result.stream, result.interrupted) == (None, True)


def test_a_stop_waits_for_a_final_reply_unless_it_is_at_once(run: Run[Any]) -> None:
    gate = threading.Event()

    async def main(sink: Sink, *, at_once: bool) -> list[SessionEvent]:
        driver = new_driver()
        stop = Stop()
        loop = asyncio.get_running_loop()
        result = await connect(driver, inet(sink.port))
        assert result.stream is not None
        session = Session(timeouts=Timeouts())
        session.command(Phase.EHLO, command.hello(b"EHLO", b"client.example"))
        session.transact(
            plan_transaction(Envelope(b"", (EnvelopeRecipient(b"r@example.org"),)), content_form(), Capabilities())
        )

        def tell() -> None:
            sink.wait_for(lambda s: any(t.complete for t in s.transactions))
            loop.call_soon_threadsafe(lambda: stop.request("enough", at_once=at_once))
            gate.set() if not at_once else None

        thread = threading.Thread(target=tell)
        thread.start()
        events = await driver.run(talk(result.stream, session), stop=stop)
        thread.join()
        driver.close_stream(cast(SocketStream, result.stream))
        return events

    script = Script(replies={"DOT": (Step("250 taken", gate=gate),)})
    with Sink(script) as sink:
        lost = run(main(sink, at_once=True))[-1]
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, Interrupted)
        assert len(lost.in_doubt) == 1
        gate.set()
    gate.clear()
    with Sink(script) as sink:
        events = run(main(sink, at_once=False))
        assert not any(isinstance(event, Lost) for event in events)


@pytest.mark.parametrize("stage", ["connecting", "talking", "handshake", "lookup"])
def test_cancelling_closes_what_is_open(stage: str, run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    released = threading.Event()
    taken: list[socket.socket] = []
    if stage == "connecting":
        silent_connect(monkeypatch)
        begin = operations.begin_connect

        def begun(sock: socket.socket, endpoint: Endpoint) -> bool:
            waiting.set()
            return begin(sock, endpoint)

        monkeypatch.setattr(operations, "begin_connect", begun)

    class Slow:
        def lookup(self, query: Query, deadline: float) -> Answer:
            waiting.set()
            released.wait(LIMIT)
            return Answer(query, Status.TIMEOUT)

    async def work(port: int) -> None:
        if stage == "lookup":
            await Query("example.org", RecordType.MX)
        result = await Connect((inet(port),), 20.0)
        if stage == "handshake":
            await StartTLS(cast(Stream, result.stream), ContextOptions(), "mx.example.org", 20.0)
        await Exchange(cast(Stream, result.stream), Session(timeouts=Timeouts()))

    def reached(listener: socket.socket) -> None:
        if stage in ("connecting", "lookup"):
            assert waiting.wait(LIMIT)
            return
        accepted, _ = listener.accept()
        accepted.settimeout(LIMIT)
        taken.append(accepted)
        if stage == "handshake":
            assert accepted.recv(1), "the client begins"

    async def main(listener: socket.socket) -> None:
        driver = AsyncDriver(Slow)
        task = asyncio.create_task(driver.run(work(listener.getsockname()[1])))
        await asyncio.get_running_loop().run_in_executor(None, reached, listener)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()
        await driver.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener:  # says nothing at all
        listener.settimeout(LIMIT)
        run(main(listener))
        for accepted in taken:
            with accepted:
                while accepted.recv(4096):
                    pass


def test_what_an_operation_raises_closes_its_connection(run: Run[Any]) -> None:
    async def work(port: int) -> None:
        await Connect((inet(port),), 20.0)
        raise LocalError("enough")

    async def main(port: int) -> None:
        with pytest.raises(LocalError, match="enough"):
            await new_driver().run(work(port))

    with Sink() as sink:
        run(main(sink.port))
        sink.wait_until_finished()


# -------------------------------------------------------------------- lookups


def test_a_question_is_asked_once_and_its_answer_kept(run: Run[Any]) -> None:
    resolver = StaticResolver("example.org MX 10 mx.example.org\nmx.example.org A 192.0.2.1")
    heard: list[Event] = []

    async def main() -> None:
        driver = AsyncDriver(lambda: resolver)
        query = Query("example.org", RecordType.MX)
        answers = await asyncio.gather(*(driver.run(perform(query)) for _ in range(20)))
        answers.append(await driver.run(perform(query), observer=heard.append))
        assert {answer.status for answer in answers} == {Status.OK}
        await driver.aclose()

    run(main())
    assert len(resolver.queries) == 1
    assert [type(event) for event in heard] == [LookupStarted, LookupDone]


def test_a_stop_ends_a_lookup_which_goes_on_for_others(run: Run[Any]) -> None:
    released = threading.Event()

    class Slow:
        def lookup(self, query: Query, deadline: float) -> Answer:
            released.wait(20)
            return Answer(query, Status.NODATA, ttl=60)

    async def main() -> None:
        driver = AsyncDriver(Slow)
        stop = Stop()
        query = Query("example.org", RecordType.MX)
        patient = asyncio.create_task(driver.run(perform(query)))
        hasty = asyncio.create_task(driver.run(perform(query), stop=stop))
        await asyncio.sleep(0.02)
        stop.request("enough")
        answer = await hasty
        assert (answer.status, answer.problem) == (Status.TIMEOUT, "enough")
        assert not patient.done()
        released.set()
        assert (await patient).status is Status.NODATA
        await driver.aclose()

    run(main())


def test_a_name_server_that_keeps_silent_does_not_outlive_the_driver(run: Run[Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))

        async def main() -> float:
            resolver = DnspythonResolver(f"127.0.0.1:{silent.getsockname()[1]}", rounds=(90.0,))
            driver = AsyncDriver(lambda: resolver)
            stop = Stop()
            task = asyncio.create_task(driver.run(perform(Query("example.org", RecordType.MX)), stop=stop))
            await asyncio.get_running_loop().run_in_executor(None, silent.recv, 512)
            stop.request("enough")
            await task
            began = time.monotonic()
            resolver.close()
            await driver.aclose()
            await asyncio.get_running_loop().shutdown_default_executor()
            return time.monotonic() - began

        assert run(main()) < LIMIT  # the time of a round is 90 s


def test_own_addresses(run: Run[Any]) -> None:
    async def main() -> frozenset[str]:
        return await new_driver().run(perform(OwnAddresses()))

    assert "127.0.0.1" in run(main())


# ------------------------------------------------------------------- policies

FETCH_ERROR = TLSProblem.STS_POLICY_FETCH_ERROR


def test_policies_are_remembered_and_a_fetch_ends_with_the_driver(run: Run[Any], tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT)
        keeper = PolicyKeeper(str(tmp_path / "sts.db"), print, port=silent.getsockname()[1])

        async def main() -> None:
            driver = AsyncDriver(lambda: StaticResolver(""), policies=keeper)
            entry = CachedPolicy("example.org", "1", b"version: STSv1\nmode: none\nmax_age: 600\n", time.time())
            await driver.run(perform(KeepPolicy(entry)))
            recalled = await driver.run(perform(RecallPolicy("example.org")))
            assert isinstance(recalled, RecalledPolicy)
            assert recalled.entry is not None
            assert recalled.entry.id == "1"
            stop = Stop()
            fetch = FetchPolicy("mta-sts.example.org", ("127.0.0.1",))
            task = asyncio.create_task(driver.run(perform(fetch), stop=stop))
            other = asyncio.create_task(driver.run(perform(fetch)))
            connection, _ = await asyncio.to_thread(silent.accept)
            stop.request("enough")
            fetched = await task
            assert fetched == FetchedPolicy(failure=FETCH_ERROR, problem="enough", own=True)
            assert not other.done()  # it goes on for whoever else waits
            await driver.aclose()
            assert await other == FetchedPolicy(failure=FETCH_ERROR, problem="interrupted", own=True)
            with connection:
                connection.settimeout(LIMIT)
                while connection.recv(4096):
                    pass
            await asyncio.get_running_loop().shutdown_default_executor()

        run(main())


def test_a_run_that_was_stopped_asks_for_no_policy(run: Run[Any]) -> None:
    async def main() -> None:
        stop = Stop()
        stop.request("enough")
        driver = AsyncDriver(lambda: StaticResolver(""), policies=PolicyKeeper("", print))
        fetch = FetchPolicy("mta-sts.example.org", ("127.0.0.1",))
        fetched = await driver.run(perform(fetch), stop=stop)
        assert fetched == FetchedPolicy(failure=FETCH_ERROR, problem="enough", own=True)
        await driver.aclose()

    run(main())


def test_a_stop_ends_the_wait_for_what_is_remembered(run: Run[Any]) -> None:
    class Hung(PolicyKeeper):
        def recall(self, effect: RecallPolicy) -> RecalledPolicy:
            assert released.wait(LIMIT)
            return super().recall(effect)

    released = threading.Event()

    async def main() -> None:
        stop = Stop()
        stop.request("enough")
        driver = AsyncDriver(lambda: StaticResolver(""), policies=Hung("", print))
        recalled = await driver.run(perform(RecallPolicy("example.org")), stop=stop)
        assert recalled.entry is None
        released.set()
        await driver.aclose()

    run(main())


def test_a_fetch_leaves_from_any_address_and_is_not_heard_of_as_a_session(run: Run[Any], ca_file: str) -> None:
    heard: list[Event] = []
    with socket.create_server(("127.0.0.1", 0)) as web:
        web.settimeout(LIMIT)
        keeper = PolicyKeeper("", print, port=web.getsockname()[1], ca_file=ca_file)

        async def main() -> str:
            source = operations.LocalBinding(parse_identity("[127.0.0.2]"))
            driver = AsyncDriver(lambda: StaticResolver(""), source, keeper)
            fetch = FetchPolicy("mta-sts.example.org", ("127.0.0.1",))
            task = asyncio.create_task(driver.run(perform(fetch), observer=heard.append))
            connection, (address, _) = await asyncio.to_thread(web.accept)
            connection.close()
            assert (await task).failure is FETCH_ERROR
            await driver.aclose()
            await asyncio.get_running_loop().shutdown_default_executor()
            return str(address)

        assert run(main()) == "127.0.0.1"
    assert heard == []


def test_the_time_of_a_fetch_is_not_that_of_lookups(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [0.0]
    monkeypatch.setattr(aio, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0], time=time.time))

    class SlowHost(PolicyKeeper):
        async def fetch(self, effect: FetchPolicy) -> FetchedPolicy:
            ahead[0] += 10 * operations.LOOKUPS_TIME
            return FetchedPolicy(b"text")

    async def work() -> Answer:
        assert (await FetchPolicy("mta-sts.example.org", ("127.0.0.1",))).body == b"text"
        return await Query("mx.example.org", RecordType.A)

    async def main() -> None:
        driver = AsyncDriver(lambda: StaticResolver("mx.example.org A 192.0.2.1"), policies=SlowHost("", print))
        assert (await driver.run(work())).records == ("192.0.2.1",)
        await driver.aclose()

    run(main())


def test_policy_hosts_are_connected_to_side_by_side(run: Run[Any], ca_file: str) -> None:
    """As many as the cap allows hang in their handshakes together."""
    count = most_fetches()
    with socket.create_server(("127.0.0.1", 0), backlog=count) as silent:
        keeper = PolicyKeeper("", print, port=silent.getsockname()[1], ca_file=ca_file)
        silent.settimeout(LIMIT)
        taken: list[socket.socket] = []

        def accept_all() -> None:
            taken.extend(silent.accept()[0] for _ in range(count))
            for connection in taken:
                connection.close()

        async def main() -> None:
            driver = AsyncDriver(lambda: StaticResolver(""), policies=keeper)
            fetches = [FetchPolicy(f"mta-sts.d{number}.example", ("127.0.0.1",)) for number in range(count)]
            everybody = asyncio.gather(*(driver.run(perform(fetch)) for fetch in fetches))
            await asyncio.to_thread(accept_all)
            assert {one.failure for one in await everybody} == {FETCH_ERROR}
            await driver.aclose()
            await asyncio.get_running_loop().shutdown_default_executor()

        run(main())
    assert len(taken) == count


def test_a_cache_that_another_process_locks_does_not_hold_up_the_loop(
    run: Run[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policycache, "BUSY_TIME", LIMIT)
    path = str(tmp_path / "sts.db")
    entry = CachedPolicy("example.org", "1", b"", 1.0)

    async def main() -> None:
        driver = AsyncDriver(lambda: StaticResolver("example.org A 192.0.2.1"), policies=PolicyKeeper(path, print))
        await driver.run(perform(KeepPolicy(CachedPolicy("example.net"))))
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN EXCLUSIVE")
            kept = asyncio.create_task(driver.run(perform(KeepPolicy(entry))))
            recalled = asyncio.create_task(driver.run(perform(RecallPolicy("example.net"))))
            answer = await driver.run(perform(Query("example.org", RecordType.A)))
            assert answer.records == ("192.0.2.1",)
            assert not kept.done()
            assert not recalled.done()
            other.rollback()
        await kept
        assert (await recalled).entry == CachedPolicy("example.net")
        await driver.aclose()

    run(main())


# ------------------------------------------------------------------------ TLS


def test_a_handshake_and_what_is_said_over_it(run: Run[Any]) -> None:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.example.org").configure_cert(context)

    async def main(port: int) -> list[SessionEvent]:
        driver = new_driver()
        result = await connect(driver, inet(port))
        stream = cast(SocketStream, result.stream)
        session = Session(timeouts=Timeouts())
        session.command(Phase.STARTTLS, b"STARTTLS\r\n")
        await driver.run(talk(stream, session))
        secured = await driver.run(perform(StartTLS(stream, ContextOptions(), "mx.example.org", 20.0)))
        assert secured.facts is not None
        assert secured.facts.protocol == "TLSv1.3"
        session.command(Phase.EHLO, b"EHLO client.example\r\n")
        events = await driver.run(talk(cast(Stream, secured.stream), session))
        driver.close_stream(cast(SocketStream, secured.stream))
        return events

    with Sink(Script(replies={"STARTTLS": (Step("220 go", Then.TLS),)}), tls=context) as sink:
        (heard,) = run(main(sink.port))
        assert isinstance(heard, Heard)
        assert heard.reply.code == 250


def test_a_handshake_that_fails_closes_the_connection(run: Run[Any]) -> None:
    async def main(port: int) -> None:
        driver = new_driver()
        result = await connect(driver, inet(port))
        effect = StartTLS(cast(Stream, result.stream), ContextOptions(), "mx.example.org", 20.0)
        failed = await driver.run(perform(effect))
        assert failed.stream is None
        assert "TLS" in failed.error

    with Sink() as sink:
        run(main(sink.port))
        sink.wait_until_finished()


# ----------------------------------------------------------------------- rest


def test_a_resting_stream_tells_when_its_peer_stirs(run: Run[Any]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = SocketStream(ours, Family.UNIX)

    async def main() -> None:
        driver = new_driver()
        stirred = asyncio.Event()
        driver.notify(stream, stirred.set)
        await asyncio.sleep(0.01)
        assert not stirred.is_set()
        theirs.sendall(b"421 bye\r\n")
        await asyncio.wait_for(stirred.wait(), 20)
        driver.close_stream(stream)

    run(main())
    theirs.close()


def test_a_peer_that_sends_octet_by_octet_is_not_looked_at_for_each(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply in pieces costs a few looks, whatever the size of the pieces; nothing of it is lost."""
    looks = 0
    receive = SocketStream.receive

    def counted(self: SocketStream) -> bytes | None:
        nonlocal looks
        looks += 1
        return receive(self)

    monkeypatch.setattr(SocketStream, "receive", counted)
    banner = b"220 " + b"x" * 300 + b"\r\n"

    async def main(port: int) -> object:
        driver = new_driver()
        connected = await connect(driver, inet(port))
        assert connected.stream is not None
        session = Session(timeouts=Timeouts())
        event = await driver.run(perform(Exchange(connected.stream, session)))
        await driver.run(perform(Close(connected.stream)))
        await driver.aclose()
        return event

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octet in banner:
                connection.send(bytes([octet]))
                time.sleep(0.001)
            connection.recv(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=drip, args=(listener,))
        server.start()
        began = time.monotonic()
        event = run(main(listener.getsockname()[1]))
        seconds = time.monotonic() - began
        server.join(60)
    assert isinstance(event, Heard)
    assert event.reply.lines == (b"x" * 300,)
    assert looks < 20 + seconds / aio.LONGEST_PAUSE


def test_what_came_in_a_pause_is_read_without_another_wait(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply in many pieces: two waits, then pauses in which the next piece comes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = SocketStream(ours, Family.UNIX)
    pieces = [b"220 ", *[b"x"] * 20, b"\r\n"]
    waits = 0
    wait_for = DescriptorWatch.wait_for

    def say_more() -> None:
        theirs.sendall(pieces.pop(0))

    def counted(self: DescriptorWatch, *args: Any) -> None:
        nonlocal waits
        waits += 1
        wait_for(self, *args)
        asyncio.get_running_loop().call_soon(say_more)

    async def pause(self: Any, deadline: float | None) -> None:
        say_more()

    monkeypatch.setattr(DescriptorWatch, "wait_for", counted)
    monkeypatch.setattr(aio.Run, "_let_more_come", pause)

    async def main() -> object:
        driver = new_driver()
        event = await driver.run(perform(Exchange(stream, Session(timeouts=Timeouts()))))
        await driver.run(perform(Close(stream)))
        await driver.aclose()
        return event

    event = run(main())
    theirs.close()
    assert isinstance(event, Heard)
    assert event.reply.lines == (b"x" * 20,)
    assert (waits, pieces) == (2, [])


def test_a_write_begins_a_new_count_of_pieces(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces are read without a pause; what comes after a write is another reply."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = SocketStream(ours, Family.UNIX)
    pauses: list[int] = []
    written = 0

    async def steps(*_: object) -> None:
        nonlocal written
        for interest in (operations.READABLE, operations.READABLE, operations.WRITABLE | operations.READABLE) * 3:
            theirs.sendall(b"x")
            await operations.StreamWait(stream, interest, None)
            ours.recv(1)
            written += bool(interest & operations.WRITABLE)

    async def pause(self: Any, deadline: float | None) -> None:
        pauses.append(written)

    monkeypatch.setattr(operations, "exchange", steps)
    monkeypatch.setattr(aio.Run, "_let_more_come", pause)

    async def main() -> None:
        driver = new_driver()
        await driver.run(perform(Exchange(stream, Session(timeouts=Timeouts()))))
        await driver.run(perform(Close(stream)))
        await driver.aclose()

    run(main())
    theirs.close()
    assert (written, pauses) == (3, [])
