"""The workers as the owner of a queue has them: started, watched, started again, and told to end.

Each worker is a process of its own, started anew (nothing of this process's memory goes along), at the other end of a
pair of sockets. One that ends is started again after a rest, which grows while it does not live long; one that says
nothing for :data:`SILENT` looks, a second apart, is killed. What a process had in hand when it ended is told to its
connections, once everything that it had said is heard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import zsmtp
from zsmtp.client.config import Config
from zsmtp.errors import QueueError
from zsmtp.queue.workers.channel import Channel
from zsmtp.queue.workers.messages import ConfigureWorker, EndWorker, Heartbeat, LogLine, WorkerReady

log = logging.getLogger("zsmtp.queue")

SILENT = 30  # looks without a word of a worker after which it is taken for hung
LOOK = 1.0  # seconds between two looks
RESTS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds before a worker that ended is started again
SETTLED = 60.0  # seconds that a worker must have lived for its rest to be the first one
START = 60.0  # seconds that the first start of all workers may take
END = 10.0  # seconds that a worker has to end
KEPT = 10_000  # sites of which it is remembered which worker had them last
STAYS = 8  # connections that a worker may have more than another one, and still get a site that it had before

# The package is the one that runs here, wherever Python would look for it.
_BEGIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import zsmtp; sys.path.append(sys.path.pop(0)); "
    "from zsmtp.queue.workers.main import main; sys.exit(main())"
)


class Carried(Protocol):
    """A connection that a worker has."""

    @property
    def site(self) -> str:
        """The site that it is for."""

    def heard(self, message: object) -> None:
        """The worker said something of it."""

    def gone(self, reason: str) -> None:
        """The worker is dead."""


class WorkerProcess:
    """Worker ``number``; ``ready`` says whether it takes messages, ``changed`` is called when it begins to."""

    def __init__(self, number: int, changed: Callable[[], None]) -> None:
        self.number = number
        self.ready = False
        self.pid = 0
        self.sites: Counter[str] = Counter()
        """Its connections by site."""
        self._changed = changed
        self._channel: Channel | None = None
        self._connections: dict[int, Carried] = {}
        self.silent = 0
        """Looks since it said something."""

    @property
    def connections(self) -> int:
        """How many it has."""
        return len(self._connections)

    @property
    def backlog(self) -> int:
        """Octets on their way to it."""
        return self._channel.backlog if self._channel is not None else 0

    def say(self, message: object, *, octets: int = 0, descriptor: int = -1) -> None:
        """Send a message, see :meth:`Channel.send`; where no process runs it goes nowhere."""
        if self._channel is not None:
            self._channel.send(message, octets=octets, descriptor=descriptor)
        elif descriptor >= 0:
            os.close(descriptor)

    def add(self, number: int, connection: Carried) -> None:
        """A connection is with this worker from now on."""
        self._connections[number] = connection
        self.sites[connection.site] += 1

    def forget(self, number: int) -> None:
        """It is not any more."""
        connection = self._connections.pop(number, None)
        if connection is not None:
            self.sites[connection.site] -= 1
            if not self.sites[connection.site]:
                del self.sites[connection.site]

    async def run(self, configuration: Callable[[], ConfigureWorker]) -> str:
        """Start the process and serve it until it ends; gives the reason, for people."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        root = str(Path(zsmtp.__file__).resolve().parent.parent)
        arguments = ["-P", "-c", _BEGIN, root, str(theirs.fileno()), str(self.number)]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the signals of a terminal are for the owner
            )
        except OSError as error:
            ours.close()
            return f"it cannot be started: {error.strerror or error}"
        finally:
            theirs.close()
        self.pid, self.silent = process.pid, 0
        over = asyncio.Event()
        self._channel = channel = Channel(ours, self._heard, lambda reason: self._ended(reason, over))
        channel.send(configuration())
        watching = asyncio.get_running_loop().create_task(self._watch(process))
        try:
            await over.wait()
            watching.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END)
        finally:
            watching.cancel()
            channel.close()
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _words(process.returncode)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill it if it hangs. Looks are counted, not seconds: this process may have had no time to hear it."""
        while True:
            await asyncio.sleep(LOOK)
            self.silent += 1
            if self.silent == SILENT:
                log.error("worker %d (process %d) has not answered for long: it is killed", self.number, process.pid)
                process.kill()

    def _heard(self, message: object) -> None:
        self.silent = 0
        if isinstance(message, Heartbeat):
            return
        if isinstance(message, LogLine):
            write_line(message)
        elif isinstance(message, WorkerReady):
            self.ready = True
            self._changed()
        else:
            connection = self._connections.get(message.connection)  # type: ignore[attr-defined]
            if connection is not None:
                connection.heard(message)

    def _ended(self, reason: str, over: asyncio.Event) -> None:
        self.ready = False
        connections, self._connections = self._connections, {}
        self.sites.clear()
        for connection in connections.values():
            connection.gone(f"worker {self.number} is gone: {reason}")
        over.set()


def write_line(line: LogLine) -> None:
    """Put a line of a worker into the log of this process."""
    logger = logging.getLogger(line.name)
    if logger.isEnabledFor(line.level):
        values = {"name": line.name, "levelno": line.level, "levelname": logging.getLevelName(line.level)}
        values |= {"msg": "%s", "args": (line.text,), "exc_text": line.exception or None, "created": line.created}
        logger.handle(logging.makeLogRecord(values))


def _words(status: int | None) -> str:
    """How a process ended."""
    if status is not None and status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it ended with status {status}"


class WorkerPool:
    """``count`` workers that deliver as ``config`` says."""

    def __init__(self, config: Config, count: int) -> None:
        self.restarts = 0
        """How often a worker was started again."""
        self._config = config
        self.workers = [WorkerProcess(number, self._changed) for number in range(1, count + 1)]
        self._problems: dict[int, str] = {}
        self._last: dict[str, WorkerProcess] = {}  # which worker had a site last
        self._waiting: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Start all; raises QueueError if one does not start."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(worker), name="zsmtp worker") for worker in self.workers]
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
        """The worker for a new connection to a site, None if none runs.

        It is one with as few connections to this site as any, so that a relay for all mail keeps every worker busy; of
        those the one that had the site last, which may resume its TLS sessions, unless it has far more to do.
        """
        last = self._last.get(site)
        running = [worker for worker in self.workers if worker.ready]
        if not running:
            return None
        chosen = min(
            running, key=lambda worker: (worker.sites[site], worker.connections - (STAYS if worker is last else 0))
        )
        if last is not chosen:
            if len(self._last) >= KEPT:
                self._last.clear()
            self._last[site] = chosen
        return chosen

    def next_change(self) -> asyncio.Future[None]:
        """A future that is done when a worker began to take messages, or one ended, or the workers are to end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _changed(self) -> None:
        self._problems = {one: why for one, why in self._problems.items() if not self.workers[one - 1].ready}
        for future in tuple(self._waiting):
            if not future.done():
                future.set_result(None)

    def configure(self, config: Config) -> None:
        """Have all go by the relays and routes of another configuration, and by the level of the log as it is now."""
        self._config = config
        for worker in self.workers:
            if worker.ready:
                worker.say(self._configuration())

    def _configuration(self) -> ConfigureWorker:
        return ConfigureWorker(self._config, logging.getLogger("zsmtp").getEffectiveLevel())

    @property
    def problems(self) -> list[str]:
        """Which workers do not run, and why."""
        return [self._problems[number] for number in sorted(self._problems)]

    async def _keep(self, worker: WorkerProcess) -> None:
        """Run a worker, again and again."""
        loop = asyncio.get_running_loop()
        tries = 0
        while not self._closing.is_set():
            began = loop.time()
            reason = await worker.run(self._configuration)
            if self._closing.is_set():
                return
            tries = 0 if loop.time() - began >= SETTLED else tries + 1
            rest = RESTS[min(max(tries - 1, 0), len(RESTS) - 1)]
            problem = self._problems[worker.number] = f"worker {worker.number} does not run: {reason}"
            log.error("%s; it is started again after %g s", problem, rest)
            self._changed()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), rest)
                return
            self.restarts += 1

    async def aclose(self) -> None:
        """End all. May be called again."""
        self._closing.set()
        self._changed()
        for worker in self.workers:
            worker.say(EndWorker())
        tasks, self._tasks = self._tasks, []
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
