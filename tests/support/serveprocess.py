"""``zsmtp serve`` as a process of its own, and what tests ask of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.patience import LIMIT, wait_until


class ServeProcess:
    """``zsmtp serve`` with a configuration in a folder, until the block is left; ``port`` is where it takes mail.

    The queue is a file in the folder, or in the database of ``url``.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        *,
        queue: str = "",
        url: str = "",
        environment: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.file = folder / "serve.toml"
        self.port = free_port()
        self._queue = f'url = "{url}"' if url else f'path = "{folder}/queue.db"'
        self.write(config, queue=queue)
        self.log = folder / "log"
        self._environment = {**os.environ, **(environment or {})}
        self._launcher = launcher
        self._descriptors = descriptors
        self.process: subprocess.Popen[bytes]

    def write(self, config: str, first: str = "", queue: str = "") -> None:
        """Write the configuration: the queue and a listener, and ``config``.

        ``first`` stands before all tables, ``queue`` in the one of the queue.
        """
        listener = "" if "[listen." in config else f'[listen.local]\naddresses = ["127.0.0.1:{self.port}"]\n'
        self.file.write_text(
            f'name = "mail.example.org"\n{first}\n[queue]\n{self._queue}\n{queue}\n'
            + listener
            + config.replace("PORT", str(self.port))
        )

    def start(self) -> Self:
        """Start, and wait until it serves; the log may have lines of an earlier start."""
        served = self.log.read_text().count("is served") if self.log.exists() else 0
        self.begin()
        self.wait_for("is served", served + 1)
        return self

    def begin(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._launcher, sys.executable, "-m", "zsmtp.cli.main", "serve", "--config", str(self.file)],
                stderr=log,
                env=self._environment,
                pass_fds=self._descriptors,
            )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT)

    @property
    def logged(self) -> str:
        """The log so far."""
        return self.log.read_text()

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until the log has a text so many times."""
        self.wait_until(lambda: self.logged.count(text) >= count)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for something, while the process lives."""

        def met() -> object:
            assert self.process.poll() is None, self.logged
            return condition()

        wait_until(met, lambda: self.logged)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and give the exit status."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def client(self) -> smtplib.SMTP:
        """A connection, greeted."""
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=LIMIT)
        client.ehlo("client.example")
        return client

    def send(self, subject: str = "x", recipient: str = "b@example.net") -> None:
        """Send a message."""
        with self.client() as client:
            client.sendmail("a@example.org", [recipient], f"Subject: {subject}\r\n\r\nhello\r\n")

    def counters(self) -> dict[str, int]:
        """The counters of the queue, while nothing serves it."""
        with contextlib.closing(sqlite3.connect(self.folder / "queue.db")) as database:
            return dict(database.execute("SELECT name, sum(value) FROM zsmtp_counter GROUP BY name"))


class NotifySocket:
    """The socket of systemd: what was sent to it, assignment by assignment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.said: list[str] = []

    def wait_for(self, word: str, count: int = 1) -> None:
        """Wait until something was said so many times."""
        deadline = time.monotonic() + LIMIT
        while self.said.count(word) < count:
            ready, _, _ = select.select([self.socket], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{word} was not said {count} times: {self.said}"
            self.said += self.socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        """Close it."""
        self.socket.close()


_WORKERS = 16
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, which no other test gets.

    It is not one of those that systems give to outgoing connections meanwhile, nor to whoever asks for any port.
    """
    while True:
        port = secrets.choice(range(10_000 + _WORKER, 32_000, _WORKERS))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
