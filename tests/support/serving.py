"""A listener in a thread of its own, and a client that is hardly more than its socket."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.support.loop import Loop, pass_time
from tests.support.patience import LIMIT, wait_until

from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_passwords import Passwords
from zsmtp.proto.server_replies import OK
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.server.intake import IncomingMessage, Intake, MemoryIntake, Outcome, ReceivedEnvelope, SessionInfo
from zsmtp.server.listener import ConnectionCount, Listener, ListenerSettings
from zsmtp.server.tls import ServerTLS

T = TypeVar("T")

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(uvloop.new_event_loop)

NAME = b"mx.example.org"
SETTINGS = ServerSettings(name=NAME)
ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
TEXT = b"Subject: x\r\n\r\nhello\r\n"
CHUNK = b"BDAT %d LAST\r\n" % len(TEXT) + TEXT


@dataclass
class Serving:
    """A listener that runs. ``errors`` are what the loop's exception handler was told."""

    loop: asyncio.AbstractEventLoop
    listener: Listener
    intake: Any
    port: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(LIMIT)

    def pass_time(self, seconds: float) -> None:
        """Set the clock of the listener forward: what it waits for until then is over at once."""
        self.call(lambda: pass_time(seconds))

    def close(self, grace: float = LIMIT) -> None:
        """Stop the listener."""
        asyncio.run_coroutine_threadsafe(self.listener.close(grace=grace), self.loop).result(LIMIT)

    def client(self, *, receive_buffer: int | None = None) -> RawClient:
        """A connection that has not heard the greeting yet."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(LIMIT)
        try:
            sock.connect(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return RawClient(sock)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds, asked in the loop's thread."""
        wait_until(lambda: self.call(condition))


class RawClient:
    """Octets to and from a server. ``sock`` has a timeout that only a hang reaches."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def send_until(self, condition: Callable[[], object], octets: bytes) -> None:
        """Send these octets again and again until no more are taken and the condition holds.

        That nothing is taken may be because the server has had no time yet: the condition is to tell.
        """
        self.sock.setblocking(False)
        rest = octets

        def refused() -> object:
            nonlocal rest
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                while True:
                    rest = rest[self.sock.send(rest) :] or octets
            return condition()

        wait_until(refused)
        self.sock.settimeout(LIMIT)

    def reply(self) -> bytes:
        """The next reply, all its lines. Fails if the connection ends before it does."""
        reply = b""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if end:
                self._buffer = rest
                reply += line + end
                if line[3:4] != b"-":
                    return reply
                continue
            octets = self.sock.recv(65536)
            assert octets, f"closed after {reply + self._buffer!r}"
            self._buffer += octets

    def code(self) -> int:
        """The code of the next reply."""
        return int(self.reply()[:3])

    def codes(self, count: int) -> list[int]:
        """The codes of the next replies."""
        return [self.code() for _ in range(count)]

    def ask(self, line: bytes) -> bytes:
        """The reply to a command."""
        self.send(line + b"\r\n")
        return self.reply()

    def greet(self, verb: bytes = b"EHLO") -> RawClient:
        """Hear the greeting, and greet."""
        assert self.code() == 220
        assert self.ask(verb + b" client.example").startswith(b"250")
        return self

    def rest(self) -> bytes:
        """All that comes until the server closes, and close as well; a reset raises."""
        octets, self._buffer = self._buffer, b""
        while more := self.sock.recv(65536):
            octets += more
        self.sock.close()
        return octets


class Message:
    """A message that does what another does, but for what a test wants."""

    def __init__(
        self,
        message: IncomingMessage,
        outcome: Callable[[], Outcome | Awaitable[Outcome]] | None = None,
        pause: Callable[[], Awaitable[object] | None] | None = None,
    ) -> None:
        self._message = message
        self._outcome = outcome
        self._pause = pause

    def write(self, data: bytes) -> Awaitable[object] | None:
        self._message.write(data)
        return self._pause() if self._pause is not None else None

    def commit(self) -> Outcome | Awaitable[Outcome]:
        outcome = self._message.commit()
        return outcome if self._outcome is None else self._outcome()

    def abort(self, reason: Abort) -> None:
        self._message.abort(reason)


class Committing(MemoryIntake):
    """Messages wait for their commit in ``waiting``; a pause is asked for if ``pause`` gives one."""

    def __init__(self, pause: Callable[[], Awaitable[object] | None] | None = None) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[Outcome]] = []
        self.pause = pause

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        message = super().begin(session, envelope)
        assert not isinstance(message, Reply)
        return Message(message, self._wait, self.pause)

    def answer(self) -> None:
        """Let all that wait be taken."""
        for one in self.waiting:
            if not one.done():
                one.set_result(OK)

    def _wait(self) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future


@contextmanager
def serving(
    intake: Intake | None = None,
    settings: ServerSettings = SETTINGS,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = Loop,
    unix: Path | None = None,
    bound: socket.socket | None = None,
    tls: ServerTLS | None = None,
    implicit_tls: bool = False,
    passwords: Passwords | None = None,
    count: ConnectionCount | None = None,
    handshake: float = LIMIT,
    login_delay: float = 0.0,
) -> Iterator[Serving]:
    """A listener on a free port of 127.0.0.1, or where else is said, until the block is left."""
    loop = loop_factory()
    made = intake if intake is not None else MemoryIntake()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))

    async def start() -> Listener:
        listener = Listener(
            made,
            ListenerSettings(settings, handshake=handshake, login_delay=login_delay),
            passwords=passwords,
            tls=tls,
            implicit_tls=implicit_tls,
            count=count,
        )
        if unix is not None:
            await listener.listen_unix(str(unix))
        elif bound is not None:
            await listener.listen_socket(bound)
        else:
            await listener.listen_tcp("127.0.0.1", 0)
        return listener

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        listener = asyncio.run_coroutine_threadsafe(start(), loop).result(LIMIT)
        port = 0 if unix is not None else listener.sockets[0].getsockname()[1]
        running = Serving(loop, listener, made, port, errors)
        try:
            yield running
        finally:
            running.close(grace=0.5)
            assert not listener.connections
    finally:
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(LIMIT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()
