"""A scripted SMTP and LMTP server that records every octet (RFC 5321, 2033, 2920, 3030).

It listens on a loopback address or a UNIX socket, follows one :class:`~tests.support.script.Script` per connection
(the last one repeats) in a thread of its own, and keeps what happened: :attr:`Connection.wire` segment by segment,
:attr:`Connection.commands`, and the :class:`Transaction` values with content and verdicts. Tests wait for events
with :meth:`Sink.wait_for` instead of sleeping::

    with Sink(Script(replies={"MAIL": (Step("450 4.7.1 later"),)})) as sink:
        ...
    assert sink.connections[0].lines == [b"EHLO me.example", b"MAIL FROM:<a@example.org>", b"QUIT"]

Leaving the ``with`` block ends all threads at once, whatever they were waiting for.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.dialogue import Dialogue
from tests.support.script import Script
from tests.support.wire import Connection, Segment, Transaction, Way

from zsmtp.net.transport import socket_address


class Sink:
    """The server. ``scripts`` are for the connections in the order they are accepted; the last one repeats.

    ``choose`` gives the script for the connection that was accepted last instead.
    """

    def __init__(
        self,
        *scripts: Script,
        host: str = "127.0.0.1",
        port: int = 0,
        unix: Path | None = None,
        keep_content: bool = True,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        choose: Callable[[Sink], Script] | None = None,
    ) -> None:
        self._choose = choose
        self.scripts = scripts or (Script(),)
        self.keep_content = keep_content
        self.tls = tls
        self.connections: list[Connection] = []
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = _listen(host, port, unix, receive_buffer)
        self.host = host if unix is None else str(unix)
        self.port: int = 0 if unix else self._listener.getsockname()[1]

    def __enter__(self) -> Sink:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self.changed:
            for sock in self.sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(60)
            assert not thread.is_alive(), "a thread of the server would not end"
        self._listener.close()

    def wait_for(self, condition: Callable[[Sink], bool], timeout: float = 60.0) -> None:
        """Wait until ``condition`` holds; looked at after every event. Raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"it did not happen; commands so far: {[c.lines for c in self.connections]}")

    def wait_for_command(self, verb: str, count: int = 1) -> None:
        """Wait until so many commands of this name have come, on all connections together."""
        self.wait_for(lambda sink: sum(c.verbs.count(verb) for c in sink.connections) >= count)

    def wait_until_finished(self, count: int = 1) -> None:
        """Wait until at least so many connections have come, and all of them are closed."""
        self.wait_for(lambda sink: len(sink.connections) >= count and all(c.finished for c in sink.connections))

    @property
    def transactions(self) -> list[Transaction]:
        """The transactions of all connections, in the order of connections."""
        return [transaction for connection in self.connections for transaction in connection.transactions]

    def deliveries(self) -> Counter[bytes]:
        """How often the server took responsibility for each forward-path."""
        return Counter(to for transaction in self.transactions for to in transaction.delivered)

    def record(self, connection: Connection, way: Way, data: bytes = b"") -> None:
        """Keep one event of the wire and tell whoever waits."""
        with self.changed:
            connection.wire.append(Segment(way, data, time.monotonic()))
            self.changed.notify_all()

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            with self.changed:
                if self.stopping.is_set():
                    sock.close()
                    return
                self.sockets.append(sock)
                number = len(self.connections)
                connection = Connection(number, peer[0] if peer else "unix")
                self.connections.append(connection)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            script = self.scripts[min(number, len(self.scripts) - 1)] if self._choose is None else self._choose(self)
            dialogue = Dialogue(self, connection, sock, script)
            self._spawn(dialogue.run)


def _listen(host: str, port: int, unix: Path | None, receive_buffer: int | None) -> socket.socket:
    family = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        if unix is None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(str(unix) if unix else socket_address(host, port))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def refusing_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that refuses connections: bound by this process, so that nobody else can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[1]
