"""A listener on real sockets: clients of all kinds, addresses of all kinds, many connections, and how it stops."""

from __future__ import annotations

import asyncio
import os
import resource
import smtplib
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.patience import LIMIT
from tests.support.serving import (
    CHUNK,
    ENVELOPE,
    LOOPS,
    SETTINGS,
    TEXT,
    Committing,
    Message,
    RawClient,
    Serving,
    serving,
)

import zsmtp
from zsmtp.errors import ConfigError
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort, Ending
from zsmtp.proto.server_replies import OK, make_reply
from zsmtp.server.connection import _plain
from zsmtp.server.intake import (
    DiscardingIntake,
    IncomingMessage,
    MemoryIntake,
    PeerInfo,
    ReceivedEnvelope,
    SessionInfo,
)
from zsmtp.server.listener import ConnectionCount

LMTP = replace(SETTINGS, lmtp=True)


@pytest.mark.parametrize("loop", LOOPS)
def test_smtplib(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with serving(loop_factory=loop) as server, smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        refused = client.sendmail("a@example.net", ["b@example.org", "c@example.org"], "Subject: x\n\n.\n..hello\n")
        assert refused == {}
        client.sendmail("a@example.net", "b@example.org", b"x" * 300_000)
        first, second = server.intake.messages
    assert first.content == b"Subject: x\r\n\r\n.\r\n..hello\r\n"
    assert first.envelope.sender == b"a@example.net"
    assert first.envelope.recipients == [EnvelopeRecipient(b"b@example.org"), EnvelopeRecipient(b"c@example.org")]
    assert first.envelope.parameters.size == 26
    assert first.session.helo == b"client.example"
    assert first.session.protocol == "ESMTP"
    assert first.session.peer.address == "127.0.0.1"
    assert first.session.peer.local_port == server.port
    assert len(second.content) == 300_002
    assert server.intake.endings == [Ending.QUIT]
    assert server.errors == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("chunking", [True, False], ids=["CHUNKING", "DATA"])
def test_our_own_client(loop: Callable[[], asyncio.AbstractEventLoop], chunking: bool) -> None:
    with serving(settings=replace(SETTINGS, chunking=chunking), loop_factory=loop) as server:

        async def stream() -> None:
            config = zsmtp.Config(relay=zsmtp.Relay(host="127.0.0.1", port=server.port), helo_name="client.example")
            texts = [f"From: a@example.net\nTo: b{n}@example.org\n\n.{n}\n".encode() for n in range(30)]
            async with zsmtp.aio.Client(config) as client:
                reports = [result async for result in client.stream(texts)]
            assert all(result.ok for result in reports)
            assert len(reports) == 30

        asyncio.run(stream())
        messages = server.intake.messages
    assert {bytes(one.content.split(b"\r\n\r\n")[1]) for one in messages} == {b".%d\r\n" % n for n in range(30)}
    assert len(messages) == 30
    assert server.intake.aborted == []
    assert server.errors == []


@pytest.mark.parametrize("loop", LOOPS)
def test_lmtp_over_a_unix_socket(tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    full = make_reply(552, "5.2.2", "mailbox is full")

    class Mailboxes(MemoryIntake):
        def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
            message = super().begin(session, envelope)
            assert not isinstance(message, Reply)
            return Message(message, lambda: [OK, full])

    path = tmp_path / "lmtp"
    with serving(Mailboxes(), LMTP, unix=path, loop_factory=loop) as server:
        report = zsmtp.deliver(b"From: a@example.net\nTo: b@example.org, c@example.org\n\nx\n", relay=f"lmtp://{path}")
        assert [(result.recipient, result.ok) for result in report] == [
            ("b@example.org", True),
            ("c@example.org", False),
        ]
        client = smtplib.LMTP(str(path))
        assert client.sendmail("a@example.net", ["b@example.org", "c@example.org"], "x\n") == {}
        client.close()
        peer = server.intake.messages[0].session.peer
        assert (peer.address, peer.uid, peer.pid) == ("", os.getuid(), os.getpid())
        assert server.intake.messages[0].session.protocol == "LMTP"
    assert not path.exists()


def test_a_thousand_idle_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip("not enough descriptors on this system")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    count = ConnectionCount(total=1001, per_address=1001)
    with serving(count=count) as server:
        clients = [server.client() for _ in range(1000)]
        for client in clients:
            assert client.code() == 220
        with server.client().greet() as one_more:
            one_more.send(ENVELOPE + CHUNK)
            assert one_more.codes(3) == [250, 250, 250]
            with server.client() as too_many:
                assert too_many.rest().startswith(b"421 4.7.0 too many connections")
        server.wait_until(lambda: count.open == 1000)
        server.close()
        for client in clients:
            assert client.rest().startswith(b"421 4.3.2 ")
            client.sock.close()
        assert count.open == 0


def test_connections_of_one_address() -> None:
    count = ConnectionCount(total=10, per_address=2)
    with serving(count=count) as server:
        first, second = server.client().greet(), server.client().greet()
        with server.client() as third:
            assert third.rest().startswith(b"421 4.7.0 ")
        first.sock.close()
        server.wait_until(lambda: count.open == 1)
        with server.client().greet():
            pass
        second.sock.close()


def test_what_counts_as_one_client() -> None:
    count = ConnectionCount(total=100, per_address=1)
    peers = [PeerInfo(address) for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "", "")]
    assert all(count.take(peer) for peer in peers)
    assert not count.take(PeerInfo("2001:db8::2"))
    assert not count.take(PeerInfo("192.0.2.1"))
    for peer in (*peers, PeerInfo("2001:db8::2"), PeerInfo("192.0.2.1")):
        count.give_back(peer)
    assert (count.open, len(count._by_client)) == (0, 0)
    assert count.take(PeerInfo("fe80::1%eth0"))


def test_an_ipv4_client_of_an_ipv6_socket() -> None:
    assert _plain("::ffff:192.0.2.1") == "192.0.2.1"
    assert _plain("2001:db8::ffff") == "2001:db8::ffff"


def test_a_refused_client_waits_for_nothing() -> None:
    class Closed(DiscardingIntake):
        def connected(self, session: SessionInfo) -> Reply | None:
            return make_reply(554, "5.7.1", "not here")

    with serving(Closed()) as server, server.client() as client:
        assert client.code() == 554
        assert client.ask(b"EHLO me")[:3] == b"503"
        assert client.ask(b"QUIT")[:3] == b"221"


def test_addresses_that_are_bound_already() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound, serving(bound=bound.dup()) as server, server.client().greet():
        assert server.port == bound.getsockname()[1]


def test_a_unix_socket_that_is_bound_already(tmp_path: Path) -> None:
    path = tmp_path / "handed-in"
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    bound.listen()
    with serving(bound=bound) as server:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        with RawClient(sock).greet():
            assert server.call(lambda: len(server.listener.connections)) == 1


def test_names_and_ipv6() -> None:
    with serving() as server:
        asyncio.run_coroutine_threadsafe(server.listener.listen_tcp("localhost", 0), server.loop).result(LIMIT)
        families = {sock.family for sock in server.listener.sockets}
        for sock in server.listener.sockets:
            with socket.create_connection(sock.getsockname()[:2], timeout=LIMIT) as connection:
                RawClient(connection).greet()
        assert socket.AF_INET in families


class TestUnixSockets:
    def listen(self, server: Serving, path: Path, mode: int = 0o666) -> None:
        asyncio.run_coroutine_threadsafe(server.listener.listen_unix(str(path), mode=mode), server.loop).result(LIMIT)

    def test_a_stale_one_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with serving() as server:
            self.listen(server, path, mode=0o600)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            RawClient(sock).greet().sock.close()
        assert not path.exists()

    def test_one_that_is_in_use_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with serving(unix=path), serving() as other:
            with pytest.raises(ConfigError, match="another process listens there"):
                self.listen(other, path)
            other.close()
            assert path.exists()

    def test_what_is_no_socket_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        path.write_text("precious")
        with serving() as server, pytest.raises(ConfigError, match="not a socket"):
            self.listen(server, path)
        assert path.read_text() == "precious"

    def test_a_place_that_is_not_there(self, tmp_path: Path) -> None:
        with serving() as server, pytest.raises(OSError, match="No such file"):
            self.listen(server, tmp_path / "missing" / "socket")

    def test_a_successor_keeps_its_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with serving(unix=path) as old:
            path.unlink()
            with serving(unix=path):
                old.close()
                assert path.exists()


def test_a_graceful_stop() -> None:
    intake = Committing()
    with serving(intake) as server:
        idle, sending, waiting = (server.client().greet() for _ in range(3))
        sending.send(ENVELOPE + b"DATA\r\n")
        assert sending.codes(3) == [250, 250, 354]
        waiting.send(ENVELOPE + CHUNK)
        assert waiting.codes(2) == [250, 250]
        server.wait_until(lambda: len(intake.waiting) == 1)
        stopped = asyncio.run_coroutine_threadsafe(server.listener.close(grace=LIMIT), server.loop)
        assert idle.rest().startswith(b"421 4.3.2 ")
        with pytest.raises(OSError, match="refused"):
            server.client()
        sending.send(TEXT + b".\r\n")
        server.wait_until(lambda: len(intake.waiting) == 2)
        server.call(lambda: [future.set_result(OK) for future in intake.waiting])
        for client in (sending, waiting):
            assert client.codes(2) == [250, 421]
        for client in (idle, sending, waiting):
            client.sock.close()
        stopped.result(LIMIT)
        assert sorted(ending.name for ending in intake.endings) == ["SHUTDOWN"] * 3


def test_the_end_of_the_grace() -> None:
    with serving() as server, server.client().greet() as client:
        client.send(ENVELOPE + b"DATA\r\n")
        assert client.codes(3) == [250, 250, 354]
        server.close(grace=0.1)
        assert server.intake.aborted == [Abort.ENDED]
        assert not server.listener.connections
