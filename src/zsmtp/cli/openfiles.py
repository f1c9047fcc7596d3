"""How many files a command may have open: each connection is one, and systems begin with few."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_open_files() -> None:
    """Let this process have as many files open as it may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
