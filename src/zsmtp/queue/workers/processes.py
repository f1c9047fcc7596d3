"""The worker processes of the owner of a queue: start, supervision, restart and end.

A worker is a :class:`~zsmtp.net.processes.ChildProcess`: it has nothing of the memory of this process. A worker that
ends is restarted after a delay, which grows while workers end soon after their start. The pool kills a worker that
sends nothing for :data:`MISSED_CHECKS` checks, :data:`CHECK_INTERVAL` seconds apart. When a worker ends, its
connections get all messages that it sent before, and then :meth:`WorkerPeer.on_worker_end`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from zsmtp.client.config import Config
from zsmtp.errors import QueueError
from zsmtp.net.channel import Channel
from zsmtp.net.processes import ChildProcess
from zsmtp.queue.workers.messages import ConfigureWorker, EndWorker, Heartbeat, LogLine, WorkerReady

log = logging.getLogger("zsmtp.queue")

MISSED_CHECKS = 30  # checks without a message of a worker, after which it is killed
CHECK_INTERVAL = 1.0  # seconds between two checks
RESTART_DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds before each restart, the last for all that follow
STABLE = 60.0  # seconds that a worker must run for its next restart to have the first delay
START = 60.0  # seconds that the first start of all workers may take
END = 10.0  # seconds that a worker has to end
MAX_REMEMBERED = 10_000  # sites whose last worker is remembered
STAYS = 8  # connections that a worker may have more than another one, and still get a site that it had before


class WorkerPeer(Protocol):
    """A connection of this process whose session is in a worker."""

    @property
    def site(self) -> str:
        """The site that it delivers to."""

    def on_message(self, message: object) -> None:
        """Take a message of the worker about this connection."""

    def on_worker_end(self, reason: str) -> None:
        """Note that the worker has ended."""


class WorkerProcess:
    """Worker ``number``. ``on_ready`` is called when it is ready."""

    def __init__(self, number: int, on_ready: Callable[[], None]) -> None:
        self.number = number
        self.ready = False
        """Whether it takes messages."""
        self.pid = 0
        """The id of its last process."""
        self.sites: Counter[str] = Counter()
        """The number of its connections by site."""
        self.missed = 0
        """Checks since its last message."""
        self._on_ready = on_ready
        self._channel: Channel | None = None
        self._connections: dict[int, WorkerPeer] = {}

    @property
    def connections(self) -> int:
        """The number of its connections."""
        return len(self._connections)

    @property
    def backlog(self) -> int:
        """Octets that wait to be written to it."""
        return self._channel.backlog if self._channel is not None else 0

    def send(self, message: object, *, octets: int = 0, descriptor: int = -1) -> None:
        """Send a message, see :meth:`Channel.send`; it is discarded if no process runs."""
        if self._channel is not None:
            self._channel.send(message, octets=octets, descriptor=descriptor)
        elif descriptor >= 0:
            os.close(descriptor)

    def add(self, number: int, connection: WorkerPeer) -> None:
        """Add a connection to this worker."""
        self._connections[number] = connection
        self.sites[connection.site] += 1

    def forget(self, number: int) -> None:
        """Remove a connection from this worker."""
        connection = self._connections.pop(number, None)
        if connection is not None:
            self.sites[connection.site] -= 1
            if not self.sites[connection.site]:
                del self.sites[connection.site]

    async def run(self, configuration: Callable[[], ConfigureWorker]) -> str:
        """Start the process and serve it until it ends. Return the reason, as text."""
        try:
            # The signals of a terminal are for the owner: the workers have no terminal.
            process = ChildProcess("zsmtp.queue.workers.main", str(self.number), new_session=True)
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        self.pid, self.missed = process.pid, 0
        closed = asyncio.Event()
        self._channel = channel = Channel(
            process.socket, self._on_message, lambda reason: self._on_close(reason, closed)
        )
        channel.send(configuration())
        supervision = asyncio.get_running_loop().create_task(self._supervise(process))
        try:
            await closed.wait()
            supervision.cancel()
            await process.wait(END)
        finally:
            supervision.cancel()
            channel.close()
            await process.wait(0)
        return (
            f"it was killed by {process.killed_by}"
            if process.killed_by
            else f"it ended with status {process.exit_status}"
        )

    async def _supervise(self, process: ChildProcess) -> None:
        """Kill it if it hangs. Checks are counted, not seconds: this process may itself have had no time to read."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            self.missed += 1
            if self.missed == MISSED_CHECKS:
                log.error("worker %d (process %d) has not answered for long: it is killed", self.number, process.pid)
                process.kill()

    def _on_message(self, message: object) -> None:
        self.missed = 0
        if isinstance(message, Heartbeat):
            return
        if isinstance(message, LogLine):
            write_line(message)
        elif isinstance(message, WorkerReady):
            self.ready = True
            self._on_ready()
        else:
            connection = self._connections.get(message.connection)  # type: ignore[attr-defined]
            if connection is not None:
                connection.on_message(message)

    def _on_close(self, reason: str, closed: asyncio.Event) -> None:
        self.ready = False
        connections, self._connections = self._connections, {}
        self.sites.clear()
        for connection in connections.values():
            connection.on_worker_end(f"worker {self.number} has ended: {reason}")
        closed.set()


def write_line(line: LogLine) -> None:
    """Write a log line of a worker to the log of this process."""
    logger = logging.getLogger(line.name)
    if logger.isEnabledFor(line.level):
        values = {"name": line.name, "levelno": line.level, "levelname": logging.getLevelName(line.level)}
        values |= {"msg": "%s", "args": (line.text,), "exc_text": line.exception or None, "created": line.created}
        logger.handle(logging.makeLogRecord(values))


class WorkerPool:
    """``count`` workers, with the configuration ``config``."""

    def __init__(self, config: Config, count: int) -> None:
        self.restarts = 0
        """The number of restarts."""
        self._config = config
        self.workers = [WorkerProcess(number, self._on_change) for number in range(1, count + 1)]
        self._problems: dict[int, str] = {}
        self._last: dict[str, WorkerProcess] = {}  # the last worker of each site
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Start all workers. Raises QueueError if one does not start."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._supervise(worker), name="zsmtp worker") for worker in self.workers]
        deadline = loop.time() + START
        while not all(worker.ready for worker in self.workers):
            left = deadline - loop.time()
            if self._problems or left <= 0:
                raise QueueError(next(iter(self._problems.values()), f"a worker was not ready in {START:g} seconds"))
            change = self.next_change()
            await asyncio.wait([change], timeout=left)
            change.cancel()
        pids = ", ".join(str(worker.pid) for worker in self.workers)
        log.info("%d workers deliver: processes %s", len(self.workers), pids)

    def choose(self, site: str) -> WorkerProcess | None:
        """The worker for a new connection to a site, None if none is ready.

        It is a worker with the fewest connections to this site, so that a relay for all mail keeps every worker busy.
        Among these it is the last worker of the site, which may resume its TLS sessions, unless that one has more than
        :data:`STAYS` connections more than another; else the one with the fewest connections.
        """
        last = self._last.get(site)
        running = [worker for worker in self.workers if worker.ready]
        if not running:
            return None
        chosen = min(
            running, key=lambda worker: (worker.sites[site], worker.connections - (STAYS if worker is last else 0))
        )
        if last is not chosen:
            if len(self._last) >= MAX_REMEMBERED:
                self._last.clear()
            self._last[site] = chosen
        return chosen

    def next_change(self) -> asyncio.Future[None]:
        """A future that is done when a worker becomes ready or ends, or the pool is closed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        future.add_done_callback(self._waiters.discard)
        return future

    def _on_change(self) -> None:
        self._problems = {one: why for one, why in self._problems.items() if not self.workers[one - 1].ready}
        for future in tuple(self._waiters):
            if not future.done():
                future.set_result(None)

    def configure(self, config: Config) -> None:
        """Send all workers the relays and routes of another configuration, and the present level of the log."""
        self._config = config
        for worker in self.workers:
            if worker.ready:
                worker.send(self._configuration())

    def _configuration(self) -> ConfigureWorker:
        return ConfigureWorker(self._config, logging.getLogger("zsmtp").getEffectiveLevel())

    @property
    def problems(self) -> list[str]:
        """The workers that do not run, with reasons."""
        return [self._problems[number] for number in sorted(self._problems)]

    async def _supervise(self, worker: WorkerProcess) -> None:
        """Run a worker, and restart it until the pool is closed."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._closing.is_set():
            began = loop.time()
            reason = await worker.run(self._configuration)
            if self._closing.is_set():
                return
            failures = 0 if loop.time() - began >= STABLE else failures + 1
            delay = RESTART_DELAYS[min(max(failures - 1, 0), len(RESTART_DELAYS) - 1)]
            problem = self._problems[worker.number] = f"worker {worker.number} does not run: {reason}"
            log.error("%s; it is started again after %g s", problem, delay)
            self._on_change()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)
                return
            self.restarts += 1

    async def aclose(self) -> None:
        """End all workers; may be called again."""
        self._closing.set()
        self._on_change()
        for worker in self.workers:
            worker.send(EndWorker())
        tasks, self._tasks = self._tasks, []
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
