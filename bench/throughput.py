"""Messages and octets per second over the loopback interface, beside others who send mail.

Client and receiver are pinned to one CPU (``taskset``): crossing CPUs costs more there than the work. The agent does
all of it: control files, locks, content from message files, marks, reports to a scheduler that feeds it up to 151 lines
ahead; only the logs are off. The peers make their messages in memory. Everybody sends over one connection to the same
receiver process (``bench/sinks.py``), in turns.

Large messages: one of 200 MB goes by DATA and by BDAT beside a bare socket that writes as many octets to the same
receiver as one chunk. Growth: the time per message with 10 and with 20,000 queued, and the memory of the agent.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import postfix
from peers import Client, available, ready_smtp_sink
from sinks import Receiver, ready_sink
from spool import BenchError, Cost, fill, rearm, run_agent
from table import in_turns, line, machine

POSTFIX = "Postfix, its own queue"
PIN = ("taskset", "-c", "1") if shutil.which("taskset") else ()


class Bench:
    """The receivers of one run, without and with CHUNKING, and the agent's costs so far, by the name of the row."""

    def __init__(self, plain: Receiver, chunking: Receiver | None = None) -> None:
        self.plain = plain
        self.chunking = chunking
        self.costs: dict[str, list[Cost]] = {}

    @contextlib.contextmanager
    def agents(self, messages: int, octets: int) -> Iterator[dict[str, Callable[[], float]]]:
        """The agent's two ways of sending a queue: each returns the messages per second."""
        with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as office:
            names = fill(Path(office), messages, octets)

            def send(row: str, receiver: Receiver) -> float:
                cost = run_agent(Path(office), names, receiver.port, pin=PIN)
                rearm(Path(office), names)
                self.costs.setdefault(row, []).append(cost)
                return messages / cost.seconds

            rows = {"zsmtp, PIPELINING": self.plain}
            if self.chunking is not None:
                rows["zsmtp, CHUNKING"] = self.chunking
            yield {row: partial(send, row, receiver) for row, receiver in rows.items()}

    def compare(self, title: str, messages: int, octets: int, runs: int) -> None:
        """Print one table: the agent and its peers with so many messages of so many octets."""
        self.costs.clear()
        peers_cpu: dict[str, list[float]] = {}

        def peer(name: str, client: Client, count: int) -> float:
            cost = client(self.plain.port, count, octets, PIN)
            peers_cpu.setdefault(name, []).append(cost.cpu * messages / count)
            return count / cost.seconds

        with self.agents(messages, octets) as ways:
            ways |= {name: partial(peer, name, client, messages) for name, client in available().items()}
            if (
                self.chunking is not None and postfix.available()
            ):  # to put messages into its queue takes it much longer than to deliver them
                ways[POSTFIX] = partial(peer, POSTFIX, postfix.by_postfix, max(messages // 4, 10))
            results = in_turns(ways, runs)
        print(f"{title} to {self.plain.name}, {messages} messages, {runs} runs of each in turns")
        beside = {name: values for name, values in results.items() if not name.startswith("zsmtp")}
        for name, values in results.items():
            print(line(name, values, "msg/s", beside=beside))
        cpu = {name: [cost.cpu for cost in costs] for name, costs in self.costs.items()} | peers_cpu
        words = ", ".join(f"{name} {statistics.median(v) * 1000 / messages:.3f}" for name, v in cpu.items())
        print(f"  CPU seconds per 1,000 messages, start included: {words}")

    def large(self, megabytes: int, runs: int) -> None:
        """Print MB/s of one large message by DATA and BDAT beside a bare socket."""
        octets = megabytes * 1_000_000
        self.costs.clear()

        def raw() -> float:
            block = memoryview(bytes(1 << 18))
            assert self.chunking is not None
            with socket.create_connection(("127.0.0.1", self.chunking.port)) as bare:
                bare.recv(4096)
                began = time.perf_counter()
                bare.sendall(b"BDAT %d LAST\r\n" % octets)
                left = octets
                while left:
                    left -= bare.send(block[: min(left, len(block))])
                bare.recv(4096)
                return megabytes / (time.perf_counter() - began)

        with self.agents(1, octets) as ways:
            by_size = {name: (lambda way=way: way() * megabytes) for name, way in ways.items()}
            results = in_turns({**by_size, "bare socket, a chunk": raw}, runs)
        print(f"one message of {megabytes} MB, {runs} runs of each in turns; the client's CPU is its own here only")
        for name, values in results.items():
            print(line(name, values, "MB/s", beside={"bare socket": results["bare socket, a chunk"]}, digits=0))
        peak = max(cost.memory for costs in self.costs.values() for cost in costs)
        print(f"  largest memory of the agent: {peak / 1e6:.0f} MB")

    def growth(self, counts: tuple[int, ...], octets: int) -> None:
        """Print the time per message for queues of these lengths."""
        self.costs.clear()
        print("cost per message as the queue grows (one run each; the shortest queue pays for the connection)")
        for count in counts:
            with self.agents(count, octets) as ways:
                spent = {name: 1e6 / way() for name, way in ways.items()}
            peak = max(costs[-1].memory for costs in self.costs.values())
            words = ", ".join(f"{name} {value:.0f} us" for name, value in spent.items())
            print(f"  {count:6} queued: {words}; memory {peak / 1e6:.0f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description="Messages per second on the loopback interface, beside others.")
    parser.add_argument("--messages", type=int, default=2000, help="messages of 4 KB and of 100 KB (default: 2000)")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the large message (default: 200)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    options = parser.parse_args()
    if options.messages < 10 or options.megabytes < 1 or options.runs < 1:
        parser.error("at least 10 messages, 1 megabyte and 1 run")

    print(f"throughput, one connection; {machine()}" + ("" if PIN else "; no taskset: nothing is pinned"))
    try:
        with ready_sink(chunking=False, pin=PIN) as plain, ready_sink(chunking=True, pin=PIN) as chunking:
            bench = Bench(plain, chunking)
            bench.compare("4 KB", options.messages, 4096, options.runs)
            bench.compare("100 KB", options.messages, 100_000, options.runs)
            bench.large(options.megabytes, options.runs)
            bench.growth((10, 100, 1000, 20 * min(options.messages, 1000)), 4096)
        with ready_smtp_sink(PIN) as sink:
            if sink is not None:
                Bench(sink).compare("4 KB", options.messages, 4096, options.runs)
                Bench(sink).compare("100 KB", options.messages, 100_000, options.runs)
            else:
                print("smtp-sink is not here, or this is not root: left out", file=sys.stderr)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
