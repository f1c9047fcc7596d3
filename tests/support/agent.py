"""The agent as a child process, fed and heard as ZMailer's scheduler does it.

:class:`Agent` starts it with pipes, or with one socket pair on descriptors 0, 1 and 2; the environment holds
``PATH`` and ``ZCONFIG`` only (and ``PYTHONPATH``, so that an uninstalled tree is found). Its lines are collected by
threads; whatever a test does, the process is gone when the ``with`` block is left.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.support.postoffice import PostOffice, Report

SOURCE = Path(__file__).resolve().parents[2] / "src"
COVERAGE = ("COVERAGE_PROCESS_CONFIG",)  # by which a measured test run has its child processes measured, too
PATIENCE = 60.0


class Channel(Enum):
    """How the agent's descriptors 0, 1 and 2 are connected."""

    PIPES = "a pipe each"
    SOCKET_PAIR = "one socket pair for all"


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: exit status, lines of stdout and of stderr (with a socket pair: both in ``stdout``)."""

    status: int
    stdout: tuple[bytes, ...]
    stderr: tuple[bytes, ...]

    @property
    def hungry(self) -> int:
        return self.stdout.count(b"#hungry")

    @property
    def resyncs(self) -> list[bytes]:
        return [line.removeprefix(b"#resync ") for line in self.stdout if line.startswith(b"#resync ")]

    @property
    def comments(self) -> list[bytes]:
        """The other lines that start with ``#``."""
        lines = (*self.stdout, *self.stderr)
        return [line for line in lines if re.match(rb"#(?!hungry$|resync )", line)]

    @property
    def reports(self) -> list[Report]:
        """The reports, each of them well-formed; every other line starts with ``#``."""
        for line in self.stderr:
            assert line.startswith(b"#"), f"stderr: {line!r}"
        return [Report.parse(line) for line in self.stdout if not line.startswith(b"#")]

    @property
    def fates(self) -> dict[tuple[bytes, int], str]:
        """Fate by message id and offset; a recipient reported twice is an error."""
        fates: dict[tuple[bytes, int], str] = {}
        for report in self.reports:
            assert (report.id, report.offset) not in fates, f"reported twice: {report}"
            fates[report.id, report.offset] = report.fate
        return fates


class _Reader:
    """Collects the lines of one descriptor in a thread; it can be told to let go of the descriptor at once."""

    def __init__(self, descriptor: int, changed: threading.Condition) -> None:
        self.lines: list[bytes] = []
        self._descriptor = descriptor
        self._changed = changed
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of file (not after close())."""
        if self._descriptor < 0:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("somebody still holds the other end")

    def close(self) -> None:
        """Stop reading and close: no read may be under way, or the pipe would stay open for the writer."""
        if self._descriptor < 0:
            return
        os.write(self._waker, b"x")
        self._thread.join()
        for descriptor in (self._descriptor, self._wake, self._waker):
            os.close(descriptor)
        self._descriptor = -1

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        rest = b""
        while True:
            if self._wake in dict(poll.poll()):
                return
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:
                data = b""
            with self._changed:
                *lines, rest = (rest + data).split(b"\n")
                self.lines += lines
                if not data and rest:
                    self.lines.append(rest)
                self._changed.notify_all()
            if not data:
                return


def usual_environment(office: PostOffice) -> dict[str, str]:
    """What the scheduler lets its agents have, and what is needed to find and to measure them here."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "ZCONFIG": str(office.zenv), "PYTHONPATH": str(SOURCE)}
    return env | {name: os.environ[name] for name in COVERAGE if name in os.environ}


class Agent:
    """The process. ``python`` are options for the interpreter, ``environment`` is added to the usual one, ``before`` is
    a command that runs another one.

    ``held`` leaves stdout, a pipe of one page then, unread but for :meth:`take_output`: its writes have to wait.
    With a socket pair this side keeps a copy of the child's end, to see in ``left_blocking`` how it was left.
    """

    def __init__(
        self,
        office: PostOffice,
        *flags: str,
        channel: Channel = Channel.PIPES,
        held: bool = False,
        python: Sequence[str] = (),
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._changed = threading.Condition()
        self._child_end = -1
        self._feed = -1
        self.left_blocking: bool | None = None
        env = {**usual_environment(office), **(environment or {})}
        ours, theirs = _socket_pair() if channel is Channel.SOCKET_PAIR else _pipes()
        self.process = subprocess.Popen(
            [*before, sys.executable, *python, "-m", "zsmtp.zmailer.agent", *flags],
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            cwd=office.transport,
            env=env,
        )
        if channel is Channel.SOCKET_PAIR:
            self._child_end = theirs[0]
        else:
            for descriptor in theirs:
                os.close(descriptor)
        self._feed, *outputs = ours
        self._held = -1
        if held:
            self._held = outputs.pop(0)
            fcntl.fcntl(self._held, fcntl.F_SETPIPE_SZ, 4096)
        self._readers = [_Reader(descriptor, self._changed) for descriptor in outputs]

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self.close_feed()
        self._look_at_child_end()
        for reader in self._readers:
            reader.close()
        if self._held >= 0:
            os.close(self._held)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def lines(self) -> list[bytes]:
        """The lines of stdout so far."""
        with self._changed:
            return list(self._readers[0].lines)

    def feed(self, *lines: bytes) -> None:
        """Write to the agent's stdin at once, whatever it does at the moment."""
        data = b"".join(lines)
        while data:
            data = data[os.write(self._feed, data) :]

    def take_output(self, limit: int) -> bytes:
        """What stdout holds at this moment, if it is held, or so many octets of it."""
        poll = select.poll()
        poll.register(self._held, select.POLLIN)
        return os.read(self._held, limit) if poll.poll(0) else b""

    def close_feed(self) -> None:
        """End of file on the agent's stdin."""
        if self._feed < 0:
            return
        if self._child_end >= 0:
            with socket.socket(fileno=os.dup(self._feed)) as ours, suppress(OSError):
                ours.shutdown(socket.SHUT_WR)
        os.close(self._feed)
        self._feed = -1

    def close_output(self) -> None:
        """Close this side's end of the agent's stdout (a pipe: stdin and stderr stay as they are)."""
        self._readers[0].close()

    def close_error(self) -> None:
        """The same for stderr (pipes only)."""
        self._readers[1].close()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for(self, condition: Callable[[list[bytes]], bool], timeout: float = PATIENCE) -> None:
        """Wait until ``condition`` holds for the lines of stdout so far; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._readers[0].lines), timeout):
                raise TimeoutError(f"not heard: {self._heard()}")

    def wait_until_hungry(self, count: int) -> None:
        """Wait until ``#hungry`` was said so many times in all."""
        self.wait_for(lambda lines: lines.count(b"#hungry") >= count)

    def finish(self, timeout: float = PATIENCE) -> Result:
        """End the feed, wait for the end of the process, and return all that it said."""
        self.close_feed()
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> Result:
        """Wait for the end of the process, the feed being as it is."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running: {self._heard()}") from None
        self._look_at_child_end()
        for reader in self._readers:
            reader.join(timeout)
        stdout, *stderr = [tuple(reader.lines) for reader in self._readers]
        return Result(status, stdout, stderr[0] if stderr else ())

    def peak_memory(self) -> int:
        """The largest resident set of the living process so far, in octets."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def is_running(self) -> bool:
        """Whether it does something or would if it had a processor; False while it waits, or if it has ended."""
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in ("S", "Z")

    def _look_at_child_end(self) -> None:
        if self._child_end >= 0:
            self.left_blocking = os.get_blocking(self._child_end)
            os.close(self._child_end)
            self._child_end = -1

    def _heard(self) -> str:
        return "; ".join(f"{b' | '.join(reader.lines)!r}" for reader in self._readers)


def _pipes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Three pipes: this side's ends of stdin, stdout and stderr, and the child's."""
    (feed_out, feed_in), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
    return (feed_in, out_read, err_read), (feed_out, out_write, err_write)


def _socket_pair() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """One socket pair: this side's end for writing and for reading, and three times the child's."""
    ours, theirs = (end.detach() for end in socket.socketpair())
    return (ours, os.dup(ours)), (theirs,) * 3


def run(office: PostOffice, *flags: str, stdin: bytes = b"", channel: Channel = Channel.PIPES) -> Result:
    """One complete run: feed everything at once, end of file, wait."""
    with Agent(office, *flags, channel=channel) as agent:
        agent.feed(stdin)
        return agent.finish()
