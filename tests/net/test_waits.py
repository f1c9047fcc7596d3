"""What the drivers share, without a driver: the test waits in their place."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.patience import LIMIT

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.effects import Connect, StartTLS
from zsmtp.errors import Interrupted, ServiceClosing, WaitTimeout
from zsmtp.events import ignore
from zsmtp.net import operations
from zsmtp.net.identity import parse_identity
from zsmtp.net.operations import READABLE, WRITABLE, SocketsWait, StreamWait
from zsmtp.net.transport import SocketStream
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, Timeouts
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, Flow, plan_transaction
from zsmtp.proto.session import Lost, Session
from zsmtp.proto.session import StepAnswered as Heard
from zsmtp.tls.context import ContextOptions, WebContextOptions
from zsmtp.tls.policy import Level, Requirement
from zsmtp.tls.resume import ResumableSession, Resumption, SessionCache, SessionKey


@dataclass
class Told:
    requested: bool = False
    at_once: bool = False
    reason: str = "enough"


@pytest.fixture
def pair() -> Iterator[tuple[SocketStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        theirs.settimeout(20)
        yield SocketStream(ours, Family.UNIX), theirs


def clock() -> float:
    return 1000.0


def test_a_stop_leaves_the_final_reply_its_time_unless_it_is_at_once(
    pair: tuple[SocketStream, socket.socket],
) -> None:
    stream, theirs = pair
    session = Session(timeouts=Timeouts())
    form = ContentForm(3, 0, None, lambda: iter([b"x\r\n.\r\n"]), lambda: iter([b"x\r\n"]))
    transaction = plan_transaction(Envelope(b"", (EnvelopeRecipient(b"r@example.org"),)), form, Capabilities())
    session.transact(transaction)
    theirs.sendall(b"220 mx\r\n")
    stop = Told()
    steps = operations.exchange(stream, session, clock, stop)
    assert steps.send(None) == StreamWait(stream, READABLE, 1000.0 + Timeouts().command)
    for reply in (b"250 sender\r\n", b"250 recipient\r\n", b"354 go\r\n"):
        with pytest.raises(StopIteration) as end:
            steps.send(READABLE)
        assert isinstance(end.value.value, Heard)
        steps = operations.exchange(stream, session, clock, stop)
        assert steps.send(None).interest == READABLE  # what there was to write is out
        theirs.sendall(reply)
    with pytest.raises(StopIteration):
        steps.send(READABLE)
    steps = operations.exchange(stream, session, clock, stop)
    assert steps.send(None).interest == READABLE  # the dot is out
    stop.requested = True
    assert steps.send(0).interest == READABLE
    stop.at_once = True
    with pytest.raises(StopIteration) as end:
        steps.send(0)
    lost = end.value.value
    assert isinstance(lost, Lost)
    assert isinstance(lost.error, Interrupted)
    assert str(lost.error) == "enough"
    assert lost.in_doubt == (transaction,)


@pytest.mark.parametrize(("later", "at_once"), [(0.0005, True), (0.5, False)])
def test_only_right_behind_a_reply_nobody_is_asked_before_writing(
    pair: tuple[SocketStream, socket.socket], later: float, at_once: bool
) -> None:
    """What a server says unasked while nobody listens must be read before the next command is written."""
    stream, theirs = pair
    session = Session(timeouts=Timeouts())
    now = 1000.0
    theirs.sendall(b"220 mx\r\n")
    steps = operations.exchange(stream, session, lambda: now, Told())
    steps.send(None)
    with pytest.raises(StopIteration):
        steps.send(READABLE)
    session.command(Phase.NOOP, b"NOOP\r\n")
    now += later
    steps = operations.exchange(stream, session, lambda: now, Told())
    assert steps.send(None).interest == (READABLE if at_once else READABLE | WRITABLE)
    theirs.setblocking(False)
    if at_once:
        assert theirs.recv(100) == b"NOOP\r\n"
        return
    theirs.sendall(b"421 too slow\r\n")
    with pytest.raises(StopIteration) as end:
        steps.send(READABLE | WRITABLE)
    assert isinstance(end.value.value, Lost)
    assert isinstance(end.value.value.error, ServiceClosing)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


@pytest.mark.parametrize("unasked", [True, False], ids=["whole message", "envelope first"])
def test_a_whole_message_is_not_written_before_it_is_known_that_the_peer_still_listens(
    pair: tuple[SocketStream, socket.socket], unasked: bool
) -> None:
    """A server that closes behind its last reply must not leave a message in doubt that it never read."""
    stream, theirs = pair
    session = Session(timeouts=Timeouts())
    form = ContentForm(3, 0, None, lambda: iter([b"x\r\n.\r\n"]), lambda: iter([b"x\r\n"]))
    offered = Capabilities(pipelining=True, chunking=True)
    flow = Flow.BLIND if unasked else Flow.RIDING
    transaction = plan_transaction(Envelope(b"", (EnvelopeRecipient(b"r@example.org"),)), form, offered, flow)
    theirs.sendall(b"220 mx\r\n")
    steps = operations.exchange(stream, session, clock, Told())
    steps.send(None)
    with pytest.raises(StopIteration):
        steps.send(READABLE)
    session.transact(transaction)
    steps = operations.exchange(stream, session, clock, Told())
    assert steps.send(None).interest == (READABLE | WRITABLE if unasked else READABLE)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(StopIteration) as end:
        steps.send(READABLE | WRITABLE)
    assert isinstance(end.value.value, Lost)
    assert end.value.value.in_doubt == ()
    theirs.setblocking(False)
    if unasked:
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
    else:
        assert theirs.recv(100) == b"MAIL FROM:<>\r\nRCPT TO:<r@example.org>\r\n"


def step(stream: SocketStream, session: Session, answers: list[int]) -> tuple[list[StreamWait], object]:
    """One exchange: what is waited for as long as ``answers`` tell that it is there, and the event it ends with."""
    steps = operations.exchange(stream, session, clock, Told())
    seen: list[StreamWait] = []
    try:
        wait = steps.send(None)
        for answer in answers:
            seen.append(wait)
            wait = steps.send(answer)
        seen.append(wait)
    except StopIteration as end:
        return seen, end.value
    return seen, None


@pytest.mark.parametrize("surplus", [b"", b"250 too many\r\n"])
def test_before_the_first_chunk_of_a_session_it_is_listened_for_a_reply_too_many(
    pair: tuple[SocketStream, socket.socket], surplus: bytes
) -> None:
    """It would pass for the receipt of the message."""
    stream, theirs = pair
    session = Session(timeouts=Timeouts())
    form = ContentForm(3, 0, None, lambda: iter([b"x\r\n.\r\n"]), lambda: iter([b"x\r\n"]))
    offered = Capabilities(pipelining=True, chunking=True)
    envelope = Envelope(b"", (EnvelopeRecipient(b"r@example.org"),))
    theirs.sendall(b"220 mx\r\n")
    step(stream, session, [READABLE])
    for number in range(2):
        session.transact(plan_transaction(envelope, form, offered, Flow.RIDING))
        step(stream, session, [])
        theirs.sendall(b"250 ok\r\n250 ok\r\n")
        step(stream, session, [READABLE])  # MAIL is answered, but nothing is told before RSET is
        if number == 0:
            theirs.sendall(surplus)
            seen, event = step(stream, session, [READABLE] if surplus else [0])
            listening = StreamWait(stream, READABLE, clock() + operations.LISTENING)
            assert listening in seen
            if surplus:
                assert isinstance(event, Lost)
                assert (event.in_doubt, event.in_step) == ((), False)
                theirs.setblocking(False)
                assert theirs.recv(100) == b"MAIL FROM:<>\r\nRCPT TO:<r@example.org>\r\n"
                return
        theirs.sendall(b"250 taken\r\n250 reset\r\n")
        while session.next_event() is not None or not session.idle:
            seen, _ = step(stream, session, [READABLE])
            assert number == 0 or all(one.deadline != clock() + operations.LISTENING for one in seen)


def wait_until_gone(sock: socket.socket) -> None:
    """Wait until it is known here that the peer has closed or reset the connection."""
    poll = select.poll()
    poll.register(sock, 0)  # POLLHUP and POLLERR are always waited for
    assert poll.poll(LIMIT * 1000)


@pytest.mark.parametrize(
    ("last", "reset", "problem"),
    [
        (b"421 enough\r\n", False, "the peer closes the connection: 421 enough"),
        (b"421 enough\r\n", True, "the peer closes the connection: 421 enough"),
        (b"", False, "the peer closed the connection"),
        (b"", True, "connection lost: Connection reset by peer"),
        (b"250-unfi", False, "connection lost: Broken pipe"),
    ],
)
@pytest.mark.parametrize("looked", [False, True], ids=["at once", "looked before"])
def test_what_a_peer_said_before_it_went_is_heard_although_the_write_behind_its_reply_failed(
    last: bytes, reset: bool, problem: str, looked: bool
) -> None:
    """UNIX sockets refuse to be written to at once, TCP after a reset; what came before can still be read.

    Also if the peer went after it was looked whether the socket can be written to.
    """
    now = 1000.0
    if reset:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = SocketStream(ours, Family.UNIX)
        session = Session(timeouts=Timeouts())
        theirs.sendall(b"220 mx\r\n")
        steps = operations.exchange(stream, session, lambda: now, Told())
        steps.send(None)
        select.select([ours], [], [], 20)
        with pytest.raises(StopIteration):
            steps.send(READABLE)
        session.command(Phase.NOOP, b"NOOP\r\n")
        steps = operations.exchange(stream, session, lambda: now, Told())
        if looked:
            now += 1.0  # too late to write at once
            assert steps.send(None).interest == READABLE | WRITABLE
        theirs.sendall(last)
        theirs.close()
        wait_until_gone(ours)
        with pytest.raises(StopIteration) as end:
            steps.send(WRITABLE) if looked else steps.send(None)
    assert isinstance(end.value.value, Lost)
    assert str(end.value.value.error) == problem


def test_a_full_socket_is_waited_for_and_not_tried_again_and_again(pair: tuple[SocketStream, socket.socket]) -> None:
    stream, theirs = pair
    session = Session(timeouts=Timeouts())
    theirs.sendall(b"220 mx\r\n")
    steps = operations.exchange(stream, session, clock, Told())
    steps.send(None)
    with pytest.raises(StopIteration):
        steps.send(READABLE)
    while stream.send(memoryview(bytes(1 << 16))):
        pass
    session.command(Phase.NOOP, b"NOOP\r\n")
    steps = operations.exchange(stream, session, clock, Told())
    assert steps.send(None).interest == READABLE | WRITABLE


def test_a_handshake_has_its_time_and_no_more(pair: tuple[SocketStream, socket.socket]) -> None:
    times = iter([0.0, 3.0, 7.0])
    effect = StartTLS(pair[0], ContextOptions(), "mx.example.org", 5.0)
    steps = operations.start_tls(effect, lambda: next(times), Told())
    assert steps.send(None) == StreamWait(pair[0], READABLE, 5.0)
    steps.send(0)
    with pytest.raises(StopIteration) as end:
        steps.send(0)
    result = end.value.value
    assert (result.stream, result.error, result.interrupted) == (None, "the TLS handshake took too long", False)
    assert result.timed_out


def test_files_of_this_side_that_cannot_be_used_say_nothing_of_the_peer(
    pair: tuple[SocketStream, socket.socket], tmp_path: Path
) -> None:
    options = WebContextOptions(str(tmp_path / "missing.pem"))
    with pytest.raises(StopIteration) as end:
        operations.start_tls(StartTLS(pair[0], options, "www.example.org", 5.0), clock, Told()).send(None)
    result = end.value.value
    assert (result.stream, result.own, result.untrusted) == (None, True, False)
    assert result.error == f"no CA certificates to verify with ({tmp_path}/missing.pem): No such file or directory"


def test_a_stop_ends_a_handshake(pair: tuple[SocketStream, socket.socket]) -> None:
    stop = Told()
    steps = operations.start_tls(StartTLS(pair[0], ContextOptions(), "", 5.0), clock, stop)
    steps.send(None)
    stop.requested = True
    with pytest.raises(StopIteration) as end:
        steps.send(0)
    assert end.value.value.interrupted
    assert not end.value.value.timed_out


@pytest.mark.parametrize("stopped", [True, False])
def test_a_session_to_take_up_is_dropped_for_a_handshake_that_failed_and_not_for_one_that_was_stopped(
    pair: tuple[SocketStream, socket.socket], *, stopped: bool
) -> None:
    cache = SessionCache()
    key = SessionKey("192.0.2.1", 25, "mx.example.org", ContextOptions(), Requirement(level=Level.MAY, reason="x"))
    cache.put(key, ResumableSession("no session", (), 1000.0))
    stop = Told()
    effect = StartTLS(pair[0], ContextOptions(), "mx.example.org", 5.0, resumption=Resumption(cache, key))
    steps = operations.start_tls(effect, clock, stop)
    steps.send(None)
    stop.requested = stopped
    pair[1].sendall(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(StopIteration) as end:
        steps.send(READABLE)
    assert (end.value.value.interrupted, len(cache)) == (stopped, int(stopped))


def test_a_race_that_is_given_up_closes_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "begin_connect", lambda sock, endpoint: False)
    endpoint = Endpoint("mx.example.org", "127.0.0.1", 25, Family.INET)
    steps = operations.connect(Connect((endpoint,), 30.0), operations.LocalBinding(), clock, Told(), ignore)
    wait = steps.send(None)
    assert isinstance(wait, SocketsWait)
    assert wait.deadline == 1030.0
    steps.close()
    assert [sock.fileno() for sock in wait.sockets] == [-1]


def test_an_identity_that_is_a_name_is_looked_up_before_the_race() -> None:
    endpoint = Endpoint("mx.example.org", "127.0.0.1", 25, Family.INET)
    source = operations.LocalBinding(parse_identity("out.example.org"))
    steps = operations.connect(Connect((endpoint,), 30.0), source, clock, Told(), ignore)
    assert steps.send(None) == Query("out.example.org", RecordType.A)
    nothing = Answer(Query("out.example.org", RecordType.A), Status.NXDOMAIN)
    assert steps.send(nothing) == Query("out.example.org", RecordType.AAAA)
    with pytest.raises(StopIteration) as end:
        steps.send(nothing)
    ((where, why),) = end.value.value.failures
    assert where == endpoint
    assert "the name has no address now" in why


def test_the_time_for_lookups() -> None:
    query = Query("example.org", RecordType.MX)
    assert operations.lookup_deadline(query, 10.0, 60.0, Told()) == 25.0
    assert operations.lookup_deadline(query, 50.0, 60.0, Told()) == 60.0
    late = operations.lookup_deadline(query, 60.0, 60.0, Told())
    assert isinstance(late, Answer)
    assert late.status is Status.TIMEOUT
    told = operations.lookup_deadline(query, 10.0, 60.0, Told(requested=True))
    assert isinstance(told, Answer)
    assert told.problem == "enough"


def test_a_reply_that_came_in_time_counts_however_late_it_is_read(pair: tuple[SocketStream, socket.socket]) -> None:
    """This side was busy meanwhile: with a large message, or with a thousand others."""
    stream, theirs = pair
    theirs.sendall(b"220 here\r\n")
    session = Session(timeouts=Timeouts(command=300.0))
    session.data_to_send(1000.0)  # the wait has begun
    work = operations.exchange(stream, session, lambda: 2000.0, Told())
    wait = work.send(None)
    assert wait == StreamWait(stream, READABLE, 2000.0)
    with pytest.raises(StopIteration) as end:
        work.send(READABLE)
    assert isinstance(end.value.value, Heard)
    work.close()


@pytest.mark.parametrize("octets", [b"", b"22"], ids=["nothing", "no whole reply"])
def test_a_reply_that_did_not_come_in_time_is_too_late(pair: tuple[SocketStream, socket.socket], octets: bytes) -> None:
    stream, theirs = pair
    theirs.sendall(octets)
    session = Session(timeouts=Timeouts(command=300.0))
    session.data_to_send(1000.0)
    work = operations.exchange(stream, session, lambda: 2000.0, Told())
    work.send(None)
    with pytest.raises(StopIteration) as end:
        work.send(READABLE if octets else 0)
    assert isinstance(end.value.value, Lost)
    assert isinstance(end.value.value.error, WaitTimeout)
    work.close()
