"""What an intake may do: commit late, ask for a pause, refuse, and fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest
from tests.support.patience import LIMIT
from tests.support.serving import CHUNK, ENVELOPE, TEXT, Committing, Message, serving

from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_replies import NO_ROOM, OK
from zsmtp.server.intake import (
    IncomingMessage,
    MemoryIntake,
    Outcome,
    ReceivedEnvelope,
    SessionInfo,
)


def test_messages_of_one_connection_share_a_commit() -> None:
    intake = Committing()
    with serving(intake) as server, server.client().greet() as client:
        client.send((ENVELOPE + CHUNK) * 5 + b"QUIT\r\n")
        assert client.codes(2) == [250, 250]
        server.wait_until(lambda: len(intake.waiting) == 5)

        def commit() -> None:
            for number, future in enumerate(intake.waiting):
                future.set_result(NO_ROOM if number == 2 else OK)

        server.call(commit)
        assert client.codes(3) == [250, 250, 250]
        assert client.codes(3) == [250, 250, 250]
        assert client.codes(3) == [452, 250, 250]
        assert client.codes(5) == [250, 250, 250, 250, 221]
        assert client.rest() == b""


def test_a_pause_of_the_intake_stops_the_client() -> None:
    """Memory stays within a few buffers, whatever the client would like to send."""
    held: list[asyncio.Future[object]] = []

    def pause() -> Awaitable[object]:
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    intake = Committing(pause)
    big = b"x" * 998 + b"\r\n"
    with serving(intake) as server, server.client().greet() as client:
        client.send(ENVELOPE + b"DATA\r\n")
        assert client.codes(3) == [250, 250, 354]
        client.sock.setblocking(False)
        sent, quiet = 0, 0
        while not held or quiet < 20:
            try:
                sent += client.sock.send(big * 100)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.01)
        assert len(held) == 1
        (connection,) = server.call(lambda: list(server.listener.connections))
        assert len(connection._session._buffer) <= 256 * 1024  # type: ignore[union-attr]
        client.sock.settimeout(LIMIT)
        server.call(lambda: held[0].set_result(None))
        server.wait_until(lambda: len(held) == 2)
        intake.pause = None
        connection._application._message._pause = None  # type: ignore[union-attr]
        server.call(lambda: held[1].set_result(None))
        client.send(b"x" * (1000 - sent % 1000 - 2) + b"\r\n.\r\n")
        server.wait_until(lambda: len(intake.waiting) == 1)
        server.call(lambda: intake.waiting[0].set_result(OK))
        assert client.code() == 250


def test_a_pause_that_is_none() -> None:
    intake = Committing(lambda: 3)  # type: ignore[arg-type,return-value]
    with serving(intake) as server, server.client().greet() as client:
        client.send(ENVELOPE + CHUNK + b"NOOP\r\n")
        assert client.codes(4) == [250, 250, 451, 250]
        assert [type(error["exception"]) for error in server.errors] == [TypeError]


def test_a_write_that_fails_refuses_the_message() -> None:
    def pause() -> Awaitable[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_exception(OSError("no space"))
        return future

    intake = Committing(pause)
    with serving(intake) as server, server.client().greet() as client:
        client.send(ENVELOPE + CHUNK)
        assert client.codes(3) == [250, 250, 451]
        assert intake.aborted == [Abort.REFUSED]
        client.send(ENVELOPE + b"DATA\r\n")
        assert client.codes(3) == [250, 250, 354]
        client.send(TEXT + b".\r\nNOOP\r\n")
        assert client.codes(2) == [451, 250]
        assert len(server.errors) == 2
        assert intake.messages == []


@pytest.mark.parametrize("outcome", [[OK, OK], [], [250]])
def test_outcomes_that_are_none(outcome: list[Reply]) -> None:
    class Wrong(MemoryIntake):
        later = False

        def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
            message = super().begin(session, envelope)
            assert not isinstance(message, Reply)
            return Message(message, self.outcome)

        def outcome(self) -> Outcome | Awaitable[Outcome]:
            if not self.later:
                return outcome
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            future.set_result(outcome)
            return future

    with serving(Wrong()) as server, server.client().greet() as client:
        client.send(ENVELOPE + CHUNK)
        assert client.codes(3) == [250, 250, 451]
        server.intake.later = True
        client.send(ENVELOPE + CHUNK)
        assert client.codes(3) == [250, 250, 451]
        assert [type(error["exception"]) for error in server.errors] == [ValueError, ValueError]


@pytest.mark.parametrize("end", ["raise", "cancel"])
def test_commits_that_fail(end: str) -> None:
    intake = Committing()
    with serving(intake) as server, server.client().greet() as client:
        client.send(ENVELOPE + CHUNK)
        assert client.codes(2) == [250, 250]
        server.wait_until(lambda: intake.waiting)
        future = intake.waiting[0]
        server.call(lambda: future.set_exception(OSError("disk")) if end == "raise" else future.cancel())
        assert client.code() == 451
        assert len(server.errors) == 1


@pytest.mark.parametrize(
    ("method", "codes"),
    [
        ("connected", [421]),
        ("sender", [220, 250, 451, 503, 503]),
        ("recipient", [220, 250, 250, 451, 554]),
        ("begin", [220, 250, 250, 250, 451]),
        ("write", [220, 250, 250, 250, 451]),
        ("commit", [220, 250, 250, 250, 451]),
        ("abort", [220, 250, 250, 250, 554]),
        ("disconnected", [220, 250, 250, 250, 250]),
    ],
)
def test_an_intake_that_raises(method: str, codes: list[int]) -> None:
    class Failing(MemoryIntake):
        def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
            message = super().begin(session, envelope)
            if method in ("write", "commit", "abort"):
                failing = Message(message)  # type: ignore[arg-type]
                setattr(failing, method, fail)
                return failing
            return message

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the intake")

    intake = Failing()
    if method not in ("write", "commit", "abort"):
        setattr(intake, method, fail)
    text = TEXT.replace(b"\r\n", b"\n") if method == "abort" else TEXT
    with serving(intake) as server, server.client() as client:
        if method == "connected":
            assert client.rest().startswith(b"421 4.3.0 ")
        else:
            found = [client.code()]
            client.send(b"EHLO me\r\n")
            found.append(client.code())
            client.send(ENVELOPE + b"BDAT %d LAST\r\n" % len(text) + text)
            found += client.codes(3)
            assert found == codes
            assert client.ask(b"QUIT")[:3] == b"221"
        server.wait_until(lambda: not server.listener.connections)
        assert len(server.errors) == 1
        assert "a fault of the intake" in repr(server.errors[0]["exception"])
