"""Starts another process of this program, at the other end of a pair of UNIX stream sockets.

The process calls ``main()`` of a module, with the descriptor of its end of the socket pair as its first argument. It
imports the same package as this process: it has the same module search path, and does not look at the working directory
(``-P``). Its standard input and output are the null device; it inherits standard error.

A process with ``may_fork`` is a copy of this one where that is safe (:mod:`zsmtp.net.fork`): it need not import again
what this process has imported.

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
from importlib import import_module

from zsmtp.net.fork import Fork, can_fork

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

    It inherits ``descriptors``. A ``new_session`` has no terminal, and no part in job control, and is never a fork.
    Raises OSError if it cannot be started.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        descriptors: Sequence[int] = (),
        new_session: bool = False,
        may_fork: bool = False,
    ) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        """This end of the socket pair. The caller owns and closes it."""
        words, descriptors = (module, str(theirs.fileno()), *arguments), (theirs.fileno(), *descriptors)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if may_fork and not new_session and can_fork():
                self._process: Fork | subprocess.Popen[bytes] = _forked(words, descriptors)
            else:
                self._process = _started(words, descriptors, new_session=new_session)
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


def _started(words: Sequence[str], descriptors: Sequence[int], *, new_session: bool) -> subprocess.Popen[bytes]:
    """A new interpreter that calls ``main()`` of the module ``words[0]`` with the others."""
    search_path = "\n".join(os.path.abspath(entry) for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOTSTRAP, search_path, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=new_session,
    )


def _forked(words: Sequence[str], descriptors: Sequence[int]) -> Fork:
    """The same as a copy of this process, which has the module from here."""
    main = import_module(words[0]).main

    def run() -> int:
        sys.argv[1:] = words[1:]
        status: int = main()
        return status

    return Fork(run, descriptors)
