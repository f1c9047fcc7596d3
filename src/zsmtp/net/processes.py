"""Starts another process of this program, at the other end of a pair of UNIX stream sockets.

The process calls ``main()`` of a module, with the descriptor of its end of the socket pair as its first argument. It
imports the same package as this process: it has the same module search path, and does not look at the working directory
(``-P``). Its standard input and output are the null device; it inherits standard error.

The parent decides when it ends: SIGINT, SIGTERM and SIGHUP, which a terminal or a service manager sends to all
processes of a program, are blocked until the process ignores them (:func:`ignore_signals`). A process whose parent is
gone reads the end of its socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from importlib import import_module; sys.exit(import_module(sys.argv.pop(1)).main())"
)


def ignore_signals() -> None:
    """Ignore the signals that are for the parent. Called first in a :class:`ChildProcess`."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class ChildProcess:
    """A process that calls ``main()`` of a module, with the descriptor of its socket and ``arguments``.

    It inherits ``descriptors``. A ``new_session`` has no terminal, and no part in job control. Raises OSError if it
    cannot be started.
    """

    def __init__(
        self, module: str, *arguments: str, descriptors: Sequence[int] = (), new_session: bool = False
    ) -> None:
        search_path = "\n".join(os.path.abspath(entry) for entry in sys.path if entry)
        ours, theirs = socket.socketpair()
        self.socket = ours
        """This end of the socket pair. The caller owns and closes it."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, search_path, module, str(theirs.fileno()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
                start_new_session=new_session,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def killed_by(self) -> str:
        """The name of the signal that killed it, "" if it runs or has exited."""
        status = self._process.returncode
        if status is None or status >= 0:
            return ""
        try:
            return signal.Signals(-status).name
        except ValueError:  # a real-time signal
            return f"signal {-status}"

    @property
    def exit_status(self) -> int | None:
        """Its exit status, None if it runs or was killed."""
        status = self._process.returncode
        return status if status is not None and status >= 0 else None

    def kill(self) -> None:
        """Kill it; may be called after its end."""
        self._process.kill()

    async def wait(self, seconds: float) -> None:
        """Wait until it has ended; kill it after so many seconds, or if this is cancelled."""
        if self._process.returncode is not None:
            return
        try:
            await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
