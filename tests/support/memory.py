"""The peak of a program's memory, for programs that tests run in a process of their own."""

from __future__ import annotations

from pathlib import Path


def peak() -> int:
    """The most memory that this process has had, in KiB.

    ``ru_maxrss`` counts what the parent had before this program was started, too: a large parent hides everything.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])
