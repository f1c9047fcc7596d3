"""Manages the descriptors of this process: raises the limit, and keeps a reserve.

ZMailer's scheduler starts its agents with a soft limit of 32 descriptors, and a message in progress needs one for its
control file. The limit is raised to the hard one; if that is as low, fewer messages are in progress at a time. A
descriptor gets the lowest free number, so its number shows how many are in use, without counting::

    descriptors = Descriptors()
    control = open_control(path)
    if not descriptors.has_room(control.descriptor):
        control.close()  # this message waits for others to finish
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

RESERVE = 10  # for connections, lookups, certificates, logs, and a message file while it is read


class Descriptors:
    """Raises the limit of this process to the maximum, and reserves a descriptor for emergencies."""

    def __init__(self) -> None:
        self._limit = _raise_limit()
        self._spare = -1
        self._keep_spare()

    def has_room(self, descriptor: int) -> bool:
        """Whether the job that opened ``descriptor`` may be in progress beside others."""
        return descriptor < self._limit - RESERVE

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """Release the reserved descriptor for use inside the block."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            yield
        finally:
            self._keep_spare()

    def _keep_spare(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _raise_limit() -> int:
    """Raise the soft limit to the hard one; returns the resulting limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # no system grants an unlimited number
        return soft
    return hard
