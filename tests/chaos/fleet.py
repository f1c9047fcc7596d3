"""Three nodes, a PostgreSQL of their own and many receivers, one of them big, while everything dies at random.

``python -m tests.chaos.fleet --seconds 600 --seed 1`` submits mail and, meanwhile, kills nodes (SIGKILL), stops them
for longer than their leases are good and continues them, cuts them off from the database, restarts the database as
after a crash, lets receivers vanish and sets clocks of nodes. In the end all faults are healed, and the books are
compared: every message that was accepted has one end for each recipient, every second copy at a receiver is one that
the queue calls in doubt, no attempt has two results, and the tables are in order.

It prints seed, faults and counts, and ends with status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
from tests.chaos.receivers import Receivers
from tests.chaos.relay import DatabaseRelay
from tests.support.patience import wait_until
from tests.support.postgres import Cluster

import zsmtp
from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import from_text
from zsmtp.queue.operators import Change
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.states import HistoryEntry, Outcome

ROOT = Path(__file__).parents[2]
NODES = 3
LEASE = 20.0  # seconds that a lease is good for
SETTLING = 240.0  # seconds for the queue to come to its end when nothing fails any more
BIG = 0.4  # of the messages go to the first receiver, which is slow, so that nodes share it
SLOW = 1.0  # seconds until it answers a message
SCHEDULES = ("connection", "greylisting", "mailbox-full", "too-fast", "dns", "tls", "in-doubt", "other")


class ChaosNode:
    """A process of the fleet."""

    def __init__(self, folder: Path, name: str, relay: DatabaseRelay, database: str, routes: str) -> None:
        self.name = name
        self.relay = relay
        self._clock = folder / f"{name}.clock"
        self._config = folder / f"{name}.toml"
        self._log = folder / f"{name}.log"
        url = f"postgresql:///{database}?host={quote(str(relay.folder), safe='')}&user=zsmtp"
        self._config.write_text(f'[queue]\nurl = "{url}"\nshutdown = "5s"\n{_retry()}\n{_LISTEN}\n{routes}')
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "tests.chaos.node", self._clock, "--config", self._config, "--node", self.name]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def keep_running(self) -> None:
        """Start it again if it has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def set_clock(self, seconds: float) -> None:
        """Let its clock be wrong."""
        self._clock.write_text(str(seconds))

    def serves(self) -> bool:
        """Whether it has begun; raises AssertionError if it ended instead."""
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return "is served" in self.log

    @property
    def log(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


_LISTEN = '[listen.local]\naddresses = ["127.0.0.1:0"]'


def _retry() -> str:
    schedules = "\n".join(f'"{name}" = "1s 2s then 3s"' for name in SCHEDULES)
    return f"[queue.retry.schedules]\n{schedules}"


class Fleet:
    """A run: what it is made of, what was done to it, and what came of it."""

    def __init__(self, seed: int, seconds: float, messages: int, receivers: int, folder: Path) -> None:
        self.seed = seed
        self.seconds = seconds
        self.messages = messages
        self.chance = random.Random(seed)
        self.folder = folder
        self.faults: Counter[str] = Counter()
        self.accepted: dict[str, list[str]] = {}  # recipients by id
        self.findings: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.copies = 0
        self.shared = 0  # seconds in which several nodes had parts of a site
        self.receivers = Receivers(random.Random(seed + 1))
        self._receivers = receivers
        self._over = asyncio.Event()
        self._restarting = asyncio.Lock()

    async def run(self) -> None:
        """Live it through."""
        self.cluster = await asyncio.to_thread(Cluster, durable=True)
        try:
            await self._run()
        finally:
            await asyncio.to_thread(self.cluster.remove)

    async def _run(self) -> None:
        database = "chaos"
        await asyncio.to_thread(self.cluster.make, database)
        self.url = self.cluster.url(database)
        await (await PostgresStore.open(self.url)).close()
        await self.receivers.start(self._receivers)
        self.receivers.slow[self.receivers.ports[0]] = SLOW
        routes = "[delivery.routes]\n" + "\n".join(
            f'"d{number}.example" = "smtp://127.0.0.1:{port}"' for number, port in enumerate(self.receivers.ports)
        )
        self.nodes = []
        for number in range(NODES):
            relay = DatabaseRelay(self.folder / f"way-{number}", self.cluster.folder / ".s.PGSQL.5432")
            await relay.start()
            self.nodes.append(ChaosNode(self.folder, f"node-{number}", relay, database, routes))
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                await asyncio.to_thread(wait_until, node.serves, lambda node=node: node.log)
            work = [asyncio.create_task(part()) for part in (self._submit, self._harm, self._watch)]
            await asyncio.sleep(self.seconds)
            self._over.set()
            await asyncio.gather(*work)
            await self._heal()
            await self._settle()
        finally:
            for node in self.nodes:
                node.signal(signal.SIGCONT)
                node.kill()
                await node.relay.stop()
            await self.receivers.stop()

    # ------------------------------------------------------------------ mail in

    async def _submit(self) -> None:
        """Submit mail from a program of its own, which asks again when it was not told: under the same key."""
        pause = self.seconds * 0.9 / self.messages
        begun = time.monotonic()
        async with zsmtp.aio.Queue.open(self.url) as queue:
            for number in range(self.messages):
                sites = self.chance.sample(range(self._receivers), self.chance.choice([1, 1, 1, 1, 3]))
                if self.chance.random() < BIG:
                    sites = [0]
                recipients = [f"m{number}@d{site}.example" for site in sites]
                while True:
                    try:
                        id = await queue.submit(
                            b"Subject: %d\r\n\r\nhello\r\n" % number,
                            sender="ann@shop.example",
                            recipients=recipients,
                            idempotency_key=str(number),
                        )
                    except QueueUnavailable:
                        await asyncio.sleep(0.2)
                    else:
                        break
                self.accepted[id] = recipients
                if (ahead := begun + number * pause - time.monotonic()) > 0:
                    await asyncio.sleep(ahead)

    async def _watch(self) -> None:
        """Count the seconds in which nodes share a site."""
        sql = "SELECT EXISTS (SELECT 1 FROM zsmtp_lease GROUP BY site HAVING count(DISTINCT node) > 1)"
        while not self._over.is_set():
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
                    while not self._over.is_set():
                        row = await (await connection.execute(sql)).fetchone()
                        self.shared += row is not None and bool(row[0])
                        await asyncio.sleep(1)
            await asyncio.sleep(1)

    # ------------------------------------------------------------------- faults

    async def _harm(self) -> None:
        """Let something fail, again and again."""
        under_way: set[asyncio.Task[None]] = set()
        kinds = [self._kill, self._stop, self._cut, self._restart, self._vanish, self._vanish, self._jump]
        while not self._over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self.chance.uniform(0.5, 6.0))
                break
            task = asyncio.create_task(self.chance.choice(kinds)())
            under_way.add(task)
        await asyncio.gather(*under_way)

    def _node(self) -> ChaosNode:
        return self.chance.choice(self.nodes)

    async def _kill(self) -> None:
        self.faults["node killed"] += 1
        node = self._node()
        node.kill()
        await asyncio.sleep(self.chance.uniform(0, 5))
        node.keep_running()

    async def _stop(self) -> None:
        self.faults["node stopped for longer than its leases"] += 1
        node = self._node()
        node.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE + self.chance.uniform(1, 10))
        node.signal(signal.SIGCONT)

    async def _cut(self) -> None:
        self.faults["node cut off from the database"] += 1
        relay = self._node().relay
        relay.cut()
        await asyncio.sleep(self.chance.choice([0.1, 5, 30]))
        relay.heal()

    async def _restart(self) -> None:
        if self.chance.random() < 0.5:
            return
        self.faults["database restarted at once"] += 1
        async with self._restarting:
            await asyncio.to_thread(self.cluster.crash)

    async def _vanish(self) -> None:
        self.faults["receiver vanished"] += 1
        await self.receivers.vanish(self.chance.choice(self.receivers.ports), self.chance.uniform(0.5, 10))

    async def _jump(self) -> None:
        self.faults["clock of a node set"] += 1
        self._node().set_clock(self.chance.choice([-3600, -30, 0, 0, 30, 3600]))

    async def _heal(self) -> None:
        """Let nothing fail any more."""
        self.receivers.failing = False
        for node in self.nodes:
            node.relay.heal()
            node.signal(signal.SIGCONT)
            node.set_clock(0)
            node.keep_running()

    # -------------------------------------------------------------------- books

    async def _settle(self) -> None:
        """Wait for the end of the queue, and compare the books."""
        store = await PostgresStore.open(self.url)
        try:
            end = time.monotonic() + SETTLING
            async for _ in store.change(Filter(), Change(due=time.time())):
                pass  # what a clock that was wrong put off for an hour
            while (left := (await store.count(Filter()))[""]) and time.monotonic() < end:
                for node in self.nodes:
                    node.keep_running()
                await asyncio.sleep(1)
            if left:
                self.findings.append(f"{left} recipients are still there after {SETTLING:.0f} s")
                self.findings += [f"{node.name}: {node.log}" for node in self.nodes]
            for id, recipients in self.accepted.items():
                self._compare(id, recipients, await store.history(from_text(id)[0]))
            self.findings += [finding async for finding in store.check()]
        finally:
            await store.close()

    def _compare(self, id: str, recipients: list[str], history: list[HistoryEntry]) -> None:
        for number, address in enumerate(recipients):
            entries = [entry for entry in history if entry.number == number]
            ends = [entry.outcome for entry in entries if entry.outcome.end is not None]
            copies = self.receivers.ledger[address]
            doubts = sum(entry.outcome is Outcome.IN_DOUBT for entry in entries)
            self.outcomes.update(entry.outcome.value for entry in entries)
            self.copies += max(copies - 1, 0)
            told = [(entry.attempt, entry.outcome) for entry in entries if entry.outcome is not Outcome.LATE]
            attempts = Counter(attempt for attempt, outcome in told if outcome is not Outcome.IN_DOUBT)
            if len(ends) != 1:
                self.findings.append(f"{id} {address}: {len(ends)} ends")
            if Outcome.DELIVERED in ends and not copies:
                self.findings.append(f"{id} {address}: delivered, and at no receiver")
            if copies > 1 + doubts:
                self.findings.append(f"{id} {address}: {copies} copies, {doubts} in doubt")
            if any(times > 1 for times in attempts.values()):
                self.findings.append(f"{id} {address}: two results of one attempt: {told}")

    def report(self) -> str:
        """Seed, faults, counts."""
        lines = [f"seed {self.seed}, {self.seconds:.0f} s, {NODES} nodes, {self._receivers} receivers"]
        lines += [f"  {number:6}  {fault}" for fault, number in sorted(self.faults.items())]
        recipients = sum(map(len, self.accepted.values()))
        lines.append(f"{len(self.accepted)} messages accepted, {recipients} recipients")
        lines += [f"  {number:6}  {outcome}" for outcome, number in sorted(self.outcomes.items())]
        lines.append(f"  {self.copies:6}  second copies at receivers")
        lines.append(f"  {self.shared:6}  seconds in which nodes shared a site")
        lines.append(f"{len(self.findings)} findings")
        return "\n".join([*lines, *self.findings[:50]])


def play(seed: int, seconds: float, messages: int, receivers: int) -> Fleet:
    """A whole run."""

    async def main() -> Fleet:
        with tempfile.TemporaryDirectory(prefix="zsmtp-chaos-") as folder:
            fleet = Fleet(seed, seconds, messages, receivers, Path(folder))
            await fleet.run()
            return fleet

    return asyncio.run(main())


def run() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--receivers", type=int, default=200)
    given = parser.parse_args()
    try:
        fleet = play(given.seed, given.seconds, given.messages, given.receivers)
    except QueueError as error:
        print(f"seed {given.seed}: {error}")
        return 1
    print(fleet.report())
    return 1 if fleet.findings else 0


if __name__ == "__main__":
    sys.exit(run())
