"""A mail receiver that costs as little as Python allows, and throws all mail away: the other end of the benchmarks.

It serves each connection in a thread of its own, offers PIPELINING and, if asked for, CHUNKING (RFC 2920, RFC 3030),
answers all that one read brought with one write, and looks for nothing in content but its end. ``ready_sink`` runs it
as a process of its own; it counts what it took and says so when it is stopped.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

READ_SIZE = 1 << 18
END = b"\r\n.\r\n"
REPLIES = {
    ord("M"): b"250 2.1.0 ok\r\n",
    ord("S"): b"250 2.1.0 ok\r\n",
    ord("R"): b"250 2.1.5 ok\r\n",
    ord("N"): b"250 2.0.0 ok\r\n",
    ord("H"): b"250 sink.example\r\n",
}


class Sink:
    """The receiver on a listening socket; ``messages`` counts those taken."""

    def __init__(self, listener: socket.socket, *, chunking: bool) -> None:
        self.messages = 0
        self._listener = listener
        keywords = b"250-sink.example\r\n250-PIPELINING\r\n" + (b"250-CHUNKING\r\n" if chunking else b"")
        self._hello = keywords + b"250 8BITMIME\r\n"
        self._scratch = bytearray(READ_SIZE)

    def serve(self) -> None:
        """Take connections until killed, each in a thread of its own."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"220 sink.example ESMTP\r\n")
            self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        rest = b""
        replies: list[bytes] = []
        while data := connection.recv(READ_SIZE):
            rest = rest + data if rest else data
            position = 0
            while (end := rest.find(b"\n", position)) >= 0:
                verb, line, position = rest[position] & 0xDF, rest[position : end + 1], end + 1
                reply = REPLIES.get(verb)
                if reply is not None:
                    replies.append(reply)
                elif verb == 66:  # BDAT
                    position = self._skip(connection, rest, position, int(line.split()[1]))
                    self.messages += line.rstrip().endswith(b"LAST")
                    replies.append(b"250 2.0.0 ok\r\n")
                elif verb == 68:  # DATA
                    replies.append(b"354 go\r\n")
                    rest, position = self._content(connection, rest[position:], replies), 0
                    self.messages += 1
                    replies.append(b"250 2.0.0 ok\r\n")
                elif verb == 69:  # EHLO
                    replies.append(self._hello)
                elif verb == 81:  # QUIT
                    connection.sendall(b"".join(replies) + b"221 2.0.0 bye\r\n")
                    return
                else:
                    replies.append(b"500 5.5.2 what\r\n")
            rest = rest[position:]
            connection.sendall(b"".join(replies))
            replies.clear()

    def _skip(self, connection: socket.socket, rest: bytes, position: int, size: int) -> int:
        """Skip the octets of a chunk; where the commands go on in ``rest``."""
        missing = position + size - len(rest)
        while missing > 0:
            count = connection.recv_into(self._scratch, min(missing, READ_SIZE))
            if not count:
                raise ConnectionError
            missing -= count
        return min(position + size, len(rest))

    def _content(self, connection: socket.socket, begun: bytes, replies: list[bytes]) -> bytes:
        """Read content up to its final dot; what stood behind it. ``replies`` leave before anything is waited for."""
        data, tail = begun, b"\r\n"
        while True:
            data = tail + data
            end = data.find(END)
            if end >= 0:
                return data[end + 5 :]
            tail = data[-4:]
            if replies:
                connection.sendall(b"".join(replies))
                replies.clear()
            data = connection.recv(READ_SIZE)
            if not data:
                raise ConnectionError


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
def ready_sinks(count: int, *, chunking: bool, pin: Sequence[str] = ()) -> Iterator[list[int]]:
    """As many fast sinks in one process, each on a port of its own; connections are served side by side."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    descriptors = [listener.fileno() for listener in listeners]
    words = [sys.executable, "-S", __file__, ",".join(map(str, descriptors)), "chunking" if chunking else "plain"]
    with subprocess.Popen([*pin, *words], pass_fds=descriptors) as process:
        for listener in listeners:
            listener.close()
        try:
            yield ports
        finally:
            process.kill()


def main() -> None:
    listeners = [socket.socket(fileno=int(word)) for word in sys.argv[1].split(",")]
    sinks = [Sink(listener, chunking=sys.argv[2] == "chunking") for listener in listeners]
    for sink in sinks[1:]:
        threading.Thread(target=sink.serve, daemon=True).start()
    sinks[0].serve()


if __name__ == "__main__":
    main()
