"""A name server so many milliseconds away, for benchmarks: every domain has an exchanger and an address of its own.

``dN.example.com`` has the exchanger ``mxN.example.net``, and that an address in 127.0.0.0/8. It has a policy of
MTA-STS, too, at 127.0.0.1. Other names exist and have no records. Answers leave when their time has come and not
before, however many are under way. :func:`ready_nameserver` runs it in a process of its own.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

A, MX, TXT = 1, 15, 16
TTL = (3600).to_bytes(4, "big")
FIRST_QUESTION = 12
POLICY_RECORD = b"v=STSv1; id=1"
POINTER = b"\xc0\x0c"  # to the name of the question


def address(number: int) -> bytes:
    """The address of an exchanger."""
    return bytes((127, number >> 16 & 255, number >> 8 & 255, (number & 255) or 255))


def reply(query: bytes) -> bytes:
    """The answer to a question, in a message with no more than that."""
    first = query[FIRST_QUESTION + 1 : FIRST_QUESTION + 1 + query[FIRST_QUESTION]].lower()
    end = query.index(b"\0", FIRST_QUESTION) + 5
    kind = int.from_bytes(query[end - 4 : end - 2], "big")
    data = b""
    if kind == MX and first[:1] == b"d":
        host = b"mx" + first[1:]
        data = b"\0\x0a" + bytes((len(host),)) + host + b"\x07example\x03net\0"
    elif kind == A and first[:2] == b"mx":
        data = address(int(first[2:]))
    elif kind == A and first == b"mta-sts":
        data = address(1)
    elif kind == TXT and first == b"_mta-sts":
        data = bytes((len(POLICY_RECORD),)) + POLICY_RECORD
    record = POINTER + kind.to_bytes(2, "big") + b"\0\x01" + TTL + len(data).to_bytes(2, "big") + data if data else b""
    counts = b"\0\x01" + (b"\0\x01" if data else b"\0\0") + b"\0\0\0\0"
    return query[:2] + b"\x81\x80" + counts + query[FIRST_QUESTION:end] + record


def serve(server: socket.socket, seconds: float) -> None:
    """Answer until killed, each question after so many seconds."""
    server.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    due: deque[tuple[float, bytes, tuple[str, int]]] = deque()  # in the order of their times: all wait as long
    while True:
        selector.select(max(due[0][0] - time.monotonic(), 0.0) if due else None)
        with contextlib.suppress(BlockingIOError):
            while True:
                query, client = server.recvfrom(512)
                due.append((time.monotonic() + seconds, reply(query), client))
        while due and due[0][0] <= time.monotonic():
            _, octets, client = due.popleft()
            with contextlib.suppress(OSError):  # nobody is there any more
                server.sendto(octets, client)


@contextlib.contextmanager
def ready_nameserver(seconds: float) -> Iterator[str]:
    """A server in a process of its own that answers after so many seconds; its address with its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind(("127.0.0.1", 0))
        words = [sys.executable, "-S", __file__, str(server.fileno()), str(seconds)]
        where = "{}:{}".format(*server.getsockname())
        process = subprocess.Popen(words, pass_fds=[server.fileno()])
    with process:
        try:
            yield where
        finally:
            process.kill()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]))
