"""SMTP in, durable, SMTP out: a program's mail through `zsmtp serve` and through Postfix, to a receiver that keeps up.

``smtp-source`` hands messages of 4 KB over in ten sessions, each message over a connection that is kept; the clock
runs from its start until the receiver (``sinks.py``, in this process) has the last. `zsmtp serve` keeps its queue in
SQLite or, with ``--postgres``, in a PostgreSQL of its own; Postfix has its defaults. Every 250 stands for a message on
the disk, in all of them. CPU is that of the server with all its processes, the database's among them. Needs root, and
Postfix as ``make interop`` unpacks it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from databases import Databases, databases
from peers import by_smtp_source, postfix_tool
from postfix import available, relaying_postfix
from sinks import Sink
from spool import BenchError
from table import in_turns, line, machine

OCTETS = 4096
SESSIONS = 10
PATIENCE = 120.0  # seconds until the last message must have come
TICKS = os.sysconf("SC_CLK_TCK")
CONFIG = """name = "bench.example.org"
[queue]
{queue}
[listen.local]
addresses = ["127.0.0.1:{port}"]
[delivery.relay]
host = "127.0.0.1"
port = {receiver}
"""

Running = contextlib.AbstractContextManager[tuple[int, Callable[[], float]]]
"""A server: the port where it takes mail, and what gives the CPU seconds it had."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def cpu_with_children(pid: int) -> float:
    """CPU seconds of a process and of its children."""
    total = cpu_of(pid)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            total += cpu_of(int(child))
    return total


@contextlib.contextmanager
def serving(places: Databases, receiver: int) -> Iterator[tuple[int, Callable[[], float]]]:
    """`zsmtp serve` on a queue of its own."""
    url, port = places.fresh(), free_port()
    queue = f'url = "{url}"' if url.startswith("postgresql:") else f'path = "{url}"'
    file = places.folder / f"serve-{port}.toml"
    file.write_text(CONFIG.format(queue=queue, port=port, receiver=receiver))
    command = [sys.executable, "-m", "zsmtp.cli.main", "serve", "--config", str(file)]
    with (places.folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not greeted(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError((places.folder / "log").read_text()[-2000:])
                time.sleep(0.05)
            yield port, lambda: cpu_of(process.pid) + places.cpu(cpu_with_children)
        finally:
            process.send_signal(signal.SIGKILL)


def greeted(port: int) -> bool:
    """Whether a server greets."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(512).startswith(b"220 ")
    except OSError:
        return False


class Flow:
    """Mail through one server after the other; ``cpu`` keeps the milliseconds of CPU a message took, by server."""

    def __init__(self, messages: int, *, chunking: bool) -> None:
        self.cpu: dict[str, list[float]] = {}
        self._messages = messages
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.receiver: int = listener.getsockname()[1]
        self._sink = Sink(listener, chunking=chunking)
        threading.Thread(target=self._sink.serve, daemon=True).start()

    def through(self, name: str, server: Callable[[int], Running]) -> float:
        """Messages a second."""
        with server(self.receiver) as (port, cpu):
            by_smtp_source(port, 50, OCTETS, sessions=SESSIONS)
            self._wait_for(50)
            before, began = cpu(), time.perf_counter()
            by_smtp_source(port, self._messages, OCTETS, sessions=SESSIONS)
            self._wait_for(self._messages)
            seconds = time.perf_counter() - began
            self.cpu.setdefault(name, []).append((cpu() - before) / self._messages * 1000)
        return self._messages / seconds

    def _wait_for(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._sink.messages < count:
            if time.monotonic() > deadline:
                raise BenchError(f"{self._sink.messages} of {count} messages came")
            time.sleep(0.002)
        self._sink.messages = 0


def main() -> None:
    """Run the rounds; print medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="also with a queue in a PostgreSQL of its own")
    chosen = parser.parse_args()
    if postfix_tool("smtp-source") is None or not available():
        raise SystemExit("bench/relaying.py: Postfix is not here, or you are not root (make interop unpacks it)")
    print(f"{machine()}; {chosen.messages} messages of {OCTETS} octets in {SESSIONS} sessions, {chosen.rounds} rounds")
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(databases(postgres=False))
        servers: dict[str, Callable[[int], Running]] = {
            "Postfix": relaying_postfix,
            "zsmtp serve, SQLite": partial(serving, files),
        }
        if chosen.postgres:
            tables = stack.enter_context(databases(postgres=True))
            servers["zsmtp serve, PostgreSQL"] = partial(serving, tables)
        for chunking in (False, True):
            flow = Flow(chosen.messages, chunking=chunking)
            work = {name: partial(flow.through, name, server) for name, server in servers.items()}
            rates = in_turns(work, chosen.rounds)
            print("to a receiver with CHUNKING" if chunking else "to a receiver without CHUNKING")
            for name, values in rates.items():
                print(line(name, values, "msg/s", beside={"Postfix": rates["Postfix"]}))
                print(line("", flow.cpu[name], "ms CPU", beside={"Postfix": flow.cpu["Postfix"]}, digits=2))


if __name__ == "__main__":
    main()
