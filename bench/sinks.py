"""A mail receiver that costs as little as Python allows, and throws all mail away: the other end of the benchmarks.

It serves each connection in a thread of its own, offers PIPELINING and, if asked for, CHUNKING (RFC 2920, RFC 3030),
speaks TLS behind STARTTLS if it is given a certificate, takes commands in their order only, answers all that one read
brought with one write, and looks for nothing in content but its end. Every read goes into the same memory: a new block
of that size would now and then come from the system page by page, which halved what a client could reach in one run and
not in the next. ``ready_sink`` runs it as a process of its own.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

READ_SIZE = 1 << 18
END = re.compile(rb"\r\n\.\r\n")  # searched for in half the time that bytearray.find takes
OK = b"250 2.0.0 ok\r\n"
DISORDER = b"503 5.5.1 not now\r\n"
GREETED, SENDER, RECIPIENT = range(3)  # how far a transaction has come


class Sink:
    """The receiver on a listening socket; ``messages`` and ``octets`` count what it took.

    ``tls`` is the context for those who say STARTTLS, None if it is not offered.
    """

    def __init__(self, listener: socket.socket, *, chunking: bool, tls: ssl.SSLContext | None = None) -> None:
        self.messages = 0
        self.octets = 0
        self.tls = tls
        self._listener = listener
        keywords = b"250-sink.example\r\n250-PIPELINING\r\n" + (b"250-CHUNKING\r\n" if chunking else b"")
        self.hello = keywords + b"250 8BITMIME\r\n"
        self.hello_in_clear = keywords + b"250-STARTTLS\r\n250 8BITMIME\r\n" if tls is not None else self.hello

    def serve(self) -> None:
        """Take connections until killed, each in a thread of its own."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(b"220 sink.example ESMTP\r\n")
            Conversation(connection, self).hold()


class Conversation:
    """One connection: ``buffer[begin:end]`` has come and is not looked at yet, ``replies`` have not left yet."""

    def __init__(self, connection: socket.socket, sink: Sink) -> None:
        self._connection = connection
        self._sink = sink
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._replies: list[bytes] = []
        self._state = GREETED
        self._hello = sink.hello_in_clear

    def hold(self) -> None:
        """Answer until QUIT; ConnectionError if the client goes before, or never ends its line."""
        buffer = self._buffer
        while True:
            begin = self._begin
            newline = buffer.find(b"\n", begin, self._end)
            if newline < 0:
                self._read_more(keep=begin)
                continue
            self._begin = newline + 1
            verb = buffer[begin] & 0xDF
            if verb == 77:  # MAIL
                self._step(SENDER, in_order=self._state == GREETED)
            elif verb == 82 and buffer[begin + 1] & 0xDF == 67:  # RCPT
                self._step(RECIPIENT, in_order=self._state != GREETED)
            elif verb == 68:  # DATA
                self._data()
            elif verb == 66:  # BDAT
                self._chunk(bytes(buffer[begin:newline]).split())
            elif verb == 69 or verb == 72 or verb == 82:  # EHLO, HELO, RSET
                self._state = GREETED
                self._replies.append(self._hello if verb == 69 else OK)
            elif verb == 83 and self._sink.tls is not None:  # STARTTLS
                self._start_tls(self._sink.tls)
            elif verb == 81:  # QUIT
                self._replies.append(b"221 2.0.0 bye\r\n")
                self._answer()
                return
            else:
                self._replies.append(OK if verb == 78 else b"500 5.5.2 what\r\n")  # NOOP

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._replies.append(b"220 2.0.0 go\r\n")
        self._answer()
        self._connection = context.wrap_socket(self._connection, server_side=True)
        self._hello = self._sink.hello

    def _answer(self) -> None:
        if self._replies:
            self._connection.sendall(b"".join(self._replies))
            self._replies.clear()

    def _read_more(self, keep: int) -> None:
        """Wait for more, having answered what came; what stands from ``keep`` on moves to the front of the buffer."""
        self._answer()
        left = self._end - keep
        if left:
            self._buffer[:left] = self._buffer[keep : self._end]
        count = self._connection.recv_into(self._view[left:])
        if not count:
            raise ConnectionError
        self._begin, self._end = 0, left + count

    def _step(self, reached: int, *, in_order: bool) -> None:
        if in_order:
            self._state = reached
        self._replies.append(OK if in_order else DISORDER)

    def _taken(self) -> None:
        self._sink.messages += 1
        self._state = GREETED
        self._replies.append(OK)

    def _data(self) -> None:
        """Ask for content, and read it up to its final dot."""
        if self._state != RECIPIENT:
            self._replies.append(DISORDER)
            return
        self._replies.append(b"354 go\r\n")
        search = self._begin - 2  # a dot right behind the command's line end is the final one
        self._sink.octets -= 2
        while (final := END.search(self._buffer, search, self._end)) is None:
            kept = max(search, self._end - 4)
            self._sink.octets += kept - search
            self._read_more(keep=kept)
            search = 0
        self._sink.octets += final.start() + 2 - search
        self._begin = final.end()
        self._taken()

    def _chunk(self, words: list[bytes]) -> None:
        """Pass over the octets of a chunk."""
        size = int(words[1])
        missing = size - (self._end - self._begin)
        self._begin += size
        while missing > 0:
            self._read_more(keep=self._end)
            self._begin = missing
            missing -= self._end
        if self._state != RECIPIENT:
            self._replies.append(DISORDER)
            return
        self._sink.octets += size
        if words[-1] == b"LAST":
            self._taken()
        else:
            self._replies.append(OK)


@dataclass(frozen=True)
class Receiver:
    """A receiver that runs: its name in tables, its port on 127.0.0.1, and whether it offers CHUNKING."""

    name: str
    port: int
    chunking: bool = False


@contextlib.contextmanager
def ready_sink(*, chunking: bool, pin: Sequence[str] = ()) -> Iterator[Receiver]:
    """The fast sink as a process of its own, started behind the words of ``pin`` (``taskset -c 1``)."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    command = [*pin, sys.executable, "-S", __file__, str(listener.fileno()), "chunking" if chunking else "plain"]
    with subprocess.Popen(command, pass_fds=[listener.fileno()]) as process:
        listener.close()
        try:
            yield Receiver("fast sink", port, chunking)
        finally:
            process.kill()


@contextlib.contextmanager
def ready_sinks(
    count: int, *, chunking: bool, pin: Sequence[str] = (), host: str = "127.0.0.1", certificate: Path | None = None
) -> Iterator[list[int]]:
    """As many fast sinks in one process, each on a port of its own; connections are served side by side.

    ``certificate`` is a file with a certificate and its key, for those who say STARTTLS.
    """
    listeners = [socket.create_server((host, 0), backlog=4096) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    descriptors = [listener.fileno() for listener in listeners]
    words = [sys.executable, "-S", __file__, ",".join(map(str, descriptors)), "chunking" if chunking else "plain"]
    words += [str(certificate)] if certificate is not None else []
    with subprocess.Popen([*pin, *words], pass_fds=descriptors) as process:
        for listener in listeners:
            listener.close()
        try:
            yield ports
        finally:
            process.kill()


def main() -> None:
    listeners = [socket.socket(fileno=int(word)) for word in sys.argv[1].split(",")]
    tls = None
    if len(sys.argv) > 3:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[3])
    sinks = [Sink(listener, chunking=sys.argv[2] == "chunking", tls=tls) for listener in listeners]
    for sink in sinks[1:]:
        threading.Thread(target=sink.serve, daemon=True).start()
    sinks[0].serve()


if __name__ == "__main__":
    main()
