"""A process that is a copy of this one, and calls a function.

It starts in a few milliseconds, since it has imported what this process has. But it has copies of the locks of this
process as well, and of its other threads only what they held: :func:`can_fork` tells whether there are any. It has the
null device as its standard input and output, and of other files only those that are named. It destroys none of the
objects of this process, whose descriptors it may use again.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from subprocess import TimeoutExpired

_LOOK = 0.005  # seconds between two looks at a process that is waited for


def can_fork() -> bool:
    """Whether this process has no other thread, and runs no event loop."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return False
    try:
        return threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    except OSError:  # /proc is not mounted
        return False


class Fork:
    """A process that calls ``main`` and ends with the status that it returns; with files ``keep``, and standard error.

    It has the methods of ``subprocess.Popen`` that are used here. Raises OSError.
    """

    def __init__(self, main: Callable[[], int], keep: Iterable[int]) -> None:
        self.returncode: int | None = None
        """Its status, a negative one for the signal that killed it, None until that is known."""
        self._lock = threading.Lock()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _run(main, keep)

    def poll(self) -> int | None:
        """Find its status, if it has ended."""
        with self._lock:
            return self._find_status()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, for so many seconds at most. Raises TimeoutExpired."""
        began = time.monotonic()
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() - began >= timeout:
                raise TimeoutExpired("fork", timeout)
            time.sleep(_LOOK)
        return status

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with self._lock:
            if self._find_status() is None:
                os.kill(self.pid, signal.SIGKILL)

    def _find_status(self) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored, and the status lost
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _run(main: Callable[[], int], keep: Iterable[int]) -> None:
    """The life of the process. Does not return."""
    status = 1
    try:
        gc.freeze()
        _keep_only(keep)
        status = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _keep_only(descriptors: Iterable[int]) -> None:
    """Close all descriptors but these and standard error; standard input and output become the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    for number in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *descriptors}:
        with suppress(OSError):  # the one that listed them is gone
            os.close(number)
