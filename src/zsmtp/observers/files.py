"""Writes traces to files, atomically and readable by their owner only.

A file is written under a temporary name in its directory and then renamed (rename(2) is atomic), so that no reader sees
half a trace, and an old one stays until the new one is complete. The temporary file is always a new one, so no link is
followed and no FIFO blocks. A failure to write causes one warning, and never affects the delivery::

    recorder = TraceRecorder(TraceDirectory("/var/spool/traces", os.getpid(), complain))
    recorder = Tracing("delivery.json").observer()
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.observers.codec import trace_text
from zsmtp.observers.document import Trace
from zsmtp.observers.trace import Handle, Keep, TraceRecorder

Complain = Callable[[str], None]

_MODE = 0o600
_MAX_NAME = 80
_REMEMBERED = 100  # numbers of deliveries that may be written again; only the last one on a connection is
_UNSAFE = re.compile(r"[^A-Za-z0-9=._-]")


def write_trace(path: str, trace: Trace) -> None:
    """Write one trace; an existing file is replaced. Raises OSError, and then nothing has changed.

    A device, a socket or another special file is not replaced.
    """
    if not _is_replaceable(path):
        raise OSError(errno.EINVAL, "not a regular file", path)
    data = trace_text(trace).encode("utf-8", "backslashreplace")  # octets of a job line that are no UTF-8 stay JSON
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:_MAX_NAME]}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # left behind by a process of this number that was killed
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _is_replaceable(path: str) -> bool:
    """Whether a trace may replace this file: replacing ``/dev/stdout`` would break it for all programs."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return not os.path.exists(path) or (os.path.isfile(path) and not path.startswith(("/dev/", "/proc/")))
    except OSError:
        return True  # it does not exist, or creating the file reports the error
    return stat.S_ISREG(mode)


class _Keeper:
    """Writes the traces of a recorder; warns of the first of several failures in a row."""

    def __init__(self, complain: Complain) -> None:
        self._warn = complain
        self._failing = False

    def _write(self, path: str, trace: Trace) -> None:
        try:
            write_trace(path, trace)
        except OSError as error:
            if not self._failing:
                self._warn(f"no trace in {escape(path)}: {error.strerror or error}")
            self._failing = True
        else:
            self._failing = False


class TraceDirectory(_Keeper):
    """Writes each trace to a file of its own: ``NAME-PID-NUMBER.json``.

    ``NAME`` is the message's (an agent's spool id), ``PID`` the process's, ``NUMBER`` counts its deliveries from 1.
    Raises :class:`~zsmtp.errors.ConfigError` if there is no such directory, or it is not writable.
    """

    def __init__(self, directory: str, pid: int, complain: Complain) -> None:
        super().__init__(complain)
        if not os.path.isdir(directory):
            raise ConfigError(f"no traces: {escape(directory)} is not a directory")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"no traces: nothing can be written in {escape(directory)}")
        self._directory = directory
        self._pid = pid

    def __call__(self, handle: Handle, trace: Trace) -> None:
        self._write(os.path.join(self._directory, self.name(handle)), trace)

    def name(self, handle: Handle) -> str:
        """The name of a trace's file."""
        message = _UNSAFE.sub("_", handle.name)[:_MAX_NAME].lstrip(".") or "message"
        return f"{message}-{self._pid}-{handle.number}.json"


class TraceFile(_Keeper):
    """Writes the trace of the first delivery to ``path``, and further ones beside it: ``x.json``, ``x-2.json``."""

    def __init__(self, path: str, complain: Complain) -> None:
        super().__init__(complain)
        if not _is_replaceable(path):
            raise ConfigError(f"no traces: {escape(path)} is not a regular file")
        self._path = path

    def __call__(self, handle: Handle, trace: Trace) -> None:
        stem, suffix = os.path.splitext(self._path)
        self._write(self._path if handle.number == 1 else f"{stem}-{handle.number}{suffix}", trace)


class Tracing:
    """Recorders for any number of parallel connections, with one numbering of deliveries.

    ``path`` is an existing directory (see :class:`TraceDirectory`), or a file (see :class:`TraceFile`). ``hashed``
    hides mail addresses. Raises :class:`~zsmtp.errors.ConfigError` for a directory that is not writable, and for a
    device.
    """

    def __init__(self, path: str | os.PathLike[str], *, hashed: bool = False, complain: Complain | None = None) -> None:
        place, self._warn = os.fspath(path), complain or _warn
        self._keep: Keep = (
            TraceDirectory(place, os.getpid(), self._warn) if os.path.isdir(place) else TraceFile(place, self._warn)
        )
        self._hashed = hashed
        self._count = 0

    def observer(self, destination: str = "") -> TraceRecorder:
        """The recorder of one connection, and of its successors.

        It fits ``zsmtp.aio.Client(observe=...)``: ``destination`` is not used.
        """
        numbers: dict[int, int] = {}  # a trace is passed again when its connection is closed

        def keep(handle: Handle, trace: Trace) -> None:
            if handle.number not in numbers:
                self._count += 1
                numbers[handle.number] = self._count
            self._keep(Handle(numbers[handle.number], handle.name), trace)
            while len(numbers) > _REMEMBERED:
                del numbers[next(iter(numbers))]

        return TraceRecorder(keep, hashed=self._hashed, complain=self._warn)


def _warn(text: str) -> None:
    """Default for ``complain``: log the warning."""
    import logging  # imported only for warnings, to save start-up time

    logging.getLogger("zsmtp.observers").warning("%s", text)
