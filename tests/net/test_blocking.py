"""The blocking driver on real sockets of the loopback interface."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.network import content_form
from tests.support.script import Script, Step
from tests.support.sink import Sink, refusing_port

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import Close, Connect, ConnectResult, Exchange, OwnAddresses, ReadClock, Stream
from zsmtp.errors import ConnectError, Interrupted, WaitTimeout
from zsmtp.net import operations
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.net.race import SAME_HOST
from zsmtp.net.transport import SocketStream
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, Timeouts
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, plan_transaction
from zsmtp.proto.session import Lost, Session, SessionEvent
from zsmtp.proto.session import StepAnswered as Heard


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def driver(stop: Stop) -> BlockingDriver:
    return BlockingDriver(lambda: StaticResolver("mx.example.org A 192.0.2.1"), stop)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left(stop: Stop, driver: BlockingDriver) -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def inet(port: int, host: str = "mx.example.org") -> Endpoint:
    return Endpoint(host, "127.0.0.1", port, Family.INET)


async def perform(effect: Any) -> Any:
    return await effect


def connect(driver: BlockingDriver, *endpoints: Endpoint, timeout: float = 20.0) -> ConnectResult:
    result: ConnectResult = driver.run(perform(Connect(endpoints, timeout)))
    return result


def close(driver: BlockingDriver, stream: Stream | None) -> None:
    assert stream is not None
    driver.run(perform(Close(stream)))


def talk(driver: BlockingDriver, stream: Stream, session: Session) -> list[SessionEvent]:
    """All events until the session has nothing left to do."""

    async def work() -> list[SessionEvent]:
        events: list[SessionEvent] = []
        exchange: Exchange[SessionEvent] = Exchange(stream, session)
        while (event := await exchange) is not None:
            events.append(event)
        return events

    return driver.run(work())


def silent_connect(monkeypatch: pytest.MonkeyPatch, silent: set[int]) -> None:
    """Connecting to these ports never ends, as behind a firewall that drops packets."""
    real = operations.begin_connect

    def begin(sock: socket.socket, endpoint: Endpoint) -> bool:
        if endpoint.port not in silent:
            return real(sock, endpoint)
        # A listening socket never becomes writable, just like one whose SYN nobody answers.
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        return False

    monkeypatch.setattr(operations, "begin_connect", begin)


def test_a_connection_and_its_own_address(driver: BlockingDriver) -> None:
    with Sink() as sink:
        result = connect(driver, inet(sink.port))
        assert (result.endpoint, result.failures, result.interrupted) == (inet(sink.port), (), False)
        assert result.stream is not None
        assert result.stream.local is not None
        assert result.stream.local[0] == "127.0.0.1"
        close(driver, result.stream)


def test_a_refused_connection_goes_to_the_next_address(driver: BlockingDriver) -> None:
    with refusing_port() as closed, Sink() as sink:
        result = connect(driver, inet(closed), inet(sink.port))
        assert result.endpoint == inet(sink.port)
        assert result.failures == ((inet(closed), "Connection refused"),)
        close(driver, result.stream)


def test_an_unreachable_address_says_why(driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(sock: socket.socket, endpoint: Endpoint) -> bool:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(operations, "begin_connect", unreachable)
    result = connect(driver, inet(25))
    assert (result.stream, result.failures) == (None, ((inet(25), "No route to host"),))


@pytest.mark.parametrize(
    ("where", "error", "own"),
    [
        ("new_socket", OSError(errno.EMFILE, "Too many open files"), True),
        ("bind_socket", ConnectError("no local address"), True),
        ("begin_connect", OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), True),
        ("begin_connect", OSError(errno.ENETUNREACH, "Network is unreachable"), False),
        ("begin_connect", OSError(errno.ECONNREFUSED, "Connection refused"), False),
    ],
)
def test_whose_trouble_it_was_is_told(
    driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception, *, own: bool
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    with Sink() as sink:
        monkeypatch.setattr(operations, where, fail)
        result = connect(driver, inet(sink.port))
    assert [endpoint for endpoint, _ in result.failures] == [inet(sink.port)]
    assert result.own == ((inet(sink.port),) if own else ())


def test_the_clock_is_the_drivers(driver: BlockingDriver) -> None:
    before = time.monotonic()
    assert before <= driver.run(perform(ReadClock())) <= time.monotonic()


def test_nothing_to_connect_to(driver: BlockingDriver) -> None:
    assert connect(driver) == ConnectResult(None, None)


def test_the_next_address_starts_early_and_the_loser_is_closed_unspoken(
    driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sink() as sink:
        silent_connect(monkeypatch, {1})
        before = open_descriptors()
        result = connect(driver, inet(1), inet(sink.port))
        assert result.endpoint == inet(sink.port)
        assert result.failures == ()
        ((loser, seconds),) = result.overtaken
        assert loser == inet(1)
        assert SAME_HOST <= seconds < SAME_HOST + 60
        assert open_descriptors() <= before + 2, "the winner's socket and the server's end of it"
        close(driver, result.stream)
        sink.wait_until_finished()
        assert len(sink.connections) == 1
        assert sink.connections[0].lines == []


def test_a_silent_address_times_out(driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    silent_connect(monkeypatch, {1})
    result = connect(driver, inet(1), timeout=0.05)
    assert result.failures == ((inet(1), "Connection timed out"),)


def test_a_stop_ends_connecting(driver: BlockingDriver, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    silent_connect(monkeypatch, {1})
    timer = threading.Timer(0.05, stop.request)
    timer.start()
    result = connect(driver, inet(1))
    timer.join()
    assert result.interrupted
    assert result.stream is None


def test_a_unix_socket(driver: BlockingDriver, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    there, missing = (Endpoint(str(p), str(p), 0, Family.UNIX) for p in (path, tmp_path / "missing"))
    endless = Endpoint("x", "/" + "x" * 200, 0, Family.UNIX)
    with Sink(unix=path) as sink:
        result = connect(driver, endless, missing, there)
        assert result.stream is not None
        assert result.stream.local is None
        assert [endpoint for endpoint, _ in result.failures] == [endless, missing]
        assert result.failures[1][1] == "No such file or directory"
        assert isinstance(talk(driver, result.stream, Session(timeouts=Timeouts()))[0], Heard)
        close(driver, result.stream)
        sink.wait_until_finished()


def test_a_peer_that_stops_reading_until_its_replies_are_read_does_not_lock_up(driver: BlockingDriver) -> None:
    count = 20_000
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)

    def serve() -> None:
        """Answer each line before the next is read, with sends that block until the client reads."""
        theirs.sendall(b"220 hi\r\n")
        with theirs.makefile("rb") as lines:
            for line in lines:
                if line == b"DATA\r\n":
                    return  # the client hangs up without waiting for this answer
                theirs.sendall(b"250 " + b"x" * 60 + b"\r\n")

    server = threading.Thread(target=serve)
    server.start()
    session = Session(timeouts=Timeouts(write=60, command=60))
    recipients = tuple(EnvelopeRecipient(b"r%d@example.org" % i) for i in range(count))
    planned = plan_transaction(Envelope(b"", recipients), content_form(), Capabilities(pipelining=True))
    session.transact(planned)
    stream = SocketStream(ours, Family.UNIX)
    answered = 0

    async def work() -> None:
        nonlocal answered
        while answered < count + 1:
            event = await Exchange(stream, session)
            assert isinstance(event, Heard)
            answered += event.step.phase in (Phase.MAIL, Phase.RCPT)

    driver.run(work())
    close(driver, stream)
    theirs.shutdown(socket.SHUT_RDWR)
    server.join(60)
    theirs.close()
    assert answered == count + 1


def test_a_peer_that_says_nothing_is_given_up(driver: BlockingDriver) -> None:
    with Sink(Script(banner=Step(None))) as sink:
        result = connect(driver, inet(sink.port))
        assert result.stream is not None
        (lost,) = talk(driver, result.stream, Session(timeouts=Timeouts(command=0.05)))
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, WaitTimeout)
        close(driver, result.stream)


def test_a_stop_ends_an_exchange(driver: BlockingDriver, stop: Stop) -> None:
    with Sink(Script(banner=Step(None))) as sink:
        result = connect(driver, inet(sink.port))
        assert result.stream is not None
        timer = threading.Timer(0.05, stop.request)
        timer.start()
        (lost,) = talk(driver, result.stream, Session(timeouts=Timeouts()))
        timer.join()
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, Interrupted)
        close(driver, result.stream)


def test_a_stop_waits_for_a_final_reply(driver: BlockingDriver, stop: Stop) -> None:
    gate = threading.Event()
    with Sink(Script(caps=("PIPELINING",), replies={"DOT": (Step("250 taken", gate=gate),)})) as sink:
        result = connect(driver, inet(sink.port))
        assert result.stream is not None
        session = Session(timeouts=Timeouts())
        session.command(Phase.EHLO, command.hello(b"EHLO", b"client.example"))
        envelope = Envelope(b"", (EnvelopeRecipient(b"r@example.org"),))
        session.transact(plan_transaction(envelope, content_form(), Capabilities(pipelining=True)))

        def stop_then_answer() -> None:
            sink.wait_for(lambda s: any(t.complete for t in s.transactions))
            stop.request()
            gate.set()

        thread = threading.Thread(target=stop_then_answer)
        thread.start()
        events = talk(driver, result.stream, session)
        thread.join()
        codes = [(e.step.phase, e.reply.code) for e in events if isinstance(e, Heard)]
        assert codes[-1] == (Phase.CONTENT, 250)
        assert not any(isinstance(event, Lost) for event in events)
        close(driver, result.stream)


def test_waiting_for_input(driver: BlockingDriver, stop: Stop) -> None:
    reader, writer = os.pipe()
    try:
        assert os.get_blocking(reader)
        assert not driver.wait_for_input(reader, 0.0), "a deadline that is over"
        os.write(writer, b"x")
        assert driver.wait_for_input(reader, None)
        assert os.get_blocking(reader), "its mode is not ours to change"
        os.read(reader, 1)
        timer = threading.Timer(0.05, stop.request)
        timer.start()
        assert not driver.wait_for_input(reader, None)
        timer.join()
        os.write(writer, b"x")
        assert not driver.wait_for_input(reader, None), "after a stop no input is wanted"
    finally:
        os.close(reader)
        os.close(writer)


def test_waiting_for_input_ends_when_the_peer_stirs(driver: BlockingDriver) -> None:
    reader, writer = os.pipe()
    try:
        with Sink() as sink:
            result = connect(driver, inet(sink.port))
            assert result.stream is not None
            assert not driver.wait_for_input(reader, None, result.stream), "the greeting is there"
            os.write(writer, b"x")
            assert driver.wait_for_input(reader, None, result.stream)
            events = talk(driver, result.stream, Session(timeouts=Timeouts()))
            assert isinstance(events[0], Heard)
            close(driver, result.stream)
    finally:
        os.close(reader)
        os.close(writer)


def test_lookups_and_what_a_stop_does_to_them(driver: BlockingDriver, stop: Stop) -> None:
    query = Query("mx.example.org", RecordType.A)
    answer = driver.run(perform(query))
    assert (answer.status, answer.records) == (Status.OK, ("192.0.2.1",))
    assert "127.0.0.1" in driver.run(perform(OwnAddresses()))
    stop.request()
    stop.request()
    assert driver.run(perform(query)).status is Status.TIMEOUT


def test_all_lookups_of_one_piece_of_work_share_their_time(stop: Stop) -> None:
    now = 0.0
    asked: list[float] = []

    class Slow:
        def lookup(self, query: Query, deadline: float) -> Answer:
            nonlocal now
            asked.append(deadline - now)
            now = deadline
            return Answer(query, Status.TIMEOUT)

    async def work() -> None:
        for number in range(10):
            answer = await Query(f"{number}.example.org", RecordType.A)
            assert answer.status is Status.TIMEOUT

    BlockingDriver(Slow, stop, clock=lambda: now).run(work())
    assert asked == [15.0] * 4
    assert now == 60.0


@pytest.mark.parametrize("lingers", [False, True])
def test_what_was_put_off_is_done_before_a_wait(driver: BlockingDriver, lingers: bool) -> None:
    """Who may linger has it done only if nothing comes within a moment; what is ready needs no wait."""
    done: list[str] = []
    reader, writer = os.pipe()

    def put_off() -> None:
        done.append("put off")
        os.write(writer, b"x")  # nothing comes before

    driver.may_linger = lambda: lingers
    try:
        os.write(writer, b"x")
        driver.before_wait = lambda: done.append("put off")
        assert driver.wait_for_input(reader, None)
        assert done == ([] if lingers else ["put off"])
        os.read(reader, 1)
        done.clear()
        driver.before_wait = put_off
        assert driver.wait_for_input(reader, None)
        assert done == ["put off"]
        os.read(reader, 1)
        driver.before_wait = lambda: done.append("put off")
        assert not driver.wait_for_input(reader, time.monotonic() + 0.05)
        assert done == ["put off"] * 2
    finally:
        os.close(reader)
        os.close(writer)
