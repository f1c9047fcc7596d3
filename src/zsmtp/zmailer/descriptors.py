"""The descriptors of this process: as many as the system grants, and some of them always left.

ZMailer's scheduler starts its agents with a soft limit of 32 descriptors, and a message under way needs one for its
control file. The limit is raised to the hard one; where that is as low, fewer messages are under way at a time. A
descriptor gets the lowest number that is free, so its number says how many are in use, and nobody need count::

    descriptors = Descriptors()
    control = open_control(path)
    if not descriptors.has_room(control.descriptor):
        control.close()  # this message waits until others are done
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

RESERVE = 10  # for connections and lookups under way, certificates, logs, and a message file while it is read


class Descriptors:
    """The limit of this process, raised as far as it goes, and a descriptor kept for when there is no other."""

    def __init__(self) -> None:
        self._limit = _raise_limit()
        self._spare = -1
        self._keep_spare()

    def has_room(self, descriptor: int) -> bool:
        """Whether the job that opened ``descriptor`` may be under way beside others."""
        return descriptor < self._limit - RESERVE

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """Inside the block one more descriptor can be had than elsewhere."""
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
    """Raise the soft limit to the hard one; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # no system grants an unlimited number
        return soft
    return hard
