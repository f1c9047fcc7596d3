"""What nodes deliver together: messages per second from one PostgreSQL by one node and by two, on the same machine.

Each run queues messages of 4 KB for 16 sites, or for one site alone, in a database of its own, and lets nodes, a
process each, deliver them to receivers in one process (``bench/sinks.py``). The time is that from the word to begin, at
which the nodes have opened the queue, until all are delivered; joining and sharing the sites is in it, and so are the
seconds until one node divides the one site. CPU is that of all nodes and of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from databases import Databases, databases
from queue_delivery import CONTENT, HEADER
from relaying import cpu_of, cpu_with_children
from sinks import ready_sinks
from table import machine

from zsmtp.client.config import Config, Relay
from zsmtp.client.destinations import Destinations
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.connections import EngineConnections
from zsmtp.queue.location import locate
from zsmtp.queue.runner import Runner
from zsmtp.queue.store import QueueStore
from zsmtp.queue.stores import open_store
from zsmtp.queue.submission import Submitter

SITES = (16, 1)
_LOOK = 0.02  # seconds between two looks at the counters


def config_of(ports: list[int]) -> Config:
    """Each domain with a relay of its own, which is a site."""
    relays = [Relay.from_url(f"smtp://127.0.0.1:{port}") for port in ports]
    return Config(routes={f"site{number}.example": relay for number, relay in enumerate(relays)})


async def fill(store: QueueStore, config: Config, count: int) -> None:
    """Queue messages for all sites in turn."""
    submitter = Submitter(Destinations(config), QueueConfig())
    sites = len(config.routes)
    for start in range(0, count, 500):
        now = time.time()
        await store.submit(
            [
                submitter.message(
                    Envelope(b"s@example.org", (EnvelopeRecipient(b"u%d@site%d.example" % (n, n % sites)),)),
                    HEADER,
                    now=now,
                    content=CONTENT,
                )
                for n in range(start, min(start + 500, count))
            ]
        )


async def node(url: str, ports: list[int], name: str) -> None:
    """Deliver between two lines of standard input."""
    loop = asyncio.get_running_loop()
    store = await open_store(locate(url))
    runner = Runner(store, EngineConnections(config_of(ports)), QueueConfig(), node=name)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    running = asyncio.create_task(runner.run())
    await loop.run_in_executor(None, sys.stdin.readline)
    runner.stop()
    await running
    await store.close()


class Spent(NamedTuple):
    """What a run took: seconds, seconds of CPU, and the share of the messages that the busiest node delivered."""

    seconds: float
    cpu: float
    most: float


async def delivered(places: Databases, ports: list[int], nodes: int, count: int) -> Spent:
    """What it takes so many nodes to deliver so many messages."""
    url = places.fresh()
    store = await places.open(url)
    await fill(store, config_of(ports), count)
    with ExitStack() as stack:
        processes = []
        for number in range(nodes):
            words = [sys.executable, __file__, "--node", url, ",".join(map(str, ports)), f"node-{number}"]
            started = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(stack.enter_context(started))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

        def cpu() -> float:
            return sum(cpu_of(process.pid) for process in processes) + places.cpu(cpu_with_children)

        begun, used = time.perf_counter(), cpu()
        _tell(processes)
        while (await store.counters()).get("delivered", 0) < count:
            await asyncio.sleep(_LOOK)
        spent = time.perf_counter() - begun, cpu() - used
        _tell(processes)
    _, entries = await store.events("", limit=1 << 30)
    by_node = Counter(entry.node for entry in entries)
    await store.close()
    return Spent(*spent, max(by_node.values()) / count)


def _tell(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def main() -> None:
    """Run the rounds; print medians and ranges."""
    if sys.argv[1:2] == ["--node"]:
        _, _, url, ports, name = sys.argv
        asyncio.run(node(url, [int(port) for port in ports.split(",")], name))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    print(f"{machine()}; {chosen.messages} messages of {len(CONTENT)} octets, {chosen.rounds} rounds")
    with databases(postgres=True) as places, ready_sinks(max(SITES), chunking=True) as ports:
        found: dict[tuple[int, int], list[Spent]] = {(sites, nodes): [] for sites in SITES for nodes in (1, 2)}
        for _ in range(chosen.rounds):
            for (sites, nodes), spent in found.items():
                spent.append(asyncio.run(delivered(places, ports[:sites], nodes, chosen.messages)))
    for (sites, nodes), spent in found.items():
        rates = sorted(chosen.messages / one.seconds for one in spent)
        cpu = statistics.median(one.cpu for one in spent) / chosen.messages * 1e6
        most = statistics.median(one.most for one in spent)
        words = f"{sites:2} site{'s' * (sites > 1):1} {nodes} node{'s' * (nodes > 1):1}"
        print(
            f"  {words} {statistics.median(rates):7.0f} messages/s ({rates[0]:.0f} to {rates[-1]:.0f})"
            f"  {cpu:5.0f} us of CPU a message, {most:.0%} by one node"
        )


if __name__ == "__main__":
    main()
