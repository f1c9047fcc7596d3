"""How long the sites of a node that dies, or is drained, wait for another one: two nodes on one PostgreSQL.

Each round sends one message to each of 40 sites right after one of two nodes was killed (SIGKILL), or asked to leave,
and says when the last of them had arrived. A node that was killed keeps its leases for 20 s after its last heartbeat.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from table import machine
from tests.chaos.fleet import ChaosNode
from tests.chaos.receivers import Receivers
from tests.chaos.relay import DatabaseRelay
from tests.support.postgres import Cluster

from zsmtp import aio
from zsmtp.queue.postgres.store import PostgresStore

SITES = 40


async def sent(url: str, receivers: Receivers, name: str) -> float:
    """Seconds until one message had arrived at each site."""
    start = time.perf_counter()
    async with aio.Queue.open(url) as queue:
        for number in range(SITES):
            await queue.submit(
                b"Subject: x\r\n\r\nhello\r\n", sender="ann@shop.example", recipients=[f"{name}@d{number}.example"]
            )
    while any(not receivers.ledger[f"{name}@d{number}.example"] for number in range(SITES)):
        await asyncio.sleep(0.05)
    return time.perf_counter() - start


async def alive(store: PostgresStore, count: int) -> None:
    """Wait until so many nodes live."""
    while sum(node.alive for node in await store.nodes()) != count:
        await asyncio.sleep(0.1)


async def main(rounds: int) -> None:
    """Run the rounds."""
    print(f"{machine()}; two nodes, {SITES} sites, seconds until the last message arrived")
    receivers = Receivers(random.Random(1))
    receivers.failing = False
    await receivers.start(SITES)
    cluster = Cluster(durable=True)
    folder = tempfile.TemporaryDirectory(prefix="zsmtp-bench-")
    nodes: list[ChaosNode] = []
    try:
        cluster.make("takeover")
        url = cluster.url("takeover")
        store = await PostgresStore.open(url)
        routes = "[delivery.routes]\n" + "\n".join(
            f'"d{number}.example" = "smtp://127.0.0.1:{port}"' for number, port in enumerate(receivers.ports)
        )
        for number in range(2):
            relay = DatabaseRelay(Path(folder.name) / f"way-{number}", cluster.folder / ".s.PGSQL.5432")
            await relay.start()
            nodes.append(ChaosNode(Path(folder.name), f"node-{number}", relay, "takeover", routes))
            nodes[-1].start()
        await alive(store, 2)

        async def killed() -> None:
            nodes[0].kill()

        async def drained() -> None:
            await store.drain("node-0")

        async def nothing() -> None:
            pass

        ways: dict[str, Callable[[], Awaitable[None]]] = {"nothing": nothing, "drained": drained, "killed": killed}
        for number in range(rounds):
            for name, way in ways.items():
                await sent(url, receivers, f"before-{name}-{number}")
                leases = {node.node: node.sites for node in await store.nodes()}
                await way()
                seconds = await sent(url, receivers, f"after-{name}-{number}")
                print(f"  {name:8} {seconds:6.2f}   leases before: {leases}", flush=True)
                nodes[0].keep_running()
                await alive(store, 2)
        await store.close()
    finally:
        for node in nodes:
            node.kill()
            await node.relay.stop()
        await receivers.stop()
        cluster.remove()
        folder.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(main(parser.parse_args().rounds))
