"""The TLS layer: against a server in memory for every cut and pause, against real sockets for real peers."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.tls.certificates import issue

from zsmtp.dns.candidates import Family
from zsmtp.errors import ConnectionLost, LocalError, TLSBroken, TLSError
from zsmtp.net.tlslayer import MAX_HANDSHAKE, HandshakeStep, TLSLayer
from zsmtp.net.transport import SocketStream
from zsmtp.tls.context import ClientCertificate, ContextOptions, Strength, client_context
from zsmtp.tls.resume import ResumableSession

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
TODAY = time.time()
ROOT = issue("root", ca=True, now=TODAY)
INTER = issue("inter", by=ROOT, ca=True, now=TODAY)
LEAF = issue("mx", by=INTER, names=["mx.example.org"], now=TODAY)
CONTEXT = client_context(ContextOptions())


def context_of_server(maximum: ssl.TLSVersion = V13) -> ssl.SSLContext:
    """For tests that cannot take the fixture: those with many examples, and those of one protocol only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(LEAF.pem)
        file.flush()
        context.load_cert_chain(file.name)
    context.maximum_version = maximum
    return context


PROPERTY_CONTEXT = context_of_server()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "mx.pem"
    path.write_bytes(LEAF.pem)
    return path


@pytest.fixture(scope="module", params=[V12, V13], ids=["TLSv1.2", "TLSv1.3"])
def server_context(request: pytest.FixtureRequest, certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = request.param
    return context


# --------------------------------------------------------------- in memory


class MemoryStream:
    """A stream whose other end is in the test: ``inbox`` holds what receive() gives, ``room`` what send() takes."""

    def __init__(self) -> None:
        self.local: tuple[str, int] | None = ("192.0.2.99", 40000)
        self.inbox: deque[bytes | Exception] = deque()
        self.outbox = bytearray()
        self.room: int | None = None
        self.send_error: Exception | None = None
        self.closed = False

    def fileno(self) -> int:
        return -1 if self.closed else 7

    def receive(self) -> bytes | None:
        data = self.inbox.popleft() if self.inbox else None
        if isinstance(data, Exception):
            raise data
        return data

    def send(self, data: memoryview) -> int:
        if self.send_error is not None:
            raise self.send_error
        taken = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= taken
        self.outbox += data[:taken]
        return taken

    def close(self) -> None:
        self.closed = True


class MemoryServer:
    """A TLS server without a network. :meth:`turn` reads what the client sent and puts the answer in its inbox."""

    def __init__(self, stream: MemoryStream, context: ssl.SSLContext, *, cut: int | None = None) -> None:
        self._stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._cut = cut
        self._ready = False
        self.received = bytearray()
        self.ended = False

    def turn(self) -> None:
        self._in.write(bytes(self._stream.outbox))
        self._stream.outbox.clear()
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self._ready:
                self.tls.do_handshake()
                self._ready = True
            while data := self.tls.read(65536):
                self.received += data
            self.ended = True
        self.deliver()

    def deliver(self) -> None:
        data = self._out.read()
        step = self._cut or len(data) or 1
        self._stream.inbox.extend(data[start : start + step] for start in range(0, len(data), step))

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.deliver()

    def bid_farewell(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.deliver()


def connect(
    context: ssl.SSLContext,
    *,
    cut: int | None = None,
    resume: ResumableSession | None = None,
    server_name: str = "mx.example.org",
) -> tuple[TLSLayer, MemoryServer, MemoryStream]:
    stream = MemoryStream()
    server = MemoryServer(stream, context, cut=cut)
    layer = TLSLayer(stream, CONTEXT, server_name=server_name, resume=resume)
    assert layer.handshake_step() is HandshakeStep.WANT_READ
    for _ in range(4):
        server.turn()
        step = layer.handshake_step()
        if step is HandshakeStep.DONE:
            break
        assert step is HandshakeStep.WANT_READ
    server.turn()
    return layer, server, stream


def drain(layer: TLSLayer, stream: MemoryStream) -> bytes:
    """Everything receive() has to give now; the end of the stream shows as a final "|"."""
    heard = b""
    while layer.pending or stream.inbox:
        data = layer.receive()
        if data == b"":
            return heard + b"|"
        heard += data or b""
    return heard


def test_a_session(server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context)
    assert layer.local == ("192.0.2.99", 40000)
    assert layer.fileno() == 7
    assert layer.send(memoryview(b"EHLO there\r\n")) == 12
    server.turn()
    assert server.received == b"EHLO there\r\n"
    server.say(b"250 fine\r\n")
    assert drain(layer, stream) == b"250 fine\r\n"
    assert layer.receive() is None
    layer.close()
    server.turn()
    assert (server.ended, stream.closed) == (True, True)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_every_cut_of_the_wire_gives_the_same(cut: int, server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context, cut=cut)
    layer.send(memoryview(b"EHLO\r\n"))
    server.turn()
    server.say(b"250 fine\r\n")
    server.bid_farewell()
    assert server.received == b"EHLO\r\n"
    assert drain(layer, stream) == b"250 fine\r\n|"
    assert drain(layer, stream) == b"|"  # the end stays the end


def test_facts(server_context: ssl.SSLContext) -> None:
    facts = connect(server_context)[0].facts()
    assert facts.protocol == ("TLSv1.2" if server_context.maximum_version is V12 else "TLSv1.3")
    assert facts.chain == (LEAF.der, INTER.der)
    assert facts.cipher.startswith(("TLS_", "ECDHE-"))
    assert facts.bits in (128, 256)
    assert facts.key_exchange
    assert (facts.server_name, facts.resumed) == ("mx.example.org", False)


@pytest.mark.parametrize("known", [True, False])
def test_what_a_login_can_be_bound_to(
    server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """RFC 9266: where this Python can tell, and for TLS 1.3 alone."""
    layer, _, _ = connect(server_context)
    monkeypatch.setattr(ssl, "CHANNEL_BINDING_TYPES", ["tls-unique", "tls-exporter"] if known else ["tls-unique"])
    tell = lambda self, cb_type="tls-unique": b"k" * 32 if cb_type == "tls-exporter" else b"u"  # noqa: E731
    monkeypatch.setattr(ssl.SSLObject, "get_channel_binding", tell)
    newest = layer.facts().protocol == "TLSv1.3"
    assert layer.exporter == (b"k" * 32 if known and newest else b"")


@pytest.mark.parametrize("name", ["mx.example.org", ""])
def test_the_server_hears_the_name_if_there_is_one(name: str, server_context: ssl.SSLContext) -> None:
    heard: list[str | None] = []
    server_context.sni_callback = lambda tls, name, context: heard.append(name)
    try:
        connect(server_context, server_name=name)
    finally:
        server_context.sni_callback = None
    assert heard == [name or None]


@pytest.mark.parametrize("name", [".example.org", "a..b", "x" * 300, "a\0b"])
def test_names_that_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(TLSError, match="no TLS with the name"):
        TLSLayer(MemoryStream(), CONTEXT, server_name=name)


# ------------------------------------------------------------------- sending


def test_nothing_counts_as_sent_before_its_records_have_left(server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context)
    stream.room = 10
    data = memoryview(b"MAIL FROM:<>\r\n")
    assert layer.send(data) == 0
    assert not layer.wants_write, "whoever has something to send waits for writing anyway"
    stream.room = 1
    assert layer.send(data) == 0
    stream.room = None
    assert layer.send(data) == len(data)
    assert not layer.wants_write
    server.turn()
    assert server.received == data


@settings(max_examples=examples(30))
@given(
    sizes=st.lists(st.integers(1, 200_000), min_size=1, max_size=4),
    rooms=st.lists(st.integers(0, 60_000), min_size=1, max_size=40),
)
def test_every_octet_counted_has_arrived_and_every_other_has_not(sizes: list[int], rooms: list[int]) -> None:
    layer, server, stream = connect(PROPERTY_CONTEXT)
    whole = bytes(number % 251 for number in range(sum(sizes)))
    counted, start = 0, 0
    pauses = iter(rooms)
    for size in sizes:
        block = memoryview(whole)[start : start + size]
        while block:
            stream.room = next(pauses, None)
            sent = layer.send(block)
            assert 0 <= sent <= len(block)
            counted += sent
            block = block[sent:]
            server.turn()
            assert len(server.received) == counted, "what can be decrypted has left completely, and nothing else has"
        start += size
    assert server.received == whole
    assert counted == len(whole)


def stuck(server_context: ssl.SSLContext) -> tuple[TLSLayer, MemoryServer, MemoryStream]:
    """A layer whose last record, with the end of a message, left in part only; then there is room again."""
    layer, server, stream = connect(server_context)
    stream.room = 20
    assert layer.send(memoryview(b"the end\r\n.\r\n")) == 0
    stream.room = None
    return layer, server, stream


def test_what_is_not_counted_does_not_leave_while_closing(server_context: ssl.SSLContext) -> None:
    """Its message was given up, and will be sent again."""
    layer, server, stream = stuck(server_context)
    layer.close()
    server.turn()
    assert stream.closed
    assert server.received == b""
    assert not server.ended, "cut off"


def test_what_is_not_counted_does_not_leave_while_reading(server_context: ssl.SSLContext) -> None:
    """Else the answer might be there before it is known that the end has left."""
    layer, server, stream = stuck(server_context)
    server.say(b"250 the one before\r\n")
    assert drain(layer, stream) == b"250 the one before\r\n"
    assert not layer.wants_write, "only who sends on makes it leave"
    layer.flush()
    server.turn()
    assert server.received == b""
    assert layer.send(memoryview(b"the end\r\n.\r\n")) == 12
    server.turn()
    assert server.received == b"the end\r\n.\r\n"


def test_what_left_before_the_connection_broke_is_counted(server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context)

    def send(data: memoryview) -> int:
        if stream.outbox:
            raise ConnectionLost("connection lost: Connection reset by peer")
        stream.outbox += data[: 16384 + 100]
        return 16384 + 100

    stream.send = send  # type: ignore[method-assign]
    data = memoryview(b"x" * 16381 + b".\r\n" + b"y" * 16384)
    assert layer.send(data) == 16384
    with pytest.raises(ConnectionLost):
        layer.send(data[16384:])
    server.turn()
    assert server.received == data[:16384]


def test_octets_in_flight_must_be_given_again(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    stream.room = 5
    layer.send(memoryview(b"x" * 100))
    with pytest.raises(LocalError):
        layer.send(memoryview(b"x" * 99))


def test_sending_nothing(server_context: ssl.SSLContext) -> None:
    layer, _, _ = connect(server_context)
    assert layer.send(memoryview(b"")) == 0
    layer.flush()
    assert not layer.wants_write


def test_a_connection_lost_while_sending(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    stream.send_error = ConnectionLost("connection lost: Broken pipe")
    with pytest.raises(ConnectionLost, match="Broken pipe"):
        layer.send(memoryview(b"x"))
    layer.close()  # no exception, although close_notify cannot be said
    assert stream.closed


# ----------------------------------------------------------------- receiving


def test_a_stream_that_merely_ends_was_cut_off(server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context)
    drain(layer, stream)  # tickets of TLS 1.3
    server.say(b"250 fi")
    stream.inbox.append(b"")
    assert layer.receive() == b"250 fi"
    with pytest.raises(TLSBroken, match="without the peer's close_notify"):
        drain(layer, stream)
    with pytest.raises(TLSBroken):
        layer.receive()


def test_what_came_before_a_bad_record_is_given_out_first(server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context)
    drain(layer, stream)
    server.say(b"250 fine\r\n")
    good = b"".join(data for data in stream.inbox if isinstance(data, bytes))
    stream.inbox.clear()
    stream.inbox.append(good + b"\x17\x03\x03\x00\x20" + bytes(32))
    assert layer.receive() == b"250 fine\r\n"
    assert layer.pending
    with pytest.raises(TLSBroken, match="TLS failed"):
        layer.receive()
    layer.close()


def test_clear_text_after_the_handshake_is_a_bad_record(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)
    stream.inbox.append(b"250 trust me\r\n")
    with pytest.raises(TLSBroken):
        drain(layer, stream)


def test_an_alert_that_cannot_leave_waits(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)
    stream.room = 0
    stream.inbox.append(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TLSBroken):
        layer.receive()
    assert layer.wants_write


def test_a_connection_lost_while_reading(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)
    stream.inbox.append(ConnectionLost("connection lost: Connection reset by peer"))
    with pytest.raises(ConnectionLost, match="reset"):
        layer.receive()


def test_large_answers_leave_nothing_behind(server_context: ssl.SSLContext) -> None:
    layer, server, stream = connect(server_context)
    server.say(b"x" * 16000)
    server.say(b"y" * 16000)
    joined = b"".join(data for data in stream.inbox if isinstance(data, bytes))
    stream.inbox.clear()
    stream.inbox.append(joined)
    assert layer.receive() == b"x" * 16000 + b"y" * 16000
    assert not layer.pending


def test_what_comes_along_with_the_end_of_the_handshake_is_pending() -> None:
    """With implicit TLS the greeting may stand right behind the server's Finished: the descriptor says nothing."""
    stream = MemoryStream()
    server = MemoryServer(stream, context_of_server(V12))
    layer = TLSLayer(stream, CONTEXT)
    for _ in range(2):
        layer.handshake_step()
        server.turn()
    server.say(b"220 hello\r\n")
    joined = b"".join(data for data in stream.inbox if isinstance(data, bytes))
    stream.inbox.clear()
    stream.inbox.append(joined)
    assert layer.handshake_step() is HandshakeStep.DONE
    assert layer.pending
    assert layer.receive() == b"220 hello\r\n"
    assert not layer.pending


# ----------------------------------------------------------------- handshake


def test_a_handshake_that_cannot_write_says_so(server_context: ssl.SSLContext) -> None:
    stream = MemoryStream()
    stream.room = 10
    layer = TLSLayer(stream, CONTEXT)
    assert layer.handshake_step() is HandshakeStep.WANT_WRITE
    stream.room = 10_000
    assert layer.handshake_step() is HandshakeStep.WANT_READ


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"454 TLS not available\r\n", "is no TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "handshake failure"),
        (b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00", "TLS handshake failed"),
        (bytes(100), "TLS handshake failed"),
        (b"", "the peer closed the connection"),
    ],
)
def test_answers_that_end_the_handshake(answer: bytes, words: str) -> None:
    stream = MemoryStream()
    stream.inbox.append(answer)
    layer = TLSLayer(stream, CONTEXT)
    with pytest.raises(TLSError, match=words):
        layer.handshake_step()
    layer.close()
    assert stream.closed


def test_a_reset_in_the_handshake() -> None:
    stream = MemoryStream()
    stream.inbox.append(ConnectionLost("connection lost: Connection reset by peer"))
    with pytest.raises(TLSError, match="handshake failed: connection lost"):
        TLSLayer(stream, CONTEXT).handshake_step()


def test_a_handshake_without_end() -> None:
    """HelloRequest is to be ignored while a handshake goes on (RFC 5246 7.4.1.1): a server could say it for ever."""
    stream = MemoryStream()
    some = b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 1000
    stream.inbox.extend([some] * (MAX_HANDSHAKE // len(some) + 100))
    with pytest.raises(TLSError, match="does not come to an end"):
        TLSLayer(stream, CONTEXT).handshake_step()
    assert len(stream.inbox) >= 99


@given(st.lists(st.binary(max_size=400), max_size=5))
def test_noise_ends_the_handshake_or_waits(noise: list[bytes]) -> None:
    stream = MemoryStream()
    stream.inbox.extend(noise)
    words = ""
    try:
        assert TLSLayer(stream, CONTEXT).handshake_step() is HandshakeStep.WANT_READ
    except TLSError as error:
        words = str(error)
    assert words.isprintable()


# ---------------------------------------------------------------- resumption


def kept(layer: TLSLayer) -> ResumableSession:
    session = layer.session()
    assert session is not None
    return ResumableSession(session, layer.facts().chain, since=0.0)


def test_a_session_is_resumed_with_the_chain_it_had(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)  # tickets of TLS 1.3
    first = kept(layer)
    again, server, stream = connect(server_context, resume=first)
    facts = again.facts()
    assert facts.resumed
    assert facts.chain == first.chain == (LEAF.der, INTER.der)
    again.send(memoryview(b"EHLO\r\n"))
    server.turn()
    assert server.received == b"EHLO\r\n"
    drain(again, stream)
    assert connect(server_context, resume=kept(again))[0].facts().resumed


def test_a_server_that_does_not_know_the_session_shows_its_certificates(
    server_context: ssl.SSLContext, certificate: Path
) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(certificate)
    facts = connect(other, resume=kept(layer))[0].facts()
    assert (facts.resumed, facts.chain) == (False, (LEAF.der, INTER.der))


def test_a_session_that_belongs_to_another_chain_is_refused(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)
    forged = ResumableSession(layer.session(), (ROOT.der,), since=0.0)
    again = connect(server_context, resume=forged)[0]
    with pytest.raises(TLSError, match="another certificate"):
        again.facts()


def test_a_session_of_another_context_costs_a_full_handshake(server_context: ssl.SSLContext) -> None:
    layer, _, stream = connect(server_context)
    drain(layer, stream)
    stream = MemoryStream()
    server = MemoryServer(stream, server_context)
    mandatory = client_context(ContextOptions(strength=Strength.MANDATORY))
    again = TLSLayer(stream, mandatory, server_name="mx.example.org", resume=kept(layer))
    while again.handshake_step() is not HandshakeStep.DONE:
        server.turn()
    assert (again.facts().resumed, again.facts().chain) == (False, (LEAF.der, INTER.der))


def test_without_a_ticket_there_is_nothing_to_resume(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.num_tickets = 0
    context.minimum_version = V13
    layer, _, stream = connect(context)
    drain(layer, stream)
    assert layer.session() is None


# -------------------------------------------------------------- real sockets


def wait_on(layer: TLSLayer, seconds: float = 20.0) -> Callable[[HandshakeStep], bool]:
    def wait(step: HandshakeStep) -> bool:
        readers = [layer] if step is HandshakeStep.WANT_READ else []
        writers = [layer] if step is HandshakeStep.WANT_WRITE else []
        return any(select.select(readers, writers, [], seconds))

    return wait


def handshake(layer: TLSLayer, wait: Callable[[HandshakeStep], bool]) -> None:
    while (step := layer.handshake_step()) is not HandshakeStep.DONE:
        assert wait(step), "the peer says nothing"


@contextlib.contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[SocketStream]:
    """A stream to a thread that behaves as told; the thread must come to an end by itself."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    ours.setblocking(False)
    stream = SocketStream(ours, Family.UNIX)

    def run() -> None:
        with theirs, contextlib.suppress(OSError):
            behave(theirs)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stream
    finally:
        stream.close()
        thread.join(30)
        assert not thread.is_alive()


def read_all(layer: TLSLayer) -> bytes:
    heard = b""
    while True:
        if not layer.pending:
            assert select.select([layer], [], [], 20)[0]
        data = layer.receive()
        if data == b"":
            return heard
        heard += data or b""


def read_until(layer: TLSLayer, wanted: bytes) -> bytes:
    heard = b""
    while wanted not in heard:
        assert layer.pending or select.select([layer], [], [], 20)[0]
        data = layer.receive()
        assert data != b""
        heard += data or b""
    return heard


def send_all(layer: TLSLayer, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[layer.send(rest) :]
        if rest:
            assert select.select([], [layer], [], 20)[1]


def test_a_megabyte_there_and_back(server_context: ssl.SSLContext) -> None:
    content = bytes(range(256)) * 4096

    def echo(sock: socket.socket) -> None:
        with server_context.wrap_socket(sock, server_side=True) as tls:
            heard = bytearray()
            while len(heard) < len(content):
                heard += tls.recv(65536)
            tls.sendall(heard)
            tls.unwrap()

    with peer(echo) as stream:
        layer = TLSLayer(stream, CONTEXT)
        handshake(layer, wait_on(layer))
        send_all(layer, content)
        assert read_all(layer) == content
        layer.close()


@pytest.mark.parametrize(("version", "floor", "agreed"), [(V12, "TLSv1.2", True), (V12, "TLSv1.3", False)])
def test_the_protocol_floor_holds(version: ssl.TLSVersion, floor: str, agreed: bool, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = version

    def greet(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"220")
            tls.unwrap()

    with peer(greet) as stream:
        layer = TLSLayer(stream, client_context(ContextOptions(min_protocol=floor)))
        if agreed:
            handshake(layer, wait_on(layer))
            assert read_all(layer) == b"220"
        else:
            with pytest.raises(TLSError, match="protocol"):
                handshake(layer, wait_on(layer))


@pytest.mark.filterwarnings("ignore:.*TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.parametrize("allowed", [True, False])
def test_protocols_of_old(version: ssl.TLSVersion, allowed: bool, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version

    def greet(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.unwrap()

    with peer(greet) as stream:
        options = ContextOptions(min_protocol="TLSv1") if allowed else ContextOptions()
        layer = TLSLayer(stream, client_context(options))
        if allowed:
            handshake(layer, wait_on(layer))
            assert layer.facts().protocol in ("TLSv1", "TLSv1.1")
        else:
            with pytest.raises(TLSError):
                handshake(layer, wait_on(layer))


@pytest.mark.parametrize("strength", Strength)
def test_a_certificate_is_shown_to_a_server_that_asks(
    strength: Strength, server_context: ssl.SSLContext, certificate: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(ssl.DER_cert_to_PEM_cert(ROOT.der).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(root)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = server_context.maximum_version
    seen: list[bytes | None] = []

    def ask(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            seen.append(tls.getpeercert(binary_form=True))
            tls.unwrap()

    with peer(ask) as stream:
        options = ContextOptions(certificates=(ClientCertificate(str(certificate)),), strength=strength)
        layer = TLSLayer(stream, client_context(options))
        handshake(layer, wait_on(layer))
        assert read_all(layer) == b""
    assert seen == [LEAF.der]


def say(data: bytes) -> Callable[[socket.socket], None]:
    def behave(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(data)

    return behave


@pytest.mark.parametrize("data", [b"", b"502 what?\r\n", b"\x16\x03", bytes(3000)])
def test_peers_that_answer_something_else(data: bytes) -> None:
    with peer(say(data)) as stream:
        layer = TLSLayer(stream, CONTEXT)
        with pytest.raises(TLSError):
            handshake(layer, wait_on(layer))


def test_a_peer_that_leaves_in_the_middle_of_the_handshake(server_context: ssl.SSLContext) -> None:
    def leave(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server_context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read()[:200])

    with peer(leave) as stream:
        layer = TLSLayer(stream, CONTEXT)
        with pytest.raises(TLSError, match="the peer closed the connection"):
            handshake(layer, wait_on(layer))


def test_a_peer_that_leaves_without_a_word(server_context: ssl.SSLContext) -> None:
    def leave(sock: socket.socket) -> None:
        tls = server_context.wrap_socket(sock, server_side=True)
        tls.sendall(b"220 ")
        os.close(tls.detach())

    with peer(leave) as stream:
        layer = TLSLayer(stream, CONTEXT)
        handshake(layer, wait_on(layer))
        assert read_until(layer, b"220 ") == b"220 "
        with pytest.raises(TLSBroken):
            read_until(layer, b"never said")


# ------------------------------------------------- what only OpenSSL's own server does


@contextlib.contextmanager
def s_server(certificate: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], TLSLayer]]:
    """openssl(1) as a server that does what its standard input says, and a layer connected to it."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl(1)")
    files = ("-cert", str(certificate), "-key", str(certificate))
    command = [program, "s_server", "-accept", "127.0.0.1:0", *files, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            port = next(int(line.rpartition(b":")[2]) for line in process.stdout if line.startswith(b"ACCEPT "))
            sock = socket.create_connection(("127.0.0.1", port), timeout=20)
            sock.setblocking(False)
            layer = TLSLayer(SocketStream(sock, Family.INET), CONTEXT)
            try:
                handshake(layer, wait_on(layer))
                yield process, layer
            finally:
                layer.close()
        finally:
            process.kill()
            process.communicate()


def command(process: subprocess.Popen[bytes], words: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(words)
    process.stdin.flush()


def test_new_keys_on_the_way(certificate: Path) -> None:
    """A server may ask for new keys at any time (RFC 8446 4.6.3); the answer leaves by itself."""
    with s_server(certificate) as (process, layer):
        assert process.stdout is not None
        command(process, b"hello\n")
        read_until(layer, b"hello\n")
        for turn in (b"one", b"two"):
            command(process, b"K\n")
            assert select.select([layer], [], [], 20)[0]
            assert layer.receive() is None  # KeyUpdate
            command(process, turn + b"\n")
            read_until(layer, turn + b"\n")
            assert not layer.wants_write
            send_all(layer, b"answer " + turn + b"\n")
            assert any(b"answer " + turn in line for line in process.stdout)


def test_a_new_handshake_on_the_way_is_refused(certificate: Path) -> None:
    """TLS 1.2 can renegotiate, with another certificate: what was judged must stay what is talked to."""
    with s_server(certificate, "-tls1_2") as (process, layer):
        command(process, b"r\n")
        with pytest.raises(TLSBroken):
            read_until(layer, b"never said")
        assert layer.facts().chain == (LEAF.der,)
