"""Clients that never read, flood, drip, or go away, on real sockets."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest
from tests.support.patience import LIMIT
from tests.support.serving import CHUNK, ENVELOPE, SETTINGS, Committing, RawClient, Serving, serving

from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort, Ending
from zsmtp.proto.server_replies import OK
from zsmtp.proto.server_settings import ServerBounds, ServerTimeouts
from zsmtp.server import connection
from zsmtp.server.intake import IncomingMessage, KeptMessage, MemoryIntake, ReceivedEnvelope, SessionInfo

HELP = b"HELP\r\n" * 1000


def _never_read(server: Serving, client: RawClient) -> None:
    """Send commands until the server reads no more of them, because their replies are not taken."""
    client.send_until(lambda: server.call(lambda: not any(one._reading for one in server.listener.connections)), HELP)


def test_a_client_that_never_reads_is_closed() -> None:
    """Nothing is read from it once its replies are not taken, and then its time runs out."""
    settings = replace(SETTINGS, bounds=ServerBounds(commands=10_000_000), timeouts=ServerTimeouts(write=100.0))
    with serving(settings=settings) as server, server.client(receive_buffer=4096).greet() as client:
        _never_read(server, client)
        server.pass_time(100.0)
        server.wait_until(lambda: server.intake.endings == [Ending.WRITE_TIMEOUT])
        server.pass_time(connection.LINGER)
        server.wait_until(lambda: not server.listener.connections)


def test_what_is_kept_for_a_client_that_never_reads() -> None:
    settings = replace(SETTINGS, bounds=ServerBounds(commands=10_000_000))
    with serving(settings=settings) as server, server.client(receive_buffer=4096).greet() as client:
        _never_read(server, client)
        (served,) = server.call(lambda: list(server.listener.connections))
        session, transport = served._session, served._transport
        assert session is not None
        assert transport is not None
        assert not served._reading
        assert len(session._buffer) <= 192 * 1024
        assert session._slots.octets <= 320 * 1024
        assert transport.get_write_buffer_size() <= 400 * 1024
        assert set(client.codes(5000)) == {214}, "once it reads, it is served"


def test_floods_end_with_a_reply_that_can_be_read() -> None:
    """Rubbish is still coming when the session ends: no reset takes the last reply from the client."""
    with serving() as server, server.client() as client:
        assert client.code() == 220
        flood = threading.Thread(target=_flood, args=(client.sock, b"rubbish\r\n" * 1000, 50))
        flood.start()
        heard = client.rest()
        flood.join(LIMIT)
        assert heard.splitlines()[-1].startswith(b"421 4.7.0 too many errors")
        server.wait_until(lambda: not server.listener.connections)
        assert server.intake.endings == [Ending.ERRORS]


def _flood(sock: socket.socket, octets: bytes, times: int) -> None:
    try:
        for _ in range(times):
            sock.sendall(octets)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _flood_without_end(client: RawClient) -> None:
    for _ in range(100_000):
        client.send(b"x" * 10_000)


@pytest.mark.parametrize("last", [b"X\r\n" * 30, b"QUIT\r\n"])
def test_a_client_that_does_not_close(last: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.2)
    with serving() as server, server.client().greet() as client:
        client.send(last)
        server.wait_until(lambda: not server.listener.connections)
        assert client.reply()


def test_a_flood_without_end_is_cut_off() -> None:
    with serving() as server, server.client() as client:
        assert client.code() == 220
        with pytest.raises(ConnectionError):
            _flood_without_end(client)
        server.wait_until(lambda: not server.listener.connections)


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 1000 LAST\r\n"])
def test_a_client_that_goes_away_in_a_message(how: str, command: bytes) -> None:
    with serving() as server:
        client = server.client().greet()
        client.send(ENVELOPE + command)
        client.codes(3 if command.startswith(b"DATA") else 2)
        client.send(b"hello\r\n")
        if how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if how == "half":
            client.sock.shutdown(socket.SHUT_WR)
            assert client.rest() == b""
        client.sock.close()
        server.wait_until(lambda: not server.listener.connections)
        assert server.intake.aborted == [Abort.ENDED]
        assert server.intake.endings == [Ending.LOST if how == "reset" else Ending.EOF]
        assert server.intake.messages == []


def test_a_client_that_goes_away_before_its_message_is_committed() -> None:
    intake = Committing()
    with serving(intake) as server:
        with server.client().greet() as client:
            client.send(ENVELOPE + CHUNK)
            server.wait_until(lambda: intake.waiting)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.wait_until(lambda: not server.listener.connections)
        server.call(lambda: intake.waiting[0].set_result(OK))
        assert len(intake.messages) == 1
        assert server.errors == []


def test_a_script_that_closes_its_half() -> None:
    """As ``nc`` does: everything is sent, the half closed, and the replies are read."""
    intake = Committing()
    with serving(intake) as server, server.client().greet() as client:
        client.send(ENVELOPE + CHUNK)
        client.sock.shutdown(socket.SHUT_WR)
        server.wait_until(lambda: intake.waiting)
        server.call(lambda: intake.waiting[0].set_result(OK))
        assert [int(line[:3]) for line in client.rest().splitlines()] == [250, 250, 250]


@pytest.mark.parametrize(
    ("line", "times", "reason"),
    [
        (b"MAIL FROM:<a", ServerTimeouts(command=100.0), Ending.COMMAND_TIMEOUT),
        (ENVELOPE + b"DATA\r\n", ServerTimeouts(data=100.0), Ending.DATA_TIMEOUT),
        (b"", ServerTimeouts(session=100.0), Ending.SESSION_TIME),
    ],
)
def test_clients_that_say_nothing(line: bytes, times: ServerTimeouts, reason: Ending) -> None:
    with serving(settings=replace(SETTINGS, timeouts=times)) as server, server.client().greet() as client:
        client.send(line)
        client.codes(line.count(b"\r\n"))
        server.pass_time(100.0)
        assert client.rest().splitlines()[-1].startswith(b"421 4.4.2 ")
        server.wait_until(lambda: not server.listener.connections)
        assert server.intake.endings == [reason]


def test_a_message_that_drips() -> None:
    """Each of its octets comes long before the client would be given up for its silence."""
    contents: list[KeptMessage] = []

    class Watched(MemoryIntake):
        def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
            message = super().begin(session, envelope)
            contents.append(message._message)  # type: ignore[union-attr]
            return message

    settings = replace(SETTINGS, timeouts=ServerTimeouts(data=300.0, min_rate=1000))
    with serving(Watched(), settings) as server, server.client().greet() as client:
        client.send(ENVELOPE + b"BDAT 100000 LAST\r\n")
        assert client.codes(2) == [250, 250]
        for octets in (1, 2):
            client.send(b"x")
            server.wait_until(lambda octets=octets: contents and len(contents[0].content) == octets)
            server.pass_time(151.0)
        assert client.reply().startswith(b"421 4.4.2 content comes too slowly")
        server.wait_until(lambda: server.intake.endings == [Ending.TOO_SLOW])
