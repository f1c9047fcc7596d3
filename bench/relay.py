"""Distance on the loopback interface: a relay that hands on every octet half a round trip later, both ways.

Octets are handed on when their time has come and not before, however many are under way, so that only waiting for
answers costs time, as on a long line of great width. :func:`relay` runs one in a process of its own;
:func:`measured_round_trip` checks it: the median time that one octet takes there and back through it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import multiprocessing
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator

READ_SIZE = 1 << 18


def _run(listener: socket.socket, target: int, one_way: float) -> None:
    """Relay until killed: one thread, sleeping no longer than to the next octet's time."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    order = itertools.count()
    due: list[tuple[float, int, socket.socket, bytes]] = []
    others: dict[socket.socket, socket.socket] = {}
    while True:
        wait = max(due[0][0] - time.monotonic(), 0.0) if due else None
        for key, _ in selector.select(wait if wait is None or wait > 0.002 else 0):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", target))
                for one, other in ((client, server), (server, client)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    others[one] = other
                    selector.register(one, selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(READ_SIZE)
            except OSError:
                data = b""
            if not data:
                selector.unregister(sock)
            heapq.heappush(due, (time.monotonic() + one_way, next(order), others[sock], data))
        while due and due[0][0] <= time.monotonic():
            _, _, sock, data = heapq.heappop(due)
            with contextlib.suppress(OSError):
                if data:
                    sock.sendall(data)
                else:
                    sock.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(target: int, round_trip: float) -> Iterator[int]:
    """A relay to port ``target`` of 127.0.0.1 with so many seconds of round-trip time; its own port."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(listener, target, round_trip / 2), daemon=True
    )
    process.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        process.kill()
        process.join()


def measured_round_trip(round_trip: float, probes: int = 21) -> float:
    """The median of the time that one octet takes through a relay of this round-trip time and back, in seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := connection.recv(64):
                    connection.sendall(data)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        with (
            relay(listener.getsockname()[1], round_trip) as port,
            socket.create_connection(("127.0.0.1", port)) as probe,
        ):
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times = []
            for _ in range(probes):
                began = time.perf_counter()
                probe.sendall(b"x")
                probe.recv(1)
                times.append(time.perf_counter() - began)
        thread.join(5)
    return statistics.median(times)
